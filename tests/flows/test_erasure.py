"""An erased session is unreadable, in tables and in files, and the log still verifies."""

import asyncio
import gc
import secrets
import subprocess

import psycopg
import pytest

from cartrita.eventstore import in_database_thread
from retrieval.search import search
from sessions_app import commands, queries
from sessions_app.session import SessionIsErased
from tasks_app.run import ActDecided
from tests.databases import Database
from tests.flows.conftest import Person, ScriptedModel, running, until

pytestmark = pytest.mark.usefixtures("consistent")


def new_word(ending: str) -> str:
    """Return a word that occurs nowhere else, so that a search of raw bytes tells.

    Nor does it come from a former run: what was killed meanwhile has left its words in the server's files.
    """
    return "".join(secrets.choice("bdfgkmnprtvz") for _ in range(12)) + ending


def tables_holding(database: Database, *words: str) -> list[str]:
    """Return the tables whose rows, written out as text, hold one of the words."""
    with psycopg.connect(database.superuser_url) as connection:
        names = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        return [
            name
            for (name,) in names
            if connection.execute(
                f"SELECT 1 FROM {name} AS row WHERE row::text ILIKE ANY(%s) LIMIT 1",
                [[f"%{word}%" for word in words]],
            ).fetchone()
        ]


def files_holding(database: Database, *words: str) -> list[str]:
    """Return the server's files that hold one of the words, after everything has been written to them."""
    with psycopg.connect(database.superuser_url, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        row = connection.execute("SHOW data_directory").fetchone()
    assert row is not None
    found = subprocess.run(
        [
            "grep", "--recursive", "--files-with-matches", "--ignore-case", "--fixed-strings",
            *(f"--regexp={word}" for word in words),
            row[0],
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    return found.stdout.splitlines()


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("streaming_delta", "text"),
        ("retrieval_vectors", "embedding"),
        ("retrieval_metrics", "query_embedding"),
    ],
)
class TestColumnInClear:
    def test_leaves_no_values_in_the_catalogue(self, database: Database, table: str, column: str) -> None:
        with psycopg.connect(database.superuser_url) as connection:
            target = connection.execute(
                "SELECT attstattarget FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s",
                [table, column],
            ).fetchone()
        assert target == (0,)


class TestErasedSession:
    async def test_leaves_no_word_behind(
        self, person: Person, model: ScriptedModel, database: Database
    ) -> None:
        spoken, written, answered = new_word("kuchen"), new_word("flosser"), new_word("heim")
        model.answers({"text": f"That is {answered}."})
        async with running():
            session_id = await person.opens_session()
            text = f"# Fish\n\nThe {written} lives in the sea near the Comoros.\n"
            await person.attaches(session_id, "fish.md", text.encode())
            reply = await person.asks(session_id, f"What is a {spoken}?")
            assert reply.content == f"That is {answered}."
            with psycopg.connect(database.superuser_url) as connection:
                connection.execute("ANALYZE")  # which copies frequent values into the catalogue
            await in_database_thread(commands.erase_session, session_id=session_id, actor=person.actor)
            found = await in_database_thread(
                search, written, workspace_id=person.workspace_id, session_id=session_id
            )
        assert found.hits == ()
        with pytest.raises(SessionIsErased):
            await in_database_thread(queries.session, session_id)
        # The index keeps the stem of what was written.
        words = (spoken, written.removesuffix("er"), answered)
        assert tables_holding(database, *words) == []
        assert files_holding(database, *words) == []

    async def test_ends_the_turn_that_was_under_way(
        self, person: Person, model: ScriptedModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        # What earlier tests left is told of before.
        gc.collect()
        caplog.clear()
        model.answers({"text": "word " * 100, "seconds_per_token": 0.02})
        async with running():
            session_id = await person.opens_session()
            await person.says(session_id, "Talk to me")
            await until(session_id, lambda each: isinstance(each.event, ActDecided))
            await in_database_thread(commands.erase_session, session_id=session_id, actor=person.actor)
            # Another session is answered while the erased one is let go.
            model.answers({"text": "Fine."})
            other = await person.opens_session()
            assert (await person.asks(other, "Hello?")).content == "Fine."
            await asyncio.sleep(2.5)
        assert not [each for each in caplog.records if each.levelname == "ERROR"]
