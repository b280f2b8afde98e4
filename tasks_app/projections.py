"""The read models of plans, tasks and runs, as functions of the log."""

from collections.abc import Sequence
from uuid import UUID

from django.db.models import F

from cartrita.eventstore import RecordedEvent
from cartrita.eventstore.projections import following
from tasks_app.models import PlanRow, RunRow, TaskRow
from tasks_app.plan import (
    PlanAccepted,
    PlanCompleted,
    PlanHeldBack,
    PlanProposed,
    PlanRefused,
    TaskAborted,
    TaskAdded,
    TaskCompleted,
    TaskFailed,
    TaskStarted,
)
from tasks_app.run import ActDecided, RunFinished, RunStarted


@following(
    "plans",
    PlanProposed,
    PlanHeldBack,
    PlanAccepted,
    PlanRefused,
    TaskAdded,
    TaskStarted,
    TaskCompleted,
    TaskFailed,
    TaskAborted,
    PlanCompleted,
    tables=[PlanRow, TaskRow],
)
def project_plans(batch: Sequence[RecordedEvent]) -> None:
    """Keep `plans` and `tasks` as the plans' streams tell them."""
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
                created_at=at,
                updated_at=at,
            )
        case PlanHeldBack():
            plan.update(status="waiting")
        case PlanAccepted():
            plan.update(status="accepted")
        case PlanRefused() as event:
            plan.update(status="refused", refusal=event.reason, completed_at=at)
        case TaskStarted() as event:
            TaskRow.objects.filter(id=event.task_id).update(
                status="running", retry_count=event.attempt - 1, updated_at=at
            )
        case TaskCompleted() as event:
            TaskRow.objects.filter(id=event.task_id).update(
                status="complete",
                actual_cost_tokens=F("actual_cost_tokens") + event.tokens,
                updated_at=at,
                completed_at=at,
            )
        case TaskFailed() | TaskAborted() as event:
            TaskRow.objects.filter(id=event.task_id).update(
                status="failed" if isinstance(event, TaskFailed) else "aborted",
                actual_cost_tokens=F("actual_cost_tokens") + event.tokens,
                error_message=event.reason,
                updated_at=at,
                completed_at=at,
            )
        case PlanCompleted() as event:
            plan.update(status=event.status, actual_cost_tokens=event.tokens, completed_at=at)
    plan.update(version=recorded.version)


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


def _session_of(recorded: RecordedEvent) -> UUID:
    if recorded.session_id is None:
        raise AssertionError(f"{recorded.type_name} {recorded.event_id} belongs to no session")
    return recorded.session_id
