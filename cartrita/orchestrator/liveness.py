"""Which sessions have a plan at work; a plan that waits for an approval counts too."""

from collections.abc import Collection, Mapping
from datetime import datetime
from uuid import UUID

from tasks_app.models import PlanRow
from tasks_app.plan import FINAL_PLAN_STATUSES


def running_plans(session_ids: Collection[UUID], now: datetime) -> Mapping[UUID, datetime]:
    """Return `now` for each of these sessions with a plan that has no end, as far as the log was followed."""
    unfinished = PlanRow.objects.filter(session_id__in=session_ids).exclude(status__in=FINAL_PLAN_STATUSES)
    return dict.fromkeys(unfinished.values_list("session_id", flat=True), now)
