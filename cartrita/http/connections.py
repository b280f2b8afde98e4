"""Database connections of requests end with them.

An ASGI server runs each request's synchronous code in a thread of its own, which ends with the request. A
connection that outlives it serves nobody, and PostgreSQL soon has none left for anybody.
"""

from typing import Any

from django.core.handlers.asgi import ASGIHandler
from django.core.signals import request_finished
from django.db import connections


def register() -> None:
    """Close the connections of each request that an ASGI server hands over, when it has been answered."""
    request_finished.connect(_close, dispatch_uid="cartrita.http.connections")


def _close(sender: Any = None, **_: object) -> None:
    # Other handlers answer in the caller's thread, whose connections are the caller's.
    if isinstance(sender, type) and issubclass(sender, ASGIHandler):
        connections.close_all()
