"""What the parts of a plan came to, for who puts them together."""

from uuid import UUID

from cartrita.orchestrator import compose
from cartrita.orchestrator.ledger import Ledger
from tasks_app.plan import Plan, Task


async def parts_of(ledger: Ledger, task: Task) -> tuple[compose.Part, ...]:
    """Return the parts of a task with what they came to, in the order in which they were added."""
    found = []
    plan = ledger.plan
    refined = {
        edge.from_task
        for edge in plan.edges
        if edge.relation == "refines" and plan.tasks[edge.to_task].usable
    }
    for one in plan.tasks.values():
        if one.parent_id != task.task_id or one.task_id in refined:
            continue
        finished = await ledger.result_of(one)
        answered = finished is not None and finished.status == "answered"
        found.append(
            compose.Part(
                intent=_asked(plan, one),
                agent=one.agent,
                status=one.status,
                text=finished.answer if answered and finished is not None else "",
                citations=finished.citations if answered and finished is not None else [],
                reason=finished.answer if finished is not None and not answered else one.error or "",
                usable=one.usable,
                model=finished.model if answered and finished is not None else "",
                supported=finished.supported if answered and finished is not None else None,
            )
        )
    return tuple(found)


def _asked(plan: Plan, task: Task) -> str:
    """Return what was asked first where a task improves on the result of another."""
    improves = task.spec.get("improves")
    first = plan.tasks.get(UUID(str(improves))) if improves else None
    return task.intent if first is None else first.intent
