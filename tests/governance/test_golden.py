"""Decisions recorded before there were budgets, throttles and grants are made again as they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from governance.decide import DecisionRequest, Verdict, decide
from governance.policy import load_policy

# Requests, policy texts and verdicts as the code with environment 1 wrote them.
GOLDEN = json.loads((Path(__file__).parent / "golden" / "decisions_1.json").read_text(encoding="utf-8"))


class TestRecordedDecisions:
    @pytest.mark.parametrize("policy_hash", GOLDEN["policies"])
    def test_come_from_sets_that_keep_text_and_hash(self, policy_hash: str) -> None:
        policy = load_policy(GOLDEN["policies"][policy_hash])
        assert (policy.content_hash, policy.text, policy.environment) == (
            policy_hash,
            GOLDEN["policies"][policy_hash],
            1,
        )

    @pytest.mark.parametrize("recorded", GOLDEN["decisions"])
    def test_are_made_again_as_they_were(self, recorded: dict[str, Any]) -> None:
        request = DecisionRequest.from_json(recorded["request"])
        assert (request.as_json, request.hash) == (recorded["request"], recorded["hash"])
        policy = load_policy(GOLDEN["policies"][recorded["verdict"]["policy_hash"]])
        verdict = _as_json(decide(request, policy))
        # What verdicts have gained since is empty.
        gained = {name: value for name, value in verdict.items() if name not in recorded["verdict"]}
        assert {name: verdict[name] for name in recorded["verdict"]} == recorded["verdict"]
        assert not any(gained.values())


def _as_json(verdict: Verdict) -> dict[str, Any]:
    written = {name: getattr(verdict, name) for name in Verdict.__dataclass_fields__}
    written["evaluated"] = [[one.rule, one.result, one.detail] for one in verdict.evaluated]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in written.items()}
