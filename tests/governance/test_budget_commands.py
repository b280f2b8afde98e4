"""Budgets on the real database: the tree, what applies to an act, balances, roles."""

from datetime import UTC, datetime
from io import StringIO
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.core.management import CommandError, call_command

from cartrita.accounts.permissions import RoleMissing
from cartrita.errors import BadInput
from cartrita.eventstore import StreamMoved, rebuild
from governance.budget import BudgetNotFound, WrongParent
from governance.commands import budgets as commands
from governance.models import BudgetBalance
from governance.queries import budgets as queries
from sessions_app.commands import create_session
from tasks_app.models import TaskRow
from tests.accounts.people import Person, someone
from tests.databases import Database
from tests.governance.approvals import as_caller

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

    def test_checks_balances(self, ann: Person) -> None:
        assert "equal the sums" in self.run("--check")
        budget_id = put(ann, period="total")
        spend(budget_id, ann, datetime(1970, 1, 1, tzinfo=UTC), used_tokens=5)
        with pytest.raises(CommandError, match="differ"):
            self.run("--check")
