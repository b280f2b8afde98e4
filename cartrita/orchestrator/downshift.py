"""When a cheaper model is taken: a budget is nearly used, or would not hold the call."""

from uuid import UUID

from governance.decide import DecisionRequest
from governance.queries.budgets import standings


def too_costly(request: DecisionRequest, *, user_id: UUID) -> bool:
    """Tell whether a budget of a model call is near its end, or leaves less than the call may cost."""
    cost = request.cost
    found = standings(
        workspace_id=request.workspace_id,
        user_id=user_id,
        session_id=request.session_id,
        task_ids=request.task_path,
        agent=request.agent,
        model=request.model,
        at=request.at,
    )
    return any(
        one.warning
        or (one.left_tokens is not None and one.left_tokens < cost.tokens)
        or (one.left_micros is not None and one.currency == cost.currency and one.left_micros < cost.micros)
        for one in found
    )
