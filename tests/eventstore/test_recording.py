"""Group commit: many tasks, one commit, and each call all or nothing for itself."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cartrita.errors import BadInput, Unavailable
from cartrita.eventstore import (
    Append,
    Context,
    Erased,
    Event,
    EventIdReused,
    RecordedEvent,
    Recorder,
    StreamMoved,
    aload,
    append,
    close_async,
    create_data_key,
    erase_key,
    in_database_thread,
    new_id,
    projections,
    recorder,
)
from cartrita.eventstore.prepared import Prepared
from tests.databases import Database
from tests.eventstore.happenings import WORKSPACE, Happened, Whispered, happening

pytestmark = pytest.mark.usefixtures("loop_resources")


def rows_of(database: Database, stream_id: UUID) -> list[tuple[int, UUID]]:
    with psycopg.connect(database.url) as session:
        return session.execute(
            "select version, event_id from event where stream_id = %s order by version", [stream_id]
        ).fetchall()


@pytest.fixture
def poison(database: Database) -> Callable[[UUID], Append]:
    """Make appends that only the database refuses."""
    with psycopg.connect(database.superuser_url) as superuser:
        superuser.execute("alter table event add constraint healthy check (actor <> 'agent:poison')")

    def make(stream_id: UUID) -> Append:
        context = Context(workspace_id=WORKSPACE, actor="agent:poison")
        return Append(stream_id, 0, [Happened(number=1)], context, [new_id()])

    return make


@dataclass(frozen=True)
class Try:
    """One call of a generated story: (stream, expected version, events) for each of its appends."""

    parts: tuple[tuple[int, int, int], ...]
    repeats: bool


tries = st.builds(
    Try,
    parts=st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3)),
        min_size=1,
        max_size=3,
        unique_by=lambda part: part[0],
    ).map(tuple),
    repeats=st.booleans(),
)


class TestRecord:
    async def test_returns_what_load_returns(self) -> None:
        stream_id, session_id = new_id(), new_id()
        recorded = await recorder().record(happening(stream_id, count=3, session_id=session_id))
        assert [one.version for one in recorded] == [1, 2, 3]
        assert await aload(stream_id) == recorded
        assert await aload(stream_id, after_version=2) == recorded[2:]

    async def test_returns_nothing_for_nothing(self) -> None:
        assert await recorder().record() == []

    async def test_commits_many_callers_together(self, database: Database) -> None:
        streams = [new_id() for _ in range(50)]
        await asyncio.gather(*(recorder().record(happening(one)) for one in streams))
        with psycopg.connect(database.url) as session:
            found = session.execute("select count(*), count(distinct xid) from event").fetchone()
        assert found is not None
        assert found[0] == 50
        assert found[1] < 10

    async def test_writes_more_than_a_connection_takes_at_once(self, database: Database) -> None:
        note = "x" * 60_000
        streams = [new_id() for _ in range(30)]
        await asyncio.gather(*(recorder().record(happening(one, note=note)) for one in streams))
        with psycopg.connect(database.url) as session:
            found = session.execute("select count(*), count(distinct xid) from event").fetchone()
        assert found == (30, 1)

    async def test_says_where_a_moved_stream_stands(self) -> None:
        stream_id = new_id()
        await recorder().record(happening(stream_id, count=2))
        with pytest.raises(StreamMoved) as moved:
            await recorder().record(happening(stream_id, 2))
        assert (moved.value.stream_id, moved.value.expected_version, moved.value.actual_version) == (
            stream_id,
            1,
            2,
        )

    async def test_refuses_to_leave_a_gap(self) -> None:
        stream_id = new_id()
        with pytest.raises(StreamMoved) as moved:
            await recorder().record(happening(stream_id, 3))
        assert moved.value.actual_version == 0
        with pytest.raises(StreamMoved):
            await recorder().record(happening(stream_id, 1), happening(stream_id, 3))

    async def test_continues_a_stream_within_one_call(self) -> None:
        stream_id = new_id()
        recorded = await recorder().record(happening(stream_id, 2), happening(stream_id, 1))
        assert [one.version for one in recorded] == [1, 2]

    async def test_answers_a_repeated_call_with_what_stands(self) -> None:
        stream_id = new_id()
        once = happening(stream_id, count=2)
        first = await recorder().record(once)
        await recorder().record(happening(stream_id, 3))
        assert await recorder().record(once) == first

    async def test_answers_a_call_repeated_at_the_same_time(self) -> None:
        once = happening(new_id())
        answers = await asyncio.gather(*(recorder().record(once) for _ in range(5)))
        assert len({one.event_id for answer in answers for one in answer}) == 1

    async def test_refuses_other_content_under_the_same_id(self) -> None:
        stream_id, event_id = new_id(), new_id()
        await recorder().record(happening(stream_id, event_ids=[event_id]))
        with pytest.raises(EventIdReused):
            await recorder().record(happening(stream_id, event_ids=[event_id], note="something else"))

    async def test_fails_the_caller_of_a_bad_row_alone(
        self, database: Database, poison: Callable[[UUID], Append]
    ) -> None:
        good, bad = new_id(), new_id()
        answers = await asyncio.gather(
            recorder().record(happening(good)),
            recorder().record(poison(bad)),
            recorder().record(happening(good, 2)),
            return_exceptions=True,
        )
        assert isinstance(answers[0], list)
        assert isinstance(answers[1], BadInput)
        assert rows_of(database, bad) == []
        assert [version for version, _ in rows_of(database, good)] == (
            [1, 2] if isinstance(answers[2], list) else [1]
        )

    async def test_refuses_a_version_beyond_the_column(self) -> None:
        with pytest.raises(BadInput, match="at most 2147483647 events"):
            await recorder().record(happening(new_id(), 2**31))

    async def test_does_not_wait_for_another_writers_open_transaction(self, database: Database) -> None:
        held = new_id()
        with psycopg.connect(database.url) as other:
            other.execute(
                "insert into event (stream_id, version, event_id, type, schema_version, recorded_at, "
                "workspace_id, actor, trace_id, data) values (%s, 1, %s, 'log_tests.Happened', 1, now(), %s, "
                "'system', '', '{\"note\":\"\",\"number\":1}')",
                [held, new_id(), new_id()],
            )
            waiting = asyncio.create_task(recorder().record(happening(held)))
            free = await asyncio.gather(*(recorder().record(happening(new_id())) for _ in range(20)))
            assert len(free) == 20
            assert not waiting.done()
            other.commit()
        with pytest.raises(StreamMoved):
            await waiting

    async def test_writes_nothing_for_who_was_cancelled_before_its_turn(self, database: Database) -> None:
        writer, early, late = Recorder(), new_id(), new_id()
        task = asyncio.create_task(writer.record(happening(early)))
        waits = asyncio.create_task(writer.record(happening(late)))
        await asyncio.sleep(0)
        task.cancel()
        await waits
        await writer.close()
        assert rows_of(database, early) == []
        assert len(rows_of(database, late)) == 1

    async def test_serves_the_others_when_one_is_cancelled_in_flight(self, database: Database) -> None:
        streams = [new_id() for _ in range(20)]
        tasks = [asyncio.create_task(recorder().record(happening(one))) for one in streams]
        while not any(rows_of(database, one) for one in streams):
            tasks[3].cancel()
            await asyncio.sleep(0.001)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, list) for one in done) == 19

    async def test_writes_what_waits_when_it_is_closed(self, database: Database) -> None:
        stream_id = new_id()
        task = asyncio.create_task(recorder().record(happening(stream_id)))
        await asyncio.sleep(0)
        ending = recorder()
        await close_async()
        assert len(await task) == 1
        with pytest.raises(Unavailable):
            await ending.record(happening(new_id()))

    async def test_survives_the_loss_of_its_connection(self, database: Database) -> None:
        stream_id = new_id()
        await recorder().record(happening(stream_id))
        with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
            for version in range(2, 12):
                superuser.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where application_name = 'cartrita recorder' and datname = current_database()"
                )
                await recorder().record(happening(stream_id, version))
        assert [version for version, _ in rows_of(database, stream_id)] == list(range(1, 12))

    async def test_connects_anew_after_what_nobody_foresaw(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream_id = new_id()
        await recorder().record(happening(stream_id))

        async def lose_count(*_: object) -> None:
            raise RuntimeError("in the middle of an answer")

        with monkeypatch.context() as broken:
            broken.setattr(Prepared, "ask", lose_count)
            with pytest.raises(RuntimeError, match="in the middle"):
                await recorder().record(happening(stream_id, 2))
        assert recorder()._connection is None
        await recorder().record(happening(stream_id, 2))
        assert [one.version for one in await aload(stream_id)] == [1, 2]

    async def test_seals_personal_text(self, database: Database) -> None:
        key_id = await in_database_thread(create_data_key, subject_id=new_id(), scope="session")
        context = Context(workspace_id=WORKSPACE, key_id=key_id)
        stream_id = new_id()
        await recorder().record(Append(stream_id, 0, [Whispered(text="between us")], context))
        (stored,) = await aload(stream_id)
        assert stored.event == Whispered(text="between us")
        assert b"between us" not in stored.data
        await in_database_thread(erase_key, key_id)
        (erased,) = await aload(stream_id)
        assert (erased.erased, erased.event) == (True, Whispered(text=""))
        with pytest.raises(Erased):
            await recorder().record(Append(stream_id, 1, [Whispered(text="again")], context))

    async def test_asks_for_the_key_of_personal_text(self) -> None:
        with pytest.raises(BadInput, match="key_id"):
            await recorder().record(
                Append(new_id(), 0, [Whispered(text="x")], Context(workspace_id=WORKSPACE))
            )

    async def test_refuses_types_with_an_inline_projection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        projected: dict[type[Event], object] = {Happened: (object(),)}
        monkeypatch.setattr(projections, "_inline_by_class", projected)
        with pytest.raises(BadInput, match="append"):
            await recorder().record(happening(new_id()))

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(story=st.lists(tries, min_size=1, max_size=12), with_poison=st.booleans())
    async def test_stores_each_call_wholly_or_not_at_all(
        self, poison: Callable[[UUID], Append], story: Sequence[Try], with_poison: bool
    ) -> None:
        streams = [new_id() for _ in range(5)]
        calls: list[list[Append]] = []
        for number, one in enumerate(story):
            if one.repeats and calls:
                calls.append(calls[number // 2])
            else:
                calls.append([happening(streams[s], expected + 1, count=n) for s, expected, n in one.parts])
        if with_poison:
            calls.insert(len(calls) // 2, [happening(new_id()), poison(new_id())])
        outcomes = await asyncio.gather(
            *(recorder().record(*appends) for appends in calls), return_exceptions=True
        )
        stored: dict[UUID, list[UUID]] = {}
        for stream_id in {one.stream_id for appends in calls for one in appends}:
            events = await aload(stream_id)
            assert [one.version for one in events] == list(range(1, len(events) + 1))
            stored[stream_id] = [one.event_id for one in events]
        for appends, outcome in zip(calls, outcomes, strict=True):
            wanted = [(one.stream_id, event_id) for one in appends for event_id in one.event_ids or ()]
            present = {(stream_id, event_id) in in_store(stored) for stream_id, event_id in wanted}
            assert len(present) == 1, "a part of a call was stored"
            if isinstance(outcome, StreamMoved):
                assert outcome.expected_version != outcome.actual_version
            elif isinstance(outcome, BadInput):
                assert with_poison
                assert present == {False}
            else:
                assert isinstance(outcome, list), outcome
                assert present == {True}
                assert {(one.stream_id, one.event_id) for one in outcome} == set(wanted)

    async def test_shares_a_stream_with_append(self, database: Database) -> None:
        stream_id = new_id()

        async def record() -> int:
            return await _write_ten(lambda one: recorder().record(one), stream_id)

        async def append_in_thread() -> int:
            return await _write_ten(lambda one: in_database_thread(append, one), stream_id)

        assert sum(await asyncio.gather(record(), append_in_thread(), record(), append_in_thread())) == 40
        assert [version for version, _ in rows_of(database, stream_id)] == list(range(1, 41))


async def _write_ten(write: Callable[[Append], Awaitable[list[RecordedEvent]]], stream_id: UUID) -> int:
    written = version = 0
    while written < 10:
        try:
            await write(happening(stream_id, version + 1))
        except StreamMoved as moved:
            version = moved.actual_version
        else:
            written, version = written + 1, version + 1
    return written


def in_store(stored: dict[UUID, list[UUID]]) -> set[tuple[UUID, UUID]]:
    return {(stream_id, event_id) for stream_id, ids in stored.items() for event_id in ids}
