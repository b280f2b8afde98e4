"""Functions that whoever asks a model runs itself: what the model is told of them, and what it wants called.

A model that cannot use tools by itself, and can keep to a JSON Schema, gets them by structured output: one of
`{"tool": name, "arguments": {...}}`, `{"answer": text}` and, where a schema of the answer is given,
`{"result": a value that fits it}`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any
from uuid import UUID

from cartrita.errors import BadInput
from cartrita.eventstore.canonical import canonical_json
from cartrita.llm import structured
from cartrita.llm.providers import CallPiece, ChatMessage, Function, FunctionCall, ToolChoice

MOST_FUNCTIONS = 128
MOST_CALLS = 128
LONGEST_DESCRIPTION = 4096
# Of the schemas of all functions together, as `structured.parts` counts them.
MOST_PARTS = 5_000
CHOICES = ("auto", "none", "required")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
# No function is called so: their names have no full stop.
_RESULT = ".result"


def check(tools: Sequence[Function], choice: ToolChoice, *, member: str = "") -> None:
    """Raise BadInput, naming the field, for functions that no model can be offered.

    `member` is the path from an entry of `tools` to what it says, such as `.function`. Large schemas take
    seconds to check: call it in a thread.
    """
    if len(tools) > MOST_FUNCTIONS:
        raise BadInput(f"tools has {len(tools)} functions; send {MOST_FUNCTIONS} at most.", field="tools")
    if (parts := sum(structured.parts(each.parameters) for each in tools)) > MOST_PARTS:
        raise BadInput(f"The schemas in tools have {parts} parts; they may have {MOST_PARTS}.", field="tools")
    names: set[str] = set()
    for number, tool in enumerate(tools):
        field = f"tools[{number}]{member}"
        if not _NAME.fullmatch(tool.name):
            raise BadInput(
                f"{field}.name is {tool.name[:80]!r}; use 1 to 64 letters, digits, _ and -.",
                field=f"{field}.name",
            )
        if tool.name in names:
            raise BadInput(f"Two functions are called {tool.name}; rename one.", field=f"{field}.name")
        names.add(tool.name)
        if len(tool.description) > LONGEST_DESCRIPTION:
            raise BadInput(
                f"{field}.description has {len(tool.description)} characters; use "
                f"{LONGEST_DESCRIPTION} at most.",
                field=f"{field}.description",
            )
        if tool.parameters.get("type", "object") != "object":
            raise BadInput(
                f"{field}.parameters must be the schema of an object.", field=f"{field}.parameters.type"
            )
        structured.check_schema(tool.parameters, field=f"{field}.parameters")
    _check_choice(choice, names)


def described(tools: Sequence[Function]) -> list[dict[str, Any]]:
    """Return functions as JSON, as a model is told of them."""
    return [
        {"name": each.name, "description": each.description, "parameters": dict(each.parameters)}
        | ({"strict": True} if each.strict else {})
        for each in tools
    ]


def text_of(tools: Sequence[Function]) -> str:
    """Return the functions as one text, to count their tokens by."""
    return json.dumps(described(tools), ensure_ascii=False, separators=(",", ":"))


def fingerprint(tools: Sequence[Function]) -> str:
    """Return the SHA-256 (hex) of all that a model is told of the functions."""
    return sha256(canonical_json(described(tools))).hexdigest()


def offered(tools: Sequence[Function], choice: ToolChoice) -> tuple[Function, ...]:
    """Return the functions of which the choice leaves the model some."""
    if choice == "none":
        return ()
    if isinstance(choice, str):
        return tuple(tools)
    return tuple(each for each in tools if each.name == choice["name"])


def assembled(pieces: Sequence[CallPiece], *, decision_id: UUID) -> tuple[FunctionCall, ...]:
    """Return the calls that the pieces make up, in order; one without an id of its own gets one."""
    parts: dict[int, tuple[list[str], list[str], list[str]]] = {}
    for piece in pieces:
        ids, names, arguments = parts.setdefault(piece.index, ([], [], []))
        # Some servers repeat id and name with every piece.
        ids += [piece.id] if piece.id and not ids else []
        names += [piece.name] if piece.name and not names else []
        arguments.append(piece.arguments)
    calls: list[FunctionCall] = []
    for index in sorted(parts):
        given, name, written = ("".join(each) for each in parts[index])
        taken = {each.id for each in calls}
        known = given if given and given not in taken else f"call_{decision_id.hex}_{len(calls)}"
        calls.append(FunctionCall(_whole(known), _whole(name), _whole(written)))
    return tuple(calls)


def complaint(
    calls: Sequence[FunctionCall], tools: Sequence[Function], choice: ToolChoice, finish_reason: str
) -> str | None:
    """Return what is wrong with the calls of a model, None when they can be made.

    Checking large arguments takes long: call it in a thread.
    """
    known = {each.name: each for each in offered(tools, choice)}
    if not calls:
        must = choice == "required" or not isinstance(choice, str)
        return f"Nothing was called; call one of: {', '.join(known)}." if must else None
    if finish_reason == "length":
        return "The answer was cut off because it was too long."
    if len(calls) > MOST_CALLS:
        return f"{len(calls)} functions were called at once; call {MOST_CALLS} at most."
    for call in calls:
        if call.name not in known:
            return (
                f"There is no function {call.name[:80]!r} to call; there are: {', '.join(known) or 'none'}."
            )
        tool = known[call.name]
        schema = tool.parameters if tool.strict else {"type": "object"}
        wrong = structured.complaint(call.arguments, "", {"type": "object", **schema})
        if wrong is not None:
            return f"The arguments of {call.name} cannot be used. {wrong}"
    return None


def repair(
    text: str, calls: Sequence[FunctionCall], wrong: str, tools: Sequence[Function]
) -> tuple[ChatMessage, ChatMessage]:
    """Return the messages that ask for rejected calls again."""
    # As text: an interface of calls would want each of them answered first.
    quote = "\n".join([*([text] if text.strip() else []), *map(_quoted, calls)]) or "(nothing)"
    names = ", ".join(each.name for each in tools)
    return (
        ChatMessage("assistant", quote[: structured.LONGEST_QUOTE]),
        ChatMessage(
            "user",
            f"That was rejected:\n{wrong}\nAnswer again. The functions are: {names}. Arguments are one JSON "
            "object that fits the function's parameters.",
        ),
    )


def proposal_schema(
    tools: Sequence[Function], choice: ToolChoice, result: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the JSON Schema of what a model says that gets functions by structured output."""
    able = offered(tools, choice)
    definitions = {each.name: {"type": "object", **_rebased(each.parameters, each.name)} for each in able}
    forms = [
        _form({"tool": {"const": each.name}, "arguments": {"$ref": f"#/$defs/{each.name}"}}) for each in able
    ]
    if choice == "auto" and result is None:
        forms.append(_form({"answer": {"type": "string"}}))
    elif choice == "auto" and result is not None:
        definitions[_RESULT] = _rebased(result, _RESULT)
        forms.append(_form({"result": {"$ref": f"#/$defs/{_RESULT}"}}))
    return {"anyOf": forms, "$defs": definitions}


def instruction(
    tools: Sequence[Function], choice: ToolChoice, result: Mapping[str, Any] | None
) -> ChatMessage:
    """Return what tells a model of functions that it gets by structured output."""
    answer = '{"answer": your answer}' if result is None else '{"result": your answer as JSON}'
    otherwise = f" To answer without one: {answer}." if choice == "auto" else ""
    return ChatMessage(
        "system",
        "Answer with one JSON object and nothing else. To call a function: "
        f'{{"tool": its name, "arguments": {{...}}}}.{otherwise} Functions:\n'
        + text_of(offered(tools, choice)),
    )


def plain(messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
    """Return a conversation for a model that knows no tools: calls and what they gave become text."""
    called = {call.id: call.name for message in messages for call in message.tool_calls}
    said = []
    for each in messages:
        if each.role == "tool":
            name = called.get(each.tool_call_id, "The function")
            said.append(ChatMessage("user", f"{name} returned: {each.content}"))
        elif each.tool_calls:
            calls = "\n".join(map(_quoted, each.tool_calls))
            said.append(ChatMessage("assistant", f"{each.content}\n{calls}".strip()))
        else:
            said.append(ChatMessage(each.role, each.content))
    return tuple(said)


def read_proposal(text: str, *, decision_id: UUID) -> tuple[str, tuple[FunctionCall, ...]]:
    """Return the answer and the call that structured output holds; it fits the schema of a proposal."""
    said = json.loads(text)
    if "tool" in said:
        arguments = json.dumps(said["arguments"], ensure_ascii=False)
        return "", (FunctionCall(f"call_{decision_id.hex}_0", said["tool"], arguments),)
    if "answer" in said:
        answer: str = said["answer"]
        return answer, ()
    return json.dumps(said["result"], ensure_ascii=False), ()


def _check_choice(choice: ToolChoice, names: set[str]) -> None:
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise BadInput(
                f"tool_choice is {choice[:80]!r}; use {', '.join(CHOICES)}, or name a function.",
                field="tool_choice",
            )
        if choice == "required" and not names:
            raise BadInput("tool_choice is required, and there are no tools.", field="tool_choice")
    elif choice.get("name") not in names:
        raise BadInput(
            f"tool_choice names {str(choice.get('name'))[:80]!r}, which is none of the tools.",
            field="tool_choice",
        )


def _form(members: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(members),
        "required": list(members),
        "additionalProperties": False,
    }


def _rebased(part: Any, name: str) -> Any:
    """Return a schema whose references into itself hold where it is the definition `name` of another."""
    if isinstance(part, list):
        return [_rebased(each, name) for each in part]
    if not isinstance(part, Mapping):
        return part
    return {
        key: f"#/$defs/{name}{each[1:]}" if key == "$ref" and isinstance(each, str) else _rebased(each, name)
        for key, each in part.items()
        if key != "$schema"
    }


def _quoted(call: FunctionCall) -> str:
    return f'{{"tool": {json.dumps(call.name)}, "arguments": {call.arguments}}}'


def _whole(text: str) -> str:
    """Join surrogate pairs that were cut apart, and replace what no text can hold."""
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\0", "\N{REPLACEMENT CHARACTER}")
