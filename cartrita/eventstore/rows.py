"""Rows of `event` as the log's readers and hashers take them: (*codec.COLUMNS)."""

from cartrita.eventstore import codec
from cartrita.eventstore.codec import Row
from cartrita.eventstore.leaf import leaf_v1

COLUMNS = ", ".join(f"event.{name}" for name in codec.COLUMNS)


def leaf_of(row: Row) -> bytes:
    """Return the leaf hash of a stored row."""
    return leaf_v1(
        stream_id=row[0],
        version=row[1],
        event_id=row[2],
        type_name=row[3],
        schema_version=row[4],
        recorded_at=row[5],
        workspace_id=row[6],
        session_id=row[7],
        causation_id=row[8],
        actor=row[9],
        trace_id=row[10],
        key_id=row[11],
        data=row[12],
    )
