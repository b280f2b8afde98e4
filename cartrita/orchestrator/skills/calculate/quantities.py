"""Quantities that are not worked out yet: an expression for the tool, how it reads, and its unit."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cartrita.orchestrator.skills.calculate import units
from cartrita.orchestrator.skills.calculate.units import Unit

# How tightly the outermost operator of an expression binds.
SUM, PRODUCT, POWER, ATOM = 1, 2, 3, 4


class Stuck(Exception):
    """Rules do not get further; `code` and `reason` are those of the skill's Unable."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a number was taken from: the request of an earlier task, or a word of this one."""

    number: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """An expression of `calculate`, how it reads, and the unit of its value. A percentage is its number."""

    expression: str
    shown: str
    level: int = ATOM
    shown_level: int = ATOM
    unit: Unit = units.NONE
    percent: bool = False
    fraction: bool = False
    comma: bool = False
    origins: tuple[Origin, ...] = ()

    @property
    def is_plain(self) -> bool:
        return not self.unit and not self.percent


def number(text: str, *, unit: Unit = units.NONE, percent: bool = False) -> Quantity:
    """Return a literal. `text` is a decimal number without separators."""
    return Quantity(expression=text, shown=text, unit=unit, percent=percent)


def plus(one: Quantity, other: Quantity) -> Quantity:
    """Add. A percentage is added to what is no percentage as that part of it."""
    if other.percent and not one.percent:
        return more(one, other)
    one, other = _alike(one, other, "added")
    return _joined(one, "+", "+", other, SUM, right=SUM, unit=one.unit or other.unit, percent=one.percent)


def minus(one: Quantity, other: Quantity) -> Quantity:
    """Subtract. A percentage is taken off what is no percentage as that part of it."""
    if other.percent and not one.percent:
        return less(one, other)
    one, other = _alike(one, other, "subtracted")
    return _joined(one, "-", "−", other, SUM, right=PRODUCT, unit=one.unit or other.unit, percent=one.percent)


def times(one: Quantity, other: Quantity) -> Quantity:
    """Multiply; units multiply too."""
    if one.percent and other.is_plain and not other.fraction:
        return _joined(one, "*", "×", other, PRODUCT, right=POWER, percent=True)
    if one.percent and not other.percent:
        one, other = other, one
    one, other = factored(one), factored(other)
    other = converted(other, units.aligned(other.unit, one.unit))
    unit = units.product(one.unit, other.unit)
    _refuse_money_squared(unit, one, other)
    return _joined(one, "*", "×", other, PRODUCT, right=POWER, unit=unit)


def over(one: Quantity, other: Quantity) -> Quantity:
    """Divide; units divide too."""
    if one.percent and other.is_plain:
        return _joined(one, "/", "/", other, PRODUCT, right=POWER, percent=True)
    if one.percent != other.percent:
        one, other = factored(one), factored(other)
    other = converted(other, units.aligned(other.unit, one.unit))
    return _joined(
        one, "/", "/", other, PRODUCT, right=POWER, unit=units.product(one.unit, other.unit, power=-1)
    )


def modulo(one: Quantity, other: Quantity) -> Quantity:
    """Return the remainder of a division."""
    one, other = _alike(one, other, "divided with a remainder")
    return _joined(one, "%", "mod", other, PRODUCT, right=POWER, unit=one.unit)


def power(base: Quantity, exponent: Quantity) -> Quantity:
    """Raise to a power. A unit needs a whole one that is written out."""
    base, exponent = factored(base), factored(exponent)
    if exponent.unit:
        raise Stuck("question_not_understood", f"An exponent has no unit, but {exponent.shown} has one.")
    unit = base.unit
    if unit:
        if exponent.expression not in {"2", "3"}:
            raise Stuck(
                "question_not_understood", f"{base.shown} has a unit: only its square and its cube are known."
            )
        unit = units.raised(unit, int(exponent.expression))
        _refuse_money_squared(unit, base, exponent)
    return _joined(base, "**", "^", exponent, POWER, right=ATOM, left=ATOM, unit=unit)


def negative(one: Quantity) -> Quantity:
    """Change the sign."""
    return replace(
        one,
        expression=f"-{_in(one.expression, one.level, POWER)}",
        shown=f"−{_in(one.shown, one.shown_level, POWER)}",
        level=SUM,
        shown_level=SUM,
    )


def applied(name: str, *arguments: Quantity, shown: str = "") -> Quantity:
    """Apply a function of the tool. The arguments agree in unit, which the value has as well."""
    first, *others = arguments
    alike = [first]
    for other in others:
        alike.append(_alike(alike[0], other, "compared")[1])
    unit = next((one.unit for one in alike if one.unit), units.NONE)
    return Quantity(
        expression=f"{name}({', '.join(one.expression for one in alike)})",
        shown=f"{shown or name}({', '.join(read(one) for one in alike)})",
        unit=unit,
        percent=first.percent,
        origins=_origins(*alike),
    )


def pure(name: str, *arguments: Quantity, shown: str = "") -> Quantity:
    """Apply a function that is of plain numbers only."""
    for one in arguments:
        if not one.is_plain:
            raise Stuck(
                "question_not_understood",
                f"{shown or name} is of a plain number, but {read(one)} has a unit: leave it out.",
            )
    return applied(name, *arguments, shown=shown)


def rounded(one: Quantity, digits: str) -> Quantity:
    """Round to as many digits after the point."""
    return replace(
        one,
        expression=f"round({one.expression}, {digits})" if digits != "0" else f"round({one.expression})",
        shown=f"round({one.shown}, {digits})" if digits != "0" else f"round({one.shown})",
        level=ATOM,
        shown_level=ATOM,
    )


def total(items: Sequence[Quantity]) -> Quantity:
    """Add up."""
    found = items[0]
    for item in items[1:]:
        if item.percent != found.percent:
            raise Stuck(
                "question_not_understood",
                f"{read(found)} and {read(item)} do not add up: one is a percentage.",
            )
        found = plus(found, item)
    return found


def percent_of(part: Quantity, whole: Quantity) -> Quantity:
    """Return that many percent of it."""
    return times(whole, part)


def more(whole: Quantity, part: Quantity) -> Quantity:
    """Add that many percent of it."""
    return _scaled(whole, part, "*", "×", "+")


def less(whole: Quantity, part: Quantity) -> Quantity:
    """Take that many percent off."""
    return _scaled(whole, part, "*", "×", "-")


def before(whole: Quantity, part: Quantity) -> Quantity:
    """Return what has become `whole` when that many percent were added."""
    return _scaled(whole, part, "/", "/", "+")


def contained(whole: Quantity, part: Quantity) -> Quantity:
    """Return what was added when that many percent became part of `whole`."""
    rate = _in(part.expression, part.level, POWER)
    return Quantity(
        expression=f"{_in(whole.expression, whole.level, PRODUCT)} * {rate} / (100 + {rate})",
        shown=f"{_in(whole.shown, whole.shown_level, PRODUCT)} × {part.shown} % / (100 % + {part.shown} %)",
        level=PRODUCT,
        shown_level=PRODUCT,
        unit=whole.unit,
        origins=_origins(whole, part),
    )


def share(part: Quantity, whole: Quantity) -> Quantity:
    """Return how many percent of `whole` the part is."""
    return as_percent(over(part, whole))


def change(old: Quantity, new: Quantity) -> Quantity:
    """Return by how many percent it changed."""
    return as_percent(over(minus(new, old), old))


def as_percent(ratio: Quantity) -> Quantity:
    """Write a ratio in percent."""
    if ratio.percent:
        return ratio
    if ratio.unit:
        raise Stuck(
            "question_not_understood",
            f"{read(ratio)} has the unit {units.written(ratio.unit)}: only a ratio can be given in percent.",
        )
    return Quantity(
        expression=f"{_in(ratio.expression, ratio.level, PRODUCT)} * 100",
        shown=ratio.shown,
        level=PRODUCT,
        shown_level=ratio.shown_level,
        percent=True,
        origins=ratio.origins,
    )


def factored(one: Quantity) -> Quantity:
    """Return a percentage as the ratio that it is."""
    if not one.percent:
        return one
    return replace(
        one,
        expression=f"{_in(one.expression, one.level, PRODUCT)} / 100",
        level=PRODUCT,
        shown=f"{_in(one.shown, one.shown_level, PRODUCT)} %",
        shown_level=ATOM,
        percent=False,
    )


def converted(one: Quantity, target: Unit) -> Quantity:
    """Convert to another unit of the same kind by its exact factor."""
    if one.unit == target:
        return one
    given = one.unit
    if given == (("pounds", 1),):
        given = (("lb", 1),)
    if target == (("pounds", 1),):
        target = (("lb", 1),)
    scales = {name for name, _ in (*given, *target)} & units.TEMPERATURES
    if scales and len(given) == 1 and len(target) == 1:
        return _temperature(one, given[0][0], target[0][0])
    factor = units.factor(given, target)
    if factor is None or one.percent:
        raise Stuck(
            "question_not_understood",
            f"{read(one)} cannot be converted to {units.written(target) or 'a plain number'}: "
            "only units of one kind convert into each other by a fixed factor.",
        )
    expression, shown = one.expression, one.shown
    above, below = factor
    level, shown_level = one.level, one.shown_level
    if above or below:
        expression = _in(expression, level, PRODUCT)
        expression += "".join(f" * {text}" for text in above) + "".join(f" / {text}" for text in below)
        shown = _in(shown, shown_level, PRODUCT)
        shown += "".join(f" × {text}" for text in above) + "".join(f" / {text}" for text in below)
        level = shown_level = PRODUCT
    return replace(one, expression=expression, shown=shown, level=level, shown_level=shown_level, unit=target)


def read(one: Quantity) -> str:
    """Write a quantity with its unit for people."""
    if one.percent:
        return f"{one.shown} %"
    if not one.unit:
        return one.shown
    return f"{_in(one.shown, one.shown_level, PRODUCT)} {units.written(one.unit)}"


def _temperature(one: Quantity, scale: str, target: str) -> Quantity:
    if not {scale, target} <= units.TEMPERATURES:
        raise Stuck(
            "question_not_understood", f"A temperature cannot be converted between {scale} and {target}."
        )
    text, shown = _in(one.expression, one.level, PRODUCT), _in(one.shown, one.shown_level, PRODUCT)
    to_celsius = {"°C": "{}", "°F": "(({} - 32) * 5 / 9)", "K": "({} - 273.15)"}[scale]
    from_celsius = {"°C": "{}", "°F": "{} * 9 / 5 + 32", "K": "{} + 273.15"}[target]
    pattern = from_celsius.format(to_celsius)
    return replace(
        one,
        expression=pattern.format(text),
        shown=pattern.format(shown).replace("*", "×").replace("-", "−"),
        level=SUM,
        shown_level=SUM,
        unit=((target, 1),),
    )


def _scaled(whole: Quantity, part: Quantity, sign: str, shown_sign: str, inner: str) -> Quantity:
    if not part.percent:
        raise Stuck("question_not_understood", f"{read(part)} is not a percentage: write it with %.")
    shown_inner = inner.replace("-", "−")
    return Quantity(
        expression=f"{_in(whole.expression, whole.level, PRODUCT)} {sign} "
        f"(1 {inner} {_in(part.expression, part.level, POWER)} / 100)",
        shown=f"{_in(whole.shown, whole.shown_level, PRODUCT)} {shown_sign} (1 {shown_inner} "
        f"{_in(part.shown, part.shown_level, POWER)} %)",
        level=PRODUCT,
        shown_level=PRODUCT,
        unit=whole.unit,
        percent=whole.percent,
        origins=_origins(whole, part),
    )


def _alike(one: Quantity, other: Quantity, done: str) -> tuple[Quantity, Quantity]:
    if one.percent != other.percent:
        raise Stuck(
            "question_not_understood",
            f"{read(one)} and {read(other)} cannot be {done}: one is a percentage. "
            "Say what it is a percentage of, such as 19 % of 200.",
        )
    # A bare number beside one with a unit is of that unit: 59.90 € + 20.
    if one.unit and other.unit and one.unit != other.unit:
        if units.factor(other.unit, one.unit) is None:
            raise Stuck(
                "question_not_understood",
                f"{read(one)} and {read(other)} cannot be {done}: they have different units.",
            )
        other = converted(other, one.unit)
    return one, other


def _joined(
    one: Quantity,
    sign: str,
    shown_sign: str,
    other: Quantity,
    level: int,
    *,
    right: int,
    left: int | None = None,
    unit: Unit = units.NONE,
    percent: bool = False,
) -> Quantity:
    left = level if left is None else left
    # 231.80 * 19 / 100 reads better than 231.80 * (19 / 100), and is the same.
    part = other.expression if _is_percentage(sign, other) else _in(other.expression, other.level, right)
    shown = _in(one.shown, one.shown_level, left), _in(other.shown, other.shown_level, right)
    return Quantity(
        expression=f"{_in(one.expression, one.level, left)} {sign} {part}",
        shown=f"{shown[0]} {shown_sign} {shown[1]}",
        level=level,
        shown_level=level,
        unit=unit,
        percent=percent,
        origins=_origins(one, other),
    )


def _is_percentage(sign: str, other: Quantity) -> bool:
    return sign == "*" and other.shown.endswith(" %") and other.shown_level == ATOM


def _refuse_money_squared(unit: Unit, one: Quantity, other: Quantity) -> None:
    if any(name in units.CURRENCIES and abs(exponent) > 1 for name, exponent in unit):
        raise Stuck(
            "question_not_understood",
            f"{read(one)} times {read(other)} would be money times money: leave the unit of one out.",
        )


def _in(text: str, level: int, needed: int) -> str:
    return text if level >= needed else f"({text})"


def _origins(*quantities: Quantity) -> tuple[Origin, ...]:
    return tuple(dict.fromkeys(origin for one in quantities for origin in one.origins))
