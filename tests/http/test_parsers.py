"""JSON bodies: what is refused, and by which name."""

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.errors import BadInput
from cartrita.http.parsers import BODY_LIMIT, BodyTooLarge, MalformedJson, StrictJSONParser, parse_json

# What JSON carries exactly.
EXACT = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), inner, max_size=4
        )
    ),
    max_leaves=12,
)


class TestParseJson:
    @given(EXACT)
    def test_returns_what_json_carries_exactly(self, value: Any) -> None:
        assert parse_json(json.dumps(value).encode()) == value

    @given(st.binary(max_size=200))
    def test_returns_a_value_or_says_what_is_wrong(self, body: bytes) -> None:
        try:
            parse_json(body)
        except BadInput as error:
            refused = error
        else:
            return
        assert refused.message

    @pytest.mark.parametrize(
        "body", [b"", b"{", b'{"a": 1,}', b"NaN", b"-Infinity", b"\xff", b"{'a': 1}", b"1 2"]
    )
    def test_names_the_place_of_what_is_no_json(self, body: bytes) -> None:
        with pytest.raises(MalformedJson) as caught:
            parse_json(body)
        assert caught.value.field == "body"

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            (rb'{"content": "a\u0000b"}', "content"),
            (rb'{"metadata": {"deep": ["x", "\ud800"]}}', "metadata.deep[1]"),
            (rb'{"a": {"b\u0000": 1}}', r"a.'b\x00'"),
            (b'{"a": 9007199254740993}', "a"),
            (b'{"a": ' + b"1" * 5000 + b"}", "body"),
            (b'{"a": 1e999}', "a"),
        ],
    )
    def test_names_the_field_that_cannot_be_kept(self, body: bytes, field: str) -> None:
        with pytest.raises(BadInput) as caught:
            parse_json(body)
        assert caught.value.field == field

    @pytest.mark.parametrize("depth", [101, 5_000, 200_000])
    def test_bounds_the_depth(self, depth: int) -> None:
        with pytest.raises(BadInput):
            parse_json(b"[" * depth + b"]" * depth)


class TestStrictJSONParser:
    def test_reads_no_further_than_the_limit(self) -> None:
        class Endless(io.RawIOBase):
            asked = 0

            def read(self, size: int = -1) -> bytes:
                assert size >= 0
                self.asked += size
                return b" " * size

        stream = Endless()
        with pytest.raises(BodyTooLarge) as caught:
            StrictJSONParser().parse(stream)  # type: ignore[arg-type]
        assert (caught.value.status, caught.value.field) == (413, "body")
        assert stream.asked == BODY_LIMIT + 1

    def test_takes_the_limit_of_the_view(self) -> None:
        class View:
            body_limit = 4

        context = {"view": View()}
        assert StrictJSONParser().parse(io.BytesIO(b"1234"), None, context) == 1234
        with pytest.raises(BodyTooLarge):
            StrictJSONParser().parse(io.BytesIO(b"12345"), None, context)
