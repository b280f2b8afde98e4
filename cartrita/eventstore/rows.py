"""Rows of `event` as the log's readers, writers and hashers take them: (*codec.COLUMNS)."""

from collections.abc import Sequence
from typing import Any

from cartrita.eventstore import arrays, codec
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


def as_arrays(rows: Sequence[Row]) -> list[Any]:
    """Return rows as one array parameter for each of `codec.COLUMNS`, in that order."""
    return [pack(column) for pack, column in zip(_PACKERS, zip(*rows, strict=True), strict=True)]


def as_values(row: Row) -> list[bytes | None]:
    """Return a row as the server's binary values, in the order of `codec.COLUMNS`."""
    (
        stream_id, version, event_id, type_name, schema_version, recorded_at, workspace_id, session_id,
        causation_id, actor, trace_id, key_id, data,
    ) = row  # fmt: skip
    return [
        stream_id.bytes,
        version.to_bytes(4, "big"),
        event_id.bytes,
        type_name.encode(),
        schema_version.to_bytes(2, "big"),
        arrays.time(recorded_at),
        workspace_id.bytes,
        session_id and session_id.bytes,
        causation_id and causation_id.bytes,
        actor.encode(),
        trace_id.encode(),
        key_id and key_id.bytes,
        data,
    ]


# In the order of `codec.COLUMNS`.
_PACKERS: tuple[Any, ...] = (
    arrays.uuids,
    arrays.integers4,
    arrays.uuids,
    arrays.texts,
    arrays.integers2,
    arrays.times,
    arrays.uuids,
    arrays.uuids,
    arrays.uuids,
    arrays.texts,
    arrays.texts,
    arrays.uuids,
    arrays.byteas,
)
