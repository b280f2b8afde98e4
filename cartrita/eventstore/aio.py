"""The database from asyncio: connections of the running loop, and threads of our own for Django code."""

import asyncio
import functools
import select
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import psycopg
from django.db import close_old_connections, connections
from opentelemetry import context as trace_context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from psycopg_pool import AsyncConnectionPool

P = ParamSpec("P")
T = TypeVar("T")

DATABASE_THREADS = 6
POOL_CONNECTIONS = 4
# After so long a task that was cancelled and goes on is asked again.
CANCEL_SECONDS = 1.0

# What Django passes to psycopg for its own cursors; asyncio connections have their own rows and contexts.
_DJANGO_ONLY = frozenset({"cursor_factory", "context", "prepare_threshold", "server_side_binding"})


def connection_parameters() -> dict[str, Any]:
    """Return how psycopg reaches the database that Django uses now (a test's database in a test)."""
    parameters = connections["default"].get_connection_params()
    options = f"{parameters.get('options', '')} -c TimeZone=UTC".strip()
    return {
        **{name: value for name, value in parameters.items() if name not in _DJANGO_ONLY},
        "options": options,
    }


async def connect(application_name: str) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    """Return a new autocommit connection for long-lived use; the caller closes it."""
    parameters = {**connection_parameters(), "application_name": application_name}
    return await psycopg.AsyncConnection.connect(**parameters, autocommit=True)


def is_silent(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Tell whether the server has sent nothing on an idle connection: then it stands.

    A server that stops says so or closes the connection, and either can be read. Asking it would be a query
    before each unit of work.
    """
    if connection.closed or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLPRI)
    return not poll.poll(0)


async def _check(connection: psycopg.AsyncConnection[Any]) -> None:
    if not is_silent(connection):
        with suppress_instrumentation():
            await AsyncConnectionPool.check_connection(connection)


class LoopPool(AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]]):
    """A pool that opens at its first use, so that getting it needs no await."""

    def __init__(self) -> None:
        super().__init__(
            kwargs={**connection_parameters(), "application_name": "cartrita pool", "autocommit": True},
            min_size=1,
            max_size=POOL_CONNECTIONS,
            open=False,
            check=_check,
            name="cartrita",
        )
        self._opening: asyncio.Task[None] | None = None

    async def getconn(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as the pool has it
    ) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        if self._opening is None:
            # In a context of its own: what the pool does later is no part of the first caller's trace.
            self._opening = asyncio.create_task(self.open(), context=Context())
        if not self._opening.done():
            await asyncio.shield(self._opening)
        return await super().getconn(timeout)


class DatabaseThreads:
    """Threads that run synchronous Django code, each with a database connection that lives as long as it.

    They are never asgiref's: its thread-sensitive thread runs one call at a time.
    """

    def __init__(self, size: int = DATABASE_THREADS) -> None:
        self._executor = ThreadPoolExecutor(
            size, thread_name_prefix="cartrita-database", initializer=_keep_connections
        )
        self._opened: dict[int, psycopg.Connection[Any]] = {}

    async def run(self, work: Callable[[], T]) -> T:
        # Only the trace goes along: asgiref's context would tie the work to the caller's executor.
        trace = trace_context.get_current()
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._call, work, trace)

    def _call(self, work: Callable[[], T], trace: trace_context.Context) -> T:
        token = trace_context.attach(trace)
        # A connection that a database restart broke is dropped here and opened anew by the next query.
        close_old_connections()
        _spare_the_check()
        try:
            return work()
        finally:
            close_old_connections()
            connection = connections["default"].connection
            if connection is None:
                self._opened.pop(threading.get_ident(), None)
            else:
                self._opened[threading.get_ident()] = connection
            trace_context.detach(token)

    async def close(self) -> None:
        await asyncio.to_thread(self._executor.shutdown)
        for connection in self._opened.values():
            connection.close()
        self._opened.clear()


def _keep_connections() -> None:
    """Let this thread keep its connection also where requests take theirs from a pool."""
    database: Any = connections["default"]
    options = database.settings_dict["OPTIONS"]
    if "pool" in options:
        own = {name: value for name, value in options.items() if name != "pool"}
        database.settings_dict = {
            **database.settings_dict,
            "CONN_MAX_AGE": None,
            "OPTIONS": own,
        }


def _spare_the_check() -> None:
    """Let Django take its connection as sound without its query, where the server has sent nothing."""
    # The stubs of Django do not know all that a connection has.
    database: Any = connections["default"]
    if database.connection is not None and is_silent(database.connection):
        database.health_check_done = True


_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopPool] = WeakKeyDictionary()
_threads: WeakKeyDictionary[asyncio.AbstractEventLoop, DatabaseThreads] = WeakKeyDictionary()
_closers: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Callable[[], Awaitable[None]]]] = (
    WeakKeyDictionary()
)


def async_pool() -> AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]]:
    """Return the running loop's pool of autocommit connections; it opens at its first use."""
    loop = asyncio.get_running_loop()
    pool = _pools.get(loop)
    if pool is None:
        pool = _pools[loop] = LoopPool()
    return pool


def pool_statistics() -> dict[str, int]:
    """Return the connections of this process's pools: all, idle ones, and requests that wait for one."""
    found = [pool.get_stats() for pool in list(_pools.values())]
    return {
        state: sum(one.get(name, 0) for one in found)
        for state, name in (
            ("open", "pool_size"),
            ("idle", "pool_available"),
            ("awaited", "requests_waiting"),
        )
    }


async def in_database_thread(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run synchronous Django code in one of the running loop's database threads.

    Cancelling the caller does not stop `fn`: what it began, it ends.
    """
    loop = asyncio.get_running_loop()
    threads = _threads.get(loop)
    if threads is None:
        threads = _threads[loop] = DatabaseThreads()
    return await threads.run(functools.partial(fn, *args, **kwargs))


async def cancel_until_ended(
    tasks: Collection["asyncio.Task[None]"], *, again_after: float = CANCEL_SECONDS
) -> None:
    """Cancel tasks and wait until all have ended.

    They are asked again after `again_after` seconds: a library may lose a cancellation that meets the end of
    what it awaits (`asyncio.wait_for` before Python 3.12, which psycopg uses to connect and in its pool).
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_after)


def close_with_loop(closer: Callable[[], Awaitable[None]]) -> None:
    """Have `close_async` of the running loop await `closer`, the last one added first."""
    _closers.setdefault(asyncio.get_running_loop(), []).append(closer)


async def close_async() -> None:
    """Close what the event store holds for the running loop: recorder, listener, threads and connections."""
    loop = asyncio.get_running_loop()
    for closer in reversed(_closers.pop(loop, [])):
        await closer()
    if threads := _threads.pop(loop, None):
        await threads.close()
    if pool := _pools.pop(loop, None):
        await pool.close()


@asynccontextmanager
async def async_resources() -> AsyncIterator[None]:
    """Close the running loop's resources at the end of the block."""
    try:
        yield
    finally:
        await close_async()
