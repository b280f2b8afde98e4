"""How a tool's result reads as a reply."""

import re
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import orjson

from cartrita.eventstore import get_blob
from cartrita.tools.events import ToolReturned

# A reply is one event with its text sealed; what is above stays with the call's own event.
LONGEST_RESULT = 16 * 1024  # characters
_FENCES = re.compile(r"`{3,}")


def result_of(returned: ToolReturned, *, key_id: UUID | None) -> Mapping[str, Any]:
    """Return the whole result of a call. Raises Erased."""
    if returned.large_result is None:
        return returned.result or {}
    found: Mapping[str, Any] = orjson.loads(get_blob(returned.large_result.sha256, key_id=key_id))
    return found


def readable(result: Mapping[str, Any]) -> str:
    """Return a result as Markdown: printed text and value of a program, anything else as indented JSON."""
    if "stdout" in result and "return_value" in result:
        return _ran(result)
    return _block(_json(result), "json")


def _ran(result: Mapping[str, Any]) -> str:
    parts = []
    if result["stdout"]:
        parts.append("Printed:\n\n" + _block(str(result["stdout"]), "text"))
    if result.get("stderr"):
        parts.append("Errors:\n\n" + _block(str(result["stderr"]), "text"))
    if result["return_value"] is not None:
        parts.append("Value:\n\n" + _block(_json(result["return_value"]), "json"))
    return "\n\n".join(parts) or "It ran, printed nothing and has no value."


def _block(text: str, language: str) -> str:
    if len(text) > LONGEST_RESULT:
        text = f"{text[:LONGEST_RESULT]}\n… {len(text) - LONGEST_RESULT:,} more characters"
    longest = max(map(len, _FENCES.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
