"""Look at a text with every detector. Pure and deterministic: the same text has the same findings, for ever
under the same versions of rules and libraries.

Time is bounded by the text's length: patterns run in RE2, over blocks, and what it costs to check what they
match is counted and bounded (`Effort`). What is too much to check counts as found.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from governance.detectors import injection, personal, secrets
from governance.detectors.finding import Detector, Detectors, Effort, Finding, some_effort

BLOCK_BYTES = 16 * 1024
# Longer than any match, but for keys and tokens, which are followed to their end.
OVERLAP_BYTES = 1024
_NEAR = 512
# A key or token that is no longer than this is never cut in two.
_LONGEST_WORD_BYTES = 8 * 1024
_BETWEEN_WORDS = tuple(bytes([each]) for each in b" \t\r\n\"'`,;(){}[]<>|")
_MARK = re.compile("⟦[a-z-]{1,20}⟧")
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_UUID_LENGTH = 36
# The bytes of a character after its first, in UTF-8.
_CONTINUE = bytes(range(0x80, 0xC0))
_ESCAPES = re.compile(rb"\\[nrtbf]")
# No number of a person has fewer digits, and nothing that is found in ASCII is shorter.
_LEAST_DIGITS = 6
_LEAST_TELLING = 6
# How much of its name is read before a number.
_LONGEST_NAME = 80


def detect(text: str, effort: Effort | None = None) -> tuple[Finding, ...]:
    """Return what is found, in order; findings of different kinds may overlap, those of one kind do not.

    `effort` is what may be spent on it; as much as its length allows where it is not given.
    """
    content = text.encode("utf-8", "surrogatepass")
    effort = some_effort(len(content)) if effort is None else effort
    found = list(_private_keys(text))
    marks = [match.span() for match in _MARK.finditer(text)] if "⟦" in text else []
    if text.isascii():
        return _sorted(_beside(marks, [*found, *_matches_in_any_form(content, effort)]))
    hides = _any_of(injection.INVISIBLE).search(content) is not None
    if hides:
        found += [Finding(start, end, "hidden", name) for start, end, name in injection.hidden(text)]
    stand_in = _any_of(_stand_ins()).search(content) is not None
    plain = _plain(text) if stand_in else text
    found += _matches_in_any_form(
        content if plain is text else plain.encode("utf-8", "surrogatepass"), effort
    )
    found += _private_keys(plain) if stand_in else ()
    if hides:
        found += _without_invisible(plain, effort)
    return _sorted(_beside(marks, found))


def kinds_in(text: str) -> frozenset[str]:
    """Return the kinds of what is found in a text; texts that were asked for lately cost a hash."""
    return _looked_at(_Text(text))[0]


def kinds_within(value: Any) -> frozenset[str]:
    """Return the kinds of what is found in the texts of a JSON value, in its numbers and in names.

    A value under a name such as `api_key` is a secret where it looks like one; numbers, and short texts under
    names such as `phone`, are read with their name before them. Together they may cost what one text may of
    that length: what stands behind too many others counts as found where a pattern matches.
    """
    kinds: set[str] = set()
    effort = some_effort(0)
    # In the order in which they are redacted. A name is looked at before what stands under it.
    pending: list[tuple[str, Any, bool]] = [("", value, False)]
    while pending:
        name, each, is_member = pending.pop()
        if is_member:
            kinds |= kinds_sharing(name, effort)
        match each:
            case str() as text:
                if not is_identifier(text):
                    kinds |= kinds_sharing(text, effort) | kinds_by_name(name, text, effort)
                if secrets.is_named_secret(name, text):
                    kinds.add("secret")
            case bool() | None:
                pass
            case int() | float():
                kinds |= kinds_by_name(name, each, effort)
            case Mapping() as members:
                pending.extend((inner, members[inner], True) for inner in reversed([*members]))
            case list() | tuple() as items:
                pending.extend((name, item, False) for item in reversed(items))
            case _:
                pass
    return frozenset(kinds)


def kinds_by_name(name: str, value: str | float, effort: Effort) -> frozenset[str]:
    """Return the kinds of what a number, or a short text, of a JSON value is by its name."""
    if isinstance(value, str):
        if len(value) > personal.LONGEST_TOLD or not personal.TELLING.search(name):
            return frozenset()
        written = value
    else:
        written = repr(value)
    if len(written) < _LEAST_DIGITS:
        return frozenset()
    begins = min(len(name), _LONGEST_NAME)
    text = f"{name[len(name) - begins :]}: {written}"
    effort.grow(len(text))
    return frozenset(one.kind for one in detect(text, effort) if one.end > begins + 2)


def kinds_sharing(text: str, effort: Effort) -> frozenset[str]:
    """Return the kinds in one text of several, which share what may be spent on them."""
    if len(text) < _LEAST_TELLING and text.isascii():
        return frozenset()
    effort.grow(len(text))
    if effort.is_used_up:
        return frozenset(finding.kind for finding in detect(text, Effort()))
    kinds, checks, matches = _looked_at(_Text(text))
    effort.spend(checks=checks, matches=matches)
    return kinds


def _beside(marks: Sequence[tuple[int, int]], found: Iterable[Finding]) -> Iterable[Finding]:
    """Leave out what was found of a mark that stands in the place of something."""
    if not marks:
        return found
    begins = [start for start, _ in marks]

    def is_mark(one: Finding) -> bool:
        place = bisect_right(begins, one.start) - 1
        return place >= 0 and one.end <= marks[place][1]

    return [one for one in found if not is_mark(one)]


def is_identifier(text: str) -> bool:
    """Tell whether a text is one of our ids, which are random and may look like anything."""
    return len(text) == _UUID_LENGTH and _UUID.fullmatch(text) is not None


class _Text:
    """A text that a cache tells apart by its hash, so that it does not keep the text itself."""

    __slots__ = ("_hash", "text")

    def __init__(self, text: str) -> None:
        self.text: str | None = text
        self._hash = sha256(text.encode("utf-8", "surrogatepass")).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Text) and self._hash == other._hash

    def __hash__(self) -> int:
        return hash(self._hash)


@lru_cache(maxsize=4096)
def _looked_at(asked: _Text) -> tuple[frozenset[str], int, int]:
    """Return the kinds in a text, and what it cost to find them: checks and matches."""
    text, asked.text = asked.text or "", None
    effort = some_effort(len(text.encode("utf-8", "surrogatepass")))
    checks, matches = effort.checks, effort.matches
    kinds = frozenset(finding.kind for finding in detect(text, effort))
    return kinds, checks - effort.checks, matches - effort.matches


# Patterns that begin anywhere and go on for long: beside others, they make an automaton of too many states.
_APART = frozenset({"DiscordBotToken", "Mailchimp", "sends-data-away"})


@lru_cache(maxsize=1)
def _detectors() -> Detectors:
    sorts = [list(sort) for sort in (secrets.detectors(), personal.detectors(), injection.detectors())]
    apart = [one for sort in sorts for one in sort if one.name in _APART]
    return Detectors(*([one for one in sort if one.name not in _APART] for sort in sorts), apart)


@lru_cache(maxsize=2)
def _any_of(characters: frozenset[str]) -> Any:
    """Return a pattern that tells whether one of these characters is in a text."""
    import re2

    return re2.compile("[" + "".join(rf"\x{{{ord(each):X}}}" for each in sorted(characters)) + "]")


def _matches_in_any_form(content: bytes, effort: Effort) -> list[Finding]:
    """Find also what the escapes of JSON stand before: a line's end is no letter of the word after it."""
    found = _matches(content, effort)
    if b"\\" in content and (blank := _ESCAPES.sub(b"  ", content)) != content:
        found += _matches(blank, effort)
    return found


def _matches(content: bytes, effort: Effort) -> list[Finding]:
    every = _detectors()
    # What a detector finds overlaps where blocks do, or where it gives up: only places are kept of it.
    spans: dict[Detector, list[tuple[int, int]]] = {}
    for begin, block in _blocks(content):
        for start, end, detector in every.look(block, effort):
            if start < end:
                spans.setdefault(detector, []).append((begin + start, begin + end))
    places = {place for each in spans.values() for span in each for place in span}
    where = None if content.isascii() else _characters(content, places)
    found = []
    for detector, each in spans.items():
        kind, name = detector.kind, detector.name
        for start, end in each:
            begins, ends = (start, end) if where is None else (where[start], where[end])
            if begins < ends:
                found.append(Finding(begins, ends, kind, name))
    return found


def _private_keys(text: str) -> Iterator[Finding]:
    for start, end in secrets.private_keys(text):
        yield Finding(start, end, "private-key", "private-key")


def _blocks(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a long text into blocks that overlap, at blanks where there are any nearby."""
    start = 0
    while True:
        end = min(start + BLOCK_BYTES, len(content))
        if end < len(content):
            blank = max(content.rfind(blank, end - _NEAR, end) for blank in (b" ", b"\n")) + 1
            end = blank or _end_of_word_before(content, end)
        yield start, content[start:end]
        if end >= len(content):
            return
        start = end - OVERLAP_BYTES
        blank = content.find(b" ", start, start + _NEAR)
        start = blank if blank >= 0 else start


def _end_of_word_before(content: bytes, end: int) -> int:
    """Return where the word that goes on at `end` begins; `end` itself where it is longer than tokens are."""
    window = content[end - _LONGEST_WORD_BYTES : end]
    between = max(window.rfind(each) for each in _BETWEEN_WORDS)
    return end - _LONGEST_WORD_BYTES + between + 1 if between >= 0 else end


def _characters(content: bytes, places: Iterable[int]) -> Mapping[int, int]:
    """Return which character begins at each of these bytes."""
    where: dict[int, int] = {}
    at = characters = 0
    for place in sorted(places):
        characters += len(content[at:place].translate(None, _CONTINUE))
        at = place
        where[place] = characters
    return where


def _without_invisible(text: str, effort: Effort) -> Iterator[Finding]:
    """Find what invisible characters keep apart, in the places of the text with them."""
    import numpy as np

    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    places = np.flatnonzero(~np.isin(codes, _invisible_codes()))
    seen = codes[places].tobytes().decode("utf-32-le", "surrogatepass")
    for one in (*_private_keys(seen), *_matches(seen.encode("utf-8", "surrogatepass"), effort)):
        yield Finding(int(places[one.start]), int(places[one.end - 1]) + 1, one.kind, one.detector)


@lru_cache(maxsize=1)
def _invisible_codes() -> Any:
    import numpy as np

    return np.array(sorted(map(ord, injection.INVISIBLE)), dtype=np.uint32)


def stand_ins() -> frozenset[str]:
    """Return the characters that stand for a plain letter, digit or sign, and those that nobody sees."""
    return injection.INVISIBLE | {form for form, plain in _plain_forms().items() if plain != " "}


def _plain(text: str) -> str:
    """Return a text with plain letters, digits, blanks and hyphens for those that stand for them."""
    forms = _plain_forms()
    for form in sorted(forms.keys() & set(text)):
        text = text.replace(form, forms[form])
    return text


@lru_cache(maxsize=1)
def _stand_ins() -> frozenset[str]:
    return frozenset(_plain_forms())


@lru_cache(maxsize=1)
def _plain_forms() -> Mapping[str, str]:
    forms = {}
    for form in map(chr, (*range(0xFF01, 0xFF5F), *range(0x1D400, 0x1D800))):
        plain = unicodedata.normalize("NFKC", form)
        if len(plain) == 1 and plain.isascii():
            forms[form] = plain
    forms |= dict.fromkeys(map(chr, (0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000)), " ")
    return forms | dict.fromkeys(map(chr, (0x2010, 0x2011, 0x2212, 0xFE63)), "-")


def _sorted(found: Iterable[Finding]) -> tuple[Finding, ...]:
    """Put findings in order; of one kind, join those that overlap."""
    joined: dict[str, list[Finding]] = {}
    for one in sorted(found, key=lambda one: (one.start, -one.end, one.detector)):
        of_kind = joined.setdefault(one.kind, [])
        if of_kind and one.start < of_kind[-1].end:
            last = of_kind[-1]
            of_kind[-1] = Finding(last.start, max(last.end, one.end), last.kind, last.detector)
        else:
            of_kind.append(one)
    return tuple(sorted(one for of_kind in joined.values() for one in of_kind))
