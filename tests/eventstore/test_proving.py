import asyncio

import psycopg
import pytest
from django.db import connection

from cartrita.eventstore import Sequencer, append, derived_id, load, new_id
from cartrita.eventstore.integrity import verify_log
from cartrita.eventstore.proving import EventMissing, NotOrderedYet, position_of
from tests.databases import Database
from tests.eventstore.happenings import happening

pytestmark = pytest.mark.flow


def order() -> None:
    asyncio.run(Sequencer().order())


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
