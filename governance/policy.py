"""Policies: rules in YAML, their conditions in CEL, compiled once into a set with one content hash."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from hashlib import sha256
from typing import Any, Literal, Protocol, get_args
from uuid import UUID

from pydantic import BaseModel, ValidationError

from cartrita.eventstore.canonical import canonical_json
from governance import cel
from governance.canonical import canonical
from governance.policy_text import Path, Place, PolicyNotValid, Problem, at_start, policy_text, read_yaml
from governance.policy_warnings import never_matching, shadowed, takes_in
from governance.rule import (
    BUDGET_EXCEEDED,
    NOTHING_MATCHED,
    PARAMETERS,
    TAINTS_ACT_UNDER_WAY,
    Escalation,
    Example,
    GrantScope,
    Match,
    Outcome,
    Rule,
    SubjectKind,
    Throttle,
    ThrottledPer,
    definition_of,
    rule_as_json,
    rule_hash,
)

__all__ = [
    "BUDGET_EXCEEDED",
    "LARGEST_TEXT",
    "MOST_RULES",
    "NOTHING_MATCHED",
    "Escalation",
    "Example",
    "GrantScope",
    "Group",
    "Match",
    "Outcome",
    "PolicyNotValid",
    "PolicySet",
    "Problem",
    "Rule",
    "RuleResult",
    "SubjectKind",
    "Throttle",
    "compile_policy",
    "compile_rule",
    "definition_of",
    "load_policy",
    "policy_text",
    "rule_hash",
    "rule_problems",
    "rule_warnings",
]

Result = Literal["matched", "not_matched", "error"]

LARGEST_TEXT = 2 * 1024 * 1024
MOST_RULES = 2000
# A decision records the names of all rules that were evaluated, in an event of at most 64 KiB.
MOST_NAMES = 36 * 1024
_MOST_GROUPS = 4096
_MOST_COMBINATIONS = 256
_FIRST_OUTCOMES: frozenset[str] = frozenset({"allow", "deny", "audit"})
# What of `parameters` and of a rule's keys environment 3 is the first to know.
_REDACTED_KINDS: frozenset[str] = frozenset({"model_call", "message_out", "tool_call", "retrieval"})
_BREAKABLE_OUTCOMES: frozenset[str] = frozenset({"deny", "escalate", "throttle"})


class Subject(Protocol):
    """What a match looks at in a request."""

    @property
    def subject_kind(self) -> str: ...
    @property
    def tool(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def roles(self) -> frozenset[str]: ...
    @property
    def workspace_id(self) -> UUID: ...


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What one rule gave; `detail` is the engine's message when it erred and may quote the request."""

    rule: str
    result: Result
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """The rules whose match takes in one sort of request, by priority, ready to be evaluated together.

    `conditional` says whether any of them has a condition, `reads` which names conditions may read.
    """

    rules: tuple[Rule, ...]
    conditional: bool
    combination: cel.Combination
    conditions: Mapping[str, cel.Condition | None]
    all_matched: tuple[RuleResult, ...]
    none_matched: tuple[RuleResult, ...]
    reads: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PolicySet:
    """Compiled rules in order of priority. `content_hash` is the SHA-256 of `text`, their canonical JSON.

    `load_policy(text)` gives an equal set back, so the text stored by its hash is all that a later
    re-decision needs. `environment` is the version of the names that conditions read, `rule_hashes` maps
    each rule's name to its version, `warnings` name rules that can never match or never decide.
    """

    name: str
    rules: tuple[Rule, ...]
    text: str
    content_hash: str
    warnings: tuple[Problem, ...] = ()
    environment: int = cel.ENVIRONMENT_VERSION
    rule_hashes: Mapping[str, str] = field(default_factory=dict, repr=False)
    throttles: Mapping[str, Throttle] = field(default_factory=dict, repr=False)
    _conditions: Mapping[str, cel.Condition | None] = field(default_factory=dict, repr=False)
    _groups: dict[tuple[Any, ...], Group] = field(default_factory=dict, repr=False)
    _combinations: dict[tuple[int, ...], Group] = field(default_factory=dict, repr=False)

    def group(self, request: Subject) -> Group:
        """Return the rules that are about such a request, compiled together and kept."""
        names = (request.tool, request.model, request.agent, str(request.workspace_id))
        key = (request.subject_kind, names, request.roles)
        found = self._groups.get(key)
        if found is None:
            if len(self._groups) >= _MOST_GROUPS:
                self._groups.clear()
            found = self._groups[key] = self._compiled(
                tuple(
                    place
                    for place, rule in enumerate(self.rules)
                    if takes_in(rule.match, request.subject_kind, names, request.roles)
                )
            )
        return found

    def part(self, group: Group, rules: Iterable[Rule]) -> Group:
        """Return some of a group's rules as a group of their own."""
        wanted = {rule.name for rule in rules} & {rule.name for rule in group.rules}
        return self._compiled(tuple(n for n, rule in enumerate(self.rules) if rule.name in wanted))

    def throttles_for(self, request: Subject) -> tuple[Rule, ...]:
        """Return the throttle rules whose match takes the request in; their conditions may still not hold."""
        return tuple(rule for rule in self.group(request).rules if rule.outcome == "throttle")

    def throttle(self, rule_name: str) -> Throttle:
        """Return the bucket of a throttle rule of this set. Raises KeyError for any other name."""
        return self.throttles[rule_name]

    def escalation(self, rule_name: str, *, safety_level: str = "") -> Escalation:
        """Return whom an escalate rule of this set asks; a restricted tool's acts are approved one by one.

        Raises KeyError for any other name.
        """
        for rule in self.rules:
            if rule.name == rule_name and rule.outcome == "escalate":
                return Escalation.of(rule.parameters, safety_level=safety_level)
        raise KeyError(rule_name)

    def _compiled(self, places: tuple[int, ...]) -> Group:
        found = self._combinations.get(places)
        if found is None:
            if len(self._combinations) >= _MOST_COMBINATIONS:
                self._combinations.clear()
            rules = tuple(self.rules[place] for place in places)
            conditions = [self._conditions[rule.name] for rule in rules]
            environment = cel.environment(self.environment)
            found = self._combinations[places] = Group(
                rules,
                any(condition is not None for condition in conditions),
                environment.combine(conditions),
                self._conditions,
                tuple(RuleResult(rule.name, "matched") for rule in rules),
                tuple(RuleResult(rule.name, "not_matched") for rule in rules),
                environment.read_by(conditions),
            )
        return found


def load_policy(text: str, source: str = "policy") -> PolicySet:
    """Read, check and compile a policy (YAML, or the canonical text of an earlier set).

    Raises PolicyNotValid with every problem found: `source`:line:column, rule, field, and what to write.
    """
    if len(text) > LARGEST_TEXT:
        raise PolicyNotValid(
            source, [at_start(f"the text is above {LARGEST_TEXT} characters; split the policy")]
        )
    if text.startswith('{"environment":'):
        # Canonical JSON may hold characters that YAML reads differently, such as U+2028.
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            pass  # not canonical after all: YAML says where it is wrong
        else:
            return _compile(value, {}, source)
    value, places = read_yaml(text, source)
    return _compile(value, places, source)


def compile_policy(rules: Sequence[Rule], name: str) -> PolicySet:
    """Compile rules, in their order where priorities are equal, into a set of the newest environment.

    Raises PolicyNotValid; problems are placed inside the field that they name.
    """
    written = [rule_as_json(rule, examples=True) for rule in rules]
    return _compile({"policy": name, "rules": written}, _places_in_fields(len(written)), name)


def compile_rule(definition: Mapping[str, Any]) -> Rule:
    """Check and compile one rule as an editor holds it (JSON values under the names of a rule's fields).

    Raises PolicyNotValid, whose lines and columns count inside the field that the problem names.
    """
    value = {"policy": "draft", "rules": [dict(definition)]}
    return _compile(value, _places_in_fields(1), "rule").rules[0]


def rule_problems(definition: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Return what is wrong with a rule as an editor holds it; nothing when `compile_rule` takes it."""
    try:
        compile_rule(definition)
    except PolicyNotValid as error:
        return error.problems
    return ()


def rule_warnings(rule: Rule) -> tuple[Problem, ...]:
    """Return why a rule can never match, if so."""
    return tuple(
        Problem(line=1, column=1, rule=rule.name, field=field, message=message)
        for field, message in never_matching(rule)
    )


def _places_in_fields(rules: int) -> dict[Path, Place]:
    """Return places that make a position in a condition the position in that field alone."""
    return {
        ("rules", number, field): Place(0, 0, "|")
        for number in range(rules)
        for field in ("condition", "unless")
    }


def _compile(value: Any, places: Mapping[Path, Place], source: str) -> PolicySet:
    problems: list[Problem] = []

    def problem(
        path: Path, rule: str, field: str, message: str, inside: tuple[int, int] | None = None
    ) -> Problem:
        known = path
        while known and known not in places:
            known = known[:-1]
        place = places.get(known, Place(1, 1))
        line, column = max(place.line, 1), max(place.column, 1)
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
    version = value.get("environment", cel.ENVIRONMENT_VERSION)
    if type(version) is not int or version not in cel.ENVIRONMENT_VERSIONS:
        said = f"written for another version of the rule environment; this one is {cel.ENVIRONMENT_VERSION}"
        problems.append(problem(("environment",), "", "environment", said))
        version = cel.ENVIRONMENT_VERSION
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
    throttles: dict[str, Throttle] = {}
    for place, written in enumerate(value["rules"]):
        path: Path = ("rules", place)
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
        for part, said in _not_of_version(rule, version):
            problems.append(problem((*path, *part), called, ".".join(map(str, part)), said))
        if rule.name in conditions:
            problems.append(
                problem((*path, "name"), called, "name", "another rule has this name; rename one")
            )
            continue
        conditions[rule.name] = None
        if rule.unless is not None or rule.condition is not None:
            environment = cel.environment(version)
            try:
                conditions[rule.name] = environment.compile_condition(rule.condition or "true", rule.unless)
            except cel.CompileError as error:
                said = _with_known_names(error.message, environment.variables)
                found = problem((*path, error.field), called, error.field, said, (error.line, error.column))
                problems.append(found)
        rules.append((place, rule))
    if sum(len(rule.name) + 3 for _, rule in rules) > MOST_NAMES:
        said = f"the names of all rules together are above {MOST_NAMES} characters; shorten or remove some"
        problems.append(problem(("rules",), "", "rules", said))
    if problems:
        raise PolicyNotValid(source, sorted(problems, key=lambda p: (p.line, p.column)))

    placed = sorted(rules, key=lambda placed: (placed[1].priority, placed[0]))
    ordered = tuple(rule for _, rule in placed)
    throttles = {rule.name: Throttle.of(rule.parameters) for rule in ordered if rule.outcome == "throttle"}
    place_of = {rule.name: place for place, rule in placed}
    doubts = [(rule, field, message) for _, rule in rules for field, message in never_matching(rule)]
    doubts += shadowed(ordered)
    warnings = tuple(
        problem(("rules", place_of[rule.name], *field.split(".")), rule.name, field, message)
        for rule, field, message in doubts
    )
    written_rules = [rule_as_json(rule) for rule in ordered]
    as_json = {"environment": version, "policy": name, "rules": written_rules}
    plain = canonical(as_json, "policy")
    canonical_text = canonical_json(plain).decode()
    return PolicySet(
        name=name,
        rules=ordered,
        text=canonical_text,
        content_hash=sha256(canonical_text.encode()).hexdigest(),
        warnings=tuple(sorted(warnings, key=lambda p: (p.line, p.column))),
        environment=version,
        rule_hashes={rule.name: rule_hash(rule) for rule in ordered},
        throttles=throttles,
        _conditions=conditions,
    )


def _not_of_version(rule: Rule, version: int) -> list[tuple[Path, str]]:
    """Return where a rule says what the version of its environment does not know."""
    found: list[tuple[Path, str]] = []
    if rule.breakable and version < 3:
        said = f"not known in environment {version}; write `environment: 3`, or remove this"
        found.append((("breakable",), said))
    elif rule.breakable and rule.outcome not in _BREAKABLE_OUTCOMES:
        said = f"only rules that hold an act up can be broken, and {rule.outcome} lets it pass; remove this"
        found.append((("breakable",), said))
    if version == 1:
        if rule.outcome not in _FIRST_OUTCOMES:
            said = (
                f"{rule.outcome} is not known in environment 1; use allow, audit or deny, or leave that out"
            )
            found.append((("outcome",), said))
        return found
    if rule.name == BUDGET_EXCEEDED:
        said = "this name is what a verdict says when a budget does not hold the act; choose another"
        found.append((("name",), said))
    if rule.name == TAINTS_ACT_UNDER_WAY:
        said = "this name is what a verdict says of an act that another one stands against; choose another"
        found.append((("name",), said))
    try:
        PARAMETERS[rule.outcome].model_validate(rule.parameters)
    except ValidationError as error:
        for wrong in error.errors():
            said = _parameter_in_plain_words(rule.outcome, wrong["type"], wrong["msg"])
            found.append((("parameters", *wrong["loc"]), said))
    if "leave_out" in rule.parameters and rule.match.kinds != ("retrieval",):
        said = "only a search leaves documents out; write kinds: [retrieval], or remove this"
        found.append((("parameters", "leave_out"), said))
    if "redact" in rule.parameters:
        if version < 3:
            said = f"not known in environment {version}; write `environment: 3`, or remove this"
            found.append((("parameters", "redact"), said))
        elif not _REDACTED_KINDS.issuperset(rule.match.kinds):
            said = f"text is redacted of {', '.join(sorted(_REDACTED_KINDS))} alone; match no other kinds"
            found.append((("parameters", "redact"), said))
    return found


def _with_known_names(message: str, variables: Iterable[str]) -> str:
    unknown = re.match(r"undeclared reference to '([^']*)'", message)
    if unknown is None:
        return message
    close = get_close_matches(unknown.group(1), variables, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"'{unknown.group(1)}' is not a known name or function{hint}; known names: {', '.join(variables)}"


def _in_plain_words(kind: str, said: str, loc: tuple[int | str, ...]) -> str:
    models: Mapping[str, type[BaseModel]] = {"match": Match, "examples": Example}
    model = models.get(str(loc[0]), Rule) if loc else Rule
    if kind == "extra_forbidden":
        return f"not a known key; known keys: {', '.join(model.model_fields)}"
    if kind == "missing":
        return "missing; add it"
    if loc and loc[0] == "outcome":
        return f"use one of {', '.join(get_args(Outcome))}"
    if kind == "literal_error" and "kinds" in loc:
        return f"not a known kind; use one of {', '.join(get_args(SubjectKind))}"
    return said.removeprefix("Value error, ")


def _parameter_in_plain_words(outcome: Outcome, kind: str, said: str) -> str:
    known = ", ".join(PARAMETERS[outcome].model_fields)
    if kind == "extra_forbidden":
        return (
            f"not a known key; known keys: {known}" if known else f"{outcome} takes no parameters; remove it"
        )
    if kind == "missing":
        return "missing; write a rate such as 10/minute"
    if kind == "literal_error":
        return f"use one of {', '.join(get_args(GrantScope if outcome == 'escalate' else ThrottledPer))}"
    return said.removeprefix("Value error, ")
