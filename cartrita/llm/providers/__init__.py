"""What the gateway asks of a provider; the modules beside this one are the only ones that know an SDK."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol

from cartrita.errors import CartritaError
from cartrita.llm.catalog import ModelEntry


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a prompt; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Call:
    """One request to a provider, complete and within the model's limits."""

    entry: ModelEntry
    messages: Sequence[ChatMessage]
    max_output_tokens: int
    temperature: float
    stop: Sequence[str] = ()
    json_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider counted them."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a stream: text, the reason of its end, the usage, or any of them together."""

    text: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None


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
