"""What a plan will use, reckoned from what such tasks used before. Pure.

A task's use is a random quantity. What tasks of the same agent and tool used, scaled to what is known of this
one, are draws of it; the percentiles of its next draw come from them. Sums are made of draws as well.
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from tasks_app.plan import Amounts, BillLine, Foreseen, Money, PlanBilled

# The range from the first to the last of 9 draws holds the next one in 8 cases of 10, that of fewer does not:
# those are filled up with draws of the estimate.
ENOUGH_SAMPLES = 9
# The draws that a sum is made of stand at the thousandths from 1 to 999.
THOUSAND = 1000
_SEED = 20_260_101

Price = Callable[[int, int], int]
"""What prompt tokens and completion tokens cost together, in micro-units."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a task before it begins: tokens counted in its prompt, and most that it may answer."""

    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Past:
    """What a task used, all its attempts together, beside what was known of it before it began."""

    known: Known
    prompt_tokens: int
    completion_tokens: int
    cost_micros: int = 0
    currency: str = "USD"


@dataclass(frozen=True, slots=True)
class Draw:
    """One use that a task may come to; money in micro-units."""

    tokens: int
    cost_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reckoned:
    """A task with the draws of its use, of which `samples` rest on tasks that ended before."""

    task_id: UUID
    agent: str
    tool: str
    model: str
    known: Known
    draws: Sequence[Draw]
    samples: int
    currency: str
    foreseen: tuple[Foreseen, ...] = ()


def reckon(
    *,
    task_id: UUID,
    agent: str,
    tool: str,
    model: str,
    known: Known,
    past: Sequence[Past],
    price: Price | None,
    currency: str = "USD",
    foreseen: tuple[Foreseen, ...] = (),
) -> Reckoned:
    """Return the draws of a task's use, at `price` in `currency`.

    Without a price a past task costs what it cost, in the currency of the last of them that cost anything;
    those that cost other money are no samples then.
    """
    if price is None:
        currency = next((one.currency for one in past if one.cost_micros), currency)
        past = [one for one in past if not one.cost_micros or one.currency == currency]
    draws = [_scaled(one, known, price) for one in past]
    missing = ENOUGH_SAMPLES - len(draws)
    draws += [_estimated(known, price, place, missing + 1) for place in range(1, missing + 1)]
    return Reckoned(
        task_id=task_id,
        agent=agent,
        tool=tool,
        model=model,
        known=known,
        draws=draws,
        samples=len(past),
        currency=currency,
        foreseen=foreseen,
    )


def billed(tasks: Sequence[Reckoned]) -> PlanBilled:
    """Return the bill of these tasks."""
    costs: dict[str, list[list[int]]] = {}
    for task in tasks:
        if any(draw.cost_micros for draw in task.draws):
            costs.setdefault(task.currency, []).append([draw.cost_micros for draw in task.draws])
    outcomes = Counter(act.outcome for task in tasks for act in task.foreseen)
    return PlanBilled(
        lines=tuple(_line(task) for task in tasks),
        tokens=sum_of([[draw.tokens for draw in task.draws] for task in tasks]),
        costs=tuple(
            Money(currency=currency, **sum_of(draws).model_dump()) for currency, draws in costs.items()
        ),
        approvals=outcomes["escalate"],
        throttles=outcomes["throttle"],
        denials=outcomes["deny"],
    )


def amounts(draws: Sequence[int]) -> Amounts:
    """Return the percentiles of the next draw."""
    ordered = sorted(draws)
    return Amounts(p10=quantile(ordered, 1, 10), p50=quantile(ordered, 1, 2), p90=quantile(ordered, 9, 10))


def quantile(ordered: Sequence[int], numerator: int, denominator: int) -> int:
    """Return a quantile of sorted draws, rounded half up; 0 without any.

    It is at position p (n + 1), between neighbours in proportion, so that the next draw is below it with
    probability p whatever the distribution: definition 6 of Hyndman and Fan, "Sample Quantiles in Statistical
    Packages" (1996).
    """
    if not ordered:
        return 0
    place, rest = divmod((len(ordered) + 1) * numerator, denominator)
    if place < 1:
        return ordered[0]
    if place >= len(ordered):
        return ordered[-1]
    low, high = ordered[place - 1], ordered[place]
    return low + (2 * (high - low) * rest + denominator) // (2 * denominator)


def sum_of(tasks: Sequence[Sequence[int]]) -> Amounts:
    """Return the percentiles of the sum of one draw of each task, independent of one another.

    999 sums are made, in which each task takes part with its quantiles at the thousandths, each once and in
    an order of its own: McKay, Beckman and Conover, "A Comparison of Three Methods for Selecting Values of
    Input Variables" (1979). The orders are always the same, so that the same draws give the same sums, and a
    task more or a larger draw never gives a smaller one. The sum of one task is that task.
    """
    if len(tasks) == 1:
        return amounts(tasks[0])
    sums = [0] * (THOUSAND - 1)
    for number, draws in enumerate(tasks):
        ordered = sorted(draws)
        quantiles = [quantile(ordered, place, THOUSAND) for place in range(1, THOUSAND)]
        random.Random(_SEED + number).shuffle(quantiles)
        sums = [one + other for one, other in zip(sums, quantiles, strict=True)]
    return amounts(sums)


def _line(task: Reckoned) -> BillLine:
    cost = amounts([draw.cost_micros for draw in task.draws])
    return BillLine(
        task_id=task.task_id,
        agent=task.agent,
        tool=task.tool,
        model=task.model,
        samples=task.samples,
        prompt_tokens=task.known.prompt_tokens,
        output_tokens=task.known.output_tokens,
        tokens=amounts([draw.tokens for draw in task.draws]),
        cost=Money(currency=task.currency, **cost.model_dump()),
        foreseen=task.foreseen,
    )


def _scaled(past: Past, known: Known, price: Price | None) -> Draw:
    """Return what a past task would have used, had its prompt and bound been those of this one."""
    prompt = _in_proportion(past.prompt_tokens, known.prompt_tokens, past.known.prompt_tokens)
    completion = _in_proportion(past.completion_tokens, known.output_tokens, past.known.output_tokens)
    cost = past.cost_micros if price is None else price(prompt, completion)
    return Draw(prompt + completion, cost)


def _in_proportion(used: int, known: int, known_then: int) -> int:
    if not known or not known_then:
        return used
    return (2 * used * known + known_then) // (2 * known_then)


def _estimated(known: Known, price: Price | None, numerator: int, denominator: int) -> Draw:
    """Return a quantile of what nothing but the estimate tells.

    The prompt may come to half of what was counted, or to half as much again; the answer to anything up to
    its bound.
    """
    prompt = known.prompt_tokens * (denominator + 2 * numerator) // (2 * denominator)
    completion = known.output_tokens * numerator // denominator
    return Draw(prompt + completion, 0 if price is None else price(prompt, completion))
