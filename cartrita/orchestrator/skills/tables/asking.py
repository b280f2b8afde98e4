"""What a question asks of a table: the conditions in it first, then groups, then the figure that is wanted.

Every word must have its place in what is asked, else the question counts as not understood.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cartrita.orchestrator.skills.tables.comparisons import find_comparisons
from cartrita.orchestrator.skills.tables.figures import (
    correlation,
    count,
    distinct,
    duplicates,
    figures,
    how_much,
    missing,
    share,
    spread,
    when,
)
from cartrita.orchestrator.skills.tables.grouping import find_groups
from cartrita.orchestrator.skills.tables.leaders import (
    asks_for_one,
    counts_leaders,
    leader,
    most_frequent,
    ranked,
)
from cartrita.orchestrator.skills.tables.marking import marked
from cartrita.orchestrator.skills.tables.reading import Asked, NotUnderstood, Reading, unplaced
from cartrita.orchestrator.skills.tables.references import find_references
from cartrita.orchestrator.skills.tables.schema import Table
from cartrita.orchestrator.skills.tables.sql import Group, Measure, code
from cartrita.orchestrator.skills.tables.times import find_times
from cartrita.orchestrator.skills.tables.values import find_flags, find_gaps, find_values
from cartrita.orchestrator.skills.tables.vocabulary import is_additive
from cartrita.orchestrator.skills.tables.words import Token

MOST_CONDITIONS = 20


def asked(tokens: Sequence[Token], table: Table, inputs: Sequence[Mapping[str, Any]] = ()) -> Asked:
    """Return what is asked of this table. `inputs` are results of other tasks. Raises NotUnderstood."""
    reading = Reading(table, marked(tokens, table), inputs)
    reading.items = [item for item in reading.items if item.role != "title"]
    for step in (
        find_references,
        find_times,
        find_comparisons,
        find_values,
        find_gaps,
        find_flags,
        find_groups,
    ):
        step(reading)
    if len(reading.conditions) > MOST_CONDITIONS:
        raise NotUnderstood("It has more conditions than are followed.")
    found = _wanted(reading)
    left = [item for item in reading.items if item.role not in ("in", "and", "compare", "title")]
    if left:
        raise NotUnderstood(unplaced(left))
    return found


def _wanted(reading: Reading) -> Asked:
    roles = {item.role for item in reading.items}
    reading.items = [item for item in reading.items if item.role not in ("in", "compare")]
    if "or" in roles:
        raise NotUnderstood("An `or` between different columns is not followed.")
    if "not" in roles:
        raise NotUnderstood("What `not` is about is not clear.")
    for fits, read in (
        ("columns", _columns), ("share", share), ("corr", correlation), ("range", spread),
        ("duplicate", duplicates), ("missing", missing), ("mode", most_frequent), ("when", when),
    ):  # fmt: skip
        if fits in roles:
            return read(reading)
    if roles & {"top", "bottom"} or counts_leaders(reading):
        return ranked(reading)
    if any(role.startswith(("most:", "adj:")) for role in roles) or (
        any(role.startswith("sup:") for role in roles) and asks_for_one(reading)
    ):
        return leader(reading)
    if "count" in roles:
        return count(reading)
    if any(role.startswith(("agg:", "sup:")) for role in roles):
        return figures(reading)
    if "distinct" in roles:
        return distinct(reading)
    if roles & {"howmuch", "spend", "earn"}:
        return how_much(reading)
    return _rows(reading)


def _columns(reading: Reading) -> Asked:
    roles = [item.role for item in reading.items]
    if "missing" in roles:
        return missing(reading)
    reading.take("columns", "which", "list", "noun", "count", "and", "distinct")
    if reading.conditions or reading.groups:
        raise NotUnderstood("Columns are asked for, and conditions besides.")
    return reading.made_of("columns")


def _rows(reading: Reading) -> Asked:
    which = reading.take("which")
    lists = reading.take("list")
    who = reading.take("who")
    nouns = reading.take("noun", "rows")
    items = reading.take("col")
    reading.take("and")
    if reading.having:
        if len(items) != 1 or reading.groups:
            raise NotUnderstood("A condition on how many rows there are has no place in it.")
        column = reading.group_of(items[0])
        return reading.made_of(
            "groups", groups=(Group(column),), measures=(Measure("count"),), order=("count(*)", True)
        )
    if reading.groups:
        if len(items) == 1 and all(column.is_measure for column in items[0].columns):
            column = reading.number_of(items[0])
            if is_additive(column.words):
                return reading.made_of("figures", measures=(Measure("sum", column),))
        raise NotUnderstood("Which figure is wanted for each group is not said.")
    if not (which or lists or who or items or (nouns and reading.conditions)):
        raise NotUnderstood("What is wanted is not said.")
    if not items:
        if not (lists or reading.conditions) or not (nouns or reading.conditions or reading.order):
            raise NotUnderstood("What is wanted is not said.")
        return reading.made_of("rows")
    columns = [reading.pick(item, lambda _each: True, "values") for item in items]
    if len(columns) == 1 and columns[0].is_measure and not lists:
        if reading.conditions or which:
            return reading.made_of("lookup", columns=tuple(columns))
        raise NotUnderstood(f"Which figure of {code(columns[0].name)} is wanted is not said.")
    if len(columns) == 1 and not columns[0].is_measure and not nouns and not reading.order:
        return reading.made_of("values", columns=tuple(columns))
    return reading.made_of("rows", columns=tuple(dict.fromkeys(columns)))
