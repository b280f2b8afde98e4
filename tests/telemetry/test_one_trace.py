"""One message over a socket of a server: one trace from the frame down to the statements, at a receiver."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import Request, urlopen
from uuid import UUID, uuid4

import pytest

from cartrita.accounts.commands import create_workspace, ensure_user, issue_ticket
from cartrita.eventstore import RecordedEvent, aread_log, close_async, in_database_thread
from cartrita.streaming.client import Stream
from sessions_app.session import MessagePosted, ReplyPosted
from tests.databases import CHECKOUT, Database
from tests.flows.conftest import Person, reply_to
from tests.servers import Server, listening_server
from tests.telemetry.receiver import Received, Receiver, receiving

ELSEWHERE = "0af7651916cd43dd8448eb211c80319c"
NAME = "Wolverhampton"
ASKED = f"What is 6 * 7? Then write one sentence about {NAME}."
SERVER_KIND, CLIENT_KIND = 2, 3  # of OTLP's SpanKind
STATEMENTS = "opentelemetry.instrumentation.psycopg"
MAY_BE_SENT = (
    "cartrita.",
    "db.",
    "gen_ai.",
    "llm.",
    "http.",
    "url.scheme",
    "network.protocol.version",
    "retrieval.documents.",
    "openinference.span.kind",
    "session.id",
    "agent.name",
    "tool.name",
    "error.type",
)


@pytest.fixture
def person(database: Database) -> Person:
    user = ensure_user(email="ann@example.com", display_name="Ann")
    return Person(user.id, create_workspace(name="Traced", owner_id=user.id, actor="system"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def server(
    database: Database, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    with listening_server(database, tmp_path, scripted=True) as made:
        assert made.script is not None
        made.script.answers({"text": f"{NAME} is a city."})
        yield made


async def says(server: Server, person: Person, text: str) -> tuple[ReplyPosted, list[RecordedEvent]]:
    """Say something over a socket; return the reply and the events of the session."""
    session_id = await person.opens_session()

    async def ticket() -> str:
        issued = await in_database_thread(
            issue_ticket, user_id=person.user_id, workspace_id=person.workspace_id, now=datetime.now(UTC)
        )
        return issued.secret

    message_id = uuid4()
    async with Stream(server.socket_url, ticket=ticket) as stream:
        await stream.command(
            "post_message",
            {"message_id": str(message_id), "content": text},
            channel=f"session:{session_id}",
        )
        reply = await reply_to(session_id, message_id)
    return reply, await aread_log(after=0, limit=500, session_id=session_id)


def looks(server: Server) -> None:
    """Ask the server whether it is ready, as a program does that has a trace of its own."""
    address = f"{server.url}/readyz?q={NAME}"
    traceparent = f"00-{ELSEWHERE}-00f067aa0ba902b7-01"
    with urlopen(Request(address, headers={"traceparent": traceparent})) as answer:
        assert answer.status == 200


async def traced(server: Server, person: Person, text: str) -> tuple[str, UUID]:
    """Say something to a server that is started for it; return the trace and the session."""
    server.start()
    try:
        reply, events = await says(server, person, text)
        await asyncio.to_thread(looks, server)
    finally:
        await close_async()
        server.stop()
    assert reply.outcome == "answered", reply.content
    assert len({one.trace_id for one in events if one.event.type_name != "sessions_app.SessionCreated"}) == 1
    (posted,) = [one for one in events if isinstance(one.event, MessagePosted)]
    return posted.trace_id, posted.stream_id


def only(spans: list[Received], name: str) -> Received:
    (found,) = [one for one in spans if one.name == name]
    return found


class TestOneTrace:
    async def test_reaches_from_the_socket_to_the_statements(
        self, server: Server, person: Person, receiver: Receiver
    ) -> None:
        trace_id, session_id = await traced(server, person, ASKED)
        assert {one.trace for one in receiver.spans} == {trace_id, ELSEWHERE}
        assert {one.resource["service.name"] for one in receiver.spans} == {"cartrita"}
        assert {one.resource["cartrita.process"] for one in receiver.spans} == {"web"}
        self.has_the_request_in_the_callers_trace(receiver)
        (root,) = [one for one in receiver.spans if not one.parent]
        assert (root.name, root.kind, root.failed) == ("socket post_message", SERVER_KIND, False)
        of_message = [one for one in receiver.spans if one.trace == trace_id]
        assert len(list(receiver.tree(root))) == len(of_message), "each span has its parent"
        turn = only(receiver.children(root), "cartrita.turn")
        assert turn.attributes["session.id"] == str(session_id)
        plan = only(receiver.children(turn), "cartrita.plan")
        assert plan.attributes["cartrita.outcome"] == "complete"
        decided = only(receiver.children(plan), "cartrita.decision plan")
        assert decided.attributes["cartrita.decision.effect"] == ["allow"]
        self.has_a_run_with_a_tool(receiver, plan)
        self.has_a_run_with_a_model(receiver, plan)
        self.has_statements(receiver, decided)
        self.has_statements(receiver, root)
        self.has_nothing_personal(receiver, person)

    def has_the_request_in_the_callers_trace(self, receiver: Receiver) -> None:
        (request,) = [one for one in receiver.spans if one.parent == "00f067aa0ba902b7"]
        assert (request.trace, request.name, request.kind) == (ELSEWHERE, "GET readyz", SERVER_KIND)
        assert request.attributes["http.route"] == "readyz"
        assert request.attributes["http.status_code"] == 200
        assert "db.statement" in receiver.children(request)[0].attributes

    def has_a_run_with_a_tool(self, receiver: Receiver, plan: Received) -> None:
        run = only(receiver.children(plan), "invoke_agent calculator")
        assert run.attributes["gen_ai.operation.name"] == "invoke_agent"
        assert run.attributes["openinference.span.kind"] == "AGENT"
        step = next(one for one in receiver.children(run) if one.name == "cartrita.step")
        decision, call = (one for one in receiver.children(step) if one.scope == "cartrita")
        assert decision.name == "cartrita.decision tool_call"
        assert call.name == "execute_tool calculate"
        assert call.attributes["gen_ai.tool.name"] == call.attributes["tool.name"] == "calculate"
        assert call.attributes["openinference.span.kind"] == "TOOL"
        assert [call.attributes["cartrita.decision_id"]] == decision.attributes["cartrita.decision_id"]
        self.has_statements(receiver, decision)

    def has_a_run_with_a_model(self, receiver: Receiver, plan: Received) -> None:
        run = only(receiver.children(plan), "invoke_agent writer")
        step = next(one for one in receiver.children(run) if one.name == "cartrita.step")
        call = only(receiver.children(step), "chat scripted")
        assert (call.kind, call.failed) == (CLIENT_KIND, False)
        told = call.attributes
        assert told["gen_ai.operation.name"] == "chat"
        assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "scripted"
        assert told["gen_ai.usage.input_tokens"] == told["llm.token_count.prompt"] > 0
        assert told["gen_ai.usage.output_tokens"] == told["llm.token_count.completion"] > 0
        assert told["gen_ai.response.finish_reasons"] == ["stop"]
        assert told["openinference.span.kind"] == "LLM"

    def has_statements(self, receiver: Receiver, above: Received) -> None:
        found = [one for _, one in receiver.tree(above) if "db.statement" in one.attributes]
        assert any("insert into event" in one.attributes["db.statement"] for one in found), above.name
        assert {one.kind for one in found} == {CLIENT_KIND}

    def has_nothing_personal(self, receiver: Receiver, person: Person) -> None:
        sent = b"".join(receiver.raw)
        for personal in (NAME, "6 * 7", "ann@example.com", "Traced", str(person.user_id), "127.0.0.1"):
            assert personal.encode() not in sent, personal
        names = {name for one in receiver.spans for name in one.attributes}
        assert [name for name in names if not name.startswith(MAY_BE_SENT)] == []

    async def test_holds_what_was_said_where_that_is_asked_for(
        self, server: Server, person: Person, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CARTRITA_TRACE_CONTENT", "1")
        await traced(server, person, ASKED)
        calls = [one for one in receiver.spans if one.name == "chat scripted" and not one.failed]
        assert calls
        for call in calls:
            assert call.attributes["output.value"] == f"{NAME} is a city."
            said = json.loads(call.attributes["gen_ai.input.messages"])
            assert said[-1]["parts"][0]["content"] == call.attributes["input.value"]
        tool = only(receiver.spans, "execute_tool calculate")
        assert json.loads(tool.attributes["gen_ai.tool.call.arguments"])["expression"] == "6 * 7"


class TestTwoProcesses:
    @pytest.mark.timeout(400)
    async def test_are_one_trace(
        self,
        server: Server,
        person: Person,
        receiver: Receiver,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert server.script is not None
        monkeypatch.setenv("CARTRITA_SERVICES", "sequencer,signer,projector,ingest")
        monkeypatch.setenv("CARTRITA_SCRIPTED_MODEL", str(server.script.path))
        with orchestrating(tmp_path / "orchestrator.log"):
            trace_id, session_id = await traced(server, person, ASKED)
        of_message = [one for one in receiver.spans if one.trace == trace_id]
        by_process = {one.resource["cartrita.process"] for one in of_message}
        assert by_process == {"web", "orchestrator"}
        (root,) = [one for one in of_message if not one.parent]
        assert (root.name, root.resource["cartrita.process"]) == ("socket post_message", "web")
        turn = only(receiver.children(root), "cartrita.turn")
        assert turn.resource["cartrita.process"] == "orchestrator"
        assert turn.attributes["session.id"] == str(session_id)
        assert len(list(receiver.tree(root))) == len(of_message), "each span has its parent"


@contextmanager
def orchestrating(log: Path) -> Iterator[None]:
    """Run the orchestrator in a process of its own, and end it in order, so that its last spans are sent."""
    with (
        log.open("w") as written,
        subprocess.Popen(
            [sys.executable, "manage.py", "run_orchestrator", "--services", "orchestrator"],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=written,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "Running: orchestrator.\n", log.read_text()
            yield
            process.terminate()
            assert process.wait(timeout=60) == 0, log.read_text()
        finally:
            process.kill()


class TestReceiverThatIsSilent:
    async def test_hinders_no_answer_and_is_told_of_once(
        self, server: Server, person: Person, receiver: Receiver
    ) -> None:
        receiver.goes_on.clear()
        server.start()
        try:
            for _ in range(2):
                reply, _ = await says(server, person, ASKED)
                assert reply.outcome == "answered"
        finally:
            await close_async()
            server.stop()
        assert server.process is not None
        assert server.process.returncode == 0
        logged = [json.loads(line) for line in server.log.read_text().splitlines()]
        told = [line for line in logged if "receiver of traces" in line["message"]]
        assert [line["level"] for line in told] == ["WARNING"], told
        assert [line for line in logged if line["logger"].startswith("opentelemetry")] == []
