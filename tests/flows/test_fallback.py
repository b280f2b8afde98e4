"""When a model fails, the next one of the chain answers, by a decision of its own."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from cartrita.eventstore import RecordedEvent, in_database_thread, new_id
from cartrita.llm import catalog, circuit, gateway
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.gateway import Retry
from governance.decision import ActSettled
from sessions_app import commands
from sessions_app.session import ReplyPosted
from tasks_app.run import ActDecided, RunFinished
from tests.flows.conftest import Person, reply_to, running
from tests.flows.governed import events_of, of_type, rules
from tests.llm.conftest import wait_until
from tests.llm.openai_server import Hangs, OpenAIServer, Refuses, Says, openai_server

pytestmark = pytest.mark.usefixtures("consistent")

DOWN = Refuses(status=500)
NO_MINI = """
  - name: no-small-models
    sentence: Small models are not called.
    priority: 10
    match: {kinds: [model_call]}
    condition: model.name == "gpt-4o-mini"
    outcome: deny
    message_for_people: Small models are not called here.
"""


@pytest.fixture
def told(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """A server that settings name as OpenAI's, one try a call, and no model on this machine."""
    monkeypatch.setattr(catalog, "MODEL_PACKAGE", "a_package_that_is_not_installed")
    monkeypatch.setattr(gateway, "USUAL_RETRY", Retry(tries=1))
    with openai_server() as server:
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        settings.OPENAI_BASE_URL = server.base_url
        settings.DEFAULT_MODEL = "gpt-4o"
        yield server


async def says(person: Person, session_id: UUID, text: str, **metadata: Any) -> UUID:
    message_id = new_id()
    await in_database_thread(
        commands.post_message,
        session_id=session_id,
        message_id=message_id,
        content=text,
        metadata={"agent": "assistant"} | metadata,
        actor=person.actor,
    )
    return message_id


async def asked(person: Person, **metadata: Any) -> tuple[ReplyPosted, list[RecordedEvent]]:
    async with running():
        session_id = await person.opens_session()
        message_id = await says(person, session_id, "Is it so?", **metadata)
        reply = await reply_to(session_id, message_id)
        return reply, await events_of(session_id)


def calls(events: list[RecordedEvent]) -> list[tuple[int, str, str]]:
    made = [each for each in of_type(events, ActDecided) if each.act == "model_call"]
    return [(each.step, each.subject, each.fell_back_from) for each in made]


class TestModelThatFails:
    async def test_is_followed_by_the_next_one(self, person: Person, told: OpenAIServer) -> None:
        told.then(DOWN, Says(text="It is so."))
        reply, events = await asked(person)
        assert (reply.outcome, reply.content, reply.model) == ("answered", "It is so.", "gpt-4o-mini")
        assert calls(events) == [(1, "gpt-4o", ""), (2, "gpt-4o-mini", "gpt-4o")]
        assert [each.code for each in of_type(events, ModelFailed)] == ["server_error"]
        assert [each.model for each in of_type(events, ModelAnswered)] == ["gpt-4o-mini"]
        assert "failed" in [each.outcome for each in of_type(events, ActSettled)]

    async def test_takes_back_what_it_had_begun_to_say(self, person: Person, told: OpenAIServer) -> None:
        told.then(Says(text="It is not", cut_after=2), Says(text="It is so."))
        reply, events = await asked(person)
        assert (reply.content, reply.model) == ("It is so.", "gpt-4o-mini")
        assert [each.text for each in of_type(events, ModelFailed)] == ["It is"]

    async def test_is_followed_down_to_the_end_of_the_chain(self, person: Person, told: OpenAIServer) -> None:
        told.then(DOWN, Refuses(status=429), DOWN)
        reply, events = await asked(person)
        assert (reply.outcome, reply.model) == ("failed", "")
        assert [called for _, called, _ in calls(events)] == ["gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo"]
        (finished,) = of_type(events, RunFinished)
        assert (finished.status, finished.code) == ("failed", "server_error")
        assert len(told.received) == 3

    async def test_is_not_replaced_when_the_person_named_it(self, person: Person, told: OpenAIServer) -> None:
        told.then(DOWN)
        reply, events = await asked(person, model="gpt-4o")
        assert reply.outcome == "failed"
        assert calls(events) == [(1, "gpt-4o", "")]

    async def test_is_not_replaced_when_the_fault_is_ours(self, person: Person, told: OpenAIServer) -> None:
        told.then(Refuses(status=400, message="no such parameter"))
        reply, events = await asked(person)
        assert reply.outcome == "failed"
        assert calls(events) == [(1, "gpt-4o", "")]

    async def test_is_replaced_only_by_what_policy_allows(
        self, person: Person, told: OpenAIServer, settings: Any, tmp_path: Any
    ) -> None:
        policy = tmp_path / "policy.yaml"
        policy.write_text(rules(NO_MINI))
        settings.POLICY_FILE = str(policy)
        told.then(DOWN)
        reply, _ = await asked(person)
        assert reply.outcome == "denied"
        assert "Small models are not called here." in reply.content
        assert len(told.received) == 1

    async def test_is_passed_over_at_once_while_its_circuit_is_open(
        self, person: Person, told: OpenAIServer
    ) -> None:
        told.then(*[reply for _ in range(circuit.FAILURES) for reply in (DOWN, Says())])
        async with running():
            session_id = await person.opens_session()
            for _ in range(circuit.FAILURES + 1):
                reply = await person.asks(session_id, "Is it so?")
                assert reply.model == "gpt-4o-mini"
            events = await events_of(session_id)
        assert [each.code for each in of_type(events, ModelFailed)][-2:] == ["server_error", "circuit_open"]
        assert [each.body["model"] for each in told.received][-1] == "gpt-4o-mini"
        assert len(told.received) == 2 * circuit.FAILURES + 1


class TestServerThatEndsInBetween:
    async def test_goes_on_with_the_model_that_had_taken_over(
        self, person: Person, told: OpenAIServer
    ) -> None:
        told.then(DOWN, Hangs(), Says(text="It is so."))
        async with running():
            session_id = await person.opens_session()
            message_id = await says(person, session_id, "Is it so?")
            await asyncio.to_thread(wait_until, lambda: len(told.received) == 2)
        async with running():
            reply = await reply_to(session_id, message_id)
            events = await events_of(session_id)
        assert (reply.content, reply.model) == ("It is so.", "gpt-4o-mini")
        assert calls(events) == [
            (1, "gpt-4o", ""),
            (2, "gpt-4o-mini", "gpt-4o"),
            (2, "gpt-4o-mini", "gpt-4o"),
        ]
