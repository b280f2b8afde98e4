"""OpenAI's newer route, /v1/responses, told in the words of the older one: the same calls, another form."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from cartrita.errors import CartritaError
from cartrita.interop.openai_api.answers import Completion
from cartrita.interop.openai_api.errors import UnknownParameter, Unsupported, WrongValue
from cartrita.interop.openai_api.parameters import ChatRequest, read_chat
from cartrita.interop.openai_api.turns import Asked

# The same under both routes.
_SAME = {
    "metadata", "model", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention",
    "safety_identifier", "service_tier", "store", "stream", "stream_options", "temperature", "top_logprobs",
    "top_p", "user",
}  # fmt: skip
# Accepted with the value by which they do nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "background": (False,),
    "include": ([],),
    "truncation": ("disabled",),
    "text": (),
}
_OWN_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
}
_PREFIX = "resp_"


def as_chat(body: Any) -> dict[str, Any]:
    """Return the body of the same call of /v1/chat/completions. Raises WrongValue and its like."""
    if not isinstance(body, dict):
        raise WrongValue("The body is a JSON object of parameters.")
    given = {name: value for name, value in body.items() if value is not None}
    chat = {name: given.pop(name) for name in list(given) if name in _SAME}
    chat["messages"] = _messages(given.pop("instructions", None), given.pop("input", None))
    if "max_output_tokens" in given:
        chat["max_completion_tokens"] = given.pop("max_output_tokens")
    if tools := given.pop("tools", None):
        chat["tools"] = _tools(tools)
    if (choice := given.pop("tool_choice", None)) is not None:
        is_function = isinstance(choice, dict) and choice.get("type") == "function"
        chat["tool_choice"] = (
            {"type": "function", "function": {"name": choice.get("name")}} if is_function else choice
        )
    if text := given.pop("text", None):
        chat["response_format"] = _format(text)
    if (previous := given.pop("previous_response_id", None)) is not None:
        noted = chat.get("metadata", {})
        if isinstance(noted, dict):
            chat["metadata"] = {**noted, "session_id": str(_session(previous))}
    for name, value in given.items():
        if name not in _NEUTRAL:
            raise UnknownParameter(f"There is no parameter {name[:100]!r}; leave it out.", field=name[:100])
        if value not in _NEUTRAL[name]:
            raise Unsupported(f"{name} is not supported with this value; leave it out.", field=name)
    return chat


def read(body: Any, *, session: str | None) -> tuple[ChatRequest, dict[str, Any]]:
    """Return the request of a body, and the body of the same call of /v1/chat/completions.

    Raises as `read_chat`, in this route's names.
    """
    chat = as_chat(body)
    with in_own_names():
        return read_chat(chat, session=session), chat


@contextmanager
def in_own_names() -> Iterator[None]:
    """Let errors name the parameters of this route in place of the other one's."""
    try:
        yield
    except CartritaError as error:
        name = (error.field or "").partition("[")[0].partition(".")[0]
        error.field = _OWN_NAMES.get(name, error.field)
        raise


def identifier(asked: Asked) -> str:
    """Return the id of a response: its session and its message, so that the next one finds the session."""
    return f"{_PREFIX}{asked.session_id.hex}{asked.message_id.hex}"


def response(
    asked: Asked,
    wanted: Mapping[str, Any],
    done: Completion | None,
    *,
    created: int,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the response object; without `done` the one of an answer that has begun."""
    cut = done is not None and done.finish_reason == "length"
    status = "in_progress" if done is None else "incomplete" if cut else "completed"
    return {
        "id": identifier(asked),
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": wanted.get("instructions"),
        "max_output_tokens": wanted.get("max_output_tokens"),
        "model": done.model if done else wanted["model"],
        "output": [] if done is None else items(asked, done),
        "parallel_tool_calls": wanted.get("parallel_tool_calls", True),
        "previous_response_id": wanted.get("previous_response_id"),
        "temperature": wanted.get("temperature"),
        "text": wanted.get("text") or {"format": {"type": "text"}},
        "tool_choice": wanted.get("tool_choice") or "auto",
        "tools": wanted.get("tools") or [],
        "top_p": None,
        "usage": None if done is None else _usage(done),
        "metadata": wanted.get("metadata") or {},
        "cartrita": dict(facts),
    }


def items(asked: Asked, done: Completion) -> list[dict[str, Any]]:
    """Return what was answered: a message where there is text, and the calls of functions."""
    found = [_message_item(asked, done.text)] if done.text or not done.tool_calls else []
    return found + [
        {
            "id": f"fc_{asked.message_id.hex}_{place}",
            "type": "function_call",
            "status": "completed",
            "call_id": call.id,
            "name": call.name,
            "arguments": call.arguments,
        }
        for place, call in enumerate(done.tool_calls)
    ]


def text_begins(asked: Asked) -> Iterator[dict[str, Any]]:
    """Yield the events before the first word."""
    item = {**_message_item(asked, ""), "status": "in_progress", "content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": item}
    yield {
        "type": "response.content_part.added",
        "item_id": item["id"],
        "output_index": 0,
        "content_index": 0,
        "part": _part(""),
    }


def text_goes_on(asked: Asked, text: str) -> dict[str, Any]:
    """Return the event of some words."""
    place = {"item_id": _message_item(asked, "")["id"], "output_index": 0, "content_index": 0}
    return {"type": "response.output_text.delta", **place, "delta": text, "logprobs": []}


def text_ends(asked: Asked, text: str) -> Iterator[dict[str, Any]]:
    """Yield the events after the last word."""
    item = _message_item(asked, text)
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    yield {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": _part(text)}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}


def calls_come(asked: Asked, done: Completion) -> Iterator[dict[str, Any]]:
    """Yield the events of the calls of functions, each whole."""
    for place, item in enumerate(items(asked, done)):
        if item["type"] != "function_call":
            continue
        at = {"item_id": item["id"], "output_index": place}
        begun = {**item, "status": "in_progress", "arguments": ""}
        arguments = item["arguments"]
        yield {"type": "response.output_item.added", "output_index": place, "item": begun}
        yield {"type": "response.function_call_arguments.delta", **at, "delta": arguments}
        yield {
            "type": "response.function_call_arguments.done",
            **at,
            "name": item["name"],
            "arguments": arguments,
        }
        yield {"type": "response.output_item.done", "output_index": place, "item": item}


def _message_item(asked: Asked, text: str) -> dict[str, Any]:
    return {
        "id": f"msg_{asked.message_id.hex}",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [_part(text)],
    }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(done: Completion) -> dict[str, Any]:
    return {
        "input_tokens": done.prompt_tokens,
        "input_tokens_details": {"cached_tokens": done.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": done.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": done.prompt_tokens + done.completion_tokens,
    }


def _session(previous: Any) -> UUID:
    try:
        if isinstance(previous, str) and previous.startswith(_PREFIX):
            return UUID(previous.removeprefix(_PREFIX)[:32])
    except ValueError:
        pass
    raise WrongValue("There is no such response.", field="previous_response_id")


def _messages(instructions: Any, given: Any) -> list[dict[str, Any]]:
    if instructions is not None and not isinstance(instructions, str):
        raise WrongValue("instructions is text.", field="instructions")
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise WrongValue("input is a text, or a list of items.", field="input")
    for place, item in enumerate(given):
        kind = item.get("type", "message") if isinstance(item, dict) else None
        if kind == "message":
            messages.append({"role": item.get("role"), "content": _content(item.get("content"), place)})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if messages and messages[-1].get("tool_calls"):
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        elif kind == "function_call_output":
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": item.get("call_id"),
                    "content": _content(item.get("output"), place),
                }
            )
        else:
            raise Unsupported(
                "Items are messages, function_call and function_call_output.", field=f"input[{place}].type"
            )
    return messages


def _content(value: Any, place: int) -> Any:
    if not isinstance(value, list):
        return value
    parts = []
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in ("input_text", "output_text"):
            raise Unsupported("Only parts of text are taken.", field=f"input[{place}].content[{number}].type")
        parts.append({"type": "text", "text": part.get("text")})
    return parts


def _tools(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [
        {"type": "function", "function": {key: inner for key, inner in each.items() if key != "type"}}
        if isinstance(each, dict) and each.get("type") == "function"
        else each
        for each in value
    ]


def _format(value: Any) -> Any:
    described = value.get("format") if isinstance(value, dict) else None
    unknown = set(value) - {"format"} if isinstance(value, dict) else set()
    if unknown:
        raise Unsupported("Of text only format is taken.", field=f"text.{min(unknown)[:100]}")
    if isinstance(described, dict) and described.get("type") == "json_schema":
        inner = {key: each for key, each in described.items() if key != "type"}
        return {"type": "json_schema", "json_schema": inner}
    return described
