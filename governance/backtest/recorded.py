"""Requests read back from decisions, without the checks that they passed when they were decided.

What a decision's sealed request says was checked and made canonical before it was recorded, and its seal
tells that nobody altered it since. `DecisionRequest.from_json` trusts nothing; this trusts that, and gives an
equal request in a third of the time. What conditions and amounts take of an ordinary one (`is_ordinary`) is
read from its JSON as it stands, without any request.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, make_dataclass
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, get_args, get_origin, get_type_hints
from uuid import UUID

import orjson

from cartrita.eventstore.chain import get_chain
from governance.canonical import SAFE_INTEGER, canonical
from governance.decide import (
    UNLIMITED,
    Budget,
    BudgetFact,
    Cost,
    Counters,
    DecisionRequest,
    GlassFact,
    GrantFact,
)
from governance.decision import ReadBlob
from governance.rule import ACT

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


def arguments_of(
    made: Json, written: Json, read_blob: ReadBlob, names: Iterable[str] | None = None
) -> Mapping[str, Any]:
    """Return the exact arguments of a decision, those that stand in blobs too; only these where `names`."""
    arguments: dict[str, Any] = written["arguments"]
    if made.get("all_arguments_in_blob"):
        arguments = orjson.loads(read_blob(arguments["sha256"]))
    if names is not None:
        arguments = {name: arguments[name] for name in names if name in arguments}
    if not made.get("all_arguments_in_blob") and stands_in_blobs(made):
        arguments = dict(arguments)
        for name in made.get("arguments_in_blobs", ()):
            if name in arguments:
                arguments[name] = orjson.loads(read_blob(arguments[name]["sha256"]))
        for name in made.get("arguments_in_parts", ()):
            if name in arguments:
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


def is_ordinary(written: Json) -> bool:
    """Tell whether a request has the shape of today, and nothing that lets an act pass or holds it up but
    rules and budgets: no grant, no break-glass, no act under way that it would taint, no empty bucket.
    """
    if tuple(written) not in _familiar and not _is_familiar(written):
        return False
    if written.get("grants") or written.get("glass") or written.get("taints"):
        return False
    if any(level < ACT for level in written.get("throttles", _NOTHING).values()):
        return False
    return (
        len(written["cost"]) == _MANY[Cost]
        and len(written["budget"]) == _MANY[Budget]
        and len(written["counters"]) == _MANY[Counters]
        and all(len(one) == _MANY[BudgetFact] for one in written.get("budgets", ()))
    )


def holds(written: Json) -> bool:
    """Tell whether all budgets hold the act, as `BudgetFact.shortfall` says it of each."""
    cost = written["cost"]
    tokens, micros = cost["tokens"], cost["micros"]
    for one in written.get("budgets", ()):
        limit = one["limit_tokens"]
        if limit is not None and tokens > max(limit - one["used_tokens"], 0):
            return False
        limit = one["limit_micros"]
        if limit is None or not micros:
            continue
        if cost["currency"] != one["currency"] or micros > max(limit - one["used_micros"], 0):
            return False
    return True


def amounts(written: Json, goes_ahead: bool) -> tuple[Any, ...]:
    """Return what a verdict says of money, tokens and budgets, as it is stored: see AMOUNTS."""
    cost, budget, budgets = written["cost"], written["budget"], written.get("budgets", ())
    limit, used_tokens, used_micros = budget["limit_micros"], budget["used_tokens"], budget["used_micros"]
    before = {"tokens": used_tokens, "micros": used_micros}
    currency: str = cost["currency"]
    tokens, micros = (cost["tokens"], cost["micros"]) if goes_ahead else (0, 0)
    warnings = [one["id"] for one in budgets if _warns(one, tokens, micros, currency)]
    if limit is None:
        after = {"tokens": used_tokens + tokens, "micros": used_micros + micros} if goes_ahead else before
        return currency, None, None, before, after, warnings
    left = limit - used_micros
    if budgets and budget["currency"] != currency:
        # A limit in another currency stands in its own, and the act adds no money to it.
        currency, micros = budget["currency"], 0
    after = {"tokens": used_tokens + tokens, "micros": used_micros + micros}
    return currency, left, left - micros, before, after, warnings


# What of a stored decision `amounts` are.
AMOUNTS = (
    "currency",
    "cost_limit_before",
    "cost_limit_after",
    "resource_usage_before",
    "resource_usage_after",
    "warnings",
)


def _warns(budget: Json, tokens: int, micros: int, currency: str) -> bool:
    percent = budget["warn_percent"]
    limit = budget["limit_tokens"]
    if limit is not None and (budget["used_tokens"] + tokens) * 100 >= limit * percent:
        return True
    limit = budget["limit_micros"]
    if limit is None:
        return False
    used = budget["used_micros"] + (micros if currency == budget["currency"] else 0)
    return bool(used * 100 >= limit * percent)


def _limit(limit: int | None) -> int:
    return UNLIMITED if limit is None else limit


def _left_percent(written: Json) -> int:
    least = 100
    for budget in written.get("budgets") or (written["budget"],):
        for limit, used in (
            (budget["limit_tokens"], budget["used_tokens"]),
            (budget["limit_micros"], budget["used_micros"]),
        ):
            if limit is not None:
                least = min(least, max(limit - used, 0) * 100 // limit if limit else 0)
    return least


def _warned(written: Json) -> bool:
    cost = written["cost"]
    return any(
        _warns(one, cost["tokens"], cost["micros"], cost["currency"]) for one in written.get("budgets", ())
    )


def _is_familiar(written: Json) -> bool:
    names = tuple(written)
    if not (_KNOWN.issuperset(names) and _ALWAYS.issubset(names)):
        return False
    if len(_familiar) < _MOST_FAMILIAR:
        _familiar.add(names)
    return True


_NOTHING: Mapping[str, int] = {}
_MOST_FAMILIAR = 256
_familiar: set[tuple[str, ...]] = set()
_MANY = {cls: len(fields(cls)) for cls in (Cost, Budget, Counters, BudgetFact)}
# By the names that conditions read: what `governance.decide.variables` gives of an ordinary request, but for
# the arguments.
READERS: Mapping[str, Callable[[Json], Any]] = {
    "kind": itemgetter("subject_kind"),
    "actor": itemgetter("actor"),
    "agent": itemgetter("agent"),
    "roles": itemgetter("roles"),
    "workspace": itemgetter("workspace_id"),
    "session": lambda written: written["session_id"] or "",
    "task_path": itemgetter("task_path"),
    "model.name": itemgetter("model"),
    "tool.name": itemgetter("tool"),
    "tool.safety": itemgetter("safety_level"),
    "tool.definition": itemgetter("definition_hash"),
    "labels": itemgetter("labels"),
    "cost.tokens": lambda written: written["cost"]["tokens"],
    "cost.micros": lambda written: written["cost"]["micros"],
    "cost.currency": lambda written: written["cost"]["currency"],
    "budget.limit_tokens": lambda written: _limit(written["budget"]["limit_tokens"]),
    "budget.used_tokens": lambda written: written["budget"]["used_tokens"],
    "budget.left_tokens": lambda written: (
        _limit(written["budget"]["limit_tokens"]) - written["budget"]["used_tokens"]
    ),
    "budget.limit_micros": lambda written: _limit(written["budget"]["limit_micros"]),
    "budget.used_micros": lambda written: written["budget"]["used_micros"],
    "budget.left_micros": lambda written: (
        _limit(written["budget"]["limit_micros"]) - written["budget"]["used_micros"]
    ),
    "counters.calls_last_minute": lambda written: written["counters"]["calls_last_minute"],
    "counters.failures_last_5_minutes": lambda written: written["counters"]["failures_last_5_minutes"],
    "counters.repeats": lambda written: written["counters"]["repeats"],
    "environment": itemgetter("environment"),
    "at": lambda written: datetime.fromisoformat(written["at"]),
    "actor_labels": lambda written: written.get("actor_labels", []),
    "budget.left_percent": _left_percent,
    "budget.warned": _warned,
    "findings": lambda written: written.get("findings", []),
    "teams": lambda written: written.get("teams", []),
    "break_glass": lambda _: False,
}

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
    all_values = itemgetter(*names)
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
# What this module knows of, written down: a fact that is new to requests must not be overlooked.
_ALWAYS = frozenset(
    {
        "subject_kind", "workspace_id", "at", "session_id", "actor", "agent", "roles", "task_path", "model",
        "tool", "arguments", "definition_hash", "safety_level", "labels", "cost", "budget", "counters",
        "environment",
    }
)  # fmt: skip
_KNOWN = _ALWAYS | {
    "budgets", "throttles", "grants", "actor_labels", "taints", "findings", "teams", "glass",
}  # fmt: skip
# Facts that a stored request leaves out stand at their defaults.
_DEFAULTS: Mapping[str, Any] = {
    one.name: one.default if one.default is not MISSING else one.default_factory()  # type: ignore[operator]
    for one in fields(DecisionRequest)
    if one.default is not MISSING or one.default_factory is not MISSING
}
