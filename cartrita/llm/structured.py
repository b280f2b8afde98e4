"""JSON answers: is the schema one, does the answer fit, and how to ask again when it does not."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from typing import Any

from pydantic_core import SchemaError, SchemaValidator, core_schema
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from cartrita.errors import BadInput
from cartrita.eventstore.canonical import canonical_json
from cartrita.llm.providers import ChatMessage
from governance.canonical import canonical

LONGEST_COMPLAINT = 800
# More than any plan or extract needs; a larger one would take seconds to check.
LONGEST_ANSWER = 256 * 1024
# How much of a rejected answer a model is shown again: the complaint matters more.
LONGEST_QUOTE = 4000
COMPLAINTS = 8
# Each of them takes about a millisecond to check.
MOST_PARTS = 2_000
# How much is looked at for one answer: some schemas of a few lines would take years, or all memory.
# Each keyword of the schema counts one for each value that it speaks of, more where it or the value is long.
MOST_STEPS = 400_000
# A reference counts for more: what it leads to may be nothing but references.
_STEPS_OF_REFERENCE = 20
# What is wrong with a value quotes all of it, and is kept while other branches of the schema are tried.
_BYTES_OF_STEP = 256

_TOO_MUCH = (
    "It takes too long to check the answer against the schema: give a shorter answer, or a simpler schema."
)
_REFUSED = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$recursiveRef")
# Where a schema holds others: as a keyword's value, in its list, or as members of its object.
_HOLDS_ONE = frozenset(
    {
        "additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then",
        "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
_HOLDS_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_HOLDS_MEMBERS = frozenset({"$defs", "definitions", "dependentSchemas", "properties"})
# These speak of the same value as the schema that holds them, and not of one inside it.
_OF_SAME_VALUE = frozenset({"allOf", "anyOf", "dependentSchemas", "else", "if", "not", "oneOf", "then"})
# Each is some calls deep in Python, for each value on the way down into an answer.
_DEEPEST_OF_SAME_VALUE = 50


def check_schema(schema: Mapping[str, Any], *, field: str = "json_schema") -> None:
    """Raise BadInput when `schema` is not a JSON Schema 2020-12 that answers can be checked against safely.

    Safely means: nothing is fetched for it, it holds all that it refers to, and no text makes checking it
    take for ever. A large schema takes seconds: call it in a thread.
    """
    _check_written(canonical_json(canonical(dict(schema), field)), field)


def parts(schema: Any) -> int:
    """Return how many objects and truth values a schema holds, itself included."""
    found, left = 0, [schema]
    while left:
        match left.pop():
            case bool():
                found += 1
            case dict() as members:
                found += 1
                left += members.values()
            case list() as items:
                left += items
    return found


def complaint(text: str, finish_reason: str, schema: Mapping[str, Any]) -> str | None:
    """Return what is wrong with an answer, None when it is JSON that fits the schema.

    Checking a large answer takes long: call it in a thread.
    """
    if finish_reason == "length":
        return "The answer was cut off because it was too long."
    if len(text) > LONGEST_ANSWER:
        return f"The answer has {len(text)} characters; it may have {LONGEST_ANSWER}."
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        # What stands in an event must be text that PostgreSQL and UTF-8 can hold.
        if any("\0" in each or not _is_unicode(each) for each in _strings(value)):
            return "The answer holds a NUL character or half of a surrogate pair; leave such characters out."
        wrong = "\n".join(islice(_violations(value, schema), COMPLAINTS))
    except RecursionError:
        return "The answer is nested too deeply."
    except _TooMuch:
        return _TOO_MUCH
    except Unresolvable as error:
        return f"The schema refers to what it does not hold: {error.ref[:200]}"
    except ValueError as error:
        wrong = f"The answer is not JSON: {error}"
    return wrong[:LONGEST_COMPLAINT] or None


def instruction(schema: Mapping[str, Any]) -> ChatMessage:
    """Return what tells a model the schema that its provider cannot enforce."""
    return ChatMessage(
        "system",
        "Answer with one JSON object and nothing else. It must fit this JSON Schema:\n" + _compact(schema),
    )


def repair(text: str, wrong: str, schema: Mapping[str, Any]) -> tuple[ChatMessage, ChatMessage]:
    """Return the messages that ask for a rejected answer again."""
    quote = text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]} [...]"
    return (
        # Some providers refuse an empty message.
        ChatMessage("assistant", quote if quote.strip() else "(nothing)"),
        ChatMessage(
            "user",
            f"That answer was rejected:\n{wrong}\n"
            f"Answer again, with JSON only, that fits this JSON Schema:\n{_compact(schema)}",
        ),
    )


@lru_cache(maxsize=256)
def _check_written(schema: bytes, field: str) -> None:
    """Check a schema by its JSON: a run asks with the same one at each step."""
    written = json.loads(schema)
    if (found := parts(written)) > MOST_PARTS:
        raise BadInput(f"{field} has {found} parts; it may have {MOST_PARTS}.", field=field)
    for wrong in _unsafe(written, field):
        raise wrong
    _check_form(written, field)
    _References(written, field).check()


def _check_form(part: Any, path: str) -> None:
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(part)
    except jsonschema.SchemaError as error:
        raise BadInput(
            f"{path} is not a JSON Schema 2020-12: {error.message[:LONGEST_COMPLAINT]}",
            field=f"{path}{error.json_path[1:]}",
        ) from error


def _compact(schema: Mapping[str, Any]) -> str:
    return json.dumps(dict(schema), ensure_ascii=False, separators=(",", ":"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"{literal[:40]} is too large a number")
    return number


def _unsafe(part: Any, path: str) -> Iterator[BadInput]:
    """Yield what a schema may not hold: references to elsewhere, and patterns that may take for ever."""
    if isinstance(part, list):
        for number, each in enumerate(part):
            yield from _unsafe(each, f"{path}[{number}]")
        return
    if not isinstance(part, dict):
        return
    for name, each in part.items():
        here = f"{path}.{name}"
        if name in _REFUSED and not isinstance(each, dict | list):
            yield BadInput(f"{here}: {name} is not supported in a schema; leave it out.", field=here)
        elif (
            name == "patternProperties" and isinstance(each, dict) and path.rpartition(".")[2] != "properties"
        ):
            yield BadInput(f"{here}: patternProperties is not supported; name the properties.", field=here)
        elif name == "$ref" and isinstance(each, str) and not each.startswith("#"):
            yield BadInput(
                f"{here} points to elsewhere; put the definition into the schema, under $defs.", field=here
            )
        elif name == "pattern" and isinstance(each, str):
            try:
                _pattern(each)
            except SchemaError:
                yield BadInput(
                    f"{here} is no regular expression that can be matched in linear time (RE2's syntax).",
                    field=here,
                )
        yield from _unsafe(each, here)


class _References:
    """What a schema refers to: it is there, is a schema, and comes to an end whatever the answer."""

    def __init__(self, schema: dict[str, Any], field: str) -> None:
        resource = DRAFT202012.create_resource(schema)
        self._resolver = Registry[Any]().resolver_with_root(resource)
        self._found: dict[int, _Part] = {}
        # Parts of a value are told apart by identity, as they have no names: the schema stays as it is.
        self._references: list[tuple[_Part, str]] = []
        self._parts_elsewhere = 0
        self._look(schema, field)

    def check(self) -> None:
        """Raise BadInput, naming the place, for what no answer could be checked against."""
        for part, path in self._references:  # grows while definitions in unusual places are looked at
            self._follow(part, path)
        for name in self._found:
            self._measure(name, frozenset())

    def _look(self, schema: Any, path: str) -> None:
        """Find all schemas in a schema, itself included."""
        left = [(schema, path)]
        while left:
            value, where = left.pop()
            if not isinstance(value, dict) or id(value) in self._found:
                continue
            part = self._found[id(value)] = _Part(where)
            if "$ref" in value:
                self._references.append((part, value["$ref"]))
            for name, held, place in _held(value, where):
                left.append((held, place))
                if name in _OF_SAME_VALUE and isinstance(held, dict):
                    part.goes_on.append(id(held))

    def _follow(self, part: "_Part", reference: str) -> None:
        path = f"{part.path}.$ref"
        try:
            target = self._resolver.lookup(reference).contents
        # Pointers that lead through a list by a name end in the latter two.
        except (Unresolvable, ValueError, TypeError):
            raise BadInput(
                f"{path} is {reference[:200]!r}, and there is nothing at that place of the schema; put the "
                "definition there, under $defs, or leave the reference out.",
                field=path,
            ) from None
        if isinstance(target, bool):
            return
        if not isinstance(target, dict):
            raise BadInput(f"{path} is {reference[:200]!r}, where there is no schema.", field=path)
        if id(target) not in self._found:
            self._parts_elsewhere += parts(target)
            if self._parts_elsewhere > MOST_PARTS:
                raise BadInput(f"{path}: put the definitions of the schema under $defs.", field=path)
            _check_form(target, path)
            self._look(target, path)
        part.goes_on.append(id(target))
        part.steps += _STEPS_OF_REFERENCE

    def _measure(self, name: int, above: frozenset[int]) -> None:
        """Find out how deep and how long all is that speaks of one value; `above` are those that led here."""
        part, above = self._found[name], above | {name}
        if part.depth:
            return
        deepest = 0
        for each in part.goes_on:
            within = self._found[each]
            if each in above:
                raise BadInput(
                    f"{within.path} refers to itself without going into the value, so that a check would "
                    "never end; refer to it from properties or items.",
                    field=within.path,
                )
            if len(above) < _DEEPEST_OF_SAME_VALUE:
                self._measure(each, above)
            deepest = max(deepest, within.depth or _DEEPEST_OF_SAME_VALUE)
            part.steps += within.steps
            if deepest >= _DEEPEST_OF_SAME_VALUE or part.steps > MOST_STEPS:
                raise BadInput(
                    f"{part.path} refers to too much for one value: it takes too long to check any answer.",
                    field=part.path,
                )
        part.depth = 1 + deepest


@dataclass(slots=True)
class _Part:
    """A schema in a schema. `goes_on` names what speaks of the same value, `steps` is what that takes."""

    path: str
    goes_on: list[int] = field(default_factory=list)
    steps: int = 1
    depth: int = 0


def _held(part: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, str]]:
    """Yield the schemas that a schema holds: the keyword, the schema, its path."""
    for name, value in part.items():
        if name in _HOLDS_ONE:
            yield name, value, f"{path}.{name}"
        elif name in _HOLDS_LIST:
            for place, each in enumerate(value):
                yield name, each, f"{path}.{name}[{place}]"
        elif name in _HOLDS_MEMBERS:
            for member, each in value.items():
                yield name, each, f"{path}.{name}.{member}"


@lru_cache(maxsize=256)
def _pattern(expression: str) -> SchemaValidator:
    """Return what tells whether a text has the pattern, in time linear in its length (Rust's regex)."""
    return SchemaValidator(core_schema.str_schema(pattern=expression, regex_engine="rust-regex"))


def _has_pattern(_validator: Any, expression: str, value: Any, _schema: Any) -> Iterator[Any]:
    import jsonschema

    if isinstance(value, str) and not _pattern(expression).isinstance_python(value):
        yield jsonschema.ValidationError(f"{value!r} does not match {expression!r}")


class _TooMuch(Exception):
    """Checking an answer takes more steps than it may."""


def _validator(schema: Mapping[str, Any], steps_of: Mapping[int, int]) -> Any:
    """Return a validator of the schema that takes a bounded number of steps.

    `steps_of` is what a value adds to the step of a keyword, by the value's identity.
    """
    import jsonschema

    left = [MOST_STEPS]

    def bounded(name: str, keyword: Any) -> Any:
        own = _STEPS_OF_REFERENCE if name == "$ref" else 1

        def check(validator: Any, told: Any, value: Any, within: Any) -> Iterator[Any]:
            long = len(told) if isinstance(told, list | dict) else 0
            left[0] -= own + long + steps_of.get(id(value), 0)
            if left[0] < 0:
                raise _TooMuch
            yield from keyword(validator, told, value, within) or ()

        return check

    keywords = {
        **jsonschema.Draft202012Validator.VALIDATORS,
        "pattern": _has_pattern,
        "uniqueItems": _is_unique,
        "multipleOf": _is_multiple,
    }
    kind = jsonschema.validators.extend(  # type: ignore[no-untyped-call]  # it has no types
        jsonschema.Draft202012Validator,
        {name: bounded(name, keyword) for name, keyword in keywords.items()},
    )
    return kind(schema, registry=Registry())


def _is_unique(_validator: Any, wanted: bool, value: Any, _schema: Any) -> Iterator[Any]:
    """Do what jsonschema does, in time that grows as the list does."""
    import jsonschema

    if wanted and isinstance(value, list) and len({_told_apart(each) for each in value}) < len(value):
        yield jsonschema.ValidationError(f"{value!r} has non-unique elements")


def _is_multiple(validator: Any, unit: float, value: Any, schema: Any) -> Iterator[Any]:
    """Do what jsonschema does, for whole numbers that no float can hold too."""
    import jsonschema

    try:
        yield from (
            jsonschema.Draft202012Validator.VALIDATORS["multipleOf"](validator, unit, value, schema) or ()
        )
    except OverflowError:
        if Fraction(value) % Fraction(unit):
            yield jsonschema.ValidationError(f"{value!r} is not a multiple of {unit!r}")


def _told_apart(value: Any) -> Any:
    """Return what is equal for equal JSON values alone: true is not 1, and 1.0 is."""
    match value:
        case bool():
            return ("is", value)
        case list():
            return ("list", *map(_told_apart, value))
        case dict():
            return ("object", frozenset((name, _told_apart(each)) for name, each in value.items()))
    return value


def _steps_of(value: Any) -> dict[int, int]:
    """Return for each value in a JSON value what its length adds to a step, by its identity."""
    steps: dict[int, int] = {}

    def measure(part: Any) -> int:
        match part:
            case str():
                length = len(part)
            case int():
                length = part.bit_length() // 3
            case list():
                length = sum(measure(each) + 2 for each in part)
            case dict():
                length = sum(len(name) + measure(each) + 4 for name, each in part.items())
            case _:
                length = 0
        if length >= _BYTES_OF_STEP:
            steps[id(part)] = length // _BYTES_OF_STEP
        return length

    measure(value)
    return steps


def _violations(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    for error in _validator(schema, _steps_of(value)).iter_errors(value):
        path, said = error.json_path[:200], error.message
        # It quotes the value, however large; what is wrong with it stands at the end.
        yield f"{path}: {said if len(said) <= 300 else f'{said[:100]} [...] {said[-180:]}'}"


def _strings(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, names of members included."""
    left = [value]
    while left:
        match left.pop():
            case str() as text:
                yield text
            case dict() as members:
                left += [*members.keys(), *members.values()]
            case list() as items:
                left += items


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
