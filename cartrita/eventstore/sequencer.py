"""The sequencer: gives committed events their position in the one log; writers feel no lock.

A tick is one REPEATABLE READ transaction. It takes every event that its snapshot sees and the snapshot of the
tick before did not (`xid >= pg_snapshot_xmax(before) or xid = any(pg_snapshot_xip(before))`), orders them by
`seq`, writes their positions and leaves, and the tick with its snapshot, Merkle root and link to the tick
before. A stream's version n + 1 can only be written after version n is visible, so its `seq` is higher: the
order in a stream holds within a tick, and across ticks because visibility never goes back. Primary keys on
positions and ticks make a second sequencer fail instead of corrupting; the leader's lock only saves the
useless work.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from cartrita.errors import CartritaError
from cartrita.eventstore import arrays
from cartrita.eventstore.aio import connect
from cartrita.eventstore.codec import Row
from cartrita.eventstore.listen import announce
from cartrita.eventstore.merkle import Frontier, Node
from cartrita.eventstore.nodes import INSERT_NODES, node_columns
from cartrita.eventstore.rows import COLUMNS, leaf_of
from cartrita.eventstore.wake import LOG_CHANNEL, WAKE_CHANNEL, Bell, follow_again, lead, wait_for_ring

logger = logging.getLogger(__name__)

LEADER_LOCK = 0x6361727472697461  # "cartrita"; advisory locks are per database
BUSY_SECONDS = 0.003
# Under a flood the writers need the processors more: a tick costs as much as ordering a hundred events. At
# 500 events a second this is nothing, from about 4,000 on it is the whole pause.
SECONDS_PER_EVENT = 0.0002
FLOOD_SECONDS = 0.01
POLL_SECONDS = 0.5
STANDBY_SECONDS = 0.5
CHUNK_EVENTS = 2_000
FRONTIER_EVERY_TICKS = 64
FRONTIER_EVERY_LEAVES = 4_096

GENESIS = sha256(b"cartrita log v1").digest()

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_FRESH = f"""
    select seq, {COLUMNS} from event
    where xid >= %(xmax)s::text::xid8 and (not %(anchored)s or not exists (
        select from log where log.stream_id = event.stream_id and log.version = event.version))
    union all
    select seq, {COLUMNS} from event
    where xid = any(%(xip)s::text::xid8[])
"""  # noqa: S608 - a constant list of columns

# After a logical restore the stored transaction ids are another cluster's: what has no position is taken.
_UNPLACED = f"""
    select seq, {COLUMNS} from event where not exists (
        select from log where log.stream_id = event.stream_id and log.version = event.version)
"""  # noqa: S608 - a constant list of columns

_WHERE_WE_ARE = "select coalesce(max(number), 0), pg_current_snapshot()::text from tick"

_LAST_TICK = """
    select number, epoch, snapshot::text, size, root, chain, cluster from tick order by number desc limit 1
"""

_INSERT_LOG = """
    insert into log (position, stream_id, version, session_id, workspace_id, leaf)
    select * from unnest(%b::int8[], %b::uuid[], %b::int4[], %b::uuid[], %b::uuid[], %b::bytea[])
"""

_INSERT_TICK = """
    with written as (
        insert into tick (number, epoch, snapshot, size, root, frontier, chain, cluster, ticked_at)
        values (%s, %s, %s::text::pg_snapshot, %s, %s, %s, %s, %s, %s)
    )
    select pg_notify(%s, %s)
"""


def tick_hash(
    before: bytes,
    *,
    number: int,
    epoch: int,
    cluster: int,
    snapshot: str,
    size: int,
    root: bytes,
    ticked_at: datetime,
) -> bytes:
    """Return a tick's link: SHA-256 over the link before it and every fact of the tick, each on a line."""
    at = ticked_at.astimezone(UTC).isoformat(timespec="microseconds")
    lines = ("cartrita tick v1", before.hex(), number, epoch, cluster, snapshot, size, root.hex(), at)
    return sha256("\n".join(map(str, lines)).encode()).digest()


class LogDamaged(CartritaError):
    """What the log holds does not fit together; `manage.py verify_log` names the first bad position."""

    code = "log_damaged"
    status = 500


@dataclass(slots=True)
class _Standing:
    """The last tick, as the next one continues it."""

    number: int
    epoch: int
    snapshot: str
    chain: bytes
    cluster: int
    frontier: Frontier
    ticks_since_frontier: int = 0
    leaves_since_frontier: int = 0


class Sequencer:
    """Orders committed events while it is the leader, and waits to become it while another one is.

    Any number may run, in one process or in many. `leads` says whether this one orders now.
    """

    def __init__(self) -> None:
        self.leads = False
        self._standing: _Standing | None = None

    async def run(self) -> None:
        """Order events until cancelled; survives losing the database."""
        failures = 0
        while True:
            try:
                await self._serve()
            except (psycopg.OperationalError, OSError) as error:
                failures = 0 if self._standing else failures + 1
                logger.warning("The sequencer lost the database and connects again: %s", error)
            except Exception:
                failures += 1
                logger.exception("The sequencer failed and starts again")
            self._standing = None
            await asyncio.sleep(random.uniform(0.5, 1) * min(5.0, 0.1 * 2 ** min(failures, 10)))

    async def order(self, *, new_epoch: bool = False) -> int:
        """Give positions to what is committed now, on a connection of its own; return how many events.

        Works beside a leader. For commands and tests that run without a sequencer. With `new_epoch` the tick
        begins one, as after a restore, which gives positions after the backup a second time.
        """
        ordered = 0
        connection = await _open()
        try:
            while True:
                self._standing = self._standing or await _read_standing(connection, new_epoch=new_epoch)
                try:
                    taken = await self._tick(connection)
                except (errors.UniqueViolation, errors.SerializationFailure):
                    await asyncio.sleep(0.01)
                    continue
                if taken is not None:
                    ordered += taken
                    return ordered
        finally:
            self._standing = None
            await connection.close()

    async def _serve(self) -> None:
        bell = Bell()
        connection = await _open()
        try:
            while not await _try_to_lead(connection):  # noqa: ASYNC110 - no event tells that a lock is free
                await asyncio.sleep(STANDBY_SECONDS)
            # Rings are heard before the first tick reads, so that no commit falls between.
            connection.add_notify_handler(lambda _: bell.ring_here())
            await connection.execute(f"listen {WAKE_CHANNEL}")
            lead(bell)
            self.leads = True
            logger.info("The sequencer leads")
            await self._lead(connection, bell)
        finally:
            self.leads = False
            follow_again(bell)
            await connection.close()

    async def _lead(self, connection: Connection, bell: Bell) -> None:
        while True:
            bell.clear()
            started = time.monotonic()
            self._standing = self._standing or await _read_standing(connection)
            try:
                taken = await self._tick(connection)
            except (errors.UniqueViolation, errors.SerializationFailure):
                logger.info("Another sequencer ticked at the same time")
                await asyncio.sleep(random.uniform(0.005, 0.02))
                continue
            if taken is None:
                continue
            if taken:
                announce()
                pause = min(FLOOD_SECONDS, taken * SECONDS_PER_EVENT)
                await asyncio.sleep(max(pause, BUSY_SECONDS - (time.monotonic() - started)))
            if not bell.is_rung():
                await wait_for_ring(connection, bell, POLL_SECONDS, lambda _: bell.ring_here())

    async def _tick(self, connection: Connection) -> int | None:
        """Order what has become visible; return how many events, None when another sequencer had ticked."""
        before, self._standing = self._standing, None
        if before is None:
            raise RuntimeError("a tick continues the tick before: read it first")
        try:
            size = before.frontier.size
            number, snapshot, rows = await _begin(connection, before)
            if number != before.number:
                return None
            if rows is None or rows:
                self._standing = await _write(connection, before, snapshot, rows)
            else:
                self._standing = before
            return self._standing.frontier.size - size
        finally:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                await connection.rollback()


async def _open() -> Connection:
    connection = await connect("cartrita sequencer")
    try:
        # Planned for each snapshot: the transaction ids sit at the far end of the index, where a generic plan
        # would expect a third of the table.
        await connection.execute("set plan_cache_mode = force_custom_plan")
        await connection.execute("set enable_seqscan = off")
        await connection.execute("set jit = off")
    except BaseException:
        # Also when this task is cancelled here: nobody else knows of the connection yet.
        await connection.close()
        raise
    return connection


async def _try_to_lead(connection: Connection) -> bool:
    cursor = await connection.execute("select pg_try_advisory_lock(%s)", [LEADER_LOCK])
    return await cursor.fetchone() == (True,)


async def _read_standing(connection: Connection, *, new_epoch: bool = False) -> _Standing:
    await connection.execute("begin isolation level repeatable read read only")
    try:
        cursor = await connection.execute("select system_identifier from pg_control_system()")
        (cluster,) = await _one(cursor)
        cursor = await connection.execute(_LAST_TICK)
        last = await cursor.fetchone()
        if last is None:
            return _Standing(0, int(new_epoch), "0:0:", GENESIS, cluster, Frontier())
        number, epoch, snapshot, size, root, chain, tick_cluster = last
        begins = new_epoch or tick_cluster != cluster
        cursor = await connection.execute(
            "select number, size, frontier from tick where frontier is not null order by number desc limit 1"
        )
        known_number, known_size, peaks = await cursor.fetchone() or (0, 0, b"")
        frontier = Frontier(known_size, peaks)
        async with connection.cursor(name="leaves", binary=True) as leaves:
            await leaves.execute("select leaf from log where position > %s order by position", [known_size])
            while chunk := await leaves.fetchmany(CHUNK_EVENTS):
                frontier.extend(leaf for (leaf,) in chunk)
        if frontier.size != size or frontier.root() != root:
            raise LogDamaged(
                f"Tick {number} counts {size} positions, the log holds {frontier.size} or other leaves: "
                "run `manage.py verify_log`"
            )
        return _Standing(
            number=number,
            epoch=epoch + begins,
            # Another cluster's transaction ids say nothing here.
            snapshot="" if begins else snapshot,
            chain=chain,
            cluster=cluster,
            frontier=frontier,
            ticks_since_frontier=number - known_number,
            leaves_since_frontier=size - known_size,
        )
    finally:
        await connection.rollback()


async def _begin(connection: Connection, before: _Standing) -> tuple[int, str, list[Row] | None]:
    """Open the tick's transaction; return the last tick's number, the snapshot and the fresh events in order.

    The rows are None when they are too many for one answer.
    """
    query, parameters = _fresh(before)
    async with connection.pipeline():
        await connection.execute("begin isolation level repeatable read")
        last = await connection.execute(_WHERE_WE_ARE)
        fresh = connection.cursor(binary=True)
        await fresh.execute(f"{query} order by seq limit {CHUNK_EVENTS + 1}", parameters, prepare=True)
        number, snapshot = await _one(last)
        rows = await fresh.fetchall()
    return number, snapshot, rows if len(rows) <= CHUNK_EVENTS else None


async def _write(
    connection: Connection, before: _Standing, snapshot: str, rows: list[Row] | None
) -> _Standing:
    frontier = before.frontier
    size = frontier.size
    nodes: list[Node] = []
    if rows is None:
        query, parameters = _fresh(before)
        async with connection.cursor(name="fresh", binary=True) as fresh:
            await fresh.execute(f"{query} order by seq", parameters)
            while chunk := await fresh.fetchmany(CHUNK_EVENTS):
                await connection.execute(_INSERT_LOG, _placed(frontier, chunk, nodes), binary=True)
        rows = []
    at = datetime.now(UTC)
    async with connection.pipeline():
        if rows:
            await connection.execute(_INSERT_LOG, _placed(frontier, rows, nodes), prepare=True, binary=True)
        if nodes:
            await connection.execute(INSERT_NODES, node_columns(nodes), binary=True)
        ticks, leaves = before.ticks_since_frontier + 1, before.leaves_since_frontier + frontier.size - size
        store = ticks >= FRONTIER_EVERY_TICKS or leaves >= FRONTIER_EVERY_LEAVES
        after = _Standing(
            number=before.number + 1,
            epoch=before.epoch,
            snapshot=snapshot,
            chain=b"",
            cluster=before.cluster,
            frontier=frontier,
            ticks_since_frontier=0 if store else ticks,
            leaves_since_frontier=0 if store else leaves,
        )
        root = frontier.root()
        after.chain = tick_hash(
            before.chain,
            number=after.number,
            epoch=after.epoch,
            cluster=after.cluster,
            snapshot=snapshot,
            size=frontier.size,
            root=root,
            ticked_at=at,
        )
        await connection.execute(
            _INSERT_TICK,
            [
                after.number,
                after.epoch,
                snapshot,
                frontier.size,
                root,
                frontier.peaks() if store else None,
                after.chain,
                after.cluster,
                at,
                LOG_CHANNEL,
                str(frontier.size),
            ],
            prepare=True,
            binary=True,
        )
        await connection.execute("commit")
    return after


def _fresh(before: _Standing) -> tuple[str, dict[str, object]]:
    if not before.snapshot:
        return _UNPLACED, {}
    _, xmax, xip = before.snapshot.split(":")
    return _FRESH, {"xmax": xmax, "xip": f"{{{xip}}}", "anchored": before.epoch > 0}


def _placed(frontier: Frontier, rows: Sequence[Row], nodes: list[Node]) -> list[Any]:
    """Add the rows' leaves to the frontier, and what it completes to `nodes`; return the columns of `log`."""
    first = frontier.size + 1
    leaves = [leaf_of(row[1:]) for row in rows]
    nodes += frontier.extend(leaves)
    return [
        arrays.integers8(range(first, first + len(rows))),
        arrays.uuids([row[1] for row in rows]),
        arrays.integers4([row[2] for row in rows]),
        arrays.uuids([row[8] for row in rows]),
        arrays.uuids([row[7] for row in rows]),
        arrays.byteas(leaves),
    ]


async def _one(cursor: psycopg.AsyncCursor[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = await cursor.fetchone()
    if row is None:
        raise RuntimeError("a query that always has a row returned none")
    return row
