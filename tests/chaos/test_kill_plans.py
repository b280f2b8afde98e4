"""kill -9 of everything that works on plans of several tasks: nothing is lost, nothing is done twice.

CHAOS_KILLS is how often something is killed or restarted (12 times, 60 in `make chaos` and `make test-all`),
CHAOS_SEED repeats the choices of a run.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
from django.conf import settings as django_settings
from pytest_django import DjangoDbBlocker

from cartrita.accounts.commands import create_workspace, ensure_user
from cartrita.embedded.postgres import Postgres, use_postgres
from cartrita.eventstore import new_id
from sessions_app.session import ReplyPosted
from tasks_app.plan import TaskAborted, TaskCompleted
from tests.chaos.crowd import SETTINGS, Batch, Crowd, Left, Task, spread, until
from tests.chaos.letters.tools import LETTERS
from tests.databases import Database, clone, close_django_connections, make_template, point_django_at
from tests.flows.conftest import Person, consistent
from tests.flows.governed import rules
from tests.servers import listening_server

__all__ = ["consistent"]

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400), pytest.mark.usefixtures("consistent")]

KILLS = int(os.environ.get("CHAOS_KILLS", "12"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.randrange(10**6))))
OPEN_AT_ONCE = 6
# Where the machine is busy there are fewer blows in place of a longer test.
MOST_SECONDS = float(os.environ.get("CHAOS_SECONDS", "75"))
SESSIONS = 40

Tell = Callable[[str], None]


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


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Return a function that prints figures, whatever becomes of the test."""

    def print_now(text: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{text}\n")

    return print_now


class TestKillOfProcesses:
    def test_loses_nothing_and_does_nothing_twice(
        self, crowd: Crowd, tell: Tell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            while len(crowd.blows) < KILLS and time.monotonic() - began < MOST_SECONDS:
                room = OPEN_AT_ONCE - (posted - crowd.replies())
                for batch in batches[posted : posted + max(room, 0)]:
                    crowd.post(batch)
                    posted += 1
                # Each blow meets work that goes on: a busy machine would else only start processes.
                crowd.goes_on()
                time.sleep(chance.uniform(0.0, 0.8))
                ready = [member for member in crowd.members if member.ready]
                if len(crowd.blows) % 10 == 7:
                    crowd.restart_postgres(chance.choice([signal.SIGINT, signal.SIGQUIT]))
                elif len(ready) > 1:
                    busy = [member for member in ready if member.pid == crowd.last_at_work]
                    crowd.kill(chance.choice(busy if busy and chance.random() < 0.7 else ready))
            blown = time.monotonic() - began
            crowd.all_answered(posted)
            tell(f"seed {SEED}: {len(crowd.blows)} blows in {blown:.0f} s, {posted} messages")
            tell(f"starts of processes: {spread(crowd.start_seconds())}")
            assert set(crowd.stop()) == {0}, crowd.words()
            left = Left.by(crowd)
            tell(left.told())
            left.check(batches[:posted])


class TestTwoProcesses:
    def test_share_the_work_and_run_no_task_at_the_same_time(self, crowd: Crowd, tell: Tell) -> None:
        crowd.seconds_per_token = 0
        batches = crowd.prepare(SESSIONS, random.Random(SEED), longest=0.1)
        crowd.add_orchestrator("one")
        crowd.add_orchestrator("two")
        crowd.all_ready()
        began = time.monotonic()
        for batch in batches:
            crowd.post(batch)
        crowd.all_answered(len(batches))
        tell(f"seed {SEED}: {len(batches)} messages in {time.monotonic() - began:.1f} s")
        crowd.stop()
        left = Left.by(crowd)
        tell(left.told())
        left.check(batches)
        assert left.overlaps() == []
        assert all(isinstance(end, TaskCompleted) for end in left.ends().values())
        assert len({note.pid for note in left.notes}) == 2


class TestRestartOfTheDatabase:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["in order", "at once"])
    def test_loses_nothing_that_a_tool_did(self, number: signal.Signals, crowd: Crowd, tell: Tell) -> None:
        tasks = (
            Task("a", "drop_letter", 3.0),
            Task("b", "drop_parcel", 1.5),
            Task("c", "post_letter", 0.1, ("a", "b")),
        )
        batch = Batch(0, tasks, *_ids(crowd))
        crowd.batches.append(batch)
        crowd.write_script()
        crowd.add_orchestrator("one")
        crowd.add_orchestrator("two")
        crowd.all_ready()
        crowd.post(batch)
        until(lambda: len(crowd.notes()) == 2)
        # What is not waited for when it is committed is on the disk by then.
        time.sleep(1)
        crowd.restart_postgres(number)
        crowd.all_answered(1)
        crowd.stop()
        left = Left.by(crowd)
        tell(left.told())
        left.check([batch])
        assert {type(end) for end in left.ends().values()} == {TaskCompleted}
        assert len({note.pid for note in left.notes}) == 1


class TestStop:
    def test_ends_what_sleeps(self, crowd: Crowd, tell: Tell) -> None:
        sleeping = Batch(
            0, (Task("a", "drop_letter", 20.0), Task("b", "post_letter", 0.0, ("a",))), *_ids(crowd)
        )
        crowd.batches.append(sleeping)
        crowd.write_script()
        crowd.add_orchestrator("one")
        crowd.all_ready()
        crowd.post(sleeping)
        until(lambda: any(note.what == "begin" for note in crowd.notes()))
        at = time.time()
        crowd.cancel(sleeping.session_id, sleeping.message_id)
        crowd.all_answered(1)
        (end,) = [note for note in crowd.notes() if note.what != "begin"]
        crowd.stop()
        left = Left.by(crowd)
        tell(
            f"the tool ended {end.at - at:.3f} s after the request, the reply {left.seconds_to_reply(at):.3f}"
        )
        assert end.what == "cancelled"
        assert {type(one) for one in left.ends().values()} == {TaskAborted}

    def test_ends_the_process_of_a_snippet(
        self, crowd: Crowd, tell: Tell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        policy = tmp_path / "policy.yaml"
        policy.write_text(rules())
        monkeypatch.setenv("CARTRITA_POLICY_FILE", str(policy))
        session_id, message_id = _ids(crowd)
        crowd.write_script()
        crowd.add_orchestrator("one")
        crowd.all_ready()
        crowd.say(session_id, message_id, '/execute_python {"code": "while True: pass", "timeout": 60}')
        until(lambda: bool(_snippets(crowd.members[0].pid)))
        at = time.time()
        crowd.cancel(session_id, message_id)
        until(lambda: not _snippets(crowd.members[0].pid))
        gone = time.time() - at
        crowd.all_answered(1)
        crowd.stop()
        left = Left.by(crowd)
        tell(f"the process ended {gone:.3f} s after the request, the reply {left.seconds_to_reply(at):.3f}")
        (reply,) = [each.event for each in left.events if isinstance(each.event, ReplyPosted)]
        assert reply.outcome == "stopped"


def _ids(crowd: Crowd) -> tuple[UUID, UUID]:
    return crowd.new_session(), new_id()


def _snippets(pid: int) -> list[int]:
    """Return the processes that work on snippets of Python for a process."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            status = (entry / "status").read_text()
            if f"PPid:\t{pid}\n" in status and "python_worker" in (entry / "cmdline").read_text():
                found.append(int(entry.name))
    return found
