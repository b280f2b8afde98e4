"""`/tool {json}` in a message: a call that a person writes out, so that no model has to choose it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

import orjson

from cartrita.errors import BadInput
from cartrita.tools.registry import UnknownTool, all_tools, tool

# `/a/path`, `/what?`, `// not a call` and `/ neither` are ordinary text.
_CALL = re.compile(r"/([A-Za-z][A-Za-z0-9_-]{0,63})(?:(?:\s+|(?=\{))(.*))?", re.DOTALL)


class ArgumentsNotJson(BadInput):
    """What follows the tool's name is no JSON object."""

    code: ClassVar[str] = "arguments_not_json"


@dataclass(frozen=True, slots=True)
class SlashCall:
    """A tool's name and the arguments for it, not yet checked against the tool's schema."""

    tool: str
    arguments: Mapping[str, Any]


def slash_call(text: str) -> SlashCall | None:
    """Return the call that a message is, None where it is ordinary text.

    A call is a slash and a name, alone or followed by a JSON object. A name that no tool resembles, followed
    by other words, is ordinary text too. Raises UnknownTool, which names similar tools, and ArgumentsNotJson,
    which says where.
    """
    said = text.strip()
    matched = _CALL.fullmatch(said)
    if matched is None:
        return None
    name, rest = matched[1], (matched[2] or "").strip()
    names = [each.name for each in all_tools()]
    if name not in names:
        if rest and not rest.startswith("{") and not get_close_matches(name.lower(), names, n=1):
            return None
        _refuse_unknown(name, names)
    if not rest:
        return SlashCall(name, {})
    return SlashCall(name, _object(name, said, said.rindex(rest)))


def _refuse_unknown(name: str, names: list[str]) -> None:
    close = get_close_matches(name.lower(), names, n=3)
    if close:
        raise UnknownTool(
            f"No tool is called {name!r}; did you mean {' or '.join('/' + each for each in close)}?",
            field="name",
        )
    tool(name)


def _object(name: str, said: str, start: int) -> Mapping[str, Any]:
    content = said[start:]
    if not content.startswith("{"):
        raise ArgumentsNotJson(
            f"After /{name} comes one JSON object with its arguments, such as {_example(name)}.",
            field="arguments",
        )
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        at = start + min(error.pos, len(content))
        line, column = said.count("\n", 0, at) + 1, at - said.rfind("\n", 0, at)
        raise ArgumentsNotJson(
            f"The arguments of /{name} are not JSON: {_reason(error)} at line {line}, column {column} of the "
            f"message. Write them as {_example(name)}.",
            field="arguments",
            line=line,
            column=column,
        ) from None
    checked: Mapping[str, Any] = found
    return checked


def _reason(error: orjson.JSONDecodeError) -> str:
    return error.msg.partition(": line ")[0]


def _example(name: str) -> str:
    """Return how a call of the tool looks: with its required parameters, or all where none is."""
    schema = tool(name).parameters_schema
    shown = schema.get("required") or list(schema.get("properties", {}))
    return f"/{name} {{" + ", ".join(f'"{parameter}": …' for parameter in shown) + "}"
