"""Append to streams and load them, on Django's connection."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Any, ClassVar, LiteralString
from uuid import UUID

import psycopg
from django.db import DEFAULT_DB_ALIAS, IntegrityError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg.pq.abc import PGresult
from psycopg.types.numeric import Int2, Int4

from cartrita.errors import CartritaError, Conflict
from cartrita.eventstore import codec, projections, registry, sealing, together
from cartrita.eventstore.arrays import booleans, byteas, integers2, texts, uuids
from cartrita.eventstore.codec import KEY_COLUMN, Row, row_of
from cartrita.eventstore.holding import HOLD, BlobGone, named_by
from cartrita.eventstore.prepared import Prepared
from cartrita.eventstore.rows import COLUMNS, as_arrays, as_values
from cartrita.eventstore.together import COMMIT, Command, Recurring
from cartrita.eventstore.types import Append, Event, RecordedEvent
from cartrita.eventstore.wake import wake_sequencer
from cartrita.telemetry import current_trace_id, statement_span


class StreamMoved(Conflict):
    """The stream is not at the version that the caller expected: load it again and decide again."""

    code: ClassVar[str] = "stream_moved"

    def __init__(self, *, stream_id: UUID, expected_version: int, actual_version: int) -> None:
        super().__init__(
            f"Stream {stream_id} is at version {actual_version}, not {expected_version}: "
            "load it and decide again",
            field="expected_version",
            stream_id=str(stream_id),
            expected_version=expected_version,
            actual_version=actual_version,
        )
        self.stream_id = stream_id
        self.expected_version = expected_version
        self.actual_version = actual_version


class EventIdReused(Conflict):
    """An event id stands in the stream already, for another event."""

    code: ClassVar[str] = "event_id_reused"


class Collision(CartritaError):
    """Events, the last of a transaction, met others in their place, and nothing of it was stored."""

    code: ClassVar[str] = "collision"
    status: ClassVar[int] = 409

    def __init__(self, appends: Sequence[Append]) -> None:
        super().__init__("Other events stand where these should")
        self._appends = appends

    def resolve(self) -> None:
        """Return where these very events stand already; else raise what `append` does. After the rollback."""
        try:
            _standing(self._appends)
        except StreamMoved:
            # That may be one which was in nobody's way.
            versions = {one.stream_id: _version_of(one.stream_id) for one in self._appends}
            for one in self._appends:
                if versions[one.stream_id] != one.expected_version:
                    raise StreamMoved(
                        stream_id=one.stream_id,
                        expected_version=one.expected_version,
                        actual_version=_version_of(one.stream_id),
                    ) from None
                versions[one.stream_id] += len(one.events)
            raise


# A statement and its parameters.
Statement = tuple[LiteralString, Sequence[Any]]


def append(
    *appends: Append, recorded_at: datetime | None = None, beside: Sequence[Statement] = ()
) -> list[RecordedEvent]:
    """Store events, all or none, and run their inline projections; return them in the order given.

    Statements `beside` that change rows (without a `with` of their own) run within the one that inserts; they
    belong to the caller's transaction.

    Joins the caller's transaction or makes one. A repeated append (the same event ids at the same versions)
    returns what stands and changes nothing. Raises StreamMoved, EventIdReused, BadInput, EventTooLarge,
    Erased, BlobGone. After StreamMoved the caller's transaction is usable, unless a part was written (it
    rolls back).
    """
    ordered = _ordered(appends)
    if not ordered:
        for statement, parameters in beside:
            execute(statement, parameters)
        return []
    encoded = _encoded(ordered, recorded_at or datetime.now(UTC))
    has_inline = any(projections.inline_of(type(row.event)) for row in encoded)
    named = named_by(encoded)
    in_transaction = connections[DEFAULT_DB_ALIAS].in_atomic_block
    if not (in_transaction or has_inline or beside or named) and _stored_alone(ordered, encoded):
        recorded = encoded
    # One row is all or nothing by itself; several may meet a conflict after the first.
    elif in_transaction or (len(encoded) == 1 and not has_inline and not named):
        recorded = _append(ordered, encoded, beside, has_inline=has_inline, named=named)
    else:
        with transaction.atomic():
            recorded = _append(ordered, encoded, beside, has_inline=has_inline, named=named)
    if len(appends) > 1:
        given = {(one.stream_id, one.expected_version): place for place, one in enumerate(appends)}
        bounds = [(one.stream_id, one.expected_version) for one in ordered for _ in one.events]
        recorded = [
            row for _, row in sorted(zip(bounds, recorded, strict=True), key=lambda pair: given[pair[0]])
        ]
    return recorded


def append_last(*appends: Append, recorded_at: datetime, before: Sequence[Command] = ()) -> None:
    """Store events as `append` does, as the last act of the transaction that the caller began.

    Statements `before` run before, in the same round trip. So does the commit, unless there are inline
    projections that take a statement of their own: the caller leaves its `atomic` at once. Where anything
    stands in the way all is rolled back, and Collision raised, to be resolved then. Within a transaction of
    somebody else nothing is committed, and `append` does the rest.
    """
    ordered = _ordered(appends)
    if is_nested():
        if before:
            run_together(*before)
        append(*ordered, recorded_at=recorded_at)
        return
    encoded = _encoded(ordered, recorded_at)
    named = named_by(encoded)
    if find_gap(encoded) is not None:
        raise Collision(ordered)
    if named and (missing := set(named) - {row[0] for row in execute(HOLD, [byteas(named)])}):
        try:
            _standing(ordered)
        except StreamMoved:
            raise BlobGone(missing) from None
        encoded = []
    projected, others = projections.commands_of(encoded)
    commands = [*before]
    if projected or others:
        commands.append((_HOLD_INLINE, ()))
    for row in encoded:
        values = as_values(row_of(row))
        if row.version == 1:
            commands.append((_PUT_FIRST, values))
        else:
            before_it = [values[0], (row.version - 1).to_bytes(4, "big")]
            commands.append((_PUT_NEXT, [*values[:2], *before_it, *values[2:]]))
    commands += projected
    if encoded:
        transaction.on_commit(wake_sequencer, robust=True)
    if not others:
        commands.append((COMMIT, ()))
    try:
        run_together(*commands)
    except IntegrityError as error:
        if not _is_collision(error):
            raise
        raise Collision(ordered) from None
    for projection, batch in others:
        projection.run(batch)


def load(stream_id: UUID, *, after_version: int = 0, up_to_version: int | None = None) -> list[RecordedEvent]:
    """Return a stream's events in order, empty for a stream that does not exist; erased text is empty."""
    last = codec.MAX_VERSION if up_to_version is None else up_to_version
    return read_rows(_LOAD, [stream_id, Int4(after_version), Int4(last)])


def load_streams(stream_ids: Collection[UUID], *event_classes: type[Event]) -> list[RecordedEvent]:
    """Return the events of several streams, each stream's in order; of these classes where any is named."""
    if not event_classes:
        return read_rows(_LOAD_STREAMS, [uuids(list(stream_ids))])
    return read_rows(_LOAD_SOME, [uuids(list(stream_ids)), registry.stored_names(event_classes)])


def read_rows(
    statement: LiteralString, parameters: Sequence[Any], *, decode: codec.Decode = codec.decode
) -> list[RecordedEvent]:
    """Return the events of a statement that selects (position, *COLUMNS)."""
    rows = execute(statement, parameters).fetchall()
    ciphers = sealing.ciphers({row[KEY_COLUMN] for row in rows if row[KEY_COLUMN] is not None})
    return [decode(row, ciphers) for row in rows]


def execute(statement: LiteralString, parameters: Sequence[Any] = ()) -> psycopg.Cursor[Row]:
    """Run a statement on Django's connection with binary results, prepared when it recurs.

    Django's own cursors interpolate on the client, where a bytea costs twice its size in hexadecimal text.
    """
    database = _usable()
    with database.wrap_database_errors, statement_span(statement):
        cursor: psycopg.Cursor[Row] = psycopg.Cursor(database.connection)
        return cursor.execute(statement, parameters, binary=True)


def execute_together(*statements: Statement) -> list[psycopg.Cursor[Row]]:
    """Run statements as `execute` does, one after the other, in one round trip; return their cursors.

    The first error is raised, and those after it have not run.
    """
    database = _usable()
    cursors = []
    traced = statement_span(*(statement for statement, _ in statements))
    with database.wrap_database_errors, traced, database.connection.pipeline():
        for statement, parameters in statements:
            cursor: psycopg.Cursor[Row] = psycopg.Cursor(database.connection)
            cursors.append(cursor.execute(statement, parameters, binary=True))
    return cursors


def run_together(*commands: Command) -> list[PGresult]:
    """Run statements one after the other in one round trip, in the transaction that is open or begins.

    Raises StatementsGone within a transaction that is to be done again.
    """
    database = _usable()
    traced = statement_span(*(command.statement for command, _ in commands))
    # Who is within a transaction of somebody else could not do it again.
    with traced, database.wrap_database_errors:
        return together.run(database.connection, commands, prepares=not database.savepoint_ids)


def is_nested() -> bool:
    """Tell whether the innermost `atomic` is within another one, whose transaction it joins."""
    return bool(connections[DEFAULT_DB_ALIAS].savepoint_ids)


def insert_statement(
    encoded: Sequence[RecordedEvent], *, appends: int = 1, has_inline: bool = False
) -> LiteralString:
    """Return the one statement that inserts these rows; where they are several, it returns those it inserted.

    A first event goes in by its primary key alone, a later one only where its predecessor stands; a row that
    another writer was faster with is skipped. `has_inline` holds the projections' lock until the commit.
    """
    if appends > 1:
        return _INSERT_MANY_INLINE if has_inline else _INSERT_MANY
    if len(encoded) > 1:
        if encoded[0].version > 1:
            return _CONTINUE_INLINE if has_inline else _CONTINUE
        return _BEGIN_INLINE if has_inline else _BEGIN
    if encoded[0].version > 1:
        return _INSERT_NEXT_INLINE if has_inline else _INSERT_NEXT
    return _INSERT_FIRST_INLINE if has_inline else _INSERT_FIRST


def insert_parameters(encoded: Sequence[RecordedEvent], *, appends: int = 1) -> list[Any]:
    """Return the parameters of `insert_statement`. Rows of one stream stand together, in order of version."""
    if appends == 1:
        values = list(row_of(encoded[0]))
        # A fixed integer type, or each width of version would be a prepared statement of its own.
        before = Int4(encoded[0].version - 1)
        if len(encoded) > 1:
            values = [values[0], before, *values[5:-1], *_own(encoded)]
        else:
            values[1], values[4] = Int4(values[1]), Int2(values[4])
        return values if encoded[0].version == 1 else [*values, values[0], before]
    heads = [False, *(before.stream_id == after.stream_id for before, after in pairwise(encoded))]
    return [*as_arrays([row_of(row) for row in encoded]), booleans(heads)]


def _own(encoded: Sequence[RecordedEvent]) -> list[Any]:
    """Return what the events of one append do not share."""
    return [
        uuids([row.event_id for row in encoded]),
        texts([row.type_name for row in encoded]),
        integers2([row.schema_version for row in encoded]),
        byteas([row.data for row in encoded]),
    ]


def find_gap(encoded: Sequence[RecordedEvent]) -> RecordedEvent | None:
    """Return the first row that does not follow the one before it in its own stream, if there is one."""
    for before, after in pairwise(encoded):
        if before.stream_id == after.stream_id and after.version != before.version + 1:
            return after
    return None


def says_the_same(stored: RecordedEvent, event: Event) -> bool:
    """Tell whether a stored event is this one; what is erased is not compared."""
    if not stored.erased:
        return stored.event == event
    return type(stored.event) is type(event) and all(
        getattr(stored.event, name) == getattr(event, name)
        for name in type(event).model_fields
        if name not in stored.sealed
    )


def _ordered(appends: Sequence[Append]) -> list[Append]:
    # Sorted, so that two writers that meet on several streams wait for one another in one direction only.
    ordered = [one for one in appends if one.events]
    if len(ordered) > 1:
        ordered.sort(key=lambda one: (one.stream_id.bytes, one.expected_version))
    return ordered


def _encoded(ordered: Sequence[Append], moment: datetime) -> list[RecordedEvent]:
    ciphers = {key_id: sealing.cipher(key_id) for key_id in codec.keys_needed(ordered)}
    trace_id = current_trace_id()
    return [
        row
        for one in ordered
        for row in codec.encode(one, recorded_at=moment, ciphers=ciphers, trace_id=trace_id)
    ]


def _is_collision(error: IntegrityError) -> bool:
    """Tell whether an event stands in another's place, or its predecessor does not stand."""
    cause = error.__cause__
    return isinstance(cause, psycopg.Error) and (
        cause.diag.constraint_name == "event_pkey"
        or (cause.diag.table_name, cause.diag.column_name) == ("event", "version")
    )


def _usable() -> BaseDatabaseWrapper:
    # Each look at `django.db.connection` costs a context lookup: one for all.
    database = connections[DEFAULT_DB_ALIAS]
    database.validate_no_broken_transaction()
    database.close_if_health_check_failed()
    database.ensure_connection()
    return database


def _stored_alone(ordered: Sequence[Append], encoded: Sequence[RecordedEvent]) -> bool:
    """Store rows by one statement in a transaction of its own; or none, and return False.

    Who asks again, within a transaction where they are several, finds what stands.
    """
    if len(ordered) > 1 and find_gap(encoded) is not None:
        return False
    if not _stored_prepared(ordered, encoded) and (
        len(encoded) == 1 or not _stored_unprepared(ordered, encoded)
    ):
        return False
    wake_sequencer()
    return True


def _stored_prepared(ordered: Sequence[Append], encoded: Sequence[RecordedEvent]) -> bool:
    prepared = _all_or_none(ordered, encoded)
    if len(ordered) > 1:
        values = insert_parameters(encoded, appends=len(ordered))
    else:
        values = as_values(row_of(encoded[0]))
        before = (encoded[0].version - 1).to_bytes(4, "big")
        if len(encoded) > 1:
            values = [values[0], before, *values[5:-1], *_own(encoded)]
        if encoded[0].version > 1:
            values += [values[0], before]
    with statement_span(prepared.statement):
        return prepared.run(_usable().connection, values) == len(encoded)


def _stored_unprepared(ordered: Sequence[Append], encoded: Sequence[RecordedEvent]) -> bool:
    parameters = insert_parameters(encoded, appends=len(ordered))
    try:
        return execute(_all_or_none(ordered, encoded).statement, parameters).rowcount == len(encoded)
    except IntegrityError:
        return False


def _all_or_none(ordered: Sequence[Append], encoded: Sequence[RecordedEvent]) -> Prepared:
    if len(ordered) > 1:
        return _PREPARED_ALL
    if len(encoded) > 1:
        return _PREPARED_BEGIN if encoded[0].version == 1 else _PREPARED_CONTINUE
    return _PREPARED_FIRST if encoded[0].version == 1 else _PREPARED_NEXT


def _append(
    ordered: Sequence[Append],
    encoded: Sequence[RecordedEvent],
    beside: Sequence[Statement],
    *,
    has_inline: bool,
    named: Sequence[bytes],
) -> list[RecordedEvent]:
    gap = find_gap(encoded) if len(ordered) > 1 else None
    if gap is not None:
        raise StreamMoved(
            stream_id=gap.stream_id,
            expected_version=gap.version - 1,
            actual_version=_version_of(gap.stream_id),
        )
    if named and (missing := set(named) - {row[0] for row in execute(HOLD, [byteas(named)])}):
        try:
            return _standing(ordered)  # what was said before needs nothing
        except StreamMoved:
            raise BlobGone(missing) from None
    statement = insert_statement(encoded, appends=len(ordered), has_inline=has_inline)
    parameters = insert_parameters(encoded, appends=len(ordered))
    if beside:
        statement = _with(tuple(change for change, _ in beside), statement)
        parameters = [*(value for _, values in beside for value in values), *parameters]
    cursor = execute(statement, parameters)
    if cursor.rowcount == 0:
        return _standing(ordered)
    if cursor.rowcount != len(encoded):
        raise _moved_after_part(encoded, cursor.fetchall())
    if has_inline:
        try:
            projections.run_inline(encoded)
        except BaseException:
            # Even a caller that catches this must not commit events without their rows.
            transaction.set_rollback(True)
            raise
    if connections[DEFAULT_DB_ALIAS].in_atomic_block:
        transaction.on_commit(wake_sequencer, robust=True)
    else:
        wake_sequencer()
    return list(encoded)


@lru_cache(maxsize=64)
def _with(changes: tuple[LiteralString, ...], insert: LiteralString) -> LiteralString:
    """Return the insert with statements that run beside it."""
    statement: LiteralString = "with "
    name: LiteralString = "beside"
    for change in changes:
        statement += f"{name} as ({change}), "
        name += "_too"
    return statement.removesuffix(", ") + " " + insert


def _moved_after_part(encoded: Sequence[RecordedEvent], inserted: Sequence[Row]) -> StreamMoved:
    """Return the conflict of an append of which only a part went in, after marking it for rollback."""
    written = {(stream_id, version) for stream_id, version in inserted}
    skipped = next(row for row in encoded if (row.stream_id, row.version) not in written)
    own = [version for stream_id, version in written if stream_id == skipped.stream_id]
    expected = next(row.version for row in encoded if row.stream_id == skipped.stream_id) - 1
    moved = StreamMoved(
        stream_id=skipped.stream_id,
        expected_version=expected,
        actual_version=_version_of(skipped.stream_id, without=own),
    )
    transaction.set_rollback(True)
    return moved


def _standing(ordered: Sequence[Append]) -> list[RecordedEvent]:
    """Return what a repeated append wrote the first time. Raises StreamMoved, EventIdReused."""
    standing: list[RecordedEvent] = []
    for one in ordered:
        last = one.expected_version + len(one.events)
        stored = load(one.stream_id, after_version=one.expected_version, up_to_version=last)
        if one.event_ids is None or [row.event_id for row in stored] != list(one.event_ids):
            raise StreamMoved(
                stream_id=one.stream_id,
                expected_version=one.expected_version,
                actual_version=_version_of(one.stream_id),
            )
        for event, row in zip(one.events, stored, strict=True):
            if not says_the_same(row, event):
                raise EventIdReused(
                    f"Event id {row.event_id} stands at version {row.version} of stream {one.stream_id} with "
                    "other content: a new event needs a new id",
                    field="event_ids",
                )
        standing += stored
    return standing


def _version_of(stream_id: UUID, *, without: Sequence[int] = ()) -> int:
    row = execute(_VERSION, [stream_id, list(without)]).fetchone()
    return int(row[0]) if row else 0


_NAMES: LiteralString = (
    "stream_id, version, event_id, type, schema_version, recorded_at, workspace_id, session_id, "
    "causation_id, actor, trace_id, key_id, data"
)
# The order and types of codec.COLUMNS. Statements are put together from constants alone (hence noqa S608).
_VALUES: LiteralString = (
    "%b::uuid, %b::int4, %b::uuid, %b::text, %b::int2, %b::timestamptz, %b::uuid, %b::uuid, %b::uuid, "
    "%b::text, %b::text, %b::uuid, %b::bytea"
)
_ARRAYS: LiteralString = (
    "%b::uuid[], %b::int4[], %b::uuid[], %b::text[], %b::int2[], %b::timestamptz[], %b::uuid[], %b::uuid[], "
    "%b::uuid[], %b::text[], %b::text[], %b::uuid[], %b::bytea[], %b::bool[]"
)
_PREDECESSOR: LiteralString = (
    " where exists (select from event where stream_id = %b::uuid and version = %b::int4)"
)
_HEADS: LiteralString = (
    " where new.follows or new.version = 1 or exists (select from event "
    "where event.stream_id = new.stream_id and event.version = new.version - 1)"
)
_FASTER: LiteralString = " on conflict (stream_id, version) do nothing"
_WHICH: LiteralString = " returning stream_id, version"
# projections.INLINE_LOCK
_HELD: LiteralString = "(select pg_advisory_xact_lock_shared(7161130726806416489)) held"

_INSERT_FIRST: LiteralString = f"insert into event ({_NAMES}) values ({_VALUES}){_FASTER}"  # noqa: S608
_INSERT_FIRST_INLINE: LiteralString = f"insert into event ({_NAMES}) select {_VALUES} from {_HELD}{_FASTER}"  # noqa: S608
_INSERT_NEXT: LiteralString = f"insert into event ({_NAMES}) select {_VALUES}{_PREDECESSOR}{_FASTER}"
_INSERT_NEXT_INLINE: LiteralString = (
    f"insert into event ({_NAMES}) select {_VALUES} from {_HELD}{_PREDECESSOR}{_FASTER}"  # noqa: S608
)
# Of one append, whose events share most. The rows of a function come in the order of its array, and get
# their `seq` in it.
_SHARED: LiteralString = (
    "select %b::uuid, %b::int4 + place::int4, event_id, type, schema_version, %b::timestamptz, %b::uuid, "
    "%b::uuid, %b::uuid, %b::text, %b::text, %b::uuid, data from "
)
_OWN: LiteralString = (
    "unnest(%b::uuid[], %b::text[], %b::int2[], %b::bytea[]) "
    "with ordinality as new(event_id, type, schema_version, data, place)"
)
_BEGIN_ALL: LiteralString = f"insert into event ({_NAMES}) {_SHARED}{_OWN}"
_CONTINUE_ALL: LiteralString = f"{_BEGIN_ALL}{_PREDECESSOR}"
_BEGIN: LiteralString = f"{_BEGIN_ALL}{_FASTER}{_WHICH}"
_CONTINUE: LiteralString = f"{_CONTINUE_ALL}{_FASTER}{_WHICH}"
_BEGIN_INLINE: LiteralString = f"insert into event ({_NAMES}) {_SHARED}{_HELD}, {_OWN}{_FASTER}{_WHICH}"
_CONTINUE_INLINE: LiteralString = (
    f"insert into event ({_NAMES}) {_SHARED}{_HELD}, {_OWN}{_PREDECESSOR}{_FASTER}{_WHICH}"
)
# Of several.
_INSERT_MANY: LiteralString = (
    f"insert into event ({_NAMES}) select {_NAMES} from unnest({_ARRAYS}) as new({_NAMES}, follows)"  # noqa: S608
    f"{_HEADS} order by stream_id, version{_FASTER}{_WHICH}"
)
_INSERT_MANY_INLINE: LiteralString = (
    f"insert into event ({_NAMES}) select {_NAMES} from {_HELD}, unnest({_ARRAYS}) as new({_NAMES}, follows)"  # noqa: S608
    f"{_HEADS} order by stream_id, version{_FASTER}{_WHICH}"
)
# All rows or, where one stands already or its predecessor does not, an error: the version may not be null.
_VERSION_THAT_FOLLOWS: LiteralString = (
    "case when new.follows or new.version = 1 or exists (select from event "
    "where event.stream_id = new.stream_id and event.version = new.version - 1) then new.version end"
)
_INSERT_ALL: LiteralString = (
    f"insert into event ({_NAMES}) select {_NAMES.replace(' version,', f' {_VERSION_THAT_FOLLOWS},')} "  # noqa: S608
    f"from unnest({_ARRAYS}) as new({_NAMES}, follows) order by new.stream_id, new.version"
)
# Without `_FASTER`, whose way to insert costs one record more in the WAL: a cursor asks again after an error.
_PREPARED_FIRST = Prepared("insert_first", f"insert into event ({_NAMES}) values ({_VALUES})")  # noqa: S608
_PREPARED_NEXT = Prepared("insert_next", f"insert into event ({_NAMES}) select {_VALUES}{_PREDECESSOR}")
_PREPARED_BEGIN = Prepared("insert_begin", _BEGIN_ALL)
_PREPARED_CONTINUE = Prepared("insert_continue", _CONTINUE_ALL)
_PREPARED_ALL = Prepared("insert_all", _INSERT_ALL)
_PUT_FIRST = Recurring(f"insert into event ({_NAMES}) values ({_VALUES})")  # noqa: S608
# Without a predecessor the version is null, which is an error.
_PUT_NEXT = Recurring(
    f"insert into event ({_NAMES}) values ("  # noqa: S608
    + _VALUES.replace(
        "%b::int4",
        "(select %b::int4 where exists "
        "(select from event where stream_id = %b::uuid and version = %b::int4))",
        1,
    )
    + ")"
)
_HOLD_INLINE = Recurring(f"select from {_HELD}")
_LOAD: LiteralString = (
    "select log.position, " + COLUMNS + " from event left join log using (stream_id, version) "  # noqa: S608
    "where stream_id = %b and version > %b and version <= %b order by version"
)
_LOAD_STREAMS: LiteralString = (
    "select log.position, " + COLUMNS + " from event left join log using (stream_id, version) "  # noqa: S608
    "where stream_id = any(%b::uuid[]) order by stream_id, version"
)
_LOAD_SOME: LiteralString = _LOAD_STREAMS.replace(" order by", " and event.type = any(%b::text[]) order by")
_VERSION: LiteralString = (
    "select version from event where stream_id = %b and version <> all(%b::int4[]) "
    "order by version desc limit 1"
)
