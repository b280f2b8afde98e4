"""What is left of a model call when what rules want redacted is taken out."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartrita.llm.providers import ChatMessage, Function, FunctionCall, ProviderFailed
from cartrita.llm.redaction import Told, without_findings
from governance.detectors import KINDS, kinds_in, kinds_within
from tests.governance.findings import LONG, SECRETS, WITHIN

HITS = [text for _, text, _ in WITHIN] + [make() for make in SECRETS.values()]
texts = st.lists(st.text(max_size=12) | st.sampled_from(HITS), max_size=4).map(" ".join)
names = st.sampled_from(["phone", "text", "api_key", "password", "4111 1111 1111 1111", "a@b.co", "c@d.co"])
values = st.recursive(
    texts | st.sampled_from([4111111111111111, 30901820, 7, 2.5]) | st.none() | st.booleans(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(names, inside, max_size=3),
    max_leaves=6,
)
ids = st.sampled_from(["call_1", "call_2", "ghp_" + LONG + "abcdef", "a@b.co"])
calls = st.builds(
    FunctionCall,
    ids,
    st.sampled_from(["get_weather", "send"]),
    st.dictionaries(names, values, max_size=3).map(json.dumps),
)
messages = st.builds(
    ChatMessage,
    st.sampled_from(["user", "assistant", "tool"]),
    texts,
    st.lists(calls, max_size=2).map(tuple),
    ids,
    st.sampled_from(["", "ann", "ann@example.com", "030-901820"]),
)
schemas = st.dictionaries(
    st.sampled_from(["description", "title", "const", "default", "examples"]), values, max_size=3
)
functions = st.builds(
    lambda name, description, parameters: Function(name=name, description=description, parameters=parameters),
    st.sampled_from(["get_weather", "send", "sk-ant-" + LONG * 2]),
    texts,
    schemas,
)
told = st.builds(
    lambda messages, tools, schema, stop: Told(
        messages=tuple(messages), tools=tuple(tools), json_schema=schema, stop=tuple(stop)
    ),
    st.lists(messages, min_size=1, max_size=3),
    st.lists(functions, max_size=2),
    st.none() | schemas,
    st.lists(texts, max_size=3),
)
kinds = st.sets(st.sampled_from([*KINDS, "*"]), min_size=1)


def all_of(sent: Told) -> list[Any]:
    """Return every text that leaves, and the JSON values as they are."""
    parts: list[Any] = [*sent.stop, sent.json_schema]
    for message in sent.messages:
        parts += [message.content, message.tool_call_id, message.name]
        for call in message.tool_calls:
            parts += [call.id, call.name, call.arguments, json.loads(call.arguments)]
    for tool in sent.tools:
        parts += [tool.name, tool.description, tool.parameters]
    return parts


class TestWithoutFindings:
    @given(told, kinds)
    @settings(max_examples=150, deadline=None)
    def test_leaves_nothing_of_its_kinds_in_anything_that_leaves(self, call: Told, wanted: set[str]) -> None:
        gone = set(KINDS) if "*" in wanted else wanted
        try:
            sent = without_findings(call, wanted)
        except ProviderFailed:
            return
        for part in all_of(sent):
            assert kinds_within(part).isdisjoint(gone)
            assert not isinstance(part, str) or kinds_in(part).isdisjoint(gone)
        assert all(
            isinstance(json.loads(each.arguments), dict) for m in sent.messages for each in m.tool_calls
        )
        assert without_findings(sent, wanted) == sent

    def test_stops_at_the_mark_of_what_it_was_to_stop_at(self) -> None:
        call = Told(messages=(ChatMessage("user", "a@b.co"),), stop=("a@b.co", "c@d.co", "END"))
        assert without_findings(call, ["email"]).stop == ("⟦email⟧", "END")

    def test_covers_names_and_numbers_in_arguments(self) -> None:
        made = FunctionCall("c1", "pay", '{"a@b.co": 4111111111111111, "phone": 30901820}')
        call = Told(messages=(ChatMessage("assistant", "", (made,)), ChatMessage("tool", "", (), "c1")))
        (first, second) = without_findings(call, ["*"]).messages
        assert json.loads(first.tool_calls[0].arguments) == {"⟦email⟧": "⟦card⟧", "phone": "⟦phone⟧"}
        assert (first.tool_calls[0].id, second.tool_call_id) == ("c1", "c1")

    def test_keeps_calls_and_their_answers_together(self) -> None:
        secret = SECRETS["GitHubToken"]()
        made = (FunctionCall(secret, "pay", "{}"), FunctionCall("a@b.co", "pay", "{}"))
        call = Told(
            messages=(
                ChatMessage("assistant", "", made),
                ChatMessage("tool", "1", (), "a@b.co"),
                ChatMessage("tool", "2", (), secret),
            )
        )
        asked, *answers = without_findings(call, ["*"]).messages
        assert [each.id for each in asked.tool_calls] == ["call-1", "call-2"]
        assert [each.tool_call_id for each in answers] == ["call-2", "call-1"]

    @pytest.mark.parametrize(
        "call",
        [
            Told(messages=(), json_schema={"properties": {"a@b.co": {"type": "string"}}}),
            Told(messages=(), json_schema={"maximum": 4111111111111111}),
            Told(messages=(), tools=(Function(name="send", parameters={"minimum": 4111111111111111}),)),
            Told(messages=(), tools=(Function(name="sk-ant-" + LONG * 2, parameters={}),)),
            Told(messages=(), tool_choice={"name": "sk-ant-" + LONG * 2}),
        ],
    )
    def test_refuses_what_would_have_to_cover_a_name_that_means_something(self, call: Told) -> None:
        with pytest.raises(ProviderFailed) as refused:
            without_findings(call, ["*"])
        assert refused.value.failure == "not_redactable"
        assert without_findings(call, ["iban"]) == call

    def test_leaves_a_call_alone_in_which_nothing_is_to_be_covered(self) -> None:
        call = Told(messages=(ChatMessage("user", "a@b.co"),), stop=("a@b.co",))
        assert without_findings(call, []) is call
