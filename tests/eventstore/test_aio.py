import asyncio

import psycopg
import pytest

from cartrita.eventstore.aio import cancel_until_ended, close_async, in_database_thread
from cartrita.eventstore.store import execute
from tests.databases import Database


class TestCancelUntilEnded:
    async def test_ends_a_task_that_loses_the_first_cancellation(self) -> None:
        lost = asyncio.Event()

        async def losing() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(losing())
        await asyncio.sleep(0)
        await cancel_until_ended([task], again_after=0.01)
        assert lost.is_set()
        assert task.cancelled()

    async def test_waits_for_a_task_that_takes_its_time_to_end(self) -> None:
        tidy = asyncio.Event()

        async def tidying() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                tidy.set()

        task = asyncio.create_task(tidying())
        await asyncio.sleep(0)
        await cancel_until_ended([task])
        assert tidy.is_set()
        assert task.cancelled()

    async def test_takes_a_task_that_ends_by_itself(self) -> None:
        async def ending() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return

        ends = asyncio.create_task(ending())
        ended = asyncio.create_task(asyncio.sleep(0))
        await ended
        await cancel_until_ended([ends, ended])
        assert ends.done()
        assert not ended.cancelled()

    async def test_leaves_the_error_of_a_task_to_its_owner(self) -> None:
        async def failing() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("while it ended")

        task = asyncio.create_task(failing())
        await asyncio.sleep(0)
        await cancel_until_ended([task])
        assert isinstance(task.exception(), ValueError)

    async def test_has_nothing_to_do_without_tasks(self) -> None:
        await cancel_until_ended([])


@pytest.mark.flow
class TestDatabaseThreads:
    async def test_go_on_after_the_server_ended_their_connections(self, database: Database) -> None:
        def backend() -> int:
            ((number,),) = execute("select pg_backend_pid()").fetchall()
            return int(number)

        # One thread after the other takes a call; each has a connection of its own.
        before = {await in_database_thread(backend) for _ in range(12)}
        async with await psycopg.AsyncConnection.connect(database.superuser_url, autocommit=True) as operator:
            for number in before:
                await operator.execute("select pg_terminate_backend(%s, 60000)", [number])
        after = {await in_database_thread(backend) for _ in range(12)}
        await close_async()
        assert after.isdisjoint(before)
