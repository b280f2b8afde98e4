"""Bring following projections up to the log: a batch and its checkpoints in one transaction."""

from collections.abc import Sequence
from typing import LiteralString

from django.db import transaction

from cartrita.eventstore import registry
from cartrita.eventstore.projections import Following, all_following
from cartrita.eventstore.rows import COLUMNS
from cartrita.eventstore.store import execute, read_rows
from cartrita.eventstore.types import RecordedEvent

BATCH = 500


def run_following(*, up_to: int | None = None) -> int:
    """Bring every following projection up to the log's head (or to `up_to`); return that position.

    What one projection raises is raised after the others have run.
    """
    target = log_head() if up_to is None else up_to
    failure: Exception | None = None
    for projection in all_following():
        try:
            while advance([projection], up_to=target):
                pass
        except Exception as error:  # noqa: BLE001 # the others run first, then it is raised
            failure = failure or error
    if failure is not None:
        raise failure
    return target


def advance(projections: Sequence[Following], *, up_to: int) -> bool:
    """Run a batch of these projections and move their checkpoints; tell whether more is left before `up_to`.

    They share a transaction, so that several cost little more than one: either all of them advance, or what
    one of them raises is raised and none does.
    """
    with transaction.atomic():
        held = _lock_checkpoints(projections)
        due = [each for each in projections if held[each.name] < up_to]
        if not due:
            return False
        start = min(held[each.name] for each in due)
        names = registry.stored_names({cls for each in due for cls in each.event_classes})
        batch = read_rows(_READ, [start, up_to, names, BATCH])
        complete = len(batch) < BATCH
        reached = up_to if complete else (batch[-1].position or up_to)
        for projection in due:
            own = [
                recorded
                for recorded in batch
                if (recorded.position or 0) > held[projection.name]
                and isinstance(recorded.event, projection.event_classes)
            ]
            if own:
                projection.function(own)
        behind = [each.name for each in due if held[each.name] < reached]
        execute(
            "update projection_checkpoint set position = %b where name = any(%b::text[])", [reached, behind]
        )
    return not complete


def read_following(projection: Following, *, after: int, up_to: int) -> list[RecordedEvent]:
    """Return the next batch of the events that a projection follows, in log order."""
    return read_rows(_READ, [after, up_to, registry.stored_names(projection.event_classes), BATCH])


def followed(*names: str) -> int:
    """Return the position up to which all of these following projections have come."""
    found = execute("select position from projection_checkpoint where name = any(%b::text[])", [list(names)])
    positions = [int(position) for (position,) in found.fetchall()]
    return min(positions) if len(positions) == len(names) else 0


def log_head() -> int:
    """Return the last position of the log, 0 when it is empty."""
    row = execute("select position from log order by position desc limit 1").fetchone()
    return int(row[0]) if row else 0


def lock_checkpoint(name: str) -> int:
    """Return a projection's checkpoint and hold it to the end of the transaction."""
    held = "select position from projection_checkpoint where name = %b for update"
    row = execute(held, [name]).fetchone()
    if row is None:
        new = "insert into projection_checkpoint (name, position) values (%b, 0) on conflict do nothing"
        execute(new, [name])
        row = execute(held, [name]).fetchone()
    return int(row[0]) if row else 0


def _lock_checkpoints(projections: Sequence[Following]) -> dict[str, int]:
    """Return the checkpoints of these projections and hold them to the end of the transaction."""
    rows = execute(
        "select name, position from projection_checkpoint where name = any(%b::text[]) "
        "order by name for update",
        [[each.name for each in projections]],
    )
    held: dict[str, int] = dict(rows.fetchall())
    return held | {each.name: lock_checkpoint(each.name) for each in projections if each.name not in held}


def move_checkpoint(name: str, position: int) -> None:
    """Set a projection's checkpoint, which this transaction holds."""
    execute("update projection_checkpoint set position = %b where name = %b", [position, name])


_READ: LiteralString = (
    "select log.position, " + COLUMNS + " from log join event using (stream_id, version) "  # noqa: S608
    "where log.position > %b::bigint and log.position <= %b::bigint and event.type = any(%b::text[]) "
    "order by log.position limit %b::int8"
)
