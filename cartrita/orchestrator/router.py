"""Which agent a request is for: by likeness to the agents' examples, and by words that speak for one.

Each agent's score is the mean of two cosine similarities of the request's vector, to the centroid of the
agent's examples and to the nearest of them, plus the weights of its cues that are met. Everything after the
vectors is a pure function of text and agents.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cartrita.orchestrator.agents import GENERAL, Agent, Cue

if TYPE_CHECKING:
    from retrieval.embedding import Vectors

Embed = Callable[[Sequence[str]], "Vectors"]

# Below this lead over the second best the general agent takes the request.
MARGIN = 0.01
# Below this score nothing that an agent is for was recognised.
FAINT = 0.18
# What a vector is made of: the model reads about this much, and a request says early or late what it wants.
_LONGEST_HEAD = 400
_LONGEST_TAIL = 200
# Cues are looked for in no more than this, so that no text makes their patterns slow.
_LONGEST_CUED = 1500

_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_QUOTATION = re.compile(
    r"\"[^\"\n]{2,}\"|“[^”\n]{2,}”|„[^“”\n]{2,}[“”]|«[^»\n]{2,}»|(?<!\w)'[^'\n]{2,}'(?!\w)|`[^`\n]+`"
)
# `Check this letter: …`: what follows the first colon is what the request is about, not what it asks.
_MATTER = re.compile(r"(?<=\w)\s?:(?=\s)(?!\s*\Z).*\Z", re.DOTALL)
_PARAGRAPH = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Routing:
    """Who takes a request, and why.

    `scores` are those of all agents, the best first; `margin` is the lead of the first over the second.
    `cues` are the cues that were met, as `agent: cue`. Where `clear` is false nothing led by enough, and the
    general agent takes what `best` might have taken.
    """

    agent: str
    scores: Mapping[str, float]
    margin: float
    cues: tuple[str, ...]
    clear: bool

    @property
    def best(self) -> str:
        """Return the agent with the highest score."""
        return next(iter(self.scores))

    @property
    def nothing(self) -> bool:
        """Tell whether the request asks for nothing: it is clearly small talk."""
        return self.clear and self.agent == GENERAL

    def as_record(self) -> dict[str, Any]:
        """Return what is recorded of the choice, as JSON: both leading scores above all."""
        return {
            "agent": self.agent,
            "scores": {name: round(score, 4) for name, score in self.scores.items()},
            "margin": round(self.margin, 4),
            "cues": list(self.cues),
            "clear": self.clear,
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Likeness:
    """The vectors of all agents' examples: one matrix, and which rows are whose."""

    names: tuple[str, ...]
    examples: Any  # (examples, dimension)
    centroids: Any  # (agents, dimension)
    bounds: tuple[int, ...]  # the row after each agent's last one


def route(
    intent: str, *, agents: Sequence[Agent], embed: Embed, attachments: frozenset[str] = frozenset()
) -> Routing:
    """Return the agent for a request. `attachments` are the kinds at hand: `table`, `text`.

    `embed` makes unit vectors of texts; the examples' are made once a process for the same `embed`. One of
    the agents must be the general one. Raises what `embed` raises.
    """
    likeness = _likeness(tuple(agents), embed)
    return choose(intent, embed([subject(intent)])[0], likeness, agents=agents, attachments=attachments)


def choose(
    intent: str,
    vector: Any,
    likeness: _Likeness,
    *,
    agents: Sequence[Agent],
    attachments: frozenset[str] = frozenset(),
) -> Routing:
    """Return the agent for a request whose subject has this vector. Pure."""
    scores = _similarities(vector, likeness)
    met: list[str] = []
    asked = _clipped(request(intent))
    shown = intent[:_LONGEST_CUED]
    for who in agents:
        for cue in who.cues:
            if _is_met(cue, shown, asked, attachments):
                scores[who.name] += cue.weight
                met.append(f"{who.name}: {cue.name}")
    ranked = dict(sorted(scores.items(), key=lambda item: (-item[1], item[0])))
    (best, first), *others = ranked.items()
    margin = first - others[0][1] if others else first
    clear = first >= FAINT and margin >= MARGIN
    return Routing(
        agent=best if clear else GENERAL,
        scores=MappingProxyType(ranked),
        margin=margin,
        cues=tuple(met),
        clear=clear,
    )


def prepare(agents: Sequence[Agent], embed: Embed) -> _Likeness:
    """Return the vectors of the agents' examples, made once a process for the same `embed`."""
    return _likeness(tuple(agents), embed)


def request(intent: str) -> str:
    """Return what a text asks, without code blocks, quotations and the matter that it hands over."""
    asked = _QUOTATION.sub(" ", _FENCE.sub(" ", intent))
    head = _MATTER.sub(" ", asked)
    if len(head.split()) >= 2:
        asked = head
    first, *rest = _PARAGRAPH.split(asked.strip(), maxsplit=1)
    return first if rest and len(first.split()) >= 3 else asked


def subject(intent: str) -> str:
    """Return the part of a text from which its vector is made."""
    return _clipped(_FENCE.sub(" code ", intent).strip() or intent)


def _clipped(text: str) -> str:
    if len(text) > _LONGEST_HEAD + _LONGEST_TAIL:
        return f"{text[:_LONGEST_HEAD]} … {text[-_LONGEST_TAIL:]}"
    return text


@lru_cache(maxsize=8)
def _likeness(agents: tuple[Agent, ...], embed: Embed) -> _Likeness:
    import numpy as np

    vectors = embed([example for who in agents for example in who.examples])
    bounds: list[int] = []
    centroids = []
    start = 0
    for who in agents:
        end = start + len(who.examples)
        centroid = vectors[start:end].mean(axis=0)
        centroids.append(centroid / (np.linalg.norm(centroid) or 1.0))
        bounds.append(end)
        start = end
    return _Likeness(tuple(who.name for who in agents), vectors, np.stack(centroids), tuple(bounds))


def _similarities(vector: Any, likeness: _Likeness) -> dict[str, float]:
    nearest = likeness.examples @ vector
    centre = likeness.centroids @ vector
    scores: dict[str, float] = {}
    start = 0
    for row, (name, end) in enumerate(zip(likeness.names, likeness.bounds, strict=True)):
        scores[name] = float(centre[row] + nearest[start:end].max()) / 2
        start = end
    return scores


def _is_met(cue: Cue, shown: str, asked: str, attachments: frozenset[str]) -> bool:
    if cue.attached and cue.attached not in attachments:
        return False
    if cue.unattached and cue.unattached in attachments:
        return False
    return _pattern(cue.pattern).search(shown if cue.scope == "all" else asked) is not None


@lru_cache(maxsize=1024)
def _pattern(text: str) -> "re.Pattern[str]":
    return re.compile(text, re.IGNORECASE | re.MULTILINE)
