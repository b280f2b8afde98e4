"""Strangers cannot stop the server by what they send, and HEAD gets no body."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sessions_app.commands import create_session
from tests.accounts.people import someone
from tests.databases import Database
from tests.servers import Server, listening_server

BODY_BYTES = 64 * 1024 * 1024
LINE = b"POST /api/v2/search HTTP/1.1\r\nHost: %b\r\n"
CHUNK = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"


@pytest.fixture
def server(database: Database, tmp_path: Path) -> Iterator[Server]:
    with listening_server(database, tmp_path, scripted=True) as started:
        started.start()
        yield started


def sends(server: Server, headers: bytes, *parts: bytes) -> tuple[int, str]:
    """Send a request as far as the server takes it; return the answer's status and code."""
    address = server.listener.getsockname()
    with socket.create_connection(address, timeout=60) as connection:
        try:
            connection.sendall(LINE % f"{address[0]}:{address[1]}".encode() + headers + b"\r\n\r\n")
            for part in parts:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server has hung up; what it said may be there still
        answer = b""
        try:
            while b"}" not in answer and (read := connection.recv(65536)):
                answer += read
        except ConnectionResetError:
            pass
    if not answer:
        return 0, ""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["code"]


class TestBody:
    def test_is_taken_up_to_a_limit(self, server: Server) -> None:
        announced = sends(server, b"Content-Length: %d" % (BODY_BYTES + 1))
        assert announced == (413, "body_too_large")
        # Without a length the server hangs up when it has had enough; the refusal may be lost with it.
        parts = [CHUNK] * (BODY_BYTES // 0x100000 + 8)
        assert sends(server, b"Transfer-Encoding: chunked", *parts) in [(413, "body_too_large"), (0, "")]
        # It serves as before, and the routes answer below the limit.
        assert sends(server, b"Content-Type: application/json\r\nContent-Length: 2", b"{}") == (
            401,
            "not_signed_in",
        )

    def test_of_a_form_is_left_to_the_route(self, server: Server) -> None:
        headers = b"Content-Type: multipart/form-data\r\nContent-Length: 2"
        assert sends(server, headers, b"xx") == (401, "not_signed_in")


class TestHead:
    def test_is_answered_without_a_body_also_by_what_comes_in_parts(self, server: Server) -> None:
        person = someone()
        session_id = create_session(
            user_id=person.id, workspace_id=person.workspace_id, actor=f"user:{person.id}"
        )
        address = server.listener.getsockname()
        line = b"%b %b HTTP/1.1\r\nHost: %b:%d\r\nAuthorization: Bearer %b\r\n\r\n"
        for path in ("/api/schema", f"/api/v2/sessions/{session_id}/stream"):
            with socket.create_connection(address, timeout=60) as connection:
                told = address[0].encode(), address[1], person.token("read").encode()
                # What comes on the same connection is the next answer, and nothing else.
                connection.sendall(line % (b"HEAD", path.encode(), *told))
                connection.sendall(line % (b"GET", b"/healthz", *told))
                answer = b""
                while answer.count(b"HTTP/1.1 ") < 2 and (read := connection.recv(65536)):
                    answer += read
            first, _, rest = answer.partition(b"\r\n\r\n")
            assert first.startswith(b"HTTP/1.1 200 ")
            assert rest.startswith(b"HTTP/1.1 200 ")
