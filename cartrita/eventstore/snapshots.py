"""States of long streams, kept beside their events, so that a command folds only the last of them.

What is kept is a cache and never the truth: it is used where it is of the same code (`fold_version`) and of
an event that the stream has, and whatever else it is (damaged, of another stream, under a destroyed key) is
passed over and made anew. It is sealed under the key of the stream, so erasing that takes it along.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, LiteralString
from uuid import UUID

from django.db import transaction
from psycopg.types.numeric import Int4

from cartrita.eventstore import codec, sealing
from cartrita.eventstore.aggregates import Aggregate, Kept, State
from cartrita.eventstore.codec import KEY_COLUMN, Row
from cartrita.eventstore.rows import COLUMNS
from cartrita.eventstore.store import execute, execute_together
from cartrita.eventstore.types import RecordedEvent

logger = logging.getLogger(__name__)

# Folding fewer events costs less than to keep their state.
FIRST_AT = 500
# So many events are folded at most before their state is kept again.
EVERY = 100
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Loaded(Generic[State]):
    """A stream's state after `version` events, of which `last` is the last one, None where there is none.

    `key_ids` are the keys that seal what the state is made of.
    """

    state: State
    version: int
    last: RecordedEvent | None
    key_ids: frozenset[UUID]


class _Unfit(Exception):
    """What is kept is not of this stream, or was altered, or cannot be opened."""


def load_state(aggregate: Aggregate[State], stream_id: UUID) -> Loaded[State]:
    """Return the state of a stream as it is now: what `aggregate.fold` makes of all its events.

    Raises what reading the events raises.
    """
    kept = aggregate.kept
    if kept is None:
        return _folded(aggregate, _decode(execute(_ALL, [stream_id]).fetchall()))
    key = [stream_id, aggregate.name, kept.fold_version]
    found, rows = execute_together((_SNAPSHOT, key), (_TAIL, [*key, stream_id]))
    snapshot = found.fetchone()
    events = _decode(rows.fetchall())
    if snapshot is None:
        loaded = _folded(aggregate, events)
        since = 0
    else:
        try:
            loaded = _extended(aggregate, kept, stream_id, snapshot, events)
            since = snapshot[0]
        except _Unfit as error:
            logger.warning("The kept state of stream %s is passed over: %s", stream_id, error)
            loaded = _folded(aggregate, _decode(execute(_ALL, [stream_id]).fetchall()))
            since = 0
    if loaded.version >= FIRST_AT and loaded.version - since >= EVERY:
        # After the commit: its lock lasts no longer than the statement, and what fails loses nothing.
        transaction.on_commit(lambda: keep(aggregate, loaded), robust=True)
    return loaded


def keep(aggregate: Aggregate[State], loaded: Loaded[State]) -> None:
    """Keep a state in the place of an older one; nothing where its key is destroyed, or where it has several.

    What several keys seal would have to be gone with each of them.
    """
    kept, last = aggregate.kept, loaded.last
    if kept is None or last is None or len(loaded.key_ids) > 1:
        return
    content = _header(aggregate.name, kept.fold_version, last.stream_id, last.version, last.event_id)
    content += kept.dump(loaded.state)
    key_id = next(iter(loaded.key_ids), None)
    if key_id is None:
        stored = hashlib.sha256(content).digest() + content
    else:
        cipher = sealing.ciphers([key_id]).get(key_id)
        if cipher is None:
            return
        stored = cipher.seal_blob(content)
    which = [last.stream_id, aggregate.name, kept.fold_version, Int4(last.version), last.event_id]
    execute(_KEEP, [*which, key_id, stored, key_id, key_id])


def _folded(aggregate: Aggregate[State], events: Sequence[RecordedEvent]) -> Loaded[State]:
    return Loaded(aggregate.fold(events), len(events), events[-1] if events else None, _keys(events))


def _keys(events: Sequence[RecordedEvent]) -> frozenset[UUID]:
    return frozenset(recorded.key_id for recorded in events if recorded.key_id is not None)


def _extended(
    aggregate: Aggregate[State],
    kept: Kept[State],
    stream_id: UUID,
    snapshot: Row,
    events: Sequence[RecordedEvent],
) -> Loaded[State]:
    """Return the state after the events that follow what was kept at the first of them. Raises _Unfit."""
    version, event_id, key_id, stored = snapshot
    if not events or events[0].version != version or events[0].event_id != event_id:
        raise _Unfit(f"it is of version {version} with event {event_id}, which the stream does not have")
    header = _header(aggregate.name, kept.fold_version, stream_id, version, event_id)
    content = _opened(bytes(stored), key_id)
    if not content.startswith(header):
        raise _Unfit("it is another stream's, or was altered")
    try:
        state = kept.restore(content[len(header) :])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise _Unfit(f"it does not restore ({type(error).__name__})") from error
    key_ids = _keys(events) | ({key_id} if key_id is not None else frozenset())
    return Loaded(kept.extend(state, events[1:]), events[-1].version, events[-1], key_ids)


def _opened(stored: bytes, key_id: UUID | None) -> bytes:
    if key_id is None:
        content = stored[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != stored[:_DIGEST_BYTES]:
            raise _Unfit("it was altered")
        return content
    cipher = sealing.ciphers([key_id]).get(key_id)
    if cipher is None:
        raise _Unfit("its key is destroyed")
    try:
        return cipher.unseal_blob(stored)
    except sealing.SealBroken as error:
        raise _Unfit("it was altered") from error


def _header(name: str, fold_version: str, stream_id: UUID, version: int, event_id: UUID) -> bytes:
    return f"{name} {fold_version} {stream_id} {version} {event_id}\n".encode()


def _decode(rows: Sequence[Row]) -> list[RecordedEvent]:
    ciphers = sealing.ciphers({row[KEY_COLUMN] for row in rows if row[KEY_COLUMN] is not None})
    return [codec.decode(row, ciphers) for row in rows]


_EVENTS: LiteralString = (
    "select log.position, " + COLUMNS + " from event left join log using (stream_id, version) "  # noqa: S608
)
_ALL: LiteralString = _EVENTS + "where stream_id = %b order by version"
_OF: LiteralString = " from aggregate_snapshot where stream_id = %b and aggregate = %b and fold_version = %b"
_SNAPSHOT: LiteralString = "select version, event_id, key_id, state" + _OF
# From the very event that the state was kept at: that it stands there shows that the state is of this stream.
_TAIL: LiteralString = (
    _EVENTS + "where version >= coalesce((select version" + _OF + "), 0) and stream_id = %b order by version"
)
_KEEP: LiteralString = (
    "insert into aggregate_snapshot as kept "
    "(stream_id, aggregate, fold_version, version, event_id, key_id, state) "
    "select %b, %b, %b, %b, %b::uuid, %b::uuid, %b::bytea where %b::uuid is null "
    "or exists (select from data_key where key_id = %b::uuid and wrapped is not null) "
    "on conflict (stream_id, aggregate) do update set fold_version = excluded.fold_version, "
    "version = excluded.version, event_id = excluded.event_id, key_id = excluded.key_id, "
    "state = excluded.state, taken_at = now() "
    "where kept.fold_version <> excluded.fold_version or kept.version < excluded.version"
)
