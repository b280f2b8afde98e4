"""docs/threat-model.md names what exists, and the changes that take guards away fit the code."""

import ast
import os
from functools import cache

import pytest

from tests.security.mutations import changed
from tests.security.threat_model import CHECKOUT, PAGE, Line, items, lines, page


@cache
def names(path: str) -> frozenset[str]:
    """Return what a Python file defines; methods as Class::name and as Class.name."""
    found: set[str] = set()
    for node in ast.parse((CHECKOUT / path).read_text(encoding="utf-8")).body:
        match node:
            case ast.ClassDef():
                found.add(node.name)
                for each in node.body:
                    if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
                        found |= {f"{node.name}::{each.name}", f"{node.name}.{each.name}"}
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                found.add(node.name)
            case ast.Assign():
                found |= {each.id for each in node.targets if isinstance(each, ast.Name)}
            case ast.AnnAssign():
                found.add(ast.unparse(node.target))
    return frozenset(found)


@pytest.mark.parametrize("line", lines(), ids=lambda line: line.id)
class TestLine:
    def test_names_a_guard_that_exists(self, line: Line) -> None:
        path, _, name = line.guard.partition("::")
        assert (CHECKOUT / path).is_file()
        assert not name or name in names(path)

    def test_names_tests_that_exist(self, line: Line) -> None:
        assert line.tests
        for test in line.tests:
            path, _, name = test.partition("::")
            assert name in names(path), test

    def test_can_be_left_without_its_guard(self, line: Line) -> None:
        assert line.changes
        texts: dict[str, str] = {}
        for change in line.changes:
            before = texts.get(change.file) or (CHECKOUT / change.file).read_text(encoding="utf-8")
            texts[change.file] = changed(before, change)
            assert texts[change.file] != before
            if change.file.endswith(".py"):
                ast.parse(texts[change.file])


class TestPage:
    def test_has_lines_for_every_item_of_the_lists(self) -> None:
        known = [line.item for line in lines()]
        assert set(known) == set(items())
        assert len({line.id for line in lines()}) == len(known)

    def test_is_what_the_lines_say(self) -> None:
        written = page()
        if os.environ.get("UPDATE_THREATS"):
            PAGE.write_text(written, encoding="utf-8")
        assert PAGE.read_text(encoding="utf-8") == written, "run it with UPDATE_THREATS=1"
