"""What a query's rows come to, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from cartrita.orchestrator.results import readable
from cartrita.orchestrator.skills import Answer, Move, Unable
from cartrita.orchestrator.skills.tables.reading import Asked
from cartrita.orchestrator.skills.tables.schema import Column, Table
from cartrita.orchestrator.skills.tables.sql import Condition, code
from cartrita.orchestrator.skills.tables.vocabulary import is_additive

_DECIMALS = 6
LONGEST_REASON = 1500


def told(asked: Asked, sql: str, result: Mapping[str, Any]) -> Move:
    """Return the answer that the rows of a query give, or why they give none."""
    rows = result["rows"]
    if any(one.unlisted for one in asked.conditions) and _is_nothing(asked, rows):
        said = " and ".join(one.said for one in asked.conditions)
        return Unable(
            "value_not_found", f"No row of {_title(asked.table)} fits: {said}. Check how it is written."
        )
    match asked.kind:
        case "figures" if not asked.groups:
            return _figures(asked, sql, rows[0])
        case "leaders":
            return _leaders(asked, sql, result)
        case "lookup":
            return _lookup(asked, sql, rows[0])
        case "share" if asked.share:
            return _share(asked, sql, rows[0])
        case "correlation":
            value = None if rows[0][0] == "NaN" else rows[0][0]
            names = " and ".join(code(one.name) for one in asked.columns)
            text = (
                f"The correlation (Pearson) of {names}{_of(asked)} is {_shown(value)} ({_rows(rows[0][1])})."
            )
            return _answer(asked, sql, text, [result["columns"][0]["name"]], [[value]], value=value)
    return _table(asked, sql, result)


def about_columns(table: Table, *, counted: bool = False) -> Answer:
    """Return which columns a table has."""
    rows = [[column.name, column.type] for column in table.columns]
    shown = readable(
        {
            "columns": [{"name": "column"}, {"name": "type"}], "rows": rows, "row_count": len(rows),
            "truncated": table.truncated,
        }
    )  # fmt: skip
    shown = shown.rpartition("\n\n")[0]
    text = f"{_title(table)} has {len(rows)} column{'' if len(rows) == 1 else 's'}:\n\n{shown}"
    result = {"columns": ["column", "type"], "rows": rows, "table": table.title}
    return Answer(text=text, result={**result, "value": str(len(rows))} if counted else result)


def plain_answer(sql: str, result: Mapping[str, Any]) -> Answer:
    """Return the answer that the rows of a query which was written out give."""
    rows = result["rows"]
    found: dict[str, Any] = {
        "columns": [one["name"] for one in result["columns"]], "rows": rows, "sql": sql,
        "table": ", ".join(one["title"] for one in result["tables"]),
    }  # fmt: skip
    if len(rows) == 1 and len(rows[0]) == 1 and _is_figure(rows[0][0]):
        found["value"] = _exact(rows[0][0])
    return Answer(text=f"{readable(result)}\n\n{_block(sql)}", result=found)


def _is_nothing(asked: Asked, rows: Sequence[Sequence[Any]]) -> bool:
    if asked.kind == "figures" and not asked.groups:
        return not rows[0][len(asked.measures)]
    if asked.kind in ("lookup", "share", "correlation"):
        return not rows[0][-1]
    return not rows


def _figures(asked: Asked, sql: str, row: Sequence[Any]) -> Move:
    measures = asked.measures
    counted = row[len(measures)]
    if asked.key is not None and row[-1] != counted:
        return Unable(
            "question_ambiguous",
            f"{_title(asked.table)} has {_rows(counted)}{_of_conditions(asked.conditions)}, but"
            f" {row[-1]:,} different values of {code(asked.key.name)}: say whether rows or these are to be"
            " counted.",
        )
    if all(one.function == "missing" for one in measures):
        return _missing(asked, sql, row)
    names = [one.title for one in measures]
    where = f"{_of(asked)}"
    if measures[0].column is None:
        text = f"{_title(asked.table)} has {_rows(counted)}{_of_conditions(asked.conditions)}."
        return _answer(asked, sql, text, names, [list(row[:1])], value=row[0])
    if not counted:
        text = f"No row of {_title(asked.table)} fits{_of_conditions(asked.conditions)}."
        zero = len(measures) == 1 and measures[0].function == "distinct"
        return _answer(asked, sql, text, names, [list(row[: len(measures)])], value=0 if zero else None)
    if len(measures) == 1:
        text = f"The {measures[0].said}{where} is {_shown(row[0])} ({_rows(counted)})."
        return _answer(asked, sql, text, names, [list(row[:1])], value=row[0])
    listed = "\n".join(f"- {one.said}: {_shown(cell)}" for one, cell in zip(measures, row, strict=False))
    text = f"Of {_rows(counted)}{where}:\n\n{listed}"
    return _answer(asked, sql, text, names, [list(row[: len(measures)])])


def _missing(asked: Asked, sql: str, row: Sequence[Any]) -> Answer:
    cells = [
        [one.column.name, cell] for one, cell in zip(asked.measures, row, strict=False) if one.column and cell
    ]
    if not cells:
        text = f"No cell of {_title(asked.table)} is empty."
    else:
        listed = "\n".join(f"- {code(name)}: {cell:,}" for name, cell in cells)
        text = f"Empty cells of {_title(asked.table)} ({_rows(row[-1])}):\n\n{listed}"
    return _answer(asked, sql, text, ["column", "missing"], cells)


def _leaders(asked: Asked, sql: str, result: Mapping[str, Any]) -> Move:
    rows = result["rows"]
    first = asked.first or 1
    one = [row for row in rows if row[-2] <= first]
    other = [row for row in rows if row[-1] <= first]
    group, (best, whole) = asked.groups[0], asked.measures
    if result["truncated"] or [row[0] for row in one] != [
        row[0] for row in sorted(other, key=lambda row: (row[-1], one.index(row) if row in one else 0))
    ]:
        names = [", ".join(_shown(row[0]) for row in found[:5]) for found in (one, other)]
        return Unable(
            "question_ambiguous",
            f"By the {best.said} it is {names[0]}, by the {whole.said} {names[1]}: say which of both is"
            " meant.",
        )
    single = all(row[3] == 1 for row in one)
    shown = {
        "columns": result["columns"][: 2 if single else 3],
        "rows": [row[: 2 if single else 3] for row in one],
        "row_count": len(one),
        "truncated": False,
    }
    if single:
        shown["columns"] = [result["columns"][0], {"name": asked.measures[0].column.name}]  # type: ignore[union-attr] # leaders are of columns
    if len(one) == 1:
        figures = f"{best.said} {_shown(one[0][1])}" + (
            "" if single else f", {whole.said} {_shown(one[0][2])}"
        )
        text = f"It is **{_shown(one[0][0])}** ({group.said}{_of(asked)}): {figures}."
    else:
        text = f"From {_title(asked.table)}{_of_conditions(asked.conditions)}:\n\n{readable(shown)}"
    names_shown = [column["name"] for column in shown["columns"]]
    return _answer(asked, sql, text, names_shown, shown["rows"])


def _lookup(asked: Asked, sql: str, row: Sequence[Any]) -> Move:
    column = asked.columns[0]
    total, least, greatest, counted = row
    if not counted:
        return _answer(
            asked,
            sql,
            f"No row of {_title(asked.table)} fits{_of_conditions(asked.conditions)}.",
            [column.name],
            [],
        )
    if counted == 1:
        text = f"{code(column.name)}{_of(asked)} is {_shown(least)}."
        return _answer(asked, sql, text, [column.name], [[least]], value=least)
    if is_additive(column.words):
        text = f"The sum of {code(column.name)}{_of(asked)} is {_shown(total)} ({_rows(counted)})."
        return _answer(asked, sql, text, [f"sum of {column.name}"], [[total]], value=total)
    if least == greatest:
        text = f"{code(column.name)}{_of(asked)} is {_shown(least)} in all {_rows(counted)}."
        return _answer(asked, sql, text, [column.name], [[least]], value=least)
    return Unable(
        "question_ambiguous",
        f"{_rows(counted)} fit, with {code(column.name)} from {_shown(least)} to {_shown(greatest)}: ask for"
        " the sum, the average, the smallest or the largest, or list the rows.",
    )


def _share(asked: Asked, sql: str, row: Sequence[Any]) -> Move:
    percent, part, whole = row
    of = asked.measures[0].said if asked.measures[0].column else "rows"
    said = asked.share[0].said
    if percent is None:
        text = f"{_title(asked.table)} has nothing to take a share of."
        return _answer(asked, sql, text, ["percent", "part", "whole"], [list(row)])
    parts = f"{_shown(part or 0)} of {_shown(whole)}"
    text = f"{percent} % of the {of} of {_title(asked.table)}, where {said} ({parts})."
    return _answer(asked, sql, text, ["percent", "part", "whole"], [list(row)], value=percent)


def _table(asked: Asked, sql: str, result: Mapping[str, Any]) -> Answer:
    rows = result["rows"]
    names = [one["name"] for one in result["columns"]]
    if not rows:
        return _answer(
            asked, sql, f"No row of {_title(asked.table)} fits{_of_conditions(asked.conditions)}.", names, []
        )
    head = f"From {_title(asked.table)}{_of_conditions(asked.conditions)}"
    if asked.measures:
        measures = ", ".join(one.said for one in asked.measures)
        head += f": {measures} by {', '.join(one.said for one in asked.groups)}"
    return _answer(asked, sql, f"{head}:\n\n{readable(result)}", names, rows)


def _answer(
    asked: Asked,
    sql: str,
    text: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    value: Any = None,
) -> Answer:
    found: dict[str, Any] = {"columns": list(columns), "rows": rows, "sql": sql, "table": asked.table.title}
    if value is not None and _is_figure(value):
        found["value"] = _exact(value)
    elif value is not None:
        found["value"] = str(value)
    return Answer(text=f"{text}\n\n{_block(sql)}", result=found)


def _of(asked: Asked) -> str:
    return f" in {_title(asked.table)}{_of_conditions(asked.conditions)}"


def _of_conditions(conditions: Sequence[Condition]) -> str:
    said = " and ".join(one.said for one in conditions if one.said)
    return f" where {said}" if said else ""


def _title(table: Table) -> str:
    return code(table.title)


def _rows(count: Any) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, bool) and value != ""


def _exact(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, float):
        rounded = round(value, _DECIMALS)
        whole = rounded.is_integer() and abs(rounded) < 1e15
        return f"{'' if rounded == value else 'about '}{int(rounded) if whole else rounded}"
    if isinstance(value, str) and not value.replace(".", "", 1).lstrip("-").isdigit():
        return code(value)
    return str(value)


def _block(sql: str) -> str:
    fence = "```"
    while fence in sql:
        fence += "`"
    return f"{fence}sql\n{sql}\n{fence}"


def there_are(tables: Sequence[Table]) -> str:
    """Return which tables and columns there are, and a question that could be asked of the first."""
    told_tables = []
    for table in tables[:8]:
        names = ", ".join(code(column.name[:40]) for column in table.columns[:15])
        more = ", …" if len(table.columns) > 15 or table.truncated else ""
        told_tables.append(f"{code(table.title[:80])} has {names}{more}")
    more = "; and more tables" if len(tables) > 8 else ""
    said = f"{'; '.join(told_tables)}{more}"
    if len(said) > LONGEST_REASON:
        said = f"{said[:LONGEST_REASON]} …"
    return f"{said}. For example: {_example(tables[0])}"


def _example(table: Table) -> str:
    numbers = [column for column in table.columns if column.is_measure]
    groups = [column for column in table.columns if _is_group(column)]
    if numbers and groups:
        return f"What is the sum of {code(numbers[0].name)} by {code(groups[0].name)}?"
    if numbers:
        return f"What is the average of {code(numbers[0].name)}?"
    return "How many rows are there?"


def _is_group(column: Column) -> bool:
    return bool(column.values) and len(column.values) > 1
