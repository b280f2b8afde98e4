"""Reading the one ordered log, and streams from asyncio."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, LiteralString
from uuid import UUID

import psycopg

from cartrita.errors import CartritaError
from cartrita.eventstore import codec, sealing, store
from cartrita.eventstore.aio import async_pool, in_database_thread
from cartrita.eventstore.codec import Row
from cartrita.eventstore.rows import COLUMNS
from cartrita.eventstore.sealing import DataKeyCipher
from cartrita.eventstore.types import RecordedEvent

AsyncConnection = psycopg.AsyncConnection[Any]

_LOG: LiteralString = f"select log.position, {COLUMNS} from log join event using (stream_id, version)"  # noqa: S608 - constants
_STREAM = f"""
    select log.position, {COLUMNS} from event left join log using (stream_id, version)
    where stream_id = %s and version > %s and version <= %s order by version
"""  # noqa: S608 - a constant list of columns
_LAST_VERSION = 2**31 - 1
# A loose index scan would be quicker; this is asked once per process.
_EPOCH = """
    select epoch, chain from tick where epoch = (select epoch from tick order by number desc limit 1)
    order by number limit 1
"""


class LogNotContiguous(CartritaError):
    """Positions are missing from the log, or their events are: it was altered."""

    code = "log_not_contiguous"
    status = 500


def read_log(
    *, after: int, limit: int = 500, session_id: UUID | None = None, workspace_id: UUID | None = None
) -> list[RecordedEvent]:
    """Return the events after a position in log order: all of them, or one session's or workspace's.

    Unreadable stands for one that this version cannot read. Raises LogNotContiguous when the log has a gap.
    """
    query, parameters = _query(after, limit, session_id, workspace_id)
    events = store.read_rows(query, parameters, decode=codec.decode_or_stand_in)
    _check_order(events, after, whole=session_id is None and workspace_id is None)
    return events


def read_session_of(
    any_id: UUID, *, or_else: LiteralString, parameters: Sequence[Any]
) -> list[RecordedEvent]:
    """Return the ordered events of the session that a stream belongs to, by one query; as `read_log`.

    `or_else` is a select, with `parameters`, of the session's id for what is no stream.
    """
    of_stream: LiteralString = "(select session_id from event where stream_id = %b and version = 1)"
    query = f"{_LOG} where log.session_id = coalesce({of_stream}, ({or_else})) order by log.position"
    return store.read_rows(query, [any_id, *parameters], decode=codec.decode_or_stand_in)


async def aread_log(
    *, after: int, limit: int = 500, session_id: UUID | None = None, workspace_id: UUID | None = None
) -> list[RecordedEvent]:
    """Return what `read_log` returns, from asyncio."""
    async with async_pool().connection() as connection:
        return await read_from(
            connection, after=after, limit=limit, session_id=session_id, workspace_id=workspace_id
        )


async def aread_feed(
    after: int, limit: int = 500, *, session_id: UUID | None = None, workspace_id: UUID | None = None
) -> list[tuple[int, RecordedEvent]]:
    """Return the events of a feed after a position, each with the position before it in the same feed.

    That is 0 for a feed's first event. Who holds an event can so tell whether the next one follows it.
    """
    async with async_pool().connection() as connection:
        events = await read_from(
            connection, after=after, limit=limit, session_id=session_id, workspace_id=workspace_id
        )
        if not events:
            return []
        where, parameters = _feed(session_id, workspace_id)
        cursor = await connection.execute(
            f"select coalesce(max(position), 0) from log where position <= %s {where}",  # noqa: S608 - constants
            [after, *parameters],
        )
        before = int((await _only(cursor))[0])
    positions = [before, *(recorded.position or 0 for recorded in events)]
    return list(zip(positions, events, strict=False))


def head() -> int:
    """Return the last position of the log, 0 when it is empty."""
    row = store.execute("select coalesce(max(position), 0) from log", []).fetchone()
    return int(row[0]) if row else 0


async def ahead() -> int:
    """Return what `head` returns, from asyncio."""
    async with async_pool().connection() as connection:
        cursor = await connection.execute("select coalesce(max(position), 0) from log")
        return int((await _only(cursor))[0])


async def aepoch() -> str:
    """Return the name of the log's epoch, "" before its first tick.

    A position says nothing in another epoch than its own: a restore gives those after the backup anew. The
    name holds the epoch's first link, so that no two restores of a backup share one.
    """
    async with async_pool().connection() as connection:
        cursor = await connection.execute(_EPOCH)
        row = await cursor.fetchone()
    return f"{row[0]}-{bytes(row[1])[:8].hex()}" if row else ""


async def aload(
    stream_id: UUID, *, after_version: int = 0, up_to_version: int | None = None
) -> list[RecordedEvent]:
    """Return a stream's events in order, from asyncio; empty for a stream that does not exist."""
    async with async_pool().connection() as connection:
        return await load_from(
            connection, stream_id, after_version=after_version, up_to_version=up_to_version
        )


async def read_from(
    connection: AsyncConnection,
    *,
    after: int,
    limit: int,
    session_id: UUID | None = None,
    workspace_id: UUID | None = None,
) -> list[RecordedEvent]:
    """Read the log on the given connection; as `read_log`."""
    query, parameters = _query(after, limit, session_id, workspace_id)
    events = await _fetch(connection, query, parameters, codec.decode_or_stand_in)
    _check_order(events, after, whole=session_id is None and workspace_id is None)
    return events


async def load_from(
    connection: AsyncConnection, stream_id: UUID, *, after_version: int = 0, up_to_version: int | None = None
) -> list[RecordedEvent]:
    """Load a stream on the given connection; as `aload`."""
    last = _LAST_VERSION if up_to_version is None else up_to_version
    return await _fetch(connection, _STREAM, [stream_id, after_version, last])


async def aciphers(key_ids: Iterable[UUID]) -> dict[UUID, DataKeyCipher | None]:
    """Return the ciphers of data keys, None for an erased one; an unknown id is absent."""
    found, missing = sealing.cached_ciphers(key_ids)
    if missing:
        found.update(await in_database_thread(sealing.ciphers, missing))
    return found


async def _fetch(
    connection: AsyncConnection, query: str, parameters: Sequence[Any], decode: codec.Decode = codec.decode
) -> list[RecordedEvent]:
    async with connection.cursor(binary=True) as cursor:
        await cursor.execute(query, parameters)
        rows: list[Row] = await cursor.fetchall()
    keys = {row[codec.KEY_COLUMN] for row in rows if row[codec.KEY_COLUMN] is not None}
    ciphers = await aciphers(keys) if keys else {}
    return [decode(row, ciphers) for row in rows]


def _query(
    after: int, limit: int, session_id: UUID | None, workspace_id: UUID | None
) -> tuple[str, list[object]]:
    where, parameters = _feed(session_id, workspace_id)
    query = f"{_LOG} where log.position > %s {where} order by log.position limit %s"
    return query, [after, *parameters, limit]


def _feed(session_id: UUID | None, workspace_id: UUID | None) -> tuple[str, list[object]]:
    where, parameters = "", list[object]()
    if session_id is not None:
        where += " and log.session_id = %s"
        parameters.append(session_id)
    if workspace_id is not None:
        where += " and log.workspace_id = %s"
        parameters.append(workspace_id)
    return where, parameters


def _check_order(events: Sequence[RecordedEvent], after: int, *, whole: bool) -> None:
    positions = [after, *(recorded.position or 0 for recorded in events)]
    for before, position in pairwise(positions):
        if position <= before or (whole and position != before + 1):
            raise LogNotContiguous(
                f"The log goes from position {before} to {position}: run `manage.py verify_log`",
                position=before + 1,
            )


async def _only(cursor: psycopg.AsyncCursor[Any]) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = await cursor.fetchone()
    if row is None:
        raise RuntimeError("an aggregate always has a row")
    return row
