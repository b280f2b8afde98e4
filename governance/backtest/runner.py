"""Carrying out back-tests, one at a time in an installation, by processes beside what serves people.

Whoever carries one out holds an advisory lock for as long as its connection lives. When it dies, the lock
falls and the next one begins anew; a second report cannot be recorded, because a back-test ends once.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from multiprocessing import Pipe
from multiprocessing.connection import Connection as PipeEnd
from multiprocessing.connection import wait
from typing import Any, LiteralString
from uuid import UUID

import orjson
import psycopg
from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection, transaction

from cartrita.errors import CartritaError
from cartrita.eventstore import Append, Context, Event, StreamMoved, append, get_blob, load, put_blob
from cartrita.eventstore.log import head
from cartrita.eventstore.store import execute
from governance.backtest import history
from governance.backtest.back_test import (
    BackTest,
    BackTestCompleted,
    BackTestFailed,
    BackTestRequested,
    Status,
    fold,
)
from governance.backtest.buckets import Buckets
from governance.backtest.engine import Draw, Levels
from governance.backtest.history import UUID_BYTES, Span
from governance.backtest.tally import Tally, report_of
from governance.backtest.worker import Broken, Done, Progress, Setup, Task, Worker, peak_bytes
from governance.models import BackTestProgress
from governance.policy import PolicySet, load_policy
from governance.policy_store import policy_set

logger = logging.getLogger(__name__)

# Who carries out a back-test holds this advisory lock: "backtest".
LOCK = 0x6261636B74657374
# Decisions of a task: some tenths of a second.
TASK_DECISIONS = 2000
# Fewer than this are decided again in this very process; starting others would take longer.
FEW = 2000
# Handed to a worker beside the one that it carries out.
AHEAD = 2
BEAT_SECONDS = 0.25
PLACE_SECONDS = 0.02
# A task that ends its worker so often ends the back-test.
MOST_STARTS = 5


class Stopped(Exception):
    """This process is to do something else; the back-test is begun anew by whoever is next."""


class Cancelled(Exception):
    """Somebody cancelled the back-test."""


class BackTestBroken(CartritaError):
    """The processes that decide again end by themselves."""

    code = "back_test_broken"
    status = 500


@dataclass(slots=True)
class _Course:
    """How far a back-test has come; a thread of its own writes it down and looks whether it shall end."""

    back_test_id: UUID
    stopping: threading.Event
    decisions: int = 0
    total: int = 0
    phase: str = "counting"
    over: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    asked: psycopg.Connection[Any] | None = None

    def check(self) -> None:
        """Raise Cancelled or Stopped where the work shall end."""
        if self.cancelled.is_set():
            raise Cancelled
        if self.stopping.is_set():
            raise Stopped

    def beat(self) -> None:
        """Write progress and look for a cancellation until the work is over."""
        try:
            while not self.over.wait(BEAT_SECONDS):
                with suppress(DatabaseError, InterfaceError):
                    execute(_BEAT, [self.decisions, self.total, self.phase, self.back_test_id])
                    if execute(_ENDED, [self.back_test_id]).fetchone() is not None:
                        self.cancelled.set()
                if (self.cancelled.is_set() or self.stopping.is_set()) and self.asked is not None:
                    # It may wait for a long query; whoever asked for the end shall not.
                    self.asked.cancel()
        finally:
            connection.close()


def processes() -> int:
    """Return how many processes decide again: as many as there are cores, eight at most."""
    return settings.BACKTEST_PROCESSES or min(os.cpu_count() or 1, 8)


def something_waits() -> bool:
    """Tell whether a back-test waits to be carried out, or is carried out somewhere."""
    return execute(_OLDEST).fetchone() is not None


def run_next(stopping: threading.Event) -> UUID | None:
    """Carry out the oldest back-test that waits, if there is one and nobody else carries one out.

    Return its id. `stopping` leaves it to whoever is next.
    """
    with history.own_connection() as own:
        if not _claimed(own):
            return None
        row = execute(_OLDEST).fetchone()
        if row is None:
            return None
        back_test_id: UUID = row[0]
        try:
            carry_out(back_test_id, own, stopping)
        except Stopped:
            # Nothing is wrong with it: the start does not count.
            execute(_NOT_BEGUN, [back_test_id])
        return back_test_id


def carry_out(back_test_id: UUID, own: history.Connection, stopping: threading.Event) -> Status:
    """Decide again and record the report, or why there is none; return how it ended.

    The caller holds the lock on `own`. Raises Stopped, and what the database raises.
    """
    state = _state(back_test_id)
    if state.status != "requested" or state.asked is None:
        return state.status
    starts = _begin(back_test_id)
    if starts > MOST_STARTS:
        message = f"It was begun {MOST_STARTS} times, and its process ended before it was done each time."
        return _end(back_test_id, state, BackTestFailed(code="back_test_broken", message=message))
    course = _Course(back_test_id, stopping, asked=own)
    try:
        with _beating(course):
            ended: Event = _decided_again(back_test_id, state.asked, own, course)
    except Cancelled:
        return _state(back_test_id).status
    except CartritaError as error:
        ended = BackTestFailed(code=error.code, message=error.message)
    return _end(back_test_id, state, ended)


@contextmanager
def _beating(course: _Course) -> Iterator[None]:
    """Write down how far the block has come, and end it where somebody wants that."""
    beating = threading.Thread(target=course.beat, name="back-test-beat", daemon=True)
    beating.start()
    try:
        yield
    except psycopg.errors.QueryCanceled:
        course.check()
        raise
    finally:
        course.over.set()
        beating.join()


def _decided_again(
    back_test_id: UUID, asked: BackTestRequested, own: history.Connection, course: _Course
) -> BackTestCompleted:
    began = time.monotonic()
    tested = load_policy(get_blob(asked.policy_hash).decode(), asked.policy_hash)
    workspace_id = load(back_test_id, up_to_version=1)[0].workspace_id
    # What was decided a moment before somebody asked has its place in the log a moment later.
    while history.some_have_no_place(workspace_id):
        course.check()
        course.stopping.wait(PLACE_SECONDS)
    span = Span(
        workspace_id=workspace_id,
        up_to=head(),
        since=asked.since,
        until=asked.until,
        session_id=asked.only_session,
    )
    by_policy = history.counted(own, span)
    course.check()
    total = sum(by_policy.values())
    worked_out = _without_levels(tested, by_policy)
    course.total = total * (2 if worked_out else 1)
    many = processes() if total > FEW else 0
    with _crew(tested, many) as crew:
        levels: dict[UUID, dict[str, int]] = {}
        if worked_out:
            course.phase = "buckets"
            buckets = Buckets(tested.throttles)
            draws = _draws(crew.results(_tasks_in_time(own, span), course))
            levels = buckets.short_after(draws)
        course.phase = "deciding"
        tally = Tally()
        for done in crew.results(_tasks_in_sessions(own, span, levels), course):
            if done.tally is not None:
                tally.add(done.tally)
        course.check()
        peak = crew.peak_bytes
    milliseconds = round((time.monotonic() - began) * 1000)
    recorded = sorted(rule for rule in tested.throttles if rule not in worked_out)
    report = {
        "version": 1,
        "back_test_id": str(back_test_id),
        "workspace_id": str(workspace_id),
        "policy": asked.policy,
        "policy_hash": asked.policy_hash,
        "since": asked.since,
        "until": asked.until,
        "session_id": asked.only_session,
        "up_to": span.up_to,
        **report_of(
            tally,
            workspace_id=workspace_id,
            throttles={"recorded": recorded, "worked_out": sorted(worked_out)},
        ),
        "milliseconds": milliseconds,
        "decisions_a_second": round(tally.counts["looked_at"] * 1000 / max(milliseconds, 1)),
        "processes": max(many, 1),
        "peak_memory_bytes": peak,
    }
    return BackTestCompleted(
        report_sha256=put_blob(orjson.dumps(report, option=orjson.OPT_UTC_Z), key_id=None),
        up_to=span.up_to,
        decisions=tally.counts["decided"],
        not_redecidable=sum(tally.lost.values()),
        differences=tally.counts["differences"],
        changed=tally.counts["changed"],
        sessions_changed=tally.counts["sessions_changed"],
        milliseconds=milliseconds,
    )


def _without_levels(tested: PolicySet, by_policy: Mapping[str, int]) -> frozenset[str]:
    """Return the throttle rules that some decisions were made without, so that their levels are unknown."""
    unknown: set[str] = set()
    for policy_hash in by_policy:
        try:
            versions = policy_set(policy_hash).rule_hashes
        except CartritaError:
            continue  # its decisions cannot be made again
        unknown |= {rule for rule in tested.throttles if versions.get(rule) != tested.rule_hashes[rule]}
    return frozenset(unknown)


def _draws(results: Iterable[Done]) -> Iterator[Draw]:
    """Yield what tasks drew, in the order of the tasks, which is that of time."""
    waiting: dict[int, tuple[Draw, ...]] = {}
    following = 0
    for done in results:
        waiting[done.number] = done.draws
        while following in waiting:
            yield from waiting.pop(following)
            following += 1


def _tasks_in_time(own: history.Connection, span: Span) -> Iterator[Task]:
    number = 0
    for rows in history.in_time(own, span):
        for place in range(0, len(rows), TASK_DECISIONS):
            ids = b"".join(decision_id for _, decision_id in rows[place : place + TASK_DECISIONS])
            yield Task(number=number, asked="draws", decision_ids=ids)
            number += 1


def _tasks_in_sessions(own: history.Connection, span: Span, levels: Mapping[UUID, Levels]) -> Iterator[Task]:
    """Yield tasks of whole sessions; one that is longer than a task is one of its own."""
    number = 0

    def task(ids: list[bytes], sessions: list[int]) -> Task:
        nonlocal number
        number += 1
        joined = b"".join(ids)
        known: dict[UUID, Levels] = {}
        if levels:
            for place in range(0, len(joined), UUID_BYTES):
                decision_id = UUID(bytes=joined[place : place + UUID_BYTES])
                if decision_id in levels:
                    known[decision_id] = levels[decision_id]
        return Task(number=number, asked="tally", decision_ids=joined, sessions=tuple(sessions), levels=known)

    ids: list[bytes] = []
    sessions: list[int] = []
    rows = (row for fetched in history.in_sessions(own, span) for row in fetched)
    for session_id, of_session in groupby(rows, key=lambda row: row[0]):
        if session_id is None:
            for _, decision_id in of_session:
                ids.append(decision_id)
                if len(ids) >= TASK_DECISIONS:
                    yield task(ids, [])
                    ids = []
            if ids:
                yield task(ids, [])
                ids = []
            continue
        together = [decision_id for _, decision_id in of_session]
        ids += together
        sessions.append(len(together))
        if len(ids) >= TASK_DECISIONS:
            yield task(ids, sessions)
            ids, sessions = [], []
    if ids:
        yield task(ids, sessions)


class _Here:
    """Carries tasks out in this process."""

    def __init__(self, tested: PolicySet) -> None:
        self._worker = Worker(tested)

    @property
    def peak_bytes(self) -> int:
        return peak_bytes()

    def results(self, tasks: Iterable[Task], course: _Course) -> Iterator[Done]:
        def tell(many: int) -> None:
            course.decisions += many
            course.check()

        for task in tasks:
            yield self._worker.carry_out(task, tell)


@dataclass(slots=True, eq=False)
class _Hand:
    """A worker process, the pipe to it, and what it was handed and has not brought back."""

    process: subprocess.Popen[bytes]
    pipe: PipeEnd
    tasks: list[Task] = field(default_factory=list)
    peak_bytes: int = 0


class _Crew:
    """Hands tasks to processes, each some ahead, and takes what comes back in whichever order."""

    def __init__(self, tested: PolicySet, many: int) -> None:
        setup = Setup(text=tested.text, policy_hash=tested.content_hash)
        self._hands = [_hand(setup) for _ in range(many)]

    @property
    def peak_bytes(self) -> int:
        """The most memory of all processes together, this one among them."""
        return peak_bytes() + sum(hand.peak_bytes for hand in self._hands)

    def results(self, tasks: Iterable[Task], course: _Course) -> Iterator[Done]:
        coming = iter(tasks)
        more = True
        while True:
            for hand in self._hands:
                while more and len(hand.tasks) <= AHEAD:
                    task = next(coming, None)
                    if task is None:
                        more = False
                        break
                    course.check()
                    hand.tasks.append(task)
                    _send(hand, task)
            busy = {hand.pipe: hand for hand in self._hands if hand.tasks}
            if not busy:
                return
            for ready in wait(list(busy), timeout=BEAT_SECONDS):
                hand = busy[ready]  # type: ignore[index] # a pipe, because pipes were asked about
                match _received(hand):
                    case Progress(decisions):
                        course.decisions += decisions
                    case Done() as done:
                        hand.tasks.pop(0)
                        hand.peak_bytes = max(hand.peak_bytes, done.peak_bytes)
                        yield done
                    case Broken(error, raised_at):
                        raise BackTestBroken(
                            f"A process that decides again failed: {error} in {raised_at}. Ask for the "
                            "back-test again; if it fails so again, report it with these words."
                        )
            course.check()

    def end(self) -> None:
        """End the processes at once."""
        for hand in self._hands:
            hand.process.kill()
            hand.pipe.close()
        for hand in self._hands:
            hand.process.wait()


@contextmanager
def _crew(tested: PolicySet, many: int) -> Iterator[_Here | _Crew]:
    if not many:
        yield _Here(tested)
        return
    crew = _Crew(tested, many)
    try:
        yield crew
    finally:
        crew.end()


def _hand(setup: Setup) -> _Hand:
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "governance.backtest", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=settings.BASE_DIR,
            stdin=subprocess.DEVNULL,
        )
    hand = _Hand(process, ours)
    _send(hand, setup)
    return hand


def _send(hand: _Hand, what: Setup | Task) -> None:
    try:
        hand.pipe.send(what)
    except (BrokenPipeError, ConnectionResetError):
        raise _ended(hand) from None


def _received(hand: _Hand) -> Any:
    try:
        return hand.pipe.recv()
    except (EOFError, ConnectionResetError):
        raise _ended(hand) from None


def _ended(hand: _Hand) -> BackTestBroken:
    code = hand.process.wait()
    return BackTestBroken(
        f"A process that decides again ended with code {code}; look for the reason in the server's log, "
        "then ask for the back-test again."
    )


def _claimed(own: history.Connection) -> bool:
    row = own.execute("select pg_try_advisory_lock(%s)", [LOCK]).fetchone()
    return row is not None and bool(row[0])


def _state(back_test_id: UUID) -> BackTest:
    return fold(recorded.event for recorded in load(back_test_id))


def _begin(back_test_id: UUID) -> int:
    """Note that a process begins; return how many have."""
    row = execute(_BEGIN, [back_test_id]).fetchone()
    assert row is not None  # noqa: S101 # an upsert returns its row
    return int(row[0])


def _end(back_test_id: UUID, state: BackTest, event: Event) -> Status:
    """Record how a back-test ended, unless it ended meanwhile; return how."""
    first = load(back_test_id, up_to_version=1)[0]
    context = Context(workspace_id=first.workspace_id)
    try:
        with transaction.atomic():
            append(Append(back_test_id, state.version, [event], context))
            BackTestProgress.objects.filter(back_test_id=back_test_id).delete()
    except StreamMoved:
        logger.info("Back-test %s ended otherwise meanwhile.", back_test_id)
    return _state(back_test_id).status


_OLDEST: LiteralString = (
    "select id from governance_back_test where status = 'requested' order by requested_at, id limit 1"
)
_BEGIN: LiteralString = """
    insert into governance_back_test_progress as progress
        (back_test_id, decisions, total, phase, starts, began_at, beat_at)
    values (%b::uuid, 0, 0, 'counting', 1, clock_timestamp(), clock_timestamp())
    on conflict (back_test_id) do update set decisions = 0, total = 0, phase = 'counting',
        starts = progress.starts + 1, began_at = clock_timestamp(), beat_at = clock_timestamp()
    returning starts
"""
_NOT_BEGUN: LiteralString = (
    "update governance_back_test_progress set starts = starts - 1 where back_test_id = %b::uuid"
)
_BEAT: LiteralString = """
    update governance_back_test_progress
    set decisions = %b::int8, total = %b::int8, phase = %b::text, beat_at = clock_timestamp()
    where back_test_id = %b::uuid
"""
_ENDED: LiteralString = "select 1 from event where stream_id = %b::uuid and version = 2"
