"""How a plan grows and changes: tasks, edges and revisions, within bounds that stop runaways. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar
from uuid import UUID

from cartrita.errors import BadInput, Conflict
from cartrita.eventstore import Event
from tasks_app.plan import (
    DEFAULT_WEIGHT,
    MAX_WEIGHT,
    Bound,
    EdgeAdded,
    GrowthRefused,
    Plan,
    PlanEnded,
    PlanRevised,
    PruneCode,
    Relation,
    TaskAdded,
    TaskPruned,
    extend,
)
from tasks_app.relations import Graph
from tasks_app.schedule import settle


class UnknownTask(BadInput):
    """The plan has no task with this id."""

    code: ClassVar[str] = "unknown_task"


class TaskNotAdded(BadInput):
    """The task cannot be a task of this plan; the message says why."""

    code: ClassVar[str] = "task_not_added"


class EdgeNotAdded(BadInput):
    """The edge would say nothing new or cannot hold; the message says why."""

    code: ClassVar[str] = "edge_not_added"


class EdgeMakesCycle(EdgeNotAdded):
    """With the edge, tasks would wait for one another; `details["cycle"]` names them in their order."""

    code: ClassVar[str] = "plan_cycle"


class TaskBegun(Conflict):
    """The task has begun or ended: what should come before it, or leave it out, comes too late."""

    code: ClassVar[str] = "task_begun"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How large a plan may become. The root is at depth 1; `revisions` counts how often it is changed."""

    depth: int = 5
    tasks: int = 50
    revisions: int = 3


def add_task(plan: Plan, task: TaskAdded, *, bounds: Bounds | None = None) -> list[Event]:
    """Return the event that adds a task, or the one that says which bound keeps it out.

    Raises TaskNotAdded, UnknownTask for an unknown parent, TaskBegun for one that has begun, and PlanEnded.
    """
    _refuse_ended(plan)
    if task.task_id in plan.tasks:
        raise TaskNotAdded(f"The plan has a task {task.task_id} already; give a new id.", field="task_id")
    if task.parent_id is None:
        if task.task_id != plan.root_task_id:
            raise TaskNotAdded("A task but the root is part of another; name its parent.", field="parent_id")
    else:
        parent = plan.tasks.get(task.parent_id)
        if parent is None:
            raise _unknown(task.parent_id, "parent_id")
        if parent.kind == "work":
            message = f"Task {parent.task_id} has no parts: make it a goal or a synthesis."
            raise TaskNotAdded(message, field="parent_id")
        if parent.ended or parent.attempts:
            raise TaskBegun(f"Task {parent.task_id} is {parent.status}: no part can join it.")
    refused = _passed(extend(plan, (task,)), task, bounds or Bounds())
    return [refused] if refused is not None else [task]


def add_edge(
    plan: Plan, *, from_task: UUID, to_task: UUID, relation: Relation, weight: int = DEFAULT_WEIGHT
) -> list[Event]:
    """Return the event that makes `to_task` come after `from_task`; `weight` is in hundredths.

    Raises UnknownTask, EdgeNotAdded for an edge of a task to itself or one that is there, EdgeMakesCycle,
    TaskBegun where `to_task` or a part of it has begun, and PlanEnded.
    """
    _refuse_ended(plan)
    for field, task_id in (("from_task", from_task), ("to_task", to_task)):
        if task_id not in plan.tasks:
            raise _unknown(task_id, field)
    if from_task == to_task:
        raise EdgeNotAdded(f"Task {to_task} cannot come after itself; name two tasks.", field="to_task")
    if not 0 <= weight <= MAX_WEIGHT:
        raise EdgeNotAdded(
            f"The weight is {weight} hundredths; it goes from 0 to {MAX_WEIGHT}.", field="weight"
        )
    known = {(edge.from_task, edge.to_task, edge.relation) for edge in plan.edges}
    if (from_task, to_task, relation) in known:
        message = f"There is an edge {relation} from {from_task} to {to_task} already; leave this one out."
        raise EdgeNotAdded(message, field="relation")
    graph = Graph.of(plan)
    cycle = graph.cycle(from_task, to_task)
    if cycle:
        named = " -> ".join(str(task_id) for task_id in cycle)
        raise EdgeMakesCycle(
            f"The tasks would wait for one another in a circle: {named}. Leave one of its edges out.",
            field="to_task",
            cycle=[str(task_id) for task_id in cycle],
        )
    begun = _begun(graph, to_task)
    if begun is not None:
        raise TaskBegun(f"Task {begun} has begun: nothing can come before it any more.")
    return [EdgeAdded(from_task=from_task, to_task=to_task, relation=relation, weight=weight)]


def prune(plan: Plan, task_id: UUID, *, code: PruneCode, reason: str) -> list[Event]:
    """Return the event that leaves a task out before it begins; what depends on it follows by `settle`.

    Raises UnknownTask, TaskBegun where it or a part of it has begun (a task that runs is stopped instead),
    and PlanEnded.
    """
    _refuse_ended(plan)
    if task_id not in plan.tasks:
        raise _unknown(task_id, "task_id")
    begun = _begun(Graph.of(plan), task_id)
    if begun is not None:
        raise TaskBegun(f"Task {begun} has begun: stop it instead of leaving it out.")
    return [TaskPruned(task_id=task_id, code=code, reason=reason)]


def revise(
    plan: Plan,
    *,
    reason: str,
    tasks: Sequence[TaskAdded] = (),
    edges: Sequence[EdgeAdded] = (),
    pruned: Mapping[UUID, str] = MappingProxyType({}),
    bounds: Bounds | None = None,
) -> list[Event]:
    """Return the events of a revision and what follows from them, or which bound refuses all of it.

    `pruned` holds for each task that is left out what people are told. Raises what `add_task`, `add_edge` and
    `prune` raise, and PlanEnded.
    """
    _refuse_ended(plan)
    bounds = bounds or Bounds()
    if plan.revisions >= bounds.revisions:
        return [_refusal("revisions", bounds.revisions, "It was revised as often as it may be.")]
    revised = PlanRevised(reason=reason, added=tuple(task.task_id for task in tasks), pruned=tuple(pruned))
    events: list[Event] = [revised]
    grown = extend(plan, events)
    for task in tasks:
        made = add_task(grown, task, bounds=bounds)
        if isinstance(made[0], GrowthRefused):
            return made
        grown = extend(grown, made)
        events += made
    for edge in edges:
        made = add_edge(
            grown,
            from_task=edge.from_task,
            to_task=edge.to_task,
            relation=edge.relation,
            weight=edge.weight,
        )
        grown = extend(grown, made)
        events += made
    for task_id, why in pruned.items():
        made = prune(grown, task_id, code="revised", reason=why)
        grown = extend(grown, made)
        events += made
    return [*events, *settle(grown)]


def _passed(grown: Plan, task: TaskAdded, bounds: Bounds) -> GrowthRefused | None:
    if len(grown.tasks) > bounds.tasks:
        return _refusal("tasks", bounds.tasks, f"It may have {bounds.tasks} tasks.")
    depth, parent_id = 1, task.parent_id
    while parent_id is not None:
        depth, parent_id = depth + 1, grown.tasks[parent_id].parent_id
    if depth > bounds.depth:
        return _refusal("depth", bounds.depth, f"Its tasks may have parts down to depth {bounds.depth}.")
    return None


def _begun(graph: Graph, task_id: UUID) -> UUID | None:
    """Return the task, or a part of it, that has begun or ended; None where all can still wait."""
    stack = [task_id]
    while stack:
        task = graph.tasks[stack.pop()]
        if task.attempts or task.ended:
            return task.task_id
        stack.extend(graph.parts[task.task_id])
    return None


def _refusal(bound: Bound, most: int, reason: str) -> GrowthRefused:
    return GrowthRefused(bound=bound, most=most, reason=f"The plan does not grow: {reason}")


def _refuse_ended(plan: Plan) -> None:
    if plan.ended:
        raise PlanEnded(f"This plan has ended as {plan.status}; ask again in a new message.")


def _unknown(task_id: UUID, field: str) -> UnknownTask:
    return UnknownTask(f"The plan has no task {task_id}; name one of its tasks.", field=field)
