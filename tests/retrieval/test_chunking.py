import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.chunking import HEADING_LENGTH, LIMIT, TARGET, count_tokens, divide, indexed_text
from retrieval.parsing.readers import read_markdown, read_plain
from retrieval.parsing.structure import Block, Parsed

WORDS = st.text(alphabet=st.sampled_from("abcdefgh äß.!?|-#*`\n\t0123漢字🙂"), max_size=400)
DOCUMENTS = st.lists(
    st.one_of(
        WORDS,
        st.sampled_from(["# One", "## Two", "- item", "| a | b |\n|---|---|\n| 1 | 2 |", "```\ncode\n```"]),
        st.integers(1, 900).map(lambda count: "word " * count),
        st.integers(1, 3000).map(lambda count: "x" * count),
    ),
    max_size=12,
).map("\n\n".join)


def held(parsed: Parsed) -> str:
    return "".join(parsed.text[chunk.start : chunk.end] for chunk in divide(parsed))


class TestDivide:
    @given(DOCUMENTS)
    def test_gives_ordered_ranges_of_the_text_that_do_not_overlap(self, source: str) -> None:
        parsed = read_markdown(source.encode())
        end = 0
        for number, chunk in enumerate(divide(parsed)):
            assert chunk.ordinal == number
            assert end <= chunk.start < chunk.end <= len(parsed.text)
            assert count_tokens(parsed.text[chunk.start : chunk.end]) <= LIMIT + 1
            end = chunk.end

    @given(DOCUMENTS)
    def test_loses_nothing_but_blanks_of_plain_text(self, source: str) -> None:
        parsed = read_plain(source.encode())
        assert "".join(held(parsed).split()) == "".join(parsed.text.split())

    def test_keeps_a_short_document_whole(self) -> None:
        parsed = read_plain(b"One.\n\nTwo.\n\nThree.")
        assert [(chunk.start, chunk.end) for chunk in divide(parsed)] == [(0, len(parsed.text))]

    def test_divides_evenly_instead_of_leaving_a_small_rest(self) -> None:
        parsed = read_plain("\n\n".join("a word " * 20 for _ in range(7)).encode())
        sizes = [count_tokens(parsed.text[chunk.start : chunk.end]) for chunk in divide(parsed)]
        assert len(sizes) == 2
        assert min(sizes) > TARGET / 2

    def test_names_the_headings_above_a_passage(self) -> None:
        body = "A sentence about it. " * 20
        parsed = read_markdown(f"# Book\n\n## One\n\n{body}\n\n## Two\n\n### Deep\n\n{body}".encode())
        assert [chunk.heading for chunk in divide(parsed)] == ["Book > One", "Book > Two > Deep"]

    def test_keeps_a_long_heading_from_multiplying(self) -> None:
        parsed = read_markdown(b"# " + b"word " * 10_000 + b"\n\n" + b"A sentence about it. " * 2_000)
        assert all(len(chunk.heading) <= HEADING_LENGTH for chunk in divide(parsed))

    @pytest.mark.parametrize(
        "source",
        [
            "# One\n" * 20_000,
            "." * 200_000 + "x",
            "A. B. " * 60_000,
            "x\n" + " " * 200_000 + "y",
            "|--" * 60_000,
        ],
        ids=["headings", "dots", "initials", "blanks", "dashes"],
    )
    def test_takes_time_in_proportion_to_the_text(self, source: str) -> None:
        # What took the square of the length would take hours.
        block = Block(0, len(source), "paragraph")
        lines = (Block(start, start + 5, "heading", 1, "One") for start in range(0, len(source), 6))
        blocks = tuple(lines) if source.startswith("#") else (block,)
        assert divide(Parsed(source, parser="x", blocks=blocks))

    def test_names_the_page_on_which_a_passage_begins(self) -> None:
        text = "word " * 150 + "\n\n" + "other " * 150
        parsed = read_plain(text.encode())
        paged = Parsed(parsed.text, parser="x", pages=(0, 752), blocks=parsed.blocks)
        assert [chunk.page for chunk in divide(paged)] == [1, 2]


class TestIndexedText:
    def test_says_title_and_headings_once(self) -> None:
        assert indexed_text("Book", "Book > One", "## One\n\nBody") == "Book\n## One\n\nBody"
        assert indexed_text("Book", "", "Body") == "Book\nBody"

    def test_leaves_out_a_title_made_of_the_passages_first_words(self) -> None:
        assert indexed_text("Apples ripen", "", "Apples\nripen in October.") == "Apples\nripen in October."
        assert indexed_text("Apple", "", "Apples ripen.") == "Apple\nApples ripen."
