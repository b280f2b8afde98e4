"""What PostgreSQL keeps in its files of rows that are gone, and of keys that are destroyed: no words."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from cartrita.eventstore import (
    Append,
    Context,
    append,
    create_data_key,
    erase_key,
    get_blob,
    in_database_thread,
    new_id,
    put_blob,
)
from cartrita.streaming import deltas
from cartrita.streaming.deltas import open_message
from tests.databases import Database
from tests.eventstore.happenings import WORKSPACE, Whispered

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("loop_resources")]

# New ones each time: tests share their server, and so the WAL.
UNDER_WAY, TOLD, FILED, CLEAR = (f"zwiebelküchlein {new_id()}" for _ in range(4))


def files(database: Database) -> Iterator[bytes]:
    """Yield the files of the database's tables, and the WAL, as they are on the disk."""
    with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
        # A checkpoint leaves unlogged tables in memory; that before a copy of files does not.
        flush = sql.Identifier(f"{database.name}_flush")
        superuser.execute(sql.SQL("create database {} template template0 strategy file_copy").format(flush))
        superuser.execute(sql.SQL("drop database {}").format(flush))
        found = superuser.execute(
            "select current_setting('data_directory'), oid::text from pg_database "
            "where datname = current_database()"
        ).fetchone()
    assert found is not None
    folder = Path(found[0])
    for path in (folder / "base" / found[1]).iterdir():
        yield path.read_bytes()
    for path in (folder / "pg_wal").iterdir():
        if path.is_file():
            yield path.read_bytes()


def holds(database: Database, words: bytes) -> bool:
    return any(words in content for content in files(database))


class TestFiles:
    async def test_keep_no_words_of_texts_under_way(self, database: Database) -> None:
        session_id, message_id = new_id(), new_id()
        key_id = await in_database_thread(create_data_key, subject_id=new_id(), scope="session")
        async with open_message(session_id, message_id, 1, key_id=key_id) as writer:
            await writer.write(f"{UNDER_WAY} " * 50)
            await writer.flush()
            with psycopg.connect(database.url) as session:
                row = session.execute("select text from streaming_delta").fetchone()
            assert row is not None
        assert await deltas.purge_message(message_id) == 1
        # The row is gone, and what it held is still there: the file of a table keeps the dead.
        assert holds(database, row[0][:100].encode())
        assert not holds(database, UNDER_WAY.encode())

    def test_keep_no_words_of_events_and_blobs(self, database: Database) -> None:
        key_id = create_data_key(subject_id=new_id(), scope="session")
        (recorded,) = append(
            Append(
                new_id(), 0, [Whispered(text=f"{TOLD} " * 50)], Context(workspace_id=WORKSPACE, key_id=key_id)
            )
        )
        name = put_blob(FILED.encode() * 50, key_id=key_id)
        assert get_blob(name, key_id=key_id).startswith(FILED.encode())
        erase_key(key_id)
        assert holds(database, recorded.sealed["text"][:100].encode())
        assert not holds(database, TOLD.encode())
        assert not holds(database, FILED.encode())

    def test_hold_words_that_are_not_sealed(self, database: Database) -> None:
        """So that the tests above look where words would be."""
        name = put_blob(CLEAR.encode(), key_id=None)
        assert get_blob(name) == CLEAR.encode()
        assert holds(database, CLEAR.encode())
