"""Models by OpenAI's Python SDK and by LangChain: the caller's own messages, functions and schemas."""

import json
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from cartrita.llm.events import ModelAnswered
from cartrita.tools.events import ToolReturned
from governance.decision import ActSettled, DecisionMade
from sessions_app.models import ChatSession
from sessions_app.session import MessagePosted
from tests.interop.conftest import Api, of_type
from tests.llm.openai_server import OpenAIServer, Refuses, Says

pytestmark = [pytest.mark.flow, pytest.mark.xdist_group("openai-models")]

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string"}},
            "required": ["town"],
            "additionalProperties": False,
        },
    },
}
CALLS: dict[str, object] = {"when": "weather", "calls": [{"name": "weather", "arguments": {"town": "Bonn"}}]}


class Town(BaseModel):
    name: str
    people: int


class TestModel:
    def test_answers_the_callers_own_messages(self, api: Api) -> None:
        api.says({"when": "Speak like a pirate", "text": "Arr."})
        raw = api.client().chat.completions.with_raw_response.create(
            model="scripted",
            messages=[
                {"role": "developer", "content": "Speak like a pirate."},
                {"role": "user", "content": [{"type": "text", "text": "Hello?"}]},
            ],
            temperature=0,
            max_tokens=20,
            stop=["never"],
            user="somebody",
        )
        answer = raw.parse()
        assert answer.choices[0].message.content == "Arr."
        assert answer.model == "scripted"
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 1
        events = api.events(raw.headers["x-cartrita-session"])
        kinds = [each.subject_kind for each in of_type(events, DecisionMade)]
        assert kinds[0] == "plan"
        assert "model_call" in kinds
        (answered,) = of_type(events, ModelAnswered)
        spent = [each.cost_micros for each in of_type(events, ActSettled)]
        assert answered.cost_micros in spent
        (posted,) = of_type(events, MessagePosted)
        assert posted.metadata["caller"] == {"user": "somebody"}

    def test_streams(self, api: Api) -> None:
        api.says({"text": "One two three four."}, seconds_per_token=0.3)
        with api.client().chat.completions.stream(
            model="scripted",
            messages=[{"role": "user", "content": "Count!"}],
            stream_options={"include_usage": True},
        ) as stream:
            words = [event.delta for event in stream if event.type == "content.delta"]
            final = stream.get_final_completion()
        assert len(words) > 1
        assert "".join(words) == final.choices[0].message.content == "One two three four."
        assert final.usage is not None
        assert final.usage.completion_tokens == 4

    def test_is_cut_at_the_callers_bound(self, api: Api) -> None:
        api.says({"text": "One two three four.", "finish_reason": "length"})
        answer = api.client().chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "Count!"}], max_completion_tokens=2
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.choices[0].message.content == "One two"

    def test_that_fails_is_told_as_a_failure_of_the_model(self, api: Api) -> None:
        api.says({"fail": {"code": "rejected", "message": "no", "retryable": False}, "text": "A b."})
        with pytest.raises(openai.InternalServerError) as failed:
            api.client(retries=3).chat.completions.create(
                model="scripted", messages=[{"role": "user", "content": "Hello?"}]
            )
        assert (failed.value.status_code, failed.value.code) == (502, "model_rejected")
        session = failed.value.response.headers["x-cartrita-session"]
        assert len(of_type(api.events(session), MessagePosted)) == 1


class TestLocalModel:
    def test_answers(self, api: Api) -> None:
        answer = api.client().chat.completions.create(
            model="local", messages=[{"role": "user", "content": "Say hello."}], max_tokens=8, temperature=0
        )
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert 0 < answer.usage.completion_tokens <= 8


class TestProvider:
    def test_is_paid_and_its_words_are_passed_on(self, api: Api, provider: OpenAIServer) -> None:
        provider.then(Says(text="Good day."))
        raw = api.client().chat.completions.with_raw_response.create(
            model="premium", messages=[{"role": "user", "content": "Hello?"}], temperature=0.5
        )
        answer = raw.parse()
        assert (answer.model, answer.choices[0].message.content) == ("gpt-4o", "Good day.")
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 3
        assert provider.received[-1].body["temperature"] == 0.5
        settled = of_type(api.events(raw.headers["x-cartrita-session"]), ActSettled)
        assert sum(each.cost_micros for each in settled) > 0

    def test_that_refuses_a_long_prompt_is_no_reason_to_try_again(
        self, api: Api, provider: OpenAIServer
    ) -> None:
        provider.then(Refuses(status=400, code="context_length_exceeded", message="too long"))
        with pytest.raises(openai.BadRequestError) as refused:
            api.client(retries=3).chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "Hello?"}]
            )
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "messages")

    def test_that_refuses_our_key_is_not_the_callers_fault(self, api: Api, provider: OpenAIServer) -> None:
        provider.then(Refuses(status=401, code="invalid_api_key"))
        with pytest.raises(openai.InternalServerError) as refused:
            api.client(retries=3).chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "Hello?"}]
            )
        assert (refused.value.status_code, refused.value.code) == (502, "model_not_signed_in")

    def test_that_breaks_off_breaks_the_stream_with_an_error(self, api: Api, provider: OpenAIServer) -> None:
        provider.then(*(Says(text="One two three four five.", cut_after=2) for _ in range(12)))
        stream = api.client().chat.completions.create(
            model="gpt-3.5-turbo", messages=[{"role": "user", "content": "Count!"}], stream=True
        )
        with pytest.raises(openai.APIError) as broken:
            "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert broken.value.code in {"model_failed", "answer_restarted"}
        while provider.has_replies:
            provider.next_reply()


class TestFunctions:
    def test_are_called_and_their_results_are_read(self, api: Api) -> None:
        api.says({"when": "18 degrees", "text": "It is mild in Bonn."}, CALLS)
        client = api.client()
        said: list[Any] = [{"role": "user", "content": "How is the weather in Bonn?"}]
        first = client.chat.completions.create(model="scripted", messages=said, tools=[WEATHER])
        assert first.choices[0].finish_reason == "tool_calls"
        (call,) = first.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert json.loads(call.function.arguments) == {"town": "Bonn"}
        said += [
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"},
        ]
        second = client.chat.completions.create(model="scripted", messages=said, tools=[WEATHER])
        assert second.choices[0].message.content == "It is mild in Bonn."

    def test_come_whole_at_the_end_of_a_stream(self, api: Api) -> None:
        api.says(CALLS)
        with api.client().chat.completions.stream(
            model="scripted",
            messages=[{"role": "user", "content": "How is the weather in Bonn?"}],
            tools=[WEATHER],
            tool_choice="required",
        ) as stream:
            final = stream.get_final_completion()
        (call,) = final.choices[0].message.tool_calls or []
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"town": "Bonn"})

    def test_that_were_never_called_have_no_results(self, api: Api) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            api.client().chat.completions.create(
                model="scripted",
                messages=[
                    {"role": "user", "content": "Hello?"},
                    {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
                ],
                tools=[WEATHER],
            )
        assert refused.value.param == "messages[1].tool_call_id"


class TestSchema:
    def test_is_kept(self, api: Api) -> None:
        api.says({"text": '{"name": "Bonn", "people": 335000}'})
        answer = api.client().chat.completions.parse(
            model="scripted",
            messages=[{"role": "user", "content": "Which town?"}],
            response_format=Town,
        )
        assert answer.choices[0].message.parsed == Town(name="Bonn", people=335_000)

    @pytest.mark.parametrize(
        ("place", "param"),
        [
            ("response_format", "response_format.json_schema.schema.properties.town.$ref"),
            ("tools", "tools[0].function.parameters.properties.town.$ref"),
        ],
    )
    def test_that_refers_to_nothing_is_refused_before_it_costs(
        self, api: Api, place: str, param: str
    ) -> None:
        schema = {"type": "object", "properties": {"town": {"$ref": "#/$defs/Town"}}}
        given: dict[str, Any] = {
            "response_format": {"type": "json_schema", "json_schema": {"name": "town", "schema": schema}},
            "tools": [{"type": "function", "function": {"name": "town", "parameters": schema}}],
        }
        said: Any = [{"role": "user", "content": "Which?"}]
        before = ChatSession.objects.count()
        with pytest.raises(openai.BadRequestError) as refused:
            api.client().chat.completions.create(
                model="scripted",
                messages=said,
                extra_body={place: given[place]},
            )
        assert (refused.value.code, refused.value.param) == ("invalid_value", param)
        assert "there is nothing at that place of the schema" in refused.value.message
        assert ChatSession.objects.count() == before

    def test_that_the_model_does_not_keep_is_its_failure(self, api: Api) -> None:
        api.says({"text": "no JSON at all"})
        with pytest.raises(openai.InternalServerError) as failed:
            api.client().chat.completions.parse(
                model="scripted", messages=[{"role": "user", "content": "Which?"}], response_format=Town
            )
        assert failed.value.code == "model_invalid_output"


class TestEmbeddings:
    def test_are_the_same_in_both_encodings(self, api: Api) -> None:
        client = api.client()
        raw = client.embeddings.with_raw_response.create(model="local", input=["a cat", "a dog"])
        vectors = [each.embedding for each in raw.parse().data]
        assert [len(vector) for vector in vectors] == [384, 384]
        floats = client.embeddings.create(model="local", input="a cat", encoding_format="float")
        assert floats.data[0].embedding == pytest.approx(vectors[0], abs=1e-6)
        assert floats.usage.prompt_tokens > 0
        events = api.events(raw.headers["x-cartrita-session"])
        assert len(of_type(events, ToolReturned)) == 1
        assert "tool_call" in [each.subject_kind for each in of_type(events, DecisionMade)]

    def test_are_made_by_what_makes_them(self, api: Api) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            api.client().embeddings.create(model="scripted", input="a cat")
        assert (refused.value.code, refused.value.param) == ("model_not_supported", "model")
        with pytest.raises(openai.BadRequestError) as dimensions:
            api.client().embeddings.create(model="local", input="a cat", dimensions=10)
        assert dimensions.value.param == "dimensions"


class TestLangChain:
    def model(self, api: Api, **more: Any) -> ChatOpenAI:
        return ChatOpenAI(
            base_url=api.url, api_key=SecretStr(api.token), model="scripted", max_retries=0, **more
        )

    def test_chats_and_streams(self, api: Api) -> None:
        api.says({"text": "One two three."}, seconds_per_token=0.05)
        model = self.model(api)
        assert model.invoke("Count!").content == "One two three."
        assert "".join(str(chunk.content) for chunk in model.stream("Count!")) == "One two three."

    def test_calls_tools(self, api: Api) -> None:
        api.says({"when": "18 degrees", "text": "Mild."}, CALLS)

        @tool
        def weather(town: str) -> str:
            """Tell the weather in a town."""
            return f"18 degrees in {town}"

        model = self.model(api).bind_tools([weather])
        asked = HumanMessage("How is the weather in Bonn?")
        called = model.invoke([asked])
        (call,) = called.tool_calls
        result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
        assert model.invoke([asked, called, result]).content == "Mild."

    def test_keeps_schemas(self, api: Api) -> None:
        api.says({"text": '{"name": "Bonn", "people": 335000}'})
        structured = self.model(api).with_structured_output(Town, method="json_schema")
        assert structured.invoke("Which town?") == Town(name="Bonn", people=335_000)

    def test_embeds(self, api: Api) -> None:
        embeddings = OpenAIEmbeddings(
            openai_api_base=api.url,
            openai_api_key=SecretStr(api.token),
            model="local",
            check_embedding_ctx_length=False,
        )
        assert len(embeddings.embed_query("a cat")) == 384
