"""The table of who may do what, as data (`expected.yaml`) and as a page (`docs/permissions.md`)."""

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.databases import CHECKOUT
from tests.permissions.world import CALLERS, ELSEWHERE, HERE, TOKENS

SOURCE = Path(__file__).with_name("expected.yaml")
PAGE = CHECKOUT / "docs" / "permissions.md"

GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": CALLERS,
    "here": HERE,
    "elsewhere": ELSEWHERE,
    "tokens": TOKENS,
    "console": ("reviewer", "operator", "admin", "policy_author", "auditor"),
    "console_elsewhere": (
        *(f"{role}_elsewhere" for role in ("reviewer", "operator", "admin", "policy_author", "auditor")),
        "crossed",
    ),
}
_LIST = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table as it was written; `routes` are what its lists stand for."""

    group: str
    written: str
    routes: tuple[str, ...]
    answers: Mapping[str, str]


@cache
def lines() -> tuple[Line, ...]:
    """Return the table."""
    source = yaml.safe_load(SOURCE.read_text())
    return tuple(
        Line(group, written, tuple(_spelled_out(written, source["lists"])), answers)
        for group, profiles in source["table"].items()
        for profile, routes in profiles.items()
        for answers in [_answers(source["answers"][profile])]
        for written in routes
    )


@cache
def expected() -> dict[str, Mapping[str, str]]:
    """Return for each route what each caller gets."""
    found: dict[str, Mapping[str, str]] = {}
    for line in lines():
        for route in line.routes:
            assert route not in found, f"{route} stands in the table twice"
            found[route] = line.answers
    return found


def page() -> str:
    """Return the documentation page."""
    source = yaml.safe_load(SOURCE.read_text())
    parts = [source["page"]]
    for group, grouped in itertools.groupby(lines(), key=lambda line: line.group):
        parts += [f"\n## {group}\n\n", _header()]
        parts += [_row(line) for line in grouped]
    parts.append("\n## Lists\n\n")
    parts += [
        f"- `{{{name}}}`: {', '.join(f'`{each}`' for each in each_)}\n"
        for name, each_ in source["lists"].items()
    ]
    return "".join(parts)


def _spelled_out(written: str, lists: Mapping[str, list[str]]) -> Iterable[str]:
    methods, _, path = written.partition(" ")
    if methods in {"channel", "command"}:
        yield written
        return
    for method in methods.split(","):
        names = _LIST.findall(path)
        for values in itertools.product(*(lists[name] for name in names)):
            spelled = path
            for name, value in zip(names, values, strict=True):
                spelled = spelled.replace(f"{{{name}}}", value, 1)
            yield f"{method} {spelled}"


def _answers(written: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what each caller gets: a caller's own entry counts before that of a smaller group."""
    found: dict[str, str] = {}
    by_size = sorted(written.items(), key=lambda entry: -len(_callers(entry[0])))
    for names, answer in by_size:
        found |= dict.fromkeys(_callers(names), str(answer))
    missing = set(CALLERS) - set(found)
    assert not missing, f"the table does not say what {sorted(missing)} get"
    return found


def _callers(names: str) -> tuple[str, ...]:
    return tuple(caller for name in names.split() for caller in GROUPS.get(name, (name,)))


def _header() -> str:
    columns = ["", "nobody", *HERE[:-1], "other workspace", *TOKENS, "superuser"]
    titles = [column.replace("_", " ") for column in columns]
    return f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}\n"


def _row(line: Line) -> str:
    answers = line.answers
    cells = [answers["nobody"], *(answers[name] for name in HERE[:-1]), _elsewhere(answers)]
    cells += [answers[name] for name in (*TOKENS, "superuser")]
    return f"| `{line.written}` | {' | '.join(cells)} |\n"


def _elsewhere(answers: Mapping[str, str]) -> str:
    """Return the one answer that all of them get, or that of each."""
    found: dict[str, list[str]] = {}
    for name in (*ELSEWHERE, "crossed"):
        found.setdefault(answers[name], []).append(name.removesuffix("_elsewhere").replace("_", " "))
    if len(found) == 1:
        return next(iter(found))
    most = max(found, key=lambda answer: len(found[answer]))
    rest = [f"{', '.join(names)}: {answer}" for answer, names in found.items() if answer != most]
    return f"{most}; {'; '.join(rest)}"
