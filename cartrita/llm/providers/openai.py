"""OpenAI's chat API, at OpenAI or at any address that speaks it."""

import asyncio
import importlib
import math
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from django.conf import settings

from cartrita.errors import BadInput
from cartrita.eventstore.aio import close_with_loop
from cartrita.llm import vocabularies
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.providers import (
    Call,
    CallPiece,
    ChatMessage,
    Chunk,
    Embedded,
    Function,
    ProviderFailed,
    ToolChoice,
    Usage,
)

if TYPE_CHECKING:
    import openai

CONNECT_SECONDS = 10.0
# Where the SDK goes when it is told nothing else.
OPENAI_URL = "https://api.openai.com/v1"
# The longest silence within an answer before it counts as timed out.
SILENCE_SECONDS = 60.0

# What the chat form adds, as OpenAI documents it for these models: around each message three tokens and one
# for its role, and three that open the answer.
TOKENS_PER_MESSAGE = 4
TOKENS_OF_ANSWER_START = 3

# No context is as large: a report of more is no count.
MOST_TOKENS = 1_000_000_000


class OpenAIProvider:
    """Calls chat completions with the `openai` SDK; retrying is the gateway's."""

    def __init__(self, *, silence_seconds: float = SILENCE_SECONDS) -> None:
        self._silence_seconds = silence_seconds
        # A client's connections belong to the event loop that opened them.
        self._clients: WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[tuple[str, str], openai.AsyncOpenAI]
        ] = WeakKeyDictionary()

    async def count_prompt(self, entry: ModelEntry, messages: Sequence[ChatMessage], /) -> int:
        def total() -> int:
            counted = sum(vocabularies.count(entry.tokenizer, message.counted) for message in messages)
            return counted + TOKENS_PER_MESSAGE * len(messages) + TOKENS_OF_ANSWER_START

        return await asyncio.to_thread(total)

    async def count_text(self, entry: ModelEntry, text: str, /) -> int:
        return await asyncio.to_thread(vocabularies.count, entry.tokenizer, text)

    async def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        sdk, client = await self.client(call.entry)
        opened = False
        try:
            response = await client.chat.completions.create(**self.arguments(call))
            opened = True
            async with response:
                async for part in response:
                    yield _chunk(part)
        except sdk.OpenAIError as error:
            raise _failure(sdk, error, call.entry.name, opened=opened) from error
        except (ValueError, RecursionError) as error:
            raise ProviderFailed(
                "server_error",
                f"{call.entry.name} sent a stream that is not one of chat completions.",
                retryable=True,
                billed=True,
            ) from error

    async def client(self, entry: ModelEntry) -> tuple[Any, "openai.AsyncOpenAI"]:
        """Return the SDK and the running loop's client for this model's address. Raises ProviderFailed."""
        base_url, api_key = await self.reach(entry)
        sdk = await _sdk()
        loop = asyncio.get_running_loop()
        clients = self._clients.get(loop)
        if clients is None:
            clients = self._clients[loop] = {}
            close_with_loop(self._close)
        client = clients.get((base_url, api_key))
        if client is None:
            client = clients[base_url, api_key] = sdk.AsyncOpenAI(
                api_key=api_key,
                base_url=base_url or None,
                max_retries=0,
                timeout=sdk.Timeout(self._silence_seconds, connect=CONNECT_SECONDS),
                # A prompt goes to the host that the environment names, and no further.
                http_client=sdk.DefaultAsyncHttpxClient(follow_redirects=False),
            )
        return sdk, client

    async def _close(self) -> None:
        for client in self._clients.pop(asyncio.get_running_loop(), {}).values():
            await client.close()

    async def reach(self, entry: ModelEntry, /) -> tuple[str, str]:
        """Return base URL and key. Raises ProviderFailed when there is none."""
        if not settings.OPENAI_API_KEY:
            raise ProviderFailed(
                "not_signed_in", f"{entry.name} needs OPENAI_API_KEY in the environment.", retryable=False
            )
        named = settings.OPENAI_BASE_URL or OPENAI_URL
        if entry.base_url and entry.base_url.rstrip("/") != named.rstrip("/"):
            raise ProviderFailed(
                "not_signed_in",
                f"{entry.name} stands in the catalog with an address of its own, and the key is sent to no "
                "host that the environment does not name; set OPENAI_BASE_URL to it.",
                retryable=False,
            )
        return entry.base_url or settings.OPENAI_BASE_URL, settings.OPENAI_API_KEY

    def arguments(self, call: Call) -> dict[str, Any]:
        """Return the arguments of the SDK's `create`."""
        arguments: dict[str, Any] = {
            "model": call.entry.name,
            "messages": [_message(each) for each in call.messages],
            # Compatible servers know this older name too, and all models of the catalog take it.
            "max_tokens": call.max_output_tokens,
            "temperature": call.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if call.stop:
            arguments["stop"] = list(call.stop)
        if call.json_schema is not None:
            arguments["response_format"] = _response_format(call.entry, call.json_schema)
        if call.tools:
            arguments["tools"] = [{"type": "function", "function": described(each)} for each in call.tools]
            arguments["tool_choice"] = _tool_choice(call.tool_choice)
        return arguments

    async def embed(self, entry: ModelEntry, texts: Sequence[str], /) -> Embedded:
        sdk, client = await self.client(entry)
        try:
            # As numbers: not every compatible server knows the SDK's own default, base64.
            found = await client.embeddings.create(
                model=entry.name, input=list(texts), encoding_format="float"
            )
            return _embedded(found, len(texts))
        except sdk.OpenAIError as error:
            raise _failure(sdk, error, entry.name, opened=False) from error
        except (ValueError, RecursionError) as error:
            raise ProviderFailed(
                "server_error",
                f"{entry.name} sent an answer that is not one of embeddings: {error}",
                retryable=True,
                billed=True,
            ) from error


def described(function: Function) -> dict[str, Any]:
    """Return a function as OpenAI's API takes it."""
    shown: dict[str, Any] = {"name": function.name, "parameters": dict(function.parameters)}
    if function.description:
        shown["description"] = function.description
    if function.strict:
        shown["strict"] = True
    return shown


def status_failure(status: int, message: str, code: str | None, headers: Mapping[str, str]) -> ProviderFailed:
    """Return the failure that an HTTP status stands for, with the wait that Retry-After asks for."""
    retry_after = retry_after_seconds(headers)
    if status == 429 and code == "insufficient_quota":
        return ProviderFailed("out_of_quota", message, retryable=False)
    if status == 429:
        return ProviderFailed("rate_limited", message, retryable=True, retry_after=retry_after)
    if status in {408, 409}:
        return ProviderFailed("timed_out", message, retryable=True, retry_after=retry_after)
    if status >= 500:
        return ProviderFailed("server_error", message, retryable=True, retry_after=retry_after)
    if status in {401, 403}:
        return ProviderFailed("not_signed_in", message, retryable=False)
    if code in {"context_length_exceeded", "exceed_context_size_error"}:
        return ProviderFailed("context_too_long", message, retryable=False)
    return ProviderFailed("rejected", message, retryable=False)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return what Retry-After (RFC 9110, 10.2.3: seconds or a date) or retry-after-ms asks for."""
    with suppress(KeyError, ValueError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000)
    value = headers.get("retry-after")
    if value is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError):
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    return None


def _failure(sdk: Any, error: Exception, name: str, *, opened: bool) -> ProviderFailed:
    if isinstance(error, sdk.APITimeoutError):
        return ProviderFailed("timed_out", f"{name} was silent for too long.", retryable=True, billed=True)
    if isinstance(error, sdk.APIConnectionError):
        if opened:
            return ProviderFailed("cut_stream", f"{name} broke off its answer.", retryable=True, billed=True)
        return ProviderFailed(
            "unreachable", f"{name} cannot be reached: {error.__cause__!r}.", retryable=True
        )
    if isinstance(error, sdk.APIStatusError):
        # llama.cpp's server says in `type` what OpenAI says in `code`.
        code = error.type if error.code in {None, str(error.status_code)} else error.code
        return status_failure(error.status_code, error.message, code, error.response.headers)
    # An error inside of the stream has no status of its own.
    return ProviderFailed("server_error", f"{name} reported: {error}", retryable=True, billed=opened)


def _message(message: ChatMessage) -> dict[str, Any]:
    sent: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.role == "tool":
        return {**sent, "tool_call_id": message.tool_call_id}
    if message.name:
        sent["name"] = message.name
    if message.tool_calls:
        sent["content"] = message.content or None
        sent["tool_calls"] = [
            {
                "id": each.id,
                "type": "function",
                "function": {"name": each.name, "arguments": each.arguments},
            }
            for each in message.tool_calls
        ]
    return sent


def _tool_choice(choice: ToolChoice) -> Any:
    if isinstance(choice, str):
        return choice
    return {"type": "function", "function": {"name": choice["name"]}}


def _response_format(entry: ModelEntry, schema: Mapping[str, Any]) -> dict[str, Any]:
    if entry.can("json_schema"):
        return {"type": "json_schema", "json_schema": {"name": "answer", "schema": dict(schema)}}
    if entry.can("json_object"):
        return {"type": "json_object"}
    raise BadInput(f"Model {entry.name!r} cannot answer in JSON; choose another.", field="model")


def _chunk(part: Any) -> Chunk:
    """Return a part of the stream; the SDK has checked nothing of it. Raises ValueError."""
    choices = getattr(part, "choices", None) or []
    choice = choices[0] if isinstance(choices, list) and choices else None
    delta = getattr(choice, "delta", None)
    text = getattr(delta, "content", None) or ""
    finish_reason = getattr(choice, "finish_reason", None)
    if not isinstance(text, str) or not isinstance(finish_reason, str | None):
        raise ValueError("a part of the stream has no text where text belongs")  # noqa: TRY004 - as bad JSON
    return Chunk(
        text=text,
        finish_reason=finish_reason,
        usage=_usage(getattr(part, "usage", None)),
        calls=tuple(map(_call_piece, getattr(delta, "tool_calls", None) or ())),
    )


def _call_piece(piece: Any) -> CallPiece:
    function = getattr(piece, "function", None)
    index = getattr(piece, "index", None)
    texts = [
        getattr(piece, "id", None) or "",
        getattr(function, "name", None) or "",
        getattr(function, "arguments", None) or "",
    ]
    if type(index) is not int or index < 0 or not all(isinstance(each, str) for each in texts):
        raise ValueError("a part of the stream has no call where a call belongs")
    return CallPiece(index, *texts)


def _embedded(found: Any, count: int) -> Embedded:
    """Return the vectors in the order of the texts; the SDK has checked nothing. Raises ValueError."""
    vectors: dict[int, tuple[float, ...]] = {}
    for each in getattr(found, "data", None) or ():
        index, numbers = getattr(each, "index", None), getattr(each, "embedding", None)
        if type(index) is not int or not isinstance(numbers, list) or not all(map(_is_finite, numbers)):
            raise ValueError("a vector is none")
        vectors[index] = tuple(map(float, numbers))
    if sorted(vectors) != list(range(count)) or len({len(each) for each in vectors.values()}) != 1:
        raise ValueError(f"there are not {count} vectors of one length")
    tokens = getattr(getattr(found, "usage", None), "prompt_tokens", None)
    counted = tokens if type(tokens) is int and 0 <= tokens <= MOST_TOKENS else None
    return Embedded(tuple(vectors[index] for index in range(count)), counted)


def _is_finite(number: Any) -> bool:
    return type(number) in {int, float} and math.isfinite(number)


def _usage(reported: Any) -> Usage | None:
    """Return the provider's count; None, so that it is counted here, where it reports none that can be."""
    details = getattr(reported, "prompt_tokens_details", None)
    counts: list[Any] = [
        getattr(reported, "prompt_tokens", None),
        getattr(reported, "completion_tokens", None),
        getattr(details, "cached_tokens", None) or 0,
    ]
    return Usage(*counts) if all(type(each) is int and 0 <= each <= MOST_TOKENS for each in counts) else None


_importing = threading.Lock()
_imported: list[Any] = []


async def _sdk() -> Any:
    # The import takes about a second: not on the event loop.
    def load() -> Any:
        with _importing:
            module = importlib.import_module("openai")
            importlib.import_module("openai.resources.chat")
            _imported[:] = [module]
            return module

    return _imported[0] if _imported else await asyncio.to_thread(load)
