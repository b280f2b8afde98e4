"""The governed way for another program's own request to a model: what it asks, kept sealed, and what it gets.

The request is a blob under the session's key; the message's metadata names it by its hash. A turn of the
agent `relay` sends it as it is, by the same decisions, reservations and records as any other call of a model.
"""

from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from cartrita.eventstore import put_blob
from cartrita.eventstore.canonical import canonical_json

RELAY_AGENT = "relay"


class ToolCall(BaseModel):
    """A call of one of the caller's own functions; `arguments` is a JSON object as the model wrote it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    arguments: str


class RelayMessage(BaseModel):
    """One message of the caller's conversation; a `tool` message answers the call `tool_call_id`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""


class FunctionTool(BaseModel):
    """A function that the caller runs itself; `parameters` is a JSON Schema of an object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(default_factory=dict)
    strict: bool = False


class RelayRequest(BaseModel):
    """What another program asks of a model: a tier or a model of the catalog.

    `tool_choice` is auto, none, required or {"name": the function}. `inputs` are the texts of embeddings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    kind: Literal["chat", "embeddings"] = "chat"
    messages: tuple[RelayMessage, ...] = ()
    tools: tuple[FunctionTool, ...] = ()
    tool_choice: str | dict[str, Any] = "auto"
    json_schema: dict[str, Any] | None = None
    temperature: float | None = None
    max_output_tokens: int | None = None
    stop: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()


class RelayAnswer(BaseModel):
    """What came of a request; `estimated` tells that tokens were counted here and not by the provider."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls"] = "stop"
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    estimated: bool
    embeddings: tuple[tuple[float, ...], ...] = ()
    decision_id: UUID


def store_relay(request: RelayRequest, *, key_id: UUID) -> str:
    """Keep a request sealed under its session's key; return the hash that names it in a message's metadata.

    Joins the caller's transaction. Raises BadInput for text that cannot be kept, UnknownKey, Erased.
    """
    return put_blob(canonical_json(request.model_dump(mode="json")), key_id=key_id)
