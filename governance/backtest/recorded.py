"""Requests read back from decisions, without the checks that they passed when they were decided.

What a decision's sealed request says was checked and made canonical before it was recorded, and its seal
tells that nobody altered it since. `DecisionRequest.from_json` trusts nothing; this trusts that, and gives an
equal request in a third of the time.
"""

import operator
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, make_dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, get_args, get_origin, get_type_hints
from uuid import UUID

import orjson

from cartrita.eventstore.chain import get_chain
from governance.canonical import SAFE_INTEGER, canonical
from governance.decide import (
    Budget,
    BudgetFact,
    Cost,
    Counters,
    DecisionRequest,
    GlassFact,
    GrantFact,
)
from governance.decision import ReadBlob

Json = Mapping[str, Any]
_Make = Callable[[Any], Any]

_FACTS: tuple[type, ...] = (Cost, Budget, Counters, BudgetFact, GrantFact, GlassFact)
_new = object.__new__


class Unfamiliar(Exception):
    """The stored request has another shape than requests have today: read it the slow way."""


def request_as_recorded(written: Json, arguments: Mapping[str, Any]) -> DecisionRequest:
    """Return the request that `as_json` wrote, with these arguments; equal to what `from_json` returns.

    Raises Unfamiliar for a shape that it does not know.
    """
    made = _new(DecisionRequest)
    values = made.__dict__
    values.update(_DEFAULTS)
    try:
        for name, value in written.items():
            make = _MAKERS[name]
            values[name] = value if make is None else make(value)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Unfamiliar from None
    values["arguments"] = arguments
    return made


def stands_in_blobs(made: Json) -> bool:
    """Tell whether some argument of a decision's stored event is not in it, but in blobs."""
    return bool(
        made.get("arguments_in_blobs") or made.get("all_arguments_in_blob") or made.get("arguments_in_parts")
    )


def arguments_of(made: Json, written: Json, read_blob: ReadBlob) -> Mapping[str, Any]:
    """Return the exact arguments of a decision: those that stand in blobs, too."""
    arguments: dict[str, Any] = written["arguments"]
    if stands_in_blobs(made):
        if made.get("all_arguments_in_blob"):
            arguments = orjson.loads(read_blob(arguments["sha256"]))
        else:
            arguments = dict(arguments)
            for name in made.get("arguments_in_blobs", ()):
                arguments[name] = orjson.loads(read_blob(arguments[name]["sha256"]))
            for name in made.get("arguments_in_parts", ()):
                stored = arguments[name]
                parts = get_chain(stored["parts"], read_blob)
                arguments[name] = [item for part in parts for item in orjson.loads(part)] + stored["rest"]
    # Large floats are written without a point, and JSON's reader takes them for integers.
    return canonical(arguments, "arguments") if _has_large_integer(arguments) else arguments


def _has_large_integer(value: Any) -> bool:
    for each in value.values() if type(value) is dict else value:
        kind = type(each)
        if kind is int:
            if not -SAFE_INTEGER <= each <= SAFE_INTEGER:
                return True
        elif (kind is dict or kind is list) and _has_large_integer(each):
            return True
    return False


# The ids and periods of budgets come again and again.
_uuid = lru_cache(maxsize=4096)(UUID)
_time = lru_cache(maxsize=4096)(datetime.fromisoformat)


def _maker(declared: Any) -> _Make | None:
    """Return what makes a value of a declared type of its JSON, None where it stays as it is."""
    origin, inner = get_origin(declared), get_args(declared)
    if type(None) in inner:
        of_some = _maker(next(one for one in inner if one is not type(None)))
        return None if of_some is None else lambda value: None if value is None else of_some(value)
    if declared is UUID:
        return _uuid
    if declared is datetime:
        return _time
    if origin is frozenset:
        return frozenset
    if origin is tuple:
        of_one = _maker(inner[0])
        return tuple if of_one is None else lambda value: tuple(map(of_one, value))
    if declared in _FACTS:
        return _maker_of_fact(declared)
    return None


def _maker_of_fact(cls: type) -> _Make:
    hints = get_type_hints(cls)
    names = tuple(one.name for one in fields(cls))
    known = frozenset(names)
    all_values = operator.itemgetter(*names)
    makers = tuple((name, made) for name in names if (made := _maker(hints[name])) is not None)
    defaults = {one.name: one.default if one.default is not MISSING else None for one in fields(cls)}
    # Of the same slots, and not frozen: each value of a frozen one is set by a call.
    thawed: Any = make_dataclass(f"Thawed{cls.__name__}", names, slots=True)

    def make(value: Json) -> Any:
        if len(value) != len(names):
            if not known.issuperset(value):
                raise KeyError(cls.__name__)
            value = {**defaults, **value}
        fact: Any = thawed(*all_values(value))
        for name, convert in makers:
            setattr(fact, name, convert(value[name]))
        fact.__class__ = cls
        return fact

    return make


_HINTS = get_type_hints(DecisionRequest)
_MAKERS: Mapping[str, _Make | None] = {
    one.name: None if one.name in {"arguments", "environment"} else _maker(_HINTS[one.name])
    for one in fields(DecisionRequest)
}
# Facts that a stored request leaves out stand at their defaults.
_DEFAULTS: Mapping[str, Any] = {
    one.name: one.default if one.default is not MISSING else one.default_factory()  # type: ignore[operator]
    for one in fields(DecisionRequest)
    if one.default is not MISSING or one.default_factory is not MISSING
}
