"""Labelled requests for the router, in two halves: agents are tuned on one, the other is only measured."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cartrita.orchestrator.agents import GENERAL

FILE = Path(__file__).resolve().parent.parent / "data" / "routing.jsonl"
HALVES = ("tune", "test")


@dataclass(frozen=True, slots=True)
class Case:
    """A request and the agent that it is for; `none` in the file is the general agent.

    One that was `seen` when agents were tuned belongs to that half whatever its hash.
    """

    text: str
    attachments: frozenset[str]
    agent: str
    seen: bool

    @property
    def half(self) -> str:
        return HALVES[0 if self.seen else sha256(self.text.encode()).digest()[0] % 2]


def read_cases() -> list[Case]:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [
        Case(
            text=row["text"],
            attachments=frozenset(row["attachments"]),
            agent=GENERAL if row["agent"] == "none" else row["agent"],
            seen=row.get("seen", False),
        )
        for row in map(json.loads, lines)
    ]
