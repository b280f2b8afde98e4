"""What a question groups and sorts by."""

from dataclasses import replace

from cartrita.orchestrator.skills.tables.marking import Item
from cartrita.orchestrator.skills.tables.reading import NotUnderstood, Reading, unplaced
from cartrita.orchestrator.skills.tables.schema import Column
from cartrita.orchestrator.skills.tables.sql import Group, quoted


def find_groups(reading: Reading) -> None:
    """Take out what to group and sort by."""
    items = reading.items
    place = 0
    while place < len(items):
        role = items[place].role
        if items[place].text.casefold() == "nach":
            role = "by"  # it also says `after`, but times have been found already
            items[place] = replace(items[place], role=role)
        if role == "sort":
            place = _sorted(reading, place)
        elif role == "by":
            place = _grouped(reading, place)
        elif role.startswith("unit:") and items[place].text.casefold().endswith(("ly", "annual")):
            reading.groups.append(Group(_unit_column(reading, place), role.removeprefix("unit:")))
            del items[place]
        else:
            place += 1


def _sorted(reading: Reading, place: int) -> int:
    items = reading.items
    after = place + 1
    while reading.role(after) in ("noun", "rows", "in", "by"):
        after += 1
    if reading.role(after) != "col":
        raise NotUnderstood("What to sort by is not said.")
    column = reading.pick(items[after], lambda _each: True, "order")
    down = reading.role(after + 1) == "desc"
    last = after + 2 if reading.role(after + 1) in ("asc", "desc") else after + 1
    reading.order = (quoted(column.name), down)
    items[place:last] = [Item("list", "sort")]
    return place + 1


def _grouped(reading: Reading, place: int) -> int:
    items = reading.items
    after = place + 1
    while reading.role(after) == "in":
        after += 1
    role = reading.role(after)
    if role == "by":
        del items[place]
        return place
    if role.startswith("unit:"):
        unit = role.removeprefix("unit:")
        last = after + 1
        skip = last + 1 if reading.role(last) == "in" else last
        if reading.role(skip) == "col" and any(column.is_date for column in items[skip].columns):
            column, last = reading.date_of(items[skip]), skip + 1
        else:
            column = _unit_column(reading, after)
        reading.groups.append(Group(column, unit))
        del items[place:last]
        return place
    if role.startswith("agg:") or (
        role == "col"
        and all(column.is_measure for column in items[after].columns)
        and any(
            item.role in ("top", "bottom") or item.role.startswith(("adj:", "sup:")) for item in items[:place]
        )
    ):
        return place + 1  # by which figure the first are chosen: `_ranked` takes it
    if role != "col":
        raise NotUnderstood(unplaced(items[place : after + 1]))
    last = after
    while reading.role(last) == "col":
        column = reading.group_of(items[last])
        unit = "day" if column.type.startswith("TIMESTAMP") else ""
        reading.groups.append(Group(column, unit))
        last += 1
        more = reading.role(last) == "and" and reading.role(last + 1) == "col"
        if more and all(column.is_measure for column in items[last + 1].columns):
            break
        if not more:
            break
        last += 1
    del items[place:last]
    return place


def _unit_column(reading: Reading, place: int) -> Column:
    dates = [
        (number, item)
        for number, item in enumerate(reading.items)
        if item.role == "col" and item.columns and all(column.is_date for column in item.columns)
    ]
    if len(dates) == 1 and abs(dates[0][0] - place) <= 2:
        column = reading.date_of(dates[0][1])
        reading.items[dates[0][0]] = Item("in", "")
        return column
    return reading.only_date()
