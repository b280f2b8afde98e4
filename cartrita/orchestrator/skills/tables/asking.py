"""What a question asks of a table: the conditions in it first, then groups, then the figure that is wanted.

Every word must have its place in what is asked, else the question counts as not understood.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

from cartrita.orchestrator.skills.tables.marking import Item, marked, narrowed, says, value_of
from cartrita.orchestrator.skills.tables.schema import Column, Table
from cartrita.orchestrator.skills.tables.sql import (
    Condition,
    Group,
    Measure,
    code,
    literal,
    one_of,
    present,
    quoted,
)
from cartrita.orchestrator.skills.tables.words import (
    CONCEPTS,
    MONTHS,
    NUMBERS,
    UNSAID,
    Token,
    folded,
    is_additive,
)

MOST_CONDITIONS = 20
_SYMBOLS = {">": "over", ">=": "at least", "<": "under", "<=": "at most", "=": "", "!=": "not"}
_BEFORE_YEARS = ("in", "since", "before", "after", "until", "compare", "unit:year", "time", "between")


class NotUnderstood(Exception):
    """The question does not say what this table could answer; `reason` is a sentence."""

    def __init__(self, reason: str, code: str = "question_not_understood") -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is asked of a table. `kind` says how: figures, groups, leaders (of groups, ranked in two ways that
    must agree), extremes (rows), rows, share, columns.

    `sure` is how well its words name the table's columns.
    """

    kind: str
    table: Table
    conditions: tuple[Condition, ...] = ()
    measures: tuple[Measure, ...] = ()
    groups: tuple[Group, ...] = ()
    columns: tuple[Column, ...] = ()
    share: tuple[Condition, ...] = ()
    order: tuple[str, bool] | None = None  # SQL, descending
    having: str = ""
    first: int | None = None
    key: Column | None = None  # what is counted may be told apart by it
    sure: float = 0.0
    value_only: bool = False


@dataclass
class _Reading:
    """The words that have no place yet, and what the others came to."""

    table: Table
    items: list[Item]
    inputs: Sequence[Mapping[str, Any]]
    conditions: list[Condition] = field(default_factory=list)
    filtered: list[Column] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    order: tuple[str, bool] | None = None
    having: str = ""
    qualities: list[int] = field(default_factory=list)


def asked(tokens: Sequence[Token], table: Table, inputs: Sequence[Mapping[str, Any]] = ()) -> Asked:
    """Return what is asked of this table. `inputs` are results of other tasks. Raises NotUnderstood."""
    reading = _Reading(table, marked(tokens, table), inputs)
    reading.items = [item for item in reading.items if item.role != "title"]
    for step in (_references, _times, _comparisons, _values, _gaps, _flags, _grouping):
        step(reading)
    if len(reading.conditions) > MOST_CONDITIONS:
        raise NotUnderstood("It has more conditions than are followed.")
    found = _wanted(reading)
    left = [item for item in reading.items if item.role not in ("in", "and", "compare", "title")]
    if left:
        raise NotUnderstood(_unplaced(left))
    return found


def _unplaced(items: Sequence[Item]) -> str:
    said = ", ".join(dict.fromkeys(code(item.text[:60]) for item in items[:6]))
    return f"What {said} should mean in it is not clear."


# ------------------------------------------------------------------------------------------ choosing columns


def _pick(reading: _Reading, item: Item, fits: Callable[[Column], bool], what: str) -> Column:
    found = [column for column in item.columns if fits(column)]
    if len(found) == 1:
        reading.qualities.append(item.quality)
        return found[0]
    if found:
        named = " or ".join(code(column.name) for column in found[:6])
        raise NotUnderstood(f"{code(item.text)} may be {named}: say which.", "question_ambiguous")
    named = ", ".join(f"{code(column.name)} ({column.type})" for column in item.columns[:3]) or code(
        item.text
    )
    raise NotUnderstood(f"{named} is no column of {what}.")


def _number_of(reading: _Reading, item: Item) -> Column:
    measures = [column for column in item.columns if column.is_measure]
    return _pick(reading, narrowed(item, measures or item.columns), lambda each: each.is_number, "numbers")


def _group_of(reading: _Reading, item: Item) -> Column:
    names = [column for column in item.columns if not column.is_measure and not column.is_date]
    return _pick(reading, narrowed(item, names or item.columns), lambda _each: True, "groups")


def _date_of(reading: _Reading, item: Item) -> Column:
    return _pick(reading, item, lambda each: each.is_date, "dates")


def _about(reading: _Reading, concept: str, fits: Callable[[Column], bool]) -> Column:
    found = [column for column in reading.table.about(CONCEPTS[concept]) if fits(column)]
    if len(found) == 1:
        reading.qualities.append(1)
        return found[0]
    if found:
        named = " or ".join(code(column.name) for column in found[:6])
        raise NotUnderstood(f"It may be about {named}: say which.", "question_ambiguous")
    raise NotUnderstood(f"No column tells of the {concept} in so many words.")


def _only_date(reading: _Reading) -> Column:
    dates = [column for column in reading.table.columns if column.is_date]
    if len(dates) == 1:
        return dates[0]
    if dates:
        named = " or ".join(code(column.name) for column in dates[:6])
        raise NotUnderstood(f"The time may be that of {named}: say which.", "question_ambiguous")
    raise NotUnderstood("No column has dates.")


def _only_measure(reading: _Reading) -> Column:
    found = [column for column in reading.table.columns if column.is_measure]
    if len(found) == 1:
        return found[0]
    named = ", ".join(code(column.name) for column in found[:8])
    raise NotUnderstood(f"Of which column is not said: {named}." if found else "No column has figures.")


# ------------------------------------------------------------------------------------------------ conditions


def _role(reading: _Reading, place: int) -> str:
    return reading.items[place].role if 0 <= place < len(reading.items) else ""


def _add(reading: _Reading, condition: Condition, column: Column, place: int) -> None:
    reading.conditions.append(condition)
    reading.filtered.append(column)
    reading.marks.append(place)


def _references(reading: _Reading) -> None:
    """`that region` is the one that an earlier result came to."""
    place = 0
    while place < len(reading.items):
        if reading.items[place].role != "that":
            place += 1
            continue
        word = folded(reading.items[place].text)
        following = _role(reading, place + 1)
        if following.startswith("unit:"):
            raise NotUnderstood("Which day it is today is not known here: name the date or the year.")
        if following == "col" and word != "these":
            item = reading.items[place + 1]
            if found := _given(reading, item):
                column, value = found
                _add(reading, one_of(column, (value,)), column, place)
                del reading.items[place : place + 2]
                continue
            if any(not column.is_number and not column.is_date for column in item.columns):
                raise NotUnderstood(f"Which {item.text} is meant is not said.")
        if following in ("noun", "rows") and word in ("those", "these"):
            raise NotUnderstood(f"Which {reading.items[place + 1].text} are meant is not said.")
        del reading.items[place]


def _given(reading: _Reading, item: Item) -> tuple[Column, str] | None:
    for result in reversed(reading.inputs):
        names = [str(one.get("name", "")).casefold() for one in result.get("columns", ())]
        rows = result.get("rows", ())
        for column in item.columns:
            if column.name.casefold() in names and len(rows) == 1:
                value = rows[0][names.index(column.name.casefold())]
                if isinstance(value, str) and column.type == "VARCHAR":
                    reading.qualities.append(item.quality)
                    return column, value
    return None


def _times(reading: _Reading) -> None:
    """Find dates, years, months and quarters, and make conditions of them."""
    _name_times(reading)
    place = 0
    while place < len(reading.items):
        if reading.items[place].role != "time":
            place += 1
            continue
        place = _timed(reading, place)


def _timed(reading: _Reading, place: int) -> int:
    items = reading.items
    begin, end = place, place + 1
    start, stop, said = items[place].text.split("|")
    before = _role(reading, place - 1)
    ranges = [(start, stop)]
    if before == "between" and _role(reading, place + 1) == "and" and _role(reading, place + 2) == "time":
        later = items[place + 2].text.split("|")
        ranges, said, begin, end = [(start, later[1])], f"between {said} and {later[2]}", place - 1, place + 3
    elif before == "since" and _role(reading, place + 1) == "until" and _role(reading, place + 2) == "time":
        later = items[place + 2].text.split("|")
        ranges, said, begin, end = [(start, later[1])], f"from {said} to {later[2]}", place - 1, place + 3
    elif before in ("since", "before", "after", "until") or before.startswith("cmp:"):
        bounds = {
            "since": (start, ""), "cmp:>=": (start, ""), "after": (stop, ""), "cmp:>": (stop, ""),
            "before": ("", start), "cmp:<": ("", start), "until": ("", stop), "cmp:<=": ("", stop),
            "cmp:=": (start, stop),
        }  # fmt: skip
        if before not in bounds:
            raise NotUnderstood(_unplaced(items[place - 1 : place]))
        ranges, said, begin = [bounds[before]], f"{items[place - 1].text} {said}", place - 1
    else:
        begin = place - 1 if before == "in" else place
        while _role(reading, end) in ("and", "or", "time"):
            step = 1 if _role(reading, end) == "time" else 2
            if step == 2 and _role(reading, end + 1) == "in" and _role(reading, end + 2) == "time":
                step = 3
            if _role(reading, end + step - 1) != "time":
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
    _add(reading, Condition(f"({sql})", f"{code(column.name)} is {said}"), column, first)
    del items[first:last]
    return first


def _timed_column(reading: _Reading, begin: int, end: int) -> tuple[Column, int, int]:
    """Return the column that a time is of, and the range of items that say both."""
    items = reading.items

    def fits(place: int) -> bool:
        return _role(reading, place) == "col" and any(
            column.is_date or column.is_year for column in items[place].columns
        )

    if fits(begin - 1) and _role(reading, begin - 2) not in ("by", "sort"):
        return _time_column(reading, items[begin - 1]), begin - 1, end
    if (
        fits(begin - 2)
        and _role(reading, begin - 1) == "in"
        and _role(reading, begin - 3) not in ("by", "sort")
    ):
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
    return _only_date(reading), begin, end


def _time_column(reading: _Reading, item: Item) -> Column:
    return _pick(reading, item, lambda each: each.is_date or each.is_year, "dates")


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


def _name_times(reading: _Reading) -> None:
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
        place += 1


def _time_at(reading: _Reading, place: int) -> tuple[int, date, date, str] | None:
    items = reading.items
    item = items[place]
    if item.role == "date":
        day = _day(item.text)
        return 1, day, day + timedelta(days=1), day.isoformat()
    if item.role in ("monthname", "quartername"):
        skip = 1 if _role(reading, place + 1) in ("in", "unit:year") else 0
        named = " ".join(
            each.text for each in items[place : place + 3] if each.role not in ("in", "unit:year")
        )
        if item.role == "monthname" and (day_year := _day_year(items, place)):
            return day_year
        year, length = _year(items, place + 1 + skip), 2 + skip
        if year is None:
            if item.text == "may" and _role(reading, place - 1) not in _BEFORE_YEARS:
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


def _is_day_before_month(reading: _Reading, place: int) -> bool:
    return (
        re.fullmatch(r"[0-9]{1,2}", reading.items[place].text) is not None
        and _role(reading, place + 1) == "monthname"
    )


def _is_year(reading: _Reading, place: int) -> bool:
    items = reading.items
    if _year(items, place) is None or not any(each.is_date or each.is_year for each in reading.table.columns):
        return False
    before = _role(reading, place - 1)
    if before in ("and", "or"):
        if _role(reading, place - 2) == "time":
            return True
        before = _role(reading, place - 2)
    if before in ("between", "since", "until", "in"):
        # `a salary between 2000 and 2100`, `a price of 2000`
        back = place - 2
        while _role(reading, back) == "in":
            back -= 1
        earlier = items[back] if back >= 0 else None
        if before == "in" and items[place - 1].text in ("of", "at", "on", "von"):
            # A price of 2000, the sales of 2019: only what is no column's figure can be a year.
            measure = earlier is not None and earlier.role == "col" and earlier.columns
            return not (measure and any(each.is_measure for each in earlier.columns if earlier)) or (
                int(items[place].text) in _years(reading)
            )
        return not (
            before == "between"
            and earlier is not None
            and earlier.role == "col"
            and any(each.is_measure for each in earlier.columns)
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


def _years(reading: _Reading) -> set[int]:
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
    return int(items[place].text) if re.fullmatch(r"(?:19|20)[0-9]{2}", items[place].text) else None


def _single_year(reading: _Reading, item: Item) -> int:
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


def _comparisons(reading: _Reading) -> None:
    """Make conditions of comparisons with numbers."""
    place = 0
    while place < len(reading.items):
        role = _role(reading, place)
        if role.startswith(("cmp:", "than:")) and _role(reading, place + 1) == "number":
            place = _compared(reading, place)
        elif role == "between" and [_role(reading, place + step) for step in (1, 2, 3)] == [
            "number",
            "and",
            "number",
        ]:
            bounds = [_digits(reading.items[place + step]) for step in (1, 3)]
            last = _without_unit(reading, place + 4)
            column, first, last = _compared_column(reading, place, last)
            name = quoted(column.name)
            said = f"{code(column.name)} is between {bounds[0]} and {bounds[1]}"
            _add(reading, Condition(f"{name} BETWEEN {bounds[0]} AND {bounds[1]}", said), column, first)
            del reading.items[first:last]
            place = first
        elif role == "col" and _role(reading, place + 1) == "number" and _is_key(reading, place):
            item, value = reading.items[place], reading.items[place + 1].text
            column = _pick(reading, item, lambda each: each.is_number or each.type == "VARCHAR", "numbers")
            right = _digits(reading.items[place + 1]) if column.is_number else literal(value)
            said = f"{code(column.name)} is {value}"
            _add(reading, Condition(f"{quoted(column.name)} = {right}", said, unlisted=True), column, place)
            del reading.items[place : place + 2]
        else:
            place += 1


def _is_key(reading: _Reading, place: int) -> bool:
    """Tell whether a column and a number after it are its value, as in `order 1003`."""
    before = _role(reading, place - 1)
    item = reading.items[place]
    if before in ("by", "sort", "top", "bottom") or before.startswith(("agg:", "sup:")):
        return False
    return item.quality >= 2 and any(column.is_id for column in item.columns)


def _compared(reading: _Reading, place: int) -> int:
    items = reading.items
    role, digits = items[place].role, _digits(items[place + 1])
    after = _without_unit(reading, place + 2)
    if role.startswith("than:"):
        _kind, concept, sign = role.split(":")
        column = _about(reading, concept, lambda each: each.is_number)
        first, last = place, after
    else:
        sign = role.removeprefix("cmp:")
        if _role(reading, after) in ("noun", "rows") and not _numbered(reading, place - 1):
            return _having(reading, place, after, sign, digits)
        column, first, last = _compared_column(reading, place, after)
    words = " ".join(filter(None, ("is", _SYMBOLS[sign], digits)))
    condition = Condition(
        f"{quoted(column.name)} {'<>' if sign == '!=' else sign} {digits}", f"{code(column.name)} {words}"
    )
    _add(reading, condition, column, first)
    del items[first:last]
    return first


def _having(reading: _Reading, place: int, after: int, sign: str, digits: str) -> int:
    """`customers with more than 3 orders`: a condition on how many rows a group has."""
    items = reading.items
    back = place - 1
    while _role(reading, back) == "in":
        back -= 1
    if _role(reading, back) != "col" or reading.having or sign == "!=":
        raise NotUnderstood(_unplaced(items[place : after + 1]))
    reading.having = f"count(*) {sign} {digits}"
    del items[place : after + 1]
    return place


def _numbered(reading: _Reading, place: int) -> bool:
    while _role(reading, place) == "in":
        place -= 1
    return _role(reading, place) == "col" and any(
        column.is_measure for column in reading.items[place].columns
    )


def _compared_column(reading: _Reading, place: int, after: int) -> tuple[Column, int, int]:
    """Return the column that a comparison is about, and the range of items that say both."""
    items = reading.items
    back = place - 1
    while _role(reading, back) == "in":
        back -= 1
    if _role(reading, back) == "not":
        raise NotUnderstood(_unplaced(items[back : place + 1]))
    if _role(reading, back) == "col" and any(column.is_number for column in items[back].columns):
        before = _role(reading, back - 1)
        if before.startswith(("agg:", "sup:")) or (before in ("by", "sort", "distinct")):
            raise NotUnderstood("A condition on a total or an order is not followed.")
        return _number_of(reading, items[back]), back, after
    if _role(reading, after) == "col":
        return _number_of(reading, items[after]), place, after + 1
    raise NotUnderstood(f"What {code(items[place].text)} should be compared is not said.")


def _without_unit(reading: _Reading, place: int) -> int:
    """Take out the unit after a number, and return the place after the number."""
    if place < len(reading.items):
        item = reading.items[place]
        if (item.role == "unknown" and folded(item.text) in UNSAID) or (
            item.role == "unit:year" and says(item, "year", "years", "jahre")
        ):
            del reading.items[place]
    if _role(reading, place) == "percent":
        raise NotUnderstood("A condition in percent is not followed.")
    return place


def _digits(item: Item) -> str:
    found = value_of(item)
    if found is None:
        raise NotUnderstood(f"{code(item.text)} can be read as two numbers: write it without a separator.")
    return found


def _values(reading: _Reading) -> None:
    """Make conditions of the values that are mentioned."""
    items = reading.items
    place = 0
    while place < len(items):
        role = items[place].role
        if role == "val":
            place = _valued(reading, place)
        elif (
            role in ("text", "unknown")
            and _role(reading, place - 1) == "cmp:="
            and _role(reading, place - 2) == "col"
        ):
            column = _pick(
                reading,
                items[place - 2],
                lambda each: each.type == "VARCHAR" and not each.values,
                "texts with that value",
            )
            end = place + 1
            while role == "unknown" and _role(reading, end) == "unknown":
                end += 1
            _texts(reading, column, place - 2, place, end)
            place -= 2
        elif role == "text" and _role(reading, place - 1) == "col":
            column = _pick(
                reading,
                items[place - 1],
                lambda each: each.type == "VARCHAR" and not each.values,
                "texts with that value",
            )
            _texts(reading, column, place - 1, place, place + 1)
            place -= 1
        else:
            place += 1


def _texts(reading: _Reading, column: Column, first: int, begin: int, end: int) -> None:
    text = " ".join(item.text for item in reading.items[begin:end])
    name = quoted(column.name)
    condition = Condition(
        f"lower({name}) = lower({literal(text)})", f"{code(column.name)} is {code(text)}", unlisted=True
    )
    _add(reading, condition, column, first)
    del reading.items[first:end]


def _valued(reading: _Reading, place: int) -> int:
    items = reading.items
    end = place + 1
    first = place
    found = items[place].values
    back = place - 1
    while _role(reading, back) in ("in", "cmp:=", "cmp:!=", "not"):
        back -= 1
    if _role(reading, back) == "col" and _role(reading, back - 1) not in ("by", "sort", "distinct"):
        beside = [one for one in found if one[0] in items[back].columns]
        if beside and not _is_asked(reading, back, place):
            found, first = tuple(beside), back
            reading.qualities.append(items[back].quality)
    if first == place and _role(reading, end) == "col":
        beside = [one for one in found if one[0] in items[end].columns and not one[0].is_measure]
        if beside:
            found, end = tuple(beside), end + 1
    values = {id(column): (column, list(listed)) for column, listed in found}
    any_of = len(found) and False
    while _role(reading, end) in ("and", "or") and (
        _role(reading, end + 1) == "val"
        or (_role(reading, end + 1) == "in" and _role(reading, end + 2) == "val")
    ):
        step = 1 if _role(reading, end + 1) == "val" else 2
        later = {id(column): (column, listed) for column, listed in items[end + step].values}
        shared = [key for key in values if key in later]
        if not shared:
            break
        values = {key: (values[key][0], [*values[key][1], *later[key][1]]) for key in shared}
        any_of = True
        end += step + 1
    if _role(reading, end) == "or":
        raise NotUnderstood("An `or` between different columns is not followed.")
    if len(values) > 1:
        named = " or ".join(code(column.name) for column, _listed in values.values())
        raise NotUnderstood(f"{code(items[place].text)} may be in {named}: say which.", "question_ambiguous")
    ((column, listed),) = values.values()
    negated = False
    begin = first if first < place else place
    if _role(reading, place - 1) in ("not", "cmp:!=") or (
        _role(reading, place - 1) == "in" and _role(reading, place - 2) == "not"
    ):
        negated = True
        begin = min(begin, place - 1 if _role(reading, place - 1) in ("not", "cmp:!=") else place - 2)
    if column in reading.filtered:
        raise NotUnderstood(f"There are two conditions on {code(column.name)}.")
    if any_of and any(item.role == "compare" for item in items):
        reading.groups.append(Group(column))
    _add(reading, one_of(column, listed, negated=negated), column, begin)
    del items[begin:end]
    return begin


def _is_asked(reading: _Reading, back: int, place: int) -> bool:
    """Tell whether the column before a value is what is asked for rather than the value's."""
    return (
        _role(reading, back - 1) in ("which", "count", "list", "mode")
        and place - back > 1
        and not any(_role(reading, between).startswith("cmp") for between in range(back, place))
    )


def _gaps(reading: _Reading) -> None:
    """Make conditions of cells that are said to be empty."""
    items = reading.items
    place = 0
    while place < len(items):
        role = items[place].role
        if role not in ("missing", "lacking") or any(item.role == "share_" for item in items):
            place += 1
            continue
        after = place + 1
        while _role(reading, after) == "in":
            after += 1
        if _role(reading, after) == "col" and items[after].quality >= 1:
            column = _pick(reading, items[after], lambda _each: True, "values")
            first, last = place, after + 1
        elif role == "missing" and _role(reading, place - 1) == "col":
            column = _pick(reading, items[place - 1], lambda _each: True, "values")
            first, last = place - 1, place + 1
        else:
            place += 1
            continue
        negated = _role(reading, first - 1) == "not" or _role(reading, place - 1) == "not"
        if negated:
            raise NotUnderstood("A condition that is turned round is not followed.")
        condition = Condition(f"{present(column)} IS NULL", f"{code(column.name)} is empty")
        _add(reading, condition, column, first)
        del items[first:last]
        place = first


def _flags(reading: _Reading) -> None:
    """Make conditions of columns that only say yes and no."""
    items = reading.items
    place = 0
    while place < len(items):
        item = items[place]
        flags = [column for column in item.columns if column.type == "BOOLEAN" or column.yes]
        if (
            item.role != "col"
            or len(item.columns) != 1
            or not flags
            or _role(reading, place - 1) in ("by", "distinct", "list", "mode", "missing", "sort")
            or (_role(reading, place - 1) == "and" and _role(reading, place - 2) in ("by", "col"))
        ):
            place += 1
            continue
        column = flags[0]
        negated = _role(reading, place - 1) == "not"
        reading.qualities.append(item.quality)
        if column.yes:
            condition = one_of(column, [column.yes[1 if negated else 0]])
        else:
            sql = f"{quoted(column.name)} = {'false' if negated else 'true'}"
            condition = Condition(sql, f"{code(column.name)} is {'false' if negated else 'true'}")
        first = place - 1 if negated else place
        _add(reading, condition, column, first)
        del items[first : place + 1]
        place = first


# -------------------------------------------------------------------------------------------- groups, order


def _grouping(reading: _Reading) -> None:
    items = reading.items
    place = 0
    while place < len(items):
        role = items[place].role
        if role == "sort":
            place = _sorted(reading, place)
        elif role == "by":
            place = _grouped(reading, place)
        elif role.startswith("unit:") and items[place].text.casefold().endswith(("ly", "annual")):
            reading.groups.append(Group(_unit_column(reading, place), role.removeprefix("unit:")))
            del items[place]
        else:
            place += 1


def _sorted(reading: _Reading, place: int) -> int:
    items = reading.items
    after = place + 1
    while _role(reading, after) in ("noun", "rows", "in", "by"):
        after += 1
    if _role(reading, after) != "col":
        raise NotUnderstood("What to sort by is not said.")
    column = _pick(reading, items[after], lambda _each: True, "order")
    down = _role(reading, after + 1) == "desc"
    last = after + 2 if _role(reading, after + 1) in ("asc", "desc") else after + 1
    reading.order = (quoted(column.name), down)
    items[place:last] = [Item("list", "sort")]
    return place + 1


def _grouped(reading: _Reading, place: int) -> int:
    items = reading.items
    after = place + 1
    while _role(reading, after) == "in":
        after += 1
    role = _role(reading, after)
    if role == "by":
        del items[place]
        return place
    if role.startswith("unit:"):
        unit = role.removeprefix("unit:")
        last = after + 1
        skip = last + 1 if _role(reading, last) == "in" else last
        if _role(reading, skip) == "col" and any(column.is_date for column in items[skip].columns):
            column, last = _date_of(reading, items[skip]), skip + 1
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
        raise NotUnderstood(_unplaced(items[place : after + 1]))
    last = after
    while _role(reading, last) == "col":
        column = _group_of(reading, items[last])
        unit = "day" if column.type.startswith("TIMESTAMP") else ""
        reading.groups.append(Group(column, unit))
        last += 1
        more = _role(reading, last) == "and" and _role(reading, last + 1) == "col"
        if more and all(column.is_measure for column in items[last + 1].columns):
            break
        if not more:
            break
        last += 1
    del items[place:last]
    return place


def _unit_column(reading: _Reading, place: int) -> Column:
    dates = [
        (number, item)
        for number, item in enumerate(reading.items)
        if item.role == "col" and item.columns and all(column.is_date for column in item.columns)
    ]
    if len(dates) == 1 and abs(dates[0][0] - place) <= 2:
        column = _date_of(reading, dates[0][1])
        reading.items[dates[0][0]] = Item("in", "")
        return column
    return _only_date(reading)


# ------------------------------------------------------------------------------------------- what is wanted


def _wanted(reading: _Reading) -> Asked:
    roles = {item.role for item in reading.items}
    reading.items = [item for item in reading.items if item.role not in ("in", "compare")]
    if "or" in roles:
        raise NotUnderstood("An `or` between different columns is not followed.")
    if "not" in roles:
        raise NotUnderstood("What `not` is about is not clear.")
    for fits, read in (
        ("columns", _columns), ("share", _share), ("corr", _correlation), ("range", _spread),
        ("duplicate", _duplicates), ("missing", _missing), ("mode", _mode), ("when", _when),
    ):  # fmt: skip
        if fits in roles:
            return read(reading)
    if roles & {"top", "bottom"} or _has_count_of_leaders(reading):
        return _ranked(reading)
    if any(role.startswith(("most:", "adj:")) for role in roles) or (
        any(role.startswith("sup:") for role in roles) and _is_which_with_subject(reading)
    ):
        return _leader(reading)
    if "count" in roles:
        return _count(reading)
    if any(role.startswith(("agg:", "sup:")) for role in roles):
        return _figures(reading)
    if "distinct" in roles:
        return _distinct(reading)
    if roles & {"howmuch", "spend", "earn"}:
        return _how_much(reading)
    return _rows(reading)


def _made_of(reading: _Reading, kind: str, **more: Any) -> Asked:
    sure = sum(reading.qualities) / len(reading.qualities) if reading.qualities else 0.0
    if reading.having and kind != "groups":
        raise NotUnderstood("A condition on how many rows there are has no place in it.")
    return Asked(
        kind=kind,
        table=reading.table,
        conditions=tuple(reading.conditions),
        sure=sure,
        **{"groups": tuple(reading.groups), "order": reading.order, "having": reading.having, **more},
    )


def _take(reading: _Reading, *roles: str) -> list[Item]:
    """Take out and return the items with these roles (a colon at the end: that begin so)."""
    taken = [
        item
        for item in reading.items
        if any(item.role.startswith(role) if role.endswith(":") else item.role == role for role in roles)
    ]
    reading.items = [item for item in reading.items if item not in taken]
    return taken


def _no_groups(reading: _Reading) -> None:
    if reading.groups:
        raise NotUnderstood("It cannot be given by groups.")


def _columns(reading: _Reading) -> Asked:
    roles = [item.role for item in reading.items]
    if "missing" in roles:
        return _missing(reading)
    _take(reading, "columns", "which", "list", "noun", "count", "and", "distinct")
    if reading.conditions or reading.groups:
        raise NotUnderstood("Columns are asked for, and conditions besides.")
    return _made_of(reading, "columns")


def _share(reading: _Reading) -> Asked:
    place = next(number for number, item in enumerate(reading.items) if item.role == "share")
    follows = reading.items[place + 1] if place + 1 < len(reading.items) else None
    _take(reading, "share", "which", "list", "howmuch", "count", "rows")
    column: Column | None = None
    if (
        follows is not None
        and follows.role in ("col", "noun")
        and any(each.is_measure for each in follows.columns)
    ):
        column = _number_of(reading, follows)
        reading.items.remove(follows)
    _take(reading, "noun", "agg:sum")
    if column is None and follows is not None and follows.role == "col" and follows in reading.items:
        # `the share of each region`: of rows, by groups
        raise NotUnderstood(_unplaced([follows]))
    if reading.groups:
        if len(reading.groups) > 1 or reading.conditions:
            raise NotUnderstood("Of what the share is meant to be is not clear.", "question_ambiguous")
        return _made_of(reading, "share", measures=(Measure("sum", column) if column else Measure("count"),))
    if not reading.conditions:
        raise NotUnderstood("The share of what is not said.")
    if len(reading.conditions) > 1:
        raise NotUnderstood(
            "Which of the conditions the whole is to fulfil too is not clear.", "question_ambiguous"
        )
    share, reading.conditions = tuple(reading.conditions), []
    return _made_of(
        reading, "share", measures=(Measure("sum", column) if column else Measure("count"),), share=share
    )


def _correlation(reading: _Reading) -> Asked:
    _take(reading, "corr", "and", "which", "list", "between")
    columns = [_number_of(reading, item) for item in _take(reading, "col")]
    if len(columns) != 2 or columns[0] == columns[1]:
        raise NotUnderstood("A correlation is between two columns of numbers: name both.")
    _no_groups(reading)
    return _made_of(reading, "correlation", columns=tuple(columns))


def _spread(reading: _Reading) -> Asked:
    extremes = {
        item.role.split(":")[1] for item in _take(reading, "sup:", "agg:max", "agg:min", "adj:price:")
    }
    said = _take(reading, "range", "and", "which", "list")
    if extremes != {"min", "max"} and not any(says(item, "range", "spread") for item in said):
        raise NotUnderstood("The difference of what is not said.")
    items = list(dict.fromkeys(_take(reading, "col")))
    columns = {_number_of(reading, item) for item in items}
    if len(columns) != 1:
        raise NotUnderstood("Name the one column whose range is wanted.")
    return _made_of(reading, "figures", measures=(Measure("range", columns.pop()),))


def _duplicates(reading: _Reading) -> Asked:
    _take(reading, "duplicate", "which", "list", "noun", "rows")
    items = _take(reading, "col")
    if len(items) != 1 or reading.groups:
        raise NotUnderstood("Name the one column whose values should be there once.")
    column = _pick(reading, items[0], lambda _each: True, "values")
    reading.having = "count(*) > 1"
    reading.conditions.append(
        Condition(f"{present(column)} IS NOT NULL", f"{code(column.name)} is not empty")
    )
    return _made_of(
        reading, "groups", groups=(Group(column),), measures=(Measure("count"),), order=("count(*)", True)
    )


def _missing(reading: _Reading) -> Asked:
    _take(reading, "missing", "columns", "which", "list", "count", "noun", "rows", "by")
    _no_groups(reading)
    columns = reading.table.columns
    if reading.table.truncated or len(columns) > 100 or reading.conditions:
        raise NotUnderstood("Name the column whose empty cells are to be counted.")
    return _made_of(reading, "figures", measures=tuple(Measure("missing", column) for column in columns))


def _mode(reading: _Reading) -> Asked:
    _take(reading, "mode", "which", "list", "noun", "rows")
    items = _take(reading, "col")
    if len(items) != 1 or reading.groups:
        raise NotUnderstood("Name the one column whose most frequent value is wanted.")
    column = _group_of(reading, items[0])
    return _made_of(
        reading, "first_groups", groups=(Group(column),), measures=(Measure("count"),), order=("count(*)", True),
        first=1,
    )  # fmt: skip


def _when(reading: _Reading) -> Asked:
    down = {
        "top": False, "adj:date:min": False, "adj:date:max": True, "last": True, "adj:age:max": False,
    }  # fmt: skip
    said = _take(reading, *down)
    _take(reading, "when", "noun", "rows")
    items = _take(reading, "col")
    _no_groups(reading)
    if len(said) != 1 or len(items) > 1:
        raise NotUnderstood("Whether the first or the latest time is wanted is not said.")
    column = _date_of(reading, items[0]) if items else _only_date(reading)
    return _made_of(reading, "figures", measures=(Measure("max" if down[said[0].role] else "min", column),))


def _has_count_of_leaders(reading: _Reading) -> bool:
    """`the five most expensive products`"""
    return any(
        _count_of(item) is not None and _role(reading, place + 1).startswith(("sup:", "adj:", "most:"))
        for place, item in enumerate(reading.items)
    )


def _count_of(item: Item) -> int | None:
    if item.role == "number" and re.fullmatch(r"[1-9][0-9]{0,2}", item.text):
        return int(item.text)
    return NUMBERS.get(folded(item.text)) if item.role == "unknown" else None


def _ranked(reading: _Reading) -> Asked:
    """The first so many, by a figure."""
    sides = _take(reading, "top", "bottom")
    counts = [item for item in reading.items if _count_of(item) is not None]
    if len(counts) > 1 or len(sides) > 1:
        raise NotUnderstood("How many are wanted is not clear.")
    first = _count_of(counts[0]) if counts else None
    if counts:
        reading.items.remove(counts[0])
    if first is None:
        raise NotUnderstood("How many are wanted is not said.")
    by = [place for place, item in enumerate(reading.items) if item.role == "by"]
    by_item: Item | None = None
    function = ""
    if by:
        place = by[0] + 1
        if _role(reading, place).startswith("agg:"):
            function = reading.items[place].role.removeprefix("agg:")
            place += 1
        if _role(reading, place) != "col":
            raise NotUnderstood("By which figure is not clear.")
        by_item = reading.items[place]
        del reading.items[by[0] : place + 1]
    down = bool(sides) and sides[0].role == "top"
    extremes = _take(reading, "sup:", "adj:", "most:")
    _take(reading, "which", "list", "and", "who")
    if len(extremes) > 1:
        raise NotUnderstood("By which figure is not clear.")
    column: Column | None = _number_of(reading, by_item) if by_item else None
    if extremes:
        if sides and not says(sides[0], "first"):
            raise NotUnderstood("By which figure is not clear.")
        parts = extremes[0].role.split(":")
        down = parts[-1] == "max"
        if parts[0] == "adj" and column is None:
            column = _adjective(reading, parts[1])
        elif parts[0] == "most":
            raise NotUnderstood("By which figure is not clear.")
    subjects = _take(reading, "col")
    nouns = _take(reading, "noun", "rows")
    if sides and says(sides[0], "first") and column is None and not extremes and nouns and not subjects:
        _no_groups(reading)
        return _made_of(reading, "rows", first=first)
    if column is None:
        measures = [item for item in subjects if all(each.is_measure for each in item.columns)]
        if len(measures) == 1:
            column = _number_of(reading, measures[0])
            subjects.remove(measures[0])
        elif extremes and nouns and not subjects:
            column = _only_measure(reading)
        else:
            raise NotUnderstood("By which figure they are the first is not said.")
    if len(subjects) > 1 or (subjects and nouns) or (not subjects and not nouns):
        if not (len(subjects) == 1 and nouns and all(not item.columns for item in nouns)):
            raise NotUnderstood("What the first are wanted of is not clear.")
    if reading.groups and not subjects and not nouns:
        raise NotUnderstood("What the first are wanted of is not clear.")
    _no_groups(reading)
    if not subjects:
        if function:
            raise NotUnderstood("What the first are wanted of is not clear.")
        return _made_of(
            reading, "extremes", order=(quoted(column.name), down), first=first, columns=(column,)
        )
    group = Group(_group_of(reading, subjects[0]))
    return _led(reading, group, column, down, first, function, strict=bool(by_item))


def _adjective(reading: _Reading, concept: str) -> Column:
    if concept == "date":
        return _only_date(reading)
    return _about(reading, concept, lambda each: each.is_measure)


def _led(
    reading: _Reading, group: Group, column: Column, down: bool, first: int, function: str, *, strict: bool
) -> Asked:
    """Which groups lead: by the aggregate that is said, else by the highest row and by all rows alike."""
    if column.is_date or (not function and strict and is_additive(column.words)):
        function = function or ("sum" if not column.is_date else "max" if down else "min")
    if group.column == column:
        raise NotUnderstood("A column cannot lead by itself.")
    if function:
        measure = Measure(function, column)
        return _made_of(
            reading,
            "first_groups",
            groups=(group,),
            measures=(measure,),
            order=(measure.sql, down),
            first=first,
        )
    return _made_of(
        reading,
        "leaders",
        groups=(group,),
        measures=(
            Measure("max" if down else "min", column),
            Measure("sum" if is_additive(column.words) else "avg", column),
        ),
        order=("", down),
        first=first,
    )


def _is_which_with_subject(reading: _Reading) -> bool:
    """Tell whether one of something is asked for (`which product has the highest price`), not a figure."""
    roles = [item.role for item in reading.items]
    extreme = next(number for number, role in enumerate(roles) if role.startswith("sup:"))
    if "who" in roles[:extreme]:
        return True
    before = [role for role in roles[:extreme] if role in ("col", "noun", "rows") or role.startswith("unit:")]
    if before and not any(role.startswith("agg:") for role in roles[:extreme]):
        return True
    # `show the row with the highest amount` has its subject before; `the largest order` after.
    after = [role for role in roles[extreme + 1 :] if role not in ("and",)]
    return after[:1] in (["noun"], ["rows"]) and "count" not in roles


def _leader(reading: _Reading) -> Asked:
    """The one (or those) with the most or least of a figure."""
    extremes = _take(reading, "sup:", "most:", "adj:")
    if len(extremes) != 1:
        raise NotUnderstood("By which figure is not clear.")
    parts = extremes[0].role.split(":")
    down = parts[-1] == "max"
    who = _take(reading, "who")
    verbs = _take(reading, "verb:", "spend", "earn")
    functions = [item.role.removeprefix("agg:") for item in _take(reading, "agg:")]
    _take(reading, "which", "list", "and")
    counted = _take(reading, "count")
    items = _take(reading, "col", "noun", "rows")
    units = _take(reading, "unit:")
    if len(functions) > 1 or len(verbs) > 1 or len(units) > 1:
        raise NotUnderstood("By which figure is not clear.")
    function = functions[0] if functions else ""
    column: Column | None = None
    subjects = list(items)
    count_rows = bool(counted)
    if parts[0] == "adj":
        column = _adjective(reading, parts[1])
    elif verbs:
        concept = verbs[0].role.split(":")[1] if verbs[0].role.startswith("verb:") else "spending"
        found = {
            each.name: each
            for name in (("quantity", "revenue") if concept == "quantity" else (concept,))
            for each in reading.table.about(CONCEPTS[name])
            if each.is_measure and not {"price", "preis"} & set(each.words)
        }
        if len(found) != 1:
            named = " or ".join(code(name) for name in found)
            raise NotUnderstood(
                f"It may be meant by {named}: say which." if found else "By which figure is not clear."
            )
        column = next(iter(found.values()))
        function = function or "sum"
    elif (
        parts[0] == "most"
        and subjects
        and subjects[-1].role in ("noun", "rows")
        and (len(subjects) > 1 or units)
    ):
        count_rows = True
        subjects = subjects[:-1]
    elif counted and subjects and subjects[-1].role in ("noun", "rows"):
        subjects = subjects[:-1]
    elif subjects and not counted and any(each.is_number for each in subjects[-1].columns):
        column = _number_of(reading, subjects[-1])
        subjects = subjects[:-1]
        if parts[0] == "most":
            if not is_additive(column.words):
                raise NotUnderstood("By which figure is not clear.")
            function = function or "sum"
    elif (
        subjects
        and subjects[-1].role in ("noun", "rows")
        and not counted
        and parts[0] == "sup"
        and len(subjects) == 1
    ):
        column = _only_measure(reading)
    else:
        raise NotUnderstood("By which figure is not clear.")
    if count_rows and (column or function):
        raise NotUnderstood("By which figure is not clear.")
    groups = [
        *reading.groups,
        *(Group(_only_date(reading), item.role.removeprefix("unit:")) for item in units),
    ]
    rows = [item for item in subjects if item.role in ("noun", "rows")]
    named = [item for item in subjects if item.role == "col"]
    if (
        len(named) > 1
        or len(groups) > 1
        or (groups and named)
        or (named and rows and items.index(rows[0]) < items.index(named[0]))
    ):
        raise NotUnderstood("Of what it is wanted is not clear.")
    group = groups[0] if groups else None
    if named and rows and column is not None and not function and not who:
        # `the name of the employee with the highest salary`
        shown = _pick(reading, named[0], lambda _each: True, "values")
        return _made_of(
            reading,
            "extremes",
            order=(quoted(column.name), down),
            first=1,
            columns=(shown, column),
            groups=(),
        )
    if named:
        group = Group(_group_of(reading, named[0]))
    if group is None and who and (function or not rows):
        group = _people(reading, function, column)
    if group is None:
        if column is None or function:
            raise NotUnderstood("Of what it is wanted is not clear.")
        return _made_of(
            reading, "extremes", order=(quoted(column.name), down), first=1, columns=(column,), groups=()
        )
    if count_rows:
        return _made_of(
            reading,
            "first_groups",
            groups=(group,),
            measures=(Measure("count"),),
            order=("count(*)", down),
            first=1,
        )
    assert column is not None  # noqa: S101 # else the figure was not clear above
    return _led(reading, group, column, down, 1, function, strict=False)


def _people(reading: _Reading, function: str, column: Column | None) -> Group | None:
    people = [
        each
        for each in reading.table.about(CONCEPTS["person"])
        if not each.is_measure and not {"product", "company", "file"} & set(each.words)
    ]
    if len(people) == 1:
        return Group(people[0])
    if function or column is None:
        raise NotUnderstood("Which column tells who it is is not clear.")
    return None


def _count(reading: _Reading) -> Asked:
    _take(reading, "count", "list", "which")
    if _take(reading, "agg:", "sup:"):
        raise NotUnderstood("A figure of counts is not followed: ask for the counts by groups.")
    distinct = _take(reading, "distinct")
    rows = _take(reading, "rows")
    nouns = _take(reading, "noun")
    verbs = _take(reading, "verb:")
    items = _take(reading, "col")
    if reading.having:
        if len(items) != 1 or reading.groups:
            raise NotUnderstood("A condition on how many rows there are has no place in it.")
        column = _group_of(reading, items[0])
        return _made_of(
            reading, "groups", groups=(Group(column),), measures=(Measure("count"),), order=("count(*)", True)
        )
    if verbs:
        if nouns or rows or items or distinct:
            raise NotUnderstood("Whether pieces or rows are to be counted is not clear.")
        column = _about(reading, "quantity", lambda each: each.is_measure)
        return _made_of(reading, "figures", measures=(Measure("sum", column),))
    if distinct:
        if len(items) != 1 or nouns or rows:
            raise NotUnderstood("Different values of which column are to be counted is not clear.")
        column = _pick(reading, items[0], lambda _each: True, "values")
        return _made_of(reading, "figures", measures=(Measure("distinct", column),))
    if not items:
        key = None if rows or not nouns else _key_of(reading, nouns[0])
        return _made_of(reading, "figures", measures=(Measure("count"),), key=key)
    if len(items) > 1 or rows:
        raise NotUnderstood("What is to be counted is not clear.")
    if nouns:
        raise NotUnderstood("Whether rows or values are to be counted is not clear.", "question_ambiguous")
    item = items[0]
    measures = [column for column in item.columns if column.is_measure]
    if measures:
        column = _pick(reading, item, lambda each: each.is_measure, "numbers")
        if not column.is_whole or not is_additive(column.words):
            raise NotUnderstood(f"Whether cells of {code(column.name)} or its total are meant is not clear.")
        return _made_of(reading, "figures", measures=(Measure("sum", column),))
    column = _pick(reading, item, lambda each: not each.is_date, "names")
    return _made_of(reading, "figures", measures=(Measure("distinct", column),))


def _key_of(reading: _Reading, noun: Item) -> Column | None:
    """Return the column of the numbers of what the table lists, where it is clear."""
    said = folded(noun.text).split()[-1]
    _full, part = reading.table.named([said])
    keys = [column for column in part if column.is_id]
    return keys[0] if len(keys) == 1 else None


def _figures(reading: _Reading) -> Asked:
    """Aggregates: each belongs to the column that is named next, or to the one before."""
    pending: list[str] = []
    last: list[str] = []
    measures: list[Measure] = []
    loose: list[Item] = []
    joined = False
    for item in list(reading.items):
        if item.role.startswith(("agg:", "sup:")):
            if not pending and not joined and measures and item.role.startswith("sup:"):
                raise NotUnderstood(_unplaced([item]))
            pending.append(item.role.split(":")[1])
        elif item.role in ("col", "noun") and pending:
            if item.role == "noun" and not item.columns:
                continue
            measures += [_measure(reading, function, item) for function in pending]
            last, pending = pending, []
        elif item.role == "col" and joined and last:
            measures += [_measure(reading, function, item) for function in last]
        elif item.role == "col":
            loose.append(item)
            continue
        elif item.role == "number" or item.role in ("unknown",):
            continue
        joined = item.role == "and"
        if item.role in ("col", "noun", "and", "which", "list", "howmuch", "rows") or item.role.startswith(
            ("agg:", "sup:")
        ):
            reading.items.remove(item)
    _take(reading, "noun", "rows", "which", "list", "howmuch")
    if pending:
        if len(loose) == 1:
            measures += [_measure(reading, function, loose[0]) for function in pending]
            reading.items.remove(loose.pop())
        elif not loose and not measures:
            measures += [Measure(function, _only_measure(reading)) for function in pending]
        else:
            raise NotUnderstood("Which figure is of which column is not clear.")
    if loose:
        raise NotUnderstood(_unplaced(loose))
    if _take(reading, "unit:"):
        raise NotUnderstood("By which time to group is not clear.")
    return _made_of(reading, "figures", measures=tuple(dict.fromkeys(measures)))


def _measure(reading: _Reading, function: str, item: Item) -> Measure:
    if function in ("min", "max"):
        dated = [column for column in item.columns if column.is_date]
        if dated and not any(column.is_measure for column in item.columns):
            return Measure(function, _date_of(reading, item))
    column = _number_of(reading, item)
    if (
        function == "sum"
        and item.quality < 3
        and not is_additive(column.words)
        and any(
            each.is_measure and not {*CONCEPTS["quantity"]}.isdisjoint(each.words)
            for each in reading.table.columns
        )
    ):
        raise NotUnderstood(
            f"The total may be of {code(column.name)} alone or times a quantity: say which.",
            "question_ambiguous",
        )
    return Measure(function, column)


def _distinct(reading: _Reading) -> Asked:
    _take(reading, "distinct", "list", "which")
    items = _take(reading, "col")
    if len(items) != 1 or reading.groups:
        raise NotUnderstood("Name the one column whose different values are wanted.")
    column = _pick(reading, items[0], lambda _each: True, "values")
    return _made_of(reading, "values", columns=(column,))


def _how_much(reading: _Reading) -> Asked:
    said = _take(reading, "howmuch", "spend", "earn", "which")
    _take(reading, "noun")
    items = _take(reading, "col")
    if len(items) == 1 and any(item.role == "howmuch" for item in said):
        column = _number_of(reading, items[0])
        if not is_additive(column.words):
            raise NotUnderstood(f"Which figure of {code(column.name)} is wanted is not said.")
    elif not items and any(item.role in ("spend", "earn") for item in said):
        concept = "spending" if any(item.role == "spend" for item in said) else "revenue"
        column = _about(
            reading, concept, lambda each: each.is_measure and not {"price", "preis"} & set(each.words)
        )
    else:
        raise NotUnderstood("How much of what is not clear.")
    return _made_of(reading, "figures", measures=(Measure("sum", column),))


def _rows(reading: _Reading) -> Asked:
    which = _take(reading, "which")
    lists = _take(reading, "list")
    who = _take(reading, "who")
    nouns = _take(reading, "noun", "rows")
    items = _take(reading, "col")
    _take(reading, "and")
    if reading.having:
        if len(items) != 1 or reading.groups:
            raise NotUnderstood("A condition on how many rows there are has no place in it.")
        column = _group_of(reading, items[0])
        return _made_of(
            reading, "groups", groups=(Group(column),), measures=(Measure("count"),), order=("count(*)", True)
        )
    if reading.groups:
        if len(items) == 1 and all(column.is_measure for column in items[0].columns):
            column = _number_of(reading, items[0])
            if is_additive(column.words):
                return _made_of(reading, "figures", measures=(Measure("sum", column),))
        raise NotUnderstood("Which figure is wanted for each group is not said.")
    if not (which or lists or who or items or (nouns and reading.conditions)):
        raise NotUnderstood("What is wanted is not said.")
    if not items:
        if not (lists or reading.conditions) or not (nouns or reading.conditions or reading.order):
            raise NotUnderstood("What is wanted is not said.")
        return _made_of(reading, "rows")
    columns = [_pick(reading, item, lambda _each: True, "values") for item in items]
    if len(columns) == 1 and columns[0].is_measure and not lists:
        if reading.conditions or which:
            return _made_of(reading, "lookup", columns=tuple(columns))
        raise NotUnderstood(f"Which figure of {code(columns[0].name)} is wanted is not said.")
    if len(columns) == 1 and not columns[0].is_measure and not nouns and not reading.order:
        return _made_of(reading, "values", columns=tuple(columns))
    return _made_of(reading, "rows", columns=tuple(dict.fromkeys(columns)))
