"""What a plan does next: which tasks to start now, and what follows from the end of an attempt. Pure.

Time and chance come in as arguments. `tasks_app.relations` has what the edges of a plan mean.
"""

from collections import Counter, deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar
from uuid import UUID

from cartrita.errors import Conflict
from cartrita.eventstore import Event
from tasks_app.plan import (
    Plan,
    PlanEnded,
    PruneCode,
    Task,
    TaskAborted,
    TaskCompleted,
    TaskFailed,
    TaskPruned,
    TaskRetried,
    TaskStatus,
    completion,
    extend,
    task_after,
)
from tasks_app.relations import Graph, code_of_pruned, prune_code, status_of

# Failures of the surroundings, which another try may not meet; those of the work itself come again.
RETRYABLE_CODES = frozenset(
    {
        "rate_limited",
        "timed_out",
        "unreachable",
        "server_error",
        "cut_stream",
        "no_answer",
        "circuit_open",
        "model_busy",
        "unavailable",
        "local_model_unavailable",
        "python_busy",
    }
)
TOO_MANY_ATTEMPTS = "too_many_attempts"
PARTS_FAILED = "parts_failed"

_WITHOUT_RESULT: dict[TaskStatus, str] = {
    "failed": "failed",
    "aborted": "was stopped",
    "pruned": "was left out",
    "complete": "gave a result that is not used",
}


class AttemptOver(Conflict):
    """The attempt, or its task, has ended before; ends are final."""

    code: ClassVar[str] = "attempt_over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many tasks may run at a time: in a session, of an agent, with a tool, and altogether.

    No session can take all places of an agent: most messages are for the same one.
    """

    per_session: int = 4
    per_agent: int = 12
    per_tool: int = 2
    total: int = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A task that somebody runs now, of any plan."""

    task_id: UUID
    session_id: UUID
    agent: str
    tool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Which failures are tried again, how often, and how much later: doubling from `first` to `longest`."""

    attempts: int = 3
    first: timedelta = timedelta(milliseconds=500)
    longest: timedelta = timedelta(seconds=8)
    codes: frozenset[str] = RETRYABLE_CODES

    def delay(self, attempt: int, jitter: float) -> timedelta:
        """Return how long to wait after this attempt: half of it fixed, half by `jitter` from 0 to 1.

        Source: "equal jitter" in Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
        """
        whole = self.longest
        # Beyond 2 ** 32 the product could overflow a timedelta.
        if attempt <= 32:
            whole = min(self.longest, self.first * 2 ** (attempt - 1))
        return whole / 2 + whole / 2 * jitter


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a plan is, in tasks that somebody works on (goals are not counted) and in tokens."""

    tasks: int
    by_status: dict[TaskStatus, int]
    tokens: int
    estimated_tokens: int

    @property
    def ended(self) -> int:
        """Count the tasks that have ended, however they did."""
        return sum(self.by_status.get(status, 0) for status in ("complete", "failed", "pruned", "aborted"))


def ready(
    plan: Plan, *, session_id: UUID, now: datetime, running: Collection[Running], limits: Limits
) -> list[Task]:
    """Return the tasks of a session's plan to start now, the most urgent first, then the oldest.

    `running` are all tasks that run now, of this plan and others; with those returned they stay within the
    limits.
    """
    if plan.status != "accepted":
        return []
    graph = Graph.of(plan)
    attended = {one.task_id for one in running}
    room = _Room(limits, running)
    chosen = []
    for task in plan.open_tasks():
        if task.status != "pending" or task.kind == "goal" or task.task_id in attended:
            continue
        if task.not_before is not None and task.not_before > now:
            continue
        if graph.blockers(task) or _hopeless(graph, task):
            continue
        if room.take(_as_running(task, session_id)):
            chosen.append(task)
    return chosen


def unattended(plan: Plan, *, running: Collection[Running]) -> list[Task]:
    """Return the tasks that have begun and that nobody runs: left by a process that ended, or waiting."""
    attended = {one.task_id for one in running}
    return [task for task in plan.open_tasks() if task.status == "running" and task.task_id not in attended]


def wakes_at(plan: Plan) -> datetime | None:
    """Return when the first of the tasks to be tried again may be, None where there is none."""
    return min((task.not_before for task in plan.tasks.values() if task.not_before is not None), default=None)


def consequences(
    plan: Plan, event: Event, *, now: datetime, jitter: float, retries: Retries | None = None
) -> list[Event]:
    """Return what to record when `event` came of a plan: that, or the retry in its place, and what follows.

    Tasks whose terms can no longer be met are pruned, goals end with their parts, parts of a stopped task are
    stopped before they begin, and the plan ends with its last task. `jitter` is a random number from 0 to 1.

    Raises AttemptOver where the event would change an end, or an attempt that is not the current one, and
    PlanEnded after the plan's own.
    """
    if plan.ended:
        raise PlanEnded(f"This plan has ended as {plan.status}; ask again in a new message.")
    task_id: UUID | None = getattr(event, "task_id", None)
    if task_id is None:
        return [event, *settle(extend(plan, (event,)))]
    task = plan.tasks[task_id]
    if isinstance(event, TaskFailed):
        event = _tried_again(task, event, now=now, jitter=jitter, retries=retries or Retries())
    if task_after(task, event) is task:
        raise AttemptOver(f"Task {task_id} is {task.status}: {event.type_name} comes too late.")
    return [event, *_settled(extend(plan, (event,)), [task_id])]


def settle(plan: Plan) -> list[Event]:
    """Return what follows from the state of a plan alone, after events that changed its tree or edges."""
    return _settled(plan, plan.tasks)


def progress(plan: Plan) -> Progress:
    """Return how far a plan is."""
    graph = Graph.of(plan)
    worked_on = [task for task in plan.tasks.values() if task.kind != "goal"]
    return Progress(
        tasks=len(worked_on),
        by_status=dict(Counter(status_of(plan, task, graph) for task in worked_on)),
        tokens=plan.tokens,
        estimated_tokens=sum(task.estimated_tokens for task in worked_on),
    )


class _Room:
    """What the limits leave."""

    def __init__(self, limits: Limits, running: Iterable[Running]) -> None:
        self._limits = limits
        self._taken: Counter[tuple[str, UUID | str]] = Counter()
        for one in running:
            self._taken.update(key for key, _ in self._claims(one))

    def take(self, one: Running) -> bool:
        """Take a place for a task, or tell that there is none."""
        claims = self._claims(one)
        if any(self._taken[key] >= most for key, most in claims):
            return False
        self._taken.update(key for key, _ in claims)
        return True

    def _claims(self, one: Running) -> list[tuple[tuple[str, UUID | str], int]]:
        limits = self._limits
        claims: list[tuple[tuple[str, UUID | str], int]] = [
            (("all", ""), limits.total),
            (("session", one.session_id), limits.per_session),
            (("agent", one.agent), limits.per_agent),
        ]
        return [*claims, (("tool", one.tool), limits.per_tool)] if one.tool else claims


def _as_running(task: Task, session_id: UUID) -> Running:
    return Running(
        task_id=task.task_id,
        session_id=session_id,
        agent=task.agent,
        tool=str(task.spec.get("tool", "")),
    )


def _hopeless(graph: Graph, task: Task) -> bool:
    """Tell whether the task, or what it is a part of, is about to be pruned."""
    at: Task | None = task
    while at is not None:
        if graph.unmet(at) is not None:
            return True
        at = graph.tasks[at.parent_id] if at.parent_id is not None else None
    return _spared(graph, task)


def _tried_again(
    task: Task, failed: TaskFailed, *, now: datetime, jitter: float, retries: Retries
) -> TaskFailed | TaskRetried:
    """Return the retry in the place of a failure that may pass, else the failure."""
    if task.status != "running" or failed.run_id is None or failed.code not in retries.codes:
        return failed
    if task.attempts < retries.attempts:
        return TaskRetried(
            task_id=task.task_id,
            run_id=failed.run_id,
            attempt=task.attempts,
            not_before=now + retries.delay(task.attempts, jitter),
            code=failed.code,
            tokens=failed.tokens,
        )
    if retries.attempts == 1:
        return failed
    reason = (
        f"Tried {task.attempts} times, which is the limit; the last time: {failed.reason} ({failed.code})"
    )
    return failed.model_copy(update={"code": TOO_MANY_ATTEMPTS, "reason": reason})


def _settled(plan: Plan, looked_at: Iterable[UUID]) -> list[Event]:
    """Follow the consequences from these tasks on, at a cost that grows with the tasks and edges.

    A task is looked at again only when one before it, what it is a part of, or the last of its parts ended.
    """
    if plan.ended or not plan.tasks:
        return []
    tasks = dict(plan.tasks)
    graph = Graph(tasks, plan.edges)
    open_parts = Counter(task.parent_id for task in tasks.values() if not task.ended)
    first = list(looked_at)
    # What is stopped with its parent ends before anybody is told of either, whichever edge they come by.
    queue = deque(
        part for task_id in first if tasks[task_id].status == "aborted" for part in graph.below(task_id)
    )
    queue.extend(first)
    for task_id in first:
        queue.extend(graph.neighbours(task_id))
    events: list[Event] = []
    while queue:
        task = tasks[queue.popleft()]
        event = _consequence(graph, task)
        if event is None:
            continue
        tasks[task.task_id] = task_after(task, event)
        events.append(event)
        open_parts[task.parent_id] -= 1
        queue.extend(
            neighbour
            for neighbour in graph.neighbours(task.task_id)
            if neighbour != task.parent_id or not open_parts[neighbour]
        )
    return [*events, *completion(extend(plan, events))]


def _consequence(graph: Graph, task: Task) -> Event | None:
    """Return what becomes of an open task by what its neighbours have come to."""
    if task.status != "pending":
        return None
    parent = graph.tasks[task.parent_id] if task.parent_id is not None else None
    if parent is not None and parent.status == "aborted":
        return TaskAborted(task_id=task.task_id, reason=parent.error or "")
    if parent is not None and parent.status == "pruned":
        return _pruned(task, code_of_pruned(parent), "It is part of a task that was left out.", parent)
    unmet = graph.unmet(task)
    if unmet is not None:
        first = graph.tasks[unmet.from_task]
        reason = f"It builds on a task that {_WITHOUT_RESULT[first.status]}."
        return _pruned(task, prune_code(unmet, first), reason, first)
    # Edges hold back the parts; once these have ended nothing is left that could wait.
    if task.kind == "work" or graph.has_open_part(task):
        return None
    return _goal_ended(graph, task) if task.kind == "goal" else _synthesis_spared(graph, task)


def _goal_ended(graph: Graph, goal: Task) -> Event:
    failing = graph.failing_part(goal)
    if failing is not None:
        reason = "A part of it did not come to a result."
        return TaskFailed(task_id=goal.task_id, run_id=None, tokens=0, code=PARTS_FAILED, reason=reason)
    if graph.answer_of(goal):
        return TaskCompleted(task_id=goal.task_id, run_id=None, tokens=0)
    return _pruned(goal, "no_part_complete", "No part of it came to a result.", None)


def _synthesis_spared(graph: Graph, synthesis: Task) -> Event | None:
    """Return the pruning of a synthesis that would have nothing to work on, None where it can run."""
    if not _spared(graph, synthesis):
        return None
    failing = graph.failing_part(synthesis)
    code: PruneCode = "no_part_complete" if failing is None else "dependency_failed"
    return _pruned(synthesis, code, "No part of it came to a result.", failing)


def _spared(graph: Graph, task: Task) -> bool:
    """Tell whether the task is a synthesis of parts none of which has a result."""
    parts = task.kind == "synthesis" and graph.parts[task.task_id]
    return bool(parts) and not graph.results_of_parts(task)


def _pruned(task: Task, code: PruneCode, reason: str, because_of: Task | None) -> TaskPruned:
    return TaskPruned(
        task_id=task.task_id,
        code=code,
        reason=reason,
        because_of=because_of.task_id if because_of is not None else None,
    )
