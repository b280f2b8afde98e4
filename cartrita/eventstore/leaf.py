"""Leaf v1: the hash under which an event stands in the Merkle tree (RFC 6962 domain separation)."""

from datetime import datetime
from hashlib import sha256
from uuid import UUID

import orjson

from cartrita.eventstore.canonical import rfc3339

LEAF_FORMAT = "cartrita.leaf.v1"


def leaf_v1(
    *,
    event_id: UUID,
    stream_id: UUID,
    version: int,
    type_name: str,
    schema_version: int,
    recorded_at: datetime,
    workspace_id: UUID,
    session_id: UUID | None,
    causation_id: UUID | None,
    actor: str,
    trace_id: str,
    key_id: UUID | None,
    data: bytes,
) -> bytes:
    """Return SHA-256(0x00 | canonical array of the fields in this order, `data` spliced in as stored).

    Leaves out `seq` and `xid`, which change when a backup is restored.
    """
    head = orjson.dumps(
        [
            LEAF_FORMAT,
            event_id,
            stream_id,
            version,
            type_name,
            schema_version,
            rfc3339(recorded_at),
            workspace_id,
            session_id,
            causation_id,
            actor,
            trace_id,
            key_id,
        ]
    )
    return sha256(b"\x00" + head[:-1] + b"," + data + b"]").digest()
