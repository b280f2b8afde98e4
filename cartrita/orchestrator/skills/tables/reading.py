"""What a question is taken to ask, and the words of it that have no place in that yet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cartrita.orchestrator.skills.tables.marking import Item, narrowed
from cartrita.orchestrator.skills.tables.schema import Column, Table
from cartrita.orchestrator.skills.tables.sql import Condition, Group, Measure, code
from cartrita.orchestrator.skills.tables.words import folded


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


@dataclass
class Reading:
    """The words that have no place yet, and what the others came to."""

    table: Table
    items: list[Item]
    inputs: Sequence[Mapping[str, Any]]
    conditions: list[Condition] = field(default_factory=list)
    filtered: list[Column] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    order: tuple[str, bool] | None = None
    having: str = ""
    qualities: list[int] = field(default_factory=list)

    def role(self, place: int) -> str:
        """Return the role of the item there, or nothing beyond the ends."""
        return self.items[place].role if 0 <= place < len(self.items) else ""

    def add(self, condition: Condition, column: Column) -> None:
        """Add a condition that is about this column."""
        self.conditions.append(condition)
        self.filtered.append(column)

    def take(self, *roles: str) -> list[Item]:
        """Take out and return the items with these roles (a colon at the end: that begin so)."""
        taken = [
            item
            for item in self.items
            if any(item.role.startswith(role) if role.endswith(":") else item.role == role for role in roles)
        ]
        self.items = [item for item in self.items if item not in taken]
        return taken

    def pick(self, item: Item, fits: Callable[[Column], bool], what: str) -> Column:
        """Return the one column that words may name and that fits. Raises NotUnderstood."""
        found = [column for column in item.columns if fits(column)]
        if len(found) == 1:
            self.qualities.append(item.quality)
            return found[0]
        if found:
            named = " or ".join(code(column.name) for column in found[:6])
            raise NotUnderstood(f"{code(item.text)} may be {named}: say which.", "question_ambiguous")
        named = ", ".join(f"{code(column.name)} ({column.type})" for column in item.columns[:3]) or code(
            item.text
        )
        raise NotUnderstood(f"{named} is no column of {what}.")

    def number_of(self, item: Item) -> Column:
        """Return the column of numbers that words name, rather a figure than an id."""
        measures = [column for column in item.columns if column.is_measure]
        return self.pick(narrowed(item, measures or item.columns), lambda each: each.is_number, "numbers")

    def group_of(self, item: Item) -> Column:
        """Return the column that words name, rather one of names than of figures or times."""
        names = [column for column in item.columns if not column.is_measure and not column.is_date]
        return self.pick(narrowed(item, names or item.columns), lambda _each: True, "groups")

    def date_of(self, item: Item) -> Column:
        """Return the column of dates that words name."""
        return self.pick(item, lambda each: each.is_date, "dates")

    def about(self, concept: str, fits: Callable[[Column], bool]) -> Column:
        """Return the one column that is of such a thing (CONCEPTS) and fits. Raises NotUnderstood."""
        found = [column for column in self.table.about(concept) if fits(column)]
        if len(found) == 1:
            self.qualities.append(1)
            return found[0]
        if found:
            named = " or ".join(code(column.name) for column in found[:6])
            raise NotUnderstood(f"It may be about {named}: say which.", "question_ambiguous")
        raise NotUnderstood(f"No column tells of the {concept} in so many words.")

    def only_date(self) -> Column:
        """Return the one column of dates that there is. Raises NotUnderstood."""
        dates = [column for column in self.table.columns if column.is_date]
        if len(dates) == 1:
            return dates[0]
        if dates:
            named = " or ".join(code(column.name) for column in dates[:6])
            raise NotUnderstood(f"The time may be that of {named}: say which.", "question_ambiguous")
        raise NotUnderstood("No column has dates.")

    def only_measure(self) -> Column:
        """Return the one column of figures that there is. Raises NotUnderstood."""
        found = [column for column in self.table.columns if column.is_measure]
        if len(found) == 1:
            return found[0]
        named = ", ".join(code(column.name) for column in found[:8])
        raise NotUnderstood(f"Of which column is not said: {named}." if found else "No column has figures.")

    def keys(self, noun: Item) -> tuple[Column, ...]:
        """Return the column of the numbers of what the table lists, where it is clear."""
        _full, part = self.table.named([folded(noun.text).split()[-1]])
        keys = tuple(column for column in part if column.is_id)
        return keys if len(keys) == 1 else ()

    def made_of(self, kind: str, **more: Any) -> Asked:
        """Return what is asked, with the conditions, groups and order that were found."""
        sure = sum(self.qualities) / len(self.qualities) if self.qualities else 0.0
        if self.having and kind != "groups":
            raise NotUnderstood("A condition on how many rows there are has no place in it.")
        return Asked(
            kind=kind,
            table=self.table,
            conditions=tuple(self.conditions),
            sure=sure,
            **{"groups": tuple(self.groups), "order": self.order, "having": self.having, **more},
        )

    def no_groups(self) -> None:
        """Raise NotUnderstood where there are groups."""
        if self.groups:
            raise NotUnderstood("It cannot be given by groups.")


def unplaced(items: Sequence[Item]) -> str:
    """Return a sentence on the words that have no meaning in the question."""
    said = ", ".join(dict.fromkeys(code(item.text[:60]) for item in items[:6]))
    return f"What {said} should mean in it is not clear."
