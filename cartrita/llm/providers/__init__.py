"""What the gateway asks of a provider; the modules beside this one are the only ones that know an SDK."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol

from cartrita.errors import CartritaError
from cartrita.llm.catalog import ModelEntry

# Which of the functions a model is to call: auto, none, required, or {"name": the one}.
ToolChoice = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A function that a model wants called; `arguments` is a JSON object as the model wrote it."""

    id: str
    name: str
    arguments: str

    def as_dict(self) -> dict[str, str]:
        """Return it as JSON."""
        return {"id": self.id, "name": self.name, "arguments": self.arguments}


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function that whoever asks the model runs itself; `parameters` is a JSON Schema of an object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any]
    strict: bool = False


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a prompt; `role` is system, user, assistant, or tool for what the call `tool_call_id` of
    an earlier message gave. `name` tells speakers of one role apart.
    """

    role: str
    content: str
    tool_calls: tuple[FunctionCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""

    @property
    def counted(self) -> str:
        """All of the message's text that a model reads."""
        if not (self.tool_calls or self.name):
            return self.content
        called = (f"{each.id} {each.name} {each.arguments}" for each in self.tool_calls)
        return "\n".join((self.name, self.content, *called))


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a provider, complete and within the model's limits."""

    entry: ModelEntry
    messages: Sequence[ChatMessage]
    max_output_tokens: int
    temperature: float
    stop: Sequence[str] = ()
    json_schema: Mapping[str, Any] | None = None
    tools: Sequence[Function] = ()
    tool_choice: ToolChoice = "auto"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of the call that stands at `index`: texts to be added to what is known of it."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a stream: text, pieces of calls, the reason of its end, the usage, or some of them."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None
    calls: tuple[CallPiece, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedded:
    """One vector a text, in the order of the texts; `tokens` None where the provider did not count."""

    vectors: tuple[tuple[float, ...], ...]
    tokens: int | None


class ProviderFailed(CartritaError):
    """A provider gave no whole answer.

    `failure` is a code of ModelFailed; `billed` says whether the provider may have charged for the prompt.
    """

    code: ClassVar[str] = "provider_failed"
    status: ClassVar[int] = 502

    def __init__(
        self,
        failure: str,
        message: str,
        *,
        retryable: bool,
        billed: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.failure = failure
        self.retryable = retryable
        self.billed = billed
        self.retry_after = retry_after


class Provider(Protocol):
    """A way to reach models."""

    async def count_prompt(self, entry: ModelEntry, messages: Sequence[ChatMessage], /) -> int:
        """Return the prompt's tokens, those of the chat form included. Raises ProviderFailed."""
        ...

    async def count_text(self, entry: ModelEntry, text: str, /) -> int:
        """Return the tokens of a bare text. Raises ProviderFailed."""
        ...

    def stream(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """Yield the answer as it comes; closing the generator stops the model. Raises ProviderFailed."""
        ...


class Embedder(Protocol):
    """A way to reach models that turn texts into vectors."""

    async def count_text(self, entry: ModelEntry, text: str, /) -> int:
        """Return the tokens of a text. Raises ProviderFailed."""
        ...

    async def embed(self, entry: ModelEntry, texts: Sequence[str], /) -> Embedded:
        """Return the vectors of texts, few enough for one request. Raises ProviderFailed."""
        ...


@cache
def provider(name: str) -> Provider:
    """Return the provider of that name; its SDK is imported only when it is first called."""
    if name == "openai":
        from cartrita.llm.providers.openai import OpenAIProvider

        return OpenAIProvider()
    if name == "local":
        from cartrita.llm.providers.local import LocalProvider

        return LocalProvider()
    if name == "scripted":
        from cartrita.llm.providers.scripted import ScriptedProvider

        return ScriptedProvider()
    raise LookupError(f"no provider is called {name!r}")
