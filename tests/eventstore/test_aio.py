import asyncio

from cartrita.eventstore.aio import cancel_until_ended


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
