"""Whether the log still says what it said: leaves, Merkle roots and ticks, recomputed from the events.

This finds every change in the database that does not also rewrite all ticks from there on. Whoever rewrites
those too, or cuts off the end with its ticks and events, is found by tree heads that were kept elsewhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psycopg

from cartrita.eventstore.aio import connection_parameters
from cartrita.eventstore.merkle import Frontier
from cartrita.eventstore.rows import COLUMNS, leaf_of
from cartrita.eventstore.sequencer import GENESIS, tick_hash

_FETCH = 5_000

_LOG = f"""
    select log.position, log.leaf, log.session_id, log.workspace_id, log.stream_id, log.version, {COLUMNS}
    from log left join event using (stream_id, version) where log.position > %(size)s order by log.position
"""  # noqa: S608 - a constant list of columns

_TICKS = """
    select number, epoch, cluster, snapshot::text, size, root, chain, ticked_at, frontier
    from tick where number > %(number)s order by number
"""

_HEADS = "select size, root from tree_head where size > %(size)s order by size"

# A tick that stored the tree's peaks, from which on at least so many positions follow.
_START = """
    select number, size, frontier, chain from tick
    where frontier is not null and size <= (select coalesce(max(size), 0) from tick) - %s
    order by number desc limit 1
"""

# What a tick saw committed has a position, as far as its snapshot speaks of this cluster's transaction ids.
_LEFT_OUT = """
    select event.stream_id, event.version
    from (select snapshot from tick where cluster = (select system_identifier from pg_control_system())
          order by number desc limit 1) as last
    join event on pg_visible_in_snapshot(event.xid, last.snapshot)
    where not exists (
        select from log where log.stream_id = event.stream_id and log.version = event.version
    ) order by event.seq limit 1
"""


@dataclass(frozen=True, slots=True)
class LogReport:
    """What verifying found. `first_bad_position` and `problem` are None where all is as it was written.

    `positions` and `ticks` count what was found in order; `root` is the tree's root there, in hexadecimal.
    """

    positions: int
    ticks: int
    root: str
    first_bad_position: int | None = None
    problem: str | None = None

    @property
    def verified(self) -> bool:
        return self.problem is None

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible values."""
        return {"verified": self.verified, **asdict(self)}


class _Bad(Exception):
    """The first thing that is not as it was written."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(problem)
        self.position = position
        self.problem = problem


def verify_log() -> LogReport:
    """Recompute every leaf from its event, every root and the chain of ticks; stop at the first that differs.

    Reads one snapshot, on a connection of its own; writers are not held up.
    """
    with psycopg.connect(**connection_parameters()) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        return verify_on(connection)


def verify_on(connection: psycopg.Connection[Any], *, last: int | None = None) -> LogReport:
    """Verify what a connection sees, in its transaction; as `verify_log`.

    With `last` at least that many of the last positions, and that they continue the tree as it was stored
    before them; what lies before is believed.
    """
    start = None if last is None else connection.execute(_START, [last]).fetchone()
    number, size, peaks, chain = start or (0, 0, b"", GENESIS)
    frontier = Frontier(size, bytes(peaks))
    walk = _Walk(frontier, ticks=number, ticked=size, chain=bytes(chain))
    try:
        walk.through(connection)
        if last is None:
            _check_none_left_out(connection, frontier.size)
    except _Bad as bad:
        return LogReport(
            positions=bad.position - 1,
            ticks=walk.ticks,
            root=frontier.root().hex(),
            first_bad_position=bad.position,
            problem=bad.problem,
        )
    return LogReport(positions=frontier.size, ticks=walk.ticks, root=frontier.root().hex())


class _Walk:
    """One pass over log, ticks and tree heads, side by side."""

    def __init__(self, frontier: Frontier, *, ticks: int, ticked: int, chain: bytes) -> None:
        self.frontier = frontier
        self.ticks = ticks
        self._ticked = ticked
        self._chain = chain

    def through(self, connection: psycopg.Connection[Any]) -> None:
        after = {"number": self.ticks, "size": self._ticked}
        ticks = _rows(connection, "ticks", _TICKS, after)
        heads = _rows(connection, "heads", _HEADS, after)
        tick, head = next(ticks, None), next(heads, None)
        extend = self.frontier.extend
        checkpoint = min(_size(tick, 4), _size(head, 0))
        for row in _rows(connection, "log", _LOG, after):
            extend((self._leaf(row),))
            while self.frontier.size == checkpoint:
                if tick is not None and tick[4] == checkpoint:
                    self._check_tick(tick)
                    tick = next(ticks, None)
                    # Sizes grow from tick to tick; one that does not is met here, before it is skipped.
                    if tick is not None and tick[4] <= self.frontier.size:
                        raise _Bad(self.frontier.size + 1, f"Tick {tick[0]} does not grow the log")
                elif head is not None:
                    if head[1] != self.frontier.root():
                        raise _Bad(
                            self._ticked + 1, f"The signed tree head of size {head[0]} has another root"
                        )
                    head = next(heads, None)
                checkpoint = min(_size(tick, 4), _size(head, 0))
        self._check_end(tick, head)

    def _leaf(self, row: tuple[Any, ...]) -> bytes:
        position, leaf, session_id, workspace_id, stream_id, version = row[:6]
        expected = self.frontier.size + 1
        if position != expected:
            raise _Bad(expected, f"Position {expected} is missing: the log goes on at {position}")
        event = row[6:]
        if event[2] is None:
            raise _Bad(position, f"Event {version} of stream {stream_id} is missing")
        computed = leaf_of(event)
        if computed != leaf:
            raise _Bad(
                position,
                f"Event {version} of stream {stream_id} or its leaf is not as it was when it was ordered",
            )
        if (event[6], event[7]) != (workspace_id, session_id):
            raise _Bad(position, f"The log has event {version} of stream {stream_id} in another feed")
        return computed

    def _check_tick(self, tick: tuple[Any, ...]) -> None:
        number, epoch, cluster, snapshot, size, root, chain, ticked_at, peaks = tick
        first = self._ticked + 1
        if number != self.ticks + 1:
            raise _Bad(first, f"Tick {self.ticks + 1} is missing")
        if root != self.frontier.root() or (peaks is not None and peaks != self.frontier.peaks()):
            raise _Bad(first, f"Positions {first} to {size} are not those that tick {number} ordered")
        self._chain = tick_hash(
            self._chain,
            number=number,
            epoch=epoch,
            cluster=cluster,
            snapshot=snapshot,
            size=size,
            root=root,
            ticked_at=ticked_at,
        )
        if chain != self._chain:
            raise _Bad(first, f"Tick {number} does not continue the tick before it")
        self.ticks, self._ticked = number, size

    def _check_end(self, tick: tuple[Any, ...] | None, head: tuple[Any, ...] | None) -> None:
        size = self.frontier.size
        if tick is not None:
            raise _Bad(size + 1, f"The log ends at position {size}, tick {tick[0]} went up to {tick[4]}")
        if head is not None:
            raise _Bad(size + 1, f"The log ends at position {size}, a signed tree head has {head[0]}")
        if size != self._ticked:
            raise _Bad(self._ticked + 1, f"Positions {self._ticked + 1} to {size} belong to no tick")


def _check_none_left_out(connection: psycopg.Connection[Any], size: int) -> None:
    if (left_out := connection.execute(_LEFT_OUT).fetchone()) is not None:
        raise _Bad(
            size + 1,
            f"Event {left_out[1]} of stream {left_out[0]} was committed before the last tick "
            "and has no position",
        )


def _rows(
    connection: psycopg.Connection[Any], name: str, query: str, parameters: Mapping[str, int]
) -> Iterator[tuple[Any, ...]]:
    with connection.cursor(name=name, binary=True) as cursor:
        cursor.itersize = _FETCH
        cursor.execute(query.encode(), parameters)
        yield from cursor


def _size(row: tuple[Any, ...] | None, column: int) -> float:
    return float("inf") if row is None else row[column]
