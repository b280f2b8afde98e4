"""A server whose database is gone, or says nothing any more, ends when it is told to."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pytest_django import DjangoDbBlocker

from cartrita.accounts.commands import create_workspace, ensure_user
from cartrita.embedded.postgres import Postgres, use_postgres
from cartrita.eventstore import new_id
from sessions_app.commands import create_session, post_message
from tests.celery.processes import processes, until
from tests.databases import (
    SERVER_SETTINGS,
    clone,
    close_django_connections,
    make_template,
    point_django_at,
)
from tests.servers import Server, listening_server

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

# The supervisor insists after 20 s; systemd and container runtimes after 90 and 10.
STOPPED_WITHIN = 20.0


@pytest.fixture(scope="module")
def postgres_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def own_postgres(postgres_home: Path) -> Iterator[Postgres]:
    with use_postgres(postgres_home, settings=SERVER_SETTINGS) as server:
        yield server


@pytest.fixture
def server(
    own_postgres: Postgres,
    django_db_blocker: DjangoDbBlocker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Server]:
    """Give a server that writes long answers, on a PostgreSQL of its own."""
    with django_db_blocker.unblock():
        made = clone(own_postgres, make_template(own_postgres))
        monkeypatch.setenv("DATABASE_URL", made.url)
        monkeypatch.setenv("DATABASE_OWNER_URL", made.owner_url)
        close_django_connections()
        former = point_django_at(made.url)
        try:
            with listening_server(made, tmp_path, scripted=True) as server:
                assert server.script is not None
                server.script.answers({"text": "word " * 600, "seconds_per_token": 0.05})
                server.start()
                _ask()
                until(lambda: server.script and server.script.productions("started"), what="an answer")
                close_django_connections()
                yield server
        finally:
            close_django_connections()
            point_django_at(former)


def _ask() -> None:
    user = ensure_user(email="ann@example.com", display_name="Ann")
    workspace_id = create_workspace(name="Stop", owner_id=user.id, actor="system")
    for number in range(3):
        session_id = new_id()
        create_session(user_id=user.id, workspace_id=workspace_id, session_id=session_id, actor="system")
        post_message(
            session_id=session_id,
            message_id=new_id(),
            content=f"Hello {number}, please talk slowly",
            actor=f"user:{user.id}",
        )


def postgres_processes(postgres: Postgres) -> list[int]:
    """Return the server's processes, the first of them last."""
    data = os.fsencode(postgres.sockets)
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if data in (process / "cmdline").read_bytes().split(b"\0"):
                first = int(process.name)
                children = (process / "task" / process.name / "children").read_text().split()
                if b"postgres" in (process / "cmdline").read_bytes().split(b"\0")[0]:
                    found = [*map(int, children), first]
    return found


def stopping_seconds(server: Server) -> float:
    assert server.process is not None
    began = time.monotonic()
    server.process.terminate()
    server.process.wait(timeout=120)
    return time.monotonic() - began


class TestStop:
    def test_ends_a_server_and_a_beat_whose_database_says_nothing(
        self, server: Server, own_postgres: Postgres, tmp_path: Path
    ) -> None:
        with processes(tmp_path, "") as started:
            beat = started.embedded_beat("beat")
            until(lambda: len(started.notes("sweep")) >= 1, what="a sweep")
            self._end_while_it_says_nothing(server, beat, own_postgres)

    def _end_while_it_says_nothing(
        self, server: Server, beat: subprocess.Popen[bytes], own_postgres: Postgres
    ) -> None:
        halted = postgres_processes(own_postgres)
        assert len(halted) > 3
        for pid in halted:
            os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(1)
            beat.terminate()
            assert stopping_seconds(server) < STOPPED_WITHIN
            beat.wait(timeout=60)
        finally:
            for pid in halted:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def test_ends_a_server_whose_database_is_gone(self, server: Server, own_postgres: Postgres) -> None:
        first = postgres_processes(own_postgres)[-1]
        keeper = int(Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(keeper, signal.SIGKILL)  # its server goes with it
        until(lambda: not Path(f"/proc/{first}").exists())
        time.sleep(1)
        assert stopping_seconds(server) < STOPPED_WITHIN
