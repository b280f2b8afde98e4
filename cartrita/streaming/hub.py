"""The hub: the one reader of the log and of texts in progress, for all connections of a loop.

A channel keeps its last events and the texts in progress once for all its subscribers; a subscription keeps
only how far it has been sent. So a connection that reads slowly costs a few numbers, holds up nobody, and
what it missed beyond the channel's tail is read from the log after its own cursor.
"""

import asyncio
import contextlib
import contextvars
import inspect
import logging
import math
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Final, Protocol
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg

from cartrita.eventstore.aio import close_with_loop, connect
from cartrita.eventstore.listen import follow
from cartrita.eventstore.log import aepoch, ahead, aread_log
from cartrita.eventstore.types import RecordedEvent
from cartrita.eventstore.wake import Bell, wait_for_ring
from cartrita.streaming import deltas
from cartrita.streaming.deltas import Delta
from cartrita.streaming.flow import Bucket
from cartrita.streaming.protocol import (
    DELTA_BYTES,
    REPLAY_EVENTS,
    SOCKETS_PER_USER,
    WINDOW_BYTES,
    WINDOW_FRAMES,
    Close,
    event_tail,
    piece,
)
from cartrita.streaming.registry import ChannelKind, users_to_recheck

logger = logging.getLogger(__name__)

# A channel's tail: what a subscriber that keeps pace needs, with room for one that pauses.
TAIL_EVENTS: Final = 256
TAIL_BYTES: Final = 1024 * 1024
COMPLETED_REMEMBERED: Final = 256
# What a returning client holds of texts may be known before the channel has read those texts.
TEXTS_REMEMBERED: Final = 64
TICK_SECONDS: Final = 0.25
PURGE_SECONDS: Final = 30.0
LISTEN_POLL_SECONDS: Final = 5.0
_NO_TURN: Final = -1
FAILED_HANDSHAKES_PER_MINUTE: Final = 30
ADDRESSES_REMEMBERED: Final = 10_000


class Member(Protocol):
    """A connection, as the hub sees it."""

    @property
    def user_id(self) -> Any:
        """Return whose connection this is."""

    def wake(self) -> None:
        """Send what is new, as far as the window allows; never waits."""

    def tick(self, now: float) -> float:
        """Do what time asks for: heartbeats, the checks of silence and authority; never waits.

        Returns when time asks for something next.
        """

    def recheck(self) -> None:
        """Check at once whether the user may still be here; never waits."""

    def end(self, close: Close, reason: str, *, retry_after: float | None = None) -> None:
        """Say bye and close; never waits."""


@dataclass(frozen=True, slots=True)
class Shown:
    """An event as a channel shows it: its frame's shared part, and the message whose text it completes."""

    position: int
    tail: str
    completes: UUID | None


@dataclass(slots=True)
class TextInProgress:
    """A message's text as far as it is written, as UTF-8."""

    attempt: int
    text: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class EventDue:
    """The next event for one subscriber, after position `previous`."""

    previous: int
    tail: str


@dataclass(frozen=True, slots=True)
class TextDue:
    """The next piece of a text for one subscriber."""

    channel: str
    message_id: UUID
    attempt: int
    start: int
    end: int
    text: str


class Channel:
    """One channel in this process, while anybody follows it."""

    def __init__(self, name: str, kind: ChannelKind, feed: Mapping[str, UUID], position: int) -> None:
        self.name = name
        self.kind = kind
        self.session_id = feed.get("session_id")
        self.workspace_id = feed.get("workspace_id")
        self.subscriptions: set[Subscription] = set()
        # The tail holds every shown event after `floor`.
        self.floor = position
        self.tail: deque[Shown] = deque()
        self._tail_bytes = 0
        self.texts: dict[UUID, TextInProgress] = {}
        self._completed: deque[UUID] = deque(maxlen=COMPLETED_REMEMBERED)
        self.stale = kind.deltas
        self.refreshing: asyncio.Task[None] | None = None

    def shows(self, recorded: RecordedEvent) -> Shown | None:
        """Return the frame of an event on this channel, or None."""
        described = self.kind.describe(recorded)
        if described is None or recorded.position is None:
            return None
        completed = described.get("completed")
        return Shown(
            position=recorded.position,
            tail=event_tail(channel=self.name, recorded=recorded, shown=described),
            completes=None if completed is None else UUID(completed["mid"]),
        )

    def add(self, recorded: RecordedEvent) -> UUID | None:
        """Take in a new event; return the message whose text it completes, if any."""
        shown = self.shows(recorded)
        if shown is None:
            return None
        self.tail.append(shown)
        self._tail_bytes += len(shown.tail)
        while len(self.tail) > TAIL_EVENTS or self._tail_bytes > TAIL_BYTES:
            dropped = self.tail.popleft()
            self._tail_bytes -= len(dropped.tail)
            self.floor = dropped.position
        if shown.completes is not None:
            self._completed.append(shown.completes)
            self.texts.pop(shown.completes, None)
        return shown.completes

    def write(self, delta: Delta) -> bool:
        """Take in a piece of text; False when a piece before it is missing."""
        if delta.message_id in self._completed:
            return True
        known = self.texts.get(delta.message_id)
        if known is not None and delta.attempt < known.attempt:
            return True
        if known is None or delta.attempt > known.attempt:
            known = self.texts[delta.message_id] = TextInProgress(delta.attempt)
        if delta.start > len(known.text):
            return False
        known.text += delta.text.encode()[len(known.text) - delta.start :]
        return True

    def known_texts(self) -> dict[UUID, tuple[int, int]]:
        """Return attempt and length of each text in progress."""
        return {mid: (known.attempt, len(known.text)) for mid, known in self.texts.items()}

    def after(self, position: int) -> Shown | None:
        """Return the first event of the tail after a position."""
        found = None
        for shown in reversed(self.tail):
            if shown.position <= position:
                break
            found = shown
        return found

    def wake(self) -> None:
        """Let all subscribers send what is new."""
        for subscription in self.subscriptions:
            subscription.member.wake()

    async def read(self, after: int, limit: int) -> list[RecordedEvent]:
        """Read the log's part of this channel, shown or not."""
        return await aread_log(
            after=after, limit=limit, session_id=self.session_id, workspace_id=self.workspace_id
        )


class Subscription:
    """How far one connection has been sent one channel."""

    def __init__(self, hub: "Hub", channel: Channel, member: Member) -> None:
        self._hub = hub
        self.channel = channel
        self.member = member
        # All events up to `cursor` are sent or not shown; `sent` is the last one that was sent, or the
        # client's own.
        self.cursor = 0
        self.sent = 0
        self._texts: dict[UUID, tuple[int, int]] = {}
        # At most one window.
        self._page: list[Shown] = []

    async def recover(self, after: int, have: Mapping[UUID, tuple[int, int]]) -> bool:
        """Start after a position; False when more than 500 events, or a restored log, lie between."""
        if after > self._hub.position and after > await ahead():
            return False
        events = await self.channel.read(after, REPLAY_EVENTS + 1)
        if len(events) > REPLAY_EVENTS:
            return False
        self.cursor = self.sent = after
        self._texts = dict(have)
        return True

    def start_at(self, position: int) -> None:
        """Start after a snapshot."""
        self.cursor = self.sent = position
        self._texts.clear()

    def fill(self, message_id: UUID, start: int) -> None:
        """Send a text in progress again from a byte on; a finished one has come, or comes, as an event."""
        known = self.channel.texts.get(message_id)
        if known is not None and start <= len(known.text):
            self._texts[message_id] = (known.attempt, start)

    async def due(self) -> EventDue | TextDue | None:
        """Return what comes next for this connection, events before text, or None."""
        while not self._page and self.cursor < self.channel.floor:
            await self._read_page()
        if self._page:
            return self._event(self._page.pop(0))
        shown = self.channel.after(self.cursor)
        if shown is not None:
            self.cursor = shown.position
            return self._event(shown)
        return self._text()

    async def _read_page(self) -> None:
        """Read the next part of what lies before the channel's tail, at most one window of it."""
        reached = self._hub.position
        events = await self.channel.read(self.cursor, WINDOW_FRAMES)
        size = 0
        for recorded in events:
            shown = self.channel.shows(recorded)
            if shown is not None:
                size += len(shown.tail)
                self._page.append(shown)
            self.cursor = recorded.position or self.cursor
            if size >= WINDOW_BYTES:
                return
        if len(events) < WINDOW_FRAMES:
            self.cursor = max(self.cursor, reached)

    def _event(self, shown: Shown) -> EventDue:
        due = EventDue(previous=self.sent, tail=shown.tail)
        self.sent = shown.position
        return due

    def _text(self) -> TextDue | None:
        texts = self.channel.texts
        if len(self._texts) > len(texts) + TEXTS_REMEMBERED:
            self._texts = {mid: sent for mid, sent in self._texts.items() if mid in texts}
        for message_id, known in texts.items():
            attempt, start = self._texts.get(message_id, (0, 0))
            if attempt > known.attempt:
                # The client saw a later attempt in another process; this one catches up soon.
                continue
            start = _character_start(known.text, start) if attempt == known.attempt else 0
            if start < len(known.text):
                part = piece(bytes(known.text[start : start + DELTA_BYTES + 1]))
                self._texts[message_id] = (known.attempt, start + len(part))
                return TextDue(
                    channel=self.channel.name,
                    message_id=message_id,
                    attempt=known.attempt,
                    start=start,
                    end=start + len(part),
                    text=part.decode(),
                )
        return None


class Hub:
    """The hub of one loop; made by `hub()`, started by the first connection or by `start()`."""

    def __init__(self) -> None:
        self.position = 0
        # Of the log that this process reads: a restore happens while no server runs.
        self.epoch = ""
        # Each with the turn at which it is looked at; `_turns` says who has one.
        self.members: dict[Member, int] = {}
        self._turns: dict[int, list[Member]] = {}
        self._by_user: dict[Any, int] = {}
        self._channels: dict[str, Channel] = {}
        self._by_session: dict[UUID, set[Channel]] = {}
        self._by_workspace: dict[UUID | None, set[Channel]] = {}
        self._failed_handshakes: dict[str, Bucket] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._loose: set[asyncio.Task[Any]] = set()
        self._starting = asyncio.Lock()
        self._listening = asyncio.Event()
        self._emptied = asyncio.Event()
        self.draining = False

    async def start(self) -> None:
        """Start reading, once; returns when new events and texts will be seen."""
        async with self._starting:
            if self._tasks:
                return
            self.position = await ahead()
            deltas.listen_locally(self._write)
            self._tasks = [
                asyncio.create_task(self._follow_log(), name="streaming-log"),
                asyncio.create_task(self._hear_texts(), name="streaming-texts"),
                asyncio.create_task(self._tick(), name="streaming-tick"),
            ]
            close_with_loop(self.stop)
        await self._listening.wait()

    async def learn_epoch(self) -> None:
        """Read the log's epoch, until it has one."""
        if not self.epoch:
            self.epoch = await aepoch()

    async def stop(self) -> None:
        """Stop reading; connections that are left are ended as for a restart."""
        await self.drain(seconds=1)
        tasks, self._tasks = self._tasks, []
        deltas.listen_locally(None)
        await deltas.wakes().drained()
        running = [*tasks, *self._loose]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        self._listening.clear()
        self.draining = False

    async def drain(self, *, seconds: float = 5) -> None:
        """Say bye 4503 to every connection, each with its own pause, and wait until they are gone."""
        self.draining = True
        for member in list(self.members):
            member.end(
                Close.RESTARTING, "The server restarts; come back.", retry_after=random.uniform(0.2, 3)
            )
        if self.members:
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                # Whoever does not take the bye is cut off with the server.
                await asyncio.wait_for(self._emptied.wait(), seconds)

    def drain_on_sigterm(self) -> None:
        """Say bye to all connections before the server hears of SIGTERM; it would cut them without a word.

        Call it when the server has set its own handler. A second signal acts at once. Outside the main
        thread, where no signals are heard, it changes nothing.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        server_s_own = signal.getsignal(signal.SIGTERM)

        async def drain_then_stop() -> None:
            await self.drain()
            os.kill(os.getpid(), signal.SIGTERM)

        def hear(number: int, _frame: FrameType | None) -> None:
            signal.signal(number, server_s_own)
            loop.call_soon_threadsafe(lambda: self.run(drain_then_stop()))

        signal.signal(signal.SIGTERM, hear)

    def join(self, member: Member) -> bool:
        """Count a connection; False when its user has 10 already."""
        count = self._by_user.get(member.user_id, 0)
        if count >= SOCKETS_PER_USER:
            return False
        self._by_user[member.user_id] = count + 1
        self.members[member] = _NO_TURN
        self.look_at(member, time.monotonic())
        return True

    def look_at(self, member: Member, at: float) -> None:
        """Let a member do what time asks for at that time, and no sooner, whatever was said before."""
        turn = math.ceil(at / TICK_SECONDS)
        if self.members.get(member, turn) != turn:
            self.members[member] = turn
            self._turns.setdefault(turn, []).append(member)

    def leave(self, member: Member) -> None:
        """Forget a connection; its subscriptions are left before."""
        if member in self.members:
            del self.members[member]
            if not self.members:
                self._emptied.set()
            left = self._by_user[member.user_id] - 1
            if left:
                self._by_user[member.user_id] = left
            else:
                del self._by_user[member.user_id]

    def handshake_failed(self, address: str) -> None:
        """Count a failed handshake of an address."""
        now = time.monotonic()
        bucket = self._failed_handshakes.pop(address, None) or Bucket.full(
            rate=FAILED_HANDSHAKES_PER_MINUTE / 60, burst=FAILED_HANDSHAKES_PER_MINUTE, at=now
        )
        self._failed_handshakes[address], _ = bucket.take(at=now)
        if len(self._failed_handshakes) > ADDRESSES_REMEMBERED:
            del self._failed_handshakes[next(iter(self._failed_handshakes))]

    def refuses_handshake(self, address: str) -> bool:
        """Return whether an address failed 30 times within a minute."""
        bucket = self._failed_handshakes.get(address)
        return bucket is not None and not bucket.take(at=time.monotonic())[1]

    async def subscription(
        self, name: str, kind: ChannelKind, channel_id: str, member: Member
    ) -> Subscription:
        """Return a new subscription, attached to its channel, that has not started yet."""
        channel = self._channels.get(name)
        if channel is None:
            feed = kind.feed(channel_id)
            if inspect.isawaitable(feed):
                feed = await feed
            channel = self._channels.get(name) or self._open(Channel(name, kind, feed, self.position))
        subscription = Subscription(self, channel, member)
        channel.subscriptions.add(subscription)
        if channel.stale:
            self._refresh(channel)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; a channel that nobody follows is forgotten."""
        channel = subscription.channel
        channel.subscriptions.discard(subscription)
        if not channel.subscriptions and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            index, key = self._index(channel)
            index[key].discard(channel)
            if not index[key]:
                del index[key]

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work of a connection in a task that `stop` ends."""
        # In a context of its own: whoever wakes a connection must not lend it a trace.
        task = asyncio.create_task(work, context=contextvars.Context())
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)
        return task

    def _index(self, channel: Channel) -> tuple[dict[Any, set[Channel]], UUID | None]:
        if channel.session_id is not None:
            return self._by_session, channel.session_id
        return self._by_workspace, channel.workspace_id

    def _open(self, channel: Channel) -> Channel:
        self._channels[channel.name] = channel
        index, key = self._index(channel)
        index.setdefault(key, set()).add(channel)
        return channel

    async def _follow_log(self) -> None:
        while True:
            try:
                async for batch in follow(after=self.position):
                    self._show(batch)
            except psycopg.OperationalError as error:
                logger.warning("The hub lost the database and follows the log again: %s", error)
            except Exception:
                logger.exception("The hub cannot read the log after position %d", self.position)
                await self._pass_unreadable()
            await asyncio.sleep(random.uniform(0.5, 1))

    async def _pass_unreadable(self) -> None:
        """Go beyond an event that cannot be read, so that it holds up no other one."""
        try:
            self._show(await aread_log(after=self.position, limit=1))
        except psycopg.OperationalError as error:
            logger.warning("The hub lost the database and follows the log again: %s", error)
        except Exception:
            self.position += 1
            logger.exception("The event at position %d cannot be shown", self.position)

    def _show(self, batch: list[RecordedEvent]) -> None:
        touched: set[Channel] = set()
        for recorded in batch:
            for channel in self._concerned(recorded):
                try:
                    completed = channel.add(recorded)
                except Exception:
                    # What one app cannot describe is missing on its channel alone.
                    logger.exception("Event %s cannot be shown on %s", recorded.event_id, channel.name)
                    continue
                touched.add(channel)
                if completed is not None:
                    self.run(self._purge(completed))
            self.position = recorded.position or self.position
            for user_id in users_to_recheck(recorded):
                self._recheck(user_id)
        for channel in touched:
            channel.wake()

    def _recheck(self, user_id: UUID) -> None:
        if user_id in self._by_user:
            for member in [member for member in self.members if member.user_id == user_id]:
                member.recheck()

    def _concerned(self, recorded: RecordedEvent) -> list[Channel]:
        of_session = self._by_session.get(recorded.session_id, ()) if recorded.session_id else ()
        of_workspace = self._by_workspace.get(recorded.workspace_id, ())
        return [*of_session, *of_workspace, *self._by_workspace.get(None, ())]

    async def _purge(self, message_id: UUID) -> None:
        try:
            await deltas.purge_message(message_id)
        except psycopg.OperationalError as error:
            logger.warning("The text of message %s is purged later: %s", message_id, error)

    def _write(self, delta: Delta) -> None:
        for channel in self._by_session.get(delta.session_id, ()):
            if not channel.kind.deltas:
                continue
            if channel.write(delta):
                channel.wake()
            else:
                self._refresh(channel)

    def _refresh(self, channel: Channel) -> None:
        """Read a channel's texts from the buffer; asked again meanwhile, read again afterwards."""
        channel.stale = True
        if channel.refreshing is None:
            channel.refreshing = self.run(self._read_texts(channel))

    async def _read_texts(self, channel: Channel) -> None:
        try:
            while channel.stale and channel.session_id is not None:
                channel.stale = False
                try:
                    found = await deltas.read_deltas(channel.session_id, channel.known_texts())
                except psycopg.OperationalError as error:
                    logger.warning("Texts of %s are read again: %s", channel.name, error)
                    channel.stale = True
                    await asyncio.sleep(random.uniform(0.5, 1))
                    continue
                for delta in found:
                    channel.write(delta)
                if found:
                    channel.wake()
        finally:
            channel.refreshing = None

    async def _hear_texts(self) -> None:
        """Hear of texts that other processes write."""
        while True:
            try:
                connection = await connect("cartrita texts")
                try:
                    await self._listen(connection)
                finally:
                    await connection.close()
            except (psycopg.OperationalError, OSError) as error:
                logger.warning("The hub lost the database and listens for texts again: %s", error)
            await asyncio.sleep(random.uniform(0.5, 1))

    async def _listen(self, connection: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        bell = Bell()
        own = deltas.wakes().token

        def hear(notification: psycopg.Notify) -> None:
            token, _, session = notification.payload.partition(" ")
            if token != own:
                for channel in self._by_session.get(UUID(session), ()):
                    if channel.kind.deltas:
                        self._refresh(channel)

        connection.add_notify_handler(hear)
        await connection.execute(f"LISTEN {deltas.NOTIFY_CHANNEL}")
        # What was written while nobody listened.
        for channel in self._channels.values():
            if channel.kind.deltas:
                self._refresh(channel)
        self._listening.set()
        while True:
            await wait_for_ring(connection, bell, LISTEN_POLL_SECONDS, hear)
            # Also finds out that the connection has ended.
            await connection.execute("SELECT 1")

    async def _tick(self) -> None:
        purged_at = time.monotonic()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self._look(now)
            if now - purged_at >= PURGE_SECONDS:
                purged_at = now
                try:
                    await deltas.purge_old()
                except psycopg.OperationalError as error:
                    logger.warning("Old texts are purged later: %s", error)

    def _look(self, now: float) -> None:
        """Look at those whose turn has come: what waits for its time costs nothing until then."""
        for turn in sorted(turn for turn in self._turns if turn * TICK_SECONDS <= now):
            for member in self._turns.pop(turn):
                if self.members.get(member) != turn:
                    # It has left, or has another turn by now.
                    continue
                again = now + TICK_SECONDS
                try:
                    again = member.tick(now)
                except Exception:
                    logger.exception("A connection could not do what it was time for")
                finally:
                    if member in self.members:
                        self.look_at(member, max(again, now + TICK_SECONDS))


def _character_start(text: bytearray, start: int) -> int:
    """Return the start of the character that byte `start` belongs to."""
    while 0 < start < len(text) and text[start] & 0b1100_0000 == 0b1000_0000:
        start -= 1
    return start


_hubs: WeakKeyDictionary[asyncio.AbstractEventLoop, Hub] = WeakKeyDictionary()


def open_sockets() -> int:
    """Return how many sockets this process holds."""
    return sum(len(each.members) for each in list(_hubs.values()))


def hub() -> Hub:
    """Return the running loop's hub; `await hub().start()` starts it, `close_async()` stops it."""
    loop = asyncio.get_running_loop()
    found = _hubs.get(loop)
    if found is None:
        found = _hubs[loop] = Hub()
    return found
