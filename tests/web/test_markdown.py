import pytest

from cartrita.web.markdown import cited_numbers, to_html


class TestToHtml:
    @pytest.mark.parametrize(
        "text",
        [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "[x](javascript:alert(1))",
            "[x](data:text/html,hello)",
            "![x](https://elsewhere.example/track.png)",
            "<a href='x' style='color:red'>x</a>",
            "<iframe src=https://elsewhere.example></iframe>",
        ],
    )
    def test_lets_nothing_run_or_load(self, text: str) -> None:
        html = to_html(text)
        for danger in ("<script", "<img", "<iframe", 'href="javascript', 'href="data', "<a style", 'src="'):
            assert danger not in html

    def test_gives_links_away_to_nobody(self) -> None:
        assert to_html("[x](https://example.org)") == (
            '<p><a href="https://example.org" rel="noopener noreferrer nofollow">x</a></p>\n'
        )

    @pytest.mark.parametrize(
        ("text", "levels"),
        [
            ("# A\n\n## B\n\n# C", ["h3", "h4", "h3"]),
            ("## A\n\n## B", ["h3", "h3"]),
            ("#### A\n\n## B\n\n###### C", ["h3", "h3", "h4"]),
            ("###### A\n\n# B", ["h3", "h3"]),
        ],
    )
    def test_leaves_out_no_level_of_headings(self, text: str, levels: list[str]) -> None:
        html = to_html(text)
        assert [part[:2] for part in html.split("<")[1:] if part.startswith("h")] == levels
        for level in levels:
            assert html.count(f"<{level}>") == html.count(f"</{level}>")

    def test_lets_wide_things_scroll(self) -> None:
        assert '<div class="wide" tabindex="0"><table>' in to_html("| a |\n|---|\n| b |")
        assert '<pre tabindex="0">' in to_html("```\n<pre>\n```")

    def test_links_numbers_to_their_citations_outside_of_code_and_links(self) -> None:
        html = to_html(
            "One [1], `two [1]`, three [2], [four [1]](https://example.org).", {1: "/documents/x/?a=1&b=2"}
        )
        assert html.count('<a class="cite" href="/documents/x/?a=1&amp;b=2">[1]</a>') == 1
        assert "<code>two [1]</code>" in html
        assert "three [2]" in html


class TestCitedNumbers:
    def test_are_in_the_order_of_their_first_mention(self) -> None:
        assert cited_numbers("a [3] b [1] c [3] d [x] e [123]") == [3, 1]
