"""JSON answers: is the schema one, does the answer fit, and how to ask again when it does not."""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from cartrita.errors import BadInput
from cartrita.llm.providers import ChatMessage

LONGEST_COMPLAINT = 800
# More than any plan or extract needs; a larger one would take seconds to check.
LONGEST_ANSWER = 256 * 1024
# How much of a rejected answer a model is shown again: the complaint matters more.
LONGEST_QUOTE = 4000
COMPLAINTS = 8


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raise BadInput when `schema` is not a JSON Schema 2020-12."""
    import jsonschema

    try:
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise BadInput(
            f"json_schema is not a JSON Schema 2020-12: {error.message}",
            field=f"json_schema{error.json_path[1:]}",
        ) from error


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


def _compact(schema: Mapping[str, Any]) -> str:
    return json.dumps(dict(schema), ensure_ascii=False, separators=(",", ":"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(literal: str) -> float:
    number = float(literal)
    if not math.isfinite(number):
        raise ValueError(f"{literal[:40]} is too large a number")
    return number


def _violations(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    import jsonschema

    for error in jsonschema.Draft202012Validator(schema).iter_errors(value):
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
