"""What the words of a question are to a table: its columns, values, name, what is asked, or unknown."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cartrita.orchestrator.skills.tables.schema import Column, Table, is_plain
from cartrita.orchestrator.skills.tables.vocabulary import LONGEST_PHRASE, MONTHS, NEUTRAL, PHRASES
from cartrita.orchestrator.skills.tables.words import Token, alike, forms, listed, number

_LONGEST_NAME = 8  # words of a column's name or a value
_PLACES = listed("in of for during on within at im am an bei fur aus from from_ von")
_FILLED = frozenset({"column", "spalte", "columns", "field", "feld"})
_ADVANCE = 4
_FILES = listed("table tables file files csv data dataset spreadsheet sheet tabelle tabellen datei dateien")


@dataclass(frozen=True, slots=True)
class Item:
    """Words with a role.

    `columns` are those that they may name: by quotation where `quality` is 4, in full where it is 3, in part
    where 2, by another word where 1. `values` are the columns of which they are a value.
    """

    role: str
    text: str
    columns: tuple[Column, ...] = ()
    quality: int = 0
    values: tuple[tuple[Column, tuple[str, ...]], ...] = ()


def marked(tokens: Sequence[Token], table: Table) -> list[Item]:
    """Return the words of a question with their roles, without those that change nothing."""
    items: list[Item] = []
    place = 0
    while place < len(tokens):
        length, item = _next(tokens, place, table, items)
        following = tokens[place + length].plain if place + length < len(tokens) else ""
        if item is not None and not (item.role == "that" and following in _FILES):
            items.append(item)
        place += length
    return items


def titled(tokens: Sequence[Token], table: Table) -> bool:
    """Tell whether a question names the table as a file or table, in so many words."""
    said = [token.plain for token in tokens]
    title = list(table.words)
    if table.name in said or table.title.casefold() in (token.text.casefold() for token in tokens):
        return True
    for place in range(len(said) - len(title) + 1):
        if title and said[place : place + len(title)] == title:
            around = {*said[max(0, place - 2) : place], *said[place + len(title) : place + len(title) + 1]}
            if around & {"csv", "table", "file", "tabelle", "datei", "from", "in", "dataset", "spreadsheet"}:
                return True
    return False


def _next(
    tokens: Sequence[Token], place: int, table: Table, before: Sequence[Item]
) -> tuple[int, Item | None]:
    token = tokens[place]
    if token.kind == "quoted":
        return 1, _quoted(token, table)
    if token.kind == "date":
        return 1, Item("date", token.text)
    longest = min(_LONGEST_NAME, len(tokens) - place)
    for length in range(longest, 0, -1):
        window = tokens[place : place + length]
        if any(one.kind not in ("word", "number") for one in window):
            if length <= LONGEST_PHRASE and (found := _phrase(window)) is not None:
                return length, found
            continue
        item = _window(tokens, place, length, table, before)
        if item is not None:
            return length, item
    return _single(tokens, place, table)


def _quoted(token: Token, table: Table) -> Item:
    said = token.plain.split() or [token.plain]
    for column in table.columns:
        if column.name.casefold() == token.text.casefold():
            return Item("col", token.text, (column,), 4)
    values = [
        (column, tuple(value for value in column.values if value.casefold() == token.text.casefold()))
        for column in table.columns
    ]
    found = tuple((column, listed) for column, listed in values if listed)
    if found:
        return Item("val", token.text, values=found)
    full, _part = table.named(said)
    return Item("col", token.text, tuple(full), 3) if full else Item("text", token.text)


def _window(
    tokens: Sequence[Token], place: int, length: int, table: Table, before: Sequence[Item]
) -> Item | None:
    """Return what exactly these words are: a column in full, a value, the table's title, a phrase."""
    window = tokens[place : place + length]
    said = [one.plain for one in window]
    text = " ".join(one.text for one in window)
    phrase = _phrase(window)
    full, _part = table.named(said)
    values = table.value(said)
    following = tokens[place + length].plain if place + length < len(tokens) else ""
    preceding = tokens[place - 1].plain if place else ""
    title = tuple(said) == table.words or (
        len(said) == len(table.words) and all(map(alike, said, table.words))
    )
    if title and (
        following in ("csv", "table", "file", "tabelle", "datei", "dataset")
        or (tuple(said) == table.words and preceding in ("in", "from", "table", "file") and not values)
    ):
        return Item("title", text)
    if all(one.kind == "number" for one in window) and not (full and _FILLED & {preceding, following}):
        # Numbers are columns only when it is said, and values only beside their column.
        return None if not _beside(values, before) else Item("val", text, values=tuple(values))
    if full:
        if not values or not _as_value(window, values, place):
            if phrase is None or _is_column(tokens, place, length, table, phrase=phrase, full=full):
                return Item("col", text, tuple(full), 3)
        else:
            return Item("val", text, values=tuple(values))
    if values and (phrase is None or _beside(values, before)):
        bare = length == 1 and (said[0] in NEUTRAL or len(said[0]) <= 2 or said[0] in MONTHS)
        if not bare or _beside(values, before) or _column_follows(tokens, place + length, values, table):
            return Item("val", text, values=tuple(values))
    if phrase is not None:
        return phrase
    if title and is_plain(said[0]) and not (length == 1 and said[0] in NEUTRAL):
        return _noun(text, said, table)
    return None


def _single(tokens: Sequence[Token], place: int, table: Table) -> tuple[int, Item | None]:
    """Return what a word is that nothing has in full: part of names, another word, or unknown."""
    token = tokens[place]
    said = token.plain
    if token.kind == "number":
        return 1, Item("number", token.text)
    if said in _PLACES:
        return 1, Item("in", said)
    if said in MONTHS:
        return 1, Item("monthname", said)
    if said in ("q1", "q2", "q3", "q4"):
        return 1, Item("quartername", said)
    if said in NEUTRAL:
        return 1, None
    if token.kind == "symbol":
        return 1, Item("percent" if said == "%" else "unknown", token.text)
    if any(alike(said, word) for word in table.words if len(word) > 2 and not word.isdigit()):
        return 1, _noun(token.text, [said], table)
    # Part of a column's name: as many words as may be.
    for length in range(min(_ADVANCE, len(tokens) - place), 0, -1):
        window = [one.plain for one in tokens[place : place + length]]
        if all(one.kind == "word" for one in tokens[place : place + length]) and not any(
            one in NEUTRAL and one not in _all_words(table) for one in window
        ):
            _full, part = table.named(window)
            if part:
                text = " ".join(one.text for one in tokens[place : place + length])
                return length, Item("col", text, tuple(part), 2)
    stems = [
        stem for stem in (said.removesuffix("ed"), said.removesuffix("d")) if stem != said and len(stem) > 2
    ]
    if len(said) > 4 and said.endswith("ed") and said[-3] == said[-4]:
        stems.append(said[:-3])
    for stem in stems:
        if part := [
            column for column in table.columns if stem in column.words and (column.is_date or column.is_year)
        ]:
            return 1, Item("col", token.text, tuple(part), 2)
    if meant := table.meant(said):
        return 1, Item("col", token.text, tuple(meant), 1)
    return 1, Item("unknown", token.text)


def _noun(text: str, said: Sequence[str], table: Table) -> Item:
    _full, part = table.named(said)
    meant = part or (table.meant(said[0]) if len(said) == 1 else [])
    return Item("noun", text, tuple(column for column in meant if column.is_measure), 1)


def _phrase(window: Sequence[Token]) -> Item | None:
    role = PHRASES.get(tuple(one.plain for one in window)) if len(window) <= LONGEST_PHRASE else None
    return Item(role, " ".join(one.text for one in window)) if role else None


def _is_column(
    tokens: Sequence[Token], place: int, length: int, table: Table, *, phrase: Item, full: Sequence[Column]
) -> bool:
    """Tell whether words that are a phrase and a column's name are the name."""
    around = {tokens[place - 1].plain if place else ""}
    around |= {tokens[place + length].plain if place + length < len(tokens) else ""}
    if around & _FILLED:
        return True
    if phrase.role.startswith("unit:"):
        return True
    if phrase.role in ("spend", "earn") and all(column.is_flag for column in full):
        return True  # `not paid`
    if phrase.role.startswith(("agg:", "count", "share", "howmuch", "verb:", "missing", "range", "rows")):
        for begin in range(place + length, min(place + length + 3, len(tokens))):
            for count in range(1, 4):
                window = tokens[begin : begin + count]
                found, part = table.named([one.plain for one in window]) if window else ([], [])
                if any(column not in full for column in (*found, *part)) or (
                    len(window) == 1 and table.meant(window[0].plain)
                ):
                    return False
        return True
    return False


def _as_value(window: Sequence[Token], values: Sequence[tuple[Column, tuple[str, ...]]], place: int) -> bool:
    """Tell whether words that are a column's name and a value are the value, by how they are written."""
    text = " ".join(one.text for one in window)
    return place > 0 and text[:1].isupper() and any(text in listed for _column, listed in values)


def _beside(values: Sequence[tuple[Column, tuple[str, ...]]], before: Sequence[Item]) -> bool:
    last = next((one for one in reversed(before) if one.role not in ("in", "cmp:=", "not")), None)
    return last is not None and any(column in last.columns for column, _listed in values)


def _column_follows(
    tokens: Sequence[Token], place: int, values: Sequence[tuple[Column, tuple[str, ...]]], table: Table
) -> bool:
    if place >= len(tokens) or tokens[place].kind != "word":
        return False
    full, part = table.named([tokens[place].plain])
    return any(column in (*full, *part) for column, _listed in values)


def _all_words(table: Table) -> frozenset[str]:
    return frozenset(table.by_word)


def narrowed(item: Item, columns: Sequence[Column]) -> Item:
    """Return the item with these of its columns."""
    return replace(item, columns=tuple(columns))


def says(item: Item, *said: str) -> bool:
    """Tell whether an item is one of these words, be it in the plural."""
    return any(not forms(item.text.casefold()).isdisjoint(forms(one)) for one in said)


def value_of(item: Item) -> str | None:
    """Return a number's digits as SQL has them, or nothing where they can be read in two ways."""
    return number(item.text)
