"""Commands on acts that were allowed."""

from collections import defaultdict
from collections.abc import Callable, Collection
from datetime import datetime
from uuid import UUID

from cartrita.eventstore import Context
from governance.decision import ActOutcome
from governance.models import PolicyDecision
from governance.step import UNDER_WAY_FOR, Settlement, take_step

# A session whose acts were lost had a handful under way; these are so many sessions at most.
SETTLED_AT_ONCE = 500


def settle_of_session(*, session_id: UUID, workspace_id: UUID, actor: str) -> int:
    """Settle what is under way in an erased session, in the caller's transaction; return how many acts.

    Nobody goes on with its runs, and what they hold back of budgets would be held back for ever. How an act
    ends is not known: what it may have cost is booked.
    """
    rows = PolicyDecision.objects.filter(
        session_id=session_id, workspace_id=workspace_id, decision__in=("allow", "audit"), act_outcome=""
    )
    settlements = [
        Settlement(decision_id=decision_id, outcome="cancelled" if kind == "plan" else "unknown")
        for decision_id, kind in rows.order_by("id").values_list("id", "subject_kind")
    ]
    if settlements:
        context = Context(workspace_id=workspace_id, session_id=session_id, actor=actor)
        take_step(context=context, settlements=settlements)
    return len(settlements)


def settle_lost(*, now: datetime, at_work: Callable[[Collection[UUID]], Collection[UUID]]) -> int:
    """Settle acts that began an hour ago, hold back budget, and that nobody goes on with; return how many.

    `at_work` tells which of the given sessions somebody goes on with: their acts are left to them. How a lost
    act ended is not known, so what it may have cost is booked, in the period in which it was held back.
    """
    rows = (
        PolicyDecision.objects.filter(
            decision__in=("allow", "audit"), act_outcome="", created_at__lt=now - UNDER_WAY_FOR
        )
        .exclude(reserved=[])
        .order_by("created_at", "id")
    )
    lost: dict[tuple[UUID, UUID | None], list[Settlement]] = defaultdict(list)
    asked = rows.values_list("workspace_id", "session_id", "id", "subject_kind")
    for workspace_id, session_id, decision_id, kind in asked[:SETTLED_AT_ONCE]:
        outcome: ActOutcome = "cancelled" if kind == "plan" else "unknown"
        lost[workspace_id, session_id].append(Settlement(decision_id=decision_id, outcome=outcome))
    busy = set(at_work([session_id for _, session_id in lost if session_id is not None]))
    settled = 0
    for (workspace_id, session_id), settlements in lost.items():
        if session_id not in busy:
            context = Context(workspace_id=workspace_id, session_id=session_id, actor="system")
            take_step(context=context, settlements=settlements)
            settled += len(settlements)
    return settled
