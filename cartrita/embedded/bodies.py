"""What the web process takes in of a request's body before anybody has looked at it, and HEAD gives none.

Twisted reads forms a second time, whole and in the event loop, for an interface that daphne does not use, and
bounds no body. Both would let strangers stop the server. Of an answer to HEAD daphne drops the first part
alone: the others would be taken for the answer to the connection's next request, by a proxy for anybody's.
"""

import json
from typing import Any

from daphne import server
from daphne.http_protocol import HTTPFactory, WebRequest

# Above what any route takes (a document of 50 MiB in a form): routes answer what is only a little too large.
BODY_BYTES = 64 * 1024 * 1024

_PROBLEM = json.dumps(
    {
        "type": "urn:cartrita:problem:body_too_large",
        "title": "Body too large",
        "status": 413,
        "detail": f"The body of a request holds at most {BODY_BYTES} bytes.",
        "code": "body_too_large",
    }
).encode()
_REFUSAL = (
    b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Type: application/problem+json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_PROBLEM), _PROBLEM)
)


def bound_bodies() -> None:
    """Let every daphne server of this process take bodies of at most 64 MiB, and leave forms to Django."""
    # daphne has no option for either.
    server.HTTPFactory = _Factory


class _Request(WebRequest):  # type: ignore[misc] # daphne has no types
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, parsePOSTFormSubmission=False, **kwargs)
        self._taken = 0

    def gotLength(self, length: int | None) -> None:  # noqa: N802 # Twisted's name
        super().gotLength(0 if length is not None and length > BODY_BYTES else length)
        if length is not None:
            self._check(length)

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802 # Twisted's name
        self._taken += len(data)
        if self._check(self._taken):
            super().handleContentChunk(data)

    def handle_reply(self, message: dict[str, Any]) -> None:
        if self.method == b"HEAD" and message.get("type") == "http.response.body":
            message = {**message, "body": b"", "more_body": False}
        super().handle_reply(message)

    def _check(self, length: int) -> bool:
        """Refuse and hang up where that is too long; tell whether it is not."""
        if length <= BODY_BYTES:
            return True
        if not self.channel.transport.disconnecting:
            self.channel.transport.write(_REFUSAL)
            self.channel.loseConnection()
        return False


class _Factory(HTTPFactory):  # type: ignore[misc]
    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802 # Twisted's name
        protocol = super().buildProtocol(addr)
        protocol.requestFactory = _Request
        return protocol
