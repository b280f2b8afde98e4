"""What a decision reads is plain JSON that comes back from the log as exactly what was decided on."""

import math
from decimal import Decimal
from hashlib import sha256
from typing import Any

from cartrita.errors import BadInput
from cartrita.eventstore.canonical import canonical_json

MAX_DEPTH = 64
MAX_VALUES = 50_000
SAFE_INTEGER = 2**53 - 1


def canonical(value: Any, field: str, *, most_values: int = MAX_VALUES) -> Any:
    """Return `value` as plain JSON whose RFC 8785 form reads back as an equal value of equal types.

    RFC 8785 writes 1.0 as `1`, so integral floats become integers here, before anything is decided on them.
    Depth and number of values are bounded because the rule engine crashes on very deep input. Raises
    BadInput, naming the JSON path under `field`.
    """
    left = [most_values]
    return _canonical(value, field, MAX_DEPTH, left)


def fingerprint(value: Any) -> str:
    """Return the SHA-256 (hex) of the RFC 8785 bytes of a value that `canonical` returned."""
    return sha256(canonical_json(value)).hexdigest()


def _canonical(value: Any, path: str, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise BadInput(f"{path} goes beyond the allowed number of values; send fewer.", field=path)
    kind = type(value)
    if kind is str:
        return _text(value, path)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if -SAFE_INTEGER <= value <= SAFE_INTEGER else _large_integer(value, path)
    if kind is float:
        return _float(value, path)
    if depth == 0:
        raise BadInput(f"{path} is nested deeper than {MAX_DEPTH} levels; send it flatter.", field=path)
    if kind is dict:
        members = {}
        for key, member in value.items():
            if type(key) is not str:
                raise BadInput(f"{path} has the key {key!r}; keys must be text.", field=path)
            # Prompts hold hundreds of plain texts: the path of one is not written unless it is needed.
            if type(member) is str and member.isascii() and "\0" not in member and left[0] > 0:
                left[0] -= 1
                members[_text(key, path)] = member
            else:
                members[_text(key, path)] = _canonical(member, f"{path}.{key}", depth - 1, left)
        return members
    if kind is list or kind is tuple:
        return [_canonical(member, f"{path}[{i}]", depth - 1, left) for i, member in enumerate(value)]
    raise BadInput(f"{path} is a {kind.__name__}; send JSON values only.", field=path)


def _text(value: str, path: str) -> str:
    if "\0" in value:
        raise BadInput(f"{path} contains the character NUL; remove it.", field=path)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadInput(
                f"{path} contains half of a surrogate pair; send valid Unicode.", field=path
            ) from None
    return value


def _float(value: float, path: str) -> int | float:
    if not math.isfinite(value):
        raise BadInput(f"{path} is {value}; JSON numbers must be finite.", field=path)
    if value.is_integer() and -SAFE_INTEGER <= value <= SAFE_INTEGER:
        return int(value)
    return value


def _large_integer(value: int, path: str) -> float:
    # Floats from 2^53 to 1e21 are written as integers, in their shortest digits: make floats of those.
    if abs(value) < 10**300 and Decimal(repr(float(value))) == value:
        return float(value)
    raise BadInput(
        f"{path} is beyond ±{SAFE_INTEGER}, where JSON numbers lose digits; send it as text.", field=path
    )
