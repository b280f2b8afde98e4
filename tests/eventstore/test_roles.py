"""Each role of the database can do what it needs, and nothing else, whoever talks through it."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from django.apps import apps
from psycopg.errors import InsufficientPrivilege

from cartrita.embedded.postgres import APP, BACKUP, READER
from cartrita.eventstore import append, new_id, put_blob
from tests.databases import Database
from tests.eventstore.happenings import happening
from tests.eventstore.notes import a_key

FACTS = ("event", "log", "tick", "tree_head", "merkle_node", "signing_key", "installation", "blob_reference")
# What opens something, or is in clear.
SECRETS = (
    "select wrapped from subject_key",
    "select wrapped from data_key",
    "select content from blob",
    "select * from blob",
    "select secret_sha256 from accounts_api_token",
    "select secret_sha256 from accounts_sign_in_link",
    "select secret_sha256 from accounts_socket_ticket",
    "select session_data from django_session",
    "select password from accounts_user",
    "select email from accounts_user",
    "select display_name from accounts_user",
    "select answer from http_stored_answer",
    "select text from streaming_delta",
    "select lexemes from retrieval_chunks",
    "select embedding from retrieval_vectors",
    "select query_embedding from retrieval_metrics",
    "select change_message from django_admin_log",
)


@pytest.fixture
def session(database: Database, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    append(happening(new_id()))
    put_blob(b"content", key_id=a_key())
    with psycopg.connect(database.url_of(request.param), autocommit=True) as session:
        yield session


def refused(session: psycopg.Connection, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        session.execute(statement.encode())


NOBODY_MAY = (
    "create table mine (id int)",
    "create schema mine",
    "create function mine() returns int language sql as 'select 1'",
    "create or replace function refuse_change() returns trigger language plpgsql as 'begin return null; end'",
    "drop table event",
    "alter table event disable trigger append_only",
    "alter table event add column more int",
    "alter table blob disable trigger keep_named",
    "set session_replication_role = replica",
    "create role mine",
    "set role cartrita_owner",
    "select grant_to_backup('cartrita_reader')",
    "copy event to program 'cat'",
    "select pg_read_file('/etc/passwd')",
    *(f"truncate {table}" for table in (*FACTS, "blob", "subject_key", "data_key")),
    *(f"delete from {table}" for table in (*FACTS, "subject_key", "data_key", "blob_scan")),
    "update event set actor = 'somebody'",
    "update log set leaf = ''",
    "update tick set root = ''",
    "update tree_head set note = ''",
    "update merkle_node set hash = ''",
    "update signing_key set verifier_key = ''",
    "update installation set made_at = now()",
    "insert into installation default values",
    "update blob_reference set position = 1",
    "update blob set content = ''",
    "update blob set sha256 = ''",
    "update data_key set subject_id = gen_random_uuid()",
    "update django_migrations set name = ''",
    "insert into django_migrations (app, name, applied) values ('a', 'b', now())",
)


@pytest.mark.parametrize("session", [APP], indirect=True)
class TestApplication:
    @pytest.mark.parametrize("statement", NOBODY_MAY)
    def test_may_not(self, session: psycopg.Connection, statement: str) -> None:
        refused(session, statement)

    def test_may_add_to_the_log(self, session: psycopg.Connection) -> None:
        """The sequencer runs as this role: who has its password can add what the tree then covers.

        What is there it cannot change, and a position that is taken or skipped is found by `verify_log`.
        """
        session.execute(
            "insert into log (position, stream_id, version, workspace_id, leaf) values (1, %s, 1, %s, '')",
            [uuid4(), uuid4()],
        )

    def test_may_destroy_keys_and_never_take_them_away(self, session: psycopg.Connection) -> None:
        assert session.execute("update data_key set wrapped = null, erased_at = now()").rowcount == 1

    def test_may_change_every_read_model(self, session: psycopg.Connection) -> None:
        own = {model._meta.db_table for model in apps.get_models() if model._meta.app_label != "eventstore"}
        for table in own:
            for right in ("select", "insert", "update", "delete"):
                row = session.execute("select has_table_privilege(%s, %s)", [table, right]).fetchone()
                assert row == (True,), (table, right)


@pytest.mark.parametrize("session", [READER], indirect=True)
class TestReader:
    @pytest.mark.parametrize("statement", NOBODY_MAY)
    def test_may_not(self, session: psycopg.Connection, statement: str) -> None:
        refused(session, statement)

    @pytest.mark.parametrize("statement", SECRETS)
    def test_sees_nothing_that_opens_something_or_is_in_clear(
        self, session: psycopg.Connection, statement: str
    ) -> None:
        refused(session, statement)

    def test_changes_nothing(self, session: psycopg.Connection) -> None:
        assert rights(session, READER) <= {"SELECT"}

    def test_reads_events_and_read_models(self, session: psycopg.Connection) -> None:
        for table in (
            "accounts_team",
            "governance_break_glass",
            "ordered_event",
            "plans",
            "policy_decisions",
            "tick",
        ):
            session.execute(f"select * from {table}")
        assert session.execute("select count(*) from event").fetchone() == (1,)
        assert session.execute("select count(sha256) from blob").fetchone() == (1,)
        session.execute("select id, retrieval_latency_ms from retrieval_metrics")

    def test_reads_of_a_new_table_nothing(self, session: psycopg.Connection, database: Database) -> None:
        with psycopg.connect(database.owner_url) as owner:
            owner.execute("create table new_secrets (secret text)")
            owner.execute("select grant_to_roles()")
        refused(session, "select * from new_secrets")


@pytest.mark.parametrize("session", [BACKUP], indirect=True)
class TestBackup:
    @pytest.mark.parametrize("statement", NOBODY_MAY)
    def test_may_not(self, session: psycopg.Connection, statement: str) -> None:
        refused(session, statement)

    def test_changes_nothing(self, session: psycopg.Connection) -> None:
        assert rights(session, BACKUP) == {"SELECT"}

    def test_reads_everything(self, session: psycopg.Connection) -> None:
        unreadable = session.execute(
            "select tablename from pg_tables where schemaname = 'public' "
            "and not has_table_privilege(format('%I.%I', schemaname, tablename), 'select')"
        ).fetchall()
        assert unreadable == []


def rights(session: psycopg.Connection, role: str) -> set[str]:
    """Return the kinds of rights that a role has on any table, view, column or sequence."""
    rows = session.execute(
        "select privilege_type from information_schema.table_privileges where grantee = %(role)s "
        "union select privilege_type from information_schema.column_privileges where grantee = %(role)s "
        "union select privilege_type from information_schema.usage_privileges where grantee = %(role)s",
        {"role": role},
    ).fetchall()
    return {kind for (kind,) in rows}
