"""Erasure as facts: which keys were destroyed, so that a restored backup destroys them again first.

Each erasure is an event, and a line of a file outside the database: a backup that is older than an erasure
does not know it, and the database that did may be gone.
"""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, LiteralString
from uuid import UUID

from django.conf import settings
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

    Run it after keys came back from a backup, before anything serves. Also completes the list of erasures.
    """
    destroyed = 0
    recorded = recorded_erasures()
    listed = listed_erasures()
    for kind, erased_id in recorded:
        if erased_id not in listed:
            list_erased(kind, erased_id)
    with transaction.atomic():
        for kind, erased_id in recorded:
            if kind == "key":
                destroyed += sealing.destroy_data_key(erased_id)
            else:
                destroyed += sealing.destroy_subject_keys(erased_id)
    return destroyed


def erased_list() -> Path:
    """Return the file that lists what was erased: a line each with time, `key` or `subject`, and its id."""
    return Path(settings.HOME) / "keys" / "erased.log"


def list_erased(kind: str, erased_id: UUID) -> None:
    """Add a line to the list of erasures, on disk when this returns. Raises OSError."""
    path = erased_list()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    line = f"{datetime.now(UTC).isoformat(timespec='seconds')} {kind} {erased_id}\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line.encode("ascii"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def listed_erasures() -> set[UUID]:
    """Return the ids of all that the list has."""
    path = erased_list()
    if not path.exists():
        return set()
    return {UUID(line.split()[-1]) for line in path.read_text(encoding="ascii").splitlines() if line.strip()}


def recorded_erasures() -> list[tuple[str, UUID]]:
    """Return what the log says was erased, oldest first: `key` or `subject`, and its id."""
    found: list[tuple[str, UUID]] = []
    for recorded in read_rows(_ERASURES, [[KeyErased.type_name, SubjectErased.type_name]]):
        match recorded.event:
            case KeyErased(key_id=key_id):
                found.append(("key", key_id))
            case SubjectErased(subject_id=subject_id):
                found.append(("subject", subject_id))
    return found


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
    kind = "key" if isinstance(event, KeyErased) else "subject"
    # Not before the commit: what is rolled back must not be erased by a restore. Robust: the erasure stands
    # although a full disk keeps it off the list; that is logged, and the doctor compares the two.
    transaction.on_commit(lambda: list_erased(kind, subject), robust=True)


_ERASURES: LiteralString = (
    "select null::bigint, " + COLUMNS + " from event where type = any(%b::text[]) order by seq"  # noqa: S608
)
