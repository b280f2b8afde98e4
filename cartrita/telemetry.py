"""Traces and logs: names of spans and attributes, the current trace id, log lines as JSON.

Spans always have valid ids, so that events, frames and log lines of one request or run share a trace id;
they are recorded and exported only when OTEL_EXPORTER_OTLP_ENDPOINT is set. The GenAI semantic conventions
are still "Development": their names stand here alone, so that a change touches one module.
"""

import json
import logging
import os
import re
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, Tracer

# Span names (OpenTelemetry GenAI: "{operation} {model or agent or tool}"; the caller appends that part).
SPAN_REQUEST: Final = "request"
SPAN_SOCKET: Final = "socket"
SPAN_TURN: Final = "cartrita.turn"
SPAN_STEP: Final = "cartrita.step"
SPAN_DECISION: Final = "cartrita.decision"
SPAN_RETRIEVAL: Final = "cartrita.retrieval"
SPAN_CHAT: Final = "chat"
SPAN_AGENT: Final = "invoke_agent"
SPAN_TOOL: Final = "execute_tool"

# OpenTelemetry GenAI attributes.
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_AGENT_NAME: Final = "gen_ai.agent.name"
GEN_AI_TOOL_NAME: Final = "gen_ai.tool.name"
GEN_AI_TOOL_CALL_ID: Final = "gen_ai.tool.call.id"
ERROR_TYPE: Final = "error.type"

# OpenInference attributes, for receivers that read those.
OPENINFERENCE_SPAN_KIND: Final = "openinference.span.kind"  # LLM, TOOL, AGENT, CHAIN, RETRIEVER
SESSION_ID: Final = "session.id"
LLM_MODEL_NAME: Final = "llm.model_name"
LLM_TOKEN_COUNT_PROMPT: Final = "llm.token_count.prompt"  # noqa: S105 - an attribute's name
LLM_TOKEN_COUNT_COMPLETION: Final = "llm.token_count.completion"  # noqa: S105

# Our own.
WORKSPACE_ID: Final = "cartrita.workspace_id"
PLAN_ID: Final = "cartrita.plan_id"
RUN_ID: Final = "cartrita.run_id"
TASK_PATH: Final = "cartrita.task_path"
ATTEMPT: Final = "cartrita.attempt"
DECISION_ID: Final = "cartrita.decision_id"
DECISION_EFFECT: Final = "cartrita.decision.effect"
COST_MICROS: Final = "cartrita.cost_micros"

tracer: Tracer = trace.get_tracer("cartrita")

_set_up = False


def set_up(process: str) -> None:
    """Give spans valid ids; export them, and instrument Django and psycopg, if an OTLP endpoint is set.

    Call it once per process, before Django's middleware is loaded. `process` is "web", "beat" or "command".
    """
    global _set_up  # noqa: PLW0603 - providers are process-wide too
    if _set_up:
        return
    _set_up = True
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        trace.set_tracer_provider(TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False))
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.django import DjangoInstrumentor
    from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(
        resource=Resource.create({"service.name": "cartrita", "cartrita.process": process})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    DjangoInstrumentor().instrument()
    PsycopgInstrumentor().instrument(enable_commenter=False)


def current_trace_id() -> str:
    """Return the current trace id as 32 hex digits; a new random one outside any span."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return f"{context.trace_id:032x}"
    return secrets.token_hex(16)


def continued(trace_id: str) -> Context:
    """Return the context of a trace that began elsewhere, in which further spans belong to it."""
    parent = SpanContext(
        trace_id=int(trace_id, 16),
        span_id=secrets.randbits(64) or 1,
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return trace.set_span_in_context(NonRecordingSpan(parent))


def trace_requests(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[..., object]:
    """Django middleware: give each request a trace id, unless an instrumentation has begun a span already."""
    if iscoroutinefunction(get_response):

        async def answer_later(request: HttpRequest) -> HttpResponseBase:
            response = cast("Awaitable[HttpResponseBase]", get_response(request))
            if trace.get_current_span().get_span_context().is_valid:
                return await response
            with tracer.start_as_current_span(SPAN_REQUEST):
                return await response

        return markcoroutinefunction(answer_later)

    def answer(request: HttpRequest) -> HttpResponseBase:
        if trace.get_current_span().get_span_context().is_valid:
            return get_response(request)
        with tracer.start_as_current_span(SPAN_REQUEST):
            return get_response(request)

    return answer


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
            "message": record.getMessage(),
        }
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            line["trace_id"] = f"{context.trace_id:032x}"
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, ensure_ascii=False, default=str))


_SECRET_NAME = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL)S?($|_)", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)([^:/@\s\"]*):([^@/\s\"]+)@")
_BEARER = re.compile(r"(?i)\b(bearer|token)\s+[A-Za-z0-9._~+/=-]{12,}")


def redact(text: str) -> str:
    """Replace the values of secret environment variables, passwords in URLs and bearer tokens."""
    for name, value in os.environ.items():
        if len(value) >= 8 and value in text and _SECRET_NAME.search(name):
            text = text.replace(value, f"[{name}]")
    text = _URL_PASSWORD.sub(r"\1:[password]@", text)
    return _BEARER.sub(r"\1 [redacted]", text)
