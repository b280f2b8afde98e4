from governance.queries.decisions import recount, redecide_all
from governance.step import take_step
from tests.databases import Database
from tests.governance.policies import rule
from tests.governance.steps import Place, balance, settled

ALLOW = rule("ok", "allow")


class TestTakeStep:
    def test_reserves_and_settles(self, database: Database) -> None:
        place = Place()
        place.follows(ALLOW)
        budget = place.has_budget(tokens=100)
        act = place.act(tokens=60)
        (decided,) = take_step(context=place.context, acts=[act])
        assert decided.permit is not None
        decided.permit.check(act.request)
        assert balance(budget) == (60, 0)
        (denied,) = take_step(context=place.context, acts=[place.act(tokens=60)])
        assert (denied.verdict.rule, denied.verdict.budget, denied.permit) == (
            "budget-exceeded",
            budget,
            None,
        )
        assert balance(budget) == (60, 0)
        take_step(context=place.context, settlements=[settled(act.decision_id, tokens=20)])
        assert balance(budget) == (0, 20)
        assert recount() == []
        count, differences = redecide_all()
        assert (count, differences) == (2, [])
