"""Recording from asyncio: the appends of many tasks in one statement and one commit.

While one batch is being committed the next one gathers, so that whoever waits shares the cost of a commit.
Each `record()` is all or nothing for itself: a conflict or a bad row in one fails that caller alone.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors
from psycopg.pq.abc import PGresult
from psycopg_pool import PoolTimeout

from cartrita.errors import BadInput, Unavailable
from cartrita.eventstore import arrays, codec, log, projections
from cartrita.eventstore.aio import async_pool, close_with_loop, connect
from cartrita.eventstore.codec import row_of
from cartrita.eventstore.holding import HOLD, BlobGone, named_by
from cartrita.eventstore.prepared import Prepared
from cartrita.eventstore.rows import as_arrays
from cartrita.eventstore.sealing import DataKeyCipher, Erased, UnknownKey
from cartrita.eventstore.store import EventIdReused, StreamMoved, find_gap, says_the_same
from cartrita.eventstore.types import Append, RecordedEvent
from cartrita.eventstore.wake import wake_sequencer

logger = logging.getLogger(__name__)

BATCH_EVENTS = 1_000
BATCH_BYTES = 4 * 1024 * 1024
# A batch must not wait for another writer's open transaction: who is held up is written alone.
BATCH_LOCK_TIMEOUT = "100ms"
ALONE_LOCK_TIMEOUT = "5s"
RACES = 3
# Of the pool's connections, the others stay for readers.
WRITERS_ALONE = 2
# For how long a recording is tried again while the database is away.
AWAY_SECONDS = 30.0

# One statement probes the heads and inserts the rows of the calls whose streams have not moved. A writer that
# commits in between violates the primary key and fails it: sent again, it sees the new head.
_INSERT: LiteralString = f"""
    with moved as materialized (
        select call, stream_id, actual from (
            select call, stream_id, expected, coalesce((
                select version from event where event.stream_id = wanted.stream_id
                order by version desc limit 1
            ), 0) as actual
            from unnest(%b::int4[], %b::uuid[], %b::int4[]) as wanted (call, stream_id, expected)
        ) as probed where actual <> expected
    ), inserted as (
        insert into event ({", ".join(codec.COLUMNS)})
        select {", ".join(codec.COLUMNS)} from unnest(
            %b::int4[], %b::uuid[], %b::int4[], %b::uuid[], %b::text[], %b::int2[], %b::timestamptz[],
            %b::uuid[], %b::uuid[], %b::uuid[], %b::text[], %b::text[], %b::uuid[], %b::bytea[]
        ) with ordinality as new (call, {", ".join(codec.COLUMNS)}, place)
        where call <> all (array(select call from moved)) order by place
    )
    select call, stream_id, actual from moved
"""  # noqa: S608 - a constant list of columns
_PREPARED_INSERT = Prepared("insert_batch", _INSERT)


# A stream that is not where a call expects it, and its version.
_Moved = tuple[UUID, int]


@dataclass(slots=True, eq=False)
class _Call:
    """One `record()` that waits for its outcome."""

    appends: Sequence[Append]
    rows: Sequence[RecordedEvent]
    streams: frozenset[UUID]
    bytes: int
    outcome: "asyncio.Future[list[RecordedEvent]]"

    def succeed(self, recorded: list[RecordedEvent]) -> None:
        if not self.outcome.done():
            self.outcome.set_result(recorded)

    def fail(self, error: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Recorder:
    """Group commit for one event loop. Get it with `recorder()`."""

    def __init__(self) -> None:
        self._waiting: deque[_Call] = deque()
        self._wanted = asyncio.Event()
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._alone: set[asyncio.Task[None]] = set()
        self._closed = False
        self._one_by_one = asyncio.Semaphore(WRITERS_ALONE)
        # A context of its own: the first caller's trace and asgiref state are not the recorder's.
        self._task = asyncio.create_task(self._run(), name="cartrita recorder", context=Context())

    async def record(self, *appends: Append) -> list[RecordedEvent]:
        """Store events, all or none, once they are committed; return them in stream-id order.

        A repeated call (the same event ids at the same versions) returns what stands. Who is cancelled while
        waiting does not know whether the events were stored: repeat the call with the same event ids.

        Raises StreamMoved, EventIdReused, EventTooLarge, Erased, BlobGone, Unavailable and BadInput; the last
        also for types with an inline projection, which `append` stores.
        """
        if self._closed:
            raise Unavailable("The recorder of this event loop is closed")
        ordered = [one for one in appends if one.events]
        if len(ordered) > 1:
            ordered.sort(key=lambda one: (one.stream_id.int, one.expected_version))
        if not ordered:
            return []
        for one in ordered:
            _refuse_inline(one)
        keys = codec.keys_needed(ordered)
        rows = _encode(ordered, await _ciphers(keys) if keys else {})
        if len(ordered) > 1:
            gap = find_gap(rows)
            if gap is not None:
                raise await _moved(gap.stream_id, gap.version - 1)
        call = _Call(
            appends=ordered,
            rows=rows,
            streams=frozenset([one.stream_id for one in ordered]),
            bytes=sum([len(row.data) for row in rows]),
            outcome=asyncio.get_running_loop().create_future(),
        )
        if named := named_by(rows):
            # The blobs are locked until the commit, which is nothing for a statement that others share.
            self._spawn(_write_alone(call, self._one_by_one, named=named))
            return await call.outcome
        self._waiting.append(call)
        self._wanted.set()
        return await call.outcome

    async def close(self) -> None:
        """Write what waits, then stop."""
        self._closed = True
        self._wanted.set()
        await self._task
        while self._alone:
            await asyncio.gather(*self._alone)
        await self._disconnect()

    async def _run(self) -> None:
        while True:
            await self._wanted.wait()
            batch = self._take()
            if not batch:
                if self._closed:
                    return
                self._wanted.clear()
                continue
            try:
                await self._write(batch)
            except Exception as error:
                logger.exception("The recorder failed a batch of %d calls", len(batch))
                for call in batch:
                    call.fail(error)
                # Nobody knows what it was in the middle of.
                await self._disconnect()

    def _take(self) -> list[_Call]:
        """Return the calls of the next batch: no stream twice, so that each call stands or falls alone."""
        batch: list[_Call] = []
        later: list[_Call] = []
        streams: set[UUID] = set()
        events = size = 0
        while self._waiting:
            call = self._waiting.popleft()
            if call.outcome.done():  # its waiter was cancelled before anything was written
                continue
            if streams.isdisjoint(call.streams):
                if batch and (events + len(call.rows) > BATCH_EVENTS or size + call.bytes > BATCH_BYTES):
                    later.append(call)
                    break
                batch.append(call)
                events += len(call.rows)
                size += call.bytes
            else:
                later.append(call)
            streams |= call.streams
        self._waiting.extendleft(reversed(later))
        return batch

    async def _write(self, batch: list[_Call]) -> None:
        started = time.monotonic()
        races = failures = 0
        while True:
            try:
                connection = await self._connected()
                answer = await _PREPARED_INSERT.ask(connection, _columns(batch))
                moved = _moved_of(answer)
            except errors.UniqueViolation:
                races += 1
                if races >= RACES:
                    self._write_each_alone(batch)
                    return
            except (errors.AdminShutdown, errors.CrashShutdown, errors.CannotConnectNow) as error:
                failures += 1
                await self._wait_for_database(error, started, failures)
            except psycopg.OperationalError as error:
                if self._connection is not None and not self._connection.broken:
                    self._write_each_alone(
                        batch
                    )  # a lock timeout, a deadlock, a full disk: one call's affair
                    return
                failures += 1
                await self._wait_for_database(error, started, failures)
            except psycopg.Error:
                self._write_each_alone(batch)
                return
            else:
                break
        if len(moved) < len(batch):
            wake_sequencer()
        for number, call in enumerate(batch):
            if number in moved:
                self._spawn(_settle_moved(call, *moved[number]))
            else:
                call.succeed(list(call.rows))

    async def _connected(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            self._connection = await connect("cartrita recorder")
            await self._connection.execute(f"set lock_timeout = '{BATCH_LOCK_TIMEOUT}'")
            # Its one statement has one good plan, by the primary key, however small the table was at first.
            await self._connection.execute("set plan_cache_mode = force_generic_plan")
            await self._connection.execute("set enable_seqscan = off")
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _wait_for_database(self, error: psycopg.Error, started: float, failures: int) -> None:
        """Wait before the next try. Sending a batch again is safe: what was committed is found standing."""
        await self._disconnect()
        if time.monotonic() - started > AWAY_SECONDS:
            raise Unavailable("The database is away: nothing can be recorded now") from error
        logger.warning("The recorder lost the database and connects again: %s", error)
        await asyncio.sleep(random.uniform(0.5, 1) * min(2.0, 0.05 * 2 ** min(failures, 10)))

    def _write_each_alone(self, batch: list[_Call]) -> None:
        for call in batch:
            self._spawn(_write_alone(call, self._one_by_one))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._alone.add(task)
        task.add_done_callback(self._alone.discard)


_recorders: WeakKeyDictionary[asyncio.AbstractEventLoop, Recorder] = WeakKeyDictionary()


def recorder() -> Recorder:
    """Return the running loop's recorder, started at its first use; `close_async` ends it."""
    loop = asyncio.get_running_loop()
    found = _recorders.get(loop)
    if found is None:
        found = _recorders[loop] = Recorder()

        async def close() -> None:
            ended = _recorders.pop(loop, None)
            if ended is not None:
                await ended.close()

        close_with_loop(close)
    return found


def _refuse_inline(one: Append) -> None:
    for event in one.events:
        if projections.inline_of(type(event)):
            raise BadInput(
                f"{event.type_name} has an inline projection: store it with append()", field="events"
            )


async def _ciphers(keys: set[UUID]) -> dict[UUID, DataKeyCipher | None]:
    ciphers = await log.aciphers(keys)
    for key_id in keys:
        if key_id not in ciphers:
            raise UnknownKey(f"No data key {key_id} exists: make it with create_data_key first")
        if ciphers[key_id] is None:
            raise Erased("Nothing can be sealed under this key: it is destroyed")
    return ciphers


def _encode(ordered: Sequence[Append], ciphers: dict[UUID, DataKeyCipher | None]) -> list[RecordedEvent]:
    moment = datetime.now(UTC)
    if len(ordered) == 1:
        return codec.encode(ordered[0], recorded_at=moment, ciphers=ciphers)
    return [row for one in ordered for row in codec.encode(one, recorded_at=moment, ciphers=ciphers)]


async def _insert(connection: psycopg.AsyncConnection[tuple[Any, ...]], call: _Call) -> _Moved | None:
    """Insert the rows of one call in the connection's transaction, unless one of its streams has moved."""
    cursor = await connection.execute(_INSERT, _columns([call]), prepare=True, binary=True)
    row = await cursor.fetchone()
    return None if row is None else (row[1], row[2])


def _columns(batch: Sequence[_Call]) -> list[bytes]:
    """Return the parameters of `_INSERT`: where the streams are expected, then the rows."""
    firsts = [
        (number, one)
        for number, call in enumerate(batch)
        for one in (call.appends if len(call.appends) == 1 else first_of_each_stream(call.appends))
    ]
    # Rows go in by stream and version, as PostgreSQL orders them and those of all writers do, so that no two
    # wait for one another.
    rows = [
        (row.stream_id.int, row.version, number, row)
        for number, call in enumerate(batch)
        for row in call.rows
    ]
    rows.sort()  # no two are of one stream and version
    return [
        arrays.integers4([number for number, _ in firsts]),
        arrays.uuids([one.stream_id for _, one in firsts]),
        arrays.integers4([one.expected_version for _, one in firsts]),
        arrays.integers4([number for _, _, number, _ in rows]),
        *as_arrays([row_of(row) for _, _, _, row in rows]),
    ]


def _moved_of(answer: PGresult) -> dict[int, _Moved]:
    """Return the calls that were not written, with the stream that stands elsewhere and its version."""
    found = {}
    for row in range(answer.ntuples):
        call, stream_id, version = (answer.get_value(row, column) or b"" for column in range(3))
        found[int.from_bytes(call, "big")] = (UUID(bytes=bytes(stream_id)), int.from_bytes(version, "big"))
    return found


def first_of_each_stream(ordered: Sequence[Append]) -> list[Append]:
    """Return the first append of each stream; those after it continue it (`find_gap`)."""
    if len(ordered) == 1:
        return [ordered[0]]
    return [
        one
        for before, one in zip((None, *ordered), ordered, strict=False)
        if before is None or before.stream_id != one.stream_id
    ]


async def _write_alone(call: _Call, turn: asyncio.Semaphore, *, named: Sequence[bytes] = ()) -> None:
    """Write one call in a transaction of its own and settle it, whatever happens."""
    started = time.monotonic()
    while not call.outcome.done():
        try:
            async with turn, async_pool().connection() as connection, connection.transaction():
                await connection.execute(f"set local lock_timeout = '{ALONE_LOCK_TIMEOUT}'")
                moved = await _insert(connection, call)
                if named and not moved:
                    await _hold(connection, named)
        except errors.UniqueViolation:
            continue  # the writer that was faster has committed: the next probe sees it
        except errors.LockNotAvailable as error:
            unavailable = Unavailable("Another writer holds this stream in an open transaction: try again")
            unavailable.__cause__ = error
            call.fail(unavailable)
        except (psycopg.DataError, psycopg.IntegrityError) as error:
            bad = BadInput(f"The database refused the event: {error}", field="events")
            bad.__cause__ = error
            call.fail(bad)
        except (psycopg.OperationalError, PoolTimeout) as error:
            if time.monotonic() - started > AWAY_SECONDS:
                away = Unavailable("The database is away: nothing can be recorded now")
                away.__cause__ = error
                call.fail(away)
                return
            await asyncio.sleep(random.uniform(0.1, 0.5))
        except Exception as error:  # noqa: BLE001 - handed to the caller
            call.fail(error)
        else:
            if moved:
                await _settle_moved(call, *moved)
            else:
                wake_sequencer()
                call.succeed(list(call.rows))


async def _settle_moved(call: _Call, stream_id: UUID, actual_version: int) -> None:
    """Answer a call that was stored before with what stands, another one with what the probe of heads met."""
    try:
        standing = await _standing(call.appends)
    except Exception as error:  # noqa: BLE001 - handed to the caller
        call.fail(error)
        return
    if standing is None:
        expected = next(one for one in call.appends if one.stream_id == stream_id).expected_version
        call.fail(StreamMoved(stream_id=stream_id, expected_version=expected, actual_version=actual_version))
    else:
        call.succeed(standing)


async def _standing(appends: Sequence[Append]) -> list[RecordedEvent] | None:
    """Return the events of appends that were stored before; None when they were not, or not all.

    Raises EventIdReused.
    """
    standing: list[RecordedEvent] = []
    for one in appends:
        stored = await log.aload(
            one.stream_id,
            after_version=one.expected_version,
            up_to_version=one.expected_version + len(one.events),
        )
        if one.event_ids is None or [row.event_id for row in stored] != list(one.event_ids):
            return None
        for event, row in zip(one.events, stored, strict=True):
            if not says_the_same(row, event):
                raise EventIdReused(
                    f"Event id {row.event_id} stands at version {row.version} of stream {one.stream_id} with "
                    "other content: a new event needs a new id",
                    field="event_ids",
                )
        standing += stored
    return standing


async def _hold(connection: psycopg.AsyncConnection[tuple[Any, ...]], named: Sequence[bytes]) -> None:
    """Keep blobs from being removed until the transaction ends. Raises BlobGone, which ends it."""
    cursor = await connection.execute(HOLD, [arrays.byteas(named)], binary=True)
    if missing := set(named) - {row[0] for row in await cursor.fetchall()}:
        raise BlobGone(missing)


async def _moved(stream_id: UUID, expected_version: int) -> StreamMoved:
    async with async_pool().connection() as connection:
        cursor = await connection.execute(
            "select coalesce(max(version), 0) from event where stream_id = %s", [stream_id]
        )
        row = await cursor.fetchone()
    return StreamMoved(
        stream_id=stream_id, expected_version=expected_version, actual_version=row[0] if row else 0
    )
