"""Budgets, purely: periods in any zone at any instant, terms, the tree, raises."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartrita.errors import BadInput, CartritaError
from governance import budget
from governance.budget import (
    Budget,
    BudgetClosed,
    BudgetIsClosed,
    BudgetNotFound,
    BudgetRaised,
    BudgetSet,
    CurrencyFixed,
    NoLimit,
    NotARaise,
    Period,
    WrongParent,
    budget_id,
    period_bounds,
    used_percent,
)

WORKSPACE = UUID(int=1)
ANN = UUID(int=2)
OWN, PARENT = UUID(int=11), UUID(int=12)

TEAM = Budget(name="Team", scope_kind="workspace", scope=str(WORKSPACE), limit_tokens=1000)
MINE = Budget(name="Ann", scope_kind="user", scope=str(ANN), limit_tokens=100)

# Those that every machine has: `localtime` is what one is set to.
zones = st.sampled_from(sorted(available_timezones() - {"localtime", "Factory"}))
instants = st.datetimes(
    min_value=datetime(1971, 1, 1),  # noqa: DTZ001 # hypothesis adds the zone
    max_value=datetime(2090, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
periods = st.sampled_from(["day", "week", "month", "quarter", "year"])
# Where clocks change by less than an hour, over midnight, after midnight, and by days.
ODD_ZONES = ["Australia/Lord_Howe", "America/Havana", "America/St_Johns", "Africa/Monrovia", "Asia/Kathmandu"]
ODD_ZONES += ["Pacific/Apia", "Pacific/Kwajalein", "America/Caracas", "Asia/Gaza", "America/Scoresbysund"]
odd_zones = st.sampled_from(ODD_ZONES)


def stands(wanted: Budget) -> Budget:
    """Return the budget as it is once it was set."""
    return budget.fold(budget.set_terms(Budget(), wanted, own_id=OWN, ancestors=[]))


def next_change(zone: str, after: datetime) -> datetime:
    """Return the second when clocks change next, within two years, or the same instant."""
    here, before = ZoneInfo(zone), after.replace(microsecond=0)
    for _ in range(730):
        following = before + timedelta(days=1)
        if following.astimezone(here).utcoffset() != before.astimezone(here).utcoffset():
            while following - before > timedelta(seconds=1):
                middle = before + (following - before) // 2
                middle = middle.replace(microsecond=0)
                if middle.astimezone(here).utcoffset() == before.astimezone(here).utcoffset():
                    before = middle
                else:
                    following = middle
            return following
        before = following
    return after


def label_of(period: Period, day: date) -> tuple[int, ...]:
    """Return what tells a period from others, in order."""
    return {
        "day": (day.toordinal(),),
        "week": tuple(day.isocalendar()[:2]),
        "month": (day.year, day.month),
        "quarter": (day.year, (day.month - 1) // 3),
        "year": (day.year,),
    }[period]


def bounds_by_looking(period: Period, zone: str, at: datetime) -> tuple[datetime, datetime]:
    """Look at the clock every 30 seconds: a period begins when its label or a later one is first read."""
    here = ZoneInfo(zone)

    def read(instant: datetime) -> tuple[int, ...]:
        return label_of(period, instant.astimezone(here).date())

    def first(day: date, wanted: tuple[int, ...]) -> datetime:
        instant = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=30)
        while read(instant) < wanted:
            instant += timedelta(seconds=30)
        return instant

    tick = at.replace(second=at.second // 30 * 30, microsecond=0)
    label, day = max(
        (label_of(period, local.date()), local.date())
        for local in ((tick - timedelta(minutes=back)).astimezone(here) for back in range(180))
    )
    while label_of(period, day - timedelta(days=1)) == label:
        day -= timedelta(days=1)
    following = day
    while label_of(period, following) == label:
        following += timedelta(days=1)
    return first(day, label), first(following, label_of(period, following))


def hour_by_looking(zone: str, at: datetime) -> tuple[datetime, datetime]:
    """Look at the clock every second: hours begin where it reads a full one, and where it was changed."""
    here, second = ZoneInfo(zone), timedelta(seconds=1)

    def begins(instant: datetime) -> bool:
        local = instant.astimezone(here)
        changed = local.utcoffset() != (instant - second).astimezone(here).utcoffset()
        return changed or (local.minute, local.second) == (0, 0)

    start = at.replace(microsecond=0)
    while not begins(start):
        start -= second
    end = start + second
    while not begins(end):
        end += second
    return start, end


class TestPeriodBounds:
    @settings(deadline=None, max_examples=60)
    @given(zone=zones | odd_zones, at=instants, period=periods)
    def test_are_what_a_look_at_the_clock_says(self, zone: str, at: datetime, period: Period) -> None:
        assert period_bounds(period, zone, at) == bounds_by_looking(period, zone, at)

    @settings(deadline=None, max_examples=60)
    @given(zone=odd_zones, around=instants, seconds=st.integers(-7200, 7200), period=periods)
    def test_are_so_where_clocks_change(
        self, zone: str, around: datetime, seconds: int, period: Period
    ) -> None:
        at = next_change(zone, around) + timedelta(seconds=seconds)
        assert period_bounds(period, zone, at) == bounds_by_looking(period, zone, at)

    @settings(deadline=None, max_examples=60)
    @given(zone=zones | odd_zones, around=instants, seconds=st.integers(-7200, 7200), change=st.booleans())
    def test_of_hours_are_what_a_look_at_the_clock_says(
        self, zone: str, around: datetime, seconds: int, change: bool
    ) -> None:
        at = next_change(zone, around) + timedelta(seconds=seconds) if change else around
        start, end = period_bounds("hour", zone, at)
        assert (start, end) == hour_by_looking(zone, at)
        assert end is not None
        assert end - start <= timedelta(hours=1)

    @given(zone=zones, at=instants, period=periods)
    def test_hold_the_instant_and_meet_without_gap(self, zone: str, at: datetime, period: Period) -> None:
        start, end = period_bounds(period, zone, at)
        assert end is not None
        assert start <= at < end
        assert period_bounds(period, zone, start) == (start, end)
        assert period_bounds(period, zone, end - timedelta(microseconds=1)) == (start, end)
        after, _ = period_bounds(period, zone, end)
        assert after == end

    @given(zone=zones, at=instants, period=periods)
    def test_begin_at_the_first_instant_of_a_day(self, zone: str, at: datetime, period: Period) -> None:
        start, _ = period_bounds(period, zone, at)
        local = start.astimezone(ZoneInfo(zone))
        # Where clocks leave midnight out, the day begins as late as they jump.
        before = (start - timedelta(seconds=1)).astimezone(ZoneInfo(zone))
        assert local.utcoffset() != before.utcoffset() or (local.hour, local.minute, local.second) == (
            0,
            0,
            0,
        )
        assert period != "week" or local.weekday() == 0 or local.utcoffset() != before.utcoffset()
        assert period != "month" or local.day == 1 or local.utcoffset() != before.utcoffset()

    @pytest.mark.parametrize(
        ("period", "zone", "at", "start", "end"),
        [
            ("day", "Europe/Berlin", "2026-03-29T12:00Z", "2026-03-28T23:00Z", "2026-03-29T22:00Z"),
            ("day", "Europe/Berlin", "2026-10-25T12:00Z", "2026-10-24T22:00Z", "2026-10-25T23:00Z"),
            # Midnight does not exist: the day begins at one o'clock.
            ("day", "America/Havana", "2024-03-10T05:00Z", "2024-03-10T05:00Z", "2024-03-11T04:00Z"),
            # The 30th did not happen.
            ("day", "Pacific/Apia", "2011-12-30T10:00Z", "2011-12-30T10:00Z", "2011-12-31T10:00Z"),
            ("week", "UTC", "2026-03-01T12:00Z", "2026-02-23T00:00Z", "2026-03-02T00:00Z"),
            ("month", "Asia/Kolkata", "2026-02-28T18:30Z", "2026-02-28T18:30Z", "2026-03-31T18:30Z"),
            ("quarter", "Europe/Berlin", "2026-05-15T12:00Z", "2026-03-31T22:00Z", "2026-06-30T22:00Z"),
            ("quarter", "UTC", "2026-12-31T23:59Z", "2026-10-01T00:00Z", "2027-01-01T00:00Z"),
            ("year", "America/New_York", "2026-07-01T12:00Z", "2026-01-01T05:00Z", "2027-01-01T05:00Z"),
            ("hour", "Asia/Kathmandu", "2026-05-15T12:20Z", "2026-05-15T12:15Z", "2026-05-15T13:15Z"),
            # The hour from two to three is there twice, and each is one of its own.
            ("hour", "Europe/Berlin", "2026-10-25T00:30Z", "2026-10-25T00:00Z", "2026-10-25T01:00Z"),
            ("hour", "Europe/Berlin", "2026-10-25T01:30Z", "2026-10-25T01:00Z", "2026-10-25T02:00Z"),
            # The clocks change by half an hour.
            ("hour", "Australia/Lord_Howe", "2026-10-03T15:40Z", "2026-10-03T15:30Z", "2026-10-03T16:00Z"),
            ("month", "UTC", "2028-02-29T23:59Z", "2028-02-01T00:00Z", "2028-03-01T00:00Z"),
        ],
    )
    def test_follow_the_zone(self, period: Period, zone: str, at: str, start: str, end: str) -> None:
        found = period_bounds(period, zone, datetime.fromisoformat(at))
        assert found == (datetime.fromisoformat(start), datetime.fromisoformat(end))

    def test_of_a_total_never_end(self) -> None:
        assert period_bounds("total", "UTC", datetime(2026, 1, 1, tzinfo=UTC)) == (
            datetime(1970, 1, 1, tzinfo=UTC),
            None,
        )

    @pytest.mark.parametrize("zone", ["", "Mars/Base", "../etc/passwd", "europe/berlin", "UTC\0"])
    def test_need_a_known_zone(self, zone: str) -> None:
        with pytest.raises(BadInput):
            period_bounds("day", zone, datetime(2026, 1, 1, tzinfo=UTC))


class TestSetTerms:
    def test_writes_them_once(self) -> None:
        events = budget.set_terms(Budget(), MINE, own_id=OWN, ancestors=[])
        assert [type(event) for event in events] == [BudgetSet]
        standing = budget.fold(events)
        assert budget.set_terms(standing, MINE, own_id=OWN, ancestors=[]) == []
        assert budget.set_terms(standing, replace(MINE, limit_tokens=5), own_id=OWN, ancestors=[])

    def test_opens_a_closed_one(self) -> None:
        closed = budget.evolve(stands(MINE), BudgetClosed(by="user:x"))
        assert budget.set_terms(closed, MINE, own_id=OWN, ancestors=[])

    def test_takes_zero_as_nothing_allowed(self) -> None:
        assert stands(replace(MINE, limit_tokens=0)).limit_tokens == 0

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"limit_tokens": None}, NoLimit),
            ({"limit_tokens": -1}, BadInput),
            ({"limit_micros": -1}, BadInput),
            ({"limit_tokens": 2**53}, BadInput),
            ({"time_zone": "Mars/Base"}, BadInput),
            ({"time_zone": "localtime"}, BadInput),
            ({"currency": "XXX"}, BadInput),
            ({"currency": "usd"}, BadInput),
            ({"warn_percent": 0}, BadInput),
            ({"warn_percent": 101}, BadInput),
            ({"name": ""}, BadInput),
            ({"name": "a\nb"}, BadInput),
            ({"name": "x" * 151}, BadInput),
            ({"scope": ""}, BadInput),
            ({"scope_kind": "planet"}, BadInput),
            ({"period": "decade"}, BadInput),
            ({"limit_micros": 2**53}, BadInput),
            ({"limit_tokens": -(2**63)}, BadInput),
        ],
    )
    def test_refuses(self, change: Any, error: type[CartritaError]) -> None:
        with pytest.raises(error):
            budget.set_terms(Budget(), replace(MINE, **change), own_id=OWN, ancestors=[])

    @pytest.mark.parametrize(
        ("parent_id", "ancestors"),
        [
            (OWN, []),
            (PARENT, []),
            (PARENT, [(PARENT, Budget())]),
            (PARENT, [(PARENT, replace(TEAM, version=1, parent_id=OWN)), (OWN, replace(MINE, version=1))]),
            (PARENT, [(PARENT, replace(MINE, version=1))]),
            (PARENT, [(PARENT, replace(MINE, version=1, scope_kind="session"))]),
            (PARENT, [(PARENT, replace(MINE, version=1, scope_kind="task"))]),
            (PARENT, [(PARENT, replace(TEAM, version=2, closed=True))]),
            (PARENT, [(PARENT, replace(MINE, version=1, scope_kind="agent"))]),
            (PARENT, [(PARENT, replace(MINE, version=1, scope_kind="model"))]),
        ],
        ids=[
            "itself",
            "unknown",
            "never set",
            "cycle",
            "equal",
            "session",
            "task",
            "closed",
            "agent",
            "model",
        ],
    )
    def test_refuses_parents(self, parent_id: UUID, ancestors: Any) -> None:
        with pytest.raises(WrongParent):
            budget.set_terms(Budget(), replace(MINE, parent_id=parent_id), own_id=OWN, ancestors=ancestors)

    @pytest.mark.parametrize(
        "order", [["workspace", "team", kind, "session", "task"] for kind in ("user", "agent", "model")]
    )
    def test_lets_each_level_be_part_of_every_higher_one(self, order: list[Any]) -> None:
        for high, low in combinations(order, 2):
            parent = replace(TEAM, scope_kind=high, version=1)
            part = replace(MINE, scope_kind=low, parent_id=PARENT)
            assert budget.set_terms(Budget(), part, own_id=OWN, ancestors=[(PARENT, parent)])
            with pytest.raises(WrongParent):
                budget.set_terms(
                    Budget(),
                    replace(MINE, scope_kind=high, parent_id=PARENT),
                    own_id=OWN,
                    ancestors=[(PARENT, replace(TEAM, scope_kind=low, version=1))],
                )

    def test_keeps_its_currency_while_it_has_booked_money(self) -> None:
        standing = stands(replace(MINE, limit_micros=5))
        in_euros = replace(MINE, limit_micros=5, currency="EUR")
        with pytest.raises(CurrencyFixed, match="USD"):
            budget.set_terms(standing, in_euros, own_id=OWN, ancestors=[], money_booked=True)
        assert budget.set_terms(standing, in_euros, own_id=OWN, ancestors=[])
        more = replace(MINE, limit_micros=6)
        assert budget.set_terms(standing, more, own_id=OWN, ancestors=[], money_booked=True)

    def test_keeps_one_currency_along_a_branch(self) -> None:
        parent = replace(TEAM, limit_micros=5, currency="EUR", version=1)
        for terms, fine in (
            (replace(MINE, limit_micros=5), False),
            (MINE, True),
            (replace(MINE, limit_micros=5, currency="EUR"), True),
        ):
            wanted = replace(terms, parent_id=PARENT)
            if fine:
                assert budget.set_terms(Budget(), wanted, own_id=OWN, ancestors=[(PARENT, parent)])
            else:
                with pytest.raises(WrongParent):
                    budget.set_terms(Budget(), wanted, own_id=OWN, ancestors=[(PARENT, parent)])


class TestRaiseLimits:
    def test_gives_more_and_says_why(self) -> None:
        events = budget.raise_limits(
            stands(MINE), by="user:x", reason=" The fair. ", limit_tokens=200, limit_micros=None
        )
        assert events == [BudgetRaised(limit_tokens=200, limit_micros=None, by="user:x", reason="The fair.")]

    @pytest.mark.parametrize(
        ("limits", "reason"),
        [
            ((99, None), "less"),
            ((100, None), "the same"),
            ((None, None), "nothing"),
            ((None, 5), "a limit where there is none"),
            ((-1, None), "negative"),
            ((200, None), " "),
            ((200, None), "x" * 501),
        ],
    )
    def test_refuses(self, limits: tuple[int | None, int | None], reason: str) -> None:
        with pytest.raises((NotARaise, BadInput)):
            budget.raise_limits(
                stands(MINE), by="user:x", reason=reason, limit_tokens=limits[0], limit_micros=limits[1]
            )

    def test_needs_an_open_budget(self) -> None:
        closed = budget.evolve(stands(MINE), BudgetClosed(by="user:x"))
        for standing, error in ((closed, BudgetIsClosed), (Budget(), BudgetNotFound)):
            with pytest.raises(error):
                budget.raise_limits(
                    standing, by="user:x", reason="More.", limit_tokens=200, limit_micros=None
                )


class TestClose:
    def test_ends_it_once(self) -> None:
        standing = stands(MINE)
        [closed] = budget.close(standing, by="user:x")
        assert budget.close(budget.evolve(standing, closed), by="user:x") == []
        with pytest.raises(BudgetNotFound):
            budget.close(Budget(), by="user:x")


class TestUsedPercent:
    @pytest.mark.parametrize(
        ("limit", "used", "percent"), [(None, 5, 0), (0, 0, 100), (100, 80, 80), (3, 2, 66), (10, 25, 250)]
    )
    def test_rounds_down(self, limit: int | None, used: int, percent: int) -> None:
        assert used_percent(limit=limit, used=used) == percent


class TestBudgetId:
    def test_is_one_for_a_scope_and_period(self) -> None:
        ids = {
            budget_id(workspace, "user", scope, period)
            for workspace in (UUID(int=1), UUID(int=2))
            for scope in ("a", "b")
            for period in ("day", "month")
        }
        assert len(ids) == 8
