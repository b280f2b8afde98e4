"""Parsed text: the text that citations count in, and where its pages and blocks are."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["heading", "paragraph", "list_item", "table", "code"]


@dataclass(frozen=True, slots=True)
class Block:
    """Characters `start` to `end` of the text; `level` and `title` are a heading's (1 is the highest)."""

    start: int
    end: int
    kind: Kind
    level: int = 0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; `type` is SQL's."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """A document's text. `pages` holds each page's first character (empty without pages); blocks are in
    order. A table's text describes it; `columns` and `rows` are its own.
    """

    text: str
    parser: str
    pages: tuple[int, ...] = ()
    blocks: tuple[Block, ...] = ()
    columns: tuple[Column, ...] = ()
    rows: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-compatible values."""
        return asdict(self)


def parsed_from(values: dict[str, Any]) -> Parsed:
    """Return what `as_dict` wrote."""
    return Parsed(
        text=values["text"],
        parser=values["parser"],
        pages=tuple(values["pages"]),
        blocks=tuple(Block(**block) for block in values["blocks"]),
        # Documents that were read before tables could be have neither.
        columns=tuple(Column(**column) for column in values.get("columns", ())),
        rows=values.get("rows"),
    )


class ParseError(Exception):
    """A document cannot be read; `code` is stable, the message says why and never quotes the document."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
