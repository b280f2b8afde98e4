"""What is a frame, and what is refused as none."""

import contextlib
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cartrita.errors import NotFound
from cartrita.streaming.protocol import (
    DELTA_BYTES,
    FRAME_BYTES,
    Ack,
    Cmd,
    Fill,
    FrameTooLarge,
    Hello,
    MalformedFrame,
    Pong,
    Sub,
    Unsub,
    parse,
    piece,
    refusal,
)

ID = "018f2c3e-0000-7000-8000-000000000001"
BACKSLASH_U0000 = "\\u0000"


class TestParse:
    @pytest.mark.parametrize(
        ("text", "frame"),
        [
            ('{"t":"hello","v":1,"client":"x"}', Hello(t="hello", v=1, client="x")),
            ('{"t":"sub","id":"a","ch":"session:1"}', Sub(t="sub", id="a", ch="session:1")),
            (
                f'{{"t":"sub","id":"a","ch":"c","cur":7,"have":{{"{ID}":[2,30]}}}}',
                Sub(t="sub", id="a", ch="c", cur=7, have={UUID(ID): (2, 30)}),
            ),
            ('{"t":"unsub","id":"a","ch":"c"}', Unsub(t="unsub", id="a", ch="c")),
            ('{"t":"ack","f":3}', Ack(t="ack", f=3)),
            (
                f'{{"t":"cmd","id":"a","cid":"{ID}","name":"n","ch":"c","args":{{"x":1}},"exp_ver":4}}',
                Cmd(t="cmd", id="a", cid=UUID(ID), name="n", ch="c", args={"x": 1}, exp_ver=4),
            ),
            (
                f'{{"t":"fill","ch":"c","mid":"{ID}","from":9}}',
                Fill(t="fill", ch="c", mid=UUID(ID), **{"from": 9}),
            ),
            ('{"t":"pong"}', Pong(t="pong")),
        ],
    )
    def test_reads_every_type(self, text: str, frame: Any) -> None:
        assert parse(text) == frame

    @pytest.mark.parametrize(
        ("text", "field"),
        [
            (None, None),
            ("", None),
            ("{", None),
            ("[" * 5000, None),
            ("[]", "t"),
            ("{}", "t"),
            ('{"t":"dance"}', "t"),
            ('{"t":["ack"]}', "t"),
            ('{"t":"ack"}', "f"),
            ('{"t":"ack","f":"1"}', "f"),
            ('{"t":"ack","f":1.0}', "f"),
            ('{"t":"ack","f":true}', "f"),
            ('{"t":"ack","f":-1}', "f"),
            ('{"t":"ack","f":9007199254740992}', "f"),
            ('{"t":"ack","f":1e400}', None),
            ('{"t":"pong","more":1}', "more"),
            ('{"t":"sub","id":"","ch":"c"}', "id"),
            ('{"t":"sub","id":"a","ch":"c","have":{"x":[1,1]}}', "have.x.[key]"),
            (f'{{"t":"sub","id":"a","ch":"c","have":{{"{ID}":[0,1]}}}}', f"have.{ID}.0"),
            ('{"t":"cmd","id":"a","cid":"no","name":"n"}', "cid"),
            (f'{{"t":"cmd","id":"a","cid":"{ID}","name":"n","args":[]}}', "args"),
        ],
    )
    def test_names_the_field_that_is_wrong(self, text: str | None, field: str | None) -> None:
        with pytest.raises(MalformedFrame) as refused:
            parse(text)
        assert refused.value.field == field

    def test_gives_the_frame_s_id_back(self) -> None:
        with pytest.raises(MalformedFrame) as refused:
            parse('{"t":"sub","id":"a","ch":5}')
        assert refused.value.details["id"] == "a"

    @pytest.mark.parametrize("args", [{"a": ["", {"b\x00": 1}]}, {"a": ["", "x\x00"]}])
    def test_refuses_nul(self, args: dict[str, Any]) -> None:
        text = json.dumps({"t": "cmd", "id": "a", "cid": ID, "name": "n", "args": args})
        with pytest.raises(MalformedFrame, match="NUL") as refused:
            parse(text)
        assert refused.value.field is not None
        assert refused.value.field.startswith("args.a.1")

    def test_takes_a_written_out_escape_for_text(self) -> None:
        args = {"a": BACKSLASH_U0000}
        text = json.dumps({"t": "cmd", "id": "a", "cid": ID, "name": "n", "args": args})
        frame = parse(text)
        assert isinstance(frame, Cmd)
        assert frame.args == args

    @pytest.mark.parametrize(
        "text", ['{"t":"sub","id":"a","ch":"\\ud800"}', '{"t":"sub","id":"a","ch":"\ud800"}']
    )
    def test_refuses_lone_surrogates(self, text: str) -> None:
        with pytest.raises(MalformedFrame):
            parse(text)

    @pytest.mark.parametrize("content", ["x" * FRAME_BYTES, "ä" * (FRAME_BYTES // 2)])
    def test_refuses_frames_above_64_kib(self, content: str) -> None:
        with pytest.raises(FrameTooLarge, match="65536"):
            parse(json.dumps({"t": "ack", "f": content}, ensure_ascii=False))

    @given(st.text(max_size=200))
    def test_refuses_what_it_does_not_take(self, text: str) -> None:
        with contextlib.suppress(MalformedFrame):
            parse(text)

    @given(
        st.fixed_dictionaries(
            {"t": st.sampled_from(["hello", "sub", "unsub", "ack", "cmd", "fill", "pong"])},
            optional={
                name: st.recursive(
                    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
                    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
                    max_leaves=4,
                )
                for name in ("id", "ch", "f", "cid", "mid", "from", "cur", "have", "args", "name", "v")
            },
        )
    )
    def test_refuses_frames_with_wrong_fields(self, frame: dict[str, Any]) -> None:
        with contextlib.suppress(MalformedFrame):
            parse(json.dumps(frame))


class TestPiece:
    @given(st.text(max_size=40), st.integers(4, 20))
    def test_is_the_longest_beginning_of_whole_characters(self, text: str, limit: int) -> None:
        encoded = text.encode()
        part = piece(encoded, limit=limit)
        assert encoded.startswith(part)
        assert len(part) <= limit
        whole = part.decode()
        assert whole == text or len(text[: len(whole) + 1].encode()) > limit

    def test_fits_a_quarter_of_a_frame(self) -> None:
        assert len(piece("🌍".encode() * DELTA_BYTES)) == DELTA_BYTES


class TestRefusal:
    def test_carries_code_field_and_details(self) -> None:
        error = NotFound("No such session.", field="ch", session="s", id="a")
        assert refusal("a", error, retry_ms=5) == {
            "t": "res",
            "id": "a",
            "ok": False,
            "error": {
                "code": "not_found",
                "message": "No such session.",
                "status": 404,
                "field": "ch",
                "details": {"session": "s"},
                "retry_ms": 5,
            },
        }
