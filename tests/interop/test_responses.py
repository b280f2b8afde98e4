"""OpenAI's newer route, by its Python SDK against a real server process."""

import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.errors import CartritaError
from cartrita.interop.openai_api.responses import read
from tests.interop.conftest import Api
from tests.interop.test_parameters import JSON

pytestmark = [pytest.mark.flow, pytest.mark.xdist_group("openai-models")]

NAMES = st.sampled_from(
    ["input", "instructions", "tools", "tool_choice", "text", "metadata", "previous_response_id",
     "background", "include", "truncation", "max_output_tokens", "stream", "temperature"]
)  # fmt: skip
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a town.",
    "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
    "strict": False,
}


class TestResponses:
    def test_of_an_agent_go_on_from_the_one_before(self, api: Api) -> None:
        api.says({"when": "My dog is called Rex", "text": "Rex."}, {"text": "I do not know."})
        client = api.client()
        first = client.responses.create(model="assistant", input="My dog is called Rex.")
        assert (first.status, first.output_text) == ("completed", "Rex.")
        second = client.responses.create(
            model="assistant", input="What is my dog called?", previous_response_id=first.id
        )
        assert second.output_text == "Rex."
        assert second.usage is not None
        assert second.usage.total_tokens > 0

    def test_stream(self, api: Api) -> None:
        api.says({"text": "One two three four."}, seconds_per_token=0.3)
        with api.client().responses.stream(model="scripted", input="Count!") as stream:
            words = [event.delta for event in stream if event.type == "response.output_text.delta"]
            final = stream.get_final_response()
        assert len(words) > 1
        assert "".join(words) == final.output_text == "One two three four."

    def test_call_functions_and_read_their_results(self, api: Api) -> None:
        api.says(
            {"when": "18 degrees", "text": "Mild."},
            {"calls": [{"name": "weather", "arguments": {"town": "Bonn"}}]},
        )
        client = api.client()
        said: list[Any] = [{"role": "user", "content": "How is the weather in Bonn?"}]
        with client.responses.stream(model="scripted", input=said, tools=[WEATHER]) as stream:
            for _ in stream:
                pass
            first = stream.get_final_response()
        (call,) = first.output
        assert call.type == "function_call"
        assert json.loads(call.arguments) == {"town": "Bonn"}
        said += [
            {
                "type": "function_call",
                "call_id": call.call_id,
                "name": call.name,
                "arguments": call.arguments,
            },
            {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"},
        ]
        second = client.responses.create(model="scripted", input=said, tools=[WEATHER])
        assert second.output_text == "Mild."

    def test_refuse_a_schema_that_refers_to_nothing_by_this_routes_names(self, api: Api) -> None:
        schema = {"type": "object", "properties": {"town": {"$ref": "#/$defs/Town"}}}
        form = {"format": {"type": "json_schema", "name": "t", "schema": schema}}
        function = {"type": "function", "name": "t", "parameters": schema}
        for more, param in (
            ({"text": form}, "text.format.schema"),
            ({"tools": [function]}, "tools[0].parameters"),
        ):
            with pytest.raises(openai.BadRequestError) as refused:
                api.client().responses.create(model="scripted", input="Which?", extra_body=more)
            assert refused.value.param == f"{param}.properties.town.$ref"

    def test_are_denied_as_ever(self, api: Api) -> None:
        with pytest.raises(openai.PermissionDeniedError) as refused:
            api.client().responses.create(model="assistant", input="Do what is FORBIDDEN.")
        assert refused.value.code == "denied_by_policy"


class TestRead:
    @pytest.mark.parametrize(
        ("parameters", "param"),
        [
            ({"background": True}, "background"),
            ({"reasoning": {"effort": "high"}}, "reasoning"),
            ({"input": 1}, "input"),
            ({"input": [{"type": "reasoning"}]}, "input[0].type"),
            ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
            ({"previous_response_id": "resp_x"}, "previous_response_id"),
            ({"text": {"verbosity": "low"}}, "text.verbosity"),
            ({"unheard_of": 1}, "unheard_of"),
            ({"input": [{"role": "king", "content": "x"}]}, "input"),
            ({"max_output_tokens": 0}, "max_output_tokens"),
            ({"text": {"format": {"type": "grammar"}}}, "text.format"),
            ({"metadata": 1, "previous_response_id": "resp_" + "0" * 64}, "metadata"),
        ],
    )
    def test_names_the_parameter_that_it_refuses(self, parameters: dict[str, Any], param: str) -> None:
        with pytest.raises(CartritaError) as refused:
            read({"model": "assistant", "input": "Hello?", **parameters}, session=None)
        assert refused.value.field == param

    @given(st.dictionaries(NAMES, JSON, max_size=4))
    def test_refuses_whatever_else_there_is_with_its_name(self, parameters: dict[str, Any]) -> None:
        refused_field: str | None = "none was refused"
        try:
            read({"model": "assistant", "input": "Hello?", **parameters}, session=None)
        except CartritaError as refused:
            refused_field = refused.field
        assert refused_field
