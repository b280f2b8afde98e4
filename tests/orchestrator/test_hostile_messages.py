"""Texts that are made to be slow to look at: each is looked at in a time that grows with its length."""

import time

import pytest

from cartrita.orchestrator import model_planner, splitting
from cartrita.orchestrator.agents import AGENTS
from cartrita.orchestrator.skills import Brief
from cartrita.orchestrator.skills.python import python

# As long as a text may be that is cut into requests.
LONG = 4000
# Some took half a minute, and nothing else of the process went on; now none takes two seconds.
SECONDS = 10


def filled(piece: str, length: int = LONG) -> str:
    return (piece * (length // len(piece) + 1))[:length]


class TestHostileMessage:
    @pytest.mark.parametrize(
        "text",
        [
            f"a{filled(' ', LONG - 2)}b",
            f"what is a{filled(' ', LONG - 20)}b?",
            f"a{filled(chr(10), LONG - 2)}b",
            filled("then "),
            filled("and "),
            f"{filled('and then ', LONG - 1)}x",
            f"{filled('and once that is done ', LONG - 1)}x",
            filled("this;"),
            f"{filled('write from ', LONG - 1)}:",
            filled("„"),
            filled("what, "),
        ],
        ids=lambda text: repr(text[:12]),
    )
    def test_is_cut_soon(self, text: str) -> None:
        begun = time.process_time()
        splitting.parts(text, agents=AGENTS, tools=("calculate",))
        assert time.process_time() - begun < SECONDS

    @pytest.mark.parametrize("mark", ["„", "“", "«", "‘", "'", '"', "`"])
    def test_is_weighed_soon_for_a_planner(self, mark: str) -> None:
        text = filled(mark, model_planner.LONGEST_REQUEST)
        begun = time.process_time()
        splitting.unquoted(text)
        assert time.process_time() - begun < SECONDS

    @pytest.mark.parametrize("bracket", ["{", "["])
    def test_is_no_code_soon(self, bracket: str) -> None:
        begun = time.process_time()
        python(Brief(intent=filled(f"/calculate {bracket * 1000}", 32 * 1024), inputs=(), outcomes=()))
        assert time.process_time() - begun < SECONDS
