"""docs/settings.md names every environment variable that the product reads, and no other."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.databases import CHECKOUT

PAGE = CHECKOUT / "docs" / "settings.md"
PACKAGES = ("cartrita", "governance", "retrieval", "sessions_app", "tasks_app")
# What the supervisor tells its children by.
INTERNAL = {"CARTRITA_LIFELINE", "CARTRITA_REPORT"}
# Built from two parts in the code.
COMPOSED = {"OTEL_EXPORTER_OTLP_": {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}}
NAME = re.compile(r"[A-Z][A-Z0-9_]+")


def variables(path: Path) -> Iterator[str]:
    """Yield the names that a module asks an environment for: `environ`, `env` of django-environ, `getenv`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=asked), args=[name, *_]) if is_environment(asked):
                pass
            case ast.Call(func=ast.Attribute(attr="getenv"), args=[name, *_]):
                pass
            case ast.Subscript(value=asked, slice=name) if is_environment(asked):
                pass
            case ast.Compare(left=name, ops=[ast.In() | ast.NotIn()], comparators=[asked]) if is_environment(
                asked
            ):
                pass
            case _:
                continue
        match name:
            case ast.Constant(value=str() as text):
                yield text
            case ast.Name(id=constant) if constant in constants:
                yield str(constants[constant])
            case ast.JoinedStr(values=[ast.Constant(value=str() as text), *_]):
                yield text
            case _:
                pass


def is_environment(node: ast.expr) -> bool:
    return ast.unparse(node) in {"os.environ", "environ", "env"}


class TestSettingsPage:
    def test_names_what_the_code_reads_and_nothing_else(self) -> None:
        read: set[str] = set()
        for package in PACKAGES:
            for path in (CHECKOUT / package).rglob("*.py"):
                for name in variables(path):
                    if NAME.fullmatch(name):
                        read |= COMPOSED.get(name, {name})
        page = PAGE.read_text(encoding="utf-8")
        told = {
            name
            for line in page.splitlines()
            if line.startswith("| `")
            for name in re.findall(r"`([A-Z][A-Z0-9_]{3,}|CI)`", line)
        }
        assert told - read == set()
        assert read - INTERNAL - told == set()

    def test_says_each_default_as_settings_have_it(self) -> None:
        settings = (CHECKOUT / "cartrita" / "settings.py").read_text(encoding="utf-8")
        defaults = dict(re.findall(r'env\.int\("(\w+)", default=(\d+)\)', settings))
        assert len(defaults) > 5
        told = dict(re.findall(r"^\| `(\w+)` \| `(\d+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
        assert {name: told.get(name) for name in defaults} == defaults
