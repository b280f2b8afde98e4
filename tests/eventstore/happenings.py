"""Event types and small helpers for the tests of the log."""

from collections.abc import Sequence
from uuid import UUID

from cartrita.eventstore import Append, Context, Event, Sealed, new_id

WORKSPACE = UUID("01936f3e-0000-7000-8000-000000000001")


class Happened(Event):
    type_name = "log_tests.Happened"

    number: int
    note: str = ""


class Whispered(Event):
    type_name = "log_tests.Whispered"

    text: Sealed[str]


def happening(
    stream_id: UUID,
    version: int = 1,
    *,
    count: int = 1,
    session_id: UUID | None = None,
    event_ids: Sequence[UUID] | None = None,
    note: str = "",
    workspace_id: UUID = WORKSPACE,
) -> Append:
    """An append of `count` events of which the first becomes `version`."""
    return Append(
        stream_id,
        version - 1,
        [Happened(number=version + index, note=note) for index in range(count)],
        Context(workspace_id=workspace_id, session_id=session_id, actor="system"),
        event_ids=event_ids or [new_id() for _ in range(count)],
    )
