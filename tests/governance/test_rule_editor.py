"""The editor of a rule, without the console around it."""

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from governance.admin.rule_editor import EDITORS, Editor, FieldEditor, TextEditor, rule_text, with_caret
from governance.models import PolicyRule
from governance.policy import Rule, load_policy
from governance.rule import definition_of

STARTER = load_policy(Path(settings.STARTER_POLICY).read_text(encoding="utf-8"))
TEXT = """# What mail needs.
name: no-mail
sentence: Mail is not sent.
match: {kinds: [tool_call]}
condition: |
  tool.name == "send_mail" &&
    args.size() > 0
outcome: deny
"""


def sent(mode: str, held: dict[str, Any], former: PolicyRule | None = None) -> Editor:
    """Return an editor as a browser sends it back: lines end in CR LF."""
    data = {
        f"rule-{name}": value.replace("\n", "\r\n") if isinstance(value, str) else value
        for name, value in held.items()
    }
    return EDITORS[mode](data, former=former)


class TestEditors:
    @pytest.mark.parametrize("rule", STARTER.rules, ids=lambda rule: rule.name)
    @pytest.mark.parametrize("mode", ["form", "yaml"])
    def test_give_back_the_rule_that_they_hold(self, mode: str, rule: Rule) -> None:
        former = PolicyRule(name=rule.name, definition=definition_of(rule))
        editor = sent(mode, EDITORS[mode].holding(rule), former)
        assert editor.written() == rule, (editor.errors, editor.problems)

    def test_refuse_another_name(self) -> None:
        rule = STARTER.rules[0]
        former = PolicyRule(name="another", definition=definition_of(rule))
        editor = sent("yaml", TextEditor.holding(rule), former)
        assert editor.written() is None
        assert "Keep another" in editor.problems[0].message


class TestTextEditor:
    def test_takes_comments_and_blocks(self) -> None:
        rule = sent("yaml", {"text": TEXT}).written()
        assert rule is not None
        assert rule.condition == 'tool.name == "send_mail" &&\n  args.size() > 0\n'

    @pytest.mark.parametrize(
        ("wrong", "place", "line"),
        [
            (TEXT.replace("tool.name", "tool.nmae"), "6:", '  tool.nmae == "send_mail" &&'),
            (TEXT.replace("args.size", "args.sizes"), "7:", "    args.sizes() > 0"),
            (TEXT.replace("deny", "dney"), "8:10", "outcome: dney"),
            (TEXT.replace("tool_call", "tool_cal"), "4:16", "match: {kinds: [tool_cal]}"),
            (TEXT + "colour: red\n", "9:", "colour: red"),
            (TEXT + "  bad: [\n", "9:", "  bad: ["),
        ],
    )
    def test_places_problems_in_the_text_as_people_see_it(self, wrong: str, place: str, line: str) -> None:
        editor = sent("yaml", {"text": wrong})
        assert editor.written() is None
        problem = editor.problems[0]
        assert problem.place.startswith(place), problem
        assert problem.line == line


class TestFieldEditor:
    def test_places_problems_in_the_field(self) -> None:
        held = FieldEditor.holding(STARTER.rules[0])
        for field, text, place in (
            ("condition", "true &&\n  nothing", "Condition, 2:3"),
            ("unless", "1 +", "Unless, 1:"),
            ("parameters", "rate: [", "Parameters, 1:"),
            ("examples", "- given: {}\n  then: &x deny", "Examples, 2:"),
        ):
            editor = sent("form", {**held, field: text})
            assert editor.written() is None, field
            assert editor.problems[0].place.startswith(place), editor.problems

    def test_names_the_field_of_other_problems(self) -> None:
        held = FieldEditor.holding(STARTER.rules[0])
        for field, text, place in (
            ("name", "No Mail", "Name (name)"),
            ("parameters", "colour: red", "Parameters (parameters"),
            ("examples", "- given: {kind: plan}", "Examples (examples"),
        ):
            editor = sent("form", {**held, field: text})
            assert editor.written() is None, field
            assert editor.problems[0].place.startswith(place), editor.problems


class TestRuleText:
    def test_reads_back(self) -> None:
        for rule in STARTER.rules:
            assert sent("yaml", {"text": rule_text(rule)}).written() == rule


class TestWithCaret:
    def test_points_below_the_column(self) -> None:
        shown = with_caret("a\n\tbc", 2, 3, "2:3", "wrong")
        assert (shown.line, shown.caret) == (" bc", "  ^")

    def test_leaves_lines_that_are_not_there(self) -> None:
        assert with_caret("a", 7, 1, "7:1", "wrong").line == ""
