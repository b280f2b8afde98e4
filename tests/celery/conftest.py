from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.celery.processes import Processes, Redis, processes, redis_program
from tests.databases import Database


@pytest.fixture
def own_redis(tmp_path_factory: pytest.TempPathFactory, _redis_server: str) -> Iterator[Redis]:
    """Give a Redis that may be stopped. (`_redis_server` leaves the test out where there is no Redis.)"""
    program = redis_program()
    assert program is not None
    server = Redis(program, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def started(database: Database, own_redis: Redis, tmp_path: Path) -> Iterator[Processes]:
    with processes(tmp_path, own_redis.url) as made:
        yield made
