"""Requests of examples, written for people."""

from typing import Any
from uuid import UUID

import pytest

from cartrita.errors import BadInput
from governance import cel
from governance.decide import Budget, decide
from governance.examples import request_from_names, run_examples
from tests.governance.policies import policy, rule

RULES = policy(
    rule("ask", "escalate", "'pii' in actor_labels", priority=1),
    rule("slow", "throttle", parameters={"rate": "1/minute"}, priority=2),
    rule("warned", "audit", "budget.warned", priority=3),
    rule("default", "allow"),
)
CALL: dict[str, Any] = {"kind": "tool_call", "tool.name": "calculate"}


def decided(**facts: Any) -> tuple[str, str]:
    verdict = decide(request_from_names({**CALL, **facts}, RULES), RULES)
    return verdict.outcome, verdict.rule


class TestRequestFromNames:
    def test_takes_budgets_as_people_write_them(self) -> None:
        near = {"name": "team", "limit_tokens": 100, "used_tokens": 85}
        asked = request_from_names({**CALL, "budgets": [near, {"limit_micros": 5}]})
        assert {one.name for one in asked.budgets} == {"team", "workspace"}
        assert asked.budget == Budget(limit_tokens=100, used_tokens=85)
        assert decided(budgets=[near]) == ("audit", "warned")
        assert decided(budgets=[{**near, "limit_tokens": 85}], **{"cost.tokens": 1}) == (
            "deny",
            "budget-exceeded",
        )

    def test_takes_how_many_acts_a_bucket_holds(self) -> None:
        assert decided(throttles={"slow": 0.5}) == ("throttle", "slow")
        assert decided(throttles={"slow": 1}) == ("allow", "slow")
        assert request_from_names({**CALL, "throttles": {"slow": 1.5}}).throttles == {"slow": 1500}

    def test_takes_the_rules_under_which_a_person_approved(self) -> None:
        assert decided(actor_labels=["pii"]) == ("escalate", "ask")
        assert decided(actor_labels=["pii"], grants=["ask"]) == ("allow", "ask")

    def test_says_the_same_on_every_day(self) -> None:
        given = {**CALL, "budgets": [{"limit_tokens": 9}], "grants": ["ask"], "throttles": {"slow": 2}}
        assert request_from_names(given, RULES).hash == request_from_names(given, RULES).hash
        assert request_from_names(given, RULES).workspace_id == UUID(int=0)

    def test_knows_every_name_that_conditions_read(self) -> None:
        derived = {"budget.left_tokens", "budget.left_micros", "budget.left_percent", "budget.warned"}
        values = {"at": "2026-03-01T12:00:00+00:00", "args": {}, "environment": {}, "kind": "plan"}
        for name, (kind, _) in cel.VARIABLES.items():
            if name in derived:
                continue
            sort = kind.name()
            empty = {"INT": 1, "BOOL": False}.get(sort, [] if sort.startswith("LIST") else "")
            value = values.get(name, empty)
            if name in {"workspace", "session"}:
                value = str(UUID(int=3))
            if name == "cost.currency":
                value = "EUR"
            asked = request_from_names({"kind": "plan", name: value})
            assert asked.subject_kind == "plan", name

    @pytest.mark.parametrize(
        ("facts", "message"),
        [
            ({"grants": ["nobody"]}, "grants names 'nobody', which is no rule of this policy"),
            ({"grants": "ask"}, "grants names 'a'"),
            ({"throttles": {"slow": -1}}, "say how many acts"),
            ({"throttles": {"slow": True}}, "say how many acts"),
            ({"throttles": ["slow"]}, "not valid"),
            ({"budgets": [{"limit": 3}]}, "budgets has no limit; known names: name, limit_tokens"),
            ({"budgets": [{"limit_tokens": "3"}]}, "budgets.limit_tokens is '3'"),
            ({"budgets": 3}, "not valid"),
            ({"budgets": ["x"]}, "budgets has no x"),
            ({"budget.warned": True}, "budget.warned is not a known name"),
            ({"actor_labels": 3}, "not valid"),
        ],
    )
    def test_says_what_is_wrong(self, facts: dict[str, Any], message: str) -> None:
        with pytest.raises(BadInput) as refused:
            request_from_names({**CALL, **facts}, RULES)
        assert message in refused.value.message


class TestRunExamples:
    def test_decides_with_the_facts_of_the_example(self) -> None:
        shown = rule(
            "ask",
            "escalate",
            examples=[
                {"given": CALL, "then": "escalate"},
                {"given": {**CALL, "grants": ["ask"]}, "then": "allow"},
                {"given": {**CALL, "grants": ["asked"]}, "then": "allow"},
            ],
        )
        (failure,) = run_examples(policy(shown))
        assert (failure.number, failure.message) == (
            3,
            "grants names 'asked', which is no rule of this policy.",
        )
