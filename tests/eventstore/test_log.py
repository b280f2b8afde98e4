"""Reading and following the log, and the database from asyncio."""

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from django.db import connection

from cartrita.eventstore import (
    LogNotContiguous,
    RecordedEvent,
    Sequencer,
    Unreadable,
    ahead,
    aload,
    append,
    aread_feed,
    aread_log,
    async_pool,
    close_async,
    follow,
    head,
    in_database_thread,
    new_id,
    projections,
    read_log,
    recorder,
    run_projector,
    wake_sequencer,
)
from cartrita.eventstore.listen import TAIL_EVENTS, listener
from cartrita.eventstore.registry import UnknownEventType
from tests.databases import Database
from tests.eventstore.happenings import Happened, Whispered, happening


async def eventually(holds: Callable[[], bool], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - the database says when
            await asyncio.sleep(0.01)


async def take(events: AsyncIterator[list[RecordedEvent]], count: int) -> list[RecordedEvent]:
    taken: list[RecordedEvent] = []
    async with asyncio.timeout(90):
        while len(taken) < count:
            taken += await anext(events)
    return taken


@pytest.fixture
async def background() -> AsyncIterator[Callable[[Awaitable[None]], None]]:
    """Run a service beside the test and end it."""
    tasks: list[asyncio.Future[None]] = []
    yield lambda service: tasks.append(asyncio.ensure_future(service))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.usefixtures("loop_resources")
class TestReadLog:
    async def test_reads_in_order_from_a_position(self) -> None:
        recorded = [(await recorder().record(happening(new_id())))[0] for _ in range(5)]
        await Sequencer().order()
        events = await aread_log(after=1, limit=3)
        assert [one.position for one in events] == [2, 3, 4]
        assert [one.event_id for one in events] == [one.event_id for one in recorded[1:4]]
        assert await in_database_thread(read_log, after=1, limit=3) == events
        assert await ahead() == await in_database_thread(head) == 5

    async def test_reads_one_session_or_workspace(self) -> None:
        session_id, workspace_id = new_id(), new_id()
        for number in range(6):
            await recorder().record(
                happening(new_id(), session_id=session_id if number % 2 else None)
                if number < 4
                else happening(new_id(), workspace_id=workspace_id)
            )
        await Sequencer().order()
        assert [one.position for one in await aread_log(after=0, session_id=session_id)] == [2, 4]
        assert [one.position for one in await aread_log(after=2, session_id=session_id)] == [4]
        assert [one.position for one in await aread_log(after=0, workspace_id=workspace_id)] == [5, 6]

    async def test_refuses_a_log_with_a_gap(self, database: Database) -> None:
        await recorder().record(happening(new_id(), count=3))
        await Sequencer().order()
        with psycopg.connect(database.superuser_url) as superuser:
            superuser.execute("alter table log disable trigger append_only")
            superuser.execute("delete from log where position = 2")
        with pytest.raises(LogNotContiguous, match="from position 1 to 3"):
            await aread_log(after=0)
        with pytest.raises(LogNotContiguous):
            await in_database_thread(read_log, after=0)

    async def test_is_empty_at_first(self) -> None:
        assert await aread_log(after=0) == []
        assert await ahead() == 0


@pytest.mark.usefixtures("loop_resources")
class TestReadFeed:
    async def test_gives_each_event_the_position_before_it(self) -> None:
        session_id = new_id()
        for number in range(6):
            await recorder().record(happening(new_id(), session_id=session_id if number % 2 else None))
        await Sequencer().order()
        feed = await aread_feed(0, session_id=session_id)
        assert [(before, one.position) for before, one in feed] == [(0, 2), (2, 4), (4, 6)]
        later = await aread_feed(3, session_id=session_id)
        assert [(before, one.position) for before, one in later] == [(2, 4), (4, 6)]
        assert await aread_feed(6, session_id=session_id) == []
        assert [(before, one.position) for before, one in await aread_feed(4)] == [(4, 5), (5, 6)]


class TestFollow:
    async def test_catches_up_and_goes_on(self, sequencer: Sequencer) -> None:
        stream_id = new_id()
        await recorder().record(happening(stream_id, count=3))
        events = follow(after=0)
        assert [one.position for one in await take(events, 3)] == [1, 2, 3]
        for version in range(4, 8):
            await recorder().record(happening(stream_id, version))
            (one,) = await take(events, 1)
            assert (one.position, one.version) == (version, version)

    async def test_gives_a_session_its_own_events(self, sequencer: Sequencer) -> None:
        session_id = new_id()
        live = follow(after=0, session_id=session_id)
        for number in range(10):
            await recorder().record(happening(new_id(), session_id=session_id if number % 3 == 0 else None))
        positions = [one.position for one in await take(live, 4)]
        assert positions == [1, 4, 7, 10]
        late = follow(after=4, session_id=session_id)
        assert [one.position for one in await take(late, 2)] == [7, 10]

    async def test_reaches_further_back_than_the_tail(self, sequencer: Sequencer) -> None:
        live = follow(after=0)
        count = TAIL_EVENTS + 300
        for _ in range(count // 100 + 1):
            await recorder().record(happening(new_id(), count=100))
        total = (count // 100 + 1) * 100
        assert [one.position for one in await take(live, total)] == list(range(1, total + 1))
        again = await take(follow(after=0), total)
        assert [one.position for one in again] == list(range(1, total + 1))
        assert [one.position for one in await take(follow(after=total - 2), 2)] == [total - 1, total]

    async def test_serves_many_followers(self, sequencer: Sequencer) -> None:
        followers = [follow(after=0) for _ in range(50)]
        waiting = [asyncio.create_task(take(one, 5)) for one in followers]
        for _ in range(5):
            await recorder().record(happening(new_id()))
        seen = {tuple(one.position for one in events) for events in await asyncio.gather(*waiting)}
        assert seen == {(1, 2, 3, 4, 5)}

    async def test_hears_of_a_sequencer_in_another_thread(
        self, database: Database, loop_resources: None
    ) -> None:
        stop = threading.Event()

        async def order() -> None:
            task = asyncio.create_task(Sequencer().run())
            while not stop.is_set():  # noqa: ASYNC110 - a thread says when
                await asyncio.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        elsewhere = asyncio.create_task(asyncio.to_thread(asyncio.run, order()))
        events = follow(after=0)
        await in_database_thread(append, happening(new_id()))
        assert [one.position for one in await take(events, 1)] == [1]
        stop.set()
        await elsewhere

    async def test_goes_on_after_its_connections_were_killed(
        self, database: Database, sequencer: Sequencer
    ) -> None:
        events = follow(after=0)
        await recorder().record(happening(new_id()))
        await take(events, 1)
        with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
            superuser.execute(
                "select pg_terminate_backend(pid, 60000) from pg_stat_activity "
                "where application_name like 'cartrita%' and datname = current_database()"
            )
        await recorder().record(happening(new_id()))
        assert [one.position for one in await take(events, 1)] == [2]

    async def test_passes_by_what_cannot_be_read(self, database: Database, sequencer: Sequencer) -> None:
        events = follow(after=0)
        await recorder().record(happening(new_id()))
        await take(events, 1)
        with psycopg.connect(database.url, autocommit=True) as other:
            other.execute(
                "insert into event (stream_id, version, event_id, type, schema_version, recorded_at, "
                "workspace_id, actor, trace_id, data) values (%s, 1, %s, 'log_tests.Nobody', 1, now(), %s, "
                "'system', '', '{}')",
                [new_id(), new_id(), new_id()],
            )
        await recorder().record(happening(new_id(), note="after it"))
        unknown, after = await take(events, 2)
        assert isinstance(unknown.event, Unreadable)
        assert (unknown.position, unknown.type_name, unknown.data) == (2, "log_tests.Nobody", b"{}")
        assert unknown.event.message.startswith(
            f"Event 1 of stream {unknown.stream_id} at position 2 (log_tests.Nobody, version 1): "
        )
        assert after.event == Happened(number=1, note="after it")
        with pytest.raises(UnknownEventType, match="at position 2"):
            await aload(unknown.stream_id)

    async def test_ends_with_the_loop(self, sequencer: Sequencer) -> None:
        await recorder().record(happening(new_id()))
        await take(follow(after=0), 1)
        first = listener()
        await close_async()
        assert listener() is not first


class TestWakeSequencer:
    async def test_reaches_another_process_by_a_notification(
        self, database: Database, loop_resources: None
    ) -> None:
        """Nothing leads in this process, so commits here are announced to others."""
        with psycopg.connect(database.url, autocommit=True) as other:
            other.execute("listen cartrita_wake")
            await asyncio.to_thread(_append_and_close, new_id())
            for _ in range(20):
                wake_sequencer()
            heard = await asyncio.to_thread(lambda: list(other.notifies(timeout=60, stop_after=1)))
            heard += await asyncio.to_thread(lambda: list(other.notifies(timeout=0.5)))
        assert 1 <= len(heard) < 10

    async def test_tells_of_the_last_commit_of_a_process_that_ends(self, database: Database) -> None:
        environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "cartrita.settings"}
        with psycopg.connect(database.url, autocommit=True) as other:
            other.execute("listen cartrita_wake")
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", APPEND_ONE, cwd=CHECKOUT, env=environment
            )
            assert await process.wait() == 0
            assert list(other.notifies(timeout=0))


APPEND_ONE = """
import django
django.setup()
from cartrita.eventstore import append, new_id
from tests.eventstore.happenings import happening
append(happening(new_id()))
"""
CHECKOUT = Path(__file__).resolve().parents[2]


def _append_and_close(stream_id: UUID) -> None:
    append(happening(stream_id))
    connection.close()


class TestRunProjector:
    @pytest.fixture(autouse=True)
    def only_these_projections(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(projections, "_following", {})

    async def test_follows_the_log(
        self, sequencer: Sequencer, background: Callable[[Awaitable[None]], None]
    ) -> None:
        seen: list[int | None] = []

        @projections.following("log_tests.seen", Happened, tables=[])
        def project_seen(batch: Sequence[RecordedEvent]) -> None:
            seen.extend(one.position for one in batch)

        await recorder().record(happening(new_id(), count=3))
        background(run_projector())
        await eventually(lambda: seen == [1, 2, 3])
        await recorder().record(happening(new_id()))
        await eventually(lambda: seen == [1, 2, 3, 4])

    async def test_tries_again_what_failed_while_others_go_on(
        self, sequencer: Sequencer, background: Callable[[Awaitable[None]], None]
    ) -> None:
        tries: list[int] = []
        good: list[int | None] = []
        recovered: list[int | None] = []

        @projections.following("log_tests.bad", Happened, tables=[])
        def project_bad(batch: Sequence[RecordedEvent]) -> None:
            tries.append(len(batch))
            if len(tries) < 3:
                raise ValueError("not yet")
            recovered.extend(one.position for one in batch)

        @projections.following("log_tests.good", Happened, tables=[])
        def project_good(batch: Sequence[RecordedEvent]) -> None:
            good.extend(one.position for one in batch)

        background(run_projector())
        await recorder().record(happening(new_id()))
        await eventually(lambda: good == [1])
        await recorder().record(happening(new_id()))
        await eventually(lambda: good == [1, 2])
        await eventually(lambda: recovered == [1, 2])

    async def test_moves_the_checkpoint_of_what_is_not_concerned(
        self, database: Database, sequencer: Sequencer, background: Callable[[Awaitable[None]], None]
    ) -> None:
        @projections.following("log_tests.whispers", Whispered, tables=[])
        def project_whispers(batch: Sequence[RecordedEvent]) -> None:
            raise AssertionError(batch)

        def checkpoint() -> int:
            with psycopg.connect(database.url) as session:
                row = session.execute("select max(position) from projection_checkpoint").fetchone()
            return row[0] or 0 if row else 0

        background(run_projector())
        await recorder().record(happening(new_id()))
        await eventually(lambda: checkpoint() == 1)
        await recorder().record(happening(new_id(), count=2))
        await eventually(lambda: checkpoint() == 3)


@pytest.mark.usefixtures("loop_resources")
class TestInDatabaseThread:
    async def test_runs_several_at_a_time_and_keeps_their_connections(self) -> None:
        together = threading.Barrier(4, timeout=60)

        def work() -> int:
            connection.ensure_connection()
            together.wait()
            return int(connection.connection.info.backend_pid)

        first = await asyncio.gather(*(in_database_thread(work) for _ in range(4)))
        assert len(set(first)) == 4
        again = await asyncio.gather(*(in_database_thread(work) for _ in range(4)))
        assert set(first) & set(again)

    async def test_raises_what_the_function_raised(self) -> None:
        def fail() -> None:
            raise ValueError("so it is")

        with pytest.raises(ValueError, match="so it is"):
            await in_database_thread(fail)

    async def test_recovers_from_a_lost_connection(self, database: Database) -> None:
        def pid() -> int:
            connection.ensure_connection()
            with connection.cursor() as cursor:
                cursor.execute("select pg_backend_pid()")
                return int(cursor.fetchone()[0])

        lost = await in_database_thread(pid)
        with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
            superuser.execute("select pg_terminate_backend(%s, 60000)", [lost])
        assert await in_database_thread(pid) != lost

    async def test_leaves_no_connection_behind(self, database: Database) -> None:
        await in_database_thread(append, happening(new_id()))
        async with async_pool().connection() as pooled:
            await pooled.execute("select 1")
        await close_async()
        with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
            # The server ends a moment after the client has hung up.
            await eventually(
                lambda: (
                    not superuser.execute(
                        "select from pg_stat_activity where datname = current_database() "
                        "and pid <> pg_backend_pid() and application_name <> 'cartrita wake' "
                        "and backend_type = 'client backend'"
                    ).fetchall()
                )
            )
