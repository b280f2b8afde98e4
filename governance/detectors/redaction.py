"""Put marks in the place of what was found."""

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from governance.detectors.detection import (
    detect,
    is_identifier,
    kinds_by_name,
    kinds_sharing,
    kinds_within,
)
from governance.detectors.finding import Effort, Finding, some_effort
from governance.detectors.kinds import KINDS
from governance.detectors.secrets import is_named_secret

EVERY = "*"
# What is left may be found where it was covered before; a text made so that this goes on is left out whole.
_MOST_ROUNDS = 5


def redacted(text: str, kinds: Collection[str]) -> str:
    """Return the text with a mark such as ⟦email⟧ for each finding of these kinds, or of any with `*`.

    Findings that overlap get one mark, the first one's. Redacting what is redacted changes nothing.
    """
    return _redacted(text, _wanted(kinds), None)


def redacted_within(value: Any, kinds: Collection[str]) -> Any:
    """Return a JSON value with its texts redacted, names of members included.

    A number that is found is replaced by its mark, which is text. Members whose names become the same are
    counted: ⟦email⟧, ⟦email⟧ 2. What stands behind too much else is covered as `kinds_within` finds it.
    """
    return _within(value, "", _wanted(kinds), some_effort(0))


def kept_within(value: Any, kinds: Collection[str]) -> frozenset[str]:
    """Return the kinds of these that are found in names and numbers of a JSON value, but not in its texts.

    Names and numbers of a JSON Schema are what it means: to cover them makes another schema of it.
    """
    wanted = _wanted(kinds)
    return wanted & kinds_within(_without_texts(value)) if wanted else frozenset()


def _without_texts(value: Any) -> Any:
    match value:
        case str():
            return ""
        case Mapping():
            return {name: _without_texts(member) for name, member in value.items()}
        case list() | tuple():
            return [_without_texts(item) for item in value]
        case _:
            return value


def _within(value: Any, name: str, wanted: frozenset[str], effort: Effort) -> Any:
    match value:
        case str():
            if "secret" in wanted and is_named_secret(name, value):
                return "⟦secret⟧"
            if is_identifier(value):
                return value
            told = _shared(value, wanted, effort)
            if "secret" in wanted and told != value and is_named_secret(name, told):
                # A mark took the place of what made it look like a name or placeholder.
                return "⟦secret⟧"
            by_name = kinds_by_name(name, told, effort) & wanted
            return f"⟦{min(by_name)}⟧" if by_name else told
        case bool() | None:
            return value
        case int() | float():
            found = kinds_by_name(name, value, effort) & wanted
            return f"⟦{min(found)}⟧" if found else value
        case Mapping():
            return _members(value, wanted, effort)
        case list() | tuple():
            return [_within(item, name, wanted, effort) for item in value]
        case _:
            return value


def _members(members: Mapping[str, Any], wanted: frozenset[str], effort: Effort) -> dict[str, Any]:
    told: dict[str, Any] = {}
    counted: Counter[str] = Counter()
    for name, member in members.items():
        shown = _shared(name, wanted, effort)
        inside = _within(member, name, wanted, effort)
        if shown != name:
            inside = _within(inside, shown, wanted, effort)
            written = shown
            while written in told or written in members:
                counted[shown] += 1
                written = f"{shown} {counted[shown] + 1}"
            shown = written
        told[shown] = inside
    return told


def _shared(text: str, wanted: frozenset[str], effort: Effort) -> str:
    """Redact one text of several, which share what may be spent on them."""
    found = kinds_sharing(text, effort) & wanted
    if not found:
        return text
    if effort.is_used_up:
        return f"⟦{min(found)}⟧"
    return _redacted(text, wanted, effort)


def _redacted(text: str, wanted: frozenset[str], effort: Effort | None) -> str:
    for _ in range(_MOST_ROUNDS):
        found = [one for one in detect(text, effort) if one.kind in wanted]
        if not found:
            return text
        text = _marked(text, found)
    return "⟦text⟧"


def concerned(found: Collection[str], kinds: Collection[str]) -> bool:
    """Tell whether redacting these kinds changes a text in which those were found."""
    return not _wanted(kinds).isdisjoint(found)


def _wanted(kinds: Collection[str]) -> frozenset[str]:
    return frozenset(KINDS) if EVERY in kinds else frozenset(kinds)


def _marked(text: str, found: list[Finding]) -> str:
    pieces: list[str] = []
    at = 0
    for one in found:
        if one.start >= at:
            pieces += (text[at : one.start], f"⟦{one.kind}⟧")
        at = max(at, one.end)
    return "".join([*pieces, text[at:]])
