"""Budgets on the real database: the tree, what applies to an act, balances, roles."""

import csv
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from cartrita.accounts.commands import change_workspace_settings
from cartrita.accounts.permissions import RoleMissing
from cartrita.accounts.team import TeamIsClosed
from cartrita.accounts.team_commands import close_team, create_team
from cartrita.errors import BadInput
from cartrita.eventstore import StreamMoved, load, rebuild
from cartrita.eventstore.models import Event
from governance.budget import EPOCH, BudgetNotFound, CurrencyFixed, WrongParent, period_bounds
from governance.commands import budgets as commands
from governance.exports import DataExported
from governance.known_scopes import UnknownScope
from governance.models import Budget, BudgetBalance
from governance.queries import budget_history as history
from governance.queries import budgets as queries
from governance.step import take_step
from sessions_app.commands import create_session
from tasks_app.models import TaskRow
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.approvals import as_caller
from tests.governance.policies import rule
from tests.governance.steps import Place, settled

pytestmark = pytest.mark.flow

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)


@pytest.fixture
def ann(database: Database) -> Person:
    return someone(roles=("member", "admin"))


def put(person: Person, scope_kind: Any = "workspace", **more: Any) -> UUID:
    terms = {"name": scope_kind.title(), "limit_tokens": 100, **more}
    return commands.set_budget(caller=as_caller(person), scope_kind=scope_kind, **terms)[0]


def chat_of(person: Person) -> UUID:
    """Return a new session."""
    return create_session(user_id=person.id, workspace_id=person.workspace_id, actor=f"user:{person.id}")


def task_of(person: Person, session_id: UUID) -> UUID:
    """Return a task that the read model knows."""
    task_id = uuid4()
    TaskRow.objects.create(
        id=task_id,
        workspace_id=person.workspace_id,
        session_id=session_id,
        plan_id=uuid4(),
        status="ready",
        agent_assigned="assistant",
        created_at=NOON,
        updated_at=NOON,
    )
    return task_id


def spend(budget_id: UUID, person: Person, start: datetime, **amounts: int) -> None:
    BudgetBalance.objects.create(
        budget_id=budget_id, workspace_id=person.workspace_id, period_start=start, **amounts
    )


class TestSetBudget:
    def test_stands_once_for_scope_and_period(self, ann: Person) -> None:
        first = put(ann)
        budget_id, recorded = commands.set_budget(
            caller=as_caller(ann), scope_kind="workspace", name="Workspace", limit_tokens=100
        )
        assert (budget_id, recorded) == (first, [])
        assert put(ann, period="day") != first
        assert put(ann, scope=str(ann.workspace_id), limit_tokens=7) == first
        assert queries.budget(first, as_caller(ann), at=NOON).limit_tokens == 7

    def test_is_for_keepers(self, ann: Person) -> None:
        ben = someone("ben@example.org", workspace_id=ann.workspace_id, roles=("member", "reviewer"))
        budget_id = put(ann)
        with pytest.raises(RoleMissing):
            put(ben)
        with pytest.raises(RoleMissing):
            commands.raise_budget(budget_id=budget_id, caller=as_caller(ben), reason="x", limit_tokens=200)
        with pytest.raises(RoleMissing):
            commands.close_budget(budget_id=budget_id, caller=as_caller(ben))

    def test_refuses_scopes_of_elsewhere(self, ann: Person) -> None:
        eve = someone("eve@example.org", roles=("member", "admin"))
        for kind, scope in (
            ("user", str(eve.id)),
            ("user", "ann"),
            ("user", ""),
            ("session", "x"),
            ("workspace", str(eve.workspace_id)),
            ("agent", ""),
            ("model", "a\0b"),
        ):
            with pytest.raises(BadInput):
                put(ann, kind, scope=scope)

    def test_refuses_parents_of_elsewhere_and_cycles(self, ann: Person) -> None:
        eve = someone("eve@example.org", roles=("member", "admin"))
        foreign = put(eve)
        top = put(ann)
        mine = put(ann, "user", scope=str(ann.id), parent_id=top)
        for kind, parent in (("user", foreign), ("user", uuid4()), ("user", mine), ("workspace", mine)):
            with pytest.raises(WrongParent):
                put(ann, kind, scope=str(ann.id) if kind == "user" else "", parent_id=parent)

    def test_meets_what_changed_meanwhile(self, ann: Person) -> None:
        put(ann)
        with pytest.raises(StreamMoved):
            put(ann, limit_tokens=5, expected_version=0)
        put(ann, limit_tokens=5, expected_version=1)


class TestScopes:
    """A budget is for what is there."""

    def test_names_the_agent_or_model_that_was_meant(self, ann: Person) -> None:
        for kind, written, meant in (("agent", "asistant", "assistant"), ("model", "GPT-4o", "gpt-4o")):
            with pytest.raises(UnknownScope, match=f"did you mean {meant}"):
                put(ann, kind, scope=written)
        with pytest.raises(UnknownScope, match="there are assistant") as raised:
            put(ann, "agent", scope="zzzzzz")
        assert "relay" in raised.value.details["known"]
        for name in ("planner", "critic", "relay"):
            put(ann, "agent", scope=name)

    def test_finds_no_session_task_or_team_of_elsewhere(self, ann: Person) -> None:
        eve = someone("eve@example.org", roles=("member", "admin"))
        session_id = chat_of(eve)
        theirs = create_team(caller=as_caller(eve), name="Blue")
        for kind, scope in (
            ("session", session_id),
            ("session", uuid4()),
            ("task", task_of(eve, session_id)),
            ("task", uuid4()),
            ("team", theirs),
            ("team", uuid4()),
            ("user", uuid4()),
        ):
            with pytest.raises(UnknownScope):
                put(ann, kind, scope=str(scope))

    def test_refuses_closed_teams_and_changes_budgets_that_stand(self, ann: Person) -> None:
        team_id = create_team(caller=as_caller(ann), name="Blue", members=[ann.id])
        budget_id = put(ann, "team", scope=str(team_id))
        close_team(team_id=team_id, caller=as_caller(ann))
        with pytest.raises(TeamIsClosed):
            put(ann, "team", scope=str(team_id), period="day")
        assert put(ann, "team", scope=str(team_id), limit_tokens=5) == budget_id
        commands.close_budget(budget_id=budget_id, caller=as_caller(ann))
        with pytest.raises(TeamIsClosed):
            put(ann, "team", scope=str(team_id))

    def test_lets_peoples_budgets_be_parts_of_those_of_their_teams(self, ann: Person) -> None:
        blue = create_team(caller=as_caller(ann), name="Blue", members=[ann.id])
        red = create_team(caller=as_caller(ann), name="Red")
        of_blue, of_red = (put(ann, "team", scope=str(team)) for team in (blue, red))
        put(ann, "user", scope=str(ann.id), parent_id=of_blue)
        with pytest.raises(WrongParent, match="not in the team"):
            put(ann, "user", scope=str(ann.id), parent_id=of_red)


class TestSettingsOfTheWorkspace:
    def test_are_what_new_budgets_take(self, ann: Person) -> None:
        first = put(ann)
        change_workspace_settings(caller=as_caller(ann), time_zone="Asia/Tokyo", currency="JPY")
        second = put(ann, period="day")
        found = {one.id: (one.time_zone, one.currency) for one in Budget.objects.all()}
        assert found == {first: ("UTC", "USD"), second: ("Asia/Tokyo", "JPY")}
        # What stands keeps its own where nothing is said.
        put(ann, limit_tokens=7)
        assert Budget.objects.get(id=first).time_zone == "UTC"

    def test_never_turn_money_of_one_currency_into_another(self, ann: Person) -> None:
        budget_id = put(ann, limit_micros=1000, period="month")
        now = timezone.now()
        start, _ = period_bounds("month", "UTC", now)
        before, _ = period_bounds("month", "UTC", start - timedelta(seconds=1))
        spend(budget_id, ann, before, used_micros=500)
        put(ann, limit_micros=1000, period="month", currency="EUR")
        put(ann, limit_micros=1000, period="month", currency="USD")
        spend(budget_id, ann, start, reserved_micros=1)
        with pytest.raises(CurrencyFixed):
            put(ann, limit_micros=1000, period="month", currency="EUR")
        put(ann, limit_micros=2000, period="month")


class TestApplicable:
    def test_are_those_of_the_act_and_their_ancestors(self, ann: Person) -> None:
        session_id = chat_of(ann)
        task_id = task_of(ann, session_id)
        top = put(ann)
        mine = put(ann, "user", scope=str(ann.id), parent_id=top, period="day")
        agent = put(ann, "agent", scope="assistant")
        model = put(ann, "model", scope="gpt-4o")
        session = put(ann, "session", scope=str(session_id), parent_id=mine, period="total")
        task = put(ann, "task", scope=str(task_id), parent_id=session, period="total")
        facts: dict[str, Any] = {
            "workspace_id": ann.workspace_id,
            "user_id": ann.id,
            "session_id": session_id,
            "task_ids": [str(task_id), "first"],
            "agent": "assistant",
            "model": "gpt-4o",
            "at": NOON,
        }
        found = queries.applicable(**facts)
        ids = [row.id for row, _, _ in found]
        assert ids == sorted([top, mine, agent, model, session, task])
        bounds = {row.id: (start, end) for row, start, end in found}
        assert bounds[mine] == (datetime(2026, 3, 4, tzinfo=UTC), datetime(2026, 3, 5, tzinfo=UTC))
        assert bounds[task] == (datetime(1970, 1, 1, tzinfo=UTC), None)
        # A task of another person counts against this session's user, as an ancestor.
        alone = {row.id for row, _, _ in queries.applicable(**{**facts, "user_id": uuid4(), "agent": "x"})}
        assert alone == {top, mine, model, session, task}
        nobody = queries.applicable(workspace_id=ann.workspace_id, at=NOON)
        assert [row.id for row, _, _ in nobody] == [top]
        assert queries.applicable(workspace_id=uuid4(), user_id=ann.id, at=NOON) == []

    def test_leave_closed_ones_out_and_see_beyond_them(self, ann: Person) -> None:
        top = put(ann)
        mine = put(ann, "user", scope=str(ann.id), parent_id=top)
        session_id = chat_of(ann)
        session = put(ann, "session", scope=str(session_id), parent_id=mine)
        commands.close_budget(budget_id=mine, caller=as_caller(ann))
        found = queries.applicable(
            workspace_id=ann.workspace_id, user_id=ann.id, session_id=session_id, at=NOON
        )
        assert {row.id for row, _, _ in found} == {top, session}


class TestTree:
    def test_shows_balances_of_the_period(self, ann: Person) -> None:
        top = put(ann)
        mine = put(ann, "user", scope=str(ann.id), parent_id=top, limit_micros=1000)
        march = datetime(2026, 3, 1, tzinfo=UTC)
        spend(top, ann, march, used_tokens=60, reserved_tokens=25)
        spend(mine, ann, march, used_micros=500)
        spend(mine, ann, datetime(2026, 2, 1, tzinfo=UTC), used_micros=999)
        [root] = queries.tree(ann.workspace_id, NOON)
        assert (root.id, root.percent, root.left_tokens, root.warning) == (top, 85, 15, True)
        [part] = root.children
        assert (part.id, part.percent, part.left_micros, part.warning) == (mine, 50, 500, False)
        facts: dict[str, Any] = {"workspace_id": ann.workspace_id, "user_id": ann.id, "at": NOON}
        found = {one.id: (one.percent, one.warning) for one in queries.standings(**facts)}
        assert found == {top: (85, True), mine: (50, False)}
        assert queries.standings(workspace_id=uuid4(), at=NOON) == []

    def test_is_for_who_looks_after_the_workspace(self, ann: Person) -> None:
        budget_id = put(ann)
        member = someone("ben@example.org", workspace_id=ann.workspace_id)
        eve = someone("eve@example.org", roles=("member", "admin"))
        with pytest.raises(RoleMissing):
            queries.budget(budget_id, as_caller(member), at=NOON)
        with pytest.raises(BudgetNotFound):
            queries.budget(budget_id, as_caller(eve), at=NOON)
        with pytest.raises(BudgetNotFound):
            commands.close_budget(budget_id=budget_id, caller=as_caller(eve))
        with pytest.raises(BudgetNotFound):
            commands.raise_budget(budget_id=uuid4(), caller=as_caller(ann), reason="x", limit_tokens=5)


class TestRunsOut:
    """When a budget is used up, if it goes on as since its period began."""

    @pytest.mark.parametrize(
        ("used", "runs_out"),
        [(9, None), (25, None), (50, None), (60, "2026-03-04T20:00Z"), (100, "2026-03-04T12:00Z")],
    )
    def test_is_told_from_a_tenth_on(self, used: int, runs_out: str | None, ann: Person) -> None:
        budget_id = put(ann, period="day")
        spend(budget_id, ann, datetime(2026, 3, 4, tzinfo=UTC), used_tokens=used)
        [one] = queries.tree(ann.workspace_id, NOON)
        assert one.runs_out_at == (datetime.fromisoformat(runs_out) if runs_out else None)

    def test_of_a_total_is_not_told(self, ann: Person) -> None:
        budget_id = put(ann, period="total")
        spend(budget_id, ann, EPOCH, used_tokens=90)
        assert queries.tree(ann.workspace_id, NOON)[0].runs_out_at is None


class TestHistory:
    @pytest.fixture
    def place(self, ann: Person) -> Place:
        made = Place(workspace_id=ann.workspace_id, user_id=ann.id)
        made.follows(rule("ok", "allow"))
        return made

    def test_shows_each_period_with_the_limits_at_its_end(self, ann: Person) -> None:
        now = timezone.now()
        budget_id = put(ann, period="month")
        commands.raise_budget(budget_id=budget_id, caller=as_caller(ann), reason="More.", limit_tokens=200)
        starts = [period_bounds("month", "UTC", now)[0]]
        for _ in range(2):
            starts.append(period_bounds("month", "UTC", starts[-1] - timedelta(days=1))[0])
        for number, start in enumerate(starts):
            spend(budget_id, ann, start, used_tokens=10 * (number + 1))
        standing = queries.budget(budget_id, as_caller(ann), at=now)
        first = history.periods(standing, limit=2)
        found = [*first.items, *history.periods(standing, limit=2, cursor=first.next_cursor).items]
        assert [one.period_start for one in found] == starts
        assert [(one.used_tokens, one.limit_tokens) for one in found] == [(10, 200), (20, 100), (30, 100)]
        assert [one.period_end for one in found][1:] == starts[:-1]

    def test_names_the_decisions_that_used_most(self, ann: Person, place: Place) -> None:
        budget_id = put(ann, period="month", limit_tokens=100, limit_micros=10_000)
        now = timezone.now()
        costs = [(10, 5), (30, 1), (20, 9)]
        ids = []
        for tokens, micros in costs:
            (decided,) = take_step(
                context=place.context, acts=[place.act(tokens=tokens, micros=micros)], now=now
            )
            ids.append(decided.decision_id)
        take_step(context=place.context, settlements=[settled(ids[1], tokens=29, cost_micros=50)], now=now)
        take_step(context=place.context, settlements=[settled(ids[0], "cancelled")], now=now)
        (refused,) = take_step(context=place.context, acts=[place.act(tokens=100)], now=now)
        assert refused.permit is None
        standing = queries.budget(budget_id, as_caller(ann), at=now)
        found = history.spending(standing, at=now + timedelta(seconds=1))
        assert [(one.decision_id, one.tokens, one.micros, one.open) for one in found.spenders] == [
            (ids[1], 29, 50, False),
            (ids[2], 20, 9, True),
        ]
        assert found.refused == 1
        earlier = standing.period_start - timedelta(days=20)
        assert history.spending(standing, at=now, period_start=earlier).spenders == ()

    def test_is_answered_over_rest(self, ann: Person, place: Place) -> None:
        budget_id = put(ann, period="month")
        take_step(context=place.context, acts=[place.act(tokens=10)])
        client = ann.program()
        [period] = client.get(f"/api/v2/budgets/{budget_id}/periods").json()["items"]
        assert (period["reserved_tokens"], period["limit_tokens"]) == (10, 100)
        spent = client.get(f"/api/v2/budgets/{budget_id}/spending?limit=3").json()
        assert [one["tokens"] for one in spent["spenders"]] == [10]
        for query in (
            "limit=0",
            "limit=",
            "period_start=",
            "period_start=2026-03-01T00:00:00",
            "period_start=9999-12-31T23:00:00Z",
            "period_start=0001-01-01T00:00:00%2B10:00",
        ):
            assert client.get(f"/api/v2/budgets/{budget_id}/spending?{query}").status_code == 400, query
        assert client.get(f"/api/v2/budgets/{uuid4()}/periods").status_code == 404
        member = someone("ben@example.org", workspace_id=ann.workspace_id)
        for part in ("periods", "spending"):
            assert member.program().get(f"/api/v2/budgets/{budget_id}/{part}").status_code == 403


class TestExport:
    def test_quotes_what_spreadsheets_take_for_formulas_and_is_recorded(self, ann: Person) -> None:
        top = put(ann, name="=1+1")
        put(ann, "user", scope=str(ann.id), parent_id=top, name="@Ann", period="day")
        answer = ann.program().get("/api/v2/budgets/export")
        assert answer["Content-Type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(StringIO(answer.content.decode("utf-8-sig"))))
        assert [(row["name"], row["level"], row["scope_name"]) for row in rows] == [
            ("'=1+1", "0", ""),
            ("'@Ann", "1", "Ann"),
        ]
        [recorded] = load(Event.objects.get(type="governance.DataExported").stream_id)
        assert isinstance(recorded.event, DataExported)
        assert (recorded.event.what, recorded.event.rows) == ("budgets", 2)
        assert (recorded.workspace_id, recorded.actor) == (ann.workspace_id, recorded.event.by)

    def test_is_for_who_looks_after_the_workspace(self, ann: Person) -> None:
        put(ann)
        member = someone("ben@example.org", workspace_id=ann.workspace_id)
        assert member.program().get("/api/v2/budgets/export").status_code == 403
        assert not Event.objects.filter(type="governance.DataExported").exists()


class TestRest:
    def test_names_teams_and_takes_the_workspaces_settings(self, ann: Person) -> None:
        change_workspace_settings(caller=as_caller(ann), time_zone="Europe/Berlin", currency="EUR")
        team_id = create_team(caller=as_caller(ann), name="Blue", members=[ann.id])
        terms = {
            "name": "Blue's",
            "scope_kind": "team",
            "scope": str(team_id),
            "period": "quarter",
            "limit_tokens": 5,
        }
        client = ann.program()
        answer = client.post("/api/v2/budgets", terms, content_type="application/json")
        assert answer.status_code == 201, answer.json()
        made = answer.json()
        assert (made["scope_name"], made["time_zone"], made["currency"]) == ("Blue", "Europe/Berlin", "EUR")
        [node] = client.get("/api/v2/budgets").json()["items"]
        assert (node["scope_name"], node["runs_out_at"], node["children"]) == ("Blue", None, [])
        unknown = client.post(
            "/api/v2/budgets",
            {**terms, "scope_kind": "agent", "scope": "asistant"},
            content_type="application/json",
        )
        assert unknown.status_code == 400
        assert unknown.json()["code"] == "unknown_scope"


class TestReadModel:
    def test_is_the_same_after_a_rebuild(self, ann: Person, database: Database) -> None:
        budget_id = put(ann)
        commands.raise_budget(budget_id=budget_id, caller=as_caller(ann), reason="More.", limit_tokens=200)
        commands.close_budget(budget_id=put(ann, period="day"), caller=as_caller(ann))
        put(ann, period="day", limit_tokens=1)
        with database.as_owner():
            differences = rebuild.differences()
        assert not differences


class TestCommand:
    def run(self, *arguments: str) -> str:
        out = StringIO()
        call_command("budgets", "--user", "ann@example.org", *arguments, stdout=out)
        return out.getvalue()

    def test_sets_raises_lists_and_closes(self, ann: Person) -> None:
        budget_id = self.run("set", "Team", "--tokens", "100", "--period", "total").strip()
        self.run("raise", budget_id, "--tokens", "200", "--reason", "More.")
        assert "200 of 200 tokens left" in self.run("list")
        self.run("close", budget_id)
        assert self.run("list") == ""
        with pytest.raises(CommandError, match="limit_tokens"):
            self.run("set", "Team")

    def test_finds_teams_and_people_by_name(self, ann: Person) -> None:
        create_team(caller=as_caller(ann), name="Blue", members=[ann.id])
        top = self.run("set", "Blue's", "--kind", "team", "--scope", "blue", "--tokens", "100").strip()
        mine = ("--kind", "user", "--scope", "ann@example.org", "--parent", top, "--period", "hour")
        self.run("set", "Mine", *mine, "--tokens", "50")
        listed = self.run("list")
        assert "Blue's (team Blue, month until " in listed
        assert "  Mine (user Ann, hour until " in listed.partition("\n")[2].partition("  ")[2]
        with pytest.raises(CommandError, match="no team 'Red'; there are Blue"):
            self.run("set", "Red's", "--kind", "team", "--scope", "Red", "--tokens", "5")
        with pytest.raises(CommandError, match="did you mean assistant"):
            self.run("set", "Agent", "--kind", "agent", "--scope", "asistant", "--tokens", "5")

    def test_shows_where_it_went_and_exports(self, ann: Person) -> None:
        budget_id = self.run("set", "Team", "--tokens", "100", "--period", "total").strip()
        place = Place(workspace_id=ann.workspace_id, user_id=ann.id)
        place.follows(rule("ok", "allow"))
        (decided,) = take_step(context=place.context, acts=[place.act(tokens=10)])
        take_step(context=place.context, acts=[place.act(tokens=100)])
        said = self.run("show", budget_id)
        assert "in total: 0 of 100 tokens, 10 held back, 10 %" in said
        assert f"{decided.decision_id}  tool_call calculate: 10 tokens held back" in said
        assert "It refused 1 act." in said
        assert self.run("export").startswith("id,name,level,")

    def test_checks_balances(self, ann: Person) -> None:
        assert "equal the sums" in self.run("--check")
        budget_id = put(ann, period="total")
        spend(budget_id, ann, datetime(1970, 1, 1, tzinfo=UTC), used_tokens=5)
        with pytest.raises(CommandError, match="differ"):
            self.run("--check")
