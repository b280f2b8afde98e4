"""Rules as text and in an editor: parameters, problems with their places, warnings, export."""

from typing import Any, get_args
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from governance.decide import GrantFact, decide
from governance.policy import (
    PolicyNotValid,
    Rule,
    compile_policy,
    compile_rule,
    definition_of,
    load_policy,
    policy_text,
    rule_hash,
    rule_problems,
    rule_warnings,
)
from governance.policy_warnings import takes_in
from governance.rule import Match, Outcome, SubjectKind
from tests.governance.policies import policy, request, rule, yaml_policy

VALID = """\
policy: test
rules:
  - name: ask
    sentence: A person decides.
    match: {kinds: [tool_call]}
    outcome: escalate
    parameters:
      approvers: [reviewer]
      quorum: 2
      expires_in: 90m
      scopes: [once, session]
"""

# Any text that a policy may hold: line breaks of every sort, and what YAML reads as something else.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
odd_texts = texts | st.sampled_from(
    [
        "yes",
        "null",
        "1.0",
        "2026-01-01",
        "- a",
        "a: b",
        "#x",
        " x ",
        "a\n  b\n",
        "\n\n a\n",
        "\t",
        "|",
        "é\u2028\x85",
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | odd_texts | st.floats(-1e9, 1e9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["*", "a*", "a*b", "*b", "ab", "b", "a", ""])
matches = st.builds(
    Match,
    kinds=st.lists(st.sampled_from(["plan", "tool_call", "model_call"]), min_size=1, max_size=3).map(tuple),
    tools=st.none() | st.lists(names, max_size=2).map(tuple),
    roles=st.none() | st.lists(st.sampled_from(["member", "admin"]), max_size=2).map(tuple),
)


def problem(text: str) -> str:
    with pytest.raises(PolicyNotValid) as refused:
        load_policy(text, "p.yaml")
    return refused.value.message


class TestParameters:
    def test_of_an_escalation_are_read(self) -> None:
        escalation = load_policy(VALID).escalation("ask")
        assert (escalation.approvers, escalation.quorum) == (("reviewer",), 2)
        assert (escalation.expires_in.total_seconds(), escalation.scopes) == (5400, ("once", "session"))
        restricted = load_policy(VALID).escalation("ask", safety_level="restricted")
        assert restricted.scopes == ("once",)

    def test_have_defaults(self) -> None:
        escalation = policy(rule("ask", "escalate")).escalation("ask")
        assert (escalation.approvers, escalation.quorum) == (("reviewer", "admin"), 1)
        assert (escalation.expires_in.days, escalation.scopes) == (1, ("once",))
        throttle = policy(rule("slow", "throttle", parameters={"rate": "3/hour"})).throttle("slow")
        assert (throttle.count, throttle.period.seconds, throttle.burst, throttle.per) == (
            3,
            3600,
            3,
            "session",
        )

    def test_are_asked_of_rules_that_have_them(self) -> None:
        rules = policy(rule("ask", "escalate"), rule("no", "deny"))
        for name in ("no", "none"):
            with pytest.raises(KeyError):
                rules.escalation(name)
            with pytest.raises(KeyError):
                rules.throttle(name)

    @pytest.mark.parametrize(
        ("written", "instead", "expected"),
        [
            (
                "[reviewer]",
                "[boss]",
                "8:19: parameters.approvers.0 of rule ask: 'boss' is not a role; known roles: admin",
            ),
            ("[reviewer]", "[]", "8:18: parameters.approvers of rule ask"),
            ("quorum: 2", "quorum: 0", "9:15: parameters.quorum of rule ask"),
            ("quorum: 2", "quorum: '2'", "parameters.quorum"),
            ("quorum: 2", "quorum: 999", "parameters.quorum"),
            ("90m", "soon", "10:19: parameters.expires_in of rule ask: write a time of at most 30 days"),
            ("90m", "31d", "write a time of at most 30 days"),
            ("90m", "0m", "write a time of at most 30 days"),
            ("90m", "1٣m", "write a time of at most 30 days"),
            (
                "session]",
                "always]",
                "11:22: parameters.scopes.1 of rule ask: use one of once, session, pattern",
            ),
            (
                "quorum",
                "quorom",
                "9:15: parameters.quorom of rule ask: not a known key; known keys: approvers",
            ),
            (
                "escalate",
                "deny",
                "8:18: parameters.approvers of rule ask: deny takes no parameters; remove it",
            ),
            (
                "escalate",
                "throttle",
                "8:7: parameters.rate of rule ask: missing; write a rate such as 10/minute",
            ),
        ],
    )
    def test_are_refused_with_place_and_remedy(self, written: str, instead: str, expected: str) -> None:
        assert expected in problem(VALID.replace(written, instead))

    @pytest.mark.parametrize("rate", ["10", "0/minute", "10/week", "1.5/hour", "-1/hour", 10, None, "١/hour"])
    def test_refuse_a_rate_that_is_none(self, rate: object) -> None:
        with pytest.raises(PolicyNotValid, match="such as 10/minute"):
            policy(rule("slow", "throttle", parameters={"rate": rate}))

    def test_refuse_a_burst_of_nothing_and_an_unknown_subject(self) -> None:
        for more in ({"burst": 0}, {"burst": True}, {"per": "planet"}):
            with pytest.raises(PolicyNotValid, match="parameters"):
                policy(rule("slow", "throttle", parameters={"rate": "1/hour", **more}))

    def test_reserve_the_names_of_verdicts(self) -> None:
        for name in ("nothing-matched", "budget-exceeded"):
            with pytest.raises(PolicyNotValid, match="choose another"):
                policy(rule(name))


class TestCompileRule:
    def test_gives_the_rule_of_a_definition_back(self) -> None:
        one = compile_rule(rule("r", "audit", "true", examples=[{"given": {"kind": "plan"}, "then": "deny"}]))
        assert compile_rule(definition_of(one)) == one
        assert one.examples

    @pytest.mark.parametrize(
        ("definition", "place"),
        [
            (rule("r", "deny", "true &&\n  tool.nmae == 'x'"), (2, 7, "condition")),
            (rule("r", "deny", "true", unless="\n\n3"), (1, 1, "unless")),
            (rule("r", "deny", "x" * 20_000), (1, 1, "condition")),
            (rule("r", "no-outcome"), (1, 1, "outcome")),
            (rule("Not Readable"), (1, 1, "name")),
            ({}, (1, 1, "name")),
            (rule("r", "throttle"), (1, 1, "parameters.rate")),
        ],
    )
    def test_places_problems_inside_the_field(
        self, definition: dict[str, Any], place: tuple[int, int, str]
    ) -> None:
        first = rule_problems(definition)[0]
        assert (first.line, first.column, first.field) == place
        with pytest.raises(PolicyNotValid):
            compile_rule(definition)

    def test_finds_nothing_wrong_with_a_fine_rule(self) -> None:
        assert rule_problems(rule("r", "deny", "true")) == ()

    def test_warns_of_a_rule_that_never_matches(self) -> None:
        (warning,) = rule_warnings(compile_rule(rule("r", condition="false")))
        assert warning.field == "condition"

    @given(st.dictionaries(st.sampled_from(sorted(Rule.model_fields)) | texts, values, max_size=8))
    def test_refuses_or_takes_anything_else(self, definition: dict[str, Any]) -> None:
        for one in rule_problems(definition):
            assert one.message


class TestRuleHash:
    def test_is_about_what_the_rule_says_and_not_about_its_examples(self) -> None:
        plain = compile_rule(rule("r", condition="true"))
        shown = compile_rule(
            rule("r", condition="true", examples=[{"given": {"kind": "plan"}, "then": "deny"}])
        )
        other = compile_rule(rule("r", condition="true ", priority=500))
        assert rule_hash(plain) == rule_hash(shown) != rule_hash(other)
        assert policy(rule("r", condition="true")).rule_hashes == {"r": rule_hash(plain)}

    def test_is_the_same_for_ever(self) -> None:
        assert (
            rule_hash(compile_rule(rule("r", "escalate", "true", parameters={"quorum": 2})))
            == "f1f5ef8b5779078c5afe4a10c894885503852d15b529a19da0e46a0e13985ecb"
        )


class TestPolicyText:
    def test_is_for_people_to_read(self) -> None:
        several = [
            compile_rule(rule("ask", "escalate", "cost.tokens > 1 &&\n  true", priority=7)),
            compile_rule(rule("default", "allow")),
        ]
        assert policy_text(several, "mine") == (
            "policy: mine\n"
            "rules:\n"
            "  - name: ask\n"
            "    sentence: Sentence of ask.\n"
            "    priority: 7\n"
            "    match:\n"
            "      kinds:\n"
            "      - tool_call\n"
            "    condition: |-\n"
            "      cost.tokens > 1 &&\n"
            "        true\n"
            "    outcome: escalate\n"
            "\n"
            "  - name: default\n"
            "    sentence: Sentence of default.\n"
            "    match:\n"
            "      kinds:\n"
            "      - tool_call\n"
            "    outcome: allow\n"
        )

    def test_of_an_earlier_environment_says_so(self) -> None:
        first = load_policy(
            '{"environment": 1, "rules": [' + compile_rule(rule("r")).model_dump_json() + "]}"
        )
        text = policy_text(first.rules, first.name, environment=first.environment)
        assert load_policy(text).content_hash == first.content_hash

    @settings(max_examples=80, deadline=None)
    @given(
        sentence=odd_texts,
        condition=odd_texts,
        given_values=st.dictionaries(odd_texts, values, max_size=3),
        name=odd_texts,
    )
    def test_reads_back_to_the_same_set(
        self, sentence: str, condition: str, given_values: dict[str, Any], name: str
    ) -> None:
        written = rule(
            "r",
            "audit",
            # Texts of CEL hold no raw line breaks, but comments may follow on lines of their own.
            f"true // {condition!a}\n  \n// end",
            sentence=sentence,
            message_for_people=sentence,
            examples=[{"given": given_values, "then": "deny"}],
        )
        before = compile_policy([compile_rule(written), compile_rule(rule("default", "allow"))], name)
        after = load_policy(policy_text(before.rules, before.name))
        assert after.content_hash == before.content_hash
        assert [definition_of(one) for one in after.rules] == [definition_of(one) for one in before.rules]


class TestCompilePolicy:
    def test_keeps_the_order_of_equal_priorities(self) -> None:
        several = [compile_rule(rule(name)) for name in ("b", "a")]
        assert [one.name for one in compile_policy(several, "p").rules] == ["b", "a"]

    def test_is_the_set_that_its_text_gives(self) -> None:
        several = compile_policy([compile_rule(rule("r", condition="true"))], "p")
        assert load_policy(several.text).content_hash == several.content_hash


class TestWarnings:
    @pytest.mark.parametrize(
        ("first", "second", "shadowed"),
        [
            (rule("a", "deny"), rule("b", "allow"), {"b"}),
            (rule("a", "allow"), rule("b", "deny"), {"a"}),
            (rule("a", "deny"), rule("b", "throttle", parameters={"rate": "1/hour"}), {"b"}),
            (rule("a", "audit"), rule("b", "audit", "args.size() > 1"), {"b"}),
            (rule("a", "audit", "args.size() > 1"), rule("b", "audit"), set()),
            (rule("a", "audit"), rule("b", "throttle", parameters={"rate": "1/hour"}), set()),
            (rule("a", "escalate"), rule("b", "escalate"), set()),
            (rule("a", "escalate"), rule("b", "audit"), set()),
            (rule("a", "escalate"), rule("b", "allow"), {"b"}),
            (rule("a", "deny", unless="agent == 'x'"), rule("b", "allow"), set()),
            (
                rule("a", "deny", match={"kinds": ["tool_call"], "tools": ["file_*"]}),
                rule("b", "allow", match={"kinds": ["tool_call"], "tools": ["file_read", "file_*_all"]}),
                {"b"},
            ),
            (
                rule("a", "deny", match={"kinds": ["tool_call"], "tools": ["file_*"]}),
                rule("b", "allow", match={"kinds": ["tool_call"], "tools": ["file_read", "calculate"]}),
                set(),
            ),
        ],
    )
    def test_name_rules_that_can_never_decide(
        self, first: dict[str, Any], second: dict[str, Any], shadowed: set[str]
    ) -> None:
        warnings = yaml_policy(first, second).warnings
        assert {one.rule for one in warnings} == shadowed
        assert all("decides before it" in one.message and one.line > 1 for one in warnings)

    @settings(max_examples=80, deadline=None)
    @given(
        several=st.lists(
            st.tuples(
                st.sampled_from(get_args(Outcome)), matches, st.sampled_from([None, "args.a == 1", "true"])
            ),
            min_size=2,
            max_size=5,
        ),
        kind=st.sampled_from(["plan", "tool_call", "model_call"]),
        tool=st.sampled_from(["", "a", "ab", "aab", "b"]),
        roles=st.frozensets(st.sampled_from(["member", "admin"])),
        level=st.sampled_from([0, 1000]),
        granted=st.booleans(),
    )
    def test_are_only_given_where_it_is_certain(  # noqa: PLR0917 # hypothesis gives them by name
        self,
        several: list[tuple[Outcome, Match, str | None]],
        kind: SubjectKind,
        tool: str,
        roles: frozenset[str],
        level: int,
        granted: bool,
    ) -> None:
        written = [
            rule(
                f"r{n}",
                outcome,
                condition,
                match=match.model_dump(mode="json", exclude_none=True),
                parameters={"rate": "1/hour"} if outcome == "throttle" else {},
            )
            for n, (outcome, match, condition) in enumerate(several)
        ]
        rules = policy(*written)
        hashes = rules.rule_hashes
        asked = request(
            subject_kind=kind,
            tool=tool if kind == "tool_call" else "",
            roles=roles,
            arguments={"a": 1},
            throttles=dict.fromkeys(hashes, level),
            grants=tuple(
                GrantFact(approval_id=UUID(int=n), rule=name, rule_hash=version, scope="once")
                for n, (name, version) in enumerate(hashes.items())
            )
            if granted
            else (),
        )
        verdict = decide(asked, rules)
        assert verdict.rule not in {one.rule for one in rules.warnings}
        for n, (_, match, _) in enumerate(several):
            found = any(one.rule == f"r{n}" for one in verdict.evaluated)
            assert takes_in(match, kind, (asked.tool, "", "", ""), roles) is found

    def test_name_an_exemption_that_is_the_condition(self) -> None:
        (warning,) = policy(rule("r", condition="args.size() > 1", unless="args.size() > 1")).warnings
        assert "never match" in warning.message
