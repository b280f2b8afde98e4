"""Hostile arguments and broken conditions: an engine's error never lets an act pass."""

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from governance import cel
from governance.decide import decide, variables
from governance.policy import PolicyNotValid, load_policy, rule_problems
from tests.governance.policies import policy, request, rule

BREAKABLE = [
    "args.a == 1",
    "true && args.a",
    "args.a || false",
    "args.a ? true : false",
    "!args.a",
    "args.a > 1",
    "args.a.b.c == 'x'",
    "has(args.a.b.c)",
    "args.?a.?b.orValue('') == 'x'",
    "args.a + args.b == 2",
    "1 / int(args.a) > 0",
    "args.a % 2 == 0",
    "int(args.a) + 9223372036854775807 > 0",
    "string(args.a).matches('(x+x+)+y')",
    "args.a.matches('^[a-z]+$')",
    "args.a.contains('../')",
    "args.a.lowerAscii().startsWith('rm ')",
    "args.a[3] == 'x'",
    "args['a'][args.b] == 1",
    "[1, 2, 3][int(args.a)] == 1",
    "args.a.all(x, x > 0)",
    "args.a.exists(x, x.y == 1)",
    "args.exists(k, args[k] == args.a)",
    "args.all(k, args[k].all(x, args.all(l, l != string(x))))",
    "args.a.all(x, args.a.exists(y, y == x))",
    "timestamp(args.a) < at",
    "duration(args.a) > duration('1h')",
    "double(args.a) > 0.0",
    "args.a.size() > 10",
    "type(args.a) == string && args.a == 'x'",
    "args.a in labels",
    "args.a in args.b",
    "labels.exists(l, l == args.a)",
    "args.a.substring(2, 5) == 'abc'",
    "args.a.split(',').size() > 2",
    "args.a.format([args.b]) == ''",
    "math.greatest(args.a, 3) > 2",
    "bytes(args.a).size() > 3",
    "uint(args.a) > 1u",
    "environment.missing == 'x'",
    "optional.of(args.a).value() == 1",
]
deep: Any = "x"
for _ in range(30):
    deep = {"b": [deep]}
hostile_texts = st.sampled_from(
    [
        "",
        "x" * 4000,
        "' || true || '",
        '"); true //',
        "\u202e\u2066evil\u2069",
        "ÿ\ufeff\u0001",
        "9" * 400,
        "1e309",
        "-0",
        "true",
        "2026-13-45T99:99:99Z",
        "%s%n%x",
        "(a+)+$",
        "ａｄｍｉｎ",
        "𝟙",
    ]
)
hostile = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | hostile_texts
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["a", "b", "y", "c"]), inner),
    max_leaves=12,
)
arguments = st.dictionaries(st.sampled_from(["a", "b"]), hostile, max_size=2)


class TestEngineErrors:
    """One set of all conditions for each outcome, compiled once."""

    ALLOWING = policy(*(rule(f"r{n}", "allow", text) for n, text in enumerate(BREAKABLE)))
    DENYING = policy(
        *(rule(f"r{n}", "deny", text) for n, text in enumerate(BREAKABLE)), rule("default", "allow")
    )
    EXEMPTING = policy(
        *(rule(f"r{n}", "deny", unless=text) for n, text in enumerate(BREAKABLE)), rule("default", "allow")
    )

    @settings(max_examples=100, deadline=None)
    @given(given_arguments=arguments)
    @example({"a": deep, "b": [deep] * 3})
    @example({"a": list(range(5000)), "b": 0})
    @example({"a": {str(n): [n] for n in range(300)}, "b": "0"})
    def test_never_allow(self, given_arguments: dict[str, Any]) -> None:
        asked = request(arguments=given_arguments)
        for rules in (self.ALLOWING, self.DENYING, self.EXEMPTING):
            verdict = decide(asked, rules)
            erred = [one for one in verdict.evaluated if one.result == "error"]
            assert not (erred and verdict.allowed)
            if erred:
                assert verdict.outcome == "deny"
                assert verdict.review
                assert all(one.detail and len(one.detail) <= 500 for one in erred)

    @settings(max_examples=60, deadline=None)
    @given(given_arguments=arguments, place=st.integers(0, len(BREAKABLE) - 1))
    def test_are_those_of_the_rule_alone(self, given_arguments: dict[str, Any], place: int) -> None:
        asked = request(arguments=given_arguments)
        condition = cel.environment().compile_condition(BREAKABLE[place])
        try:
            alone = condition.holds(cel.environment().activation(variables(asked)))
        except cel.EvaluationError:
            expected = "error"
        else:
            expected = "matched" if alone else "not_matched"
        together = {one.rule: one.result for one in decide(asked, self.ALLOWING).evaluated}
        single = decide(asked, policy(rule("r", "allow", BREAKABLE[place])))
        assert together[f"r{place}"] == single.evaluated[0].result == expected
        assert single.allowed is (expected == "matched")

    def test_count_where_memory_ends(self) -> None:
        class Exhausted:
            def eval(self, _: object) -> None:
                raise MemoryError("std::bad_alloc")

        with pytest.raises(cel.EvaluationError, match="bad_alloc"):
            cel.Condition("true", Exhausted()).holds(None)

    def test_do_not_come_from_the_text_of_names(self) -> None:
        odd = request(tool="'||true||'", agent="\u202e", labels=frozenset({"x' || true || '"}))
        assert not decide(odd, policy(rule("r", "allow", "tool.name == 'x' || agent == 'y'"))).allowed


class TestCopyingLoops:
    @pytest.mark.parametrize(
        ("condition", "place"),
        [
            ("args.a.map(x, x).size() > 5", (1, 8)),
            ("true && // .map(\n  args.a . filter (x, x > 3).size() > 5", (2, 12)),
            ("labels.exists(l, args.a.filter(x, x == l).size() > 0)", (1, 25)),
        ],
    )
    def test_over_arguments_are_refused(self, condition: str, place: tuple[int, int]) -> None:
        (found,) = rule_problems(rule("r", "deny", condition))
        assert (found.line, found.column) == place
        assert "use exists" in found.message

    @pytest.mark.parametrize(
        "condition",
        [
            "args.code.contains('.map(')",
            'args.code == """ \n.filter( """ || args.code == "\\".map("',
            "labels.filter(l, l.startsWith('customer-')).size() > 1",
            "args.a == 1 // args.a.map(x, x)",
        ],
    )
    def test_elsewhere_are_not(self, condition: str) -> None:
        assert rule_problems(rule("r", "deny", condition)) == ()

    def test_stay_in_sets_of_the_first_environment(self) -> None:
        written = {"environment": 1, "rules": [rule("r", "deny", "args.a.map(x, x).size() > 1")]}
        assert decide(request(arguments={"a": [1, 2]}), load_policy(json.dumps(written))).rule == "r"


def nested(levels: int, uses: int) -> str:
    """Return loops that hand on `uses` copies of what they got, and compare what comes of it."""
    text = f"x{levels} == x{levels}"
    for level in range(levels, 0, -1):
        copies = ",".join([f"x{level - 1}"] * uses)
        text = f"[[{copies}]].exists(x{level}, {text})"
    return f"[args.a].exists(x0, {text})"


class TestGrowth:
    """The engine has no deadline, and holds all threads of the process while it reckons."""

    @pytest.mark.parametrize(
        "condition",
        [
            nested(14, 8),
            nested(2, 40),
            "[1].map(x, [x, x]).map(x, [x, x]).map(x, [x, x]).map(x, [x, x]).size() > 1",
            "optional.of(1).optMap(x, [x]).optMap(x, [x]).optMap(x, [x]).hasValue()",
            "args.a.replace('a', args.a).size() > 1",
            "args.a.replace('a', 'aaaaaaaa').replace('a', 'aaaaaaaa').size() > 1",
            "args.a.replace('', 'ab').size() > 1",
            "args.l.join(args.a).size() > 1",
            "args.a == r'\\\\' || args.a.replace('a', args.a) == r'\\\\'",
            "args.a.replace('a\\','+',', args.a).size() > 1",
        ],
    )
    @pytest.mark.parametrize("environment", sorted(cel.ENVIRONMENT_VERSIONS))
    def test_beyond_bounds_is_refused_whatever_environment_is_named(
        self, condition: str, environment: int
    ) -> None:
        written = {"environment": environment, "rules": [rule("r", "deny", condition)]}
        with pytest.raises(PolicyNotValid, match="condition of rule r"):
            load_policy(json.dumps(written))

    @pytest.mark.parametrize(
        "condition",
        [
            nested(2, 8),
            "args.all(k, args[k].all(x, args.all(l, l != string(x))))",
            "args.a.replace('-', '').replace(\"\\n\", ' ', 3).lowerAscii() == 'x'",
            "args.l.join(',') == 'x' || args.l.join() == 'x'",
            "args.a == r'\\\\' || args.a.contains('.replace(')",
        ],
    )
    def test_within_bounds_is_not(self, condition: str) -> None:
        assert rule_problems(rule("r", "deny", condition)) == ()


class TestTextsOfPolicies:
    START = '{"environment":2,"policy":"x","rules":[{"name":"a","priority":'

    @pytest.mark.parametrize(
        "text",
        [
            START + "[" * 100_000,
            START + "9" * 5000 + "}]}",
            "rules: [{name: a, priority: " + "9" * 5000 + "}]",
            "rules: [{name: a, priority: !!int x}]",
        ],
        ids=["deep", "digits", "digits in YAML", "no number"],
    )
    def test_that_no_reader_takes_are_refused(self, text: str) -> None:
        with pytest.raises(PolicyNotValid):
            load_policy(text)


class TestNames:
    def test_are_bound_whenever_a_condition_reads_them(self) -> None:
        # Only names whose first word stands in a condition are bound; each of these reads one or another.
        for name in cel.VARIABLES:
            spaced = name.replace(".", " . // dot\n ")
            for text in (f"dyn({name}) == dyn({name})", f"dyn(.{name}) == dyn({spaced})"):
                verdict = decide(request(), policy(rule("r", "allow", text)))
                assert verdict.allowed, (text, verdict.evaluated)

    def test_of_a_later_environment_are_unknown_to_an_earlier(self) -> None:
        written = {"environment": 1, "rules": [rule("r", "deny", "budget.warned")]}
        with pytest.raises(PolicyNotValid, match=r"'budget.warned' is not a known name"):
            load_policy(json.dumps(written))

    def test_reads_arguments_wherever_the_word_stands(self) -> None:
        for text in ("args.a == 1", "size(args) > 1", "has(args.a)", ".args.size() > 1", "args\n.a == 1"):
            assert cel.reads_arguments(text)
        assert not cel.reads_arguments("arguments == 1 || kwargs == 2")
