from datetime import timedelta
from typing import Any

import pytest

from governance.policy import PolicySet
from governance.step import take_step
from tests.governance.backtests import as_counted, counted_plainly, reported, without_zeros
from tests.governance.policies import NOON, rule, yaml_policy
from tests.governance.steps import Place, settled

RULES = [
    rule("ok", "allow", priority=900),
    rule("ask-for-python", "escalate", "tool.name == 'python'", parameters={"scopes": ["once", "session"]}),
    rule("no-secrets", "deny", "tool.name == 'send' && 'secret' in labels"),
    rule("slowly", "throttle", "tool.name == 'fetch'", parameters={"rate": "2/minute"}, priority=950),
    rule("look", "audit", "args.expression == '7'", priority=800),
    rule("may-err", "audit", "int(args.expression) > 100", priority=801),
]
STRICTER = [
    *RULES[:2],
    rule("no-send", "deny", "tool.name == 'send'"),
    rule("ask-for-large", "escalate", "cost.tokens > 50"),
    rule("watch-fetch", "audit", "tool.name == 'fetch'"),
    RULES[3],
]
SLOWER = [
    *RULES[:3],
    rule("slowly", "throttle", "tool.name == 'fetch'", parameters={"rate": "1/minute"}, priority=950),
    rule("slow-person", "throttle", "true", parameters={"rate": "3/minute", "per": "user"}, priority=951),
]

pytestmark = pytest.mark.usefixtures("database")


def act_and_settle(place: Place, at: Any, **act: Any) -> None:
    """Decide on one act, and settle it where it may happen."""
    (decided,) = take_step(context=place.context, acts=[place.act(**act)], now=at)
    if decided.permit is not None:
        spent = settled(
            decided.decision_id, tokens=act.get("tokens", 0) // 2, cost_micros=act.get("micros", 0)
        )
        take_step(context=place.context, settlements=[spent], now=at)


@pytest.fixture
def place() -> Place:
    made = Place()
    made.follows(*RULES)
    return made


def some_history(place: Place) -> PolicySet:
    """Decide on some acts in three sessions and return the set that decided."""
    places = [place, place.another_session(), place.another_session()]
    tools = ["calculate", "send", "fetch", "fetch", "python", "send", "calculate", "fetch"]
    for number in range(40):
        act_and_settle(
            places[number % 3],
            NOON + timedelta(seconds=7 * number),
            tool=tools[number % len(tools)],
            tokens=number * 3,
            micros=number * 10,
            may_add=("secret",) if number == 9 else (),
            arguments={"expression": str(number) if number % 5 else "x"},
        )
    return yaml_policy(*RULES)


class TestBackTest:
    def test_of_the_set_in_force_changes_nothing(self, place: Place) -> None:
        original = some_history(place)
        found = reported(place, original)
        assert found["trustworthy"]
        assert (found["changed"], found["by_another_rule"], found["sessions"]["changed"]) == (0, 0, 0)
        assert found["decisions"]["decided_again"] == found["decisions"]["reached"] == 40

    @pytest.mark.parametrize("rules", [STRICTER, SLOWER, [rule("nothing", "deny")], [rule("all", "allow")]])
    def test_counts_what_is_counted_plainly(self, place: Place, rules: list[Any]) -> None:
        original, tested = some_history(place), yaml_policy(*rules)
        found = reported(place, tested)
        plainly = counted_plainly(place.workspace_id, tested, {original.content_hash: original})
        assert as_counted(found) == without_zeros(plainly)
        assert found["trustworthy"]
        assert found["changed"] > 0
