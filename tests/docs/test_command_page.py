"""docs/commands.md names every command, and every exit code that means more than the usual three."""

import ast
import re
from pathlib import Path

import pytest

from tests.databases import CHECKOUT

PACKAGES = ("cartrita", "governance", "retrieval", "sessions_app", "tasks_app")
# These run before Django does (cartrita/embedded/commands.py).
WITHOUT_DJANGO = {"doctor", "restore", "up"}
USUAL_CODES = {0, 1, 2}
ROW = re.compile(r"^\| `(\w+)` \| .+? \| (.*?) ?\|$", re.MULTILINE)


def modules() -> dict[str, Path]:
    """Return the module of each command."""
    return {
        path.stem: path
        for package in PACKAGES
        for path in sorted((CHECKOUT / package).rglob("management/commands/*.py"))
        if path.stem != "__init__"
    }


def codes(path: Path) -> set[int]:
    """Return the exit codes that a command's module names, by a number or by a name of its own."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named: dict[str, int] = {}
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=int() as code)):
                named[name] = code
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                named |= {
                    name.id: value.value
                    for name, value in zip(names, values, strict=True)
                    if isinstance(name, ast.Name)
                    and isinstance(value, ast.Constant)
                    and isinstance(value.value, int)
                }
    found: set[int] = set()
    for node in ast.walk(tree):
        match node:
            case ast.keyword(arg="returncode", value=ast.Constant(value=int() as code)):
                found.add(code)
            case ast.keyword(arg="returncode", value=ast.Name(id=name)) if name in named:
                found.add(named[name])
    return found


def described() -> dict[str, str]:
    """Return what the page says of the exit codes of each command."""
    return dict(ROW.findall((CHECKOUT / "docs" / "commands.md").read_text(encoding="utf-8")))


class TestCommandPage:
    def test_names_every_command_and_none_that_is_gone(self) -> None:
        assert sorted(described()) == sorted({*modules(), *WITHOUT_DJANGO})

    @pytest.mark.parametrize("name", sorted(modules()))
    def test_tells_what_exit_codes_mean(self, name: str) -> None:
        told = {int(code) for code in re.findall(r"\b(\d)\b", described().get(name, ""))}
        assert codes(modules()[name]) - USUAL_CODES <= told
