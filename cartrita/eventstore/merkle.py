"""The Merkle tree over the log's leaves (RFC 6962, section 2.1), grown leaf by leaf."""

from collections.abc import Iterable
from hashlib import sha256

EMPTY_ROOT = sha256(b"").digest()
HASH_BYTES = 32
# Of the inner nodes those at every eighth level are stored, as C2SP tlog-tiles has it: one for 255 leaves.
# What lies between is computed of at most 256 of them, or of leaves.
STORED_LEVELS = 8
_LAST_OF_TILE = (1 << STORED_LEVELS) - 1

# Level, index in its level, hash: the root of the complete subtree over the 2^level leaves from
# index * 2^level on.
Node = tuple[int, int, bytes]


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node (RFC 6962: 0x01 | left | right)."""
    return sha256(b"\x01" + left + right).digest()


class Frontier:
    """The roots of the complete subtrees that make up a tree, largest first: all that growing it needs.

    `size` leaves are held as one hash for each bit set in `size`. Adding a leaf costs one hash on average and
    the root O(log size).
    """

    __slots__ = ("_peaks", "size")

    def __init__(self, size: int = 0, peaks: bytes = b"") -> None:
        if len(peaks) != size.bit_count() * HASH_BYTES:
            raise ValueError(
                f"a frontier of {size} leaves has {size.bit_count()} hashes of {HASH_BYTES} bytes"
            )
        self.size = size
        self._peaks = [peaks[at : at + HASH_BYTES] for at in range(0, len(peaks), HASH_BYTES)]

    def extend(self, leaves: Iterable[bytes]) -> list[Node]:
        """Add leaf hashes in the order of the log; return the nodes to store that became complete."""
        peaks, size = self._peaks, self.size
        complete: list[Node] = []
        for leaf in leaves:
            if size & _LAST_OF_TILE == _LAST_OF_TILE:
                _complete_tile(peaks, size, leaf, complete)
                size += 1
                continue
            peak, full = leaf, size
            while full & 1:
                peak = sha256(b"\x01" + peaks.pop() + peak).digest()
                full >>= 1
            peaks.append(peak)
            size += 1
        self.size = size
        return complete

    def root(self) -> bytes:
        """Return the tree's root hash; the hash of nothing for an empty tree."""
        if not self._peaks:
            return EMPTY_ROOT
        *rest, root = self._peaks
        for peak in reversed(rest):
            root = node_hash(peak, root)
        return root

    def peaks(self) -> bytes:
        """Return the subtree roots one after another, as the constructor takes them."""
        return b"".join(self._peaks)

    def copy(self) -> "Frontier":
        """Return a frontier that grows apart from this one."""
        return Frontier(self.size, self.peaks())


def _complete_tile(peaks: list[bytes], size: int, leaf: bytes, complete: list[Node]) -> None:
    """Add to `size` leaves the one that completes a subtree whose root is stored, maybe several."""
    peak, level = leaf, 0
    while size >> level & 1:
        peak = node_hash(peaks.pop(), peak)
        level += 1
        if level % STORED_LEVELS == 0:
            complete.append((level, size >> level, peak))
    peaks.append(peak)
