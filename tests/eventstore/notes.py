"""A small aggregate with one inline and one following read model, for the tests of the store."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import ClassVar
from unittest import mock
from uuid import UUID

from django.db import connection, models

from cartrita.eventstore import (
    Append,
    Context,
    Event,
    RecordedEvent,
    Sealed,
    SealedTextField,
    create_data_key,
    new_id,
    projections,
)
from tests.databases import Database

WORKSPACE = UUID("01936f3e-0000-7000-8000-000000000002")


class NoteWritten(Event):
    type_name = "store_tests.NoteWritten"

    text: Sealed[str]
    words: int = 0


class NoteStarred(Event):
    type_name = "store_tests.NoteStarred"

    stars: int
    at: datetime | None = None


class Note(models.Model):
    objects: ClassVar[models.Manager["Note"]] = models.Manager()

    note_id = models.UUIDField(primary_key=True)
    text = SealedTextField()
    key_id = models.UUIDField()
    stars = models.IntegerField(default=0)
    written_at = models.DateTimeField()

    class Meta:
        app_label = "store_tests"
        managed = False
        db_table = "store_tests_note"


class Tally(models.Model):
    objects: ClassVar[models.Manager["Tally"]] = models.Manager()

    workspace_id = models.UUIDField(primary_key=True)
    notes = models.IntegerField(default=0)
    position = models.BigIntegerField(default=0)

    class Meta:
        app_label = "store_tests"
        managed = False
        db_table = "store_tests_tally"


TABLES = """
create table store_tests_note (
    note_id uuid constraint store_tests_note_pkey primary key, text text not null, key_id uuid not null,
    stars integer not null, written_at timestamptz not null, constraint few_stars check (stars < 1000)
);
create index store_tests_note_written on store_tests_note (written_at desc);
create table store_tests_tally (
    workspace_id uuid primary key, notes integer not null, position bigint not null
);
"""


def project_note(recorded: RecordedEvent) -> None:
    match recorded.event:
        case NoteWritten():
            Note.objects.update_or_create(
                note_id=recorded.stream_id,
                defaults={
                    "text": recorded.sealed["text"],
                    "key_id": recorded.key_id,
                    "written_at": recorded.recorded_at,
                },
            )
        case NoteStarred(stars=stars):
            Note.objects.filter(note_id=recorded.stream_id).update(stars=stars)


def project_tally(batch: Sequence[RecordedEvent]) -> None:
    for recorded in batch:
        tally, _ = Tally.objects.get_or_create(workspace_id=recorded.workspace_id)
        tally.notes += 1
        tally.position = recorded.position or 0
        tally.save()


@contextmanager
def note_projections(database: Database) -> Iterator[None]:
    """Make the tables in this database and register the projections, until the end."""
    with database.as_owner(), connection.cursor() as cursor:
        cursor.execute(TABLES)
    with (
        mock.patch.dict(projections._inline, clear=True),
        mock.patch.dict(projections._following, clear=True),
        mock.patch.dict(projections._inline_by_class, clear=True),
    ):
        projections.inline(NoteWritten, NoteStarred, tables=[Note])(project_note)
        projections.following("store_tests.tally", NoteWritten, tables=[Tally])(project_tally)
        yield


def a_key() -> UUID:
    """A new data key of a new subject."""
    return create_data_key(subject_id=new_id(), scope="session")


def writing(
    stream_id: UUID,
    key_id: UUID,
    *texts: str,
    after: int = 0,
    event_ids: Sequence[UUID] | None = None,
) -> Append:
    """An append of one NoteWritten for each text."""
    return Append(
        stream_id,
        after,
        [NoteWritten(text=text, words=len(text.split())) for text in texts],
        Context(workspace_id=WORKSPACE, key_id=key_id),
        event_ids=event_ids,
    )


def starring(stream_id: UUID, *stars: int, after: int = 0, event_ids: Sequence[UUID] | None = None) -> Append:
    """An append of one NoteStarred for each number."""
    return Append(
        stream_id,
        after,
        [NoteStarred(stars=number) for number in stars],
        Context(workspace_id=WORKSPACE),
        event_ids=event_ids,
    )
