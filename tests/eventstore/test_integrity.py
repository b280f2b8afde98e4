"""Append-only by the database, and what verify_log finds where somebody got around that."""

import asyncio
import base64
import json
from collections.abc import Iterator
from io import StringIO
from uuid import UUID

import psycopg
import pytest
from django.core.management import CommandError, call_command
from psycopg import errors
from pytest_django import Settings

from cartrita.eventstore import Sequencer, append, new_id
from cartrita.eventstore.heads import Signing
from cartrita.eventstore.integrity import LogReport, verify_log, verify_on
from cartrita.eventstore.rows import COLUMNS, leaf_of
from tests.databases import Database
from tests.eventstore.happenings import happening

TABLES = {
    "event": "version",
    "log": "position",
    "tick": "number",
    "tree_head": "size",
    "merkle_node": "level",
    "installation": "id",
    "signing_key": "verifier_key",
}


@pytest.fixture(autouse=True)
def signing_key(settings: Settings) -> None:
    settings.SIGNING_KEY = base64.b64encode(bytes(32)).decode()


@pytest.fixture
def streams(database: Database) -> list[UUID]:
    """A log of twelve positions in four ticks, three in each."""
    streams = [new_id() for _ in range(4)]
    for stream_id in streams:
        append(happening(stream_id, count=3))
        asyncio.run(Sequencer().order())
    return streams


@pytest.fixture
def intruder(database: Database, streams: list[UUID]) -> Iterator[psycopg.Connection]:
    """A superuser for whom no trigger fires."""
    with psycopg.connect(database.superuser_url) as session:
        for table in TABLES:
            session.execute(f"alter table {table} disable trigger append_only")
        session.commit()
        yield session


TAMPERING = {
    "update event set data = '{\"number\":9}' where stream_id = %(s)s and version = 2": 5,
    "update event set actor = 'user:x' where stream_id = %(s)s and version = 3": 6,
    "update event set recorded_at = recorded_at + interval '1 us' where stream_id = %(s)s": 4,
    "update event set event_id = gen_random_uuid() where stream_id = %(s)s and version = 1": 4,
    "delete from event where stream_id = %(s)s and version = 3": 6,
    "delete from log where position = 5": 5,
    "delete from log where position > 5": 6,
    "truncate log": 1,
    "truncate tick": 1,
    "update log set leaf = sha256('x') where position = 8": 8,
    "update log set session_id = gen_random_uuid() where position = 8": 8,
    "update tick set root = sha256('x') where number = 3": 7,
    "update tick set chain = sha256('x') where number = 4": 10,
    "update tick set ticked_at = now() where number = 1": 1,
    "update tick set snapshot = '5:5:' where number = 2": 4,
    "update tick set size = 6 where number = 3": 7,
    "delete from tick where number = 2": 4,
    "delete from tick where number = 4": 10,
    # Two positions change places.
    "update log set position = position + 100 where position in (5, 6);"
    "update log set position = 111 - position where position > 100": 4,
}


def sign() -> None:
    assert Signing().sign(pause=0) is not None


def first_bad(report: LogReport) -> int | None:
    assert report.verified == (report.first_bad_position is None)
    return report.first_bad_position


class TestVerifyLog:
    def test_accepts_an_empty_log(self, database: Database) -> None:
        assert verify_log() == LogReport(positions=0, ticks=0, root=verify_log().root)

    def test_accepts_what_the_sequencer_wrote(self, streams: list[UUID]) -> None:
        report = verify_log()
        assert report.verified
        assert (report.positions, report.ticks) == (12, 4)

    def test_accepts_events_that_have_no_position_yet(self, streams: list[UUID]) -> None:
        append(happening(new_id()))
        assert verify_log().verified

    def test_finds_what_was_altered(
        self, intruder: psycopg.Connection, streams: list[UUID], subtests: pytest.Subtests
    ) -> None:
        for tampering, position in TAMPERING.items():
            with subtests.test(tampering):
                for statement in tampering.split(";"):
                    intruder.execute(statement, {"s": streams[1]})
                report = verify_on(intruder)
                intruder.rollback()
                assert first_bad(report) == position, report

    def test_cannot_tell_a_cut_end_from_events_not_ordered_yet(
        self, intruder: psycopg.Connection, streams: list[UUID]
    ) -> None:
        intruder.execute("delete from log where position > 9")
        intruder.execute("delete from tick where number = 4")
        assert verify_on(intruder).verified

    def test_finds_an_event_whose_leaf_was_rewritten_too(
        self, intruder: psycopg.Connection, streams: list[UUID]
    ) -> None:
        intruder.execute(
            'update event set data = \'{"note":"","number":9}\' where stream_id = %s and version = 2',
            [streams[1]],
        )
        row = intruder.execute(
            f"select {COLUMNS} from event where stream_id = %s and version = 2", [streams[1]]
        ).fetchone()
        assert row is not None
        leaf = leaf_of(row)
        intruder.execute("update log set leaf = %s where position = 5", [leaf])
        report = verify_on(intruder)
        assert first_bad(report) == 4
        assert report.problem == "Positions 4 to 6 are not those that tick 2 ordered"

    def test_finds_a_cut_end_by_a_tree_head(self, intruder: psycopg.Connection, streams: list[UUID]) -> None:
        sign()
        assert verify_on(intruder).heads == 1
        intruder.execute("delete from log where position > 9")
        intruder.execute("delete from tick where number = 4")
        assert first_bad(verify_on(intruder)) == 10

    def test_finds_a_tree_head_of_another_history(
        self, intruder: psycopg.Connection, streams: list[UUID]
    ) -> None:
        sign()
        intruder.execute("update tree_head set size = 8")
        assert first_bad(verify_on(intruder)) == 7

    def test_finds_a_tree_head_that_is_not_what_was_signed(
        self, intruder: psycopg.Connection, streams: list[UUID], subtests: pytest.Subtests
    ) -> None:
        sign()
        for tampering, problem in {
            "update tree_head set root = sha256('x')": "has another root",
            "update tree_head set note = 'signed'": "is not good: This is no signed note",
            "update tree_head set note = replace(note, 'cartrita/', 'cartrite/')": "signed by cartrite/",
            "update tree_head set note = replace(note, '/0-', '/1-')": "is not good: The note is not as",
            "delete from signing_key": "which is no known key",
        }.items():
            with subtests.test(tampering):
                intruder.execute(tampering)
                report = verify_on(intruder)
                intruder.rollback()
                assert first_bad(report) == 13
                assert problem in str(report.problem)

    def test_finds_a_node_that_is_not_what_its_positions_give(
        self, database: Database, intruder: psycopg.Connection
    ) -> None:
        append(*(happening(new_id(), count=50) for _ in range(6)))
        asyncio.run(Sequencer().order())
        intruder.execute("update merkle_node set hash = sha256('x') where index = 0")
        assert first_bad(verify_on(intruder)) == 1
        intruder.rollback()
        intruder.execute("update merkle_node set index = 7")
        report = verify_on(intruder)
        assert first_bad(report) == 313
        assert "is beyond it" in str(report.problem)

    def test_finds_an_event_that_was_slipped_in_under_an_old_transaction(
        self, intruder: psycopg.Connection, streams: list[UUID]
    ) -> None:
        intruder.execute(
            "insert into event overriding user value select gen_random_uuid(), 1, 0, xid, gen_random_uuid(), "
            "type, schema_version, recorded_at, workspace_id, session_id, causation_id, actor, trace_id, "
            "key_id, data from event limit 1"
        )
        report = verify_on(intruder)
        assert first_bad(report) == 13
        assert "has no position" in str(report.problem)


class TestCommand:
    def test_reports_what_it_read(self, streams: list[UUID]) -> None:
        out = StringIO()
        call_command("verify_log", "--json", stdout=out)
        report = json.loads(out.getvalue())
        assert report.pop("seconds") >= 0
        assert report == {
            "verified": True,
            "positions": 12,
            "ticks": 4,
            "root": verify_log().root,
            "first_bad_position": None,
            "problem": None,
            "heads": 0,
            "witnessed": 0,
            "epochs": [
                {"name": verify_log().epochs[0].name, "after": 0, "restored": False, "lost_up_to": None}
            ],
        }

    def test_fails_with_the_first_bad_position(
        self, intruder: psycopg.Connection, streams: list[UUID]
    ) -> None:
        intruder.execute("delete from event where stream_id = %s", [streams[2]])
        intruder.commit()
        with pytest.raises(CommandError, match="altered at position 7") as failed:
            call_command("verify_log")
        assert failed.value.returncode == 1
        out = StringIO()
        with pytest.raises(SystemExit) as exited:
            call_command("verify_log", "--json", stdout=out)
        assert exited.value.code == 1
        assert json.loads(out.getvalue())["first_bad_position"] == 7


class TestDatabase:
    @pytest.mark.parametrize(
        ("role", "refusal"),
        [
            ("url", errors.InsufficientPrivilege),
            ("owner_url", errors.RestrictViolation),
            ("superuser_url", errors.RestrictViolation),
        ],
    )
    def test_refuses_changes(
        self, database: Database, subtests: pytest.Subtests, role: str, refusal: type[psycopg.Error]
    ) -> None:
        append(happening(new_id()))
        with psycopg.connect(getattr(database, role)) as session:
            for table, column in TABLES.items():
                for change in (
                    f"update {table} set {column} = {column}",
                    f"delete from {table}",
                    f"truncate {table}",
                ):
                    with subtests.test(change):
                        with pytest.raises(refusal):
                            session.execute(change)
                        session.rollback()

    def test_refuses_also_where_ordinary_triggers_are_off(
        self, database: Database, streams: list[UUID]
    ) -> None:
        with psycopg.connect(database.superuser_url) as session:
            session.execute("set session_replication_role = replica")
            with pytest.raises(errors.RestrictViolation):
                session.execute("delete from event")
