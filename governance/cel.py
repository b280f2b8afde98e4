"""The one door to the rule engine (Common Expression Language, `cel-expr-python`).

Nothing else imports the engine. An evaluation that gives no boolean is an `EvaluationError`, never a value.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

from cel_expr_python import cel
from cel_expr_python.ext import ext_math, ext_optional, ext_strings

# Part of every policy's hash: a change of names, types or engine semantics counts as another policy. Sets of
# an earlier version are compiled against the names of that version, so that they decide as they did.
ENVIRONMENT_VERSION = 3

# The engine compiles at most 100,000 code points at once.
_LONGEST_COMBINATION = 50_000
_LONGEST_MESSAGE = 500
_BOOLEANS = frozenset({bool})

_TEXT, _NUMBER, _TEXTS = cel.Type.STRING, cel.Type.INT, cel.Type.List(cel.Type.STRING)

# Dotted names are names of their own, so that `tool.nmae` is refused when a policy is read, not when it
# decides (CEL resolves the longest declared name first).
_FIRST_VARIABLES: Mapping[str, tuple[Any, str]] = {
    "kind": (
        _TEXT,
        "what is decided: plan, model_call, tool_call, retrieval, document, message_out or agent_change",
    ),
    "actor": (_TEXT, "who asks: user:<id>, token:<id>, agent:<name> or system"),
    "agent": (_TEXT, "the agent that acts, or empty"),
    "roles": (_TEXTS, "the actor's roles in the workspace"),
    "workspace": (_TEXT, "the workspace's id"),
    "session": (_TEXT, "the session's id, or empty"),
    "task_path": (_TEXTS, "ids from the plan's root task down to this one"),
    "model.name": (_TEXT, "the model that would be called, or empty"),
    "tool.name": (_TEXT, "the tool that would run, or empty"),
    "tool.safety": (_TEXT, "safe, caution, restricted, or empty"),
    "tool.definition": (_TEXT, "the SHA-256 of the tool's definition, or empty"),
    "args": (cel.Type.Map(_TEXT, cel.Type.DYN), "the exact arguments; read what may be absent as args.?name"),
    "labels": (_TEXTS, "labels of what this session has read"),
    "cost.tokens": (_NUMBER, "tokens that the act may cost"),
    "cost.micros": (_NUMBER, "money that the act may cost, in micro-units of cost.currency"),
    "cost.currency": (_TEXT, "ISO 4217 code"),
    "budget.limit_tokens": (_NUMBER, "the tightest token budget; the largest integer where there is none"),
    "budget.used_tokens": (_NUMBER, "tokens used or reserved under it"),
    "budget.left_tokens": (_NUMBER, "limit less used"),
    "budget.limit_micros": (_NUMBER, "the tightest money budget; the largest integer where there is none"),
    "budget.used_micros": (_NUMBER, "money used or reserved under it"),
    "budget.left_micros": (_NUMBER, "limit less used"),
    "counters.calls_last_minute": (_NUMBER, "decisions of this kind for this session in the last minute"),
    "counters.failures_last_5_minutes": (_NUMBER, "failed calls of this tool in the last five minutes"),
    "counters.repeats": (_NUMBER, "times that this run already asked for exactly this"),
    "environment": (cel.Type.Map(_TEXT, _TEXT), "facts of the installation, such as deployment"),
    "at": (cel.Type.TIMESTAMP, "the time of the decision"),
}
_SECOND_VARIABLES: Mapping[str, tuple[Any, str]] = {
    **_FIRST_VARIABLES,
    "actor_labels": (_TEXTS, "labels of what the actor has read in the last 24 hours, in any session"),
    "budget.left_percent": (
        _NUMBER,
        "what the tightest budget leaves of its limit, 0 to 100; 100 where none",
    ),
    "budget.warned": (cel.Type.BOOL, "whether this act takes a budget to its warning or beyond"),
}
VARIABLES: Mapping[str, tuple[Any, str]] = {
    **_SECOND_VARIABLES,
    "findings": (_TEXTS, "what detectors found in the text of this very act, such as email or secret"),
    "teams": (_TEXTS, "names of the teams of the person in whose session it happens"),
    "break_glass": (cel.Type.BOOL, "whether break-glass is in force for this act"),
}
_VARIABLES_OF: Mapping[int, Mapping[str, tuple[Any, str]]] = {
    1: _FIRST_VARIABLES,
    2: _SECOND_VARIABLES,
    3: VARIABLES,
}
ENVIRONMENT_VERSIONS = frozenset(_VARIABLES_OF)

_EXTENSIONS = (ext_strings.ExtStrings, ext_optional.ExtOptional, ext_math.ExtMath)
_ARGUMENTS = re.compile(r"\bargs\b")
_MEMBER = re.compile(r"\bargs\b(?:\s*\.\s*\??\s*([A-Za-z_]\w*)\b(?!\s*\())?")
_FINDINGS = re.compile(r"\bfindings\b")
_WORD = re.compile(r"\w+")
_BINDING = re.compile(r"\.\s*(optMap|optFlatMap)\s*\(")
_COPYING = re.compile(r"\.\s*(map|filter)\s*\(")
_TEXT_OR_COMMENT = re.compile(
    r'''"""(?:\\.|[^\\])*?"""|\'{3}(?:\\.|[^\\])*?\'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|//[^\n]*''',
    re.DOTALL,
)
# Loops bind a name, and each use of it copies what the loop outside put together: some levels of ten uses are
# more values than there is memory, or than can be compared in a lifetime, and the engine has no deadline.
_LOOP = re.compile(
    r"\.\s*(all|exists|exists_one|existsOne|map|filter|optMap|optFlatMap)\s*\(\s*([A-Za-z_]\w*)\s*,"
)
_DEEPEST_LOOP, _MOST_USES, _MOST_MAPS = 3, 8, 2
# What makes a text longer by another one, where that is more than a character.
_LENGTHENING = re.compile(r"\.\s*(replace|join)\s*\(")
_SHORT_LITERAL = r"""(?:'[^'\\\n]?'|"[^"\\\n]?")"""
_HARMLESS = {
    "replace": re.compile(
        rf"""\s*(?:'(?:\\.|[^'\\\n])+'|"(?:\\.|[^"\\\n])+")\s*,\s*{_SHORT_LITERAL}\s*[,)]"""
    ),
    "join": re.compile(rf"\s*(?:{_SHORT_LITERAL}\s*)?\)"),
}
_ERROR_LINE = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*)")

# The engine ships no types: what it binds variables to is opaque here.
Activation: TypeAlias = Any


class CompileError(Exception):
    """A condition is not valid: `line` and `column` count from 1 inside the text that `field` names."""

    def __init__(self, message: str, *, field: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.line = line
        self.column = column


class EvaluationError(Exception):
    """The engine gave no boolean: a missing key, a type mismatch, an exhausted iteration budget."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One compiled condition with its exemption; `source` is what was compiled."""

    source: str
    program: Any

    def holds(self, activation: Activation) -> bool:
        """Evaluate alone. Raises EvaluationError."""
        outcome = _evaluate(self.program, activation)
        if outcome.type() != cel.Type.BOOL:
            raise EvaluationError(f"the condition gave {outcome.type().name()}, not a boolean")
        return outcome.value() is True


@dataclass(frozen=True, slots=True)
class Combination:
    """Conditions compiled as one list expression, which costs a tenth of evaluating each."""

    programs: tuple[Any, ...]
    length: int

    def hold(self, activation: Activation) -> list[bool]:
        """Evaluate all, in order. Raises EvaluationError as soon as any one of them fails."""
        held: list[bool] = []
        for program in self.programs:
            held += _evaluate(program, activation).plain_value()
        # An engine that answered anything but one boolean per rule must never be read as "nothing matched".
        if len(held) != self.length or not _BOOLEANS.issuperset(map(type, held)):
            raise EvaluationError("the combined expression did not give one boolean per rule")
        return held


class Environment:
    """The names and functions that the conditions of one version may use, and their compiler."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.variables = _VARIABLES_OF[version]
        self._engine = cel.NewEnv(
            variables={name: declared for name, (declared, _) in self.variables.items()},
            extensions=[extension() for extension in _EXTENSIONS],
        )

    def compile_condition(self, condition: str, unless: str | None = None) -> Condition:
        """Compile a condition and its exemption against the declared names.

        Raises CompileError, whose position is inside the text that is wrong; its `field` says which.
        """
        for field, text in (("condition", condition), ("unless", unless)):
            if text is not None:
                self._check_alone(text, field)
        # The newline ends a trailing comment; the list is the form in which conditions are combined, so that
        # the engine's limit of nesting is met here and not by the first decision.
        source = f"(({condition}\n) && !({unless}\n))" if unless is not None else f"({condition}\n)"
        try:
            self._engine.compile(f"[{source}]")
            return Condition(source, self._engine.compile(source))
        except RuntimeError as error:
            raise _failure(str(error), "condition") from None

    def combine(self, conditions: Sequence[Condition | None]) -> Combination:
        """Compile conditions, each valid alone (None: always), into list expressions below the size limit."""
        lists: list[list[str]] = [[]]
        size = 0
        for condition in conditions:
            source = "true" if condition is None else condition.source
            if lists[-1] and size + len(source) > _LONGEST_COMBINATION:
                lists.append([])
                size = 0
            lists[-1].append(source)
            size += len(source) + 1
        programs = tuple(self._engine.compile(f"[{','.join(sources)}]") for sources in lists if sources)
        return Combination(programs, len(conditions))

    def read_by(self, conditions: Iterable[Condition | None]) -> tuple[str, ...]:
        """Return the names that the conditions may read: all whose words stand in one of them."""
        words: set[str] = set()
        for condition in conditions:
            if condition is not None:
                words.update(_WORD.findall(condition.source))
        return tuple(name for name in self.variables if words.issuperset(name.split(".")))

    def activation(self, values: Mapping[str, Any]) -> Activation:
        """Bind values to names, at least to those that the conditions read, for any number of evaluations."""
        return self._engine.Activation(values)

    def _check_alone(self, text: str, field: str) -> None:
        try:
            program = self._engine.compile(text)
        except RuntimeError as error:
            raise _failure(str(error), field) from None
        if program.return_type() != cel.Type.BOOL:
            kind = program.return_type().name()
            raise CompileError(f"it gives {kind}, not a boolean; compare it with something", field=field)
        bare = _blank_texts(text)
        for place, message in _growing(text, bare):
            line, column = _line_and_column(bare, place)
            raise CompileError(message, field=field, line=line, column=column)
        # The engine may bind the name to the last element of an earlier loop, also one of another rule's.
        binding = _BINDING.search(bare)
        if self.version > 2 and binding is not None:
            line, column = _line_and_column(bare, binding.start(1))
            raise CompileError(
                f"{binding[1]} may read another value than this one; write has(args.name) && args.name == …, "
                "or orValue",
                field=field,
                line=line,
                column=column,
            )
        # The engine copies the list at each step: 9,000 values in the arguments would take seconds.
        copying = _COPYING.search(bare)
        if self.version > 1 and copying is not None and reads_arguments(bare):
            line, column = _line_and_column(bare, copying.start(1))
            raise CompileError(
                f"{copying[1]} is too slow for arguments of any length; use exists, exists_one or all",
                field=field,
                line=line,
                column=column,
            )


@cache
def environment(version: int = ENVIRONMENT_VERSION) -> Environment:
    """Return the environment of a version (one of ENVIRONMENT_VERSIONS)."""
    return Environment(version)


def reads_arguments(condition: str) -> bool:
    """Return whether a condition may read `args`; also True where only a text in it says so."""
    return _ARGUMENTS.search(condition) is not None


def members_read(conditions: Iterable[Condition]) -> frozenset[str] | None:
    """Return the names of the arguments that conditions may read, None where it may be any of them.

    They are known where each `args` is followed by a name, and that by no call: `args.?path`, `args.n > 3`.
    """
    names: set[str] = set()
    for condition in conditions:
        for found in _MEMBER.finditer(condition.source):
            # A comment may stand between a name and its call.
            if found[1] is None or "//" in condition.source:
                return None
            names.add(found[1])
    return frozenset(names)


def reads_findings(condition: str) -> bool:
    """Return whether a condition may read `findings`; also True where only a text in it says so."""
    return _FINDINGS.search(condition) is not None


def _growing(condition: str, bare: str) -> Iterator[tuple[int, str]]:
    """Give the places of a condition, without its texts, where values may grow beyond bounds, and why."""
    loops = [(found, _closing(bare, found.end())) for found in _LOOP.finditer(bare)]
    for found, end in loops:
        if sum(outer.end() <= found.start() < closing for outer, closing in loops) >= _DEEPEST_LOOP:
            yield found.start(1), f"loops inside one another are at most {_DEEPEST_LOOP} deep"
        if len(re.findall(rf"\b{found[2]}\b", bare[found.end() : end])) > _MOST_USES:
            yield found.start(2), f"{found[2]} is used more than {_MOST_USES} times in its loop; use it less"
    maps = [found for found, _ in loops if "map" in found[1].lower()]
    for found in maps[_MOST_MAPS:]:
        yield found.start(1), f"a condition has at most {_MOST_MAPS} of map, optMap and optFlatMap"
    for found in _LENGTHENING.finditer(bare):
        if not _HARMLESS[found[1]].match(condition, found.end()):
            yield (
                found.start(1),
                f"{found[1]} may make texts of any length; put in a text in quotes, of a character at most",
            )


def _closing(bare: str, start: int) -> int:
    """Return where the parenthesis closes that is open at `start`."""
    depth = 1
    for place in range(start, len(bare)):
        depth += {"(": 1, ")": -1}.get(bare[place], 0)
        if depth == 0:
            return place
    return len(bare)


def _line_and_column(text: str, place: int) -> tuple[int, int]:
    return text.count("\n", 0, place) + 1, place - text.rfind("\n", 0, place)


def _blank_texts(condition: str) -> str:
    """Return a condition with spaces where texts and comments stand, at the same length."""
    return _TEXT_OR_COMMENT.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), condition)


def constant(text: str) -> bool | None:
    """Return what a condition always gives when it reads no variable, else None."""
    try:
        outcome = _CONSTANTS.compile(text).eval()
    except (RuntimeError, MemoryError):
        return None
    return outcome.value() is True if outcome.type() == cel.Type.BOOL else None


_CONSTANTS = cel.NewEnv(extensions=[extension() for extension in _EXTENSIONS])


def _evaluate(program: Any, activation: Activation) -> Any:
    try:
        outcome = program.eval(activation)
    # The budget of 10,000 iterations of one evaluation, or a text that grows beyond the memory there is.
    except (RuntimeError, MemoryError) as error:
        raise EvaluationError(str(error)[:_LONGEST_MESSAGE]) from None
    # An error is a value like any other to the engine, and its content is a text that would count as true.
    if outcome.type() == cel.Type.ERROR:
        raise EvaluationError(str(outcome.plain_value())[:_LONGEST_MESSAGE])
    return outcome


def _failure(text: str, field: str) -> CompileError:
    found = _ERROR_LINE.search(text)
    if found is None:
        return CompileError(text.removesuffix(" [INVALID_ARGUMENT]"), field=field)
    line, column, message = found.groups()
    return CompileError(
        message.replace(" (in container '')", ""), field=field, line=int(line), column=int(column)
    )
