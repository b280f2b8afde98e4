"""One message, all the way: posted, planned, decided, answered, recorded, and the same after a rebuild."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import TypeVar
from uuid import UUID

import pytest

from cartrita.eventstore import Event, RecordedEvent, aread_log, derived_id
from cartrita.llm.events import ModelAnswered
from cartrita.orchestrator import answering
from cartrita.streaming.deltas import read_deltas
from governance.decision import ActSettled, DecisionMade
from retrieval.document import RetrievalPerformed
from sessions_app import commands
from sessions_app.session import MessagePosted
from tasks_app.plan import PlanCompleted, PlanProposed, TaskCompleted
from tasks_app.run import RunFinished
from tests.flows.conftest import Person, ScriptedModel, reply_to, running

E = TypeVar("E", bound=Event)

pytestmark = pytest.mark.usefixtures("consistent")

HANDBOOK = b"""# Handbook of the ferry

## Departures
The ferry to Norderney leaves at 7:45 every morning from pier 4.

## Tickets
A day ticket costs 19.50 EUR. Dogs travel free of charge.
"""


async def events_of(session_id: UUID) -> list[RecordedEvent]:
    return await aread_log(after=0, limit=1000, session_id=session_id)


def of_type(events: Sequence[RecordedEvent], kind: type[E]) -> list[tuple[RecordedEvent, E]]:
    return [(each, each.event) for each in events if isinstance(each.event, kind)]


class TestOneMessage:
    async def test_is_answered_by_the_model(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"text": "Forty-two, I believe."})
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "What is the answer?")
        assert (reply.content, reply.outcome, reply.model) == (
            "Forty-two, I believe.",
            "answered",
            "scripted",
        )
        assert reply.sha256 == hashlib.sha256(reply.content.encode()).hexdigest()

    async def test_is_decided_before_every_act_and_settled_after_it(
        self, person: Person, model: ScriptedModel
    ) -> None:
        async with running():
            session_id = await person.opens_session()
            await person.asks(session_id, "What is the answer?")
            events = await events_of(session_id)
        decided = of_type(events, DecisionMade)
        # Decisions of one record have no order among themselves.
        decisions = {event.subject_kind: each for each, event in decided}
        assert set(decisions) == {"plan", "message_out", "model_call"}
        settled = {each.stream_id: event for each, event in of_type(events, ActSettled)}
        assert set(settled) == {each.stream_id for each, _ in decided}
        assert all(event.outcome == "succeeded" for event in settled.values())
        ((answered, answer),) = of_type(events, ModelAnswered)
        call = decisions["model_call"]
        assert call.position is not None
        assert answered.position is not None
        assert call.position < answered.position
        assert settled[call.stream_id].tokens == answer.prompt_tokens + answer.completion_tokens

    async def test_carries_one_trace_from_the_message_to_the_reply(
        self, person: Person, model: ScriptedModel
    ) -> None:
        async with running():
            session_id = await person.opens_session()
            await person.asks(session_id, "What is the answer?")
            events = await events_of(session_id)
        posted = next(each for each in events if isinstance(each.event, MessagePosted))
        after = [each for each in events if (each.position or 0) >= (posted.position or 0)]
        assert {each.trace_id for each in after} == {posted.trace_id}

    async def test_ends_plan_task_and_run_in_one_record(self, person: Person, model: ScriptedModel) -> None:
        async with running():
            session_id = await person.opens_session()
            await person.asks(session_id, "What is the answer?")
            events = await events_of(session_id)
        ends = [
            each.recorded_at
            for each in events
            if isinstance(each.event, RunFinished | TaskCompleted | PlanCompleted)
        ]
        assert len(ends) == 3
        assert len(set(ends)) == 1

    async def test_knows_what_was_said_before(self, person: Person, model: ScriptedModel) -> None:
        model.answers(
            {"when": "my name is Ann", "text": "Hello Ann."} | {"times": 1},
            {"when": "Hello Ann.", "text": "You are Ann."},
        )
        async with running():
            session_id = await person.opens_session()
            await person.asks(session_id, "Hello, my name is Ann")
            reply = await person.asks(session_id, "Who am I?")
        assert reply.content == "You are Ann."

    async def test_answers_several_messages_in_their_order(
        self, person: Person, model: ScriptedModel
    ) -> None:
        model.answers({"when": "second", "text": "Two."}, {"when": "first", "text": "One."})
        async with running():
            session_id = await person.opens_session()
            first, second = await person.says(session_id, "first"), await person.says(session_id, "second")
            assert (await reply_to(session_id, first)).content == "One."
            assert (await reply_to(session_id, second)).content == "Two."
            proposed = [
                each.event.message_id
                for each in await events_of(session_id)
                if isinstance(each.event, PlanProposed)
            ]
        assert proposed == [first, second]

    async def test_has_nothing_to_do_with_another_sessions_message_of_the_same_id(
        self, person: Person, stranger: Person, model: ScriptedModel
    ) -> None:
        model.answers(
            {"when": "my plan", "text": "Only for Ann."},
            {"text": "For Bob."},
        )
        async with running():
            first, second = await person.opens_session(), await stranger.opens_session()
            message_id = await person.says(first, "What is my plan?")
            own = await reply_to(first, message_id)
            await stranger.says(second, "What is it?", message_id=message_id)
            strange = await reply_to(second, message_id)
        assert (own.content, strange.content) == ("Only for Ann.", "For Bob.")
        assert own.message_id != strange.message_id
        assert {own.plan_id, own.run_id}.isdisjoint({strange.plan_id, strange.run_id})

    async def test_says_why_there_is_no_answer(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"fail": {"code": "rejected", "message": "the key is wrong", "retryable": False}})
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "What is the answer?")
        assert reply.outcome == "failed"
        assert "the key is wrong" in reply.content

    async def test_stops_when_the_person_asks(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"text": "word " * 400, "seconds_per_token": 0.05})
        async with running():
            session_id = await person.opens_session()
            message_id = await person.says(session_id, "Talk to me")
            while not await read_deltas(session_id, {}):  # noqa: ASYNC110 - the database says when
                await asyncio.sleep(0.02)
            await asyncio.to_thread(commands.cancel_turn, session_id=session_id, actor=person.actor)
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert reply.outcome == "stopped"
        assert 0 < len(reply.content.split()) < 400
        assert model.productions() == []
        outcomes = {each.event.outcome for each in events if isinstance(each.event, ActSettled)}
        assert outcomes == {"cancelled"}


class TestOneMessageWithDocuments:
    async def test_is_answered_in_the_documents_own_words(self, person: Person, settings: object) -> None:
        async with running():
            session_id = await person.opens_session()
            document_id = await person.attaches(session_id, "handbook.md", HANDBOOK)
            reply = await person.asks(session_id, "When does the ferry to Norderney leave?", [document_id])
            events = await events_of(session_id)
        assert "7:45" in reply.content
        assert reply.model == "extractive"
        assert [citation["document"] for citation in reply.citations] == [str(document_id)] * len(
            reply.citations
        )
        assert any("7:45" in citation["text"] for citation in reply.citations)
        kinds = [each.event.subject_kind for each in events if isinstance(each.event, DecisionMade)]
        assert kinds == ["document", "plan", "retrieval", "message_out"]
        (performed,) = [each.event for each in events if isinstance(each.event, RetrievalPerformed)]
        assert performed.documents_retrieved == (document_id,)

    async def test_says_what_the_documents_do_not_say(self, person: Person) -> None:
        async with running():
            session_id = await person.opens_session()
            document_id = await person.attaches(session_id, "handbook.md", HANDBOOK)
            reply = await person.asks(session_id, "Who painted the Mona Lisa?", [document_id])
        assert (reply.content, reply.citations) == ("The documents do not say.", [])
        assert reply.outcome == "answered"

    async def test_is_answered_by_a_trusted_model_from_the_passages(
        self, person: Person, model: ScriptedModel
    ) -> None:
        model.answers({"when": "pier 4", "text": "It leaves at 7:45 [1]."})
        async with running():
            session_id = await person.opens_session()
            document_id = await person.attaches(session_id, "handbook.md", HANDBOOK)
            reply = await person.asks(session_id, "When does the ferry to Norderney leave?", [document_id])
        assert reply.content == "It leaves at 7:45 [1]."
        assert [citation["document"] for citation in reply.citations] == [str(document_id)]

    async def test_marks_what_the_passages_do_not_support(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"when": "pier 4", "text": "It leaves at 9:15 [1]."})
        async with running():
            session_id = await person.opens_session()
            document_id = await person.attaches(session_id, "handbook.md", HANDBOOK)
            reply = await person.asks(session_id, "When does the ferry to Norderney leave?", [document_id])
            run_id = derived_id(derived_id(reply.plan_id, "task:1"), "attempt:1")
            finished = [each.event for each in await events_of(session_id) if each.stream_id == run_id]
        ended = [event for event in finished if isinstance(event, RunFinished)]
        assert [event.supported for event in ended] == [False]


class TestBrokenTurn:
    async def test_ends_as_failed_with_its_plan(
        self, person: Person, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def broken(*_: object) -> None:
            raise RuntimeError("a fault of this program")

        monkeypatch.setattr(answering, "prompt", broken)
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "What is the answer?")
            events = await events_of(session_id)
        assert reply.outcome == "failed"
        assert events[0].trace_id not in reply.content
        posted = next(each for each, _ in of_type(events, MessagePosted))
        assert f"Tell an operator the trace {posted.trace_id}." in reply.content
        assert [event.status for _, event in of_type(events, PlanCompleted)] == ["failed"]
        assert [event.code for _, event in of_type(events, RunFinished)] == ["failed_inside"]
