"""A channel as server-sent events (WHATWG HTML, section 9.2), for programs that speak plain HTTP.

The same hub, cursor and rights as the socket's: an event's `id` is its position with the log's epoch, and
`Last-Event-ID` goes on after it. There are no acknowledgements: the next frame is made when the server has
taken the one before, and a stream ends after some MiB, so that no more than these wait in a server that takes
everything at once.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import psycopg
from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connections

from cartrita.streaming.hub import EventDue, Hub, Subscription, TextDue, hub
from cartrita.streaming.protocol import (
    HEARTBEAT_SECONDS,
    STALL_SECONDS,
    VERSION,
    Close,
    bye,
    encode,
    next_check,
)
from cartrita.streaming.registry import Person, Scope, authentication, channel_kind

logger = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/event-stream"
# What a client waits before it asks again, where it is told nothing else.
RETRY_MS: Final = 2000
STREAM_BYTES: Final = 8 * 1024 * 1024
_DATABASE_PAUSE_SECONDS: Final = 1.0


def event_stream(
    *, user: Person, scope: Scope, channel: str, after: int | None, epoch: str = ""
) -> AsyncIterator[bytes]:
    """Yield what a response sends: the events of `<kind>:<id>` after a position and the texts in progress.

    Without `after`, where it is of another `epoch` ("": not known), and where too much has happened since, a
    snapshot comes first. `user` and `scope` are
    those of the registered authentication: they are checked at the start, every 60 s, and whenever an event
    narrows somebody's rights.
    """
    return _Stream(user, scope, channel).frames(after, epoch)


class _Stream:
    """One stream: a member of the hub as a socket is."""

    def __init__(self, user: Person, scope: Scope, channel: str) -> None:
        self._user = user
        self._scope = scope
        self._channel = channel
        self._kind, self._channel_id = channel_kind(channel)
        self._woken = asyncio.Event()
        self._comments: list[bytes] = []
        self._ending: bytes | None = None
        self._hub: Hub | None = None
        self._rechecking: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[Any] | None = None
        self._sent_bytes = 0
        self._sending_since: float | None = None
        self._beat_at = time.monotonic()
        self._check_at = next_check(self._beat_at)

    # Member of the hub ---------------------------------------------------------------------------------

    @property
    def user_id(self) -> Any:
        return self._user.pk

    def wake(self) -> None:
        self._woken.set()

    def tick(self, now: float) -> float:
        stalls_at = math.inf if self._sending_since is None else self._sending_since + STALL_SECONDS
        if now >= stalls_at:
            # Nobody reads: the server cuts the connection, and whoever comes back goes on after their cursor.
            if self._serving is not None:
                self._serving.cancel()
            return now + STALL_SECONDS
        if now - self._beat_at >= HEARTBEAT_SECONDS:
            self._beat_at = now
            self._comments = [b": hb\n\n"]
            self.wake()
        if now >= self._check_at:
            self.recheck()
        return min(self._beat_at + HEARTBEAT_SECONDS, self._check_at, stalls_at)

    def recheck(self) -> None:
        self._check_at = next_check(time.monotonic())
        if self._rechecking is None and self._hub is not None:
            self._rechecking = self._hub.run(self._recheck())

    def end(self, close: Close, reason: str, *, retry_after: float | None = None) -> None:
        if self._ending is None:
            self._ending = _frame("bye", bye(close, reason, retry_after=retry_after))
            self.wake()

    def _ended(self) -> bool:
        return self._ending is not None

    # What goes out -------------------------------------------------------------------------------------

    async def frames(self, after: int | None, epoch: str) -> AsyncIterator[bytes]:
        """Yield the frames of the response."""
        self._serving = asyncio.current_task()
        await _release_request_thread()
        own = self._hub = hub()
        subscription: Subscription | None = None
        try:
            await own.start()
            await own.learn_epoch()
            if epoch and epoch != own.epoch:
                after = None  # a position of before a restore: it is given a second time
            if own.draining:
                self.end(Close.RESTARTING, "The server restarts; come back.")
            elif not own.join(self):
                self.end(Close.TOO_MANY, "A user has at most 10 connections; close another.", retry_after=10)
            elif not await self._allowed():
                self.end(Close.GONE, "There is nothing here for you any more.")
            else:
                subscription = await own.subscription(self._channel, self._kind, self._channel_id, self)
                yield await self._opening(own, subscription, after)
                async for frame in self._due(subscription):
                    self._sending_since = time.monotonic()
                    yield frame
                    self._sending_since = None
        except psycopg.OperationalError as error:
            logger.warning("A stream ended, the database does not answer: %s", error)
            self.end(Close.FAILED, "The database does not answer now; come back.")
        except Exception:
            logger.exception("A stream could not be served")
            self.end(Close.FAILED, "The server failed; come back.")
        finally:
            if subscription is not None:
                own.unsubscribe(subscription)
            own.leave(self)
            if self._rechecking is not None:
                self._rechecking.cancel()
        if self._ending is not None:
            yield self._ending

    async def _opening(self, own: Hub, subscription: Subscription, after: int | None) -> bytes:
        """Return the first frames: who speaks, and the snapshot where one is needed."""
        welcome = {
            "t": "welcome",
            "v": VERSION,
            "ch": self._channel,
            "epoch": own.epoch,
            "heartbeat_ms": int(HEARTBEAT_SECONDS * 1000),
        }
        opening = b"retry: %d\n\n" % RETRY_MS
        if after is not None and await subscription.recover(after, {}):
            return opening + _frame("welcome", {**welcome, "recovered": True, "head": after})
        # Taken before the snapshot, so that nothing falls between; some events may be in both.
        head = own.position
        snapshot = await self._kind.snapshot(self._channel_id)
        subscription.start_at(head)
        opening += _frame("welcome", {**welcome, "recovered": False, "head": head})
        return opening + _frame(
            "snapshot", {"t": "snapshot", "ch": self._channel, "head": head, "d": snapshot}, self._id(head)
        )

    def _id(self, position: int) -> str:
        epoch = self._hub.epoch if self._hub is not None else ""
        return f"{position}@{epoch}" if epoch else str(position)

    async def _due(self, subscription: Subscription) -> AsyncIterator[bytes]:
        """Yield what is due, events before text, until the stream ends."""
        while self._ending is None:
            self._woken.clear()
            if self._comments:
                yield self._comments.pop()
            try:
                due = await subscription.due()
            except psycopg.OperationalError as error:
                logger.warning("What a stream missed is read again: %s", error)
                await asyncio.sleep(_DATABASE_PAUSE_SECONDS)
                continue
            if due is None:
                await self._woken.wait()
                continue
            if self._ended():
                # The rights went while it was read.
                return
            frame = _shown(due, self._id(subscription.sent))
            self._sent_bytes += len(frame)
            yield frame
            if self._sent_bytes >= STREAM_BYTES:
                self.end(Close.RESTARTING, "Go on after the last id in a new request.", retry_after=0)

    # Who may read --------------------------------------------------------------------------------------

    async def _allowed(self) -> bool:
        return await self._kind.authorise(self._user, self._channel_id)

    async def _recheck(self) -> None:
        try:
            if not await authentication().still_valid(self._user, self._scope):
                self.end(Close.NOT_SIGNED_IN, "You are not signed in any more.")
            elif not await self._allowed():
                self.end(Close.GONE, "There is nothing here for you any more.")
        except Exception:
            # Nobody keeps access because a check failed for long: the next one comes in a minute, as always.
            logger.exception("The authority of a stream could not be checked")
        finally:
            self._rechecking = None


def _shown(due: EventDue | TextDue, event_id: str) -> bytes:
    if isinstance(due, EventDue):
        # As a socket's frame, without the number that is acknowledged there.
        return _written("ev", f'{{"t":"ev","prev":{due.previous},{due.tail}', event_id)
    return _frame(
        "delta",
        {
            "t": "delta",
            "ch": due.channel,
            "mid": str(due.message_id),
            "att": due.attempt,
            "off": due.start,
            "end": due.end,
            "text": due.text,
        },
    )


def _frame(event: str, content: Mapping[str, Any], event_id: str | None = None) -> bytes:
    return _written(event, encode(content), event_id)


def _written(event: str, content: str, event_id: str | None) -> bytes:
    # JSON holds no line break.
    number = "" if event_id is None else f"id: {event_id}\n"
    return f"{number}event: {event}\ndata: {content}\n\n".encode()


async def _release_request_thread() -> None:
    """Close the database connection of the request's own thread and end it: a stream lives long without."""
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None:
        return
    await sync_to_async(connections.close_all)()
    executor = SyncToAsync.context_to_thread_executor.pop(context, None)
    if executor is not None:
        executor.shutdown(wait=False)
