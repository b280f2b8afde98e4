"""A budget: how many tokens and how much money a scope may use. Pure: events, their fold, what may follow.

The stream is `budget_id(...)`. What is reserved and used stands in balances, which steps lock and change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import ClassVar, Literal, get_args
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import Field

from cartrita.accounts.region import require_currency, zone
from cartrita.errors import BadInput, Conflict, NotFound
from cartrita.eventstore.ids import derived_id
from cartrita.eventstore.types import Event

ScopeKind = Literal["workspace", "team", "user", "session", "task", "agent", "model"]
Period = Literal["total", "hour", "day", "week", "month", "quarter", "year"]


class BudgetSet(Event):
    """A budget began, or its terms were written anew. None: no limit of that sort.

    `scope` names what the budget is for: an id, or an agent's or model's name; the workspace's id for the
    workspace. `parent_id` is the budget that this one is a part of. Money is in micro-units of `currency`;
    periods are those of the clock and calendar in `time_zone` (`period_bounds`).
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


class BudgetNotFound(NotFound):
    """No budget with that id exists for this caller."""

    code: ClassVar[str] = "budget_not_found"


class BudgetIsClosed(Conflict):
    """The budget limits nothing any more; set it anew to open it."""

    code: ClassVar[str] = "budget_closed"


class WrongParent(BadInput):
    """The budget cannot be a part of that one."""

    code: ClassVar[str] = "wrong_parent"


class NoLimit(BadInput):
    """A budget limits tokens, money or both."""

    code: ClassVar[str] = "no_limit"


class CurrencyFixed(Conflict):
    """The budget has booked money of another currency in this period."""

    code: ClassVar[str] = "currency_fixed"


class NotARaise(BadInput):
    """The new limits do not give more."""

    code: ClassVar[str] = "not_a_raise"


# Who stands above whom: a parent stands above its parts.
RANK: Mapping[str, int] = {
    "workspace": 0,
    "team": 1,
    "user": 2,
    "agent": 2,
    "model": 2,
    "session": 3,
    "task": 4,
}
# Where the one period of a budget in total begins.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LARGEST_LIMIT = 2**53 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A budget's terms; `version` 0 before it was set."""

    name: str = ""
    scope_kind: ScopeKind = "workspace"
    scope: str = ""
    parent_id: UUID | None = None
    period: Period = "total"
    time_zone: str = "UTC"
    limit_tokens: int | None = None
    limit_micros: int | None = None
    currency: str = "USD"
    warn_percent: int = 80
    closed: bool = False
    version: int = 0


def fold(events: Iterable[Event]) -> Budget:
    """Return the budget after these events."""
    budget = Budget()
    for event in events:
        budget = evolve(budget, event)
    return budget


def evolve(budget: Budget, event: Event) -> Budget:
    """Return the budget after one more event."""
    version = budget.version + 1
    match event:
        case BudgetSet():
            return Budget(
                name=event.name,
                scope_kind=event.scope_kind,
                scope=event.scope,
                parent_id=event.parent_id,
                period=event.period,
                time_zone=event.time_zone,
                limit_tokens=event.limit_tokens,
                limit_micros=event.limit_micros,
                currency=event.currency,
                warn_percent=event.warn_percent,
                version=version,
            )
        case BudgetRaised():
            return replace(
                budget, limit_tokens=event.limit_tokens, limit_micros=event.limit_micros, version=version
            )
        case BudgetClosed():
            return replace(budget, closed=True, version=version)
        case _:
            return budget


def set_terms(
    budget: Budget,
    wanted: Budget,
    *,
    own_id: UUID,
    ancestors: Sequence[tuple[UUID, Budget]],
    money_booked: bool = False,
) -> list[Event]:
    """Begin a budget or write its terms anew; nothing when it stands so already.

    `ancestors` are the parent, its parent and so on, as far as they exist in the workspace; `money_booked`
    tells whether money is used or held back of it in the present period, or was in any, of a total. Raises
    NoLimit, WrongParent, CurrencyFixed, BadInput.
    """
    _check_words(wanted)
    if money_booked and wanted.currency != budget.currency:
        raise CurrencyFixed(
            f"This budget has counted {budget.currency} in its present period, which is no "
            f"{wanted.currency}: close it, and set it anew in {wanted.currency} when the period is over.",
            field="currency",
        )
    _check_limit(wanted.limit_tokens, "limit_tokens")
    _check_limit(wanted.limit_micros, "limit_micros")
    if wanted.limit_tokens is None and wanted.limit_micros is None:
        raise NoLimit("Send limit_tokens, limit_micros, or both.", field="limit_tokens")
    _check_parent(wanted, own_id, ancestors)
    if replace(wanted, closed=False, version=budget.version) == budget:
        return []
    return [
        BudgetSet(
            name=wanted.name,
            scope_kind=wanted.scope_kind,
            scope=wanted.scope,
            parent_id=wanted.parent_id,
            period=wanted.period,
            time_zone=wanted.time_zone,
            limit_tokens=wanted.limit_tokens,
            limit_micros=wanted.limit_micros,
            currency=wanted.currency,
            warn_percent=wanted.warn_percent,
        )
    ]


def raise_limits(
    budget: Budget, *, by: str, reason: str, limit_tokens: int | None, limit_micros: int | None
) -> list[Event]:
    """Give more; None leaves a limit as it is. Raises NotARaise, BudgetIsClosed, BadInput."""
    _require_open(budget)
    said = reason.strip()
    if not 0 < len(said) <= 500:
        raise BadInput("Say why in 1 to 500 characters, without personal text.", field="reason")
    for field, present, wanted in (
        ("limit_tokens", budget.limit_tokens, limit_tokens),
        ("limit_micros", budget.limit_micros, limit_micros),
    ):
        _check_limit(wanted, field)
        if wanted is not None and (present is None or wanted < present):
            now = "none" if present is None else str(present)
            raise NotARaise(f"{field} is {now} now and {wanted} is less; set the budget anew.", field=field)
    tokens = budget.limit_tokens if limit_tokens is None else limit_tokens
    micros = budget.limit_micros if limit_micros is None else limit_micros
    if (tokens, micros) == (budget.limit_tokens, budget.limit_micros):
        raise NotARaise("These are the limits of now; send a higher one.", field="limit_tokens")
    return [BudgetRaised(limit_tokens=tokens, limit_micros=micros, by=by, reason=said)]


def close(budget: Budget, *, by: str) -> list[Event]:
    """End a budget; nothing when it has ended. Raises BudgetNotFound."""
    if budget.version == 0:
        raise BudgetNotFound("There is no such budget.", field="budget_id")
    return [] if budget.closed else [BudgetClosed(by=by)]


def period_bounds(period: Period, time_zone: str, at: datetime) -> tuple[datetime, datetime | None]:
    """Return begin and end, in UTC, of the period that an instant belongs to: begin <= `at` < end.

    Days begin at midnight in the zone, or where the clocks leave midnight out, at the first instant after it;
    of two midnights the first counts. Weeks begin on Monday, quarters in January, April, July and October.
    Hours begin on the clock's full hour and where the clocks change, so none is longer than 60 minutes. A
    total begins at the epoch and has no end. Raises BadInput for an unknown zone.
    """
    # Periods begin at whole seconds. Every step asks for those of its budgets.
    return _bounds(period, time_zone, at.astimezone(UTC).replace(microsecond=0))


@lru_cache(maxsize=1024)
def _bounds(period: Period, time_zone: str, instant: datetime) -> tuple[datetime, datetime | None]:
    if period == "total":
        return EPOCH, None
    here = zone(time_zone)
    if period == "hour":
        return _hour(here, instant)
    day = _first_day(period, instant.astimezone(here).date())
    # Where clocks go back over midnight, an instant of the new day may read as the day before, or reversed.
    while instant < _midnight(day, time_zone):
        day = _first_day(period, day - timedelta(days=1))
    following = _next(period, day)
    while instant >= _midnight(following, time_zone):
        day, following = following, _next(period, following)
    return _midnight(day, time_zone), _midnight(following, time_zone)


def used_percent(*, limit: int | None, used: int) -> int:
    """Return how many whole percent of a limit are used; a limit of 0 is used up, no limit never."""
    if limit is None:
        return 0
    return 100 if limit == 0 else used * 100 // limit


def _check_words(wanted: Budget) -> None:
    if not 0 < len(wanted.name) <= 150 or not wanted.name.isprintable():
        raise BadInput("A name has 1 to 150 characters.", field="name")
    if wanted.scope_kind not in get_args(ScopeKind):
        raise BadInput(f"scope_kind is one of {', '.join(get_args(ScopeKind))}.", field="scope_kind")
    if wanted.period not in get_args(Period):
        raise BadInput(f"period is one of {', '.join(get_args(Period))}.", field="period")
    if not 0 < len(wanted.scope) <= 200 or not wanted.scope.isprintable():
        raise BadInput("scope names what the budget is for, in 1 to 200 characters.", field="scope")
    if not 1 <= wanted.warn_percent <= 100:
        raise BadInput("warn_percent is 1 to 100.", field="warn_percent")
    zone(wanted.time_zone)
    require_currency(wanted.currency)


def _check_limit(limit: int | None, field: str) -> None:
    if limit is not None and not 0 <= limit <= LARGEST_LIMIT:
        raise BadInput(
            f"{field} is {limit}; send 0 (nothing is allowed) to {LARGEST_LIMIT}, or leave it out.",
            field=field,
        )


def _check_parent(wanted: Budget, own_id: UUID, ancestors: Sequence[tuple[UUID, Budget]]) -> None:
    if wanted.parent_id is None:
        return
    if wanted.parent_id == own_id:
        raise WrongParent("A budget is no part of itself.", field="parent_id")
    if not ancestors or ancestors[0][1].version == 0:
        raise WrongParent("No budget of this workspace has the id parent_id.", field="parent_id")
    if own_id in {ancestor_id for ancestor_id, _ in ancestors}:
        raise WrongParent("That budget is itself a part of this one.", field="parent_id")
    parent = ancestors[0][1]
    if parent.closed:
        raise WrongParent("The parent is closed; set it anew first.", field="parent_id")
    if RANK[parent.scope_kind] >= RANK[wanted.scope_kind]:
        raise WrongParent(
            f"A budget of a {wanted.scope_kind} is no part of one of a {parent.scope_kind}: the order is "
            "workspace, then team, then user, agent or model, then session, then task.",
            field="parent_id",
        )
    both_in_money = parent.limit_micros is not None and wanted.limit_micros is not None
    if both_in_money and parent.currency != wanted.currency:
        raise WrongParent(f"The parent counts in {parent.currency}; use it here too.", field="currency")


def _require_open(budget: Budget) -> None:
    if budget.version == 0:
        raise BudgetNotFound("There is no such budget.", field="budget_id")
    if budget.closed:
        raise BudgetIsClosed("This budget is closed; set it anew to open it.")


def _hour(here: ZoneInfo, instant: datetime) -> tuple[datetime, datetime]:
    offset = _offset(here, instant)
    since = timedelta(seconds=(int((instant - EPOCH + offset).total_seconds())) % 3600)
    start, end = instant - since, instant - since + timedelta(hours=1)
    if _offset(here, start) != offset:
        start = _change(here, start, instant)
    if _offset(here, end - timedelta(seconds=1)) != offset:
        end = _change(here, instant, end - timedelta(seconds=1))
    return start, end


def _offset(here: ZoneInfo, instant: datetime) -> timedelta:
    offset = instant.astimezone(here).utcoffset()
    assert offset is not None  # noqa: S101 # a zone has one at each instant
    return offset


def _change(here: ZoneInfo, before: datetime, after: datetime) -> datetime:
    """Return the second when clocks changed, between two instants with one change between them."""
    offset = _offset(here, after)
    while after - before > timedelta(seconds=1):
        middle = before + timedelta(seconds=int((after - before).total_seconds()) // 2)
        if _offset(here, middle) == offset:
            after = middle
        else:
            before = middle
    return after


def _first_day(period: Period, day: date) -> date:
    match period:
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "quarter":
            return day.replace(month=day.month - (day.month - 1) % 3, day=1)
        case "year":
            return day.replace(month=1, day=1)
        case _:
            return day


def _next(period: Period, day: date) -> date:
    """Return the first day of the period after the one that begins on `day`."""
    # More than the longest, and less than the shortest and a month.
    days = {"day": 1, "week": 7, "month": 32, "quarter": 95, "year": 370}[period]
    following = day + timedelta(days=days)
    return following if period in {"day", "week"} else following.replace(day=1)


@lru_cache(maxsize=4096)
def _midnight(day: date, time_zone: str) -> datetime:
    # In a gap the earlier offset gives the instant after it; of two midnights it is the first.
    return datetime.combine(day, time.min, tzinfo=zone(time_zone)).astimezone(UTC)
