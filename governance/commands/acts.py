"""Commands on acts that were allowed."""

from uuid import UUID

from cartrita.eventstore import Context
from governance.models import PolicyDecision
from governance.step import Settlement, take_step


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
