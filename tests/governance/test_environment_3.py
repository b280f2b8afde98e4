"""What environment 3 brings: findings, teams, rules that break-glass breaks, and redaction."""

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartrita.errors import BadInput
from cartrita.eventstore import Context
from governance.decide import (
    SEVERITY,
    Budget,
    BudgetFact,
    Cost,
    DecisionRequest,
    GlassFact,
    GrantFact,
    decide,
    delivery,
    watched,
)
from governance.decision import request_of, verdict_of
from governance.doors import decision_made
from governance.examples import request_from_names
from governance.policy import Outcome, PolicyNotValid, PolicySet, load_policy, rule_hash
from tests.governance.policies import NOON, WORKSPACE, policy, request, rule

GLASS = GlassFact(id=UUID(int=7), until=NOON + timedelta(hours=1), by="user:2")
DEFAULT = rule("default", "allow", priority=9000)
LET_THROUGH = ("allow", "audit")


def breakable(name: str, outcome: str = "deny", condition: str | None = None, **more: Any) -> dict[str, Any]:
    return rule(name, outcome, condition, breakable=True, **more)


def redacting(name: str, *kinds: str, outcome: str = "allow", **more: Any) -> dict[str, Any]:
    return rule(name, outcome, parameters={"redact": list(kinds)}, **more)


def of_version(version: int, *rules: dict[str, Any]) -> PolicySet:
    return load_policy(
        str({"environment": version, "policy": "p", "rules": list(rules)}).replace("True", "true")
    )


class TestNames:
    def test_are_read_by_conditions(self) -> None:
        rules = policy(
            rule("found", "deny", "'secret' in findings"),
            rule("team", "audit", "'red' in teams"),
            rule("glass", "escalate", "break_glass"),
            DEFAULT,
        )
        assert decide(request(), rules).rule == "default"
        assert decide(request(findings=frozenset({"secret"})), rules).rule == "found"
        assert decide(request(teams=frozenset({"red"})), rules).rule == "team"
        assert decide(request(glass=GLASS), rules).rule == "glass"

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("name", ["findings.size() > 0", "teams.size() > 0", "break_glass"])
    def test_are_unknown_to_sets_of_before(self, version: int, name: str) -> None:
        with pytest.raises(PolicyNotValid, match="is not a known name"):
            of_version(version, rule("r", "deny", name))

    def test_can_be_stated_by_examples(self) -> None:
        asked = request_from_names(
            {"kind": "tool_call", "findings": ["email"], "teams": ["red"], "break_glass": True}
        )
        assert (asked.findings, asked.teams) == (frozenset({"email"}), frozenset({"red"}))
        assert asked.broken_glass is not None
        assert request_from_names({"kind": "plan", "break_glass": False}).glass is None
        late = request_from_names({"kind": "plan", "break_glass": True, "at": "2031-01-01T00:00:00+00:00"})
        assert late.broken_glass is not None
        with pytest.raises(BadInput, match="write true or false"):
            request_from_names({"kind": "plan", "break_glass": "yes"})


class TestRequest:
    def test_is_written_as_before_without_the_facts(self) -> None:
        assert not {"findings", "teams", "glass"} & request().as_json.keys()
        assert request(findings=frozenset(), teams=frozenset(), glass=None).hash == request().hash

    def test_comes_back_with_them(self) -> None:
        asked = request(findings=frozenset({"email", "card"}), teams=frozenset({"Red team"}), glass=GLASS)
        assert DecisionRequest.from_json(asked.as_json) == asked
        assert asked.as_json["glass"] == {
            "id": str(GLASS.id),
            "until": "2026-03-01T13:00:00.000000Z",
            "by": "user:2",
        }
        assert len({asked.hash, asked.with_facts(glass=None).hash, request().hash}) == 3

    @pytest.mark.parametrize("facts", [{"findings": frozenset({"x\0"})}, {"teams": frozenset({"x" * 201})}])
    def test_refuses_names_that_cannot_be_kept(self, facts: dict[str, Any]) -> None:
        with pytest.raises(BadInput):
            request(**facts)

    def test_refuses_a_glass_without_a_time_zone(self) -> None:
        with pytest.raises(BadInput, match="until has no time zone"):
            replace(GLASS, until=NOON.replace(tzinfo=None))


class TestBreakableRule:
    @pytest.mark.parametrize(
        ("outcome", "parameters"), [("deny", {}), ("escalate", {}), ("throttle", {"rate": "1/hour"})]
    )
    def test_counts_as_audit_under_break_glass(self, outcome: Outcome, parameters: dict[str, Any]) -> None:
        rules = policy(breakable("held", outcome, parameters=parameters), DEFAULT)
        asked = request(throttles={"held": 0} if outcome == "throttle" else {})
        assert decide(asked, rules).outcome == outcome
        verdict = decide(asked.with_facts(glass=GLASS), rules)
        assert (verdict.outcome, verdict.rule, verdict.review) == ("audit", "held", True)
        assert (verdict.unbroken, verdict.retry_after_ms) == ((outcome, "held"), None)
        assert verdict.reason == "Sentence of held. Break-glass lets this act pass."
        assert verdict.message_for_agent == ""

    def test_counts_in_full_from_the_very_end_on(self) -> None:
        rules = policy(breakable("no"), DEFAULT)
        just_before = request(at=GLASS.until - timedelta(microseconds=1), glass=GLASS)
        assert decide(just_before, rules).outcome == "audit"
        over = decide(request(at=GLASS.until, glass=GLASS), rules)
        assert (over.outcome, over.unbroken) == ("deny", None)

    def test_lets_a_grant_and_a_full_bucket_count_first(self) -> None:
        rules = policy(
            breakable("ask", "escalate"),
            breakable("slow", "throttle", parameters={"rate": "1/hour"}),
            DEFAULT,
        )
        grant = GrantFact(
            approval_id=UUID(int=3), rule="ask", rule_hash=rules.rule_hashes["ask"], scope="once"
        )
        verdict = decide(request(glass=GLASS, grants=(grant,)), rules)
        assert (verdict.outcome, verdict.rule, verdict.unbroken) == ("allow", "ask", None)
        assert (verdict.grants, verdict.consumed, verdict.review) == ((grant.approval_id,), ("slow",), False)

    def test_breaks_neither_budgets_nor_gaps_nor_errors(self) -> None:
        budget = BudgetFact(
            id=UUID(int=1), name="b", scope_kind="workspace", scope="w", period_start=NOON, limit_tokens=1
        )
        rules = policy(breakable("no"), DEFAULT)
        short = decide(request(glass=GLASS, budgets=(budget,), cost=Cost(tokens=2)), rules)
        assert (short.outcome, short.rule, short.unbroken) == ("deny", "budget-exceeded", ("deny", "no"))
        assert decide(request(glass=GLASS, subject_kind="plan"), rules).rule == "nothing-matched"
        erring = decide(request(glass=GLASS), policy(breakable("errs", "deny", "args.missing == 1"), DEFAULT))
        assert (erring.outcome, erring.rule) == ("deny", "errs")

    def test_says_also_what_rules_about_break_glass_change(self) -> None:
        rules = policy(rule("watch", "audit", "break_glass"), DEFAULT)
        assert decide(request(glass=GLASS), rules).unbroken == ("allow", "default")

    def test_leaves_grants_of_before_valid(self) -> None:
        (plain,) = policy(rule("r")).rules
        (same,) = of_version(2, rule("r")).rules
        assert rule_hash(plain) == rule_hash(same)
        (other,) = policy(breakable("r")).rules
        assert rule_hash(other) != rule_hash(plain)

    @pytest.mark.parametrize(
        ("version", "written", "said"),
        [
            (1, breakable("r"), "breakable of rule r: not known in environment 1"),
            (2, breakable("r"), "breakable of rule r: not known in environment 2"),
            (3, breakable("r", "audit"), "audit lets it pass; remove this"),
            (3, {**rule("r"), "breakable": "yes"}, "breakable of rule r"),
            (2, redacting("r", "email"), "parameters.redact of rule r: not known in environment 2"),
            (3, redacting("r", "email", match={"kinds": ["tool_call", "plan"]}), "match no other kinds"),
            (3, redacting("r", "E-Mail"), "write kinds of findings"),
            (3, redacting("r"), "parameters.redact"),
            (3, redacting("r", "email", outcome="deny"), "deny takes no parameters"),
        ],
    )
    def test_is_refused_where_it_means_nothing(
        self, version: int, written: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(PolicyNotValid) as refused:
            of_version(version, written)
        assert said in refused.value.message

    def test_shadows_no_rule_that_decides_under_break_glass(self) -> None:
        rules = [breakable("all", "deny", priority=1), rule("ask", "escalate", priority=2)]
        assert policy(*rules).warnings == ()
        assert decide(request(glass=GLASS), policy(*rules)).rule == "ask"
        (warning,) = policy({**rules[0], "breakable": False}, rules[1]).warnings
        assert warning.rule == "ask"


class TestRedact:
    def test_is_the_union_of_all_that_match(self) -> None:
        rules = policy(
            redacting("people", "phone", "email"),
            redacting("secrets", "secret", "email", outcome="audit", condition="'secret' in findings"),
            DEFAULT,
        )
        assert decide(request(), rules).redact == ("email", "phone")
        both = decide(request(findings=frozenset({"secret"})), rules)
        assert (both.redact, both.rule) == (("email", "phone", "secret"), "secrets")

    def test_holds_answers_back_only_where_it_depends_on_them(self) -> None:
        out: dict[str, Any] = {"match": {"kinds": ["message_out"]}}
        asked = request(subject_kind="message_out", tool="", safety_level="")
        default = rule("default", "allow", **out)
        assert delivery(asked, policy(redacting("always", "email", **out), default)) == "live"
        reads_text = policy(
            redacting("if-long", "email", condition="size(string(args.text)) > 3", **out), default
        )
        assert delivery(asked, reads_text) == "held"
        audited = policy(rule("seen", "audit", "'email' in findings", **out), default)
        assert (delivery(asked, audited), watched(asked, audited)) == ("live", False)
        # What is found in a text is looked for while it is written.
        for looked_for in (
            redacting("always", "email", **out),
            redacting("if-found", "email", condition="'email' in findings", **out),
            rule("no", "deny", "'email' in findings", **out),
            breakable("no", "deny", "'email' in findings", **out),
        ):
            rules = policy(looked_for, default)
            for request_ in (asked, asked.with_facts(glass=GLASS)):
                assert (delivery(request_, rules), watched(request_, rules)) == ("live", True)
        only_clean = policy(rule("clean", "allow", "!('email' in findings)", **out))
        assert (delivery(asked, only_clean), watched(asked, only_clean)) == ("live", True)
        # To sets of before, it is a word like any other.
        assert (
            delivery(asked, of_version(2, rule("no", "deny", "'findings' in labels", **out), default))
            == "live"
        )


class TestDecisionMade:
    def test_says_what_break_glass_changed_and_what_is_redacted(self) -> None:
        rules = policy(breakable("no"), redacting("out", "email"), DEFAULT)
        asked = request(glass=GLASS)
        verdict = decide(asked, rules)
        event = decision_made(asked, verdict, Context(workspace_id=WORKSPACE, actor="user:1"))
        assert (event.glass_id, event.unbroken_outcome, event.unbroken_rule) == (GLASS.id, "deny", "no")
        assert event.redact == ("email",)
        assert verdict_of(event) == verdict
        assert decide(request_of(event, lambda _: b""), rules) == verdict

    def test_names_no_glass_that_is_over(self) -> None:
        asked = request(glass=GLASS, at=GLASS.until)
        verdict = decide(asked, policy(DEFAULT))
        assert decision_made(asked, verdict, Context(workspace_id=WORKSPACE, actor="user:1")).glass_id is None


conditions = st.sampled_from([None, "'x' in findings", "args.missing == 1", "'red' in teams"])
written_rules = st.lists(
    st.tuples(
        st.sampled_from(["allow", "audit", "throttle", "escalate", "deny"]),
        conditions,
        st.booleans(),
        st.integers(0, 2),
    ),
    max_size=7,
)
asked_facts = st.fixed_dictionaries(
    {
        "findings": st.sets(st.sampled_from("xy")).map(frozenset),
        "teams": st.sets(st.sampled_from(["red"])).map(frozenset),
        "budget": st.sampled_from([Budget(), Budget(limit_tokens=5)]),
        "cost": st.sampled_from([Cost(), Cost(tokens=9)]),
    }
)


def rules_of(written: list[tuple[str, str | None, bool, int]]) -> list[dict[str, Any]]:
    made = []
    for n, (outcome, condition, broken, priority) in enumerate(written):
        parameters: dict[str, Any] = {"rate": "1/hour"} if outcome == "throttle" else {}
        if outcome in LET_THROUGH and broken:
            parameters = {"redact": ["x" if priority else "y"]}
        more = {"breakable": True} if broken and outcome not in LET_THROUGH else {}
        made.append(rule(f"r{n}", outcome, condition, priority=priority, parameters=parameters, **more))
    return [*made, DEFAULT]


class TestBreakGlass:
    @settings(max_examples=200, deadline=None)
    @given(written=written_rules, facts=asked_facts, empty=st.booleans())
    def test_never_makes_an_act_stricter_and_never_breaks_what_is_not_breakable(
        self, written: list[tuple[str, str | None, bool, int]], facts: dict[str, Any], empty: bool
    ) -> None:
        rules = policy(*rules_of(written))
        levels = {f"r{n}": 0 for n, one in enumerate(written) if one[0] == "throttle"} if empty else {}
        whole = decide(request(**facts, throttles=levels), rules)
        broken = decide(request(**facts, throttles=levels, glass=GLASS), rules)
        assert SEVERITY[broken.outcome] <= SEVERITY[whole.outcome]
        assert broken.evaluated == whole.evaluated
        same = (broken.outcome, broken.rule) == (whole.outcome, whole.rule)
        assert broken.unbroken == (None if same else (whole.outcome, whole.rule))
        assert whole.unbroken is None
        results = {one.rule: one.result for one in broken.evaluated}
        firm = [
            one.outcome
            for one in rules.rules
            if results.get(one.name) == "matched"
            and not one.breakable
            and one.outcome in {"deny", "escalate"}
        ]
        for outcome in firm:
            assert SEVERITY[broken.outcome] >= SEVERITY[outcome]
        if "error" in results.values():
            assert broken.outcome == "deny"
        for verdict in (whole, broken):
            assert bool(verdict.redact) <= verdict.allowed

    @settings(max_examples=60, deadline=None)
    @given(written=written_rules, facts=asked_facts)
    def test_changes_nothing_for_sets_of_before(
        self, written: list[tuple[str, str | None, bool, int]], facts: dict[str, Any]
    ) -> None:
        rules = of_version(2, *rules_of([(one[0], None, False, one[3]) for one in written]))
        levels = {f"r{n}": 0 for n, one in enumerate(written) if one[0] == "throttle"}
        whole = decide(request(**facts, throttles=levels), rules)
        assert decide(request(**facts, throttles=levels, glass=GLASS), rules) == whole
