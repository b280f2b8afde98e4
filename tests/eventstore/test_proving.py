import asyncio

import psycopg
import pytest
from django.db import connection

from cartrita.eventstore import Sequencer, append, derived_id, load, new_id
from cartrita.eventstore.integrity import verify_log
from cartrita.eventstore.proving import EventMissing, NotOrderedYet, position_of
from cartrita.eventstore.restored import leave_last_blocks
from tests.databases import Database
from tests.eventstore.happenings import happening

pytestmark = pytest.mark.flow


def order() -> None:
    asyncio.run(Sequencer().order())


def written_bytes(session: psycopg.Connection) -> int:
    """Return how much WAL an event writes, the second of a transaction: the first may open a page."""
    row = None
    for version in (1, 2):
        row = session.execute(
            "explain (analyze, wal, format json) insert into event (stream_id, version, event_id, type, "
            "schema_version, recorded_at, workspace_id, actor, trace_id, data) values (gen_random_uuid(), "
            f"{version}, gen_random_uuid(), 'tests.Happened', 1, now(), gen_random_uuid(), '', '', '{{}}')"
        ).fetchone()
    assert row is not None
    return int(row[0][0]["Plan"]["WAL Bytes"])


class TestPositionOf:
    def test_finds_new_and_derived_ids(self, database: Database) -> None:
        ids = [new_id() if number % 2 else derived_id(new_id(), "cid") for number in range(40)]
        for number in range(0, 40, 10):
            append(happening(new_id(), count=10, event_ids=ids[number : number + 10]))
        order()
        assert [position_of(one) for one in ids] == list(range(1, 41))

    def test_says_what_is_missing_or_not_ordered(self, database: Database) -> None:
        event_id = new_id()
        with pytest.raises(EventMissing):
            position_of(event_id)
        append(happening(new_id(), event_ids=[event_id]))
        with pytest.raises(NotOrderedYet):
            position_of(event_id)

    def test_needs_only_the_blocks_that_may_hold_the_id(self, database: Database) -> None:
        """The index is in the migration; which plan is cheaper for a few rows is the planner's affair."""
        append(happening(new_id()))
        with psycopg.connect(database.url) as session:
            session.execute("set enable_seqscan = off")
            plan = session.execute(
                "explain select from event where event_id = '01936f3e-0000-7000-8000-000000000001'"
            ).fetchall()
        assert any("event_event_id" in line for (line,) in plan)

    def test_costs_a_writer_nothing(self, database: Database) -> None:
        """A summary of the blocks that are being filled would be written again with each event."""
        with psycopg.connect(database.owner_url) as owner:
            beside = written_bytes(owner)
            owner.execute("drop index event_event_id")
            without = written_bytes(owner)
        assert beside == without

    def test_costs_a_writer_nothing_after_a_restore(self, database: Database) -> None:
        append(happening(new_id(), count=100))
        with psycopg.connect(database.owner_url) as owner:
            owner.execute("reindex index event_event_id")  # as a restore makes it, of all that there is
            assert written_bytes(owner) > 1_000
        with database.as_owner():
            leave_last_blocks()
        with psycopg.connect(database.owner_url) as owner:
            assert written_bytes(owner) < 1_000


class TestPartitioning:
    """No constraint and no statement stands in the way of cutting `event` up by its streams."""

    def test_leaves_all_as_it_is(self, database: Database) -> None:
        with database.as_owner(), connection.cursor() as cursor:
            cursor.execute(
                "drop view ordered_event; alter table event rename to former;"
                "create table event (like former including defaults including identity including constraints)"
                "  partition by hash (stream_id);"
                "create table event_0 partition of event for values with (modulus 2, remainder 0);"
                "create table event_1 partition of event for values with (modulus 2, remainder 1);"
                "alter table event add primary key (stream_id, version);"
                "create index on event (xid, seq);"
                "grant select, insert on event to public"
            )
        streams = [new_id() for _ in range(12)]
        for stream_id in streams:
            append(happening(stream_id, count=2))
            append(happening(stream_id, 3))
        append(*(happening(stream_id, 4) for stream_id in streams))
        order()
        with psycopg.connect(database.url) as session:
            counts = session.execute("select tableoid, count(*) from event group by 1").fetchall()
        assert len(counts) == 2
        assert all([one.version for one in load(stream_id)] == [1, 2, 3, 4] for stream_id in streams)
        assert verify_log().verified
