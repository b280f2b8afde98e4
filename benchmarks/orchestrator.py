"""How fast messages become replies, beside LangGraph with its PostgreSQL saver and DBOS, in one run.

Prints one JSON object a line: name, ours, peer, ratio (ours / peer), unit, runs, load (of one minute) and
what the peer is. Every figure is the median of its runs, in which the kinds take turns. One PostgreSQL with
fsync and synchronous commit serves all of them, each in a database of its own; nothing waits for a model,
tools give 150 characters at once. Each kind runs in a process of its own.

- `first_event`: from before a message is posted to the first event or text that the session's channel
  shows; `first_delta`: to the first text. Services in the process, a scripted model. LangGraph: a node that
  streams a chunk, checkpoints stored.
- `step`: `insert` one row and commit; `bare` what came of an act and the next one, two events of a run, by
  the recorder; `governed` the same as a step of governance; `driver` a call of a tool in a run of 30, from
  the post to the reply, with the sequencer, the projector and the orchestrator in the process. DBOS,
  LangGraph: a step of a workflow, of a graph, of 30. `cpu` is the whole process without PostgreSQL.
- `three_steps`: messages whose run calls three tools (`run`) or whose plan, made and summed up by the model,
  has three tasks of one call (`plan`), from the post to the reply.
- `long`: a run of 200 steps: time and CPU of a step, bytes stored (all tables and indexes) and bytes of the
  write-ahead log up to step 25, 50, 100 and 200. `skill`: rules call the tool; `model`: the scripted model
  asks for it.

    python benchmarks/orchestrator.py [--quick] [--only FIGURE]
"""

import argparse
import asyncio
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import harness
from harness import CHECKOUT, PEERS

sys.path.insert(0, str(CHECKOUT))
os.environ["DJANGO_SETTINGS_MODULE"] = "cartrita.settings"

STEPS = 30  # fewer than the calls that a run may make
SIDE_BY_SIDE = 8
MARKS = (25, 50, 100, 200)
NAME = "bench_step"
PLANNING = "Plan this request"
THREE = "Send the first letter. Then send the second letter. Then send the third letter?"
DBOS, LANGGRAPH = "DBOS, threads", "LangGraph, durability sync"
INSERT = "insert into raw_row (id, number, written_at, content) values (%b, %b, %b, %b)"
TABLE = """
    create table raw_row (id uuid primary key, number int4 not null, written_at timestamptz not null,
                          content bytea not null);
    grant select, insert on raw_row to public;
"""
# Everything that is no catalog of PostgreSQL's own; the log's position counts the bytes written to it.
SIZES = """
    select (select sum(pg_total_relation_size(oid))::int8 from pg_class where relkind = 'r' and oid > 16383),
           (pg_current_wal_lsn() - '0/0')::int8
"""

Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    parser.add_argument("--only", help="first_event, step, three_steps or long")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(*options.child)))
        return
    with databases() as peers:
        bench = Bench(peers, 1 if options.quick else 3, 1.5)
        for figure in (bench.first_event, bench.step, bench.three_steps, bench.long):
            if options.only in {None, figure.__name__}:
                figure()


@contextmanager
def databases() -> Iterator[Mapping[str, str]]:
    """Start a PostgreSQL in a temporary home, with Cartrita's database and one for each peer that is here."""
    with tempfile.TemporaryDirectory(prefix="cartrita-bench-") as folder:
        script = Path(folder) / "script.json"
        script.write_text(json.dumps(scripted()))
        os.environ["CARTRITA_HOME"] = folder
        os.environ["CARTRITA_SECRET_KEY"] = "bench" * 12
        os.environ["CARTRITA_MASTER_KEY"] = "YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmVuY2gtYmU="
        os.environ["CARTRITA_SCRIPTED_MODEL"] = str(script)
        os.environ["CARTRITA_LOG_LEVEL"] = "WARNING"
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
            peers = {}
            for name in ("dbos_workflows", "langgraph_runs"):
                if PEERS.exists():
                    with psycopg.connect(server.url(SUPERUSER), autocommit=True) as superuser:
                        superuser.execute(f"create database {name}")  # type: ignore[call-overload]
                    peers[name] = server.url(SUPERUSER, name)
                    peer(peers, name, "setup")
            yield peers


def scripted() -> Figures:
    """Return what the model says: a plan, a call for as long as the tool is asked for, an answer."""
    tasks = [
        {
            "key": key,
            "intent": f"Look at letter {key}.",
            "agent": "bench_model",
            "tool": NAME,
            "arguments": json.dumps({"number": 1}),
            "depends_on": [before] if before else [],
            "refines": [],
            "enables": [],
            "blocks": [],
            "priority": 5,
        }
        for key, before in (("a", ""), ("b", "a"), ("c", "b"))
    ]
    call = {"tool": NAME, "arguments": json.dumps({"number": 1}), "answer": ""}
    done = {"tool": "", "arguments": "", "answer": "It is done."}
    return {
        "answers": [
            {"when": PLANNING, "text": json.dumps({"tasks": tasks})},
            {"when": "Go through the letters", "text": json.dumps(call), "times": MARKS[-1] + 1},
            {"when": "Go through the letters", "text": json.dumps(done)},
            {"text": "All of it is done."},
        ]
    }


def peer(peers: Mapping[str, str], name: str, *arguments: object) -> Figures:
    """Run a peer's script in the peers' environment; without it every figure is null."""
    if name not in peers:
        return {}
    script = str(CHECKOUT / "benchmarks" / "peers" / f"{name}.py")
    done = subprocess.run(
        [str(PEERS), script, peers[name], *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(json.loads(done.stdout)) if done.stdout else {}


def ours(*arguments: object) -> Figures:
    done = subprocess.run(
        [sys.executable, __file__, "--child", *map(str, arguments)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(json.loads(done.stdout))


class Bench:
    def __init__(self, peers: Mapping[str, str], runs: int, seconds: float) -> None:
        self.peers, self.times, self.seconds = peers, runs, seconds

    def first_event(self) -> None:
        mine: list[Figures] = []
        theirs: list[Figures] = []
        count = int(self.seconds * 16)
        for _ in range(self.times):
            mine.append(ours("first", count))
            theirs.append(peer(self.peers, "langgraph_runs", "first", count))
        for name, part in (("p50", 0.5), ("p95", 0.95)):
            there = [quantile(one["milliseconds"], part) for one in theirs if one]
            for kind in ("event", "delta"):
                here = [quantile(one[kind], part) for one in mine]
                report(f"first_{kind}.{name}", here, there, "ms", f"{LANGGRAPH}, first chunk")

    def step(self) -> None:
        found = self._side_by_side(
            {
                "insert": partial(ours, "insert", self.seconds),
                "bare": partial(ours, "bare", self.seconds),
                "governed": partial(ours, "governed", self.seconds),
                "driver": partial(ours, "runs", "skill", STEPS, self.seconds),
                "dbos": partial(self._peer, "dbos_workflows", STEPS, "threads"),
                "langgraph": partial(self._peer, "langgraph_runs", STEPS, "sync"),
            }
        )
        peers = {"insert": "one bare INSERT", "dbos": DBOS, "langgraph": LANGGRAPH}
        for kind in ("bare", "governed", "driver"):
            for other, what in peers.items():
                here, there = found[kind], found[other]
                report(f"step.{kind}.alone.vs_{other}", wall(here[0]), wall(there[0]), "ms", what)
                report(f"step.{kind}.alone.cpu.vs_{other}", cpu(here[0]), cpu(there[0]), "ms", what)
                name = f"step.{kind}.{SIDE_BY_SIDE}_together"
                report(f"{name}.rate.vs_{other}", rate(here[1]), rate(there[1]), "steps/s", what)
                report(f"{name}.cpu.vs_{other}", cpu(here[1]), cpu(there[1]), "ms", what)

    def three_steps(self) -> None:
        found = self._side_by_side(
            {
                "run": partial(ours, "runs", "skill", 3, self.seconds),
                "plan": partial(ours, "runs", "plan", 3, self.seconds),
                "dbos": partial(self._peer, "dbos_workflows", 3, "threads"),
                "langgraph": partial(self._peer, "langgraph_runs", 3, "sync"),
            }
        )
        for kind in ("run", "plan"):
            for other, what in (("dbos", DBOS), ("langgraph", LANGGRAPH)):
                here, there = found[kind], found[other]
                report(f"three_steps.{kind}.alone.vs_{other}", a_run(here[0]), a_run(there[0]), "ms", what)
                name = f"three_steps.{kind}.{SIDE_BY_SIDE}_together.rate.vs_{other}"
                report(name, runs_of(here[1]), runs_of(there[1]), "runs/s", what)
                mine, theirs = [3 * n for n in cpu(here[1])], [3 * n for n in cpu(there[1])]
                report(name.replace(".rate", ".cpu"), mine, theirs, "ms", what)

    def long(self) -> None:
        found = self._in_turns(
            {
                "skill": lambda: ours("long", "skill"),
                "model": lambda: ours("long", "model"),
                "dbos": lambda: peer(self.peers, "dbos_workflows", "long", *MARKS),
                "langgraph": lambda: peer(self.peers, "langgraph_runs", "long", *MARKS),
            },
            min(self.times, 2),
        )
        for kind, figures in found.items():
            if not all(figures):
                continue
            for what, unit in (("at", "ms a step"), ("cpu", "ms of CPU a step")):
                each = [quarters(one[what]) for one in figures]
                name = f"long.{kind}" if what == "at" else f"long.{kind}.cpu"
                for number, values in enumerate(zip(*each, strict=True), 1):
                    report(f"{name}.quarter_{number}", list(values), None, unit)
                report(
                    f"{name}.last_quarter",
                    [one[-1] for one in each],
                    [one[0] for one in each],
                    unit,
                    "its first quarter",
                )
            for what in ("bytes", "wal"):
                for number, mark in enumerate(MARKS, 1):
                    grown = [(one[what][number] - one[what][0]) / mark / 1024 for one in figures]
                    report(f"long.{kind}.{what}.{mark}_steps", grown, None, "KiB a step")

    def _in_turns(self, kinds: Mapping[str, Callable[[], Figures]], times: int) -> dict[str, list[Figures]]:
        found: dict[str, list[Figures]] = {kind: [] for kind in kinds}
        for _ in range(times):
            for kind, run in kinds.items():
                found[kind].append(run())
        return found

    def _side_by_side(self, kinds: Mapping[str, Callable[[], Figures]]) -> dict[str, list[list[Figures]]]:
        """Return the figures of each kind: those of one alone, and those of several together."""
        found = self._in_turns(kinds, self.times)
        return {
            kind: [[one["each"][place] for one in figures if one] for place in range(2)]
            for kind, figures in found.items()
        }

    def _peer(self, name: str, steps: int, mode: str) -> Figures:
        each = [
            peer(self.peers, name, "runs", steps, self.seconds, together, mode)
            for together in (1, SIDE_BY_SIDE)
        ]
        return {"each": [{**figures, "steps": steps} for figures in each]} if all(each) else {}


def quarters(at: list[float]) -> list[float]:
    """Return the milliseconds of a step in each quarter of a long run."""
    steps = MARKS[-1] // 4
    return [1000 * (at[end] - at[end - steps]) / steps for end in range(steps, MARKS[-1] + 1, steps)]


def wall(found: list[Figures]) -> list[float]:
    """Return the median milliseconds of a step, of each run."""
    return [1000 * statistics.median(one["runs"]) / one["steps"] for one in found if one]


def cpu(found: list[Figures]) -> list[float]:
    """Return the milliseconds of CPU of a step, of each run."""
    return [1000 * one["cpu"] / one["count"] / one["steps"] for one in found if one]


def rate(found: list[Figures]) -> list[float]:
    """Return the steps a second, of each run."""
    return [one["count"] * one["steps"] / one["seconds"] for one in found if one]


def a_run(found: list[Figures]) -> list[float]:
    return [1000 * statistics.median(one["runs"]) for one in found if one]


def runs_of(found: list[Figures]) -> list[float]:
    return [one["count"] / one["seconds"] for one in found if one]


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[int(part * len(values))]


def report(name: str, ours: list[float], peer: list[float] | None, unit: str, what: str = "") -> None:
    harness.report(f"orchestrator.{name}", ours, peer, unit, what)


# -- one kind, in a process of its own -----------------------------------------------------------------------


def child(kind: str, *rest: str) -> Figures:
    if kind == "insert":
        return {"each": [inserts(float(rest[0]), together) for together in (1, SIDE_BY_SIDE)]}
    import django

    django.setup()
    match kind:
        case "bare" | "governed":
            writer = bare if kind == "bare" else governed
            measured = [in_a_loop(writer, float(rest[0]), together) for together in (1, SIDE_BY_SIDE)]
            return {"each": [asyncio.run(one) for one in measured]}
        case "first":
            return asyncio.run(first(int(rest[0])))
        case "runs":
            declare_work()
            how, steps, seconds = rest
            measured = [runs(how, int(steps), float(seconds), together) for together in (1, SIDE_BY_SIDE)]
            return {"each": [asyncio.run(one) for one in measured]}
        case "long":
            declare_work()
            return asyncio.run(long(rest[0]))
        case _:
            raise SystemExit(f"unknown kind: {kind}")


def text() -> str:
    """Return 150 characters that do not compress well."""
    return secrets.token_hex(75)


def inserts(seconds: float, together: int) -> Figures:
    import psycopg

    took: list[float] = []
    until = float("inf")
    ready = threading.Barrier(together + 1)

    def write() -> None:
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:

            def insert() -> None:
                # As long as the two events of a bare step.
                row = (uuid4(), 1, datetime.now(UTC), (text() * 5).encode())
                connection.execute(INSERT, row, prepare=True, binary=True)

            for _ in range(20):
                insert()
            ready.wait()
            while time.perf_counter() < until:
                began = time.perf_counter()
                insert()
                took.append(time.perf_counter() - began)

    writers = [threading.Thread(target=write) for _ in range(together)]
    for writer in writers:
        writer.start()
    until = time.perf_counter() + seconds + 60
    ready.wait()
    began, used = time.perf_counter(), time.process_time()
    until = began + seconds
    for writer in writers:
        writer.join()
    return figures_of(took, began, used, steps=1)


async def in_a_loop(
    writer: Callable[[], Callable[[], Awaitable[None]]], seconds: float, together: int
) -> Figures:
    """Let so many runs record their steps side by side."""
    from cartrita.eventstore import close_async

    took: list[float] = []
    until = float("inf")

    async def many(act: Callable[[], Awaitable[None]]) -> None:
        while time.perf_counter() < until:
            began = time.perf_counter()
            await act()
            took.append(time.perf_counter() - began)

    acts = [writer() for _ in range(together)]
    for act in acts:
        for _ in range(20):
            await act()
    began, used = time.perf_counter(), time.process_time()
    until = began + seconds
    await asyncio.gather(*map(many, acts))
    figures = figures_of(took, began, used, steps=1)
    await close_async()
    return figures


def figures_of(took: list[float], began: float, used: float, *, steps: int) -> Figures:
    return {
        "count": len(took),
        "steps": steps,
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - used,
        "runs": took,
    }


@dataclass
class Run:
    """A run whose steps are recorded without a driver: `events` makes those of the next step."""

    version: int = 0
    step: int = 0
    last: UUID | None = None

    def events(self, decision_id: UUID) -> list[Any]:
        """Return what came of the last act, and the decision on the next."""
        from cartrita.tools.events import ToolReturned
        from tasks_app.run import ActDecided

        self.step += 1
        decided = ActDecided(
            step=self.step,
            attempt=1,
            act="tool_call",
            subject=NAME,
            decision_id=decision_id,
            outcome="allow",
            rule="default-tool-call",
            permitted=True,
        )
        returned = ToolReturned(
            tool=NAME,
            definition_hash="0" * 64,
            idempotency_key=str(decision_id),
            decision_id=self.last or decision_id,
            result={"text": text()},
            cost_tokens=0,
            latency_ms=1,
        )
        return [returned, decided]


def bare() -> Callable[[], Awaitable[None]]:
    from cartrita.eventstore import Append, new_id, recorder

    run_id, run, place = new_id(), Run(), a_place(new_id())

    async def step() -> None:
        await recorder().record(Append(run_id, run.version, run.events(new_id()), place))
        run.version += 2

    return step


def governed() -> Callable[[], Awaitable[None]]:
    from cartrita.eventstore import Append, new_id
    from governance.decide import Cost, DecisionRequest
    from governance.step import Act, Settlement, TaskLimit, atake_step

    user_id, run_id, run = new_id(), new_id(), Run()
    place, task = a_place(user_id), TaskLimit(task_id=new_id(), tokens=10**9)

    async def step() -> None:
        decision_id = new_id()
        request = DecisionRequest(
            subject_kind="tool_call",
            workspace_id=place.workspace_id,
            session_id=place.session_id,
            at=datetime.now(UTC),
            actor=f"user:{user_id}",
            agent="assistant",
            roles=frozenset({"member"}),
            task_path=(str(task.task_id),),
            tool=NAME,
            safety_level="safe",
            arguments={"number": 1},
            cost=Cost(),
        )
        act = Act(request=request, decision_id=decision_id, task_limit=task, requester_id=user_id)
        ended = [] if run.last is None else [Settlement(decision_id=run.last, outcome="succeeded")]
        ran = [Append(run_id, run.version, run.events(decision_id), place)]
        (decided,) = await atake_step(context=place, acts=[act], settlements=ended, then=lambda _: ran)
        if decided.permit is None:
            raise SystemExit(f"not allowed: {decided.verdict.reason}")
        run.version, run.last = run.version + 2, decision_id

    return step


def a_place(user_id: UUID) -> Any:
    """Return what surrounds the events of a session of that person."""
    from concurrent.futures import ThreadPoolExecutor

    from django.db import connection

    from cartrita.eventstore import Context, create_data_key, new_id

    def key() -> UUID:
        try:
            return create_data_key(subject_id=user_id, scope="session")
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as thread:  # Django refuses to be used from a thread with a loop
        key_id = thread.submit(key).result()
    return Context(workspace_id=new_id(), session_id=new_id(), key_id=key_id)


@dataclass
class Calls:
    """When the tool was called, without the time that measuring took."""

    at: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    watch: Any = None
    spent: float = 0.0

    def called(self) -> None:
        began = time.perf_counter()
        if self.watch is not None and len(self.at) in (0, *MARKS):
            self.sizes.append(self.watch.execute(SIZES).fetchone())
            self.spent += time.perf_counter() - began
        self.at.append(began - self.spent)
        self.cpu.append(time.process_time())


CALLS = Calls()


def declare_work() -> None:
    """Declare a tool that gives 150 characters, and agents that call it: by rules, or as a model wants."""
    from cartrita.orchestrator.agents import Agent, declare
    from cartrita.orchestrator.skills import Answer, Brief, Move, Use, skill
    from cartrita.tools.registry import Parameters, ToolCall, tool

    class Number(Parameters):
        number: int

    class Text(Parameters):
        text: str

    async def give(arguments: Number, call: ToolCall) -> Text:  # noqa: ARG001 - the shape of every tool
        CALLS.called()
        return Text(text=text())

    @skill("bench")
    def go_through(brief: Brief) -> Move:
        done = len(brief.outcomes)
        return Use(NAME, {"number": done + 1}) if done < int(brief.intent) else Answer("It is done.")

    give.__annotations__ |= {"arguments": Number, "return": Text}
    tool(NAME, description="Give a text.", category="general")(give)
    for name, by in (("bench_rules", "bench"), ("bench_model", "")):
        declare(
            Agent(
                name=name,
                version=1,
                purpose="Calls a tool again and again.",
                instructions="Work through the letters.",
                examples=("Go through the letters again and again.",),
                tools=(NAME,),
                skill=by,
            )
        )


@dataclass(frozen=True)
class Person:
    user_id: UUID
    workspace_id: UUID

    def opens_session(self) -> UUID:
        from sessions_app import commands

        return commands.create_session(user_id=self.user_id, workspace_id=self.workspace_id, actor="system")

    def says(self, session_id: UUID, content: str, agent: str | None) -> UUID:
        from cartrita.eventstore import new_id
        from sessions_app import commands

        message_id = new_id()
        commands.post_message(
            session_id=session_id,
            message_id=message_id,
            content=content,
            metadata={"agent": agent} if agent else {},
            actor=f"user:{self.user_id}",
        )
        return message_id


def a_person() -> Person:
    from cartrita.accounts.commands import create_workspace, ensure_user

    user = ensure_user(email=f"{secrets.token_hex(8)}@example.com", display_name="Ann")
    return Person(user.id, create_workspace(name="Bench", owner_id=user.id, actor="system"))


@asynccontextmanager
async def serving(*parts: str) -> AsyncIterator[None]:
    from cartrita.eventstore import close_async, in_database_thread
    from cartrita.orchestrator.planning import warm_up
    from cartrita.orchestrator.service import Services

    services = Services(parts=parts)
    await services.start()
    if "orchestrator" in parts:
        # A server does it once, in the background, and the first one of an installation builds the network.
        await in_database_thread(warm_up)
    await asyncio.sleep(0.5)
    try:
        yield
    finally:
        await services.stop()
        await close_async()


async def first(count: int) -> Figures:
    """Post messages one after the other, and look at what each session's channel shows first."""
    from cartrita.eventstore import ahead, follow, in_database_thread
    from cartrita.streaming.deltas import Delta, listen_locally
    from sessions_app.channel import describe
    from sessions_app.session import MessagePosted, ReplyPosted

    events: dict[UUID | None, float] = {}
    texts: dict[UUID | None, float] = {}
    replied: dict[UUID | None, asyncio.Event] = {}

    def listen(delta: Delta) -> None:
        texts.setdefault(delta.session_id, time.perf_counter())

    async def watch(after: int) -> None:
        async for batch in follow(after=after):
            moment = time.perf_counter()
            for recorded in batch:
                if not isinstance(recorded.event, MessagePosted) and describe(recorded) is not None:
                    events.setdefault(recorded.session_id, moment)
                if isinstance(recorded.event, ReplyPosted):
                    replied[recorded.session_id].set()

    found: Figures = {"event": [], "delta": []}
    async with serving("sequencer", "projector", "ingest", "orchestrator"):
        person = await in_database_thread(a_person)
        sessions = [await in_database_thread(person.opens_session) for _ in range(count + 10)]
        await asyncio.sleep(0.5)
        listen_locally(listen)
        watching = asyncio.create_task(watch(await ahead()))
        for number, session_id in enumerate(sessions):
            replied[session_id] = asyncio.Event()
            await asyncio.sleep(0.02)
            events.pop(session_id, None)
            began = time.perf_counter()
            await in_database_thread(person.says, session_id, "Good morning, how are you?", None)
            await asyncio.wait_for(replied[session_id].wait(), 30)
            if number >= 10:
                text_at = texts[session_id]
                found["event"].append(1000 * (min(events[session_id], text_at) - began))
                found["delta"].append(1000 * (text_at - began))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return found


async def runs(how: str, steps: int, seconds: float, together: int) -> Figures:
    """Post messages, so many at a time, and wait for their replies."""
    from cartrita.eventstore import ahead, follow, in_database_thread
    from sessions_app.session import ReplyPosted

    content, agent = (str(steps), "bench_rules") if how == "skill" else (THREE, None)
    replied: dict[UUID, asyncio.Future[str]] = {}
    took: list[float] = []
    until = float("inf")

    async def watch(after: int) -> None:
        async for batch in follow(after=after):
            for recorded in batch:
                if isinstance(recorded.event, ReplyPosted):
                    waiting = replied.setdefault(recorded.event.parent, asyncio.Future())
                    waiting.set_result(recorded.event.outcome)

    async with serving("sequencer", "projector", "orchestrator"):
        people = [await in_database_thread(a_person) for _ in range(together)]
        ready = [
            [
                await in_database_thread(person.opens_session)
                for _ in range(int(20 + 120 * seconds / steps / together))
            ]
            for person in people
        ]
        watching = asyncio.create_task(watch(await ahead()))

        async def one(person: Person, sessions: list[UUID]) -> None:
            session_id = sessions.pop() if sessions else await in_database_thread(person.opens_session)
            message_id = await in_database_thread(person.says, session_id, content, agent)
            outcome = await asyncio.wait_for(replied.setdefault(message_id, asyncio.Future()), 60)
            if outcome != "answered":
                raise SystemExit(f"the reply is no answer but {outcome}")

        async def many(person: Person, sessions: list[UUID]) -> None:
            while time.perf_counter() < until:
                began = time.perf_counter()
                await one(person, sessions)
                took.append(time.perf_counter() - began)

        for _ in range(3):
            await asyncio.gather(*map(one, people, ready))
        calls = len(CALLS.at)
        began, used = time.perf_counter(), time.process_time()
        until = began + seconds
        await asyncio.gather(*map(many, people, ready))
        figures = figures_of(took, began, used, steps=steps)
        if len(CALLS.at) - calls != steps * len(took):
            raise SystemExit(f"{len(CALLS.at) - calls} calls in {len(took)} runs")
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return figures


async def long(how: str) -> Figures:
    """Drive one run as long as the last mark."""
    import psycopg

    from cartrita.eventstore import aload, in_database_thread
    from cartrita.orchestrator import planning
    from cartrita.orchestrator.assignment import read_assignment
    from cartrita.orchestrator.ledger import Crew
    from cartrita.orchestrator.limits import RunLimits
    from cartrita.orchestrator.turn import Turn
    from sessions_app.session import ReplyPosted

    # A task is held to a few times what one call of the model is expected to use.
    planning.BUDGET_TIMES = 10**6
    steps = MARKS[-1] + 1
    content, agent = (
        (str(steps), "bench_rules") if how == "skill" else ("Go through the letters.", "bench_model")
    )
    limits = RunLimits(model_calls=10**6, tool_calls=10**6, identical_calls=10**6)

    async def ours_still() -> bool:
        return True

    async with serving("sequencer", "projector"):
        person = await in_database_thread(a_person)
        session_id = await in_database_thread(person.opens_session)
        message_id = await in_database_thread(person.says, session_id, content, agent)
        assignment = read_assignment(await aload(session_id), message_id)
        if assignment is None:
            raise SystemExit("the message was not recorded")
        turn = Turn(
            assignment,
            stop=asyncio.Event(),
            wake=asyncio.Event(),
            crew=Crew(),
            still_ours=ours_still,
            limits=limits,
        )
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as CALLS.watch:
            await turn.run()
        (reply,) = [one.event for one in await aload(session_id) if isinstance(one.event, ReplyPosted)]
        if reply.outcome != "answered":
            raise SystemExit(f"the reply is no answer: {reply.content}")
    return {
        "at": CALLS.at,
        "cpu": CALLS.cpu,
        "bytes": [size for size, _ in CALLS.sizes],
        "wal": [wal for _, wal in CALLS.sizes],
    }


if __name__ == "__main__":
    main()
