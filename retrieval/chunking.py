"""Divides a parsed document into passages of about 200 tokens along its structure. Pure.

Recursive: sections first, then blocks (paragraphs, list items, tables, code), then lines or sentences, then
words. No overlap; each passage is a range of the parsed text, so that a citation opens exactly what was
found. What is indexed is the passage under its title and heading path.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from retrieval.parsing.structure import Block, Parsed
from retrieval.sentences import units

VERSION = "structure-1"
TARGET = 200
LIMIT = 250
SMALL = 60
SEPARATOR = " > "
# Every passage is stored and searched under its headings: a heading of a megabyte would multiply.
HEADING_LENGTH = 200

_WORD = re.compile(r"[぀-ヿ㐀-鿿가-힯]|[^\W぀-ヿ㐀-鿿가-힯]+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Characters `start` to `end` of the parsed text, under the headings of `path`; `page` counts from 1."""

    ordinal: int
    start: int
    end: int
    path: tuple[str, ...]
    page: int | None

    @property
    def heading(self) -> str:
        """The heading path as one line."""
        return SEPARATOR.join(self.path)


@dataclass(frozen=True, slots=True)
class _Section:
    path: tuple[str, ...]
    blocks: tuple[Block, ...]
    opened: bool  # by a heading


def count_tokens(text: str) -> int:
    """Return about how many tokens a text has: one per 6 letters of a word, per ideograph, per sign."""
    return sum((len(word) + 5) // 6 for word in _WORD.findall(text))


def divide(parsed: Parsed) -> list[Chunk]:
    """Return the document's passages in order; together they hold every character but blanks between them."""
    text = parsed.text
    spans: list[tuple[tuple[str, ...], int, int]] = []
    for section in _merged(text, _sections(parsed)):
        pieces = [piece for block in section.blocks for piece in _pieces(text, block)]
        # A passage stays on its page, so that a citation names the page on which it stands.
        for _number, on_page in groupby(pieces, key=lambda piece: _page(parsed.pages, piece[0])):
            spans.extend((section.path, start, end) for start, end in _packed(text, list(on_page)))
    return [
        Chunk(ordinal, start, end, path, _page(parsed.pages, start))
        for ordinal, (path, start, end) in enumerate(spans)
    ]


def indexed_text(title: str, heading: str, body: str) -> str:
    """Return what of a passage is searched: its title and headings (but those that it begins with), then
    its words.
    """
    opening = " ".join(body.lstrip("# \n")[:1000].split())
    path = heading.split(SEPARATOR) if heading else []
    context = [part for part in dict.fromkeys([title, *path]) if not _begins(opening, part)]
    return "\n".join([*context, body])


def _begins(opening: str, part: str) -> bool:
    """Tell whether the passage begins with this part, whole words of it."""
    return opening.startswith(part) and not opening[len(part) :][:1].isalnum()


def _sections(parsed: Parsed) -> Iterator[_Section]:
    path: list[tuple[int, str]] = []
    blocks: list[Block] = []
    opened = filled = False
    for block in parsed.blocks:
        if block.kind == "heading":
            # Headings that follow one another directly open one section, the deepest one's.
            if filled:
                yield _Section(tuple(title for _level, title in path), tuple(blocks), opened)
                blocks, filled = [], False
            path = [(level, title) for level, title in path if level < block.level]
            path.append((block.level, block.title[:HEADING_LENGTH]))
            opened = True
        else:
            filled = True
        blocks.append(block)
    if blocks:
        yield _Section(tuple(title for _level, title in path), tuple(blocks), opened)


def _merged(text: str, sections: Iterator[_Section]) -> Iterator[_Section]:
    """Join sections too small to stand alone with their neighbours under the same parent."""
    held: _Section | None = None
    for section in sections:
        if held is None:
            held = section
            continue
        sizes = _size(text, held), _size(text, section)
        related = held.path[:-1] == section.path[:-1] or section.path[: len(held.path)] == held.path
        if related and min(sizes) < SMALL and sum(sizes) <= TARGET:
            common = tuple(a for a, b in zip(held.path, section.path, strict=False) if a == b)
            held = _Section(common or held.path, held.blocks + section.blocks, held.opened)
        else:
            yield held
            held = section
    if held is not None:
        yield held


def _size(text: str, section: _Section) -> int:
    return count_tokens(text[section.blocks[0].start : section.blocks[-1].end])


def _pieces(text: str, block: Block) -> Iterator[tuple[int, int]]:
    """Return a block whole where it fits, else its lines or sentences, else runs of its words."""
    if count_tokens(text[block.start : block.end]) <= TARGET:
        yield block.start, block.end
        return
    for unit in units(text[block.start : block.end]) or ():
        start, end = block.start + unit.start, block.start + unit.end
        if count_tokens(text[start:end]) <= TARGET:
            yield start, end
        else:
            yield from _runs(text, start, end)


def _runs(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    begin, tokens, last = start, 0, start
    for word in _WORD.finditer(text, start, end):
        size = (len(word.group()) + 5) // 6
        if size > TARGET:
            # One endless word (base64, say) is cut by length.
            if last > begin:
                yield begin, last
            for cut in range(word.start(), word.end(), TARGET * 6):
                yield cut, min(cut + TARGET * 6, word.end())
            begin, tokens, last = word.end(), 0, word.end()
            continue
        if tokens + size > TARGET:
            yield begin, last
            begin, tokens = word.start(), 0
        tokens += size
        last = word.end()
    if begin < end:
        yield begin, end


def _packed(text: str, pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join pieces to passages of even size: what fits into one stays one, else none is a small rest."""
    sizes = [count_tokens(text[start:end]) for start, end in pieces]
    total = sum(sizes)
    target = total if total <= LIMIT else total / -(-total // TARGET)
    begin, end, held = -1, -1, 0
    for (start, stop), size in zip(pieces, sizes, strict=True):
        full = held + size > LIMIT or (held + size / 2 > target)
        if held and full:
            yield begin, end
            held = 0
        if not held:
            begin = start
        end, held = stop, held + size
    if held or begin >= 0:
        yield begin, end


def _page(pages: tuple[int, ...], start: int) -> int | None:
    return max(bisect_right(pages, start), 1) if pages else None
