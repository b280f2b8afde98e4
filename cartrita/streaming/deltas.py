"""The text of messages while it is written: a fenced append buffer per message and attempt.

Text on its way is no event: it goes into an UNLOGGED table, coalesced, and is handed to the hub of the same
loop; other processes are woken by a NOTIFY that carries no text and read the buffer after their own offset.
It is sealed under its session's key: a deleted row stays in the table's file for a while.
Offsets count UTF-8 bytes. The finished text becomes an event, which heals whatever a client has, and the
buffer is purged.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, LiteralString, Self
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from django.db import connection

from cartrita.errors import BadInput, Conflict
from cartrita.eventstore.aio import async_pool, close_with_loop, in_database_thread
from cartrita.eventstore.sealing import DataKeyCipher, Erased, cached_ciphers, ciphers

logger = logging.getLogger(__name__)

NOTIFY_CHANNEL: Final = "cartrita_delta"
COALESCE_SECONDS: Final = 0.04
COALESCE_BYTES: Final = 16 * 1024
# A completed text stays while clients may still ask for parts of it; an abandoned one while its run may
# resume.
KEEP_COMPLETED_SECONDS: Final = 60
KEEP_ABANDONED_SECONDS: Final = 3600


# A closed message keeps its row for an hour, without text, under the highest attempt: a writer that still
# lives is fenced off by it, where a missing row would tell it that the database crashed.
_CLOSE: Final[LiteralString] = (
    "WITH gone AS (UPDATE streaming_message SET attempt = 2147483647, length = 0, sha256 = NULL,"
    " completed_at = clock_timestamp(), touched_at = clock_timestamp() WHERE attempt < 2147483647 AND "
)
_REMOVE_OLD: Final[LiteralString] = (
    "WITH gone AS (DELETE FROM streaming_message"
    " WHERE attempt < 2147483647 AND completed_at < clock_timestamp() - make_interval(secs => %s)"
    " OR touched_at < clock_timestamp() - make_interval(secs => %s)"
)
_AND_PIECES: Final[LiteralString] = (
    " RETURNING message_id),"
    " pieces AS (DELETE FROM streaming_delta WHERE message_id IN (SELECT message_id FROM gone))"
    " SELECT count(*) FROM gone"
)


class AttemptSuperseded(Conflict):
    """A later attempt, or another writer of the same attempt, holds the message: stop writing."""

    code = "attempt_superseded"


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a message's text, from byte `start` to byte `end` of its UTF-8 form."""

    session_id: UUID
    message_id: UUID
    attempt: int
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Completed:
    """What a written message amounts to: its length in UTF-8 bytes and its SHA-256 in hex."""

    bytes: int
    sha256: str


class _Wakes:
    """Tells other processes, at most every 5 ms, which sessions have new text; one per loop."""

    def __init__(self) -> None:
        # Lets the hub of this loop tell its own wake-ups, whose text it already has, from those of others.
        self.token = secrets.token_hex(4)
        self._sessions: set[UUID] = set()
        self._task: asyncio.Task[None] | None = None

    def wake(self, session_id: UUID) -> None:
        self._sessions.add(session_id)
        if self._task is None:
            self._task = asyncio.create_task(self._notify(), name="streaming-wakes", context=Context())

    async def drained(self) -> None:
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _notify(self) -> None:
        try:
            while self._sessions:
                payloads = [f"{self.token} {session_id}" for session_id in self._sessions]
                self._sessions.clear()
                try:
                    async with async_pool().connection() as pooled:
                        await pooled.execute(
                            "SELECT pg_notify(%s, payload) FROM unnest(%s::text[]) AS payload",
                            [NOTIFY_CHANNEL, payloads],
                        )
                except psycopg.OperationalError as error:
                    # Readers in other processes also poll; a lost wake-up costs them a moment, no text.
                    logger.warning("Other processes were not woken for new text: %s", error)
                await asyncio.sleep(0.005)
        finally:
            self._task = None


_wakes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Wakes] = WeakKeyDictionary()
_listeners: WeakKeyDictionary[asyncio.AbstractEventLoop, Callable[[Delta], None]] = WeakKeyDictionary()


def wakes() -> _Wakes:
    """Return the running loop's sender of wake-ups."""
    loop = asyncio.get_running_loop()
    found = _wakes.get(loop)
    if found is None:
        found = _wakes[loop] = _Wakes()
        close_with_loop(_close_wakes)
    return found


async def _close_wakes() -> None:
    """Let the last wake-up go out before the loop's connections are closed."""
    found = _wakes.pop(asyncio.get_running_loop(), None)
    if found is not None:
        await found.drained()


def listen_locally(listener: Callable[[Delta], None] | None) -> None:
    """Hand every delta written in the running loop to `listener` once it is in the buffer; None ends it."""
    loop = asyncio.get_running_loop()
    if listener is None:
        _listeners.pop(loop, None)
    else:
        _listeners[loop] = listener


class DeltaWriter:
    """Writes one attempt of one message; made by `open_message`.

    Pieces are gathered for 40 ms or 16 KiB, but the first one after a pause goes out at once. While the
    database does not answer, text gathers here and goes out later; a restarted database, whose buffer is
    empty, gets the whole text again.
    """

    def __init__(
        self,
        session_id: UUID,
        message_id: UUID,
        attempt: int,
        *,
        key: tuple[UUID, DataKeyCipher] | None = None,
    ) -> None:
        self.session_id = session_id
        self.message_id = message_id
        self.attempt = attempt
        self._key = key
        self._text = bytearray()
        self._stored = 0
        self._flushed_at = float("-inf")
        self._flushing = asyncio.Lock()
        self._timer: asyncio.Task[None] | None = None
        self._failure: AttemptSuperseded | None = None

    @property
    def key_id(self) -> UUID | None:
        """The key under which the stored text is sealed."""
        return None if self._key is None else self._key[0]

    @property
    def bytes_written(self) -> int:
        """Return the length of the text so far, in UTF-8 bytes."""
        return len(self._text)

    async def write(self, text: str) -> None:
        """Append text. Raises BadInput for NUL and lone surrogates, AttemptSuperseded when fenced off."""
        if self._failure is not None:
            raise self._failure
        if "\x00" in text:
            raise BadInput("Message text holds a NUL character; remove it.", field="text")
        try:
            self._text += text.encode()
        except UnicodeEncodeError as error:
            raise BadInput(
                "Message text holds a lone surrogate; send whole characters.", field="text"
            ) from error
        if len(self._text) - self._stored >= COALESCE_BYTES:
            await self.flush()
        elif len(self._text) > self._stored and self._timer is None:
            self._timer = asyncio.create_task(self._flush_later(), name="streaming-flush")

    async def flush(self) -> None:
        """Store what is gathered and wake readers. Raises AttemptSuperseded when fenced off."""
        async with self._flushing:
            while self._stored < len(self._text):
                start, end = self._stored, len(self._text)
                text = self._text[start:end].decode()
                try:
                    stored = await self._append(start, end, text)
                except psycopg.OperationalError as error:
                    logger.warning("Text of message %s waits for the database: %s", self.message_id, error)
                    return
                finally:
                    self._flushed_at = asyncio.get_running_loop().time()
                if stored:
                    self._announce(start, end, text)

    async def complete(self) -> Completed:
        """Store the rest and close the message.

        Returns its length and SHA-256, which its event will carry.
        """
        await self.flush()
        if self._failure is not None:
            raise self._failure
        done = Completed(len(self._text), hashlib.sha256(self._text).hexdigest())
        try:
            async with async_pool().connection() as pooled:
                await pooled.execute(
                    "UPDATE streaming_message SET completed_at = clock_timestamp(), sha256 = %s,"
                    " touched_at = clock_timestamp() WHERE message_id = %s AND attempt = %s",
                    [done.sha256, self.message_id, self.attempt],
                )
        except psycopg.OperationalError as error:
            # The event that carries the text is the truth; an unmarked buffer is purged as an abandoned one.
            logger.warning("Message %s was not marked as completed: %s", self.message_id, error)
        return done

    async def close(self) -> None:
        """Store what is gathered, without completing the message, and stop."""
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.wait([self._timer])
            self._timer = None
        if self._failure is None:
            await self.flush()

    async def _flush_later(self) -> None:
        try:
            while self._stored < len(self._text):
                due = self._flushed_at + COALESCE_SECONDS - asyncio.get_running_loop().time()
                if due > 0:
                    await asyncio.sleep(due)
                await self.flush()
        except AttemptSuperseded as superseded:
            self._failure = superseded
        finally:
            self._timer = None

    async def _append(self, start: int, end: int, text: str) -> bool:
        """Append one piece behind the fence; False when the fence was off and has been reconciled."""
        async with async_pool().connection() as pooled:
            appended = await pooled.execute(
                "WITH fenced AS ("
                " UPDATE streaming_message SET length = %(end)s, touched_at = clock_timestamp()"
                " WHERE message_id = %(message)s AND attempt = %(attempt)s AND length = %(start)s"
                " AND completed_at IS NULL RETURNING message_id)"
                " INSERT INTO streaming_delta (message_id, attempt, start_byte, end_byte, text)"
                " SELECT message_id, %(attempt)s, %(start)s, %(end)s, %(text)s FROM fenced",
                {
                    "message": self.message_id,
                    "attempt": self.attempt,
                    "start": start,
                    "end": end,
                    "text": text if self._key is None else self._key[1].seal(text),
                },
            )
            if appended.rowcount == 1:
                self._stored = end
                return True
            await self._reconcile(pooled)
        return False

    async def _reconcile(self, pooled: psycopg.AsyncConnection[tuple[Any, ...]]) -> None:
        cursor = await pooled.execute(
            "SELECT attempt, length FROM streaming_message WHERE message_id = %s",
            [self.message_id],
        )
        row = await cursor.fetchone()
        if row is None:
            # The database crashed and emptied the buffer: start it again, with everything from byte 0.
            await _open(pooled, self)
            self._stored = 0
            return
        attempt, length = row
        if attempt == self.attempt and self._stored < length <= len(self._text):
            # An earlier append was stored, but its confirmation was lost with the connection.
            self._announce(self._stored, length, self._text[self._stored : length].decode())
            self._stored = length
        else:
            self._failure = AttemptSuperseded(
                f"Attempt {self.attempt} of message {self.message_id} was superseded; stop writing it."
            )
            raise self._failure

    def _announce(self, start: int, end: int, text: str) -> None:
        delta = Delta(self.session_id, self.message_id, self.attempt, start, end, text)
        listener = _listeners.get(asyncio.get_running_loop())
        if listener is not None:
            listener(delta)
        wakes().wake(self.session_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@asynccontextmanager
async def open_message(
    session_id: UUID, message_id: UUID, attempt: int, *, key_id: UUID | None = None
) -> AsyncIterator[DeltaWriter]:
    """Open a message's text for writing; readers see it restart when an earlier attempt had begun it.

    Under `key_id` the stored text is sealed. Leaving the context stores what is gathered, also when an error
    or a cancellation leaves it. Raises AttemptSuperseded when this or a later attempt (from 1) was opened
    before, and Erased.
    """
    writer = DeltaWriter(session_id, message_id, attempt, key=await _key(key_id))
    async with async_pool().connection() as pooled:
        await _open(pooled, writer)
    async with writer:
        yield writer


async def _open(pooled: psycopg.AsyncConnection[tuple[Any, ...]], writer: DeltaWriter) -> None:
    cursor = await pooled.execute(
        "WITH earlier AS"
        " (DELETE FROM streaming_delta WHERE message_id = %(message)s AND attempt < %(attempt)s)"
        " INSERT INTO streaming_message (message_id, session_id, attempt, length, touched_at, key_id)"
        " VALUES (%(message)s, %(session)s, %(attempt)s, 0, clock_timestamp(), %(key)s)"
        " ON CONFLICT (message_id) DO UPDATE SET attempt = excluded.attempt, length = 0, completed_at = NULL,"
        " sha256 = NULL, touched_at = excluded.touched_at, key_id = excluded.key_id"
        " WHERE streaming_message.attempt < excluded.attempt",
        {
            "message": writer.message_id,
            "session": writer.session_id,
            "attempt": writer.attempt,
            "key": writer.key_id,
        },
    )
    if cursor.rowcount != 1:
        raise AttemptSuperseded(
            f"Attempt {writer.attempt} of message {writer.message_id}, or a later one, was opened before."
        )


async def read_deltas(session_id: UUID, known: Mapping[UUID, tuple[int, int]]) -> list[Delta]:
    """Return the pieces of a session's unpurged messages that follow what is known, by message and offset.

    `known` maps a message to its attempt and the bytes held; a message of another attempt is read from byte
    0. What was erased is left out.
    """
    async with async_pool().connection() as pooled:
        cursor = await pooled.execute(
            "SELECT m.key_id, d.message_id, d.attempt, d.start_byte, d.end_byte, d.text"
            " FROM streaming_message m JOIN streaming_delta d USING (message_id, attempt)"
            " LEFT JOIN unnest(%s::uuid[], %s::integer[], %s::bigint[]) AS known(message_id, attempt, length)"
            " ON known.message_id = m.message_id AND known.attempt = m.attempt"
            " WHERE m.session_id = %s AND d.start_byte >= coalesce(known.length, 0)"
            " ORDER BY d.message_id, d.start_byte",
            [
                list(known),
                [attempt for attempt, _ in known.values()],
                [length for _, length in known.values()],
                session_id,
            ],
        )
        rows = await cursor.fetchall()
    opened = await _ciphers({key_id for key_id, *_ in rows if key_id is not None})
    found: list[Delta] = []
    for key_id, message_id, attempt, start, end, stored in rows:
        cipher = None if key_id is None else opened.get(key_id)
        if key_id is not None and cipher is None:
            continue
        text = stored if cipher is None else cipher.unseal(stored)
        found.append(Delta(session_id, message_id, attempt, start, end, text))
    return found


async def _key(key_id: UUID | None) -> tuple[UUID, DataKeyCipher] | None:
    if key_id is None:
        return None
    cipher = (await _ciphers([key_id])).get(key_id)
    if cipher is None:
        raise Erased("The session was erased: nothing more is written to it")
    return key_id, cipher


async def _ciphers(key_ids: Collection[UUID]) -> dict[UUID, DataKeyCipher | None]:
    """Return the ciphers of keys, None for those that were erased."""
    found, missing = cached_ciphers(key_ids)
    return found | await in_database_thread(ciphers, missing) if missing else found


async def purge_session(session_id: UUID) -> int:
    """Remove all buffered text of a session and fence its writers off. Returns how many messages."""
    return await _purge(_CLOSE + "session_id = %s" + _AND_PIECES, session_id)


def erase_texts(*, session_id: UUID, **_: object) -> int:
    """Do as `purge_session` in the caller's transaction, from a command that erases a session.

    Takes and ignores what else such a command knows. Returns how many messages.
    """
    with connection.cursor() as cursor:
        cursor.execute(_CLOSE + "session_id = %s" + _AND_PIECES, [session_id])
        return int(cursor.fetchone()[0])


async def purge_message(message_id: UUID) -> int:
    """Remove the buffered text of a message whose event is recorded, and fence its writers off.

    Returns 1, or 0 when there was none.
    """
    return await _purge(_CLOSE + "message_id = %s" + _AND_PIECES, message_id)


async def purge_old() -> int:
    """Remove text that was completed 60 s ago, or not written for an hour. Returns how many messages."""
    return await _purge(_REMOVE_OLD + _AND_PIECES, KEEP_COMPLETED_SECONDS, KEEP_ABANDONED_SECONDS)


def delete_old_texts() -> int:
    """Do as `purge_old` on Django's connection, where no hub runs. Returns how many messages."""
    with connection.cursor() as cursor:
        cursor.execute(_REMOVE_OLD + _AND_PIECES, [KEEP_COMPLETED_SECONDS, KEEP_ABANDONED_SECONDS])
        return int(cursor.fetchone()[0])


async def _purge(statement: LiteralString, *parameters: UUID | float) -> int:
    async with async_pool().connection() as pooled:
        cursor = await pooled.execute(statement, parameters)
        row = await cursor.fetchone()
        return int(row[0]) if row else 0
