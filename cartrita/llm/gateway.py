"""The one way to a model: prepare the call, let policy decide on it, perform it, and say what came of it."""

import asyncio
import codecs
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, get_args
from uuid import UUID

import orjson
from django.conf import settings
from opentelemetry.trace import Span, SpanKind

from cartrita import telemetry
from cartrita.errors import BadInput, TooLarge
from cartrita.eventstore import get_blob, in_database_thread, put_blob
from cartrita.llm import breaker, catalog, functions, redaction, structured
from cartrita.llm.catalog import ModelEntry, Purpose
from cartrita.llm.events import ModelAnswered, ModelFailed
from cartrita.llm.places import place
from cartrita.llm.providers import (
    Call,
    CallPiece,
    ChatMessage,
    Function,
    FunctionCall,
    ProviderFailed,
    ToolChoice,
    Usage,
    provider,
)
from governance.canonical import canonical
from governance.decide import Cost, DecisionRequest, RequestFacts
from governance.detectors import kinds_within, redacted
from governance.doors import NotPermitted, Permit

TEMPERATURES: Mapping[Purpose, float] = {"planning": 0.1, "execution": 0.2, "creative": 0.7}
ROLES = ("system", "user", "assistant", "tool")
USUAL_OUTPUT_TOKENS = 1024
MAX_REPAIRS = 2
# A model that says nothing is asked once more, and paid for both.
MAX_SILENCES = 2
# No vocabulary has a token of more characters; a longer answer breaks the limit that the provider was sent.
LONGEST_TOKEN = 256
# How long the local counting of a broken answer may hold up whoever waits for the end of the call.
COUNT_SECONDS = 0.5
# Sealed and in base64 this leaves an event far below the store's 64 KiB.
LONGEST_TEXT_BYTES = 24 * 1024
LONGEST_CALLS_BYTES = 12 * 1024
LONGEST_MESSAGE = 2000
LONGEST_LOOKED_AT_HERE = 16 * 1024  # characters

OnDelta = Callable[[str], Awaitable[None]]


class ContextTooLong(TooLarge):
    """Prompt and answer together do not fit into the model's context."""

    code = "context_too_long"


class ToolsNotSupported(BadInput):
    """The model can neither use tools nor keep to a JSON Schema, which would do instead."""

    code = "tools_not_supported"


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

    Without `model` and `tier` the default for the purpose is taken. Without `max_output_tokens` the answer
    may have `usual_output_tokens`, or what the model and its context leave. `temperature` defaults by
    purpose: planning 0.1, execution 0.2, creative 0.7. With `json_schema` (JSON Schema 2020-12) the answer's
    text is JSON that fits it. `deadline_seconds` bounds the whole call, retries and repairs included.

    `tools` are functions that the caller runs itself: the answer may be calls of them in place of a text.
    `tool_choice` is auto, none, required (some function), or {"name": the function}.
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
    usual_output_tokens: int = USUAL_OUTPUT_TOKENS
    tools: tuple[Function, ...] = ()
    tool_choice: ToolChoice = "auto"


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


USUAL_RETRY = Retry()


async def prepare(
    request: ModelRequest, *, facts: RequestFacts, entry: ModelEntry | None = None
) -> PreparedCall:
    """Choose the model, count the prompt and state the request that policy has to decide on.

    `entry` is the model where the caller has chosen it; the request's `model` and `tier` are not read then.

    Raises BadInput, UnknownModel, ModelNotConfigured, ContextTooLong, ToolsNotSupported, and ProviderFailed
    when the local model's server, which counts its own tokens, does not answer.
    """
    _check(request)
    if entry is None:
        entry = await in_database_thread(
            catalog.choose, name=request.model, tier=request.tier, purpose=request.purpose, at=facts.at
        )
    if request.tools or request.json_schema is not None:
        await asyncio.to_thread(_check_schemas, request)
    else:
        _check_schemas(request)
    request = _fitted(request, entry)
    prompt_tokens = await count_tokens(entry, request.messages, tools=_native_tools(entry, request))
    request = replace(
        request,
        model=entry.name,
        tier=entry.tier,
        max_output_tokens=_output_tokens(request, entry, prompt_tokens),
        temperature=TEMPERATURES[request.purpose] if request.temperature is None else request.temperature,
    )
    decision_request = DecisionRequest.about(
        facts,
        "model_call",
        model=entry.name,
        arguments=_arguments(entry, prompt_tokens, request),
        cost=_most(entry, prompt_tokens, request),
        findings=await _found(request),
    )
    return PreparedCall(entry, prompt_tokens, request, decision_request)


async def perform(
    prepared: PreparedCall,
    permit: Permit,
    *,
    attempt: int,
    key_id: UUID | None = None,
    on_delta: OnDelta | None = None,
    retry: Retry | None = None,
) -> ModelAnswered | ModelFailed:
    """Call the model and return the event that says what came of it; the caller records it.

    `on_delta` gets the text as it comes; once it has got any, a failing call is not tried again, so that
    nothing is said twice. With a JSON schema it gets the whole text once it is valid. `attempt` is the run's.
    Under `key_id` a text above 24 KiB goes to a blob; without it such an event cannot be recorded. The call
    waits, within its deadline, for one of the model's places, and nothing is sent while the model's circuit
    is open; both may end in a ModelFailed too. Raises NotPermitted when the permit is for another request,
    CallCancelled when the task is cancelled, and whatever `on_delta` raises.
    """
    permit.check(prepared.decision_request)
    _check_unchanged(prepared)
    performance = _Performance(
        prepared, permit, attempt=attempt, key_id=key_id, on_delta=on_delta, retry=retry or USUAL_RETRY
    )
    deadline = asyncio.timeout(prepared.request.deadline_seconds)
    with telemetry.span(f"{telemetry.SPAN_CHAT} {prepared.entry.name}", kind=SpanKind.CLIENT) as span:
        performance.describe(span)
        outcome: ModelAnswered | ModelFailed
        admission: breaker.Admission | None = None
        try:
            async with deadline, place(prepared.entry.name):
                await performance.take_out()
                admission = await breaker.admit(prepared.entry)
                outcome = await performance.answer(deadline)
        except ProviderFailed as failure:
            outcome = await performance.failed(failure)
        except TimeoutError:
            if not deadline.expired():
                raise
            outcome = await performance.failed(_late(prepared, asked=admission is not None))
        except asyncio.CancelledError:
            stopped = ProviderFailed("cancelled", "The call was cancelled.", retryable=False, billed=True)
            outcome = await performance.failed(stopped)
            if admission is not None:
                await breaker.report(admission, outcome)
            _describe_outcome(span, outcome)
            raise CallCancelled(outcome) from None
        if admission is not None:
            await breaker.report(admission, outcome)
        _describe_outcome(span, outcome)
        return outcome


async def count_tokens(
    entry: ModelEntry, messages: Sequence[ChatMessage], *, tools: Sequence[Function] = ()
) -> int:
    """Return the tokens of a prompt for this model, the chat form's own included. Raises ProviderFailed.

    Those of `tools` are estimated, by their JSON: how a provider writes them into the prompt is not known.
    """
    counting = provider(entry.provider)
    counted = await counting.count_prompt(entry, messages)
    return counted + (await counting.count_text(entry, functions.text_of(tools)) if tools else 0)


async def whole_calls(event: ModelAnswered) -> tuple[FunctionCall, ...]:
    """Return the functions that the model wants called. Raises Erased."""
    return (await in_database_thread(read_whole, event))[1] if event.tool_calls_blob else _calls_in(event)


def read_whole(event: ModelAnswered) -> tuple[str, tuple[FunctionCall, ...]]:
    """Return all that the model said and wants called; reads the database. Raises Erased."""
    text = get_blob(event.text_blob).decode() if event.text_blob else event.text
    if not event.tool_calls_blob:
        return text, _calls_in(event)
    return text, tuple(FunctionCall(**each) for each in orjson.loads(get_blob(event.tool_calls_blob)))


def _calls_in(event: ModelAnswered) -> tuple[FunctionCall, ...]:
    return tuple(FunctionCall(**each) for each in event.tool_calls)


async def whole_text(event: ModelAnswered | ModelFailed) -> str:
    """Return all that the model said. Raises Erased."""
    if not event.text_blob:
        return event.text
    return (await in_database_thread(get_blob, event.text_blob)).decode()


class _Unicode:
    """Makes pieces of a stream storable: joins surrogate pairs that were cut apart, replaces what is none."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-16-le")("replace")

    def whole(self, piece: str) -> str:
        """Return what is complete so far; half of a pair waits for the next piece."""
        decoded = self._decoder.decode(piece.encode("utf-16-le", "surrogatepass"))
        return decoded.replace("\0", "\N{REPLACEMENT CHARACTER}")

    def rest(self) -> str:
        """Return what was left waiting at the end."""
        return self._decoder.decode(b"", final=True)


class _Performance:
    """One call on its way: what was said and used so far."""

    def __init__(
        self,
        prepared: PreparedCall,
        permit: Permit,
        *,
        attempt: int,
        key_id: UUID | None,
        on_delta: OnDelta | None,
        retry: Retry,
    ) -> None:
        self._prepared = prepared
        self._permit = permit
        self._attempt = attempt
        self._key_id = key_id
        self._on_delta = on_delta
        self._retry = retry
        self._provider = provider(prepared.entry.provider)
        self._started = time.monotonic()
        self._first_token_ms: int | None = None
        self._tries = 0
        self._silences = 0
        self._delivered = False
        self._deltas: list[str] = []
        self._pieces: list[CallPiece] = []
        self._calls: tuple[FunctionCall, ...] = ()
        self._unicode = _Unicode()
        self._prompt_tokens = prepared.prompt_tokens
        # Of the current try: what the provider said besides text, and whether its tokens are still to be
        # added.
        self._finish_reason = ""
        self._usage: Usage | None = None
        self._in_flight = False
        self._used = Usage(0, 0)
        self._estimated = False
        self._repairs: list[str] = []
        self._messages = prepared.request.messages
        self._tools = _native_tools(prepared.entry, prepared.request)
        self._schema = prepared.request.json_schema
        self._stop = prepared.request.stop

    async def answer(self, deadline: asyncio.Timeout) -> ModelAnswered:
        request = self._prepared.request
        messages = self._messages
        while True:
            finish_reason = await self._say(messages, deadline)
            text = "".join(self._deltas)
            wrong = await asyncio.to_thread(self._wrong, text, finish_reason)
            if wrong is None:
                break
            # What was said already cannot be said in another way.
            if len(self._repairs) == MAX_REPAIRS or self._delivered:
                raise ProviderFailed(
                    "invalid_output",
                    f"{self._prepared.entry.name} gave no answer that can be used in "
                    f"{1 + len(self._repairs)} attempts: {wrong}",
                    retryable=False,
                )
            self._repairs.append(wrong)
            messages = (*self._messages, *self._without_findings(self._repair(text, wrong)))
            await self._recount(messages)
        if request.tools and not self._native:
            text, self._calls = functions.read_proposal(text, decision_id=self._permit.decision_id)
            self._deltas[:] = [text]
        if request.json_schema is not None and text.strip():
            await self._deliver(text)
        calls, blob = await self._kept_calls()
        return ModelAnswered(
            **await self._use(),
            finish_reason="tool_calls" if self._calls else finish_reason,
            repairs=tuple(self._repairs),
            tool_calls=calls,
            tool_calls_blob=blob,
        )

    @property
    def _native(self) -> tuple[Function, ...]:
        """The functions that the provider itself offers to the model."""
        return _native_tools(self._prepared.entry, self._prepared.request)

    async def take_out(self) -> None:
        """Take out what rules want redacted, before anything is sent. Raises ProviderFailed."""
        if self._permit.redact:
            await asyncio.to_thread(self._redact)

    def _redact(self) -> None:
        request = self._prepared.request
        told = redaction.without_findings(
            redaction.Told(
                messages=tuple(request.messages),
                tools=request.tools,
                json_schema=request.json_schema,
                stop=request.stop,
                tool_choice=request.tool_choice,
            ),
            self._permit.redact,
        )
        self._messages, self._schema, self._stop = told.messages, told.json_schema, told.stop
        self._tools = told.tools if self._native else ()

    def _without_findings(self, messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...]:
        """Return messages as they may be sent. Raises ProviderFailed."""
        told = redaction.Told(messages=tuple(messages))
        return redaction.without_findings(told, self._permit.redact).messages

    def _wrong(self, text: str, finish_reason: str) -> str | None:
        """Return what keeps an answer from being used; checking a large one takes long."""
        request = self._prepared.request
        self._calls = functions.assembled(self._pieces, decision_id=self._permit.decision_id)
        if self._native:
            wrong = functions.complaint(self._calls, request.tools, request.tool_choice, finish_reason)
            if wrong is not None or self._calls:
                return wrong
        else:
            # Nobody offered what these call, so nobody can run it.
            self._calls = ()
        if request.json_schema is None:
            return None
        wrong = structured.complaint(text, finish_reason, request.json_schema)
        if wrong is None and request.tools and not self._native:
            answer, calls = functions.read_proposal(text, decision_id=self._permit.decision_id)
            # The schema allows it, and nobody could do anything with it.
            wrong = None if calls or answer.strip() else "The answer is empty."
        return wrong

    def _repair(self, text: str, wrong: str) -> tuple[ChatMessage, ChatMessage]:
        request = self._prepared.request
        must_call = (
            request.tool_choice not in {"auto", "none"} if isinstance(request.tool_choice, str) else True
        )
        if self._native and (self._calls or must_call or request.json_schema is None):
            return functions.repair(
                text, self._calls, wrong, functions.offered(request.tools, request.tool_choice)
            )
        return structured.repair(text, wrong, request.json_schema or {})

    async def failed(self, failure: ProviderFailed) -> ModelFailed:
        """Return the failure's event; the unfinished try is counted locally, briefly, whatever happens."""
        if self._in_flight:
            await self._estimate(billed=failure.billed)
        return ModelFailed(
            **await self._use(),
            code=failure.failure,
            message=failure.message[:LONGEST_MESSAGE],
            retryable=failure.retryable,
            retry_after_seconds=failure.retry_after,
            repairs=tuple(self._repairs),
        )

    def describe(self, span: Span) -> None:
        request, entry = self._prepared.request, self._prepared.entry
        facts = self._prepared.decision_request
        span.set_attributes(
            {
                telemetry.GEN_AI_OPERATION_NAME: telemetry.SPAN_CHAT,
                telemetry.GEN_AI_PROVIDER_NAME: entry.provider,
                telemetry.GEN_AI_REQUEST_MODEL: entry.name,
                telemetry.GEN_AI_REQUEST_MAX_TOKENS: request.max_output_tokens or 0,
                telemetry.GEN_AI_REQUEST_TEMPERATURE: request.temperature or 0.0,
                telemetry.GEN_AI_CONVERSATION_ID: str(facts.session_id or ""),
                telemetry.GEN_AI_AGENT_NAME: facts.agent,
                telemetry.OPENINFERENCE_SPAN_KIND: "LLM",
                telemetry.LLM_MODEL_NAME: entry.name,
                telemetry.LLM_PROVIDER: entry.provider,
                telemetry.SESSION_ID: str(facts.session_id or ""),
                telemetry.WORKSPACE_ID: str(facts.workspace_id),
                telemetry.DECISION_ID: str(self._permit.decision_id),
                telemetry.ATTEMPT: self._attempt,
                telemetry.GEN_AI_REQUEST_STREAM: self._on_delta is not None,
            }
        )
        if telemetry.traces_content():
            kinds = self._permit.redact
            said = [
                (each.role, redacted(each.content, kinds) if kinds else each.content)
                for each in request.messages
            ]
            telemetry.tell_model_call(span, said=said)

    async def _say(self, messages: Sequence[ChatMessage], deadline: asyncio.Timeout) -> str:
        """Get one whole answer, in as many tries as it takes; return its finish reason."""
        import tenacity

        def pause(state: tenacity.RetryCallState) -> float:
            usual = tenacity.wait_exponential_jitter(
                multiplier=self._retry.first_pause, max=self._retry.longest_pause, jitter=self._retry.jitter
            )(state)
            return max(usual, _wish(state.outcome.exception() if state.outcome else None))

        def may_help(error: BaseException) -> bool:
            if not isinstance(error, ProviderFailed) or not error.retryable or self._delivered:
                return False
            if self._silences == MAX_SILENCES:
                return False
            when = deadline.when()
            return when is None or asyncio.get_running_loop().time() + _wish(error) < when

        tries = tenacity.AsyncRetrying(
            stop=tenacity.stop_after_attempt(self._retry.tries),
            wait=pause,
            retry=tenacity.retry_if_exception(may_help),
            reraise=True,
        )
        return await tries(self._try, messages)

    async def _try(self, messages: Sequence[ChatMessage]) -> str:
        request = self._prepared.request
        call = Call(
            entry=self._prepared.entry,
            messages=messages,
            max_output_tokens=request.max_output_tokens or USUAL_OUTPUT_TOKENS,
            temperature=request.temperature or 0.0,
            stop=self._stop,
            json_schema=self._schema,
            tools=self._tools,
            tool_choice=request.tool_choice,
        )
        self._tries += 1
        self._deltas.clear()
        self._pieces.clear()
        self._unicode = _Unicode()
        self._finish_reason, self._usage, self._in_flight = "", None, True
        try:
            await self._listen(call)
            self._check_end()
        except ProviderFailed as failure:
            await self._account(billed=failure.billed)
            raise
        await self._account(billed=True)
        return self._finish_reason

    async def _listen(self, call: Call) -> None:
        left = call.max_output_tokens * LONGEST_TOKEN
        async with aclosing(self._provider.stream(call)) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    await self._hear(self._unicode.whole(chunk.text[:left]))
                    left -= len(chunk.text)
                for piece in chunk.calls:
                    self._pieces.append(piece)
                    left -= len(piece.id) + len(piece.name) + len(piece.arguments)
                self._finish_reason = chunk.finish_reason or self._finish_reason
                self._usage = chunk.usage or self._usage
                if left < 0:
                    self._finish_reason = "length"
                    break
        await self._hear(self._unicode.rest())

    async def _hear(self, text: str) -> None:
        if not text:
            return
        if self._first_token_ms is None:
            self._first_token_ms = self._elapsed_ms()
        self._deltas.append(text)
        if self._prepared.request.json_schema is None:
            await self._deliver(text)

    def _check_end(self) -> None:
        """Raise ProviderFailed where the try ended without a whole answer."""
        name, reason = self._prepared.entry.name, self._finish_reason
        if not reason:
            raise ProviderFailed("cut_stream", f"{name} broke off its answer.", retryable=True, billed=True)
        if reason == "content_filter":
            raise ProviderFailed(
                "filtered", f"{name}'s provider filtered its answer.", retryable=False, billed=True
            )
        said = self._pieces or any(each.strip() for each in self._deltas)
        if self._prepared.request.json_schema is None and not said:
            self._silences += 1
            raise ProviderFailed(
                "no_answer",
                f"{name} ended its answer ({reason}) without a word.",
                retryable=True,
                billed=True,
            )

    async def _deliver(self, text: str) -> None:
        if self._on_delta is not None:
            self._delivered = True
            await self._on_delta(text)

    async def _recount(self, messages: Sequence[ChatMessage]) -> None:
        """Count a repair's prompt, and refuse one that no longer fits."""
        entry = self._prepared.entry
        self._prompt_tokens = await count_tokens(entry, messages, tools=self._native)
        if self._prompt_tokens + (self._prepared.request.max_output_tokens or 0) > entry.context_limit:
            raise ProviderFailed(
                "invalid_output",
                f"{entry.name} gave no answer that fits the schema, and its context leaves no room to ask "
                f"again: {self._repairs[-1]}",
                retryable=False,
            )

    async def _account(self, *, billed: bool) -> None:
        if self._usage is None:
            await self._estimate(billed=billed)
        else:
            self._add(self._usage)

    async def _estimate(self, *, billed: bool) -> None:
        said_pieces = [text for piece in self._pieces for text in (piece.name, piece.arguments) if text]
        text = "".join([*self._deltas, *said_pieces])
        if not billed and not text:
            self._in_flight = False
            return
        try:
            async with asyncio.timeout(COUNT_SECONDS):
                said = await self._provider.count_text(self._prepared.entry, text) if text else 0
        except (TimeoutError, ProviderFailed):
            # Providers send about one token a delta: the nearest figure when the one that counts is gone too.
            said = len(self._deltas) + len(said_pieces)
        self._estimated = True
        self._add(Usage(self._prompt_tokens, said))

    def _add(self, usage: Usage) -> None:
        self._in_flight = False
        self._used = Usage(
            prompt_tokens=self._used.prompt_tokens + usage.prompt_tokens,
            completion_tokens=self._used.completion_tokens + usage.completion_tokens,
            cached_tokens=self._used.cached_tokens + min(usage.cached_tokens, usage.prompt_tokens),
        )

    async def _use(self) -> dict[str, Any]:
        entry = self._prepared.entry
        text, blob = await self._kept("".join(self._deltas))
        price, used = entry.price, self._used
        return {
            "decision_id": self._permit.decision_id,
            "attempt": self._attempt,
            "tries": self._tries,
            "model": entry.name,
            "provider": entry.provider,
            "tier": entry.tier,
            "purpose": self._prepared.request.purpose,
            "prompt_tokens": used.prompt_tokens,
            "cached_tokens": used.cached_tokens,
            "completion_tokens": used.completion_tokens,
            "estimated": self._estimated,
            "cost_micros": price.cost(
                prompt_tokens=used.prompt_tokens,
                completion_tokens=used.completion_tokens,
                cached_tokens=used.cached_tokens,
            ),
            "currency": price.currency,
            "input_price": price.input_price,
            "cached_price": price.cached_price,
            "output_price": price.output_price,
            "price_valid_from": price.valid_from,
            "latency_ms": self._elapsed_ms(),
            "first_token_ms": self._first_token_ms,
            "text": text,
            "text_blob": blob,
        }

    async def _kept(self, text: str) -> tuple[str, str]:
        """Return the text for the event and, where that is only its beginning, the blob of the whole."""
        content = text.encode()
        if self._key_id is None or len(content) <= LONGEST_TEXT_BYTES:
            return text, ""
        blob = await in_database_thread(put_blob, content, key_id=self._key_id)
        return content[:LONGEST_TEXT_BYTES].decode(errors="ignore"), blob

    async def _kept_calls(self) -> tuple[tuple[dict[str, str], ...], str]:
        """Return the calls for the event or, where they are too large, none and the blob that holds them."""
        calls = tuple(each.as_dict() for each in self._calls)
        content = orjson.dumps(calls)
        if self._key_id is None or len(content) <= LONGEST_CALLS_BYTES:
            return calls, ""
        return (), await in_database_thread(put_blob, content, key_id=self._key_id)

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._started) * 1000)


def _check_schemas(request: ModelRequest) -> None:
    functions.check(request.tools, request.tool_choice)
    if request.json_schema is not None:
        structured.check_schema(request.json_schema)


def _check(request: ModelRequest) -> None:
    if not request.messages:
        raise BadInput("messages is empty; send at least one message.", field="messages")
    for number, message in enumerate(request.messages):
        if message.role not in ROLES:
            raise BadInput(
                f"messages[{number}].role is {message.role!r}; use one of {', '.join(ROLES)}.",
                field=f"messages[{number}].role",
            )
        if "\0" in message.content or not message.content.isascii():
            canonical(message.content, f"messages[{number}].content")
    _check_calls(request.messages)
    if request.purpose not in get_args(Purpose):
        raise BadInput(
            f"purpose is {request.purpose!r}; use one of {', '.join(get_args(Purpose))}.", field="purpose"
        )
    if request.temperature is not None and not 0 <= request.temperature <= 2:
        raise BadInput(f"temperature is {request.temperature}; use 0 to 2.", field="temperature")
    if request.max_output_tokens is not None and request.max_output_tokens < 1:
        raise BadInput(
            f"max_output_tokens is {request.max_output_tokens}; use 1 or more.", field="max_output_tokens"
        )
    if not request.deadline_seconds > 0:
        raise BadInput(
            f"deadline_seconds is {request.deadline_seconds}; use more than 0.", field="deadline_seconds"
        )


def _check_calls(messages: Sequence[ChatMessage]) -> None:
    """Refuse answers to calls that nobody made, and calls whose arguments are no JSON object."""
    known: set[str] = set()
    for number, message in enumerate(messages):
        field = f"messages[{number}]"
        if message.role == "tool" and message.tool_call_id not in known:
            raise BadInput(
                f"{field}.tool_call_id is {message.tool_call_id[:80]!r}, which no earlier message calls.",
                field=f"{field}.tool_call_id",
            )
        if message.name or message.tool_call_id:
            canonical([message.name, message.tool_call_id], field)
        if message.tool_calls and message.role != "assistant":
            raise BadInput(f"{field} has tool_calls; only the assistant calls.", field=f"{field}.tool_calls")
        for index, call in enumerate(message.tool_calls):
            here = f"{field}.tool_calls[{index}]"
            canonical(call.as_dict(), here)
            wrong = structured.complaint(call.arguments, "", {"type": "object"})
            if wrong is not None:
                raise BadInput(f"{here}.arguments: {wrong}", field=f"{here}.arguments")
            known.add(call.id)


def _fitted(request: ModelRequest, entry: ModelEntry) -> ModelRequest:
    """Return the request in the form that this model takes: what it cannot do by itself is asked in words."""
    if entry.can("embeddings"):
        raise BadInput(
            f"{entry.name} makes embeddings and does not talk; choose another model.", field="model"
        )
    if not entry.can("tools"):
        request = replace(request, messages=functions.plain(request.messages))
        if request.tools and request.tool_choice == "none":
            request = replace(request, tools=())
        if request.tools:
            return _with_tools_as_text(request, entry)
    if request.json_schema is not None and not entry.can("json_schema"):
        told = structured.instruction(request.json_schema)
        request = replace(request, messages=(told, *request.messages))
    return request


def _with_tools_as_text(request: ModelRequest, entry: ModelEntry) -> ModelRequest:
    if not entry.can("json_schema"):
        raise ToolsNotSupported(
            f"{entry.name} can neither use tools nor keep to a JSON Schema; choose another model, or send no "
            "tools.",
            field="tools",
        )
    wanted = (request.tools, request.tool_choice, request.json_schema)
    return replace(
        request,
        messages=(functions.instruction(*wanted), *request.messages),
        json_schema=functions.proposal_schema(*wanted),
    )


def _native_tools(entry: ModelEntry, request: ModelRequest) -> tuple[Function, ...]:
    return request.tools if entry.can("tools") else ()


def _output_tokens(request: ModelRequest, entry: ModelEntry, prompt_tokens: int) -> int:
    left = entry.context_limit - prompt_tokens
    wanted = request.max_output_tokens
    if wanted is None:
        wanted = min(request.usual_output_tokens, entry.output_limit, max(left, 1))
    if wanted > entry.output_limit:
        raise BadInput(
            f"max_output_tokens is {wanted}; {entry.name} gives {entry.output_limit} at most.",
            field="max_output_tokens",
        )
    if wanted > left:
        raise ContextTooLong(
            f"The prompt has {prompt_tokens} tokens and the answer may have {wanted}; {entry.name} takes "
            f"{entry.context_limit} together. Send less, or choose a model with a larger context.",
            field="messages",
            prompt_tokens=prompt_tokens,
            context_limit=entry.context_limit,
        )
    return wanted


def _arguments(entry: ModelEntry, prompt_tokens: int, request: ModelRequest) -> dict[str, Any]:
    """Return all that makes the call what it is: the permit is bound to it, and rules can read it."""
    tools = {} if not request.tools else _tool_arguments(request)
    return tools | {
        "provider": entry.provider,
        "base_url": entry.base_url,
        "tier": entry.tier,
        "purpose": request.purpose,
        "messages": [_message_argument(each) for each in request.messages],
        "prompt_tokens": prompt_tokens,
        "max_output_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "stop": list(request.stop),
        "json_schema": None if request.json_schema is None else dict(request.json_schema),
    }


def _message_argument(message: ChatMessage) -> dict[str, Any]:
    shown: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        shown["name"] = message.name
    if message.tool_call_id:
        shown["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        shown["tool_calls"] = [each.as_dict() for each in message.tool_calls]
    return shown


async def _found(request: ModelRequest) -> frozenset[str]:
    """Return the kinds of what is found in all that the model is told."""
    told = [
        [_message_argument(each) for each in request.messages],
        [[each.name, each.description, each.parameters] for each in request.tools],
        request.json_schema,
        list(request.stop),
        request.tool_choice if isinstance(request.tool_choice, str) else request.tool_choice["name"],
    ]
    # A long prompt takes milliseconds, and others wait for the loop.
    if sum(len(each.content) for each in request.messages) + len(request.tools) < LONGEST_LOOKED_AT_HERE:
        return kinds_within(told)
    return await asyncio.to_thread(kinds_within, told)


def _tool_arguments(request: ModelRequest) -> dict[str, Any]:
    choice = request.tool_choice
    return {
        "tools": [each.name for each in request.tools],
        # Binds the decision, and an approval of it, to all that the model is told of the functions.
        "tools_hash": functions.fingerprint(request.tools),
        "tool_choice": choice if isinstance(choice, str) else {"name": choice["name"]},
    }


def _most(entry: ModelEntry, prompt_tokens: int, request: ModelRequest) -> Cost:
    """Return what the call costs at most, repairs and lost tries aside."""
    output = request.max_output_tokens or 0
    micros = entry.price.cost(prompt_tokens=prompt_tokens, completion_tokens=output)
    return Cost(tokens=prompt_tokens + output, micros=micros, currency=entry.price.currency)


def _check_unchanged(prepared: PreparedCall) -> None:
    arguments = _arguments(prepared.entry, prepared.prompt_tokens, prepared.request)
    decided = prepared.decision_request
    same = arguments == decided.arguments or canonical(arguments, "arguments") == decided.arguments
    if not same or prepared.entry.name != decided.model:
        raise NotPermitted("The prepared call is not the one that was decided; prepare it anew.")


def _late(prepared: PreparedCall, *, asked: bool) -> ProviderFailed:
    name, seconds = prepared.entry.name, prepared.request.deadline_seconds
    if asked:
        said = f"{name} gave no whole answer within {seconds:g} s."
        return ProviderFailed("deadline_passed", said, retryable=True, billed=True)
    said = f"{name} had no free place within {seconds:g} s: {settings.CALLS_PER_MODEL} calls of it go on."
    return ProviderFailed("model_busy", said, retryable=True)


def _wish(error: BaseException | None) -> float:
    return (error.retry_after or 0.0) if isinstance(error, ProviderFailed) else 0.0


def _describe_outcome(span: Span, outcome: ModelAnswered | ModelFailed) -> None:
    span.set_attributes(
        {
            telemetry.GEN_AI_USAGE_INPUT_TOKENS: outcome.prompt_tokens,
            telemetry.GEN_AI_USAGE_OUTPUT_TOKENS: outcome.completion_tokens,
            telemetry.LLM_TOKEN_COUNT_PROMPT: outcome.prompt_tokens,
            telemetry.LLM_TOKEN_COUNT_COMPLETION: outcome.completion_tokens,
            telemetry.LLM_TOKEN_COUNT_TOTAL: outcome.prompt_tokens + outcome.completion_tokens,
            telemetry.COST_MICROS: outcome.cost_micros,
        }
    )
    if isinstance(outcome, ModelAnswered):
        span.set_attribute(telemetry.GEN_AI_RESPONSE_FINISH_REASONS, [outcome.finish_reason])
        span.set_attribute(telemetry.GEN_AI_RESPONSE_MODEL, outcome.model)
    else:
        telemetry.fail(span, outcome.code)
    if outcome.first_token_ms is not None:
        span.set_attribute(telemetry.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK, outcome.first_token_ms / 1000)
    if telemetry.traces_content():
        telemetry.tell_model_call(span, answered=outcome.text)
