"""The ASGI application: HTTP by Django, sockets by cartrita.streaming, services for as long as it runs.

A server that sends lifespan events (uvicorn) starts and stops the services with them. daphne sends none: the
web process of the embedded start calls `start` and `stop` itself.
"""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "cartrita.settings")

# The order matters: telemetry before Django loads its middleware, Django before what has models.
# ruff: noqa: E402
from cartrita import telemetry

telemetry.set_up("web")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

from channels.routing import ProtocolTypeRouter

from cartrita.errors import CartritaError
from cartrita.eventstore import in_database_thread
from cartrita.eventstore.schema import check_up_to_date
from cartrita.orchestrator.service import ending_process, start_services, stop_services
from cartrita.streaming.hub import hub
from cartrita.streaming.routing import websocket_application

Message = MutableMapping[str, Any]


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
