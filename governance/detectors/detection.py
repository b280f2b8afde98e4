"""Look at a text with every detector. Pure and deterministic: the same text has the same findings, for ever
under the same versions of rules and libraries.

Time is bounded by the text's length: patterns run in RE2, over blocks, and no detector checks more than
`MOST_CHECKS` of its matches in one text: those behind them count as found.
"""

import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any

from governance.detectors import injection, personal, secrets
from governance.detectors.finding import Detectors, Finding

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


def detect(text: str) -> tuple[Finding, ...]:
    """Return what is found, in order; findings of different kinds may overlap, those of one kind do not."""
    found = set(_private_keys(text))
    content = text.encode("utf-8", "surrogatepass")
    marks = [match.span() for match in _MARK.finditer(text)] if "⟦" in text else []
    if text.isascii():
        return _sorted(_beside(marks, found | set(_matches(content))))
    hides = _any_of(injection.INVISIBLE).search(content) is not None
    if hides:
        found |= {Finding(start, end, "hidden", name) for start, end, name in injection.hidden(text)}
    stand_in = _any_of(_stand_ins()).search(content) is not None
    plain = _plain(text) if stand_in else text
    found |= set(_matches(content if plain is text else plain.encode("utf-8", "surrogatepass")))
    found |= set(_private_keys(plain)) if stand_in else set()
    if hides:
        found |= set(_without_invisible(plain))
    return _sorted(_beside(marks, found))


def kinds_in(text: str) -> frozenset[str]:
    """Return the kinds of what is found in a text; texts that were asked for lately cost a hash."""
    return _kinds_by_hash(_Text(text))


def kinds_within(value: Any) -> frozenset[str]:
    """Return the kinds of what is found in the texts of a JSON value, names included.

    A value under a name such as `api_key` is a secret where it looks like one. Numbers are not looked at.
    """
    kinds: set[str] = set()
    pending = [value]
    while pending:
        match pending.pop():
            case str() as text:
                if not is_identifier(text):
                    kinds |= kinds_in(text)
            case Mapping() as members:
                for name, member in members.items():
                    kinds |= kinds_in(name)
                    if isinstance(member, str) and secrets.is_named_secret(name, member):
                        kinds.add("secret")
                    pending.append(member)
            case list() | tuple() as items:
                pending.extend(items)
            case _:
                pass
    return frozenset(kinds)


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
def _kinds_by_hash(asked: _Text) -> frozenset[str]:
    text, asked.text = asked.text or "", None
    return frozenset(finding.kind for finding in detect(text))


@lru_cache(maxsize=1)
def _detectors() -> Detectors:
    return Detectors([*secrets.detectors(), *personal.detectors(), *injection.detectors()])


@lru_cache(maxsize=2)
def _any_of(characters: frozenset[str]) -> Any:
    """Return a pattern that tells whether one of these characters is in a text."""
    import re2

    return re2.compile("[" + "".join(rf"\x{{{ord(each):X}}}" for each in sorted(characters)) + "]")


def _matches(content: bytes) -> Iterator[Finding]:
    every = _detectors()
    checks: Counter[str] = Counter()
    places = [
        (begin + start, begin + end, detector)
        for begin, block in _blocks(content)
        for start, end, detector in every.look(block, checks)
    ]
    where = _characters(content, {place for start, end, _ in places for place in (start, end)})
    for start, end, detector in places:
        if where[start] < where[end]:
            yield Finding(where[start], where[end], detector.kind, detector.name)


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
        characters += len(content[at:place].decode("utf-8", "surrogatepass"))
        at = place
        where[place] = characters
    return where


def _without_invisible(text: str) -> Iterator[Finding]:
    """Find what invisible characters keep apart, in the places of the text with them."""
    places = [place for place, each in enumerate(text) if each not in injection.INVISIBLE]
    seen = "".join(text[place] for place in places)
    for found in (*_private_keys(seen), *_matches(seen.encode("utf-8", "surrogatepass"))):
        yield Finding(places[found.start], places[found.end - 1] + 1, found.kind, found.detector)


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
