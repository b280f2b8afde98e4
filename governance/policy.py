"""Policies: rules in YAML, their conditions in CEL, compiled once into a set with one content hash."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from cartrita.errors import BadInput
from cartrita.eventstore.canonical import canonical_json
from governance import cel
from governance.canonical import canonical

SubjectKind = Literal["plan", "model_call", "tool_call", "retrieval", "document", "message_out"]
Outcome = Literal["allow", "audit", "throttle", "escalate", "deny"]
Result = Literal["matched", "not_matched", "error"]

# What a policy file may say today. Throttle and escalate need rows that wait; a file that asks for them is
# refused rather than read as something weaker.
OUTCOMES_IN_FORCE: frozenset[str] = frozenset({"allow", "deny", "audit"})

LARGEST_TEXT = 1024 * 1024
MOST_RULES = 500
_DEEPEST_YAML = 50
_MOST_GROUPS = 4096
_MOST_COMBINATIONS = 256
_RULE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_RESERVED_NAMES = frozenset({"nothing-matched"})


def _readable_id(name: str) -> str:
    if len(name) > 60 or not _RULE_NAME.fullmatch(name):
        raise ValueError(
            "use at most 60 characters: lower-case words joined by hyphens, such as no-shell-for-guests"
        )
    if name in _RESERVED_NAMES:
        raise ValueError("this name is what a verdict says when no rule matched; choose another")
    return name


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(_Strict):
    """What a rule is about: every list that is given must take the request in; `*` stands for any text."""

    kinds: tuple[SubjectKind, ...] = Field(min_length=1)
    tools: tuple[str, ...] | None = None
    agents: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    roles: tuple[str, ...] | None = None
    workspaces: tuple[str, ...] | None = None


class Example(_Strict):
    """A request that shows the rule at work.

    The outcome that the whole set must give, and the deciding rule.
    """

    given: dict[str, Any]
    then: Outcome
    by: str | None = None


class Rule(_Strict):
    """One rule: whom it is about, when it holds, what follows, and a sentence that says so to people."""

    name: Annotated[str, AfterValidator(_readable_id)]
    sentence: str = Field(min_length=1, max_length=500)
    priority: int = Field(default=500, ge=0, le=9999)
    match: Match
    condition: str | None = Field(default=None, max_length=10_000)
    unless: str | None = Field(default=None, max_length=10_000)
    outcome: Outcome
    parameters: dict[str, Any] = Field(default_factory=dict)
    message_for_agent: str = Field(default="", max_length=500)
    message_for_people: str = Field(default="", max_length=500)
    examples: tuple[Example, ...] = ()


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
class RuleResult:
    """What one rule gave; `detail` is the engine's message when it erred and may quote the request."""

    rule: str
    result: Result
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """The rules whose match takes in one sort of request, by priority, ready to be evaluated together.

    `conditional` says whether any of them has a condition.
    """

    rules: tuple[Rule, ...]
    conditional: bool
    combination: cel.Combination
    conditions: Mapping[str, cel.Condition | None]
    all_matched: tuple[RuleResult, ...]
    none_matched: tuple[RuleResult, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PolicySet:
    """Compiled rules in order of priority. `content_hash` is the SHA-256 of `text`, their canonical JSON.

    `load_policy(text)` gives an equal set back, so the text stored by its hash is all that a later
    re-decision needs. `warnings` name rules that can never match.
    """

    name: str
    rules: tuple[Rule, ...]
    text: str
    content_hash: str
    warnings: tuple[Problem, ...] = ()
    _conditions: Mapping[str, cel.Condition | None] = field(default_factory=dict, repr=False)
    _groups: dict[tuple[Any, ...], Group] = field(default_factory=dict, repr=False)
    _combinations: dict[tuple[int, ...], Group] = field(default_factory=dict, repr=False)

    def group(
        self, *, kind: str, tool: str, model: str, agent: str, roles: frozenset[str], workspace: str
    ) -> Group:
        """Return the rules that are about such a request, compiled together and kept."""
        key = (kind, tool, model, agent, roles, workspace)
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) >= _MOST_GROUPS:
                self._groups.clear()
            found = self._groups[key] = self._compiled(
                tuple(
                    place
                    for place, rule in enumerate(self.rules)
                    if _takes_in(rule.match, kind, (tool, model, agent, workspace), roles)
                )
            )
        return found

    def _compiled(self, places: tuple[int, ...]) -> Group:
        found = self._combinations.get(places)
        if found is None:
            if len(self._combinations) >= _MOST_COMBINATIONS:
                self._combinations.clear()
            rules = tuple(self.rules[place] for place in places)
            conditions = [self._conditions[rule.name] for rule in rules]
            found = self._combinations[places] = Group(
                rules,
                any(condition is not None for condition in conditions),
                cel.combine(conditions),
                self._conditions,
                tuple(RuleResult(rule.name, "matched") for rule in rules),
                tuple(RuleResult(rule.name, "not_matched") for rule in rules),
            )
        return found


def load_policy(text: str, source: str = "policy") -> PolicySet:
    """Read, check and compile a policy (YAML, or the canonical text of an earlier set).

    Raises PolicyNotValid with every problem found: `source`:line:column, rule, field, and what to write.
    """
    if len(text) > LARGEST_TEXT:
        raise PolicyNotValid(
            source, [_at_start(f"the text is above {LARGEST_TEXT} characters; split the policy")]
        )
    if text.startswith('{"environment":'):
        # Canonical JSON may hold characters that YAML reads differently, such as U+2028.
        try:
            value = json.loads(text)
        except ValueError:
            pass  # not canonical after all: YAML says where it is wrong
        else:
            return _compile(value, {}, source)
    value, places = _read_yaml(text, source)
    return _compile(value, places, source)


_Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a node of the YAML text stands, and how to find a position inside it."""

    line: int
    column: int
    style: str | None = None
    lines: int = 1
    indent: int = 0

    def inside(self, line: int, column: int) -> tuple[int, int] | None:
        if self.style == "|":
            return self.line + line, self.indent + column
        if self.style == ">" or self.lines > 1:
            return None
        return self.line, self.column + (1 if self.style else 0) + column - 1


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


def _read_yaml(text: str, source: str) -> tuple[Any, dict[_Path, _Place]]:
    places: dict[_Path, _Place] = {}
    try:
        _refuse_anchors_and_depth(text)
        loader = yaml.SafeLoader(text)
        return _plain(_root(loader), (), places, loader, text.splitlines()), places
    except _YamlError as error:
        raise PolicyNotValid(source, [error.problem]) from None
    except yaml.MarkedYAMLError as error:
        said = " ".join(part for part in (error.context, error.problem) if part)
        raise PolicyNotValid(source, [_YamlError(f"not YAML: {said}", error.problem_mark).problem]) from None
    except yaml.YAMLError as error:
        raise PolicyNotValid(source, [_at_start(f"not YAML: {error}")]) from None


def _refuse_anchors_and_depth(text: str) -> None:
    # Aliases of aliases grow exponentially when they are written out; deep nesting takes quadratic time.
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
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


def _plain(node: Any, path: _Path, places: dict[_Path, _Place], loader: Any, lines: list[str]) -> Any:
    start, end = node.start_mark, node.end_mark
    if isinstance(node, yaml.MappingNode):
        places[path] = _Place(start.line + 1, start.column + 1)
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
        places[path] = _Place(start.line + 1, start.column + 1)
        return [_plain(member, (*path, i), places, loader, lines) for i, member in enumerate(node.value)]
    indent = 0
    if node.style == "|":
        content = (line for line in lines[start.line + 1 : end.line + 1] if line.strip())
        first = next(content, "")
        indent = len(first) - len(first.lstrip(" "))
    places[path] = _Place(start.line + 1, start.column + 1, node.style, end.line - start.line + 1, indent)
    # `condition: true` is meant as an expression, `at: 2026-01-01` as text.
    if (path and path[-1] in {"condition", "unless"}) or node.tag.endswith(":timestamp"):
        return node.value
    return loader.construct_object(node)


def _at_start(message: str) -> Problem:
    return Problem(line=1, column=1, rule="", field="", message=message)


def _compile(value: Any, places: dict[_Path, _Place], source: str) -> PolicySet:
    problems: list[Problem] = []

    def problem(
        path: _Path, rule: str, field: str, message: str, inside: tuple[int, int] | None = None
    ) -> Problem:
        known = path
        while known and known not in places:
            known = known[:-1]
        place = places.get(known, _Place(1, 1))
        line, column = place.line, place.column
        if inside is not None:
            found = place.inside(*inside)
            if found is None:
                message = f"at {inside[0]}:{inside[1]} of the expression: {message}"
            else:
                line, column = found
        return Problem(line=line, column=column, rule=rule, field=field, message=message)

    if not isinstance(value, dict) or not isinstance(value.get("rules"), list) or not value["rules"]:
        raise PolicyNotValid(source, [problem((), "", "rules", "write `rules:` with at least one rule")])
    problems += [
        problem((key,), "", key, "not known here; a policy has the keys policy, rules and environment")
        for key in value.keys() - {"policy", "rules", "environment"}
    ]
    if value.get("environment", cel.ENVIRONMENT_VERSION) != cel.ENVIRONMENT_VERSION:
        said = f"written for another version of the rule environment; this one is {cel.ENVIRONMENT_VERSION}"
        problems.append(problem(("environment",), "", "environment", said))
    name = value.get("policy", "policy")
    if not isinstance(name, str) or not 0 < len(name) <= 100:
        problems.append(problem(("policy",), "", "policy", "write a name of 1 to 100 characters"))
    if len(value["rules"]) > MOST_RULES:
        problems.append(
            problem(("rules",), "", "rules", f"at most {MOST_RULES} rules are allowed in one policy")
        )
        raise PolicyNotValid(source, problems)

    rules: list[tuple[int, Rule]] = []
    conditions: dict[str, cel.Condition | None] = {}
    for place, written in enumerate(value["rules"]):
        path: _Path = ("rules", place)
        called = (
            str(written.get("name", f"number {place + 1}"))
            if isinstance(written, dict)
            else f"number {place + 1}"
        )
        try:
            rule = Rule.model_validate(written)
        except ValidationError as error:
            for wrong in error.errors():
                at = ".".join(str(part) for part in wrong["loc"])
                said = _in_plain_words(wrong["type"], wrong["msg"], wrong["loc"])
                problems.append(problem((*path, *wrong["loc"]), called, at, said))
            continue
        if rule.outcome not in OUTCOMES_IN_FORCE:
            said = f"{rule.outcome} is not available; use allow, audit or deny"
            problems.append(problem((*path, "outcome"), called, "outcome", said))
        if rule.name in conditions:
            problems.append(
                problem((*path, "name"), called, "name", "another rule has this name; rename one")
            )
            continue
        conditions[rule.name] = None
        if rule.unless is not None or rule.condition is not None:
            try:
                conditions[rule.name] = cel.compile_condition(rule.condition or "true", rule.unless)
            except cel.CompileError as error:
                said = _with_known_names(error.message)
                found = problem((*path, error.field), called, error.field, said, (error.line, error.column))
                problems.append(found)
        rules.append((place, rule))
    if problems:
        raise PolicyNotValid(source, sorted(problems, key=lambda p: (p.line, p.column)))

    warnings = tuple(
        problem(("rules", place, *field.split(".")), rule.name, field, message)
        for place, rule in rules
        for field, message in _never_matching(rule)
    )
    ordered = tuple(rule for _, rule in sorted(rules, key=lambda placed: (placed[1].priority, placed[0])))
    as_json = {
        "environment": cel.ENVIRONMENT_VERSION,
        "policy": name,
        "rules": [
            rule.model_dump(mode="json", exclude={"examples"}, exclude_defaults=True) for rule in ordered
        ],
    }
    canonical_text = canonical_json(canonical(as_json, "policy")).decode()
    return PolicySet(
        name=name,
        rules=ordered,
        text=canonical_text,
        content_hash=sha256(canonical_text.encode()).hexdigest(),
        warnings=warnings,
        _conditions=conditions,
    )


def _takes_in(match: Match, kind: str, names: tuple[str, str, str, str], roles: frozenset[str]) -> bool:
    lists = (match.tools, match.models, match.agents, match.workspaces)
    return (
        kind in match.kinds
        and all(_named(patterns, name) for patterns, name in zip(lists, names, strict=True))
        and (match.roles is None or not roles.isdisjoint(match.roles))
    )


def _named(patterns: tuple[str, ...] | None, name: str) -> bool:
    if patterns is None:
        return True
    return bool(name) and any(
        re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name, re.DOTALL) for pattern in patterns
    )


_KIND_COMPARED = re.compile(r"""\bkind\s*==\s*(?:'(\w*)'|"(\w*)")""")


def _never_matching(rule: Rule) -> Iterator[tuple[str, str]]:
    match = rule.match
    for name in ("tools", "agents", "models", "roles", "workspaces"):
        if getattr(match, name) == ():
            yield (
                f"match.{name}",
                "the list is empty, so the rule can never match; remove the list or name something",
            )
    if match.tools is not None and not {"tool_call", "retrieval"} & set(match.kinds):
        yield (
            "match.tools",
            "none of these kinds has a tool, so the rule can never match; add the kind tool_call",
        )
    if match.models is not None and not {"model_call", "message_out"} & set(match.kinds):
        yield (
            "match.models",
            "none of these kinds has a model, so the rule can never match; add the kind model_call",
        )
    if rule.condition is not None:
        if cel.constant(rule.condition) is False:
            yield "condition", "the condition is never true, so the rule can never match"
        compared = [single or double for single, double in _KIND_COMPARED.findall(rule.condition)]
        if compared and "||" not in rule.condition and not set(compared) <= set(match.kinds):
            yield (
                "condition",
                "the condition asks for a kind that match.kinds leaves out, so the rule can never match",
            )
    if rule.unless is not None and cel.constant(rule.unless) is True:
        yield "unless", "the exemption is always true, so the rule can never match"


def _with_known_names(message: str) -> str:
    unknown = re.match(r"undeclared reference to '([^']*)'", message)
    if unknown is None:
        return message
    close = get_close_matches(unknown.group(1), cel.VARIABLES, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return (
        f"'{unknown.group(1)}' is not a known name or function{hint}; known names: {', '.join(cel.VARIABLES)}"
    )


def _in_plain_words(kind: str, said: str, loc: tuple[int | str, ...]) -> str:
    models: Mapping[str, type[BaseModel]] = {"match": Match, "examples": Example}
    model = models.get(str(loc[0]), Rule) if loc else Rule
    if kind == "extra_forbidden":
        return f"not a known key; known keys: {', '.join(model.model_fields)}"
    if kind == "missing":
        return "missing; add it"
    if loc and loc[0] == "outcome":
        return f"use one of {', '.join(o for o in get_args(Outcome) if o in OUTCOMES_IN_FORCE)}"
    if kind == "literal_error" and "kinds" in loc:
        return f"not a known kind; use one of {', '.join(get_args(SubjectKind))}"
    return said.removeprefix("Value error, ")
