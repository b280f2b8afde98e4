"""The schema moves forwards only, one process at a time."""

import threading
import time
from pathlib import Path

import httpx
import psycopg
import pytest
from django.core.management import call_command
from django.db import connection, connections
from django.db.migrations.recorder import MigrationRecorder

from cartrita import asgi
from cartrita.embedded import schema
from cartrita.eventstore import in_database_thread
from cartrita.eventstore.schema import SchemaTooNew, SchemaTooOld, check_up_to_date
from tests.databases import Database
from tests.servers import listening_server


class TestBringUpToDate:
    def test_does_nothing_on_a_schema_that_fits(self, database: Database) -> None:
        assert schema.bring_up_to_date() is False
        check_up_to_date()

    def test_applies_what_is_missing_as_the_owner(self, database: Database) -> None:
        with database.as_owner():
            call_command("migrate", "django_celery_beat", "zero", verbosity=0)
        with pytest.raises(SchemaTooOld, match="django_celery_beat"):
            check_up_to_date()
        assert schema.bring_up_to_date() is True
        check_up_to_date()
        with connection.cursor() as cursor:
            cursor.execute("SELECT tableowner FROM pg_tables WHERE tablename LIKE 'django_celery_beat%%'")
            assert {row[0] for row in cursor.fetchall()} == {"cartrita_owner"}
            cursor.execute("SELECT current_user")
            assert cursor.fetchone() == ("cartrita_app",)

    def test_refuses_a_database_of_a_newer_version(self, database: Database) -> None:
        record_the_future(database)
        with pytest.raises(SchemaTooNew, match=r"eventstore\.9999_from_the_future"):
            schema.bring_up_to_date()
        with pytest.raises(SchemaTooNew), database.as_owner():
            call_command("migrate", verbosity=0)

    def test_waits_for_another_process_that_migrates(self, database: Database) -> None:
        with database.as_owner():
            call_command("migrate", "django_celery_beat", "zero", verbosity=0)
        applied: list[bool] = []

        def migrate() -> None:
            try:
                applied.append(schema.bring_up_to_date())
            finally:
                connections.close_all()

        with psycopg.connect(database.owner_url, autocommit=True) as other:
            other.execute("SELECT pg_advisory_lock(%s)", [schema.MIGRATION_LOCK])
            thread = threading.Thread(target=migrate)
            thread.start()
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            while other.execute(f"{waiting} AND database = {_oid(other)}").fetchone() != (1,):
                assert thread.is_alive()
            assert applied == []
        thread.join()
        assert applied == [True]


class TestStart:
    """A process asks before it works."""

    async def test_ends_a_server_whose_code_is_older_than_the_schema(self, database: Database) -> None:
        await in_database_thread(record_the_future, database)
        said: list[asgi.Message] = []

        async def receive() -> asgi.Message:
            return {"type": "lifespan.startup"}

        async def send(message: asgi.Message) -> None:
            said.append(message)

        await asgi.lifespan({"type": "lifespan"}, receive, send)
        [failed] = said
        assert failed["type"] == "lifespan.startup.failed"
        assert "eventstore.9999_from_the_future" in failed["message"]

    def test_ends_an_orchestrator_whose_code_is_older_than_the_schema(self, database: Database) -> None:
        record_the_future(database)
        with pytest.raises(SchemaTooNew, match=r"9999_from_the_future"):
            call_command("run_orchestrator")

    def test_serves_as_the_role_with_few_rights_all_the_same(
        self, database: Database, tmp_path: Path
    ) -> None:
        with listening_server(database, tmp_path, scripted=True) as server:
            server.start()
            assert httpx.get(f"{server.url}/readyz").status_code == 200
            with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
                # Who hung up a moment ago is still there.
                while superuser.execute(
                    "select distinct usename from pg_stat_activity where datname = %s and pid <> "
                    "pg_backend_pid() and backend_type = 'client backend'",
                    [database.name],
                ).fetchall() != [("cartrita_app",)]:
                    time.sleep(0.02)


def record_the_future(database: Database) -> None:
    with database.as_owner():
        MigrationRecorder(connection).record_applied("eventstore", "9999_from_the_future")


def _oid(connection: "psycopg.Connection[tuple[int]]") -> int:
    row = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return row[0]
