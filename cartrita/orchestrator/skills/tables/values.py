"""Values, empty cells and flags in a question, and the conditions that they are."""

from cartrita.orchestrator.skills.tables.reading import NotUnderstood, Reading
from cartrita.orchestrator.skills.tables.schema import Column
from cartrita.orchestrator.skills.tables.sql import Condition, Group, code, literal, one_of, present, quoted


def find_values(reading: Reading) -> None:
    """Make conditions of the values that are mentioned."""
    items = reading.items
    place = 0
    while place < len(items):
        role = items[place].role
        if role == "val":
            place = _valued(reading, place)
        elif (
            role in ("text", "unknown")
            and reading.role(place - 1) == "cmp:="
            and reading.role(place - 2) == "col"
        ):
            column = reading.pick(
                items[place - 2],
                lambda each: each.type == "VARCHAR" and not each.values,
                "texts with that value",
            )
            end = place + 1
            while role == "unknown" and reading.role(end) == "unknown":
                end += 1
            _texts(reading, column, place - 2, place, end)
            place -= 2
        elif role == "text" and reading.role(place - 1) == "col":
            column = reading.pick(
                items[place - 1],
                lambda each: each.type == "VARCHAR" and not each.values,
                "texts with that value",
            )
            _texts(reading, column, place - 1, place, place + 1)
            place -= 1
        else:
            place += 1


def _texts(reading: Reading, column: Column, first: int, begin: int, end: int) -> None:
    text = " ".join(item.text for item in reading.items[begin:end])
    name = quoted(column.name)
    condition = Condition(
        f"lower({name}) = lower({literal(text)})", f"{code(column.name)} is {code(text)}", unlisted=True
    )
    reading.add(condition, column)
    del reading.items[first:end]


def _valued(reading: Reading, place: int) -> int:
    items = reading.items
    end = place + 1
    first = place
    found = items[place].values
    back = place - 1
    while reading.role(back) in ("in", "cmp:=", "cmp:!=", "not"):
        back -= 1
    if reading.role(back) == "col" and reading.role(back - 1) not in ("by", "sort", "distinct"):
        beside = [one for one in found if one[0] in items[back].columns]
        if beside and not _is_asked(reading, back, place):
            found, first = tuple(beside), back
            reading.qualities.append(items[back].quality)
    if first == place and reading.role(end) == "col":
        beside = [one for one in found if one[0] in items[end].columns and not one[0].is_measure]
        if beside:
            found, end = tuple(beside), end + 1
    values = {id(column): (column, list(listed)) for column, listed in found}
    several = False
    while reading.role(end) in ("and", "or") and (
        reading.role(end + 1) == "val" or (reading.role(end + 1) == "in" and reading.role(end + 2) == "val")
    ):
        step = 1 if reading.role(end + 1) == "val" else 2
        later = {id(column): (column, listed) for column, listed in items[end + step].values}
        shared = [key for key in values if key in later]
        if not shared:
            break
        values = {key: (values[key][0], [*values[key][1], *later[key][1]]) for key in shared}
        several = True
        end += step + 1
    if reading.role(end) == "or":
        raise NotUnderstood("An `or` between different columns is not followed.")
    if len(values) > 1:
        named = " or ".join(code(column.name) for column, _listed in values.values())
        raise NotUnderstood(f"{code(items[place].text)} may be in {named}: say which.", "question_ambiguous")
    ((column, listed),) = values.values()
    negated = False
    begin = min(place, first)
    if reading.role(place - 1) in ("not", "cmp:!=") or (
        reading.role(place - 1) == "in" and reading.role(place - 2) == "not"
    ):
        negated = True
        begin = min(begin, place - 1 if reading.role(place - 1) in ("not", "cmp:!=") else place - 2)
    if column in reading.filtered:
        raise NotUnderstood(f"There are two conditions on {code(column.name)}.")
    if several and any(item.role == "compare" for item in items):
        reading.groups.append(Group(column))
    reading.add(one_of(column, listed, negated=negated), column)
    del items[begin:end]
    return begin


def _is_asked(reading: Reading, back: int, place: int) -> bool:
    """Tell whether the column before a value is what is asked for rather than the value's."""
    return (
        reading.role(back - 1) in ("which", "count", "list", "mode")
        and place - back > 1
        and not any(reading.role(between).startswith("cmp") for between in range(back, place))
    )


def find_gaps(reading: Reading) -> None:
    """Make conditions of cells that are said to be empty."""
    items = reading.items
    place = 0
    while place < len(items):
        role = items[place].role
        if role not in ("missing", "lacking"):
            place += 1
            continue
        after = place + 1
        while reading.role(after) == "in":
            after += 1
        if reading.role(after) == "col" and items[after].quality >= 1:
            column = reading.pick(items[after], lambda _each: True, "values")
            if role == "lacking" and column.is_measure:
                raise NotUnderstood(
                    f"Whether {code(column.name)} is to be 0 or empty is not said.", "question_ambiguous"
                )
            first, last = place, after + 1
        elif role == "missing" and reading.role(place - 1) == "col":
            column = reading.pick(items[place - 1], lambda _each: True, "values")
            first, last = place - 1, place + 1
        else:
            place += 1
            continue
        negated = reading.role(first - 1) == "not" or reading.role(place - 1) == "not"
        if negated:
            raise NotUnderstood("A condition that is turned round is not followed.")
        condition = Condition(f"{present(column)} IS NULL", f"{code(column.name)} is empty")
        reading.add(condition, column)
        del items[first:last]
        place = first


def find_flags(reading: Reading) -> None:
    """Make conditions of columns that only say yes and no."""
    items = reading.items
    place = 0
    while place < len(items):
        item = items[place]
        flags = [column for column in item.columns if column.is_flag]
        if (
            item.role != "col"
            or len(item.columns) != 1
            or not flags
            or reading.role(place - 1) in ("by", "distinct", "list", "mode", "missing", "sort")
            or (reading.role(place - 1) == "and" and reading.role(place - 2) in ("by", "col"))
        ):
            place += 1
            continue
        column = flags[0]
        negated = reading.role(place - 1) == "not"
        reading.qualities.append(item.quality)
        if column.yes:
            condition = one_of(column, [column.yes[1 if negated else 0]])
        else:
            sql = f"{quoted(column.name)} = {'false' if negated else 'true'}"
            condition = Condition(sql, f"{code(column.name)} is {'false' if negated else 'true'}")
        first = place - 1 if negated else place
        reading.add(condition, column)
        del items[first : place + 1]
        place = first
