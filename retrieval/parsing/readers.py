"""One reader a media type. They run in the limited process only: what they are given may be hostile."""

import re
from collections.abc import Callable, Iterator
from importlib.metadata import version

from retrieval.parsing.sniffing import CSV, HTML, MARKDOWN, PARQUET, PDF, PLAIN, decode
from retrieval.parsing.structure import Block, Kind, Parsed, ParseError

MAX_CHARACTERS = 20_000_000
MAX_PAGES = 20_000

_PARAGRAPH = re.compile(r"\S(?:.*\S)?(?:\n[ \t]*\S.*)*")
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n.*?\n---[ \t]*(?=\n|\Z)", re.DOTALL)
_UNSTORABLE = re.compile(r"[\0\ud800-\udfff]")


def read(content: bytes, media_type: str) -> Parsed:
    """Return the text and structure of a file. Raises ParseError."""
    parsed = _READERS[media_type](content)
    if len(parsed.text) > MAX_CHARACTERS:
        raise ParseError(
            "document_has_too_much_text",
            f"The document holds more than {MAX_CHARACTERS} characters of text: divide it.",
        )
    if not parsed.text.strip():
        raise ParseError(
            "document_has_no_text",
            "No text was found in the document; a scanned one needs text recognition before it is sent.",
        )
    return parsed


def read_plain(content: bytes) -> Parsed:
    """Return plain text with its paragraphs."""
    text = decode(content)
    return Parsed(text, "plain-1", blocks=tuple(_paragraphs(text, 0, len(text))))


def read_markdown(content: bytes) -> Parsed:
    """Return Markdown as it is written, with its headings, paragraphs, list items, tables and code."""
    from markdown_it import MarkdownIt

    text = decode(content)
    front = _FRONT_MATTER.match(text)
    body = text if front is None else re.sub(r"[^\n]", " ", front.group()) + text[front.end() :]
    lines = [0]
    for line in body.split("\n"):
        lines.append(lines[-1] + len(line) + 1)
    blocks = [] if front is None else [Block(0, front.end(), "code")]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    for index, token in enumerate(tokens):
        kind = _MARKDOWN_KINDS.get(token.type)
        depth = 1 if token.type == "list_item_open" else 0
        if kind is None or token.map is None or token.level != depth:
            continue
        start, end = _trim(text, lines[token.map[0]], min(lines[token.map[1]], len(text)))
        if start == end:
            continue
        if kind == "heading":
            title = _plain_title(tokens[index + 1].content)
            blocks.append(Block(start, end, kind, int(token.tag[1]), title))
        else:
            blocks.append(Block(start, end, kind))
    return Parsed(text, f"markdown-it-py-{version('markdown-it-py')}", blocks=tuple(blocks))


def read_html(content: bytes) -> Parsed:
    """Return the visible text of an HTML page with its structure; table rows become `| cell | cell |`
    lines.
    """
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(decode(content))
    writer = _HtmlWriter()
    root = tree.css_first("main") or tree.body or tree.root
    # An explicit stack: pages nested a million deep must not exhaust Python's.
    stack = [] if root is None else [(root, False)]
    while stack:
        node, leaving = stack.pop()
        tag = node.tag or ""
        if leaving:
            writer.leave(tag)
        elif tag == "-text":
            writer.write(node.text_content or "")
        elif tag and tag not in _HIDDEN and not tag.startswith(("-", "_", "!")):
            writer.enter(tag)
            stack.append((node, True))
            children = list(node.iter(include_text=True))
            stack.extend((child, False) for child in reversed(children))
    return writer.parsed(f"selectolax-{version('selectolax')}")


def read_pdf(content: bytes) -> Parsed:
    """Return the text of a PDF page by page. Raises ParseError when it is encrypted or damaged."""
    import pypdfium2

    try:
        file = pypdfium2.PdfDocument(content)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise ParseError(
                "document_encrypted", "The PDF is protected by a password: send it without one."
            ) from None
        raise ParseError(
            "document_unreadable", "The PDF is damaged or incomplete: open and save it anew, then send it."
        ) from None
    if len(file) > MAX_PAGES:
        raise ParseError(
            "document_has_too_many_pages", f"The PDF has more than {MAX_PAGES} pages: divide it."
        )
    pages: list[int] = []
    blocks: list[Block] = []
    parts: list[str] = []
    length = 0
    for number in range(len(file)):
        pages.append(length)
        words = _page_text(file, number)
        blocks.extend(_paragraphs(words, 0, len(words), shift=length))
        parts.append(words + "\n\n")
        length += len(parts[-1])
        if length > MAX_CHARACTERS:
            break
    text = "".join(parts)
    return Parsed(text, f"pypdfium2-{version('pypdfium2')}", tuple(pages), tuple(blocks))


def read_csv(content: bytes) -> Parsed:
    """Return a description of a table in text. Gives up files and network of this process."""
    from retrieval.parsing.tables import read_table

    return read_table(content, CSV)


def read_parquet(content: bytes) -> Parsed:
    """Return a description of a table in Parquet. Gives up files and network of this process."""
    from retrieval.parsing.tables import read_table

    return read_table(content, PARQUET)


def _page_text(file: "object", number: int) -> str:
    import pypdfium2

    try:
        page = file[number]  # type: ignore[index]
        raw = page.get_textpage().get_text_bounded()
        page.close()
    except pypdfium2.PdfiumError:
        raise ParseError(
            "document_unreadable",
            f"Page {number + 1} of the PDF is damaged: open and save it anew, then send it.",
        ) from None
    lines = str(raw).replace("\r\n", "\n").replace("\r", "\n")
    # pdfium marks a hyphen that only divides a word at a line's end.
    joined = re.sub("[\ufffe\x02]\n?", "", lines)
    return _UNSTORABLE.sub("\ufffd", joined)


def _paragraphs(text: str, start: int, end: int, *, shift: int = 0) -> Iterator[Block]:
    for match in _PARAGRAPH.finditer(text, start, end):
        yield Block(match.start() + shift, match.end() + shift, "paragraph")


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start] == "\n":
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def _plain_title(markdown: str) -> str:
    return re.sub(r"[`*_]|\[([^\]]*)\]\([^)]*\)", r"\1", markdown).strip()


class _HtmlWriter:
    """Writes text block by block."""

    def __init__(self) -> None:
        self._written: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._open: list[str] = []
        self._kinds: list[tuple[str, Kind]] = []
        self._cells: list[list[str]] | None = None
        self._preformatted = 0

    def enter(self, tag: str) -> None:
        if tag == "br":
            self._open.append("\n" if self._preformatted else " ")
            return
        if self._cells is not None:
            if tag in ("td", "th"):
                self._cells.append([])
            elif tag in _BREAKS and self._cells:
                self._cells[-1].append(" ")
            return
        if tag in _BREAKS:
            self._flush()
        if tag == "tr":
            self._cells = []
        elif tag == "pre":
            self._preformatted += 1
            self._kinds.append((tag, "code"))
        elif tag == "li":
            self._kinds.append((tag, "list_item"))
        elif tag in _HEADINGS:
            self._kinds.append((tag, "heading"))

    def write(self, text: str) -> None:
        target = self._open if self._cells is None else (self._cells[-1] if self._cells else None)
        if target is not None:
            target.append(text)

    def leave(self, tag: str) -> None:
        if tag == "tr" and self._cells is not None:
            cells = [" ".join("".join(cell).split()) for cell in self._cells]
            self._cells = None
            if any(cells):
                self._row("| " + " | ".join(cells) + " |")
            return
        if self._cells is not None:
            return
        if tag in _BREAKS:
            self._flush()
        if self._kinds and self._kinds[-1][0] == tag:
            self._kinds.pop()
            self._preformatted -= tag == "pre"

    def parsed(self, parser: str) -> Parsed:
        self._flush()
        text = _UNSTORABLE.sub("\ufffd", "".join(self._written))
        return Parsed(text, parser, blocks=tuple(self._blocks))

    def _flush(self) -> None:
        raw = "".join(self._open)
        self._open = []
        words = raw.strip("\n") if self._preformatted else " ".join(raw.split())
        if not words.strip():
            return
        tag, kind = self._kinds[-1] if self._kinds else ("p", "paragraph")
        if kind == "list_item":
            words = f"- {words}"
        elif kind == "heading":
            self._put(words, kind, level=int(tag[1]), title=words)
            return
        self._put(words, kind)

    def _row(self, line: str) -> None:
        last = self._blocks[-1] if self._blocks else None
        if last is not None and last.kind == "table" and last.end == self._length - 2:
            # The row continues the table: one newline instead of the blank line between blocks.
            self._written[-1] = self._written[-1][:-1]
            self._length -= 1
            self._blocks.pop()
            self._written.append(line + "\n\n")
            self._length += len(line) + 2
            self._blocks.append(Block(last.start, self._length - 2, "table"))
        else:
            self._put(line, "table")

    def _put(self, words: str, kind: Kind, *, level: int = 0, title: str = "") -> None:
        self._blocks.append(Block(self._length, self._length + len(words), kind, level, title))
        self._written.append(words + "\n\n")
        self._length += len(words) + 2


_HEADINGS = frozenset({"h1", "h2", "h3", "h4", "h5", "h6"})
_HIDDEN = frozenset(
    [
        "script",
        "style",
        "template",
        "noscript",
        "nav",
        "svg",
        "head",
        "iframe",
        "object",
        "select",
        "button",
        "form",
        "footer",
        "aside",
    ]
)
_BREAKS = _HEADINGS | frozenset(
    [
        "p",
        "div",
        "section",
        "article",
        "main",
        "header",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "td",
        "th",
        "caption",
        "pre",
        "blockquote",
        "figure",
        "figcaption",
        "hr",
        "address",
        "details",
        "summary",
        "body",
    ]
)
_MARKDOWN_KINDS: dict[str, Kind] = {
    "heading_open": "heading",
    "paragraph_open": "paragraph",
    "blockquote_open": "paragraph",
    "html_block": "paragraph",
    "list_item_open": "list_item",
    "table_open": "table",
    "fence": "code",
    "code_block": "code",
}
_READERS: dict[str, Callable[[bytes], Parsed]] = {
    PDF: read_pdf,
    HTML: read_html,
    MARKDOWN: read_markdown,
    PLAIN: read_plain,
    CSV: read_csv,
    PARQUET: read_parquet,
}
