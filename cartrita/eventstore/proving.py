"""Proofs of what stands in the log, to tree heads that were signed: for commands and requests."""

from typing import ClassVar, LiteralString
from uuid import UUID

from cartrita.errors import BadInput, NotFound
from cartrita.eventstore import store
from cartrita.eventstore.heads import HeadMissing, SignedHead, latest_head, log_size
from cartrita.eventstore.nodes import StoredTree
from cartrita.eventstore.proofs import ConsistencyProof, InclusionProof, ProofOutOfRange

LARGEST_POSITION = 2**53 - 1

# By the blocks that may hold the id (docs/decisions/0018): milliseconds for each million of events.
_POSITION_OF: LiteralString = (
    "select log.position from event left join log using (stream_id, version) "
    "where event_id = %b::uuid limit 1"
)
_HEAD_OF: LiteralString = "select size, root, note, signed_at from tree_head where size = %b::int8"


class EventMissing(NotFound):
    """No event stands at that position, or has that id."""

    code: ClassVar[str] = "event_missing"


class NotOrderedYet(NotFound):
    """An event is stored and has no position yet."""

    code: ClassVar[str] = "not_ordered_yet"


def position_of(event_id: UUID) -> int:
    """Return an event's position. Raises EventMissing, NotOrderedYet."""
    row = store.execute(_POSITION_OF, [event_id]).fetchone()
    if row is None:
        raise EventMissing(f"No event has the id {event_id}", field="event")
    if row[0] is None:
        raise NotOrderedYet(f"Event {event_id} has no position yet: ask again in a second", field="event")
    return int(row[0])


def signed_head(size: int | None = None) -> SignedHead:
    """Return the newest signed head, or that of a size. Raises HeadMissing."""
    if size is None:
        head = latest_head()
        if head is None:
            raise HeadMissing("No tree head is signed yet: `manage.py doctor` says why, where none comes")
        return head
    row = store.execute(_HEAD_OF, [size]).fetchone()
    if row is None:
        raise HeadMissing(f"No tree head of {size} positions was signed", field="size")
    return SignedHead(int(row[0]), bytes(row[1]), row[2], row[3])


def prove_position(position: int, size: int | None = None) -> InclusionProof:
    """Prove that a position is in the tree of a size, by default that of the newest signed head.

    Raises HeadMissing, ProofOutOfRange, LogNotContiguous.
    """
    if size is None:
        head = signed_head()
        if head.size < position <= log_size():
            raise HeadMissing(f"No signed tree head holds position {position} yet: ask again in a second")
        size = head.size
    _check_size("size", size)
    return StoredTree().inclusion(position, size)


def prove_growth(first: int, second: int | None = None) -> ConsistencyProof:
    """Prove that the tree of `second` positions, by default of the newest signed head, continues `first`.

    Raises HeadMissing, ProofOutOfRange, LogNotContiguous.
    """
    second = signed_head().size if second is None else second
    _check_size("second", second)
    return StoredTree().consistency(first, second)


def whole_number(field: str, text: str) -> int:
    """Return a number from 1 up that a text is. Raises BadInput, which names the field."""
    if text.isascii() and text.isdecimal() and len(text) <= 16 and 0 < int(text) <= LARGEST_POSITION:
        return int(text)
    raise BadInput(f"{field} must be a whole number from 1 to {LARGEST_POSITION}", field=field)


def _check_size(field: str, size: int) -> None:
    if size > (largest := log_size()):
        raise ProofOutOfRange(f"The log has {largest} positions: name a {field} up to that", field=field)
