"""Text for people who decide on it: nothing in it may hide, reorder or pretend to be something else. Pure.

Escaping for HTML is the templates' work. What is marked follows Unicode's reports on security (UTS #39) and
bidirectional text (UAX #9), in a small rule of our own:

- controls (but line feed and tab), format characters (bidirectional, zero-width, tags, soft hyphens), spaces
  that are not the common one, separators, private and unassigned characters, variation selectors and fillers;
- letters that look like basic Latin ones: full-width and mathematical forms; in a word, letters of a script
  that is mixed with Latin ones there, and words wholly of Cyrillic, Greek or Armenian look-alikes;
- combining marks beyond the third on one letter, which cover lines around them.
"""

import re
import unicodedata
from functools import lru_cache

_MORE_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800")
# Letters that common typefaces draw like basic Latin letters or digits.
_LOOK_ALIKES = frozenset(
    # Cyrillic
    "АВСЕНІЈКМОРЅТХУҮԚԜѴаԁеһіјӏорԛѕԝхуүѵсҽ"
    # Greek
    "ΑΒΕΖΗΙΚΜΝΟΡΤΥΧϹϳοανιρυϲγ"
    # Armenian
    "ՏՍՕօսոհցզկլ"
)
_WORD = re.compile(r"[^\W_]+(?:[\u0300-\u036f]*[^\W_]+)*")
_SCRIPTS_LIKE_LATIN = frozenset({"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "COPTIC", "LISU"})
_MOST_MARKS = 3


def visible_length(text: str) -> int:
    """Return how many characters of a text are seen; a row of blanks counts as one."""
    seen = (
        each
        for each in text
        if each.isspace() or (unicodedata.category(each)[0] in "LNPS" and each not in _MORE_INVISIBLE)
    )
    return len(" ".join("".join(seen).split()))


def shown(text: str) -> str:
    """Return text with hidden, reordering and look-alike characters written as ⟦U+202E⟧."""
    if text.isascii() and text.isprintable():
        return text
    suspicious = _in_deceptive_words(text)
    parts: list[str] = []
    marks = 0
    for place, character in enumerate(text):
        marks = marks + 1 if unicodedata.combining(character) else 0
        if place in suspicious or marks > _MOST_MARKS or _is_hidden(character):
            parts.append(f"⟦U+{ord(character):04X}⟧")
        else:
            parts.append(character)
    return "".join(parts)


@lru_cache(maxsize=4096)
def _is_hidden(character: str) -> bool:
    if character in "\n\t ":
        return False
    category = unicodedata.category(character)
    if category in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"} or character in _MORE_INVISIBLE:
        return True
    if "\ufe00" <= character <= "\ufe0f" or "\U000e0100" <= character <= "\U000e01ef":
        return True
    # Full-width and mathematical forms of basic Latin letters, digits and signs.
    return unicodedata.decomposition(character).startswith(("<wide>", "<font>")) and bool(
        unicodedata.normalize("NFKC", character).isascii()
    )


def _in_deceptive_words(text: str) -> set[int]:
    """Return the places of look-alike letters in words that mix scripts or are made of look-alikes alone."""
    places: set[int] = set()
    if text.isascii():
        return places
    for word in _WORD.finditer(text):
        letters = [(word.start() + i, letter) for i, letter in enumerate(word.group()) if letter.isalpha()]
        scripts = {_script(letter) for _, letter in letters}
        foreign = scripts & _SCRIPTS_LIKE_LATIN
        if not foreign:
            continue
        mixed = len(scripts) > 1
        # A word of one letter, such as the Russian "и" or "а", says nothing about its writer.
        posing = len(letters) > 2 and all(letter in _LOOK_ALIKES for _, letter in letters)
        if mixed or posing:
            places.update(place for place, letter in letters if _script(letter) in foreign)
    return places


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
