"""Plans to test with, in few words."""

from datetime import UTC, datetime
from uuid import UUID

from cartrita.eventstore import Event
from tasks_app.growth import add_edge
from tasks_app.plan import (
    Plan,
    PlanAccepted,
    PlanProposed,
    Relation,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskKind,
    TaskStarted,
    extend,
    fold,
)
from tasks_app.schedule import consequences

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SESSION, MESSAGE, DECISION = (UUID(int=number) for number in range(901, 904))


def task_id(number: int) -> UUID:
    return UUID(int=number + 1)


def run_id(number: int, attempt: int = 1) -> UUID:
    return UUID(int=(number + 1) * 1000 + attempt)


def added(
    number: int,
    *,
    parent: int | None = 0,
    kind: TaskKind = "work",
    priority: int = 5,
    agent: str = "assistant",
    tool: str = "",
) -> TaskAdded:
    return TaskAdded(
        task_id=task_id(number),
        parent_id=None if parent is None else task_id(parent),
        intent=f"do {number}",
        spec={"tool": tool, "arguments": {}} if tool else {},
        agent=agent,
        priority=priority,
        estimated_tokens=10,
        kind=kind,
    )


def laid_out(*tasks: TaskAdded, edges: tuple[tuple[int, Relation, int], ...] = ()) -> Plan:
    """Return an accepted plan of these tasks; an edge `(1, "blocks", 2)` leads from task 1 to task 2."""
    plan = fold(
        [
            PlanProposed(
                message_id=MESSAGE,
                root_task_id=task_id(0),
                goal="all of it",
                planner="rules",
                estimated_tokens=10 * len(tasks),
            ),
            *tasks,
        ]
    )
    for first, relation, second in edges:
        plan = extend(
            plan, add_edge(plan, from_task=task_id(first), to_task=task_id(second), relation=relation)
        )
    return extend(plan, [PlanAccepted(decision_id=DECISION, outcome="allow")])


def parts(count: int, *edges: tuple[int, Relation, int], root: TaskKind = "synthesis") -> Plan:
    """Return a plan of a root (0) and its parts (1 to count)."""
    return laid_out(
        added(0, parent=None, kind=root), *(added(number) for number in range(1, count + 1)), edges=edges
    )


def started(plan: Plan, number: int) -> Plan:
    attempt = plan.tasks[task_id(number)].attempts + 1
    event = TaskStarted(task_id=task_id(number), run_id=run_id(number, attempt), attempt=attempt)
    return extend(plan, [event])


def completed(plan: Plan, number: int, tokens: int = 7) -> TaskCompleted:
    return TaskCompleted(task_id=task_id(number), run_id=plan.tasks[task_id(number)].run_id, tokens=tokens)


def failed(plan: Plan, number: int, code: str = "broken") -> TaskFailed:
    return TaskFailed(
        task_id=task_id(number),
        run_id=plan.tasks[task_id(number)].run_id,
        tokens=3,
        code=code,
        reason="It broke.",
    )


def following(plan: Plan, event: Event, *, jitter: float = 0.0) -> list[Event]:
    return consequences(plan, event, now=NOON, jitter=jitter)


def done(plan: Plan, *numbers: int) -> Plan:
    """Run these tasks to their completion, one after the other."""
    for number in numbers:
        plan = started(plan, number)
        plan = extend(plan, following(plan, completed(plan, number)))
    return plan


def broken(plan: Plan, number: int) -> Plan:
    """Run a task to its failure."""
    plan = started(plan, number)
    return extend(plan, following(plan, failed(plan, number)))


def statuses(plan: Plan) -> dict[int, str]:
    return {id_.int - 1: task.status for id_, task in plan.tasks.items()}
