"""How many calls of a model go on at a time in this process; the others wait in the order they came."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

from django.conf import settings

_places: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Semaphore]] = WeakKeyDictionary()


@asynccontextmanager
async def place(model: str) -> AsyncIterator[None]:
    """Hold one of the model's places, of which CARTRITA_CALLS_PER_MODEL tells the number; 0 is no limit."""
    if settings.CALLS_PER_MODEL == 0:
        yield
        return
    here = _places.setdefault(asyncio.get_running_loop(), {})
    async with here.setdefault(model, asyncio.Semaphore(settings.CALLS_PER_MODEL)):
        yield
