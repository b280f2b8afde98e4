"""Several processes on one PostgreSQL of their own, which are killed and restarted, and what they left.

Messages are written for a model that plans by script: each asks for a plan of letters, see `Batch`.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from django.db import InterfaceError, OperationalError, close_old_connections

from cartrita.embedded.postgres import SUPERUSER, Postgres
from cartrita.eventstore import RecordedEvent, load, new_id
from sessions_app import commands
from sessions_app.session import ReplyPosted
from tasks_app.plan import (
    PlanCompleted,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskPruned,
    TaskStarted,
)
from tasks_app.run import RunFinished
from tests.chaos.letters.tools import LETTERS
from tests.databases import CHECKOUT, Database
from tests.flows.conftest import Person
from tests.servers import Server

T = TypeVar("T")

SETTINGS = "tests.chaos.letters_settings"
PATIENCE_SECONDS = 90.0
START_SECONDS = 30.0
LATE_SECONDS = 3.0
ENDS = (TaskCompleted, TaskFailed, TaskPruned, TaskAborted)

_CLAIMS = """
    select session_id, owner, exists (
        select from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and granted
        and ((classid::bigint << 32) | objid::bigint) = hashtextextended(owner::text, 0))
    from orchestrator_claim
"""


def patiently(do: Callable[[], T]) -> T:
    """Do something, again while the database cannot be reached."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        close_old_connections()
        try:
            return do()
        except (OperationalError, InterfaceError, psycopg.OperationalError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def until(there: Callable[[], bool], *, pause: float = 0.005) -> None:
    """Wait until something is so."""
    late = time.monotonic() + PATIENCE_SECONDS
    while not there():
        assert time.monotonic() < late, "it never came to be"
        time.sleep(pause)


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a batch: one call of a tool, after others of the same batch."""

    key: str
    tool: str
    seconds: float
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """A message, and the plan that the model makes of it."""

    number: int
    tasks: tuple[Task, ...]
    session_id: UUID
    message_id: UUID

    @property
    def text(self) -> str:
        return f"Send the first letter of batch {self.number:04}. Then send the second letter?"

    def text_of(self, task: Task) -> str:
        """Return what tells a task's letter from all others."""
        return f"{self.number:04}-{task.key}"

    def planned(self) -> dict[str, Any]:
        """Return the answer of the scripted model to the request for the plan."""
        tasks = [
            {
                "key": task.key,
                "intent": f"Send {self.text_of(task)}.",
                "agent": "assistant",
                "tool": task.tool,
                "arguments": json.dumps({"text": self.text_of(task), "seconds": task.seconds}),
                "depends_on": list(task.after),
                "refines": [],
                "enables": [],
                "blocks": [],
                "priority": 5,
            }
            for task in self.tasks
        ]
        return {"when": f'"request":"{self.text}"', "text": json.dumps({"tasks": tasks})}


def a_tree(chance: random.Random, *, longest: float = 0.5) -> tuple[Task, ...]:
    """Return five calls: two that may run at once, one after each, and one after these."""

    def seconds() -> float:
        return round(chance.uniform(0.0, longest), 3)

    return (
        Task("a", "post_letter", seconds()),
        Task("b", "drop_letter", seconds()),
        Task("c", "drop_parcel", seconds(), ("a",)),
        Task("d", "post_parcel", seconds(), ("b",)),
        Task("e", "post_letter", seconds(), ("c", "d")),
    )


@dataclass(frozen=True, slots=True)
class Note:
    """A line that a tool left."""

    what: str
    tool: str
    text: str
    key: str
    pid: int
    at: float


@dataclass(slots=True)
class Forked:
    """A process of the nursery, in the shape of a Popen as far as it is used here."""

    pid: int

    def poll(self) -> int | None:
        """Return None while it runs; how it ended only its parent could tell."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 60.0) -> int:
        until = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < until, f"process {self.pid} does not end"
            time.sleep(0.002)
        return 0


class Nursery:
    """Forks orchestrators off a process that has loaded the program."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.nursery"],
            cwd=CHECKOUT,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def begin(self, log: Path) -> Forked:
        """Start an orchestrator and wait until it is ready."""
        before = log.stat().st_size if log.exists() else 0
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps({"log": str(log)}) + "\n")
            self._process.stdin.flush()
            started = Forked(int(self._answer()))
        while not log.exists() or b"Running:" not in log.read_bytes()[before:]:
            assert started.poll() is None, log.read_text()[before:]
            time.sleep(0.005)
        return started

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said, "the nursery ended"
        return said.strip()


Process = subprocess.Popen[Any] | Forked


@dataclass(slots=True)
class Member:
    """A process that works on the log, started as often as it was killed."""

    name: str
    begin: Callable[[], Process]
    process: "Process | None" = None
    starting: "Future[Process] | None" = None
    start_seconds: list[float] = field(default_factory=list)

    def start(self, threads: ThreadPoolExecutor) -> None:
        self.process = None
        self.starting = threads.submit(self._begin)

    def _begin(self) -> Process:
        """Start it as a supervisor would: what starts while the database does is refused, and tries again."""
        until = time.monotonic() + START_SECONDS
        while True:
            began = time.monotonic()
            try:
                process = self.begin()
            except AssertionError:
                if began > until:
                    raise
                time.sleep(0.2)
            else:
                self.start_seconds.append(time.monotonic() - began)
                return process

    @property
    def ready(self) -> bool:
        if self.starting is not None and self.starting.done():
            self.process, self.starting = self.starting.result(), None
        return self.process is not None

    def wait(self) -> None:
        if self.starting is not None:
            self.process, self.starting = self.starting.result(), None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid


@dataclass(frozen=True, slots=True)
class Blow:
    """Something that was killed or restarted; `sessions` are those it was at work on."""

    what: str
    at: float
    sessions: frozenset[UUID]
    pid: int = 0
    others: tuple[str, ...] = ()


@dataclass(slots=True)
class Crowd:
    """The processes, what they are given to do, and what happened to them."""

    postgres: Postgres
    database: Database
    person: Person
    folder: Path
    members: list[Member] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)
    seconds_per_token: float = 0.02
    _nursery: Nursery | None = None
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8))
    _everyone: list[Process] = field(default_factory=list)

    # Processes

    @property
    def letters(self) -> Path:
        return self.folder / "letters.jsonl"

    @property
    def script(self) -> Path:
        return self.folder / "script.json"

    def add_orchestrator(self, name: str) -> Member:
        """Add a `manage.py run_orchestrator` with all services."""
        if self._nursery is None:
            self._nursery = Nursery(
                {
                    **os.environ,
                    "DJANGO_SETTINGS_MODULE": SETTINGS,
                    "CARTRITA_SCRIPTED_MODEL": str(self.script),
                    LETTERS: str(self.letters),
                }
            )
        nursery, log = self._nursery, self.folder / f"{name}.log"

        def begin() -> Process:
            process = nursery.begin(log)
            self._everyone.append(process)
            return process

        return self._add(Member(name, begin))

    def add_server(self, server: Server) -> Member:
        """Add the web process with all its services."""

        def begin() -> Process:
            try:
                server.start()
            except AssertionError:
                server.kill()
                raise
            assert server.process is not None
            self._everyone.append(server.process)
            return server.process

        return self._add(Member("server", begin))

    def _add(self, member: Member) -> Member:
        self.members.append(member)
        member.start(self._threads)
        return member

    def all_ready(self) -> None:
        for member in self.members:
            member.wait()

    def kill(self, member: Member) -> None:
        """End a process as by kill -9, note what it was at work on, and start it again beside the others."""
        before = self._claims()
        process, at = member.process, time.time()
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        member.start(self._threads)
        others = tuple(each.name for each in self.members if each.ready)
        self.blows.append(Blow(member.name, at, self._without_owner(before), process.pid, others))

    def restart_postgres(self, number: signal.Signals) -> None:
        """Have PostgreSQL stop, SIGINT: in order, SIGQUIT: at once; its keeper starts it again."""
        open_sessions = frozenset(each.session_id for each in self.open_batches())
        with self._superuser() as connection:
            row = connection.execute("select pg_read_file('postmaster.pid')").fetchone()
        assert row is not None
        at = time.time()
        os.kill(int(row[0].split()[0]), number)
        what = "postgres stops" if number is signal.SIGINT else "postgres crashes"
        self.blows.append(Blow(what, at, open_sessions))

    def stop(self) -> list[int]:
        """End all processes in order; return their exit codes."""
        self.all_ready()
        processes = [member.process for member in self.members if member.process is not None]
        for process in processes:
            process.terminate()
        codes = [process.wait(timeout=60) for process in processes]
        self.members.clear()
        return codes

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for process in self._everyone:
            if process.poll() is None:
                process.kill()
                process.wait()
        if self._nursery is not None:
            self._nursery.close()

    def _claims(self) -> dict[UUID, UUID]:
        with self._superuser() as connection:
            return {row[0]: row[1] for row in connection.execute(_CLAIMS).fetchall() if row[2]}

    def _without_owner(self, before: dict[UUID, UUID]) -> frozenset[UUID]:
        """Return the sessions whose owner's lock has fallen since."""
        until = time.monotonic() + 1.0
        owners = set(before.values())
        while owners and time.monotonic() < until:
            with self._superuser() as connection:
                held = connection.execute(
                    "select (classid::bigint << 32) | objid::bigint from pg_locks where locktype = 'advisory'"
                ).fetchall()
                hashes = {
                    row[0]: row[1]
                    for row in connection.execute(
                        "select owner, hashtextextended(owner::text, 0) from unnest(%s::uuid[]) as owner",
                        [list(owners)],
                    ).fetchall()
                }
            fallen = {owner for owner in owners if (hashes[owner],) not in set(held)}
            if fallen:
                return frozenset(session for session, owner in before.items() if owner in fallen)
            time.sleep(0.01)
        return frozenset()

    def _superuser(self) -> "psycopg.Connection[tuple[Any, ...]]":
        return patiently(
            lambda: psycopg.connect(self.postgres.url(SUPERUSER, self.database.name), autocommit=True)
        )

    # Messages

    def prepare(self, count: int, chance: random.Random, *, longest: float = 0.5) -> list[Batch]:
        """Write the plans of so many messages; every fifth of them comes into the session of another."""
        sessions: list[UUID] = []
        for number in range(count):
            if number % 5 or not sessions:
                sessions.append(self.new_session())
            self.batches.append(Batch(number, a_tree(chance, longest=longest), sessions[-1], new_id()))
        self.write_script()
        return self.batches

    def write_script(self) -> None:
        answers = [each.planned() for each in self.batches]
        said = {
            "answers": [*answers, {"text": "All of it is done, as far as it could be."}],
            "seconds_per_token": self.seconds_per_token,
        }
        new = self.script.with_suffix(".new")
        new.write_text(json.dumps(said))
        new.replace(self.script)

    def new_session(self) -> UUID:
        return commands.create_session(
            user_id=self.person.user_id, workspace_id=self.person.workspace_id, actor=self.person.actor
        )

    def post(self, batch: Batch) -> None:
        self.say(batch.session_id, batch.message_id, batch.text)

    def say(self, session_id: UUID, message_id: UUID, text: str) -> None:
        actor = self.person.actor
        patiently(
            lambda: commands.post_message(
                session_id=session_id, message_id=message_id, content=text, actor=actor
            )
        )

    def cancel(self, session_id: UUID, message_id: UUID) -> None:
        commands.cancel_turn(session_id=session_id, message_id=message_id, actor=self.person.actor)

    def goes_on(self) -> None:
        """Wait until something was recorded since the last blow."""
        at = datetime.fromtimestamp(self.blows[-1].at if self.blows else 0, UTC)
        agents = (
            "select 1 from event where recorded_at > %s and actor not like 'user:%%' "
            "and session_id is not null limit 1"
        )

        def moved() -> bool:
            with self._superuser() as connection:
                return connection.execute(agents, [at]).fetchone() is not None

        until(lambda: patiently(moved), pause=0.05)

    def replies(self) -> int:
        with self._superuser() as connection:
            row = connection.execute(
                "select count(*) from event where type = %s", [ReplyPosted.type_name]
            ).fetchone()
        assert row is not None
        return int(row[0])

    def open_batches(self) -> list[Batch]:
        """Return what is not answered, of all that was prepared."""
        with self._superuser() as connection:
            rows = connection.execute(
                "select convert_from(data, 'UTF8')::json ->> 'parent' from event where type = %s",
                [ReplyPosted.type_name],
            ).fetchall()
        answered = {UUID(row[0]) for row in rows}
        return [each for each in self.batches if each.message_id not in answered]

    def start_seconds(self) -> list[float]:
        """Return how long each start of a process took."""
        return sorted(seconds for member in self.members for seconds in member.start_seconds)

    def all_answered(self, count: int) -> None:
        """Wait until there are so many replies."""
        until = time.monotonic() + PATIENCE_SECONDS
        while (there := self.replies()) < count:
            assert time.monotonic() < until, f"{there} of {count} messages are answered\n{self.words()}"
            time.sleep(0.1)

    def words(self) -> str:
        """Return the end of what the processes logged."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}:\n" + "\n".join(_last_lines(log, 25)) for log in logs)

    # What they left

    def notes(self) -> list[Note]:
        if not self.letters.exists():
            return []
        return [Note(**json.loads(line)) for line in self.letters.read_text().splitlines()]

    @property
    def last_at_work(self) -> int:
        """The process whose tool began or ended last."""
        notes = self.notes()
        return notes[-1].pid if notes else 0

    def events(self) -> list[RecordedEvent]:
        """Return all events of plans, runs and sessions, stream by stream."""
        with self._superuser() as connection:
            streams = connection.execute(
                "select distinct stream_id from event where session_id is not null order by 1"
            ).fetchall()
        return [recorded for (stream_id,) in streams for recorded in load(stream_id)]


def _last_lines(file: Path, count: int) -> list[str]:
    return file.read_text(errors="replace").splitlines()[-count:]


@dataclass(frozen=True, slots=True)
class Resumption:
    """How a session went on after a blow: seconds from the blow to the next event, and from the last before.

    `hit_again` tells that there was another blow in between: on who would have gone on, or on the database.
    """

    blow: Blow
    after: float
    gap: float
    hit_again: bool


@dataclass(frozen=True, slots=True)
class Left:
    """What is in the log and beside it when everything has ended."""

    crowd: Crowd
    events: Sequence[RecordedEvent]
    notes: Sequence[Note]

    @classmethod
    def by(cls, crowd: Crowd) -> "Left":
        return cls(crowd, crowd.events(), crowd.notes())

    def check(self, posted: Iterable[Batch]) -> None:
        """Check that everything ended once, and that nothing was done twice or lost."""
        self._every_message_has_one_reply(posted)
        self._every_task_has_one_end()
        self._ends_are_final()
        self._nothing_was_done_twice()
        self._what_is_unknown_is_said()

    def _every_message_has_one_reply(self, posted: Iterable[Batch]) -> None:
        replies = Counter(each.event.parent for each in self.events if isinstance(each.event, ReplyPosted))
        assert replies == dict.fromkeys((each.message_id for each in posted), 1)

    def _every_task_has_one_end(self) -> None:
        added = [each.event.task_id for each in self.events if isinstance(each.event, TaskAdded)]
        ends = Counter(each.event.task_id for each in self.events if isinstance(each.event, ENDS))
        assert len(added) == len(set(added))
        assert ends == dict.fromkeys(added, 1)

    def _ends_are_final(self) -> None:
        """Nothing comes after the end of a run, and after the end of a plan only what is said of it."""
        last: dict[UUID, RecordedEvent] = {}
        for each in self.events:
            before = last.get(each.stream_id)
            if before is not None:
                assert not isinstance(before.event, RunFinished | PlanCompleted), (before, each)
            last[each.stream_id] = each
        started = {each.event.run_id for each in self.events if isinstance(each.event, TaskStarted)}
        assert all(isinstance(last[run_id].event, RunFinished) for run_id in started)

    def _nothing_was_done_twice(self) -> None:
        begun = [note for note in self.notes if note.what == "begin"]
        dropped = Counter(note.text for note in begun if note.tool.startswith("drop"))
        assert not {text: count for text, count in dropped.items() if count > 1}
        keys = {(note.text, note.key) for note in begun}
        assert len(keys) == len({text for text, _ in keys})

    def _what_is_unknown_is_said(self) -> None:
        """A task is complete only when its tool came to its end; one that must not be repeated says so."""
        ended = {note.text for note in self.notes if note.what == "end"}
        begun = {note.text for note in self.notes if note.what == "begin"}
        for text, end in self.ends().items():
            if isinstance(end, TaskCompleted):
                assert text in ended, text
            elif isinstance(end, TaskFailed):
                # What was begun again and again without an end is stopped by the rules that come with it.
                assert end.code in {"outcome_unknown", "the-same-call-again-and-again"}, (text, end)
            else:
                assert isinstance(end, TaskPruned), (text, end)
                assert text not in begun, (text, end)

    def ends(self) -> dict[str, TaskCompleted | TaskFailed | TaskPruned | TaskAborted]:
        """Return how each letter's task ended."""
        texts = {
            each.event.task_id: str(each.event.spec["arguments"]["text"])
            for each in self.events
            if isinstance(each.event, TaskAdded) and "arguments" in each.event.spec
        }
        return {
            texts[each.event.task_id]: each.event
            for each in self.events
            if isinstance(each.event, ENDS) and each.event.task_id in texts
        }

    def overlaps(self) -> list[tuple[Note, Note]]:
        """Return begins of a task while an earlier begin of it had not ended; a killed process has ended."""
        died = {blow.pid: blow.at for blow in self.crowd.blows if blow.pid}
        found: list[tuple[Note, Note]] = []
        under_way: dict[str, Note] = {}
        for note in sorted(self.notes, key=lambda each: each.at):
            former = under_way.get(note.text)
            if note.what == "begin":
                if former is not None and died.get(former.pid, float("inf")) > note.at:
                    found.append((former, note))
                under_way[note.text] = note
            elif former is not None and former.pid == note.pid:
                del under_way[note.text]
        return found

    def resumptions(self) -> list[Resumption]:
        """Return for each blow and session it hit how long it took until something happened there again.

        Sessions that had nothing left to do are left out.
        """
        by_session: dict[UUID, list[float]] = {}
        for each in self.events:
            if each.session_id is not None and not each.actor.startswith("user:"):
                by_session.setdefault(each.session_id, []).append(each.recorded_at.timestamp())
        for times in by_session.values():
            times.sort()
        found = []
        for blow in self.crowd.blows:
            for session_id in blow.sessions:
                times = by_session.get(session_id, [])
                after = next((at for at in times if at > blow.at), None)
                before = max((at for at in times if at <= blow.at), default=None)
                if after is not None and before is not None:
                    again = any(blow.at < other.at < after for other in self.crowd.blows)
                    found.append(Resumption(blow, after - blow.at, after - before, again))
        return found

    def seconds_to_reply(self, since: float) -> float:
        """Return how long after a moment the only reply was posted."""
        (at,) = [each.recorded_at for each in self.events if isinstance(each.event, ReplyPosted)]
        return at.timestamp() - since

    def told(self) -> str:
        """Return the figures."""
        resumed = self.resumptions()
        lines = [f"blows: {dict(Counter(blow.what for blow in self.crowd.blows))}"]
        for what in sorted({blow.what for blow in self.crowd.blows}):
            own = [each for each in resumed if each.blow.what == what and not each.hit_again]
            lines.append(
                f"  {what}: next event {spread([each.after for each in own])} after it, "
                f"{spread([each.gap for each in own])} after the last before"
            )
        killed = [each for each in resumed if each.blow.pid]
        once = [each for each in killed if not each.hit_again]
        lines.append(f"kills: last event before to next event {spread([each.gap for each in once])}")
        lines.append(f"kills, also those hit again meanwhile: {spread([each.gap for each in killed])}")
        lines += [
            f"  late: {each.blow.what} at {utc(each.blow.at)} beside {each.blow.others}, {each.after:.1f} s"
            for each in once
            if each.after > LATE_SECONDS
        ]
        ends = Counter(
            f"{type(end).__name__}{' ' + end.code if isinstance(end, TaskFailed) else ''}"
            for end in self.ends().values()
        )
        begun = [note for note in self.notes if note.what == "begin"]
        lines.append(f"ends of letters: {dict(ends)}")
        lines.append(
            f"begins: {len(begun)} of {len({note.text for note in begun})} letters, "
            f"by {len({note.pid for note in begun})} processes; "
            f"{sum(note.what == 'cancelled' for note in self.notes)} cancelled; "
            f"overlaps: {len(self.overlaps())}"
        )
        outcomes = Counter(each.event.outcome for each in self.events if isinstance(each.event, ReplyPosted))
        said = Counter(
            each.event.content[:150]
            for each in self.events
            if isinstance(each.event, ReplyPosted) and each.event.outcome == "failed"
        )
        lines += [f"  {count} times: {text!r}" for text, count in said.items()]
        lines.append(f"replies: {dict(outcomes)}; events: {len(self.events)}")
        return "\n".join(lines)


def spread(seconds: Sequence[float]) -> str:
    """Return how seconds are distributed."""
    if not seconds:
        return "(none)"
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return f"n={len(ordered)} median {median(ordered):.2f} s, p95 {p95:.2f} s, max {ordered[-1]:.2f} s"


def utc(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
