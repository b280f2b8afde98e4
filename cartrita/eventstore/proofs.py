"""Inclusion and consistency proofs of the Merkle tree (RFC 6962, section 2.1; RFC 9162, section 2.1.3). Pure.

What makes proofs needs no tree, only the roots of complete subtrees: `inclusion_parts` and
`consistency_parts` say which, as (level, index): the subtree of `2**level` leaves from leaf
`index * 2**level` on, (0, i) being leaf i. A leaf's index is its position - 1.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

from cartrita.errors import BadInput, NotFound
from cartrita.eventstore.merkle import HASH_BYTES, node_hash

INCLUSION_FORMAT = "cartrita.inclusion.v1"
CONSISTENCY_FORMAT = "cartrita.consistency.v1"

Subtree = tuple[int, int]
GetNode = Callable[[Subtree], bytes]

_HASH = re.compile(r"[0-9a-f]{64}")
# A tree of 2^63 leaves has no longer path.
_LONGEST_PATH = 64


class ProofOutOfRange(NotFound):
    """A proof is asked for of what the tree of that size does not hold."""

    code = "proof_out_of_range"


class ProofMalformed(BadInput):
    """A text is no proof in the expected format."""

    code = "proof_malformed"


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That the leaf at `position` (from 1) is in the tree of the first `size` positions."""

    position: int
    leaf: bytes
    size: int
    path: tuple[bytes, ...]

    def proves(self, root: bytes) -> bool:
        """Tell whether the tree with this root holds the leaf there."""
        return verify_inclusion(self.position - 1, self.size, self.leaf, self.path, root)

    def as_dict(self) -> dict[str, Any]:
        """Return the proof as JSON-compatible values."""
        return {
            "format": INCLUSION_FORMAT,
            "position": self.position,
            "leaf": self.leaf.hex(),
            "size": self.size,
            "path": [node.hex() for node in self.path],
        }

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Read what `as_dict` returned. Raises ProofMalformed."""
        fields = _fields(value, INCLUSION_FORMAT, ("position", "leaf", "size", "path"))
        return cls(
            position=_count(fields, "position"),
            leaf=_hash(fields["leaf"], "leaf"),
            size=_count(fields, "size"),
            path=_path(fields),
        )


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That the tree of the first `first` positions is the beginning of that of the first `second`."""

    first: int
    second: int
    path: tuple[bytes, ...]

    def proves(self, first_root: bytes, second_root: bytes) -> bool:
        """Tell whether the tree with the second root continues the one with the first."""
        return verify_consistency(self.first, self.second, self.path, first_root, second_root)

    def as_dict(self) -> dict[str, Any]:
        """Return the proof as JSON-compatible values."""
        return {
            "format": CONSISTENCY_FORMAT,
            "first": self.first,
            "second": self.second,
            "path": [node.hex() for node in self.path],
        }

    @classmethod
    def from_dict(cls, value: Any) -> Self:
        """Read what `as_dict` returned. Raises ProofMalformed."""
        fields = _fields(value, CONSISTENCY_FORMAT, ("first", "second", "path"))
        return cls(first=_count(fields, "first"), second=_count(fields, "second"), path=_path(fields))


@dataclass(frozen=True, slots=True)
class Part:
    """One hash of a proof: the root over adjoining complete subtrees, the left one the largest."""

    subtrees: tuple[Subtree, ...]

    def hash(self, node: GetNode) -> bytes:
        """Return the root over the subtrees."""
        return reduce(lambda right, left: node_hash(left, right), [node(one) for one in self.subtrees[::-1]])


def inclusion_parts(index: int, size: int) -> list[Part]:
    """Return what the audit path of leaf `index` in a tree of `size` leaves is made of, leaf to root.

    PATH of RFC 6962, section 2.1.1. Raises ProofOutOfRange.
    """
    if not 0 <= index < size:
        raise ProofOutOfRange(
            f"Position {index + 1} is not among the {size} positions of this tree: ask for one from 1 to "
            f"{size}, or name a larger size",
            field="position",
        )
    parts: list[Part] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _largest_power_below(end - start)
        if index < middle:
            parts.append(Part(complete_subtrees(middle, end)))
            end = middle
        else:
            parts.append(Part(complete_subtrees(start, middle)))
            start = middle
    return parts[::-1]


def consistency_parts(first: int, second: int) -> list[Part]:
    """Return what the proof is made of that a tree of `first` leaves begins one of `second`.

    PROOF of RFC 6962, section 2.1.2; empty for equal sizes. Raises ProofOutOfRange.
    """
    if not 0 < first <= second:
        raise ProofOutOfRange(
            f"There is no proof from size {first} to size {second}: name two sizes from 1 up, the smaller "
            "one first",
            field="first" if first < 1 else "second",
        )
    parts: list[Part] = []
    start, end, known = 0, second, True
    while first != end:
        middle = start + _largest_power_below(end - start)
        if first <= middle:
            parts.append(Part(complete_subtrees(middle, end)))
            end = middle
        else:
            parts.append(Part(complete_subtrees(start, middle)))
            start, known = middle, False
    if not known:
        parts.append(Part(complete_subtrees(start, end)))
    return parts[::-1]


def complete_subtrees(start: int, end: int) -> tuple[Subtree, ...]:
    """Return the complete subtrees that make up the leaves from `start` up to `end`, largest first.

    `start` is a multiple of the largest one's size, as it is wherever RFC 6962 splits a tree.
    """
    found: list[Subtree] = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return tuple(found)


def prove_inclusion(position: int, size: int, node: GetNode) -> InclusionProof:
    """Make the proof that a position is in the tree of the first `size` ones. Raises ProofOutOfRange."""
    parts = inclusion_parts(position - 1, size)
    return InclusionProof(position, node((0, position - 1)), size, tuple(part.hash(node) for part in parts))


def prove_consistency(first: int, second: int, node: GetNode) -> ConsistencyProof:
    """Make the proof that one tree continues another. Raises ProofOutOfRange."""
    parts = consistency_parts(first, second)
    return ConsistencyProof(first, second, tuple(part.hash(node) for part in parts))


def tree_root(size: int, node: GetNode) -> bytes:
    """Return the root of the tree of the first `size` leaves, of which there is at least one."""
    return Part(complete_subtrees(0, size)).hash(node)


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> bool:
    """Tell whether a path leads from leaf `index` to the root of `size` leaves (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    at, last, computed = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            computed = node_hash(step, computed)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            computed = node_hash(computed, step)
        at, last = at >> 1, last >> 1
    return last == 0 and computed == root


def verify_consistency(
    first: int, second: int, path: Sequence[bytes], first_root: bytes, second_root: bytes
) -> bool:
    """Tell whether a path joins the roots of `first` and `second` leaves (RFC 9162, 2.1.4.2)."""
    if not 0 < first <= second:
        return False
    if first == second:
        return not path and first_root == second_root
    if not path:
        return False
    steps: Iterator[bytes] = iter(path)
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    # A complete first tree is itself the first step, which the path leaves out.
    old = new = first_root if at == 0 else next(steps)
    for step in steps:
        if last == 0:
            return False
        if at & 1 or at == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, step)
        at, last = at >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root


def _largest_power_below(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def _fields(value: Any, form: str, names: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict) or value.get("format") != form:
        raise ProofMalformed(f"This is no proof: its format must be {form!r}", field="format")
    for name in names:
        if name not in value:
            raise ProofMalformed(f"The proof lacks {name!r}: take it as it was given out", field=name)
    return value


def _count(fields: Mapping[str, Any], name: str) -> int:
    value = fields[name]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**63:
        raise ProofMalformed(f"{name} must be a whole number from 1 up", field=name)
    return value


def _hash(value: Any, name: str) -> bytes:
    if not isinstance(value, str) or _HASH.fullmatch(value) is None:
        raise ProofMalformed(f"{name} must be {HASH_BYTES} bytes in lower-case hexadecimal", field=name)
    return bytes.fromhex(value)


def _path(fields: Mapping[str, Any]) -> tuple[bytes, ...]:
    path = fields["path"]
    if not isinstance(path, list) or len(path) > _LONGEST_PATH:
        raise ProofMalformed(f"path must be a list of at most {_LONGEST_PATH} hashes", field="path")
    return tuple(_hash(step, f"path[{at}]") for at, step in enumerate(path))
