"""The three sequence rules of the starter policy, with tools that have effects."""

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from cartrita.eventstore import in_database_thread
from cartrita.tools.events import ToolFailed
from governance.approval import ApprovalRequested
from governance.decision import ActSettled, DecisionMade
from governance.models import LabelSet
from retrieval.commands import receive_document
from retrieval.ingest import wait_ready
from tasks_app.run import ActDecided
from tests.flows.conftest import Person, ScriptedModel, reply_to, running, until
from tests.flows.governed import a_reviewer, effects, events_of, of_type, registered, requested

pytestmark = pytest.mark.usefixtures("consistent")

FERRY = b"# Ferry\n\nThe ferry leaves at 7:45. Captain Ahab lives at 1 Sea Street.\n"
FETCH = '/http_fetch {"text": "hello"}'


@pytest.fixture
def fetched(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "fetched.txt"
    with registered("http_fetch", path):
        yield path


async def attaches_personal(person: Person, session_id: UUID) -> UUID:
    """Attach a document that is known to hold personal data."""
    document_id = await in_database_thread(
        receive_document,
        workspace_id=person.workspace_id,
        owner_id=person.user_id,
        title="ferry.md",
        media_type="",
        content=FERRY,
        session_id=session_id,
        labels=["pii"],
        actor=person.actor,
    )
    assert await wait_ready([document_id], timeout=60) == {document_id: "ready"}
    return document_id


class TestSendingAfterPersonalData:
    async def test_waits_for_a_reviewer(self, person: Person, model: ScriptedModel, fetched: Path) -> None:
        reviewer = await in_database_thread(a_reviewer, person)
        async with running():
            session_id = await person.opens_session()
            assert (await person.asks(session_id, FETCH)).outcome == "answered"
            document_id = await attaches_personal(person, session_id)
            await person.asks(session_id, "When does the ferry leave?", [document_id])
            message_id = await person.says(session_id, FETCH)
            approval_id = await requested(session_id)
            assert effects(fetched) == ["hello"]
            await reviewer.approves(approval_id)
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.outcome == "answered"
        assert effects(fetched) == ["hello", "hello"]
        assert [each.rule for each in of_type(events, ApprovalRequested)] == [
            "nothing-goes-out-after-confidential-text"
        ]

    async def test_counts_what_the_person_read_elsewhere(
        self, person: Person, model: ScriptedModel, fetched: Path
    ) -> None:
        async with running():
            reading = await person.opens_session()
            document_id = await attaches_personal(person, reading)
            await person.asks(reading, "When does the ferry leave?", [document_id])
            sending = await person.opens_session()
            await person.says(sending, FETCH)
            await requested(sending)
        assert effects(fetched) == []

    async def test_counts_the_labels_of_a_search_from_its_decision_on(
        self, person: Person, model: ScriptedModel
    ) -> None:
        async with running():
            session_id = await person.opens_session()
            document_id = await attaches_personal(person, session_id)
            await person.asks(session_id, "When does the ferry leave?", [document_id])
            events = await events_of(session_id)
            row = await in_database_thread(LabelSet.objects.get, subject=f"session:{session_id}")
        (decided,) = [each for each in of_type(events, DecisionMade) if each.subject_kind == "retrieval"]
        assert decided.possible_labels == ("pii", "untrusted")
        assert set(row.labels) == {"pii", "untrusted"}
        added = [each.labels_added for each in of_type(events, ActSettled) if each.labels_added]
        assert added == [("pii", "untrusted")]


class TestFailingTool:
    async def test_is_throttled_after_the_third_failure(self, person: Person, tmp_path: Path) -> None:
        path = tmp_path / "tried.txt"
        with registered("send_text", path, fails=True):
            async with running():
                session_id = await person.opens_session()
                for number in range(3):
                    reply = await person.asks(session_id, f'/send_text {{"text": "{number}"}}')
                    assert reply.outcome == "failed"
                await person.says(session_id, '/send_text {"text": "3"}')
                waiting = await until(
                    session_id, lambda each: isinstance(each.event, ActDecided) and each.event.waits
                )
                events = await events_of(session_id)
        assert effects(path) == ["0", "1", "2"]
        assert len(of_type(events, ToolFailed)) == 3
        (decided,) = of_type([waiting], ActDecided)
        assert (decided.outcome, decided.rule) == ("throttle", "failing-tools-slow-down")


class TestPythonAfterUntrustedText:
    async def test_needs_approval_each_time(self, person: Person, model: ScriptedModel) -> None:
        reviewer = await in_database_thread(a_reviewer, person)
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/execute_python {"code": "1"}')
            await reviewer.approves(await requested(session_id), scope="session")
            assert (await reply_to(session_id, message_id)).outcome == "answered"
            # What code printed is no text from outside, and the session's leave still counts.
            assert (await person.asks(session_id, '/execute_python {"code": "2"}')).outcome == "answered"
            document_id = await person.attaches(session_id, "ferry.md", FERRY)
            await person.asks(session_id, "When does the ferry leave?", [document_id])
            message_id = await person.says(session_id, '/execute_python {"code": "3"}')
            await reviewer.approves(await requested(session_id, number=2))
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert "```json\n3\n```" in reply.content
        assert [each.rule for each in of_type(events, ApprovalRequested)] == [
            "python-needs-a-reviewer",
            "python-after-untrusted-text",
        ]
