"""Markdown of messages as safe HTML: no raw HTML, no images from elsewhere, links that tell nothing."""

import re
from collections.abc import Mapping
from functools import cache
from html import escape

import nh3
from markdown_it import MarkdownIt

ALLOWED_TAGS = (
    {"a", "blockquote", "br", "code", "del", "em", "hr", "li", "ol", "p", "pre", "s", "strong", "ul"}
    | {f"h{level}" for level in range(1, 7)}
    | {"table", "tbody", "td", "th", "thead", "tr"}
)
_TAG = re.compile(r"(<[^>]*>)")
_CITED = re.compile(r"\[(\d{1,2})\]")
_LITERAL = re.compile(r"<(/?)(?:a|code|pre)\b")
_HEADING = re.compile(r"(</?h)([1-6])(?=>)")
_FIRST_LEVEL, _LAST_LEVEL = 3, 6
_SCROLLING = {
    "<pre>": '<pre tabindex="0">',
    "<table>": '<div class="wide" tabindex="0"><table>',
    "</table>": "</table></div>",
}


@cache
def _renderer() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def to_html(text: str, citations: Mapping[int, str] | None = None) -> str:
    """Return the Markdown `text` as HTML that is safe to show.

    `citations` holds addresses by number: each `[number]` in running text becomes a link. Headings stand
    under those of page and message, and leave out no level.
    """
    safe = nh3.clean(
        _renderer().render(text),
        tags=ALLOWED_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    # What may be wider than the page scrolls by itself, also by keyboard.
    for plain, scrolling in _SCROLLING.items():
        safe = safe.replace(plain, scrolling)
    lowered = _with_levels(safe)
    return _linked(lowered, citations) if citations else lowered


def cited_numbers(text: str) -> list[int]:
    """Return the numbers in brackets of a text, each once, in the order of their first mention."""
    return list(dict.fromkeys(int(number) for number in _CITED.findall(text)))


def _with_levels(html: str) -> str:
    used = sorted({int(level) for _, level in _HEADING.findall(html)})
    rank = {level: min(_FIRST_LEVEL + place, _LAST_LEVEL) for place, level in enumerate(used)}
    present = _FIRST_LEVEL - 1

    def lowered(found: re.Match[str]) -> str:
        nonlocal present
        # Each heading goes at most one level deeper than the one before; an end tag is as deep as its start.
        present = min(rank[int(found[2])], present + 1) if found[1] == "<h" else present
        return f"{found[1]}{present}"

    return _HEADING.sub(lowered, html)


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
