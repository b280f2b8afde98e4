"""Answers that no well-behaved model gives: each ends in an event that can be recorded and says why."""

import json
from typing import Any

import pytest

from cartrita.eventstore import Append, Context, create_data_key, in_database_thread, new_id
from cartrita.eventstore import append as record
from cartrita.llm import gateway, structured
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.gateway import ModelRequest
from cartrita.llm.providers import ChatMessage
from tests.databases import Database
from tests.llm.conftest import QUICK, Heard, facts, permit_for
from tests.llm.openai_server import OpenAIServer, Says, Sends

pytestmark = pytest.mark.usefixtures("closing")

PLAN = {
    "type": "object",
    "properties": {
        "tasks": {
            "type": "array",
            "maxItems": 20,
            "items": {
                "type": "object",
                "properties": {"intent": {"type": "string"}, "priority": {"type": "integer"}},
                "required": ["intent"],
                "additionalProperties": False,
            },
        },
        "share": {"type": "number"},
        "further": {"$ref": "#"},
    },
    "required": ["tasks"],
}
GOOD = '{"tasks": [{"intent": "Look it up."}]}'


async def asked(on_delta: Heard | None = None, **options: Any) -> ModelAnswered | ModelFailed:
    """Return what came of a call, after it has stood the test of being recorded."""
    ask = (ChatMessage("user", "Plan it."),)
    request = ModelRequest(**{"messages": ask, "model": "gpt-4o", "max_output_tokens": 200, **options})
    prepared = await gateway.prepare(request, facts=facts())
    key_id = await in_database_thread(create_data_key, subject_id=new_id(), scope="session")
    outcome = await gateway.perform(
        prepared, await permit_for(prepared), attempt=1, key_id=key_id, on_delta=on_delta, retry=QUICK
    )
    context = Context(workspace_id=new_id(), key_id=key_id)
    await in_database_thread(record, Append(new_id(), 0, [outcome], context))
    return outcome


@pytest.fixture(autouse=True)
def of_a_size_that_prompts_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    # Let answers of this size pass the limit of tokens, which is tested by itself.
    monkeypatch.setattr(gateway, "LONGEST_TOKEN", 100_000)


class TestStructuredAnswer:
    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("", "not JSON"),
            ("   \n", "not JSON"),
            ("I would rather talk about the weather.", "not JSON"),
            ("```json\n" + GOOD + "\n```", "not JSON"),
            (GOOD * 2, "not JSON"),
            (GOOD[:-2], "not JSON"),
            ('{"tasks": NaN}', "NaN is not a JSON number"),
            ('{"tasks": [], "share": 1e999}', "1e999 is too large a number"),
            ('{"tasks": [{"intent": "x", "priority": ' + "9" * 5000 + "}]}", "not JSON"),
            ("[" * 100_000, "nested too deeply"),
            ('{"further":' * 5000 + GOOD + "}" * 5000, "nested too deeply"),
            ('{"tasks": [], "further":' * 300 + GOOD + "}" * 300, "nested too deeply"),
            ("null", "$: None is not of type 'object'"),
            ("[]", "$: [] is not of type 'object'"),
            ('"' + GOOD.replace('"', '\\"') + '"', "is not of type 'object'"),
            ('{"tasks": "all of them"}', "$.tasks: 'all of them' is not of type 'array'"),
            ('{"tasks": [{"intent": 5}]}', "$.tasks[0].intent: 5 is not of type 'string'"),
            ('{"tasks": [{}]}', "'intent' is a required property"),
            ('{"tasks": [{"intent": "x", "agent": "root"}]}', "'agent' was unexpected"),
            ('{"tasks": [{"intent": "\\u0000"}]}', "NUL character"),
            ('{"tasks": [{"intent": "\\ud800"}]}', "surrogate pair"),
            ('{"tasks": [], "\\udfff": 1}', "surrogate pair"),
            ('{"tasks": [' + '{"intent": "again"},' * 500 + '{"intent": "x"}]}', "is too long"),
            ('{"tasks": [{"intent": "' + "x" * 300_000 + '"}]}', "it may have 262144"),
            ('{"tasks": [' + "5," * 50_000 + "5]}", "is too long"),
        ],
        ids=range(25),
    )
    async def test_is_rejected_with_the_reason_and_asked_for_again(
        self, database: Database, told: OpenAIServer, text: str, complaint: str
    ) -> None:
        told.then(Sends(parts=[text]), Says(text=GOOD))
        outcome = await asked(json_schema=PLAN)
        assert isinstance(outcome, ModelAnswered), outcome
        assert outcome.text == GOOD
        (repair,) = outcome.repairs
        assert complaint in repair
        assert len(repair) <= structured.LONGEST_COMPLAINT
        again = told.received[1].body["messages"]
        assert complaint in again[-1]["content"]
        assert again[-2]["content"].strip()
        assert len(again[-2]["content"]) <= structured.LONGEST_QUOTE + 10

    async def test_fails_when_nothing_helps(self, database: Database, told: OpenAIServer) -> None:
        told.then(*[Sends(parts=["{}" * 1000])] * 5)
        heard = Heard()
        outcome = await asked(heard, json_schema=PLAN)
        assert isinstance(outcome, ModelFailed)
        assert (outcome.code, outcome.retryable, len(outcome.repairs)) == ("invalid_output", False, 2)
        assert len(told.received) == 3
        assert heard.deltas == []

    async def test_is_left_alone_when_it_fits(self, database: Database, told: OpenAIServer) -> None:
        text = json.dumps({"tasks": [{"intent": "Größe 😀 \\u0000 as text"}], "share": 1e300})
        told.then(Sends(parts=[text]))
        outcome = await asked(json_schema=PLAN)
        assert isinstance(outcome, ModelAnswered)
        assert (outcome.text, outcome.repairs) == (text, ())


class TestAnswer:
    async def test_without_end_is_cut_where_no_limit_is_kept(
        self, database: Database, told: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway, "LONGEST_TOKEN", 256)
        told.then(Sends(parts=["again and "], endless=True))
        outcome = await asked(Heard(), max_output_tokens=5)
        assert isinstance(outcome, ModelAnswered)
        assert outcome.finish_reason == "length"
        assert len(outcome.text) == 5 * 256
        assert (outcome.estimated, outcome.completion_tokens > 100) == (True, True)
        assert told.abandoned.wait(5)

    async def test_without_end_is_rejected_where_json_was_asked_for(
        self, database: Database, told: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway, "LONGEST_TOKEN", 256)
        told.then(Sends(parts=['{"tasks": [', '{"intent": "x"},'], endless=True), Says(text=GOOD))
        outcome = await asked(json_schema=PLAN, max_output_tokens=20)
        assert isinstance(outcome, ModelAnswered)
        assert outcome.repairs == ("The answer was cut off because it was too long.",)

    async def test_of_one_huge_piece_is_cut_too(
        self, database: Database, told: OpenAIServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gateway, "LONGEST_TOKEN", 256)
        told.then(Sends(parts=["x" * 5_000_000]))
        heard = Heard()
        outcome = await asked(heard, max_output_tokens=5)
        assert isinstance(outcome, ModelAnswered)
        assert (len(outcome.text), len(heard.text)) == (1280, 1280)

    @pytest.mark.parametrize("parts", [[], ["", ""], [" ", "\n"]])
    async def test_of_nothing_is_a_failure_after_one_more_try(
        self, database: Database, told: OpenAIServer, parts: list[str]
    ) -> None:
        told.then(*[Sends(parts=parts)] * 5)
        outcome = await asked()
        assert isinstance(outcome, ModelFailed)
        assert (outcome.code, outcome.retryable, outcome.tries) == ("no_answer", True, 2)

    async def test_may_cut_a_character_into_two_pieces(self, database: Database, told: OpenAIServer) -> None:
        told.then(Sends(parts=["smile \ud83d", "\ude00 now"]))
        heard = Heard()
        outcome = await asked(heard)
        assert (outcome.text, heard.text) == ("smile 😀 now",) * 2

    async def test_holds_no_character_that_cannot_be_stored(
        self, database: Database, told: OpenAIServer
    ) -> None:
        told.then(Sends(parts=["a\0b\ud83d", "c\udfff", "d\ud83d"]))
        heard = Heard()
        outcome = await asked(heard)
        assert outcome.text == heard.text == "a�b�c�d�"


class TestStream:
    @pytest.mark.parametrize(
        "part",
        [
            b"{not json",
            b"[" * 100_000,
            b"\xff\xfe",
            {"choices": [{"index": 0, "delta": {"content": 5}}]},
            {"choices": [{"index": 0, "delta": {"content": ["a"]}}]},
            {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": {"why": 1}}]},
            {"error": {"message": "out of memory"}},
        ],
        ids=range(7),
    )
    async def test_that_is_none_is_the_servers_failure(
        self, database: Database, told: OpenAIServer, part: Any
    ) -> None:
        told.then(*[Sends(parts=[part])] * 5)
        outcome = await asked()
        assert isinstance(outcome, ModelFailed)
        assert (outcome.code, outcome.retryable, outcome.tries) == ("server_error", True, 5)

    @pytest.mark.parametrize(
        "part",
        [
            {},
            [],
            "null",
            b"null",
            b"5",
            {"choices": None},
            {"choices": 5},
            {"choices": {}},
            {"choices": [None]},
            {"choices": [5]},
            {"choices": [{}]},
            {"choices": [{"delta": None}]},
            {"choices": [{"delta": 5}]},
            {"choices": [], "usage": {}},
            {"choices": [], "usage": 5},
            {"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 2}},
            {"choices": [], "usage": {"prompt_tokens": "1", "completion_tokens": 2}},
            {"choices": [], "usage": {"prompt_tokens": 10**30, "completion_tokens": 2}},
            {"choices": [], "usage": {"prompt_tokens": 1.5, "completion_tokens": 2}},
        ],
        ids=range(19),
    )
    async def test_with_empty_or_strange_parts_gives_the_rest(
        self, database: Database, told: OpenAIServer, part: Any
    ) -> None:
        told.then(Sends(parts=["Hello", part, " there."]))
        outcome = await asked()
        assert isinstance(outcome, ModelAnswered), outcome
        assert outcome.text.replace("null", "") == "Hello there."
        assert outcome.estimated
