"""A small asynchronous client of Cartrita's REST API and socket, for programs in Python. It needs no Django.

async with Client("https://cartrita.example", token=TOKEN) as client:
    session = await client.open_session()
    handbook = await client.upload("handbook.pdf", session_id=session.id)
    reply = await session.ask("What is the VAT rate?", attachments=[handbook["id"]])
    print(reply.text, reply.citations)
"""

import asyncio
import mimetypes
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID, uuid4

import httpx

from cartrita.errors import CartritaError
from cartrita.streaming.client import Stream

TIMEOUT_SECONDS: Final = 30.0
TRIES: Final = 5
FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 20.0
POLL_SECONDS: Final = 0.2
# Too many requests, a dependency that is down: the same request may succeed later.
_LATER: Final = frozenset({429, 503})


class Problem(CartritaError):
    """The server's answer is an error; `problem` holds its members (RFC 9457), `status` the HTTP status.

    `code` is the server's own, by which programs decide (docs/rest.md).
    """

    code = "refused"

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or f"HTTP {status}"), field=problem.get("field"))
        self.status = status  # type: ignore[misc] # an instance's own
        self.code = str(problem.get("code", "refused"))  # type: ignore[misc]
        self.problem = dict(problem)


class NotReached(CartritaError):
    """The server cannot be reached, or broke off, as often as it was tried."""

    code = "not_reached"


class DocumentFailed(CartritaError):
    """The document cannot be read; the message says why."""

    code = "document_failed"


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a message: `outcome` is answered, denied, cancelled or failed."""

    message_id: UUID
    text: str
    outcome: str
    citations: Sequence[Mapping[str, Any]] = ()
    plan_id: UUID | None = None
    model: str = ""
    entry: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Client:
    """Speaks for the owner of an API token. Its methods raise Problem and NotReached.

    Requests are repeated after a broken connection, 429 and 503, at most five times and as Retry-After says;
    a POST carries an Idempotency-Key, so that it happens once however often it is sent.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str,
        timeout: float = TIMEOUT_SECONDS,
        tries: int = TRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._tries = tries
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout,
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        files: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> Any:
        """Call a route below /api/v2 and return what it answers, None for an empty answer.

        `key` is the Idempotency-Key of a POST, a new one unless given.
        """
        sent = dict(headers or {})
        if method == "POST":
            sent["Idempotency-Key"] = key or str(uuid4())
        for turn in range(1, self._tries + 1):
            try:
                answer = await self._http.request(
                    method, f"/api/v2{path}", json=json, params=params, data=data, files=files, headers=sent
                )
            except httpx.TransportError as error:
                if turn == self._tries:
                    raise NotReached(f"{self._url} cannot be reached: {error!r}.") from error
                await asyncio.sleep(_pause(turn))
                continue
            if answer.status_code in _LATER and turn < self._tries:
                await asyncio.sleep(max(_pause(turn), _retry_after(answer.headers)))
                continue
            if answer.is_error:
                raise Problem(answer.status_code, _members(answer))
            return answer.json() if answer.content else None
        raise AssertionError("the last try answers or raises")

    async def entries(self, path: str, **filters: Any) -> AsyncIterator[dict[str, Any]]:
        """Yield all entries of a list, page by page; `filters` are its query parameters."""
        params = {name: value for name, value in filters.items() if value is not None}
        while True:
            page = await self.request("GET", path, params=params)
            for entry in page["items"]:
                yield entry
            if not page.get("next_cursor"):
                return
            params["cursor"] = page["next_cursor"]

    async def open_session(
        self, *, metadata: Mapping[str, Any] | None = None, turn_policy: str = "queue"
    ) -> "Session":
        """Open a session; see docs/rest.md for its turn policies."""
        body = {"metadata": dict(metadata or {}), "turnPolicy": turn_policy}
        opened = await self.request("POST", "/sessions", json=body)
        return Session(self, UUID(opened["sessionId"]))

    def session(self, session_id: UUID) -> "Session":
        """Return a session that exists."""
        return Session(self, session_id)

    async def upload(
        self,
        file: Path | str,
        content: bytes | None = None,
        *,
        title: str | None = None,
        session_id: UUID | None = None,
        labels: Sequence[str] = (),
        wait: bool = True,
    ) -> dict[str, Any]:
        """Hand in a document, read from `file` unless its `content` is given, and wait until it is ready.

        Without `session_id` it belongs to the workspace. A document that people have to approve first is
        returned as `held`. Raises DocumentFailed.
        """
        path = Path(file)
        if content is None:
            content = await asyncio.to_thread(path.read_bytes)
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        form = {"title": title or path.name, "session_id": _text(session_id), "labels": list(labels)}
        document: dict[str, Any] = await self.request(
            "POST",
            "/documents",
            data={name: value for name, value in form.items() if value},
            files={"file": (path.name, content, media_type)},
        )
        place = f"/documents/{document['id']}"
        scope = {"session_id": str(session_id)} if session_id else None
        while wait and document["status"] not in {"ready", "failed", "held"}:
            await asyncio.sleep(POLL_SECONDS)
            document = await self.request("GET", place, params=scope)
        if document["status"] == "failed":
            raise DocumentFailed(
                f"{path.name} cannot be read: {document.get('error') or 'no reason is known'}."
            )
        return document

    async def search(
        self,
        query: str,
        *,
        session_id: UUID | None = None,
        document_ids: Sequence[str] = (),
        k: int | None = None,
    ) -> list[dict[str, Any]]:
        """Return the passages that fit best, best first."""
        asked: dict[str, Any] = {"query": query, "session_id": _text(session_id), "k": k}
        if document_ids:
            asked["document_ids"] = list(document_ids)
        body = {name: value for name, value in asked.items() if value is not None}
        answer = await self.request("POST", "/search", json=body)
        hits: list[dict[str, Any]] = answer["hits"]
        return hits

    async def approve(self, approval_id: str | UUID, **terms: Any) -> dict[str, Any]:
        """Say yes to a request for approval; `terms` are scope, pattern, valid_until and text."""
        answer: dict[str, Any] = await self.request("POST", f"/approvals/{approval_id}/approve", json=terms)
        return answer

    async def deny(self, approval_id: str | UUID, text: str = "") -> dict[str, Any]:
        """Say no to a request for approval."""
        answer: dict[str, Any] = await self.request(
            "POST", f"/approvals/{approval_id}/deny", json={"text": text}
        )
        return answer

    def stream(self) -> Stream:
        """Return a socket that resumes after cuts, with a new ticket for each connection."""

        async def ticket() -> str:
            return str((await self.request("POST", "/tickets"))["ticket"])

        scheme, _, rest = self._url.partition("://")
        return Stream(f"{'wss' if scheme == 'https' else 'ws'}://{rest}/ws", ticket=ticket)


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation."""

    client: Client
    id: UUID

    async def post(
        self,
        text: str,
        *,
        message_id: UUID | None = None,
        attachments: Sequence[str | UUID] = (),
        agent: str | None = None,
        model: str | None = None,
    ) -> UUID:
        """Post a message and return its id; the same `message_id` adds it once. `agent` skips the routing."""
        metadata = {name: value for name, value in (("agent", agent), ("model", model)) if value}
        message_id = message_id or uuid4()
        body = {
            "content": text,
            "messageId": str(message_id),
            "metadata": metadata,
            "attachments": [str(each) for each in attachments],
        }
        await self.client.request("POST", f"/sessions/{self.id}/messages", json=body)
        return message_id

    async def ask(
        self,
        text: str,
        *,
        on_text: Callable[[str], None] | None = None,
        on_event: Callable[[Mapping[str, Any]], None] | None = None,
        **options: Any,
    ) -> Reply:
        """Post a message and wait for its reply, which may need a person's approval first.

        `on_text` gets the reply's text so far, whole, whenever it has grown; `on_event` each event of the
        session meanwhile (docs/protocol.md). `options` are those of `post`.
        """
        channel = f"session:{self.id}"
        message_id = UUID(str(options.pop("message_id", None) or uuid4()))
        async with self.client.stream() as stream:
            stream.subscribe(channel)
            posted = False
            async for update in stream:
                if update["do"] == "snapshot" and not posted:
                    # What happens from now on is seen.
                    await self.post(text, message_id=message_id, **options)
                    posted = True
                elif update["do"] == "text" and on_text is not None and not update["done"]:
                    on_text(update["text"])
                elif update["do"] == "event" and on_event is not None:
                    on_event(update["event"])
                if update["do"] in {"snapshot", "event"} and (reply := _reply(update, message_id)):
                    return reply
        raise AssertionError("the stream ends by an error")

    async def messages(self) -> list[dict[str, Any]]:
        """Return all messages in order."""
        return [entry async for entry in self.client.entries(f"/sessions/{self.id}/messages")]

    async def cancel(self) -> bool:
        """Ask to stop the answer that is being written; tells whether there was one."""
        answer = await self.client.request("POST", f"/sessions/{self.id}/cancel", json={})
        return bool(answer["cancel_requested"])

    async def erase(self) -> None:
        """Destroy the session's key: its text is unreadable for ever."""
        await self.client.request("DELETE", f"/sessions/{self.id}")


def _reply(update: Mapping[str, Any], message_id: UUID) -> Reply | None:
    """Return the reply to the message that an update brings; None where it is of something else."""
    if update["do"] == "event":
        found = update["event"]
        if found["type"] != "sessions_app.ReplyPosted":
            return None
        entries = [found["d"] | {"content": found["d"]["completed"]["text"]}]
    else:
        entries = update["snapshot"]["messages"]
    for entry in entries:
        if entry.get("parent") == str(message_id) and entry.get("outcome"):
            plan_id = entry.get("plan_id")
            return Reply(
                message_id=UUID(entry["message_id"]),
                text=entry["content"],
                outcome=entry["outcome"],
                citations=tuple(entry.get("citations") or ()),
                plan_id=UUID(plan_id) if plan_id else None,
                model=entry.get("model") or "",
                entry=entry,
            )
    return None


def _members(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        members = answer.json()
    except ValueError:
        members = None
    return members if isinstance(members, dict) else {"detail": f"HTTP {answer.status_code}, not a problem."}


def _pause(turn: int) -> float:
    longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**turn)
    return longest * random.uniform(0.5, 1)


def _retry_after(headers: httpx.Headers) -> float:
    """Return the seconds that Retry-After asks for, bounded; Cartrita sends no dates in it."""
    value = headers.get("Retry-After", "")
    return min(float(value), LONGEST_PAUSE_SECONDS) if value.isdecimal() else 0.0


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
