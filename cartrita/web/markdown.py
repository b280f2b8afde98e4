"""Markdown of messages as safe HTML: no raw HTML, no images from elsewhere, links that tell nothing."""

from functools import cache

import nh3
from markdown_it import MarkdownIt

ALLOWED_TAGS = (
    {"a", "blockquote", "br", "code", "del", "em", "hr", "li", "ol", "p", "pre", "s", "strong", "ul"}
    | {f"h{level}" for level in range(1, 7)}
    | {"table", "tbody", "td", "th", "thead", "tr"}
)


@cache
def _renderer() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def to_html(text: str) -> str:
    """Return the Markdown `text` as HTML that is safe to show."""
    return nh3.clean(
        _renderer().render(text),
        tags=ALLOWED_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
