"""What budgets had in earlier periods, and which decisions used most of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString, cast
from uuid import UUID

from cartrita.errors import BadInput
from cartrita.eventstore import RecordedEvent, load
from cartrita.eventstore.store import execute
from cartrita.http.pagination import DEFAULT_LIMIT, Page, page_of
from governance import budget as budgets
from governance.budget import Budget, Period, period_bounds, used_percent
from governance.models import BudgetBalance, PolicyDecision
from governance.queries.budgets import BudgetStanding

# Decisions are looked through so far back, or the whole of a shorter period.
LONGEST_LOOK = timedelta(days=31)
# A step that waited for its locks books in the period in which it began to wait.
_LATE = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodBalance:
    """What was used and is held back of a budget in one period, beside the limits at its end."""

    period_start: datetime
    period_end: datetime | None
    limit_tokens: int | None
    used_tokens: int
    reserved_tokens: int
    limit_micros: int | None
    used_micros: int
    reserved_micros: int
    currency: str
    percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spender:
    """A decision that a budget paid for: what its act used, or holds back while it is `open`."""

    decision_id: UUID
    created_at: datetime
    subject_kind: str
    subject: str
    agent: str
    session_id: UUID | None
    requester_id: UUID | None
    tokens: int
    micros: int
    open: bool
    estimated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """The decisions that used most of a budget in a period, and how many it refused, since `since`."""

    period_start: datetime
    period_end: datetime | None
    since: datetime
    spenders: tuple[Spender, ...]
    refused: int


def periods(standing: BudgetStanding, *, cursor: str | None = None, limit: int = DEFAULT_LIMIT) -> Page:
    """Return what a budget had in each period in which something was booked, the newest first."""
    rows = BudgetBalance.objects.filter(budget_id=standing.id)
    page = page_of(rows, order=("-period_start", "-id"), cursor=cursor, limit=limit)
    history = load(standing.id)
    return Page([_period(row, history) for row in page.items], page.next_cursor)


def spending(
    standing: BudgetStanding, *, at: datetime, period_start: datetime | None = None, limit: int = 10
) -> Spending:
    """Return the decisions that used most of a budget in the period that begins at `period_start` (default:
    the present one): by money where it limits money, else by tokens.

    Of longer periods than a month, those of their last 31 days are looked through. Raises BadInput for a
    period beyond the years that there are.
    """
    start, end = standing.period_start, standing.period_end
    try:
        if period_start is not None:
            start = period_start
            end = _end(Budget(period=cast("Period", standing.period), time_zone=standing.time_zone), start)
        until = min(end + _LATE, at) if end is not None else at
    except OverflowError as error:
        raise BadInput("There is no such period.", field="period_start") from error
    since = max(start, until - LONGEST_LOOK)
    by_money = standing.limit_micros is not None
    rows = execute(
        _SPENDERS,
        [
            str(standing.id),
            start,
            standing.workspace_id,
            since,
            until,
            str(standing.id),
            by_money,
            by_money,
            limit,
        ],
    ).fetchall()
    refused = PolicyDecision.objects.filter(
        workspace_id=standing.workspace_id,
        budget_id=standing.id,
        created_at__gte=since,
        created_at__lte=until,
    )
    return Spending(
        period_start=start,
        period_end=end,
        since=since,
        spenders=tuple(_spender(row) for row in rows),
        refused=refused.count(),
    )


def _period(row: BudgetBalance, history: Sequence[RecordedEvent]) -> PeriodBalance:
    terms = budgets.fold(recorded.event for recorded in history[:1])
    for place, recorded in enumerate(history[1:], 2):
        end = _end(terms, row.period_start)
        if end is not None and recorded.recorded_at >= end:
            break
        terms = budgets.fold(each.event for each in history[:place])
    tokens, micros = row.used_tokens + row.reserved_tokens, row.used_micros + row.reserved_micros
    return PeriodBalance(
        period_start=row.period_start,
        period_end=_end(terms, row.period_start),
        limit_tokens=terms.limit_tokens,
        used_tokens=row.used_tokens,
        reserved_tokens=row.reserved_tokens,
        limit_micros=terms.limit_micros,
        used_micros=row.used_micros,
        reserved_micros=row.reserved_micros,
        currency=terms.currency,
        percent=max(
            used_percent(limit=terms.limit_tokens, used=tokens),
            used_percent(limit=terms.limit_micros, used=micros),
        ),
    )


def _end(terms: Budget, start: datetime) -> datetime | None:
    return period_bounds(terms.period, terms.time_zone, start)[1]


def _spender(row: Sequence[Any]) -> Spender:
    return Spender(
        decision_id=row[0],
        created_at=row[1],
        subject_kind=row[2],
        subject=row[3],
        agent=row[4],
        session_id=row[5],
        requester_id=row[6],
        tokens=row[7],
        micros=row[8],
        open=row[9],
        estimated=row[10],
    )


# As `governance.step` books: actual figures where an act has ended, what is held back where it has not.
_SPENDERS: LiteralString = """
    select id, created_at, subject_kind, coalesce(nullif(tool_name, ''), model_name), agent_name, session_id,
        requester_id, tokens, micros, act_outcome = '', act_estimated
    from (
        select decision.*,
            case when act_outcome = '' then (held ->> 'tokens')::int8 else act_tokens end as tokens,
            case when act_outcome <> '' and act_currency = held ->> 'currency' then act_cost_micros
                 else (held ->> 'micros')::int8 end as micros
        from policy_decisions as decision
        cross join lateral (
            select held from jsonb_array_elements(reserved) as held
            where held ->> 'budget' = %b::text and (held ->> 'period_start')::timestamptz = %b::timestamptz
        ) as entry
        where workspace_id = %b::uuid and created_at between %b::timestamptz and %b::timestamptz
            and reserved @> jsonb_build_array(jsonb_build_object('budget', %b::text))
    ) as paid
    where tokens > 0 or micros > 0
    order by case when %b::bool then micros else tokens end desc,
        case when %b::bool then tokens else micros end desc, id
    limit %b::int8
"""
