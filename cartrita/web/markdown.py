"""Markdown of messages as safe HTML: no raw HTML, no images from elsewhere, links that tell nothing."""

import re
from collections.abc import Mapping
from functools import cache
from html import escape

import nh3
from markdown_it import MarkdownIt

ALLOWED_TAGS = (
    {"a", "blockquote", "br", "code", "del", "em", "hr", "li", "ol", "p", "pre", "s", "strong", "ul"}
    | {f"h{level}" for level in range(3, 7)}
    | {"table", "tbody", "td", "th", "thead", "tr"}
)
_TAG = re.compile(r"(<[^>]*>)")
_CITED = re.compile(r"\[(\d{1,2})\]")
_LITERAL = re.compile(r"<(/?)(?:a|code|pre)\b")
_HEADING = re.compile(r"(</?h)([1-6])(?=>)")


@cache
def _renderer() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def to_html(text: str, citations: Mapping[int, str] | None = None) -> str:
    """Return the Markdown `text` as HTML that is safe to show.

    `citations` holds addresses by number: each `[number]` in running text becomes a link. Headings are
    lowered by two levels, because they stand under those of page and message.
    """
    lowered = _HEADING.sub(
        lambda found: f"{found[1]}{min(int(found[2]) + 2, 6)}", _renderer().render(text)
    )
    safe = nh3.clean(
        lowered,
        tags=ALLOWED_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return _linked(safe, citations) if citations else safe


def cited_numbers(text: str) -> list[int]:
    """Return the numbers in brackets of a text, each once, in the order of their first mention."""
    return list(dict.fromkeys(int(number) for number in _CITED.findall(text)))


def _linked(html: str, citations: Mapping[int, str]) -> str:
    def link(found: re.Match[str]) -> str:
        address = citations.get(int(found[1]))
        if address is None:
            return found[0]
        return f'<a class="cite" href="{escape(address)}">[{found[1]}]</a>'

    parts = []
    literal = 0
    for part in _TAG.split(html):
        if part.startswith("<"):
            if (tag := _LITERAL.match(part)) is not None:
                literal += -1 if tag[1] else 1
            parts.append(part)
        else:
            parts.append(part if literal else _CITED.sub(link, part))
    return "".join(parts)
