"""The order of the log: under many writers, beside foreign transactions, over the sequencer's death.

Sixteen writers in this process and two more processes of them, which are killed again and again as the
processes of sequencers are.
"""

import asyncio
import contextlib
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db import connection, connections, transaction

from cartrita.eventstore import (
    Append,
    Sequencer,
    StreamMoved,
    ahead,
    append,
    aread_log,
    follow,
    new_id,
    read_log,
    recorder,
)
from cartrita.eventstore.integrity import verify_log
from cartrita.eventstore.sequencer import LEADER_LOCK
from tests.databases import Database
from tests.eventstore.happenings import happening

CHECKOUT = Path(__file__).resolve().parents[2]

RUN_SEQUENCER = """
import asyncio, django
django.setup()
from cartrita.eventstore import Sequencer
asyncio.run(Sequencer().run())
"""

# Says what it is about to commit and what it has committed: it is killed in between.
RUN_WRITER = """
import random, sys, time, django
django.setup()
from django.db import transaction
from cartrita.eventstore import append, new_id
from tests.eventstore.happenings import happening
chance, stream, version = random.Random(), new_id(), 0
while True:
    one = happening(stream, version + 1, count=chance.choice([1, 1, 1, 4]))
    ids = " ".join(map(str, one.event_ids))
    print("tries", ids, flush=True)
    if chance.random() < 0.5:
        with transaction.atomic():
            append(one)
            time.sleep(chance.random() * 0.02)
    else:
        append(one)
    print("stored", ids, flush=True)
    version += len(one.events)
    if version > 30:
        stream, version = new_id(), 0
"""

INSERT = """
    insert into event (stream_id, version, event_id, type, schema_version, recorded_at, workspace_id, actor,
                       trace_id, data)
    values (%s, %s, %s, 'log_tests.Happened', 1, now(), %s, 'system', '', '{"note":"","number":1}')
"""


async def eventually(holds: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)


async def all_positions() -> list[tuple[int, UUID]]:
    found: list[tuple[int, UUID]] = []
    while events := await aread_log(after=found[-1][0] if found else 0, limit=2000):
        found += [(recorded.position or 0, recorded.event_id) for recorded in events]
    return found


def insert_foreign(session: psycopg.Connection, stream_id: UUID, version: int = 1) -> UUID:
    event_id = new_id()
    session.execute(INSERT, [stream_id, version, event_id, new_id()])
    return event_id


class RolledBack(Exception):
    """Ends a transaction on purpose."""


class Writers:
    """Sixteen writers of the ways in which an application writes, and what they committed."""

    def __init__(self, seconds: float) -> None:
        self.ends_at = time.monotonic() + seconds
        self.committed: list[UUID] = []
        # By processes that were killed before they could say whether they committed it.
        self.tried: set[UUID] = set()
        self.kills = Counter[str]()
        self.failures: list[BaseException] = []
        self._lock = threading.Lock()
        self.shared = [new_id() for _ in range(3)]
        self.shared_versions = Counter[UUID]()

    def note(self, *event_ids: UUID) -> None:
        with self._lock:
            self.committed += event_ids

    def going(self) -> bool:
        return time.monotonic() < self.ends_at

    def write_in_a_thread(self, seed: int) -> None:
        """Commit, roll back, use savepoints and isolation levels, at random."""
        chance = random.Random(seed)
        own, version = new_id(), 0
        try:
            while self.going():
                kind = chance.choice(
                    ["plain", "slow", "savepoint", "rolled back", "isolated", "shared", "many", "late"]
                )
                one = happening(own, version + 1)
                (event_id,) = one.event_ids or ()
                if kind == "plain":
                    append(one)
                elif kind == "many":
                    one = happening(own, version + 1, count=5)
                    append(one)
                    self.note(*(one.event_ids or ())[1:])
                    (event_id, *_), version = one.event_ids or (), version + 4
                elif kind == "slow":
                    with transaction.atomic():
                        append(one)
                        time.sleep(chance.random() * 0.03)
                elif kind == "savepoint":
                    with transaction.atomic():
                        self.write_and_roll_back(happening(new_id()), 0)
                        with transaction.atomic():
                            append(one)
                            time.sleep(chance.random() * 0.01)
                elif kind == "rolled back":
                    self.write_and_roll_back(one, chance.random() * 0.01)
                    continue
                elif kind == "late":
                    with transaction.atomic():
                        append(one)  # takes a transaction id long before the shared stream is written
                        time.sleep(chance.random() * 0.01)
                        self.write_shared(chance)
                elif kind == "isolated":
                    with transaction.atomic():
                        connection.cursor().execute("set transaction isolation level repeatable read")
                        append(one)
                        time.sleep(chance.random() * 0.01)
                else:
                    self.write_shared(chance)
                    continue
                self.note(event_id)
                version += 1
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.failures.append(error)
        finally:
            connections.close_all()

    def write_and_roll_back(self, one: Append, after_seconds: float) -> None:
        with contextlib.suppress(RolledBack), transaction.atomic():
            append(one)
            time.sleep(after_seconds)
            raise RolledBack

    def write_shared(self, chance: random.Random) -> None:
        stream_id = chance.choice(self.shared)
        one = happening(stream_id, self.shared_versions[stream_id] + 1)
        try:
            append(one)
        except StreamMoved as moved:
            self.shared_versions[stream_id] = moved.actual_version
        else:
            self.shared_versions[stream_id] = one.expected_version + 1
            self.note(*(one.event_ids or ()))

    async def record(self, seed: int) -> None:
        """Record from asyncio: one event, several, two streams at once, streams that others write too."""
        chance = random.Random(seed)
        own, version = new_id(), 0
        while self.going():
            appends: list[Append] = [happening(own, version + 1, count=chance.choice([1, 1, 1, 4]))]
            if chance.random() < 0.3:
                appends.append(happening(new_id()))
            shared = chance.choice(self.shared) if chance.random() < 0.3 else None
            if shared:
                appends.append(happening(shared, self.shared_versions[shared] + 1))
            ids = [event_id for one in appends for event_id in one.event_ids or ()]
            try:
                await recorder().record(*appends)
            except StreamMoved as moved:
                if moved.stream_id != shared:
                    raise
                self.shared_versions[moved.stream_id] = moved.actual_version
                continue
            version += len(appends[0].events)
            if shared:
                self.shared_versions[shared] += 1
            self.note(*ids)
            await asyncio.sleep(chance.random() * 0.004)

    async def write_in_processes(self, seed: int) -> None:
        """Let a process write until it is killed, and another one after it."""
        chance = random.Random(seed)
        while self.going():
            child = await start(RUN_WRITER, stdout=asyncio.subprocess.PIPE)
            assert child.stdout is not None
            reading = asyncio.create_task(self.hear(child.stdout))
            await self.kill_later(child, chance, "writer")
            await reading

    async def hear(self, said: asyncio.StreamReader) -> None:
        while line := (await said.readline()).decode():
            word, *ids = line.split()
            if line.endswith("\n") and word == "stored":
                self.note(*(UUID(one) for one in ids))
            elif line.endswith("\n"):
                self.tried |= {UUID(one) for one in ids}

    async def order_in_processes(self, seed: int) -> None:
        """Let a process of its own be a sequencer until it is killed, and another one after it."""
        chance = random.Random(seed)
        while self.going():
            await self.kill_later(await start(RUN_SEQUENCER), chance, "sequencer")

    async def kill_later(self, child: asyncio.subprocess.Process, chance: random.Random, what: str) -> None:
        left = self.ends_at - time.monotonic()
        # It takes a second or two to begin.
        await asyncio.sleep(max(0.0, min(left, 2 + chance.random() * 3)))
        child.kill()
        await child.wait()
        self.kills[what] += 1


async def start(script: str, **options: Any) -> asyncio.subprocess.Process:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "cartrita.settings"}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, cwd=CHECKOUT, env=environment, **options
    )


def write_beside(database: Database, writers: Writers) -> None:
    """Hold transactions open that the application knows nothing of; one is prepared and committed later."""
    with psycopg.connect(database.url) as long, psycopg.connect(database.url) as idle:
        idle.execute("select pg_current_xact_id()")
        early = insert_foreign(long, new_id())
        number = 0
        while time.monotonic() < writers.ends_at - 0.5:
            with psycopg.connect(database.url) as prepared:
                event_id = insert_foreign(prepared, new_id())
                number += 1
                prepared.execute(f"prepare transaction 'late-{number}'")
            time.sleep(0.2)
            with psycopg.connect(database.url, autocommit=True) as later:
                later.execute(f"commit prepared 'late-{number}'")
            writers.note(event_id)
        late = insert_foreign(long, new_id())
        long.commit()
        writers.note(early, late)
        idle.rollback()


class TestSequencer:
    @pytest.mark.timeout(400)
    @pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.slow)])
    async def test_loses_doubles_and_reorders_nothing(
        self, database: Database, loop_resources: None, seconds: int
    ) -> None:
        seen: list[tuple[int, UUID]] = []

        async def read() -> None:
            async for events in follow(after=0):
                seen.extend((recorded.position or 0, recorded.event_id) for recorded in events)

        async def compete() -> None:
            while writers.going():
                await Sequencer().order()
                await asyncio.sleep(0.05)

        child = await start(RUN_SEQUENCER)
        await eventually(lambda: has_leader(database))
        writers = Writers(seconds)
        sequencers = [asyncio.create_task(Sequencer().run()) for _ in range(2)]
        reader = asyncio.create_task(read())
        work = [asyncio.to_thread(writers.write_in_a_thread, seed) for seed in range(8)]
        work += [writers.record(seed) for seed in range(8, 16)]
        work += [writers.write_in_processes(seed) for seed in range(2)]
        work += [compete(), writers.order_in_processes(0), asyncio.to_thread(write_beside, database, writers)]
        written = asyncio.gather(*work)
        await asyncio.sleep(seconds / 3)
        child.kill()
        await child.wait()
        await asyncio.sleep(seconds / 3)
        sequencers[0].cancel()
        await written
        assert writers.failures == []
        await Sequencer().order()
        log = await all_positions()
        await eventually(lambda: len(seen) >= len(log))
        for task in [*sequencers, reader]:
            task.cancel()
        await asyncio.gather(*sequencers, reader, return_exceptions=True)

        ordered = [event_id for _, event_id in log]
        assert len(writers.committed) > 16
        assert set(writers.committed) - set(ordered) == set(), "lost"
        assert set(ordered) - set(writers.committed) - writers.tried == set(), "never committed"
        assert writers.kills["writer"] >= 2
        assert [one for one, times in Counter(ordered).items() if times > 1] == [], "doubled"
        assert [position for position, _ in log] == list(range(1, len(log) + 1)), "gaps"
        assert seen == log, "a follower saw another order"
        with psycopg.connect(database.url) as session:
            reordered = session.execute(
                "select count(*) from (select version, lag(version, 1, 0) over (partition by stream_id "
                "order by position) + 1 as next from log) as ordered where version <> next"
            ).fetchone()
        assert reordered == (0,), "reordered"
        assert verify_log().verified
        logging.getLogger(__name__).info("%d events, killed: %s", len(log), dict(writers.kills))

    async def test_orders_what_a_long_foreign_transaction_does_not_hold(
        self, database: Database, loop_resources: None
    ) -> None:
        with psycopg.connect(database.url) as foreign:
            held = insert_foreign(foreign, new_id())
            (first,) = await recorder().record(happening(new_id()))
            await Sequencer().order()
            assert await all_positions() == [(1, first.event_id)]
            foreign.commit()
        await Sequencer().order()
        assert await all_positions() == [(1, first.event_id), (2, held)]

    async def test_keeps_a_stream_in_order_when_its_later_writer_began_first(
        self, database: Database, loop_resources: None
    ) -> None:
        stream_id = new_id()
        with psycopg.connect(database.url) as earlier, psycopg.connect(database.url) as later:
            earlier.execute("select pg_current_xact_id()")
            first = insert_foreign(later, stream_id, 1)
            later.commit()
            second = insert_foreign(earlier, stream_id, 2)
        await Sequencer().order()
        assert await all_positions() == [(1, first), (2, second)]

    async def test_writes_nothing_when_nothing_happened(
        self, database: Database, sequencer: Sequencer
    ) -> None:
        await recorder().record(happening(new_id()))
        await eventually(lambda: bool(read_positions(database)))
        assert await Sequencer().order() == 0
        with psycopg.connect(database.url) as session:
            assert session.execute("select count(*) from tick").fetchone() == (1,)

    async def test_takes_more_events_than_fit_one_read_in_one_tick(
        self, database: Database, loop_resources: None
    ) -> None:
        with psycopg.connect(database.url) as bulk:
            bulk.execute(
                "insert into event (stream_id, version, event_id, type, schema_version, recorded_at, "
                "workspace_id, actor, trace_id, data) select gen_random_uuid(), 1, gen_random_uuid(), "
                "'log_tests.Happened', 1, now(), gen_random_uuid(), 'system', '', "
                '\'{"note":"","number":1}\' from generate_series(1, 4500)'
            )
        assert await Sequencer().order() == 4500
        assert await ahead() == 4500
        with psycopg.connect(database.url) as session:
            assert session.execute("select count(*) from tick").fetchone() == (1,)

    async def test_goes_on_after_its_connection_was_killed(
        self, database: Database, sequencer: Sequencer
    ) -> None:
        await eventually(lambda: sequencer.leads)
        with psycopg.connect(database.superuser_url, autocommit=True) as superuser:
            superuser.execute(
                "select pg_terminate_backend(pid, 60000) from pg_stat_activity "
                "where application_name like 'cartrita%' and datname = current_database()"
            )
        (recorded,) = await recorder().record(happening(new_id()))
        await eventually(lambda: read_positions(database) == [(1, recorded.event_id)])

    async def test_is_woken_by_another_process(self, database: Database, sequencer: Sequencer) -> None:
        await eventually(lambda: sequencer.leads)
        with psycopg.connect(database.url, autocommit=True) as other:
            event_id = insert_foreign(other, new_id())
            other.execute("notify cartrita_wake")
        await eventually(lambda: read_positions(database) == [(1, event_id)])

    async def test_finds_by_itself_what_nobody_told_it(
        self, database: Database, sequencer: Sequencer
    ) -> None:
        await eventually(lambda: sequencer.leads)
        with psycopg.connect(database.url, autocommit=True) as other:
            event_id = insert_foreign(other, new_id())
        await eventually(lambda: read_positions(database) == [(1, event_id)])

    async def test_leaves_one_leader(self, database: Database, loop_resources: None) -> None:
        two = [Sequencer(), Sequencer()]
        tasks = {one: asyncio.create_task(one.run()) for one in two}
        await eventually(lambda: any(one.leads for one in two))
        first = next(one for one in two if one.leads)
        (second,) = (one for one in two if one is not first)
        assert not second.leads
        tasks[first].cancel()
        await eventually(lambda: second.leads)
        tasks[second].cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def test_begins_a_new_epoch_in_another_cluster(
        self, database: Database, loop_resources: None
    ) -> None:
        await recorder().record(happening(new_id()))
        await Sequencer().order()
        with psycopg.connect(database.superuser_url) as superuser:
            # As a logical restore leaves it: transaction ids and snapshots of a cluster that counted further.
            superuser.execute("set session_replication_role = replica")
            for table in ("event", "tick"):
                superuser.execute(f"alter table {table} disable trigger append_only")
            superuser.execute("update event set xid = '99999999'")
            superuser.execute("update tick set snapshot = '99999999:99999999:', cluster = cluster - 1")
        (second,) = await recorder().record(happening(new_id()))
        assert await Sequencer().order() == 1
        (third,) = await recorder().record(happening(new_id()))
        assert await Sequencer().order() == 1
        assert [event_id for _, event_id in await all_positions()][1:] == [second.event_id, third.event_id]
        with psycopg.connect(database.url) as session:
            assert session.execute("select epoch from tick order by number").fetchall() == [(0,), (1,), (1,)]


class TestOrder:
    def test_serves_code_without_an_event_loop(self, database: Database) -> None:
        (recorded,) = append(happening(new_id()))
        assert asyncio.run(Sequencer().order()) == 1
        assert [one.event_id for one in read_log(after=0)] == [recorded.event_id]


def has_leader(database: Database) -> bool:
    with psycopg.connect(database.url) as session:
        found = session.execute(
            "select 1 from pg_locks where locktype = 'advisory' and granted and classid = %s and objid = %s "
            "and database = (select oid from pg_database where datname = current_database())",
            [LEADER_LOCK >> 32, LEADER_LOCK & 0xFFFFFFFF],
        )
        return found.fetchone() is not None


def read_positions(database: Database) -> list[tuple[int, UUID]]:
    with psycopg.connect(database.url) as session:
        return session.execute(
            "select position, event_id from log join event using (stream_id, version) order by position"
        ).fetchall()
