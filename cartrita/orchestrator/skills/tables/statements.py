"""The one SELECT that answers what is asked of a table."""

from collections.abc import Sequence

from cartrita.orchestrator.skills.tables.reading import Asked, NotUnderstood
from cartrita.orchestrator.skills.tables.sql import Condition, Group, Measure, present, quoted, where


def statement(asked: Asked) -> str:
    """Return the SQL (DuckDB) of what is asked. Raises NotUnderstood where it makes no sense together."""
    return {
        "figures": _figures,
        "groups": _figures,
        "first_groups": _first_groups,
        "leaders": _leaders,
        "extremes": _extremes,
        "rows": _rows,
        "values": _values,
        "lookup": _lookup,
        "correlation": _correlation,
        "share": _share,
    }[asked.kind](asked)


def _select(
    selected: Sequence[tuple[str, str]], asked: Asked, conditions: Sequence[Condition] | None = None
) -> str:
    named = ", ".join(f"{sql} AS {quoted(title)}" for sql, title in selected)
    return _selected(named, asked, asked.conditions if conditions is None else conditions)


def _selected(columns: str, asked: Asked, conditions: Sequence[Condition]) -> str:
    # Every name in it comes out of `quoted`, every text out of `literal`, every number out of `number`, which
    # lets only digits through; and the tool lets one SELECT over uploaded tables run in a confined process.
    return f"SELECT {columns} FROM {quoted(asked.table.name)}{where(conditions)}"  # noqa: S608


def _titles(groups: Sequence[Group], measures: Sequence[Measure]) -> list[tuple[str, str]]:
    """Return what is selected with its titles, none of them twice."""
    return [*((one.sql, one.title) for one in groups), *((one.sql, one.title) for one in measures)]


def _places(groups: Sequence[Group]) -> str:
    return ", ".join(str(number) for number in range(1, len(groups) + 1))


def _figures(asked: Asked) -> str:
    if not asked.groups:
        if asked.order:
            raise NotUnderstood("One figure cannot be sorted.")
        counted = [("count(*)", "counted rows")]
        if asked.key is not None:
            counted.append((f"count(DISTINCT {quoted(asked.key.name)})", "counted keys"))
        return _select([*_titles((), asked.measures), *counted], asked)
    order = f"{_places(asked.groups)}"
    if asked.order and asked.order[0] == "count(*)":
        order = f"count(*) DESC, {order}"
    elif asked.order:
        sorting = [one for one in asked.measures if one.column and quoted(one.column.name) == asked.order[0]]
        by = [
            str(place)
            for place, one in enumerate(asked.groups, 1)
            if quoted(one.column.name) == asked.order[0]
        ]
        if len(sorting) != 1 and len(by) != 1:
            raise NotUnderstood("The groups cannot be sorted by that.")
        order = (
            f"{sorting[0].sql if sorting else by[0]}{' DESC' if asked.order[1] else ''} NULLS LAST, {order}"
        )
    having = f" HAVING {asked.having}" if asked.having else ""
    selected = _select(_titles(asked.groups, asked.measures), asked)
    return f"{selected} GROUP BY {_places(asked.groups)}{having} ORDER BY {order}"


def _known(asked: Asked) -> list[Condition]:
    """Return the conditions, and that the groups have a name."""
    return [*asked.conditions, *(Condition(f"{present(one.column)} IS NOT NULL", "") for one in asked.groups)]


def _rank(sql: str, *, down: bool) -> str:
    return f"rank() OVER (ORDER BY {sql} {'DESC' if down else 'ASC'} NULLS LAST)"


def _first_groups(asked: Asked) -> str:
    assert asked.order is not None  # noqa: S101 # groups that lead have an order
    by, down = asked.order
    selected = _select(_titles(asked.groups, asked.measures), asked, _known(asked))
    return (
        f"{selected} GROUP BY {_places(asked.groups)} HAVING {by} IS NOT NULL"
        f" QUALIFY {_rank(by, down=down)} <= {asked.first} ORDER BY {by} {'DESC' if down else 'ASC'}, 1"
    )


def _leaders(asked: Asked) -> str:
    assert asked.order is not None  # noqa: S101 # as above
    down = asked.order[1]
    one, other = (_rank(measure.sql, down=down) for measure in asked.measures)
    extra = [("count(*)", "counted rows"), (one, "first rank"), (other, "second rank")]
    selected = _select([*_titles(asked.groups, asked.measures), *extra], asked, _known(asked))
    return (
        f"{selected} GROUP BY 1 HAVING {asked.measures[0].sql} IS NOT NULL"
        f" QUALIFY {one} <= {asked.first} OR {other} <= {asked.first}"
        f" ORDER BY {asked.measures[0].sql} {'DESC' if down else 'ASC'}, 1"
    )


def _extremes(asked: Asked) -> str:
    assert asked.order is not None  # noqa: S101 # extremes have an order
    by, down = asked.order
    columns = ", ".join(quoted(one.name) for one in asked.columns) if len(asked.columns) > 1 else "*"
    conditions = [*asked.conditions, Condition(f"{by} IS NOT NULL", "")]
    return (
        f"{_selected(columns, asked, conditions)}"
        f" QUALIFY {_rank(by, down=down)} <= {asked.first} ORDER BY {by} {'DESC' if down else 'ASC'}"
    )


def _rows(asked: Asked) -> str:
    columns = ", ".join(quoted(one.name) for one in asked.columns) or "*"
    order = f" ORDER BY {asked.order[0]}{' DESC' if asked.order[1] else ''} NULLS LAST" if asked.order else ""
    first = f" LIMIT {asked.first}" if asked.first is not None else ""
    return f"{_selected(columns, asked, asked.conditions)}{order}{first}"


def _values(asked: Asked) -> str:
    name = quoted(asked.columns[0].name)
    conditions = [*asked.conditions, Condition(f"{present(asked.columns[0])} IS NOT NULL", "")]
    return f"{_selected(f'DISTINCT {name}', asked, conditions)} ORDER BY 1"


def _lookup(asked: Asked) -> str:
    column = asked.columns[0]
    measures = [Measure(function, column) for function in ("sum", "min", "max")]
    return _select([*_titles((), measures), (f"count({quoted(column.name)})", "counted values")], asked)


def _correlation(asked: Asked) -> str:
    one, other = (quoted(column.name) for column in asked.columns)
    title = f"correlation of {asked.columns[0].name} and {asked.columns[1].name}"
    return _select([(f"corr({one}, {other})", title), (f"regr_count({one}, {other})", "counted rows")], asked)


def _share(asked: Asked) -> str:
    measure = asked.measures[0]
    if asked.groups:
        percent = _percent(measure.sql, f"sum({measure.sql}) OVER ()")
        selected = _select(
            [
                *((one.sql, one.title) for one in asked.groups),
                (percent, "percent"),
                (measure.sql, measure.title),
            ],
            asked,
        )
        return f"{selected} GROUP BY 1 ORDER BY 1"
    part = f"{measure.sql} FILTER (WHERE {asked.share[0].sql})"
    return _select([(_percent(part, measure.sql), "percent"), (part, "part"), (measure.sql, "whole")], asked)


def _percent(part: str, whole: str) -> str:
    return f"CAST(round(100.0 * coalesce({part}, 0) / nullif({whole}, 0), 2) AS DECIMAL(18,2))"
