"""Rules that read or redact what detectors find."""

import re
from pathlib import Path

import pytest

from cartrita.eventstore import load
from governance.decision import DecisionMade
from governance.examples import run_examples
from governance.policy import load_policy
from governance.queries.decisions import redecide_all
from governance.step import take_step
from tests.databases import Database
from tests.governance.policies import rule, yaml_policy
from tests.governance.steps import Place

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


@pytest.mark.flow
class TestTheDecision:
    def test_says_which_detectors_looked(self, database: Database) -> None:
        place = Place()
        place.follows(rule("ok", "allow"))
        for told in ("", "rules 2, of a library 3"):
            act = place.act(detectors=told)
            (taken,) = take_step(context=place.context, acts=[act])
            (recorded,) = load(act.decision_id)
            assert isinstance(recorded.event, DecisionMade)
            assert recorded.event.detectors == told
            assert taken.permit is not None
            taken.permit.check(act.request)
        assert redecide_all() == (2, [])
