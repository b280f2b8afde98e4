"""Where the socket is: `/ws`, and `/ws/<session_id>` for clients that take a session's own address."""

from typing import Any

from channels.routing import URLRouter
from channels.sessions import CookieMiddleware
from django.urls import path

from cartrita.streaming.consumer import StreamConsumer

websocket_urlpatterns = [
    path("ws", StreamConsumer.as_asgi()),
    path("ws/<uuid:session_id>", StreamConsumer.as_asgi()),
]


def websocket_application() -> Any:
    """Return the ASGI application of all sockets: `{"websocket": websocket_application()}`.

    Cookies are parsed; an unknown path is accepted and closed with 4404, so that a client learns why.
    """
    elsewhere = path("<path:path>", StreamConsumer.as_asgi())
    return CookieMiddleware(URLRouter([*websocket_urlpatterns, elsewhere]))
