"""Pages of the documentation: links lead somewhere, tables are whole, and each page stands in the index."""

import re
from pathlib import Path

import pytest

from tests.databases import CHECKOUT

DOCS = CHECKOUT / "docs"
# What answers are made from in a new installation: documents of the product, not of its reader.
STARTER = DOCS / "starter"
PAGES = [CHECKOUT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if STARTER not in page.parents)]
NAMES = [str(page.relative_to(CHECKOUT)) for page in PAGES]


def prose(page: Path) -> str:
    """Return a page without its code."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]+`", lambda code: "x" * len(code[0]), text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^(`{3,}).*?^\1$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class TestPages:
    @pytest.mark.parametrize("name", NAMES)
    def test_link_to_what_is_there(self, name: str) -> None:
        page = CHECKOUT / name
        wrong = []
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                wrong.append(link)
        assert wrong == []

    @pytest.mark.parametrize("name", NAMES)
    def test_have_no_row_outside_a_table(self, name: str) -> None:
        lines = prose(CHECKOUT / name).splitlines()
        begins = [
            number
            for number, line in enumerate(lines)
            if line.startswith("|") and (number == 0 or not lines[number - 1].startswith("|"))
        ]
        broken = [
            number + 1
            for number in begins
            if not re.fullmatch(r"\|[-| :]+\|", (lines[number + 1 : number + 2] or [""])[0])
        ]
        assert broken == []

    def test_are_all_reached_from_the_index(self) -> None:
        index = (DOCS / "README.md", DOCS / "decisions" / "README.md")
        reached = {
            (page.parent / link.partition("#")[0]).resolve()
            for page in index
            for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        }
        pages = {page for page in PAGES if DOCS in page.parents} - {DOCS / "README.md"}
        assert {str(page.relative_to(DOCS)) for page in pages - reached} == set()
