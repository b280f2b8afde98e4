from hypothesis import given
from hypothesis import strategies as st

from cartrita.web.passages import PART, Page, Part, Piece, marked_pages, visible_part

WHOLE = Part(0, 1000, None, None)


class TestMarkedPages:
    def test_mark_the_passage_on_its_page(self) -> None:
        pages = marked_pages("first page\n\nsecond page", [0, 12], (19, 23), WHOLE)
        assert pages == [
            Page(1, (Piece("first page"),)),
            Page(2, (Piece("second "), Piece("page", marked=True, first=True))),
        ]
        assert [page.holds_passage for page in pages] == [False, True]

    def test_mark_a_passage_that_runs_over_a_page(self) -> None:
        pages = marked_pages("ab\n\ncd", [0, 4], (1, 5), WHOLE)
        assert pages == [
            Page(1, (Piece("a"), Piece("b\n\n", marked=True, first=True))),
            Page(2, (Piece("c", marked=True), Piece("d"))),
        ]

    def test_have_no_number_in_a_text_without_pages(self) -> None:
        assert marked_pages("text", [], None, WHOLE) == [Page(None, (Piece("text"),))]

    @given(st.text("ab \n", max_size=60), st.integers(0, 60), st.integers(1, 60), st.integers(0, 60))
    def test_lose_nothing_but_space_at_the_end_of_pages(
        self, text: str, start: int, length: int, second: int
    ) -> None:
        passage = (start, start + length) if start + length <= len(text) else None
        starts = [0, second] if 0 < second < len(text) else []
        pages = marked_pages(text, starts, passage, WHOLE)
        shown = "".join(piece.text for page in pages for piece in page.pieces)
        assert shown.split() == text.split() or "".join(shown.split()) == "".join(text.split())
        if passage is not None:
            marked = "".join(piece.text for page in pages for piece in page.pieces if piece.marked)
            assert marked == text[slice(*passage)]


class TestVisiblePart:
    def test_is_everything_where_that_is_little(self) -> None:
        assert visible_part(10, (2, 3), 5) == Part(0, 10, None, None)

    def test_lies_around_the_passage(self) -> None:
        length = 10 * PART
        part = visible_part(length, (5 * PART, 5 * PART + 9), None)
        assert part.start < 5 * PART < part.end
        assert part.before is not None
        assert part.after == part.end

    def test_goes_on_to_the_end_part_by_part(self) -> None:
        length = 3 * PART + 17
        part, seen = visible_part(length, None, None), 0
        while part.after is not None:
            seen += 1
            part = visible_part(length, None, part.after)
        assert part.end == length
        assert seen == 3
        while part.before is not None:
            part = visible_part(length, None, part.before)
        assert part.start == 0
