"""Claims: which process works on a session's turns.

A claim is a row with its owner and a fencing token, renewed by heartbeats. The owner holds an advisory lock
for as long as its connection lives: with it falls every claim of a process that died, at once. A process that
hangs keeps its lock; its claims fall when their last heartbeat is too long ago, by the database's clock. When
such a process goes on, its tokens no longer stand in the rows: `still_held` tells it before an act, and
`lost` with the next heartbeat.

A restart of the database takes the locks of all owners, dead or not. Those that live regain their claims with
their next connection, and their work goes on; until then nobody else takes them, for a moment.

Nothing is corrupted where two processes believe that they hold a claim: every record names the version it
expects, and the slower one is told that the stream moved.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, LiteralString, Self
from uuid import UUID, uuid4

import psycopg

from cartrita.errors import Conflict
from cartrita.eventstore.aio import connect
from cartrita.eventstore.store import execute

logger = logging.getLogger(__name__)

EXPIRY_SECONDS = 6.0
# So long after it serves again a restarted database's claims are kept for the processes that had them.
RESTART_SECONDS = 4.0
_AGAIN_SECONDS = 0.25

# The owner's lock can be shared only when its owner is dead, or when the database was restarted since: then
# living owners have a moment to come back. A shared try, because several processes may find out at the same
# moment, and it is let go with the statement.
_MAY_BE_TAKEN: LiteralString = """(
    held.owner = %(owner)s
    or (%(settled)s or held.renewed_at > pg_postmaster_start_time()) and (
        held.renewed_at < clock_timestamp() - %(expiry)s
        or pg_try_advisory_xact_lock_shared(hashtextextended(held.owner::text, 0)))
)"""

# Asks before it inserts: a conflict would write to the row of a living owner, however it ends.
_TAKE: LiteralString = f"""
    insert into orchestrator_claim as held (session_id, owner, token, renewed_at)
    select %(session_id)s, %(owner)s, nextval('orchestrator_claim_token'), clock_timestamp()
    where not exists (
        select from orchestrator_claim as held where held.session_id = %(session_id)s and not {_MAY_BE_TAKEN})
    on conflict (session_id) do update
    set owner = excluded.owner, token = nextval('orchestrator_claim_token'), renewed_at = clock_timestamp()
    where {_MAY_BE_TAKEN}
    returning token
"""  # noqa: S608 - a constant condition

_RENEW: LiteralString = """
    update orchestrator_claim set renewed_at = clock_timestamp()
    where session_id = any(%(session_ids)s) and owner = %(owner)s
    returning session_id, token
"""

# A restart of the database took the locks of all, so nobody was told that this owner is dead.
_REGAIN: LiteralString = """
    update orchestrator_claim set owner = %(owner)s, renewed_at = clock_timestamp()
    where session_id = any(%(session_ids)s) and owner = %(former)s and renewed_at < pg_postmaster_start_time()
    returning session_id, token
"""

_LOOK: LiteralString = """
    select renewed_at > clock_timestamp() - %(expiry)s / 2 from orchestrator_claim
    where session_id = %(session_id)s and token = %(token)s
"""

_RELEASE: LiteralString = (
    "delete from orchestrator_claim where session_id = %(session_id)s and token = %(token)s"
)

# What dead processes left and nobody took, because their work was done.
_TIDY: LiteralString = """
    delete from orchestrator_claim where session_id in (
        select session_id from orchestrator_claim where renewed_at < clock_timestamp() - interval '1 hour'
        for update skip locked)
"""


# Ten times as long as a claim lasts without a heartbeat: whoever held it is dead or lost it long ago.
_REAP: LiteralString = """
    delete from orchestrator_claim where session_id in (
        select session_id from orchestrator_claim
        where renewed_at < clock_timestamp() - make_interval(secs => %s) for update skip locked)
"""


class ClaimLost(Conflict):
    """Another process has taken the session over; what is under way here must not go on."""

    code = "claim_lost"


class Claims:
    """The claims of this process.

    They last for `expiry_seconds` from a heartbeat, which is a call of `lost`.
    """

    def __init__(self, *, expiry_seconds: float = EXPIRY_SECONDS) -> None:
        self._expiry = timedelta(seconds=expiry_seconds)
        # Two answers that do not come, one behind the other, and a heartbeat's time fit into the expiry.
        self._patience_seconds = expiry_seconds / 3
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._connected_at = 0.0
        self._owner = uuid4()
        self._tokens: dict[UUID, int] = {}
        # Lost, and not told yet.
        self._lost: set[UUID] = set()
        self._lock = asyncio.Lock()
        self._asked: asyncio.Task[list[tuple[Any, ...]]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give up every claim."""
        async with self._lock:
            connection, self._connection = self._connection, None
            self._tokens.clear()
            self._lost.clear()
            if self._asked is not None:
                # A statement that its caller left to its end: a connection must not be closed under one, or
                # the event loop goes on waiting for a socket that may be somebody else's by then.
                await asyncio.wait({self._asked}, timeout=self._patience_seconds)
            if connection is not None:
                # The owner's lock goes with it, and so all rows are free.
                await connection.close()

    async def take(self, session_id: UUID) -> bool:
        """Return whether this process now holds the session's claim; False where another process does.

        Raises psycopg.OperationalError while the database does not answer.
        """
        async with self._lock:
            if session_id in self._tokens:
                return await self._stands(session_id)
            rows = await self._ask(_TAKE, {"session_id": session_id, "expiry": self._expiry})
            if not rows:
                return False
            self._tokens[session_id] = rows[0][0]
            self._lost.discard(session_id)
            return True

    async def release(self, session_id: UUID) -> None:
        """Let another process take the session."""
        async with self._lock:
            self._lost.discard(session_id)
            token = self._tokens.pop(session_id, None)
            if token is not None:
                await self._ask(_RELEASE, {"session_id": session_id, "token": token})

    async def still_held(self, session_id: UUID) -> bool:
        """Return whether the session is still this process's; for the moment before an act with effects.

        True also means that the claim outlasts half its expiry from now without a heartbeat.
        """
        while True:
            async with self._lock:
                try:
                    return await self._stands(session_id)
                except psycopg.OperationalError:
                    if session_id not in self._tokens:
                        return False
            # Nobody can take it over either: the next connection tells.
            await asyncio.sleep(_AGAIN_SECONDS)

    async def lost(self) -> set[UUID]:
        """Renew all claims, and return the sessions whose claims were lost since the last call."""
        # Without a connection nothing is held but what may be regained; who makes one now may take long.
        if self._connection is not None or self._tokens:
            async with self._lock:
                try:
                    await self._renew()
                except psycopg.OperationalError as error:
                    logger.warning("Claims cannot be renewed: %s", error)
        lost, self._lost = self._lost, set()
        return lost

    async def verify(self) -> bool:
        """Renew all claims, and return whether they all still stand."""
        return not await self.lost()

    async def _stands(self, session_id: UUID) -> bool:
        token = self._tokens.get(session_id)
        if token is None:
            return False
        rows = await self._ask(_LOOK, {"session_id": session_id, "token": token, "expiry": self._expiry})
        if not rows:
            self._lose(session_id)
        elif not rows[0][0]:
            # It may be taken soon, unless it was a moment ago.
            await self._renew()
        return session_id in self._tokens

    async def _renew(self) -> None:
        # Also where nothing is held: a broken connection shall be found before the next claim needs it.
        try:
            renewed = dict(await self._ask(_RENEW, {"session_ids": list(self._tokens)}))
        except psycopg.OperationalError:
            if not self._tokens:
                raise
            # Broken, not silent: a new connection tells whether the claims outlived it.
            renewed = dict(await self._ask(_RENEW, {"session_ids": list(self._tokens)}))
        for session_id, token in list(self._tokens.items()):
            if renewed.get(session_id) != token:
                self._lose(session_id)

    def _lose(self, session_id: UUID) -> None:
        if self._tokens.pop(session_id, None) is not None:
            logger.warning("Another process has taken over session %s.", session_id)
            self._lost.add(session_id)

    async def _ask(self, statement: LiteralString, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Return a statement's rows.

        Where no answer comes in time the connection is given up, and all claims with it. Raises
        psycopg.OperationalError.
        """
        connection = await self._connected()
        # A caller that is cancelled leaves it to its end: to cancel a statement takes longer than to run it.
        own = {"owner": self._owner, "settled": time.monotonic() - self._connected_at > RESTART_SECONDS}
        asked = asyncio.create_task(_fetch(connection, statement, {**parameters, **own}))
        asked.add_done_callback(_note_end)
        self._asked = asked
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await asyncio.shield(asked)
        except TimeoutError:
            asked.add_done_callback(lambda _: connection.pgconn.finish())
            asked.cancel()
            self._give_up()
            raise psycopg.OperationalError(
                f"the database did not answer within {self._patience_seconds:.1f} s"
            ) from None
        except psycopg.OperationalError:
            if connection.closed:
                self._connection = None
            raise

    async def _connected(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        if self._connection is None or self._connection.closed:
            connection = await connect("cartrita claims")
            # Another one for each connection: what hung on a lost one is not this one's.
            former, self._owner = self._owner, uuid4()
            try:
                # A crash of the database may undo a claim, but ends the connection that it hung on, too.
                await connection.execute("set synchronous_commit = off")
                await connection.execute(
                    "select pg_advisory_lock(hashtextextended(%s::text, 0))", [str(self._owner)]
                )
                await self._regain(connection, former)
                await connection.execute(_TIDY)
            except BaseException:
                self._owner = former
                await connection.close()
                raise
            self._connection, self._connected_at = connection, time.monotonic()
        return self._connection

    async def _regain(self, connection: psycopg.AsyncConnection[tuple[Any, ...]], former: UUID) -> None:
        """Keep the claims that a restart of the database left; those that another process has are lost."""
        if not self._tokens:
            return
        parameters = {"owner": self._owner, "former": former, "session_ids": list(self._tokens)}
        regained = dict(await _fetch(connection, _REGAIN, parameters))
        for session_id, token in list(self._tokens.items()):
            if regained.get(session_id) != token:
                self._lose(session_id)

    def _give_up(self) -> None:
        if self._tokens:
            logger.warning("The connection that held %d claims is lost.", len(self._tokens))
        self._lost.update(self._tokens)
        self._tokens.clear()
        self._connection = None
        self._owner = uuid4()


def reap_claims() -> int:
    """Delete the claims whose last heartbeat is a minute ago; return how many.

    Anybody could take them already; without their rows it shows that nobody works there.
    """
    return execute(_REAP, [10 * EXPIRY_SECONDS]).rowcount


def _note_end(asked: "asyncio.Task[list[tuple[Any, ...]]]") -> None:
    """Note how a statement ended; its caller may have been cancelled meanwhile."""
    if not asked.cancelled() and (error := asked.exception()) is not None:
        logger.debug("A statement on claims failed: %s", error)


async def _fetch(
    connection: psycopg.AsyncConnection[tuple[Any, ...]],
    statement: LiteralString,
    parameters: Mapping[str, Any],
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement, parameters)
    return await cursor.fetchall() if cursor.description else []
