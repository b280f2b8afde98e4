"""The agent loop: which step is missing, from every prefix of a run."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from cartrita.eventstore import Event
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.orchestrator.loop import (
    LOOP_VERSION,
    Call,
    Deliver,
    Extract,
    Finish,
    Generate,
    Over,
    Search,
    Step,
    Turn,
    fold,
    next_step,
)
from cartrita.tools.events import ToolFailed, ToolReturned
from retrieval.document import RetrievalPerformed
from tasks_app.run import ActDecided, ActEdited, AnswerHeld, RunFinished, RunStarted

PLAN, TASK, DECISION = (UUID(int=number) for number in range(1, 4))
CHAT = Turn(searchable=False, attached=False, model_answers=False)
LIBRARY = Turn(searchable=True, attached=False, model_answers=False)
ATTACHED = Turn(searchable=True, attached=True, model_answers=False)
ATTACHED_TRUSTED = Turn(searchable=True, attached=True, model_answers=True)


TOOL = Turn(searchable=False, attached=False, model_answers=False, tool="send_text")
TOOL_ONCE = Turn(searchable=False, attached=False, model_answers=False, tool="send_text", repeatable=False)


def started(version: int = LOOP_VERSION) -> RunStarted:
    return RunStarted(plan_id=PLAN, task_id=TASK, attempt=1, agent="assistant", loop_version=version)


def decided(act: Any, *, step: int, attempt: int = 1, permitted: bool = True, **more: Any) -> ActDecided:
    return ActDecided(
        step=step,
        attempt=attempt,
        act=act,
        subject=act,
        decision_id=DECISION,
        outcome="allow" if permitted else "deny",
        rule="some-rule",
        permitted=permitted,
        reason="" if permitted else "not here",
        **more,
    )


def escalated(act: Any, *, step: int, attempt: int = 1) -> ActDecided:
    return decided(act, step=step, attempt=attempt, permitted=False, approval_id=UUID(int=77))


def throttled(act: Any, *, step: int, attempt: int = 1) -> ActDecided:
    return decided(act, step=step, attempt=attempt, permitted=False, retry_after=datetime.now(UTC))


def returned() -> ToolReturned:
    return ToolReturned(
        tool="send_text",
        definition_hash="d",
        idempotency_key="k",
        decision_id=DECISION,
        result={},
        cost_tokens=0,
        latency_ms=1,
    )


def held() -> AnswerHeld:
    return AnswerHeld(answer="because", citations=[], model="extractive", supported=True)


def searched() -> RetrievalPerformed:
    return RetrievalPerformed(
        retrieval_id=UUID(int=9),
        query_text="why?",
        k_initial=10,
        retrieval_latency_ms=1.0,
        timings_ms={},
        context_tokens_before=0,
        context_tokens_after=0,
        documents_retrieved=(),
        pipeline="test",
        passages=(),
    )


USE: dict[str, Any] = {
    "decision_id": DECISION,
    "attempt": 1,
    "tries": 1,
    "model": "scripted",
    "provider": "scripted",
    "tier": "local",
    "purpose": "execution",
    "prompt_tokens": 3,
    "completion_tokens": 4,
    "estimated": False,
    "cost_micros": 0,
    "currency": "USD",
    "input_price": 0,
    "cached_price": 0,
    "output_price": 0,
    "price_valid_from": datetime(2024, 1, 1, tzinfo=UTC),
    "latency_ms": 5,
    "first_token_ms": 1,
}


def answered() -> ModelAnswered:
    return ModelAnswered(**USE, text="because", finish_reason="stop")


def failed() -> ModelFailed:
    return ModelFailed(**USE, code="timed_out", message="no answer in time", retryable=True)


def finished() -> RunFinished:
    return RunFinished(status="answered", answer="because", citations=[], model="scripted", supported=None)


def step_after(*events: Event, turn: Turn, supported: bool = False) -> Step:
    return next_step(fold(events), turn, extract_supported=supported)


class TestNextStep:
    def test_searches_first_where_documents_are(self) -> None:
        assert step_after(started(), turn=LIBRARY) == Search(step=1, attempt=1)

    def test_talks_where_no_document_is(self) -> None:
        assert step_after(started(), turn=CHAT) == Generate(step=1, attempt=1)

    def test_extracts_what_a_small_model_must_not_retell(self) -> None:
        events = [started(), decided("retrieval", step=1), searched()]
        assert step_after(*events, turn=LIBRARY, supported=True) == Extract(step=2, attempt=1)

    def test_talks_where_the_library_does_not_answer(self) -> None:
        events = [started(), decided("retrieval", step=1), searched()]
        assert step_after(*events, turn=LIBRARY) == Generate(step=2, attempt=1)

    def test_says_what_attached_documents_do_not_say(self) -> None:
        events = [started(), decided("retrieval", step=1), searched()]
        assert step_after(*events, turn=ATTACHED) == Extract(step=2, attempt=1)

    def test_lets_a_trusted_model_answer_from_the_passages(self) -> None:
        events = [started(), decided("retrieval", step=1), searched()]
        assert step_after(*events, turn=ATTACHED_TRUSTED) == Generate(step=2, attempt=1)

    def test_repeats_an_act_whose_outcome_nobody_recorded(self) -> None:
        events = [started(), decided("message_out", step=1), decided("model_call", step=1)]
        assert step_after(*events, turn=CHAT) == Generate(step=1, attempt=2)

    def test_repeats_a_search_whose_outcome_nobody_recorded(self) -> None:
        assert step_after(started(), decided("retrieval", step=1), turn=LIBRARY) == Search(step=1, attempt=2)

    def test_never_asks_the_model_again_for_a_recorded_answer(self) -> None:
        events = [started(), decided("message_out", step=1), decided("model_call", step=1), answered()]
        assert step_after(*events, turn=CHAT) == Finish("answered")

    def test_ends_as_failed_when_the_model_failed(self) -> None:
        events = [started(), decided("model_call", step=1), failed()]
        assert step_after(*events, turn=CHAT) == Finish(
            "failed", code="timed_out", reason="no answer in time"
        )

    @pytest.mark.parametrize("act", ["model_call", "message_out"])
    def test_ends_as_denied_when_speaking_is_not_permitted(self, act: str) -> None:
        events = [started(), decided(act, step=1, permitted=False)]
        assert step_after(*events, turn=CHAT) == Finish("denied", code="some-rule", reason="not here")

    def test_ends_as_failed_when_attached_documents_may_not_be_searched(self) -> None:
        events = [started(), decided("retrieval", step=1, permitted=False)]
        assert step_after(*events, turn=ATTACHED) == Finish("failed", code="search_failed", reason="not here")

    def test_goes_on_without_a_library_that_may_not_be_searched(self) -> None:
        events = [started(), decided("retrieval", step=1, permitted=False)]
        assert step_after(*events, turn=LIBRARY) == Generate(step=2, attempt=1)

    def test_tells_why_the_search_of_attached_documents_failed(self) -> None:
        failure = ToolFailed(
            tool="search_documents", idempotency_key="k", code="unavailable", message="no index"
        )
        events = [started(), decided("retrieval", step=1), failure]
        assert step_after(*events, turn=ATTACHED) == Finish("failed", code="search_failed", reason="no index")

    def test_is_over_after_the_end(self) -> None:
        events = [started(), decided("model_call", step=1), answered(), finished()]
        assert step_after(*events, turn=CHAT) == Over()


class TestRunState:
    def test_holds_the_decisions_that_nothing_settled(self) -> None:
        run = fold([started(), decided("message_out", step=1), decided("model_call", step=1)])
        assert run.open_decisions == (DECISION, DECISION)

    def test_counts_how_often_an_answer_began_to_stream(self) -> None:
        events: list[Event] = [started()]
        for attempt in (1, 2):
            events += [
                decided("message_out", step=1, attempt=attempt),
                decided("model_call", step=1, attempt=attempt),
            ]
        assert len(fold(events).speeches) == 2

    def test_counts_how_often_an_act_was_begun_but_not_how_often_it_waited(self) -> None:
        events: list[Event] = [
            started(),
            throttled("model_call", step=1),
            escalated("model_call", step=1, attempt=2),
            decided("model_call", step=1, attempt=3),
        ]
        assert (fold(events[:3]).repeats, fold(events).repeats) == (0, 1)
        assert fold([*events, throttled("model_call", step=1, attempt=4)]).repeats == 1
        assert fold([*events, answered()]).repeats == 0

    def test_keeps_the_arguments_of_a_reviewer_for_their_step(self) -> None:
        edit = ActEdited(step=1, approval_id=UUID(int=77), by="user:x", arguments={"text": "good day"})
        run = fold([started(), escalated("tool_call", step=1), edit])
        assert run.edit == edit
        run = fold([started(), escalated("tool_call", step=1), edit, decided("tool_call", step=1, attempt=2)])
        assert run.edit == edit
        assert fold([started(), decided("tool_call", step=1), edit, returned()]).edit is None


class TestWaitingAct:
    @pytest.mark.parametrize("waits", [escalated, throttled])
    def test_is_decided_again_as_the_next_attempt_of_its_step(self, waits: Any) -> None:
        assert step_after(started(), waits("retrieval", step=1), turn=LIBRARY) == Search(step=1, attempt=2)
        assert step_after(started(), waits("model_call", step=1), turn=CHAT) == Generate(step=1, attempt=2)
        assert step_after(started(), waits("message_out", step=1), turn=CHAT) == Generate(step=1, attempt=2)
        assert step_after(started(), waits("tool_call", step=1), turn=TOOL) == Call(step=1, attempt=2)

    def test_may_have_happened_once_before_it_waited(self) -> None:
        events = [started(), decided("tool_call", step=1), escalated("tool_call", step=1, attempt=2)]
        run = fold(events)
        assert run.undecided_outcome is None
        assert run.waiting == events[-1]
        assert step_after(*events, turn=TOOL) == Call(step=1, attempt=3)

    def test_waits_no_more_once_it_is_permitted(self) -> None:
        run = fold([started(), escalated("tool_call", step=1), decided("tool_call", step=1, attempt=2)])
        assert run.waiting is None


class TestCall:
    def test_is_the_step_of_a_task_with_a_tool(self) -> None:
        assert step_after(started(), turn=TOOL) == Call(step=1, attempt=1)

    def test_is_delivered_when_it_returned(self) -> None:
        events = [started(), decided("tool_call", step=1), returned()]
        assert step_after(*events, turn=TOOL) == Deliver(step=2, attempt=1)
        assert step_after(*events, decided("message_out", step=2), turn=TOOL) == Finish("answered")

    def test_ends_as_failed_with_what_the_tool_said(self) -> None:
        failure = ToolFailed(tool="send_text", idempotency_key="k", code="failed", message="no line")
        events = [started(), decided("tool_call", step=1), failure]
        assert step_after(*events, turn=TOOL) == Finish("failed", code="failed", reason="no line")

    def test_is_repeated_where_it_may_be(self) -> None:
        events = [started(), decided("tool_call", step=1)]
        assert step_after(*events, turn=TOOL) == Call(step=1, attempt=2)
        ended = step_after(*events, turn=TOOL_ONCE)
        assert isinstance(ended, Finish)
        assert (ended.status, ended.code) == ("failed", "outcome_unknown")

    def test_is_denied(self) -> None:
        events = [started(), decided("tool_call", step=1, permitted=False)]
        assert step_after(*events, turn=TOOL) == Finish("denied", code="some-rule", reason="not here")


class TestHeldAnswer:
    def test_of_a_model_is_delivered(self) -> None:
        events = [started(), decided("model_call", step=1, delivery="held"), answered()]
        assert step_after(*events, turn=CHAT) == Deliver(step=2, attempt=1)

    def test_waits_for_the_decision_on_its_text(self) -> None:
        events = [
            started(),
            decided("model_call", step=1, delivery="held"),
            answered(),
            escalated("message_out", step=2),
        ]
        assert step_after(*events, turn=CHAT) == Deliver(step=2, attempt=2)

    def test_is_shown_when_its_text_was_decided(self) -> None:
        text_decided = decided("message_out", step=2, delivery="held")
        events = [started(), decided("model_call", step=1, delivery="held"), answered(), text_decided]
        assert step_after(*events, turn=CHAT) == Finish("answered")
        events = [started(), decided("retrieval", step=1), searched(), held(), text_decided]
        assert step_after(*events, turn=LIBRARY) == Finish("answered")

    def test_is_not_shown_by_a_decision_without_its_text(self) -> None:
        spoke = decided("message_out", step=1, delivery="held")
        events = [started(), spoke, decided("model_call", step=1, delivery="held"), answered()]
        assert step_after(*events, turn=CHAT) == Deliver(step=2, attempt=1)
        events = [
            started(),
            decided("tool_call", step=1),
            returned(),
            decided("message_out", step=2, delivery="held"),
        ]
        assert step_after(*events, turn=TOOL) == Deliver(step=3, attempt=1)


class TestModelThatFailed:
    """`failed()` is that of the model called scripted."""

    BEFORE = (decided("message_out", step=1), decided("model_call", step=1), failed())
    NEXT = replace(CHAT, model="another")

    def test_is_replaced_where_another_is_left(self) -> None:
        assert step_after(started(), *self.BEFORE, turn=self.NEXT) == Generate(step=2, attempt=1)

    def test_ends_the_run_where_none_is_left(self) -> None:
        ended = Finish("failed", code="timed_out", reason="no answer in time")
        for turn in (CHAT, replace(CHAT, model="scripted")):
            assert step_after(started(), *self.BEFORE, turn=turn) == ended

    def test_ends_the_run_where_no_other_would_do_better(self) -> None:
        *before, failure = self.BEFORE
        rejected = failure.model_copy(update={"code": "rejected", "retryable": False})
        step = step_after(started(), *before, rejected, turn=self.NEXT)
        assert isinstance(step, Finish)
        assert (step.status, step.code) == ("failed", "rejected")

    def test_ends_a_run_that_began_before_others_took_over(self) -> None:
        assert isinstance(step_after(started(2), *self.BEFORE, turn=self.NEXT), Finish)

    def test_is_followed_by_the_attempts_of_the_other(self) -> None:
        events = [started(), *self.BEFORE, decided("message_out", step=2), decided("model_call", step=2)]
        assert step_after(*events, turn=self.NEXT) == Generate(step=2, attempt=2)
        assert step_after(*events, answered(), turn=self.NEXT) == Finish("answered")

    def test_is_told_when_the_other_is_refused(self) -> None:
        refused = decided("model_call", step=2, permitted=False)
        step = step_after(started(), *self.BEFORE, refused, turn=self.NEXT)
        assert step == Finish("denied", code="some-rule", reason="not here")

    def test_leaves_the_passages_where_the_other_must_not_retell_them(self) -> None:
        events = [
            started(),
            decided("retrieval", step=1),
            searched(),
            decided("model_call", step=2),
            failed(),
        ]
        turn = replace(LIBRARY, model="another")
        assert step_after(*events, turn=turn, supported=True) == Extract(step=3, attempt=1)


class TestRunOfAnotherVersion:
    """Version 1 knew no waiting: what it escalated or throttled was refused."""

    @pytest.mark.parametrize("version", [1, LOOP_VERSION])
    def test_of_before_is_finished_by_the_rules_that_it_began_with(self, version: int) -> None:
        begun = started(version)
        assert step_after(begun, turn=LIBRARY) == Search(step=1, attempt=1)
        events = [begun, decided("message_out", step=1), decided("model_call", step=1)]
        assert step_after(*events, turn=CHAT) == Generate(step=1, attempt=2)
        assert step_after(*events, answered(), turn=CHAT) == Finish("answered")

    def test_of_version_1_stays_refused_where_it_escalated(self) -> None:
        refused = decided("model_call", step=1, permitted=False).model_copy(update={"outcome": "escalate"})
        assert step_after(started(1), refused, turn=CHAT) == Finish(
            "denied", code="some-rule", reason="not here"
        )

    def test_of_a_later_version_is_refused_plainly(self) -> None:
        ended = step_after(started(LOOP_VERSION + 1), turn=CHAT)
        assert isinstance(ended, Finish)
        assert (ended.status, ended.code) == ("failed", "newer_loop")
