"""Erasure as facts: which keys were destroyed, so that a restored backup destroys them again first."""

from typing import ClassVar, LiteralString
from uuid import UUID

from django.db import transaction

from cartrita.eventstore import sealing
from cartrita.eventstore.ids import derived_id
from cartrita.eventstore.rows import COLUMNS
from cartrita.eventstore.store import append, read_rows
from cartrita.eventstore.types import Append, Context, Event

# Keys belong to the installation, not to a workspace.
INSTALLATION = UUID(int=0)


class KeyErased(Event):
    """The data key of a session or document was destroyed."""

    type_name: ClassVar[str] = "eventstore.KeyErased"

    key_id: UUID


class SubjectErased(Event):
    """The key of a person was destroyed, and every data key under it."""

    type_name: ClassVar[str] = "eventstore.SubjectErased"

    subject_id: UUID


def erase_key(key_id: UUID, *, actor: str = "system") -> None:
    """Destroy the key of one session or document: what it sealed is unreadable from then on.

    Joins the caller's transaction. Succeeds when it was erased before. Raises UnknownKey.
    """
    with transaction.atomic():
        if not sealing.destroy_data_key(key_id):
            sealing.require_key(key_id)
        _record_once(key_id, KeyErased(key_id=key_id), actor)


def erase_subject(subject_id: UUID, *, actor: str = "system") -> int:
    """Destroy a subject's key and every data key under it; return how many that were.

    Joins the caller's transaction. Succeeds when it was erased before, and for a subject without keys, which
    then never gets any.
    """
    with transaction.atomic():
        destroyed = sealing.destroy_subject_keys(subject_id)
        _record_once(subject_id, SubjectErased(subject_id=subject_id), actor)
    return destroyed


def repeat_erasures() -> int:
    """Destroy again every key whose erasure is recorded; return how many data keys that were.

    Run it after keys came back from a backup, before anything serves.
    """
    destroyed = 0
    with transaction.atomic():
        for recorded in read_rows(_ERASURES, [[KeyErased.type_name, SubjectErased.type_name]]):
            match recorded.event:
                case KeyErased(key_id=key_id):
                    destroyed += sealing.destroy_data_key(key_id)
                case SubjectErased(subject_id=subject_id):
                    destroyed += sealing.destroy_subject_keys(subject_id)
    return destroyed


def _record_once(subject: UUID, event: Event, actor: str) -> None:
    # The stream has one event with a derived id, so that erasing again appends nothing.
    append(
        Append(
            derived_id(subject, "erasure"),
            0,
            [event],
            Context(workspace_id=INSTALLATION, actor=actor),
            event_ids=[derived_id(subject, "erased")],
        )
    )


_ERASURES: LiteralString = (
    "select null::bigint, " + COLUMNS + " from event where type = any(%b::text[]) order by seq"  # noqa: S608
)
