"""Budgets, purely: periods in any zone at any instant, terms, the tree, raises."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
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
periods = st.sampled_from(["day", "week", "month"])


def stands(wanted: Budget) -> Budget:
    """Return the budget as it is once it was set."""
    return budget.fold(budget.set_terms(Budget(), wanted, own_id=OWN, ancestors=[]))


class TestPeriodBounds:
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
        ],
        ids=["itself", "unknown", "never set", "cycle", "equal", "session", "task", "closed"],
    )
    def test_refuses_parents(self, parent_id: UUID, ancestors: Any) -> None:
        with pytest.raises(WrongParent):
            budget.set_terms(Budget(), replace(MINE, parent_id=parent_id), own_id=OWN, ancestors=ancestors)

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
