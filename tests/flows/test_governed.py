"""What policy forbids does not happen, is told, and can be decided again with the same verdict."""

from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks

from cartrita.eventstore import aread_log, in_database_thread
from cartrita.llm.events import ModelAnswered
from governance.decision import DecisionMade, verdict_of
from governance.queries.decisions import redecide
from retrieval.document import RetrievalPerformed
from tasks_app.plan import PlanRefused
from tests.flows.conftest import Person, ScriptedModel, running

RULES = """
policy: test
rules:
  - name: forbidden-here
    sentence: Nobody may do a {kind} here.
    priority: 10
    match: {{kinds: [{kind}]}}
    condition: {condition}
    outcome: deny
    message_for_people: Ask the operator about {kind}.
  - name: everything-else
    sentence: The rest is allowed.
    priority: 9000
    match: {{kinds: [plan, model_call, tool_call, retrieval, document, message_out]}}
    outcome: allow
"""


@pytest.fixture
def forbid(tmp_path: Path, settings: Any) -> Any:
    def write(kind: str, condition: str = "true") -> None:
        path = tmp_path / f"{kind}.yaml"
        path.write_text(RULES.format(kind=kind, condition=condition))
        settings.POLICY_FILE = str(path)

    return write


@pytest.mark.usefixtures("consistent")
class TestGovernedMessage:
    @pytest.mark.parametrize("kind", ["plan", "message_out", "model_call"])
    async def test_is_not_answered_against_the_policy(
        self, kind: str, person: Person, model: ScriptedModel, forbid: Any
    ) -> None:
        forbid(kind)
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "What is the answer?")
            events = await aread_log(after=0, limit=1000, session_id=session_id)
        assert reply.outcome == "denied"
        assert f"Ask the operator about {kind}." in reply.content
        assert model.productions("started") == []
        assert not any(isinstance(each.event, ModelAnswered) for each in events)
        assert any(isinstance(each.event, PlanRefused) for each in events) == (kind == "plan")

    async def test_does_not_search_what_may_not_be_searched(
        self, person: Person, model: ScriptedModel, forbid: Any
    ) -> None:
        forbid("retrieval")
        async with running():
            session_id = await person.opens_session()
            document_id = await person.attaches(
                session_id, "a.md", b"# Alpha\n\nBeta is the second letter.\n"
            )
            reply = await person.asks(session_id, "What is beta?", [document_id])
            events = await aread_log(after=0, limit=1000, session_id=session_id)
        assert reply.outcome == "failed"
        assert "Ask the operator about retrieval." in reply.content
        assert not any(isinstance(each.event, RetrievalPerformed) for each in events)

    async def test_is_denied_where_a_rule_errs(
        self, person: Person, model: ScriptedModel, forbid: Any
    ) -> None:
        forbid("model_call", condition="args.missing == 1")
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "What is the answer?")
        assert reply.outcome == "denied"
        assert model.productions("started") == []

    async def test_is_decided_again_with_the_same_verdict(self, person: Person, model: ScriptedModel) -> None:
        async with running():
            session_id = await person.opens_session()
            document_id = await person.attaches(
                session_id, "a.md", b"# Alpha\n\nBeta is the second letter.\n"
            )
            await person.asks(session_id, "Hello " + "there " * 1500)
            await person.asks(session_id, "What is beta?", [document_id])
            events = await aread_log(after=0, limit=1000, session_id=session_id)
            decided = [(each, each.event) for each in events if isinstance(each.event, DecisionMade)]
            assert {event.subject_kind for _, event in decided} == {
                "document", "plan", "retrieval", "message_out", "model_call",
            }  # fmt: skip
            for recorded, event in decided:
                again = await in_database_thread(redecide, recorded)
                then = verdict_of(event)
                assert (again.outcome, again.rule, again.review) == (then.outcome, then.rule, then.review)
                assert {one.rule: one.result for one in again.evaluated} == {
                    one.rule: one.result for one in then.evaluated
                }


class TestPolicyFile:
    def test_keeps_everything_from_starting_while_it_does_not_compile(self, forbid: Any) -> None:
        forbid("plan", condition="tool.nmae == 1")
        (error,) = [each for each in run_checks() if each.id == "governance.E001"]
        assert "plan.yaml:" in error.msg
        assert "nmae" in error.msg

    def test_says_when_it_is_missing(self, settings: Any) -> None:
        settings.POLICY_FILE = "/no/such/policy.yaml"
        (error,) = [each for each in run_checks() if each.id == "governance.E001"]
        assert "/no/such/policy.yaml cannot be read" in error.msg
