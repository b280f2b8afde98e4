"""A small server that speaks OpenAI's API on loopback and misbehaves when told to."""

import json
import re
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Says:
    """A streamed answer, word by word. `cut_after` and `silent_after` count words."""

    text: str = "Hello there."
    finish_reason: str = "stop"
    usage: Mapping[str, int] | None = field(
        default_factory=lambda: {"prompt_tokens": 11, "completion_tokens": 7, "cached_tokens": 3}
    )
    cut_after: int | None = None
    silent_after: int | None = None
    # The deltas of tool calls, as they are, after the text.
    calls: Sequence[Any] = ()


@dataclass(frozen=True, kw_only=True)
class Refuses:
    """An error answer."""

    status: int
    message: str = "as told"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sends:
    """A stream of these parts, as they are: bytes, texts of an answer, or JSON values. Whole, unless told.

    `endless` repeats the last part until the client has gone.
    """

    parts: Sequence[Any]
    whole: bool = True
    endless: bool = False


@dataclass(frozen=True)
class Hangs:
    """No answer at all, until the server ends."""


Reply = Says | Refuses | Sends | Hangs


@dataclass(frozen=True)
class Received:
    path: str
    headers: Mapping[str, str]
    body: Any


class OpenAIServer:
    """`then(...)` queues replies, one a request; after them, and by default, it says Hello there."""

    def __init__(self, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self.received: list[Received] = []
        self.ended = threading.Event()
        # Set whenever a client has gone away in the middle of an answer.
        self.abandoned = threading.Event()
        self._replies: deque[Reply] = deque()

    def then(self, *replies: Reply) -> None:
        self._replies.extend(replies)

    @property
    def has_replies(self) -> bool:
        return bool(self._replies)

    def next_reply(self) -> Reply:
        return self._replies.popleft() if self._replies else Says()


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    """Serve until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as http:
        http.daemon_threads = False
        server = OpenAIServer(http.server_address[1])
        http.told = server  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            http.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 0

    def do_POST(self) -> None:
        server: OpenAIServer = self.server.told  # type: ignore[attr-defined]
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server.received.append(Received(self.path, dict(self.headers.items()), body))
        self.close_connection = True
        if self.path.endswith("/embeddings") and not server.has_replies:
            self._embed(body["input"])
            return
        try:
            self._reply(server, server.next_reply())
        except (BrokenPipeError, ConnectionResetError):
            server.abandoned.set()

    def _embed(self, texts: Sequence[str]) -> None:
        """Answer with a vector for each text, (its place, 1), the last one first, and 4 tokens a text."""
        vectors = [
            {"object": "embedding", "index": index, "embedding": [index, 1.0]} for index in range(len(texts))
        ]
        content = json.dumps(
            {
                "object": "list",
                "data": vectors[::-1],
                "model": "told",
                "usage": {"prompt_tokens": 4 * len(texts), "total_tokens": 4 * len(texts)},
            }
        ).encode()
        self.send_response(200)
        self._end_head("application/json", len(content))
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it so
        return

    def _reply(self, server: OpenAIServer, reply: Reply) -> None:
        if isinstance(reply, Hangs):
            self._wait(server)
        elif isinstance(reply, Refuses):
            content = json.dumps({"error": {"message": reply.message, "code": reply.code, "type": "told"}})
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self._end_head("application/json", len(content))
            self.wfile.write(content.encode())
        elif isinstance(reply, Sends):
            self._send_parts(server, reply)
        else:
            self._say(server, reply)

    def _send_parts(self, server: OpenAIServer, reply: Sends) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self._end_head("text/event-stream", None)
        for part in reply.parts:
            self._send_part(part)
        while reply.endless and not server.ended.is_set():
            self._send_part(reply.parts[-1])
        if reply.whole:
            self._send({"delta": {}, "finish_reason": "stop"})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _send_part(self, part: Any) -> None:
        if isinstance(part, str):
            self._send({"delta": {"content": part}, "finish_reason": None})
        else:
            content = part if isinstance(part, bytes) else json.dumps(part).encode()
            self._chunk(b"data: " + content + b"\n\n")

    def _say(self, server: OpenAIServer, reply: Says) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self._end_head("text/event-stream", None)
        self._send({"delta": {"role": "assistant", "content": ""}, "finish_reason": None})
        for number, word in enumerate(re.findall(r"\s*\S+", reply.text)):
            if number == reply.cut_after:
                return
            if number == reply.silent_after:
                self._wait(server)
                return
            self._send({"delta": {"content": word}, "finish_reason": None})
        for call in reply.calls:
            self._send({"delta": {"tool_calls": [call]}, "finish_reason": None})
        self._send({"delta": {}, "finish_reason": reply.finish_reason})
        if reply.usage is not None:
            used = dict(reply.usage)
            cached = used.pop("cached_tokens", 0)
            used["total_tokens"] = used["prompt_tokens"] + used["completion_tokens"]
            self._send(None, {**used, "prompt_tokens_details": {"cached_tokens": cached}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _wait(self, server: OpenAIServer) -> None:
        # The client has nothing more to send, so a readable socket means that it has gone.
        self.connection.settimeout(0.05)
        while not server.ended.is_set():
            try:
                if self.connection.recv(1) == b"":
                    server.abandoned.set()
                    return
            except TimeoutError:
                continue

    def _send(self, choice: dict[str, Any] | None, usage: dict[str, Any] | None = None) -> None:
        part = {
            "id": "told",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": "told",
            "choices": [] if choice is None else [{"index": 0, **choice}],
            "usage": usage,
        }
        self._chunk(b"data: " + json.dumps(part).encode() + b"\n\n")

    def _chunk(self, content: bytes) -> None:
        self.wfile.write(f"{len(content):x}\r\n".encode() + content + b"\r\n")

    def _end_head(self, content_type: str, length: int | None) -> None:
        self.send_header("content-type", content_type)
        self.send_header("connection", "close")
        if length is not None:
            self.send_header("content-length", str(length))
        self.end_headers()
