"""The canonical JSON form (RFC 8785) in which events are stored and hashed."""

from datetime import UTC, datetime
from math import isfinite
from typing import Any

import orjson
import rfc8785

from cartrita.errors import BadInput

MAX_DEPTH = 100
_MAX_INTEGER = 2**53 - 1
_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
_SCALARS = frozenset({str, int, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple})
_KEYS = frozenset({str})


def canonical_json(value: Any, *, field: str = "") -> bytes:
    """Return `value` (str, int, float, bool, None, lists, tuples, dicts with text keys) as RFC 8785 bytes.

    `field` names the value in messages. Raises BadInput naming the place of a NUL, a lone surrogate, a number
    that JSON cannot carry exactly, nesting above 100 levels, or something that is not JSON.
    """
    simple = _simple(value, 0)
    if not simple:
        value = _with_whole_numbers(value, 0)
        simple = _simple(value, 0)
    if simple:
        try:
            encoded = orjson.dumps(value, option=_SORTED)
        except orjson.JSONEncodeError:
            _refuse_wrong_parts(value, field, 0)
            raise
        # The escape may also be the literal text \u0000 with its backslash escaped: look at the value itself.
        if encoded.find(rb"\u0000") >= 0:
            _refuse_wrong_parts(value, field, 0)
        return encoded
    _refuse_wrong_parts(value, field, 0)
    return rfc8785.dumps(value)


def rfc3339(moment: datetime) -> str:
    """Return an aware time as RFC 3339 in UTC with microseconds, such as 2026-01-31T09:00:00.000000Z.

    Raises ValueError for a time without a zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"the time {moment.isoformat()} has no zone: give an aware datetime")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _simple(value: Any, depth: int) -> bool:
    """Tell whether orjson's sorted form is the RFC 8785 form: plain floats, ASCII keys, exact JSON types."""
    kind = type(value)
    if kind not in _CONTAINERS:
        return kind in _SCALARS or (kind is float and _is_plain(value))
    if depth >= MAX_DEPTH:
        return False
    # Every event is walked: whole containers are looked at, because steps of Python are what that costs.
    items = value
    if kind is dict:
        if not _KEYS.issuperset(map(type, value)) or not "".join(value).isascii():
            return False
        items = value.values()
    if _SCALARS.issuperset(map(type, items)):
        return True
    return all(type(item) in _SCALARS or _simple(item, depth + 1) for item in items)


def _is_plain(number: float) -> bool:
    """Tell whether a number is written alike by all: shortest digits with a point, neither whole nor with an
    exponent. A single temperature shall not send a whole prompt the slow way.
    """
    return 1e-5 <= abs(number) < 1e15 and not number.is_integer()


def _with_whole_numbers(value: Any, depth: int) -> Any:
    """Return a value with its whole floats as the integers that RFC 8785 writes: 1.0 as 1, -0.0 as 0.

    What holds none is returned itself. A temperature of 1 is as common as one of 0.7.
    """
    kind = type(value)
    if kind is float:
        return int(value) if abs(value) <= _MAX_INTEGER and value.is_integer() else value
    if depth >= MAX_DEPTH or kind not in _CONTAINERS:
        return value
    if kind is dict:
        items = value.values()
        if _SCALARS.issuperset(map(type, items)):
            return value
        return {key: _with_whole_numbers(item, depth + 1) for key, item in value.items()}
    if _SCALARS.issuperset(map(type, value)):
        return value
    return [_with_whole_numbers(item, depth + 1) for item in value]


def _refuse_wrong_parts(value: Any, path: str, depth: int) -> None:
    if isinstance(value, str):
        _refuse_wrong_text(value, path)
    elif value is None or isinstance(value, bool):
        return
    elif isinstance(value, int):
        if abs(value) > _MAX_INTEGER:
            raise BadInput(f"{_at(path)} is beyond ±(2^53 - 1): send it as text", field=path or None)
    elif isinstance(value, float):
        if not isfinite(value):
            raise BadInput(
                f"{_at(path)} is not a finite number: leave it out or send null", field=path or None
            )
    elif depth >= MAX_DEPTH:
        raise BadInput(
            f"{_at(path)} is nested deeper than {MAX_DEPTH} levels: flatten it", field=path or None
        )
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise BadInput(f"{_at(path)} has the key {key!r}: keys must be text", field=path or None)
            _refuse_wrong_text(key, f"{path}.{key!a}" if path else f"{key!a}")
            _refuse_wrong_parts(item, f"{path}.{key}" if path else key, depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _refuse_wrong_parts(item, f"{path}[{index}]", depth + 1)
    else:
        raise BadInput(
            f"{_at(path)} is a {type(value).__name__}, which JSON does not know: "
            "send text, a number, a list or an object",
            field=path or None,
        )


def _refuse_wrong_text(text: str, path: str) -> None:
    if "\0" in text:
        raise BadInput(f"{_at(path)} contains a NUL character: remove it", field=path or None)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadInput(
                f"{_at(path)} contains half of a character (a lone surrogate) at offset {error.start}: "
                "send complete Unicode text",
                field=path or None,
            ) from None


def _at(path: str) -> str:
    return f"'{path}'" if path else "The value"
