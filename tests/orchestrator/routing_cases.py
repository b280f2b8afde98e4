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
    """A request and the agent that it is for; `none` in the file is the general agent."""

    text: str
    attachments: frozenset[str]
    agent: str


def half_of(text: str) -> str:
    """Return which half a request belongs to."""
    return HALVES[sha256(text.encode()).digest()[0] % 2]


def read_cases() -> list[Case]:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [
        Case(
            text=row["text"],
            attachments=frozenset(row["attachments"]),
            agent=GENERAL if row["agent"] == "none" else row["agent"],
        )
        for row in map(json.loads, lines)
    ]
