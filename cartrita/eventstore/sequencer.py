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
from functools import cache
from hashlib import sha256
from typing import Any, LiteralString

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8

from cartrita.errors import CartritaError
from cartrita.eventstore.aio import connect
from cartrita.eventstore.leaf import LEAF_V1_SQL
from cartrita.eventstore.listen import announce
from cartrita.eventstore.merkle import Frontier, Node
from cartrita.eventstore.nodes import INSERT_NODES, node_columns
from cartrita.eventstore.wake import LOG_CHANNEL, WAKE_CHANNEL, Bell, follow_again, lead, wait_for_ring

logger = logging.getLogger(__name__)

LEADER_LOCK = 0x6361727472697461  # "cartrita"; advisory locks are per database
BUSY_SECONDS = 0.003
# Under a flood the writers need the processors more: a tick costs as much as ordering a hundred events. At
# 500 events a second this is nothing, from about 3,000 on it is the whole pause.
SECONDS_PER_EVENT = 0.0003
FLOOD_SECONDS = 0.02
POLL_SECONDS = 0.5
STANDBY_SECONDS = 0.5
CHUNK_EVENTS = 2_000
FRONTIER_EVERY_TICKS = 64
FRONTIER_EVERY_LEAVES = 4_096

GENESIS = sha256(b"cartrita log v1").digest()

Connection = psycopg.AsyncConnection[tuple[Any, ...]]
# A position and its leaf.
_Placed = tuple[int, bytes]

_COLUMNS: LiteralString = (
    "seq, stream_id, version, event_id, type, schema_version, recorded_at, workspace_id, session_id, "
    "causation_id, actor, trace_id, key_id, data"
)
_NOT_PLACED: LiteralString = (
    "not exists (select from log where log.stream_id = event.stream_id and log.version = event.version)"
)
_SINCE: LiteralString = f"select {_COLUMNS} from event where xid >= %(xmax)s::text::xid8"  # noqa: S608 - constants
_MEANWHILE: LiteralString = f" union all select {_COLUMNS} from event where xid = any(%(xip)s::text::xid8[])"  # noqa: S608 - constants
_FRESH: LiteralString = f"{_SINCE}{_MEANWHILE}"
# After a logical restore the stored transaction ids are another cluster's: what has no position is taken, and
# ever after some of them may be beyond those of today.
_UNPLACED: LiteralString = f"select {_COLUMNS} from event where {_NOT_PLACED}"  # noqa: S608 - constants
_FRESH_UNPLACED: LiteralString = f"{_SINCE} and {_NOT_PLACED}{_MEANWHILE}"
_ORDER: LiteralString = f"""
    insert into log (position, stream_id, version, session_id, workspace_id, leaf)
    select %(size)s::int8 + row_number() over (order by seq), stream_id, version, session_id, workspace_id,
        {LEAF_V1_SQL}
    from (<fresh>) as fresh order by seq
    returning position, leaf
"""  # noqa: S608 - constants
# Of so few at most that they come in one answer; a tick that finds more begins again.
_SOME: LiteralString = " order by seq limit %(most)s"

_WHERE_WE_ARE = "select coalesce(max(number), 0), pg_current_snapshot()::text from tick"

_LAST_TICK = """
    select number, epoch, snapshot::text, size, root, chain, cluster from tick order by number desc limit 1
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
            number, snapshot, placed = await _place(connection, before, most=CHUNK_EVENTS + 1)
            if number != before.number:
                return None
            if len(placed) <= CHUNK_EVENTS:
                nodes = _extend(before.frontier, placed)
            else:
                await connection.rollback()
                number, snapshot, nodes = await _place_all(connection, before)
                if number != before.number:
                    return None
            self._standing = before
            if placed:
                self._standing = await _write(connection, before, size, snapshot, nodes)
            else:
                # After a rollback psycopg would have all statements prepared again.
                await connection.execute("commit")
            return before.frontier.size - size
        finally:
            if connection.info.transaction_status != TransactionStatus.IDLE:
                await connection.rollback()


async def _open() -> Connection:
    connection = await connect("cartrita sequencer")
    try:
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
    """Return the last tick, and let the connection plan its statement as those that follow need it."""
    standing = await _last_tick(connection, new_epoch=new_epoch)
    # Planning takes three times as long as placing a single event. But one plan for all would expect a third
    # of the table to be fresh, where it is the far end of an index, and read all of `log` to find what has no
    # position.
    mode = "force_custom_plan" if standing.epoch else "force_generic_plan"
    await connection.execute("select set_config('plan_cache_mode', %s, false)", [mode])
    return standing


async def _last_tick(connection: Connection, *, new_epoch: bool) -> _Standing:
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


async def _place(connection: Connection, before: _Standing, *, most: int) -> tuple[int, str, list[_Placed]]:
    """Open the tick's transaction and place fresh events, at most so many; return with them the last tick's
    number and the snapshot.
    """
    query = _ordering(before, _SOME)
    async with connection.pipeline():
        await connection.execute("begin isolation level repeatable read")
        last = await connection.execute(_WHERE_WE_ARE)
        fresh = connection.cursor(binary=True)
        await fresh.execute(query, {**_since(before), "most": most}, prepare=True)
        number, snapshot = await _one(last)
        return number, snapshot, await fresh.fetchall()


async def _place_all(connection: Connection, before: _Standing) -> tuple[int, str, list[Node]]:
    """Open the tick's transaction and place all fresh events, adding them to the frontier; return the last
    tick's number, the snapshot and the nodes that became complete.
    """
    query = _ordering(before)
    await connection.execute("begin isolation level repeatable read")
    number, snapshot = await _one(await connection.execute(_WHERE_WE_ARE))
    nodes: list[Node] = []
    if number == before.number:
        some: list[_Placed] = []
        async for placed in connection.cursor(binary=True).stream(query, _since(before), size=CHUNK_EVENTS):
            some.append(placed)
            if len(some) == CHUNK_EVENTS:
                nodes += _extend(before.frontier, some)
                some = []
        nodes += _extend(before.frontier, some)
    return number, snapshot, nodes


async def _write(
    connection: Connection, before: _Standing, size: int, snapshot: str, nodes: list[Node]
) -> _Standing:
    """Write the tick after `size` positions, up to which the frontier was before, and commit it."""
    frontier = before.frontier
    at = datetime.now(UTC)
    async with connection.pipeline():
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


@cache
def _statement(fresh: LiteralString) -> LiteralString:
    return _ORDER.replace("<fresh>", fresh)


def _ordering(before: _Standing, bound: LiteralString = "") -> LiteralString:
    """Return the statement that places what is fresh after a tick."""
    if not before.snapshot:
        return _statement(_UNPLACED + bound)
    return _statement((_FRESH_UNPLACED if before.epoch else _FRESH) + bound)


def _since(before: _Standing) -> dict[str, object]:
    """Return the parameters that tell which events are fresh, and after which position they go."""
    size = Int8(before.frontier.size)
    if not before.snapshot:
        return {"size": size}
    _, xmax, xip = before.snapshot.split(":")
    return {"size": size, "xmax": xmax, "xip": f"{{{xip}}}"}


def _extend(frontier: Frontier, placed: Sequence[_Placed]) -> list[Node]:
    """Add leaves to the frontier in the order of their positions; return the nodes that became complete."""
    first = frontier.size + 1
    if [position for position, _ in placed] != list(range(first, first + len(placed))):
        raise LogDamaged(f"The positions from {first} on were not given one after another")
    return frontier.extend(leaf for _, leaf in placed)


async def _one(cursor: psycopg.AsyncCursor[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = await cursor.fetchone()
    if row is None:
        raise RuntimeError("a query that always has a row returned none")
    return row
