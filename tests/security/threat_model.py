"""The lines of docs/threat-model.md, read from threats.yaml, and the page made of them."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PAGE = CHECKOUT / "docs" / "threat-model.md"
FOLDER = Path(__file__).parent
BEGIN = "<!-- From tests/security/threats.yaml: UPDATE_THREATS=1 make check -->"


@dataclass(frozen=True, slots=True)
class Change:
    """Text of a file that takes a guard away where it replaces another; `every`: wherever that stands."""

    file: str
    old: str
    new: str
    every: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A threat as it looks here; guard and tests are path::name. The first test fails without the guard."""

    id: str
    threat: str
    guard: str
    tests: tuple[str, ...]
    remains: str
    changes: tuple[Change, ...]

    @property
    def item(self) -> str:
        return self.id.partition(".")[0]


@cache
def _read() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / "threats.yaml").read_text(encoding="utf-8"))
    return read


def lines() -> list[Line]:
    """Return all lines in their order."""
    return [
        Line(
            id=each["id"],
            threat=each["threat"],
            guard=each["guard"],
            tests=tuple(each["tests"]),
            remains=each["remains"],
            changes=tuple(
                Change(**{"file": each["guard"].partition("::")[0], **change}) for change in each["changes"]
            ),
        )
        for each in _read()["lines"]
    ]


def items() -> list[str]:
    """Return the ids of all items of the lists."""
    return [item for one in _read()["lists"] for item in one["items"]]


def tables() -> str:
    """Return the tables, one a list, as Markdown."""
    known = lines()
    parts = []
    for one in _read()["lists"]:
        rows = []
        for item, title in one["items"].items():
            for line in (each for each in known if each.item == item):
                tests = "<br>".join(f"`{_short(test)}`" for test in line.tests)
                cells = [line.id, line.threat, f"`{line.guard}`", tests, line.remains]
                rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
            rows.insert(
                len(rows) - sum(each.item == item for each in known), f"| **{item}** | **{title}** | | | |"
            )
        head = "| | threat | guard | tests | what remains |\n| --- | --- | --- | --- | --- |"
        parts.append(f"## {one['name']}\n\n[The list]({one['address']}).\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def page() -> str:
    """Return the whole page: its head as it is, and the tables anew."""
    head, _, _ = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{head}{BEGIN}\n\n{tables()}"


def _short(test: str) -> str:
    path, _, name = test.partition("::")
    return f"{path.removeprefix('tests/')}::{name}"
