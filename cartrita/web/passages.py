"""A document's text cut into its pages, with the cited passage marked. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

# A browser lays out this many characters at once; a longer document is shown in parts.
PART = 200_000


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text; `first` is the beginning of the passage, where the reader lands."""

    text: str
    marked: bool = False
    first: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """A page's pieces in order; `number` counts from 1 and is None in documents without pages."""

    number: int | None
    pieces: tuple[Piece, ...]

    @property
    def holds_passage(self) -> bool:
        """Tell whether the passage begins here."""
        return any(piece.first for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Part:
    """The characters that are shown, with the starts of the parts before and after (None: there is none)."""

    start: int
    end: int
    before: int | None
    after: int | None


def visible_part(length: int, passage: tuple[int, int] | None, wanted: int | None) -> Part:
    """Return the part to show: from `wanted`, else around the passage, else from the beginning."""
    start = wanted if wanted is not None else max(0, passage[0] - PART // 2) if passage else 0
    start = min(start, max(0, length - PART)) if length > PART else 0
    end = min(length, start + PART)
    return Part(start, end, max(0, start - PART) if start else None, end if end < length else None)


def marked_pages(
    text: str, page_starts: Sequence[int], passage: tuple[int, int] | None, part: Part
) -> list[Page]:
    """Return the visible pages; `page_starts` holds the offset of each page, and nothing without pages."""
    starts = [0, *page_starts[1:]] if page_starts else [0]
    ends = [*starts[1:], len(text)]
    pages = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True), 1):
        shown_start, shown_end = max(start, part.start), min(end, part.end)
        if shown_start < shown_end:
            pieces = _pieces(text, shown_start, shown_end, passage)
            pages.append(Page(number if page_starts else None, tuple(pieces)))
    return pages


def _pieces(text: str, start: int, end: int, passage: tuple[int, int] | None) -> list[Piece]:
    # Pages end in line breaks that would show as empty lines.
    stripped = start + len(text[start:end].rstrip())
    mark_start, mark_end = (max(start, passage[0]), min(end, passage[1])) if passage else (0, 0)
    if mark_start >= mark_end:
        return [Piece(text[start:stripped])]
    pieces = [
        Piece(text[start:mark_start]),
        Piece(text[mark_start:mark_end], marked=True, first=passage is not None and mark_start == passage[0]),
        Piece(text[mark_end:stripped]),
    ]
    return [piece for piece in pieces if piece.text]
