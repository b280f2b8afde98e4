"""Requests leave no database connection behind."""

import asyncio
import gc
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from django.core.asgi import get_asgi_application

from tests.databases import Database

REQUESTS = 5


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from closing what nobody else closes."""
    gc.disable()
    yield
    gc.enable()


async def asks(path: str, *headers: tuple[bytes, bytes]) -> int:
    """Send a GET as an ASGI server does, and return the status."""
    scope = {
        "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), *headers],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []
    received = asyncio.Queue[dict[str, Any]]()
    received.put_nowait({"type": "http.request", "body": b"", "more_body": False})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await get_asgi_application()(scope, received.get, send)  # type: ignore[arg-type]
    return int(sent[0]["status"])


def connections_to(database: Database) -> int:
    with psycopg.connect(database.superuser_url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [database.name],
        ).fetchone()
    return row[0] if row else 0


def falls_to(count: int, database: Database) -> None:
    """Wait until there are no more connections than that: a backend takes a moment to see its client go."""
    while connections_to(database) > count:
        time.sleep(0.02)


@pytest.mark.usefixtures("uncollected")
class TestRequest:
    async def test_leaves_no_connection_behind(self, database: Database, settings: object) -> None:
        settings.SECURE_SSL_REDIRECT = False  # type: ignore[attr-defined]
        before = connections_to(database)
        for _ in range(REQUESTS):
            status = await asks("/api/v2/sessions", (b"authorization", b"Bearer crt_unknown"))
            assert status == 401
        falls_to(before, database)
