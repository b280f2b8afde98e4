"""The one WebSocket consumer: it translates between a socket, the pure limits and the hub."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import psycopg
from channels.generic.websocket import AsyncWebsocketConsumer
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from cartrita import telemetry
from cartrita.errors import CartritaError, NotAllowed, NotFound, NotSignedIn
from cartrita.streaming.flow import Flow
from cartrita.streaming.hub import EventDue, Hub, Subscription, hub
from cartrita.streaming.origin import check_origin
from cartrita.streaming.protocol import (
    CHANNELS_PER_SOCKET,
    HEARTBEAT_SECONDS,
    SUBPROTOCOL,
    TICKET_PREFIX,
    VERSION,
    Ack,
    Close,
    Cmd,
    Fill,
    FrameTooLarge,
    Hello,
    MalformedFrame,
    Pong,
    Sub,
    Unsub,
    answer,
    bye,
    delta,
    encode,
    event,
    heartbeat,
    next_check,
    parse,
    refusal,
    subbed,
    unsubbed,
    welcome,
)
from cartrita.streaming.registry import (
    CommandCall,
    Person,
    UnknownChannel,
    UnknownCommand,
    authentication,
    channel_kind,
    is_command,
    socket_command,
)

logger = logging.getLogger(__name__)

# Answers that wait to be sent; a client that asks and does not read is let go.
CONTROL_FRAMES: Final = 256
# A socket that does not even take a bye is given up after this time.
CLOSE_SECONDS: Final = 5.0


class TooFast(CartritaError):
    """More than 10 commands and subscriptions a second."""

    code = "too_fast"
    status = 429


class TooManyChannels(CartritaError):
    """More channels than one connection may follow."""

    code = "too_many_channels"


class InternalFailure(CartritaError):
    """Something failed that the caller cannot mend; it is logged with its trace."""

    code = "internal"
    status = 500


class StreamConsumer(AsyncWebsocketConsumer):  # type: ignore[misc] # Channels has no types
    """One connection. No channel layer is involved: the hub wakes connections.

    Frames go out by one pump that runs while there is something to send and the window is open; requests
    are carried out one after the other by a worker that runs while there are any. An idle connection has no
    task of its own, waits on nothing but the socket, and is looked at by the hub when its time has come.
    """

    # None is configured under that name: Channels then leaves it out, and its cost for each connection.
    channel_layer_alias = "none"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.user: Person | None = None
        # The channel of the session that the address names.
        self._session: str | None = None
        self._hub: Hub = hub()
        self._flow = Flow.begin(at=time.monotonic())
        self._subscriptions: dict[str, Subscription] = {}
        # Short, and empty nearly always: an empty deque takes more memory than all the rest here.
        self._control: list[str] = []
        self._requests: list[Sub | Unsub | Cmd] = []
        self._pump: asyncio.Task[None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._rechecking: asyncio.Task[None] | None = None
        self._wanted = False
        self._ending: tuple[Close, str] | None = None
        self._ended_at = 0.0
        self._gone = False
        self._given_up = False
        self._serving: asyncio.Task[None] | None = None
        self._beat_at = 0.0
        self._check_at = 0.0

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        """Serve the connection until it is closed or given up.

        Channels' own loop would look at all database connections for each message and hold two more tasks.
        """
        self.scope, self.base_send = scope, send
        self._serving = asyncio.current_task()
        try:
            while await self._handle(await receive()):
                pass
        except asyncio.CancelledError:
            if not self._given_up or self._serving is None:
                raise
            self._serving.uncancel()
        finally:
            self._clean_up()

    async def _handle(self, message: dict[str, Any]) -> bool:
        """Take in what the server says of the connection; return whether more may come."""
        match message["type"]:
            case "websocket.connect":
                await self.connect()
            case "websocket.receive":
                self._receive(message.get("text"))
            case "websocket.disconnect":
                return False
        return True

    # Member of the hub ---------------------------------------------------------------------------------

    @property
    def user_id(self) -> Any:
        return None if self.user is None else self.user.pk

    def wake(self) -> None:
        self._wanted = True
        if self._pump is None and not self._gone:
            self._pump = self._hub.run(self._run_pump())

    def tick(self, now: float) -> float:
        if self._ending is not None:
            if now - self._ended_at >= CLOSE_SECONDS:
                self.give_up()
            return self._ended_at + CLOSE_SECONDS
        if self._flow.window.stalled(at=now):
            self.end(Close.STALLED, "Frames were not acknowledged for 30 s.")
        elif self._flow.silent(at=now):
            self.end(Close.STALLED, "Nothing was heard for 45 s.")
        else:
            if now - self._beat_at >= HEARTBEAT_SECONDS:
                self._beat_at = now
                heads = {name: subscription.sent for name, subscription in self._subscriptions.items()}
                self._say(heartbeat(heads=heads, at=datetime.now(UTC)))
            if now >= self._check_at:
                self.recheck()
        # Whatever a frame changes meanwhile falls due later than the next heartbeat.
        flow = self._flow
        return min(self._beat_at + HEARTBEAT_SECONDS, self._check_at, flow.window.stalls_at, flow.silent_at)

    def recheck(self) -> None:
        self._check_at = next_check(time.monotonic())
        if self._rechecking is None:
            self._rechecking = self._hub.run(self._recheck())

    def end(self, close: Close, reason: str, *, retry_after: float | None = None) -> None:
        if self._ending is not None:
            return
        self._ending = (close, reason)
        self._ended_at = time.monotonic()
        self._hub.look_at(self, self._ended_at + CLOSE_SECONDS)
        self._requests.clear()
        self._control.append(encode(bye(close, reason, retry_after=retry_after)))
        self.wake()

    def give_up(self) -> None:
        """Leave a connection that does not take anything any more; the server cuts it."""
        if not self._given_up and self._serving is not None:
            self._given_up = True
            self._serving.cancel()

    # Coming and going ----------------------------------------------------------------------------------

    async def connect(self) -> None:
        """Accept and welcome, or accept, say why not, and close (a refused handshake could not say why)."""
        offered: list[str] = self.scope.get("subprotocols", [])
        address = (self.scope.get("client") or ["unknown"])[0]
        if self._hub.refuses_handshake(address):
            await self.close()
            return
        if offered and SUBPROTOCOL not in offered:
            await self._refuse(offered[0], Close.UNKNOWN_PROTOCOL, f"This server speaks {SUBPROTOCOL}.")
            return
        protocol = SUBPROTOCOL if offered else None
        if "path" in self.scope.get("url_route", {}).get("kwargs", {}):
            await self._refuse(protocol, Close.NOT_FOUND, "The socket is at /ws.")
            return
        try:
            await self._hub.start()
            await self._hub.learn_epoch()
            session_id = await self._authenticate(offered)
        except NotSignedIn as error:
            self._hub.handshake_failed(address)
            await self._refuse(protocol, Close.NOT_SIGNED_IN, error.message)
        except NotAllowed as error:
            self._hub.handshake_failed(address)
            await self._refuse(protocol, Close.NOT_ALLOWED, error.message)
        except NotFound as error:
            await self._refuse(protocol, Close.NOT_FOUND, error.message)
        except (CartritaError, psycopg.OperationalError):
            logger.exception("A connection could not be authenticated")
            await self._refuse(protocol, Close.FAILED, "The server cannot check who you are now; come back.")
        else:
            await self._begin(protocol, session_id)

    async def _authenticate(self, offered: list[str]) -> UUID | None:
        """Find out who connects, and whether the session in the address is theirs."""
        tickets = [name for name in offered if name.startswith(TICKET_PREFIX)]
        ticket = tickets[0].removeprefix(TICKET_PREFIX) if tickets else None
        check_origin(self.scope, required=ticket is None)
        self.user = await authentication().authenticate(self.scope, ticket)
        session_id: UUID | None = self.scope.get("url_route", {}).get("kwargs", {}).get("session_id")
        if session_id is not None:
            self._session = f"session:{session_id}"
            if not await self._may_follow(self._session):
                raise NotFound("There is no such session for you.", field="session_id")
        return session_id

    async def _may_follow(self, channel: str) -> bool:
        kind, channel_id = channel_kind(channel)
        return await kind.authorise(self.user, channel_id)

    async def _begin(self, protocol: str | None, session_id: UUID | None) -> None:
        if self._hub.draining:
            await self._refuse(protocol, Close.RESTARTING, "The server restarts; come back.")
        elif not self._hub.join(self):
            await self._refuse(protocol, Close.TOO_MANY, "A user has at most 10 connections; close another.")
        else:
            now = time.monotonic()
            self._flow = Flow.begin(at=now)
            self._beat_at, self._check_at = now, next_check(now)
            await self.accept(protocol)
            self._say(
                welcome(
                    connection=str(uuid4()),
                    session_id=session_id,
                    epoch=self._hub.epoch,
                    at=datetime.now(UTC),
                )
            )

    async def _refuse(self, protocol: str | None, close: Close, reason: str) -> None:
        self._ending = (close, reason)
        await self.accept(protocol)
        await self.send(text_data=encode(bye(close, reason)))
        await self.close(int(close), reason)

    def _clean_up(self) -> None:
        self._gone = True
        tasks = [task for task in (self._pump, self._worker, self._rechecking) if task is not None]
        for task in tasks:
            # A command that has begun is carried out although nobody reads its answer.
            if task is not self._worker:
                task.cancel()
        for subscription in self._subscriptions.values():
            self._hub.unsubscribe(subscription)
        self._subscriptions.clear()
        self._requests.clear()
        self._hub.leave(self)

    # What comes in -------------------------------------------------------------------------------------

    def _receive(self, text: str | None) -> None:
        """Take in one frame; mistakes are answered, and only too many of them end the connection."""
        if self._ending is not None:
            return
        now = time.monotonic()
        self._flow = self._flow.heard(at=now)
        try:
            self._take(parse(text), now)
        except FrameTooLarge as error:
            self._say(refusal(None, error))
            self._flow, goes_on = self._flow.exceeded(at=now)
            if not goes_on:
                self.end(Close.TOO_LARGE, error.message)
        except MalformedFrame as error:
            self._say(refusal(error.details.get("id"), error))
            self._flow, goes_on = self._flow.mistaken(at=now)
            if not goes_on:
                self.end(Close.MALFORMED, "Too many malformed frames.")

    def _take(self, frame: Any, now: float) -> None:
        match frame:
            case Ack():
                self._flow = self._flow.acknowledged(frame.f, at=now)
                self.wake()
            case Pong():
                pass
            case Hello():
                if frame.v != VERSION:
                    self.end(Close.UNKNOWN_PROTOCOL, f"This server speaks version {VERSION}.")
            case _:
                self._flow, granted = self._flow.requested(at=now)
                if not granted:
                    self._slow_down(frame, now)
                elif isinstance(frame, Fill):
                    if (subscription := self._subscriptions.get(frame.ch)) is not None:
                        subscription.fill(frame.mid, frame.start)
                        self.wake()
                else:
                    self._requests.append(frame)
                    if self._worker is None:
                        self._worker = self._hub.run(self._run_worker())

    def _slow_down(self, frame: Sub | Unsub | Cmd | Fill, now: float) -> None:
        error = TooFast("At most 10 commands and subscriptions a second; send this one again later.")
        wait = int(self._flow.requests.wait * 1000) + 1
        self._say(refusal(getattr(frame, "id", None), error, retry_ms=wait))
        self._flow, goes_on = self._flow.refused(at=now)
        if not goes_on:
            self.end(Close.TOO_MANY, "Too many frames, in spite of refusals.", retry_after=10)

    # What is asked -------------------------------------------------------------------------------------

    async def _run_worker(self) -> None:
        try:
            while self._requests:
                frame = self._requests.pop(0)
                what = frame.name if isinstance(frame, Cmd) else frame.t
                # Nobody has checked yet what a client calls a command: an unknown one names no span.
                known = not isinstance(frame, Cmd) or is_command(frame.name)
                with telemetry.span(
                    f"{telemetry.SPAN_SOCKET} {what}" if known else telemetry.SPAN_SOCKET,
                    kind=SpanKind.SERVER,
                ):
                    await self._answer(frame)
        finally:
            self._worker = None

    async def _answer(self, frame: Sub | Unsub | Cmd) -> None:
        try:
            await self._carry_out(frame)
        except CartritaError as error:
            telemetry.fail(trace.get_current_span(), error.code)
            self._say(refusal(frame.id, error, trace=telemetry.current_trace_id()))
        except Exception as error:
            telemetry.fail(trace.get_current_span(), type(error).__name__)
            logger.exception("A frame %s was not carried out", frame.t)
            failure = InternalFailure("The server failed and logged why; try again later.")
            self._say(refusal(frame.id, failure, trace=telemetry.current_trace_id()))

    async def _carry_out(self, frame: Sub | Unsub | Cmd) -> None:
        match frame:
            case Sub():
                await self._subscribe(frame)
            case Unsub():
                self._unsubscribe(frame.ch)
                self._say(answer(frame.id, {}))
            case Cmd():
                self._say(answer(frame.id, await self._command(frame)))

    async def _subscribe(self, frame: Sub) -> None:
        kind, channel_id = channel_kind(frame.ch)
        if not await kind.authorise(self.user, channel_id):
            raise UnknownChannel(f"There is no channel {frame.ch!r} for you.", field="ch")
        self._unsubscribe(frame.ch)
        if len(self._subscriptions) >= CHANNELS_PER_SOCKET:
            raise TooManyChannels(f"A connection follows at most {CHANNELS_PER_SOCKET} channels.", field="ch")
        subscription = await self._hub.subscription(frame.ch, kind, channel_id, self)
        try:
            if frame.cur is not None and await subscription.recover(frame.cur, frame.have):
                snapshot, head = None, frame.cur
            else:
                # Taken before the snapshot, so that nothing falls between; some events may be in both.
                head = self._hub.position
                snapshot = await kind.snapshot(channel_id)
                subscription.start_at(head)
        except BaseException:
            self._hub.unsubscribe(subscription)
            raise
        if self._gone:
            self._hub.unsubscribe(subscription)
            return
        self._say(subbed(frame_id=frame.id, channel=frame.ch, head=head, snapshot=snapshot))
        self._subscriptions[frame.ch] = subscription
        self.wake()

    def _unsubscribe(self, channel: str) -> None:
        subscription = self._subscriptions.pop(channel, None)
        if subscription is not None:
            self._hub.unsubscribe(subscription)

    async def _command(self, frame: Cmd) -> dict[str, Any]:
        command = socket_command(frame.name)
        channel_id = None
        if command.kind is not None:
            kind, channel_id = channel_kind(frame.ch or "")
            if kind.kind != command.kind:
                raise UnknownCommand(
                    f"The command {frame.name!r} needs a channel '{command.kind}:<id>'.", field="ch"
                )
            if not await kind.authorise(self.user, channel_id):
                raise UnknownChannel(f"There is no channel {frame.ch!r} for you.", field="ch")
        return await command.handler(
            CommandCall(
                user=self.user,
                channel_id=channel_id,
                cid=frame.cid,
                args=frame.args,
                expected_version=frame.exp_ver,
            )
        )

    async def _recheck(self) -> None:
        try:
            if self.user is None or not await authentication().still_valid(self.user, self.scope):
                self.end(Close.NOT_SIGNED_IN, "You are not signed in any more.")
                return
            if self._session is not None and not await self._may_follow(self._session):
                self.end(Close.GONE, "The session has ended.")
                return
            for name, subscription in list(self._subscriptions.items()):
                allowed = await self._may_follow(name)
                if not allowed and self._subscriptions.get(name) is subscription:
                    self._unsubscribe(name)
                    self._say(unsubbed(channel=name, error=NotAllowed("This channel is not yours any more.")))
        except Exception:
            # Nobody keeps access because a check failed for long: the next one comes in a minute, as always.
            logger.exception("The authority of a connection could not be checked")
        finally:
            self._rechecking = None

    # What goes out -------------------------------------------------------------------------------------

    def _say(self, frame: dict[str, Any]) -> None:
        """Send a frame that is not counted, ahead of what is."""
        if self._gone or self._ending is not None:
            return
        if len(self._control) >= CONTROL_FRAMES:
            self.end(Close.STALLED, "Answers were not read.")
            return
        self._control.append(encode(frame))
        self.wake()

    async def _run_pump(self) -> None:
        try:
            while self._wanted and not self._gone:
                self._wanted = False
                await self._send_due()
        except OSError:
            # The peer is gone; its disconnect message follows.
            self._gone = True
        except RuntimeError as error:
            # So does uvicorn say that it closed the connection itself, whose peer answered no ping.
            if "after sending 'websocket.close'" not in str(error):
                raise
            self._gone = True
        except psycopg.OperationalError as error:
            logger.warning("What a client missed is read again: %s", error)
            await asyncio.sleep(1)
            self._wanted = True
        except Exception:
            logger.exception("A connection could not be served")
            self.end(Close.FAILED, "The server failed; come back.")
        finally:
            self._pump = None
            if self._wanted:
                self.wake()

    async def _send_due(self) -> None:
        while True:
            while self._control:
                await self.send(text_data=self._control.pop(0))
            if self._ending is not None:
                self._gone = True
                await self.close(int(self._ending[0]), self._ending[1])
                return
            if not self._flow.window.is_open:
                return
            frame = await self._next_frame()
            if frame is not None:
                size = len(frame) if frame.isascii() else len(frame.encode())
                self._flow = self._flow.sent(size, at=time.monotonic())
                await self.send(text_data=frame)
            elif not self._control:
                return

    async def _next_frame(self) -> str | None:
        """Return the next counted frame of any channel, each in its turn."""
        for name in list(self._subscriptions):
            subscription = self._subscriptions.get(name)
            due = None if subscription is None else await subscription.due()
            if due is None:
                continue
            if self._subscriptions.get(name) is subscription is not None:
                # To the end of the line.
                self._subscriptions[name] = self._subscriptions.pop(name)
            number = self._flow.window.next_number
            if isinstance(due, EventDue):
                return event(number=number, previous=due.previous, tail=due.tail)
            return delta(
                number=number,
                channel=due.channel,
                message_id=due.message_id,
                attempt=due.attempt,
                start=due.start,
                end=due.end,
                text=due.text,
            )
        return None
