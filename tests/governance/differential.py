"""Random conditions and requests, decided by our engine and by one that shares no line with it.

Ours is Google's C++ engine behind `governance.cel`; the peer is the Rust one of `common-expression-language`.
Each condition is a tree that is written out for both: the peer lacks the syntax of optional values, so it
gets their meaning in the core language, and takes dotted names as maps. A pair (condition, request) gives
true, false or an error; each is evaluated by us in a list with others and alone.

    python -m tests.governance.differential [PAIRS [SEED]]
"""

import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from random import Random
from typing import Any, TypeAlias, TypeVar, get_args
from uuid import UUID

import cel as rust
from cel.stdlib import add_stdlib_to_context
from cel_expr_python import cel as engine

from governance import cel
from governance.decide import (
    Budget,
    BudgetFact,
    Cost,
    Counters,
    DecisionRequest,
    GlassFact,
    SafetyLevel,
    decide,
    variables,
)
from governance.policy import PolicySet, compile_policy
from governance.rule import Match, Rule, SubjectKind

# In what the two differ, and whom the specification is against. For each there is a way to write a condition
# for the peer in which it does as ours does: a pair counts as explained only where that ends the difference.
SIZES = "peer: size counts the bytes of a text, not its characters"
LOOPS = "peer: exists and all end with the first error, also where another element decides"
CONVERSIONS = "peer: string and int take no booleans, string writes large doubles without an exponent"
SUBSTRINGS = "ours: substring(start, end) is an error where end is the length of the text"
NANS = "peer: what is no number cannot be compared, where it is neither smaller nor larger"
KNOWN = (NANS, SIZES, LOOPS, CONVERSIONS, SUBSTRINGS)

RULES_A_SET = 10
REQUESTS_A_SET = 10
_MOST_ELEMENTS = 4
_KEYS = ("path", "text", "count", "ratio", "flag", "nothing", "names", "mixed", "nested", "absent")
_INNER_KEYS = ("a", "b", "c")
_WORDS = (
    "",
    "a",
    "abc",
    "Ärger",
    "secret",
    "a b",
    "x-1",
    "日本",
    "😀b",
    "ABC",
    "12",
    "-7",
    "1.5",
    "true",
    "é",
)
_LABELS = ("pii", "untrusted", "restricted", "secret")
_ROLES = ("member", "reviewer", "admin")
_PATTERNS = ("^a", "b$", "a.c", "^[a-z]+$", "[0-9]+", "^$", "(a|x)", "s?e", r"\\d")
_NUMBERS = (0, 1, 2, 5, -1, -7, 10, 1000, 2**31, 2**53 - 1, 2**62, 2**63 - 1, -(2**63) + 1)
_DECIMALS = ("0.0", "1.5", "-2.25", "1000.5", "1e10", "0.1")
_LONGEST_CONDITION = 1500
_NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_GLASS = GlassFact(id=UUID(int=9), until=_NOON, by="user:1")
_TEXTS = ("kind", "actor", "agent", "model.name", "tool.name", "tool.safety", "cost.currency", "session")


@dataclass(frozen=True)
class Dialect:
    """For whom a condition is written out: `undone` are the known differences that the writing avoids."""

    peer: bool = False
    undone: frozenset[str] = frozenset()
    bound: Mapping[str, str] = field(default_factory=dict)

    def binding(self, name: str, written: str) -> "Dialect":
        """Return the dialect in which a loop's variable stands for an expression."""
        return replace(self, bound={**self.bound, name: written})


T = TypeVar("T")
Written: TypeAlias = Callable[[Dialect], str]
OURS, PEER = Dialect(), Dialect(peer=True)


def joined(template: str, *parts: Written) -> Written:
    """Return an expression made of others, put where the template has `%s`."""
    return lambda dialect: template % tuple(part(dialect) for part in parts)


def plain(text: str) -> Written:
    """Return an expression that reads the same for both."""
    return lambda _: text


def quoted(text: str) -> str:
    """Return a text as a literal."""
    return '"' + text.replace('"', '\\"') + '"'


class Conditions:
    """Writes random well-typed conditions over the names that are declared."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self._loops = 0
        self._elements: list[Written] = []
        self._named = 0
        declared = cel.environment().variables
        kinds = {"number": engine.Type.INT, "truth": engine.Type.BOOL}
        self._numbers = [name for name, (kind, _) in declared.items() if kind == kinds["number"]]
        self._truths = [name for name, (kind, _) in declared.items() if kind == kinds["truth"]]
        lists = engine.Type.List(engine.Type.STRING)
        self._lists = [name for name, (kind, _) in declared.items() if kind.name() == lists.name()]

    def condition(self) -> Written:
        """Return a condition."""
        self._named = 0
        return self.truth(self.random.choice((2, 3, 3, 4)))

    def truth(self, depth: int) -> Written:
        """Return an expression that gives a boolean."""
        if depth <= 0:
            return self._one_of(self._simple_truth, self._membership, self._dynamic_comparison)
        return self._one_of(
            self._simple_truth,
            self._membership,
            self._dynamic_comparison,
            lambda: joined("(%s && %s)", self.truth(depth - 1), self.truth(depth - 1)),
            lambda: joined("(%s || %s)", self.truth(depth - 1), self.truth(depth - 1)),
            lambda: joined("!(%s)", self.truth(depth - 1)),
            lambda: joined("(%s ? %s : %s)", *(self.truth(depth - 1) for _ in range(3))),
            lambda: self._compared(self.number, depth),
            lambda: self._compared(self.number, depth),
            lambda: self._compared_decimals(depth),
            lambda: self._compared(self.text, depth),
            lambda: self._compared(self.moment, depth),
            lambda: self._text_test(depth),
            lambda: self._loop_over_texts(depth),
            lambda: self._loop_over_texts(depth),
            lambda: self._loop_over_values(depth),
            self._loop_over_arguments,
            self._optional_test,
            self._type_test,
            lambda: joined("(%s == %s)", self.texts(depth - 1), self.texts(depth - 1)),
            lambda: joined("(%s in %s)", self.text(depth - 1), self.texts(depth - 1)),
        )

    def number(self, depth: int) -> Written:
        """Return an expression that gives an integer."""
        leaves: list[Callable[[], Written]] = [
            lambda: plain(self._choice(self._numbers)),
            lambda: plain(str(self._choice(_NUMBERS))),
            lambda: plain(str(self.random.randint(-20, 20))),
        ]
        if depth <= 0:
            return self._one_of(*leaves)
        return self._one_of(
            *leaves,
            lambda: joined(
                f"(%s {self._choice(('+', '-', '*', '/', '%%'))} %s)",
                self.number(depth - 1),
                self.number(depth - 1),
            ),
            lambda: joined(f"(%s {self._choice('+-*')} %s)", self.number(depth - 1), self.number(depth - 1)),
            lambda: joined("-(%s)", self.number(depth - 1)),
            lambda: self._size_of_text(depth),
            lambda: joined("size(%s)", self.texts(depth - 1)),
            lambda: joined("int(%s)", self.text(depth - 1)),
            lambda: joined("int(%s)", self.decimal(depth - 1)),
            lambda: self._converted("int", self.value()),
            lambda: joined("%s.indexOf(%s)", self.text(depth - 1), self._word()),
            lambda: joined(
                f"at.get{self._choice(('FullYear', 'Month', 'Date', 'DayOfWeek', 'Hours', 'Minutes'))}()"
            ),
            lambda: joined("(%s ? %s : %s)", self.truth(depth - 1), self.number(0), self.number(0)),
        )

    def decimal(self, depth: int) -> Written:
        """Return an expression that gives a double."""
        if depth <= 0:
            return plain(self._choice(_DECIMALS))
        return self._one_of(
            lambda: plain(self._choice(_DECIMALS)),
            lambda: joined("double(%s)", self.number(depth - 1)),
            lambda: joined("double(%s)", self.value()),
            lambda: joined(
                f"(%s {self._choice('+-*/')} %s)", self.decimal(depth - 1), self.decimal(depth - 1)
            ),
        )

    def text(self, depth: int) -> Written:
        """Return an expression that gives a text."""
        leaves: list[Callable[[], Written]] = [
            lambda: plain(self._choice(_TEXTS)),
            self._word,
            lambda: self._choice(self._elements) if self._elements else self._word(),
        ]
        if depth <= 0:
            return self._one_of(*leaves)
        return self._one_of(
            *leaves,
            lambda: self._converted("string", self.value()),
            lambda: joined("string(%s)", self.number(depth - 1)),
            lambda: self._converted("string", self.decimal(depth - 1)),
            lambda: joined("(%s + %s)", self.text(depth - 1), self.text(depth - 1)),
            lambda: joined(
                f"%s.{self._choice(('lowerAscii', 'upperAscii', 'trim', 'reverse'))}()", self.text(depth - 1)
            ),
            lambda: joined("%s.substring(%s)", self.text(depth - 1), self._small()),
            lambda: self._part_of_text(depth),
            lambda: joined("%s.charAt(%s)", self.text(depth - 1), self._small()),
            lambda: joined('%s.replace("a", "é")', self.text(depth - 1)),
            lambda: joined('%s.join("-")', self.texts(depth - 1)),
            lambda: joined("%s[%s]", self.texts(depth - 1), self._small()),
            lambda: joined("(%s ? %s : %s)", self.truth(depth - 1), self.text(0), self.text(0)),
        )

    def texts(self, depth: int) -> Written:
        """Return an expression that gives a list of texts."""
        leaves: list[Callable[[], Written]] = [
            lambda: plain(self._choice(self._lists)),
            lambda: plain(
                "["
                + ", ".join(quoted(self._choice(_LABELS + _ROLES)) for _ in range(self.random.randint(1, 3)))
                + "]"
            ),
        ]
        if depth <= 0:
            return self._one_of(*leaves)
        return self._one_of(
            *leaves,
            lambda: joined("(%s + %s)", self.texts(depth - 1), self.texts(depth - 1)),
            lambda: joined('%s.split(" ")', self.text(depth - 1)),
            lambda: self._copied(depth),
        )

    def moment(self, depth: int) -> Written:
        """Return an expression that gives a time."""
        if depth <= 0:
            return plain("at")
        literal = _NOON + timedelta(hours=self.random.randint(-50, 50))
        return self._one_of(
            lambda: plain("at"),
            lambda: plain(f'timestamp("{literal:%Y-%m-%dT%H:%M:%SZ}")'),
            lambda: joined(
                f'(%s {self._choice("+-")} duration("{self.random.randint(0, 90)}m"))', self.moment(depth - 1)
            ),
        )

    def value(self) -> Written:
        """Return an expression that gives a value of the arguments, whatever its type."""
        key = self._choice(_KEYS)
        return self._one_of(
            lambda: plain(f"args.{key}"),
            lambda: plain(f"args.{key}"),
            lambda: plain(f'args["{key}"]'),
            lambda: plain(f"args.nested.{self._choice(_INNER_KEYS)}"),
            lambda: plain(f"args.{self._choice(('names', 'mixed', key))}[{self.random.randint(-1, 3)}]"),
            lambda: self._or_value(key),
        )

    # Truths

    def _simple_truth(self) -> Written:
        return self._one_of(
            lambda: plain(self._choice(("true", "false"))),
            lambda: plain(self._choice(self._truths)),
            lambda: plain(f'kind == "{self._choice(get_args(SubjectKind))}"'),
            lambda: plain(f'tool.safety in ["safe", "{self._choice(("caution", "restricted"))}"]'),
            lambda: plain(f"{self._choice(self._numbers)} {self._sign()} {self._choice(_NUMBERS)}"),
        )

    def _membership(self) -> Written:
        key, inner = self._choice(_KEYS), self._choice(_INNER_KEYS)
        return self._one_of(
            lambda: plain(f'"{self._choice(_LABELS + _ROLES)}" in {self._choice(self._lists)}'),
            lambda: plain(f'"{key}" in args'),
            lambda: plain(f"has(args.{key})"),
            lambda: plain(f"has(args.{self._choice(('nested', key))}.{inner})"),
            lambda: plain(f'"{inner}" in args.{self._choice(("nested", key))}'),
            lambda: plain("has(environment.deployment)"),
            lambda: plain('environment["deployment"] == "prod"'),
            lambda: joined("%s in args.names", self._word()),
        )

    def _dynamic_comparison(self) -> Written:
        literal = self._one_of(
            self._word,
            lambda: plain(str(self.random.randint(-5, 20))),
            lambda: plain(self._choice(_DECIMALS)),
            lambda: plain(self._choice(("true", "false", "null"))),
            self.value,
        )
        sign = self._choice(("==", "==", "!=", "<", ">=", ">"))
        if sign not in {"==", "!="} and literal(OURS) == "null":
            sign = "=="
        return joined(f"(%s {sign} %s)", self.value(), literal)

    def _compared(self, what: Callable[[int], Written], depth: int) -> Written:
        return joined(f"(%s {self._sign()} %s)", what(depth - 1), what(depth - 1))

    def _compared_decimals(self, depth: int) -> Written:
        sign, one, other = self._sign(), self.decimal(depth - 1), self.decimal(depth - 1)

        def write(dialect: Dialect) -> str:
            compared = f"({one(dialect)} {sign} {other(dialect)})"
            if NANS not in dialect.undone or sign in {"==", "!="}:
                return compared
            return f"(is_nan({one(dialect)}) || is_nan({other(dialect)}) ? false : {compared})"

        return write

    def _text_test(self, depth: int) -> Written:
        text = self._one_of(lambda: self.text(depth - 1), self.value)
        return self._one_of(
            lambda: joined(
                f"%s.{self._choice(('startsWith', 'endsWith', 'contains'))}(%s)", text, self._word()
            ),
            lambda: joined(f'%s.matches("{self._choice(_PATTERNS)}")', text),
        )

    def _optional_test(self) -> Written:
        key, inner = self._choice(_KEYS), self._choice(_INNER_KEYS)
        present = f'("{key}" in args)'
        return self._one_of(
            lambda: _for(f"args.?{key}.hasValue()", present),
            lambda: _for(
                f"args.?nested.?{inner}.hasValue()",
                f'(("nested" in args) ? has(args.nested.{inner}) : false)',
            ),
            lambda: joined("(%s == %s)", self._or_value(key), self._word()),
            lambda: joined(f"(%s {self._sign()} 3)", self._or_value(key)),
        )

    def _type_test(self) -> Written:
        kind = self._choice(("int", "double", "string", "bool", "list", "map", "null_type"))
        return joined(f"type(%s) == {kind}", self.value())

    # Loops

    def _loop_over_texts(self, depth: int) -> Written:
        if self._loops >= 2:
            return self._membership()
        over, macro = self.texts(depth - 1), self._choice(("exists", "all", "exists_one"))

        def body(element: Written) -> Written:
            return self._one_of(
                lambda: joined("%s == %s", element, self._word()),
                lambda: joined(f"%s in {self._choice(self._lists)}", element),
                lambda: joined("%s.startsWith(%s)", element, self._word()),
                lambda: joined("int(%s) > 1", element),
                lambda: joined("%s.charAt(1) == %s", element, self._word()),
                lambda: self.truth(depth - 2),
            )

        return self._loop(over, macro, body, _MOST_ELEMENTS * 3)

    def _loop_over_values(self, depth: int) -> Written:
        if self._loops >= 2:
            return self._dynamic_comparison()
        over = plain(f"args.{self._choice(('names', 'mixed', 'mixed', self._choice(_KEYS)))}")
        macro = self._choice(("exists", "all", "exists_one"))

        def body(element: Written) -> Written:
            return self._one_of(
                lambda: joined("%s == %s", element, self._word()),
                lambda: joined(f"%s {self._choice(('>', '<=', '=='))} {self.random.randint(-2, 6)}", element),
                lambda: joined("type(%s) == int && int(%s) > 1", element, element),
                lambda: joined("%s.contains(%s)", element, self._word()),
                lambda: joined(f"%s in {self._choice(self._lists)}", element),
                lambda: self.truth(depth - 2),
            )

        return self._loop(over, macro, body, _MOST_ELEMENTS + len(_INNER_KEYS))

    def _loop_over_arguments(self) -> Written:
        if self._loops >= 2:
            return self._dynamic_comparison()
        macro = self._choice(("exists", "all"))

        def body(element: Written) -> Written:
            return self._one_of(
                lambda: joined(
                    "type(args[%s]) == string && string(args[%s]).contains(%s)",
                    element,
                    element,
                    self._word(),
                ),
                lambda: joined("args[%s] != %s", element, self._word()),
                lambda: joined("args[%s] > 1", element),
                lambda: joined("%s.startsWith(%s)", element, self._word()),
            )

        return self._loop(plain("args"), macro, body, 0)

    def _copied(self, depth: int) -> Written:
        """Return a list made by map or filter, which conditions that read arguments may not use."""
        if self._loops >= 2:
            return self.texts(0)
        word = self._word()
        ways = (("filter", "%s != %s"), ("filter", "%s < %s"), ("map", "%s + %s"))
        macro, template = self._choice(ways)
        return self._loop(self.texts(depth - 1), macro, lambda element: joined(template, element, word), 0)

    def _loop(self, over: Written, macro: str, body: Callable[[Written], Written], most: int) -> Written:
        """Return a loop; the peer's own, or each element written out, which is what a loop means."""
        self._named += 1
        name = f"e{self._named}"

        def element(dialect: Dialect) -> str:
            return dialect.bound.get(name, name)

        self._loops += 1
        inner = body(element)
        self._loops -= 1

        def write(dialect: Dialect) -> str:
            whole = over(dialect)
            looped = f"{whole}.{macro}({name}, {inner(dialect)})"
            if LOOPS not in dialect.undone or macro not in {"exists", "all"}:
                return looped
            sign, missing = ("||", "false") if macro == "exists" else ("&&", "true")
            turns = [
                f"(size({whole}) > {n} ? {inner(dialect.binding(name, f'{whole}[{n}]'))} : {missing})"
                for n in range(most)
            ]
            keys = [
                f'("{key}" in {whole} ? {inner(dialect.binding(name, quoted(key)))} : {missing})'
                for key in dict.fromkeys((*_KEYS, *_INNER_KEYS))
            ]
            of_map = f"({f' {sign} '.join(keys)})"
            if not turns:
                return of_map
            of_list = f"({f' {sign} '.join(turns)})"
            return f"(type({whole}) == list ? {of_list} : type({whole}) == map ? {of_map} : {looped})"

        return write

    # Small things

    def _or_value(self, key: str) -> Written:
        literal = self._choice(('"abc"', "3", "1.5", "false"))
        return _for(f"args.?{key}.orValue({literal})", f'(("{key}" in args) ? args.{key} : dyn({literal}))')

    def _size_of_text(self, depth: int) -> Written:
        text = self._one_of(lambda: self.text(depth - 1), self.value)

        def write(dialect: Dialect) -> str:
            return f"{'characters' if SIZES in dialect.undone else 'size'}({text(dialect)})"

        return write

    def _part_of_text(self, depth: int) -> Written:
        text, start, end = self.text(depth - 1), self._small(), self._small()

        def write(dialect: Dialect) -> str:
            function = "part_before_the_end" if SUBSTRINGS in dialect.undone else "substring"
            return f"{text(dialect)}.{function}({start(dialect)}, {end(dialect)})"

        return write

    def _converted(self, function: str, value: Written) -> Written:
        def write(dialect: Dialect) -> str:
            return f"{'converted_' if CONVERSIONS in dialect.undone else ''}{function}({value(dialect)})"

        return write

    def _word(self) -> Written:
        return plain(quoted(self._choice(_WORDS)))

    def _small(self) -> Written:
        return plain(str(self.random.randint(-1, 4)))

    def _sign(self) -> str:
        return self._choice(("==", "!=", "<", "<=", ">", ">="))

    def _choice(self, of: Sequence[T]) -> T:
        return self.random.choice(of)

    def _one_of(self, *ways: Callable[[], Written]) -> Written:
        return self.random.choice(ways)()


def _for(ours: str, peers: str) -> Written:
    return lambda dialect: peers if dialect.peer else ours


# Requests


def random_request(random: Random) -> DecisionRequest:
    """Return a request with arguments of expected and unexpected types."""

    def amount() -> int:
        return random.choice((0, 1, 2, 5, 900, 10**6, 2**53 - 1, random.randint(0, 20)))

    budgets = tuple(
        BudgetFact(
            id=UUID(int=number + 1),
            name="team",
            scope_kind="workspace",
            scope="w",
            period_start=_NOON,
            limit_tokens=random.choice((None, 100, 10_000)),
            used_tokens=random.choice((0, 50, 9_000)),
        )
        for number in range(random.choice((0, 0, 1, 2)))
    )
    return DecisionRequest(
        subject_kind=random.choice(get_args(SubjectKind)),
        workspace_id=UUID(int=7),
        session_id=random.choice((None, UUID(int=8))),
        at=_NOON + timedelta(seconds=random.randint(-(10**6), 10**6), milliseconds=random.choice((0, 789))),
        actor=random.choice(("user:1", "system", "agent:Zoë")),
        agent=random.choice(("", "generalist", "日本")),
        roles=_some(random, _ROLES),
        task_path=tuple(sorted(_some(random, ("t1", "t2", "12")))),
        model=random.choice(("", "gpt-4o-mini")),
        tool=random.choice(("", "http_fetch", "calculate")),
        safety_level=random.choice(get_args(SafetyLevel)),
        arguments=_arguments(random),
        labels=_some(random, _LABELS),
        actor_labels=_some(random, _LABELS),
        cost=Cost(tokens=amount(), micros=amount()),
        budget=Budget(limit_tokens=random.choice((None, 100, 2**53 - 1)), used_tokens=amount()),
        counters=Counters(repeats=random.randint(0, 6), calls_last_minute=amount()),
        environment=random.choice(({}, {"deployment": "prod"}, {"deployment": "test"})),
        budgets=budgets,
        findings=_some(random, ("secret", "email", "injection")),
        teams=_some(random, ("legal", "sales")),
        glass=random.choice((None, _GLASS)),
    )


def _arguments(random: Random) -> dict[str, Any]:
    expected: dict[str, Callable[[], Any]] = {
        "path": lambda: random.choice(_WORDS),
        "text": lambda: random.choice(_WORDS),
        "count": lambda: random.choice((0, 1, 2, 3, -7, 2**53 - 1)),
        "ratio": lambda: random.choice((1.5, -0.25, 2**60 * 1.0, 0.1)),
        "flag": lambda: random.choice((True, False)),
        "nothing": lambda: None,
        "names": lambda: [random.choice(_WORDS) for _ in range(random.randint(0, _MOST_ELEMENTS))],
        "mixed": lambda: [_value(random) for _ in range(random.randint(0, _MOST_ELEMENTS))],
        "nested": lambda: {key: _value(random) for key in _INNER_KEYS if random.random() < 0.7},
    }
    return {
        key: make() if random.random() < 0.8 else expected[random.choice(list(expected))]()
        for key, make in expected.items()
        if random.random() < 0.85
    }


def _value(random: Random) -> Any:
    return random.choice((random.choice(_WORDS), random.randint(-3, 6), 1.5, True, False, None))


def _some(random: Random, of: Sequence[str]) -> frozenset[str]:
    return frozenset(one for one in of if random.random() < 0.4)


# The comparison


@dataclass
class Report:
    """What was compared. `known` counts pairs that a known difference of the peer explains; by name."""

    pairs: int = 0
    sets: int = 0
    given: Counter[str] = field(default_factory=Counter)
    together: int = 0
    known: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    disagreements: list[str] = field(default_factory=list)


def compare(pairs: int, seed: int) -> Report:
    """Compare so many pairs (rounded up to whole sets); the same seed makes the same ones."""
    # It tells at each error of a function what it was, besides raising it.
    logging.getLogger("cel").setLevel(logging.CRITICAL)
    random = Random(seed)
    report = Report()
    while report.pairs < pairs:
        _compare_set(random, report)
    return report


def compared(report: Report) -> str:
    """Return what came of a comparison, line by line."""
    given = ", ".join(f"{count:,} {given}" for given, count in sorted(report.given.items()))
    lines = [
        f"{report.pairs:,} pairs in {report.sets:,} sets: {given}",
        f"{report.together:,} evaluated in a list as alone",
        f"{report.refused.total():,} conditions refused by the compiler",
        *(f"{count:,} explained by {name}" for name, count in report.known.most_common()),
        f"{len(report.disagreements):,} disagreements",
        *report.disagreements[:20],
    ]
    return "\n".join(lines)


def _compare_set(random: Random, report: Report) -> None:
    conditions = Conditions(random)
    written: list[tuple[Written, Written | None]] = []
    while len(written) < RULES_A_SET:
        one = conditions.condition()
        unless = conditions.condition() if random.random() < 0.15 else None
        try:
            cel.environment().compile_condition(one(OURS), unless(OURS) if unless else None)
        except cel.CompileError as error:
            report.refused[error.message.partition("'")[0][:60]] += 1
            continue
        if len(one(OURS)) < _LONGEST_CONDITION:
            written.append((one, unless))
    policy = compile_policy([_rule(n, *each) for n, each in enumerate(written)], "differential")
    wholes = [_whole(*each) for each in written]
    programs = [rust.compile(whole(PEER)) for whole in wholes]
    requests = [random_request(random) for _ in range(REQUESTS_A_SET)]
    results = [[one.result for one in decide(request, policy).evaluated] for request in requests]
    _check_together(policy, requests, results, report)
    for request, given in zip(requests, results, strict=True):
        context = peer_context(request)
        for whole, program, ours in zip(wholes, programs, given, strict=True):
            report.pairs += 1
            report.given[ours] += 1
            if peer_result(program, context) != ours:
                _explain(whole, request, ours, report)
    report.sets += 1


def _check_together(
    policy: PolicySet, requests: Sequence[DecisionRequest], results: Sequence[Sequence[str]], report: Report
) -> None:
    """Compare what rules give in one list with what each gives alone."""
    for request, given in zip(requests, results, strict=True):
        group = policy.group(request)
        activation = cel.environment().activation(variables(request))
        alone = [_ours_alone(group.conditions[rule.name], activation) for rule in group.rules]
        steady = [rule for rule, result in zip(group.rules, given, strict=True) if result != "error"]
        together = policy.part(group, steady).combination.hold(activation)
        expected = [result == "matched" for result in given if result != "error"]
        report.together += len(expected)
        if alone != list(given) or together != expected:
            report.disagreements.append(f"together {together}, decided {given}, alone {alone}: {policy.text}")
        erring = len(steady) < len(group.rules)
        try:
            group.combination.hold(activation)
        except cel.EvaluationError:
            if not erring:
                report.disagreements.append(f"only the list errs: {policy.text}")
        else:
            if erring:
                report.disagreements.append(f"the list does not err: {policy.text}")


def _ours_alone(condition: cel.Condition | None, activation: cel.Activation) -> str:
    if condition is None:
        return "matched"
    try:
        return "matched" if condition.holds(activation) else "not_matched"
    except cel.EvaluationError:
        return "error"


def _explain(whole: Written, request: DecisionRequest, ours: str, report: Report) -> None:
    """Find the fewest known differences without which both agree; it is a disagreement without any."""
    for count in range(1, len(KNOWN) + 1):
        for undone in combinations(KNOWN, count):
            program = rust.compile(whole(Dialect(peer=True, undone=frozenset(undone))))
            if peer_result(program, peer_context(request)) == ours:
                report.known[" + ".join(undone)] += 1
                return
    theirs = peer_result(rust.compile(whole(PEER)), peer_context(request))
    report.disagreements.append(f"ours {ours}, peer {theirs}: {whole(OURS)}\n    {request.as_json}")


def _rule(number: int, condition: Written, unless: Written | None) -> Rule:
    return Rule(
        name=f"r{number}",
        sentence="A random rule.",
        match=Match(kinds=get_args(SubjectKind)),
        condition=condition(OURS),
        unless=unless(OURS) if unless else None,
        outcome="deny",
    )


def _whole(condition: Written, unless: Written | None) -> Written:
    return condition if unless is None else joined("(%s) && !(%s)", condition, unless)


def peer_context(request: DecisionRequest) -> rust.Context:
    """Return a request as the peer reads it: dotted names as maps."""
    values: dict[str, Any] = {}
    for name, value in variables(request).items():
        first, _, second = name.partition(".")
        if second:
            values.setdefault(first, {})[second] = value
        else:
            values[name] = value
    context = rust.Context(values)
    # Not all of what it has to add: its `contains` takes lists.
    add_stdlib_to_context(context, ["strings"])
    context.add_function("is_nan", math.isnan)
    context.add_function("characters", len)
    context.add_function("part_before_the_end", _part_before_the_end)
    context.add_function("converted_string", _converted_text)
    context.add_function("converted_int", _converted_number)
    return context


def peer_result(program: rust.Program, context: rust.Context) -> str:
    """Return what the peer gives, in the words of a rule's result."""
    try:
        given = program.execute(context)
    except Exception:  # noqa: BLE001 # it raises whatever fits: TypeError, KeyError, RuntimeError, ...
        return "error"
    if not isinstance(given, bool):
        return "error"
    return "matched" if given else "not_matched"


def _converted_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _double_as_text(value)
    return str(rust.evaluate("string(v)", {"v": value}))


def _double_as_text(value: float) -> str:
    """Return a double as ours writes it: its shortest digits, an exponent from a million and below 0.0001."""
    if not math.isfinite(value):
        return f"{'-' * (math.copysign(1, value) < 0)}{'nan' if math.isnan(value) else 'inf'}"
    negative, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    assert isinstance(exponent, int)
    place = len(digits) + exponent - 1
    if -4 <= place < 6 or value == 0:
        return f"{Decimal(repr(value)).normalize():f}"
    first, rest = digits[0], "".join(map(str, digits[1:]))
    return f"{'-' * negative}{first}{'.' if rest else ''}{rest}e{place:+03d}"


def _part_before_the_end(text: str, start: int, end: int) -> str:
    if not 0 <= start <= end <= len(text) or (end == len(text) and start < end):
        raise IndexError
    return text[start:end]


def _converted_number(value: Any) -> int:
    if isinstance(value, bool):
        return int(value)
    return int(rust.evaluate("int(v)", {"v": value}))


def main() -> None:
    """Compare as many pairs as the first argument says, and print what came of it."""
    logging.getLogger("cel").setLevel(logging.CRITICAL)
    pairs, seed = (
        int(sys.argv[n]) if len(sys.argv) > n else default for n, default in ((1, 100_000), (2, 1))
    )
    report = compare(pairs, seed)
    sys.stdout.write(f"seed {seed}: {compared(report)}\n")
    sys.exit(bool(report.disagreements))


if __name__ == "__main__":
    main()
