from typing import Any, get_args

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartrita.errors import BadInput
from cartrita.eventstore.canonical import canonical_json
from governance import cel
from governance.decide import SEVERITY, Budget, Cost, Counters, DecisionRequest, decide
from governance.policy import Outcome, load_policy
from tests.governance.policies import NOON, policy, request, rule

HOLDS, NOT, ERRS = "true", "kind == 'plan'", "args.missing == 1"

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=4),
    max_leaves=15,
)
written_rules = st.lists(
    st.tuples(
        st.sampled_from(get_args(Outcome)),
        st.sampled_from([HOLDS, NOT, ERRS]),
        st.integers(0, 3),
        st.booleans(),
    ),
    max_size=8,
)


class TestDecide:
    def test_denies_what_no_rule_covers(self) -> None:
        verdict = decide(request(subject_kind="plan"), policy(rule("tools", "allow")))
        assert (verdict.outcome, verdict.rule, verdict.evaluated) == ("deny", "nothing-matched", ())
        assert "plan" in verdict.reason

    def test_denies_when_no_condition_holds(self) -> None:
        verdict = decide(request(), policy(rule("never", "allow", NOT)))
        assert (verdict.outcome, verdict.rule) == ("deny", "nothing-matched")
        assert [(one.rule, one.result) for one in verdict.evaluated] == [("never", "not_matched")]

    @settings(max_examples=150, deadline=None)
    @given(written=written_rules)
    def test_lets_the_most_severe_outcome_decide_then_priority_then_order(
        self, written: list[tuple[Outcome, str, int, bool]]
    ) -> None:
        rules = [
            rule(f"r{n}", outcome, condition, priority=priority, unless="true" if exempt else None)
            for n, (outcome, condition, priority, exempt) in enumerate(written)
        ]
        # A rule of another kind may err as it likes: it is not about this request.
        other = rule("other", "deny", ERRS, match={"kinds": ["plan"]})
        for one in rules:
            one["parameters"] = {"rate": "1/hour"} if one["outcome"] == "throttle" else {}
        empty = {f"r{n}": 0 for n, (outcome, *_) in enumerate(written) if outcome == "throttle"}
        verdict = decide(request(throttles=empty), policy(*rules, other))
        counting = [
            (-SEVERITY["deny" if condition == ERRS else outcome], priority, n)
            for n, (outcome, condition, priority, exempt) in enumerate(written)
            if condition != NOT and not exempt
        ]
        if not counting:
            assert (verdict.outcome, verdict.rule) == ("deny", "nothing-matched")
            return
        first = min(counting)
        assert SEVERITY[verdict.outcome] == -first[0]
        assert verdict.rule == f"r{first[2]}"
        erring = {f"r{n}" for n, (_, how, _, exempt) in enumerate(written) if how == ERRS and not exempt}
        assert {one.rule for one in verdict.evaluated if one.result == "error"} == erring
        assert verdict.allowed is (not erring and verdict.outcome in {"allow", "audit"})
        assert verdict.review is (
            bool(erring) or any(written[n][0] == "audit" for *_, n in counting if written[n][1] != ERRS)
        )

    @settings(max_examples=100, deadline=None)
    @given(arguments=st.dictionaries(st.sampled_from(["a", "b", "path"]), json_values, max_size=3))
    def test_gives_the_same_verdict_from_what_is_stored(self, arguments: dict[str, Any]) -> None:
        rules = policy(
            rule("double", "audit", "args.?a.orValue(0.5) == 1"),
            rule("arithmetic", "deny", "has(args.b) && args.b * 1.5 > 3.0"),
            rule("sizes", "deny", "args.?path.orValue('').size() > 3"),
            rule("default", "allow"),
        )
        asked = request(arguments=arguments)
        stored = stored_and_read(asked)
        assert stored == asked
        assert stored.hash == asked.hash
        assert decide(stored, load_policy(rules.text)) == decide(asked, rules)

    def test_isolates_the_rule_that_errs(self) -> None:
        rules = policy(rule("broken", "allow", ERRS), rule("fine", "audit", "args.expression == '1 + 1'"))
        verdict = decide(request(), rules)
        assert (verdict.outcome, verdict.rule, verdict.review) == ("deny", "broken", True)
        assert "broken" in verdict.reason
        results = {one.rule: one.result for one in verdict.evaluated}
        assert results == {"broken": "error", "fine": "matched"}
        assert "missing" in next(one.detail for one in verdict.evaluated if one.rule == "broken")

    def test_goes_on_when_the_erring_rule_is_about_others(self) -> None:
        rules = policy(
            rule("broken", "deny", ERRS, match={"kinds": ["tool_call"], "tools": ["shell"]}),
            rule("default", "allow"),
        )
        assert decide(request(), rules).allowed
        assert decide(request(tool="shell"), rules).rule == "broken"

    def test_counts_an_exhausted_budget_of_iterations_as_an_error(self) -> None:
        rules = policy(
            rule("endless", "allow", "args.l.all(a, args.l.all(b, args.l.all(c, a + b + c >= 0)))"),
            rule("default", "allow"),
        )
        verdict = decide(request(arguments={"l": list(range(60))}), rules)
        assert (verdict.outcome, verdict.rule, verdict.review) == ("deny", "endless", True)
        assert decide(request(arguments={"l": [1]}), rules).allowed

    def test_shares_no_budget_of_iterations_between_rules(self) -> None:
        loops = [rule(f"loop-{n}", "deny", f"args.l.exists(a, a == {n + 100})") for n in range(30)]
        verdict = decide(request(arguments={"l": [1] * 900}), policy(*loops, rule("default", "allow")))
        assert verdict.rule == "default"

    def test_never_reads_a_value_that_is_no_boolean_as_true(self) -> None:
        # `&&` of a dynamic value compiles, and the engine's error is a text, which Python holds for true.
        verdict = decide(request(), policy(rule("dynamic", "allow", "true && args.expression")))
        assert (verdict.outcome, verdict.rule) == ("deny", "dynamic")

    def test_exempts_by_unless(self) -> None:
        rules = policy(
            rule("default", "allow"), rule("no", "deny", "true // why", unless="'admin' in roles // ok")
        )
        assert decide(request(), rules).rule == "no"
        assert decide(request(roles=frozenset({"admin"})), rules).rule == "default"

    def test_matches_names_with_stars_and_roles_by_any(self) -> None:
        rules = policy(
            rule("default", "allow"),
            rule(
                "files",
                "deny",
                match={"kinds": ["tool_call"], "tools": ["file_*"], "roles": ["member", "guest"]},
            ),
        )
        assert decide(request(tool="file_read", roles=frozenset({"guest", "x"})), rules).rule == "files"
        assert decide(request(tool="file_read"), rules).rule == "default"
        assert decide(request(tool="profile_read", roles=frozenset({"guest"})), rules).rule == "default"

    def test_reads_every_declared_name(self) -> None:
        conditions = " && ".join(f"dyn({name}) == dyn({name})" for name in cel.VARIABLES)
        assert decide(request(), policy(rule("all", "allow", conditions))).allowed

    def test_tells_limits_and_use_before_and_after(self) -> None:
        asked = request(
            budget=Budget(limit_micros=1000, used_micros=300, used_tokens=7), cost=Cost(tokens=5, micros=200)
        )
        allowed = decide(asked, policy(rule("default", "allow")))
        assert (allowed.cost_limit_before, allowed.cost_limit_after) == (700, 500)
        assert allowed.resource_usage_before == {"tokens": 7, "micros": 300}
        assert allowed.resource_usage_after == {"tokens": 12, "micros": 500}
        refused = decide(asked, policy(rule("no", "deny", "budget.left_micros < 1000")))
        assert (refused.cost_limit_before, refused.cost_limit_after) == (700, 700)
        assert (
            decide(request(), policy(rule("no", "deny", "budget.left_micros < 1000"))).rule
            == "nothing-matched"
        )

    def test_says_to_agent_and_people_what_the_rule_says(self) -> None:
        rules = policy(rule("no", "deny", message_for_agent="Stop.", message_for_people="Too risky."))
        verdict = decide(request(), rules)
        assert (verdict.message_for_agent, verdict.message_for_people) == ("Stop.", "Too risky.")
        plain = decide(request(), policy(rule("no", "deny")))
        assert plain.message_for_agent == "Denied: Sentence of no."


class TestDecisionRequest:
    def test_makes_integral_floats_integers(self) -> None:
        assert request(arguments={"n": 2.0, "m": [1.5, -0.0]}).arguments == {"n": 2, "m": [1.5, 0]}

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"a": float("nan")}, "arguments.a"),
            ({"a": {"b": 2**53 + 1}}, "arguments.a.b"),
            ({"a": ["x\0"]}, "arguments.a[0]"),
            ({"a": "\ud800"}, "arguments.a"),
            ({"a": b"bytes"}, "arguments.a"),
            ({"a": {1: 2}}, "arguments.a"),
            ({"a": [0] * 50_001}, "arguments.a[49998]"),
        ],
    )
    def test_refuses_what_json_cannot_carry(self, arguments: dict[str, Any], field: str) -> None:
        with pytest.raises(BadInput) as refused:
            request(arguments=arguments)
        assert refused.value.field == field

    def test_refuses_deep_input(self) -> None:
        deep: Any = "x"
        for _ in range(100_000):
            deep = [deep]
        with pytest.raises(BadInput, match="deeper than 64 levels"):
            request(arguments={"a": deep})

    def test_refuses_unknown_kinds_naive_times_and_negative_amounts(self) -> None:
        with pytest.raises(BadInput, match="use one of plan"):
            request(subject_kind="toolcall")
        with pytest.raises(BadInput, match="no time zone"):
            request(at=NOON.replace(tzinfo=None))
        with pytest.raises(BadInput, match=r"counters\.repeats is -1"):
            Counters(repeats=-1)
        with pytest.raises(BadInput, match=r"cost\.currency is 'dollars'"):
            Cost(currency="dollars")

    def test_has_another_hash_for_any_other_fact(self) -> None:
        ways: list[dict[str, Any]] = [
            {},
            {"actor": "user:2"},
            {"arguments": {"expression": "1 + 2"}},
            {"labels": frozenset({"pii"})},
        ]
        assert len({request(**way).hash for way in ways}) == len(ways)


def stored_and_read(asked: DecisionRequest) -> DecisionRequest:
    return DecisionRequest.from_json(orjson.loads(canonical_json(asked.as_json)))
