"""Our use of the rule engine, compared with an engine that shares no line with it."""

import json

import pytest

from governance.policy import PolicyNotValid, load_policy
from tests.governance.differential import KNOWN, LOOPS, Report, compare, compared

# The first seeds of the comparison; the last one alone takes 100,000 pairs.
SEEDS = (1, 2, 3)


class TestBothEngines:
    """`known` counts pairs that a difference named in `KNOWN` explains: undone, both agree."""

    @pytest.mark.parametrize("seed", SEEDS)
    def test_give_the_same_for_thousands_of_conditions_and_requests(self, seed: int) -> None:
        agree(compare(1_000, seed))

    @pytest.mark.slow
    def test_give_the_same_a_hundred_thousand_times(self) -> None:
        report = compare(100_000, 4)
        agree(report)
        # What is known happens, or it would be no explanation but an excuse.
        assert {name for names in report.known for name in names.split(" + ")} == set(KNOWN)
        assert report.known.total() < report.pairs * 0.03


class TestWhatIsBound:
    @pytest.mark.parametrize("function", ["optMap(v, v == 5)", "optFlatMap(v, optional.of(v == 5))"])
    def test_is_refused_because_a_loop_before_it_changes_it(self, function: str) -> None:
        condition = f'roles.all(role, role == "nobody") || args.?count.{function}.orValue(false)'
        with pytest.raises(PolicyNotValid, match="may read another value than this one"):
            load_policy(json.dumps({"policy": "p", "rules": [rule(condition)]}))

    def test_stays_as_it_was_in_sets_of_before(self) -> None:
        written = {
            "environment": 2,
            "policy": "p",
            "rules": [rule("args.?a.optMap(v, v == 5).orValue(false)")],
        }
        assert load_policy(json.dumps(written)).environment == 2


class TestTheReport:
    def test_says_what_was_compared(self) -> None:
        report = Report(pairs=1_000, sets=10, together=700)
        report.given.update(matched=600, error=400)
        report.known[LOOPS] = 3
        assert compared(report).splitlines() == [
            "1,000 pairs in 10 sets: 400 error, 600 matched",
            "700 evaluated in a list as alone",
            "0 conditions refused by the compiler",
            f"3 explained by {LOOPS}",
            "0 disagreements",
        ]


def agree(report: Report) -> None:
    assert not report.disagreements, compared(report)
    # Each kind of answer is there, and lists were evaluated.
    assert min(report.given[given] for given in ("matched", "not_matched", "error")) > report.pairs * 0.1
    assert report.together > report.pairs * 0.5


def rule(condition: str) -> dict[str, object]:
    match = {"kinds": ["tool_call"]}
    return {"name": "r", "sentence": "A rule.", "match": match, "condition": condition, "outcome": "deny"}
