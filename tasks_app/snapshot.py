"""A plan's folded state as JSON, for looking into it, comparing and going back. Pure."""

from collections import Counter
from typing import Any
from uuid import UUID

from cartrita.eventstore.canonical import rfc3339
from tasks_app.plan import Edge, Plan, Task
from tasks_app.relations import Graph, status_of
from tasks_app.schedule import progress


def snapshot(plan: Plan) -> dict[str, Any]:
    """Return a plan's state as JSON-compatible values.

    It is that after `version` events. Intents, specs and reasons are plain text: seal what is kept of them.
    """
    graph = Graph.of(plan)
    done = progress(plan)
    return {
        "version": plan.version,
        "status": plan.status,
        "message_id": _id(plan.message_id),
        "root_task_id": _id(plan.root_task_id),
        "planner": plan.planner,
        "decision_id": _id(plan.decision_id),
        "held_back": plan.held_back.model_dump(mode="json") if plan.held_back is not None else None,
        "refusal": plan.refusal,
        "revisions": plan.revisions,
        "criticism": plan.criticism,
        "tasks": [_task(plan, task, graph) for task in plan.tasks.values()],
        "edges": [_edge(edge) for edge in plan.edges],
        "agent_state": _agents(plan, graph),
        "cost_summary": {
            "estimated_tokens": done.estimated_tokens,
            "actual_tokens": done.tokens,
            "budget_tokens": sum(task.cost_budget_tokens for task in plan.tasks.values()),
        },
        "progress": {"tasks": done.tasks, "ended": done.ended, "by_status": done.by_status},
    }


def _task(plan: Plan, task: Task, graph: Graph) -> dict[str, Any]:
    return {
        "task_id": str(task.task_id),
        "parent_id": _id(task.parent_id),
        "kind": task.kind,
        "intent": task.intent,
        "spec": dict(task.spec),
        "agent": task.agent,
        "priority": task.priority,
        "cost_budget_tokens": task.cost_budget_tokens,
        "estimated_tokens": task.estimated_tokens,
        "actual_tokens": task.tokens,
        "status": status_of(plan, task, graph),
        "run_id": _id(task.run_id),
        "attempts": task.attempts,
        "not_before": rfc3339(task.not_before) if task.not_before is not None else None,
        "code": task.code,
        "error": task.error,
        "criticism": task.criticism,
        "blocked_by": [str(one.task_id) for one in graph.blockers(task)],
    }


def _edge(edge: Edge) -> dict[str, Any]:
    return {
        "from_task": str(edge.from_task),
        "to_task": str(edge.to_task),
        "relation": edge.relation,
        "weight": edge.weight,
    }


def _agents(plan: Plan, graph: Graph) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for task in plan.tasks.values():
        if task.kind != "goal":
            counts.setdefault(task.agent, Counter())[status_of(plan, task, graph)] += 1
    return {agent: dict(count) for agent, count in counts.items()}


def _id(value: UUID | None) -> str | None:
    return str(value) if value is not None else None
