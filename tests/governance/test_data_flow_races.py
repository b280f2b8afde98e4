"""Of acts at the same time, some reading what is restricted and some sending out, never both are allowed."""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from governance.queries.decisions import recount, redecide_all
from governance.step import take_step
from tests.databases import Database
from tests.governance.policies import rule
from tests.governance.steps import Place

pytestmark = pytest.mark.flow

OUTCOMES = ("deny", "escalate")
# Of a step: in which of two sessions of one person, and which acts, in order.
STEPS = st.lists(
    st.tuples(
        st.integers(0, 1), st.lists(st.sampled_from(["read", "send", "other"]), min_size=1, max_size=3)
    ),
    min_size=2,
    max_size=4,
)


def holding_back(outcome: str) -> tuple[dict[str, Any], ...]:
    asked = "tool.name == 'send' && ('restricted' in labels || 'restricted' in actor_labels)"
    return rule("nothing-goes-out", outcome, asked), rule("the-rest", "allow", priority=9000)


class TestReadsAndSendsAtTheSameTime:
    @pytest.mark.parametrize("outcome", OUTCOMES)
    def test_are_never_both_allowed(self, database: Database, outcome: str) -> None:
        seen: Counter[str] = Counter()

        @settings(
            max_examples=12,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        )
        @given(steps=STEPS)
        def never_both(steps: list[tuple[int, list[str]]]) -> None:
            first = Place()
            first.follows(*holding_back(outcome))
            places = (first, first.another_session())
            allowed = at_once([one(places[session], tools) for session, tools in steps])
            passed = {tool for each in allowed for tool in each}
            assert not {"read", "send"} <= passed, (steps, allowed)
            seen.update(passed)

        never_both()
        assert seen["read"]
        assert seen["send"]
        assert recount() == []
        assert redecide_all()[1] == []


def one(place: Place, tools: list[str]) -> Callable[[threading.Barrier], list[str]]:
    acts = [place.act(tool, may_add=("restricted",) if tool == "read" else ()) for tool in tools]

    def step(barrier: threading.Barrier) -> list[str]:
        barrier.wait()
        try:
            taken = take_step(context=place.context, acts=acts)
            # A step ends with the first act that does not pass, and releases those before it.
            return [act.request.tool for act, decided in zip(acts, taken, strict=False) if decided.permit]
        finally:
            connection.close()

    return step


def at_once(steps: list[Callable[[threading.Barrier], list[str]]]) -> list[list[str]]:
    barrier = threading.Barrier(len(steps))
    with ThreadPoolExecutor(len(steps)) as threads:
        return list(threads.map(lambda step: step(barrier), steps))
