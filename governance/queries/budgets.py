"""What budgets allow, hold back and have used."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from typing import LiteralString, NamedTuple
from uuid import UUID

from cartrita.accounts.console import CONSOLE_ROLES
from cartrita.accounts.models import User
from cartrita.accounts.permissions import RoleMissing
from cartrita.accounts.queries import Caller
from cartrita.accounts.team_queries import names_of_teams
from cartrita.eventstore import arrays
from cartrita.eventstore.store import execute
from governance.budget import BudgetNotFound, period_bounds, used_percent
from governance.models import Budget, BudgetBalance

Applicable = tuple[Budget, datetime, datetime | None]
# Its kind and its name.
Scope = tuple[str, str]
# Of less it is not said when it will be used up.
FEWEST_TAKEN = Fraction(1, 10)


class ApplicableBudget(NamedTuple):
    """A budget that an act counts against, in one period, without what is used of it."""

    id: UUID
    name: str
    scope_kind: str
    scope: str
    period_start: datetime
    period_end: datetime | None
    limit_tokens: int | None
    limit_micros: int | None
    currency: str
    warn_percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStanding:
    """A budget in its present period. Money is in micro-units of `currency`; None: no limit of that sort.

    `used_*` are settled, `reserved_*` held back for acts under way; what is left counts both. `percent` is
    the larger share of the two limits, `warning` tells that it has reached `warn_percent`. `runs_out_at` is
    when it will be used up, before its period ends, if it goes on as since the period began.
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
    runs_out_at: datetime | None
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
    """Return every open budget that an act counts against, those of teams and ancestors included,
    in id order.

    Each with begin and end (None for a total) of its period at `at`.
    """
    scopes = scopes_of(
        workspace_id=workspace_id,
        user_id=user_id,
        session_id=session_id,
        task_ids=task_ids,
        agent=agent,
        model=model,
    )
    found = execute(_APPLICABLE_ALONE, wanted_parameters(workspace_id, [scopes]))
    rows = [Budget.from_db("default", _COLUMNS, row) for _, *row in found]
    return _with_periods(rows, at)


def scopes_of(
    *,
    workspace_id: UUID,
    user_id: UUID | None = None,
    session_id: UUID | None = None,
    task_ids: Collection[UUID | str] = (),
    agent: str = "",
    model: str = "",
) -> list[Scope]:
    """Return kind and name of everything whose budgets an act counts against."""
    scopes = [
        ("workspace", str(workspace_id)),
        ("user", str(user_id or "")),
        ("session", str(session_id or "")),
        *(("task", str(task_id)) for task_id in task_ids),
        ("agent", agent),
        ("model", model),
    ]
    return [scope for scope in scopes if scope[1]]


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
        ),
        at,
    )


def tree(workspace_id: UUID, at: datetime, *, closed: bool = False) -> list[BudgetStanding]:
    """Return a workspace's budgets as a tree, each with its balance in the period of `at`.

    A budget whose parent is closed stands at the top, unless the closed ones are shown too.
    """
    rows = Budget.objects.filter(workspace_id=workspace_id)
    if not closed:
        rows = rows.filter(closed=False)
    found = _standings(_with_periods(rows, at), at)
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
    return _standings(_with_periods([row], at), at)[0]


def scope_names(standings: Iterable[BudgetStanding]) -> dict[Scope, str]:
    """Return what to call the teams and people that budgets are for, also of the parts of these budgets."""
    wanted: dict[str, set[UUID]] = {"team": set(), "user": set()}
    waiting = list(standings)
    while waiting:
        one = waiting.pop()
        waiting += one.children
        if one.scope_kind in wanted:
            wanted[one.scope_kind].add(UUID(one.scope))
    people = User.objects.in_bulk(wanted["user"])
    return {
        **{("team", str(id_)): name for id_, name in names_of_teams(list(wanted["team"])).items()},
        **{("user", str(id_)): str(person) for id_, person in people.items()},
    }


def require_reader(caller: Caller) -> None:
    """Raise RoleMissing unless the caller looks after the workspace."""
    if not caller.roles & CONSOLE_ROLES:
        raise RoleMissing(
            f"This needs one of the roles {', '.join(sorted(CONSOLE_ROLES))}.", roles=sorted(CONSOLE_ROLES)
        )


_COLUMNS = (
    "id",
    "workspace_id",
    "version",
    "name",
    "scope_kind",
    "scope",
    "parent_id",
    "period",
    "time_zone",
    "limit_tokens",
    "limit_micros",
    "currency",
    "warn_percent",
    "closed",
    "updated_at",
)
# The scopes of each of several acts, and the teams of their people: `in_team` has act, id and name.
# Parameters: the workspace, then for each scope the number of its act, its kind and its name.
WANTED: LiteralString = """
    wanted as materialized (
        select * from (select %b::uuid as workspace_id) as here,
            unnest(%b::int4[], %b::text[], %b::text[]) as one (act, scope_kind, scope)
    ),
    in_team as materialized (
        select wanted.act, workspace_id, team.id, team.name from wanted
        join accounts_team_member member using (workspace_id)
        join accounts_team team using (workspace_id)
        where scope_kind = 'user' and case when scope_kind = 'user' then scope::uuid end = member.user_id
            and team.id = member.team_id and not team.closed
    )
"""
# With what these are parts of. What a closed budget is a part of still limits what the closed one was for.
FOUND: LiteralString = """
    found as (
        select scopes.act, budget.* from governance_budget budget
        join (
            select act, workspace_id, scope_kind, scope from wanted
            union all select act, workspace_id, 'team', id::text from in_team
        ) as scopes using (workspace_id, scope_kind, scope)
        where not closed
        union select found.act, parent.* from governance_budget parent
        join found on parent.id = found.parent_id and parent.workspace_id = found.workspace_id
    )
"""
APPLICABLE: LiteralString = """
    select act, id, workspace_id, version, name, scope_kind, scope, parent_id, period, time_zone,
        limit_tokens, limit_micros, currency, warn_percent, closed, updated_at
    from found where not closed order by act, id
"""
_APPLICABLE_ALONE: LiteralString = f"with recursive {WANTED}, {FOUND} {APPLICABLE}"


def wanted_parameters(workspace_id: UUID, scopes: Sequence[Sequence[Scope]]) -> list[object]:
    """Return the parameters of `WANTED`, for the scopes of each act."""
    return [workspace_id, *wanted_values(workspace_id, scopes)[1:]]


def wanted_values(workspace_id: UUID, scopes: Sequence[Sequence[Scope]]) -> list[bytes]:
    """Return the parameters of `WANTED`, for the scopes of each act, as the server's binary values."""
    wanted = [(act, kind, name) for act, of_act in enumerate(scopes) for kind, name in of_act]
    return [
        workspace_id.bytes,
        arrays.integers4([act for act, _, _ in wanted]),
        arrays.texts([kind for _, kind, _ in wanted]),
        arrays.texts([name for _, _, name in wanted]),
    ]


def _with_periods(rows: Iterable[Budget], at: datetime) -> list[Applicable]:
    return [
        (row, *period_bounds(row.period, row.time_zone, at))  # type: ignore[arg-type] # checked when it was set
        for row in rows
    ]


def _standings(found: Sequence[Applicable], at: datetime) -> list[BudgetStanding]:
    if not found:
        return []
    balances = {
        (balance.budget_id, balance.period_start): balance
        for balance in BudgetBalance.objects.filter(
            budget_id__in=[row.id for row, _, _ in found], period_start__in={start for _, start, _ in found}
        )
    }
    return [_standing(row, start, end, balances.get((row.id, start)), at) for row, start, end in found]


def _standing(
    row: Budget, start: datetime, end: datetime | None, balance: BudgetBalance | None, at: datetime
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
        runs_out_at=None
        if row.closed
        else _runs_out_at(_taken(row, tokens=tokens, micros=micros), start, end, at),
        closed=row.closed,
        updated_at=row.updated_at,
    )


def _taken(row: Budget, *, tokens: int, micros: int) -> Fraction:
    """Return the share of its tighter limit that is used or held back."""
    return max(
        (Fraction(used, limit) if limit else Fraction(1))
        for limit, used in ((row.limit_tokens, tokens), (row.limit_micros, micros))
        if limit is not None
    )


def _runs_out_at(taken: Fraction, start: datetime, end: datetime | None, at: datetime) -> datetime | None:
    if end is None:
        return None
    if taken >= 1:
        return at
    if taken < FEWEST_TAKEN:
        return None
    expected = start + (at - start) * float(1 / taken)
    return expected if expected < end else None


def _with_children(one: BudgetStanding, children: tuple[BudgetStanding, ...]) -> BudgetStanding:

    return replace(one, children=children)
