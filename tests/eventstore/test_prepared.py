from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from unittest import mock
from uuid import UUID

import psycopg
import pytest
from django.db import connection, transaction

from cartrita.errors import BadInput
from cartrita.eventstore import Append, Context, EventIdReused, StreamMoved, append, load, new_id
from cartrita.eventstore.prepared import Prepared
from cartrita.eventstore.store import execute
from tests.databases import Database
from tests.eventstore.notes import WORKSPACE, NoteStarred, a_key

pytestmark = pytest.mark.flow

CONTEXT = Context(workspace_id=WORKSPACE)


def starred(stream: UUID, version: int = 0, *, stars: int = 1, ids: tuple[UUID, ...] | None = None) -> Append:
    return Append(stream, version, [NoteStarred(stars=stars) for _ in ids or (1,)], CONTEXT, ids)


@contextmanager
def recorded_outcomes() -> Iterator[list[int | None]]:
    outcomes: list[int | None] = []
    run = Prepared.run

    def watched(self: Prepared, *arguments: object) -> int | None:
        outcomes.append(run(self, *arguments))  # type: ignore[arg-type]
        return outcomes[-1]

    with mock.patch.object(Prepared, "run", watched):
        yield outcomes


@pytest.fixture
def prepared(database: object) -> None:
    """Use each statement of `append` until it is prepared."""
    for _ in range(7):
        stream = new_id()
        append(starred(stream))
        append(starred(stream, 1))
        append(starred(stream, 2, ids=(new_id(), new_id())))
        append(starred(new_id(), ids=(new_id(), new_id())))


@pytest.mark.usefixtures("prepared")
class TestPrepared:
    def test_stores_what_load_returns(self) -> None:
        stream, moment = new_id(), datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2)))
        context = Context(
            workspace_id=WORKSPACE,
            session_id=new_id(),
            causation_id=new_id(),
            actor="user:é",
            trace_id="ab" * 16,
            key_id=a_key(),
        )
        with recorded_outcomes() as outcomes:
            recorded = [
                *append(Append(stream, 0, [NoteStarred(stars=1)], context), recorded_at=moment),
                *append(Append(stream, 1, [NoteStarred(stars=2, at=moment)], CONTEXT)),
                *append(starred(stream, 2, ids=(new_id(), new_id()))),
                *append(
                    Append(stream, 4, [NoteStarred(stars=5)], CONTEXT),
                    recorded_at=datetime(1970, 1, 1, tzinfo=UTC),
                ),
            ]
        assert outcomes == [1, 1, 2, 1]
        assert load(stream) == recorded

    def test_finds_a_stream_that_has_moved(self) -> None:
        stream = new_id()
        append(starred(stream))
        for version, count in ((0, 1), (2, 1), (0, 2), (2, 2)):
            with pytest.raises(StreamMoved) as caught:
                append(starred(stream, version, ids=tuple(new_id() for _ in range(count))))
            assert caught.value.actual_version == 1
        with pytest.raises(BadInput, match="at most"):
            append(starred(stream, 2**33))
        assert len(load(stream)) == 1

    def test_returns_what_stands_when_repeated(self) -> None:
        stream, ids = new_id(), (new_id(),)
        first = append(starred(stream, ids=ids))
        assert append(starred(stream, ids=ids)) == first
        with pytest.raises(EventIdReused):
            append(starred(stream, ids=ids, stars=2))

    def test_prepares_again_what_was_deallocated(self) -> None:
        execute("deallocate all")
        stream = new_id()
        with recorded_outcomes() as outcomes:
            for version in range(9):
                append(starred(stream, version))
        assert (outcomes[0], outcomes[1], outcomes[-1]) == (None, None, 1)
        assert [recorded.version for recorded in load(stream)] == list(range(1, 10))

    def test_goes_on_after_a_conflict(self) -> None:
        stream = new_id()
        append(starred(stream))
        for count in (1, 2):
            with pytest.raises(StreamMoved):
                append(starred(stream, ids=tuple(new_id() for _ in range(count))))
        with recorded_outcomes() as outcomes:
            for _ in range(2):
                append(starred(new_id()))
                append(starred(new_id(), ids=(new_id(), new_id())))
        # psycopg has deallocated all after the rollback.
        assert outcomes == [None, None, 1, 2]

    def test_leaves_transactions_to_the_cursor(self) -> None:
        stream = new_id()
        with recorded_outcomes() as outcomes:
            with transaction.atomic():
                append(starred(stream))
                transaction.set_rollback(True)
            connection.set_autocommit(False)
            try:
                append(starred(stream))
                connection.rollback()
            finally:
                connection.set_autocommit(True)
        assert outcomes in ([], [None])
        assert load(stream) == []

    def test_leaves_a_lost_connection_to_the_cursor(self) -> None:
        assert connection.connection is not None
        connection.connection.close()
        assert Prepared("never", "select 1").run(connection.connection, []) is None
        connection.close()

    def test_never_prepares_where_a_pooler_forbids_it(self) -> None:
        with psycopg.connect(
            connection.connection.info.dsn, autocommit=True, prepare_threshold=None
        ) as pooled:
            assert [Prepared("never", "select 1").run(pooled, []) for _ in range(9)] == [None] * 9


class TestAsk:
    """Of statements on a connection of asyncio."""

    async def test_answers(self, database: Database) -> None:
        asked = Prepared("asked", "select %b::int4, %b::text")
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
            for number in (b"\0\0\0\1", None):
                answer = await asked.ask(connection, [number, b"\xc3\xa9" * 3_000_000])
                assert answer.get_value(0, 0) == number
                assert len(answer.get_value(0, 1) or b"") == 6_000_000

    async def test_raises_what_the_server_says_and_goes_on(self, database: Database) -> None:
        divided = Prepared("divided", "select 1 / %b::int4")
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
            with pytest.raises(psycopg.errors.DivisionByZero):
                await divided.ask(connection, [b"\0\0\0\0"])
            with pytest.raises(psycopg.errors.SyntaxError):
                await Prepared("wrong", "selekt").ask(connection, [])
            answer = await divided.ask(connection, [b"\0\0\0\1"])
            assert answer.get_value(0, 0) == b"\0\0\0\1"

    async def test_prepares_again_what_was_deallocated(self, database: Database) -> None:
        asked = Prepared("asked", "select 1::int4")
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
            await asked.ask(connection, [])
            await connection.execute("deallocate all")
            answer = await asked.ask(connection, [])
            assert answer.get_value(0, 0) == b"\0\0\0\1"

    async def test_tells_of_a_lost_connection(self, database: Database) -> None:
        asked = Prepared("asked", "select pg_terminate_backend(pg_backend_pid())")
        async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
            with pytest.raises(psycopg.OperationalError):
                await asked.ask(connection, [])
            with pytest.raises(psycopg.OperationalError):
                await asked.ask(connection, [])
            assert connection.broken
