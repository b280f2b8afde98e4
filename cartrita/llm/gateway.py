"""The one way to a model: prepare the call, let policy decide on it, perform it, and say what came of it."""

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from cartrita.errors import BadInput, TooLarge
from cartrita.eventstore import canonical_json, in_database_thread
from cartrita.llm import catalog, structured
from cartrita.llm.catalog import ModelEntry, Purpose
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.providers import Call, ChatMessage, Chunk, ProviderFailed, Usage, provider
from governance.decide import DecisionRequest, RequestFacts
from governance.doors import Permit

TEMPERATURES: Mapping[Purpose, float] = {"planning": 0.1, "execution": 0.2, "creative": 0.7}
ROLES = ("system", "user", "assistant")
USUAL_OUTPUT_TOKENS = 1024
MAX_REPAIRS = 2

OnDelta = Callable[[str], Awaitable[None]]


class ContextTooLong(TooLarge):
    """Prompt and answer together do not fit into the model's context."""

    code = "context_too_long"


class CallCancelled(asyncio.CancelledError):
    """The task was cancelled in the middle of a call; `failed` holds what the model had said.

    Record `failed`, then raise again.
    """

    def __init__(self, failed: ModelFailed) -> None:
        super().__init__("the model call was cancelled")
        self.failed = failed


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """What is wanted of a model.

    Without `model` and `tier` the default for the purpose is taken. Without `max_output_tokens` the answer may
    have 1024 tokens, or what the context leaves. `temperature` defaults by purpose: planning 0.1, execution 0.2,
    creative 0.7. With `json_schema` (JSON Schema 2020-12) the answer's text is JSON that fits it.
    `deadline_seconds` bounds the whole call, retries and repairs included.
    """

    messages: tuple[ChatMessage, ...]
    purpose: Purpose = "execution"
    model: str | None = None
    tier: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    json_schema: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    deadline_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """A call that is ready but for the permit; `request` has its defaults filled in."""

    entry: ModelEntry
    prompt_tokens: int
    request: ModelRequest
    decision_request: DecisionRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and after which pause (seconds, doubling, plus up to `jitter`) a failed try is repeated."""

    tries: int = 5
    first_pause: float = 0.5
    longest_pause: float = 8.0
    jitter: float = 0.25


async def prepare(request: ModelRequest, *, facts: RequestFacts) -> PreparedCall:
    """Choose the model, count the prompt and state the request that policy has to decide on.

    Raises BadInput, UnknownModel, ModelNotConfigured, ContextTooLong, and ProviderFailed when the local model's
    server, which counts its own tokens, does not answer.
    """
    raise NotImplementedError


async def perform(
    prepared: PreparedCall,
    permit: Permit,
    *,
    attempt: int,
    on_delta: OnDelta | None = None,
    retry: Retry = Retry(),
) -> ModelAnswered | ModelFailed:
    """Call the model and return the event that says what came of it; the caller records it.

    `on_delta` gets the text as it comes; once it has got any, a failing call is not tried again, so that nothing
    is said twice. With a JSON schema it gets the whole text once it is valid. `attempt` is the run's. Raises
    NotPermitted when the permit is for another request, CallCancelled when the task is cancelled.
    """
    raise NotImplementedError


async def count_tokens(entry: ModelEntry, messages: Sequence[ChatMessage]) -> int:
    """Return the tokens of a prompt for this model, the chat form's own included. Raises ProviderFailed."""
    return await provider(entry.provider).count_prompt(entry, messages)
