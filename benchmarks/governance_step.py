"""What a governed step costs, beside one bare INSERT, the same events without governance, and DBOS.

Prints one JSON object a line: name, ours, peer, ratio (ours / peer), unit, runs, load (of one minute) and
what the peer is. Every figure is the median of its runs, in which the kinds take turns:

- `insert`: one row of the event table's columns, prepared and autocommitted;
- `recording`: a step's four events (an act settled, one decided, two of a run) in one append, ungoverned;
- `step`: the whole of it: the last act settled, the next decided under the starter policy, three budgets
  reserved and booked, labels added to session and person, four events and the decision's rows;
- `dbos`: a step of a DBOS workflow of 30 that returns 150 characters: durable, and governed by nothing.

A PostgreSQL of its own runs with fsync on, with a database for DBOS. One writer, then eight in two processes;
`cpu` is what the writing threads used (DBOS: its process), without PostgreSQL. DBOS runs in the environment
of .venv-bench (or CARTRITA_BENCH_PYTHON); without it, its figures are left out.

    python benchmarks/governance_step.py [--quick]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from harness import CHECKOUT, PEERS, report

sys.path.insert(0, str(CHECKOUT))
os.environ["DJANGO_SETTINGS_MODULE"] = "cartrita.settings"

KINDS = ("insert", "recording", "step", "dbos")
DBOS = "a step of a DBOS workflow"
DBOS_STEPS = 30
INSERT = """
    insert into raw_event (stream_id, version, event_id, type, schema_version, recorded_at, workspace_id,
                           session_id, causation_id, actor, trace_id, key_id, data)
    values (%b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b, %b)
"""
TABLE = """
    create table raw_event (
        stream_id uuid not null, version int4 not null, event_id uuid not null, type text not null,
        schema_version int2 not null, recorded_at timestamptz not null, workspace_id uuid not null,
        session_id uuid, causation_id uuid, actor text not null, trace_id text not null, key_id uuid,
        data bytea not null, primary key (stream_id, version));
    grant select, insert on raw_event to public;
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, threads, seconds = options.child
        child(kind, int(threads), float(seconds))
        return
    runs, seconds = (1, 2.0) if options.quick else (5, 4.0)
    kinds = KINDS if PEERS.exists() else KINDS[:-1]
    with database() as dbos:
        for name, processes, threads in (("1_writer", 1, 1), ("8_writers", 2, 4)):
            found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
            for _ in range(runs):
                for kind in kinds:
                    found[kind].append(measure(kind, processes, threads, seconds, dbos))
            # Times as multiples of a peer's: 2.0 is half as many in a second.
            times = {kind: [1000 * processes * threads / rate for rate, _ in found[kind]] for kind in kinds}
            cpus = {kind: [cpu for _, cpu in found[kind]] for kind in kinds}
            for kind in kinds:
                report(
                    f"governance_step.{kind}.{name}", times[kind], times["insert"], "ms", "one bare INSERT"
                )
                report(f"governance_step.{kind}.{name}.cpu", cpus[kind], None, "ms")
            if "dbos" in kinds:
                report(f"governance_step.step.{name}.vs_dbos", times["step"], times["dbos"], "ms", DBOS)
                report(f"governance_step.step.{name}.cpu.vs_dbos", cpus["step"], cpus["dbos"], "ms", DBOS)


def measure(kind: str, processes: int, threads: int, seconds: float, dbos: str) -> tuple[float, float]:
    """Return how many a second all writers make, and the CPU milliseconds of one."""
    arguments = [sys.executable, __file__, "--child", kind, str(threads), str(seconds)]
    if kind == "dbos":
        peer = [PEERS, CHECKOUT / "benchmarks/peers/dbos_workflows.py", dbos, "runs", DBOS_STEPS]
        arguments = list(map(str, [*peer, seconds, threads, "threads"]))
    children = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    answers = [json.loads(one.communicate()[0]) for one in children]
    each = DBOS_STEPS if kind == "dbos" else 1
    count = each * sum(answer["count"] for answer in answers)
    return (
        sum(each * answer["count"] / answer["seconds"] for answer in answers),
        1000 * sum(answer["cpu"] for answer in answers) / count,
    )


@contextmanager
def database() -> Iterator[str]:
    """Start a PostgreSQL in a temporary home and migrate it; give the address of a database for DBOS."""
    with tempfile.TemporaryDirectory(prefix="cartrita-bench-") as folder:
        os.environ["CARTRITA_HOME"] = folder
        os.environ["CARTRITA_SECRET_KEY"] = "bench" * 12
        os.environ["CARTRITA_MASTER_KEY"] = "YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmU="
        from cartrita.embedded.postgres import OWNER, SUPERUSER, use_postgres

        with use_postgres(Path(folder), settings={"max_connections": "100"}) as server:
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
                owner.execute(TABLE)
            dbos = server.url(SUPERUSER, "dbos")
            if PEERS.exists():
                with psycopg.connect(server.url(SUPERUSER), autocommit=True) as superuser:
                    superuser.execute("create database dbos")
                setup = [PEERS, CHECKOUT / "benchmarks/peers/dbos_workflows.py", dbos, "setup"]
                subprocess.run(setup, check=True, stdout=subprocess.DEVNULL)
            yield dbos


def child(kind: str, threads: int, seconds: float) -> None:
    import django

    django.setup()
    workers = {"insert": inserts, "recording": recordings, "step": steps}
    print(json.dumps(throughput(threads, seconds, workers[kind])))


def inserts() -> Callable[[], None]:
    import psycopg

    from cartrita.eventstore import new_id

    connection = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    # As long as the decision that a step records.
    row = (1, new_id(), "bench.Row", 1, now(), new_id(), new_id(), None, "system", "", None, b"x" * 2000)

    def insert() -> None:
        connection.execute(INSERT, (new_id(), *row), prepare=True, binary=True)

    return insert


def recordings() -> Callable[[], None]:
    """Append what a step appends, as events that nothing projects."""
    from cartrita.eventstore import Append, Context, Event, append, create_data_key, new_id
    from cartrita.eventstore.types import Sealed

    class Decided(Event):
        type_name = "bench.Decided"

        request: Sealed[str]
        verdict: str

    class Ran(Event):
        type_name = "bench.Ran"

        text: str

    place = Context(
        workspace_id=new_id(),
        session_id=new_id(),
        key_id=create_data_key(subject_id=new_id(), scope="session"),
    )
    run_id, version, last = new_id(), 0, new_id()
    append(Append(last, 0, [Ran(text="first")], place))

    def record() -> None:
        nonlocal version, last
        decision_id = new_id()
        append(
            Append(last, 1, [Ran(text="x" * 150)], place),
            Append(decision_id, 0, [Decided(request="x" * 1000, verdict="x" * 1000)], place),
            Append(run_id, version, [Ran(text="x" * 300), Ran(text="x" * 300)], place),
        )
        version, last = version + 2, decision_id

    return record


def steps() -> Callable[[], None]:
    from cartrita.eventstore import Append, Context, Event, append, create_data_key, new_id
    from governance.budget import BudgetSet, budget_id
    from governance.decide import Cost, DecisionRequest
    from governance.step import Act, Settlement, TaskLimit, take_step

    class Ran(Event):
        type_name = "bench.Ran"

        text: str

    workspace_id, session_id, user_id = new_id(), new_id(), new_id()
    key_id = create_data_key(subject_id=user_id, scope="session")
    place = Context(workspace_id=workspace_id, session_id=session_id, key_id=key_id)
    for scope_kind, scope in (("workspace", workspace_id), ("session", session_id)):
        budget = BudgetSet(
            name=scope_kind,
            scope_kind=scope_kind,
            scope=str(scope),
            parent_id=None,
            period="day",
            time_zone="Europe/Berlin",
            limit_tokens=10**12,
            limit_micros=None,
            currency="USD",
            warn_percent=80,
        )
        append(Append(budget_id(workspace_id, scope_kind, str(scope), "day"), 0, [budget], place))
    run_id, task = new_id(), TaskLimit(task_id=new_id(), tokens=10**12)
    version, last = 0, None

    def step() -> None:
        nonlocal version, last
        request = DecisionRequest(
            subject_kind="tool_call",
            workspace_id=workspace_id,
            session_id=session_id,
            at=now(),
            actor=f"user:{user_id}",
            agent="assistant",
            roles=frozenset({"member"}),
            task_path=(str(task.task_id),),
            tool="calculate",
            safety_level="safe",
            arguments={"expression": "1 + 1"},
            cost=Cost(tokens=20),
        )
        act = Act(
            request=request,
            decision_id=new_id(),
            may_add=frozenset({"computed"}),
            task_limit=task,
            requester_id=user_id,
        )
        ended = [] if last is None else [Settlement(decision_id=last, outcome="succeeded", tokens=12)]
        ran = Append(run_id, version, [Ran(text="x" * 300), Ran(text="x" * 300)], place)
        (decided,) = take_step(context=place, acts=[act], settlements=ended, then=lambda _: [ran])
        if decided.permit is None:
            raise SystemExit(f"not allowed: {decided.verdict.reason}")
        version, last = version + 2, act.decision_id

    return step


def throughput(threads: int, seconds: float, worker: Callable[[], Callable[[], None]]) -> dict[str, float]:
    """Return what `threads` threads do and their CPU time, each with a function and connection of its own."""
    from django.db import connection

    counts, cpus = [0] * threads, [0.0] * threads
    ends_at = 0.0
    ready = threading.Barrier(threads + 1)

    def run(index: int) -> None:
        act = worker()
        for _ in range(20):
            act()
        ready.wait()
        began = time.thread_time()
        while time.perf_counter() < ends_at:
            act()
            counts[index] += 1
        cpus[index] = time.thread_time() - began
        connection.close()

    running = [threading.Thread(target=run, args=(index,)) for index in range(threads)]
    for thread in running:
        thread.start()
    ends_at = time.perf_counter() + seconds + 3600
    ready.wait()
    began = time.perf_counter()
    ends_at = began + seconds
    for thread in running:
        thread.join()
    return {"count": sum(counts), "seconds": time.perf_counter() - began, "cpu": sum(cpus)}


def now() -> datetime:
    return datetime.now(UTC)


if __name__ == "__main__":
    main()
