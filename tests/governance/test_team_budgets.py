"""Budgets of teams in the governed step: whose acts count, where they are booked, and nobody overspends."""

import asyncio
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from cartrita.accounts.team import TeamClosed
from cartrita.eventstore import Append, Sequencer, append, load, new_id, rebuild
from governance.budget import EPOCH
from governance.decision import DecisionMade, request_of
from governance.models import BudgetBalance
from governance.queries.budgets import standings
from governance.queries.decisions import blobs_of, decision_made, recount, redecide_all
from governance.step import Decided, TaskLimit, take_step
from tests.databases import Database
from tests.governance.policies import rule
from tests.governance.steps import Place, balance, settled
from tests.governance.test_step_races import allowed, at_once

pytestmark = pytest.mark.usefixtures("database")

ALLOW = rule("ok", "allow")


@pytest.fixture
def place() -> Place:
    made = Place()
    made.follows(ALLOW)
    return made


def asks(place: Place, tokens: int = 10, **more: Any) -> Decided:
    return take_step(context=place.context, acts=[place.act(tokens=tokens, **more)])[0]


def made(decided: Decided) -> DecisionMade:
    event = decision_made(decided.decision_id).event
    assert isinstance(event, DecisionMade)
    return event


class TestTeams:
    def test_are_a_fact_of_the_decision(self, place: Place) -> None:
        place.follows(rule("no-interns", "deny", "'Interns' in teams"), ALLOW)
        assert asks(place).verdict.rule == "ok"
        interns = place.has_team("Interns")
        place.has_team("Blue")
        place.has_team("Others", new_id())
        decided = asks(place)
        assert decided.verdict.rule == "no-interns"
        recorded = decision_made(decided.decision_id)
        assert request_of(made(decided), blobs_of(recorded)).teams == {"Interns", "Blue"}
        place.changes_team(interns, left=[place.user_id])
        assert asks(place).verdict.rule == "ok"

    def test_are_those_of_the_requester_whoever_acts(self, place: Place) -> None:
        place.has_team("Blue")
        decided = asks(place, actor="agent:writer")
        recorded = decision_made(decided.decision_id)
        assert request_of(made(decided), blobs_of(recorded)).teams == {"Blue"}

    def test_of_another_workspace_are_nobodys(self, place: Place) -> None:
        elsewhere = Place(user_id=place.user_id)
        elsewhere.has_team("Blue")
        recorded = decision_made(asks(place).decision_id)
        event = recorded.event
        assert isinstance(event, DecisionMade)
        assert request_of(event, blobs_of(recorded)).teams == frozenset()

    def test_that_are_closed_count_no_more(self, place: Place) -> None:
        team = place.has_team("Blue")
        place.has_budget(tokens=5, scope_kind="team", scope=str(team))
        assert not allowed([asks(place)])
        append(Append(team, 2, [TeamClosed()], place.context))
        assert allowed([asks(place)])

    def test_are_not_mistaken_for_agents_of_such_a_name(self, place: Place) -> None:
        place.has_team("Blue")
        assert allowed([asks(place, agent="not-an-id", model="user")])


class TestTeamBudgets:
    def test_all_of_a_persons_teams_apply_and_the_tightest_is_named(self, place: Place) -> None:
        blue, red, green = (place.has_team(name) for name in ("Blue", "Red", "Green"))
        wide = place.has_budget(tokens=1000, scope_kind="workspace")
        ids = {
            name: place.has_budget(tokens=tokens, scope_kind="team", scope=str(team), parent_id=wide)
            for name, team, tokens in (("blue", blue, 100), ("red", red, 40), ("green", green, 500))
        }
        assert allowed([asks(place, 30)])
        assert [balance(id_) for id_ in (wide, *ids.values())] == [(30, 0)] * 4
        refused = asks(place, 30)
        assert (refused.verdict.rule, refused.verdict.budget) == ("budget-exceeded", ids["red"])
        assert "10 of 40 tokens are left" in refused.verdict.reason
        found = standings(workspace_id=place.workspace_id, user_id=place.user_id, at=datetime.now(UTC))
        assert {one.id for one in found} == {wide, *ids.values()}

    def test_limit_no_other_person(self, place: Place) -> None:
        team = place.has_team("Blue")
        place.has_budget(tokens=5, scope_kind="team", scope=str(team))
        stranger = Place(workspace_id=place.workspace_id)
        assert not allowed([asks(place)])
        assert allowed([asks(stranger)])

    def test_a_team_whose_budget_is_parent_and_own_counts_once(self, place: Place) -> None:
        team = place.has_team("Blue")
        of_team = place.has_budget(tokens=100, scope_kind="team", scope=str(team))
        place.has_budget(tokens=50, scope_kind="user", parent_id=of_team)
        asks(place, 10)
        assert balance(of_team) == (10, 0)

    def test_book_where_was_reserved_after_the_person_has_moved(self, place: Place) -> None:
        blue, red = place.has_team("Blue"), place.has_team("Red", new_id())
        of_blue, of_red = (
            place.has_budget(tokens=100, scope_kind="team", scope=str(team)) for team in (blue, red)
        )
        first = asks(place, 60)
        place.changes_team(blue, left=[place.user_id])
        place.changes_team(red, joined=[place.user_id])
        second = asks(place, 60)
        assert allowed([first])
        assert allowed([second])
        ends = [settled(first.decision_id, tokens=50), settled(second.decision_id, tokens=20)]
        take_step(context=place.context, settlements=ends)
        assert (balance(of_blue), balance(of_red)) == ((0, 50), (0, 20))

    def test_what_began_and_is_lost_is_used_and_what_never_began_is_not(self, place: Place) -> None:
        team = place.has_team("Blue")
        of_team = place.has_budget(tokens=100, scope_kind="team", scope=str(team))
        began, never = asks(place, 30), asks(place, 40)
        place.changes_team(team, left=[place.user_id])
        ends = [settled(began.decision_id, "unknown"), settled(never.decision_id, "cancelled")]
        take_step(context=place.context, settlements=ends)
        assert balance(of_team) == (0, 30)
        assert load(began.decision_id)[-1].event.model_dump()["estimated"] is True

    def test_money_of_another_currency_is_refused_and_never_counted(self, place: Place) -> None:
        team = place.has_team("Blue")
        in_euros = place.has_budget(micros=1000, currency="EUR", scope_kind="team", scope=str(team))
        refused = asks(place, 0, micros=5, currency="USD")
        assert (refused.verdict.rule, refused.verdict.budget) == ("budget-exceeded", in_euros)
        assert "which it cannot hold" in refused.verdict.reason
        assert allowed([asks(place, 7)])
        assert balance(in_euros) == (7, 0)

    def test_warn_from_the_share_on_that_they_say(self, place: Place) -> None:
        team = place.has_team("Blue")
        of_team = place.has_budget(tokens=100, scope_kind="team", scope=str(team), warn_percent=80)
        assert asks(place, 79).verdict.warnings == ()
        assert asks(place, 1).verdict.warnings == (of_team,)


class TestPeriods:
    @pytest.mark.parametrize(
        ("period", "start", "end"),
        [
            ("hour", "2026-11-22T14:00Z", "2026-11-22T15:00Z"),
            ("quarter", "2026-10-01T00:00Z", "2027-01-01T00:00Z"),
            ("year", "2026-01-01T00:00Z", "2027-01-01T00:00Z"),
        ],
    )
    def test_are_recorded_with_the_decision(self, place: Place, period: str, start: str, end: str) -> None:
        budget = place.has_budget(tokens=100, period=period)
        now = datetime(2026, 11, 22, 14, 59, 59, tzinfo=UTC)
        (decided,) = take_step(context=place.context, acts=[place.act(tokens=10)], now=now)
        recorded = decision_made(decided.decision_id)
        (fact,) = request_of(made(decided), blobs_of(recorded)).budgets
        bounds = (datetime.fromisoformat(start), datetime.fromisoformat(end))
        assert (fact.period_start, fact.period_end) == bounds
        assert [entry.period_start for entry in made(decided).reserved] == [bounds[0]]
        # What ends in a later period is booked in that in which it was reserved.
        later = now + timedelta(days=800)
        take_step(context=place.context, settlements=[settled(decided.decision_id, tokens=4)], now=later)
        row = BudgetBalance.objects.get(budget_id=budget)
        assert (row.period_start, row.reserved_tokens, row.used_tokens) == (bounds[0], 0, 4)


class TestRaces:
    """Steps at once, each with a connection of its own."""

    @pytest.fixture(autouse=True)
    def consistent(self, database: Database) -> Any:
        yield
        asyncio.run(Sequencer().order())
        assert recount() == []
        assert redecide_all()[1] == []
        assert rebuild.differences() == []

    def test_two_hundred_calls_on_a_team_budget_for_fifty(self, place: Place) -> None:
        workspace = place.has_budget(tokens=700, scope_kind="workspace")
        mates = [place, *(Place(workspace_id=place.workspace_id) for _ in range(3))]
        team = place.has_team("Blue", *(mate.user_id for mate in mates))
        of_team = place.has_budget(tokens=500, scope_kind="team", scope=str(team), parent_id=workspace)
        for mate in mates:
            mate.has_budget(tokens=300, scope_kind="user", parent_id=of_team)
        outsider = Place(workspace_id=place.workspace_id)

        def call(number: int) -> Callable[[], bool]:
            here = [*mates, outsider][number % 5]
            return lambda: allowed(take_step(context=here.context, acts=[here.act(tokens=10)]))

        passed = at_once([call(number) for number in range(200)], threads=16)
        of_outsider = sum(passed[4::5])
        assert balance(of_team) == (500, 0)
        assert sum(passed) - of_outsider == 50
        assert balance(workspace) == (500 + 10 * of_outsider, 0)
        assert of_outsider == 20

    def test_a_workspace_budget_for_fifty_holds_over_several_teams(self, place: Place) -> None:
        workspace = place.has_budget(tokens=500, scope_kind="workspace")
        mates = [place, *(Place(workspace_id=place.workspace_id) for _ in range(3))]
        for number in range(4):
            members = (mates[number].user_id, mates[(number + 1) % 4].user_id)
            team = place.has_team(f"Team {number}", *members)
            place.has_budget(tokens=300, scope_kind="team", scope=str(team), parent_id=workspace)
        limits = [TaskLimit(task_id=new_id(), tokens=240) for _ in mates]

        def call(number: int) -> Callable[[], bool]:
            here = mates[number % 4]
            act = here.act(tokens=10, task_limit=limits[number % 4])
            return lambda: allowed(take_step(context=here.context, acts=[act]))

        assert sum(at_once([call(number) for number in range(200)], threads=16)) == 50
        assert balance(workspace) == (500, 0)
        rows = BudgetBalance.objects.filter(period_start=EPOCH).exclude(budget_id=workspace)
        assert all(row.reserved_tokens <= 300 for row in rows)

    @pytest.mark.timeout(120)
    def test_people_who_move_meanwhile_never_overspend(self, place: Place) -> None:
        workspace = place.has_budget(tokens=900, scope_kind="workspace")
        mates = [place, *(Place(workspace_id=place.workspace_id) for _ in range(3))]
        teams = [place.has_team(name, *(mate.user_id for mate in mates)) for name in ("Blue", "Red")]
        limits = {
            place.has_budget(tokens=400, scope_kind="team", scope=str(team), parent_id=workspace): 400
            for team in teams
        }
        over: list[tuple[UUID, int]] = []
        moving = threading.Lock()
        inside = {team: {mate.user_id for mate in mates} for team in teams}

        def move(number: int) -> bool:
            chance = random.Random(number)  # a reproducible story, no secret
            team, mate = chance.choice(teams), chance.choice(mates).user_id
            # As the command does, which locks the workspace's row.
            with moving:
                if mate in inside[team]:
                    place.changes_team(team, left=[mate])
                    inside[team].remove(mate)
                else:
                    place.changes_team(team, joined=[mate])
                    inside[team].add(mate)
            return False

        def act(number: int) -> bool:
            chance = random.Random(number)
            here = chance.choice(mates)
            asked = here.act(tokens=10)
            passed = allowed(take_step(context=here.context, acts=[asked]))
            over.extend(
                (row.budget_id, row.reserved_tokens + row.used_tokens)
                for row in BudgetBalance.objects.filter(budget_id__in=[workspace, *limits])
                if row.reserved_tokens + row.used_tokens > limits.get(row.budget_id, 900)
            )
            if passed and chance.random() < 0.5:
                outcome: Any = chance.choice(["succeeded", "unknown", "cancelled"])
                tokens = chance.randint(0, 10) if outcome == "succeeded" else 0
                end = settled(asked.decision_id, outcome, tokens=tokens)
                take_step(context=here.context, settlements=[end])
            return passed

        work = [(lambda n=n: move(n) if n % 8 == 0 else act(n)) for n in range(240)]
        assert sum(at_once(work, threads=12)) > 40
        assert over == []
