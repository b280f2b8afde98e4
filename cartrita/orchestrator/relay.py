"""The governed way for another program's own request to a model: what it asks, kept sealed, and what it gets.

The request is a blob under the session's key; the message's metadata names it by its hash. A turn of the
agent `relay` sends it as it is, by the same decisions, reservations and records as any other call of a model.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cartrita.errors import CartritaError, NotFound
from cartrita.eventstore import Erased, Event, get_blob, load, put_blob
from cartrita.eventstore.blobs import UnknownBlob
from cartrita.eventstore.canonical import canonical_json
from cartrita.eventstore.sealing import SealBroken
from cartrita.llm import gateway
from cartrita.llm.catalog import ModelEntry
from cartrita.llm.events import ModelAnswered
from cartrita.llm.gateway import ModelRequest
from cartrita.llm.providers import ChatMessage, Function, FunctionCall, ProviderFailed
from cartrita.orchestrator import loop, results
from cartrita.orchestrator.agents import RELAY
from cartrita.orchestrator.labels import CALLER_SYSTEM
from cartrita.orchestrator.loop import RunState
from governance.decide import RequestFacts
from governance.detectors import redacted, redacted_within
from sessions_app.session import ReplyPosted
from tasks_app.plan import PlanRefused
from tasks_app.run import ActDecided, RunFinished

RELAY_AGENT = RELAY.name
EMBEDDING_TOOL = "generate_embeddings"
# What an answer may have where the request does not say, and the model and its context allow it.
USUAL_OUTPUT_TOKENS = 4096
# Retries and repairs included.
DEADLINE_SECONDS = 600.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


class RelayMissing(NotFound):
    """The message names no request of its session that could be passed on."""

    code = "relay_missing"


class RelayNotAnswered(NotFound):
    """There is no answer to the request, or none yet."""

    code = "relay_not_answered"


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

    Without `max_output_tokens` the answer may have 4096, or what the model and its context leave; without
    `temperature` it is 0.2.
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

    @property
    def characters(self) -> int:
        """How long the texts are that a model reads, in bytes of UTF-8."""
        told = [each.model_dump_json() for each in (*self.messages, *self.tools)]
        return sum(len(text.encode()) for text in (*told, *self.inputs))


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


def stored_relay(metadata: Mapping[str, Any], *, key_id: UUID) -> RelayRequest:
    """Return the request that a message's metadata names. Reads the database. Raises RelayMissing, Erased."""
    name = metadata.get("relay")
    try:
        if not isinstance(name, str) or not _SHA256.fullmatch(name):
            raise RelayMissing("The message's metadata names no request; call the API of programs.")
        return RelayRequest.model_validate_json(get_blob(name, key_id=key_id))
    # What is sealed under another key is another session's.
    except (UnknownBlob, SealBroken, ValidationError):
        raise RelayMissing("There is no such request in this session.", field="relay") from None


def relay_answer(session_id: UUID, message_id: UUID) -> RelayAnswer:
    """Return what came of the request of a message, from its recorded run. Reads the database.

    Raises RelayNotAnswered where there is no answer that may be told, Erased.
    """
    reply = _reply_to(session_id, message_id)
    return answer_of(reply, [recorded.event for recorded in load(reply.run_id)])


def answer_of(reply: ReplyPosted, run_events: Iterable[Event]) -> RelayAnswer:
    """Return what came of a request, from its reply and the events of the run that this names.

    Reads the database where an answer is too long for an event. Raises RelayNotAnswered, Erased.
    """
    run = loop.fold(run_events)
    if reply.outcome != "answered" or run.finished is None or run.finished.status != "answered":
        raise RelayNotAnswered("The request was not answered.", field="message_id")
    if run.answer is not None:
        return _without_findings(_said(run.answer), run.redact)
    if run.returned is None:
        raise RelayNotAnswered("The message is answered, and not by a model's own words.", field="message_id")
    found = results.result_of(run.returned, key_id=None)
    return RelayAnswer(
        model=found["model_used"],
        prompt_tokens=found["token_count"],
        completion_tokens=0,
        estimated=run.returned.estimated,
        embeddings=tuple(map(tuple, found["embeddings"])),
        decision_id=run.returned.decision_id,
    )


class RelayFailure(BaseModel):
    """Why a request has no answer: how the turn ended, a stable code, and what people are told.

    `code` is that of the model's or tool's failure, or the name of the rule that denied.
    `decision_id` is the decision that denied it, None where none did.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: Literal["stopped", "denied", "failed"]
    code: str = ""
    message: str
    decision_id: UUID | None = None


def relay_failure(session_id: UUID, message_id: UUID) -> RelayFailure:
    """Return why the request of a message has no answer. Reads the database.

    Raises RelayNotAnswered where the turn has not ended, or has an answer, Erased.
    """
    reply = _reply_to(session_id, message_id)
    if reply.outcome == "answered":
        raise RelayNotAnswered("The request was answered.", field="message_id")
    refused: UUID | None = None
    for recorded in load(reply.run_id):
        match recorded.event:
            case ActDecided(permitted=False, decision_id=refused):
                pass
            case RunFinished(code=code):
                return RelayFailure(
                    outcome=reply.outcome,
                    code=code,
                    message=reply.content,
                    decision_id=refused if reply.outcome == "denied" else None,
                )
    for recorded in load(reply.plan_id):
        if isinstance(recorded.event, PlanRefused):
            return RelayFailure(
                outcome=reply.outcome,
                code=recorded.event.rule,
                message=reply.content,
                decision_id=recorded.event.decision_id,
            )
    return RelayFailure(outcome=reply.outcome, message=reply.content)


def model_request(request: RelayRequest, model: ModelEntry) -> ModelRequest:
    """Return a chat request as the gateway takes it: the messages as they are."""
    return ModelRequest(
        messages=tuple(
            ChatMessage(
                role=each.role,
                content=each.content,
                tool_calls=tuple(
                    FunctionCall(call.id, call.name, call.arguments) for call in each.tool_calls
                ),
                tool_call_id=each.tool_call_id,
                name=each.name,
            )
            for each in request.messages
        ),
        model=model.name,
        max_output_tokens=request.max_output_tokens,
        temperature=request.temperature,
        json_schema=request.json_schema,
        stop=request.stop,
        usual_output_tokens=USUAL_OUTPUT_TOKENS,
        deadline_seconds=DEADLINE_SECONDS,
        tools=tuple(Function(**each.model_dump()) for each in request.tools),
        tool_choice=request.tool_choice,
    )


def facts(request: RelayRequest, known: RequestFacts) -> RequestFacts:
    """Return what is known of the surroundings, and that the caller wrote system messages where it did."""
    if all(each.role != "system" for each in request.messages):
        return known
    return replace(known, labels=known.labels | {CALLER_SYSTEM})


def embedding_arguments(request: RelayRequest) -> dict[str, Any]:
    """Return the arguments of the tool that answers a request for embeddings."""
    return {"texts": list(request.inputs), "model": request.model}


def reply_text(run: RunState) -> str:
    """Return what the session shows for the answer of a run: its text, or the beginning of a long one."""
    if run.answer is not None:
        return run.answer.text
    return "The embeddings were made."


async def whole_reply(answer: ModelAnswered) -> str:
    """Return all that goes out of an answer, for the decision on it: its text, then its calls as JSON."""
    text = await gateway.whole_text(answer)
    calls = [call.as_dict() for call in await gateway.whole_calls(answer)]
    return "\n".join([*([text] if text else []), *([canonical_json(calls).decode()] if calls else [])])


def code_of(error: CartritaError) -> str:
    """Return the stable code under which a run fails for this error."""
    return error.failure if isinstance(error, ProviderFailed) else error.code


def _said(answer: ModelAnswered) -> RelayAnswer:
    text, calls = gateway.read_whole(answer)
    reason: Literal["stop", "length", "tool_calls"] = "length" if answer.finish_reason == "length" else "stop"
    return RelayAnswer(
        text=text,
        tool_calls=tuple(ToolCall(**call.as_dict()) for call in calls),
        finish_reason="tool_calls" if calls else reason,
        model=answer.model,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cached_tokens=answer.cached_tokens,
        estimated=answer.estimated,
        decision_id=answer.decision_id,
    )


def _without_findings(answer: RelayAnswer, kinds: tuple[str, ...]) -> RelayAnswer:
    if not kinds:
        return answer
    calls = tuple(
        each.model_copy(
            update={
                "arguments": canonical_json(redacted_within(orjson.loads(each.arguments), kinds)).decode()
            }
        )
        for each in answer.tool_calls
    )
    return answer.model_copy(update={"text": redacted(answer.text, kinds), "tool_calls": calls})


def _reply_to(session_id: UUID, message_id: UUID) -> ReplyPosted:
    for recorded in reversed(load(session_id)):
        event = recorded.event
        if isinstance(event, ReplyPosted) and event.parent == message_id:
            if recorded.erased:
                raise Erased("The session was erased, and with it what the model said.")
            return event
    raise RelayNotAnswered("There is no reply to this message yet.", field="message_id")
