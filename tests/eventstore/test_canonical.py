import math
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from cartrita.errors import BadInput
from cartrita.eventstore import canonical_json

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53 - 1), 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


class TestCanonicalJson:
    @given(VALUES)
    def test_is_the_form_of_rfc_8785(self, value: Any) -> None:
        assert canonical_json(value) == rfc8785.dumps(value)

    @given(
        st.floats(9e-6, 2e15)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.decimals(0, 10**6, places=4).map(float)
        | st.integers(-(2**54), 2**54).map(float)
        | st.sampled_from([-0.0, 1e-6, 1e-5, 9.999e-6, 1.5e-5, 0.1, 1e15, 2.0**53 - 1, 1e20, 1e21, 5e-324])
    )
    def test_writes_numbers_as_rfc_8785_does(self, number: float) -> None:
        assert canonical_json([number, -number]) == rfc8785.dumps([number, -number])
        assert canonical_json({"a": number, "b": ["é", 1, {"c": number}]}) == rfc8785.dumps(
            {"a": number, "b": ["é", 1, {"c": number}]}
        )

    def test_leaves_the_given_value_as_it_is(self) -> None:
        value = {"temperature": 1.0, "at": (2.0, "x")}
        assert canonical_json(value) == b'{"at":[2,"x"],"temperature":1}'
        assert repr(value) == "{'temperature': 1.0, 'at': (2.0, 'x')}"

    def test_sorts_keys_by_utf_16_units(self) -> None:
        assert canonical_json({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()

    def test_keeps_the_written_escape_of_nul(self) -> None:
        assert canonical_json({"a": r"\u0000"}) == rb'{"a":"\\u0000"}'

    @pytest.mark.parametrize(
        ("value", "field", "message"),
        [
            ({"note": {"lines": ["a", "b\0"]}}, "note.lines[1]", "NUL"),
            ({"note": "a\ud800b"}, "note", "surrogate) at offset 1"),
            ({"note": "é\udc00"}, "note", "surrogate"),
            ({"n": 2**53}, "n", "send it as text"),
            ({"n": math.nan}, "n", "finite"),
            ({"n": [math.inf]}, "n[0]", "finite"),
            ({"n": b"bytes"}, "n", "bytes, which JSON does not know"),
            ({"n": {1: 2}}, "n", "keys must be text"),
        ],
    )
    def test_refuses_what_json_cannot_carry(self, value: object, field: str, message: str) -> None:
        with pytest.raises(BadInput, match=message.replace("(", r"\(").replace(")", r"\)")) as caught:
            canonical_json(value)
        assert caught.value.field == field

    def test_refuses_a_nul_in_a_key(self) -> None:
        with pytest.raises(BadInput, match="NUL"):
            canonical_json({"a\0": 1})

    def test_refuses_deep_nesting(self) -> None:
        value: object = 1
        for _ in range(101):
            value = [value]
        with pytest.raises(BadInput, match="nested deeper than 100 levels"):
            canonical_json(value)

    def test_names_the_field_that_it_was_given(self) -> None:
        with pytest.raises(BadInput) as caught:
            canonical_json("\0", field="content")
        assert caught.value.field == "content"
