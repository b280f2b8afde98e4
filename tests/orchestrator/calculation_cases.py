"""Labelled requests for the calculator, in two halves: it is tuned on one, the other is only measured."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Context
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from cartrita.orchestrator.skills import Answer, Input, Move, Unable

FILE = Path(__file__).resolve().parent.parent / "data" / "calculations.jsonl"
HALVES = ("tune", "test")

Verdict = Literal["right", "unable", "wrong"]


@dataclass(frozen=True, slots=True)
class Case:
    """A request, the results of earlier tasks, its value and unit, or the code with which it is unable."""

    intent: str
    inputs: tuple[Input, ...]
    value: str
    unit: str
    unable: str
    half: str

    def judged(self, move: Move) -> Verdict:
        """Compare an answer with the label. Numbers are equal to 12 significant digits."""
        if isinstance(move, Unable):
            return "right" if self.unable else "unable"
        assert isinstance(move, Answer)
        if self.unable:
            return "wrong"
        digits = Context(prec=12)
        same = digits.create_decimal(move.result["value"]) == digits.create_decimal(self.value)
        return "right" if same and move.result.get("unit", "") == self.unit else "wrong"


def read_cases() -> list[Case]:
    return [_case(json.loads(line)) for line in FILE.read_text(encoding="utf-8").splitlines()]


def _case(row: Mapping[str, Any]) -> Case:
    inputs = row.get("inputs", [])
    said = json.dumps([row["intent"], inputs], sort_keys=True)
    return Case(
        intent=row["intent"],
        inputs=tuple(Input(**given) for given in inputs),
        value=row.get("value", ""),
        unit=row.get("unit", ""),
        unable=row.get("unable", ""),
        # One that was `seen` when the skill was tuned belongs to that half whatever its hash.
        half=HALVES[0 if row.get("seen") else sha256(said.encode()).digest()[0] % 2],
    )
