"""The calculator without a model: reads a request, has the tool work it out, says where figures came from.

It never works out a figure itself, and never guesses: a word that it cannot place, a figure that is not there
or a phrase that may mean several, and it is unable, saying which.
"""

import re
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation, localcontext
from typing import Any

from cartrita.orchestrator.skills import Answer, Brief, Move, Outcome, Unable, Use, skill
from cartrita.orchestrator.skills.calculate import quantities, units
from cartrita.orchestrator.skills.calculate.quantities import Quantity, Stuck
from cartrita.orchestrator.skills.calculate.reading import Calculation, calculation

_MOST_PLACES = 6
_MARKDOWN = re.compile(r"[\\`*_\[\]<|~]")


@skill("calculate")
def calculate(brief: Brief) -> Move:
    """Work out a figure from the words of the request and earlier results with the tool `calculate`."""
    try:
        asked = calculation(brief)
    except Stuck as stuck:
        return Unable(code=stuck.code, reason=stuck.reason)
    if not brief.outcomes:
        return Use(tool="calculate", arguments={"expression": asked.quantity.expression})
    return _answer(asked, brief.outcomes[-1])


def _answer(asked: Calculation, outcome: Outcome) -> Move:
    if outcome.result is None:
        return Unable(
            code=outcome.code or "not_calculable",
            reason=outcome.message or "The figure could not be worked out.",
        )
    value = str(outcome.result["value"])
    quantity = asked.quantity
    result: dict[str, Any] = {
        "value": value,
        "expression": outcome.result.get("expression", quantity.expression),
    }
    if unit := "%" if quantity.percent else units.written(quantity.unit):
        result["unit"] = unit
    lines = [
        _compared(asked.sides, asked, value)
        if asked.sides
        else f"{_escaped(quantity.shown)} = {_valued(value, quantity)}"
    ]
    if quantity.origins:
        lines.append(
            "\n".join(f"- {_escaped(f'{origin.number}: {origin.source}')}" for origin in quantity.origins)
        )
    return Answer(text="\n\n".join(lines), result=result)


def _compared(sides: tuple[Quantity, Quantity], asked: Calculation, value: str) -> str:
    one, other = sides
    sign = "<" if value.startswith("-") else "=" if value == "0" else ">"
    holds = "Yes" if sign == asked.question else "No"
    said = _escaped(f"{quantities.read(one)} {sign} {quantities.read(other)}")
    return f"{holds}: {said}; the difference is {_valued(value, asked.quantity)}."


def _valued(value: str, quantity: Quantity) -> str:
    """Write a value with its unit; one with many places is rounded beside it."""
    exact = _with_unit(value, quantity)
    money = any(name in units.CURRENCIES for name, _ in quantity.unit)
    places = len(value.partition(".")[2].partition("e")[0])
    if money and places == 1:
        # 19.20 €
        return _with_unit(f"{value}0", quantity)
    if "e" in value or places <= (2 if money else _MOST_PLACES):
        return exact
    try:
        with localcontext(prec=1100):
            short = Decimal(value).quantize(Decimal(1).scaleb(-(2 if money else _MOST_PLACES)), ROUND_HALF_UP)
    except InvalidOperation:
        return exact
    if not short:
        return exact
    rounded = _with_unit(f"{short:f}", quantity)
    return f"{exact} (≈ {rounded})" if places <= 12 else f"{rounded} (rounded from {exact})"


def _with_unit(value: str, quantity: Quantity) -> str:
    unit = "%" if quantity.percent else units.written(quantity.unit)
    return f"{value} {unit}".replace("-", "−").strip() if unit else value.replace("-", "−")


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", text)
