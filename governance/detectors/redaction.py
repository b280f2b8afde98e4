"""Put marks in the place of what was found."""

from collections.abc import Collection, Mapping
from typing import Any

from governance.detectors.detection import detect, is_identifier
from governance.detectors.finding import Finding
from governance.detectors.kinds import KINDS
from governance.detectors.secrets import is_named_secret

EVERY = "*"
# What is left may be found where it was covered before; a text made so that this goes on is left out whole.
_MOST_ROUNDS = 5


def redacted(text: str, kinds: Collection[str]) -> str:
    """Return the text with a mark such as ⟦email⟧ for each finding of these kinds, or of any with `*`.

    Findings that overlap get one mark, the first one's. Redacting what is redacted changes nothing.
    """
    wanted = _wanted(kinds)
    for _ in range(_MOST_ROUNDS):
        found = [one for one in detect(text) if one.kind in wanted]
        if not found:
            return text
        text = _marked(text, found)
    return "⟦text⟧"


def redacted_within(value: Any, kinds: Collection[str]) -> Any:
    """Return a JSON value with all its texts redacted, names and numbers as they are."""
    match value:
        case str():
            return value if is_identifier(value) else redacted(value, kinds)
        case Mapping():
            named = "secret" in _wanted(kinds)
            return {
                name: "⟦secret⟧"
                if named and isinstance(member, str) and is_named_secret(name, member)
                else redacted_within(member, kinds)
                for name, member in value.items()
            }
        case list() | tuple():
            return [redacted_within(item, kinds) for item in value]
        case _:
            return value


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
