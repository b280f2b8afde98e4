import asyncio
import threading
from collections.abc import Iterator, Sequence
from io import StringIO
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from cartrita.errors import BadInput
from cartrita.eventstore import (
    Append,
    Context,
    Event,
    RecordedEvent,
    Sequencer,
    append,
    erase_key,
    new_id,
    projections,
    rebuild,
    run_following,
)
from cartrita.eventstore.catch_up import advance
from cartrita.eventstore.models import Checkpoint
from cartrita.eventstore.projections import Following, ProjectionsWrong
from cartrita.eventstore.rebuild import RebuildRunning, TableInUse, differences
from tests.databases import Database
from tests.eventstore.notes import (
    WORKSPACE,
    Note,
    NoteStarred,
    NoteWritten,
    Tally,
    a_key,
    note_projections,
    project_note,
    project_tally,
    starring,
    writing,
)

pytestmark = pytest.mark.flow


@pytest.fixture
def notes(database: Database) -> Iterator[None]:
    with note_projections(database):
        yield


def order() -> None:
    asyncio.run(Sequencer().order())


def some_notes(count: int = 3) -> list[UUID]:
    """Notes of one word, each starred with its number; ordered and followed."""
    key, streams = a_key(), [new_id() for _ in range(count)]
    for number, stream in enumerate(streams):
        append(writing(stream, key, f"note{number}"), starring(stream, number, after=1))
    order()
    run_following()
    return streams


@pytest.mark.usefixtures("notes")
class TestRunFollowing:
    def test_sees_each_event_once_in_log_order(self) -> None:
        some_notes()
        tally = Tally.objects.get()
        assert (tally.workspace_id, tally.notes, tally.position) == (WORKSPACE, 3, 5)
        assert run_following() == 6
        assert Tally.objects.get().notes == 3
        assert Checkpoint.objects.get().position == 6

    def test_waits_for_positions(self) -> None:
        append(writing(new_id(), a_key(), "note"))
        assert run_following() == 0
        assert not Tally.objects.exists()

    def test_stops_where_it_is_told(self) -> None:
        for _ in range(3):
            append(writing(new_id(), a_key(), "note"))
        order()
        assert run_following(up_to=2) == 2
        assert Tally.objects.get().notes == 2

    def test_goes_through_many_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cartrita.eventstore.catch_up.BATCH", 2)
        some_notes(5)
        assert Tally.objects.get().notes == 5

    def test_keeps_rows_and_checkpoint_together_and_runs_the_others(self) -> None:
        def break_after_writing(batch: Sequence[RecordedEvent]) -> None:
            project_tally(batch)
            raise RuntimeError("broken")

        seen: list[int | None] = []
        del projections._following["store_tests.tally"]
        projections.following("store_tests.broken", NoteWritten, tables=[Tally])(break_after_writing)

        @projections.following("store_tests.other", NoteWritten, tables=[])
        def project_other(batch: Sequence[RecordedEvent]) -> None:
            seen.extend(recorded.position for recorded in batch)

        append(writing(new_id(), a_key(), "note"))
        order()
        with pytest.raises(RuntimeError, match="broken"):
            run_following()
        assert not Tally.objects.exists()
        assert seen == [1]
        assert dict(Checkpoint.objects.values_list("name", "position")) == {"store_tests.other": 1}


@pytest.mark.usefixtures("notes")
class TestAdvance:
    def test_gives_each_of_several_its_own_events_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("cartrita.eventstore.catch_up.BATCH", 3)
        del projections._following["store_tests.tally"]
        seen: dict[str, list[int | None]] = {"notes": [], "stars": [], "late": []}

        def following(name: str, *classes: type[Event]) -> Following:
            @projections.following(f"store_tests.{name}", *classes, tables=[])
            def project(batch: Sequence[RecordedEvent]) -> None:
                seen[name] += [recorded.position for recorded in batch]

            return projections._following[f"store_tests.{name}"]

        notes, stars = following("notes", NoteWritten), following("stars", NoteStarred)
        for number in range(4):
            stream = new_id()
            append(writing(stream, a_key(), "note"), starring(stream, number, after=1))
        order()
        while advance([notes], up_to=5):
            pass
        late = following("late", NoteWritten, NoteStarred)
        while advance([notes, stars, late], up_to=8):
            pass
        assert seen == {"notes": [1, 3, 5, 7], "stars": [2, 4, 6, 8], "late": list(range(1, 9))}
        assert set(Checkpoint.objects.values_list("position", flat=True)) == {8}
        assert not advance([notes, stars, late], up_to=8)


class TestRegistration:
    def test_refuses_a_table_of_two_kinds(self, notes: None) -> None:
        with pytest.raises(ProjectionsWrong, match="both write Note"):
            projections.following("store_tests.second", NoteWritten, tables=[Note])(lambda batch: None)
        with pytest.raises(ProjectionsWrong, match="both write Tally"):
            projections.inline(NoteWritten, tables=[Tally])(lambda recorded: None)


@pytest.mark.usefixtures("notes")
class TestDifferences:
    def test_are_none_where_rows_are_what_events_say(self) -> None:
        some_notes()
        assert differences() == []

    def test_are_none_after_an_erasure(self) -> None:
        some_notes()
        erase_key(Note.objects.all()[0].key_id)
        assert differences() == []

    def test_are_none_where_a_following_projection_is_behind(self) -> None:
        some_notes()
        append(writing(new_id(), a_key(), "note"))
        order()
        assert differences() == []

    def test_show_the_rows_and_change_nothing(self) -> None:
        streams = some_notes()
        Note.objects.filter(note_id=streams[1]).update(stars=77)
        Note.objects.filter(note_id=streams[2]).delete()
        Tally.objects.create(workspace_id=new_id(), notes=1)
        note, tally = differences()
        assert (note.table, note.surplus, note.missing) == ("store_tests_note", 1, 2)
        assert '"stars": 77' in note.surplus_rows[0]
        assert {'"stars": 1' in row or '"stars": 2' in row for row in note.missing_rows} == {True}
        assert (tally.table, tally.surplus, tally.missing) == ("store_tests_tally", 1, 0)
        assert Note.objects.filter(stars=77).count() == 1
        assert len(differences(["store_tests.tally"])) == 1

    def test_need_a_known_name(self) -> None:
        with pytest.raises(BadInput, match=r"named nothing; there are: .*store_tests\.tally"):
            differences(["nothing"])

    def test_do_not_run_inside_a_transaction(self) -> None:
        with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
            differences()


def schema_of(table: str) -> list[tuple[object, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "select 'column', attname, format_type(atttypid, atttypmod), attnotnull::text from pg_attribute "
            "where attrelid = %(table)s::regclass and attnum > 0 "
            "union all select 'constraint', conname, pg_get_constraintdef(oid), contype::text "
            "from pg_constraint where conrelid = %(table)s::regclass "
            "union all select 'index', '', pg_get_indexdef(indexrelid), '' from pg_index "
            "where indrelid = %(table)s::regclass "
            "union all select 'trigger', tgname, pg_get_triggerdef(oid), '' from pg_trigger "
            "where tgrelid = %(table)s::regclass "
            "union all select 'right', grantee::regrole::text, privilege_type, '' "
            "from pg_class, aclexplode(relacl) where oid = %(table)s::regclass order by 1, 2, 3",
            {"table": f"public.{table}"},
        )
        return list(cursor.fetchall())


@pytest.mark.usefixtures("notes")
class TestRebuild:
    def test_replaces_wrong_rows(self, database: Database) -> None:
        streams = some_notes()
        before = list(Note.objects.order_by("note_id").values())
        Note.objects.filter(note_id=streams[0]).update(stars=77)
        Note.objects.filter(note_id=streams[1]).delete()
        Tally.objects.update(notes=99)
        with database.as_owner():
            report = rebuild.rebuild()
        assert report.rows == {"store_tests_note": 3, "store_tests_tally": 1}
        assert report.events == 9
        assert list(Note.objects.order_by("note_id").values()) == before
        assert Tally.objects.get().notes == 3
        assert differences() == []

    def test_lets_a_following_projection_go_on_after_it(self, database: Database) -> None:
        some_notes()
        with database.as_owner():
            rebuild.rebuild(["store_tests.tally"])
        append(writing(new_id(), a_key(), "note"))
        order()
        run_following()
        assert Tally.objects.get().notes == 4

    def test_gives_many_events_to_a_projection_that_takes_them(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        some_notes(5)
        batches: list[int] = []

        def project_notes(batch: Sequence[RecordedEvent]) -> None:
            batches.append(len(batch))
            for recorded in batch:
                project_note(recorded)

        projections._inline.clear()
        projections.inline_batched(NoteWritten, NoteStarred, tables=[Note])(project_notes)
        monkeypatch.setattr("cartrita.eventstore.rebuild.BATCH", 4)
        with database.as_owner():
            rebuild.rebuild(["tests.eventstore.test_projections.project_notes"])
            assert batches == [4, 4, 2]
            # Rows of the same tables that another one writes come between in their order.
            projections.inline(NoteStarred, tables=[Note])(project_note)
            batches.clear()
            rebuild.rebuild(["tests.eventstore.test_projections.project_notes"])
            assert batches == [1] * 10
        assert differences() == []

    def test_keeps_names_rights_indexes_and_triggers(self, database: Database) -> None:
        with database.as_owner(), connection.cursor() as cursor:
            cursor.execute(
                "create function nothing() returns trigger language plpgsql as 'begin return new; end';"
                "create trigger watch before update on store_tests_note "
                "for each row execute function nothing()"
            )
            before = [schema_of("store_tests_note"), schema_of("store_tests_tally")]
            rebuild.rebuild()
            assert [schema_of("store_tests_note"), schema_of("store_tests_tally")] == before
            cursor.execute("select nspname from pg_namespace where nspname like 'rebuild%'")
            assert cursor.fetchall() == []

    def test_catches_up_with_what_was_written_meanwhile(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        streams = some_notes()
        key = a_key()
        late: list[UUID] = []
        build = rebuild._apply_all

        def build_then_write(*args: Any, **options: Any) -> None:
            build(*args, **options)
            if not late:
                late.append(new_id())
                writer = threading.Thread(target=write_late, args=(late[0], streams[0], key))
                writer.start()
                writer.join()

        monkeypatch.setattr(rebuild, "_apply_all", build_then_write)
        with database.as_owner():
            rebuild.rebuild()
        assert Note.objects.count() == 4
        assert Note.objects.get(note_id=streams[0]).stars == 55
        run_following()
        assert Tally.objects.get().notes == 4
        assert differences() == []

    def test_loses_nothing_while_writers_go_on(self, database: Database) -> None:
        key = a_key()
        written: list[UUID] = []

        def write() -> None:
            try:
                for _ in range(60):
                    stream = new_id()
                    append(writing(stream, key, "note"))
                    append(starring(stream, 1, 2, after=1))
                    written.append(stream)
            finally:
                connection.close()

        writers = [threading.Thread(target=write) for _ in range(3)]
        with database.as_owner():
            for writer in writers:
                writer.start()
            while any(writer.is_alive() for writer in writers):
                rebuild.rebuild()
            for writer in writers:
                writer.join()
        assert len(written) == Note.objects.count() == 180
        order()
        run_following()
        assert Tally.objects.get().notes == len(written)
        assert differences() == []

    def test_gives_way_to_a_reader_and_tries_again(self, database: Database) -> None:
        some_notes()
        with psycopg.connect(database.url) as reader:
            reader.execute("select * from store_tests_note")
            ending = threading.Timer(1.2, reader.rollback)
            ending.start()
            with database.as_owner():
                rebuild.rebuild()
            ending.join()
        assert differences() == []

    def test_runs_once_at_a_time(self, database: Database) -> None:
        with psycopg.connect(database.url) as other:
            other.execute("select pg_advisory_lock(%s)", [rebuild.REBUILD_LOCK])
            with pytest.raises(RebuildRunning):
                rebuild.rebuild()

    def test_says_what_depends_on_a_table(self, database: Database) -> None:
        with database.as_owner(), connection.cursor() as cursor:
            cursor.execute("create view starred as select note_id from store_tests_note where stars > 0")
            with pytest.raises(TableInUse, match="starred depends on the read model store_tests_note"):
                rebuild.rebuild()
        append(writing(new_id(), a_key(), "note"))
        assert Note.objects.count() == 1

    def test_runs_no_side_effects(self, database: Database) -> None:
        fired: list[UUID] = []

        @projections.inline(NoteStarred, tables=[Note])
        def project_with_effect(recorded: RecordedEvent) -> None:
            transaction.on_commit(lambda: fired.append(recorded.stream_id))

        some_notes()
        assert len(fired) == 3
        with database.as_owner():
            rebuild.rebuild()
        differences()
        assert len(fired) == 3


@pytest.mark.usefixtures("notes")
class TestTheCommand:
    def test_check_exits_with_1_and_the_rows(self) -> None:
        some_notes()
        out = StringIO()
        call_command("rebuild_projections", "--check", stdout=out)
        assert "equals its rebuild" in out.getvalue()
        Note.objects.update(stars=78)
        with pytest.raises(CommandError, match="1 read model differs") as caught:
            call_command("rebuild_projections", "--check", stdout=out)
        assert caught.value.returncode == 1
        assert "store_tests_note: 3 rows that no event explains, 3 rows missing" in out.getvalue()
        assert '  in the table:   {"text": "sealed:1:' in out.getvalue()

    def test_rebuilds_by_name(self, database: Database) -> None:
        some_notes()
        Tally.objects.update(notes=0)
        out = StringIO()
        with database.as_owner():
            call_command("rebuild_projections", "store_tests.tally", stdout=out)
        assert "store_tests_tally: 1 row\n" in out.getvalue()
        assert Tally.objects.get().notes == 3


def write_late(new: UUID, existing: UUID, key: UUID) -> None:
    try:
        append(writing(new, key, "late"))
        append(
            Append(existing, 2, [NoteStarred(stars=55)], Context(workspace_id=WORKSPACE)),
        )
        order()
    finally:
        connection.close()
