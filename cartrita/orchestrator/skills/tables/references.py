"""What a question says of earlier tasks: `that region` is the one that a result of theirs came to."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cartrita.orchestrator.skills.tables.marking import Item
from cartrita.orchestrator.skills.tables.reading import NotUnderstood, Reading
from cartrita.orchestrator.skills.tables.schema import Column
from cartrita.orchestrator.skills.tables.sql import Condition, code, one_of, quoted

_FIGURES = ("agg:", "sup:", "most:", "adj:", "count", "share")


def find_references(reading: Reading) -> None:
    """Make conditions of what earlier results came to. Raises NotUnderstood where they do not tell."""
    place = 0
    while place < len(reading.items):
        item = reading.items[place]
        if item.role == "they":
            if not any(_may_be_meant(earlier) for earlier in reading.items[:place]):
                raise NotUnderstood(f"What {code(item.text)} refers to is not said.")
            del reading.items[place]
        elif item.role == "that":
            _referred(reading, place)
        else:
            place += 1


def _may_be_meant(item: Item) -> bool:
    """Tell whether a pronoun after it may stand for it: for what has a figure rather than for the figure."""
    is_figure = bool(item.columns) and all(column.is_measure for column in item.columns)
    return item.role in ("noun", "rows", "val", "title", "columns") or (item.role == "col" and not is_figure)


def _referred(reading: Reading, place: int) -> None:
    item, following = reading.items[place], reading.role(place + 1)
    if following.startswith("unit:"):
        raise NotUnderstood("Which day it is today is not known here: name the date or the year.")
    if following in ("col", "noun"):
        named = reading.items[place + 1]
        column, value = _given(reading, named)
        reading.qualities.append(named.quality)
        reading.add(_is_value(column, value), column)
        del reading.items[place : place + 2]
        return
    is_plural = item.text.casefold() in ("those", "these")
    if following.startswith(_FIGURES) or (is_plural and following not in ("", "title", "by")):
        raise NotUnderstood(f"What {code(item.text)} refers to is not said.")
    if following == "rows":
        raise NotUnderstood(f"Which {reading.items[place + 1].text} are meant is not said.")
    del reading.items[place]


def _given(reading: Reading, named: Item) -> tuple[Column, str]:
    """Return the one value that earlier results have for a column of that name. Raises NotUnderstood."""
    columns = named.columns if named.role == "col" else reading.keys(named)
    found = {
        (column, value)
        for result in reading.inputs
        for column in columns
        if (value := _only_value(result, column)) is not None
    }
    if len(found) != 1:
        values = " or ".join(code(value) for _column, value in sorted(found, key=lambda one: one[1])[:6])
        raise NotUnderstood(
            f"Which {named.text} is meant is not said{f': it may be {values}' if found else ''}.",
            "question_ambiguous" if found else "question_not_understood",
        )
    return found.pop()


def _only_value(result: Mapping[str, Any], column: Column) -> str | None:
    """Return what a result of one row has in the column of that name, if it is a text or a whole number."""
    columns, rows = result.get("columns"), result.get("rows")
    if not isinstance(columns, list | tuple) or not isinstance(rows, list | tuple) or len(rows) != 1:
        return None
    names = [_name(one).casefold() for one in columns]
    if not isinstance(rows[0], list | tuple) or names.count(column.name.casefold()) != 1:
        return None
    value = dict(zip(names, rows[0], strict=False)).get(column.name.casefold())
    if column.type == "VARCHAR":
        return value if isinstance(value, str) and value else None
    is_whole = column.is_whole and isinstance(value, int | str) and not isinstance(value, bool)
    return str(value) if is_whole and re.fullmatch(r"-?[0-9]{1,30}", str(value)) else None


def _name(column: Any) -> str:
    """Return the name of a result's column, which is a text or an object."""
    return str(column.get("name", "")) if isinstance(column, Mapping) else str(column)


def _is_value(column: Column, value: str) -> Condition:
    if column.type == "VARCHAR":
        return replace(one_of(column, (value,)), unlisted=True)
    return Condition(f"{quoted(column.name)} = {value}", f"{code(column.name)} is {value}", unlisted=True)
