"""The ASGI application: HTTP by Django, sockets by cartrita.streaming, services for as long as it runs.

A server that sends lifespan events (uvicorn) starts and stops the services with them. daphne sends none: the
web process of the embedded start calls `start` and `stop` itself.
"""

import asyncio
import gc
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cartrita.settings")
if not settings.configured:
    # A new connection for each request would cost as much as its statements.
    os.environ.setdefault("CARTRITA_DATABASE_POOL", "12")

# The order matters: telemetry before Django loads its middleware, Django before what has models.
# ruff: noqa: E402
from cartrita import telemetry

telemetry.set_up("web")

import django

django.setup(set_prefix=False)

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections


class OneThread(ASGIHandler):
    """Django's handler, with the middleware and the view of a request in one thread.

    Django changes between loop and thread for each middleware, which cost more than the rest of the request
    did. Asynchronous views still run in the loop.
    """

    def load_middleware(self, is_async: bool = False) -> None:  # noqa: ARG002 - Django says true
        """Build the chain as for a thread, and enter that once."""
        super().load_middleware(is_async=False)
        chain: Callable[..., Any] = self._middleware_chain  # type: ignore[has-type] # of the line before
        self._middleware_chain = sync_to_async(chain, thread_sensitive=True)


django_application = OneThread()

from channels.routing import ProtocolTypeRouter

from cartrita.errors import CartritaError
from cartrita.eventstore import in_database_thread
from cartrita.eventstore.schema import check_up_to_date
from cartrita.orchestrator.service import ending_process, start_services, stop_services
from cartrita.streaming.hub import hub
from cartrita.streaming.routing import websocket_application

Message = MutableMapping[str, Any]

# The collector's pauses, not the work, set the slowest answers; measured with 10,000 connections.
GC_THRESHOLDS = (50_000, 20, 1_000)


async def start() -> None:
    """Start what runs beside requests: sequencer, projector, ingestion, orchestrator, hub."""
    await start_services()
    await hub().start()


async def stop() -> None:
    """Say goodbye to all sockets, then stop the services and close this loop's connections.

    Ends the process when that takes too long.
    """
    async with ending_process():
        await hub().drain()
        await stop_services()
        if settings.DATABASE_POOL:
            await asyncio.to_thread(connections["default"].close_pool)  # type: ignore[attr-defined]


def settle_memory() -> None:
    """Leave all that is loaded out of later collections of garbage, and let these be rarer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def lifespan(
    _scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Start and stop the services as the server says (the ASGI lifespan protocol)."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await in_database_thread(check_up_to_date)
            except CartritaError as error:
                await send({"type": "lifespan.startup.failed", "message": error.message})
                return
            await start()
            settle_memory()
            # uvicorn closes its sockets before it says that it stops.
            hub().drain_on_sigterm()
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await stop()
            await send({"type": "lifespan.shutdown.complete"})
            return


application = ProtocolTypeRouter(
    {"http": django_application, "websocket": websocket_application(), "lifespan": lifespan}
)
