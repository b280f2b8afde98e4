"""Documents under rules, from a message to its reply: held until they are approved, left out of searches."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from cartrita.accounts.queries import caller_of_email
from cartrita.eventstore import in_database_thread
from cartrita.orchestrator.liveness import sessions_to_work_on
from cartrita.tools.events import ToolFailed, ToolReturned
from governance.commands.approvals import approve
from governance.decision import DecisionMade
from governance.models import Approval, LabelSet
from retrieval import models
from retrieval.commands import receive_document
from retrieval.document import RetrievalPerformed
from retrieval.ingest import wait_ready
from tests.flows.conftest import Person, ScriptedModel, running
from tests.flows.governed import a_reviewer, escalating, events_of, of_type, requested, rules
from tests.governance.policies import rule
from tests.governance.steps import EVERY_KIND, Place

pytestmark = pytest.mark.usefixtures("consistent")

FERRY = b"# Ferry\n\nThe ferry to Norderney leaves at 7:45.\n"
SECRET = b"# Secret\n\nThe ferry to Norderney carries the crown jewels to Atlantis.\n"
LEAVE_OUT = """
  - name: no-secrets
    sentence: Documents labelled secret take no part.
    match: {kinds: [retrieval]}
    outcome: allow
    parameters: {leave_out: [secret]}
"""


async def keeps(person: Person, session_id: UUID, content: bytes, *labels: str) -> UUID:
    """Attach a document that carries these labels."""
    document_id = await in_database_thread(
        receive_document,
        workspace_id=person.workspace_id,
        owner_id=person.user_id,
        title="ferry.md" if content == FERRY else "secret.md",
        media_type="",
        content=content,
        session_id=session_id,
        labels=labels,
        actor=person.actor,
    )
    assert await wait_ready([document_id], timeout=60) == {document_id: "ready"}
    return document_id


class TestLeftOutDocument:
    async def test_is_in_no_passage_prompt_or_citation(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"when": "Atlantis", "text": "It leaked."}, {"text": "At 7:45 [1]."})
        reviewer = await in_database_thread(a_reviewer, person)
        async with running():
            await reviewer.changes_rules(person, rules(LEAVE_OUT))
            session_id = await person.opens_session()
            ferry = await keeps(person, session_id, FERRY, "timetable")
            secret = await keeps(person, session_id, SECRET, "secret", "pii")
            reply = await person.asks(session_id, "When does the ferry to Norderney leave?", [ferry, secret])
            events = await events_of(session_id)
        assert "7:45" in reply.content
        assert {citation["document"] for citation in reply.citations} == {str(ferry)}
        (performed,) = of_type(events, RetrievalPerformed)
        assert performed.documents_retrieved == (ferry,)
        (made,) = [each for each in of_type(events, DecisionMade) if each.subject_kind == "retrieval"]
        assert (made.left_out, made.left_out_documents) == (("secret",), 1)
        row = await in_database_thread(LabelSet.objects.get, subject=f"session:{session_id}")
        assert set(row.labels) == {"timetable", "untrusted"}

    async def test_is_not_read_by_tools_either(self, person: Person, model: ScriptedModel) -> None:
        reviewer = await in_database_thread(a_reviewer, person)
        async with running():
            await reviewer.changes_rules(person, rules(LEAVE_OUT))
            session_id = await person.opens_session()
            ferry = await keeps(person, session_id, FERRY)
            secret = await keeps(person, session_id, SECRET, "secret")
            found = await person.asks(session_id, '/search_documents {"query": "ferry to Norderney"}')
            shown = await person.asks(session_id, f'/read_document {{"document_id": "{ferry}"}}')
            hidden = await person.asks(session_id, f'/read_document {{"document_id": "{secret}"}}')
            events = await events_of(session_id)
        assert str(ferry) in found.content
        assert "Atlantis" not in found.content + hidden.content
        assert "7:45" in shown.content
        assert [each.tool for each in of_type(events, ToolReturned)] == ["search_documents", "read_document"]
        assert [each.code for each in of_type(events, ToolFailed)] == ["document_not_found"]
        assert [
            (each.tool, each.left_out_documents)
            for each in of_type(events, DecisionMade)
            if each.subject_kind == "retrieval"
        ] == [("search_documents", 1), ("read_document", 0), ("read_document", 1)]
        row = await in_database_thread(LabelSet.objects.get, subject=f"session:{session_id}")
        assert set(row.labels) == {"untrusted"}


class TestHeldDocument:
    async def test_is_read_when_it_is_approved_while_the_session_goes_on(
        self, person: Person, model: ScriptedModel
    ) -> None:
        reviewer = await in_database_thread(a_reviewer, person)
        async with running():
            await reviewer.changes_rules(person, rules(escalating("check-documents", "document")))
            session_id = await person.opens_session()
            document_id = await in_database_thread(
                lambda: receive_document(
                    workspace_id=person.workspace_id,
                    owner_id=person.user_id,
                    title="ferry.md",
                    media_type="",
                    content=FERRY,
                    session_id=session_id,
                    actor=person.actor,
                )
            )
            assert await wait_ready([document_id], timeout=60) == {document_id: "held"}
            # What waits is the document: messages are answered without it.
            reply = await person.asks(session_id, "When does the ferry leave?", [document_id])
            assert (reply.outcome, reply.citations) == ("answered", [])
            assert reply.content.endswith("\n\nNot read, because approval is still awaited: ferry.md.")
            assert await in_database_thread(sessions_to_work_on) == []
            await reviewer.approves(await requested(session_id))
            statuses = await wait_ready([document_id], timeout=60, until_approved=True)
            assert statuses == {document_id: "ready"}
            again = await person.asks(session_id, "When does the ferry leave?", [document_id])
            assert "Not read" not in again.content

    async def test_is_named_beside_those_that_were_read(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"when": "7:45", "text": "At 7:45 [1]."}, {"text": "I do not know."})
        reviewer = await in_database_thread(a_reviewer, person)
        async with running():
            session_id = await person.opens_session()
            ferry = await keeps(person, session_id, FERRY)
            await reviewer.changes_rules(person, rules(escalating("check-documents", "document")))
            held = await in_database_thread(
                lambda: receive_document(
                    workspace_id=person.workspace_id,
                    owner_id=person.user_id,
                    title="secret.md",
                    media_type="",
                    content=SECRET,
                    session_id=session_id,
                    actor=person.actor,
                )
            )
            reply = await person.asks(session_id, "When does the ferry leave?", [held, ferry])
            assert "7:45" in reply.content
            assert reply.content.endswith("\n\nNot read, because approval is still awaited: secret.md.")
            # A call of a tool never reads what is attached.
            called = await person.asks(session_id, '/search_documents {"query": "ferry"}', [held])
            assert "Not read" not in called.content


class TestAsk:
    @pytest.fixture
    def place(self, person: Person, model: ScriptedModel) -> Place:
        return Place(workspace_id=person.workspace_id)

    @pytest.fixture
    def ferry(self, tmp_path: Path) -> Path:
        path = tmp_path / "ferry.md"
        path.write_bytes(FERRY)
        return path

    def asks(self, ferry: Path, **more: Any) -> None:
        question = "When does the ferry to Norderney leave?"
        call_command("ask", question, document=[ferry], user="ann@example.com", **more)

    def test_says_that_a_document_is_denied(self, place: Place, ferry: Path) -> None:
        place.follows(
            rule("no", "deny", match={"kinds": ["document"]}, message_for_people="No ferries."), _rest()
        )
        with pytest.raises(CommandError, match=r"ferry\.md: No ferries\.") as raised:
            self.asks(ferry)
        assert raised.value.returncode == 3

    def test_says_that_a_document_is_held(self, place: Place, ferry: Path) -> None:
        place.follows(rule("ask", "escalate", match={"kinds": ["document"]}), _rest())
        with pytest.raises(CommandError, match=r"ferry\.md waits for approval") as raised:
            self.asks(ferry, wait=False)
        assert raised.value.returncode == 4

    def test_waits_until_a_document_is_approved(
        self, person: Person, place: Place, ferry: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        place.follows(rule("ask", "escalate", match={"kinds": ["document"]}), _rest())

        def approve_it() -> None:
            try:
                while not models.Document.objects.filter(status="held").exists():
                    time.sleep(0.02)
                approval = Approval.objects.get(status="waiting")
                approve(approval_id=approval.id, caller=caller_of_email("ann@example.com"))
            finally:
                connection.close()

        with ThreadPoolExecutor(1) as pool:
            approving = pool.submit(approve_it)
            self.asks(ferry, json=True)
            approving.result()
        assert json.loads(capsys.readouterr().out)["answer"]
        assert models.Document.objects.get().status == "ready"


def _rest() -> dict[str, Any]:
    return rule("rest", "allow", match={"kinds": list(EVERY_KIND)}, priority=900)
