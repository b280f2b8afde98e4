"""The figures of a sentence with what they count, and its words. Pure, linear in its length."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cached_property

from retrieval.questions import STOP_WORDS, stem

LONGEST_NUMBER = 30  # digits; longer ones are read as words
_EXACT = Context(prec=3 * LONGEST_NUMBER)
YEAR = "(year)"
CLOCK = "(time)"


def set_of(several: str) -> frozenset[str]:
    """Return the words of a list written as one text."""
    return frozenset(several.split())


@dataclass(frozen=True, slots=True)
class Quantity:
    """A figure. `readings` are what it can mean (1.200 is twelve hundred, or one and a fifth), `unit` is the
    stem of what it counts; empty where that cannot be told, and with a # before it for a number that names
    something, as in Article 5. `token` is its place among the tokens.
    """

    readings: frozenset[Decimal]
    unit: str
    shown: str
    token: int

    @property
    def counts(self) -> bool:
        """Tell whether it says how much or when, so that another figure in its place says otherwise."""
        return bool(self.unit) and not self.unit.startswith("#")

    def equals(self, other: "Quantity") -> bool:
        """Tell whether both say the same."""
        same_unit = self.unit == other.unit or not self.unit or not other.unit
        return same_unit and bool(self.readings & other.readings)

    def may_round(self, other: "Quantity") -> bool:
        """Tell whether one may be the other with fewer places."""
        return any(
            one.quantize(two, context=_EXACT) == two or two.quantize(one, context=_EXACT) == one
            for one in self.readings
            for two in other.readings
        )


@dataclass(frozen=True)
class Said:
    """What a sentence says, as far as rules read it.

    `words` are the stems that carry it, each with its place among the tokens, without figures and their
    units. `guards` are words that turn or limit what is said. `modal` is must, may or nothing.
    """

    tokens: Sequence[str]
    words: Sequence[tuple[str, int]]
    quantities: Sequence[Quantity]
    guards: Counter[str]
    modal: str

    @cached_property
    def stems(self) -> frozenset[str]:
        """The words without their places."""
        return frozenset(word for word, _ in self.words)


_TOKEN = re.compile(r"[%€$£¥§|;:,()–—]|[^\W_]+(?:[.,:/'’_-][^\W_]+)*")
_MINUS = re.compile(r"(?<![\w)\]])[-−](?=\d)")
_CLOCK = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])")
_NUMBER = re.compile(r"\d+(?:[.,’]\d+)*", re.ASCII)
_WITH_UNIT = re.compile(r"([0-9]+(?:[.,][0-9]+)*)-?([^\W\d_]{1,20})")
_RANGE = re.compile(r"(\d+(?:[.,]\d+)*)-(\d+(?:[.,]\d+)*)")
_THOUSANDS = re.compile(r"\d{1,3}(?:([.,’])\d{3})(?:\1\d{3})*")
_YEAR = re.compile(r"1[5-9]\d\d|20\d\d|2100")
_BEFORE_YEAR = set_of(
    "in since year until till before after of from by im seit bis jahr en depuis desde hasta "
    "january february march april may june july august september october november december "
    "januar februar märz mai juni juli oktober dezember"
)
_NAMING = set_of(
    "article articles section sections chapter page pages room version line step phase level figure table "
    "appendix clause paragraph number no nr nos § artikel abschnitt kapitel seite raum zimmer absatz "
    "abbildung tabelle rule class type form grade gate platform question item building flight"
)
_UNITS = {
    "%": "%", "percent": "%", "prozent": "%", "pourcent": "%", "€": "€", "eur": "€", "euro": "€",
    "euros": "€", "$": "$", "usd": "$", "dollar": "$", "dollars": "$", "£": "£", "gbp": "£", "pounds": "£",
    "¥": "¥", "hrs": "hour", "hr": "hour", "h": "hour", "hours": "hour", "hour": "hour", "mins": "minut",
    "min": "minut", "days": "day", "day": "day", "tage": "day", "tagen": "day", "tag": "day", "weeks": "week",
    "week": "week", "wochen": "week", "months": "month", "month": "month", "monate": "month",
    "monaten": "month", "years": "year", "year": "year", "jahre": "year", "jahren": "year",
    "kilometres": "km", "kilometers": "km", "kilograms": "kg", "metres": "m", "meters": "m",
}  # fmt: skip
_SIGNS = frozenset("%€$£¥")
_CURRENCIES = frozenset({"€", "$", "£", "¥"})
_NUMBER_WORDS = {
    word: Decimal(number)
    for number, several in (
        (2, "two zwei deux dos"),
        (3, "three drei trois tres"),
        (4, "four vier quatre cuatro"),
        (5, "five fünf cinq cinco"),
        (6, "six sechs seis"),
        (7, "seven sieben sept siete"),
        (8, "eight acht huit ocho"),
        (9, "nine neun neuf nueve"),
        (10, "ten zehn dix diez"),
        (11, "eleven elf onze once"),
        (12, "twelve zwölf douze doce"),
        (13, "thirteen dreizehn"),
        (14, "fourteen vierzehn quatorze catorce"),
        (15, "fifteen fünfzehn quinze quince"),
        (20, "twenty zwanzig vingt veinte"),
        (30, "thirty dreißig trente treinta"),
        (40, "forty vierzig quarante cuarenta"),
        (50, "fifty fünfzig cinquante cincuenta"),
        (60, "sixty sechzig soixante sesenta"),
        (90, "ninety neunzig noventa"),
        (100, "hundred hundert cent cien"),
    )
    for word in several.split()
}
# In English `once` is no eleven.
del _NUMBER_WORDS["once"]

# What says nothing by itself, beside the stop words.
_LIGHT = STOP_WORDS | set_of(
    "according says say said states state stated claim claims document documents exactly also however "
    "therefore thus hence currently within am per und oder der die das den dem des ein eine einen einem "
    "einer ist sind war waren wird werden hat haben zu zum zur mit von vom für auf im am bei aus als auch "
    "sich es er sie wir ihr laut beträgt le la les un une des du de et ou est sont dans pour avec sur au aux "
    "que qui il elle el los las y o del es son en por para con una se su lo"
)
_GUARDS = {
    word: name
    for name, several in {
        "not": "not never neither nor without cannot hardly nicht nie niemals ohne weder pas jamais sans "
        "nunca sin",
        "none": "no none nobody nothing kein keine keinen keiner keinem aucun aucune ningún ninguna ninguno",
        "if": "if unless provided wenn falls si",
        "except": "except excluding otherwise außer sauf excepto",
        "only": "only solely nur seulement sólo solo",
        "least": "from ab starting least minimum min mindestens minimal",
        "most": "up most maximum max maximal höchstens",
        "more": "more over above exceeding exceeds mehr über plus más",
        "less": "less fewer under below weniger unter moins menos",
        "about": "about approximately approx roughly around almost nearly circa ca etwa ungefähr environ",
        "range": "between zwischen entre",
        "or": "or either oder",
        "all": "all every each any alle jeder jede jedes tous toutes todos todas",
        "some": "some few several many sometimes often usually einige manche",
        "formerly": "formerly previously once until bis früher",
        "plan": "will would planned plans expected intended proposed proposes proposal suggested "
        "suggests draft",
        "false": "false falsely wrong wrongly untrue myth incorrect mistaken denied denies rejected refused "
        "unlikely allegedly reportedly supposedly rumour rumor rumoured falsch angeblich faux falso",
        "minus": "minus",
    }.items()
    for word in several.split()
}
_MODALS = {
    **dict.fromkeys(("must", "shall", "required", "muss", "müssen", "doit", "debe"), "must"),
    **dict.fromkeys(("may", "can", "could", "might", "kann", "können", "peut", "puede"), "may"),
}


def read(text: str) -> Said:
    """Read a sentence."""
    tokens = _TOKEN.findall(text)
    lower = [token.lower() for token in tokens]
    quantities: list[Quantity] = []
    units_at: set[int] = set()
    words: list[tuple[str, int]] = []
    guards: Counter[str] = Counter(["minus"] * len(_MINUS.findall(text)))
    modals = set()
    for place, word in enumerate(lower):
        if place in units_at:
            continue
        found = _quantities(tokens, lower, place)
        if found:
            quantities += [quantity for quantity, _ in found]
            units_at |= {at for _, at in found if at > place}
            if len(found) > 1:
                guards["range"] += 1
            continue
        if word in _GUARDS or word.endswith(("n't", "n’t")):
            guards[_GUARDS.get(word, "not")] += 1
        if word in _MODALS:
            modals.add(_MODALS[word])
        if word in _LIGHT or word in _GUARDS or not any(map(str.isalnum, word)) or word in _MODALS:
            continue
        # A currency before its figure is the figure's unit.
        following = _quantities(tokens, lower, place + 1) if _UNITS.get(word) in _CURRENCIES else []
        if not following:
            words.append((stem(word.removesuffix("'s").removesuffix("’s")), place))
    return Said(tokens, words, quantities, guards, modals.pop() if len(modals) == 1 else "")


def _quantities(tokens: Sequence[str], lower: Sequence[str], place: int) -> list[tuple[Quantity, int]]:
    """Return the figures of a token, each with the place of its unit: its own where it adheres or is none."""
    if place >= len(tokens):
        return []
    token = tokens[place]
    if ranged := _RANGE.fullmatch(token):
        unit, at = _unit(lower, place, token)
        return [
            (Quantity(readings, unit, part, place), at)
            for part in ranged.groups()
            if (readings := readings_of(part))
        ]
    if clock := _CLOCK.fullmatch(token):
        minutes = Decimal(int(clock[1]) * 60 + int(clock[2]))
        half = lower[place + 1] if place + 1 < len(lower) and lower[place + 1] in {"am", "pm"} else ""
        return [(Quantity(frozenset({minutes}), CLOCK + half, token, place), place + bool(half))]
    if adhering := _WITH_UNIT.fullmatch(token):
        readings = readings_of(adhering[1])
        unit = _canonical(adhering[2].lower())
        return [(Quantity(readings, unit, token, place), place)] if readings else []
    spelled = _NUMBER_WORDS.get(lower[place])
    readings = frozenset({spelled}) if spelled is not None else readings_of(token)
    if not readings:
        return []
    unit, at = _unit(lower, place, token)
    if spelled is not None and not unit:
        return []
    before = tokens[place - 1] if place else ""
    if at > place:
        shown = f"{token} {tokens[at]}"
    else:
        shown = f"{before}{' ' if before.isalpha() else ''}{token}" if unit in _CURRENCIES else token
    return [(Quantity(readings, unit, shown, place), at)]


def _unit(lower: Sequence[str], place: int, token: str) -> tuple[str, int]:
    """Return the unit of the figure at a place, and where it stands: the place itself for one before it."""
    before = lower[place - 1] if place else ""
    following = lower[place + 1] if place + 1 < len(lower) else ""
    if before in _NAMING:
        return f"#{before}", place
    if _YEAR.fullmatch(token) and before in _BEFORE_YEAR:
        return YEAR, place
    if _UNITS.get(before) in _CURRENCIES and following not in _SIGNS:
        return _UNITS[before], place
    if following in _SIGNS:
        return _UNITS[following], place + 1
    if following.isalpha() and following not in _LIGHT and following not in _GUARDS:
        return _canonical(following), place + 1
    return "", place


def _canonical(unit: str) -> str:
    return _UNITS.get(unit) or stem(unit)


def readings_of(written: str) -> frozenset[Decimal]:
    """Return what a written number can mean; nothing where it is none or too long."""
    if not _NUMBER.fullmatch(written):
        return frozenset()
    if sum(map(str.isdigit, written)) > LONGEST_NUMBER:
        return frozenset()
    found = set()
    if _THOUSANDS.fullmatch(written):
        found.add(Decimal(re.sub(r"\D", "", written)))
    marks = re.findall(r"\D", written)
    if len(marks) <= 1 and marks != ["’"]:
        found.add(Decimal(written.replace(",", ".")))
    elif len(set(marks[:-1])) == 1 and marks[-1] != marks[0]:
        whole, last = written.rsplit(marks[-1], 1)
        found.add(Decimal(re.sub(r"\D", "", whole) + "." + last))
    return frozenset(found)
