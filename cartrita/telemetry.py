"""Traces and logs: names of spans and attributes, spans that travel with the log, log lines as JSON.

Spans always have valid ids, so that events, frames and log lines of one request or run share a trace id;
they are recorded and exported only when OTEL_EXPORTER_OTLP_ENDPOINT is set. The GenAI semantic conventions
are still "Development": their names stand here alone, so that a change touches one module. What leaves the
process holds no personal text: only attributes of known names, statements without parameters, and errors by
their type; CARTRITA_TRACE_CONTENT=1 adds prompts and answers.
"""

import json
import logging
import os
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from opentelemetry import context as trace_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator

logger = logging.getLogger(__name__)

# Span names (OpenTelemetry GenAI: "{operation} {model or agent or tool}"; the caller appends that part).
SPAN_REQUEST: Final = "request"
SPAN_SOCKET: Final = "socket"
SPAN_JOB: Final = "job"
SPAN_TURN: Final = "cartrita.turn"
SPAN_PLAN: Final = "cartrita.plan"
SPAN_STEP: Final = "cartrita.step"
SPAN_DECISION: Final = "cartrita.decision"
SPAN_RETRIEVAL: Final = "retrieval"
SPAN_CHAT: Final = "chat"
SPAN_AGENT: Final = "invoke_agent"
SPAN_TOOL: Final = "execute_tool"

# OpenTelemetry GenAI attributes.
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"  # seconds
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
GEN_AI_TOOL_TYPE: Final = "gen_ai.tool.type"
GEN_AI_DATA_SOURCE_ID: Final = "gen_ai.data_source.id"
# Only with CARTRITA_TRACE_CONTENT=1.
GEN_AI_INPUT_MESSAGES: Final = "gen_ai.input.messages"
GEN_AI_OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
GEN_AI_TOOL_CALL_ARGUMENTS: Final = "gen_ai.tool.call.arguments"
GEN_AI_TOOL_CALL_RESULT: Final = "gen_ai.tool.call.result"
GEN_AI_RETRIEVAL_QUERY_TEXT: Final = "gen_ai.retrieval.query.text"
ERROR_TYPE: Final = "error.type"

# OpenInference attributes, for receivers that read those.
OPENINFERENCE_SPAN_KIND: Final = "openinference.span.kind"
SESSION_ID: Final = "session.id"
LLM_MODEL_NAME: Final = "llm.model_name"
LLM_TOKEN_COUNT_PROMPT: Final = "llm.token_count.prompt"  # noqa: S105 - an attribute's name
LLM_TOKEN_COUNT_COMPLETION: Final = "llm.token_count.completion"  # noqa: S105
LLM_TOKEN_COUNT_TOTAL: Final = "llm.token_count.total"  # noqa: S105
LLM_PROVIDER: Final = "llm.provider"
TOOL_NAME: Final = "tool.name"
AGENT_NAME: Final = "agent.name"
RETRIEVAL_DOCUMENT_ID: Final = "retrieval.documents.{}.document.id"
RETRIEVAL_DOCUMENT_SCORE: Final = "retrieval.documents.{}.document.score"
# Only with CARTRITA_TRACE_CONTENT=1.
INPUT_VALUE: Final = "input.value"
OUTPUT_VALUE: Final = "output.value"

# Our own.
WORKSPACE_ID: Final = "cartrita.workspace_id"
PLAN_ID: Final = "cartrita.plan_id"
RUN_ID: Final = "cartrita.run_id"
MESSAGE_ID: Final = "cartrita.message_id"
TASK_PATH: Final = "cartrita.task_path"
ATTEMPT: Final = "cartrita.attempt"
DECISION_ID: Final = "cartrita.decision_id"
DECISION_EFFECT: Final = "cartrita.decision.effect"
DECISION_RULE: Final = "cartrita.decision.rule"
DECISION_SUBJECT: Final = "cartrita.decision.subject"
STEP: Final = "cartrita.step"
COUNTED: Final = "cartrita.counted"
OUTCOME: Final = "cartrita.outcome"
COST_MICROS: Final = "cartrita.cost_micros"

CONTENT: Final = frozenset(
    {
        GEN_AI_INPUT_MESSAGES,
        GEN_AI_OUTPUT_MESSAGES,
        GEN_AI_TOOL_CALL_ARGUMENTS,
        GEN_AI_TOOL_CALL_RESULT,
        GEN_AI_RETRIEVAL_QUERY_TEXT,
        INPUT_VALUE,
        OUTPUT_VALUE,
    }
)
# What may leave the process; libraries put addresses, paths and queries of requests beside these.
_EXPORTED: Final = frozenset(
    {
        *CONTENT,
        ERROR_TYPE,
        OPENINFERENCE_SPAN_KIND,
        SESSION_ID,
        TOOL_NAME,
        AGENT_NAME,
        "http.method",
        "http.request.method",
        "http.route",
        "http.status_code",
        "http.response.status_code",
        "http.flavor",
        "http.scheme",
        "url.scheme",
        "network.protocol.version",
        "db.system",
        "db.system.name",
        "db.name",
        "db.namespace",
        "db.statement",
        "db.query.text",
        "exception.type",
    }
)
_EXPORTED_FAMILIES: Final = ("gen_ai.", "llm.", "cartrita.", "retrieval.documents.")

tracer: Tracer = trace.get_tracer("cartrita")

_set_up = False
_NOTHING: Final = nullcontext()
_TRACE_OF_REQUEST: Final = "cartrita_trace_id"
# Holds the id of the trace that a span without a parent begins, where events chose it already.
_TO_BEGIN: Final = trace_context.create_key("cartrita-trace-to-begin")


def set_up(process: str) -> None:
    """Give spans valid ids; export them, and instrument Django and psycopg, if an OTLP endpoint is set.

    Call it once per process, before Django's middleware is loaded. `process` is "web", "beat", "worker",
    "orchestrator" or "command". The usual variables of OpenTelemetry say where spans go and which are kept
    (OTEL_EXPORTER_OTLP_*, OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_*).
    """
    global _set_up  # noqa: PLW0603 - providers are process-wide too
    if _set_up:
        return
    _set_up = True
    if not any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}") for name in ("ENDPOINT", "TRACES_ENDPOINT")):
        trace.set_tracer_provider(untraced_provider())
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from cartrita import __version__

    provider = traced_provider(**{"cartrita.process": process, "service.version": __version__})
    provider.add_span_processor(BatchSpanProcessor(scrubbing(OTLPSpanExporter())))
    # They speak of every batch that fails; the exporter around them does once.
    for name in ("opentelemetry.exporter.otlp.proto.http", "opentelemetry.sdk._shared_internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    trace.set_tracer_provider(provider)
    DjangoInstrumentor().instrument()
    PsycopgInstrumentor().instrument(enable_commenter=False)


def untraced_provider() -> "TracerProvider":
    """Return what gives spans their ids, and keeps none of them."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    return TracerProvider(sampler=ALWAYS_OFF, id_generator=_ids(), shutdown_on_exit=False)


def traced_provider(**resource: str) -> "TracerProvider":
    """Return what makes spans: by the sampler of the environment, and no trace of a statement alone."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult

    # The library reads the environment for a provider that is given no sampler.
    chosen = TracerProvider(shutdown_on_exit=False).sampler

    class BeginsWithWork(Sampler):
        """As the environment says, but what services ask the database by themselves begins no trace."""

        def should_sample(
            self, parent_context: Context | None, trace_id: int, name: str, kind: SpanKind | None = None,
            *others: Any, **more: Any,
        ) -> SamplingResult:  # fmt: skip
            began = trace.get_current_span(parent_context).get_span_context().is_valid
            if not began and kind is SpanKind.CLIENT:
                return SamplingResult(Decision.DROP)
            return chosen.should_sample(parent_context, trace_id, name, kind, *others, **more)

        def get_description(self) -> str:
            return f"BeginsWithWork({chosen.get_description()})"

    return TracerProvider(
        sampler=BeginsWithWork(),
        resource=Resource.create({"service.name": "cartrita", **resource}),
        id_generator=_ids(),
    )


def _ids() -> "IdGenerator":
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """Random ids; that of a trace may be chosen before its first span."""

        def generate_trace_id(self) -> int:
            return _trace_to_begin() or super().generate_trace_id()

    return Ids()


def scrubbing(exporter: "SpanExporter") -> "SpanExporter":
    """Return an exporter that leaves out what may be personal, and tells once that the receiver is away."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Scrubbing(SpanExporter):
        def __init__(self) -> None:
            self._lost = 0

        def export(self, spans: "Sequence[ReadableSpan]") -> SpanExportResult:
            try:
                result = exporter.export([scrubbed(span) for span in spans])
            except Exception as error:  # noqa: BLE001 - of the network, TLS or the receiver; said below
                reason, result = type(error).__name__, SpanExportResult.FAILURE
            else:
                reason = "it refused them, was too slow or does not answer"
            if result is SpanExportResult.SUCCESS:
                if self._lost:
                    logger.info("The receiver of traces answers again; %d spans were lost.", self._lost)
                self._lost = 0
                return result
            if not self._lost:
                logger.warning("Spans are lost: the receiver of traces does not take them (%s).", reason)
            self._lost += len(spans)
            return result

        def shutdown(self) -> None:
            exporter.shutdown()

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return exporter.force_flush(timeout_millis)

    return Scrubbing()


def scrubbed(span: "ReadableSpan") -> "ReadableSpan":
    """Return a span with nothing but attributes of known names, and with errors by their type alone."""
    from opentelemetry.sdk.trace import Event, ReadableSpan

    status = span.status
    if status.description:
        # Libraries write "Type: message" there.
        status = Status(status.status_code, status.description.partition(":")[0])
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_known(span.attributes),
        events=[Event(one.name, _known(one.attributes), one.timestamp) for one in span.events],
        links=span.links,
        kind=span.kind,
        status=status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _known(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    with_content = traces_content()
    return {
        name: value
        for name, value in (attributes or {}).items()
        if (name in _EXPORTED or name.startswith(_EXPORTED_FAMILIES))
        and (with_content or name not in CONTENT)
    }


def traces_content() -> bool:
    """Tell whether spans may hold what people and models wrote (CARTRITA_TRACE_CONTENT=1)."""
    return os.environ.get("CARTRITA_TRACE_CONTENT", "").lower() in {"1", "true", "yes", "on"}


@contextmanager
def span(
    name: str,
    attributes: Mapping[str, str | int | float | Sequence[str]] | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    expected: tuple[type[Exception], ...] = (),
) -> Iterator[Span]:
    """Open a span; an exception that leaves it and is not `expected` is its error, by type or code alone.

    What is below a span that is not sampled is not either, and costs nothing: it shares that span.
    """
    above = trace.get_current_span()
    context = above.get_span_context()
    if context.is_valid and not context.trace_flags.sampled:
        yield above
        return
    with tracer.start_as_current_span(
        name, kind=kind, attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as opened:
        try:
            yield opened
        except expected:
            raise
        except Exception as error:
            fail(opened, getattr(error, "code", None) or type(error).__name__)
            raise


def statement_span(*statements: str) -> AbstractContextManager[object]:
    """Return the span of statements that no instrumented cursor runs, as psycopg's instrumentation makes it.

    They hold no values. Where nothing is recorded this does nothing.
    """
    if not trace.get_current_span().is_recording():
        return _NOTHING
    return tracer.start_as_current_span(
        statements[0].split(None, 1)[0].upper() if len(statements) == 1 else "PIPELINE",
        kind=SpanKind.CLIENT,
        attributes={"db.system": "postgresql", "db.statement": "; ".join(statements)},
        record_exception=False,
    )


def fail(opened: Span, code: object) -> None:
    """Say that what a span is about failed; `code` is of few values and holds nothing personal."""
    opened.set_attribute(ERROR_TYPE, str(code))
    opened.set_status(Status(StatusCode.ERROR, str(code)))


def tell_tool_call(opened: Span, *, arguments: str = "", result: str = "") -> None:
    """Put what a tool was given or gave, as JSON, into its span; only where `traces_content`."""
    for name, also, text in (
        (GEN_AI_TOOL_CALL_ARGUMENTS, INPUT_VALUE, arguments),
        (GEN_AI_TOOL_CALL_RESULT, OUTPUT_VALUE, result),
    ):
        if text:
            opened.set_attributes({name: text, also: text})


def tell_model_call(opened: Span, *, said: Sequence[tuple[str, str]] = (), answered: str = "") -> None:
    """Put the messages (role, text) and the answer of a model into its span; only where `traces_content`."""
    if said:
        messages = [{"role": role, "parts": [{"type": "text", "content": text}]} for role, text in said]
        opened.set_attribute(GEN_AI_INPUT_MESSAGES, json.dumps(messages, ensure_ascii=False))
        opened.set_attribute(INPUT_VALUE, said[-1][1])
    if answered:
        parts = [{"type": "text", "content": answered}]
        messages = [{"role": "assistant", "parts": parts}]
        opened.set_attribute(GEN_AI_OUTPUT_MESSAGES, json.dumps(messages, ensure_ascii=False))
        opened.set_attribute(OUTPUT_VALUE, answered)


def tell_retrieval(opened: Span, query: str, found: Sequence[tuple[object, float]]) -> None:
    """Put what a search found, as (document, score), into its span; the query only where `traces_content`."""
    if not opened.is_recording():
        return
    for place, (document_id, score) in enumerate(found):
        opened.set_attribute(RETRIEVAL_DOCUMENT_ID.format(place), str(document_id))
        opened.set_attribute(RETRIEVAL_DOCUMENT_SCORE.format(place), float(score))
    if traces_content():
        opened.set_attributes({GEN_AI_RETRIEVAL_QUERY_TEXT: query, INPUT_VALUE: query})


def current_trace_id() -> str:
    """Return the current trace id as 32 hex digits; a new random one outside any span."""
    # Each event has one, most of them outside any span: an empty context needs no second look.
    if around := trace_context.get_current():
        context = trace.get_current_span(around).get_span_context()
        if context.is_valid:
            return f"{context.trace_id:032x}"
        if to_begin := _trace_to_begin():
            return f"{to_begin:032x}"
    return f"{random.getrandbits(128):032x}"


def current_traceparent() -> str:
    """Return where the current trace stands, as W3C Trace Context writes it; "" outside any span.

    Its last part carries whether the trace is sampled.
    """
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _trace_to_begin() -> int:
    return cast("int", trace_context.get_value(_TO_BEGIN) or 0)


_TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


@contextmanager
def continued(trace_id: str, traceparent: str = "") -> Iterator[None]:
    """Go on with a trace that began elsewhere: spans in the block are below `traceparent`.

    Without one, or with that of another trace, the first span of the block begins the trace `trace_id`.
    """
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or found[1] != trace_id:
        begins = trace_context.set_value(_TO_BEGIN, int(trace_id, 16))
        token = trace_context.attach(trace.set_span_in_context(trace.INVALID_SPAN, begins))
        try:
            yield
        finally:
            trace_context.detach(token)
        return
    parent = SpanContext(
        trace_id=int(found[1], 16),
        span_id=int(found[2], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(found[3], 16)),
    )
    with trace.use_span(NonRecordingSpan(parent), record_exception=False, set_status_on_exception=False):
        yield


def trace_requests(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[..., object]:
    """Django middleware: give each request a trace id, unless an instrumentation has begun a span already."""
    if iscoroutinefunction(get_response):

        async def answer_later(request: HttpRequest) -> HttpResponseBase:
            response = cast("Awaitable[HttpResponseBase]", get_response(request))
            with _span_of(request):
                return await response

        return markcoroutinefunction(answer_later)

    def answer(request: HttpRequest) -> HttpResponseBase:
        with _span_of(request):
            return get_response(request)

    return answer


@contextmanager
def _span_of(request: HttpRequest) -> Iterator[None]:
    begun = trace.get_current_span().get_span_context().is_valid
    with nullcontext() if begun else span(SPAN_REQUEST, kind=SpanKind.SERVER):
        # Django says how it answered when the span is over.
        request.__dict__[_TRACE_OF_REQUEST] = current_trace_id()
        yield


trace_requests.sync_capable = True  # type: ignore[attr-defined]
trace_requests.async_capable = True  # type: ignore[attr-defined]


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, trace id, exception; secrets are replaced."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            # Before JSON escapes it: a password may hold quotes.
            "message": redact(record.getMessage()),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = f"{context.trace_id:032x}"
        elif of_request := getattr(getattr(record, "request", None), _TRACE_OF_REQUEST, ""):
            line["trace_id"] = of_request
        if record.exc_info:
            line["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


class WithoutForeseenTracebacks(logging.Filter):
    """Takes the traceback from what Django says of requests that it refused: strangers cause them at will."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record where it is such a one; it is logged in any case."""
        refused = record.name == "django.request" and getattr(record, "status_code", 500) < 500
        if refused or record.name.startswith("django.security."):
            record.exc_info = record.exc_text = None
            if record.levelno > logging.WARNING:
                record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


_SECRET_NAME = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL)S?($|_)", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^:/@\s\"]*):([^@/\s\"]+)@")
_BEARER = re.compile(r"(?i)\b(bearer|token)\s+[A-Za-z0-9._~+/=-]{12,}")
# API tokens, links that sign in, and tickets that open a socket.
_OURS = re.compile(r"\b(crt_|sign-in/link/|ticket\.)[A-Za-z0-9_-]{12,}")


def redact(text: str) -> str:
    """Replace the values of secret environment variables, passwords in URLs, and tokens."""
    for name, value in os.environ.items():
        if len(value) >= 8 and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, f"[{name}]")
    text = _URL_PASSWORD.sub(r"\1:[password]@", text)
    return _OURS.sub(r"\1[redacted]", _BEARER.sub(r"\1 [redacted]", text))
