"""What the event store reaches, beside a raw INSERT, eventsourcing and Emmett, in one run.

Prints one JSON object a line: name, ours, peer, ratio (ours / peer), unit, runs, load (of one minute) and
what the peer is. Every figure is the median of its runs; ours and the peers take turns. A PostgreSQL of its
own runs with fsync on, and the sequencer runs in a process of its own while we append, because order is part
of what we promise. What is loaded before is frozen for the garbage collector, as the server does.

Peers: eventsourcing's ApplicationRecorder in the environment of .venv-bench (or CARTRITA_BENCH_PYTHON), and
Emmett by Node (`npm ci --prefix benchmarks/peers/emmett`); a peer that is not installed is null.

    python benchmarks/eventstore.py [--quick] [--only PART]

`--only million` fills a log of 1,000,000 events, and is not part of a run without `--only`.
"""

import argparse
import asyncio
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import harness
from harness import CHECKOUT

sys.path.insert(0, str(CHECKOUT))
os.environ["DJANGO_SETTINGS_MODULE"] = "cartrita.settings"

NOTE = "x" * 180
EVENTSOURCING = "eventsourcing ApplicationRecorder"
EMMETT = "Emmett, PostgreSQL"
EMMETT_FOLDER = CHECKOUT / "benchmarks/peers/emmett"
WRITERS = (1, 8, 32)
RAW_INSERT = """
    insert into raw_event (stream_id, version, event_id, type, schema_version, recorded_at, workspace_id,
                           session_id, causation_id, actor, trace_id, key_id, data)
    values (%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b)
"""
RAW_INSERT_MANY = """
    insert into raw_event (stream_id, version, event_id, type, schema_version, recorded_at, workspace_id,
                           session_id, causation_id, actor, trace_id, key_id, data)
    select * from unnest(%b::uuid[], %b::int4[], %b::uuid[], %b::text[], %b::int2[], %b::timestamptz[],
                         %b::uuid[], %b::uuid[], %b::uuid[], %b::text[], %b::text[], %b::uuid[], %b::bytea[])
"""
RAW_TABLE = """
    create table raw_event (
        stream_id uuid not null, version int4 not null, event_id uuid not null, type text not null,
        schema_version int2 not null, recorded_at timestamptz not null, workspace_id uuid not null,
        session_id uuid, causation_id uuid, actor text not null, trace_id text not null, key_id uuid,
        data bytea not null, primary key (stream_id, version));
    grant select, insert on raw_event to public;
    create table bench_total (stream_id uuid primary key, total bigint not null, events int not null);
    create table bench_count (stream_id uuid primary key, events int not null);
    grant all on bench_total, bench_count to public;
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    runs, seconds = (1, 1.0) if options.quick else (3, 3.0)
    with database() as (server, sockets):
        load_django()
        bench = Bench(server, sockets, runs, seconds)
        for name in PARTS if options.only is None else [options.only]:
            if name == "million" and options.only is None:
                continue
            began = time.monotonic()
            getattr(bench, name)()
            print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


PARTS = (
    "append", "group_commit", "many", "visibility", "command", "read", "rebuild", "verify", "million",
)  # fmt: skip


def load_django() -> None:
    import django

    django.setup()
    gc.collect()
    gc.freeze()


@contextmanager
def database() -> Iterator[tuple[Any, str]]:
    """Start a PostgreSQL in a temporary home and migrate the event store's tables."""
    with tempfile.TemporaryDirectory(prefix="cartrita-bench-") as folder:
        home = Path(folder)
        os.environ["CARTRITA_HOME"] = folder
        os.environ["CARTRITA_SECRET_KEY"] = "bench" * 12
        os.environ["CARTRITA_MASTER_KEY"] = "YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmU="
        from cartrita.embedded.postgres import OWNER, SUPERUSER, use_postgres

        with use_postgres(home, settings={"max_connections": "200"}) as server:
            os.environ["DATABASE_URL"] = server.url()
            os.environ["DATABASE_OWNER_URL"] = server.url(OWNER)
            subprocess.run(
                [sys.executable, "manage.py", "migrate", "-v0"],
                cwd=CHECKOUT,
                check=True,
                env={**os.environ, "DATABASE_URL": server.url(OWNER)},
            )
            import psycopg

            with psycopg.connect(server.url(OWNER), autocommit=True) as owner:
                owner.execute(RAW_TABLE)
            with psycopg.connect(server.url(SUPERUSER), autocommit=True) as superuser:
                superuser.execute("create database peer")
                superuser.execute("create database emmett")
            yield server, str(server.sockets)


class Bench:
    def __init__(self, server: Any, sockets: str, runs: int, seconds: float) -> None:
        self.server, self.sockets, self.runs, self.seconds = server, sockets, runs, seconds
        self.peer_python = os.environ.get("CARTRITA_BENCH_PYTHON", str(CHECKOUT / ".venv-bench/bin/python"))
        from cartrita.eventstore import Context, Event, new_id

        class Opened(Event):
            type_name = "bench.Opened"

        class Happened(Event):
            type_name = "bench.Happened"

            number: int
            note: str

        self.opened_class, self.event_class, self.new_id = Opened, Happened, new_id
        self.context = Context(workspace_id=new_id(), session_id=new_id(), actor="system")

    # -- figures ---------------------------------------------------------------------------------------------

    def append(self) -> None:
        for writers in WRITERS:
            self.beside_peers(f"eventstore.append.{threads(writers)}", writers, 1, "raw INSERT")

    def many(self) -> None:
        for writers in WRITERS:
            name = f"eventstore.append.100_per_commit.{threads(writers)}"
            self.beside_peers(name, writers, 100, "raw INSERT of 100")

    def beside_peers(self, name: str, writers: int, per_commit: int, raw_is: str) -> None:
        ours, raw, eventsourcing, emmett = [], [], [], []
        for _ in range(self.runs):
            raw.append(self.raw(writers, per_commit))
            with self.sequencer():
                ours.append(self.appends(writers, per_commit))
            eventsourcing.append(self.eventsourcing(writers, per_commit))
            emmett.append(self.emmett(writers, per_commit))
        report(f"{name}.vs_raw", ours, raw, "events/s", raw_is)
        report(f"{name}.vs_eventsourcing", ours, eventsourcing, "events/s", EVENTSOURCING)
        report(f"{name}.vs_emmett", ours, emmett, "events/s", EMMETT)

    def group_commit(self) -> None:
        for tasks in (32, 256):
            ours, raw, eventsourcing, emmett = [], [], [], []
            for _ in range(self.runs):
                raw.append(self.raw(32, 1))
                with self.sequencer():
                    ours.append(asyncio.run(self.records(tasks)))
                eventsourcing.append(self.eventsourcing(32, 1))
                emmett.append(self.emmett(32, 1))
            name = f"eventstore.group_commit.{tasks}_tasks"
            report(f"{name}.vs_raw", ours, raw, "events/s", "raw INSERT, 32 threads")
            report(
                f"{name}.vs_eventsourcing", ours, eventsourcing, "events/s", f"{EVENTSOURCING}, 32 threads"
            )
            report(f"{name}.vs_emmett", ours, emmett, "events/s", f"{EMMETT}, 32 writers")

    def visibility(self) -> None:
        """From before the write to a follower in the sequencer's process, as a server has them."""
        for name, rate, other_process in (
            ("idle", 20.0, False),
            ("idle_other_process", 20.0, True),
            ("500_per_second", 500.0, False),
        ):
            halves, ninety_nines = [], []
            for _ in range(self.runs):
                waits = sorted(asyncio.run(self.visible(rate, other_process)))
                halves.append(waits[len(waits) // 2])
                ninety_nines.append(waits[int(len(waits) * 0.99)])
            report(f"eventstore.visibility.{name}.p50", halves, None, "ms")
            report(f"eventstore.visibility.{name}.p99", ninety_nines, None, "ms")

    def command(self) -> None:
        """Load, decide, append with an inline projection, commit: 8 workers as 2 processes of 4 threads."""
        rates = []
        for _ in range(self.runs):
            with self.sequencer():
                workers = [self.start(f"commands:{self.seconds}") for _ in range(2)]
                rates.append(sum(float(worker.communicate()[0]) for worker in workers))
        report("eventstore.command.8_workers", rates, None, "commands/s")

    def read(self) -> None:
        from cartrita.eventstore import head, load, read_log

        stream = self.new_id()
        asyncio.run(self.fill([stream], 50_000))
        reads, folds = [], []
        for _ in range(self.runs):
            began, position, last = time.perf_counter(), 0, min(head(), 100_000)
            while position < last:
                position = read_log(after=position, limit=2_000)[-1].position or 0
            reads.append(position / (time.perf_counter() - began))
            began, total = time.perf_counter(), 0
            events = load(stream)
            for recorded in events:
                total += recorded.event.number  # type: ignore[attr-defined]
            folds.append(len(events) / (time.perf_counter() - began))
        report("eventstore.read.ordered", reads, None, "events/s")
        report("eventstore.fold", folds, None, "events/s")

    def rebuild(self) -> None:
        """An inline projection that writes a row by Django's ORM for each event, one that takes an append's
        events at once and writes them by a statement, and a following one.
        """
        for kind, streams, versions in (("inline", 100, 20), ("batched", 300, 20), ("following", 500, 100)):
            asyncio.run(self.fill([self.new_id() for _ in range(streams)], versions))
            rates = []
            for _ in range(self.runs):
                events, seconds = self.rebuilt(kind)
                rates.append(events / seconds)
            report(f"eventstore.rebuild.{kind}", rates, None, "events/s")

    def verify(self) -> None:
        positions, seconds = 0, []
        asyncio.run(self.fill([self.new_id() for _ in range(100)], 100))
        for _ in range(self.runs):
            positions, taken = verified()
            seconds.append(taken / positions * 100_000)
        report("eventstore.verify_log.100k", seconds, None, "s")

    def million(self) -> None:
        """Fill a log and see whether it slows down; raw INSERTs beside tell how the machine does."""
        events = 20_000 if self.seconds < 2 else 1_000_000
        # A new server makes the files of its WAL while it writes the first, and uses them again later.
        self.append_rates()
        self.settle()
        start = self.append_rates()
        began = time.perf_counter()
        with self.sequencer():
            asyncio.run(self.fill([self.new_id() for _ in range(events // 100)], 100, opened=True))
        filled = events / (time.perf_counter() - began)
        # What autovacuum and a checkpoint would do of so many rows at some time while we measure.
        began = time.perf_counter()
        self.settle()
        settled = time.perf_counter() - began
        end = self.append_rates()
        name = "eventstore.million"
        report(f"{name}.fill", [filled], None, "events/s")
        report(f"{name}.vacuum", [settled], None, "s")
        for which, (ours, raw) in (("start", start), ("end", end)):
            report(f"{name}.append_at_{which}.8_threads", ours, raw, "events/s", "raw INSERT")
        for which, at_end, at_start in zip(("append", "raw"), end, start, strict=True):
            report(f"{name}.{which}_kept", at_end, at_start, "events/s", "the same at the start")
        beside = [statistics.median(ours) / statistics.median(raw) for ours, raw in (end, start)]
        report(f"{name}.append_kept_beside_raw", [beside[0] / beside[1]], None, "of the ratio at the start")
        positions, seconds = verified()
        report(f"{name}.verify", [seconds], None, f"s for {positions:,} events")
        rebuilt, seconds = self.rebuilt("both")
        report(f"{name}.rebuild", [seconds], None, f"s for {rebuilt:,} events")
        for table, size, rows in self.table_sizes():
            report(f"{name}.size.{table}", [size / 2**20], None, f"MiB for {rows:,} rows")

    # -- what is measured ------------------------------------------------------------------------------------

    def one(self, stream: UUID, version: int, count: int) -> Any:
        from cartrita.eventstore import Append

        return Append(
            stream,
            version,
            [self.event_class(number=version + index, note=NOTE) for index in range(count)],
            self.context,
        )

    async def fill(self, streams: Sequence[UUID], versions: int, *, opened: bool = False) -> None:
        """Record streams of so many events, 1,000 a commit at most, and give them positions."""
        from cartrita.eventstore import Append, Sequencer, close_async, recorder

        async def write(some: Sequence[UUID]) -> None:
            for stream in some:
                for version in range(0, versions, 1_000):
                    one = self.one(stream, version, min(1_000, versions - version))
                    if opened and not version:
                        one = Append(stream, 0, [self.opened_class(), *one.events[1:]], self.context)
                    await recorder().record(one)

        await asyncio.gather(*(write(streams[start::20]) for start in range(min(20, len(streams)))))
        await Sequencer().order()
        await close_async()

    def settle(self) -> None:
        import psycopg

        from cartrita.embedded.postgres import SUPERUSER

        with psycopg.connect(self.server.url(SUPERUSER), dbname="cartrita", autocommit=True) as superuser:
            superuser.execute("vacuum (analyze) event, log, tick, merkle_node")
            superuser.execute("checkpoint")

    def append_rates(self) -> tuple[list[float], list[float]]:
        ours, raw = [], []
        for _ in range(self.runs):
            raw.append(self.raw(8, 1))
            with self.sequencer():
                ours.append(self.appends(8, 1))
        return ours, raw

    def rebuilt(self, kind: str) -> tuple[int, float]:
        """Return how many events a rebuild applied, and its seconds. The owner of the tables does it."""
        from cartrita.embedded.postgres import OWNER

        environ = {**os.environ, "DATABASE_URL": self.server.url(OWNER)}
        output, _ = self.start(f"rebuild:{kind}", environ).communicate()
        events, seconds = output.split()
        return int(events), float(seconds)

    def table_sizes(self) -> list[tuple[str, int, int]]:
        import psycopg

        with psycopg.connect(self.server.url()) as session:
            return [
                (table, *session.execute(
                    f"select pg_total_relation_size('{table}'), count(*) from {table}"
                ).fetchone())  # type: ignore[misc]
                for table in ("event", "log", "tick", "merkle_node")
            ]  # fmt: skip

    def raw(self, threads: int, per_commit: int) -> float:
        """Insert rows that are ready, into the same columns with a primary key alone."""
        import psycopg

        from cartrita.embedded.postgres import OWNER
        from cartrita.eventstore import codec

        (event,) = codec.encode(self.one(self.new_id(), 0, 1), recorded_at=now(), ciphers={})
        row = codec.row_of(event)[2:]

        with psycopg.connect(self.server.url(OWNER), autocommit=True) as owner:
            owner.execute("truncate raw_event")

        def worker() -> Callable[[], int]:
            connection = psycopg.connect(self.server.url(), autocommit=True)

            def insert() -> int:
                stream = self.new_id()
                if per_commit == 1:
                    connection.execute(RAW_INSERT, (stream, 1, *row), prepare=True, binary=True)
                else:
                    rows = [(stream, version + 1, *row) for version in range(per_commit)]
                    columns = [list(column) for column in zip(*rows, strict=True)]
                    connection.execute(RAW_INSERT_MANY, columns, prepare=True, binary=True)
                return per_commit

            return insert

        return throughput(threads, self.seconds, worker)

    def appends(self, threads: int, per_commit: int) -> float:
        from cartrita.eventstore import append

        def worker() -> Callable[[], int]:
            def write() -> int:
                append(self.one(self.new_id(), 0, per_commit))
                return per_commit

            return write

        return throughput(threads, self.seconds, worker)

    async def records(self, tasks: int) -> float:
        from cartrita.eventstore import close_async, recorder

        count, ends_at = 0, time.perf_counter() + self.seconds

        async def write() -> None:
            nonlocal count
            while time.perf_counter() < ends_at:
                await recorder().record(self.one(self.new_id(), 0, 1))
                count += 1

        began = time.perf_counter()
        await asyncio.gather(*(write() for _ in range(tasks)))
        rate = count / (time.perf_counter() - began)
        await close_async()
        return rate

    def eventsourcing(self, threads: int, per_commit: int) -> float | None:
        if not Path(self.peer_python).exists():
            return None
        script = str(CHECKOUT / "benchmarks/peers/eventsourcing_recorder.py")
        arguments = [self.sockets, "postgres", "peer", str(threads), str(self.seconds), str(per_commit)]
        done = subprocess.run(
            [self.peer_python, script, *arguments], check=True, capture_output=True, text=True
        )
        return float(json.loads(done.stdout)["events_per_second"])

    def emmett(self, writers: int, per_commit: int) -> float | None:
        node = shutil.which("node")
        if node is None or not (EMMETT_FOLDER / "node_modules").exists():
            return None
        arguments = [self.sockets, "postgres", "emmett", str(writers), str(self.seconds), str(per_commit)]
        done = subprocess.run(
            [node, str(EMMETT_FOLDER / "append.mjs"), *arguments], check=True, capture_output=True, text=True
        )
        return float(json.loads(done.stdout)["events_per_second"])

    async def visible(self, rate: float, other_process: bool) -> list[float]:
        from cartrita.eventstore import Sequencer, ahead, close_async, follow, recorder

        count = int(min(400.0, rate * self.seconds * 3)) if rate < 100 else int(rate * self.seconds)
        sequencer = Sequencer()
        running = asyncio.create_task(sequencer.run())
        while not sequencer.leads:  # noqa: ASYNC110 - polled once at the start
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        seen: dict[UUID, float] = {}

        async def read(after: int) -> None:
            async for events in follow(after=after):
                moment = time.time()
                seen.update((recorded.stream_id, moment) for recorded in events)

        reading = asyncio.create_task(read(await ahead()))
        await asyncio.sleep(0.2)
        written: dict[UUID, float] = {}

        async def write() -> None:
            stream = self.new_id()
            written[stream] = time.time()
            await recorder().record(self.one(stream, 0, 1))

        if other_process:
            process = await asyncio.create_subprocess_exec(
                sys.executable, __file__, "--child", f"writes:{count}", stdout=subprocess.PIPE
            )
            output, _ = await process.communicate()
            written = {UUID(stream): moment for stream, moment in json.loads(output).items()}
        else:
            await every(1 / rate, count, write)
        while len(seen.keys() & written.keys()) < len(written):  # noqa: ASYNC110 - after the measurement
            await asyncio.sleep(0.05)
        for task in (running, reading):
            task.cancel()
        await asyncio.gather(running, reading, return_exceptions=True)
        await close_async()
        return [(seen[stream] - moment) * 1000 for stream, moment in written.items()]

    # -- processes -------------------------------------------------------------------------------------------

    def start(self, what: str, environ: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, __file__, "--child", what], stdout=subprocess.PIPE, text=True, env=environ
        )

    @contextmanager
    def sequencer(self) -> Iterator[None]:
        """Run the sequencer in its own process, and wait at the end until everything has a position."""
        import psycopg

        process = self.start("sequencer")
        if process.stdout is not None:
            process.stdout.readline()
        try:
            yield
            with psycopg.connect(self.server.url(), autocommit=True) as session:
                while session.execute(
                    "select (select count(*) from event) > (select coalesce(max(position), 0) from log)"
                ).fetchone() == (True,):
                    time.sleep(0.2)
        finally:
            process.terminate()
            process.wait()


def child(what: str) -> None:
    load_django()
    kind, _, number = what.partition(":")
    if kind == "sequencer":
        asyncio.run(run_sequencer())
    elif kind == "writes":
        bench = Bench(None, "", 1, 1)
        from cartrita.eventstore import append

        append(bench.one(bench.new_id(), 0, 1))  # connects
        written = {}
        for _ in range(int(number)):
            time.sleep(0.05)
            stream = bench.new_id()
            written[str(stream)] = time.time()
            append(bench.one(stream, 0, 1))
        print(json.dumps(written))
    elif kind == "rebuild":
        print(*rebuild(number))
    else:
        print(commands(float(number)))


async def run_sequencer() -> None:
    from cartrita.eventstore import Sequencer

    sequencer = Sequencer()
    task = asyncio.create_task(sequencer.run())
    while not sequencer.leads:  # noqa: ASYNC110 - polled once at the start
        await asyncio.sleep(0.02)
    print("leads", flush=True)
    await task


def totals() -> Any:
    """Return the read model of what a stream's events come to."""
    from django.db import models

    class Total(models.Model):
        stream_id = models.UUIDField(primary_key=True)
        total = models.BigIntegerField()
        events = models.IntegerField()

        class Meta:
            app_label = "eventstore"
            managed = False
            db_table = "bench_total"

    return Total


def commands(seconds: float) -> float:
    """Deposit to an account of 1 to 20 events: fold it, decide, append, project its total inline."""
    from django.db import transaction

    from cartrita.eventstore import Append, append, load

    bench = Bench(None, "", 1, 1)
    project_totals(totals(), bench.event_class)

    def worker() -> Callable[[], int]:
        stream, count = bench.new_id(), 0

        def command() -> int:
            nonlocal stream, count
            if count == 20:
                stream, count = bench.new_id(), 0
            with transaction.atomic():
                balance = sum(recorded.event.number for recorded in load(stream))  # type: ignore[attr-defined]
                event = bench.event_class(number=1 + balance % 7, note=NOTE)  # type: ignore[call-arg]
                append(Append(stream, count, [event], bench.context))
            count += 1
            return 1

        return command

    return throughput(4, seconds, worker)


def project_totals(total: Any, event_class: Any) -> None:
    from django.db.models import F

    from cartrita.eventstore import inline

    @inline(event_class, tables=[total])
    def project_total(recorded: Any) -> None:
        number = getattr(recorded.event, "number", 0)
        if recorded.version == 1:
            total.objects.create(stream_id=recorded.stream_id, total=number, events=1)
        else:
            total.objects.filter(pk=recorded.stream_id).update(
                total=F("total") + number, events=recorded.version
            )


def rebuild(kind: str) -> tuple[int, float]:
    """Return the events applied and the seconds, of "inline", "batched", "following" or "both".

    For both the inline projection is of the first event of each stream.
    """
    from django.db import connection, models

    from cartrita.eventstore import following, inline_batched
    from cartrita.eventstore.rebuild import projection_names
    from cartrita.eventstore.rebuild import rebuild as rebuild_projections

    bench = Bench(None, "", 1, 1)

    class Count(models.Model):
        stream_id = models.UUIDField(primary_key=True)
        events = models.IntegerField()

        class Meta:
            app_label = "eventstore"
            managed = False
            db_table = "bench_count"

    def count(batch: Sequence[Any]) -> None:
        counted = Counter(recorded.stream_id for recorded in batch)
        with connection.cursor() as cursor:
            cursor.execute(
                "insert into bench_count (stream_id, events) select * from unnest(%s::uuid[], %s::int[]) "
                "on conflict (stream_id) do update set events = bench_count.events + excluded.events",
                [list(counted), list(counted.values())],
            )

    if kind == "batched":
        inline_batched(bench.event_class, tables=[Count])(count)
    if kind in {"inline", "both"}:
        project_totals(totals(), bench.opened_class if kind == "both" else bench.event_class)
    if kind in {"following", "both"}:
        following("bench.counts", bench.event_class, tables=[Count])(count)

    names = [name for name in projection_names() if name.startswith(("bench.", f"{__name__}."))]
    began = time.perf_counter()
    report = rebuild_projections(names)
    return report.events, time.perf_counter() - began


def verified() -> tuple[int, float]:
    """Return how many positions the log has, and the seconds that verifying them took."""
    from cartrita.eventstore.integrity import verify_log

    began = time.perf_counter()
    found = verify_log()
    if not found.verified:
        raise SystemExit(f"the log does not verify: {found}")
    return found.positions, time.perf_counter() - began


def throughput(threads: int, seconds: float, worker: Callable[[], Callable[[], int]]) -> float:
    """Return what `threads` threads do in a second, each with a function (and connection) of its own."""
    from django.db import connections

    counts = [0] * threads
    ends_at = 0.0
    failures: list[BaseException] = []
    ready = threading.Barrier(threads + 1)

    def run(index: int) -> None:
        try:
            act = worker()
            act()
            ready.wait()
            while time.perf_counter() < ends_at:
                counts[index] += act()
        except BaseException as error:
            failures.append(error)
            ready.abort()
            raise
        finally:
            connections.close_all()

    started = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for thread in started:
        thread.start()
    ends_at = time.perf_counter() + seconds + 60
    ready.wait()
    began = time.perf_counter()
    ends_at = began + seconds
    for thread in started:
        thread.join()
    if failures:
        raise failures[0]
    return sum(counts) / (time.perf_counter() - began)


async def every(period: float, count: int, act: Callable[[], Awaitable[None]]) -> None:
    """Start `act` at a steady rate, whether or not the one before has ended."""
    running = set()
    begins = time.perf_counter()
    for number in range(count):
        await asyncio.sleep(max(0.0, begins + number * period - time.perf_counter()))
        task = asyncio.ensure_future(act())
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)


def report(
    name: str, ours: list[float], peers: list[Any] | None, unit: str, peer_is: str | None = None
) -> None:
    known = [peer for peer in peers or [] if peer is not None]
    harness.report(name, ours, known or None, unit, peer_is or "")


def threads(count: int) -> str:
    return f"{count}_thread{'s' * (count > 1)}"


def now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


if __name__ == "__main__":
    main()
