"""Questions about the first, most, least, largest and smallest of something."""

import re

from cartrita.orchestrator.skills.tables.marking import Item, says
from cartrita.orchestrator.skills.tables.reading import Asked, NotUnderstood, Reading
from cartrita.orchestrator.skills.tables.schema import Column
from cartrita.orchestrator.skills.tables.sql import Group, Measure, code, quoted
from cartrita.orchestrator.skills.tables.vocabulary import NUMBERS, PERSONAL, is_additive
from cartrita.orchestrator.skills.tables.words import folded, forms


def most_frequent(reading: Reading) -> Asked:
    """Return what asks for the value that most rows have (`the most common city`)."""
    reading.take("mode", "which", "list", "noun", "rows")
    items = reading.take("col")
    if len(items) != 1 or reading.groups:
        raise NotUnderstood("Name the one column whose most frequent value is wanted.")
    column = reading.group_of(items[0])
    group, measure = Group(column), Measure("count")
    return reading.made_of(
        "first_groups", groups=(group,), measures=(measure,), order=(measure.sql, True), first=1
    )


def counts_leaders(reading: Reading) -> bool:
    """Tell whether it says of how many leaders it asks (`the five most expensive products`)."""
    return any(
        _count_of(item) is not None and reading.role(place + 1).startswith(("sup:", "adj:", "most:"))
        for place, item in enumerate(reading.items)
    )


def _count_of(item: Item) -> int | None:
    if item.role == "number" and re.fullmatch(r"[1-9][0-9]{0,2}", item.text):
        return int(item.text)
    return NUMBERS.get(folded(item.text)) if item.role == "unknown" else None


def ranked(reading: Reading) -> Asked:
    """Return what asks for the first so many, by a figure. Raises NotUnderstood."""
    sides = reading.take("top", "bottom")
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
        if reading.role(place).startswith("agg:"):
            function = reading.items[place].role.removeprefix("agg:")
            place += 1
        if reading.role(place) != "col":
            raise NotUnderstood("By which figure is not clear.")
        by_item = reading.items[place]
        del reading.items[by[0] : place + 1]
    down = bool(sides) and sides[0].role == "top"
    extremes = reading.take("sup:", "adj:", "most:")
    reading.take("which", "list", "and", "who")
    if len(extremes) > 1:
        raise NotUnderstood("By which figure is not clear.")
    column: Column | None = reading.number_of(by_item) if by_item else None
    if extremes:
        if sides and not says(sides[0], "first"):
            raise NotUnderstood("By which figure is not clear.")
        parts = extremes[0].role.split(":")
        down = parts[-1] == "max"
        if parts[0] == "adj" and column is None:
            column = _adjective(reading, parts[1])
        elif parts[0] == "most":
            raise NotUnderstood("By which figure is not clear.")
    subjects = reading.take("col")
    nouns = reading.take("noun", "rows")
    if sides and says(sides[0], "first") and column is None and not extremes and nouns and not subjects:
        reading.no_groups()
        return reading.made_of("rows", first=first)
    if column is None:
        measures = [item for item in subjects if all(each.is_measure for each in item.columns)]
        if len(measures) == 1:
            column = reading.number_of(measures[0])
            subjects.remove(measures[0])
        elif extremes and nouns and not subjects:
            column = reading.only_measure()
        else:
            raise NotUnderstood("By which figure they are the first is not said.")
    is_one = (len(subjects) == 1 and all(not item.columns for item in nouns)) or (not subjects and nouns)
    if not is_one:
        raise NotUnderstood("What the first are wanted of is not clear.")
    reading.no_groups()
    if not subjects:
        if function:
            raise NotUnderstood("What the first are wanted of is not clear.")
        return reading.made_of("extremes", order=(quoted(column.name), down), first=first, columns=(column,))
    group = Group(reading.group_of(subjects[0]))
    return _led(
        reading, group, column, down=down, first=first, function=function, by_total=by_item is not None
    )


def _adjective(reading: Reading, concept: str) -> Column:
    if concept == "date":
        return reading.only_date()
    return reading.about(concept, lambda each: each.is_measure)


def _led(
    reading: Reading,
    group: Group,
    column: Column,
    *,
    down: bool,
    first: int,
    function: str,
    by_total: bool = False,
) -> Asked:
    """Return which groups lead: by the aggregate that is said, else by the highest row and by all rows alike.

    `by_total`: a figure that adds up is that of all of a group's rows.
    """
    if not function and column.is_date:
        function = "max" if down else "min"
    if not function and by_total and is_additive(column.words):
        function = "sum"
    if group.column == column:
        raise NotUnderstood("A column cannot lead by itself.")
    if function:
        measure = Measure(function, column)
        return reading.made_of(
            "first_groups",
            groups=(group,),
            measures=(measure,),
            order=(measure.sql, down),
            first=first,
        )
    return reading.made_of(
        "leaders",
        groups=(group,),
        measures=(
            Measure("max" if down else "min", column),
            Measure("sum" if is_additive(column.words) else "avg", column),
        ),
        order=("", down),
        first=first,
    )


def asks_for_one(reading: Reading) -> bool:
    """Tell whether one of something is asked for (`which product has the highest price`), not a figure."""
    roles = [item.role for item in reading.items]
    extreme = next(number for number, role in enumerate(roles) if role.startswith("sup:"))
    if "who" in roles[:extreme]:
        return True
    before = [role for role in roles[:extreme] if role in ("col", "noun", "rows") or role.startswith("unit:")]
    if before and not any(role.startswith("agg:") for role in roles[:extreme]):
        return True
    # `show the row with the highest amount` has its subject before; `the largest order` after.
    after = [role for role in roles[extreme + 1 :] if role != "and"]
    return after[:1] in (["noun"], ["rows"]) and "count" not in roles


def leader(reading: Reading) -> Asked:
    """Return what asks for the one (or those) with the most or least of a figure. Raises NotUnderstood."""
    extremes = reading.take("sup:", "most:", "adj:")
    if len(extremes) != 1:
        raise NotUnderstood("By which figure is not clear.")
    parts = extremes[0].role.split(":")
    down = parts[-1] == "max"
    who = reading.take("who")
    verbs = reading.take("verb:", "spend", "earn")
    functions = [item.role.removeprefix("agg:") for item in reading.take("agg:")]
    reading.take("which", "list", "and")
    counted = reading.take("count")
    items = reading.take("col", "noun", "rows")
    units = reading.take("unit:")
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
            for each in reading.table.about(name)
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
        column = reading.number_of(subjects[-1])
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
        column = reading.only_measure()
    else:
        raise NotUnderstood("By which figure is not clear.")
    if count_rows and (column or function):
        raise NotUnderstood("By which figure is not clear.")
    groups = [
        *reading.groups,
        *(Group(reading.only_date(), item.role.removeprefix("unit:")) for item in units),
    ]
    rows = [item for item in subjects if item.role in ("noun", "rows")]
    heads = [item for item in subjects if item.role == "col"]
    if (
        len(heads) > 1
        or len(groups) > 1
        or (groups and heads)
        or (heads and rows and items.index(rows[0]) < items.index(heads[0]))
    ):
        raise NotUnderstood("Of what it is wanted is not clear.")
    group = groups[0] if groups else None
    is_plural = any(folded(item.text).endswith("s") for item in rows)
    if heads and rows and column is not None and not function and not who and not is_plural:
        # `the name of the employee with the highest salary`; `the city with the oldest employees` is no row
        shown = reading.pick(heads[0], lambda _each: True, "values")
        return reading.made_of(
            "extremes",
            order=(quoted(column.name), down),
            first=1,
            columns=(shown, column),
            groups=(),
        )
    if heads:
        group = Group(reading.group_of(heads[0]))
    if group is None and who and (function or not rows):
        group = _people(reading, function, column)
    if group is None:
        if column is None or function:
            raise NotUnderstood("Of what it is wanted is not clear.")
        return reading.made_of(
            "extremes", order=(quoted(column.name), down), first=1, columns=(column,), groups=()
        )
    if count_rows:
        return reading.made_of(
            "first_groups",
            groups=(group,),
            measures=(Measure("count"),),
            order=("count(*)", down),
            first=1,
        )
    assert column is not None  # noqa: S101 # else the figure was not clear above
    return _led(reading, group, column, down=down, first=1, function=function)


def _people(reading: Reading, function: str, column: Column | None) -> Group | None:
    people = [
        each
        for each in reading.table.about("person")
        if not each.is_measure and all(not forms(word).isdisjoint(PERSONAL) for word in each.words)
    ]
    if len(people) == 1:
        return Group(people[0])
    if function or column is None:
        raise NotUnderstood("Which column tells who it is is not clear.")
    return None
