"""`manage.py run_orchestrator`: services in processes of their own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from cartrita.accounts.commands import create_workspace, ensure_user
from cartrita.eventstore import aload, close_async
from cartrita.orchestrator.service import ALL_SERVICES, Services, UnknownService, check_services
from sessions_app.session import ReplyPosted
from tests.databases import CHECKOUT, Database, point_django_at
from tests.flows.conftest import Person, reply_to

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def person(database: Database) -> Person:
    user = ensure_user(email="ann@example.com", display_name="Ann")
    return Person(user.id, create_workspace(name="Processes", owner_id=user.id, actor="system"))


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.json"


@pytest.fixture
def start(database: Database, script: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a process with those services and waits until it is ready."""
    started: list[subprocess.Popen[str]] = []
    log = (tmp_path / "processes.log").open("a")

    def run(*services: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "manage.py", "run_orchestrator", "--services", ",".join(services)],
            cwd=CHECKOUT,
            env={**os.environ, "CARTRITA_SCRIPTED_MODEL": str(script)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready == f"Running: {', '.join(services)}.\n", (tmp_path / "processes.log").read_text()
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    log.close()


def answers(script: Path, text: str, *, seconds_per_token: float = 0) -> Path:
    """Write what the model answers, whole or not at all; returns where its productions are logged."""
    log = script.with_name("productions.jsonl")
    new = script.with_suffix(".new")
    facts = {"log": str(log), "answers": [{"text": text}], "seconds_per_token": seconds_per_token}
    new.write_text(json.dumps(facts))
    new.replace(script)
    return log


def end(process: "subprocess.Popen[str]", number: int = signal.SIGTERM) -> int:
    process.send_signal(number)
    return process.wait(timeout=180)


def _wait_for(file: Path) -> None:
    while not file.exists():
        time.sleep(0.02)


class TestRunOrchestrator:
    async def test_spreads_services_over_processes(self, person: Person, start: Start, script: Path) -> None:
        answers(script, "The scripted answer.")
        one = start("sequencer", "projector")
        two = start("ingest", "orchestrator")
        reply = await person.asks(await person.opens_session(), "Hello?")
        await close_async()
        assert (reply.outcome, reply.content) == ("answered", "The scripted answer.")
        assert [end(one), end(two, signal.SIGINT)] == [0, 0]

    @pytest.mark.chaos
    async def test_goes_on_where_another_process_hangs(
        self, person: Person, start: Start, script: Path
    ) -> None:
        productions = answers(script, "The slow answer.", seconds_per_token=5)
        hung = start("orchestrator")
        other = start("sequencer", "projector", "ingest")
        session_id = await person.opens_session()
        message_id = await person.says(session_id, "Hello?")
        await asyncio.to_thread(_wait_for, productions)
        hung.send_signal(signal.SIGSTOP)
        answers(script, "The quick answer.")
        rescuer = start("orchestrator")
        reply = await reply_to(session_id, message_id)
        assert (reply.outcome, reply.content) == ("answered", "The quick answer.")

        # It goes on, sees that others were faster, and works for other sessions.
        hung.send_signal(signal.SIGCONT)
        assert end(rescuer) == 0
        reply = await person.asks(await person.opens_session(), "Hello again?")
        assert reply.content == "The quick answer."
        assert end(hung) == 0
        recorded = await aload(session_id)
        await close_async()
        assert len([each for each in recorded if isinstance(each.event, ReplyPosted)]) == 1
        finished = [json.loads(line) for line in productions.read_text().splitlines()]
        assert {each["text"] for each in finished if each["event"] == "finished"} == {"The quick answer."}
        assert end(other) == 0

    def test_says_which_services_there_are(self) -> None:
        with pytest.raises(
            CommandError, match=r"'sequencr'.*sequencer, signer, projector, ingest, orchestrator"
        ):
            call_command("run_orchestrator", "--services", "sequencr,ingest")
        with pytest.raises(CommandError, match="at least one"):
            call_command("run_orchestrator", "--services", " , ")

    def test_does_not_start_without_a_database(self, database: Database) -> None:
        point_django_at(database.url.replace(database.name, "nowhere"))
        with pytest.raises(CommandError, match=r'The database does not answer: .*"nowhere"'):
            call_command("run_orchestrator")

    def test_does_not_start_without_tables(self, database: Database) -> None:
        point_django_at(database.superuser_url.replace(database.name, "postgres"))
        with pytest.raises(CommandError, match=r"run `manage\.py migrate`"):
            call_command("run_orchestrator")


class TestServicesOfAServer:
    def test_are_refused_where_there_is_no_such_service(self) -> None:
        ended = subprocess.run(
            [sys.executable, "-c", "import cartrita.asgi"],
            cwd=CHECKOUT,
            env={
                **os.environ,
                "DJANGO_SETTINGS_MODULE": "cartrita.settings",
                "CARTRITA_SERVICES": "sequencr",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 1
        assert "UnknownService: CARTRITA_SERVICES names 'sequencr'." in ended.stderr

    def test_may_be_all_or_none(self) -> None:
        check_services(ALL_SERVICES, field="CARTRITA_SERVICES")
        check_services([], field="CARTRITA_SERVICES")
        with pytest.raises(UnknownService):
            check_services([""], field="CARTRITA_SERVICES")

    async def test_start_nothing_where_none_is_named(self) -> None:
        services = Services(parts=[])
        before = asyncio.all_tasks()
        await services.start()
        assert asyncio.all_tasks() == before
        await services.stop()
