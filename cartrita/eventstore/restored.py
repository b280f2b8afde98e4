"""A restore as a fact: the log goes on from a backup, in a new epoch."""

from datetime import datetime
from typing import ClassVar, LiteralString
from uuid import UUID

from cartrita.eventstore.erasure import INSTALLATION
from cartrita.eventstore.ids import new_id
from cartrita.eventstore.store import append, execute
from cartrita.eventstore.types import Append, Context, Event, RecordedEvent


class InstallationRestored(Event):
    """The installation was restored from a backup. Positions after `position` are given a second time."""

    type_name: ClassVar[str] = "eventstore.InstallationRestored"

    backup_taken_at: datetime
    position: int
    erasures_repeated: int


def record_restore(*, backup_taken_at: datetime, position: int, erasures_repeated: int) -> RecordedEvent:
    """Record that the installation goes on from a backup whose last position was `position`."""
    stream_id: UUID = new_id()
    event = InstallationRestored(
        backup_taken_at=backup_taken_at, position=position, erasures_repeated=erasures_repeated
    )
    context = Context(workspace_id=INSTALLATION, actor="system")
    (recorded,) = append(Append(stream_id, 0, [event], context))
    return recorded


def leave_last_blocks() -> None:
    """Take the ids in the blocks that will be written to next out of their index; the owner may.

    It was made over all that the backup holds, as migration 0007 says of the first.
    """
    execute(_LEAVE)


_LEAVE: LiteralString = """
    select brin_desummarize_range(
        'event_event_id', greatest(pg_relation_size('event') / current_setting('block_size')::int - 1, 0)
    )
"""
