"""What a model call leaves behind: exactly one of these two on the run's stream."""

from collections.abc import Iterable
from datetime import datetime
from typing import ClassVar, Literal
from uuid import UUID

from cartrita.eventstore.types import Event, Sealed


class ModelUse(Event):
    """What both outcomes record: which model did what, in how many tries, and what it cost.

    `attempt` is the run's, `tries` counts requests sent to the provider within it. Tokens are summed over
    repairs. `estimated` is True when the provider reported no usage and the tokens were counted locally.
    Prices are micro-units of `currency` per million tokens, as valid from `price_valid_from`; `cost_micros`
    is rounded up. `text` is what the model said; where that is too long for an event, its beginning, and
    `text_blob` names the blob of the whole (`gateway.whole_text`).
    """

    decision_id: UUID
    attempt: int
    tries: int
    model: str
    provider: str
    tier: str
    purpose: Literal["execution", "planning", "creative"]
    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int
    estimated: bool
    cost_micros: int
    currency: str
    input_price: int
    cached_price: int
    output_price: int
    price_valid_from: datetime
    latency_ms: int
    first_token_ms: int | None
    text: Sealed[str] = ""
    text_blob: str = ""

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of a long text."""
        return (self.text_blob,)


class ModelAnswered(ModelUse):
    """A model gave a whole answer, `text`.

    `finish_reason` is `stop`, `length` (cut at max_output_tokens) or what else the provider says. `repairs`
    holds the validation error of each rejected structured answer that preceded this one. `tool_calls` are the
    functions that the model wants called, each with id, name and arguments (a JSON object, as text); where
    they are too large for an event, `tool_calls_blob` names the blob that holds them as JSON instead
    (`gateway.whole_calls`).
    """

    type_name: ClassVar[str] = "llm.ModelAnswered"

    finish_reason: str
    repairs: Sealed[tuple[str, ...]] = ()
    tool_calls: Sealed[tuple[dict[str, str], ...]] = ()
    tool_calls_blob: str = ""

    def named_blobs(self) -> Iterable[str]:
        """Return the blobs of a long text and of large calls."""
        return (self.text_blob, self.tool_calls_blob)


class ModelFailed(ModelUse):
    """A model gave no whole answer; `text` is what it had said.

    `code` is one of rate_limited, timed_out, unreachable, server_error, cut_stream, deadline_passed,
    no_answer, circuit_open (nothing was sent, because the provider is unwell), model_busy (nothing was sent,
    because too many calls of the model went on), cancelled (those may succeed when tried again, or with
    another model: `retryable`, save cancelled), rejected, not_signed_in, out_of_quota, context_too_long,
    filtered, invalid_output, not_redactable (nothing was sent, because what rules want taken out is part of a
    name that has to stay). `retry_after_seconds` is the provider's wish, or the rest of the pause of an open
    circuit.
    """

    type_name: ClassVar[str] = "llm.ModelFailed"

    code: str
    message: Sealed[str]
    retryable: bool
    retry_after_seconds: float | None = None
    repairs: Sealed[tuple[str, ...]] = ()
