"""A receiver of traces: takes OTLP over HTTP as a collector does, and keeps the spans that it was sent."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue


@dataclass(frozen=True, slots=True)
class Received:
    """One span as it came; ids in hexadecimal, `parent` "" for the first of its trace."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    scope: str
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]
    failed: bool
    status: str
    events: tuple[Mapping[str, Any], ...]
    began: int
    ended: int


@dataclass(slots=True)
class Receiver:
    """`answer` is the status that it gives; while `blocked` is not set it gives none."""

    url: str = ""
    answer: int = 200
    spans: list[Received] = field(default_factory=list)
    requests: int = 0
    raw: list[bytes] = field(default_factory=list)
    goes_on: threading.Event = field(default_factory=threading.Event)

    def take(self, body: bytes) -> int:
        """Keep what a request brought, and return the status for it."""
        self.requests += 1
        self.goes_on.wait()
        if self.answer == 200:
            self.raw.append(body)
            self.spans += spans_of(body)
        return self.answer

    def children(self, parent: Received) -> list[Received]:
        """Return the spans right below one, in the order of their beginning."""
        found = [one for one in self.spans if (one.trace, one.parent) == (parent.trace, parent.id)]
        return sorted(found, key=lambda one: one.began)

    def tree(self, root: Received) -> Iterator[tuple[int, Received]]:
        """Yield a span and all below it, with their depth."""
        stack = [(0, root)]
        while stack:
            depth, one = stack.pop()
            yield depth, one
            stack += [(depth + 1, child) for child in reversed(self.children(one))]


def spans_of(body: bytes) -> list[Received]:
    """Return the spans of an ExportTraceServiceRequest."""
    return [
        Received(
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            name=span.name,
            kind=span.kind,
            scope=scoped.scope.name,
            attributes={one.key: _value(one.value) for one in span.attributes},
            resource={one.key: _value(one.value) for one in per_resource.resource.attributes},
            failed=span.status.code == span.status.STATUS_CODE_ERROR,
            status=span.status.message,
            events=tuple({one.key: _value(one.value) for one in event.attributes} for event in span.events),
            began=span.start_time_unix_nano,
            ended=span.end_time_unix_nano,
        )
        for per_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scoped in per_resource.scope_spans
        for span in scoped.spans
    ]


@contextmanager
def receiving() -> Iterator[Receiver]:
    """Serve on a loopback port."""
    receiver = Receiver()
    receiver.goes_on.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = receiver.take(body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            """Keep the tests' output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield receiver
        finally:
            receiver.goes_on.set()
            server.shutdown()


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
