"""What budgets allow, hold back and have used."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from django.db.models import Q

from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.accounts.permissions import RoleMissing
from cartrita.accounts.queries import Caller
from governance.budget import BudgetNotFound, period_bounds, used_percent
from governance.models import Budget, BudgetBalance

Applicable = tuple[Budget, datetime, datetime | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStanding:
    """A budget in its present period. Money is in micro-units of `currency`; None: no limit of that sort.

    `used_*` are settled, `reserved_*` held back for acts under way; what is left counts both. `percent` is
    the larger share of the two limits, `warning` tells that it has reached `warn_percent`.
    """

    id: UUID
    workspace_id: UUID
    version: int
    name: str
    scope_kind: str
    scope: str
    parent_id: UUID | None
    period: str
    time_zone: str
    period_start: datetime
    period_end: datetime | None
    limit_tokens: int | None
    used_tokens: int
    reserved_tokens: int
    left_tokens: int | None
    limit_micros: int | None
    used_micros: int
    reserved_micros: int
    left_micros: int | None
    currency: str
    percent: int
    warn_percent: int
    warning: bool
    closed: bool
    updated_at: datetime
    children: tuple["BudgetStanding", ...] = ()


def applicable(
    *,
    workspace_id: UUID,
    user_id: UUID | None = None,
    session_id: UUID | None = None,
    task_ids: Collection[UUID | str] = (),
    agent: str = "",
    model: str = "",
    at: datetime,
) -> list[Applicable]:
    """Return every open budget that an act counts against, ancestors included, in id order.

    Each with begin and end (None for a total) of its period at `at`.
    """
    concerned = Q(scope_kind="workspace", scope=str(workspace_id))
    for kind, names in (
        ("user", [user_id]),
        ("session", [session_id]),
        ("task", list(task_ids)),
        ("agent", [agent]),
        ("model", [model]),
    ):
        given = [str(name) for name in names if name]
        if given:
            concerned |= Q(scope_kind=kind, scope__in=given)
    found = {row.id: row for row in Budget.objects.filter(concerned, workspace_id=workspace_id, closed=False)}
    _add_ancestors(found, workspace_id)
    return [
        (row, *period_bounds(row.period, row.time_zone, at))  # type: ignore[arg-type] # checked when it was set
        for _, row in sorted(found.items())
        if not row.closed
    ]


def pressure(
    *,
    workspace_id: UUID,
    user_id: UUID | None = None,
    session_id: UUID | None = None,
    task_ids: Collection[UUID | str] = (),
    agent: str = "",
    model: str = "",
    at: datetime,
) -> int:
    """Return how many percent of the tightest applicable budget are used or held back; 0 without one."""
    tight = tightest(
        workspace_id=workspace_id,
        user_id=user_id,
        session_id=session_id,
        task_ids=task_ids,
        agent=agent,
        model=model,
        at=at,
    )
    return tight.percent if tight else 0


def tightest(
    *,
    workspace_id: UUID,
    user_id: UUID | None = None,
    session_id: UUID | None = None,
    task_ids: Collection[UUID | str] = (),
    agent: str = "",
    model: str = "",
    at: datetime,
) -> BudgetStanding | None:
    """Return the applicable budget of which the largest share is used or held back, warnings first."""
    found = standings(
        workspace_id=workspace_id,
        user_id=user_id,
        session_id=session_id,
        task_ids=task_ids,
        agent=agent,
        model=model,
        at=at,
    )
    return max(found, key=lambda one: (one.warning, one.percent, str(one.id)), default=None)


def standings(
    *,
    workspace_id: UUID,
    user_id: UUID | None = None,
    session_id: UUID | None = None,
    task_ids: Collection[UUID | str] = (),
    agent: str = "",
    model: str = "",
    at: datetime,
) -> list[BudgetStanding]:
    """Return every applicable budget with its balance, in id order."""
    return _standings(
        applicable(
            workspace_id=workspace_id,
            user_id=user_id,
            session_id=session_id,
            task_ids=task_ids,
            agent=agent,
            model=model,
            at=at,
        )
    )


def tree(workspace_id: UUID, at: datetime, *, closed: bool = False) -> list[BudgetStanding]:
    """Return a workspace's budgets as a tree, each with its balance in the period of `at`.

    A budget whose parent is closed stands at the top, unless the closed ones are shown too.
    """
    rows = Budget.objects.filter(workspace_id=workspace_id)
    if not closed:
        rows = rows.filter(closed=False)
    found = _standings(_with_periods(rows, at))
    known = {one.id for one in found}
    parts: dict[UUID | None, list[BudgetStanding]] = {}
    for one in found:
        parts.setdefault(one.parent_id if one.parent_id in known else None, []).append(one)

    def grown(parent: UUID | None) -> tuple[BudgetStanding, ...]:
        return tuple(_with_children(one, grown(one.id)) for one in parts.get(parent, ()))

    return list(grown(None))


def budget(budget_id: UUID, caller: Caller, *, at: datetime) -> BudgetStanding:
    """Return a budget of the caller's workspace with its balance. Raises BudgetNotFound, RoleMissing."""
    require_reader(caller)
    row = Budget.objects.filter(id=budget_id, workspace_id=caller.workspace_id).first()
    if row is None:
        raise BudgetNotFound("There is no such budget.", field="budget_id")
    return _standings(_with_periods([row], at))[0]


def require_reader(caller: Caller) -> None:
    """Raise RoleMissing unless the caller looks after the workspace."""
    if not caller.roles & CONSOLE_ROLES:
        raise RoleMissing(
            f"This needs one of the roles {', '.join(sorted(CONSOLE_ROLES))}.", roles=sorted(CONSOLE_ROLES)
        )


def _add_ancestors(found: dict[UUID, Budget], workspace_id: UUID) -> None:
    """Add parents, their parents and so on; a closed one limits nothing but what it is a part of does."""
    looked_up = set(found)
    while missing := {row.parent_id for row in found.values() if row.parent_id} - looked_up:
        looked_up |= missing
        found.update(
            {row.id: row for row in Budget.objects.filter(id__in=missing, workspace_id=workspace_id)}
        )


def _with_periods(rows: Iterable[Budget], at: datetime) -> list[Applicable]:
    return [
        (row, *period_bounds(row.period, row.time_zone, at))  # type: ignore[arg-type] # checked when it was set
        for row in rows
    ]


def _standings(found: Sequence[Applicable]) -> list[BudgetStanding]:
    if not found:
        return []
    balances = {
        (balance.budget_id, balance.period_start): balance
        for balance in BudgetBalance.objects.filter(
            budget_id__in=[row.id for row, _, _ in found], period_start__in={start for _, start, _ in found}
        )
    }
    return [_standing(row, start, end, balances.get((row.id, start))) for row, start, end in found]


def _standing(
    row: Budget, start: datetime, end: datetime | None, balance: BudgetBalance | None
) -> BudgetStanding:
    booked = balance or BudgetBalance()
    tokens = booked.used_tokens + booked.reserved_tokens
    micros = booked.used_micros + booked.reserved_micros
    percent = max(
        used_percent(limit=row.limit_tokens, used=tokens), used_percent(limit=row.limit_micros, used=micros)
    )
    return BudgetStanding(
        id=row.id,
        workspace_id=row.workspace_id,
        version=row.version,
        name=row.name,
        scope_kind=row.scope_kind,
        scope=row.scope,
        parent_id=row.parent_id,
        period=row.period,
        time_zone=row.time_zone,
        period_start=start,
        period_end=end,
        limit_tokens=row.limit_tokens,
        used_tokens=booked.used_tokens,
        reserved_tokens=booked.reserved_tokens,
        left_tokens=None if row.limit_tokens is None else row.limit_tokens - tokens,
        limit_micros=row.limit_micros,
        used_micros=booked.used_micros,
        reserved_micros=booked.reserved_micros,
        left_micros=None if row.limit_micros is None else row.limit_micros - micros,
        currency=row.currency,
        percent=percent,
        warn_percent=row.warn_percent,
        warning=percent >= row.warn_percent,
        closed=row.closed,
        updated_at=row.updated_at,
    )


def _with_children(one: BudgetStanding, children: tuple[BudgetStanding, ...]) -> BudgetStanding:

    return replace(one, children=children)
