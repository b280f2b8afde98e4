"""Claims on sessions: one process at a time, and free again the moment that it dies."""

from uuid import uuid4

import psycopg
import pytest

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

    async def test_fall_with_the_connection(self, database: Database) -> None:
        session_id = uuid4()
        async with Claims() as ours, Claims() as theirs:
            assert await ours.take(session_id)
            assert await ours.verify()
            await _terminate_connections(database)
            assert not await ours.verify()
            assert await theirs.take(session_id)
            assert not await ours.take(session_id)


async def _terminate_connections(database: Database) -> None:
    """Do what a crash does: end every connection to the test's database."""
    async with await psycopg.AsyncConnection.connect(database.superuser_url, autocommit=True) as connection:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
