"""Claims on sessions: one process at a time, free again when it dies, ends or hangs."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
import time_machine

from cartrita.orchestrator.claims import Claims
from tests.databases import Database


@pytest.mark.usefixtures("database")
class TestClaims:
    async def test_are_held_by_one_process_at_a_time(self) -> None:
        session_id = uuid4()
        async with Claims() as ours, Claims() as theirs:
            assert await ours.take(session_id)
            assert not await theirs.take(session_id)
            await ours.release(session_id)
            assert await theirs.take(session_id)

    async def test_are_taken_twice_without_harm(self) -> None:
        session_id = uuid4()
        async with Claims() as ours, Claims() as theirs:
            assert await ours.take(session_id)
            assert await ours.take(session_id)
            await ours.release(session_id)
            assert await theirs.take(session_id)

    async def test_have_one_owner_each_where_processes_race(self) -> None:
        sessions = [uuid4() for _ in range(200)]
        async with Claims() as one, Claims() as two:
            first, second = await asyncio.gather(_take_all(one, sessions), _take_all(two, sessions[::-1]))
            assert first.isdisjoint(second)
            assert first | second == set(sessions)
            assert first
            assert second
            assert await one.lost() == set()
            assert await two.lost() == set()

    async def test_fall_with_the_connection(self, database: Database) -> None:
        session_id = uuid4()
        async with Claims() as ours, Claims() as theirs:
            assert await ours.take(session_id)
            assert await ours.verify()
            await _terminate_connections(database)
            assert await theirs.take(session_id)
            assert not await ours.still_held(session_id)
            assert await ours.lost() == {session_id}
            assert not await ours.take(session_id)

    async def test_fall_with_the_connection_where_nobody_took_them(self, database: Database) -> None:
        session_id = uuid4()
        async with Claims() as ours:
            assert await ours.take(session_id)
            await _terminate_connections(database)
            assert not await ours.verify()
            assert not await ours.still_held(session_id)
            assert await ours.take(session_id)
            assert await ours.still_held(session_id)
            assert await ours.verify()

    async def test_are_free_at_once_after_an_end_in_order(self) -> None:
        sessions = {uuid4() for _ in range(3)}
        async with Claims() as theirs:
            async with Claims() as ours:
                await _take_all(ours, list(sessions))
            assert await _take_all(theirs, list(sessions)) == sessions

    async def test_stay_with_whoever_renews_them(self, database: Database) -> None:
        session_id = uuid4()
        async with Claims() as ours, Claims() as theirs:
            assert await ours.take(session_id)
            for _ in range(3):
                await _age(database, session_id, seconds=3)
                assert await ours.lost() == set()
            await _age(database, session_id, seconds=3)
            assert not await theirs.take(session_id)
            await _age(database, session_id, seconds=3)
            assert await theirs.take(session_id)

    async def test_are_taken_from_a_process_that_hangs(self, database: Database) -> None:
        session_id, other_id = uuid4(), uuid4()
        async with Claims() as hung, Claims() as theirs:
            await _take_all(hung, [session_id, other_id])
            assert not await theirs.take(session_id)
            await _age(database, session_id, seconds=6)
            assert await theirs.take(session_id)
            # It goes on, and is told before it does anything; the session that nobody took is its own.
            assert not await hung.still_held(session_id)
            assert await hung.still_held(other_id)
            assert await hung.lost() == {session_id}
            assert await hung.lost() == set()
            assert not await hung.take(session_id)
            assert await theirs.still_held(session_id)

    async def test_expire_by_themselves(self) -> None:
        session_id = uuid4()
        async with Claims() as hung, Claims(expiry_seconds=2) as theirs:
            assert await hung.take(session_id)
            for _ in range(200):
                if await theirs.take(session_id):
                    break
                await asyncio.sleep(0.05)
            assert await hung.lost() == {session_id}

    async def test_are_not_given_back_by_a_process_that_lost_them(self, database: Database) -> None:
        session_id = uuid4()
        async with Claims() as hung, Claims() as theirs, Claims() as third:
            assert await hung.take(session_id)
            await _age(database, session_id, seconds=6)
            assert await theirs.take(session_id)
            await hung.release(session_id)
            assert not await third.take(session_id)
            assert await hung.lost() == set()

    async def test_are_renewed_before_an_act_where_they_are_old(self, database: Database) -> None:
        session_id = uuid4()
        async with Claims() as ours, Claims() as theirs:
            assert await ours.take(session_id)
            await _age(database, session_id, seconds=30)
            assert await ours.still_held(session_id)
            assert not await theirs.take(session_id)

    async def test_do_not_go_by_the_clocks_of_processes(self) -> None:
        session_id = uuid4()
        async with Claims() as ours, Claims() as theirs:
            assert await ours.take(session_id)
            with time_machine.travel(datetime.now(UTC) + timedelta(hours=1)):
                assert not await theirs.take(session_id)
            with time_machine.travel(datetime.now(UTC) - timedelta(hours=1)):
                assert await ours.lost() == set()
            assert not await theirs.take(session_id)

    async def test_have_a_higher_token_at_each_take(self, database: Database) -> None:
        session_id = uuid4()
        tokens = []
        async with Claims() as ours, Claims() as theirs:
            for each in (ours, theirs, ours):
                assert await each.take(session_id)
                tokens.append(await _token(database, session_id))
                await each.release(session_id)
            assert await ours.take(session_id)
            await _age(database, session_id, seconds=6)
            assert await theirs.take(session_id)
            tokens.append(await _token(database, session_id))
        assert tokens == sorted(set(tokens))

    async def test_are_lost_where_the_database_does_not_answer(self, database: Database) -> None:
        session_id = uuid4()
        async with (
            Claims(expiry_seconds=3) as ours,
            await psycopg.AsyncConnection.connect(database.owner_url) as blocking,
        ):
            assert await ours.take(session_id)
            await blocking.execute("LOCK TABLE orchestrator_claim IN ACCESS EXCLUSIVE MODE")
            assert not await ours.still_held(session_id)
            assert await ours.lost() == {session_id}
            await blocking.rollback()
            assert await ours.take(session_id)
            assert await ours.verify()

    async def test_leave_no_rows_of_the_dead_behind(self, database: Database) -> None:
        session_id = uuid4()
        async with Claims() as ours, Claims() as theirs:
            assert await ours.take(session_id)
            await _age(database, session_id, seconds=4000)
            assert await theirs.take(uuid4())
            assert session_id not in await _tokens(database)
            assert await ours.lost() == {session_id}


async def _take_all(claims: Claims, sessions: Sequence[UUID]) -> set[UUID]:
    return {session_id for session_id in sessions if await claims.take(session_id)}


async def _age(database: Database, session_id: UUID, *, seconds: float) -> None:
    """Let the last heartbeat be so long ago, as if the owner had hung since."""
    async with await psycopg.AsyncConnection.connect(database.url) as connection:
        await connection.execute(
            "UPDATE orchestrator_claim SET renewed_at = renewed_at - make_interval(secs => %s) "
            "WHERE session_id = %s",
            [seconds + 0.1, session_id],
        )


async def _token(database: Database, session_id: UUID) -> int:
    return (await _tokens(database))[session_id]


async def _tokens(database: Database) -> dict[UUID, int]:
    async with await psycopg.AsyncConnection.connect(database.url) as connection:
        cursor = await connection.execute("SELECT session_id, token FROM orchestrator_claim")
        return {session_id: token async for session_id, token in cursor}


async def _terminate_connections(database: Database) -> None:
    """Do what a crash does: end every connection to the test's database."""
    async with await psycopg.AsyncConnection.connect(database.superuser_url, autocommit=True) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
