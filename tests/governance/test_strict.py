"""The two sets that come with Cartrita: they say what they do, and the strict one lets nothing else pass."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from governance.cel import ENVIRONMENT_VERSION
from governance.decide import Counters, GlassFact, decide
from governance.detectors import KINDS, LABELS
from governance.examples import run_examples
from governance.policy import Outcome, PolicySet, load_policy
from tests.databases import CHECKOUT
from tests.governance.policies import NOON, WORKSPACE, request

POLICIES = CHECKOUT / "governance" / "policies"
ALLOWED = {"allow", "audit"}
GLASS = GlassFact(id=WORKSPACE, until=NOON.replace(hour=13), by="user:somebody")


@pytest.fixture(scope="module")
def strict() -> PolicySet:
    return load_policy((POLICIES / "strict.yaml").read_text(), "strict.yaml")


def outcome(policy: PolicySet, **more: Any) -> tuple[Outcome, str]:
    verdict = decide(request(**more), policy)
    return verdict.outcome, verdict.rule


class TestBothSets:
    @pytest.mark.parametrize("file", sorted(POLICIES.glob("*.yaml")), ids=lambda path: path.stem)
    def test_hold_their_examples_without_a_doubt(self, file: Path) -> None:
        policy = load_policy(file.read_text(), file.name)
        assert run_examples(policy) == []
        assert policy.warnings == ()
        assert policy.environment == ENVIRONMENT_VERSION

    @pytest.mark.parametrize("file", sorted(POLICIES.glob("*.yaml")), ids=lambda path: path.stem)
    def test_show_each_rule_at_work(self, file: Path) -> None:
        policy = load_policy(file.read_text(), file.name)
        shown = {one.by or rule.name for rule in policy.rules for one in rule.examples}
        assert {rule.name for rule in policy.rules} <= shown


class TestTheStrictSet:
    def test_shows_both_sides_of_each_condition(self, strict: PolicySet) -> None:
        one_sided = {
            rule.name
            for rule in strict.rules
            if (rule.condition or rule.unless)
            and not {True, False} <= {(one.by or rule.name) == rule.name for one in rule.examples}
        }
        assert one_sided == set()

    @pytest.mark.parametrize("glass", [None, GLASS], ids=["closed", "break-glass"])
    def test_lets_no_tool_pass_that_it_does_not_name(
        self, strict: PolicySet, glass: GlassFact | None
    ) -> None:
        labels = [frozenset(), frozenset({"untrusted"}), frozenset({"pii", "injection"})]
        for safety, carried, failed in product(("", "safe", "caution"), labels, (0, 5)):
            counters = Counters(failures_last_5_minutes=failed)
            given = outcome(
                strict, tool="unheard_of", safety_level=safety, labels=carried, counters=counters, glass=glass
            )
            assert given[0] == "deny", (safety, carried, given)
        restricted = outcome(strict, tool="unheard_of", safety_level="restricted", glass=glass)
        asked: Outcome = "escalate" if glass is None else "audit"
        assert restricted == (asked, "restricted-tools-need-two-people")

    @pytest.mark.parametrize("kind", ["model_call", "document"])
    def test_lets_no_model_and_no_sort_of_file_pass_that_it_does_not_name(
        self, strict: PolicySet, kind: Any
    ) -> None:
        arguments = {"media_type": "application/x-unheard-of", "tier": "standard"}
        for glass in (None, GLASS):
            given = outcome(
                strict,
                subject_kind=kind,
                tool="",
                safety_level="",
                model="unheard-of" if kind == "model_call" else "",
                arguments=arguments,
                glass=glass,
            )
            assert given[0] == "deny", given

    def test_lets_break_glass_send_out_what_is_confidential_and_marks_it(self, strict: PolicySet) -> None:
        sent: dict[str, Any] = {"tool": "http_fetch", "safety_level": "caution", "labels": frozenset({"pii"})}
        assert outcome(strict, **sent)[0] == "deny"
        verdict = decide(request(**sent, glass=GLASS), strict)
        assert (verdict.outcome, verdict.review) == ("audit", True)
        assert verdict.unbroken == ("deny", "nothing-goes-out-after-confidential-text")

    def test_hands_no_secret_to_a_tool_under_break_glass_either(self, strict: PolicySet) -> None:
        for glass in (None, GLASS):
            given = outcome(strict, findings=frozenset({"secret"}), glass=glass)
            assert given == ("deny", "secrets-are-not-handed-to-tools")

    def test_takes_out_what_hosted_models_must_not_get(self, strict: PolicySet) -> None:
        asked: dict[str, Any] = {
            "subject_kind": "model_call",
            "tool": "",
            "safety_level": "",
            "model": "gpt-4o-mini",
            "findings": frozenset({"email", "secret"}),
        }
        hosted = decide(request(**asked, arguments={"provider": "openai"}), strict)
        local = decide(request(**asked, arguments={"provider": "local"}), strict)
        assert (hosted.outcome, local.outcome, local.redact) == ("allow", "allow", ())
        # All that detectors find but orders to models, which are reviewed.
        assert set(hosted.redact) == set(KINDS) - {"injection", "hidden"}

    def test_speaks_of_kinds_and_labels_that_there_are(self, strict: PolicySet) -> None:
        for rule in strict.rules:
            assert set(rule.parameters.get("redact", ())) <= set(KINDS), rule.name
            for example in rule.examples:
                assert set(example.given.get("findings", ())) <= set(KINDS), rule.name
        assert {"pii", "secret", "injection"} <= LABELS
