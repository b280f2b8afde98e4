"""Whether the log still says what it said: leaves, Merkle roots, ticks and signed heads, recomputed.

This finds every change in the database that does not also rewrite all ticks from there on, and all signed
tree heads, for which it needs their key. Whoever has that too, or cuts off the end with its ticks, heads and
events, is found by tree heads that were kept elsewhere: a witness.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import UUID

import psycopg

from cartrita.eventstore.aio import connection_parameters
from cartrita.eventstore.heads import epoch_name
from cartrita.eventstore.merkle import Frontier, Node
from cartrita.eventstore.restored import InstallationRestored
from cartrita.eventstore.rotated import SigningKeyRotated
from cartrita.eventstore.rows import COLUMNS, leaf_of
from cartrita.eventstore.sequencer import GENESIS, tick_hash
from cartrita.eventstore.signed_note import (
    Checkpoint,
    NoteMalformed,
    SignatureWrong,
    SignerUnknown,
    VerifierKey,
    open_note,
)
from cartrita.eventstore.signing import key_name
from cartrita.eventstore.witness import Witnessed, WitnessUnusable, epoch_of

_FETCH = 5_000

_LOG = f"""
    select log.position, log.leaf, log.session_id, log.workspace_id, log.stream_id, log.version, {COLUMNS}
    from log left join event using (stream_id, version) where log.position > %(size)s order by log.position
"""  # noqa: S608 - a constant list of columns

_TICKS = """
    select number, epoch, cluster, snapshot::text, size, root, chain, ticked_at, frontier
    from tick where number > %(number)s order by number
"""

_HEADS = "select size, root, note from tree_head where size > %(size)s order by size"

_NODES = "select level, index, hash from merkle_node where (index + 1) << level > %s"

_EPOCH_BEGAN = """
    select epoch, chain from tick where epoch = (select epoch from tick where number = %s)
    order by number limit 1
"""

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
class Epoch:
    """A part of the log's history, from the position `after` on. The first one began with the log.

    `restored` says whether the log itself tells that a restore began it. `lost_up_to` is the largest tree
    head of a witness that went with the restore: positions after `after` up to there were given a second
    time.
    """

    name: str
    after: int
    restored: bool
    lost_up_to: int | None = None


@dataclass(frozen=True, slots=True)
class LogReport:
    """What verifying found. `first_bad_position` and `problem` are None where all is as it was written.

    `positions`, `ticks`, `heads` and `witnessed` (heads of the witness) count what was found in order; `root`
    is the tree's root there, in hexadecimal.
    """

    positions: int
    ticks: int
    root: str
    first_bad_position: int | None = None
    problem: str | None = None
    heads: int = 0
    witnessed: int = 0
    epochs: tuple[Epoch, ...] = ()

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


def verify_log(
    *, witness: Iterable[Witnessed] | None = None, verifier_keys: Sequence[VerifierKey] = ()
) -> LogReport:
    """Recompute every leaf from its event, every root and the chain of ticks; stop at the first that differs.

    Signed tree heads must have those roots, and be signed by `verifier_keys` or by keys that took over from
    them; where none are named, the first head's signers are believed. The log must continue every head of a
    `witness`. Reads one snapshot, on a connection of its own; writers are not held up. Raises what reading
    the witness raises.
    """
    heads = None if witness is None else list(witness)
    with psycopg.connect(**connection_parameters()) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        return verify_on(connection, witness=heads, verifier_keys=verifier_keys)


def verify_on(
    connection: psycopg.Connection[Any],
    *,
    last: int | None = None,
    witness: Sequence[Witnessed] | None = None,
    verifier_keys: Sequence[VerifierKey] = (),
) -> LogReport:
    """Verify what a connection sees, in its transaction; as `verify_log`.

    With `last` at least that many of the last positions, and that they continue the tree as it was stored
    before them; what lies before is believed.
    """
    start = None if last is None else connection.execute(_START, [last]).fetchone()
    number, size, peaks, chain = start or (0, 0, b"", GENESIS)
    began = connection.execute(_EPOCH_BEGAN, [number]).fetchone()
    frontier = Frontier(size, bytes(peaks))
    known = _known_keys(connection)
    walk = _Walk(
        frontier,
        ticks=number,
        ticked=size,
        chain=bytes(chain),
        epoch=None if began is None else (began[0], epoch_name(began[0], bytes(began[1]))),
        # What made a later key known may lie before the start.
        trust=_Trust(known, known if start else verifier_keys),
        installation=_installation(connection),
        wanted={one.checkpoint.size for one in witness or ()},
    )
    witnessed = 0
    try:
        if witness and not verifier_keys and not start:
            walk.trust.believe(witness[0].note)
        walk.through(connection)
        if last is None:
            _check_none_left_out(connection, frontier.size)
        if witness is not None:
            witnessed = _check_witness(walk, witness, _Trust(known, verifier_keys))
    except _Bad as bad:
        return LogReport(
            positions=bad.position - 1,
            ticks=walk.ticks,
            root=frontier.root().hex(),
            first_bad_position=bad.position,
            problem=bad.problem,
            heads=walk.heads,
            epochs=walk.past(),
        )
    return LogReport(
        positions=frontier.size,
        ticks=walk.ticks,
        root=frontier.root().hex(),
        heads=walk.heads,
        witnessed=witnessed,
        epochs=walk.past(),
    )


class _Trust:
    """Which keys may have signed a head, as far as the log is known.

    A key that is believed vouches for each one that the tree it signs tells to have taken over. Without any
    at first, the signers of the first head are believed.
    """

    def __init__(self, known: Sequence[VerifierKey], believed: Sequence[VerifierKey]) -> None:
        self._known = {*known, *believed}
        self._believed = set(believed)
        self._named = bool(believed)
        # Keys that took over, with the position that says so, and whether they replaced none.
        self.took_over: list[tuple[int, VerifierKey, bool]] = []

    def add(self, position: int, key: VerifierKey, *, alone: bool) -> None:
        """Take note that a key took over, `alone` where the one before it was lost."""
        self.took_over.append((position, key, alone))
        self._known.add(key)

    def hear(self, position: int, event: Mapping[str, Any]) -> None:
        """Take note of an event SigningKeyRotated."""
        try:
            key = VerifierKey.parse(str(event.get("verifier_key")))
        except NoteMalformed as error:
            raise _Bad(position, f"Position {position} names no key: {error.message}") from error
        self.add(position, key, alone=event.get("replaced") is None)

    def believe(self, note: str) -> None:
        """Believe whoever signed this note."""
        try:
            self._believed |= set(open_note(note, self._known).signed_by)
        except NoteMalformed as error:
            raise _damaged(1, error) from error
        except (SignatureWrong, SignerUnknown) as error:
            raise _Bad(1, f"The first tree head of the witness: {error.message}") from error

    def check(self, note: str) -> Checkpoint:
        """Return what a note says. Raises NoteMalformed, SignatureWrong, SignerUnknown."""
        opened = open_note(note, self._known)
        checkpoint = Checkpoint.parse(opened.text)
        signers = set(opened.signed_by)
        if not self._believed:
            self._believed |= signers
        if not signers & self._believed and not self._named:
            # The key before it was lost; who named the keys to believe has to name this one too.
            self._believed |= {
                key
                for position, key, alone in self.took_over
                if alone and position <= checkpoint.size and key in signers
            }
        if not signers & self._believed:
            by = ", ".join(sorted(f"{key.name} (key {key.key_id.hex()})" for key in signers))
            raise SignerUnknown(
                f"It is signed by {by}, for which no key before it vouches; where you know that key, name it "
                "with --verifier-key"
            )
        self._believed |= {key for position, key, _ in self.took_over if position <= checkpoint.size}
        return checkpoint


class _Walk:
    """One pass over log, ticks, nodes and tree heads, side by side."""

    def __init__(
        self,
        frontier: Frontier,
        *,
        ticks: int,
        ticked: int,
        chain: bytes,
        epoch: tuple[int, str] | None,
        trust: _Trust,
        installation: UUID | None,
        wanted: set[int],
    ) -> None:
        self.frontier = frontier
        self.ticks = ticks
        self.heads = 0
        self.trust = trust
        self.origin = "" if installation is None else key_name(installation)
        # The roots of the sizes that a witness has heads of.
        self.roots: dict[int, bytes] = {}
        self.epochs: list[tuple[int, Epoch]] = []
        self._wanted = wanted
        self._ticked = ticked
        self._chain = chain
        self._restores: dict[int, int] = {}
        if epoch is not None:
            self.epochs.append((epoch[0], Epoch(epoch[1], 0, restored=False)))

    def past(self) -> tuple[Epoch, ...]:
        """Return the epochs that were found."""
        return tuple(epoch for _, epoch in self.epochs)

    def through(self, connection: psycopg.Connection[Any]) -> None:
        after = {"number": self.ticks, "size": self._ticked}
        stored = connection.execute(_NODES, [self._ticked]).fetchall()
        nodes = {(level, index): bytes(node) for level, index, node in stored}
        ticks = _rows(connection, "ticks", _TICKS, after)
        heads = _rows(connection, "heads", _HEADS, after)
        tick, head = next(ticks, None), next(heads, None)
        extend = self.frontier.extend
        checkpoint = min(_size(tick, 4), _size(head, 0))
        for row in _rows(connection, "log", _LOG, after):
            if complete := extend((self._leaf(row),)):
                self._check_nodes(complete, nodes)
            if self.frontier.size in self._wanted:
                self.roots[self.frontier.size] = self.frontier.root()
            while self.frontier.size == checkpoint:
                if tick is not None and tick[4] == checkpoint:
                    self._check_tick(tick)
                    tick = next(ticks, None)
                    # Sizes grow from tick to tick; one that does not is met here, before it is skipped.
                    if tick is not None and tick[4] <= self.frontier.size:
                        raise _Bad(self.frontier.size + 1, f"Tick {tick[0]} does not grow the log")
                elif head is not None:
                    self._check_head(head)
                    head = next(heads, None)
                checkpoint = min(_size(tick, 4), _size(head, 0))
        self._check_end(tick, head)
        if nodes:
            level, index = min(nodes, key=lambda node: node[1] << node[0])
            size = self.frontier.size
            raise _Bad(
                size + 1, f"The log ends at position {size}, node {index} of level {level} is beyond it"
            )

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
        if event[3] in _HEARD:
            self._hear(position, event[3], event[12])
        return computed

    def _check_tick(self, tick: tuple[Any, ...]) -> None:
        number, epoch, cluster, snapshot, size, root, chain, ticked_at, peaks = tick
        first = self._ticked + 1
        if not self.epochs or epoch != self.epochs[-1][0]:
            self._begin_epoch(epoch, chain, number, size)
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

    def _hear(self, position: int, type_name: str, data: bytes) -> None:
        event = json.loads(data)
        if type_name == SigningKeyRotated.type_name:
            self.trust.hear(position, event)
        else:
            self._restores[position] = event["position"]

    def _begin_epoch(self, epoch: int, chain: bytes, number: int, size: int) -> None:
        if self.epochs and epoch < self.epochs[-1][0]:
            raise _Bad(self._ticked + 1, f"Tick {number} goes back to epoch {epoch}")
        # A restore is recorded in the epoch's first tick, and names where the backup ended.
        told = any(self._restores.get(at) == self._ticked for at in range(self._ticked + 1, size + 1))
        self.epochs.append((epoch, Epoch(epoch_name(epoch, bytes(chain)), self._ticked, restored=told)))

    def _check_nodes(self, complete: Sequence[Node], nodes: dict[tuple[int, int], bytes]) -> None:
        for level, index, computed in complete:
            if nodes.pop((level, index), computed) != computed:
                first = (index << level) + 1
                raise _Bad(
                    first, f"The stored node over positions {first} to {self.frontier.size} is not theirs"
                )

    def _check_head(self, head: tuple[Any, ...]) -> None:
        size, root, note = head
        what = f"The signed tree head of size {size}"
        if root != self.frontier.root():
            raise _Bad(self._ticked + 1, f"{what} has another root")
        try:
            checkpoint = self.trust.check(note)
        except (NoteMalformed, SignatureWrong, SignerUnknown) as error:
            raise _Bad(self._ticked + 1, f"{what} is not good: {error.message}") from error
        if (checkpoint.size, checkpoint.root) != (size, bytes(root)):
            raise _Bad(self._ticked + 1, f"{what} has the note of another one")
        if not self.epochs or checkpoint.origin != f"{self.origin}/{self.epochs[-1][1].name}":
            raise _Bad(self._ticked + 1, f"{what} is of another log: {checkpoint.origin}")
        self.heads += 1

    def _check_end(self, tick: tuple[Any, ...] | None, head: tuple[Any, ...] | None) -> None:
        size = self.frontier.size
        if tick is not None:
            raise _Bad(size + 1, f"The log ends at position {size}, tick {tick[0]} went up to {tick[4]}")
        if head is not None:
            raise _Bad(size + 1, f"The log ends at position {size}, a signed tree head has {head[0]}")
        if size != self._ticked:
            raise _Bad(self._ticked + 1, f"Positions {self._ticked + 1} to {size} belong to no tick")


# Events that verifying itself has to know.
_HEARD = frozenset({SigningKeyRotated.type_name, InstallationRestored.type_name})


def _damaged(number: int, error: NoteMalformed) -> WitnessUnusable:
    """Return what a note that is none says: nothing of the log."""
    return WitnessUnusable(
        f"Head {number} of the witness was damaged or cut off, so that it says nothing of the log: "
        f"{error.message}. Give a whole copy of the file",
        field="witness",
    )


def _check_witness(walk: _Walk, witness: Sequence[Witnessed], trust: _Trust) -> int:
    """Check that the log continues every head of a witness; return how many there are.

    Heads of positions that a restore has given a second time are passed over, where the log tells of it.
    """
    for position, key, alone in walk.trust.took_over:
        trust.add(position, key, alone=alone)
    end, good = walk.frontier.size, 0
    bounds = _bounds(walk.epochs, end)
    for one in witness:
        what = f"Head {one.number} of the witness, of size {one.checkpoint.size},"
        try:
            trust.check(one.note)
        except NoteMalformed as error:
            raise _damaged(one.number, error) from error
        except (SignatureWrong, SignerUnknown) as error:
            raise _Bad(good + 1, f"{what} is not good: {error.message}") from error
        origin, _, name = one.checkpoint.origin.rpartition("/")
        if origin != walk.origin:
            raise _Bad(good + 1, f"{what} is of another log: {one.checkpoint.origin}")
        size = one.checkpoint.size
        if name in bounds and size <= bounds[name]:
            if walk.roots[size] != one.checkpoint.root:
                first = good + 1 if good < size else 1
                raise _Bad(
                    first,
                    f"{what} has another root: positions {first} to {size} are not those it was signed for",
                )
            good = max(good, size) if size <= end else good
            continue
        place = _replaced_by(walk.epochs, name)
        if place is None and name in bounds:
            raise _Bad(
                end + 1, f"{what} is beyond the log, which ends at position {end}: it was cut or rolled back"
            )
        if not place:
            raise _Bad(
                1 if place == 0 else end + 1,
                f"{what} is of epoch {name}, which this log never had: it was exchanged or rolled back",
            )
        epoch = walk.epochs[place][1]
        if not epoch.restored:
            raise _Bad(
                epoch.after + 1,
                f"{what} is of epoch {name}, which the log has left at position {epoch.after} without a "
                "record of a restore",
            )
        lost = max(size, epoch.lost_up_to or 0)
        walk.epochs[place] = (walk.epochs[place][0], replace(epoch, lost_up_to=lost))
        good = min(good, epoch.after)
    return len(witness)


def _bounds(epochs: Sequence[tuple[int, Epoch]], end: int) -> dict[str, int]:
    """Return the last position that the log has of each epoch."""
    ends = [*(epoch.after for _, epoch in epochs[1:]), end]
    return {epoch.name: last for (_, epoch), last in zip(epochs, ends, strict=False)}


def _replaced_by(epochs: Sequence[tuple[int, Epoch]], name: str) -> int | None:
    """Return which epoch of the log came in the place of what the log lacks of one; None for none."""
    number = epoch_of(f"/{name}")
    for place, (other, epoch) in enumerate(epochs):
        # Of the same number under another name: two restores of one backup, or another log altogether.
        if other > number or (other == number and epoch.name != name):
            return place
    return None


def _known_keys(connection: psycopg.Connection[Any]) -> list[VerifierKey]:
    rows = connection.execute("select verifier_key from signing_key").fetchall()
    known = []
    for (text,) in rows:
        try:
            known.append(VerifierKey.parse(text))
        except NoteMalformed:
            # Whoever wrote it there made no key known by it.
            continue
    return known


def _installation(connection: psycopg.Connection[Any]) -> UUID | None:
    row = connection.execute("select id from installation").fetchone()
    return None if row is None else UUID(str(row[0]))


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
