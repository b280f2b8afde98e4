"""Removal of blobs that no event names, and of those whose key was erased.

What is named is found first (`references.py`) and is never removed: the database refuses it. What is not
named yet is safe in three ways. Whoever stores it again, or names it, holds its row until the commit, and
rows that are held are passed by. A row that is taken here makes them wait; then the events that were
committed until now are looked at once more, and only after that the row goes: who waited stores it anew, or
is told (BlobGone). And until a day after it was stored last nobody takes it at all, for those who store in
one transaction and name in another.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, LiteralString

from django.db import transaction
from psycopg.types.numeric import Int4

from cartrita.eventstore.arrays import byteas
from cartrita.eventstore.references import find_references
from cartrita.eventstore.sequencer import Sequencer
from cartrita.eventstore.store import execute

GRACE = timedelta(days=1)
BATCH = 200


@dataclass(frozen=True, slots=True)
class Collected:
    """What was removed (or would be), in blobs and stored bytes, and how many blobs stand after."""

    unnamed: int
    unnamed_bytes: int
    erased: int
    erased_bytes: int
    standing: int

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-compatible values."""
        return asdict(self)


def collect_blobs(
    *, grace: timedelta = GRACE, dry_run: bool = False, tell: Callable[[str], None] = lambda _: None
) -> Collected:
    """Remove the blobs of erased keys, and those that no event names and nobody stored for `grace`.

    Any number may run, beside writers. Must not run inside a transaction, nor in an event loop. Raises
    MasterKeyMissing, after which nothing was removed.
    """
    note_all_references()
    tell("Every event was read for the blobs that it names.")
    seconds = grace.total_seconds()
    if dry_run:
        erased, unnamed = _one(_COUNT_ERASED), _one(_COUNT_UNNAMED, seconds)
    else:
        erased = _repeat(_remove_erased)
        unnamed = _repeat(lambda: _remove_unnamed(seconds))
    (standing,) = _one("select count(*) from blob")
    return Collected(
        unnamed=unnamed[0],
        unnamed_bytes=unnamed[1],
        erased=erased[0],
        erased_bytes=erased[1],
        standing=standing,
    )


def note_all_references() -> None:
    """Note the blobs that all events name which are committed now, also those that nobody has ordered yet."""
    asyncio.run(Sequencer().order())
    find_references()


def _repeat(remove: Callable[[], tuple[int, int, int]]) -> tuple[int, int]:
    """Remove batch by batch until none is taken; return how many were removed, and their bytes."""
    count = size = 0
    while True:
        taken, removed, its_bytes = remove()
        if not taken:
            return count, size
        count, size = count + removed, size + its_bytes


def _remove_erased() -> tuple[int, int, int]:
    with transaction.atomic(durable=True):
        # A key's blobs together: those of a chain cannot go one before the other.
        return _one(_REMOVE_ERASED)


def _remove_unnamed(seconds: float) -> tuple[int, int, int]:
    with transaction.atomic(durable=True):
        taken = [row[0] for row in execute(_TAKE_UNNAMED, [seconds, Int4(BATCH)]).fetchall()]
        if not taken:
            return 0, 0, 0
        # From here on nobody can name these; who had done so before has committed.
        note_all_references()
        count, size = _one(_REMOVE, byteas(taken))
        return len(taken), count, size


def _one(statement: LiteralString, *parameters: Any) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = execute(statement, parameters).fetchone()
    if row is None:
        raise AssertionError("a statement that counts returns a row")
    return row


_OF_ERASED_KEY: LiteralString = (
    "exists (select from data_key where data_key.key_id = blob.key_id and data_key.wrapped is null)"
)
_UNNAMED: LiteralString = (
    "put_at < now() - make_interval(secs => %b::float8) "
    "and not exists (select from blob_reference named where named.sha256 = blob.sha256)"
)
_NO_LINK: LiteralString = "not exists (select from blob link where link.before = blob.sha256)"
_SUM: LiteralString = "count(*), coalesce(sum(length(content)), 0)::bigint"

_COUNT_ERASED: LiteralString = f"select {_SUM} from blob where {_OF_ERASED_KEY}"  # noqa: S608 - constants
_COUNT_UNNAMED: LiteralString = f"select {_SUM} from blob where {_UNNAMED} and not {_OF_ERASED_KEY}"  # noqa: S608
_REMOVE_ERASED: LiteralString = (
    "with taken as (select key_id from data_key where wrapped is null "  # noqa: S608 - constants
    "and exists (select from blob where blob.key_id = data_key.key_id) limit 20), "
    "gone as (delete from blob using taken where blob.key_id = taken.key_id returning content) "
    f"select (select count(*) from taken), {_SUM} from gone"
)
_TAKE_UNNAMED: LiteralString = (
    f"select sha256 from blob where {_UNNAMED} and {_NO_LINK} "  # noqa: S608 - constants
    "order by put_at limit %b::int for update of blob skip locked"
)
_REMOVE: LiteralString = (
    "with gone as (delete from blob where sha256 = any(%b::bytea[]) and not exists "  # noqa: S608 - constants
    "(select from blob_reference named where named.sha256 = blob.sha256) "
    f"and {_NO_LINK} returning content) select {_SUM} from gone"
)
