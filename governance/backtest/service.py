"""The service that carries out back-tests beside what a server process does."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

from django.db import DatabaseError, InterfaceError, close_old_connections, connection

from governance.backtest.runner import run_next, something_waits
from governance.commands.backtests import when_asked

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0

_waiting: set[threading.Event] = set()
_waiting_lock = threading.Lock()


def wake() -> None:
    """Let the services of this process look for a back-test now."""
    with _waiting_lock:
        for work in _waiting:
            work.set()


when_asked(wake)


async def run_backtester() -> None:
    """Carry out back-tests as they are asked for, until cancelled, in a thread and processes of their own.

    One that is under way then is begun anew by whoever is next.
    """
    stopping, work = threading.Event(), threading.Event()
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="backtester")
    serving = asyncio.get_running_loop().run_in_executor(executor, _serve, stopping, work)
    with _waiting_lock:
        _waiting.add(work)
    try:
        await asyncio.shield(serving)
    finally:
        with _waiting_lock:
            _waiting.discard(work)
        stopping.set()
        work.set()
        await asyncio.wait([serving])
        executor.shutdown(wait=False)


def _serve(stopping: threading.Event, work: threading.Event) -> None:
    try:
        while not stopping.is_set():
            work.clear()
            close_old_connections()
            try:
                while not stopping.is_set() and something_waits() and run_next(stopping) is not None:
                    pass
            except (DatabaseError, InterfaceError):
                if stopping.is_set():
                    return
                logger.exception("back-tests wait: the database does not answer")
            except Exception:
                logger.exception("a back-test met a fault of this program and is begun anew")
            work.wait(POLL_SECONDS)
    finally:
        connection.close()
