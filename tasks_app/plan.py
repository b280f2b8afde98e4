"""A plan: the tree of tasks that answers one message. Pure: events, their fold, and what may happen next."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from cartrita.errors import Conflict
from cartrita.eventstore import Event, Sealed

TaskStatus = Literal["pending", "blocked", "running", "complete", "failed", "pruned", "aborted"]
PlanStatus = Literal["new", "proposed", "waiting", "accepted", "refused", "complete", "failed", "stopped"]

# What a task is: work that an agent or a tool does; work on the results of its parts, which comes after them;
# or a heading that nobody works on and that ends with its parts.
TaskKind = Literal["work", "synthesis", "goal"]
# What an edge says of the task it leads to; `tasks_app.relations` has what each means.
Relation = Literal["depends_on", "blocks", "enables", "refines"]
Criticism = Literal["accept", "revise", "prune"]
Bound = Literal["depth", "tasks", "revisions"]
# Why a task is left out: what it needs failed or was stopped; the condition that it came under did not hold;
# none of its parts gave a result; the critic or a revision dropped it.
PruneCode = Literal[
    "dependency_failed", "dependency_aborted", "not_enabled", "no_part_complete", "criticised", "revised"
]

DEFAULT_TASK_BUDGET = 5000
DEFAULT_PRIORITY = 5
# Weights are hundredths.
DEFAULT_WEIGHT = 100
MAX_WEIGHT = 999

FINAL_TASK_STATUSES: frozenset[TaskStatus] = frozenset({"complete", "failed", "pruned", "aborted"})
FINAL_PLAN_STATUSES: frozenset[PlanStatus] = frozenset({"refused", "complete", "failed", "stopped"})


class PlanProposed(Event):
    """A planner laid out the tasks for a message; `TaskAdded` events of the same append name them."""

    type_name: ClassVar[str] = "tasks_app.PlanProposed"

    message_id: UUID
    root_task_id: UUID
    goal: Sealed[str]
    planner: str
    estimated_tokens: int = Field(ge=0)


class TaskAdded(Event):
    """A task joined the plan. `cost_budget_tokens` bounds what its attempts may use together.

    `kind` tells what it is to its parts: a goal only ends with them, a synthesis works on their results.
    """

    type_name: ClassVar[str] = "tasks_app.TaskAdded"

    task_id: UUID
    parent_id: UUID | None
    intent: Sealed[str]
    spec: Sealed[dict[str, Any]]
    agent: str
    priority: int = Field(default=DEFAULT_PRIORITY, ge=1, le=10)
    cost_budget_tokens: int = Field(default=DEFAULT_TASK_BUDGET, ge=0)
    estimated_tokens: int = Field(default=0, ge=0)
    kind: TaskKind = "work"


class EdgeAdded(Event):
    """The task `to_task` comes after `from_task` on the terms of `relation`; `weight` is in hundredths."""

    type_name: ClassVar[str] = "tasks_app.EdgeAdded"

    from_task: UUID
    to_task: UUID
    relation: Relation
    weight: int = Field(default=DEFAULT_WEIGHT, ge=0, le=MAX_WEIGHT)


class PlanAccepted(Event):
    """Governance let the plan begin."""

    type_name: ClassVar[str] = "tasks_app.PlanAccepted"

    decision_id: UUID
    outcome: str


class PlanHeldBack(Event):
    """The plan may not begin yet: it waits for the approval, or until `retry_after`.

    `attempt` counts the decisions on the plan.
    """

    type_name: ClassVar[str] = "tasks_app.PlanHeldBack"

    decision_id: UUID
    attempt: int = Field(ge=1)
    outcome: str
    rule: str
    reason: str
    approval_id: UUID | None = None
    retry_after: datetime | None = None


class PlanRefused(Event):
    """The plan may not begin; `rule` says which rule, `reason` what people are told.

    `decision_id` is the decision of governance; nothing was decided where a budget is below the bill.
    """

    type_name: ClassVar[str] = "tasks_app.PlanRefused"

    decision_id: UUID | None
    rule: str
    reason: str


class TaskStarted(Event):
    """An attempt at a task began; its memory is the run's stream."""

    type_name: ClassVar[str] = "tasks_app.TaskStarted"

    task_id: UUID
    run_id: UUID
    attempt: int = Field(ge=1)


class TaskCompleted(Event):
    """The attempt `run_id` completed its task; `tokens` counts prompt and completion.

    A goal is complete with its parts: nobody ran it, and `run_id` is nothing.
    """

    type_name: ClassVar[str] = "tasks_app.TaskCompleted"

    task_id: UUID
    run_id: UUID | None
    tokens: int = Field(ge=0)


class TaskRetried(Event):
    """The attempt `run_id` failed with `code`, and the task is tried again, `not_before` that time.

    `attempt` counts the attempts so far, `tokens` what this one used.
    """

    type_name: ClassVar[str] = "tasks_app.TaskRetried"

    task_id: UUID
    run_id: UUID
    attempt: int = Field(ge=1)
    not_before: datetime
    code: str
    tokens: int = Field(default=0, ge=0)


class TaskFailed(Event):
    """The attempt `run_id` ended without a result and is not tried again.

    A goal fails with its parts: nobody ran it, and `run_id` is nothing.
    """

    type_name: ClassVar[str] = "tasks_app.TaskFailed"

    task_id: UUID
    run_id: UUID | None
    tokens: int = Field(ge=0)
    code: str
    reason: str


class TaskAborted(Event):
    """A person or a rule stopped the task before it had a result."""

    type_name: ClassVar[str] = "tasks_app.TaskAborted"

    task_id: UUID
    reason: str
    tokens: int = Field(default=0, ge=0)


class TaskPruned(Event):
    """The task is left out before it began, because of the task `because_of` where that is so.

    `reason` is told to people and holds nothing that they wrote.
    """

    type_name: ClassVar[str] = "tasks_app.TaskPruned"

    task_id: UUID
    code: PruneCode
    reason: str
    because_of: UUID | None = None


class Check(BaseModel):
    """One thing that a critic looked at, and whether it was as it should be."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: str
    passed: bool


class PlanCriticised(Event):
    """A critic judged the result of a task, or without `task_id` the plan as a whole.

    `details` says of checks, by name, what was found. A result whose verdict is `prune` is not used.
    """

    type_name: ClassVar[str] = "tasks_app.PlanCriticised"

    task_id: UUID | None
    checks: tuple[Check, ...]
    details: Sealed[dict[str, str]]
    verdict: Criticism


class PlanRevised(Event):
    """The plan was changed while it ran; events of the same append add and prune the tasks named here."""

    type_name: ClassVar[str] = "tasks_app.PlanRevised"

    reason: Sealed[str]
    added: tuple[UUID, ...] = ()
    pruned: tuple[UUID, ...] = ()


class GrowthRefused(Event):
    """The plan was not let grow: what was to be added passes the bound, of which there may be `most`."""

    type_name: ClassVar[str] = "tasks_app.GrowthRefused"

    bound: Bound
    most: int = Field(ge=0)
    reason: str


class PlanCompleted(Event):
    """Every task of the plan has ended. `status` is what the plan as a whole came to."""

    type_name: ClassVar[str] = "tasks_app.PlanCompleted"

    status: Literal["complete", "failed", "stopped"]
    tokens: int = Field(ge=0)


class Amounts(BaseModel):
    """What something comes to in one case of ten (`p10`), in half of them and in nine of ten, at most."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    p10: int = Field(ge=0)
    p50: int = Field(ge=0)
    p90: int = Field(ge=0)


class Money(Amounts):
    """Amounts in micro-units of `currency` (ISO 4217)."""

    currency: str


class Foreseen(BaseModel):
    """An act that policy would hold up, or not let happen, if it were decided now.

    `sure` is False where its arguments are not known yet, so that it may not come to it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    act: Literal["model_call", "tool_call", "retrieval"]
    subject: str
    outcome: Literal["escalate", "throttle", "deny"]
    rule: str
    sure: bool


class BillLine(BaseModel):
    """What one task is expected to use, all its attempts together.

    It rests on `samples` tasks of the same agent and tool (empty: the agent's own work) that ended before,
    and on what is known of this one: `prompt_tokens` that were counted, at most `output_tokens` for each
    answer. Without samples it is an estimate from these alone. `model` is empty where none is foreseen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    task_id: UUID
    agent: str
    tool: str = ""
    model: str = ""
    samples: int = Field(ge=0)
    prompt_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    tokens: Amounts
    cost: Money
    foreseen: tuple[Foreseen, ...] = ()


class PlanBilled(Event):
    """What a plan is expected to use, reckoned before it begins: a line for each task, and their sums.

    The sums are those of the lines as random quantities, not of their percentiles; money is summed for each
    currency. `approvals`, `throttles` and `denials` count the acts of all lines that would come to that.
    """

    type_name: ClassVar[str] = "tasks_app.PlanBilled"

    lines: tuple[BillLine, ...]
    tokens: Amounts
    costs: tuple[Money, ...]
    approvals: int = Field(ge=0)
    throttles: int = Field(ge=0)
    denials: int = Field(ge=0)


class PlanEnded(Conflict):
    """The plan has reached its end; ends are final."""

    code = "plan_ended"


@dataclass(frozen=True, slots=True)
class Edge:
    """The task `to_task` comes after `from_task` on the terms of `relation`; `weight` in hundredths."""

    from_task: UUID
    to_task: UUID
    relation: Relation
    weight: int = DEFAULT_WEIGHT


@dataclass(frozen=True, slots=True)
class Task:
    """A task as its plan's events tell it.

    `run_id` is its last attempt. A pending task with `not_before` waits for that time to be tried again.
    """

    task_id: UUID
    parent_id: UUID | None
    intent: str
    spec: Mapping[str, Any]
    agent: str
    priority: int
    cost_budget_tokens: int
    estimated_tokens: int
    status: TaskStatus = "pending"
    run_id: UUID | None = None
    attempts: int = 0
    tokens: int = 0
    error: str | None = None
    kind: TaskKind = "work"
    not_before: datetime | None = None
    code: str = ""
    criticism: Criticism | None = None

    @property
    def ended(self) -> bool:
        """Tell whether nothing more can become of this task."""
        return self.status in FINAL_TASK_STATUSES

    @property
    def usable(self) -> bool:
        """Tell whether the task has a result that others may use."""
        return self.status == "complete" and self.criticism != "prune"


@dataclass(frozen=True, slots=True)
class Plan:
    """The state of a plan after its first `version` events.

    `held_back` is what it waits for, or was refused after; `decision_id` let it begin. `bill` is the first
    that was made, which is what people were told. Tasks and edges are in the order in which they were added.
    """

    version: int = 0
    status: PlanStatus = "new"
    message_id: UUID | None = None
    root_task_id: UUID | None = None
    planner: str = ""
    held_back: PlanHeldBack | None = None
    decision_id: UUID | None = None
    refusal: str | None = None
    tasks: Mapping[UUID, Task] = field(default_factory=lambda: MappingProxyType({}))
    edges: tuple[Edge, ...] = ()
    revisions: int = 0
    criticism: Criticism | None = None
    bill: PlanBilled | None = None

    @property
    def ended(self) -> bool:
        """Tell whether nothing more can happen to this plan."""
        return self.status in FINAL_PLAN_STATUSES

    @property
    def tokens(self) -> int:
        """Count the tokens that all tasks used."""
        return sum(task.tokens for task in self.tasks.values())

    def open_tasks(self) -> list[Task]:
        """Return the tasks that have not ended, the most urgent first, then in the order they were added."""
        waiting = [task for task in self.tasks.values() if not task.ended]
        return sorted(waiting, key=lambda task: -task.priority)


def evolve(plan: Plan, event: Event) -> Plan:
    """Return the plan after one more event of its stream."""
    return extend(plan, (event,))


def fold(events: Iterable[Event]) -> Plan:
    """Return the plan that these events, in order, make."""
    return extend(Plan(), events)


def extend(plan: Plan, events: Iterable[Event]) -> Plan:
    """Return the plan after these further events, at a cost that grows with their number and the tasks'.

    Ends are final: what comes after the end of the plan, of a task or of an attempt changes nothing of it.
    """
    tasks = dict(plan.tasks)
    edges = list(plan.edges)
    version = plan.version
    for event in events:
        version += 1
        if plan.ended:
            continue
        match event:
            case TaskAdded():
                tasks.setdefault(event.task_id, _task_of(event))
            case EdgeAdded():
                edges.append(Edge(event.from_task, event.to_task, event.relation, event.weight))
            case PlanCriticised(task_id=None):
                plan = _plan_after(plan, event)
            case _ if (task_id := getattr(event, "task_id", None)) is not None:
                tasks[task_id] = task_after(tasks[task_id], event)
            case _:
                plan = _plan_after(plan, event)
    return replace(plan, version=version, tasks=MappingProxyType(tasks), edges=tuple(edges))


def task_after(task: Task, event: Event) -> Task:
    """Return a task after an event on it: the same object where the event changes nothing of it.

    Nothing changes an end, and nothing an attempt that is not the task's current one. Of verdicts the last
    counts, but for one that took the result out of use: others may have been pruned because of it.
    """
    if isinstance(event, PlanCriticised):
        return task if task.criticism == "prune" else replace(task, criticism=event.verdict)
    if task.ended:
        return task
    running = task.status == "running"
    match event:
        case TaskStarted() if not running and task.kind != "goal":
            return replace(
                task, status="running", run_id=event.run_id, attempts=event.attempt, not_before=None
            )
        case TaskRetried() if running and event.run_id == task.run_id:
            return replace(
                task,
                status="pending",
                not_before=event.not_before,
                code=event.code,
                tokens=task.tokens + event.tokens,
            )
        case TaskCompleted() if _may_complete(task, event.run_id):
            return replace(task, status="complete", code="", tokens=task.tokens + event.tokens)
        # What never began can fail as well: while its plan waits.
        case TaskFailed() if event.run_id == task.run_id if running else task.run_id is None:
            return replace(
                _ended(task, "failed", event.reason), code=event.code, tokens=task.tokens + event.tokens
            )
        case TaskAborted():
            return replace(_ended(task, "aborted", event.reason), tokens=task.tokens + event.tokens)
        case TaskPruned() if not running:
            return replace(_ended(task, "pruned", event.reason), code=event.code)
        case _:
            return task


def completion(plan: Plan) -> list[Event]:
    """Return the event that ends a plan whose tasks have all ended, or nothing while one is open.

    Raises PlanEnded where the plan has ended before.
    """
    if plan.ended:
        raise PlanEnded(f"This plan has ended as {plan.status}; ask again in a new message.")
    if plan.open_tasks():
        return []
    root = plan.tasks[plan.root_task_id] if plan.root_task_id else None
    if root is not None and root.status == "complete":
        return [PlanCompleted(status="complete", tokens=plan.tokens)]
    stopped = root is not None and root.status == "aborted"
    return [PlanCompleted(status="stopped" if stopped else "failed", tokens=plan.tokens)]


def _task_of(event: TaskAdded) -> Task:
    return Task(
        task_id=event.task_id,
        parent_id=event.parent_id,
        intent=event.intent,
        spec=event.spec,
        agent=event.agent,
        priority=event.priority,
        cost_budget_tokens=event.cost_budget_tokens,
        estimated_tokens=event.estimated_tokens,
        kind=event.kind,
    )


def _ended(task: Task, status: TaskStatus, reason: str) -> Task:
    return replace(task, status=status, error=reason, not_before=None)


def _may_complete(task: Task, run_id: UUID | None) -> bool:
    if task.kind == "goal":
        return run_id is None
    return task.status == "running" and run_id == task.run_id


def _plan_after(plan: Plan, event: Event) -> Plan:
    match event:
        case PlanProposed():
            return replace(
                plan,
                status="proposed",
                message_id=event.message_id,
                root_task_id=event.root_task_id,
                planner=event.planner,
            )
        case PlanHeldBack():
            return replace(plan, status="waiting", held_back=event)
        case PlanAccepted():
            return replace(plan, status="accepted", held_back=None, decision_id=event.decision_id)
        case PlanRefused():
            return replace(plan, status="refused", refusal=event.reason)
        case PlanCriticised():
            return replace(plan, criticism=event.verdict)
        case PlanRevised():
            return replace(plan, revisions=plan.revisions + 1)
        case PlanBilled() if plan.bill is None:
            return replace(plan, bill=event)
        case PlanCompleted():
            return replace(plan, status=event.status)
        case _:
            return plan
