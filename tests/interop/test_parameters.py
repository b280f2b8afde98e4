"""What a request may say: each refusal names its parameter, and what changes nothing is taken."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.errors import CartritaError
from cartrita.interop.openai_api.parameters import (
    HARMLESS,
    read_chat,
    read_embeddings,
    require_for_agent,
)

HELLO: dict[str, Any] = {"model": "assistant", "messages": [{"role": "user", "content": "Hello?"}]}
FUNCTION: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    ["messages", "tools", "tool_choice", "response_format", "stop", "metadata", "stream_options", "n", "user",
     "temperature", "max_tokens", "logit_bias", "modalities", "parallel_tool_calls", "functions"]
)  # fmt: skip


class TestReadChat:
    @pytest.mark.parametrize(
        ("parameters", "param"),
        [
            ({"n": 2}, "n"),
            ({"n": True}, "n"),
            ({"logprobs": True}, "logprobs"),
            ({"logit_bias": {"1": 1}}, "logit_bias"),
            ({"top_p": 0.5}, "top_p"),
            ({"presence_penalty": 1}, "presence_penalty"),
            ({"audio": {"voice": "alloy"}}, "audio"),
            ({"modalities": ["text", "audio"]}, "modalities"),
            ({"reasoning_effort": "high"}, "reasoning_effort"),
            ({"functions": [{}]}, "functions"),
            ({"unheard_of": 1}, "unheard_of"),
            ({"temperature": 3}, "temperature"),
            ({"temperature": "warm"}, "temperature"),
            ({"max_tokens": 0}, "max_tokens"),
            ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens"),
            ({"stop": ["a"] * 5}, "stop"),
            ({"stream": "yes"}, "stream"),
            ({"stream_options": {"include_usage": True}}, "stream_options"),
            ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
            ({"metadata": {"session_id": "x"}}, "metadata.session_id"),
            ({"metadata": {"a": 1}}, "metadata"),
            ({"tools": [{"type": "custom"}]}, "tools[0].type"),
            ({"tools": [FUNCTION, FUNCTION]}, "tools"),
            ({"tool_choice": "required"}, "tool_choice"),
            ({"tools": [FUNCTION], "tool_choice": {**FUNCTION, "function": {"name": "g"}}}, "tool_choice"),
            ({"tools": [FUNCTION], "tool_choice": {**FUNCTION, "function": {"name": ["f"]}}}, "tool_choice"),
            ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
            ({"response_format": {"type": "grammar"}}, "response_format"),
            ({"messages": []}, "messages"),
            ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
            ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
            ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
            (
                {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
                "messages[0].content[0].type",
            ),
            (
                {
                    "messages": [
                        {
                            "role": "assistant",
                            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}],
                        }
                    ]
                },
                "messages[0].tool_calls[0].function.arguments",
            ),
            *(
                (
                    {
                        "messages": [
                            {
                                "role": "assistant",
                                "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": written}}],
                            }
                        ]
                    },
                    "messages[0].tool_calls[0].function.arguments",
                )
                for written in ('{"a": NaN}', '{"a": "\\ud800"}', "[]", "")
            ),
        ],
    )  # fmt: skip
    def test_names_the_parameter_that_it_refuses(self, parameters: dict[str, Any], param: str) -> None:
        with pytest.raises(CartritaError) as refused:
            read_chat({**HELLO, **parameters}, session=None)
        assert refused.value.field == param
        assert refused.value.status == 400

    def test_takes_what_changes_nothing(self) -> None:
        plain = read_chat(HELLO, session=None)
        harmless = dict.fromkeys(HARMLESS - {"user"}, "x")
        nothing = {
            "n": 1,
            "top_p": 1.0,
            "frequency_penalty": 0,
            "logprobs": False,
            "stop": None,
            "tools": None,
        }
        assert read_chat({**HELLO, **harmless, **nothing}, session=None) == plain

    def test_refuses_two_sessions(self) -> None:
        with pytest.raises(CartritaError) as refused:
            read_chat(
                {**HELLO, "metadata": {"session_id": "00000000-0000-0000-0000-000000000001"}},
                session="00000000-0000-0000-0000-000000000002",
            )
        assert refused.value.field == "metadata.session_id"

    @given(st.dictionaries(NAMES, JSON, max_size=4))
    def test_refuses_whatever_else_there_is_with_its_name(self, parameters: dict[str, Any]) -> None:
        refused_field: str | None = "none was refused"
        try:
            read_chat({**HELLO, **parameters}, session=None)
        except CartritaError as refused:
            refused_field = refused.field
        assert refused_field

    @given(JSON)
    def test_refuses_what_is_no_request(self, body: Any) -> None:
        with pytest.raises(CartritaError):
            read_chat(body, session=None)


class TestRequireForAgent:
    @pytest.mark.parametrize(
        ("parameters", "param"),
        [
            ({"tools": [FUNCTION]}, "tools"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
            ({"max_tokens": 5}, "max_tokens"),
            ({"temperature": 0}, "temperature"),
            ({"stop": "x"}, "stop"),
            ({"messages": [{"role": "user", "content": " "}]}, "messages[0]"),
            ({"messages": HELLO["messages"] * 1001}, "messages"),
        ],
    )
    def test_names_what_only_a_model_takes(self, parameters: dict[str, Any], param: str) -> None:
        body = {**HELLO, **parameters}
        with pytest.raises(CartritaError) as refused:
            require_for_agent(read_chat(body, session=None), body)
        assert refused.value.field == param

    def test_takes_text_as_the_format(self) -> None:
        body = {**HELLO, "response_format": {"type": "text"}, "tools": []}
        require_for_agent(read_chat(body, session=None), body)


class TestReadEmbeddings:
    @pytest.mark.parametrize(
        ("parameters", "param"),
        [
            ({"input": ""}, "input"),
            ({"input": []}, "input"),
            ({"input": [1, 2]}, "input"),
            ({"input": "x", "dimensions": 3}, "dimensions"),
            ({"input": "x", "encoding_format": "hex"}, "encoding_format"),
            ({"input": "x", "temperature": 1}, "temperature"),
        ],
    )
    def test_names_the_parameter_that_it_refuses(self, parameters: dict[str, Any], param: str) -> None:
        with pytest.raises(CartritaError) as refused:
            read_embeddings({"model": "local", **parameters}, session=None)
        assert refused.value.field == param
