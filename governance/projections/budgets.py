"""The read model of budgets, as a function of each budget's stream."""

from cartrita.eventstore import RecordedEvent, inline
from governance.budget import BudgetClosed, BudgetRaised, BudgetSet
from governance.models import Budget


@inline(BudgetSet, BudgetRaised, BudgetClosed, tables=[Budget])
def project_budgets(recorded: RecordedEvent) -> None:
    """Show the terms of each budget."""
    common = {"version": recorded.version, "updated_at": recorded.recorded_at}
    row = Budget.objects.filter(id=recorded.stream_id)
    match recorded.event:
        case BudgetSet() as event:
            terms = {
                "name": event.name,
                "scope_kind": event.scope_kind,
                "scope": event.scope,
                "parent_id": event.parent_id,
                "period": event.period,
                "time_zone": event.time_zone,
                "limit_tokens": event.limit_tokens,
                "limit_micros": event.limit_micros,
                "currency": event.currency,
                "warn_percent": event.warn_percent,
                "closed": False,
                **common,
            }
            if not row.update(**terms):
                Budget.objects.create(id=recorded.stream_id, workspace_id=recorded.workspace_id, **terms)
        case BudgetRaised() as event:
            row.update(limit_tokens=event.limit_tokens, limit_micros=event.limit_micros, **common)
        case BudgetClosed():
            row.update(closed=True, **common)
        case _:
            pass
