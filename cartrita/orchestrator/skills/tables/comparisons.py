"""Comparisons with numbers in a question, and the conditions that they are."""

from dataclasses import replace

from cartrita.orchestrator.skills.tables.marking import Item, says, value_of
from cartrita.orchestrator.skills.tables.reading import NotUnderstood, Reading, unplaced
from cartrita.orchestrator.skills.tables.schema import Column
from cartrita.orchestrator.skills.tables.sql import Condition, code, literal, quoted
from cartrita.orchestrator.skills.tables.times import is_year
from cartrita.orchestrator.skills.tables.vocabulary import BRACKETED_UNITS
from cartrita.orchestrator.skills.tables.words import folded

_SYMBOLS = {">": "over", ">=": "at least", "<": "under", "<=": "at most", "=": "", "!=": "not"}


def find_comparisons(reading: Reading) -> None:
    """Make conditions of comparisons with numbers."""
    place = 0
    while place < len(reading.items):
        role = reading.role(place)
        if role.startswith(("cmp:", "than:")) and reading.role(place + 1) == "number":
            place = _compared(reading, place)
        elif role == "between" and [reading.role(place + step) for step in (1, 2, 3)] == [
            "number",
            "and",
            "number",
        ]:
            bounds = [_digits(reading.items[place + step]) for step in (1, 3)]
            last = _without_unit(reading, place + 4)
            column, first, last = _compared_column(reading, place, last)
            name = quoted(column.name)
            said = f"{code(column.name)} is between {bounds[0]} and {bounds[1]}"
            reading.add(Condition(f"{name} BETWEEN {bounds[0]} AND {bounds[1]}", said), column)
            del reading.items[first:last]
            place = first
        elif role in ("col", "noun") and reading.role(place + 1) == "number" and _is_key(reading, place):
            item, value = reading.items[place], reading.items[place + 1].text
            if role == "noun":
                item = replace(item, columns=reading.keys(item), quality=2)
            column = reading.pick(item, lambda each: each.is_number or each.type == "VARCHAR", "numbers")
            right = _digits(reading.items[place + 1]) if column.is_number else literal(value)
            said = f"{code(column.name)} is {value}"
            reading.add(Condition(f"{quoted(column.name)} = {right}", said, unlisted=True), column)
            del reading.items[place : place + 2]
        else:
            place += 1


def _is_key(reading: Reading, place: int) -> bool:
    """Tell whether a column and a number after it are its value, as in `order 1003`."""
    before = reading.role(place - 1)
    item = reading.items[place]
    if before in ("by", "sort", "top", "bottom") or before.startswith(("agg:", "sup:")):
        return False
    if item.role == "noun":
        # `order 1003`; but `orders 2024` may be those of that year.
        keys = reading.keys(item)
        said = folded(item.text).split()[-1]
        return any(said in column.words for column in keys) and not is_year(reading.items[place + 1].text)
    return item.quality >= 2 and any(column.is_id for column in item.columns)


def _compared(reading: Reading, place: int) -> int:
    items = reading.items
    role, digits = items[place].role, _digits(items[place + 1])
    after = _without_unit(reading, place + 2)
    if role.startswith("than:"):
        _kind, concept, sign = role.split(":")
        column = reading.about(concept, lambda each: each.is_number)
        first, last = place, after
    else:
        sign = role.removeprefix("cmp:")
        if reading.role(after) in ("noun", "rows") and not _numbered(reading, place - 1):
            return _having(reading, place, after, sign, digits)
        column, first, last = _compared_column(reading, place, after)
    words = " ".join(filter(None, ("is", _SYMBOLS[sign], digits)))
    condition = Condition(
        f"{quoted(column.name)} {'<>' if sign == '!=' else sign} {digits}", f"{code(column.name)} {words}"
    )
    reading.add(condition, column)
    del items[first:last]
    return first


def _having(reading: Reading, place: int, after: int, sign: str, digits: str) -> int:
    """`customers with more than 3 orders`: a condition on how many rows a group has."""
    items = reading.items
    back = place - 1
    while reading.role(back) == "in":
        back -= 1
    if reading.role(back) != "col" or reading.having or sign == "!=":
        raise NotUnderstood(unplaced(items[place : after + 1]))
    reading.having = f"count(*) {sign} {digits}"
    del items[place : after + 1]
    return place


def _numbered(reading: Reading, place: int) -> bool:
    while reading.role(place) == "in":
        place -= 1
    return reading.role(place) == "col" and any(column.is_measure for column in reading.items[place].columns)


def _compared_column(reading: Reading, place: int, after: int) -> tuple[Column, int, int]:
    """Return the column that a comparison is about, and the range of items that say both."""
    items = reading.items
    back = place - 1
    while reading.role(back) == "in":
        back -= 1
    if reading.role(back) == "not":
        raise NotUnderstood(unplaced(items[back : place + 1]))
    if reading.role(back) == "col" and any(column.is_number for column in items[back].columns):
        before = reading.role(back - 1)
        if before.startswith(("agg:", "sup:")) or (before in ("by", "sort", "distinct")):
            raise NotUnderstood("A condition on a total or an order is not followed.")
        return reading.number_of(items[back]), back, after
    if reading.role(after) == "col":
        return reading.number_of(items[after]), place, after + 1
    raise NotUnderstood(f"What {code(items[place].text)} should be compared is not said.")


def _without_unit(reading: Reading, place: int) -> int:
    """Take out the unit after a number, and return the place after the number."""
    if place < len(reading.items):
        item = reading.items[place]
        if (item.role == "unknown" and folded(item.text) in BRACKETED_UNITS) or (
            item.role == "unit:year" and says(item, "year", "years", "jahre")
        ):
            del reading.items[place]
    if reading.role(place) == "percent":
        raise NotUnderstood("A condition in percent is not followed.")
    return place


def _digits(item: Item) -> str:
    found = value_of(item)
    if found is None:
        raise NotUnderstood(f"{code(item.text)} can be read as two numbers: write it without a separator.")
    return found
