"""The parameters of OpenAI's API: which are taken, which change nothing, and which are refused and why.

A parameter that is ignored although it would change the answer is a lie; one that only steers speed, storage
or accounting of another provider is not. So the first are refused by name, the others accepted.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson

from cartrita.errors import BadInput
from cartrita.interop.openai_api.errors import UnknownParameter, Unsupported, WrongValue
from cartrita.llm import functions, structured
from cartrita.llm.providers import Function
from cartrita.orchestrator.relay import FunctionTool, RelayMessage, ToolCall

MOST_STOPS = 4
MOST_TOOLS = 128
MOST_METADATA = 16
MOST_INPUTS = 2048
# Each one is an event of the session; a hundred take half a second.
MOST_MESSAGES_OF_AGENT = 1000
_FUNCTION_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

# Accepted without effect: they steer how another provider stores, bills or speeds up a request.
HARMLESS = frozenset(
    {
        "prediction", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "seed",
        "service_tier", "store", "user",
    }
)  # fmt: skip
# Refused unless they have the value by which they do nothing; with the remedy.
_REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), "There is one answer to a request; send the request again for another."),
    "logprobs": ((False,), "Probabilities of tokens are not told; leave it out."),
    "top_logprobs": ((0,), "Probabilities of tokens are not told; leave it out."),
    "logit_bias": (({},), "Tokens cannot be weighted; leave it out."),
    "top_p": ((1,), "Only temperature steers the choice of words; leave top_p out."),
    "frequency_penalty": ((0,), "Repetitions are not penalised; leave it out."),
    "presence_penalty": ((0,), "Repetitions are not penalised; leave it out."),
    "audio": ((), "Answers are text; leave it out."),
    "modalities": ((["text"],), 'Answers are text; leave it out or send ["text"].'),
    "reasoning_effort": ((), "How long a model thinks cannot be chosen; leave it out."),
    "verbosity": ((), "Say in a message how long the answer shall be; leave it out."),
    "web_search_options": ((), "Let an agent with a fitting tool search; leave it out."),
    "functions": (([],), "Send `tools` in its place."),
    "function_call": (("auto", "none"), "Send `tool_choice` in its place."),
}
_TAKEN = frozenset(
    {
        "max_completion_tokens", "max_tokens", "messages", "metadata", "model", "parallel_tool_calls",
        "response_format", "stop", "stream", "stream_options", "temperature", "tool_choice", "tools",
    }
)  # fmt: skip
_OF_EMBEDDINGS = frozenset({"dimensions", "encoding_format", "input", "metadata", "model", "user"})
# What only a model can be told; an agent has instructions, tools and bounds of its own.
_ONLY_FOR_MODELS = {
    "tools": "An agent uses its own tools",
    "response_format": "An agent chooses the form of its answer",
    "stop": "An agent ends its answer itself",
    "max_tokens": "An agent bounds its answer itself",
    "max_completion_tokens": "An agent bounds its answer itself",
    "temperature": "An agent has the temperature of its model",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A chat request, checked. `caller` is what the caller noted beside it; `session_id` names a session."""

    model: str
    messages: tuple[RelayMessage, ...]
    stream: bool = False
    include_usage: bool = False
    tools: tuple[FunctionTool, ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    one_call: bool = False
    json_schema: dict[str, Any] | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    session_id: UUID | None = None
    caller: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Return the last words of the caller that are not empty."""
        said = (each.content for each in reversed(self.messages) if each.role != "assistant")
        return next((content for content in said if content.strip()), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingsRequest:
    """A request for embeddings, checked."""

    model: str
    inputs: tuple[str, ...]
    base64: bool = False
    session_id: UUID | None = None
    caller: Mapping[str, str] = field(default_factory=dict)


def read_chat(body: Any, *, session: str | None) -> ChatRequest:
    """Return the chat request of a body; `session` is the header's. Raises WrongValue and its like."""
    given = _given(body, _TAKEN)
    tools = _tools(given.get("tools"))
    metadata, session_id = _metadata(given, session)
    return ChatRequest(
        model=_text(given, "model"),
        messages=_messages(given.get("messages")),
        stream=_flag(given, "stream"),
        include_usage=_include_usage(given),
        tools=tools,
        tool_choice=_tool_choice(given.get("tool_choice"), tools),
        one_call=not _flag(given, "parallel_tool_calls", default=True),
        json_schema=_json_schema(given.get("response_format")),
        temperature=_temperature(given),
        max_output_tokens=_max_tokens(given),
        stop=_stops(given.get("stop")),
        session_id=session_id,
        caller=metadata,
    )


def read_embeddings(body: Any, *, session: str | None) -> EmbeddingsRequest:
    """Return the request for embeddings of a body. Raises WrongValue and its like."""
    given = _given(body, _OF_EMBEDDINGS)
    if "dimensions" in given:
        raise Unsupported(
            "Embeddings come in the model's own number of dimensions; leave it out.", field="dimensions"
        )
    metadata, session_id = _metadata(given, session)
    return EmbeddingsRequest(
        model=_text(given, "model"),
        inputs=_inputs(given.get("input")),
        base64=_one_of(given, "encoding_format", ("float", "base64"), default="float") == "base64",
        session_id=session_id,
        caller=metadata,
    )


def require_for_agent(request: ChatRequest, body: Mapping[str, Any]) -> None:
    """Raise what an agent cannot be asked, naming the parameter."""
    for name, why in _ONLY_FOR_MODELS.items():
        neutral = name == "response_format" and request.json_schema is None
        if body.get(name) not in (None, []) and not neutral:
            raise Unsupported(
                f"{why}: leave {name} out, or name a tier or model, whose list is at GET /v1/models.",
                field=name,
            )
    if len(request.messages) > MOST_MESSAGES_OF_AGENT:
        raise WrongValue(
            f"An agent takes {MOST_MESSAGES_OF_AGENT:,} messages at once; send the newest ones, or name a "
            "session that knows the others.",
            field="messages",
        )
    for place, message in enumerate(request.messages):
        if message.role == "tool" or message.tool_calls:
            raise Unsupported(
                "An agent does not take the results of your functions; name a tier or model for that.",
                field=f"messages[{place}]",
            )
    if request.messages[-1].role != "user" or not request.messages[-1].content.strip():
        raise WrongValue(
            "An agent answers the last message, which must be the user's and hold text.",
            field=f"messages[{len(request.messages) - 1}]",
        )


def require_checkable(
    request: ChatRequest,
    *,
    schema: str = "response_format.json_schema.schema",
    function: str = ".function",
) -> None:
    """Raise WrongValue, naming the place, for schemas that no answer or call could be checked against.

    `schema` is the path of the answer's schema, `function` that from an entry of `tools` to its function.
    Large schemas take seconds: call it in a thread.
    """
    try:
        functions.check(
            [Function(**each.model_dump()) for each in request.tools], request.tool_choice, member=function
        )
        if request.json_schema is not None:
            structured.check_schema(request.json_schema, field=schema)
    except BadInput as error:
        raise WrongValue(error.message, field=error.field) from error


def _given(body: Any, taken: frozenset[str]) -> dict[str, Any]:
    """Return the parameters that are there (null is absent), all known and none refused."""
    if not isinstance(body, dict):
        raise WrongValue("The body is a JSON object of parameters.")
    given = {name: value for name, value in body.items() if value is not None}
    for name, value in given.items():
        if name in _REFUSED and taken is _TAKEN:
            neutral, remedy = _REFUSED[name]
            if not any(
                value == each and isinstance(value, bool) == isinstance(each, bool) for each in neutral
            ):
                raise Unsupported(f"{name} is not supported with this value. {remedy}", field=name)
        elif name not in taken and name not in HARMLESS:
            raise UnknownParameter(f"There is no parameter {name[:100]!r}; leave it out.", field=name[:100])
    return given


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise WrongValue(f"{name} is needed, as text.", field=name)
    return value


def _flag(given: Mapping[str, Any], name: str, *, default: bool = False) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise WrongValue(f"{name} is true or false.", field=name)
    return value


def _one_of(given: Mapping[str, Any], name: str, known: Sequence[str], *, default: str) -> str:
    value = given.get(name, default)
    if value not in known:
        raise WrongValue(f"{name} is one of {', '.join(known)}.", field=name)
    return str(value)


def _include_usage(given: Mapping[str, Any]) -> bool:
    options = given.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict) or not given.get("stream"):
        raise WrongValue(
            "stream_options is an object, and only there with stream: true.", field="stream_options"
        )
    unknown = set(options) - {"include_usage", "include_obfuscation"}
    if unknown:
        name = f"stream_options.{min(unknown)}"
        raise UnknownParameter(f"There is no parameter {name[:100]!r}; leave it out.", field=name[:100])
    if options.get("include_obfuscation"):
        raise Unsupported(
            "Chunks are not padded; send include_obfuscation: false.",
            field="stream_options.include_obfuscation",
        )
    return _flag(options, "include_usage")


def _temperature(given: Mapping[str, Any]) -> float | None:
    value = given.get("temperature")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2:
        raise WrongValue("temperature is a number from 0 to 2.", field="temperature")
    return float(value)


def _max_tokens(given: Mapping[str, Any]) -> int | None:
    found: int | None = None
    for name in ("max_tokens", "max_completion_tokens"):
        value = given.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise WrongValue(f"{name} is a whole number from 1 on.", field=name)
        if found is not None and found != value:
            raise WrongValue("max_tokens and max_completion_tokens differ; send one of them.", field=name)
        found = value
    return found


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if (
        not isinstance(stops, list)
        or len(stops) > MOST_STOPS
        or not all(isinstance(each, str) and each for each in stops)
    ):
        raise WrongValue(f"stop is a text, or a list of at most {MOST_STOPS} texts.", field="stop")
    return tuple(stops)


def _metadata(given: Mapping[str, Any], header: str | None) -> tuple[dict[str, str], UUID | None]:
    """Return what the caller noted, and the session that header or metadata name."""
    noted = given.get("metadata", {})
    if (
        not isinstance(noted, dict)
        or len(noted) > MOST_METADATA
        or not all(isinstance(value, str) and len(value) <= 512 for value in noted.values())
        or not all(len(name) <= 64 for name in noted)
    ):
        raise WrongValue(
            f"metadata has at most {MOST_METADATA} members: names of 64 characters, texts of 512.",
            field="metadata",
        )
    user = given.get("user")
    if user is not None and (not isinstance(user, str) or len(user) > 512):
        raise WrongValue("user is a text of at most 512 characters.", field="user")
    named = {"metadata.session_id": noted.get("session_id"), "x-cartrita-session": header}
    found = {_session(value, place) for place, value in named.items() if value}
    if len(found) > 1:
        raise WrongValue(
            "metadata.session_id and the header x-cartrita-session differ.", field="metadata.session_id"
        )
    caller = {name: value for name, value in noted.items() if name != "session_id"}
    return caller | ({"user": user} if user else {}), next(iter(found), None)


def _session(value: str, place: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        raise WrongValue("A session is named by its UUID.", field=place) from None


def _inputs(value: Any) -> tuple[str, ...]:
    inputs = [value] if isinstance(value, str) else value
    if isinstance(inputs, list) and any(isinstance(each, int | list) for each in inputs):
        raise Unsupported("Send texts: their tokens are the model's own affair.", field="input")
    if (
        not isinstance(inputs, list)
        or not 0 < len(inputs) <= MOST_INPUTS
        or not all(isinstance(each, str) and each for each in inputs)
    ):
        raise WrongValue(
            f"input is a text, or a list of 1 to {MOST_INPUTS} texts, none of them empty.", field="input"
        )
    return tuple(inputs)


def _tools(value: Any) -> tuple[FunctionTool, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MOST_TOOLS:
        raise WrongValue(f"tools is a list of at most {MOST_TOOLS} functions.", field="tools")
    tools = tuple(_tool(each, f"tools[{place}]") for place, each in enumerate(value))
    names = [each.name for each in tools]
    if len(set(names)) < len(names):
        raise WrongValue("Two functions have one name; rename one.", field="tools")
    return tools


def _tool(value: Any, place: str) -> FunctionTool:
    if not isinstance(value, dict) or value.get("type") != "function":
        raise Unsupported('A tool is {"type": "function", "function": {…}}.', field=f"{place}.type")
    function = value.get("function")
    if not isinstance(function, dict) or not _is_name(function.get("name")):
        raise WrongValue(
            "A function has a name of 1 to 64 letters, digits, _ and -.", field=f"{place}.function.name"
        )
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise WrongValue("parameters is a JSON Schema.", field=f"{place}.function.parameters")
    description = function.get("description") or ""
    if not isinstance(description, str):
        raise WrongValue("A description is text.", field=f"{place}.function.description")
    return FunctionTool(
        name=function["name"],
        description=description,
        parameters=parameters,
        strict=bool(function.get("strict")),
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and _FUNCTION_NAME.fullmatch(value) is not None


def _tool_choice(value: Any, tools: Sequence[FunctionTool]) -> str | dict[str, Any]:
    if value is None:
        return "auto" if tools else "none"
    if value in ("none", "auto") and not tools:
        return "none"
    if not tools:
        raise WrongValue("tool_choice needs tools.", field="tool_choice")
    if value in ("auto", "none", "required"):
        return str(value)
    if isinstance(value, dict) and value.get("type") == "function":
        function = value.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        # A list: what is named may be anything, also what has no hash.
        if name not in [each.name for each in tools]:
            raise WrongValue("tool_choice names none of the functions in tools.", field="tool_choice")
        return {"name": name}
    raise Unsupported(
        "tool_choice is auto, none, required, or names one function.",
        field="tool_choice",
    )


def _json_schema(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "object"}
    if kind != "json_schema":
        raise WrongValue(
            "response_format has the type text, json_object or json_schema.", field="response_format"
        )
    described = value.get("json_schema")
    schema = described.get("schema") if isinstance(described, dict) else None
    if not isinstance(schema, dict):
        raise WrongValue(
            'response_format is {"type": "json_schema", "json_schema": {"name": …, "schema": {…}}}.',
            field="response_format.json_schema.schema",
        )
    return schema


def _messages(value: Any) -> tuple[RelayMessage, ...]:
    if not isinstance(value, list) or not value:
        raise WrongValue("messages is a list of at least one message.", field="messages")
    messages: list[RelayMessage] = []
    called: set[str] = set()
    for number, each in enumerate(value):
        message = _message(each, f"messages[{number}]")
        if message.role == "tool" and message.tool_call_id not in called:
            raise WrongValue(
                "A tool message answers a call of an assistant message before it, by its tool_call_id.",
                field=f"messages[{number}].tool_call_id",
            )
        called |= {call.id for call in message.tool_calls}
        messages.append(message)
    if messages[-1].role == "assistant" or not any(each.role != "system" for each in messages):
        raise WrongValue("The last message is the user's or of a tool.", field="messages")
    return tuple(messages)


def _message(value: Any, place: str) -> RelayMessage:
    role = value.get("role") if isinstance(value, dict) else None
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        raise WrongValue(
            "A message has one of the roles system, developer, user, assistant, tool.", field=f"{place}.role"
        )
    for name in ("audio", "function_call"):
        if value.get(name) is not None:
            raise Unsupported("Only text and tool_calls are taken.", field=f"{place}.{name}")
    calls = _calls(value.get("tool_calls"), f"{place}.tool_calls") if role == "assistant" else ()
    content = _content(value.get("content"), f"{place}.content")
    if content is None:
        if not calls:
            raise WrongValue("A message needs content.", field=f"{place}.content")
        content = ""
    name, call_id = value.get("name") or "", value.get("tool_call_id") or ""
    if not isinstance(name, str) or not isinstance(call_id, str):
        raise WrongValue("name and tool_call_id are text.", field=place)
    return RelayMessage(
        role=role,
        content=content,
        tool_calls=calls,
        tool_call_id=call_id if role == "tool" else "",
        name=name,
    )


def _content(value: Any, place: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise WrongValue("content is a text, or a list of parts.", field=place)
    texts: list[str] = []
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(kind) if kind in ("text", "refusal") else None
        if kind not in ("text", "refusal"):
            raise Unsupported(
                "Only parts of the type text are taken; give what else there is as a document of a session.",
                field=f"{place}[{number}].type",
            )
        if not isinstance(text, str):
            raise WrongValue("A part of the type text has a text.", field=f"{place}[{number}].text")
        texts.append(text)
    return "".join(texts)


def _calls(value: Any, place: str) -> tuple[ToolCall, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise WrongValue("tool_calls is a list.", field=place)
    return tuple(_call(each, f"{place}[{number}]") for number, each in enumerate(value))


def _call(value: Any, place: str) -> ToolCall:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(value.get("id"), str) or not value["id"]:
        raise WrongValue('A call is {"id": …, "type": "function", "function": {…}}.', field=place)
    arguments = function.get("arguments")
    if not _is_name(function.get("name")):
        raise WrongValue("A call names its function.", field=f"{place}.function.name")
    if not isinstance(arguments, str) or not _is_object(arguments):
        raise WrongValue("arguments is a JSON object, as text.", field=f"{place}.function.arguments")
    return ToolCall(id=value["id"], name=function["name"], arguments=arguments)


def _is_object(text: str) -> bool:
    try:
        # As whatever sends it on reads it: without NaN and halves of surrogate pairs.
        return isinstance(orjson.loads(text), dict)
    except (ValueError, RecursionError):
        return False
