"""Recorded decisions are made again as they were, whatever release made them."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from governance.decide import DecisionRequest, Verdict, decide
from governance.policy import PolicySet, load_policy

# Requests, texts of sets and verdicts, as the code that had that environment as its newest wrote them.
FILES = sorted((Path(__file__).parent / "golden").glob("decisions_*.json"))
GOLDEN = {int(file.stem.partition("_")[2]): json.loads(file.read_text(encoding="utf-8")) for file in FILES}
SETS = [(version, text) for version, golden in GOLDEN.items() for text in golden["policies"].items()]
DECISIONS = [(version, one) for version, golden in GOLDEN.items() for one in golden["decisions"]]


@pytest.fixture(scope="module")
def sets() -> dict[str, PolicySet]:
    return {policy_hash: load_policy(text) for _, (policy_hash, text) in SETS}


class TestRecordedDecisions:
    def test_are_there_for_every_environment(self) -> None:
        assert list(GOLDEN) == [1, 2, 3]

    @pytest.mark.parametrize(("version", "written"), SETS)
    def test_come_from_sets_that_keep_text_and_hash(self, version: int, written: tuple[str, str]) -> None:
        policy = load_policy(written[1])
        assert (policy.content_hash, policy.text, policy.environment) == (*written, version)

    @pytest.mark.parametrize(("version", "recorded"), DECISIONS)
    def test_are_made_again_as_they_were(
        self, version: int, recorded: dict[str, Any], sets: dict[str, PolicySet]
    ) -> None:
        request = DecisionRequest.from_json(recorded["request"])
        assert (request.as_json, request.hash) == (recorded["request"], recorded["hash"])
        policy = sets[recorded["verdict"]["policy_hash"]]
        verdict = _as_json(decide(request, policy))
        assert policy.environment == version
        assert {name: verdict[name] for name in recorded["verdict"]} == recorded["verdict"]
        # What verdicts have gained since is empty.
        assert not any(value for name, value in verdict.items() if name not in recorded["verdict"])


def _as_json(verdict: Verdict) -> dict[str, Any]:
    written = {name: _plain(getattr(verdict, name)) for name in Verdict.__dataclass_fields__}
    written["evaluated"] = [[one.rule, one.result, one.detail] for one in verdict.evaluated]
    return written


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, UUID) else value
