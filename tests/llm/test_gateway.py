"""The gateway over a provider on the wire that is told how to behave, and over the scripted one."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_django import Settings

from cartrita import telemetry
from cartrita.errors import BadInput
from cartrita.eventstore import Append, Context, create_data_key, in_database_thread, new_id
from cartrita.eventstore import append as record
from cartrita.llm import gateway
from cartrita.llm.catalog import ModelNotConfigured, UnknownModel
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.gateway import CallCancelled, ContextTooLong, ModelRequest, PreparedCall
from cartrita.llm.providers import ChatMessage
from governance.doors import NotPermitted
from tests.databases import Database
from tests.llm.conftest import QUICK, Heard, facts, permit_for, wait_until
from tests.llm.openai_server import Hangs, OpenAIServer, Refuses, Says

pytestmark = pytest.mark.usefixtures("closing")

ASK = (ChatMessage("user", "Say hello."),)
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}

Script = Callable[..., Path]


async def prepared(**options: Any) -> PreparedCall:
    return await gateway.prepare(ModelRequest(**{"messages": ASK, **options}), facts=facts())


async def performed(call: PreparedCall, on_delta: Heard | None = None) -> ModelAnswered | ModelFailed:
    return await gateway.perform(call, await permit_for(call), attempt=1, on_delta=on_delta, retry=QUICK)


async def answered(on_delta: Heard | None = None, **options: Any) -> ModelAnswered:
    outcome = await performed(await prepared(**options), on_delta)
    assert isinstance(outcome, ModelAnswered), outcome
    return outcome


async def failed(on_delta: Heard | None = None, **options: Any) -> ModelFailed:
    outcome = await performed(await prepared(**options), on_delta)
    assert isinstance(outcome, ModelFailed), outcome
    return outcome


def productions(log: Path) -> list[str]:
    return [json.loads(line)["event"] for line in log.read_text().splitlines()]


class TestPrepare:
    async def test_states_all_that_the_model_will_be_sent(
        self, database: Database, told: OpenAIServer
    ) -> None:
        call = await prepared(model="gpt-4o", purpose="creative", max_output_tokens=100)
        request = call.decision_request
        assert (request.subject_kind, request.model) == ("model_call", "gpt-4o")
        assert request.arguments["messages"] == [{"role": "user", "content": "Say hello."}]
        assert request.arguments["temperature"] == 0.7
        assert request.cost.tokens == call.prompt_tokens + 100
        # 2.50 and 10.00 dollars per million tokens are 2.5 and 10 micro-dollars each.
        assert request.cost.micros == -(-(call.prompt_tokens * 25 + 100 * 100) // 10)

    async def test_takes_the_standard_tier_when_there_is_a_key(
        self, database: Database, told: OpenAIServer
    ) -> None:
        assert (await prepared()).entry.name == "gpt-4o-mini"
        assert (await prepared(purpose="planning")).entry.name == "gpt-4o"
        assert (await prepared(tier="fallback")).entry.name == "gpt-3.5-turbo"

    async def test_names_the_models_there_are(self, database: Database) -> None:
        with pytest.raises(UnknownModel, match=r"SmolLM2-135M-Instruct, gpt-3\.5-turbo, gpt-4o, gpt-4o-mini"):
            await prepared(model="gpt-9")

    async def test_says_which_key_is_missing(self, database: Database, settings: Settings) -> None:
        settings.OPENAI_API_KEY = ""
        with pytest.raises(ModelNotConfigured, match="OPENAI_API_KEY"):
            await prepared(model="gpt-4o")

    async def test_refuses_what_does_not_fit_into_the_context(
        self, database: Database, told: OpenAIServer
    ) -> None:
        with pytest.raises(ContextTooLong, match="takes 16385 together"):
            await prepared(model="gpt-3.5-turbo", messages=(ChatMessage("user", "word " * 20_000),))

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"messages": ()}, "messages"),
            ({"messages": (ChatMessage("robot", "x"),)}, "messages[0].role"),
            ({"messages": (ChatMessage("user", "a\0b"),)}, "messages[0].content"),
            ({"messages": (ChatMessage("user", "\ud800"),)}, "messages[0].content"),
            ({"purpose": "fun"}, "purpose"),
            ({"temperature": 3.0}, "temperature"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"max_output_tokens": 10**9}, "max_output_tokens"),
            ({"deadline_seconds": 0}, "deadline_seconds"),
            ({"tier": "best"}, "tier"),
            ({"json_schema": {"type": "thing"}}, "json_schema.type"),
        ],
    )
    async def test_names_the_wrong_field(self, script: Script, options: dict[str, Any], field: str) -> None:
        script({"text": "never said"})
        with pytest.raises(BadInput) as raised:
            await prepared(**options)
        assert raised.value.field == field


class TestPlaces:
    async def test_are_as_many_as_are_set_and_the_next_call_waits(
        self, database: Database, told: OpenAIServer, settings: Settings
    ) -> None:
        settings.CALLS_PER_MODEL = 1
        told.then(Says(text="One two three.", silent_after=2))
        heard = Heard(wanted=2)
        first = asyncio.create_task(performed(await prepared(), heard))
        await heard.enough.wait()
        busy = await failed(deadline_seconds=0.2)
        assert (busy.code, busy.retryable, busy.tries, busy.cost_micros) == ("model_busy", True, 0, 0)
        assert "1 calls of it go on" in busy.message
        waiting = asyncio.create_task(answered())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(CallCancelled):
            await first
        assert (await waiting).text == "Hello there."

    async def test_are_without_limit_at_zero(
        self, database: Database, told: OpenAIServer, settings: Settings
    ) -> None:
        settings.CALLS_PER_MODEL = 0
        told.then(Says(text="One two three.", silent_after=2))
        heard = Heard(wanted=2)
        first = asyncio.create_task(performed(await prepared(), heard))
        await heard.enough.wait()
        assert (await answered()).text == "Hello there."
        first.cancel()
        with pytest.raises(CallCancelled):
            await first


class TestPerform:
    async def test_streams_and_records_the_providers_own_usage(
        self, database: Database, told: OpenAIServer
    ) -> None:
        told.then(Says(text="Hello, dear world."))
        heard = Heard()
        answer = await answered(heard, model="gpt-4o", stop=("END",))
        assert heard.deltas == ["Hello,", " dear", " world."]
        assert (answer.text, answer.finish_reason, answer.tries) == ("Hello, dear world.", "stop", 1)
        assert (answer.prompt_tokens, answer.completion_tokens, answer.cached_tokens) == (11, 7, 3)
        assert not answer.estimated
        assert (answer.cost_micros, answer.currency, answer.output_price) == (98, "USD", 10_000_000)
        assert answer.first_token_ms is not None
        assert answer.first_token_ms <= answer.latency_ms
        sent = told.received[0].body
        assert (sent["model"], sent["temperature"], sent["stop"]) == ("gpt-4o", 0.2, ["END"])
        assert told.received[0].headers["authorization"] == "Bearer a-key-of-the-tests"

    async def test_refuses_a_permit_for_another_call(self, script: Script) -> None:
        log = script({"text": "never said"})
        one, other = await prepared(), await prepared(messages=(ChatMessage("user", "Something else."),))
        with pytest.raises(NotPermitted):
            await gateway.perform(one, await permit_for(other), attempt=1)
        with pytest.raises(NotPermitted):
            await gateway.perform(replace(one, request=other.request), await permit_for(one), attempt=1)
        assert not log.exists()

    async def test_tries_again_after_what_passes(self, database: Database, told: OpenAIServer) -> None:
        told.then(Refuses(status=500), Refuses(status=503), Refuses(status=429), Says(text="At last."))
        heard = Heard()
        answer = await answered(heard)
        assert (answer.text, answer.tries, heard.text) == ("At last.", 4, "At last.")

    async def test_gives_up_after_five_tries(self, database: Database, told: OpenAIServer) -> None:
        told.then(*[Refuses(status=500)] * 5)
        failure = await failed()
        assert (failure.code, failure.tries, failure.retryable) == ("server_error", 5, True)
        assert (failure.prompt_tokens, failure.cost_micros) == (0, 0)

    async def test_waits_as_long_as_the_provider_asks(self, database: Database, told: OpenAIServer) -> None:
        told.then(Refuses(status=429, headers={"retry-after": "0.3"}), Says())
        answer = await answered()
        assert answer.tries == 2
        assert answer.latency_ms >= 300

    async def test_does_not_wait_beyond_its_deadline(self, database: Database, told: OpenAIServer) -> None:
        told.then(Refuses(status=429, headers={"retry-after": "3600"}))
        failure = await failed()
        assert (failure.code, failure.tries, failure.retry_after_seconds) == ("rate_limited", 1, 3600)

    @pytest.mark.parametrize(
        ("refusal", "code"),
        [
            (Refuses(status=401), "not_signed_in"),
            (Refuses(status=400), "rejected"),
            (Refuses(status=400, code="context_length_exceeded"), "context_too_long"),
            (Refuses(status=429, code="insufficient_quota"), "out_of_quota"),
        ],
    )
    async def test_does_not_repeat_what_cannot_help(
        self, database: Database, told: OpenAIServer, refusal: Refuses, code: str
    ) -> None:
        told.then(refusal)
        failure = await failed()
        assert (failure.code, failure.retryable, failure.tries) == (code, False, 1)
        assert len(told.received) == 1

    async def test_says_when_nobody_listens(self, database: Database, settings: Settings) -> None:
        settings.OPENAI_API_KEY, settings.OPENAI_BASE_URL = "key", "http://127.0.0.1:1/v1"
        failure = await failed()
        assert (failure.code, failure.tries) == ("unreachable", 5)

    async def test_keeps_and_counts_what_a_cut_stream_had_said(
        self, database: Database, told: OpenAIServer
    ) -> None:
        told.then(Says(text="One two three four.", cut_after=2))
        heard = Heard()
        failure = await failed(heard, model="gpt-4o")
        assert (failure.code, failure.retryable, failure.tries) == ("cut_stream", True, 1)
        assert (failure.text, heard.text) == ("One two", "One two")
        assert (failure.estimated, failure.completion_tokens) == (True, 2)
        assert failure.prompt_tokens > 0
        assert failure.cost_micros > 0

    async def test_repeats_a_cut_stream_that_nobody_has_heard(
        self, database: Database, told: OpenAIServer
    ) -> None:
        told.then(Says(text="One two three.", cut_after=2), Says(text="One two three."))
        answer = await answered()
        assert (answer.text, answer.tries) == ("One two three.", 2)
        # Both tries are paid for: the first as counted here, the second as the provider says.
        assert answer.estimated
        assert answer.completion_tokens == 2 + 7

    async def test_counts_an_answer_without_usage(self, database: Database, told: OpenAIServer) -> None:
        told.then(Says(text="One two three.", usage=None))
        call = await prepared(model="gpt-4o")
        answer = await performed(call)
        assert (answer.estimated, answer.prompt_tokens) == (True, call.prompt_tokens)
        assert answer.completion_tokens == 4

    async def test_ends_at_its_deadline(self, database: Database, told: OpenAIServer) -> None:
        told.then(Says(text="One two three.", silent_after=1))
        failure = await failed(Heard(), deadline_seconds=3)
        assert (failure.code, failure.text, failure.retryable) == ("deadline_passed", "One", True)

    async def test_ends_at_its_deadline_before_the_first_word(
        self, database: Database, told: OpenAIServer
    ) -> None:
        told.then(Hangs())
        failure = await failed(deadline_seconds=0.3)
        assert (failure.code, failure.text, failure.first_token_ms) == ("deadline_passed", "", None)

    async def test_gives_up_the_text_and_the_connection_when_cancelled(
        self, database: Database, told: OpenAIServer
    ) -> None:
        told.then(Says(text="One two three.", silent_after=2))
        heard = Heard(wanted=2)
        call = await prepared()
        task = asyncio.create_task(performed(call, heard))
        await heard.enough.wait()
        task.cancel()
        with pytest.raises(CallCancelled) as raised:
            await task
        failure = raised.value.failed
        assert (failure.code, failure.text, failure.retryable) == ("cancelled", "One two", False)
        assert failure.estimated
        assert task.cancelled()
        assert await asyncio.to_thread(told.abandoned.wait, 5)

    async def test_keeps_a_long_text_in_a_blob(self, database: Database, script: Script) -> None:
        key_id = await in_database_thread(create_data_key, subject_id=new_id(), scope="session")
        text = " ".join(["Länge"] * 12_000)
        script({"text": text})
        call = await prepared(max_output_tokens=20_000)
        answer = await gateway.perform(call, await permit_for(call), attempt=1, key_id=key_id)
        append = Append(new_id(), 0, [answer], Context(workspace_id=new_id(), key_id=key_id))
        (recorded,) = await in_database_thread(record, append)
        assert isinstance(recorded.event, ModelAnswered)
        assert text.startswith(recorded.event.text)
        assert await gateway.whole_text(recorded.event) == text

    async def test_is_seen_as_a_span_with_the_conventions_names(
        self, script: Script, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exporter = InMemorySpanExporter()
        tracing = TracerProvider(shutdown_on_exit=False)
        tracing.add_span_processor(SimpleSpanProcessor(exporter))
        monkeypatch.setattr(telemetry, "tracer", tracing.get_tracer("tests"))
        script({"text": "One two."})
        answer = await answered()
        (span,) = exporter.get_finished_spans()
        assert span.name == "chat scripted"
        seen = dict(span.attributes or {})
        assert seen["gen_ai.operation.name"] == "chat"
        assert seen["gen_ai.request.model"] == "scripted"
        assert seen["gen_ai.usage.input_tokens"] == answer.prompt_tokens
        assert seen["gen_ai.usage.output_tokens"] == 2
        assert seen["gen_ai.response.finish_reasons"] == ("stop",)
        assert not any("One two." in str(value) for value in seen.values())

    async def test_lets_the_listeners_own_error_through(self, script: Script) -> None:
        script({"text": "Hello there."})

        async def broken(_text: str) -> None:
            raise OSError("the disk is full")

        call = await prepared()
        with pytest.raises(OSError, match="disk is full"):
            await gateway.perform(call, await permit_for(call), attempt=1, on_delta=broken)

    async def test_reports_a_filtered_answer_as_a_failure(
        self, database: Database, told: OpenAIServer
    ) -> None:
        told.then(Says(text="Well", finish_reason="content_filter"))
        failure = await failed()
        assert (failure.code, failure.retryable, failure.completion_tokens) == ("filtered", False, 7)


class TestStructuredAnswer:
    async def test_is_given_out_once_it_is_valid(self, script: Script) -> None:
        script({"text": '{"colour": "red"}'})
        heard = Heard()
        answer = await answered(heard, json_schema=COLOUR)
        assert heard.deltas == ['{"colour": "red"}']
        assert answer.repairs == ()

    async def test_is_repaired_with_what_was_wrong(self, script: Script) -> None:
        log = script(
            {"text": "It is red.", "times": 1},
            {"when": "is not JSON", "text": '{"colour": "green"}', "times": 1},
            {"when": "$.colour", "text": '{"colour": "blue"}'},
        )
        heard = Heard()
        answer = await answered(heard, json_schema=COLOUR)
        assert (answer.text, heard.text) == ('{"colour": "blue"}', '{"colour": "blue"}')
        assert ["is not JSON" in answer.repairs[0], "$.colour" in answer.repairs[1]] == [True, True]
        assert productions(log) == ["started", "finished"] * 3
        assert answer.completion_tokens == 3 + 2 + 2

    async def test_fails_after_two_repairs(self, script: Script) -> None:
        log = script({"text": '{"colour": 5}'})
        heard = Heard()
        failure = await failed(heard, json_schema=COLOUR)
        assert (failure.code, failure.retryable, len(failure.repairs)) == ("invalid_output", False, 2)
        assert failure.text == '{"colour": 5}'
        assert heard.deltas == []
        assert productions(log).count("started") == 3

    async def test_is_asked_for_in_words_where_the_provider_cannot_enforce_it(
        self, database: Database, told: OpenAIServer
    ) -> None:
        told.then(Says(text='{"colour":"red"}'), Says(text='{"colour":"red"}'))
        await answered(json_schema=COLOUR, model="gpt-3.5-turbo")
        await answered(json_schema=COLOUR, model="gpt-4o")
        older, newer = (received.body for received in told.received)
        assert older["response_format"] == {"type": "json_object"}
        assert "JSON Schema" in older["messages"][0]["content"]
        assert newer["response_format"]["json_schema"]["schema"] == COLOUR
        assert len(newer["messages"]) == 1


class TestScriptedModel:
    async def test_cannot_be_chosen_unless_it_is_set(self, database: Database, settings: Settings) -> None:
        settings.SCRIPTED_MODEL = ""
        with pytest.raises(UnknownModel):
            await prepared(model="scripted")

    async def test_logs_what_it_begins_and_what_it_ends(self, script: Script) -> None:
        log = script({"text": "One two three.", "seconds_per_token": 60})
        task = asyncio.create_task(answered())
        await asyncio.to_thread(wait_until, log.exists)
        task.cancel()
        with pytest.raises(CallCancelled):
            await task
        assert productions(log) == ["started"]

    async def test_fails_as_told(self, script: Script) -> None:
        script(
            {"text": "x", "times": 1, "fail": {"code": "rate_limited", "retryable": True}},
            {"text": "One two.", "fail": {"code": "server_error", "retryable": False, "after_tokens": 1}},
        )
        failure = await failed()
        assert (failure.code, failure.text, failure.tries) == ("server_error", "One", 2)
