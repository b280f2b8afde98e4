"""The application that tests run in a server of its own: the socket with the rooms."""

# ruff: noqa: E402 - Django is set up before anything of it is imported
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.streaming.server_settings"

import django

django.setup()

from channels.routing import ProtocolTypeRouter

from cartrita.eventstore import close_async
from cartrita.streaming.hub import hub
from cartrita.streaming.registry import replace_registrations
from cartrita.streaming.routing import websocket_application
from tests.streaming.rooms import REGISTRATIONS

replace_registrations(REGISTRATIONS)


async def lifespan(
    _scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    while (await receive())["type"] == "lifespan.startup":
        await hub().start()
        hub().drain_on_sigterm()
        await send({"type": "lifespan.startup.complete"})
    await close_async()
    await send({"type": "lifespan.shutdown.complete"})


application = ProtocolTypeRouter({"websocket": websocket_application(), "lifespan": lifespan})

if __name__ == "__main__":
    import uvicorn

    uvicorn.run(application, fd=int(sys.argv[1]), log_level="warning")
