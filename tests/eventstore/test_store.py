import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, LiteralString
from unittest import mock
from uuid import UUID

import psycopg
import pytest
from django.db import DataError, IntegrityError, close_old_connections, connection, transaction
from opentelemetry.sdk.trace import TracerProvider
from psycopg.types.numeric import Int4

from cartrita.errors import BadInput
from cartrita.eventstore import (
    Append,
    Context,
    EventIdReused,
    EventTooLarge,
    StreamMoved,
    append,
    derived_id,
    load,
    new_id,
)
from cartrita.eventstore.store import execute, execute_together
from tests.databases import Database
from tests.eventstore.notes import (
    WORKSPACE,
    Note,
    NoteStarred,
    NoteWritten,
    a_key,
    note_projections,
    starring,
    writing,
)

pytestmark = pytest.mark.flow


@pytest.fixture
def notes(database: Database) -> Iterator[None]:
    with note_projections(database):
        yield


def commit_when_awaited(faster: psycopg.Connection[tuple[Any, ...]], database: Database) -> None:
    with psycopg.connect(database.superuser_url, autocommit=True) as watcher:
        while not watcher.execute(
            "select from pg_stat_activity where datname = %s and wait_event_type = 'Lock'", [database.name]
        ).fetchall():
            time.sleep(0.01)
    faster.commit()


@pytest.mark.usefixtures("database")
class TestAppend:
    def test_stores_what_load_returns(self) -> None:
        stream, key = new_id(), a_key()
        moment = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
        context = Context(
            workspace_id=WORKSPACE,
            session_id=new_id(),
            causation_id=new_id(),
            actor="user:é",
            trace_id="ab" * 16,
            key_id=key,
        )
        events = [NoteWritten(text="héllo 👋"), NoteStarred(stars=3, at=moment)]
        recorded = append(Append(stream, 0, events, context), recorded_at=moment)
        assert load(stream) == recorded
        first = recorded[0]
        assert (first.version, first.position, first.recorded_at) == (1, None, moment)
        assert [row.event for row in recorded] == events
        assert (first.session_id, first.causation_id) == (context.session_id, context.causation_id)
        assert (first.actor, first.trace_id, first.key_id) == ("user:é", "ab" * 16, key)
        assert recorded[1].data == b'{"at":"2026-01-02T03:04:05.678901Z","stars":3}'

    def test_stores_no_plain_text_of_sealed_fields(self) -> None:
        stream = new_id()
        (recorded,) = append(writing(stream, a_key(), "my secret"))
        assert b"secret" not in recorded.data
        assert recorded.sealed["text"].startswith("sealed:1:")

    def test_returns_what_stands_when_repeated(self) -> None:
        stream, key, ids = new_id(), a_key(), [new_id(), new_id()]
        first = append(writing(stream, key, "one", "two", event_ids=ids))
        append(starring(stream, 1, after=2))
        assert append(writing(stream, key, "one", "two", event_ids=ids)) == first
        assert len(load(stream)) == 3

    def test_refuses_other_content_under_the_same_event_id(self) -> None:
        stream, key = new_id(), a_key()
        ids = [derived_id(stream, "cid-1")]
        append(writing(stream, key, "one", event_ids=ids))
        with pytest.raises(EventIdReused) as caught:
            append(writing(stream, key, "two", event_ids=ids))
        assert caught.value.code == "event_id_reused"

    @pytest.mark.parametrize("expected", [0, 1, 3])
    def test_refuses_another_version_than_the_expected_one(self, expected: int) -> None:
        stream = new_id()
        append(starring(stream, 1, 2))
        with pytest.raises(StreamMoved) as caught:
            append(starring(stream, 9, after=expected))
        moved = caught.value
        assert (moved.stream_id, moved.expected_version, moved.actual_version) == (stream, expected, 2)
        assert [row.version for row in load(stream)] == [1, 2]

    def test_refuses_a_version_of_a_stream_that_does_not_exist(self) -> None:
        with pytest.raises(StreamMoved) as caught:
            append(starring(new_id(), 1, after=4))
        assert caught.value.actual_version == 0

    def test_leaves_the_transaction_usable_when_nothing_was_written(self) -> None:
        stream = new_id()
        append(starring(stream, 1))
        with transaction.atomic():
            with pytest.raises(StreamMoved):
                append(starring(stream, 2))
            append(starring(stream, 3, after=1))
        assert [row.version for row in load(stream)] == [1, 2]

    def test_writes_several_streams_or_none(self) -> None:
        one, two = new_id(), new_id()
        append(starring(two, 1))
        with pytest.raises(StreamMoved) as caught:
            append(starring(one, 1), starring(two, 2))
        assert caught.value.stream_id == two
        assert load(one) == []

    def test_rolls_back_the_callers_transaction_when_a_part_was_written(self) -> None:
        one, two, three = new_id(), new_id(), new_id()
        append(starring(two, 1))
        with transaction.atomic():
            append(starring(three, 1))
            with pytest.raises(StreamMoved):
                append(starring(one, 1), starring(two, 2))
        assert load(one) == load(three) == []

    def test_does_not_take_a_longer_append_for_a_repetition(self) -> None:
        stream, ids = new_id(), [new_id(), new_id()]
        append(starring(stream, 1, event_ids=ids[:1]))
        with pytest.raises(StreamMoved) as caught:
            append(starring(stream, 1, 2, event_ids=ids))
        assert (caught.value.expected_version, caught.value.actual_version) == (0, 1)
        assert len(load(stream)) == 1

    def test_returns_events_in_the_order_given(self) -> None:
        late, early = UUID(int=2**127), UUID(int=5)
        recorded = append(starring(late, 1), starring(early, 2, 3), starring(late, 4, after=1))
        assert [(row.stream_id, row.version) for row in recorded] == [
            (late, 1), (early, 1), (early, 2), (late, 2),
        ]  # fmt: skip

    def test_refuses_a_gap_between_two_appends_to_one_stream(self) -> None:
        stream = new_id()
        with pytest.raises(StreamMoved):
            append(starring(stream, 1), starring(stream, 2, after=2))

    def test_numbers_a_stream_in_order_of_seq(self) -> None:
        stream = new_id()
        append(starring(stream, *range(20)))
        with connection.cursor() as cursor:
            cursor.execute("select version from event order by seq")
            assert [row[0] for row in cursor.fetchall()] == list(range(1, 21))

    def test_continues_a_stream_by_many(self) -> None:
        stream = new_id()
        append(starring(stream, 1))
        for after in range(1, 22, 3):  # more often than it takes to be prepared
            append(starring(stream, 7, 8, 9, after=after))
        assert [row.version for row in load(stream)] == list(range(1, 23))

    @pytest.mark.parametrize("tries", [1, 8])
    @pytest.mark.parametrize("after", [0, 2, 4, 7])
    def test_writes_many_or_none(self, tries: int, after: int) -> None:
        stream = new_id()
        for _ in range(tries - 1):
            append(starring(new_id(), 1, 2, 3))
        append(starring(stream, 1, 2, 3))
        with pytest.raises(StreamMoved) as caught:
            append(starring(stream, 4, 5, after=after))
        assert (caught.value.expected_version, caught.value.actual_version) == (after, 3)
        assert [row.version for row in load(stream)] == [1, 2, 3]

    @pytest.mark.parametrize("count", [1, 3])
    def test_refuses_a_version_beyond_the_column(self, count: int) -> None:
        with pytest.raises(BadInput) as caught:
            append(starring(new_id(), *range(count), after=2**31 - 1))
        assert caught.value.field == "expected_version"

    @pytest.mark.parametrize("count", [1, 3])
    def test_waits_for_a_writer_that_was_faster_and_loses(self, database: Database, count: int) -> None:
        stream = new_id()
        with psycopg.connect(database.url) as faster:
            faster.execute(
                "insert into event (stream_id, version, event_id, type, schema_version, recorded_at, "
                "workspace_id, actor, trace_id, data) values (%s, 1, %s, 'store_tests.NoteStarred', 1, "
                "now(), %s, '', '', '{\"at\": null, \"stars\": 1}')",
                [stream, new_id(), WORKSPACE],
            )
            committing = threading.Thread(target=commit_when_awaited, args=(faster, database))
            committing.start()
            with pytest.raises(StreamMoved) as caught:
                append(starring(stream, *range(count)))
            committing.join()
        assert caught.value.actual_version == 1
        assert len(load(stream)) == 1

    def test_finds_a_new_connection_after_the_database_dropped_it(self, database: Database) -> None:
        append(starring(new_id(), 1))
        with psycopg.connect(database.superuser_url, autocommit=True) as other:
            other.execute(
                "select pg_terminate_backend(pid, 60000) from pg_stat_activity "
                "where datname = %s and pid <> pg_backend_pid()",
                [database.name],
            )
        close_old_connections()
        assert append(starring(new_id(), 1))

    def test_appends_nothing_without_events(self) -> None:
        assert append() == []
        assert append(Append(new_id(), 0, [], Context(workspace_id=WORKSPACE))) == []

    def test_refuses_more_than_64_kib(self) -> None:
        stream = new_id()
        with pytest.raises(EventTooLarge, match=r"at most 65536 .* shorten 'text'") as caught:
            append(writing(stream, a_key(), "x" * 65_000))
        assert caught.value.field == "text"
        assert load(stream) == []

    def test_needs_a_key_for_sealed_fields(self) -> None:
        with pytest.raises(BadInput, match="NoteWritten has sealed fields"):
            append(Append(new_id(), 0, [NoteWritten(text="x")], Context(workspace_id=WORKSPACE)))

    def test_refuses_nul_naming_the_field(self) -> None:
        with pytest.raises(BadInput, match="NUL") as caught:
            append(writing(new_id(), a_key(), "a\0b"))
        assert caught.value.field == "text"

    def test_refuses_as_many_ids_as_do_not_fit(self) -> None:
        with pytest.raises(BadInput, match="as many as events"):
            append(starring(new_id(), 1, event_ids=[]))

    def test_takes_the_current_trace(self) -> None:
        tracer = TracerProvider().get_tracer("tests")
        with tracer.start_as_current_span("command") as span:
            (recorded,) = append(starring(new_id(), 1))
        assert recorded.trace_id == f"{span.get_span_context().trace_id:032x}"

    def test_wakes_the_sequencer_after_the_commit_only(self) -> None:
        with mock.patch("cartrita.eventstore.store.wake_sequencer") as wake:
            append(starring(new_id(), 1))
            assert wake.call_count == 1
            with transaction.atomic():
                append(starring(new_id(), 1))
                assert wake.call_count == 1
            assert wake.call_count == 2


@pytest.mark.usefixtures("notes")
class TestInline:
    def test_writes_rows_with_the_events(self) -> None:
        stream, key = new_id(), a_key()
        (recorded, _) = append(writing(stream, key, "hello"), starring(stream, 4, after=1))
        row = Note.objects.get()
        assert (row.note_id, row.key_id, row.stars) == (stream, key, 4)
        assert (row.text, row.written_at) == (recorded.sealed["text"], recorded.recorded_at)

    def test_is_not_repeated_with_a_repeated_append(self) -> None:
        stream, ids = new_id(), [new_id()]
        append(writing(stream, a_key(), "hello"))
        append(starring(stream, 1, after=1, event_ids=ids))
        append(starring(stream, 5, after=2))
        append(starring(stream, 1, after=1, event_ids=ids))
        assert Note.objects.get().stars == 5

    def test_takes_the_events_with_it_when_it_fails(self) -> None:
        stream = new_id()
        append(writing(stream, a_key(), "hello"))
        with pytest.raises(IntegrityError):
            append(starring(stream, 1000, after=1))
        assert len(load(stream)) == 1

    def test_takes_the_callers_transaction_with_it_when_it_fails(self) -> None:
        stream, other = new_id(), new_id()
        with (
            mock.patch("cartrita.eventstore.projections.run_inline", side_effect=RuntimeError("broken")),
            transaction.atomic(),
        ):
            with pytest.raises(RuntimeError):
                append(writing(stream, a_key(), "hello"))
            assert connection.get_rollback()
        assert load(stream) == load(other) == []


@pytest.mark.usefixtures("database")
class TestLoad:
    def test_returns_the_versions_asked_for(self) -> None:
        stream = new_id()
        append(starring(stream, *range(1, 7)))
        assert [row.version for row in load(stream, after_version=2, up_to_version=4)] == [3, 4]
        assert load(new_id()) == []


@pytest.mark.usefixtures("notes")
class TestBeside:
    CHANGE: LiteralString = "update store_tests_note set stars = stars + %b::int4 where note_id = %b::uuid"

    def test_changes_rows_with_the_events(self) -> None:
        notes, other = [new_id(), new_id()], new_id()
        for note in notes:
            append(writing(note, a_key(), "hello"))
        with transaction.atomic():
            append(
                starring(other, 2),
                starring(new_id(), 3),
                beside=[(self.CHANGE, [Int4(5), note]) for note in notes],
            )
        assert {note.stars for note in Note.objects.all()} == {5}
        assert len(load(other)) == 1

    def test_changes_nothing_where_the_stream_moved(self) -> None:
        note = new_id()
        append(writing(note, a_key(), "hello"))
        with pytest.raises(StreamMoved), transaction.atomic():
            append(starring(note, 2), beside=[(self.CHANGE, [Int4(5), note])])
        assert Note.objects.get().stars == 0

    def test_changes_rows_without_events(self) -> None:
        note = new_id()
        append(writing(note, a_key(), "hello"))
        append(beside=[(self.CHANGE, [Int4(5), note])])
        assert Note.objects.get().stars == 5


@pytest.mark.usefixtures("database")
class TestExecuteTogether:
    def test_gives_each_statement_its_rows(self) -> None:
        with transaction.atomic():
            first, second = execute_together(("select %b::int4", [Int4(1)]), ("select 2 union select 3", []))
            assert (first.fetchall(), sorted(second.fetchall())) == ([(1,)], [(2,), (3,)])

    def test_raises_the_first_error_and_leaves_the_connection_usable(self) -> None:
        with pytest.raises(DataError, match="division by zero"):
            execute_together(("select 1 / %b::int4", [Int4(0)]), ("select nothing", []))
        assert execute("select 1").fetchone() == (1,)


class TestTheTables:
    @pytest.mark.parametrize("table", ["event", "log", "tick", "tree_head"])
    @pytest.mark.parametrize("statement", ["update {} set {} = {}", "delete from {}", "truncate {} cascade"])
    def test_refuse_change_even_by_their_owner(self, database: Database, table: str, statement: str) -> None:
        column = {"event": "actor", "log": "position", "tick": "number", "tree_head": "size"}[table]
        change = statement.format(table, column, column)
        with psycopg.connect(database.superuser_url) as owner:
            owner.execute("set session_replication_role = replica")
            with pytest.raises(psycopg.errors.RestrictViolation, match="is refused: its rows are facts"):
                owner.execute(change)
        with psycopg.connect(database.url) as serving, pytest.raises(psycopg.errors.InsufficientPrivilege):
            serving.execute(change)
