"""What stops a run that does not come to an end by itself, each with its own reason. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from cartrita.llm.events import ModelAnswered
from cartrita.orchestrator.loop import RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLimits:
    """How much one attempt at a task may do. `seconds` are of work, without waiting for people.

    Tokens and money are bounded by budgets, the depth and the number of tasks by the plan's own bounds.
    """

    model_calls: int = 20
    tool_calls: int = 40
    identical_calls: int = 3
    seconds: float = 900.0


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A limit that a run has reached; `reason` tells people which and what helps."""

    code: str
    reason: str


def exceeded(run: RunState, limits: RunLimits, *, repeated: int, seconds: float) -> Exceeded | None:
    """Return the first limit that the next act would pass, None while there is room.

    `repeated` counts how often the very same call was made or wanted in a row or not; `seconds` is the time
    of work so far.
    """
    answers = sum(isinstance(event, ModelAnswered) for event in run.trail)
    calls = len(run.trail) - answers
    if repeated > limits.identical_calls:
        return Exceeded(
            "identical_calls",
            f"The same step was wanted {repeated} times, which leads nowhere; at most "
            f"{limits.identical_calls} are made. Ask in other words.",
        )
    if answers >= limits.model_calls:
        return Exceeded(
            "too_many_model_calls",
            f"The model was asked {answers} times without coming to an answer, which is the limit. "
            "Ask for less at a time.",
        )
    if calls >= limits.tool_calls:
        return Exceeded(
            "too_many_tool_calls",
            f"{calls} calls of tools did not lead to an answer, which is the limit. Ask for less at a time.",
        )
    if seconds >= limits.seconds:
        return Exceeded(
            "too_long", f"The task took {seconds:.0f} s, which is the limit. Ask for less at a time."
        )
    return None


def most_repeated(calls: Sequence[object]) -> int:
    """Count how often the last of these calls was made, itself included."""
    return sum(each == calls[-1] for each in calls) if calls else 0
