import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from cartrita.eventstore import Sequencer, close_async
from tests.databases import Database


@pytest.fixture
async def loop_resources(database: Database) -> AsyncIterator[None]:
    """Close what the event store opened for the test's event loop."""
    yield
    await close_async()


@pytest.fixture
async def sequencer(loop_resources: None) -> AsyncIterator[Sequencer]:
    """A sequencer that runs in the test's event loop."""
    runs = Sequencer()
    task = asyncio.create_task(runs.run())
    yield runs
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
