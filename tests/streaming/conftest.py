import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest
import uvicorn
from channels.routing import ProtocolTypeRouter
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from cartrita.eventstore import Sequencer, close_async
from cartrita.streaming import registry
from cartrita.streaming.client import Stream
from cartrita.streaming.hub import Hub, hub
from cartrita.streaming.routing import websocket_application
from tests.databases import Database
from tests.streaming import rooms


@pytest.fixture
def registered_rooms() -> Iterator[rooms.House]:
    before = registry.registrations()
    registry.replace_registrations(rooms.REGISTRATIONS)
    rooms.house.__init__()  # type: ignore[misc] # everybody forgets the test before
    yield rooms.house
    registry.replace_registrations(before)


@pytest.fixture
async def ordered_log(database: Database) -> AsyncIterator[None]:
    """A sequencer in the test's loop, and everything of the loop closed afterwards."""
    task = asyncio.create_task(Sequencer().run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await close_async()


class Raw:
    """A connection whose frames the test reads and writes itself."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **frame: Any) -> None:
        await self.connection.send(json.dumps(frame))

    async def receive(self, *types: str) -> dict[str, Any]:
        """Return the next frame of these types (any without), passing others."""
        while True:
            frame: dict[str, Any] = json.loads(await self.connection.recv())
            if not types or frame["t"] in types:
                return frame

    async def ask(self, **frame: Any) -> dict[str, Any]:
        await self.send(**frame)
        return await self.receive("res", "subbed", "bye")

    async def closed(self) -> tuple[int | None, str | None]:
        """Return the close code and reason."""
        await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason


class LiveServer:
    """A real server on a loopback port, in the test's loop."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"ws://127.0.0.1:{port}/ws"

    @property
    def hub(self) -> Hub:
        return hub()

    def stream(self, visitor: UUID | None = None) -> Stream:
        visitor = visitor or uuid4()

        async def ticket() -> str:
            return f"{visitor}.{uuid4().hex}"

        return Stream(self.url, ticket=ticket, first_pause=0.02)

    @contextlib.asynccontextmanager
    async def raw(
        self,
        visitor: UUID | None = None,
        *,
        path: str = "",
        cookie: str | None = None,
        origin: str | None = None,
        protocols: list[str] | None = None,
    ) -> AsyncIterator[Raw]:
        if protocols is None:
            protocols = (
                ["cartrita.v1"] if cookie else ["cartrita.v1", f"ticket.{visitor or uuid4()}.{uuid4().hex}"]
            )
        async with connect(
            self.url + path,
            subprotocols=[Subprotocol(name) for name in protocols] or None,
            origin=None if origin is None else Origin(origin),
            additional_headers={"Cookie": cookie} if cookie else None,
            max_size=2**22,
            close_timeout=1,
        ) as connection:
            yield Raw(connection)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[LiveServer]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(
            ProtocolTypeRouter({"websocket": websocket_application()}),
            lifespan="off",
            log_config=None,
            timeout_graceful_shutdown=1,
        )
        running = uvicorn.Server(config)
        task = asyncio.create_task(running.serve(sockets=[listening]))
        yield LiveServer(listening.getsockname()[1])
        await hub().stop()
        running.should_exit = True
        await task


@pytest.fixture
async def server(ordered_log: None, registered_rooms: rooms.House) -> AsyncIterator[LiveServer]:
    """A server with the rooms."""
    async with serving() as live:
        yield live


@pytest.fixture
async def product(ordered_log: None) -> AsyncIterator[LiveServer]:
    """A server with the channels and commands of the product."""
    async with serving() as live:
        yield live


@pytest.fixture
def free_socket() -> Iterator[socket.socket]:
    """A listening socket that outlives the servers that are given it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        yield listening


Check = Callable[[], bool]


async def until(check: Check) -> None:
    """Wait for something to become so (the test's own time limit ends it otherwise)."""
    while not check():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.005)
