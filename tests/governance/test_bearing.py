import random
from typing import Any
from uuid import UUID

import pytest

from cartrita.eventstore import Append, append, new_id
from governance.budget import BudgetClosed
from governance.models import PolicyDecision
from governance.projections import decisions
from governance.queries.bearing import bearing
from governance.queries.budgets import applicable, scopes_of
from tests.databases import Database
from tests.governance.policies import NOON, rule
from tests.governance.steps import Place


@pytest.fixture
def place(database: Database) -> Place:
    made = Place()
    made.follows(rule("ok", "allow"))
    return made


class TestBearing:
    @pytest.mark.parametrize("seed", range(4))
    def test_finds_the_budgets_that_apply(self, place: Place, seed: int) -> None:
        chance = random.Random(seed)
        teams = [place.has_team("Blue"), place.has_team("Red"), place.has_team("Green", new_id())]
        people = [place.user_id, new_id()]
        tasks = [new_id() for _ in range(3)]
        names = [
            *(("team", str(team)) for team in teams),
            *(("user", str(person)) for person in people),
            *(("task", str(task)) for task in tasks),
            ("workspace", str(place.workspace_id)),
            ("session", str(place.session_id)),
            ("agent", "writer"),
        ]
        chance.shuffle(names)
        made: list[UUID] = []
        for kind, name in names:
            for period in chance.sample(["total", "day"], chance.randint(1, 2)):
                parent_id = chance.choice([None, *made])
                made.append(
                    place.has_budget(
                        tokens=10, scope_kind=kind, scope=name, parent_id=parent_id, period=period
                    )
                )
        for closed in chance.sample(made, 3):
            append(Append(closed, 1, [BudgetClosed(by="system")], place.context))
        asked: list[dict[str, Any]] = [
            {"user_id": people[0], "session_id": place.session_id, "task_ids": tasks[:2]},
            {"user_id": people[1], "agent": "writer", "task_ids": [tasks[2], tasks[2]]},
            {},
        ]
        facts = [{"workspace_id": place.workspace_id, **one} for one in asked]
        found = bearing(
            workspace_id=place.workspace_id,
            decision_ids=[],
            scopes=[scopes_of(**one) for one in facts],
            at=NOON,
        )
        for budgets, one in zip(found.budgets, facts, strict=True):
            assert [(budget.id, budget.period_start, budget.period_end) for budget in budgets] == [
                (row.id, start, end) for row, start, end in applicable(**one, at=NOON)
            ]
        assert found.teams == [{"Blue", "Red"}, set(), set()]


class TestRowsOfDecisions:
    def test_have_every_column_written(self) -> None:
        assert {*decisions._PACKERS} == {field.column for field in PolicyDecision._meta.concrete_fields}
