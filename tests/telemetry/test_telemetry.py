"""Trace ids and log lines."""

import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, TraceFlags

from cartrita import telemetry
from cartrita.errors import BadInput
from tests.databases import Database


def line_of(message: str, *arguments: object, exc_info: object = None) -> dict[str, str]:
    record = logging.LogRecord("a.b", logging.INFO, "f.py", 1, message, arguments, exc_info)  # type: ignore[arg-type]
    text = telemetry.JsonLines().format(record)
    assert "\n" not in text
    parsed: dict[str, str] = json.loads(text)
    return parsed


class TestCurrentTraceId:
    def test_is_new_and_random_outside_any_span(self) -> None:
        first, second = telemetry.current_trace_id(), telemetry.current_trace_id()
        assert first != second
        assert re.fullmatch("[0-9a-f]{32}", first)

    def test_is_the_same_everywhere_in_a_span_that_is_not_recorded(self) -> None:
        tracer = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("test")
        with tracer.start_as_current_span("outer") as span:
            outer = telemetry.current_trace_id()
            with tracer.start_as_current_span("inner"):
                assert telemetry.current_trace_id() == outer
            assert not span.is_recording()
        assert telemetry.current_trace_id() != outer


BEGAN = "0af7651916cd43dd8448eb211c80319c"


class Kept:
    """What makes spans, by the sampler of the environment, and keeps those that are exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = telemetry.traced_provider()
        self.provider.add_span_processor(SimpleSpanProcessor(telemetry.scrubbing(self.exporter)))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    made = Kept()
    monkeypatch.setattr(telemetry, "tracer", made.provider.get_tracer("cartrita"))
    return made


class TestContinued:
    def test_puts_spans_below_the_one_that_is_named(self, kept: Kept) -> None:
        with telemetry.continued(BEGAN, f"00-{BEGAN}-00f067aa0ba902b7-01"), telemetry.span("work"):
            assert telemetry.current_trace_id() == BEGAN
        (span,) = kept.spans
        assert span.parent is not None
        assert f"{span.parent.span_id:016x}" == "00f067aa0ba902b7"

    @pytest.mark.parametrize("traceparent", ["", "nonsense", f"00-{'1' * 32}-00f067aa0ba902b7-01"])
    def test_begins_the_trace_where_no_span_of_it_is_known(self, kept: Kept, traceparent: str) -> None:
        with telemetry.span("elsewhere"), telemetry.continued(BEGAN, traceparent), telemetry.span("work"):
            assert telemetry.current_trace_id() == BEGAN
        span, _ = kept.spans
        assert span.parent is None

    def test_keeps_to_what_was_decided_on_the_sample(self, kept: Kept) -> None:
        with telemetry.continued(BEGAN, f"00-{BEGAN}-00f067aa0ba902b7-00"), telemetry.span("work"):
            assert telemetry.current_traceparent().endswith("-00")
            with telemetry.span("below"):
                assert telemetry.current_trace_id() == BEGAN
        assert kept.spans == ()

    def test_goes_round_through_the_current_span(self, kept: Kept) -> None:
        with telemetry.span("first"):
            trace_id, traceparent = telemetry.current_trace_id(), telemetry.current_traceparent()
        with telemetry.continued(trace_id, traceparent), telemetry.span("second"):
            pass
        first, second = kept.spans
        assert first.context is not None
        assert second.parent is not None
        assert second.parent.span_id == first.context.span_id


class TestSpan:
    def test_of_a_statement_begins_no_trace(self, kept: Kept) -> None:
        with telemetry.span("select", kind=SpanKind.CLIENT), telemetry.statement_span("select 1"):
            pass
        assert kept.spans == ()

    def test_is_sampled_as_the_environment_says(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        made = Kept()
        monkeypatch.setattr(telemetry, "tracer", made.provider.get_tracer("cartrita"))
        with telemetry.span("work"), telemetry.span("below"):
            assert int(telemetry.current_traceparent()[-2:], 16) & TraceFlags.SAMPLED == 0
        assert made.spans == ()

    def test_names_an_error_by_its_code_or_type_alone(self, kept: Kept) -> None:
        with pytest.raises(BadInput), telemetry.span("one"):
            raise BadInput("Ann wrote too much.", field="text")
        with pytest.raises(ValueError, match="Ann"), telemetry.span("two"):
            raise ValueError("Ann wrote nonsense.")
        with pytest.raises(KeyError), telemetry.span("three", expected=(KeyError,)):
            raise KeyError("Ann")
        assert [span.status.description for span in kept.spans] == ["bad_input", "ValueError", None]
        assert [span.status.is_ok for span in kept.spans] == [False, False, True]
        assert "Ann" not in "".join(span.to_json() for span in kept.spans)

    def test_of_a_library_is_scrubbed(self, kept: Kept) -> None:
        tracer = kept.provider.get_tracer("a library")
        with (
            pytest.raises(ValueError, match="Ann"),
            tracer.start_as_current_span("GET route", attributes={"http.url": "/Ann", "http.route": "route"}),
        ):
            raise ValueError("Ann wrote nonsense.")
        (span,) = kept.spans
        assert "Ann" not in span.to_json()
        assert dict(span.attributes or {}) == {"http.route": "route"}
        assert [dict(event.attributes or {}) for event in span.events] == [{"exception.type": "ValueError"}]

    @pytest.mark.parametrize("wanted", [True, False])
    def test_holds_content_only_where_it_is_wanted(
        self, kept: Kept, monkeypatch: pytest.MonkeyPatch, *, wanted: bool
    ) -> None:
        monkeypatch.setenv("CARTRITA_TRACE_CONTENT", "1" if wanted else "")
        with telemetry.span("work") as span:
            telemetry.tell_model_call(span, said=[("user", "Ann asks")], answered="Ann knows")
            telemetry.tell_tool_call(span, arguments='{"of": "Ann"}', result="{}")
            telemetry.tell_retrieval(span, "who is Ann", [("d1", 0.5)])
        (exported,) = kept.spans
        assert ("Ann" in exported.to_json()) is wanted
        assert "d1" in exported.to_json()


class Unwilling(SpanExporter):
    """A receiver that takes nothing until it is told to."""

    takes: bool | Exception = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if isinstance(self.takes, Exception):
            raise self.takes
        return SpanExportResult.SUCCESS if self.takes else SpanExportResult.FAILURE


class TestReceiverThatFails:
    def test_is_told_of_once_and_again_when_it_is_back(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "cartrita.telemetry")
        unwilling = Unwilling()
        exporter = telemetry.scrubbing(unwilling)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        for takes in (False, False, OSError("gone"), True, True, False):
            unwilling.takes = takes
            provider.get_tracer("x").start_span("work").end()
        said = [record for record in caplog.records if record.name == "cartrita.telemetry"]
        assert [record.levelname for record in said] == ["WARNING", "INFO", "WARNING"]
        assert "3 spans were lost" in said[1].getMessage()


class TestJsonLines:
    def test_says_when_where_what(self) -> None:
        line = line_of("%d of %s", 3, "ten")
        assert line["message"] == "3 of ten"
        assert line["level"] == "INFO"
        assert line["logger"] == "a.b"
        assert line["time"].endswith("+00:00")

    def test_names_the_trace_inside_a_span(self) -> None:
        tracer = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False).get_tracer("test")
        with tracer.start_as_current_span("x"):
            assert line_of("hello")["trace_id"] == telemetry.current_trace_id()

    def test_keeps_an_exception_in_one_line(self) -> None:
        error = ValueError("broken\nin two")
        line = line_of("failed", exc_info=(ValueError, error, None))
        assert "broken\nin two" in line["exception"]


class TestRedact:
    @pytest.mark.parametrize(
        ("text", "secret"),
        [
            ("connect to postgresql://cartrita:hunter2@db/cartrita", "hunter2"),
            ("Authorization: Bearer abcdefghijklmnop.qrst", "abcdefghijklmnop.qrst"),
            ("key sk-1234567890abcdef was refused", "sk-1234567890abcdef"),
            ("Not Found: /sign-in/link/AbCdEfGhIjKlMnOp-_12", "AbCdEfGhIjKlMnOp"),
            ("protocols cartrita.v1, ticket.AbCdEfGhIjKlMnOp", "AbCdEfGhIjKlMnOp"),
            ("it sent crt_AbCdEfGhIjKlMnOp by mail", "AbCdEfGhIjKlMnOp"),
        ],
    )
    def test_leaves_no_secret(self, text: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-1234567890abcdef")
        redacted = telemetry.redact(text)
        assert secret not in redacted
        assert len(redacted) > 10

    def test_leaves_ordinary_text_alone(self) -> None:
        text = "The session 018f expired at 12:00, see http://127.0.0.1:8000/chat"
        assert telemetry.redact(text) == text


_REQUEST = """
from cartrita import telemetry
telemetry.set_up("web")
import django
django.setup()
from django.test import Client
from opentelemetry import trace
Client().get("/readyz")
trace.get_tracer_provider().force_flush()
"""


class TestSetUp:
    def test_exports_requests_and_queries_to_a_receiver(self, database: Database) -> None:
        received: list[tuple[str, bytes]] = []

        class Receiver(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Keep the test's output clean."""

        with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            ended = subprocess.run(
                [sys.executable, "-c", _REQUEST],
                cwd=Path(__file__).resolve().parent.parent.parent,
                env={**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}"},
                capture_output=True,
                text=True,
                check=False,
            )
            server.shutdown()
        assert ended.returncode == 0, ended.stderr
        assert {path for path, _ in received} == {"/v1/traces"}
        spans = b"".join(body for _, body in received)
        assert b"GET readyz" in spans
        assert b"postgresql" in spans
