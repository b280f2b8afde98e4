"""Looking into the log: the events that fit a filter, as they are stored, now and as they come.

Nothing is decoded into its class here, so an event that this version cannot read is shown like any other.
"""

import logging
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, LiteralString
from uuid import UUID

import orjson
import psycopg
from django.db import InterfaceError, OperationalError, connection

from cartrita.errors import BadInput
from cartrita.eventstore import codec, registry, sealing
from cartrita.eventstore.aio import connection_parameters
from cartrita.eventstore.as_of import ERASED_SHOWN, SEALED_SHOWN
from cartrita.eventstore.catch_up import log_head
from cartrita.eventstore.codec import KEY_COLUMN, Row
from cartrita.eventstore.fields import SEALED_JSON, SEALED_PREFIX
from cartrita.eventstore.rows import COLUMNS
from cartrita.eventstore.store import execute
from cartrita.eventstore.wake import LOG_CHANNEL

logger = logging.getLogger(__name__)

PAGE = 500
# What is shown in the place of what somebody altered.
ALTERED_SHOWN = "<altered>"
# How long nothing is heard before the log is looked at anyway.
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which events: all that is given must fit. `types` are stored type names, any of them."""

    types: tuple[str, ...] = ()
    stream_id: UUID | None = None
    session_id: UUID | None = None
    workspace_id: UUID | None = None
    causation_id: UUID | None = None
    actor: str | None = None
    trace_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An event as it is stored. `data` has words in the place of `sealed` fields that are not opened."""

    position: int
    event_id: UUID
    type: str
    schema_version: int
    recorded_at: datetime
    stream_id: UUID
    version: int
    workspace_id: UUID
    session_id: UUID | None
    causation_id: UUID | None
    actor: str
    trace_id: str
    sealed: tuple[str, ...]
    erased: bool
    data: Mapping[str, Any]

    def as_json(self) -> bytes:
        """Return the event as one line of JSON."""
        return orjson.dumps(self, option=orjson.OPT_UTC_Z)


def stored_types(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the stored type names that are asked for, `*` standing for any text (`sessions_app.*`).

    Raises BadInput for what is no type that this version knows and none of a stored event.
    """
    known = registry.stored_names(registry.all_event_classes())
    found: dict[str, None] = {}
    for pattern in patterns:
        names = [name for name in known if fnmatchcase(name, pattern)]
        if not names and "*" not in pattern and execute(_HAS_TYPE, [pattern]).fetchone():
            names = [pattern]
        if not names:
            close = get_close_matches(pattern, known, n=3, cutoff=0.4)
            near = f"Did you mean {' or '.join(close)}? " if close else ""
            raise BadInput(
                f"There is no event type {pattern!r}. {near}The types are: {', '.join(known)}.", field="type"
            )
        found |= dict.fromkeys(names)
    return tuple(found)


def read_matching(
    wanted: Wanted, *, after: int, until: int, limit: int = PAGE, unseal: bool = False
) -> list[Entry]:
    """Return the first events after a position and up to another one that fit, in the order of the log."""
    return entries(_select(wanted, after, until, limit, newest=False), unseal=unseal)


def read_last(wanted: Wanted, *, count: int, after: int = 0, until: int, unseal: bool = False) -> list[Entry]:
    """Return the last `count` events up to a position that fit, in the order of the log."""
    return entries(_select(wanted, after, until, count, newest=True)[::-1], unseal=unseal)


def follow_matching(wanted: Wanted, *, after: int, unseal: bool = False) -> Iterator[list[Entry]]:
    """Yield the events after a position that fit, then those that come; never ends by itself.

    Yields an empty list now and then while nothing comes, so that the caller can look around. Survives losing
    the database.
    """
    failures = 0
    while True:
        try:
            parameters = {**connection_parameters(), "application_name": "cartrita list_events"}
            with psycopg.connect(**parameters, autocommit=True) as ear:
                # Listening comes before reading, so that no tick falls between.
                ear.execute(f"listen {LOG_CHANNEL}")
                while True:
                    head = log_head()
                    if head < after:
                        logger.warning("The log ends at position %d now: a backup was restored", head)
                        after = head
                    while after < head:
                        found = read_matching(wanted, after=after, until=head, unseal=unseal)
                        after = found[-1].position if len(found) == PAGE else head
                        yield found
                    failures = 0
                    yield []
                    for _ in ear.notifies(timeout=POLL_SECONDS, stop_after=1):
                        pass
        except (psycopg.OperationalError, OperationalError, InterfaceError) as error:
            failures += 1
            logger.warning("The database is away, it is asked again: %s", str(error).strip())
            # What broke is made anew by the next query.
            connection.close()
        yield []
        time.sleep(random.uniform(0.5, 1) * min(5.0, 0.2 * 2 ** min(failures, 10)))


def entries(rows: Sequence[Row], *, unseal: bool) -> list[Entry]:
    """Return stored rows (position, *codec.COLUMNS) as they are shown; text is opened only with `unseal`."""
    key_ids = {row[KEY_COLUMN] for row in rows if row[KEY_COLUMN] is not None}
    standing = {row[0] for row in execute(_STANDING, [list(key_ids)]).fetchall()} if key_ids else set()
    ciphers = sealing.ciphers(standing) if unseal else {}
    return [_entry(row, key_stands=row[KEY_COLUMN] in standing, ciphers=ciphers) for row in rows]


def _select(wanted: Wanted, after: int, until: int, limit: int, *, newest: bool) -> list[Row]:
    conditions: list[tuple[LiteralString, Any]] = [
        (" and event.type = any(%b::text[])", list(wanted.types) or None),
        (" and log.stream_id = %b", wanted.stream_id),
        (" and log.session_id = %b", wanted.session_id),
        (" and log.workspace_id = %b", wanted.workspace_id),
        (" and event.causation_id = %b", wanted.causation_id),
        (" and event.actor = %b", wanted.actor),
        (" and event.trace_id = %b", wanted.trace_id),
    ]
    where: LiteralString = ""
    parameters: list[Any] = [after, until]
    for condition, value in conditions:
        if value is not None:
            where += condition
            parameters.append(value)
    order: LiteralString = " order by log.position desc limit %b" if newest else _FORWARD
    return execute(_EVENTS + where + order, [*parameters, limit]).fetchall()


def _entry(row: Row, *, key_stands: bool, ciphers: codec.Ciphers) -> Entry:
    position, stream_id, version, event_id, type_name, schema_version = row[:6]
    recorded_at, workspace_id, session_id, causation_id, actor, trace_id, key_id, stored = row[6:14]
    data, sealed = _data(bytes(stored)), []
    for name, value in data.items():
        if isinstance(value, str) and value.startswith(SEALED_PREFIX):
            sealed.append(name)
            data[name] = SEALED_SHOWN if key_stands else ERASED_SHOWN
            if (cipher := ciphers.get(key_id)) is not None:
                data[name] = _opened(value, cipher)
    return Entry(
        position=position,
        event_id=event_id,
        type=type_name,
        schema_version=schema_version,
        recorded_at=recorded_at.astimezone(UTC),
        stream_id=stream_id,
        version=version,
        workspace_id=workspace_id,
        session_id=session_id,
        causation_id=causation_id,
        actor=actor,
        trace_id=trace_id,
        sealed=tuple(sealed),
        erased=bool(sealed) and not key_stands,
        data=data,
    )


def _opened(token: str, cipher: sealing.DataKeyCipher) -> Any:
    try:
        plain = cipher.unseal(token)
    except sealing.SealBroken:
        return ALTERED_SHOWN
    return orjson.loads(plain) if token.endswith(SEALED_JSON) else plain


def _data(stored: bytes) -> dict[str, Any]:
    """Return the fields of a stored event; what is none, because the row was altered, under one name."""
    try:
        fields = orjson.loads(stored)
    except orjson.JSONDecodeError:
        return {ALTERED_SHOWN: stored.decode(errors="replace")}
    return fields if isinstance(fields, dict) else {ALTERED_SHOWN: fields}


_EVENTS: LiteralString = (
    "select log.position, " + COLUMNS + " from log join event using (stream_id, version) "  # noqa: S608
    "where log.position > %b::bigint and log.position <= %b::bigint"
)
_FORWARD: LiteralString = " order by log.position limit %b"
_HAS_TYPE: LiteralString = "select 1 from event where type = %b limit 1"
_STANDING: LiteralString = (
    "select key_id from data_key join subject_key using (subject_id) where key_id = any(%b::uuid[]) "
    "and data_key.wrapped is not null and subject_key.wrapped is not null"
)
