"""Rules that read or redact what detectors find."""

import re
from pathlib import Path

import pytest

from governance.examples import run_examples
from governance.policy import load_policy
from tests.governance.policies import rule, yaml_policy

PAGE = Path(__file__).parents[2] / "docs" / "content-safety.md"
THE_REST = """policy: page
rules:
  - name: everything-else
    sentence: The rest is allowed.
    priority: 9000
    match: {kinds: [plan, model_call, tool_call, retrieval, document, message_out]}
    outcome: allow

"""


class TestWarnings:
    @pytest.mark.parametrize(
        ("more", "field"),
        [
            ({"outcome": "allow", "parameters": {"redact": ["card", "e-mail"]}}, "parameters.redact"),
            ({"condition": "'e-mail' in findings || 'card' in findings"}, "condition"),
            ({"unless": '"e-mail" in findings'}, "unless"),
        ],
    )
    def test_name_kinds_that_no_detector_finds(self, more: dict[str, object], field: str) -> None:
        (warning,) = yaml_policy({**rule("typo", match={"kinds": ["model_call"]}), **more}).warnings
        assert (warning.rule, warning.field) == ("typo", field)
        assert warning.message.startswith("no detector finds e-mail: the kinds are secret, ")

    def test_leave_known_kinds_alone(self) -> None:
        fine = rule(
            "fine",
            "allow",
            "'email' in findings && !('ip' in findings)",
            match={"kinds": ["model_call"]},
            parameters={"redact": ["*"]},
        )
        assert yaml_policy(fine).warnings == ()


class TestRulesOfThePage:
    def test_compile_and_fulfil_their_examples(self) -> None:
        (written,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
        made = load_policy(THE_REST + written)
        assert len(made.rules) == 6
        assert made.warnings == ()
        assert run_examples(made) == []
