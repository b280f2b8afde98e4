from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from governance.decide import decide
from governance.examples import run_examples
from governance.policy import MOST_RULES, PolicyNotValid, SubjectKind, load_policy
from governance.queries.policies import policy_of_file
from tests.governance.policies import policy, request, rule, yaml_policy

VALID = """\
policy: test
rules:
  - name: no-shell
    sentence: Nobody uses the shell.
    match: {kinds: [tool_call]}
    condition: tool.name == "shell"
    outcome: deny
"""


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyNotValid) as refused:
        load_policy(text, "p.yaml")
    return refused.value.message.split("\n")


class TestLoadPolicy:
    def test_orders_by_priority_and_hashes_the_meaning_alone(self) -> None:
        first = policy(rule("b", priority=2), rule("a", priority=1), rule("c", priority=1))
        assert [one.name for one in first.rules] == ["a", "c", "b"]
        assert load_policy(VALID).content_hash == load_policy(f"# a comment\n{VALID}").content_hash
        assert load_policy(VALID).content_hash != load_policy(VALID.replace("deny", "audit")).content_hash

    def test_gives_the_same_set_from_its_own_text(self) -> None:
        # U+2028 and U+0085 are line breaks in YAML and plain characters in JSON.
        odd = policy(rule("odd", condition="args.a == '\u2028\x85é😀'"))
        again = load_policy(odd.text)
        assert (again.content_hash, again.text, again.rules) == (odd.content_hash, odd.text, odd.rules)

    def test_names_file_line_column_rule_and_known_names_of_a_bad_condition(self) -> None:
        (line,) = problems(VALID.replace("tool.name ==", "tool.nmae =="))
        assert line.startswith(
            "p.yaml:6:20: condition of rule no-shell: 'tool.nmae' is not a known name or function"
        )
        assert "(did you mean tool.name?)" in line
        assert "counters.repeats" in line

    @pytest.mark.parametrize(
        ("written", "place"),
        [
            ("condition: tool.name == 3", "6:26"),
            ("condition: 'tool.name == 3'", "6:27"),
            ("condition: |\n      kind == 'plan' ||\n        tool.name == 3", "8:19"),
            ("condition: |\n\n      tool.name == 3", "8:17"),
            ("condition: tool.name ==\n      3", "6:16"),
            ("condition: >\n      tool.name == 3", "6:16"),
        ],
    )
    def test_finds_the_place_inside_every_style_of_text(self, written: str, place: str) -> None:
        (line,) = problems(VALID.replace('condition: tool.name == "shell"', written))
        assert line.startswith(f"p.yaml:{place}: ")
        assert "no matching overload" in line

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "1:1: the text is empty"),
            ("rules: []", "1:1: rules: write `rules:` with at least one rule"),
            ("- a", "1:1: rules: write `rules:`"),
            ("rules: [", "not YAML"),
            ("a: &x [1]\nrules: *x", "1:4: anchors and aliases are not supported"),
            ("rules: !!python/object:os.system {}", "1:1: rules: write"),
            ("rules:\n- !thing x", "2:3: not YAML"),
            (VALID + "    outcome: allow\n", "8:5: the key outcome stands here twice"),
            (VALID.replace("no-shell", "No Shell"), "3:11: name of rule No Shell: use at most 60 characters"),
            (VALID.replace("no-shell", "nothing-matched"), "choose another"),
            (
                VALID.replace("deny", "forbid"),
                "7:14: outcome of rule no-shell: use one of allow, audit, throttle, escalate, deny",
            ),
            (
                "environment: 1\n" + VALID.replace("deny", "escalate"),
                "escalate is not known in environment 1",
            ),
            (VALID.replace("tool_call", "tool"), "5:21: match.kinds.0 of rule no-shell: not a known kind"),
            (VALID.replace("    outcome: deny\n", ""), "3:5: outcome of rule no-shell: missing; add it"),
            (VALID.replace("condition", "conditoin"), "not a known key; known keys: name, sentence"),
            (VALID.replace('tool.name == "shell"', "tool.name"), "it gives STRING, not a boolean"),
            (
                VALID.replace('tool.name == "shell"', "true) || (true"),
                "6:20: condition of rule no-shell: Syntax error",
            ),
            (VALID.replace("policy:", "polcy:"), "1:8: polcy: not known here"),
            (VALID + VALID[VALID.index("  - ") :], "8:11: name of rule no-shell: another rule has this name"),
            ("environment: 99\n" + VALID, "1:14: environment: written for another version"),
            ("rules: " + "[" * 3000 + "]" * 3000, "nested deeper than 50 levels"),
            (VALID + "\0", "1:1: not YAML"),
            ("rules:\n- 3", "2:3: rule number 1: "),
        ],
    )
    def test_says_what_is_wrong_and_where(self, text: str, expected: str) -> None:
        assert expected in "\n".join(problems(text))

    def test_reports_every_problem_at_once(self) -> None:
        second = VALID[VALID.index("  - ") :].replace("no-shell", "x").replace('"shell"', "3")
        assert len(problems(VALID.replace("deny", "forbid") + second)) == 2

    def test_refuses_too_many_rules_and_too_deep_conditions(self) -> None:
        with pytest.raises(PolicyNotValid, match=f"at most {MOST_RULES} rules"):
            policy(*(rule(f"r{n}") for n in range(MOST_RULES + 1)))
        with pytest.raises(PolicyNotValid, match="names of all rules together"):
            policy(*(rule(f"{'x' * 50}-{n}") for n in range(700)))
        with pytest.raises(PolicyNotValid, match="condition of rule deep"):
            policy(rule("deep", condition="(" * 500 + "true" + ")" * 500))

    def test_combines_what_is_longer_than_the_engine_takes(self) -> None:
        long = "'" + "x" * 9000 + "' == args.a"
        big = policy(*(rule(f"r{n}", condition=long) for n in range(30)), rule("default", "allow"))
        assert decide(request(arguments={"a": "y"}), big).rule == "default"

    @given(st.text(max_size=200))
    def test_never_fails_otherwise(self, text: str) -> None:
        with pytest.raises(PolicyNotValid):
            load_policy(text)

    @given(st.text(max_size=60))
    def test_refuses_or_compiles_any_condition(self, text: str) -> None:
        with suppress(PolicyNotValid):
            yaml_policy(rule("r", condition=text))

    @pytest.mark.parametrize(
        ("more", "field"),
        [
            ({"condition": "false"}, "condition"),
            ({"condition": "1 > 2"}, "condition"),
            ({"condition": "kind == 'plan'"}, "condition"),
            ({"unless": "true"}, "unless"),
            ({"match": {"kinds": ["plan"], "tools": ["x"]}}, "match.tools"),
            ({"match": {"kinds": ["plan"], "models": ["x"]}}, "match.models"),
            ({"match": {"kinds": ["plan"], "agents": []}}, "match.agents"),
        ],
    )
    def test_warns_of_rules_that_can_never_match(self, more: dict[str, object], field: str) -> None:
        (warning,) = yaml_policy({**rule("never"), **more}).warnings
        assert (warning.rule, warning.field) == ("never", field)
        assert "never" in warning.message
        assert warning.line > 1

    def test_does_not_warn_of_others(self) -> None:
        fine = [
            rule("a", condition="kind == 'tool_call'"),
            rule("b", condition="true"),
            rule("c", unless="false"),
        ]
        assert policy(*fine).warnings == ()


class TestStarterPolicy:
    def test_fulfils_its_examples_and_has_no_dead_rule(self) -> None:
        assert run_examples(policy_of_file(settings.POLICY_FILE)) == []
        assert policy_of_file(settings.POLICY_FILE).warnings == ()

    def test_has_an_example_and_a_default_for_everything(self) -> None:
        assert all(one.examples for one in policy_of_file(settings.POLICY_FILE).rules)
        defaults = {
            kind
            for one in policy_of_file(settings.POLICY_FILE).rules
            if one.priority == 9000
            for kind in one.match.kinds
        }
        assert defaults == set(get_args(SubjectKind))

    @pytest.mark.parametrize("file", ["starter.yaml", "strict.yaml"])
    def test_shows_each_rule_at_work_and_each_condition_where_it_does_not_hold(self, file: str) -> None:
        for one in policy_of_file(str(Path(settings.POLICY_FILE).with_name(file))).rules:
            by = {example.by or one.name for example in one.examples}
            assert one.name in by
            assert by - {one.name} or (one.condition is None and one.unless is None), one.name


class TestRunExamples:
    def test_names_the_example_that_fails(self) -> None:
        wrong = rule("r", examples=[{"given": {"kind": "tool_call"}, "then": "allow"}])
        (failure,) = run_examples(policy(wrong))
        assert str(failure) == "example 1 of rule r: expected allow by r, got deny by r"

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"kind": "tool_call", "tool.nmae": "x"}, "did you mean tool.name?"),
            ({}, "kind is missing"),
            ({"kind": "nonsense"}, "use one of plan"),
            ({"kind": "tool_call", "cost.tokens": "many"}, "cost.tokens"),
            ({"kind": "tool_call", "roles": 3}, "not valid"),
        ],
    )
    def test_says_what_a_request_lacks(self, given: dict[str, object], message: str) -> None:
        (failure,) = run_examples(policy(rule("r", examples=[{"given": given, "then": "deny"}])))
        assert message in failure.message


class TestPolicyCommand:
    def test_checks_a_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "p.yaml"
        file.write_text(VALID)
        call_command("policy", "check", str(file))
        assert "1 rule, 0 examples, hash" in capsys.readouterr().out
        call_command("policy", "names")
        assert "tool.safety" in capsys.readouterr().out

    def test_fails_on_a_bad_file(self, tmp_path: Path) -> None:
        file = tmp_path / "p.yaml"
        file.write_text(VALID.replace("deny", "forbid"))
        with pytest.raises(CommandError, match=r"p\.yaml:7:14: outcome of rule no-shell"):
            call_command("policy", "check", str(file))
        with pytest.raises(CommandError, match="cannot be read"):
            call_command("policy", "check", str(tmp_path / "none.yaml"))
        file.write_text(VALID + "    examples: [{given: {kind: plan}, then: deny}]\n")
        with pytest.raises(CommandError, match="example 1 of rule no-shell"):
            call_command("policy", "check", str(file))
