"""An event that names a blob holds it: it is stored only beside the blob, which is never removed after.

Whoever appends locks the blobs that its events name until its transaction ends; `collection.py`, which
removes what nothing names, passes locked ones by.
"""

from collections.abc import Iterable
from typing import ClassVar, LiteralString

from cartrita.errors import BadInput, Conflict
from cartrita.eventstore.types import Event, RecordedEvent


class BlobGone(Conflict):
    """An event names a blob that is not stored (any more): put it again, then record the event."""

    code: ClassVar[str] = "blob_gone"

    def __init__(self, missing: Iterable[bytes]) -> None:
        names = ", ".join(sorted(digest.hex() for digest in missing))
        super().__init__(
            f"The event names a blob that is not stored: {names}. Store it with put_blob, in the same "
            "transaction or at most a day before the event",
            field="events",
        )


def named_by(rows: Iterable[RecordedEvent]) -> list[bytes]:
    """Return the digests of the blobs that these events say they name, each once, in order.

    Raises BadInput for a name that is no hexadecimal SHA-256.
    """
    # Most types name none: a look at the class saves a call for each of their events.
    naming = [row.event for row in rows if type(row.event).named_blobs is not Event.named_blobs]
    if not naming:
        return []
    names = {name for event in naming for name in event.named_blobs() if name}
    try:
        return sorted(bytes.fromhex(name) for name in names)
    except ValueError:
        raise BadInput("A blob is named by the SHA-256 in hexadecimal digits", field="events") from None


# Shared by all who name a blob, and not with who would remove it.
HOLD: LiteralString = "select sha256 from blob where sha256 = any(%b::bytea[]) order by sha256 for key share"
