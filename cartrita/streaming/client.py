"""A small asynchronous client of the protocol `cartrita.v1`, for programs and tests (docs/protocol.md).

async with Stream("wss://cartrita.example/ws", ticket=get_ticket) as stream:
    stream.subscribe("session:0192...")
    await stream.command("post_message", {"content": "Hello"}, channel="session:0192...")
    async for update in stream:
        if update["do"] == "text":
            print(update["text"])
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID, uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, WebSocketException
from websockets.typing import Origin, Subprotocol

from cartrita.errors import CartritaError
from cartrita.streaming import replica
from cartrita.streaming.protocol import SUBPROTOCOL, TICKET_PREFIX, Close

SILENCE_SECONDS: Final = 40.0
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
UPDATES_WAITING: Final = 256

# Who meets one of these cannot be helped by trying again.
_FINAL: Final = frozenset(
    {
        Close.MALFORMED,
        Close.NOT_SIGNED_IN,
        Close.NOT_ALLOWED,
        Close.NOT_FOUND,
        Close.GONE,
        Close.TOO_LARGE,
        Close.UNKNOWN_PROTOCOL,
    }
)


class Refused(CartritaError):
    """The server refused a command; `error` is its reason as in problem answers."""

    code = "refused"

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(error["message"], field=error.get("field"), **error.get("details", {}))
        self.error = dict(error)


class ConnectionEnded(CartritaError):
    """The server ended the connection for good; `details` hold its `close` code."""

    code = "connection_ended"


class Stream:
    """Keeps one connection, resumes every subscription after a cut, and sends unanswered commands again.

    Iterate to get the updates: the effects of `cartrita.streaming.replica` that are to be shown, and
    `{"do": "status", "status": "connected" | "waiting", ...}`. Who does not iterate is not sent more either:
    256 updates wait, then nothing more is read or acknowledged, also no answers to commands.

    `ticket` gets a new single-use ticket for each connection; without, `headers` carry the session's cookie
    and `origin` its page.
    """

    def __init__(
        self,
        url: str,
        *,
        ticket: Callable[[], Awaitable[str]] | None = None,
        headers: Mapping[str, str] | None = None,
        origin: str | None = None,
        first_pause: float = FIRST_PAUSE_SECONDS,
    ) -> None:
        self._url = url
        self._ticket = ticket
        self._headers = dict(headers or {})
        self._origin = None if origin is None else Origin(origin)
        self._first_pause = first_pause
        self.state = replica.Replica()
        self._updates: asyncio.Queue[replica.Effect | None] = asyncio.Queue(UPDATES_WAITING)
        self._commands: dict[str, tuple[dict[str, Any], asyncio.Future[dict[str, Any]]]] = {}
        self._outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._tries = 0
        self._bye: dict[str, Any] | None = None
        self._ended: ConnectionEnded | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="stream client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._reject_commands("The client was closed.")

    def subscribe(self, channel: str, after: int | None = None) -> None:
        """Follow a channel after a position, or from a snapshot."""
        self._post(replica.wanted(self.state, channel, after))

    def unsubscribe(self, channel: str) -> None:
        """Follow a channel no longer."""
        self._post(replica.unwanted(self.state, channel))

    def texts(self, channel: str) -> dict[str, str]:
        """Return the texts of a channel's messages as far as they are known, by message id."""
        copy = self.state.channels.get(channel)
        return {} if copy is None else {mid: message.text for mid, message in copy.messages.items()}

    async def command(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        channel: str | None = None,
        expected_version: int | None = None,
        cid: UUID | None = None,
    ) -> dict[str, Any]:
        """Send a command and return its result, however often the connection is cut meanwhile.

        The same `cid` makes a repetition harmless. Raises Refused, and ConnectionEnded.
        """
        if self._ended is not None:
            raise self._ended
        cid = cid or uuid4()
        frame: dict[str, Any] = {
            "t": "cmd",
            "id": f"c{cid}",
            "cid": str(cid),
            "name": name,
            "args": dict(args or {}),
        }
        if channel is not None:
            frame["ch"] = channel
        if expected_version is not None:
            frame["exp_ver"] = expected_version
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._commands[frame["id"]] = (frame, future)
        if self.state.connected:
            self._outbox.put_nowait(frame)
        try:
            return await future
        finally:
            self._commands.pop(frame["id"], None)

    async def __aiter__(self) -> AsyncIterator[replica.Effect]:
        while True:
            update = await self._updates.get()
            if update is None:
                assert self._ended is not None  # noqa: S101 - the end is stated before it is queued
                raise self._ended
            yield update

    async def _run(self) -> None:
        while True:
            code, reason = await self._connect_once()
            bye, self._bye = self._bye, None
            self.state, _ = replica.closed(self.state)
            if bye is not None:
                code, reason = bye["code"], bye["reason"]
            if code in _FINAL:
                self._ended = ConnectionEnded(reason or "The server ended the connection.", close=code)
                self._reject_commands(self._ended.message)
                await self._updates.put(None)
                return
            pause = self._pause(bye)
            await self._updates.put(
                {"do": "status", "status": "waiting", "code": code, "reason": reason, "pause": pause}
            )
            await asyncio.sleep(pause)

    def _pause(self, bye: Mapping[str, Any] | None) -> float:
        longest = min(LONGEST_PAUSE_SECONDS, self._first_pause * 2.0**self._tries)
        self._tries += 1
        if bye is not None and "retry_ms" in bye:
            return float(bye["retry_ms"]) / 1000
        return longest * random.uniform(0.5, 1)

    async def _connect_once(self) -> tuple[int | None, str]:
        """Serve one connection; return the code and reason of its end."""
        protocols = [Subprotocol(SUBPROTOCOL)]
        try:
            if self._ticket is not None:
                protocols.append(Subprotocol(f"{TICKET_PREFIX}{await self._ticket()}"))
            async with connect(
                self._url,
                subprotocols=protocols,
                origin=self._origin,
                additional_headers=self._headers,
                max_size=2**22,
                open_timeout=10,
                close_timeout=1,
            ) as socket:
                await self._serve(socket)
        except ConnectionClosed as closed:
            return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (None, "cut")
        except TimeoutError:
            return None, "The server was silent."
        except InvalidHandshake as error:
            return None, str(error)
        except (OSError, WebSocketException) as error:
            return None, str(error)
        return None, ""

    async def _serve(self, socket: ClientConnection) -> None:
        self._outbox = asyncio.Queue()
        sending = asyncio.create_task(self._send(socket, self._outbox))
        try:
            while True:
                async with asyncio.timeout(SILENCE_SECONDS):
                    text = await socket.recv(decode=True)
                await self._take(replica.received(self.state, json.loads(text), len(text)))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    @staticmethod
    async def _send(socket: ClientConnection, outbox: asyncio.Queue[dict[str, Any]]) -> None:
        while True:
            frame = await outbox.get()
            await socket.send(json.dumps(frame, ensure_ascii=False, separators=(",", ":")))

    async def _take(self, step: replica.Step) -> None:
        self.state, effects = step
        for effect in effects:
            match effect["do"]:
                case "send":
                    self._outbox.put_nowait(effect["frame"])
                case "answer":
                    self._settle(effect["frame"])
                case "later":
                    asyncio.get_running_loop().call_later(
                        effect["pause_ms"] / 1000, self._subscribe_again, effect["ch"]
                    )
                case "bye":
                    self._bye = effect["frame"]
                case "welcome":
                    await self._updates.put({"do": "status", "status": "connected"})
                    await self._updates.put(effect)
                    await self._take(replica.opened(self.state))
                    for frame, _ in list(self._commands.values()):
                        self._outbox.put_nowait(frame)
                case _:
                    self._tries = 0
                    await self._updates.put(effect)

    def _post(self, step: replica.Step) -> None:
        """Carry out what the caller asked for; only frames to send can come of it."""
        self.state, effects = step
        for effect in effects:
            self._outbox.put_nowait(effect["frame"])

    def _subscribe_again(self, channel: str) -> None:
        self._post(replica.again(self.state, channel))

    def _settle(self, answer: Mapping[str, Any]) -> None:
        frame, future = self._commands.get(answer["id"], (None, None))
        if frame is None or future is None or future.done():
            return
        self._tries = 0
        if answer["ok"]:
            future.set_result(answer["d"])
        elif answer["error"]["code"] == "too_fast":
            delay = answer["error"].get("retry_ms", 1000) / 1000
            asyncio.get_running_loop().call_later(delay, self._send_again, frame)
        else:
            future.set_exception(Refused(answer["error"]))

    def _send_again(self, frame: dict[str, Any]) -> None:
        if self.state.connected and frame["id"] in self._commands:
            self._outbox.put_nowait(frame)

    def _reject_commands(self, message: str) -> None:
        for _, future in self._commands.values():
            if not future.done():
                future.set_exception(ConnectionEnded(message))
