"""Which sessions are at work, and which need somebody to work on them."""

from collections.abc import Collection, Mapping
from datetime import datetime
from uuid import UUID

from governance.models import Approval
from governance.queries.approvals import waiting_sessions
from sessions_app.queries import sessions_with_open_turns
from tasks_app.models import PlanRow
from tasks_app.plan import FINAL_PLAN_STATUSES


def running_plans(session_ids: Collection[UUID], now: datetime) -> Mapping[UUID, datetime]:
    """Return `now` for each of these sessions with a plan that has no end, as far as the log was followed."""
    unfinished = PlanRow.objects.filter(session_id__in=session_ids).exclude(status__in=FINAL_PLAN_STATUSES)
    return dict.fromkeys(unfinished.values_list("session_id", flat=True), now)


def waiting_approvals(session_ids: Collection[UUID], now: datetime) -> Mapping[UUID, datetime]:
    """Return `now` for each of these sessions in which something waits for people."""
    return dict.fromkeys(waiting_sessions(session_ids), now)


def sessions_to_work_on() -> list[UUID]:
    """Return the sessions with an open turn, without those whose turn waits for people: one query."""
    # Acts of turns have an agent; a document or a search that waits for people holds up no turn.
    halted = Approval.objects.filter(status="waiting", session_id__isnull=False).exclude(agent_name="")
    return sessions_with_open_turns(halted=halted.values("session_id"))
