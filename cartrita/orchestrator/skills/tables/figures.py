"""Questions about figures: counts, aggregates, shares, correlations, distinct and missing values."""

from cartrita.orchestrator.skills.tables.marking import Item, says
from cartrita.orchestrator.skills.tables.reading import Asked, NotUnderstood, Reading, unplaced
from cartrita.orchestrator.skills.tables.schema import Column
from cartrita.orchestrator.skills.tables.sql import Condition, Group, Measure, code, present
from cartrita.orchestrator.skills.tables.vocabulary import CONCEPTS, is_additive


def share(reading: Reading) -> Asked:
    """Return what asks for a share in percent, of rows or of a figure. Raises NotUnderstood."""
    place = next(number for number, item in enumerate(reading.items) if item.role == "share")
    follows = reading.items[place + 1] if place + 1 < len(reading.items) else None
    reading.take("share", "which", "list", "howmuch", "count", "rows")
    column: Column | None = None
    if (
        follows is not None
        and follows.role in ("col", "noun")
        and any(each.is_measure for each in follows.columns)
    ):
        column = reading.number_of(follows)
        reading.items.remove(follows)
    reading.take("noun", "agg:sum")
    if column is None and follows is not None and follows.role == "col" and follows in reading.items:
        # `the share of each region`: of rows, by groups
        raise NotUnderstood(unplaced([follows]))
    if reading.groups:
        if len(reading.groups) > 1 or reading.conditions:
            raise NotUnderstood("Of what the share is meant to be is not clear.", "question_ambiguous")
        return reading.made_of("share", measures=(Measure("sum", column) if column else Measure("count"),))
    if not reading.conditions:
        raise NotUnderstood("The share of what is not said.")
    if len(reading.conditions) > 1:
        raise NotUnderstood(
            "Which of the conditions the whole is to fulfil too is not clear.", "question_ambiguous"
        )
    share, reading.conditions = tuple(reading.conditions), []
    return reading.made_of(
        "share", measures=(Measure("sum", column) if column else Measure("count"),), share=share
    )


def correlation(reading: Reading) -> Asked:
    """Return what asks for the correlation of two columns. Raises NotUnderstood."""
    reading.take("corr", "and", "which", "list", "between")
    columns = [reading.number_of(item) for item in reading.take("col")]
    if len(columns) != 2 or columns[0] == columns[1]:
        raise NotUnderstood("A correlation is between two columns of numbers: name both.")
    reading.no_groups()
    return reading.made_of("correlation", columns=tuple(columns))


def spread(reading: Reading) -> Asked:
    """Return what asks for the difference of the largest and the smallest. Raises NotUnderstood."""
    extremes = {item.role.split(":")[1] for item in reading.take("sup:", "agg:max", "agg:min", "adj:price:")}
    said = reading.take("range", "and", "which", "list")
    if extremes != {"min", "max"} and not any(says(item, "range", "spread") for item in said):
        raise NotUnderstood("The difference of what is not said.")
    items = list(dict.fromkeys(reading.take("col")))
    columns = {reading.number_of(item) for item in items}
    if len(columns) != 1:
        raise NotUnderstood("Name the one column whose range is wanted.")
    return reading.made_of("figures", measures=(Measure("range", columns.pop()),))


def duplicates(reading: Reading) -> Asked:
    """Return what asks for the values that are there more than once. Raises NotUnderstood."""
    reading.take("duplicate", "which", "list", "noun", "rows")
    items = reading.take("col")
    if len(items) != 1 or reading.groups:
        raise NotUnderstood("Name the one column whose values should be there once.")
    column = reading.pick(items[0], lambda _each: True, "values")
    reading.having = "count(*) > 1"
    reading.conditions.append(
        Condition(f"{present(column)} IS NOT NULL", f"{code(column.name)} is not empty")
    )
    return reading.made_of(
        "groups", groups=(Group(column),), measures=(Measure("count"),), order=("count(*)", True)
    )


def missing(reading: Reading) -> Asked:
    """Return what asks for how many cells of each column are empty. Raises NotUnderstood."""
    reading.take("missing", "columns", "which", "list", "count", "noun", "rows", "by")
    reading.no_groups()
    columns = reading.table.columns
    if reading.table.truncated or len(columns) > 100 or reading.conditions:
        raise NotUnderstood("Name the column whose empty cells are to be counted.")
    return reading.made_of("figures", measures=tuple(Measure("missing", column) for column in columns))


def when(reading: Reading) -> Asked:
    """Return what asks for the first or the last time. Raises NotUnderstood."""
    down = {
        "top": False, "adj:date:min": False, "adj:date:max": True, "last": True, "adj:age:max": False,
    }  # fmt: skip
    said = reading.take(*down)
    reading.take("when", "noun", "rows")
    items = reading.take("col")
    reading.no_groups()
    if len(said) != 1 or len(items) > 1:
        raise NotUnderstood("Whether the first or the latest time is wanted is not said.")
    column = reading.date_of(items[0]) if items else reading.only_date()
    return reading.made_of("figures", measures=(Measure("max" if down[said[0].role] else "min", column),))


def count(reading: Reading) -> Asked:
    """Return what asks how many rows or different values there are. Raises NotUnderstood."""
    reading.take("count", "list", "which")
    if reading.take("agg:", "sup:"):
        raise NotUnderstood("A figure of counts is not followed: ask for the counts by groups.")
    distinct = reading.take("distinct")
    rows = reading.take("rows")
    nouns = reading.take("noun")
    verbs = reading.take("verb:")
    items = reading.take("col")
    if reading.having:
        if len(items) != 1 or reading.groups:
            raise NotUnderstood("A condition on how many rows there are has no place in it.")
        column = reading.group_of(items[0])
        return reading.made_of(
            "groups", groups=(Group(column),), measures=(Measure("count"),), order=("count(*)", True)
        )
    if verbs:
        if nouns or rows or items or distinct:
            raise NotUnderstood("Whether pieces or rows are to be counted is not clear.")
        column = reading.about("quantity", lambda each: each.is_measure)
        return reading.made_of("figures", measures=(Measure("sum", column),))
    if distinct:
        if len(items) != 1 or nouns or rows:
            raise NotUnderstood("Different values of which column are to be counted is not clear.")
        column = reading.pick(items[0], lambda _each: True, "values")
        return reading.made_of("figures", measures=(Measure("distinct", column),))
    if not items:
        key = None if rows or not nouns else next(iter(reading.keys(nouns[0])), None)
        return reading.made_of("figures", measures=(Measure("count"),), key=key)
    if len(items) > 1 or rows:
        raise NotUnderstood("What is to be counted is not clear.")
    if nouns:
        raise NotUnderstood("Whether rows or values are to be counted is not clear.", "question_ambiguous")
    item = items[0]
    measures = [column for column in item.columns if column.is_measure]
    if measures:
        column = reading.pick(item, lambda each: each.is_measure, "numbers")
        if not column.is_whole or not is_additive(column.words):
            raise NotUnderstood(f"Whether cells of {code(column.name)} or its total are meant is not clear.")
        return reading.made_of("figures", measures=(Measure("sum", column),))
    column = reading.pick(item, lambda each: not each.is_date, "names")
    return reading.made_of("figures", measures=(Measure("distinct", column),))


def figures(reading: Reading) -> Asked:
    """Return what asks for aggregates: each is of the column named next, or before. Raises NotUnderstood."""
    _no_extremes_of_aggregates(reading)
    pending: list[str] = []
    last: list[str] = []
    measures: list[Measure] = []
    loose: list[Item] = []
    joined = False
    for item in list(reading.items):
        if item.role.startswith(("agg:", "sup:")):
            if not pending and not joined and measures and item.role.startswith("sup:"):
                raise NotUnderstood(unplaced([item]))
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
        elif item.role in ("number", "unknown"):
            continue
        joined = item.role == "and"
        if item.role in ("col", "noun", "and", "which", "list", "howmuch", "rows") or item.role.startswith(
            ("agg:", "sup:")
        ):
            reading.items.remove(item)
    reading.take("noun", "rows", "which", "list", "howmuch")
    if pending:
        if len(loose) == 1:
            measures += [_measure(reading, function, loose[0]) for function in pending]
            reading.items.remove(loose.pop())
        elif not loose and not measures:
            measures += [Measure(function, reading.only_measure()) for function in pending]
        else:
            raise NotUnderstood("Which figure is of which column is not clear.")
    if loose:
        raise NotUnderstood(unplaced(loose))
    if reading.take("unit:"):
        raise NotUnderstood("By which time to group is not clear.")
    return reading.made_of("figures", measures=tuple(dict.fromkeys(measures)))


def _no_extremes_of_aggregates(reading: Reading) -> None:
    """Refuse `the highest total by region`, which is no figure of each region; `min, mean and max` are."""
    for place, item in enumerate(reading.items):
        extreme = item.role in ("sup:min", "sup:max", "agg:min", "agg:max")
        listed = any(reading.role(place + step).startswith(("agg:", "and")) for step in (-1, 2))
        if extreme and reading.role(place + 1) in ("agg:sum", "agg:avg", "agg:median") and not listed:
            raise NotUnderstood(f"{code(item.text)} of a total or an average is not followed.")


def _measure(reading: Reading, function: str, item: Item) -> Measure:
    if function in ("min", "max"):
        dated = [column for column in item.columns if column.is_date]
        if dated and not any(column.is_measure for column in item.columns):
            return Measure(function, reading.date_of(item))
    column = reading.number_of(item)
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


def distinct(reading: Reading) -> Asked:
    """Return what asks for the different values of a column. Raises NotUnderstood."""
    reading.take("distinct", "list", "which")
    items = reading.take("col")
    if len(items) != 1 or reading.groups:
        raise NotUnderstood("Name the one column whose different values are wanted.")
    column = reading.pick(items[0], lambda _each: True, "values")
    return reading.made_of("values", columns=(column,))


def how_much(reading: Reading) -> Asked:
    """Return what asks for a total (`how much did … spend`). Raises NotUnderstood."""
    said = reading.take("howmuch", "spend", "earn", "which")
    reading.take("noun")
    items = reading.take("col")
    if len(items) == 1 and any(item.role == "howmuch" for item in said):
        column = reading.number_of(items[0])
        if not is_additive(column.words):
            raise NotUnderstood(f"Which figure of {code(column.name)} is wanted is not said.")
    elif not items and any(item.role in ("spend", "earn") for item in said):
        concept = "spending" if any(item.role == "spend" for item in said) else "revenue"
        column = reading.about(
            concept, lambda each: each.is_measure and not {"price", "preis"} & set(each.words)
        )
    else:
        raise NotUnderstood("How much of what is not clear.")
    return reading.made_of("figures", measures=(Measure("sum", column),))
