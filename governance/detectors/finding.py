"""What a detector found, and how one is written: a pattern in linear time, then a check of its matches."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Characters `start` to `end` of a text are of this kind; `detector` names the rule that says so."""

    start: int
    end: int
    kind: str
    detector: str


# What a match costs that is taken as it is, in microseconds of a processor of 2020, about; as all costs here.
_MATCH = 10


@dataclass(slots=True)
class Effort:
    """What may still be spent on a text, or on all texts of a value: a bound in units that are counted.

    While `checks` is above nothing, what matches a pattern is checked. Then matches are taken as they are,
    and when `matches` is used up, too, a block in which a pattern matches counts as found to its end: what is
    too much to look at is never let through.
    """

    checks: int = 0
    matches: int = 0

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more is checked, or told apart."""
        return self.checks <= 0 or self.matches <= 0

    def grow(self, size: int) -> None:
        """Allow what one more text of so many bytes may cost."""
        self.checks += size * 7 // 100
        self.matches += size * 6 // 100

    def spend(self, *, checks: int = 0, matches: int = 0) -> None:
        """Take off what was spent."""
        self.checks -= checks
        self.matches -= matches


def some_effort(size: int) -> Effort:
    """Return what may be spent on a text, or a value, that begins with so many bytes."""
    effort = Effort(checks=30_000, matches=30_000)
    effort.grow(size)
    return effort


# The exact places in a block that a match amounts to; none where the check says that it is no such thing.
Spans = Iterable[tuple[int, int]]
Check = Callable[[bytes, int, int, Effort], Spans]


def as_it_is(_block: bytes, start: int, end: int, _effort: Effort) -> Spans:
    """Take a match for what it looks like."""
    return ((start, end),)


@dataclass(frozen=True, eq=False)
class Detector:
    """A rule: bytes of UTF-8 that match `pattern` (RE2 syntax) and pass `check` are of this kind.

    The check gets the block and the place of the pattern's first group, or of the whole match where it has
    none, and takes what it costs off the effort. With `again`, the search goes on behind what was accepted,
    or one byte further, and not behind the match: for patterns that are bounded and may take in too much.
    """

    name: str
    kind: str
    pattern: str
    check: Check = as_it_is
    again: bool = False

    @cached_property
    def regexp(self) -> Any:
        """The compiled pattern."""
        return _compiled(self.pattern)

    @cached_property
    def group(self) -> int:
        """The group of the pattern whose place counts; 0 where it has none."""
        return 1 if self.regexp.groups else 0


def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = 4 << 20
    return re2.compile(pattern, options)


class Detectors:
    """Detectors that look at a text together: one pass tells which of them have to look closer.

    RE2 guarantees time in proportion to the text for each pass (Cox 2010, regular expression matching in the
    wild); blocks bound what a search may look ahead. Patterns of one sort go into one automaton, as all of
    them together make one that outgrows its memory in random text, and is built again and again.
    """

    def __init__(self, *sorts: Iterable[Detector]) -> None:
        self._sorts = tuple(_Sort(tuple(detectors)) for detectors in sorts)

    def look(self, block: bytes, effort: Effort) -> Iterator[tuple[int, int, Detector]]:
        """Yield what is found in one block of a text, in bytes."""
        for sort in self._sorts:
            for detector in sort.matching(block):
                for start, end in _found(detector, block, effort):
                    yield start, end, detector


class _Sort:
    """Detectors in one automaton."""

    def __init__(self, detectors: tuple[Detector, ...]) -> None:
        import re2

        options = re2.Options()
        options.log_errors = False
        options.max_mem = 24 << 20
        self._detectors = detectors
        self._any = re2.Set.SearchSet(options)
        for detector in detectors:
            self._any.Add(detector.pattern)
        self._any.Compile()

    def matching(self, block: bytes) -> Iterator[Detector]:
        """Yield the detectors whose pattern is somewhere in the block, always in the same order."""
        for place in sorted(self._any.Match(block) or ()):
            yield self._detectors[place]


def _found(detector: Detector, block: bytes, effort: Effort) -> Spans:
    if effort.matches <= 0:
        yield 0, len(block)
        return
    at = 0
    matches = detector.regexp.finditer(block)
    while (match := next(matches, None)) is not None:
        if effort.matches <= 0:
            yield match.start(), len(block)
            return
        effort.matches -= _MATCH
        group = detector.group if match.start(detector.group) >= 0 else 0
        check = detector.check if effort.checks > 0 else as_it_is
        at = match.start() + 1
        start, end = match.span(group)
        for span in check(block, start, end, effort):
            yield span
            at = max(at, span[1])
        if detector.again:
            matches = detector.regexp.finditer(block, at)
