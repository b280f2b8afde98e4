"""What a detector found, and how one is written: a pattern in linear time, then a check of its matches."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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


# How many of its matches in one text a detector checks.
MOST_CHECKS = 1000

# The exact places in a block that a match amounts to; none where the check says that it is no such thing.
Spans = Iterable[tuple[int, int]]
Check = Callable[[bytes, int, int], Spans]


def as_it_is(_block: bytes, start: int, end: int) -> Spans:
    """Take a match for what it looks like."""
    return ((start, end),)


@dataclass(frozen=True)
class Detector:
    """A rule: bytes of UTF-8 that match `pattern` (RE2 syntax) and pass `check` are of this kind.

    The check gets the block and the place of the pattern's first group, or of the whole match where it has
    none. With `again`, the search goes on behind what was accepted, or one byte further, and not behind the
    match: for patterns that are bounded and may take in too much.
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


def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = 4 << 20
    return re2.compile(pattern, options)


class Detectors:
    """Detectors that look at a text together: one pass tells which of them have to look closer.

    RE2 guarantees time in proportion to the text for each pass (Cox 2010, regular expression matching in the
    wild); blocks bound what a search may look ahead.
    """

    def __init__(self, detectors: Sequence[Detector]) -> None:
        import re2

        options = re2.Options()
        options.log_errors = False
        options.max_mem = 24 << 20
        self._detectors = tuple(detectors)
        self._any = re2.Set.SearchSet(options)
        for detector in self._detectors:
            self._any.Add(detector.pattern)
        self._any.Compile()

    def look(self, block: bytes, checks: Counter[str]) -> Iterator[tuple[int, int, Detector]]:
        """Yield what is found in one block of a text, in bytes; `checks` counts those made in the text."""
        for place in self._any.Match(block) or ():
            detector = self._detectors[place]
            for start, end in _found(detector, block, checks):
                yield start, end, detector


def _found(detector: Detector, block: bytes, checks: Counter[str]) -> Spans:
    at = 0
    group = 1 if detector.regexp.groups else 0
    while at <= len(block) and (match := detector.regexp.search(block, at)) is not None:
        checks[detector.name] += 1
        check = detector.check if checks[detector.name] <= MOST_CHECKS else as_it_is
        accepted = list(check(block, *match.span(group if match.start(group) >= 0 else 0)))
        yield from accepted
        if detector.again:
            at = max([end for _, end in accepted], default=match.start() + 1)
        else:
            at = max(match.end(), match.start() + 1)
