"""Answers against schemas that somebody else wrote: checked whatever the numbers, and never for long."""

import json
from typing import Any

import pytest

from cartrita.errors import BadInput
from cartrita.llm import functions, structured
from cartrita.llm.providers import Function


def complaint(value: Any, of_a: dict[str, Any]) -> str:
    schema = {"type": "object", "properties": {"a": of_a}}
    return structured.complaint(json.dumps({"a": value}), "stop", schema) or ""


class TestSchema:
    def test_has_a_bounded_number_of_parts(self) -> None:
        large = {
            "type": "object",
            "properties": {f"p{number}": {} for number in range(structured.MOST_PARTS)},
        }
        with pytest.raises(BadInput, match="it may have 2000"):
            structured.check_schema(large)

    def test_is_counted_with_the_parts_of_those_within(self) -> None:
        schema = {"a": {}, "b": True, "c": [False, {"d": {"e": "text"}}], "f": 5}
        assert structured.parts(schema) == 6

    def test_of_all_functions_together_is_bounded(self) -> None:
        of_one = {"type": "object", "properties": {f"p{number}": {} for number in range(1900)}}
        tools = [Function(name=f"f{number}", parameters=of_one) for number in range(3)]
        with pytest.raises(BadInput, match="they may have 5000"):
            functions.check(tools, "auto")


class TestComplaint:
    @pytest.mark.parametrize(
        ("value", "of_a"),
        [
            ("x" * 20_000, {"anyOf": [{"type": "integer"}] * 20_000}),
            ([[["x" * 20_000]]], {"anyOf": [{"type": "integer"}] * 20_000}),
            (["no"] * 2000, {"items": {"anyOf": [{"enum": [f"{number}" for number in range(20_000)]}, {}]}}),
        ],
        ids=["a long text", "a long text within", "a long list of values"],
    )
    def test_gives_up_where_a_schema_takes_too_long(self, value: Any, of_a: dict[str, Any]) -> None:
        assert "takes too long" in complaint(value, of_a)

    def test_takes_the_largest_answer_against_a_usual_schema(self) -> None:
        entry = {"type": "object", "properties": {"k": {"type": "integer"}}, "required": ["k"]}
        assert complaint([{"k": 1}] * 25_000, {"type": "array", "items": entry}) == ""

    @pytest.mark.parametrize(
        ("value", "unit", "fits"),
        [(10**400, 0.5, True), (10**400 + 1, 2.0, False), (7, 3.5, True), (7, 2, False)],
    )
    def test_knows_multiples_also_of_what_no_float_holds(self, value: int, unit: float, fits: bool) -> None:
        assert (complaint(value, {"multipleOf": unit}) == "") is fits

    def test_tells_entries_apart_as_json_does(self) -> None:
        unique = {"uniqueItems": True}
        assert complaint([1, True, "1", [1], {"1": 1}, None, 0, False, [], {}, "is"], unique) == ""
        assert complaint([{"x": [number]} for number in range(5000)], unique) == ""
        again: list[list[Any]] = [
            [1, 1.0],
            [{"x": [1], "y": 2}, {"y": 2.0, "x": [1.0]}],
            [[], []],
            [None, None],
        ]
        for twice in again:
            assert "non-unique" in complaint(twice, unique)
