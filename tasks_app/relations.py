"""What edges and parts mean for the tasks of a plan. Pure.

An edge leads from the task that comes first to the one that comes after it:

- `depends_on`: the second waits until the first is complete, and gets its result. Without one it is pruned.
- `refines`: the same, and the second's result stands in the place of the first's in the answer. Where the
  second fails, the first's result stays.
- `enables`: the second waits until the first is complete, and gets nothing of it. Else it is pruned, which is
  no failure of the plan.
- `blocks`: the second waits until the first has ended, however it did.

An edge to a task with parts holds for each of its parts; an edge from it waits for the task itself. A goal
ends with its parts, a synthesis begins when they have ended. A result that the critic dropped is no result.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import cast
from uuid import UUID

from tasks_app.plan import Edge, Plan, PruneCode, Relation, Task, TaskStatus

# Pruned for these reasons, a task counts as failed in what it is a part of; for others it is merely left out.
_FAILING: frozenset[str] = frozenset({"dependency_failed", "dependency_aborted"})
_PASSES_ITS_RESULT: frozenset[Relation] = frozenset({"depends_on", "refines"})

_Moment = tuple[UUID, bool]
"""The begin (False) or the end (True) of a task."""


class Graph:
    """The neighbours of each task, over tasks that may change under it."""

    def __init__(self, tasks: Mapping[UUID, Task], edges: Iterable[Edge]) -> None:
        self.tasks = tasks
        self.incoming: dict[UUID, list[Edge]] = {task_id: [] for task_id in tasks}
        self.outgoing: dict[UUID, list[Edge]] = {task_id: [] for task_id in tasks}
        self.parts: dict[UUID, list[UUID]] = {task_id: [] for task_id in tasks}
        for edge in edges:
            self.incoming[edge.to_task].append(edge)
            self.outgoing[edge.from_task].append(edge)
        for task in tasks.values():
            if task.parent_id is not None:
                self.parts[task.parent_id].append(task.task_id)

    @classmethod
    def of(cls, plan: Plan) -> "Graph":
        """Return the graph of a plan."""
        return cls(plan.tasks, plan.edges)

    def neighbours(self, task_id: UUID) -> Iterator[UUID]:
        """Yield the tasks for which the end of this one can mean something."""
        yield from (edge.to_task for edge in self.outgoing[task_id])
        yield from self.parts[task_id]
        parent_id = self.tasks[task_id].parent_id
        if parent_id is not None:
            yield parent_id

    def below(self, task_id: UUID) -> Iterator[UUID]:
        """Yield the parts of a task, and theirs, each after what it is a part of."""
        for part in self.parts[task_id]:
            yield part
            yield from self.below(part)

    def edges_into(self, task_id: UUID) -> Iterator[Edge]:
        """Yield the edges that hold for a task: to itself and to what it is a part of."""
        at: UUID | None = task_id
        while at is not None:
            yield from self.incoming[at]
            at = self.tasks[at].parent_id

    def blockers(self, task: Task) -> list[Task]:
        """Return the open tasks that this one waits for, each once."""
        waits_for = [edge.from_task for edge in self.edges_into(task.task_id)]
        waits_for += self.parts[task.task_id]
        return [self.tasks[one] for one in dict.fromkeys(waits_for) if not self.tasks[one].ended]

    def has_open_part(self, task: Task) -> bool:
        """Tell whether a part of the task has not ended."""
        return any(not self.tasks[part].ended for part in self.parts[task.task_id])

    def unmet(self, task: Task) -> Edge | None:
        """Return the first of the task's own edges whose terms can no longer be met, None while all can."""
        for edge in self.incoming[task.task_id]:
            first = self.tasks[edge.from_task]
            if edge.relation != "blocks" and first.ended and not first.usable:
                return edge
        return None

    def failing_part(self, task: Task) -> Task | None:
        """Return the first part that failed, None where each gave a result or was merely left out.

        What should have refined a result that stands did no harm.
        """
        for part_id in self.parts[task.task_id]:
            part = self.tasks[part_id]
            failed = part.status in {"failed", "aborted"} or (
                part.status == "pruned" and part.code in _FAILING
            )
            if failed and not any(
                edge.relation == "refines" and self.tasks[edge.from_task].usable
                for edge in self.incoming[part_id]
            ):
                return part
        return None

    def answer_of(self, task: Task) -> list[Task]:
        """Return the tasks whose results are that of a task; of a goal its parts', without those refined."""
        if task.criticism == "prune":
            return []
        if task.kind != "goal":
            return [task] if task.usable else []
        return self.results_of_parts(task)

    def results_of_parts(self, task: Task) -> list[Task]:
        """Return the tasks whose results a synthesis gets of its parts, in the order they were added."""
        found = [one for part in self.parts[task.task_id] for one in self.answer_of(self.tasks[part])]
        return [one for one in found if not self._refined(one)]

    def inputs(self, task: Task) -> list[Task]:
        """Return the tasks whose results a task gets, each once: by its edges, then of its parts."""
        found = [
            one
            for edge in self.edges_into(task.task_id)
            if edge.relation in _PASSES_ITS_RESULT
            for one in self.answer_of(self.tasks[edge.from_task])
        ]
        if task.kind == "synthesis":
            found += self.results_of_parts(task)
        return list({one.task_id: one for one in found}.values())

    def cycle(self, from_task: UUID, to_task: UUID) -> list[UUID]:
        """Return the circle that an edge would close, its first task again at the end; nothing where none.

        The begin of a task comes before those of its parts and before its end, their ends before its own.
        """
        start, goal = (to_task, False), (from_task, True)
        came_from: dict[_Moment, _Moment | None] = {start: None}
        stack = [start]
        while stack:
            moment = stack.pop()
            if moment == goal:
                return [from_task, *_tasks_along(came_from, goal)]
            for following in self._moments_after(moment):
                if following not in came_from:
                    came_from[following] = moment
                    stack.append(following)
        return []

    def _moments_after(self, moment: _Moment) -> Iterator[_Moment]:
        task_id, is_end = moment
        if not is_end:
            yield task_id, True
            yield from ((part, False) for part in self.parts[task_id])
            return
        yield from ((edge.to_task, False) for edge in self.outgoing[task_id])
        parent_id = self.tasks[task_id].parent_id
        if parent_id is not None:
            yield parent_id, True

    def _refined(self, task: Task) -> bool:
        return any(
            edge.relation == "refines" and self.tasks[edge.to_task].usable
            for edge in self.outgoing[task.task_id]
        )


def status_of(plan: Plan, task: Task, graph: Graph, *, awaiting: Iterable[UUID] = ()) -> TaskStatus:
    """Return the status that people see: a task is blocked while it waits for others or for an approval.

    `awaiting` are the tasks whose runs wait for an approval; a plan that waits for one blocks all its tasks.
    """
    if task.ended:
        return task.status
    if plan.status == "waiting" or task.task_id in frozenset(awaiting):
        return "blocked"
    waits = task.status == "pending" and task.kind != "goal" and graph.blockers(task)
    return "blocked" if waits else task.status


def prune_code(edge: Edge, first: Task) -> PruneCode:
    """Return why the task is pruned that the edge leads to, when `first` ended without a usable result."""
    if edge.relation == "enables":
        return "not_enabled"
    match first.status:
        case "failed":
            return "dependency_failed"
        case "aborted":
            return "dependency_aborted"
        case "pruned":
            return code_of_pruned(first)
        case _:
            return "criticised"


def code_of_pruned(task: Task) -> PruneCode:
    """Return why a pruned task was."""
    return cast(PruneCode, task.code)


def _tasks_along(came_from: Mapping[_Moment, _Moment | None], last: _Moment) -> list[UUID]:
    trail: list[UUID] = []
    moment: _Moment | None = last
    while moment is not None:
        if not trail or trail[-1] != moment[0]:
            trail.append(moment[0])
        moment = came_from[moment]
    return trail[::-1]
