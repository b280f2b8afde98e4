"""The agent loop: which step is missing, from every prefix of a run."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from cartrita.eventstore import Event
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.orchestrator.loop import (
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
from cartrita.tools.events import ToolFailed
from retrieval.document import RetrievalPerformed
from tasks_app.run import ActDecided, RunFinished, RunStarted

PLAN, TASK, DECISION = (UUID(int=number) for number in range(1, 4))
CHAT = Turn(searchable=False, attached=False, model_answers=False)
LIBRARY = Turn(searchable=True, attached=False, model_answers=False)
ATTACHED = Turn(searchable=True, attached=True, model_answers=False)
ATTACHED_TRUSTED = Turn(searchable=True, attached=True, model_answers=True)


def started() -> RunStarted:
    return RunStarted(plan_id=PLAN, task_id=TASK, attempt=1, agent="assistant", loop_version=1)


def decided(act: Any, *, step: int, attempt: int = 1, permitted: bool = True) -> ActDecided:
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
    )


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
