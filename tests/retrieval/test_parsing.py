import gzip
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cartrita.errors import BadInput
from retrieval.chunking import divide
from retrieval.parsing.process import Reader
from retrieval.parsing.sniffing import CSV, HTML, MARKDOWN, PDF, PLAIN, accept_media_type, decode
from retrieval.parsing.structure import ParseError
from tests.retrieval.files import encrypted_pdf, exploding_pdf, pdf

PAGES = [
    ["The first page tells of apples.", "Apples are red."],
    ["The second page tells of pears."],
    ["Plums."],
]


def zipped() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    return written.getvalue()


class TestAcceptMediaType:
    @pytest.mark.parametrize(
        ("content", "claimed", "name", "accepted"),
        [
            (b"Hello.", "text/plain", "", PLAIN),
            (b"Hello.", "text/plain; charset=utf-8", "", PLAIN),
            (b"# Hello", "text/markdown", "", MARKDOWN),
            (b"# Hello", "", "notes.md", MARKDOWN),
            (b"a,b\n1,2", "text/csv", "", CSV),
            (b"def f(): ...", "text/x-python", "", PLAIN),
            (b"<!doctype html><p>Hello", "text/html", "", HTML),
            (b"\n<!-- c -->\n<HTML><p>Hello", "application/octet-stream", "x.bin", HTML),
            (b"<p>A fragment", "text/html", "", HTML),
            (pdf(PAGES), "application/pdf", "", PDF),
            (pdf(PAGES), "", "", PDF),
            ("Grüße".encode("utf-16"), "text/plain", "", PLAIN),
        ],
    )
    def test_tells_how_to_read_the_bytes(
        self, content: bytes, claimed: str, name: str, accepted: str
    ) -> None:
        assert accept_media_type(content, claimed=claimed, name=name) == accepted

    @pytest.mark.parametrize(
        ("content", "claimed", "code"),
        [
            (pdf(PAGES), "text/plain", "media_type_mismatch"),
            (b"Hello.", "application/pdf", "media_type_mismatch"),
            (b"Hello.", "text/html", "media_type_mismatch"),
            (b"<!doctype html><p>x", "text/markdown", "media_type_mismatch"),
            (b"Hello.", "image/png", "media_type_unsupported"),
            (b"\x89PNG\r\n\x1a\n....", "text/plain", "media_type_unsupported"),
            (zipped(), "text/plain", "media_type_unsupported"),
            (gzip.compress(b"0" * 100_000), "", "media_type_unsupported"),
            (b"a\0b", "text/plain", "document_holds_nul"),
            (b"\x80\x00\xff\x00", "", "document_holds_nul"),
            (b"half \xed\xa0\x80 a character", "text/plain", "document_holds_surrogates"),
            ("Grüße".encode("latin-1"), "text/plain", "document_not_text"),
            (b"\xff\xfeodd", "text/plain", "document_not_text"),
        ],
    )
    def test_refuses_what_is_not_as_claimed(self, content: bytes, claimed: str, code: str) -> None:
        with pytest.raises(BadInput) as caught:
            accept_media_type(content, claimed=claimed)
        assert caught.value.code == code
        assert caught.value.field in ("content", "media_type")


class TestDecode:
    def test_ends_lines_in_one_newline_and_drops_the_byte_order_mark(self) -> None:
        assert decode(b"\xef\xbb\xbfa\r\nb\rc\n") == "a\nb\nc\n"


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as made:
        yield made


class TestReader:
    def test_reads_text_with_its_paragraphs(self, reader: Reader) -> None:
        parsed = reader.read("Ein Satz.\nNoch einer.\n\n\nÄpfel.".encode(), PLAIN)
        assert [parsed.text[block.start : block.end] for block in parsed.blocks] == [
            "Ein Satz.\nNoch einer.",
            "Äpfel.",
        ]

    def test_reads_markdown_with_its_structure(self, reader: Reader) -> None:
        source = (
            "---\nauthor: x\n---\n\n# One `code`\n\nText.\n\n- item\n  more\n- item two\n\n"
            "| a | b |\n|---|---|\n| 1 | 2 |\n\n```\n# no heading\n```\n\nTwo\n---\n\nEnd."
        )
        parsed = reader.read(source.encode(), MARKDOWN)
        assert parsed.text == source
        assert [(block.kind, block.level, block.title) for block in parsed.blocks] == [
            ("code", 0, ""),
            ("heading", 1, "One code"),
            ("paragraph", 0, ""),
            ("list_item", 0, ""),
            ("list_item", 0, ""),
            ("table", 0, ""),
            ("code", 0, ""),
            ("heading", 2, "Two"),
            ("paragraph", 0, ""),
        ]

    def test_reads_the_visible_text_of_html(self, reader: Reader) -> None:
        page = (
            b"<!doctype html><title>t</title><script>alert(1)</script><nav>Menu</nav>"
            b"<h1>Big <i>words</i></h1><p>One<br>two &amp; three.</p><ul><li>a<ul><li>b</li></ul></ul>"
            b"<table><tr><th>H<th>I</tr><tr><td><p>1</p><td>2</tr></table><pre>x\n  y</pre>"
        )
        parsed = reader.read(page, HTML)
        assert parsed.text == (
            "Big words\n\nOne two & three.\n\n- a\n\n- b\n\n| H | I |\n| 1 | 2 |\n\nx\n  y\n\n"
        )
        assert parsed.text[parsed.blocks[4].start : parsed.blocks[4].end] == "| H | I |\n| 1 | 2 |"
        assert parsed.blocks[0].title == "Big words"

    def test_reads_a_pdf_page_by_page(self, reader: Reader) -> None:
        parsed = reader.read(pdf(PAGES), PDF)
        ends = [*parsed.pages[1:], len(parsed.text)]
        texts = [parsed.text[start:end].split("\n") for start, end in zip(parsed.pages, ends, strict=True)]
        assert [[line for line in lines if line] for lines in texts] == PAGES

    @pytest.mark.parametrize(
        ("content", "media_type", "code"),
        [
            (encrypted_pdf(PAGES), PDF, "document_encrypted"),
            (b"%PDF-1.7 and then nothing", PDF, "document_unreadable"),
            (pdf(PAGES)[:120], PDF, "document_unreadable"),
            (pdf([[], []]), PDF, "document_has_no_text"),
            (b"<html><script>x</script></html>", HTML, "document_has_no_text"),
            (b" \n ", PLAIN, "document_has_no_text"),
        ],
    )
    def test_says_why_a_document_cannot_be_read(
        self, reader: Reader, content: bytes, media_type: str, code: str
    ) -> None:
        with pytest.raises(ParseError) as caught:
            reader.read(content, media_type)
        assert caught.value.code == code
        assert reader.read(b"It still works.", PLAIN).text == "It still works."

    def test_divides_what_it_reads(self, reader: Reader) -> None:
        source = b"# One\n\n" + b"A sentence about it. " * 200 + b"\n\n# Two\n\nAn end.\n"
        parsed, chunks = reader.read_and_divide(source, MARKDOWN)
        assert chunks == divide(parsed)
        assert len(chunks) > 2

    def test_survives_a_decompression_bomb(self) -> None:
        with Reader(memory_bytes=400 * 1024 * 1024, cpu_seconds=10) as small:
            with pytest.raises(ParseError) as caught:
                small.read(exploding_pdf(900_000_000), PDF)
            assert caught.value.code in (
                "document_unreadable",
                "document_exceeds_memory",
                "document_exceeds_time",
            )
            assert small.read(b"It still works.", PLAIN).text == "It still works."

    def test_ends_what_takes_too_long(self) -> None:
        with Reader(wall_seconds=0.8, cpu_seconds=1) as hasty:
            with pytest.raises(ParseError) as caught:
                hasty.read(b"<html><body>" + b"<div>" * 200_000 + b"x", HTML)
            assert caught.value.code == "document_exceeds_time"

    def test_keeps_the_environment_from_the_process(
        self, monkeypatch: pytest.MonkeyPatch, reader: Reader
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        with Reader() as fresh:
            fresh.read(b"x", PLAIN)
            assert fresh._process is not None
            assert b"secret" not in Path(f"/proc/{fresh._process.pid}/environ").read_bytes()
