"""How a tool's result reads as a reply."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson

from cartrita.eventstore import get_blob, in_database_thread
from cartrita.tools.events import ToolReturned

# Rows of a table that a reply shows.
MOST_ROWS = 50
LONGEST_CELL = 200  # characters
# A reply is one event with its text sealed; what is above stays with the call's own event.
LONGEST_RESULT = 16 * 1024  # characters
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|&~!]")
_FENCES = re.compile(r"`{3,}")


def result_of(returned: ToolReturned, *, key_id: UUID | None) -> Mapping[str, Any]:
    """Return the whole result of a call. Raises Erased."""
    if returned.large_result is None:
        return returned.result or {}
    found: Mapping[str, Any] = orjson.loads(get_blob(returned.large_result.sha256, key_id=key_id))
    return found


async def whole_result(returned: ToolReturned, *, key_id: UUID | None) -> Mapping[str, Any]:
    """Return the whole result of a call; only a large one is read from the database. Raises Erased."""
    if returned.large_result is None:
        return result_of(returned, key_id=key_id)
    return await in_database_thread(result_of, returned, key_id=key_id)


def readable(result: Mapping[str, Any]) -> str:
    """Return a result as Markdown: printed text and value of a program, rows of a query as a table, anything
    else as indented JSON.
    """
    if "stdout" in result and "return_value" in result:
        return _ran(result)
    if {"columns", "rows", "row_count", "truncated"} <= result.keys():
        return _queried(result)
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


def _queried(result: Mapping[str, Any]) -> str:
    rows = result["rows"]
    shown = rows[:MOST_ROWS]
    lines = [
        _line([column["name"] for column in result["columns"]]),
        "|" + " --- |" * len(result["columns"]),
    ]
    length = sum(map(len, lines))
    for count, row in enumerate(shown):
        line = _line(row)
        length += len(line) + 1
        if length > LONGEST_RESULT:
            shown = shown[:count]
            break
        lines.append(line)
    return "\n".join(lines) + "\n\n" + _counted(len(rows), len(shown), more=result["truncated"])


def _counted(rows: int, shown: int, *, more: bool) -> str:
    said = f"{rows:,} row{'' if rows == 1 else 's'}"
    if more:
        said = f"The first {said}; there are more"
    if shown < rows:
        said += f"; {shown} shown"
    return said + "."


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else _json(value)
    text = " ".join(text.split())
    if len(text) > LONGEST_CELL:
        text = f"{text[:LONGEST_CELL]}…"
    # What a file holds is shown as it is, not as Markdown.
    return _MARKDOWN.sub(r"\\\g<0>", text)


def _block(text: str, language: str) -> str:
    if len(text) > LONGEST_RESULT:
        text = f"{text[:LONGEST_RESULT]}\n… {len(text) - LONGEST_RESULT:,} more characters"
    longest = max(map(len, _FENCES.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
