"""The read models of plans, tasks, edges, runs, bills, snapshots and tools, as functions of the log."""

from collections.abc import Sequence
from datetime import UTC
from decimal import Decimal
from typing import cast
from uuid import UUID

from django.db.models import F

from cartrita.eventstore import RecordedEvent, derived_id, load
from cartrita.eventstore.projections import following
from cartrita.tools.events import ToolFailed, ToolReturned
from tasks_app.models import BillLineRow, PlanRow, RunRow, SnapshotRow, TaskEdgeRow, TaskRow, ToolDayRow
from tasks_app.plan import (
    Edge,
    EdgeAdded,
    GrowthRefused,
    PlanAccepted,
    PlanBilled,
    PlanCompleted,
    PlanCriticised,
    PlanHeldBack,
    PlanProposed,
    PlanRefused,
    PlanRevised,
    Relation,
    Task,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskKind,
    TaskPruned,
    TaskRetried,
    TaskStarted,
    TaskStatus,
)
from tasks_app.relations import Graph
from tasks_app.run import ActDecided, RunFinished, RunStarted
from tasks_app.snapshots import Node, nodes, outline

# Everything that the stream of a plan holds.
_OF_A_PLAN = (
    PlanProposed,
    PlanBilled,
    PlanHeldBack,
    PlanAccepted,
    PlanRefused,
    TaskAdded,
    EdgeAdded,
    TaskStarted,
    TaskRetried,
    TaskCompleted,
    TaskFailed,
    TaskAborted,
    TaskPruned,
    PlanCriticised,
    PlanRevised,
    GrowthRefused,
    PlanCompleted,
)


@following("plans", *_OF_A_PLAN, tables=[PlanRow, TaskRow, TaskEdgeRow])
def project_plans(batch: Sequence[RecordedEvent]) -> None:
    """Keep `plans`, `tasks` and `task_edges` as the plans' streams tell them."""
    for recorded in batch:
        _project_plan_event(recorded)


def _project_plan_event(recorded: RecordedEvent) -> None:
    plan = PlanRow.objects.filter(id=recorded.stream_id)
    at = recorded.recorded_at
    match recorded.event:
        case PlanProposed() as event:
            PlanRow.objects.create(
                id=recorded.stream_id,
                workspace_id=recorded.workspace_id,
                session_id=_session_of(recorded),
                message_id=event.message_id,
                root_task_id=event.root_task_id,
                key_id=recorded.key_id,
                goal=recorded.sealed["goal"],
                planner=event.planner,
                status="proposed",
                estimated_cost_tokens=event.estimated_tokens,
                version=recorded.version,
                created_at=at,
            )
        case TaskAdded() as event:
            TaskRow.objects.create(
                id=event.task_id,
                workspace_id=recorded.workspace_id,
                session_id=_session_of(recorded),
                plan_id=recorded.stream_id,
                parent_id=event.parent_id,
                key_id=recorded.key_id,
                intent=recorded.sealed["intent"],
                spec_json=recorded.sealed["spec"],
                cost_budget_tokens=event.cost_budget_tokens,
                priority=event.priority,
                status="pending",
                estimated_cost_tokens=event.estimated_tokens,
                agent_assigned=event.agent,
                kind=event.kind,
                created_at=at,
                updated_at=at,
            )
            if event.parent_id is not None:
                _project_blocked(recorded.stream_id)
        case EdgeAdded() as event:
            TaskEdgeRow.objects.create(
                id=recorded.event_id,
                workspace_id=recorded.workspace_id,
                session_id=_session_of(recorded),
                plan_id=recorded.stream_id,
                from_task=event.from_task,
                to_task=event.to_task,
                relation_type=event.relation,
                weight=Decimal(event.weight) / 100,
                created_at=at,
            )
            _project_blocked(recorded.stream_id)
        case PlanBilled() as event:
            plan.filter(estimated_tokens_p90__isnull=True).update(**_bill(event))
        case PlanHeldBack():
            plan.update(status="waiting")
        case PlanAccepted():
            plan.update(status="accepted")
        case PlanRefused() as event:
            plan.update(status="refused", refusal=event.reason, completed_at=at)
        case TaskStarted() as event:
            TaskRow.objects.filter(id=event.task_id).update(
                status="running",
                retry_count=event.attempt - 1,
                not_before=None,
                error_message=None,
                updated_at=at,
            )
        case TaskRetried() as event:
            TaskRow.objects.filter(id=event.task_id).update(
                status="pending",
                actual_cost_tokens=F("actual_cost_tokens") + event.tokens,
                retry_count=event.attempt,
                not_before=event.not_before,
                error_message=event.code,
                updated_at=at,
            )
        case TaskCompleted() as event:
            TaskRow.objects.filter(id=event.task_id).update(
                status="complete",
                actual_cost_tokens=F("actual_cost_tokens") + event.tokens,
                updated_at=at,
                completed_at=at,
            )
            _project_blocked(recorded.stream_id)
        case TaskPruned() as event:
            TaskRow.objects.filter(id=event.task_id).update(
                status="pruned",
                error_message=event.reason,
                not_before=None,
                updated_at=at,
                completed_at=at,
            )
            _project_blocked(recorded.stream_id)
        case TaskFailed() | TaskAborted() as event:
            TaskRow.objects.filter(id=event.task_id).update(
                status="failed" if isinstance(event, TaskFailed) else "aborted",
                actual_cost_tokens=F("actual_cost_tokens") + event.tokens,
                error_message=event.reason,
                not_before=None,
                updated_at=at,
                completed_at=at,
            )
            _project_blocked(recorded.stream_id)
        case PlanCompleted() as event:
            plan.update(status=event.status, actual_cost_tokens=event.tokens, completed_at=at)
    plan.update(version=recorded.version)


def _bill(event: PlanBilled) -> dict[str, int | str | None]:
    """Return a bill's sums as columns of its plan; nothing that costs money costs none of the usual one."""
    money = event.costs[0] if len(event.costs) == 1 else None
    nothing = None if event.costs else 0
    return {
        "estimated_tokens_p10": event.tokens.p10,
        "estimated_tokens_p50": event.tokens.p50,
        "estimated_tokens_p90": event.tokens.p90,
        "estimated_micros_p10": money.p10 if money else nothing,
        "estimated_micros_p50": money.p50 if money else nothing,
        "estimated_micros_p90": money.p90 if money else nothing,
        "estimated_currency": money.currency if money else None,
        "billed_samples": min((line.samples for line in event.lines), default=0),
    }


def _project_blocked(plan_id: UUID) -> None:
    """Keep apart which of a plan's tasks that have not begun wait for others, and which could start."""
    rows = list(TaskRow.objects.filter(plan_id=plan_id).order_by("created_at", "id"))
    idle = [row for row in rows if row.status in {"pending", "blocked"} and row.kind != "goal"]
    if not idle or len(rows) == 1:
        return
    tasks = {row.id: _task(row) for row in rows}
    edges = TaskEdgeRow.objects.filter(plan_id=plan_id)
    graph = Graph(
        tasks, [Edge(edge.from_task, edge.to_task, cast(Relation, edge.relation_type)) for edge in edges]
    )
    for status in ("pending", "blocked"):
        changed = [
            row.id
            for row in idle
            if row.status != status and bool(graph.blockers(tasks[row.id])) == (status == "blocked")
        ]
        if changed:
            TaskRow.objects.filter(id__in=changed).update(status=status)


def _task(row: TaskRow) -> Task:
    """Return what a row tells of its task without opening what is sealed."""
    return Task(
        task_id=row.id,
        parent_id=row.parent_id,
        intent="",
        spec={},
        agent=row.agent_assigned,
        priority=row.priority,
        cost_budget_tokens=row.cost_budget_tokens,
        estimated_tokens=row.estimated_cost_tokens,
        status=cast(TaskStatus, row.status),
        kind=cast(TaskKind, row.kind),
    )


@following("runs", RunStarted, ActDecided, RunFinished, tables=[RunRow])
def project_runs(batch: Sequence[RecordedEvent]) -> None:
    """Keep `runs` as the runs' streams tell them."""
    for recorded in batch:
        match recorded.event:
            case RunStarted() as event:
                RunRow.objects.create(
                    id=recorded.stream_id,
                    workspace_id=recorded.workspace_id,
                    session_id=_session_of(recorded),
                    plan_id=event.plan_id,
                    task_id=event.task_id,
                    attempt=event.attempt,
                    agent=event.agent,
                    status="running",
                    created_at=recorded.recorded_at,
                )
            case ActDecided() as event:
                status = "waiting" if event.waits else "running"
                RunRow.objects.filter(id=recorded.stream_id).update(steps=event.step, status=status)
            case RunFinished() as event:
                RunRow.objects.filter(id=recorded.stream_id).update(
                    status=event.status,
                    model=event.model,
                    prompt_tokens=event.prompt_tokens,
                    completion_tokens=event.completion_tokens,
                    cost_micros=event.cost_micros,
                    currency=event.currency,
                    error_code=event.code,
                    finished_at=recorded.recorded_at,
                )


@following("bills", PlanBilled, tables=[BillLineRow])
def project_bills(batch: Sequence[RecordedEvent]) -> None:
    """Keep `plan_bill_lines`: of several bills of a task the first."""
    for recorded in batch:
        event = cast(PlanBilled, recorded.event)
        BillLineRow.objects.bulk_create(
            [
                BillLineRow(
                    id=line.task_id,
                    workspace_id=recorded.workspace_id,
                    session_id=_session_of(recorded),
                    plan_id=recorded.stream_id,
                    agent=line.agent,
                    tool=line.tool,
                    model=line.model,
                    samples=line.samples,
                    prompt_tokens=line.prompt_tokens,
                    output_tokens=line.output_tokens,
                    tokens_p10=line.tokens.p10,
                    tokens_p50=line.tokens.p50,
                    tokens_p90=line.tokens.p90,
                    micros_p10=line.cost.p10,
                    micros_p50=line.cost.p50,
                    micros_p90=line.cost.p90,
                    currency=line.cost.currency,
                    created_at=recorded.recorded_at,
                )
                for line in event.lines
            ],
            ignore_conflicts=True,
        )


@following("snapshots", *_OF_A_PLAN, tables=[SnapshotRow])
def project_snapshots(batch: Sequence[RecordedEvent]) -> None:
    """Keep `graph_snapshots`: a row for each node that a plan passes."""
    streams: dict[UUID, list[RecordedEvent]] = {}
    for recorded in batch:
        streams.setdefault(recorded.stream_id, []).append(recorded)
    rows = []
    for plan_id, events in streams.items():
        # What came before is read again, so that it does not matter where a batch begins.
        seen = events[0].version - 1
        before = load(plan_id, up_to_version=seen) if seen else []
        rows += [_snapshot(node, events[0]) for node in nodes([*before, *events]) if node.seen_at > seen]
    SnapshotRow.objects.bulk_create(rows)


def _snapshot(node: Node, of_plan: RecordedEvent) -> SnapshotRow:
    state = outline(node.plan)
    return SnapshotRow(
        id=derived_id(of_plan.stream_id, f"snapshot:{node.version}"),
        workspace_id=of_plan.workspace_id,
        session_id=_session_of(of_plan),
        plan_id=of_plan.stream_id,
        version=node.version,
        node_name=node.name,
        task_id=node.task_id,
        agent_state=state.pop("agent_state"),
        cost_summary=state.pop("cost_summary"),
        snapshot_json=state,
        performance_metrics=node.metrics,
        created_at=node.at,
    )


@following("tool_capabilities", ToolReturned, ToolFailed, tables=[ToolDayRow])
def project_tool_capabilities(batch: Sequence[RecordedEvent]) -> None:
    """Keep `tool_capability_days`. A call that was refused before it began says nothing of the tool."""
    calls: dict[UUID, list[RecordedEvent]] = {}
    for recorded in batch:
        event = cast(ToolReturned | ToolFailed, recorded.event)
        if event.definition_hash:
            day = recorded.recorded_at.astimezone(UTC).date()
            named = f"tool:{event.tool}:{event.definition_hash}:{day}"
            calls.setdefault(derived_id(recorded.workspace_id, named), []).append(recorded)
    # Written once a batch and day, or counting would cost as much as what is counted.
    rows = ToolDayRow.objects.in_bulk(calls)
    for row_id, made in calls.items():
        row = rows.setdefault(row_id, _tool_day(row_id, made[0]))
        for recorded in made:
            _count_call(row, recorded)
    ToolDayRow.objects.bulk_create(
        rows.values(), update_conflicts=True, unique_fields=["id"], update_fields=_COUNTED
    )


_COUNTED = (
    "calls", "returned", "failed", "cancelled", "latency_ms", "cost_tokens", "last_success", "last_failure",
    "last_updated",
)  # fmt: skip


def _tool_day(row_id: UUID, recorded: RecordedEvent) -> ToolDayRow:
    event = cast(ToolReturned | ToolFailed, recorded.event)
    return ToolDayRow(
        id=row_id,
        workspace_id=recorded.workspace_id,
        tool_name=event.tool,
        version=event.definition_hash,
        day=recorded.recorded_at.astimezone(UTC).date(),
        last_updated=recorded.recorded_at,
    )


def _count_call(row: ToolDayRow, recorded: RecordedEvent) -> None:
    event, at = cast(ToolReturned | ToolFailed, recorded.event), recorded.recorded_at
    row.calls += 1
    row.last_updated = at
    if isinstance(event, ToolReturned):
        row.returned += 1
        row.last_success = at
        row.latency_ms += event.latency_ms
        row.cost_tokens += event.cost_tokens
    elif event.code == "cancelled":
        row.cancelled += 1
    else:
        row.failed += 1
        row.last_failure = at
        row.latency_ms += event.latency_ms


def _session_of(recorded: RecordedEvent) -> UUID:
    if recorded.session_id is None:
        raise AssertionError(f"{recorded.type_name} {recorded.event_id} belongs to no session")
    return recorded.session_id
