"""Units of measure by their exact definitions.

SI brochure, 9th edition; international yard and pound agreement, 1959.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

# A unit is powers of named units, such as (("km", 1), ("h", -1)); without any it is a plain number.
Unit = tuple[tuple[str, int], ...]

NONE: Unit = ()
CURRENCIES = frozenset({"€", "$", "£", "¥", "CHF"})
TEMPERATURES = frozenset({"°C", "°F", "K"})

# Dimension, its power, and what one of it is in the base unit of the dimension: numerator, denominator.
_DEFINITIONS: Mapping[str, tuple[str, int, str, str]] = MappingProxyType(
    {
        "mm": ("length", 1, "1", "1000"),
        "cm": ("length", 1, "1", "100"),
        "dm": ("length", 1, "1", "10"),
        "m": ("length", 1, "1", "1"),
        "km": ("length", 1, "1000", "1"),
        "in": ("length", 1, "0.0254", "1"),
        "ft": ("length", 1, "0.3048", "1"),
        "yd": ("length", 1, "0.9144", "1"),
        "mi": ("length", 1, "1609.344", "1"),
        "nmi": ("length", 1, "1852", "1"),
        "ha": ("length", 2, "10000", "1"),
        "ml": ("length", 3, "1", "1000000"),
        "cl": ("length", 3, "1", "100000"),
        "l": ("length", 3, "1", "1000"),
        "mg": ("mass", 1, "1", "1000"),
        "g": ("mass", 1, "1", "1"),
        "kg": ("mass", 1, "1000", "1"),
        "t": ("mass", 1, "1000000", "1"),
        "lb": ("mass", 1, "453.59237", "1"),
        "oz": ("mass", 1, "28.349523125", "1"),
        "ms": ("time", 1, "1", "1000"),
        "s": ("time", 1, "1", "1"),
        "min": ("time", 1, "60", "1"),
        "h": ("time", 1, "3600", "1"),
        "days": ("time", 1, "86400", "1"),
        "weeks": ("time", 1, "604800", "1"),
        # How many days a month or a year has is not fixed: they convert into each other alone.
        "months": ("calendar", 1, "1", "1"),
        "years": ("calendar", 1, "12", "1"),
        "kWh": ("energy", 1, "1000", "1"),
        "Wh": ("energy", 1, "1", "1"),
    }
)

_SPELLED: Mapping[str, str] = {
    "€": "€ eur euro euros",
    "$": "$ usd dollar dollars",
    "£": "£ gbp",
    "¥": "¥ jpy yen",
    "CHF": "chf francs",
    "mm": "mm millimeter millimeters millimetre millimetres",
    "cm": "cm centimeter centimeters centimetre centimetres zentimeter zentimetern",
    "dm": "dm",
    "m": "m meter meters metre metres metern",
    "km": "km kilometer kilometers kilometre kilometres kilometern",
    "in": "inch inches zoll",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles meile meilen",
    "nmi": "nmi",
    "ha": "ha hectare hectares hektar",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "cl": "cl",
    "l": "l liter liters litre litres litern",
    "mg": "mg milligram milligrams milligramm",
    "g": "g gram grams gramm grammes gramme",
    "kg": "kg kilo kilos kilogram kilograms kilogramm",
    "t": "t tonne tonnes",
    "lb": "lb lbs",
    "oz": "oz ounce ounces",
    "ms": "ms millisecond milliseconds",
    "s": "s sec secs second seconds sekunde sekunden",
    "min": "min mins minute minutes minuten",
    "h": "h hr hrs hour hours stunde stunden heures heure",
    "days": "day days tag tage tagen",
    "weeks": "week weeks woche wochen",
    "months": "month months monat monate monaten",
    "years": "year years jahr jahre jahren",
    "kWh": "kwh",
    "Wh": "wh",
    "°C": "°c celsius centigrade",
    "°F": "°f fahrenheit",
    "K": "kelvin",
    # Money or mass: it converts to a mass, and else stays what it is called.
    "pounds": "pound pounds",
}

WORDS: Mapping[str, Unit] = MappingProxyType(
    {word: ((name, 1),) for name, words in _SPELLED.items() for word in words.split()}
    | {
        "mph": (("mi", 1), ("h", -1)),
        "kmh": (("km", 1), ("h", -1)),
        "kph": (("km", 1), ("h", -1)),
        "knot": (("nmi", 1), ("h", -1)),
        "knots": (("nmi", 1), ("h", -1)),
        "sqm": (("m", 2),),
        "quadratmeter": (("m", 2),),
        "quadratmetern": (("m", 2),),
        "kubikmeter": (("m", 3),),
        "m²": (("m", 2),),
        "m³": (("m", 3),),
    }
)


def written(unit: Unit) -> str:
    """Write a unit, such as km/h or m²."""
    above = " ".join(_power(name, power) for name, power in unit if power > 0)
    below = " ".join(_power(name, -power) for name, power in unit if power < 0)
    return (f"{above}/{below}" if above else f"per {below}") if below else above


def product(one: Unit, other: Unit, *, power: int = 1) -> Unit:
    """Return the unit of a product, or of a quotient with power -1. Units of equal names only cancel."""
    powers = dict(one)
    for name, exponent in other:
        powers[name] = powers.get(name, 0) + power * exponent
    return tuple((name, exponent) for name, exponent in powers.items() if exponent)


def raised(unit: Unit, power: int) -> Unit:
    """Return a power of a unit."""
    return tuple((name, exponent * power) for name, exponent in unit if power)


def aligned(unit: Unit, other: Unit) -> Unit:
    """Return `unit` with its names replaced by those that `other` has for the same dimension."""
    names = {_dimension(name): name for name, _ in other}
    found: dict[str, int] = {}
    for name, exponent in unit:
        use = names.get(_dimension(name), name)
        if use != name and _DEFINITIONS[use][1] != _DEFINITIONS[name][1]:
            use = name
        found[use] = found.get(use, 0) + exponent
    return tuple(found.items())


def factor(unit: Unit, target: Unit) -> tuple[Sequence[str], Sequence[str]] | None:
    """Return the numbers to multiply and to divide by to get from a unit to another, or None if it has other
    dimensions.
    """
    if _dimensions(unit) != _dimensions(target):
        return None
    times: list[str] = []
    by: list[str] = []
    for given, sign in ((unit, 1), (target, -1)):
        for name, exponent in given:
            if name not in _DEFINITIONS:
                continue
            _, _, above, below = _DEFINITIONS[name]
            upper, lower = (above, below) if exponent * sign > 0 else (below, above)
            times += [upper] * abs(exponent)
            by += [lower] * abs(exponent)
    for number in list(times):
        if number in by:
            times.remove(number)
            by.remove(number)
    return [number for number in times if number != "1"], [number for number in by if number != "1"]


def _dimension(name: str) -> str:
    return _DEFINITIONS[name][0] if name in _DEFINITIONS else name


def _dimensions(unit: Unit) -> Mapping[str, int]:
    found: dict[str, int] = {}
    for name, exponent in unit:
        power = _DEFINITIONS[name][1] if name in _DEFINITIONS else 1
        found[_dimension(name)] = found.get(_dimension(name), 0) + power * exponent
    return {dimension: power for dimension, power in found.items() if power}


def _power(name: str, power: int) -> str:
    return name if power == 1 else name + {2: "²", 3: "³"}.get(power, f"^{power}")
