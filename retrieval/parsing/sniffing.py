"""What a file is, told from its bytes and checked against what its sender says."""

import re
from collections.abc import Callable
from pathlib import PurePath

from cartrita.errors import BadInput

PDF = "application/pdf"
HTML = "text/html"
MARKDOWN = "text/markdown"
PLAIN = "text/plain"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"
TABLES = frozenset({CSV, PARQUET})

_CLAIMS = {
    PDF: PDF,
    "application/x-pdf": PDF,
    HTML: HTML,
    "application/xhtml+xml": HTML,
    MARKDOWN: MARKDOWN,
    "text/x-markdown": MARKDOWN,
    PLAIN: PLAIN,
    CSV: CSV,
    "application/csv": CSV,
    "text/tab-separated-values": CSV,
    PARQUET: PARQUET,
    "application/parquet": PARQUET,
    "application/x-parquet": PARQUET,
    "text/x-rst": PLAIN,
    "application/json": PLAIN,
}
_UNKNOWN = {"", "application/octet-stream", "binary/octet-stream"}
# Windows says of CSV that it is Excel's; Excel's own files have bytes of their own.
_WINDOWS_CSV = "application/vnd.ms-excel"
_SUFFIXES = {
    ".pdf": PDF,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".csv": CSV,
    ".tsv": CSV,
    ".tab": CSV,
}
_PARQUET_MARK = b"PAR1"
_FOREIGN = (
    (b"PK\x03\x04", "a ZIP container (Office documents and EPUB are such)"),
    (b"\x1f\x8b", "gzip data"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ\x00", "xz data"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"MZ\x90\x00", "a program"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
    (b"{\\rtf", "rich text"),
)
_BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_HTML_START = re.compile(
    r"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_TAG = re.compile(r"<[a-zA-Z!/][^>]*>")


class MediaTypeUnsupported(BadInput):
    """This kind of file cannot be read yet."""

    code = "media_type_unsupported"
    status = 415


class MediaTypeMismatch(BadInput):
    """The bytes are not what the sender says they are."""

    code = "media_type_mismatch"
    status = 415


class DocumentNotText(BadInput):
    """A text file's bytes are not text."""

    code = "document_not_text"


class ParquetIncomplete(BadInput):
    """A Parquet file has no end."""

    code = "parquet_incomplete"


class DocumentHoldsNul(BadInput):
    """A text file holds NUL characters, which no text has."""

    code = "document_holds_nul"


class DocumentHoldsSurrogates(BadInput):
    """A text file holds lone surrogates: halves of characters."""

    code = "document_holds_surrogates"


def accept_media_type(content: bytes, *, claimed: str, name: str = "") -> str:
    """Return the media type by which to read `content`: one of PDF, HTML, MARKDOWN, PLAIN, CSV, PARQUET.

    `claimed` is what the sender says, parameters ignored; `name` is consulted when it says nothing. Raises
    MediaTypeUnsupported, MediaTypeMismatch, DocumentNotText, DocumentHoldsNul, DocumentHoldsSurrogates.
    """
    claim = claimed.partition(";")[0].strip().lower()
    by_name = _SUFFIXES.get(PurePath(name).suffix.lower())
    if claim == _WINDOWS_CSV and by_name == CSV:
        claim = CSV
    if claim not in _CLAIMS and claim not in _UNKNOWN and not claim.startswith("text/"):
        raise MediaTypeUnsupported(
            f"{claim!r} cannot be read; send PDF, HTML, Markdown, plain text, CSV or Parquet.",
            field="media_type",
        )
    expected = _CLAIMS.get(claim, PLAIN) if claim not in _UNKNOWN else None
    table = CSV in (expected, by_name if expected is None else None)
    actual = sniff(content, decoding=decode_table if table else decode)
    if expected is None:
        return by_name if actual == PLAIN and by_name in (MARKDOWN, CSV) else actual
    if _agree(expected, actual, content):
        return expected
    raise MediaTypeMismatch(
        f"The document was sent as {claim} but is {actual}: send it under its own type.", field="media_type"
    )


def decode(content: bytes) -> str:
    """Return a text file's text: UTF-8, or UTF-16 and UTF-32 with a byte order mark; lines end in one
    newline.

    Raises DocumentNotText, DocumentHoldsNul, DocumentHoldsSurrogates, each naming the first offending place.
    """
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_text(content, encoding, error) from None
    if "\0" in text:
        raise DocumentHoldsNul(
            f"The text holds a NUL character (at {text.index(chr(0))}): save it as plain UTF-8 text.",
            field="content",
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode_table(content: bytes) -> str:
    """Return a CSV file's text as `decode` does; what is not UTF-8 is taken as Windows-1252.

    Spreadsheets write that where they do not write UTF-8, and of its bytes nearly all are text, so that this
    guess cannot be checked.
    """
    try:
        return decode(content)
    except DocumentNotText:
        if content.startswith(tuple(mark for mark, _name in _BYTE_ORDER_MARKS)):
            raise
        try:
            text = content.decode("cp1252")
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        return text.replace("\r\n", "\n").replace("\r", "\n")


def sniff(content: bytes, *, decoding: Callable[[bytes], str] = decode) -> str:
    """Return PDF, PARQUET, HTML or PLAIN, whatever the bytes are. Raises as accept_media_type does for what
    is none of them.
    """
    # ISO 32000 lets up to 1024 bytes stand before the header, and readers accept them.
    if b"%PDF-" in content[:1024]:
        return PDF
    if content.startswith(_PARQUET_MARK) and b"\0" in content:
        if content.endswith(_PARQUET_MARK):
            return PARQUET
        raise ParquetIncomplete(
            "The Parquet file is cut off or encrypted: its last four bytes are not PAR1. Write it anew.",
            field="content",
        )
    for start, what in _FOREIGN:
        if content.startswith(start):
            raise MediaTypeUnsupported(
                f"The document is {what}, which cannot be read; send PDF, HTML, Markdown, plain text, CSV or"
                " Parquet.",
                field="content",
            )
    return HTML if _HTML_START.match(decoding(content)[:4096]) else PLAIN


def _not_text(content: bytes, encoding: str, error: UnicodeDecodeError) -> BadInput:
    if encoding.startswith("utf-8"):
        try:
            content.decode(encoding, "surrogatepass")
        except UnicodeDecodeError:
            if b"\0" in content:
                return DocumentHoldsNul(
                    f"The file is binary (NUL at byte {content.index(0)}), not text.", field="content"
                )
        else:
            return DocumentHoldsSurrogates(
                f"The text holds a lone surrogate (half a character, byte {error.start}): save it anew.",
                field="content",
            )
    return DocumentNotText(
        f"The text is not {encoding.upper().removesuffix('-SIG')} (byte {error.start}): save it as UTF-8.",
        field="content",
    )


def _agree(expected: str, actual: str, content: bytes) -> bool:
    if expected == actual:
        return True
    if expected in (MARKDOWN, CSV):
        return actual == PLAIN
    # A fragment of HTML has no <html>; it has tags.
    return expected == HTML and actual == PLAIN and _TAG.search(decode(content)) is not None
