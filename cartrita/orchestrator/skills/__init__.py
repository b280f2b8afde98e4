"""Skills: what an agent does next, decided by rules instead of a model. Pure functions of a brief.

A skill is asked again after every tool that it used, until it answers or cannot. Its acts are decided and
recorded like those that a model proposes; where it cannot, a model that can use tools takes over.

    @skill("calculate")
    def calculate(brief: Brief) -> Move: ...
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What a task came to that this one comes after; `result` is the JSON object that it gave, if any."""

    intent: str
    agent: str
    text: str
    result: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a tool returned to this task, or why it failed: then `result` is None and `code` says why."""

    tool: str
    result: Mapping[str, Any] | None
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """What a skill knows: the task, the results that it builds on, and what its own tools gave, in order."""

    intent: str
    inputs: Sequence[Input] = ()
    outcomes: Sequence[Outcome] = ()


@dataclass(frozen=True, slots=True)
class Use:
    """Call this tool of the agent with these arguments."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """The task is done. `text` is Markdown for people; `result` is JSON for the tasks that come after.

    `citations` have the form of those of a reply (answering.py).
    """

    text: str
    result: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    citations: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Unable:
    """Rules do not get further; `reason` tells people what is missing and what would help."""

    code: str
    reason: str


Move = Use | Answer | Unable
Skill = Callable[[Brief], Move]

_skills: dict[str, Skill] = {}


def skill(name: str) -> Callable[[Skill], Skill]:
    """Register a function as the skill of that name. A name that is taken is a TypeError."""

    def register(function: Skill) -> Skill:
        if _skills.setdefault(name, function) is not function:
            raise TypeError(f"Two skills are called {name}: rename one.")
        return function

    return register


@cache
def all_skills() -> Mapping[str, Skill]:
    """Return every skill by its name. Imports the modules of this package, which no start should wait for."""
    for module in iter_modules(__path__, f"{__name__}."):
        import_module(module.name)
    return MappingProxyType(_skills)
