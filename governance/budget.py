"""A budget: how many tokens and how much money a scope may use. Pure: events, their fold, what may follow.

The stream is `budget_id(...)`. What is reserved and used stands in balances, which steps lock and change.
"""

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import Field

from cartrita.eventstore.ids import derived_id
from cartrita.eventstore.types import Event

ScopeKind = Literal["workspace", "user", "session", "task", "agent", "model"]
Period = Literal["total", "day", "week", "month"]


class BudgetSet(Event):
    """A budget began, or its terms were written anew. None: no limit of that sort.

    `scope` names what the budget is for: an id, or an agent's or model's name; the workspace's id for the
    workspace. `parent_id` is the budget that this one is a part of. Money is in micro-units of `currency`;
    periods begin at midnight in `time_zone` (weeks on Monday).
    """

    type_name: ClassVar[str] = "governance.BudgetSet"

    name: str
    scope_kind: ScopeKind
    scope: str
    parent_id: UUID | None
    period: Period
    time_zone: str
    limit_tokens: int | None = Field(ge=0)
    limit_micros: int | None = Field(ge=0)
    currency: str
    warn_percent: int = Field(ge=1, le=100)


class BudgetRaised(Event):
    """Somebody gave more. The new limits replace the old ones; `reason` is no personal text."""

    type_name: ClassVar[str] = "governance.BudgetRaised"

    limit_tokens: int | None = Field(ge=0)
    limit_micros: int | None = Field(ge=0)
    by: str
    reason: str


class BudgetClosed(Event):
    """The budget limits nothing any more."""

    type_name: ClassVar[str] = "governance.BudgetClosed"

    by: str


def budget_id(workspace_id: UUID, scope_kind: ScopeKind, scope: str, period: Period) -> UUID:
    """Return the stream of the one budget of a scope and period."""
    return derived_id(workspace_id, f"budget:{scope_kind}:{scope}:{period}")
