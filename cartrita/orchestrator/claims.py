"""Claims: which process works on a session's turns.

A claim is an advisory lock held by one PostgreSQL session of the process, so it falls the moment that
process or its connection dies, and another process can go on. Nothing is corrupted where two processes
believe that they hold a claim: every record names the version it expects, and the slower one is told that the
stream moved.
"""

import asyncio
import logging
from types import TracebackType
from typing import Self
from uuid import UUID

import psycopg
from django.db import connections

logger = logging.getLogger(__name__)

# First key of the two-key advisory lock; the second is 32 bits of the session id.
_LOCK_CLASS = 0x63617274


class Claims:
    """The claims of this process. `lost` is set when the connection that held them is gone."""

    def __init__(self) -> None:
        self._connection: psycopg.AsyncConnection[tuple[bool]] | None = None
        self._held: set[UUID] = set()
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give up every claim."""
        connection, self._connection = self._connection, None
        self._held.clear()
        if connection is not None:
            await connection.close()

    async def take(self, session_id: UUID) -> bool:
        """Return whether this process now holds the session's claim; False where another process does.

        Raises psycopg.OperationalError while the database does not answer.
        """
        async with self._lock:
            if session_id in self._held:
                return True
            connection = await self._connected()
            cursor = await connection.execute(
                "SELECT pg_try_advisory_lock(%s, %s)", (_LOCK_CLASS, _lock_key(session_id))
            )
            row = await cursor.fetchone()
            if row is None or not row[0]:
                return False
            self._held.add(session_id)
            return True

    async def release(self, session_id: UUID) -> None:
        """Let another process take the session."""
        async with self._lock:
            if session_id not in self._held:
                return
            self._held.discard(session_id)
            if self._connection is None or self._connection.closed:
                return
            await self._connection.execute(
                "SELECT pg_advisory_unlock(%s, %s)", (_LOCK_CLASS, _lock_key(session_id))
            )

    async def verify(self) -> bool:
        """Return whether the claims still stand; False after the connection that held them was lost."""
        async with self._lock:
            if self._connection is None:
                return not self._held
            try:
                await self._connection.execute("SELECT 1")
            except psycopg.OperationalError:
                logger.warning("The connection that held %d claims is lost.", len(self._held))
                await self._connection.close()
                self._connection = None
                self._held.clear()
                return False
            return True

    async def _connected(self) -> psycopg.AsyncConnection[tuple[bool]]:
        if self._connection is None or self._connection.closed:
            self._held.clear()
            parameters = connections["default"].get_connection_params()
            parameters.pop("cursor_factory", None)
            parameters.pop("context", None)
            self._connection = await psycopg.AsyncConnection.connect(**parameters, autocommit=True)
        return self._connection


def _lock_key(session_id: UUID) -> int:
    return int.from_bytes(session_id.bytes[-4:], "big", signed=True)
