"""Tables as `describe_tables` told of them, and which of their columns and values words may mean."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cartrita.orchestrator.skills.tables.vocabulary import (
    BRACKETED_UNITS,
    CONCEPTS,
    LITTLE,
    MEASURED,
    PARTICIPLES,
    PHRASES,
    UNITS,
)
from cartrita.orchestrator.skills.tables.words import alike, folded, forms, listed, words

_IDS = listed("id ids no nr number nummer code key uuid guid zip plz phone telefon num iban")
_YES = frozenset({"yes", "y", "true", "ja", "t"})
_NO = frozenset({"no", "n", "false", "nein", "f"})
_BRACKETS = re.compile(r"[(\[]([^()\[\]]*)[)\]]")
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")


@dataclass(frozen=True)
class Column:
    """A column; `values` are all that it has, or empty."""

    name: str
    type: str
    values: tuple[str, ...]
    minimum: str | None
    maximum: str | None

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of its name that people say."""
        plain = _BRACKETS.sub(lambda found: " " if _is_unit(found[1]) else found[0], self.name)
        found = [word for word in words(plain) if word not in LITTLE]
        while len(found) > 1 and found[-1] in UNITS:
            del found[-1]
        return tuple(found) or words(self.name)

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """The words that say what it is: the last one, or the one that a name, number or participle is of."""
        found = [self.words[-1]]
        for word, last in zip(reversed(self.words[:-1]), reversed(self.words), strict=False):
            if last not in _IDS and last != "name" and last not in PARTICIPLES:
                break
            found.append(word)
        return tuple(found)

    @property
    def is_number(self) -> bool:
        is_decimal = self.type.startswith("DECIMAL") and "[" not in self.type
        return is_decimal or self.is_whole or self.is_float

    @property
    def is_whole(self) -> bool:
        return self.type.removeprefix("U") in _INTEGERS

    @property
    def is_float(self) -> bool:
        return self.type in ("DOUBLE", "FLOAT")

    @property
    def is_date(self) -> bool:
        return self.type.startswith(("DATE", "TIMESTAMP")) and "[" not in self.type

    @cached_property
    def is_id(self) -> bool:
        return not _IDS.isdisjoint(words(self.name))

    @cached_property
    def is_year(self) -> bool:
        return self.is_whole and not {"year", "jahr"}.isdisjoint(self.words)

    @property
    def is_measure(self) -> bool:
        """Tell whether it holds figures rather than names that are numbers."""
        return self.is_number and not self.is_id and not self.is_year

    @cached_property
    def yes(self) -> tuple[str, str] | None:
        """The values that say yes and no, where it only says these."""
        said = {folded(value): value for value in self.values}
        if self.type == "VARCHAR" and len(said) == 2 == len(self.values):
            first, second = sorted(said, key=lambda each: each in _NO)
            if first in _YES and second in _NO:
                return said[first], said[second]
        return None

    @property
    def is_flag(self) -> bool:
        """Tell whether it only says yes and no."""
        return self.type == "BOOLEAN" or self.yes is not None


@dataclass(frozen=True)
class Table:
    """A table; `title` is its document's."""

    name: str
    document_id: str
    title: str
    columns: tuple[Column, ...]
    truncated: bool

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of its title without the ending."""
        found = words(self.title)
        return found[:-1] if len(found) > 1 and found[-1] == "csv" else found

    @cached_property
    def values(self) -> Mapping[str, list[tuple[tuple[str, ...], Column, str]]]:
        """The values of all columns, by their first word's forms: their words, column, and value."""
        index: dict[str, list[tuple[tuple[str, ...], Column, str]]] = {}
        for column in self.columns:
            for value in column.values:
                said = words(value)
                for form in forms(said[0]) if said else ():
                    index.setdefault(form, []).append((said, column, value))
        return index

    @cached_property
    def by_word(self) -> Mapping[str, list[Column]]:
        """The columns by the forms of each word of their names."""
        index: dict[str, list[Column]] = {}
        for column in self.columns:
            for form in {form for word in column.words for form in forms(word)}:
                index.setdefault(form, []).append(column)
        return index

    def named(self, said: Sequence[str]) -> tuple[list[Column], list[Column]]:
        """Return the columns that these words name in full, and those whose names hold them and more."""
        full: list[Column] = []
        part: list[Column] = []
        found = [
            {id(column): column for form in forms(word) for column in self.by_word.get(form, ())}
            for word in said
        ]
        for key, column in found[0].items():
            if all(key in others for others in found[1:]) and _distinct(said, column.words):
                (full if len(said) == len(column.words) else part).append(column)
        exact = [column for column in full if sorted(column.words) == sorted(said)]
        return exact or full, part

    def meant(self, word: str) -> list[Column]:
        """Return the columns that have another word for the same thing in their names."""
        found: dict[int, Column] = {}
        for name, concept in CONCEPTS.items():
            if not forms(word).isdisjoint(concept):
                found |= {id(column): column for column in self.about(name)}
        return list(found.values())

    def about(self, concept: str) -> list[Column]:
        """Return the columns that are of such a thing, not those of something that belongs to it.

        `Net Amount` is a revenue; `Sales Region` is none, nor is `Unit Price` a quantity.
        """
        return [
            column
            for column in self.columns
            if (column.is_measure or concept not in MEASURED)
            and any(not forms(head).isdisjoint(CONCEPTS[concept]) for head in column.heads)
        ]

    def value(self, said: Sequence[str]) -> list[tuple[Column, tuple[str, ...]]]:
        """Return the columns that have a value of these words, each with such values."""
        found: dict[int, tuple[Column, list[str]]] = {}
        near: dict[int, tuple[Column, list[str]]] = {}
        seen: set[tuple[int, str]] = set()
        for form in forms(said[0]):
            for value_words, column, value in self.values.get(form, ()):
                if len(value_words) != len(said) or (id(column), value) in seen:
                    continue
                seen.add((id(column), value))
                if tuple(said) == value_words:
                    found.setdefault(id(column), (column, []))[1].append(value)
                elif tuple(said[:-1]) == value_words[:-1] and alike(said[-1], value_words[-1]):
                    near.setdefault(id(column), (column, []))[1].append(value)
        return [(column, tuple(values)) for column, values in (found or near).values()]


def tables_of(result: Mapping[str, Any]) -> list[Table]:
    """Return the tables of a result of `describe_tables` that can be asked."""
    return [
        Table(
            name=str(one["name"]),
            document_id=str(one["document_id"]),
            title=str(one["title"]),
            columns=tuple(
                Column(
                    name=str(column["name"]),
                    type=str(column["type"]),
                    values=tuple(map(str, column["values"])),
                    minimum=column["minimum"],
                    maximum=column["maximum"],
                )
                for column in one["columns"]
            ),
            truncated=bool(one["truncated"]),
        )
        for one in result["tables"]
        if one["rows"] is not None and not one["error"]
    ]


def is_plain(word: str) -> bool:
    """Tell whether a word does nothing else in a question."""
    return (word,) not in PHRASES


def _is_unit(text: str) -> bool:
    return set(words(text)) <= BRACKETED_UNITS


def _distinct(said: Sequence[str], names: Sequence[str]) -> bool:
    """Tell whether each word is another one of the names."""
    left = list(names)
    for word in said:
        for name in left:
            if alike(word, name):
                left.remove(name)
                break
        else:
            return False
    return True
