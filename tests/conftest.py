"""Fixtures of all tests.

`database`
    A PostgreSQL database of its own for the test: all migrations applied, real commits, about 50 ms. Django's
    connection (every thread's) goes to it as the role that serves; `DATABASE_URL` and `DATABASE_OWNER_URL`
    in the environment and in settings say where it is, so that programs which the test starts find it too.
    `database.url`, `.owner_url`, `.superuser_url`, `.name`; `with database.as_owner():` lets Django connect
    as the owner (for `migrate`, `rebuild_projections`). Dropped afterwards. Each process-wide asyncio pool
    must be closed by the test (`await close_async()`), Django's connections of all threads are closed for
    you.
`new_database`
    A function that makes further ones: `other = new_database()`. Django is not pointed at them.
`postgres_server`
    The one server of the session (`cartrita.embedded.postgres.Postgres`), shared by all workers; fsync is
    off, and it lies in memory where there is room. A test that stops or kills a server starts its own:
    `use_postgres(tmp_path)`.
`home`
    `settings.HOME` of this process: a temporary folder, private to the worker. Master key, secret key: set in
    tests/settings.py, so sealing works without a fixture. `models/` in it is shared by all sessions.

`redis_url`
    A real Redis of the worker's own, on a Unix socket, empty before each test.
`chromium`
    The path of the Chromium to drive (`playwright.chromium.launch(executable_path=chromium)`).

Tests that use a database, Redis or Chromium are marked `flow` or `browser` by themselves: `make check` leaves
them out. A missing program skips its tests, and fails them where CI is set.

pytest-django's `db`, `transactional_db`, `live_server`, `admin_client` and the `django_db` mark are refused:
they would make another database, without our roles and without commits. `client`, `rf`, `settings` work.
Sockets other than loopback and Unix ones are blocked. Warnings are errors.

Tests that are marked with a time-out of their own are the long ones: they begin first.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest
import redis
from django.conf import settings as django_settings
from pytest_django import DjangoDbBlocker

from cartrita.embedded import postgres
from cartrita.embedded.postgres import Postgres, use_postgres
from tests.databases import (
    SERVER_SETTINGS,
    Database,
    clone,
    close_django_connections,
    drop,
    make_template,
    point_django_at,
    server_home,
)

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile(
    "cartrita",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    # Where a change is judged, each run draws the same examples; all others look for new ones.
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("cartrita")


@pytest.fixture(scope="session")
def django_db_setup() -> None:
    """Refuse pytest-django's own test database."""
    pytest.fail("Use the `database` fixture (tests/conftest.py) in place of `db` and of the django_db mark.")


@pytest.fixture
def home() -> Path:
    return Path(django_settings.HOME)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with use_postgres(server_home(), settings=SERVER_SETTINGS) as server:
        yield server


@pytest.fixture(scope="session")
def database_template(postgres_server: Postgres, django_db_blocker: DjangoDbBlocker) -> str:
    with django_db_blocker.unblock():
        return make_template(postgres_server)


@pytest.fixture
def new_database(postgres_server: Postgres, database_template: str) -> Iterator[Callable[[], Database]]:
    made: list[Database] = []

    def make() -> Database:
        made.append(clone(postgres_server, database_template))
        return made[-1]

    yield make
    for database in made:
        drop(postgres_server, database.name)


@pytest.fixture
def database(
    new_database: Callable[[], Database], django_db_blocker: DjangoDbBlocker, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    made = new_database()
    # Programs that the test starts run with the real settings; tests/settings.py would hide this database.
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "cartrita.settings")
    monkeypatch.setenv("DATABASE_URL", made.url)
    monkeypatch.setenv("DATABASE_OWNER_URL", made.owner_url)
    monkeypatch.setenv("DATABASE_BACKUP_URL", made.url_of(postgres.BACKUP))
    monkeypatch.setattr(django_settings, "DATABASE_OWNER_URL", made.owner_url)
    monkeypatch.setattr(django_settings, "DATABASE_BACKUP_URL", made.url_of(postgres.BACKUP))
    close_django_connections()
    former = point_django_at(made.url)
    with django_db_blocker.unblock():
        try:
            yield made
        finally:
            close_django_connections()
            point_django_at(former)


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[str]:
    program = shutil.which("redis-server") or shutil.which("redis-server", path=Path(sys.executable).parent)
    if program is None:
        _missing("redis-server")
    with tempfile.TemporaryDirectory(prefix="cartrita-redis-") as folder:
        options = ["--port", "0", "--save", "", "--unixsocket", f"{folder}/s", "--dir", folder]
        with subprocess.Popen([program, *options], stdout=subprocess.DEVNULL) as process:
            url = f"unix://{folder}/s"
            with redis.Redis.from_url(url) as client:
                while not Path(folder, "s").exists() or not _answers(client):
                    assert process.poll() is None, "redis-server ended"
                    time.sleep(0.005)
            yield url
            process.terminate()


@pytest.fixture
def redis_url(_redis_server: str) -> str:
    with redis.Redis.from_url(_redis_server) as client:
        client.flushall()
    return _redis_server


@pytest.fixture(scope="session")
def chromium() -> str:
    found = [
        path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))
    ]
    return found[0] if found else _missing("chromium")


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def _missing(program: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"{program} is not installed, and in CI no test may be left out")
    pytest.skip(f"{program} is not installed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if fixtures & {"postgres_server", "_redis_server"}:
            item.add_marker(pytest.mark.flow)
        if "chromium" in fixtures:
            item.add_marker(pytest.mark.browser)
    # What may take long begins first, else one worker is left alone with it in the end. Groups of tests
    # (xdist_group) go before all others anyway.
    items.sort(key=_seconds_allowed, reverse=True)


def _seconds_allowed(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark is not None else 0.0


def pytest_report_header() -> list[str]:
    return [f"cartrita: test server in {server_home()}, pid {os.getpid()}"]
