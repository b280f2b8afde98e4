"""What the parts of a plan came to, put together into one answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cartrita.llm.providers import ChatMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    intent: str
    agent: str
    status: str
    text: str
    citations: Sequence[Mapping[str, Any]]
    reason: str
    usable: bool


@dataclass(frozen=True, slots=True)
class Composed:
    text: str
    citations: Sequence[dict[str, Any]]
    supported: bool | None


def compose(goal: str, parts: Sequence[Part]) -> Composed:
    text = "\n\n".join(f"**{part.intent}**\n\n{part.text or part.reason}" for part in parts)
    return Composed(text, [dict(one) for part in parts for one in part.citations], None)


def synthesis_messages(agent_instructions: str, goal: str, parts: Sequence[Part]) -> tuple[ChatMessage, ...]:
    said = "\n\n".join(part.text for part in parts)
    return (ChatMessage("system", agent_instructions), ChatMessage("user", f"{goal}\n\n{said}"))


def check(text: str, parts: Sequence[Part]) -> Composed:
    return Composed(text, [], None)
