"""An answer that people have to approve is nowhere to be read before they have."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cartrita.eventstore import RecordedEvent, in_database_thread
from cartrita.llm.events import ModelAnswered
from cartrita.streaming.deltas import read_deltas
from governance.approval import ApprovalRequested
from governance.decision import DecisionMade
from governance.queries.approvals import approval, state
from governance.queries.decision_log import decision
from sessions_app import commands
from sessions_app.channel import describe
from sessions_app.queries import messages
from sessions_app.session import ReplyPosted
from tasks_app.run import ActDecided, AnswerHeld
from tests.databases import Database
from tests.flows.conftest import Person, ScriptedModel, reply_to, running, until
from tests.flows.governed import Reviewer, a_reviewer, escalating, events_of, of_type, requested, rules
from tests.flows.test_erasure import tables_holding

pytestmark = pytest.mark.usefixtures("consistent")

SECRET = "quetzalcoatl"
# A word that no rule holds.
TOLD = "zwiebelkuchen"
FISH = f"# Fish\n\nThe {SECRET} lives in the sea near the Comoros.\n".encode()

ALWAYS = escalating("answers-are-read-first", "message_out")
SECRETS = escalating("answers-are-read-first", "message_out", condition=f"args.text.contains('{SECRET}')")
NO_SECRETS = f"""
  - name: no-secrets
    sentence: The secret is not told.
    priority: 10
    match: {{kinds: [message_out]}}
    condition: args.text.contains('{SECRET}')
    outcome: deny
"""


@pytest.fixture
def reviewer(person: Person) -> Reviewer:
    return a_reviewer(person)


@pytest.fixture
def policy(tmp_path: Path, settings: Any) -> Any:
    def write(*texts: str) -> None:
        path = tmp_path / "policy.yaml"
        path.write_text(rules(*texts))
        settings.POLICY_FILE = str(path)

    return write


def on_the_channel(events: list[RecordedEvent]) -> str:
    """Return everything that the session's channel shows of these events."""
    return "\n".join(str(describe(each)) for each in events)


class TestHeldAnswer:
    @pytest.mark.parametrize("rule", [ALWAYS, SECRETS], ids=["always", "for its text"])
    async def test_of_a_model_is_posted_after_the_grant_alone(
        self, rule: str, person: Person, policy: Any, model: ScriptedModel, database: Database
    ) -> None:
        policy(rule)
        reviewer = await in_database_thread(a_reviewer, person)
        answer = f"It is the {SECRET}, not {TOLD}."
        model.answers({"text": answer})
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, "Which fish?")
            approval_id = await requested(session_id)
            assert await read_deltas(session_id, {}) == []
            before = await events_of(session_id)
            assert SECRET not in on_the_channel(before)
            assert len(await in_database_thread(messages, session_id)) == 1
            assert await asyncio.to_thread(tables_holding, database, TOLD) == []
            asked = await in_database_thread(lambda: approval(approval_id, reviewer.caller))
            assert asked["arguments"] == {
                "to": f"user:{person.user_id}",
                "mode": "held",
                "text": answer,
            }
        async with running():
            await reviewer.approves(approval_id)
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert (reply.content, reply.outcome, reply.model) == (answer, "answered", "scripted")
        assert len(of_type(events, ModelAnswered)) == 1
        assert {each.delivery for each in of_type(events, ActDecided)} == {"held"}
        assert [
            each.outcome for each in of_type(events, DecisionMade) if each.subject_kind == "message_out"
        ] == ["escalate", "allow"]

    async def test_may_not_be_read_by_who_asked_for_it(
        self, person: Person, reviewer: Reviewer, policy: Any, model: ScriptedModel
    ) -> None:
        policy(ALWAYS)
        asking = await in_database_thread(a_reviewer, person, "mia@example.com", ["member"])
        async with running():
            session_id = await asking.opens_session()
            await asking.says(session_id, "Which fish?")
            approval_id = await requested(session_id)
            seen = await in_database_thread(lambda: approval(approval_id, asking.caller))
        assert seen["arguments"] is None
        assert not seen["readable"]

    @pytest.mark.parametrize("roles", [["member"], ["member", "reviewer"], ["member", "admin", "auditor"]])
    async def test_may_not_be_read_from_its_decision(
        self, roles: list[str], person: Person, reviewer: Reviewer, policy: Any, model: ScriptedModel
    ) -> None:
        policy(ALWAYS)
        model.answers({"text": f"It is the {SECRET}."})
        asking = await in_database_thread(a_reviewer, person, "mia@example.com", roles)
        async with running():
            session_id = await asking.opens_session()
            message_id = await asking.says(session_id, "Which fish?")
            approval_id = await requested(session_id)
            in_its_approval = await in_database_thread(lambda: approval(approval_id, asking.caller))
            decision_id = (await in_database_thread(state, approval_id)).decision_id
            assert decision_id is not None
            seen = await in_database_thread(lambda: decision(decision_id, asking.caller))
            to_decide = await in_database_thread(lambda: decision(decision_id, reviewer.caller))
            await reviewer.denies(approval_id)
            await reply_to(session_id, message_id)
            after = await in_database_thread(lambda: decision(decision_id, asking.caller))
        assert (seen["request"], after["request"], in_its_approval["arguments"]) == (None, None, None)
        assert SECRET in to_decide["request"]["arguments"]["text"]

    async def test_is_not_told_where_a_reviewer_says_no(
        self, person: Person, reviewer: Reviewer, policy: Any, model: ScriptedModel
    ) -> None:
        policy(ALWAYS)
        model.answers({"text": f"It is the {SECRET}."})
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, "Which fish?")
            await reviewer.denies(await requested(session_id), "Not that one.")
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert (reply.outcome, reply.content) == (
            "denied",
            "This was not allowed: A reviewer said no: Not that one.",
        )
        assert SECRET not in on_the_channel(events)

    async def test_is_denied_for_its_text(self, person: Person, policy: Any, model: ScriptedModel) -> None:
        policy(NO_SECRETS)
        model.answers({"text": f"It is the {SECRET}.", "times": 1}, {"text": "A fish."})
        async with running():
            session_id = await person.opens_session()
            first = await person.asks(session_id, "Which fish?")
            second = await person.asks(session_id, "Just a fish?")
            events = await events_of(session_id)
        assert (first.outcome, first.content) == (
            "denied",
            "This was not allowed: The secret is not told.",
        )
        assert (second.outcome, second.content) == ("answered", "A fish.")
        assert SECRET not in on_the_channel(events)

    async def test_that_was_stopped_keeps_its_beginning_to_itself(
        self, person: Person, policy: Any, model: ScriptedModel
    ) -> None:
        policy(NO_SECRETS)
        model.answers({"text": "word " * 400, "seconds_per_token": 0.02})
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, "Talk to me")
            await until(session_id, lambda each: isinstance(each.event, ActDecided))
            await asyncio.sleep(0.3)
            await in_database_thread(commands.cancel_turn, session_id=session_id, actor=person.actor)
            reply = await reply_to(session_id, message_id)
        assert (reply.outcome, reply.content) == ("stopped", "")

    async def test_in_the_documents_own_words_waits_too(
        self, person: Person, reviewer: Reviewer, policy: Any
    ) -> None:
        policy(SECRETS)
        async with running():
            session_id = await person.opens_session()
            document_id = await person.attaches(session_id, "fish.md", FISH)
            message_id = await person.says(session_id, "Where does the fish live?", [document_id])
            approval_id = await requested(session_id)
            assert await read_deltas(session_id, {}) == []
            assert SECRET not in on_the_channel(await events_of(session_id))
        await reviewer.approves(approval_id)
        async with running():
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert SECRET in reply.content
        assert [each["document"] for each in reply.citations] == [str(document_id)] * len(reply.citations)
        assert len(of_type(events, AnswerHeld)) == 1

    async def test_of_a_tool_waits_too(self, person: Person, reviewer: Reviewer, policy: Any) -> None:
        policy(ALWAYS)
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/calculate {"expression": "6 * 7"}')
            approval_id = await requested(session_id)
            events = await events_of(session_id)
            assert of_type(events, ReplyPosted) == []
            assert [each.subject_kind for each in of_type(events, ApprovalRequested)] == ["message_out"]
            await reviewer.approves(approval_id)
            reply = await reply_to(session_id, message_id)
        assert '"value": "42"' in reply.content
