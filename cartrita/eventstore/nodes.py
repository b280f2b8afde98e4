"""The Merkle tree as it is stored: leaves in `log`, every eighth level above them in `merkle_node`.

The sequencer writes a node in the tick that completes its subtree. Where nodes are missing (a log that is
older than their table) they are computed of what lies below; `fill_nodes` stores them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg.types.numeric import Int2

from cartrita.eventstore import arrays, store
from cartrita.eventstore.log import LogNotContiguous
from cartrita.eventstore.merkle import STORED_LEVELS, Node, node_hash
from cartrita.eventstore.proofs import (
    ConsistencyProof,
    GetNode,
    InclusionProof,
    Part,
    Subtree,
    complete_subtrees,
    consistency_parts,
    inclusion_parts,
    prove_consistency,
    prove_inclusion,
    tree_root,
)

T = TypeVar("T")
Execute = Callable[[LiteralString, Sequence[Any]], psycopg.Cursor[Any]]
# Indexes of a level, the last one included.
_Range = tuple[int, int]

# So many missing nodes are computed at once: of at most 64 Ki hashes below them.
_MISSING_AT_ONCE = 256

_LEAVES: LiteralString = """
    select position - 1, leaf from unnest(%b::int8[], %b::int8[]) as wanted (first, last)
    join log on position between first + 1 and last + 1
"""
_NODES: LiteralString = """
    select index, hash from unnest(%b::int8[], %b::int8[]) as wanted (first, last)
    join merkle_node on level = %b::int2 and index between first and last
"""
_STORED: LiteralString = "select index from merkle_node where level = %b::int2 order by index"
_COUNT: LiteralString = "select count(*) from merkle_node where level = %b::int2"
INSERT_NODES: LiteralString = """
    insert into merkle_node (level, index, hash) select * from unnest(%b::int2[], %b::int8[], %b::bytea[])
    on conflict (level, index) do nothing
"""


class StoredTree:
    """Reads a tree in a few range reads. `execute` runs a statement, by default on Django's connection."""

    def __init__(self, execute: Execute = store.execute) -> None:
        self._execute = execute

    def inclusion(self, position: int, size: int) -> InclusionProof:
        """Prove that a position is in the tree of the first `size` ones.

        Raises ProofOutOfRange, LogNotContiguous where the log has not that many positions.
        """
        parts = inclusion_parts(position - 1, size)
        return prove_inclusion(position, size, self.getter([(0, position - 1), *_subtrees(parts)]))

    def consistency(self, first: int, second: int) -> ConsistencyProof:
        """Prove that the tree of `second` positions continues that of `first`; raises as `inclusion`."""
        return prove_consistency(first, second, self.getter(_subtrees(consistency_parts(first, second))))

    def root(self, size: int) -> bytes:
        """Return the root of the tree of the first `size` positions, of which there is at least one."""
        return tree_root(size, self.getter(complete_subtrees(0, size)))

    def getter(self, subtrees: Iterable[Subtree]) -> GetNode:
        """Read the roots of complete subtrees; return a function that gives each of them."""
        wanted = set(subtrees)
        ranges: dict[int, list[_Range]] = {}
        for level, index in wanted:
            stored = _stored_below(level)
            deeper = level - stored
            ranges.setdefault(stored, []).append((index << deeper, ((index + 1) << deeper) - 1))
        stored_nodes = {level: self._read(level, found) for level, found in ranges.items()}
        found = {subtree: _fold(stored_nodes, subtree) for subtree in wanted}
        return found.__getitem__

    def compute(self, level: int, indexes: Iterable[int]) -> Iterator[Node]:
        """Give nodes of a stored level, computed of what is stored below."""
        below = level - STORED_LEVELS
        for some in _batches(indexes):
            children = {
                below: self._read(
                    below,
                    [(index << STORED_LEVELS, ((index + 1) << STORED_LEVELS) - 1) for index in some],
                )
            }
            for index in some:
                yield level, index, _fold(children, (level, index))

    def _read(self, level: int, ranges: Sequence[_Range]) -> dict[int, bytes]:
        """Return the nodes of a stored level (0: the leaves) in these ranges, those missing computed."""
        columns = [arrays.integers8(column) for column in zip(*_joined(ranges), strict=True)]
        if level:
            rows = self._execute(_NODES, [*columns, Int2(level)]).fetchall()
        else:
            rows = self._execute(_LEAVES, columns).fetchall()
        found = {index: bytes(node) for index, node in rows}
        missing = [
            index for first, last in _joined(ranges) for index in range(first, last + 1) if index not in found
        ]
        if missing and not level:
            raise LogNotContiguous(
                f"Position {missing[0] + 1} is not in the log: run `manage.py verify_log`",
                position=missing[0] + 1,
            )
        found.update((index, node) for _, index, node in self.compute(level, missing))
        return found


def fill_nodes(size: int, execute: Execute = store.execute) -> int:
    """Store the nodes that a tree of `size` leaves lacks; return how many that were.

    Works beside the sequencer: what both write is the same.
    """
    tree = StoredTree(execute)
    filled = 0
    level = STORED_LEVELS
    while (complete := size >> level) > 0:
        counted = execute(_COUNT, [Int2(level)]).fetchone()
        if counted is None or counted[0] < complete:
            stored = {index for (index,) in execute(_STORED, [Int2(level)]).fetchall()}
            missing = [index for index in range(complete) if index not in stored]
            for nodes in _batches(tree.compute(level, missing)):
                execute(INSERT_NODES, node_columns(nodes))
                filled += len(nodes)
        level += STORED_LEVELS
    return filled


def node_columns(nodes: Sequence[Node]) -> list[Any]:
    """Return the columns of `merkle_node` as parameters."""
    return [
        arrays.integers2([level for level, _, _ in nodes]),
        arrays.integers8([index for _, index, _ in nodes]),
        arrays.byteas([node for _, _, node in nodes]),
    ]


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, _MISSING_AT_ONCE)):
        yield batch


def _subtrees(parts: Iterable[Part]) -> list[Subtree]:
    return [subtree for part in parts for subtree in part.subtrees]


def _stored_below(level: int) -> int:
    return level // STORED_LEVELS * STORED_LEVELS


def _fold(stored: Mapping[int, Mapping[int, bytes]], subtree: Subtree) -> bytes:
    """Compute a subtree's root of the nodes at the highest level in `stored` that is not above it."""
    level, index = subtree
    base = max(one for one in stored if one <= level)
    nodes = [stored[base][at] for at in range(index << level - base, (index + 1) << level - base)]
    while len(nodes) > 1:
        nodes = [node_hash(left, right) for left, right in zip(nodes[::2], nodes[1::2], strict=True)]
    return nodes[0]


def _joined(ranges: Iterable[_Range]) -> list[_Range]:
    """Return the ranges in order, those that overlap or adjoin as one."""
    joined: list[_Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined
