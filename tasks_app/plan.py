"""A plan: the tree of tasks that answers one message. Pure: events, their fold, and what may happen next."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from cartrita.errors import Conflict
from cartrita.eventstore import Event, Sealed

TaskStatus = Literal["pending", "blocked", "running", "complete", "failed", "pruned", "aborted"]
PlanStatus = Literal["new", "proposed", "waiting", "accepted", "refused", "complete", "failed", "stopped"]

DEFAULT_TASK_BUDGET = 5000
DEFAULT_PRIORITY = 5

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
    """A task joined the plan. `cost_budget_tokens` bounds what its attempts may use together."""

    type_name: ClassVar[str] = "tasks_app.TaskAdded"

    task_id: UUID
    parent_id: UUID | None
    intent: Sealed[str]
    spec: Sealed[dict[str, Any]]
    agent: str
    priority: int = Field(default=DEFAULT_PRIORITY, ge=1, le=10)
    cost_budget_tokens: int = Field(default=DEFAULT_TASK_BUDGET, ge=0)
    estimated_tokens: int = Field(default=0, ge=0)


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
    """Governance did not let the plan begin; `rule` says which rule, `reason` what people are told."""

    type_name: ClassVar[str] = "tasks_app.PlanRefused"

    decision_id: UUID
    rule: str
    reason: str


class TaskStarted(Event):
    """An attempt at a task began; its memory is the run's stream."""

    type_name: ClassVar[str] = "tasks_app.TaskStarted"

    task_id: UUID
    run_id: UUID
    attempt: int = Field(ge=1)


class TaskCompleted(Event):
    """The attempt `run_id` completed its task; `tokens` counts prompt and completion."""

    type_name: ClassVar[str] = "tasks_app.TaskCompleted"

    task_id: UUID
    run_id: UUID
    tokens: int = Field(ge=0)


class TaskFailed(Event):
    """The attempt `run_id` ended without a result and is not tried again."""

    type_name: ClassVar[str] = "tasks_app.TaskFailed"

    task_id: UUID
    run_id: UUID
    tokens: int = Field(ge=0)
    code: str
    reason: str


class TaskAborted(Event):
    """A person or a rule stopped the task before it had a result."""

    type_name: ClassVar[str] = "tasks_app.TaskAborted"

    task_id: UUID
    reason: str
    tokens: int = Field(default=0, ge=0)


class PlanCompleted(Event):
    """Every task of the plan has ended. `status` is what the plan as a whole came to."""

    type_name: ClassVar[str] = "tasks_app.PlanCompleted"

    status: Literal["complete", "failed", "stopped"]
    tokens: int = Field(ge=0)


class PlanEnded(Conflict):
    """The plan has reached its end; ends are final."""

    code = "plan_ended"


@dataclass(frozen=True, slots=True)
class Task:
    """A task as its plan's events tell it."""

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


@dataclass(frozen=True, slots=True)
class Plan:
    """The state of a plan after its first `version` events.

    `held_back` is what it waits for, or was refused after; `decision_id` let it begin.
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
        waiting = [task for task in self.tasks.values() if task.status not in FINAL_TASK_STATUSES]
        return sorted(waiting, key=lambda task: -task.priority)


def evolve(plan: Plan, event: Event) -> Plan:
    """Return the plan after one more event of its stream."""
    plan = replace(plan, version=plan.version + 1)
    match event:
        case PlanProposed():
            return replace(
                plan,
                status="proposed",
                message_id=event.message_id,
                root_task_id=event.root_task_id,
                planner=event.planner,
            )
        case TaskAdded():
            return _with_task(
                plan,
                Task(
                    task_id=event.task_id,
                    parent_id=event.parent_id,
                    intent=event.intent,
                    spec=event.spec,
                    agent=event.agent,
                    priority=event.priority,
                    cost_budget_tokens=event.cost_budget_tokens,
                    estimated_tokens=event.estimated_tokens,
                ),
            )
        case PlanHeldBack():
            return replace(plan, status="waiting", held_back=event)
        case PlanAccepted():
            return replace(plan, status="accepted", held_back=None, decision_id=event.decision_id)
        case PlanRefused():
            return replace(plan, status="refused", refusal=event.reason)
        case TaskStarted():
            task = plan.tasks[event.task_id]
            return _with_task(
                plan, replace(task, status="running", run_id=event.run_id, attempts=event.attempt)
            )
        case TaskCompleted():
            task = plan.tasks[event.task_id]
            return _with_task(plan, replace(task, status="complete", tokens=task.tokens + event.tokens))
        case TaskFailed():
            task = plan.tasks[event.task_id]
            return _with_task(
                plan,
                replace(task, status="failed", tokens=task.tokens + event.tokens, error=event.reason),
            )
        case TaskAborted():
            task = plan.tasks[event.task_id]
            return _with_task(
                plan,
                replace(task, status="aborted", tokens=task.tokens + event.tokens, error=event.reason),
            )
        case PlanCompleted():
            return replace(plan, status=event.status)
        case _:
            return plan


def fold(events: Iterable[Event]) -> Plan:
    """Return the plan that these events, in order, make."""
    plan = Plan()
    for event in events:
        plan = evolve(plan, event)
    return plan


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


def _with_task(plan: Plan, task: Task) -> Plan:
    return replace(plan, tasks=MappingProxyType({**plan.tasks, task.task_id: task}))
