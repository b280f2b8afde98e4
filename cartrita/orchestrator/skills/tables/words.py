"""Words: how a text is cut into them, which are alike, and how numbers are written."""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["quoted", "date", "number", "word", "symbol"]

_TOKEN = re.compile(
    r"(?P<quoted>\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”|„[^“”\n]{1,200}[“”]|`[^`\n]{1,200}`|"
    r"(?<!\w)'[^'\n]{1,200}'(?!\w))"
    r"|(?P<date>[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?!\w)|[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4}(?!\w))"
    r"|(?P<number>(?:(?<![\w)])-)?[0-9]+(?:[.,][0-9]+)*(?!\w))"
    r"|(?P<word>[^\W_]+)"
    r"|(?P<symbol>>=|<=|<>|!=|\S)"
)
_CAMEL = re.compile(r"(?<=[a-zß-ÿ])(?=[A-Z][a-z])")
_EMAIL = re.compile(r"\be-?mails?\b", re.IGNORECASE)
_PREFIX = re.compile(r"\b([A-Za-z])['’](?=\w\w)")  # O'Neil, d'Arc
_SHORT = re.compile(r"['’](?:s|re|d|ll)\b")
_ENDING = re.compile(r"\.(?:csv|tsv|tab|txt|parquet|pq)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Token:
    """A word, number, date, sign or quotation (then `text` is what is quoted); `plain` is the folded text."""

    kind: Kind
    text: str
    plain: str


def tokens(text: str) -> tuple[Token, ...]:
    """Return the words and signs of a text in order; underscores and capitals within words divide."""
    text = _SHORT.sub("", _EMAIL.sub("email", _ENDING.sub(" csv ", text)))
    text = _CAMEL.sub(" ", _PREFIX.sub(r"\1 ", text))
    found = []
    for match in _TOKEN.finditer(text):
        kind: Kind = match.lastgroup  # type: ignore[assignment] # the pattern's groups are the kinds
        said = match[0][1:-1] if kind == "quoted" else match[0]
        if said != "_":
            found.append(Token(kind, said, folded(said)))
    return tuple(found)


def words(text: str) -> tuple[str, ...]:
    """Return the folded words and numbers of a name or a value."""
    return tuple(
        part for one in tokens(text) if one.kind != "symbol" for part in re.findall(r"\w+", one.plain)
    )


@lru_cache(maxsize=4096)
def folded(text: str) -> str:
    """Return the text without capitals and accents."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    return "".join(letter for letter in plain if not unicodedata.combining(letter)).casefold()


@lru_cache(maxsize=4096)
def forms(word: str) -> frozenset[str]:
    """Return the word and what it may be the plural of, in English and German."""
    found = {word}
    if len(word) > 3 and word.endswith("ies"):
        found.add(word[:-3] + "y")
    if len(word) > 4 and word.endswith(("ses", "xes", "zes", "ches", "shes")):
        found.add(word[:-2])
    if len(word) > 2 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        found.add(word[:-1])
    for ending in ("en", "er", "n", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            found.add(word[: -len(ending)])
    return frozenset(found)


def alike(one: str, other: str) -> bool:
    """Tell whether two words are the same, be it in singular and plural."""
    return one == other or (len(one) > 2 and len(other) > 2 and not forms(one).isdisjoint(forms(other)))


def number(text: str) -> str | None:
    """Return a number as SQL has it, or nothing where it can be read in two ways."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    for grouping, point in ((",", "."), (".", ",")):
        if re.fullmatch(rf"[1-9][0-9]{{0,2}}(?:\{grouping}[0-9]{{3}})+\{point}[0-9]+", digits):
            return sign + digits.replace(grouping, "").replace(point, ".")
        if re.fullmatch(rf"[1-9][0-9]{{0,2}}(?:\{grouping}[0-9]{{3}}){{2,}}", digits):
            return sign + digits.replace(grouping, "")
    if re.fullmatch(r"[1-9][0-9]{0,2},[0-9]{3}", digits):
        return sign + digits.replace(",", "")
    if re.fullmatch(r"[1-9][0-9]{0,2}\.[0-9]{3}", digits):
        return None
    return (
        sign + digits.replace(",", ".") if re.fullmatch(r"[0-9]{1,30}(?:[.,][0-9]{1,20})?", digits) else None
    )


def listed(text: str) -> frozenset[str]:
    """Return the words of a text with spaces between them."""
    return frozenset(text.split())
