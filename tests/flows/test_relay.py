"""Another program's own request to a model: passed on as it is, and governed like any other work."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pytest_django import Settings

from cartrita.accounts.queries import caller_in_workspace
from cartrita.eventstore import Erased, in_database_thread, new_id
from cartrita.llm.events import ModelAnswered
from cartrita.orchestrator import relay
from cartrita.orchestrator.relay import (
    FunctionTool,
    RelayAnswer,
    RelayMessage,
    RelayNotAnswered,
    RelayRequest,
    ToolCall,
    relay_answer,
    relay_failure,
    store_relay,
)
from cartrita.tools.events import ToolReturned
from governance.commands.budgets import set_budget
from governance.decision import ActSettled, DecisionMade
from retrieval.tools import GenerateEmbeddings
from sessions_app import commands, queries
from sessions_app.session import ReplyPosted
from tasks_app.run import RunFinished
from tests.flows.conftest import Person, ScriptedModel, reply_to, running
from tests.flows.governed import Reviewer, a_reviewer, escalating, events_of, of_type, requested, rules
from tests.llm.openai_server import OpenAIServer, openai_server

pytestmark = pytest.mark.usefixtures("consistent")

WEATHER = FunctionTool(
    name="get_weather",
    description="Tells the weather of a place.",
    parameters={
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
        "additionalProperties": False,
    },
)


def chat(*texts: str, model: str = "scripted", **more: Any) -> RelayRequest:
    messages = tuple(RelayMessage(role="user", content=text) for text in texts)
    return RelayRequest(**{"model": model, "messages": messages, **more})


async def passes_on(
    person: Person, request: RelayRequest, *, session_id: UUID | None = None
) -> tuple[UUID, UUID]:
    """Post a request as the API of programs does; return the session and the message."""
    session_id = session_id or await person.opens_session()
    message_id = new_id()

    def post() -> None:
        name = store_relay(request, key_id=queries.key_of(session_id))
        commands.post_message(
            session_id=session_id,
            message_id=message_id,
            role="user",
            content=request.messages[-1].content[:1000] if request.messages else "(embeddings)",
            metadata={"agent": "relay", "model": request.model, "relay": name},
            actor=person.actor,
        )

    await in_database_thread(post)
    return session_id, message_id


def limit_tokens(person: Person, tokens: int) -> None:
    """Give the person's workspace a budget."""
    caller = caller_in_workspace(person.user_id, person.workspace_id)
    assert caller is not None
    set_budget(
        caller=caller, name="pocket money", scope_kind="workspace", period="total", limit_tokens=tokens
    )


async def answer_to(person: Person, request: RelayRequest) -> tuple[ReplyPosted, RelayAnswer]:
    session_id, message_id = await passes_on(person, request)
    reply = await reply_to(session_id, message_id)
    assert reply.outcome == "answered", reply.content
    return reply, await in_database_thread(relay_answer, session_id, message_id)


@pytest.fixture
def told(settings: Settings) -> Any:
    with openai_server() as server:
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        settings.OPENAI_BASE_URL = server.base_url
        yield server


@pytest.fixture
def policy(tmp_path: Path, settings: Settings) -> Any:
    def write(*texts: str) -> None:
        path = tmp_path / "policy.yaml"
        path.write_text(rules(*texts))
        settings.POLICY_FILE = str(path)

    return write


@pytest.fixture
def reviewer(person: Person) -> Reviewer:
    return a_reviewer(person)


class TestRelayedChat:
    async def test_gives_the_models_own_words(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"text": "Blue, they say."})
        async with running():
            reply, answer = await answer_to(person, chat("Which colour?", max_output_tokens=50))
        assert (reply.content, reply.model) == ("Blue, they say.", "scripted")
        assert answer == RelayAnswer(
            text="Blue, they say.",
            model="scripted",
            prompt_tokens=3,
            completion_tokens=3,
            estimated=False,
            decision_id=answer.decision_id,
        )

    async def test_sends_the_messages_as_they_are(self, person: Person, told: OpenAIServer) -> None:
        messages = (
            RelayMessage(role="system", content="Answer in rhyme."),
            RelayMessage(role="user", content="/calculate {}", name="bob"),
        )
        request = RelayRequest(model="standard", messages=messages, stop=("END",), temperature=0.0)
        async with running():
            await answer_to(person, request)
        (sent,) = told.received
        assert sent.body["model"] == "gpt-4o-mini"
        assert sent.body["messages"] == [
            {"role": "system", "content": "Answer in rhyme."},
            {"role": "user", "content": "/calculate {}", "name": "bob"},
        ]
        assert (sent.body["stop"], sent.body["temperature"]) == (["END"], 0.0)

    async def test_keeps_to_the_callers_schema(self, person: Person, model: ScriptedModel) -> None:
        schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
        model.answers({"text": "many", "times": 1}, {"text": '{"n": 3}'})
        async with running():
            reply, answer = await answer_to(person, chat("How many?", json_schema=schema))
        assert json.loads(answer.text) == {"n": 3}
        assert reply.content == answer.text

    async def test_of_long_text_gives_all_of_it(self, person: Person, model: ScriptedModel) -> None:
        text = "long " * 12_000
        model.answers({"text": text})
        async with running():
            reply, answer = await answer_to(person, chat("Go on.", max_output_tokens=20_000))
        assert answer.text == text
        assert text.startswith(reply.content)

    async def test_that_does_not_fit_says_so(self, person: Person, told: OpenAIServer) -> None:
        async with running():
            session_id, message_id = await passes_on(person, chat("word " * 20_000, model="gpt-3.5-turbo"))
            assert (await reply_to(session_id, message_id)).outcome == "failed"
            failure = await in_database_thread(relay_failure, session_id, message_id)
        assert (failure.outcome, failure.code) == ("failed", "context_too_long")
        assert told.received == []

    async def test_tells_the_failure_of_the_model(self, person: Person, model: ScriptedModel) -> None:
        model.answers({"fail": {"code": "filtered", "retryable": False}})
        async with running():
            session_id, message_id = await passes_on(person, chat("Hello"))
            await reply_to(session_id, message_id)
            failure = await in_database_thread(relay_failure, session_id, message_id)
            with pytest.raises(RelayNotAnswered):
                await in_database_thread(relay_answer, session_id, message_id)
        assert (failure.outcome, failure.code) == ("failed", "filtered")

    async def test_of_another_session_is_not_passed_on(self, person: Person, model: ScriptedModel) -> None:
        async with running():
            theirs, _ = await passes_on(person, chat("My secret."))
            name = await in_database_thread(
                lambda: store_relay(chat("My secret."), key_id=queries.key_of(theirs))
            )
            session_id, message_id = await person.opens_session(), new_id()
            await in_database_thread(
                lambda: commands.post_message(
                    session_id=session_id,
                    message_id=message_id,
                    role="user",
                    content="Hello",
                    metadata={"agent": "relay", "model": "scripted", "relay": name},
                    actor=person.actor,
                )
            )
            reply = await reply_to(session_id, message_id)
        assert reply.outcome == "failed"
        assert "no such request" in reply.content

    async def test_without_a_request_fails(self, person: Person, model: ScriptedModel) -> None:
        async with running():
            session_id = await person.opens_session()
            reply = await person.asks(session_id, "Hello", agent="relay")
        assert reply.outcome == "failed"
        assert "names no request" in reply.content

    async def test_is_gone_with_its_session(self, person: Person, model: ScriptedModel) -> None:
        async with running():
            session_id, message_id = await passes_on(person, chat("Hello"))
            await reply_to(session_id, message_id)
            await in_database_thread(
                lambda: commands.erase_session(session_id=session_id, actor=person.actor)
            )
            with pytest.raises(Erased):
                await in_database_thread(relay_answer, session_id, message_id)


class TestRelayedTools:
    async def test_come_back_as_calls_and_go_on_with_what_they_gave(
        self, person: Person, model: ScriptedModel
    ) -> None:
        model.answers(
            {"when": "18 degrees", "text": "Mild."},
            {"when": "Oslo", "calls": [{"name": "get_weather", "arguments": {"place": "Oslo"}, "id": "c1"}]},
        )
        first = chat("How is Oslo?", tools=(WEATHER,))
        async with running():
            reply, answer = await answer_to(person, first)
            call = ToolCall(id="c1", name="get_weather", arguments='{"place": "Oslo"}')
            assert (reply.content, answer.text) == ("", "")
            assert (answer.tool_calls, answer.finish_reason) == ((call,), "tool_calls")
            assert answer.completion_tokens == 0
            told = (
                *first.messages,
                RelayMessage(role="assistant", content="", tool_calls=answer.tool_calls),
                RelayMessage(role="tool", content="18 degrees", tool_call_id="c1"),
            )
            _, second = await answer_to(person, first.model_copy(update={"messages": told}))
        assert (second.text, second.tool_calls, second.finish_reason) == ("Mild.", (), "stop")

    async def test_are_not_offered_to_a_model_that_can_neither(
        self, person: Person, told: OpenAIServer
    ) -> None:
        async with running():
            session_id, message_id = await passes_on(
                person, chat("Hello", tools=(WEATHER,), model="all-minilm-l6-v2")
            )
            assert (await reply_to(session_id, message_id)).outcome == "failed"

    async def test_are_part_of_what_is_decided(self, person: Person, model: ScriptedModel) -> None:
        async with running():
            session_id, message_id = await passes_on(person, chat("Hello", tools=(WEATHER,)))
            await reply_to(session_id, message_id)
            events = await events_of(session_id)
        (made,) = [each for each in of_type(events, DecisionMade) if each.subject_kind == "model_call"]
        assert made.agent == "relay"


class TestRelayedEmbeddings:
    async def test_are_made_here(self, person: Person) -> None:
        request = RelayRequest(
            model="all-minilm-l6-v2", kind="embeddings", inputs=("a cat", "a kitten", "the tax code")
        )
        async with running():
            reply, answer = await answer_to(person, request)
        cat, kitten, tax = answer.embeddings
        assert {len(each) for each in answer.embeddings} == {384}
        assert sum(map(float.__mul__, cat, kitten)) > sum(map(float.__mul__, cat, tax)) + 0.3
        assert (answer.model, answer.prompt_tokens, answer.completion_tokens) == ("all-minilm-l6-v2", 7, 0)
        assert len(reply.content) < 100

    async def test_of_a_provider_are_paid_by_their_tokens(self, person: Person, told: OpenAIServer) -> None:
        request = RelayRequest(model="text-embedding-3-small", kind="embeddings", inputs=("one", "two"))
        async with running():
            session_id, message_id = await passes_on(person, request)
            assert (await reply_to(session_id, message_id)).outcome == "answered"
            answer = await in_database_thread(relay_answer, session_id, message_id)
            events = await events_of(session_id)
        assert answer.embeddings == ((0.0, 1.0), (1.0, 1.0))
        (returned,) = of_type(events, ToolReturned)
        assert (returned.cost_tokens, returned.cost_micros) == (8, 1)
        (settled,) = [each for each in of_type(events, ActSettled) if each.tokens]
        assert (settled.tokens, settled.cost_micros) == (8, 1)

    async def test_of_a_text_that_is_too_long_are_refused(self, person: Person, told: OpenAIServer) -> None:
        request = RelayRequest(model="text-embedding-3-small", kind="embeddings", inputs=("word " * 9000,))
        async with running():
            session_id, message_id = await passes_on(person, request)
            await reply_to(session_id, message_id)
            failure = await in_database_thread(relay_failure, session_id, message_id)
        assert failure.code == "context_too_long"
        assert told.received == []

    async def test_are_reserved_before_they_are_asked_for(self, person: Person, told: OpenAIServer) -> None:
        await in_database_thread(limit_tokens, person, 20)
        few = RelayRequest(model="text-embedding-3-small", kind="embeddings", inputs=("one two",))
        many = few.model_copy(update={"inputs": ("word " * 100,)})
        async with running():
            session_id, message_id = await passes_on(person, many)
            assert (await reply_to(session_id, message_id)).outcome == "denied"
            failure = await in_database_thread(relay_failure, session_id, message_id)
            assert failure.decision_id is not None
            assert told.received == []
            await answer_to(person, few)

    def test_are_made_here_where_there_is_no_key(self, settings: Settings) -> None:
        settings.OPENAI_API_KEY = ""
        assert GenerateEmbeddings(texts=["a"]).model == "all-minilm-l6-v2"
        settings.OPENAI_API_KEY = "a-key-of-the-tests"
        assert GenerateEmbeddings(texts=["a"]).model == "text-embedding-3-large"


class TestGovernedRelay:
    async def test_is_denied_by_a_rule_with_its_decision(
        self, person: Person, model: ScriptedModel, policy: Any
    ) -> None:
        policy("""
  - name: callers-give-no-orders
    sentence: Programs may not bring system messages of their own.
    priority: 10
    match: {kinds: [model_call]}
    condition: '"caller-system" in labels'
    outcome: deny
    message_for_people: Leave the system message out.
""")
        orders = (
            RelayMessage(role="system", content="Obey."),
            RelayMessage(role="user", content="Hello"),
        )
        async with running():
            session_id, message_id = await passes_on(person, RelayRequest(model="scripted", messages=orders))
            assert (await reply_to(session_id, message_id)).outcome == "denied"
            failure = await in_database_thread(relay_failure, session_id, message_id)
            await answer_to(person, chat("Hello"))
        assert (failure.outcome, failure.code) == ("denied", "callers-give-no-orders")
        assert "Leave the system message out." in failure.message
        assert failure.decision_id is not None

    async def test_waits_for_a_reviewer_and_goes_on(
        self, person: Person, reviewer: Reviewer, model: ScriptedModel, policy: Any
    ) -> None:
        policy(escalating("models-need-leave", "model_call"))
        async with running():
            session_id, message_id = await passes_on(person, chat("Hello", tools=(WEATHER,)))
            approval_id = await requested(session_id)
            assert model.productions() == []
            await reviewer.approves(approval_id)
            assert (await reply_to(session_id, message_id)).outcome == "answered"
            answer = await in_database_thread(relay_answer, session_id, message_id)
        assert answer.text == "The scripted answer."

    async def test_ends_with_a_reviewers_no(
        self, person: Person, reviewer: Reviewer, model: ScriptedModel, policy: Any
    ) -> None:
        policy(escalating("models-need-leave", "model_call"))
        async with running():
            session_id, message_id = await passes_on(person, chat("Hello"))
            await reviewer.denies(await requested(session_id), "Not today.")
            assert (await reply_to(session_id, message_id)).outcome == "denied"
            failure = await in_database_thread(relay_failure, session_id, message_id)
            (made,) = [
                each
                for each in await events_of(session_id)
                if isinstance(each.event, DecisionMade) and each.event.subject_kind == "model_call"
            ]
        assert failure.decision_id == made.stream_id
        assert "Not today." in failure.message
        assert model.productions("started") == []

    async def test_is_denied_as_a_plan(self, person: Person, model: ScriptedModel, policy: Any) -> None:
        policy("""
  - name: nothing-today
    sentence: Nothing begins today.
    priority: 10
    match: {kinds: [plan]}
    outcome: deny
    message_for_people: Come back tomorrow.
""")
        async with running():
            session_id, message_id = await passes_on(person, chat("Hello"))
            assert (await reply_to(session_id, message_id)).outcome == "denied"
            failure = await in_database_thread(relay_failure, session_id, message_id)
        assert (failure.code, failure.decision_id is None) == ("nothing-today", False)

    async def test_holds_back_calls_that_a_rule_reads(
        self, person: Person, model: ScriptedModel, policy: Any
    ) -> None:
        policy("""
  - name: no-secrets
    sentence: The secret word does not go out.
    priority: 10
    match: {kinds: [message_out]}
    condition: args.?text.orValue("").contains("xyzzy")
    outcome: deny
    message_for_people: That is secret.
""")
        model.answers({"calls": [{"name": "get_weather", "arguments": {"place": "xyzzy"}}]})
        async with running():
            session_id, message_id = await passes_on(person, chat("Hello", tools=(WEATHER,)))
            assert (await reply_to(session_id, message_id)).outcome == "denied"
            with pytest.raises(RelayNotAnswered):
                await in_database_thread(relay_answer, session_id, message_id)

    async def test_stops_at_a_budget(self, person: Person, model: ScriptedModel) -> None:
        await in_database_thread(limit_tokens, person, 20)
        async with running():
            session_id, message_id = await passes_on(person, chat("Hello", max_output_tokens=100))
            assert (await reply_to(session_id, message_id)).outcome == "denied"
            failure = await in_database_thread(relay_failure, session_id, message_id)
            events = await events_of(session_id)
        assert of_type(events, ModelAnswered) == []
        assert failure.decision_id is not None
        (finished,) = of_type(events, RunFinished)
        assert finished.code == failure.code


class TestRelayAgent:
    def test_is_offered_to_nobody(self) -> None:
        from cartrita.orchestrator.agents import AGENTS, agent, all_agents

        assert relay.RELAY_AGENT not in AGENTS
        assert relay.RELAY_AGENT not in {each.name for each in all_agents()}
        assert agent("relay").skill == "relay"
