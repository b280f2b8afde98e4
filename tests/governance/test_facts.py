"""Budgets, throttles and grants: facts of the request that no rule, or one rule, answers to."""

from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartrita.errors import BadInput
from cartrita.eventstore.canonical import canonical_json
from governance.decide import (
    Budget,
    BudgetFact,
    Cost,
    DecisionRequest,
    GrantFact,
    decide,
    delivery,
    tightest,
)
from governance.policy import PolicySet, load_policy
from governance.rule import ACT, GrantScope, Outcome, Throttle
from tests.governance.policies import NOON, policy, request, rule

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
ONE, TWO, THREE = (UUID(int=number) for number in (1, 2, 3))

amounts = st.none() | st.integers(0, 50)
budget_facts = st.lists(
    st.builds(
        lambda number, **more: budget(UUID(int=number), **more),
        st.integers(1, 6),
        limit_tokens=amounts,
        used_tokens=st.integers(0, 60),
        limit_micros=amounts,
        used_micros=st.integers(0, 60),
        currency=st.sampled_from(["USD", "EUR"]),
    ),
    max_size=4,
    unique_by=lambda fact: fact.id,
).map(tuple)
costs = st.builds(
    Cost, tokens=st.integers(0, 40), micros=st.integers(0, 40), currency=st.sampled_from(["USD", "EUR"])
)
conditions = st.sampled_from([None, "true", "kind == 'plan'", "args.missing == 1", "cost.tokens > 10"])
written_rules = st.lists(
    st.tuples(st.sampled_from(get_args(Outcome)), conditions, st.integers(0, 3)), max_size=6
).map(lambda several: [written(f"r{n}", *one) for n, one in enumerate(several)])
levels = st.dictionaries(st.sampled_from([f"r{n}" for n in range(6)]), st.integers(0, 3 * ACT))


def written(name: str, outcome: str, condition: str | None, priority: int) -> dict[str, Any]:
    parameters = {"rate": "2/minute"} if outcome == "throttle" else {}
    return rule(name, outcome, condition, priority=priority, parameters=parameters)


def budget(budget_id: UUID = ONE, **more: Any) -> BudgetFact:
    given: dict[str, Any] = {
        "id": budget_id,
        "name": f"budget {budget_id.int}",
        "scope_kind": "user",
        "scope": "user-1",
        "period_start": MIDNIGHT,
        "period_end": MIDNIGHT + timedelta(days=1),
    }
    return BudgetFact(**{**given, **more})


def grant_for(rules: PolicySet, name: str, scope: GrantScope = "once", number: int = 9) -> GrantFact:
    return GrantFact(approval_id=UUID(int=number), rule=name, rule_hash=rules.rule_hashes[name], scope=scope)


ALLOWING = policy(rule("default", "allow"))


class TestBudgets:
    def test_deny_what_they_do_not_hold_whatever_rules_say(self) -> None:
        team = budget(limit_tokens=100, used_tokens=95)
        verdict = decide(request(budgets=(team,), cost=Cost(tokens=6)), ALLOWING)
        assert (verdict.outcome, verdict.rule, verdict.budget) == ("deny", "budget-exceeded", ONE)
        assert verdict.reason == (
            "The budget budget 1 does not hold this: 5 of 100 tokens are left, and the act may cost 6."
        )
        assert verdict.message_for_agent.startswith("Denied: The budget budget 1")
        assert decide(request(budgets=(team,), cost=Cost(tokens=5)), ALLOWING).allowed

    def test_deny_what_waits_and_leave_a_denial_to_its_rule(self) -> None:
        short = {"budgets": (budget(limit_tokens=1),), "cost": Cost(tokens=2)}
        rules = policy(rule("ask", "escalate"), rule("default", "allow"))
        assert decide(request(**short), rules).rule == "budget-exceeded"
        verdict = decide(request(**short), policy(rule("no", "deny")))
        assert (verdict.rule, verdict.budget) == ("no", None)

    def test_hold_what_costs_nothing_though_overdrawn(self) -> None:
        overdrawn = budget(limit_tokens=10, used_tokens=12, limit_micros=0)
        assert decide(request(budgets=(overdrawn,)), ALLOWING).allowed

    def test_name_the_one_that_leaves_least_in_proportion(self) -> None:
        roomy, tight = (
            budget(ONE, limit_tokens=1000, used_tokens=900),
            budget(TWO, limit_tokens=200, used_tokens=190),
        )
        other = budget(THREE, limit_micros=5, used_micros=5)
        verdict = decide(request(budgets=(other, roomy, tight), cost=Cost(tokens=500)), ALLOWING)
        assert verdict.budget == TWO

    def test_deny_money_of_another_currency_and_say_so(self) -> None:
        euros = budget(limit_micros=1_000_000, currency="EUR")
        verdict = decide(request(budgets=(euros,), cost=Cost(micros=1)), ALLOWING)
        assert verdict.rule == "budget-exceeded"
        assert "it is in EUR, and the act costs USD" in verdict.reason
        assert decide(request(budgets=(euros,), cost=Cost(tokens=9)), ALLOWING).allowed

    def test_write_money_in_units(self) -> None:
        verdict = decide(
            request(budgets=(budget(limit_micros=2_500_000, used_micros=1),), cost=Cost(micros=3_000_000)),
            ALLOWING,
        )
        assert "2.499999 of 2.5 USD are left, and the act may cost 3" in verdict.reason

    def test_warn_once_the_act_is_booked(self) -> None:
        near, far = (
            budget(ONE, limit_tokens=100, used_tokens=70),
            budget(TWO, limit_tokens=100, warn_percent=90),
        )
        asked = request(budgets=(near, far), cost=Cost(tokens=10))
        assert decide(asked, ALLOWING).warnings == (ONE,)
        assert decide(asked, policy(rule("no", "deny"))).warnings == ()

    def test_are_read_by_conditions(self) -> None:
        rules = policy(
            rule("warned", "audit", "budget.warned && budget.left_percent == 30"), rule("default", "allow")
        )
        near = budget(ONE, limit_tokens=100, used_tokens=70)
        assert decide(request(budgets=(near,), cost=Cost(tokens=10)), rules).outcome == "audit"
        assert decide(request(budgets=(near,), cost=Cost(tokens=9)), rules).outcome == "allow"
        assert decide(request(), rules).outcome == "allow"

    def test_have_a_tightest(self) -> None:
        tight, roomy = budget(TWO, limit_tokens=10, used_tokens=9), budget(ONE, limit_micros=10)
        assert tightest([roomy, tight, budget(THREE)]) == Budget(limit_tokens=10, used_tokens=9)
        assert tightest([budget()]) == tightest([]) == Budget()

    @settings(max_examples=100, deadline=None)
    @given(facts=budget_facts, cost=costs, rules=written_rules)
    def test_never_let_pass_what_one_of_them_does_not_hold(
        self, facts: tuple[BudgetFact, ...], cost: Cost, rules: list[dict[str, Any]]
    ) -> None:
        several = policy(*rules, rule("default", "allow", priority=9))
        asked = request(budgets=facts, budget=tightest(facts), cost=cost)
        verdict, unlimited = decide(asked, several), decide(request(cost=cost), several)
        short = {fact.id: fact for fact in facts if _does_not_hold(fact, cost)}
        if not short:
            assert (verdict.outcome, verdict.rule) == (unlimited.outcome, unlimited.rule)
            return
        assert verdict.outcome == "deny"
        if unlimited.outcome != "deny":
            assert verdict.rule == "budget-exceeded"
            assert verdict.budget is not None
            assert short[verdict.budget].left == min(fact.left for fact in short.values())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"limit_tokens": -1},
            {"used_micros": 1.5},
            {"warn_percent": 0},
            {"currency": "dollars"},
            {"period_start": datetime(2026, 1, 1)},  # noqa: DTZ001 # the naive time is what is refused
        ],
    )
    def test_refuse_amounts_that_are_none(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(BadInput):
            budget(**wrong)


class TestThrottles:
    RULES = policy(
        rule("slow", "throttle", parameters={"rate": "10/minute", "burst": 2}, priority=5),
        rule("default", "allow"),
    )

    def test_let_pass_while_the_bucket_holds_an_act(self) -> None:
        for levels in ({}, {"slow": ACT}):
            verdict = decide(request(throttles=levels), self.RULES)
            assert (verdict.outcome, verdict.rule, verdict.consumed) == ("allow", "slow", ("slow",))
            assert verdict.message_for_agent == ""
            assert verdict.retry_after_ms is None

    def test_say_when_to_come_back(self) -> None:
        verdict = decide(request(throttles={"slow": 400}), self.RULES)
        assert (verdict.outcome, verdict.rule, verdict.retry_after_ms) == ("throttle", "slow", 3600)
        assert verdict.consumed == ()
        assert verdict.parameters == {"rate": "10/minute", "burst": 2}
        assert not verdict.allowed

    def test_say_the_longest_wait(self) -> None:
        rules = policy(
            rule("a", "throttle", parameters={"rate": "1/second"}),
            rule("b", "throttle", parameters={"rate": "1/hour"}),
        )
        verdict = decide(request(throttles={"a": 0, "b": 0}), rules)
        assert (verdict.rule, verdict.retry_after_ms) == ("a", 3_600_000)

    def test_take_nothing_when_the_act_does_not_happen(self) -> None:
        rules = policy(rule("slow", "throttle", parameters={"rate": "1/second"}), rule("ask", "escalate"))
        assert decide(request(), rules).consumed == ()

    def test_name_the_rules_that_may_throttle(self) -> None:
        rules = policy(
            rule("here", "throttle", "false", parameters={"rate": "1/second"}),
            rule("there", "throttle", parameters={"rate": "1/second"}, match={"kinds": ["plan"]}),
            rule("default", "allow"),
        )
        assert [one.name for one in rules.throttles_for(request())] == ["here"]
        assert rules.throttle("there").per == "session"

    @given(
        count=st.integers(1, 1000),
        unit=st.sampled_from(["second", "minute", "hour", "day"]),
        level=st.integers(0, ACT - 1),
        data=st.data(),
    )
    def test_fill_exactly_when_they_said(
        self, count: int, unit: str, level: int, data: st.DataObject
    ) -> None:
        throttle = Throttle.of({"rate": f"{count}/{unit}"})
        wait = timedelta(milliseconds=throttle.wait_ms(level))
        assert throttle.refilled(level, wait) >= ACT
        assert throttle.refilled(level, wait - timedelta(milliseconds=1)) < ACT
        assert throttle.refilled(level, timedelta(seconds=-5)) == level
        earlier, later = sorted(data.draw(st.tuples(*[st.timedeltas(timedelta(), timedelta(days=9))] * 2)))
        assert level <= throttle.refilled(level, earlier) <= throttle.refilled(level, later) <= throttle.full

    @settings(max_examples=100, deadline=None)
    @given(rules=written_rules, lower=levels, more=levels)
    def test_with_fuller_buckets_never_hold_up_more(
        self, rules: list[dict[str, Any]], lower: dict[str, int], more: dict[str, int]
    ) -> None:
        several = policy(*rules, rule("default", "allow", priority=9))
        fuller = {name: level + more.get(name, 0) for name, level in lower.items()}
        held_up, freer = (decide(request(throttles=one), several) for one in (lower, fuller))
        assert freer.allowed or not held_up.allowed
        for verdict, state in ((held_up, lower), (freer, fuller)):
            assert all(state.get(name, ACT) >= ACT for name in verdict.consumed)
            assert (verdict.retry_after_ms is not None) is (verdict.outcome == "throttle")


class TestGrants:
    RULES = policy(rule("ask", "escalate", priority=5), rule("default", "audit"))

    def test_are_asked_for(self) -> None:
        verdict = decide(request(), self.RULES)
        assert (verdict.outcome, verdict.rule, verdict.allowed) == ("escalate", "ask", False)
        assert verdict.rule_hash == self.RULES.rule_hashes["ask"]
        assert verdict.message_for_agent == "Waiting for a person's approval: Sentence of ask."

    def test_satisfy_their_rule_alone(self) -> None:
        verdict = decide(request(grants=(grant_for(self.RULES, "ask"),)), self.RULES)
        assert (verdict.outcome, verdict.rule, verdict.grants) == ("audit", "default", (UUID(int=9),))
        two = policy(rule("ask", "escalate"), rule("ask-too", "escalate"))
        verdict = decide(request(grants=(grant_for(two, "ask"),)), two)
        assert (verdict.outcome, verdict.rule, verdict.grants) == ("escalate", "ask-too", ())

    def test_say_that_a_person_approved(self) -> None:
        rules = policy(rule("ask", "escalate", message_for_agent="A person was asked."))
        verdict = decide(request(grants=(grant_for(rules, "ask"),)), rules)
        assert (verdict.outcome, verdict.reason) == ("allow", "Sentence of ask. A person approved this act.")
        assert verdict.message_for_agent == ""

    def test_of_an_earlier_version_of_the_rule_satisfy_nothing(self) -> None:
        changed = policy(rule("ask", "escalate", sentence="Another sentence."), rule("default", "audit"))
        verdict = decide(request(grants=(grant_for(changed, "ask"),)), self.RULES)
        assert (verdict.outcome, verdict.grants) == ("escalate", ())

    def test_for_a_session_do_not_cover_restricted_tools(self) -> None:
        grants = (grant_for(self.RULES, "ask", "session"), grant_for(self.RULES, "ask", "pattern", 8))
        assert decide(request(grants=grants), self.RULES).allowed
        asked = request(safety_level="restricted", grants=grants)
        assert decide(asked, self.RULES).outcome == "escalate"
        once = request(safety_level="restricted", grants=(grant_for(self.RULES, "ask"),))
        assert decide(once, self.RULES).allowed

    def test_for_exactly_this_act_go_first(self) -> None:
        grants = (grant_for(self.RULES, "ask", "session", 1), grant_for(self.RULES, "ask", "once", 2))
        assert decide(request(grants=grants), self.RULES).grants == (UUID(int=2),)

    @settings(max_examples=80, deadline=None)
    @given(rules=written_rules, granted=st.sets(st.integers(0, 5)))
    def test_never_overcome_a_denial(self, rules: list[dict[str, Any]], granted: set[int]) -> None:
        several = policy(*rules, rule("default", "allow", priority=9))
        grants = tuple(
            grant_for(several, name, number=100 + n)
            for n in granted
            if (name := f"r{n}") in several.rule_hashes
        )
        without, with_grants = decide(request(), several), decide(request(grants=grants), several)
        if without.outcome == "deny":
            assert (with_grants.outcome, with_grants.rule) == ("deny", without.rule)
        if with_grants.outcome == "escalate":
            assert without.outcome == "escalate"
            assert with_grants.rule not in {fact.rule for fact in grants}
        assert {fact.rule for fact in grants if fact.approval_id in with_grants.grants} <= {
            one["name"] for one in rules if one["outcome"] == "escalate"
        }


class TestMoreRules:
    @settings(max_examples=100, deadline=None)
    @given(rules=written_rules, added=written_rules, facts=budget_facts, cost=costs)
    def test_that_deny_never_allow_more(
        self,
        rules: list[dict[str, Any]],
        added: list[dict[str, Any]],
        facts: tuple[BudgetFact, ...],
        cost: Cost,
    ) -> None:
        base = [*rules, rule("default", "allow", "cost.tokens < 30", priority=9)]
        denying = [
            {**one, "name": f"more-{one['name']}", "outcome": "deny", "parameters": {}} for one in added
        ]
        asked = request(budgets=facts, cost=cost)
        before, after = decide(asked, policy(*base)), decide(asked, policy(*base, *denying))
        assert before.allowed or not after.allowed


class TestDelivery:
    ASKED = request(subject_kind="message_out", tool="", arguments={"to": "user:1", "mode": "live"})

    @staticmethod
    def out(name: str, outcome: str, condition: str | None = None, **more: Any) -> dict[str, Any]:
        return rule(name, outcome, condition, match={"kinds": ["message_out"]}, **more)

    @pytest.mark.parametrize(
        ("outcome", "condition", "expected"),
        [
            ("deny", 'args.?text.orValue("").contains("secret")', "held"),
            ("escalate", "args.?text.orValue('').size() > 10", "held"),
            ("throttle", "args.size() > 5", "held"),
            ("audit", 'args.?text.orValue("").contains("secret")', "live"),
            ("deny", '"pii" in labels', "live"),
            ("escalate", None, "live"),
        ],
    )
    def test_is_held_where_the_text_may_matter(
        self, outcome: str, condition: str | None, expected: str
    ) -> None:
        parameters = {"rate": "1/second"} if outcome == "throttle" else {}
        rules = policy(
            self.out("reads", outcome, condition, parameters=parameters), self.out("default", "allow")
        )
        assert delivery(self.ASKED, rules) == expected

    def test_is_held_where_an_exemption_reads_the_text(self) -> None:
        rules = policy(
            self.out("no", "deny", "'pii' in labels", unless="args.?text.orValue('') == ''"),
            self.out("default", "allow"),
        )
        assert delivery(self.ASKED, rules) == "held"

    def test_is_held_where_only_the_text_could_let_it_pass(self) -> None:
        short = self.out("short", "allow", "args.?text.orValue('').size() < 100")
        assert delivery(self.ASKED, policy(short)) == "held"
        assert delivery(self.ASKED, policy(short, self.out("default", "allow"))) == "live"
        assert delivery(self.ASKED, policy(short, self.out("never", "allow", "false"))) == "held"

    def test_is_live_where_rules_are_about_others(self) -> None:
        rules = policy(rule("no", "deny", "args.size() > 1"), self.out("default", "allow"))
        assert delivery(self.ASKED, rules) == "live"


class TestStoredFacts:
    def test_leave_a_request_without_them_as_it_was(self) -> None:
        written = request().as_json
        assert not {"budgets", "throttles", "grants", "actor_labels"} & written.keys()

    def test_have_one_order(self) -> None:
        grants = (grant_for(TestGrants.RULES, "ask", number=2), grant_for(TestGrants.RULES, "ask", number=1))
        facts = (budget(TWO), budget(ONE))
        one = request(grants=grants, budgets=facts, throttles={"a": 1, "b": 2})
        other = request(grants=grants[::-1], budgets=facts[::-1], throttles={"b": 2, "a": 1})
        assert one.hash == other.hash
        assert one == other

    @settings(max_examples=100, deadline=None)
    @given(
        facts=budget_facts,
        throttles=levels,
        grants=st.sets(st.integers(1, 9)),
        actor_labels=st.frozensets(st.sampled_from(["pii", "untrusted", "é😀"])),
        ends=st.booleans(),
    )
    def test_come_back_from_the_log(
        self,
        facts: tuple[BudgetFact, ...],
        throttles: dict[str, int],
        grants: set[int],
        actor_labels: frozenset[str],
        ends: bool,
    ) -> None:
        total = budget(UUID(int=99), period_end=None if ends else MIDNIGHT)
        asked = request(
            budgets=(*facts, total),
            throttles=throttles,
            grants=tuple(grant_for(TestGrants.RULES, "ask", number=number) for number in grants),
            actor_labels=actor_labels,
            cost=Cost(tokens=3),
        )
        stored = DecisionRequest.from_json(orjson.loads(canonical_json(asked.as_json)))
        assert stored == asked
        assert stored.hash == asked.hash
        again = load_policy(TestGrants.RULES.text)
        assert decide(stored, again) == decide(asked, TestGrants.RULES)

    @pytest.mark.parametrize(
        "wrong", [{"throttles": {"r": -1}}, {"throttles": {"r": 0.5}}, {"actor_labels": frozenset({"\0"})}]
    )
    def test_are_refused_when_they_are_none(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(BadInput):
            request(at=NOON, **wrong)


def _does_not_hold(fact: BudgetFact, cost: Cost) -> bool:
    if fact.limit_tokens is not None and cost.tokens > max(0, fact.limit_tokens - fact.used_tokens):
        return True
    if fact.limit_micros is None or cost.micros == 0:
        return False
    return cost.currency != fact.currency or cost.micros > fact.limit_micros - fact.used_micros
