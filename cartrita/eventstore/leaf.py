"""Leaf v1: the hash under which an event stands in the Merkle tree (RFC 6962 domain separation)."""

from datetime import datetime
from hashlib import sha256
from typing import LiteralString
from uuid import UUID

import orjson

from cartrita.eventstore.canonical import rfc3339

LEAF_FORMAT = "cartrita.leaf.v1"

# `leaf_v1` over the columns of `event`, for the sequencer: it needs nothing else of an event, and would spend
# most of its time on reading it. Whoever verifies the log does it by `leaf_v1`.
LEAF_V1_SQL: LiteralString = """
    sha256('\\x00'::bytea || convert_to(
        '["cartrita.leaf.v1","' || event_id::text || '","' || stream_id::text || '",' || version::text
        || ',' || to_json(type)::text || ',' || schema_version::text || ',"'
        || to_char(recorded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        || '","' || workspace_id::text || '",' || coalesce('"' || session_id::text || '"', 'null')
        || ',' || coalesce('"' || causation_id::text || '"', 'null')
        || ',' || to_json(actor)::text || ',' || to_json(trace_id)::text
        || ',' || coalesce('"' || key_id::text || '"', 'null') || ',', 'UTF8') || data || ']'::bytea)
"""


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
