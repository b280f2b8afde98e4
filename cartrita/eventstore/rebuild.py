"""Rebuild read models from the events, to compare them or to replace them while writers go on."""

import logging
import random
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, LiteralString

import psycopg
from django.core.exceptions import ValidationError
from django.db import OperationalError, connection, models, transaction

from cartrita.errors import BadInput, Conflict, Unavailable
from cartrita.eventstore import codec, registry, sealing
from cartrita.eventstore.as_of import ERASED_SHOWN, SEALED_SHOWN, check_position
from cartrita.eventstore.catch_up import lock_checkpoint, log_head, move_checkpoint, read_following
from cartrita.eventstore.codec import KEY_COLUMN, Row
from cartrita.eventstore.fields import SealedTextField
from cartrita.eventstore.projections import INLINE_LOCK, Following, Inline, all_following, all_inline
from cartrita.eventstore.rows import COLUMNS
from cartrita.eventstore.store import execute
from cartrita.eventstore.types import RecordedEvent

logger = logging.getLogger(__name__)

SHADOW = "rebuild_shadow"
FORMER = "rebuild_former"
TEMPORARY = "pg_temp"
REBUILD_LOCK = 0x63617274_72656264
SHOWN_ROWS = 5
BATCH = 500
# Below PostgreSQL's deadlock_timeout: where a writer and the swap wait for one another, the swap gives way.
SWAP_LOCK_TIMEOUT = "500ms"
SWAP_TRIES = 40
# Events that may be left for the swap itself, while writers wait.
FEW_EVENTS = 200


class RebuildRunning(Conflict):
    """Another rebuild of this database is at work."""

    code: ClassVar[str] = "rebuild_running"


class TablesBusy(Unavailable):
    """The read models could not be swapped, because readers or writers held them all the time."""

    code: ClassVar[str] = "tables_busy"


class TableInUse(Conflict):
    """A view or a foreign key depends on a read model, so that it cannot be replaced."""

    code: ClassVar[str] = "table_in_use"


@dataclass(frozen=True, slots=True)
class Difference:
    """Where one read model differs from its rebuild; rows are JSON text, the first few of each side."""

    table: str
    surplus: int
    missing: int
    surplus_rows: tuple[str, ...]
    missing_rows: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a rebuild did: events applied, rows by table, seconds for which appends had to wait."""

    events: int
    rows: dict[str, int]
    swap_seconds: float


@dataclass(slots=True)
class _Progress:
    """How far the shadow tables are."""

    snapshot: str = ""
    restored_seq: int = 0
    positions: dict[str, int] = field(default_factory=dict)
    events: int = 0


@dataclass(frozen=True, slots=True)
class _Selection:
    inline: tuple[Inline, ...]
    following: tuple[Following, ...]

    @property
    def tables(self) -> list[type[models.Model]]:
        everything: list[Inline | Following] = [*self.inline, *self.following]
        found = {table for projection in everything for table in projection.tables}
        return sorted(found, key=_table)


def differences(names: Sequence[str] = ()) -> list[Difference]:
    """Compare read models with a rebuild of them, in one snapshot and without changing anything.

    `names` are projections (all without); those that share their tables are taken along. Following
    projections are compared at their checkpoint. Must not run inside a transaction. Raises BadInput for
    unknown names.
    """
    selection = _select(names)
    with _snapshot():
        _create_temporary(selection.tables)
        _apply_all(selection, _Progress(), schema=TEMPORARY, up_to_checkpoints=True)
        found = [one for table in selection.tables if (one := _compare(table, TEMPORARY)) is not None]
        transaction.set_rollback(True)
    return found


def rows_as_of(
    table: str, *, position: int, filters: Mapping[str, str] | None = None, unseal: bool = False
) -> list[dict[str, Any]]:
    """Return the rows of a read model as the events up to a position make them, by primary key.

    `table` is its name in the database or that of its model (`ChatSession`, `sessions_app.ChatSession`);
    `filters` are texts by field. Inline rows are those of the events that the log had up to `position`. All
    such events are applied to temporary tables, which takes as long as a rebuild. Sealed text is shown as
    `<sealed>` or `<erased>`, and as it is with `unseal` where it is not erased. Must not run inside a
    transaction. Raises BadInput for what is no read model, no field of it, no value of the field, and for a
    position that the log has not come to.
    """
    model = _read_model(table)
    found = model._default_manager.order_by("pk")  # noqa: SLF001 # Django's public name for it
    for name, value in (filters or {}).items():
        found = found.filter(_condition(model, name, value))
    everything: list[Inline | Following] = [*all_inline(), *all_following()]
    selection = _select([one.name for one in everything if model in one.tables])
    with _snapshot():
        check_position(position)
        _create_temporary(selection.tables)
        execute("select set_config('search_path', %b || ',public', true)", [TEMPORARY])
        _apply_inline(selection.inline, _Progress(), up_to=position)
        for projection in selection.following:
            _apply_following(projection, _Progress(), position)
        rows = [_veiled(model, row, unseal=unseal) for row in found.values()]
        transaction.set_rollback(True)
    return rows


def read_model_names() -> list[str]:
    """Return the tables that projections write."""
    return sorted(map(_table, _read_models()))


def rebuild(names: Sequence[str] = ()) -> Report:
    """Rebuild read models beside the live ones and swap them in one short transaction.

    Writers go on meanwhile. Needs the role that owns the tables. Raises BadInput for unknown names,
    RebuildRunning, TableInUse, TablesBusy.
    """
    selection = _select(names)
    if not execute("select pg_try_advisory_lock(%b::bigint)", [REBUILD_LOCK]).fetchone()[0]:  # type: ignore[index]
        raise RebuildRunning("Another rebuild is at work on this database: wait for it to end")
    try:
        _create_shadow(selection.tables)
        progress = _Progress()
        left = sys.maxsize
        while left > FEW_EVENTS:
            done, before = progress.events, left
            with _snapshot():
                _apply_all(selection, progress, schema=SHADOW)
            left = progress.events - done
            # Writers that are faster than this loop are only caught up with while they wait.
            if left > before // 2:
                break
        return _swap_patiently(selection, progress)
    finally:
        _drop_schemas()
        execute("select pg_advisory_unlock(%b::bigint)", [REBUILD_LOCK])


def projection_names() -> list[str]:
    """Return the names that `differences` and `rebuild` know."""
    return sorted([*(one.name for one in all_inline()), *(one.name for one in all_following())])


def _select(names: Sequence[str]) -> _Selection:
    everything: list[Inline | Following] = [*all_inline(), *all_following()]
    if not names:
        return _Selection(tuple(all_inline()), tuple(all_following()))
    unknown = set(names) - {projection.name for projection in everything}
    if unknown:
        raise BadInput(
            f"No projection is named {', '.join(sorted(unknown))}; "
            f"there are: {', '.join(projection_names())}",
            field="names",
        )
    wanted = set(names)
    tables: set[type[models.Model]] = set()
    while True:
        tables |= {table for one in everything if one.name in wanted for table in one.tables}
        sharing = {one.name for one in everything if tables & set(one.tables)}
        if sharing <= wanted:
            break
        wanted |= sharing
    return _Selection(
        tuple(one for one in all_inline() if one.name in wanted),
        tuple(one for one in all_following() if one.name in wanted),
    )


@contextmanager
def _snapshot() -> Iterator[None]:
    with transaction.atomic(durable=True):
        execute("set transaction isolation level repeatable read")
        yield
        # What a projection wanted to happen after its commit has happened when the event was new.
        connection.run_on_commit = []


def _apply_all(
    selection: _Selection, progress: _Progress, *, schema: str, up_to_checkpoints: bool = False
) -> None:
    """Apply the events that `progress` does not hold yet, in the caller's transaction."""
    execute("select set_config('search_path', %b || ',public', true)", [schema])
    _apply_inline(selection.inline, progress)
    for projection in selection.following:
        target = _checkpoint(projection.name) if up_to_checkpoints else log_head()
        _apply_following(projection, progress, target)
    execute("set local search_path to default")


def _apply_inline(projections: tuple[Inline, ...], progress: _Progress, *, up_to: int | None = None) -> None:
    functions: dict[type, list[Inline]] = {}
    for projection in projections:
        for cls in projection.event_classes:
            functions.setdefault(cls, []).append(projection)
    # What takes many events at once gets them so, where nobody else's rows of the same tables come between.
    gathered: dict[str, list[RecordedEvent]] = {
        one.name: [] for one in projections if one.batched and not _shares(one, projections)
    }
    snapshot, restored_seq = _present()
    if functions:
        for recorded in _stored(registry.stored_names(functions), progress, up_to=up_to):
            for projection in functions[type(recorded.event)]:
                batch = gathered.get(projection.name)
                if batch is None:
                    projection.run([recorded])
                    continue
                batch.append(recorded)
                if len(batch) == BATCH:
                    projection.run(batch)
                    gathered[projection.name] = []
            progress.events += 1
    for projection in projections:
        if batch := gathered.get(projection.name):
            projection.run(batch)
    progress.snapshot, progress.restored_seq = snapshot, restored_seq


def _shares(projection: Inline, others: Iterable[Inline]) -> bool:
    tables = set(projection.tables)
    return any(other is not projection and tables & set(other.tables) for other in others)


def _apply_following(projection: Following, progress: _Progress, target: int) -> None:
    position = progress.positions.get(projection.name, 0)
    while position < target:
        batch = read_following(projection, after=position, up_to=target)
        if batch:
            projection.function(batch)
        progress.events += len(batch)
        position = target if len(batch) < BATCH else (batch[-1].position or target)
    progress.positions[projection.name] = position


def _present() -> tuple[str, int]:
    """Return this snapshot, and the last event whose xid is of another cluster (restored from a backup).

    A row that is visible although its xid is not has an xid that means nothing here.
    """
    row = execute(
        "select pg_current_snapshot()::text, coalesce((select max(seq) from event "
        "where xid >= pg_snapshot_xmin(pg_current_snapshot()) "
        "and not pg_visible_in_snapshot(xid, pg_current_snapshot())), 0)"
    ).fetchone()
    if row is None:
        raise AssertionError("a select without a condition returns a row")
    return row[0], row[1]


def _stored(
    type_names: list[str], progress: _Progress, *, up_to: int | None = None
) -> Iterator[RecordedEvent]:
    """Yield the stored events of these types that `progress` has not seen, in the order of their writing.

    With `up_to`, those that the log has up to that position, in its order.
    """
    statement, parameters = _ALL, list[Any]([type_names])
    if up_to is not None:
        statement, parameters = _THEN, [type_names, up_to]
    elif progress.snapshot:
        statement = _SINCE
        parameters = [type_names, progress.snapshot, progress.snapshot, progress.restored_seq]
    with (
        connection.wrap_database_errors,
        psycopg.ServerCursor[Row](connection.connection, "cartrita_rebuild") as cursor,
    ):
        cursor.execute(statement, parameters, binary=True)
        while rows := cursor.fetchmany(BATCH):
            ciphers = sealing.ciphers({row[KEY_COLUMN] for row in rows if row[KEY_COLUMN] is not None})
            for row in rows:
                yield codec.decode(row, ciphers)


def _checkpoint(name: str) -> int:
    row = execute("select position from public.projection_checkpoint where name = %b", [name]).fetchone()
    return int(row[0]) if row else 0


def _compare(model: type[models.Model], schema: str) -> Difference | None:
    live, shadow = f"public.{_quoted(model)}", f"{schema}.{_quoted(model)}"
    surplus, surplus_rows = _without(live, shadow)
    missing, missing_rows = _without(shadow, live)
    if not surplus and not missing:
        return None
    return Difference(_table(model), surplus, missing, surplus_rows, missing_rows)


def _without(first: str, second: str) -> tuple[int, tuple[str, ...]]:
    """Return how many rows of the first table the second lacks, and the first few of them."""
    with connection.cursor() as cursor:
        cursor.execute(
            f"with different as (select to_jsonb(a)::text as line from {first} a "  # noqa: S608 # quoted names
            f"except all select to_jsonb(b)::text from {second} b) "
            f"select (select count(*) from different), "
            f"array(select line from different order by line limit {SHOWN_ROWS})"
        )
        count, rows = cursor.fetchone()
    return count, tuple(rows)


def _create_temporary(tables: Iterable[type[models.Model]]) -> None:
    with connection.cursor() as cursor:
        for model in tables:
            name = _quoted(model)
            cursor.execute(f"create temp table {name} (like public.{name} including all) on commit drop")


def _create_shadow(tables: Iterable[type[models.Model]]) -> None:
    """Create empty twins of the tables: same names of constraints and indexes, same triggers, same rights."""
    _drop_schemas()
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute(f"create schema {SHADOW}")
        cursor.execute(f"create schema {FORMER}")
        for model in tables:
            name = _quoted(model)
            shadow = f"{SHADOW}.{name}"
            cursor.execute(
                f"create table {shadow} "
                f"(like public.{name} including all excluding indexes excluding constraints)"
            )
            for statement in _twin_statements(f"public.{name}", shadow):
                cursor.execute(statement)


def _twin_statements(live: str, shadow: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "select format('alter table %%s add constraint %%I %%s', %(shadow)s::text, conname, "
            "pg_get_constraintdef(oid)) from pg_constraint "
            "where conrelid = %(live)s::regclass and contype in ('p', 'u', 'c', 'x', 'f') "
            "union all select replace(pg_get_indexdef(indexrelid), ' ON ' || %(live)s || ' ', "
            "' ON ' || %(shadow)s || ' ') from pg_index i where indrelid = %(live)s::regclass "
            "and not exists (select from pg_constraint c "
            "where c.conindid = i.indexrelid and c.conrelid = i.indrelid) "
            "union all select replace(pg_get_triggerdef(oid), ' ON ' || %(live)s || ' ', "
            "' ON ' || %(shadow)s || ' ') from pg_trigger "
            "where tgrelid = %(live)s::regclass and not tgisinternal "
            "union all select format('grant %%s on %%s to %%s', privilege_type, %(shadow)s::text, "
            "case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end) "
            "from pg_class, aclexplode(relacl) where oid = %(live)s::regclass",
            {"live": live, "shadow": shadow},
        )
        return [row[0] for row in cursor.fetchall()]


def _swap_patiently(selection: _Selection, progress: _Progress) -> Report:
    for attempt in range(SWAP_TRIES):
        before = (progress.snapshot, progress.restored_seq, dict(progress.positions), progress.events)
        try:
            return _swap(selection, progress)
        except OperationalError as error:
            if not isinstance(
                error.__cause__, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected
            ):
                raise
            # The catch-up of this try was rolled back with it.
            progress.snapshot, progress.restored_seq, progress.positions, progress.events = before
            logger.info("The read models are in use, swap attempt %d gives way: %s", attempt + 1, error)
        # Random, so that the attempts do not fall in step with a periodic reader.
        time.sleep(random.uniform(0.05, 0.5))
        with _snapshot():
            _apply_all(selection, progress, schema=SHADOW)
    raise TablesBusy(
        "The read models were in use at every attempt to swap them: end long transactions and run it again"
    )


def _swap(selection: _Selection, progress: _Progress) -> Report:
    with transaction.atomic(durable=True):
        execute("select set_config('lock_timeout', %b, true)", [SWAP_LOCK_TIMEOUT])
        execute("select pg_advisory_xact_lock(%b::bigint)", [INLINE_LOCK])
        for projection in selection.following:
            lock_checkpoint(projection.name)
        started = time.perf_counter()
        # A snapshot of its own for each statement from here on: everything that was committed is seen.
        _apply_all(selection, progress, schema=SHADOW)
        connection.run_on_commit = []
        with connection.cursor() as cursor:
            for model in selection.tables:
                _refuse_dependents(model)
                cursor.execute(f"alter table public.{_quoted(model)} set schema {FORMER}")
                cursor.execute(f"alter table {SHADOW}.{_quoted(model)} set schema public")
        for projection in selection.following:
            move_checkpoint(projection.name, progress.positions[projection.name])
    seconds = time.perf_counter() - started
    rows = {_table(model): _count(f"public.{_quoted(model)}") for model in selection.tables}
    return Report(progress.events, rows, seconds)


def _refuse_dependents(model: type[models.Model]) -> None:
    """Raise TableInUse where a view or a foreign key would stay with the former table."""
    with connection.cursor() as cursor:
        cursor.execute(
            "select conrelid::regclass::text from pg_constraint "
            "where confrelid = %(table)s::regclass and contype = 'f' and conrelid <> confrelid "
            "union select r.ev_class::regclass::text from pg_depend d join pg_rewrite r on r.oid = d.objid "
            "where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass "
            "and d.refobjid = %(table)s::regclass",
            {"table": f"public.{_quoted(model)}"},
        )
        dependents = sorted(row[0] for row in cursor.fetchall())
    if dependents:
        raise TableInUse(
            f"{', '.join(dependents)} depends on the read model {_table(model)}: a read model that is "
            "rebuilt has no foreign keys to it and no views on it"
        )


def _count(table: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"select count(*) from {table}")  # noqa: S608 # a quoted name
        return int(cursor.fetchone()[0])


def _drop_schemas() -> None:
    with transaction.atomic(durable=True), connection.cursor() as cursor:
        cursor.execute(f"drop schema if exists {SHADOW} cascade")
        cursor.execute(f"drop schema if exists {FORMER} cascade")


def _read_models() -> set[type[models.Model]]:
    everything: list[Inline | Following] = [*all_inline(), *all_following()]
    return {model for projection in everything for model in projection.tables}


def _read_model(name: str) -> type[models.Model]:
    wanted = name.lower()
    for model in _read_models():
        label = model._meta.label_lower  # noqa: SLF001 # Django's public name for it
        if wanted in {_table(model), label, label.partition(".")[2]}:
            return model
    raise BadInput(f"{name!r} is no read model; there are: {', '.join(read_model_names())}.", field="model")


def _condition(model: type[models.Model], name: str, value: str) -> models.Q:
    """Return what a filter says. Raises BadInput naming the field, and the fields that there are."""
    fields = {field.attname: field for field in model._meta.concrete_fields}  # noqa: SLF001 # as above
    field = fields.get(name)
    if field is None or isinstance(field, SealedTextField):
        usable = [one for one, each in fields.items() if not isinstance(each, SealedTextField)]
        raise BadInput(
            f"{_table(model)} cannot be filtered by {name!r}; its fields are: {', '.join(usable)}.",
            field="filter",
        )
    if value == "null":
        return models.Q(**{f"{name}__isnull": True})
    try:
        return models.Q(**{name: field.to_python(value)})
    except ValidationError as error:
        raise BadInput(f"{name}={value}: {' '.join(error.messages)}", field="filter") from error


def _veiled(model: type[models.Model], row: dict[str, Any], *, unseal: bool) -> dict[str, Any]:
    """Return a row with words in the place of sealed texts that are not to be shown, or are erased."""
    for column in model._meta.concrete_fields:  # noqa: SLF001 # as above
        token = row.get(column.attname)
        if token and isinstance(column, SealedTextField):
            key_id = row.get("key_id")
            cipher = sealing.ciphers([key_id]).get(key_id) if key_id is not None else None
            if cipher is None:
                row[column.attname] = ERASED_SHOWN
            else:
                row[column.attname] = cipher.unseal(token) if unseal else SEALED_SHOWN
    return row


def _table(model: type[models.Model]) -> str:
    return model._meta.db_table  # noqa: SLF001 # Django's public name for it


@cache
def _quoted(model: type[models.Model]) -> str:
    """Return the table's name as PostgreSQL itself writes it in definitions."""
    row = execute("select quote_ident(%b)", [_table(model)]).fetchone()
    if row is None:
        raise AssertionError("a select without a condition returns a row")
    return str(row[0])


_EVENTS: LiteralString = "select null::bigint, " + COLUMNS + " from event where type = any(%b::text[])"  # noqa: S608
_ALL: LiteralString = _EVENTS + " order by seq"
_THEN: LiteralString = (
    "select null::bigint, " + COLUMNS + " from log join event using (stream_id, version) "  # noqa: S608
    "where event.type = any(%b::text[]) and log.position <= %b::bigint order by log.position"
)
_SINCE: LiteralString = (
    _EVENTS + " and xid >= pg_snapshot_xmin(%b::text::pg_snapshot) "
    "and not pg_visible_in_snapshot(xid, %b::text::pg_snapshot) and seq > %b::bigint order by seq"
)
