"""What was read decides what may be sent: a restricted document, and a tool that fetches from outside."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from cartrita.eventstore import in_database_thread
from cartrita.tools import registry
from cartrita.tools.registry import Parameters, ToolCall, tool
from governance.approval import ApprovalRequested
from governance.decision import DecisionMade
from retrieval.commands import receive_document
from retrieval.ingest import wait_ready
from tests.databases import CHECKOUT
from tests.flows.conftest import Person, ScriptedModel, reply_to, running
from tests.flows.governed import a_reviewer, events_of, of_type, requested, rules

PLANS = b"# Plans\n\nThe merger is signed in March. The ferry leaves at 7:45.\n"
QUESTION = "When does the ferry leave?"
BLOCKED = """
  - name: nothing-goes-out-after-restricted-documents
    sentence: Whoever has read a restricted document sends nothing out.
    priority: 100
    match: {kinds: [tool_call], tools: [http_fetch]}
    condition: '"restricted" in labels || "restricted" in actor_labels'
    outcome: deny
    message_for_people: You have read a restricted document.
"""


@dataclass
class Outside:
    """A server out there, and what it was asked."""

    address: str = ""
    asked: list[str] = field(default_factory=list)

    def call(self, path: str) -> str:
        """Return the message that has it fetched."""
        return f'/http_fetch {{"url": "{self.address}{path}"}}'


class Fetch(Parameters):
    """What is fetched."""

    url: str


class Fetched(Parameters):
    """What came of it."""

    status: int
    text: str


@pytest.fixture
def outside() -> Iterator[Outside]:
    found = Outside()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: Any) -> None:
            """Stay quiet."""

    async def http_fetch(arguments: Fetch, call: ToolCall) -> Fetched:
        async with httpx.AsyncClient() as client:
            answer = await client.get(arguments.url)
        return Fetched(status=answer.status_code, text=answer.text)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    before = dict(registry._tools)
    tool("http_fetch", description="Fetch an address.", category="network", safety="caution")(http_fetch)
    try:
        yield found
    finally:
        registry._tools.clear()
        registry._tools.update(before)
        server.shutdown()
        server.server_close()
        thread.join()


async def attaches_restricted(person: Person, session_id: UUID) -> UUID:
    document_id = await in_database_thread(
        receive_document,
        workspace_id=person.workspace_id,
        owner_id=person.user_id,
        title="plans.md",
        media_type="",
        content=PLANS,
        session_id=session_id,
        labels=["restricted"],
        actor=person.actor,
    )
    assert await wait_ready([document_id], timeout=60) == {document_id: "ready"}
    return document_id


async def decided(session_id: UUID, kind: str) -> list[tuple[str, str]]:
    """Return outcome and rule of each decision of a kind in a session."""
    made = of_type(await events_of(session_id), DecisionMade)
    return [(each.outcome, each.rule) for each in made if each.subject_kind == kind]


@pytest.mark.usefixtures("consistent")
class TestSendingAfterARestrictedDocument:
    @pytest.fixture(autouse=True)
    def policy(self, tmp_path: Path, settings: Any) -> None:
        path = tmp_path / "policy.yaml"
        path.write_text(rules(BLOCKED))
        settings.POLICY_FILE = str(path)

    async def test_is_blocked_in_the_same_session(
        self, person: Person, model: ScriptedModel, outside: Outside
    ) -> None:
        async with running():
            session_id = await person.opens_session()
            assert (await person.asks(session_id, outside.call("/before"))).outcome == "answered"
            document_id = await attaches_restricted(person, session_id)
            assert (await person.asks(session_id, QUESTION, [document_id])).outcome == "answered"
            reply = await person.asks(session_id, outside.call("/after"))
            acts = await decided(session_id, "tool_call")
        assert (reply.outcome, "You have read a restricted document." in reply.content) == ("denied", True)
        assert outside.asked == ["/before"]
        assert acts == [
            ("allow", "everything-else"),
            ("deny", "nothing-goes-out-after-restricted-documents"),
        ]

    async def test_is_blocked_in_another_session_of_the_same_person_alone(
        self, person: Person, model: ScriptedModel, outside: Outside
    ) -> None:
        colleague = await in_database_thread(a_reviewer, person, "cleo@example.com", ("member",))
        async with running():
            reading, sending = await person.opens_session(), await person.opens_session()
            document_id = await attaches_restricted(person, reading)
            await person.asks(reading, QUESTION, [document_id])
            reply = await person.asks(sending, outside.call("/mine"))
            theirs = await colleague.opens_session()
            other = await colleague.asks(theirs, outside.call("/theirs"))
        assert (reply.outcome, other.outcome) == ("denied", "answered")
        assert outside.asked == ["/theirs"]

    async def test_is_not_possible_beside_the_reading_either(
        self, person: Person, model: ScriptedModel, outside: Outside
    ) -> None:
        async with running():
            reading, sending = await person.opens_session(), await person.opens_session()
            document_id = await attaches_restricted(person, reading)
            read = person.asks(reading, QUESTION, [document_id])
            sent = person.asks(sending, outside.call("/meanwhile"))
            await asyncio.gather(read, sent)
            searches = await decided(reading, "retrieval")
            later = await person.asks(sending, outside.call("/later"))
            if ("allow", "everything-else") not in searches:
                # The search had to wait for what was under way: nothing restricted was read.
                assert set(searches) == {("deny", "taints-act-under-way")}
                assert (outside.asked, later.outcome) == (["/meanwhile", "/later"], "answered")
            else:
                assert (outside.asked.count("/later"), later.outcome) == (0, "denied")


@pytest.mark.usefixtures("consistent")
class TestTheStrictSet:
    @pytest.fixture(autouse=True)
    def policy(self, tmp_path: Path, settings: Any) -> None:
        """Name the model of these flows, as whoever uses the set names theirs."""
        text = (CHECKOUT / "governance" / "policies" / "strict.yaml").read_text()
        path = tmp_path / "strict.yaml"
        path.write_text(text.replace('["gpt-4o", ', '["scripted", "gpt-4o", '))
        settings.POLICY_FILE = str(path)

    async def test_answers_an_ordinary_question(self, person: Person, model: ScriptedModel) -> None:
        async with running():
            session_id = await person.opens_session()
            document_id = await person.attaches(
                session_id, "ferry.md", b"# Ferry\n\nThe ferry leaves at 7:45.\n"
            )
            reply = await person.asks(session_id, QUESTION, [document_id])
            sum_ = await person.asks(session_id, '/calculate {"expression": "6 * 7"}')
        assert (reply.outcome, sum_.outcome) == ("answered", "answered")
        assert "42" in sum_.content

    async def test_lets_two_people_read_what_goes_out(
        self, person: Person, model: ScriptedModel, outside: Outside
    ) -> None:
        rita = await in_database_thread(a_reviewer, person)
        ralf = await in_database_thread(a_reviewer, person, "ralf@example.com")
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, outside.call("/news"))
            approval_id = await requested(session_id)
            await rita.approves(approval_id)
            await asyncio.sleep(0.2)
            assert outside.asked == []
            await ralf.approves(approval_id)
            reply = await reply_to(session_id, message_id)
            asked = of_type(await events_of(session_id), ApprovalRequested)
        assert (reply.outcome, outside.asked) == ("answered", ["/news"])
        assert [(each.rule, each.quorum) for each in asked] == [("outbound-calls-need-two-people", 2)]

    async def test_denies_what_it_does_not_name(
        self, person: Person, model: ScriptedModel, outside: Outside
    ) -> None:
        async def list_files(arguments: Fetch, call: ToolCall) -> Fetched:
            outside.asked.append("listed")
            return Fetched(status=200, text="")

        tool("list_files", description="List files.", category="files")(list_files)
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, '/list_files {"url": "/"}')
            acts = await decided(session_id, "tool_call")
        assert (reply.outcome, outside.asked) == ("denied", [])
        assert acts == [("deny", "only-named-tools")]

    async def test_sends_nothing_out_after_a_restricted_document(
        self, person: Person, model: ScriptedModel, outside: Outside
    ) -> None:
        reader = await in_database_thread(a_reviewer, person)
        async with running():
            session_id = await reader.opens_session()
            document_id = await attaches_restricted(reader, session_id)
            assert (await reader.asks(session_id, QUESTION, [document_id])).outcome == "answered"
            reply = await reader.asks(await reader.opens_session(), outside.call("/plans"))
        assert (reply.outcome, outside.asked) == ("denied", [])
