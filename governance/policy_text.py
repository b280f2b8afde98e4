"""Policies as text: YAML read with the place of every node, problems that name a place, and YAML written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from cartrita.errors import BadInput
from governance.cel import ENVIRONMENT_VERSION
from governance.rule import Rule, rule_as_json

_DEEPEST_YAML = 50
# Words, lists and keys. The largest policies have some 60,000; a million take the parser a minute.
_MOST_NODES = 100_000
_RARE_BREAKS = frozenset("\r\x85\u2028\u2029\ufeff")

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong in a policy text: where (counted from 1), in which rule and field, and what."""

    line: int
    column: int
    rule: str
    field: str
    message: str

    def __str__(self) -> str:
        place = " of ".join(part for part in (self.field, f"rule {self.rule}" if self.rule else "") if part)
        return f"{self.line}:{self.column}: {place + ': ' if place else ''}{self.message}"


class PolicyNotValid(BadInput):
    """A policy text cannot be used; `problems` name every place that must change."""

    code: ClassVar[str] = "policy_not_valid"

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        lines = "\n".join(f"{source}:{problem}" for problem in problems)
        super().__init__(
            lines,
            field="policy",
            problems=[
                {"line": p.line, "column": p.column, "rule": p.rule, "field": p.field, "message": p.message}
                for p in problems
            ],
        )
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node of the text stands, and how to find a position inside it."""

    line: int
    column: int
    style: str | None = None
    lines: int = 1
    indent: int = 0

    def inside(self, line: int, column: int) -> tuple[int, int] | None:
        """Return the place in the text of a position in the node; None where folding moved it."""
        if self.style == "|":
            return self.line + line, self.indent + column
        if self.style == ">" or self.lines > 1:
            return None
        return self.line, self.column + (1 if self.style else 0) + column - 1


def read_yaml(text: str, source: str) -> tuple[Any, dict[Path, Place]]:
    """Return the value that a YAML text holds, and the place of each of its nodes. Raises PolicyNotValid."""
    places: dict[Path, Place] = {}
    try:
        _refuse_bombs(text)
        loader = yaml.SafeLoader(text)
        return _plain(_root(loader), (), places, loader, text.splitlines()), places
    except _YamlError as error:
        raise PolicyNotValid(source, [error.problem]) from None
    except yaml.MarkedYAMLError as error:
        said = " ".join(part for part in (error.context, error.problem) if part)
        raise PolicyNotValid(source, [_YamlError(f"not YAML: {said}", error.problem_mark).problem]) from None
    except yaml.YAMLError as error:
        raise PolicyNotValid(source, [at_start(f"not YAML: {error}")]) from None


def policy_text(rules: Sequence[Rule], name: str, *, environment: int = ENVIRONMENT_VERSION) -> str:
    """Write rules with their examples as YAML, which `load_policy` reads back to the same content hash."""
    head: dict[str, Any] = {"policy": name}
    if environment != ENVIRONMENT_VERSION:
        head["environment"] = environment
    written: list[str] = [_yaml(head), "rules:\n"]
    for rule in rules:
        text = _yaml([rule_as_json(rule, examples=True)])
        written.append(
            "".join(f"  {line}\n" if line else "\n" for line in text.removesuffix("\n").split("\n"))
        )
        written.append("\n")
    return "".join(written).rstrip("\n") + "\n"


def at_start(message: str) -> Problem:
    """Return a problem of the whole text."""
    return Problem(line=1, column=1, rule="", field="", message=message)


class _YamlError(Exception):
    def __init__(self, message: str, mark: Any) -> None:
        super().__init__(message)
        self.problem = Problem(
            line=mark.line + 1 if mark else 1,
            column=mark.column + 1 if mark else 1,
            rule="",
            field="",
            message=message,
        )


def _refuse_bombs(text: str) -> None:
    # Aliases of aliases grow exponentially when they are written out; deep nesting takes quadratic time.
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if number > _MOST_NODES:
            raise _YamlError(f"more than {_MOST_NODES} words and lists; split the policy", event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _YamlError("anchors and aliases are not supported; write the value out", event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _DEEPEST_YAML:
            raise _YamlError(f"nested deeper than {_DEEPEST_YAML} levels; write it flatter", event.start_mark)


def _root(loader: yaml.SafeLoader) -> yaml.Node:
    node = loader.get_single_node()
    if node is None:
        raise _YamlError("the text is empty; write `rules:` with at least one rule", None)
    return node


def _plain(node: Any, path: Path, places: dict[Path, Place], loader: Any, lines: list[str]) -> Any:
    start, end = node.start_mark, node.end_mark
    if isinstance(node, yaml.MappingNode):
        places[path] = Place(start.line + 1, start.column + 1)
        members: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _YamlError("a key must be a word", key_node.start_mark)
            key = key_node.value
            if key in members:
                raise _YamlError(f"the key {key} stands here twice; remove one", key_node.start_mark)
            members[key] = _plain(value_node, (*path, key), places, loader, lines)
        return members
    if isinstance(node, yaml.SequenceNode):
        places[path] = Place(start.line + 1, start.column + 1)
        return [_plain(member, (*path, i), places, loader, lines) for i, member in enumerate(node.value)]
    indent = 0
    if node.style == "|":
        content = (line for line in lines[start.line + 1 : end.line + 1] if line.strip())
        first = next(content, "")
        indent = len(first) - len(first.lstrip(" "))
    places[path] = Place(start.line + 1, start.column + 1, node.style, end.line - start.line + 1, indent)
    # `condition: true` is meant as an expression, `at: 2026-01-01` as text.
    if (path and path[-1] in {"condition", "unless"}) or node.tag.endswith(":timestamp"):
        return node.value
    try:
        return loader.construct_object(node)
    except ValueError:
        # Dates that are none, and numbers of more digits than Python reads.
        raise _YamlError("not a value that a policy holds; write it shorter, or in quotes", start) from None


class _Dumper(yaml.SafeDumper):
    """Writes lines of text as a block, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 # the shape of PyYAML
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        style = "|" if "\n" in data else None
        if not _RARE_BREAKS.isdisjoint(data):
            style = '"'  # escaped, because quotes of other sorts fold them
        # Where a block would not read back as it was, the emitter falls back to quotes.
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _yaml(value: Any) -> str:
    # No folding: what is one line stays one, so that a problem's column can be found in it.
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)
    return text
