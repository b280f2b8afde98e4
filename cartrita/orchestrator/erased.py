"""What was under way in a session ends with it, so that no row says for ever that somebody works on it."""

import logging
import random
from datetime import UTC, datetime
from uuid import UUID

from django.db import transaction

from cartrita.eventstore import Append, Context, Event, StreamMoved, append, load
from tasks_app import plan as plans
from tasks_app.models import PlanRow, RunRow
from tasks_app.plan import FINAL_PLAN_STATUSES, Plan, TaskAborted
from tasks_app.run import RunFinished
from tasks_app.schedule import consequences

logger = logging.getLogger(__name__)

REASON = "The session was erased."
# Whoever works on it may record just then; it finds the session erased soon.
TRIES = 5


def end_work_of_session(*, session_id: UUID, workspace_id: UUID, actor: str) -> int:
    """End the plans and runs of a session that is being erased, in the caller's transaction; how many.

    While its key still stands: what a run ends with is sealed, though it is empty.
    """
    ended = 0
    open_plans = PlanRow.objects.filter(session_id=session_id).exclude(status__in=FINAL_PLAN_STATUSES)
    for plan_id, key_id in open_plans.order_by("id").values_list("id", "key_id"):
        context = Context(workspace_id=workspace_id, session_id=session_id, actor=actor, key_id=key_id)
        ended += _end(plan_id, context, is_plan=True)
        runs = RunRow.objects.filter(plan_id=plan_id, status__in=("running", "waiting"))
        for run_id in runs.order_by("id").values_list("id", flat=True):
            ended += _end(run_id, context, is_plan=False)
    return ended


def _end(stream_id: UUID, context: Context, *, is_plan: bool) -> int:
    for _ in range(TRIES):
        recorded = load(stream_id)
        said = [one.event for one in recorded]
        events = _end_of_plan(plans.fold(said)) if is_plan else _end_of_run(said)
        if not events:
            return 0
        try:
            with transaction.atomic():
                append(Append(stream_id, len(recorded), events, context))
        except StreamMoved:
            continue
        return 1
    logger.warning(
        "%s of an erased session goes on being written, and is left to whoever writes it", stream_id
    )
    return 0


def _end_of_plan(plan: Plan) -> list[Event]:
    """Return the end of every task that has none, the whole last."""
    events: list[Event] = []
    running = [task.task_id for task in plan.tasks.values() if task.status == "running"]
    for task_id in [*running, *([plan.root_task_id] if plan.root_task_id is not None else [])]:
        after = plans.extend(plan, events)
        if not after.ended and not after.tasks[task_id].ended:
            stop = TaskAborted(task_id=task_id, reason=REASON)
            events += consequences(after, stop, now=datetime.now(UTC), jitter=random.random(), retries=None)
    return events


def _end_of_run(said: list[Event]) -> list[Event]:
    if any(isinstance(event, RunFinished) for event in said):
        return []
    return [RunFinished(status="stopped", answer="", citations=[], model="", supported=None, code="erased")]
