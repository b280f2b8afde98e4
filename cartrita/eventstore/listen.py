"""Following the log: one LISTEN connection and one read per tick for all followers of a loop."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator
from contextvars import Context
from itertools import islice
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from psycopg_pool import PoolTimeout

from cartrita.eventstore import log
from cartrita.eventstore.aio import cancel_until_ended, close_with_loop, connect
from cartrita.eventstore.sealing import KEYS_CHANNEL, forget_keys
from cartrita.eventstore.types import RecordedEvent, Unreadable
from cartrita.eventstore.wake import LOG_CHANNEL, Bell, wait_for_ring

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
READ_EVENTS = 500
TAIL_EVENTS = 1_024
# Opened text does not stay in memory for longer than this.
TAIL_SECONDS = 10.0


class Listener:
    """Hears of new positions and keeps the log's last moments at hand for the followers of one loop."""

    def __init__(self) -> None:
        self.bell = Bell()
        self._tail: deque[RecordedEvent] = deque()
        self._read_at: deque[tuple[float, int]] = deque()
        # The tail holds the positions after `_start` up to `_head`.
        self._start = 0
        self._head: int | None = None
        self._moved = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name="cartrita log listener", context=Context())

    async def close(self) -> None:
        await cancel_until_ended([self._task])

    async def after(self, position: int, session_id: UUID | None) -> tuple[list[RecordedEvent] | None, int]:
        """Wait until the log is beyond `position`; return what the tail holds after it, and the head.

        None instead of events: the tail does not reach back so far, read the log.
        """
        while self._head is None or self._head <= position:
            await self._moved.wait()
        if position < self._start:
            return None, self._head
        return [
            recorded
            for recorded in islice(self._tail, position - self._start, None)
            if session_id is None or recorded.session_id == session_id
        ], self._head

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen()
            except (psycopg.OperationalError, PoolTimeout, OSError) as error:
                failures += 1
                logger.warning("The log listener lost the database and connects again: %s", error)
            except Exception:
                failures += 1
                logger.exception("The log listener failed and starts again")
            await asyncio.sleep(random.uniform(0.5, 1) * min(5.0, 0.1 * 2 ** min(failures, 10)))

    async def _listen(self) -> None:
        connection = await connect("cartrita listener")
        try:
            connection.add_notify_handler(self._hear)
            # Listening comes before reading, so that no tick falls between.
            await connection.execute(f"listen {LOG_CHANNEL}; listen {KEYS_CHANNEL}")
            # What was erased while nobody listened.
            forget_keys()
            while True:
                self.bell.clear()
                await self._read_tail(connection)
                if not self.bell.is_rung():
                    await wait_for_ring(connection, self.bell, POLL_SECONDS, self._hear)
        finally:
            await connection.close()

    def _hear(self, notification: psycopg.Notify) -> None:
        if notification.channel == KEYS_CHANNEL:
            forget_keys([UUID(notification.payload)])
            return
        # A sequencer of this process has rung already, and its tick may have been read.
        if self._head is None or int(notification.payload) > self._head:
            self.bell.ring_here()

    async def _read_tail(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._forget(time.monotonic() - TAIL_SECONDS)
        if self._head is None:
            self._start = self._head = await log.ahead()
            self._announce_move()
        while True:
            try:
                events = await log.read_from(connection, after=self._head, limit=READ_EVENTS)
            except Exception:
                # Followers read these positions themselves and meet the failure where it is handled.
                logger.exception("The log listener could not read after position %d", self._head)
                self._tail.clear()
                self._read_at.clear()
                self._start = self._head = await log.ahead()
                self._announce_move()
                return
            if not events:
                return
            for recorded in events:
                if isinstance(recorded.event, Unreadable):
                    logger.error("Followers pass by an event: %s", recorded.event.message)
            self._tail.extend(events)
            self._head += len(events)
            self._read_at.append((time.monotonic(), self._head))
            while len(self._tail) > TAIL_EVENTS:
                self._tail.popleft()
                self._start += 1
            self._announce_move()
            if len(events) < READ_EVENTS:
                return

    def _forget(self, moment: float) -> None:
        while self._read_at and self._read_at[0][0] < moment:
            _, upto = self._read_at.popleft()
            while self._tail and self._start < upto:
                self._tail.popleft()
                self._start += 1

    def _announce_move(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


_listeners: WeakKeyDictionary[asyncio.AbstractEventLoop, Listener] = WeakKeyDictionary()


def listener() -> Listener:
    """Return the running loop's listener, started at its first use."""
    loop = asyncio.get_running_loop()
    found = _listeners.get(loop)
    if found is None:
        found = _listeners[loop] = Listener()

        async def close() -> None:
            stopped = _listeners.pop(loop, None)
            if stopped is not None:
                await stopped.close()

        close_with_loop(close)
    return found


def announce() -> None:
    """Tell the listeners of this process, in whichever loop, that a tick was committed."""
    for found in tuple(_listeners.values()):
        found.bell.ring()


async def follow(*, after: int, session_id: UUID | None = None) -> AsyncIterator[list[RecordedEvent]]:
    """Yield the events after a position in batches, in order and without end: what is there, then what comes.

    With `session_id`, that session's events only. Survives losing the database. Unreadable stands for an
    event that this version cannot read.
    """
    source = listener()
    while True:
        events, head = await source.after(after, session_id)
        if events is None:
            try:
                events = await log.aread_log(after=after, limit=READ_EVENTS, session_id=session_id)
            except (psycopg.OperationalError, PoolTimeout, OSError) as error:
                logger.warning("A follower lost the database and reads again: %s", error)
                await asyncio.sleep(random.uniform(0.25, 0.75))
                continue
            if len(events) == READ_EVENTS:
                head = events[-1].position or head
            elif events:
                head = max(head, events[-1].position or 0)
        if events:
            yield events
        after = max(after, head)
