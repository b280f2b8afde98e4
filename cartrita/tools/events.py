"""What a tool call leaves behind. The runner returns these; whoever called records them on its own stream."""

from collections.abc import Iterable
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from cartrita.eventstore.types import Event, Sealed


class LargeResult(BaseModel):
    """A result whose JSON is above 4 KiB: the blob that holds it, its size, and how it begins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    bytes: int = Field(ge=0)


class ToolReturned(Event):
    """A tool did what was asked. `result` is its JSON, or None where it stands in the blob of `large_result`.

    `preview` is the beginning (256 characters) of a large result. `findings` are the kinds of what detectors
    found in the result, as it is here: without what was redacted. `cost_micros` is in micro-units of
    `currency`; `estimated` is True where whoever was paid did not say the tokens.
    """

    type_name: ClassVar[str] = "tools.ToolReturned"

    tool: str
    definition_hash: str
    idempotency_key: str
    decision_id: UUID
    result: Sealed[dict[str, Any] | None] = None
    large_result: LargeResult | None = None
    preview: Sealed[str] = ""
    findings: tuple[str, ...] = ()
    cost_tokens: int = Field(ge=0)
    cost_micros: int = Field(default=0, ge=0)
    currency: str = "USD"
    estimated: bool = False
    latency_ms: int = Field(ge=0)

    def named_blobs(self) -> Iterable[str]:
        """Return the blob of a large result."""
        return (self.large_result.sha256,) if self.large_result is not None else ()


class ToolFailed(Event):
    """A tool call gave no result: `code` says why.

    Codes: unknown_tool, invalid_parameters, timed_out, failed, invalid_result, result_too_large, cancelled,
    or the code of the foreseen failure that the tool raised. `message` is meant for the agent.
    `may_have_acted` is True when the tool was started and is not idempotent, so that calling again could do
    the thing twice.
    """

    type_name: ClassVar[str] = "tools.ToolFailed"

    tool: str
    definition_hash: str = ""
    idempotency_key: str
    decision_id: UUID | None = None
    code: str
    message: Sealed[str]
    details: Sealed[list[dict[str, Any]]] = Field(default_factory=list)
    retryable: bool = False
    may_have_acted: bool = False
    latency_ms: int = Field(default=0, ge=0)


class ToolDenied(Event):
    """Policy did not let a tool call happen; `message` tells the agent."""

    type_name: ClassVar[str] = "tools.ToolDenied"

    tool: str
    definition_hash: str
    idempotency_key: str
    decision_id: UUID
    outcome: str
    rule: str
    message: str
