"""Reading the decisions of a workspace: which there are, in what order, and what the log says of each."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.types.numeric import Int8

from cartrita.eventstore import arrays, sealing
from cartrita.eventstore.aio import connection_parameters
from cartrita.eventstore.store import execute
from governance.backtest.engine import Stored

Connection = psycopg.Connection[tuple[Any, ...]]

# So many decisions are read at once; with their rules' names and requests they fit a processor's cache.
BATCH = 200
FETCHED = 5000
UUID_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Which decisions are meant: a workspace's, up to a position of the log; recorded from `since` to before
    `until`, and of one session, where these are given.
    """

    workspace_id: UUID
    up_to: int
    since: datetime | None = None
    until: datetime | None = None
    session_id: UUID | None = None

    @property
    def condition(self) -> LiteralString:
        """The condition on `decision`, for `parameters`."""
        condition: LiteralString = "decision.workspace_id = %(workspace_id)s"
        if self.since is not None:
            condition += " and decision.created_at >= %(since)s"
        if self.until is not None:
            condition += " and decision.created_at < %(until)s"
        if self.session_id is not None:
            condition += " and decision.session_id = %(session_id)s"
        return condition

    @property
    def parameters(self) -> Mapping[str, Any]:
        return {
            "workspace_id": self.workspace_id,
            "up_to": Int8(self.up_to),
            "since": self.since,
            "until": self.until,
            "session_id": self.session_id,
        }


@contextmanager
def own_connection() -> Iterator[Connection]:
    """Give a connection of its own, outside Django's."""
    parameters = {**connection_parameters(), "application_name": "cartrita-backtest"}
    with closing(psycopg.connect(**parameters, autocommit=True)) as connection:
        yield connection


def counted(connection: Connection, span: Span) -> dict[str, int]:
    """Return how many decisions the span has under each policy, by its hash: of all, ordered or not yet."""
    query: LiteralString = (
        "select policy_hash, count(*) from policy_decisions decision where "  # noqa: S608 - constants
        + span.condition
        + " group by policy_hash"
    )
    rows = connection.execute(query, span.parameters).fetchall()
    return {policy_hash: int(many) for policy_hash, many in rows}


def some_have_no_place(workspace_id: UUID) -> bool:
    """Tell whether decisions of a workspace are committed that the sequencer has not ordered yet."""
    return execute(_WITHOUT_PLACE, [workspace_id]).fetchone() is not None


def in_sessions(connection: Connection, span: Span) -> Iterator[list[tuple[bytes | None, bytes]]]:
    """Yield (session, decision) in some hundreds, session by session, in the log's order within each.

    Those of no session come first. Within a transaction of the connection.
    """
    yield from _planned(connection, span, "decision.session_id nulls first, log.position")


def in_time(connection: Connection, span: Span) -> Iterator[list[tuple[bytes | None, bytes]]]:
    """Yield (session, decision) in some hundreds, in the order in which they were decided."""
    yield from _planned(connection, span, "decision.created_at, log.position")


def read(decision_ids: bytes) -> list[Stored]:
    """Return decisions, in the order of their ids, which stand one after the other in the bytes."""
    return [*map(Stored._make, execute(_READ, [_uuids(decision_ids)]).fetchall())]


def ciphers(stored: Sequence[Stored]) -> Mapping[UUID, sealing.DataKeyCipher | None]:
    """Return the ciphers of the decisions' keys; an erased one is None or missing."""
    return sealing.ciphers({one.key_id for one in stored if one.key_id is not None})


def _planned(
    connection: Connection, span: Span, order: LiteralString
) -> Iterator[list[tuple[bytes | None, bytes]]]:
    query: LiteralString = (
        "select uuid_send(decision.session_id), uuid_send(decision.id) "
        "from policy_decisions decision "
        "join log on log.stream_id = decision.id and log.version = 1 "
        "where " + span.condition + " and log.position <= %(up_to)s order by " + order
    )
    with connection.transaction(), connection.cursor(name="back_test", binary=True) as cursor:
        cursor.execute(query, span.parameters)
        while rows := cursor.fetchmany(FETCHED):
            yield rows


def _uuids(decision_ids: bytes) -> Any:
    places = range(0, len(decision_ids), UUID_BYTES)
    return arrays.uuids([UUID(bytes=decision_ids[place : place + UUID_BYTES]) for place in places])


# Those that the last tick saw have their places, unless it spoke of another cluster's transactions.
_WITHOUT_PLACE: LiteralString = """
    select from event where type = 'governance.DecisionMade' and workspace_id = %b::uuid
    and xid >= coalesce((
        select case when cluster = (select system_identifier from pg_control_system())
            then pg_snapshot_xmin(snapshot) end
        from tick order by number desc limit 1
    ), '0')
    and not exists (select from log where log.stream_id = event.stream_id and log.version = event.version)
    limit 1
"""
_READ: LiteralString = """
    select log.position, event.stream_id, event.session_id, event.type, event.schema_version, event.key_id,
        event.data, decision.act_tokens, decision.act_cost_micros, nullif(decision.act_currency, '')
    from unnest(%b::uuid[]) with ordinality as wanted (id, place)
    join event on event.stream_id = wanted.id and event.version = 1
    join log on log.stream_id = wanted.id and log.version = 1
    left join policy_decisions decision on decision.id = wanted.id
    order by wanted.place
"""
