"""The read models of plans, tasks, edges, runs, bills, snapshots and tools, as functions of the log."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
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
    written = _PlanTables()
    for recorded in batch:
        written.take(recorded)
    written.save()


class _PlanTables:
    """What a batch of events makes of plans and their tasks: each row is written once."""

    def __init__(self) -> None:
        self._plans: dict[UUID, PlanRow] = {}
        self._tasks: dict[UUID, TaskRow] = {}
        self._edges: list[TaskEdgeRow] = []
        # The columns to change of rows that stood before the batch.
        self._of_plans: dict[UUID, dict[str, Any]] = {}
        self._of_tasks: dict[UUID, dict[str, Any]] = {}
        # By plan, what tells which of its tasks wait for others.
        self._outlines: dict[UUID, _Outline] = {}
        # Plans in which that is to be told again.
        self._moved: set[UUID] = set()

    def take(self, recorded: RecordedEvent) -> None:
        """Go on from the next event."""
        plan_id, at = recorded.stream_id, recorded.recorded_at
        match recorded.event:
            case PlanProposed() as event:
                self._plans[plan_id] = PlanRow(
                    id=plan_id,
                    workspace_id=recorded.workspace_id,
                    session_id=_session_of(recorded),
                    message_id=event.message_id,
                    root_task_id=event.root_task_id,
                    key_id=recorded.key_id,
                    goal=recorded.sealed["goal"],
                    planner=event.planner,
                    status="proposed",
                    estimated_cost_tokens=event.estimated_tokens,
                    created_at=at,
                )
                self._outlines[plan_id] = _Outline({}, [])
            case TaskAdded() as event:
                row = TaskRow(
                    id=event.task_id,
                    workspace_id=recorded.workspace_id,
                    session_id=_session_of(recorded),
                    plan_id=plan_id,
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
                self._outline(plan_id).tasks[row.id] = _Place(row.parent_id, row.kind, row.status)
                self._tasks[row.id] = row
                if event.parent_id is not None:
                    self._moved.add(plan_id)
            case EdgeAdded() as event:
                edge = TaskEdgeRow(
                    id=recorded.event_id,
                    workspace_id=recorded.workspace_id,
                    session_id=_session_of(recorded),
                    plan_id=plan_id,
                    from_task=event.from_task,
                    to_task=event.to_task,
                    relation_type=event.relation,
                    weight=Decimal(event.weight) / 100,
                    created_at=at,
                )
                self._outline(plan_id).edges.append(Edge(event.from_task, event.to_task, event.relation))
                self._edges.append(edge)
                self._moved.add(plan_id)
            case PlanBilled() as event:
                self._bill(plan_id, event)
            case PlanHeldBack():
                self._set_plan(plan_id, status="waiting")
            case PlanAccepted():
                self._set_plan(plan_id, status="accepted")
            case PlanRefused() as event:
                self._set_plan(plan_id, status="refused", refusal=event.reason, completed_at=at)
            case TaskStarted() as event:
                self._begin(
                    plan_id,
                    event.task_id,
                    status="running",
                    retry_count=event.attempt - 1,
                    not_before=None,
                    error_message=None,
                    updated_at=at,
                )
            case TaskRetried() as event:
                self._begin(
                    plan_id,
                    event.task_id,
                    tokens=event.tokens,
                    status="pending",
                    retry_count=event.attempt,
                    not_before=event.not_before,
                    error_message=event.code,
                    updated_at=at,
                )
            case TaskCompleted() as event:
                self._end(plan_id, event.task_id, at, tokens=event.tokens, status="complete")
            case TaskPruned() as event:
                self._end(
                    plan_id, event.task_id, at, status="pruned", error_message=event.reason, not_before=None
                )
            case TaskFailed() | TaskAborted() as event:
                self._end(
                    plan_id,
                    event.task_id,
                    at,
                    tokens=event.tokens,
                    status="failed" if isinstance(event, TaskFailed) else "aborted",
                    error_message=event.reason,
                    not_before=None,
                )
            case PlanCompleted() as event:
                self._set_plan(plan_id, status=event.status, actual_cost_tokens=event.tokens, completed_at=at)
        self._set_plan(plan_id, version=recorded.version)

    def save(self) -> None:
        """Write what the batch changed."""
        for plan_id in self._moved:
            self._tell_blocked(plan_id)
        PlanRow.objects.bulk_create(self._plans.values())
        TaskRow.objects.bulk_create(self._tasks.values())
        TaskEdgeRow.objects.bulk_create(self._edges)
        for task_id, columns in self._of_tasks.items():
            TaskRow.objects.filter(id=task_id).update(**columns)
        for plan_id, columns in self._of_plans.items():
            PlanRow.objects.filter(id=plan_id).update(**columns)

    def _begin(self, plan_id: UUID, task_id: UUID, **columns: Any) -> None:
        """Set a task that is tried; which others wait stays as it was before."""
        if plan_id in self._moved:
            self._moved.discard(plan_id)
            self._tell_blocked(plan_id)
        self._set_task(plan_id, task_id, **columns)

    def _end(self, plan_id: UUID, task_id: UUID, at: datetime, **columns: Any) -> None:
        self._set_task(plan_id, task_id, updated_at=at, completed_at=at, **columns)
        self._moved.add(plan_id)

    def _set_plan(self, plan_id: UUID, **columns: Any) -> None:
        if (row := self._plans.get(plan_id)) is None:
            self._of_plans.setdefault(plan_id, {}).update(columns)
        else:
            for name, value in columns.items():
                setattr(row, name, value)

    def _set_task(self, plan_id: UUID, task_id: UUID, *, tokens: int = 0, **columns: Any) -> None:
        if (row := self._tasks.get(task_id)) is None:
            changed = self._of_tasks.setdefault(task_id, {})
            changed.update(columns)
            if tokens:
                used = changed.get("actual_cost_tokens", F("actual_cost_tokens"))
                changed["actual_cost_tokens"] = used + tokens
        else:
            row.actual_cost_tokens += tokens
            for name, value in columns.items():
                setattr(row, name, value)
        # Of a plan whose outline was not read yet it is read with these changes.
        if (outline := self._outlines.get(plan_id)) is not None and task_id in outline.tasks:
            outline.tasks[task_id] = replace(outline.tasks[task_id], status=columns["status"])

    def _bill(self, plan_id: UUID, event: PlanBilled) -> None:
        """Keep the first bill of a plan."""
        row = self._plans.get(plan_id)
        if row is None:
            PlanRow.objects.filter(id=plan_id, estimated_tokens_p90__isnull=True).update(**_bill(event))
        elif row.estimated_tokens_p90 is None:
            self._set_plan(plan_id, **_bill(event))

    def _outline(self, plan_id: UUID) -> "_Outline":
        if (known := self._outlines.get(plan_id)) is not None:
            return known
        rows = TaskRow.objects.filter(plan_id=plan_id).values_list("id", "parent_id", "kind", "status")
        tasks = {task_id: _Place(parent_id, kind, status) for task_id, parent_id, kind, status in rows}
        for task_id, columns in self._of_tasks.items():
            if task_id in tasks and "status" in columns:
                tasks[task_id] = replace(tasks[task_id], status=columns["status"])
        edges = []
        if len(tasks) > 1:
            found = TaskEdgeRow.objects.filter(plan_id=plan_id)
            edges = [
                Edge(from_task, to_task, cast(Relation, relation))
                for from_task, to_task, relation in found.values_list("from_task", "to_task", "relation_type")
            ]
        outline = self._outlines[plan_id] = _Outline(tasks, edges)
        return outline

    def _tell_blocked(self, plan_id: UUID) -> None:
        """Keep apart which of a plan's tasks that have not begun wait for others, and which could start."""
        outline = self._outline(plan_id)
        if len(outline.tasks) == 1:
            return
        tasks = {task_id: _task(task_id, place) for task_id, place in outline.tasks.items()}
        graph = Graph(tasks, outline.edges)
        for task_id, place in list(outline.tasks.items()):
            if place.status in {"pending", "blocked"} and place.kind != "goal":
                status = "blocked" if graph.blockers(tasks[task_id]) else "pending"
                if status != place.status:
                    self._set_task(plan_id, task_id, status=status)


@dataclass(frozen=True, slots=True)
class _Place:
    """What a task's row tells of its place in the plan."""

    parent_id: UUID | None
    kind: str
    status: str


@dataclass(frozen=True, slots=True)
class _Outline:
    """The tasks and edges of a plan."""

    tasks: dict[UUID, _Place]
    edges: list[Edge]


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


def _task(task_id: UUID, place: _Place) -> Task:
    """Return a task with what tells whether it waits for others, and whether others wait for it."""
    return Task(
        task_id=task_id,
        parent_id=place.parent_id,
        intent="",
        spec={},
        agent="",
        priority=0,
        cost_budget_tokens=0,
        estimated_tokens=0,
        status=cast(TaskStatus, place.status),
        kind=cast(TaskKind, place.kind),
    )


@following("runs", RunStarted, ActDecided, RunFinished, tables=[RunRow])
def project_runs(batch: Sequence[RecordedEvent]) -> None:
    """Keep `runs` as the runs' streams tell them: each row is written once a batch."""
    begun: dict[UUID, RunRow] = {}
    changed: dict[UUID, dict[str, Any]] = {}
    for recorded in batch:
        match recorded.event:
            case RunStarted() as event:
                begun[recorded.stream_id] = RunRow(
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
                changed.setdefault(recorded.stream_id, {}).update(steps=event.step, status=status)
            case RunFinished() as event:
                changed.setdefault(recorded.stream_id, {}).update(
                    status=event.status,
                    model=event.model,
                    prompt_tokens=event.prompt_tokens,
                    completion_tokens=event.completion_tokens,
                    cost_micros=event.cost_micros,
                    currency=event.currency,
                    error_code=event.code,
                    finished_at=recorded.recorded_at,
                )
    for run_id, columns in changed.items():
        if (row := begun.get(run_id)) is None:
            RunRow.objects.filter(id=run_id).update(**columns)
        else:
            for name, value in columns.items():
                setattr(row, name, value)
    RunRow.objects.bulk_create(begun.values())


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
