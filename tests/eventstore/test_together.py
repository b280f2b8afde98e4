from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connection, transaction

from cartrita.eventstore import Append, Context, Event, EventIdReused, StreamMoved, append, load, new_id
from cartrita.eventstore.blobs import put_blob
from cartrita.eventstore.holding import BlobGone
from cartrita.eventstore.store import Collision, append_last, execute, run_together
from cartrita.eventstore.together import COMMIT, Recurring, StatementsGone
from tests.databases import Database
from tests.eventstore.notes import WORKSPACE, Note, NoteStarred, NoteWritten, a_key, note_projections

pytestmark = pytest.mark.flow

CONTEXT = Context(workspace_id=WORKSPACE)
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
ADD = Recurring("select %b::int4 + %b::int4")
MAKE = Recurring("create temp table kept (number int4 primary key)")
KEEP = Recurring("insert into kept values (%b::int4)")
COUNT = Recurring("select count(*) from kept")


class FileKept(Event):
    type_name = "store_tests.FileKept"

    sha256: str

    def named_blobs(self) -> Iterable[str]:
        return (self.sha256,)


def four(number: int) -> bytes:
    return number.to_bytes(4, "big")


def count() -> int:
    (answer,) = run_together((COUNT, ()))
    return int.from_bytes(answer.get_value(0, 0) or b"", "big")


@pytest.mark.usefixtures("database")
class TestRunTogether:
    @pytest.fixture(params=[5, None], ids=["prepared", "for a pooler"], autouse=True)
    def threshold(self, request: pytest.FixtureRequest, database: Database) -> None:
        connection.ensure_connection()
        connection.connection.prepare_threshold = request.param

    def test_answers_in_order(self) -> None:
        for _ in range(3):
            answers = run_together(*((ADD, [four(place), four(1)]) for place in range(5)))
            assert [answer.get_value(0, 0) for answer in answers] == [four(place + 1) for place in range(5)]

    def test_begins_the_transaction_that_is_wanted(self) -> None:
        run_together((MAKE, ()))
        with transaction.atomic():
            run_together((KEEP, [four(1)]))
            transaction.set_rollback(True)
        assert count() == 0
        with transaction.atomic():
            run_together((KEEP, [four(1)]))
            run_together((KEEP, [four(2)]))
        assert count() == 2

    def test_commits_with_the_last_statement(self) -> None:
        run_together((MAKE, ()))
        with transaction.atomic():
            run_together((KEEP, [four(1)]), (COMMIT, ()))
            transaction.set_rollback(True)
        assert count() == 1

    def test_raises_the_first_error_and_runs_nothing_after_it(self) -> None:
        run_together((MAKE, ()))
        for _ in range(2):
            with pytest.raises(IntegrityError), transaction.atomic():
                run_together((KEEP, [four(1)]), (KEEP, [four(1)]), (KEEP, [four(2)]), (COMMIT, ()))
            assert count() == 0
        with pytest.raises(DatabaseError):
            run_together((Recurring("select nothing"), ()))
        run_together((KEEP, [four(1)]))
        assert count() == 1

    def test_takes_more_than_the_sockets_hold(self) -> None:
        echo, text = Recurring("select %b::text"), b"x" * 1_000_000
        answers = run_together(*((echo, [text]) for _ in range(20)))
        assert [answer.get_value(0, 0) for answer in answers] == [text] * 20


@pytest.mark.usefixtures("database")
class TestStatementsGone:
    def test_prepares_again_what_was_deallocated(self) -> None:
        run_together((ADD, [four(1), four(1)]))
        execute("deallocate all")
        (answer,) = run_together((ADD, [four(1), four(1)]))
        assert answer.get_value(0, 0) == four(2)

    def test_is_raised_within_a_transaction(self) -> None:
        run_together((ADD, [four(1), four(1)]))
        with transaction.atomic():
            execute("deallocate all")
            with pytest.raises(StatementsGone):
                run_together((ADD, [four(1), four(1)]))
            transaction.set_rollback(True)
        with transaction.atomic():
            execute("select 1")
            (answer,) = run_together((ADD, [four(1), four(1)]))
        assert answer.get_value(0, 0) == four(2)

    def test_is_not_raised_where_the_transaction_is_of_somebody_else(self) -> None:
        run_together((ADD, [four(1), four(1)]))
        with transaction.atomic(), transaction.atomic():
            execute("deallocate all")
            (answer,) = run_together((ADD, [four(1), four(1)]))
        assert answer.get_value(0, 0) == four(2)

    def test_gives_up_a_connection_that_was_lost(self) -> None:
        with pytest.raises(OperationalError), transaction.atomic():
            run_together((Recurring("select pg_terminate_backend(pg_backend_pid())"), ()))
        with transaction.atomic():
            (answer,) = run_together((ADD, [four(1), four(1)]))
        assert answer.get_value(0, 0) == four(2)


class TestAppendLast:
    @pytest.fixture(autouse=True)
    def notes(self, database: Database) -> Iterator[None]:
        with note_projections(database):
            yield

    def last(self, *appends: Append) -> None:
        try:
            with transaction.atomic():
                append_last(*appends, recorded_at=NOON)
        except Collision as collision:
            collision.resolve()

    def test_stores_what_append_stores(self) -> None:
        first, second = new_id(), new_id()
        ids = [new_id() for _ in range(2)]
        self.last(
            Append(first, 0, [NoteStarred(stars=1), NoteStarred(stars=2)], CONTEXT, ids),
            Append(second, 0, [NoteStarred(stars=3)], CONTEXT),
        )
        self.last(Append(first, 2, [NoteStarred(stars=4)], CONTEXT))
        assert [row.event for row in load(first)] == [NoteStarred(stars=stars) for stars in (1, 2, 4)]
        assert [row.event_id for row in load(first)[:2]] == ids
        assert [row.recorded_at for row in load(second)] == [NOON]

    def test_runs_inline_projections_that_have_no_statements(self) -> None:
        note, context = new_id(), Context(workspace_id=WORKSPACE, key_id=a_key())
        self.last(Append(note, 0, [NoteWritten(text="so", words=1)], context))
        assert Note.objects.get(note_id=note).written_at == NOON

    def test_finds_a_stream_that_has_moved(self) -> None:
        stream, other = new_id(), new_id()
        append(Append(stream, 0, [NoteStarred(stars=1)], CONTEXT))
        for version in (0, 2):
            with pytest.raises(StreamMoved) as caught:
                self.last(
                    Append(other, 0, [NoteStarred(stars=1)], CONTEXT),
                    Append(stream, version, [NoteStarred(stars=1)], CONTEXT),
                )
            assert (caught.value.stream_id, caught.value.expected_version) == (stream, version)
            assert caught.value.actual_version == 1
        assert load(other) == []

    def test_changes_nothing_when_repeated(self) -> None:
        stream, ids = new_id(), (new_id(),)
        for _ in range(2):
            self.last(Append(stream, 0, [NoteStarred(stars=1)], CONTEXT, ids))
        with pytest.raises(EventIdReused):
            self.last(Append(stream, 0, [NoteStarred(stars=2)], CONTEXT, ids))
        assert len(load(stream)) == 1

    def test_stores_no_event_without_its_blob(self) -> None:
        def recorded(sha256: str) -> Append:
            return Append(new_id(), 0, [FileKept(sha256=sha256)], CONTEXT)

        with pytest.raises(BlobGone):
            self.last(recorded("ab" * 32))
        one = recorded(put_blob(b"text", key_id=None))
        self.last(one)
        assert len(load(one.stream_id)) == 1
