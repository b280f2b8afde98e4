"""kill -9 of everything that works on plans of several tasks: nothing is lost, nothing is done twice.

CHAOS_KILLS is how often something is killed or restarted, CHAOS_SEED repeats the choices of a run.
"""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from pytest_django import DjangoDbBlocker

from cartrita.accounts.commands import create_workspace, ensure_user
from cartrita.embedded.postgres import Postgres, use_postgres
from tests.chaos.crowd import SETTINGS, Crowd, Left, spread
from tests.chaos.letters.tools import LETTERS
from tests.databases import Database, clone, close_django_connections, make_template, point_django_at
from tests.flows.conftest import Person, consistent
from tests.servers import listening_server

__all__ = ["consistent"]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900), pytest.mark.usefixtures("consistent")]

KILLS = int(os.environ.get("CHAOS_KILLS", "24"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.randrange(10**6))))
OPEN_AT_ONCE = 6


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Give a server that may be killed: with the settings of the product, fsync among them."""
    with use_postgres(tmp_path_factory.mktemp("home")) as server:
        yield server


@pytest.fixture(scope="module")
def own_template(own_postgres: Postgres, django_db_blocker: DjangoDbBlocker) -> str:
    with django_db_blocker.unblock():
        return make_template(own_postgres)


@pytest.fixture
def database(
    own_postgres: Postgres,
    own_template: str,
    django_db_blocker: DjangoDbBlocker,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Database]:
    made = clone(own_postgres, own_template)
    monkeypatch.setenv("DATABASE_URL", made.url)
    monkeypatch.setenv("DATABASE_OWNER_URL", made.owner_url)
    monkeypatch.setattr(django_settings, "DATABASE_OWNER_URL", made.owner_url)
    close_django_connections()
    former = point_django_at(made.url)
    with django_db_blocker.unblock():
        try:
            yield made
        finally:
            close_django_connections()
            point_django_at(former)


@pytest.fixture
def person(database: Database) -> Person:
    user = ensure_user(email="ann@example.com", display_name="Ann")
    return Person(user.id, create_workspace(name="Letters", owner_id=user.id, actor="system"))


@pytest.fixture
def crowd(own_postgres: Postgres, database: Database, person: Person, tmp_path: Path) -> Iterator[Crowd]:
    made = Crowd(own_postgres, database, person, tmp_path)
    try:
        yield made
    finally:
        made.close()


class TestKillOfProcesses:
    def test_loses_nothing_and_does_nothing_twice(
        self, crowd: Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        chance = random.Random(SEED)
        batches = crowd.prepare(KILLS * 3 + OPEN_AT_ONCE, chance, longest=0.8)
        monkeypatch.setenv(LETTERS, str(crowd.letters))
        with listening_server(crowd.database, tmp_path, scripted=True) as server:
            assert server.script is not None
            server.settings, server.script.path = SETTINGS, crowd.script
            crowd.write_script()
            crowd.add_orchestrator("one")
            crowd.add_orchestrator("two")
            crowd.add_server(server)
            crowd.all_ready()
            posted, began = 0, time.monotonic()
            while len(crowd.blows) < KILLS:
                room = OPEN_AT_ONCE - (posted - crowd.replies())
                for batch in batches[posted : posted + max(room, 0)]:
                    crowd.post(batch)
                    posted += 1
                time.sleep(chance.uniform(0.05, 0.6))
                ready = [member for member in crowd.members if member.ready]
                if len(crowd.blows) % 10 == 7:
                    crowd.restart_postgres(chance.choice([signal.SIGINT, signal.SIGQUIT]))
                elif len(ready) > 1:
                    busy = [member for member in ready if member.pid == crowd.last_at_work]
                    crowd.kill(chance.choice(busy if busy and chance.random() < 0.7 else ready))
            blown = time.monotonic() - began
            crowd.all_answered(posted)
            print(f"\nseed {SEED}: {KILLS} blows in {blown:.0f} s, {posted} messages")
            print(f"starts of processes: {spread(crowd.start_seconds())}")
            assert set(crowd.stop()) == {0}, crowd.words()
            left = Left.by(crowd)
            print(left.told())
            left.check(batches[:posted])
