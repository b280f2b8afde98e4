"""Waking: writers wake the sequencer, the sequencer wakes followers. Never needed for correctness."""

import asyncio
import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.pq import ExecStatus

from cartrita.eventstore.aio import connection_parameters

logger = logging.getLogger(__name__)

WAKE_CHANNEL = "cartrita_wake"
LOG_CHANNEL = "cartrita_log"

COALESCE_SECONDS = 0.005
IDLE_SECONDS = 60.0
FLUSH_SECONDS = 0.5


class Bell:
    """An event of one loop that any thread may set."""

    __slots__ = ("_loop", "_rung")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Set the bell, from any thread."""
        # A bell that is rung already will be answered after what the caller just committed.
        if self._rung.is_set():
            return
        try:
            self._loop.call_soon_threadsafe(self._rung.set)
        except RuntimeError:  # the loop has ended, and nobody listens there any more
            return

    def ring_here(self) -> None:
        """Set the bell from its own loop."""
        self._rung.set()

    def clear(self) -> None:
        self._rung.clear()

    def is_rung(self) -> bool:
        return self._rung.is_set()

    async def wait(self, seconds: float) -> bool:
        """Wait until the bell is rung, at most `seconds`; say whether it was."""
        try:
            async with asyncio.timeout(seconds):
                return await self._rung.wait()
        except TimeoutError:
            return False


async def wait_for_ring(
    connection: psycopg.AsyncConnection[Any],
    bell: Bell,
    seconds: float,
    hear: Callable[[psycopg.Notify], None],
) -> None:
    """Wait until the bell is rung, at most `seconds`, handing what the server notifies meanwhile to `hear`.

    The connection is idle; nothing has to be cancelled on it afterwards, as `connection.notifies()` would.
    Raises OperationalError when the connection has ended.
    """
    loop = asyncio.get_running_loop()
    socket = connection.fileno()
    lost: list[psycopg.Error] = []

    def read() -> None:
        try:
            connection.pgconn.consume_input()
            while (heard := connection.pgconn.notifies()) is not None:
                hear(psycopg.Notify(heard.relname.decode(), heard.extra.decode(), heard.be_pid))
        except psycopg.Error as error:
            lost.append(error)
            bell.ring_here()

    loop.add_reader(socket, read)
    try:
        # What came with the answer to the last query lies in libpq's buffer: the socket will not tell of it.
        read()
        await bell.wait(seconds)
    finally:
        loop.remove_reader(socket)
    if lost:
        raise lost[0]


class _Notifier:
    """A thread that tells other processes, at most once in 5 ms, that something was committed."""

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._told = threading.Event()
        self._told.set()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def flush(self) -> None:
        """Wait until others were told; a process that ends right after a commit would take the wake along."""
        self._told.wait(FLUSH_SECONDS)

    def notify(self) -> None:
        # What is wanted already will be told after what the caller just committed.
        if self._wanted.is_set():
            return
        with self._starting:
            self._wanted.set()
            self._told.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="cartrita-wake", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        connection: psycopg.Connection[tuple[Any, ...]] | None = None
        reached: dict[str, Any] = {}
        while self._wanted.wait(IDLE_SECONDS) or not self._ended():
            self._wanted.clear()
            try:
                wanted = connection_parameters()
                if connection is not None and (connection.broken or reached != wanted):
                    connection.close()
                    connection = None
                if connection is None:
                    reached = wanted
                    connection = psycopg.connect(
                        **{**wanted, "application_name": "cartrita wake", "connect_timeout": 5},
                        autocommit=True,
                    )
                # Two hundred times a second while much is written: a cursor would cost five times as much.
                told = connection.pgconn.exec_(f"notify {WAKE_CHANNEL}".encode())
                if told.status != ExecStatus.COMMAND_OK:
                    raise psycopg.OperationalError(told.get_error_message())
                self._done()
            except psycopg.Error as error:
                # The sequencer's slow poll finds the events meanwhile; nobody waits for another try.
                logger.warning("Could not wake the sequencer: %s", error)
                self._done()
                if connection is not None:
                    connection.close()
                    connection = None
                time.sleep(0.5)
            time.sleep(COALESCE_SECONDS)
        if connection is not None:
            connection.close()

    def _done(self) -> None:
        with self._starting:
            if not self._wanted.is_set():
                self._told.set()

    def _ended(self) -> bool:
        with self._starting:
            if self._wanted.is_set():
                return False
            self._thread = None
            return True


_notifier = _Notifier()


def _after_fork() -> None:
    global _notifier  # noqa: PLW0603 - a child has neither the thread nor the right to its connection
    _notifier = _Notifier()
    _leading.clear()


os.register_at_fork(after_in_child=_after_fork)


@atexit.register
def _flush() -> None:
    _notifier.flush()


# Bells of the sequencers of this process that lead now.
_leading: set[Bell] = set()


def lead(bell: Bell) -> None:
    """Say that a sequencer of this process leads and hears this bell."""
    _leading.add(bell)


def follow_again(bell: Bell) -> None:
    """Say that the sequencer with this bell leads no more."""
    _leading.discard(bell)


def wake_sequencer() -> None:
    """Tell the sequencer that something was committed; call it after the commit, from any thread.

    Costs microseconds: the leader of this process is woken directly, another process's by one NOTIFY for all
    commits within 5 ms, on a connection and thread of its own.
    """
    if _leading:
        for bell in tuple(_leading):
            bell.ring()
    else:
        _notifier.notify()
