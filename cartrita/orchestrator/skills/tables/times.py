"""Dates, years, months and quarters in a question, and the conditions that they are."""

import re
from collections.abc import Sequence
from datetime import date, timedelta

from cartrita.orchestrator.skills.tables.marking import Item
from cartrita.orchestrator.skills.tables.reading import NotUnderstood, Reading, unplaced
from cartrita.orchestrator.skills.tables.schema import Column
from cartrita.orchestrator.skills.tables.sql import Condition, Group, code, literal, quoted
from cartrita.orchestrator.skills.tables.vocabulary import MONTHS

_BEFORE_YEARS = ("in", "since", "before", "after", "until", "compare", "unit:year", "time", "between")


def find_times(reading: Reading) -> None:
    """Find dates, years, months and quarters, and make conditions of them."""
    _name_times(reading)
    place = 0
    while place < len(reading.items):
        if reading.items[place].role != "time":
            place += 1
            continue
        place = _timed(reading, place)


def is_year(text: str) -> bool:
    """Tell whether a number may be a year that people speak of."""
    return re.fullmatch(r"(?:19|20)[0-9]{2}", text) is not None


def _timed(reading: Reading, place: int) -> int:
    items = reading.items
    begin, end = place, place + 1
    start, stop, said = items[place].text.split("|")
    before = reading.role(place - 1)
    ranges = [(start, stop)]
    if before == "between" and reading.role(place + 1) == "and" and reading.role(place + 2) == "time":
        later = items[place + 2].text.split("|")
        ranges, said, begin, end = [(start, later[1])], f"between {said} and {later[2]}", place - 1, place + 3
    elif before == "since" and reading.role(place + 1) == "until" and reading.role(place + 2) == "time":
        later = items[place + 2].text.split("|")
        ranges, said, begin, end = [(start, later[1])], f"from {said} to {later[2]}", place - 1, place + 3
    elif before in ("since", "before", "after", "until") or before.startswith("cmp:"):
        bounds = {
            "since": (start, ""), "cmp:>=": (start, ""), "after": (stop, ""), "cmp:>": (stop, ""),
            "before": ("", start), "cmp:<": ("", start), "until": ("", stop), "cmp:<=": ("", stop),
            "cmp:=": (start, stop),
        }  # fmt: skip
        if before not in bounds:
            raise NotUnderstood(unplaced(items[place - 1 : place]))
        ranges, said, begin = [bounds[before]], f"{items[place - 1].text} {said}", place - 1
    else:
        begin = place - 1 if before == "in" else place
        while reading.role(end) in ("and", "or", "time"):
            step = 1 if reading.role(end) == "time" else 2
            if step == 2 and reading.role(end + 1) == "in" and reading.role(end + 2) == "time":
                step = 3
            if reading.role(end + step - 1) != "time":
                break
            later = items[end + step - 1].text.split("|")
            ranges.append((later[0], later[1]))
            said += f" or {later[2]}"
            end += step
        said = f"in {said}"
    column, first, last = _timed_column(reading, begin, end)
    if len(ranges) > 1 and any(item.role == "compare" for item in items):
        reading.groups.append(Group(column, "year" if column.is_date else ""))
    sql = " OR ".join(_within(column, *bounds) for bounds in ranges)
    reading.add(Condition(f"({sql})", f"{code(column.name)} is {said}"), column)
    del items[first:last]
    return first


def _timed_column(reading: Reading, begin: int, end: int) -> tuple[Column, int, int]:
    """Return the column that a time is of, and the range of items that say both."""
    items = reading.items

    def fits(place: int) -> bool:
        return reading.role(place) == "col" and any(
            column.is_date or column.is_year for column in items[place].columns
        )

    if fits(begin - 1) and reading.role(begin - 2) not in ("by", "sort"):
        return _time_column(reading, items[begin - 1]), begin - 1, end
    if fits(begin - 2) and reading.role(begin - 1) == "in" and reading.role(begin - 3) not in ("by", "sort"):
        return _time_column(reading, items[begin - 2]), begin - 2, end
    if fits(end):
        return _time_column(reading, items[end]), begin, end + 1
    said = [item for place, item in enumerate(items) if fits(place) and item.quality >= 2]
    if len(said) == 1:
        return _time_column(reading, said[0]), begin, end
    years = [column for column in reading.table.columns if column.is_year]
    dates = [column for column in reading.table.columns if column.is_date]
    if years and not dates and len(years) == 1:
        return years[0], begin, end
    if years and dates:
        named = " or ".join(code(column.name) for column in (*years, *dates))
        raise NotUnderstood(f"The time may be that of {named}: say which.", "question_ambiguous")
    return reading.only_date(), begin, end


def _time_column(reading: Reading, item: Item) -> Column:
    return reading.pick(item, lambda each: each.is_date or each.is_year, "dates")


def _within(column: Column, start: str, stop: str) -> str:
    name = quoted(column.name)
    if column.is_year:
        if any(bound and not bound.endswith("-01-01") for bound in (start, stop)):
            raise NotUnderstood(f"{code(column.name)} tells only years.")
        start, stop = start[:4], stop[:4]
        bounds = [f"{name} >= {start}" if start else "", f"{name} < {stop}" if stop else ""]
    else:
        bounds = [
            f"{name} >= DATE {literal(start)}" if start else "",
            f"{name} < DATE {literal(stop)}" if stop else "",
        ]
    return "(" + " AND ".join(bound for bound in bounds if bound) + ")"


def _name_times(reading: Reading) -> None:
    """Put one item of role `time` (first day|day after the last|words) for what names a time."""
    items = reading.items
    place = 0
    while place < len(items):
        found = _time_at(reading, place)
        if found is None:
            place += 1
            continue
        length, start, stop, said = found
        items[place : place + length] = [Item("time", f"{start.isoformat()}|{stop.isoformat()}|{said}")]
        if reading.role(place - 1) == "unit:year" and reading.role(place - 2) != "by":
            del items[place - 1]  # `in the year 2024`
        else:
            place += 1


def _time_at(reading: Reading, place: int) -> tuple[int, date, date, str] | None:
    items = reading.items
    item = items[place]
    if item.role == "date":
        day = _day(item.text)
        return 1, day, day + timedelta(days=1), day.isoformat()
    if item.role in ("monthname", "quartername"):
        skip = 1 if reading.role(place + 1) in ("in", "unit:year") else 0
        named = " ".join(
            each.text for each in items[place : place + 3] if each.role not in ("in", "unit:year")
        )
        if item.role == "monthname" and (day_year := _day_year(items, place)):
            return day_year
        year, length = _year(items, place + 1 + skip), 2 + skip
        if year is None:
            if item.text == "may" and reading.role(place - 1) not in _BEFORE_YEARS:
                return None
            year, length, named = _single_year(reading, item), 1, item.text
        month = MONTHS[item.text] if item.role == "monthname" else 3 * int(item.text[1]) - 2
        return (
            length,
            date(year, month, 1),
            _months_later(year, month, 1 if item.role == "monthname" else 3),
            (f"{item.text.title()} {year}" if length == 1 else named),
        )
    if item.role == "number" and _is_day_before_month(reading, place):
        year = _year(items, place + 2)
        if year is not None:
            day = _made(year, MONTHS[items[place + 1].text], int(item.text))
            return 3, day, day + timedelta(days=1), day.isoformat()
    if item.role == "number" and _is_year(reading, place):
        year = int(item.text)
        return 1, date(year, 1, 1), date(year + 1, 1, 1), item.text
    return None


def _day_year(items: Sequence[Item], place: int) -> tuple[int, date, date, str] | None:
    day = items[place + 1] if place + 1 < len(items) else None
    year = _year(items, place + 2)
    if day is None or year is None or not re.fullmatch(r"[0-9]{1,2}", day.text):
        return None
    found = _made(year, MONTHS[items[place].text], int(day.text))
    return 3, found, found + timedelta(days=1), found.isoformat()


def _is_day_before_month(reading: Reading, place: int) -> bool:
    return (
        re.fullmatch(r"[0-9]{1,2}", reading.items[place].text) is not None
        and reading.role(place + 1) == "monthname"
    )


def _is_year(reading: Reading, place: int) -> bool:
    items = reading.items
    if _year(items, place) is None or not any(each.is_date or each.is_year for each in reading.table.columns):
        return False
    before = reading.role(place - 1)
    if before in ("and", "or"):
        if reading.role(place - 2) == "time":
            return True
        before = reading.role(place - 2)
    if before in ("between", "since", "until", "in"):
        # `a salary between 2000 and 2100`, `a price of 2000`
        back = place - 2
        while reading.role(back) == "in":
            back -= 1
        earlier = items[back] if back >= 0 else None
        if before == "in" and items[place - 1].text in ("of", "at", "on", "von"):
            # A price of 2000, the sales of 2019: only what is no column's figure can be a year.
            measured = earlier is not None and earlier.role == "col" and _is_measured(earlier)
            return not measured or int(items[place].text) in _years(reading)
        return not (
            before == "between" and earlier is not None and earlier.role == "col" and _is_measured(earlier)
        )
    if before == "col" or before.startswith("cmp:"):
        back = place - 1 if before == "col" else place - 2
        named = items[back] if back >= 0 else None
        return (
            named is not None
            and bool(named.columns)
            and all(each.is_date or each.is_year for each in named.columns)
        )
    return before in _BEFORE_YEARS


def _is_measured(item: Item) -> bool:
    return any(column.is_measure for column in item.columns)


def _years(reading: Reading) -> set[int]:
    """Return the years that the only column of dates has."""
    dates = [
        column for column in reading.table.columns if column.is_date and column.minimum and column.maximum
    ]
    if len(dates) != 1:
        return set()
    bounds = [str(dates[0].minimum)[:4], str(dates[0].maximum)[:4]]
    return set(range(int(bounds[0]), int(bounds[1]) + 1)) if all(map(str.isdecimal, bounds)) else set()


def _year(items: Sequence[Item], place: int) -> int | None:
    if not 0 <= place < len(items) or items[place].role != "number":
        return None
    return int(items[place].text) if is_year(items[place].text) else None


def _single_year(reading: Reading, item: Item) -> int:
    years = _years(reading)
    if len(years) != 1:
        raise NotUnderstood(f"Of which year {item.text.title()} is meant is not said.", "question_ambiguous")
    return years.pop()


def _months_later(year: int, month: int, count: int) -> date:
    later = month + count
    return date(year + 1, later - 12, 1) if later > 12 else date(year, later, 1)


def _day(text: str) -> date:
    if "." in text:
        day, month, year = map(int, text.split("."))
        return _made(year, month, day)
    year, month, day = map(int, text.split("-"))
    return _made(year, month, day)


def _made(year: int, month: int, day: int) -> date:
    if not 1 <= year <= 9998:
        raise NotUnderstood("There is no such year.")
    try:
        return date(year, month, day)
    except ValueError:
        raise NotUnderstood(f"There is no day {year}-{month:02}-{day:02}.") from None
