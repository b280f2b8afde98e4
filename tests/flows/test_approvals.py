"""What a rule escalates waits for people, over restarts, and goes on as they decide."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cartrita.eventstore import in_database_thread
from cartrita.tools.events import ToolReturned
from cartrita.tools.runner import InvalidParameters
from governance.approval import (
    ApprovalDenied,
    ApprovalExpired,
    ApprovalGranted,
    ApprovalReplaced,
    ApprovalRequested,
    ApprovalUsed,
    ApprovalVoided,
)
from governance.commands.approvals import expire_due
from governance.decision import ActSettled, DecisionMade
from governance.queries.approvals import approval, state
from retrieval.commands import receive_document
from sessions_app import commands
from tasks_app.plan import PlanCompleted, PlanHeldBack
from tasks_app.run import ActDecided, ActEdited
from tests.flows.conftest import Person, ScriptedModel, reply_to, running
from tests.flows.governed import (
    Reviewer,
    a_reviewer,
    effects,
    escalating,
    events_of,
    of_type,
    registered,
    requested,
    rules,
)

pytestmark = pytest.mark.usefixtures("consistent")

Policy = Callable[..., None]

PYTHON = '/execute_python {"code": "print(6 * 7)\\n[1, 2]"}'


@pytest.fixture
def reviewer(person: Person) -> Reviewer:
    return a_reviewer(person)


@pytest.fixture
def policy(tmp_path: Path, settings: Any) -> Policy:
    def write(*texts: str) -> None:
        path = tmp_path / "policy.yaml"
        path.write_text(rules(*texts))
        settings.POLICY_FILE = str(path)

    return write


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "sent.txt"
    with registered("send_text", path, safety="caution", idempotent=False):
        yield path


class TestEscalatedCall:
    async def test_goes_on_when_a_reviewer_grants_it(self, person: Person, reviewer: Reviewer) -> None:
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, PYTHON)
            approval_id = await requested(session_id)
            await reviewer.approves(approval_id)
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.outcome == "answered"
        assert "Printed:\n\n```text\n42\n```" in reply.content
        assert "Value:\n\n```json\n[\n  1,\n  2\n]\n```" in reply.content
        calls = [each for each in of_type(events, ActDecided) if each.act == "tool_call"]
        assert [(each.outcome, each.attempt, each.permitted) for each in calls] == [
            ("escalate", 1, False),
            ("audit", 2, True),
        ]
        assert calls[0].approval_id == approval_id
        (used,) = of_type(events, ApprovalUsed)
        assert used.decision_id == calls[1].decision_id
        assert len(of_type(events, ToolReturned)) == 1
        assert {each.outcome for each in of_type(events, ActSettled)} == {"succeeded"}

    async def test_ends_the_same_when_everything_is_restarted_meanwhile(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "hello"}')
            approval_id = await requested(session_id)
        await reviewer.approves(approval_id)
        assert effects(sent) == []
        async with running():
            reply = await reply_to(session_id, message_id)
        assert '"text": "sent hello"' in reply.content
        assert effects(sent) == ["hello"]

    async def test_is_decided_on_by_the_first_of_two_reviewers(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        second = await in_database_thread(a_reviewer, person, "rob@example.com")
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "hello"}')
            approval_id = await requested(session_id)
            ended = await asyncio.gather(
                reviewer.approves(approval_id), second.denies(approval_id), return_exceptions=True
            )
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert [type(each).__name__ for each in ended].count("ApprovalEnded") == 1
        granted = len(of_type(events, ApprovalGranted))
        assert granted + len(of_type(events, ApprovalDenied)) == 1
        assert effects(sent) == ["hello"] * granted
        assert reply.outcome == ("answered" if granted else "denied")

    async def test_is_denied_with_the_reviewers_reason(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "hello"}')
            await reviewer.denies(await requested(session_id), "Not on a Sunday.")
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.outcome == "denied"
        assert reply.content == "This was not allowed: A reviewer said no: Not on a Sunday."
        assert effects(sent) == []
        assert [each.status for each in of_type(events, PlanCompleted)] == ["failed"]

    async def test_is_denied_when_nobody_answers_in_time(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "hello"}')
            await requested(session_id)
            await in_database_thread(expire_due, datetime.now(UTC) + timedelta(hours=2))
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert (reply.outcome, reply.content) == (
            "denied",
            "This was not allowed: Nobody approved it in time.",
        )
        assert len(of_type(events, ApprovalExpired)) == 1

    async def test_is_decided_anew_with_the_arguments_of_a_reviewer(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        second = await in_database_thread(a_reviewer, person, "rob@example.com")
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "hello"}')
            await reviewer.edits(await requested(session_id), {"text": "good day"})
            anew = await requested(session_id, number=2)
            found = await in_database_thread(lambda: approval(anew, second.caller))
        assert found["arguments"] == {"text": "good day", "times": 1}
        await second.approves(anew)
        async with running():
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.outcome == "answered"
        assert effects(sent) == ["good day"]
        assert len(of_type(events, ApprovalReplaced)) == 1
        (edited,) = of_type(events, ActEdited)
        assert (edited.by, edited.arguments) == (f"user:{reviewer.user_id}", {"text": "good day"})
        assert [each.edited_by for each in of_type(events, ApprovalRequested)] == [
            "",
            f"user:{reviewer.user_id}",
        ]

    async def test_says_which_of_a_reviewers_arguments_do_not_fit(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "hello"}')
            approval_id = await requested(session_id)
            with pytest.raises(InvalidParameters, match="times"):
                await reviewer.edits(approval_id, {"text": "x", "times": "many"})
            await reviewer.approves(approval_id)
            reply = await reply_to(session_id, message_id)
        assert reply.outcome == "answered"
        assert effects(sent) == ["hello"]

    async def test_asks_anew_where_the_tool_was_changed_after_the_grant(
        self, person: Person, reviewer: Reviewer, policy: Policy, tmp_path: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        path = tmp_path / "sent.txt"
        with registered("send_text", path, safety="caution"):
            async with running():
                session_id = await person.opens_session()
                message_id = await person.says(session_id, '/send_text {"text": "hello"}')
                first = await requested(session_id)
        await reviewer.approves(first)
        with registered("send_text", path, safety="restricted"):
            async with running():
                second = await requested(session_id, number=2)
                assert effects(path) == []
                await reviewer.approves(second)
                reply = await reply_to(session_id, message_id)
                events = await events_of(session_id)
        assert reply.outcome == "answered"
        assert [each.cause for each in of_type(events, ApprovalVoided)] == ["tool_changed"]
        assert effects(path) == ["hello"]

    async def test_stops_while_it_waits(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "hello"}')
            approval_id = await requested(session_id)
        # Nobody hears it; the one who starts next finds it.
        await in_database_thread(commands.cancel_turn, session_id=session_id, actor=person.actor)
        async with running():
            reply = await reply_to(session_id, message_id)
        assert reply.outcome == "stopped"
        found = await in_database_thread(state, approval_id)
        assert (found.status, found.void_cause) == ("void", "cancelled")
        assert effects(sent) == []

    async def test_keeps_later_messages_waiting(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path, model: ScriptedModel
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        async with running():
            session_id = await person.opens_session()
            first = await person.says(session_id, '/send_text {"text": "hello"}')
            approval_id = await requested(session_id)
            second = await person.says(session_id, "And then?")
            other = await person.opens_session()
            assert (await person.asks(other, "Hello?")).content == "The scripted answer."
            assert len(model.productions()) == 1
            await reviewer.approves(approval_id)
            assert (await reply_to(session_id, first)).outcome == "answered"
            assert (await reply_to(session_id, second)).content == "The scripted answer."

    async def test_is_remembered_for_its_session_where_the_reviewer_says_so(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "one"}')
            await reviewer.approves(await requested(session_id), scope="session")
            await reply_to(session_id, message_id)
            assert (await person.asks(session_id, '/send_text {"text": "two"}')).outcome == "answered"
        assert effects(sent) == ["one", "two"]

    async def test_needs_the_leave_of_every_rule_that_asks_for_it(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"), escalating("ask-twice", "tool_call"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "hello"}')
            await reviewer.approves(await requested(session_id))
            second = await requested(session_id, number=2)
            assert effects(sent) == []
            await reviewer.approves(second)
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.outcome == "answered"
        assert len(of_type(events, ApprovalUsed)) == 2
        assert of_type(events, ApprovalVoided) == []


class TestChangedRule:
    async def test_voids_the_grant_and_asks_anew(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "hello"}')
            first = await requested(session_id)
        await reviewer.approves(first)
        await reviewer.changes_rules(
            person, rules(escalating("ask-first", "tool_call", condition="args.times < 5"))
        )
        async with running():
            second = await requested(session_id, number=2)
            await reviewer.approves(second)
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.outcome == "answered"
        assert [(each.cause, each.detail) for each in of_type(events, ApprovalVoided)] == [
            ("rule_changed", "ask-first")
        ]
        assert effects(sent) == ["hello"]

    async def test_that_denies_now_voids_the_grant(
        self, person: Person, reviewer: Reviewer, policy: Policy, sent: Path
    ) -> None:
        policy(escalating("ask-first", "tool_call"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, '/send_text {"text": "hello"}')
            first = await requested(session_id)
        await reviewer.approves(first)
        deny = """
  - name: never-again
    sentence: Nothing is sent any more.
    priority: 10
    match: {kinds: [tool_call]}
    outcome: deny
"""
        await reviewer.changes_rules(person, rules(deny, escalating("ask-first", "tool_call")))
        async with running():
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert (reply.outcome, reply.content) == (
            "denied",
            "This was not allowed: Nothing is sent any more.",
        )
        assert [(each.cause, each.detail) for each in of_type(events, ApprovalVoided)] == [
            ("not_covered", "never-again")
        ]
        assert effects(sent) == []


class TestEscalatedPlan:
    async def test_begins_when_it_is_granted(
        self, person: Person, reviewer: Reviewer, policy: Policy, model: ScriptedModel
    ) -> None:
        policy(escalating("plans-first", "plan"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, "What is the answer?")
            approval_id = await requested(session_id)
        assert model.productions("started") == []
        await reviewer.approves(approval_id)
        async with running():
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.content == "The scripted answer."
        assert [each.approval_id for each in of_type(events, PlanHeldBack)] == [approval_id]

    async def test_is_refused_with_the_reviewers_reason(
        self, person: Person, reviewer: Reviewer, policy: Policy, model: ScriptedModel
    ) -> None:
        policy(escalating("plans-first", "plan"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, "What is the answer?")
            await reviewer.denies(await requested(session_id), "Ask me tomorrow.")
            reply = await reply_to(session_id, message_id)
        assert (reply.outcome, reply.content) == (
            "denied",
            "This was not allowed: A reviewer said no: Ask me tomorrow.",
        )
        assert model.productions("started") == []

    async def test_stops_while_it_waits(
        self, person: Person, reviewer: Reviewer, policy: Policy, model: ScriptedModel
    ) -> None:
        policy(escalating("plans-first", "plan"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, "What is the answer?")
            await requested(session_id)
            await in_database_thread(commands.cancel_turn, session_id=session_id, actor=person.actor)
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.outcome == "stopped"
        assert [each.status for each in of_type(events, PlanCompleted)] == ["stopped"]


class TestEscalatedModelCall:
    async def test_asks_the_model_once_it_is_granted(
        self, person: Person, reviewer: Reviewer, policy: Policy, model: ScriptedModel
    ) -> None:
        policy(escalating("models-first", "model_call"))
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, "What is the answer?")
            approval_id = await requested(session_id)
            assert model.productions("started") == []
            await reviewer.approves(approval_id)
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.content == "The scripted answer."
        assert model.productions() == ["The scripted answer."]
        # The leave to speak was released while the call waited.
        spoke = [each for each in of_type(events, DecisionMade) if each.subject_kind == "message_out"]
        assert len(spoke) == 2
        assert (
            sorted(each.outcome for each in of_type(events, ActSettled)) == ["cancelled"] + ["succeeded"] * 3
        )


class TestHeldDocument:
    async def test_keeps_no_message_waiting(
        self, person: Person, policy: Policy, model: ScriptedModel
    ) -> None:
        policy(escalating("documents-first", "document"))
        model.answers({"text": "Hello."})
        async with running():
            session_id = await person.opens_session()
            await in_database_thread(
                receive_document,
                workspace_id=person.workspace_id,
                owner_id=person.user_id,
                title="ferry.md",
                media_type="",
                content=b"# Ferry\n\nThe ferry leaves at 7:45 from pier 4.\n",
                session_id=session_id,
                actor=person.actor,
            )
            await requested(session_id)
            assert (await person.asks(session_id, "Hello?")).content == "Hello."
        hello = await person.says(session_id, "Hello again?")
        async with running():
            # Found after a start, though something in its session waits for people.
            assert (await reply_to(session_id, hello)).content == "Hello."
