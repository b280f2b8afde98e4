"""What plans and their runs came to, for people who may read the session.

A plan or a run is folded from its own stream, so it is as new as the log; lists come from the read models,
which follow the log. Content of results (a model's text, a tool's result, what a critic found) is given once
the plan's answer was: before that, and where it was denied, a reviewer may be holding the same words back.
What single parts said is for admins and auditors: nobody decided to show that to whoever asked.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from typing import Any, ClassVar
from uuid import UUID

from django.db.models import Count, Q, QuerySet, Sum

from cartrita.accounts.queries import Caller
from cartrita.errors import NotFound
from cartrita.eventstore import RecordedEvent, load, unseal_or_empty
from cartrita.http.pagination import DEFAULT_LIMIT, Page, page_of
from governance.visible_text import shown
from tasks_app import plan as plans
from tasks_app.models import PlanRow, RunRow, SnapshotRow, TaskEdgeRow, TaskRow
from tasks_app.plan import PlanProposed
from tasks_app.plan_view import PlanView, in_session, plan_view
from tasks_app.run import RunStarted
from tasks_app.run_view import RunView, run_view
from tasks_app.scope import may_read
from tasks_app.snapshots import UnknownSnapshot

HEADLINE_LENGTH = 160


class PlanNotFound(NotFound):
    """There is no such plan, it is another person's, or its session was erased."""

    code: ClassVar[str] = "plan_not_found"


class RunNotFound(NotFound):
    """There is no such run, it is another person's, or its session was erased."""

    code: ClassVar[str] = "run_not_found"


class SessionNotVisible(NotFound):
    """There is no such session, it is another person's, or it was erased."""

    code: ClassVar[str] = "session_not_found"


def plan(plan_id: UUID, caller: Caller) -> PlanView:
    """Return a plan with its tasks. Raises PlanNotFound."""
    return plan_view(_plan_events(plan_id, caller), parts_readable=_reads_parts(caller))


def plan_of_message(session_id: UUID, message_id: UUID, caller: Caller) -> PlanView | None:
    """Return the newest plan for a message, None where there is none that the caller may read."""
    rows = PlanRow.objects.filter(session_id=session_id, message_id=message_id)
    plan_id = rows.order_by("-created_at", "-id").values_list("id", flat=True).first()
    if plan_id is None:
        return None
    try:
        return plan(plan_id, caller)
    except PlanNotFound:
        return None


def plan_by_any_id(any_id: UUID, caller: Caller) -> PlanView:
    """Return a plan by its id, or the newest one of a session or a message. Raises PlanNotFound."""
    wanted = Q(id=any_id) | Q(session_id=any_id) | Q(message_id=any_id)
    rows = PlanRow.objects.filter(wanted, workspace_id=caller.workspace_id).order_by("-created_at", "-id")
    found = rows.values_list("id", flat=True).first()
    try:
        return plan(found or any_id, caller)
    except PlanNotFound:
        message = f"There is no plan, session or message {any_id} with a plan that you may read."
        raise PlanNotFound(message, field="id") from None


def plans_of(
    session_id: UUID, caller: Caller, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page:
    """Return the plans of a session, newest first, without their tasks. Raises SessionNotVisible."""
    _require_session(session_id, caller)
    rows = PlanRow.objects.filter(session_id=session_id)
    page = page_of(rows, order=("-created_at", "-id"), cursor=cursor, limit=limit)
    return Page(_summaries(session_id, page.items), page.next_cursor)


def runs_of(plan_id: UUID, caller: Caller, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT) -> Page:
    """Return the attempts at a plan's tasks, oldest first, without their acts. Raises PlanNotFound."""
    session_id = _session_of_plan(plan_id, caller)
    rows = RunRow.objects.filter(session_id=session_id, plan_id=plan_id)
    page = page_of(rows, order=("created_at", "id"), cursor=cursor, limit=limit)
    return Page([_run_entry(row) for row in page.items], page.next_cursor)


def edges_of(plan_id: UUID, caller: Caller, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT) -> Page:
    """Return what the tasks of a plan mean for one another, oldest first. Raises PlanNotFound."""
    session_id = _session_of_plan(plan_id, caller)
    rows = TaskEdgeRow.objects.filter(session_id=session_id, plan_id=plan_id)
    page = page_of(rows, order=("created_at", "id"), cursor=cursor, limit=limit)
    return Page([_edge_entry(row) for row in page.items], page.next_cursor)


def snapshots_of(
    plan_id: UUID, caller: Caller, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT
) -> Page:
    """Return the nodes that a plan passed, in order, without its state at each. Raises PlanNotFound."""
    session_id = _session_of_plan(plan_id, caller)
    rows = SnapshotRow.objects.filter(session_id=session_id, plan_id=plan_id)
    page = page_of(rows, order=("version",), cursor=cursor, limit=limit)
    return Page([_snapshot_entry(row) for row in page.items], page.next_cursor)


def snapshot_at(plan_id: UUID, version: int, caller: Caller) -> dict[str, Any]:
    """Return a plan's state at a node, without what people wrote. Raises PlanNotFound, UnknownSnapshot."""
    session_id = _session_of_plan(plan_id, caller)
    row = SnapshotRow.objects.filter(session_id=session_id, plan_id=plan_id, version=version).first()
    if row is None:
        raise UnknownSnapshot(f"The plan {plan_id} has no node at version {version}.", field="version")
    return {**_snapshot_entry(row), "state": row.snapshot_json}


def newest_runs(caller: Caller, *, limit: int = DEFAULT_LIMIT) -> list[dict[str, Any]]:
    """Return the newest attempts in the caller's workspace that they may read, newest first."""
    readable: dict[UUID, bool] = {}
    found: list[dict[str, Any]] = []
    rows = RunRow.objects.filter(workspace_id=caller.workspace_id).order_by("-created_at", "-id")
    for row in rows.iterator(chunk_size=limit):
        if row.session_id not in readable:
            readable[row.session_id] = may_read(caller, row.session_id)
        if readable[row.session_id]:
            found.append(_run_entry(row))
        if len(found) == limit:
            break
    return found


def run(run_id: UUID, caller: Caller) -> RunView:
    """Return an attempt with its acts in order. Raises RunNotFound."""
    recorded = load(run_id)
    started = recorded[0].event if recorded else None
    if not isinstance(started, RunStarted) or not _readable(recorded[0], caller):
        raise RunNotFound(f"There is no run {run_id}.", field="run_id")
    of_plan = plans.fold(each.event for each in load(started.plan_id))
    whole = started.task_id == of_plan.root_task_id
    readable = of_plan.status == "complete" and (whole or _reads_parts(caller))
    return run_view(recorded, readable=readable)


def shapes(session_id: UUID, plan_ids: Collection[UUID]) -> dict[UUID, dict[str, int]]:
    """Return how many tasks and agents each of a session's plans has, for plans of several tasks."""
    rows = TaskRow.objects.filter(session_id=session_id, plan_id__in=list(plan_ids)).exclude(kind="goal")
    counted = rows.values("plan_id").annotate(
        tasks=Count("id"), agents=Count("agent_assigned", distinct=True)
    )
    return {
        each["plan_id"]: {"tasks": each["tasks"], "agents": each["agents"]}
        for each in counted
        if each["tasks"] > 1
    }


def headline(text: str) -> str:
    """Return the beginning of a text as one line in which nothing hides or reorders."""
    # A long text is cut before it is looked through: what hides in it grows when it is made visible.
    line = shown(" ".join(text[: 4 * HEADLINE_LENGTH].split()))
    return line if len(line) <= HEADLINE_LENGTH else line[: HEADLINE_LENGTH - 1].rstrip() + "…"


def is_task(workspace_id: UUID, task_id: UUID) -> bool:
    """Tell whether a workspace has a task of that id, as far as the read model has followed the log."""
    return TaskRow.objects.filter(id=task_id, workspace_id=workspace_id).exists()


def _reads_parts(caller: Caller) -> bool:
    """Tell whether somebody may read what single parts of an answer said: nobody decided to show that."""
    return not caller.roles.isdisjoint({"auditor", "admin"})


def _plan_events(plan_id: UUID, caller: Caller) -> list[RecordedEvent]:
    recorded = load(plan_id)
    if not recorded or not isinstance(recorded[0].event, PlanProposed) or not _readable(recorded[0], caller):
        raise PlanNotFound(f"There is no plan {plan_id}.", field="plan_id")
    return recorded


def _session_of_plan(plan_id: UUID, caller: Caller) -> UUID:
    first = load(plan_id, up_to_version=1)
    if not first or not isinstance(first[0].event, PlanProposed) or not _readable(first[0], caller):
        raise PlanNotFound(f"There is no plan {plan_id}.", field="plan_id")
    return in_session(first[0])


def _readable(recorded: RecordedEvent, caller: Caller) -> bool:
    return (
        recorded.workspace_id == caller.workspace_id
        and recorded.session_id is not None
        and may_read(caller, recorded.session_id)
    )


def _require_session(session_id: UUID, caller: Caller) -> None:
    if not may_read(caller, session_id):
        raise SessionNotVisible("No session with this id exists.", field="session_id")


def _summaries(session_id: UUID, rows: Sequence[PlanRow]) -> list[dict[str, Any]]:
    """Return entries of plans: two queries for all of them together."""
    plan_ids = [row.id for row in rows]
    tasks: defaultdict[UUID, Counter[str]] = defaultdict(Counter)
    agents: defaultdict[UUID, set[str]] = defaultdict(set)
    counted = TaskRow.objects.filter(session_id=session_id, plan_id__in=plan_ids).exclude(kind="goal")
    for plan_id, agent, status, count in (
        counted.values_list("plan_id", "agent_assigned", "status").annotate(Count("id")).order_by()
    ):
        tasks[plan_id][status] += count
        agents[plan_id].add(agent)
    costs: defaultdict[UUID, dict[str, int]] = defaultdict(dict)
    for plan_id, currency, micros in _costs(session_id, plan_ids):
        costs[plan_id][currency] = micros
    return [
        {
            "id": row.id,
            "session_id": row.session_id,
            "message_id": row.message_id,
            "status": row.status,
            "goal": unseal_or_empty(row.key_id, row.goal) if row.key_id else "",
            "planner": row.planner,
            "version": row.version,
            "task_count": tasks[row.id].total(),
            "tasks_by_status": dict(tasks[row.id]),
            "agents": sorted(agents[row.id]),
            "estimated_tokens": row.estimated_cost_tokens,
            "actual_tokens": row.actual_cost_tokens,
            "costs": costs[row.id],
            "refusal": row.refusal,
            "created_at": row.created_at,
            "ended_at": row.completed_at,
        }
        for row in rows
    ]


def _costs(session_id: UUID, plan_ids: Sequence[UUID]) -> "QuerySet[RunRow, tuple[UUID, str, int]]":
    rows = RunRow.objects.filter(session_id=session_id, plan_id__in=plan_ids, cost_micros__gt=0)
    return rows.order_by().values_list("plan_id", "currency").annotate(micros=Sum("cost_micros"))


def _edge_entry(row: TaskEdgeRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "plan_id": row.plan_id,
        "from_task": row.from_task,
        "to_task": row.to_task,
        "relation": row.relation_type,
        "weight": float(row.weight),
        "created_at": row.created_at,
    }


def _snapshot_entry(row: SnapshotRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "plan_id": row.plan_id,
        "session_id": row.session_id,
        "version": row.version,
        "node_name": row.node_name,
        "task_id": row.task_id,
        "agent_state": row.agent_state,
        "cost_summary": row.cost_summary,
        "performance_metrics": row.performance_metrics,
        "created_at": row.created_at,
    }


def _run_entry(row: RunRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "plan_id": row.plan_id,
        "task_id": row.task_id,
        "session_id": row.session_id,
        "attempt": row.attempt,
        "agent": row.agent,
        "status": row.status,
        "code": row.error_code,
        "steps": row.steps,
        "model": row.model,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "cost_micros": row.cost_micros,
        "currency": row.currency,
        "created_at": row.created_at,
        "finished_at": row.finished_at,
    }
