"""JSON answers: is the schema one, does the answer fit, and how to ask again when it does not."""

import json
from collections.abc import Mapping
from typing import Any

from cartrita.errors import BadInput
from cartrita.llm.providers import ChatMessage

LONGEST_COMPLAINT = 800


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
    """Return what is wrong with an answer, None when it is JSON that fits the schema."""
    import jsonschema

    if finish_reason == "length":
        return "The answer was cut off because it was too long."
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        return f"The answer is not JSON: {error}"
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    lines = [f"{error.json_path}: {error.message}" for error in errors]
    return "\n".join(lines)[:LONGEST_COMPLAINT] or None


def instruction(schema: Mapping[str, Any]) -> ChatMessage:
    """Return what tells a model the schema that its provider cannot enforce."""
    return ChatMessage(
        "system",
        "Answer with one JSON object and nothing else. It must fit this JSON Schema:\n" + _compact(schema),
    )


def repair(text: str, wrong: str, schema: Mapping[str, Any]) -> tuple[ChatMessage, ChatMessage]:
    """Return the messages that ask for a rejected answer again."""
    return (
        ChatMessage("assistant", text),
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
