"""The nodes that a plan passes, and its state at each.

The rows of `graph_snapshots` hold what is not personal: they are copied from no sealed field, so that they
are equal after a rebuild and nothing of them is left to erase. The whole state at any version is folded from
the log, where what people wrote is sealed.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from cartrita.errors import NotFound
from cartrita.eventstore import Event, RecordedEvent, load
from tasks_app import plan as plans
from tasks_app.plan import (
    Plan,
    PlanAccepted,
    PlanCompleted,
    PlanCriticised,
    PlanHeldBack,
    PlanRefused,
    TaskStarted,
)
from tasks_app.snapshot import snapshot

# What people wrote, or what was told to them about it.
_PERSONAL = frozenset({"intent", "spec", "error"})


class UnknownSnapshot(NotFound):
    """There is no such plan, or it has not come to that version."""

    code = "unknown_snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A point that a plan passed: the plan after `version` events, and whom it is about.

    The event at `seen_at`, the same or the next one, tells that it did. Times are in milliseconds.
    """

    name: str
    version: int
    seen_at: int
    task_id: UUID | None
    plan: Plan
    at: datetime
    metrics: dict[str, int]


def snapshot_of(plan_id: UUID, version: int | None = None) -> dict[str, Any]:
    """Return a plan's whole state after that many events (None: now) as JSON-compatible values.

    It holds what people wrote, or empty values where that is erased: show it to those who may read the
    session. Raises UnknownSnapshot.
    """
    recorded = load(plan_id, up_to_version=version) if version is None or version > 0 else []
    if not recorded or (version is not None and len(recorded) < version):
        raise UnknownSnapshot(
            f"There is no plan {plan_id} with a version {version or 1}; take one of graph_snapshots.",
            field="version",
        )
    return snapshot(plans.fold(one.event for one in recorded))


def outline(plan: Plan) -> dict[str, Any]:
    """Return a plan's state without anything that people wrote: ids, kinds, statuses and counts."""
    whole = snapshot(plan)
    held = whole.pop("held_back")
    whole.pop("refusal")
    return {
        **whole,
        "held_back": held and {name: held[name] for name in ("decision_id", "outcome", "rule")},
        "tasks": [
            {name: value for name, value in task.items() if name not in _PERSONAL} for task in whole["tasks"]
        ],
    }


def nodes(events: Iterable[RecordedEvent]) -> Iterator[Node]:
    """Yield the nodes of a plan that its events, from the first one on, tell of."""
    plan = Plan()
    times: list[datetime] = []
    started: dict[UUID, datetime] = {}
    for recorded in events:
        event, before = recorded.event, plan
        plan = plans.evolve(plan, event)
        if isinstance(event, TaskStarted):
            started[event.task_id] = recorded.recorded_at
        if before.ended:
            continue
        named = _node(before, plan, event)
        if named is None:
            continue
        name, task_id = named
        metrics = {}
        if times:
            metrics["since_planned_ms"] = _milliseconds(times[0], recorded.recorded_at)
            metrics["since_previous_ms"] = _milliseconds(times[-1], recorded.recorded_at)
        if task_id in started and name.startswith("task_"):
            metrics["task_ms"] = _milliseconds(started[task_id], recorded.recorded_at)
        times.append(recorded.recorded_at)
        # The plan was laid out by what came before the decision on it.
        state = before if name == "planned" else plan
        yield Node(
            name=name,
            version=state.version,
            seen_at=recorded.version,
            task_id=task_id,
            plan=state,
            at=recorded.recorded_at,
            metrics=metrics,
        )


def _node(before: Plan, after: Plan, event: Event) -> tuple[str, UUID | None] | None:
    """Return the name of the node that an event leads to, and the task that it is about."""
    match event:
        case PlanAccepted() | PlanHeldBack() | PlanRefused() if before.status == "proposed":
            return "planned", None
        case PlanCriticised():
            return "criticised", event.task_id
        case PlanCompleted():
            return "finished", None
    task_id: UUID | None = getattr(event, "task_id", None)
    if (
        task_id is None
        or task_id not in before.tasks
        or before.tasks[task_id].ended
        or not after.tasks[task_id].ended
    ):
        return None
    return f"task_{after.tasks[task_id].status}", task_id


def _milliseconds(since: datetime, until: datetime) -> int:
    return round((until - since).total_seconds() * 1000)
