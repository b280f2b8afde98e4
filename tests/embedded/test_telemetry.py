"""Trace ids and log lines."""

import http.server
import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from cartrita import telemetry
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

    def test_continues_a_trace_that_began_elsewhere(self) -> None:
        began = "0af7651916cd43dd8448eb211c80319c"
        with trace.use_span(trace.get_current_span(telemetry.continued(began))):
            assert telemetry.current_trace_id() == began


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
