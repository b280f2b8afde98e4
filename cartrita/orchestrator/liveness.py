"""Which sessions are at work, and which need somebody to work on them."""

from collections.abc import Collection, Mapping
from datetime import datetime
from uuid import UUID

from governance.queries.approvals import waiting_sessions
from sessions_app.queries import sessions_with_open_turns, which_have_open_turns
from tasks_app.models import PlanRow
from tasks_app.plan import FINAL_PLAN_STATUSES


def running_plans(session_ids: Collection[UUID], now: datetime) -> Mapping[UUID, datetime]:
    """Return `now` for each of these sessions with a plan that has no end, as far as the log was followed."""
    unfinished = PlanRow.objects.filter(session_id__in=session_ids).exclude(status__in=FINAL_PLAN_STATUSES)
    return dict.fromkeys(unfinished.values_list("session_id", flat=True), now)


def waiting_approvals(session_ids: Collection[UUID], now: datetime) -> Mapping[UUID, datetime]:
    """Return `now` for each of these sessions in which something waits for people."""
    return dict.fromkeys(waiting_sessions(session_ids), now)


def sessions_at_work(session_ids: Collection[UUID]) -> frozenset[UUID]:
    """Return those of these sessions whose acts somebody goes on with, now or after people have decided."""
    return which_have_open_turns(session_ids)


def sessions_to_work_on(*, halted: Collection[UUID] = ()) -> list[UUID]:
    """Return the sessions with an open turn, without those that are known to wait for people: one query.

    What waits for an approval is not left out by itself: other tasks of its plan may be able to go on.
    """
    return sessions_with_open_turns(halted=halted)
