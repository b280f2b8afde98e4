"""Where sentences, list items and table rows begin and end. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["sentence", "list_item", "table_row", "heading", "code", "rule"]

_ABBREVIATIONS = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "sr",
        "jr",
        "st",
        "vs",
        "etc",
        "e.g",
        "i.e",
        "cf",
        "al",
        "fig",
        "figs",
        "eq",
        "eqs",
        "no",
        "nos",
        "vol",
        "pp",
        "approx",
        "inc",
        "ltd",
        "co",
        "corp",
        "dept",
        "est",
        "jan",
        "feb",
        "mar",
        "apr",
        "jun",
        "jul",
        "aug",
        "sep",
        "sept",
        "oct",
        "nov",
        "dec",
        "u.s",
        "u.k",
        "a.m",
        "p.m",
        "ca",
        "resp",
    ]
)
# Documents may be hostile: nothing here backtracks, or looks at a character once for each other one.
_STOP = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]*_`]*+(?=\s|$)|[。！？]")
_LIST_ITEM = re.compile(r"[ \t]*(?:[-*+•]|\d{1,3}[.)]|\([a-z0-9]\))[ \t]+")
_HEADING = re.compile(r"[ \t]{0,3}#{1,6}[ \t]+")
_TABLE_RULE = re.compile(r"[ \t]*+\|?[ \t]*+:?-{2,}+:?[ \t]*+(\|[ \t]*+:?-{2,}+:?[ \t]*+)*+\|?[ \t]*+$")
_WORD_BEFORE = re.compile(r"[\w.]*+$")
# The words that matter before a full stop are shorter: abbreviations, initials, numbers of list items.
_WORD_BEFORE_LENGTH = 16
_FENCE = re.compile(r"[ \t]*(```|~~~)")


@dataclass(frozen=True, slots=True)
class Unit:
    """Characters `start` to `end` of a text that can be read alone."""

    start: int
    end: int
    kind: Kind


def units(text: str) -> list[Unit]:
    """Return the text's sentences, list items, table rows, headings and code lines in order, without
    blanks around.
    """
    return list(_units(text))


def _units(text: str) -> Iterator[Unit]:
    paragraph: tuple[int, int, Kind] | None = None
    fenced = False
    position = 0
    for line in text.split("\n"):
        start, end = position, position + len(line)
        position = end + 1
        kind = _kind(line, fenced=fenced)
        if _FENCE.match(line):
            fenced = not fenced
        if kind is None:
            # A line of running text, which continues what the line before began.
            paragraph = (paragraph[0], end, paragraph[2]) if paragraph else (start, end, "sentence")
            continue
        if paragraph:
            yield from _sentences(text, *paragraph)
            paragraph = None
        if kind == "list_item":
            paragraph = (start, end, "list_item")
        elif kind != "blank":
            yield from _trimmed(text, start, end, kind)
    if paragraph:
        yield from _sentences(text, *paragraph)


def _kind(line: str, *, fenced: bool) -> Literal["blank"] | Kind | None:
    stripped = line.strip()
    if not stripped:
        return "blank"
    if _FENCE.match(line):
        return "rule"
    if fenced:
        return "code"
    if _TABLE_RULE.match(line):
        return "rule"
    if stripped.startswith("|") and stripped.endswith("|") and len(stripped) > 2:
        return "table_row"
    if _HEADING.match(line):
        return "heading"
    return "list_item" if _LIST_ITEM.match(line) else None


def _sentences(text: str, start: int, end: int, kind: Kind) -> Iterator[Unit]:
    begin = start
    for match in _STOP.finditer(text, start, end):
        if _ends_sentence(text, begin, match, end):
            yield from _trimmed(text, begin, match.end(), kind)
            begin = match.end()
    yield from _trimmed(text, begin, end, kind)


def _ends_sentence(text: str, begin: int, match: re.Match[str], end: int) -> bool:
    if match.group()[0] in "。！？":
        return True
    following = text[match.end() : min(end, match.end() + 3)].lstrip()[:1]
    if following.islower():
        return False
    if not match.group().startswith(".") or match.group().startswith(".."):
        return True
    word = _WORD_BEFORE.search(text[max(begin, match.start() - _WORD_BEFORE_LENGTH) : match.start()])
    before = word.group().lower() if word else ""
    # An initial (`J. Smith`), an abbreviation, or a number that opens a list item.
    return not (
        before in _ABBREVIATIONS
        or (len(before) == 1 and before.isalpha())
        or (before.isdigit() and not text[begin : match.start()].strip(" \t\n*_").removesuffix(before))
    )


def _trimmed(text: str, start: int, end: int, kind: Kind) -> Iterator[Unit]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start < end:
        yield Unit(start, end, kind)
