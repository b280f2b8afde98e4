"""Which figure of the earlier results a phrase such as "the total" or "the VAT rate" means: one, or none."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from cartrita.orchestrator.skills import Input
from cartrita.orchestrator.skills.calculate import units
from cartrita.orchestrator.skills.calculate.quantities import Origin, Quantity, Stuck, number, read
from cartrita.orchestrator.skills.calculate.tokens import figures, one_of, unit_at
from cartrita.orchestrator.skills.calculate.tokens import tokens as tokens_of

Want = Literal["percent", "value", ""]

PRONOUNS = frozenset({"it", "that", "this", "davon", "daraus", "es", "sie", "dies"})
MANY = frozenset({"these", "those", "them", "both"})
_MOST_VALUES = 100

# What says nothing about which figure is meant.
_GENERIC = one_of(
    "the a an this that these those my our your its of all for in on from by and result results "
    "answer figure figures value values number numbers total totals sum amount amounts price prices "
    "cost costs bill invoice previous above last earlier first step task calculation computed "
    "calculated found resulting final new current same whole overall "
    "der die das dem den des davon daraus es sie dies "
    "ergebnis ergebnisse wert betrag summe gesamt preis query outcome it them"
)
_RATES = frozenset(
    {"rate", "percentage", "percent", "tax", "satz", "steuersatz", "discount", "interest", "rabatt"}
)
_ASKING = one_of(
    "what is are was were how much many which who when where do does did has have give show tell find "
    "look up please calculate compute list get be to at with per there any you me in of the a an for "
    "according document"
)
# Figures of different kinds are not taken for each other: the total is no average.
_TOTAL = frozenset({"sum", "total", "summe", "add", "totals"})
_KINDS: Sequence[frozenset[str]] = (
    _TOTAL,
    frozenset({"average", "mean", "durchschnitt", "avg"}),
    frozenset({"median"}),
    frozenset({"count", "many", "anzahl"}),
    frozenset({"maximum", "max", "highest", "largest", "most", "biggest"}),
    frozenset({"minimum", "min", "lowest", "smallest", "least"}),
    frozenset({"difference"}),
)
_MONEY = frozenset(
    {"price", "cost", "amount", "revenue", "sales", "bill", "invoice", "preis", "betrag", "income"}
)
_COUNTED = frozenset({"many", "count", "anzahl"})
_RESULTS = frozenset({"result", "one", "figure", "value", "number", "ergebnis"})
_ORDINALS: Mapping[str, int] = {"first": 0, "second": 1, "third": 2, "last": -1, "former": 0, "latter": 1}
_SOURCE = 100  # characters of an earlier request that the answer repeats


@dataclass(frozen=True, slots=True)
class Candidate:
    """A figure of an earlier result, and the words that say what it is."""

    quantity: Quantity
    words: frozenset[str]
    task: int


@dataclass(frozen=True, slots=True)
class Column:
    """The figures of a column with several rows."""

    quantities: tuple[Quantity, ...]
    words: frozenset[str]
    task: int


class References:
    """The figures that earlier tasks came to. Raises Stuck where a phrase fits none of them, or several."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self._inputs = inputs
        self._unreadable = ""
        self.candidates: list[Candidate] = []
        self.columns: list[Column] = []
        for task, given in enumerate(inputs):
            for found in self._figures(task, given):
                if isinstance(found, Candidate):
                    self.candidates.append(found)
                else:
                    self.columns.append(found)

    def one(self, phrase: Sequence[str], want: Want = "") -> Quantity:
        """Return the one figure that a phrase means; an empty phrase is what the request leaves out."""
        words = _words(phrase)
        said = " ".join(phrase) or ("the percentage" if want == "percent" else "the figure to calculate with")
        if not self.candidates:
            raise self._missing(said)
        if len(phrase) <= 3 and words and (words[-1] in _RESULTS or words[-1] in _ORDINALS):
            ordinal = next((_ORDINALS[word] for word in words if word in _ORDINALS), None)
            if ordinal is not None:
                return self._of_task(ordinal, said)
        wanted: Want = want or ("percent" if set(words) & _RATES else "")
        fitting = self._fitting(words, wanted)
        if not fitting and not want and "rate" in words:
            # An exchange rate is no percentage.
            fitting = [one for one in self._fitting(words, "value") if "rate" in one.words]
        if not wanted and any(not one.quantity.percent for one in fitting):
            fitting = [one for one in fitting if not one.quantity.percent]
        if not fitting:
            raise self._missing(said, wanted)
        if len(fitting) > 1 and set(words) & (_MONEY | _TOTAL):
            fitting = [one for one in fitting if _is_money(one.quantity)] or fitting
        if len(fitting) > 1:
            shared = [len({_stem(word) for word in words} & one.words) for one in fitting]
            best = max(shared)
            if best and shared.count(best) == 1:
                fitting = [fitting[shared.index(best)]]
        if len(fitting) > 1 and len({one.quantity.expression for one in fitting}) > 1:
            raise self._several(said, fitting)
        if len({one.quantity.unit for one in fitting}) > 1:
            raise self._several(said, fitting)
        return fitting[0].quantity

    def refuse_years(self, literals: Sequence[str]) -> None:
        """Raise Stuck where a number of the request is a year that an earlier request is about."""
        said = {word for given in self._inputs for word in re.findall(r"\b(?:19|20)[0-9]{2}\b", given.intent)}
        for literal in literals:
            if literal in said:
                raise Stuck(
                    "question_not_understood",
                    f"{literal} is a year of an earlier request: write the figure of that year instead.",
                )

    def many(self, phrase: Sequence[str]) -> tuple[Quantity, ...]:
        """Return the figures that a phrase such as "these values" means: a column, or one of each task."""
        said = " ".join(phrase)
        words = _words(phrase)
        specific = {_stem(word) for word in words} - _STEMMED_GENERIC - {_stem(word) for word in MANY}
        columns = [one for one in self.columns if specific <= one.words]
        if len(columns) == 1 and (not self.candidates or specific):
            return columns[0].quantities
        if len(columns) > 1:
            raise Stuck(
                "question_not_understood",
                f"“{said}” may be any of {len(columns)} columns of earlier results: name the column.",
            )
        if specific or self.columns:
            raise self._missing(said)
        tasks = [one.task for one in self.candidates]
        if len(tasks) < 2 or len(set(tasks)) != len(tasks) or len(set(tasks)) != len(self._inputs):
            raise self._missing(said)
        return tuple(one.quantity for one in self.candidates)

    def _fitting(self, words: Sequence[str], want: Want) -> list[Candidate]:
        specific = {_stem(word) for word in words} - _STEMMED_GENERIC - _STEMMED_KINDS
        if want == "percent":
            specific -= {_stem(word) for word in ("rate", "percentage", "percent", "satz")}
        return [
            one
            for one in self.candidates
            if (not want or one.quantity.percent == (want == "percent"))
            and specific <= one.words
            and _agree(frozenset(words), one.words)
            and not (set(words) & _MONEY and one.words & _COUNTED and not one.quantity.unit)
        ]

    def _of_task(self, ordinal: int, said: str) -> Quantity:
        count = len(self._inputs)
        task = ordinal if ordinal >= 0 else count + ordinal
        found = [one for one in self.candidates if one.task == task]
        if len(found) != 1:
            raise self._missing(said) if not found else self._several(said, found)
        return found[0].quantity

    def _figures(self, task: int, given: Input) -> Iterator[Candidate | Column]:
        said = frozenset(_stem(word) for word in _words(_split(given.intent)))
        result = given.result
        if isinstance(result.get("value"), (str, int, float)) and not isinstance(result["value"], bool):
            if (text := _decimal(result["value"])) is not None:
                yield Candidate(
                    _quantity(
                        text, given.intent, unit=_unit(result.get("unit")), percent=result.get("unit") == "%"
                    ),
                    said,
                    task,
                )
            return
        if isinstance(result.get("columns"), Sequence) and isinstance(result.get("rows"), Sequence):
            yield from _table(task, given, result["columns"], result["rows"], said)
            return
        prose = _CITATION.sub(" ", given.text)
        if _GERMAN.search(prose):
            prose = _GERMAN_THOUSANDS.sub(lambda found: found[0].replace(".", ""), prose)
        if not re.search(r"[0-9]", prose):
            return
        try:
            found = figures(prose)
        except Stuck as stuck:
            self._unreadable = stuck.reason
            return
        for quantity, sentence in found:
            yield Candidate(
                replace(quantity, origins=(Origin(read(quantity), _shortened(given.intent)),)),
                said | {_stem(word) for word in _words(_split(sentence))},
                task,
            )

    def _missing(self, said: str, want: Want = "") -> Stuck:
        what = "percentage" if want == "percent" else "figure"
        if self._unreadable:
            why = f"and an earlier answer has a number that cannot be taken over: {self._unreadable}"
            return Stuck("figure_missing", f"“{said}” refers to a {what}, {why}")
        if not self._inputs:
            return Stuck(
                "figure_missing",
                f"“{said}” refers to a {what} that is not given: write the number itself.",
            )
        return Stuck(
            "figure_missing",
            f"No earlier result gives “{said}” as a {what}: write the number itself.",
        )

    def _several(self, said: str, fitting: Sequence[Candidate]) -> Stuck:
        shown = list(dict.fromkeys(read(one.quantity) for one in fitting))[:5]
        return Stuck(
            "question_not_understood",
            f"“{said}” may be any of {', '.join(shown[:-1])} and {shown[-1]}: write the number itself.",
        )


def is_reference(word: str) -> bool:
    """Tell whether a phrase of this first word may mean an earlier figure."""
    return word in PRONOUNS or word in MANY or word in _DETERMINERS


_DETERMINERS = frozenset({"the", "my", "our", "its", "der", "die", "das", "dem", "den", "this", "that"})
# In a German text the point of `1.200 Euro` parts thousands.
_GERMAN = re.compile(r"\b(?:der|das|und|ist|sind|beträgt|betragen|wird|werden|nicht|für)\b", re.IGNORECASE)
_GERMAN_THOUSANDS = re.compile(r"(?<![\w.,])[1-9]\d{0,2}(?:\.\d{3})+(?![\d.])")
_CITATION = re.compile(r"\[\d+\]|\[\^?\d+(?:,\s*\d+)*\]")


def _table(
    task: int, given: Input, columns: Sequence[Any], rows: Sequence[Any], said: frozenset[str]
) -> Iterator[Candidate | Column]:
    # Of a part of the rows nothing can be said about all.
    count = given.result.get("row_count", len(rows))
    if len(rows) > _MOST_VALUES or given.result.get("truncated") or count != len(rows):
        return
    numeric = []
    for place, column in enumerate(columns):
        name = str(column.get("name", "")) if isinstance(column, Mapping) else str(column)
        kind = str(column.get("type", "")) if isinstance(column, Mapping) else ""
        cells = [row[place] for row in rows if isinstance(row, Sequence) and len(row) > place]
        read = [None if isinstance(cell, str) and _TEXT.search(kind) else _decimal(cell) for cell in cells]
        texts = [text for text in read if text is not None]
        if texts and len(texts) == len(rows):
            numeric.append((name, texts))
    for name, texts in numeric:
        words = frozenset(_stem(word) for word in _words(_split(name)))
        # The request tells of the one figure; of several, only their columns do.
        words |= said if len(numeric) == 1 else frozenset()
        source = given.intent if len(numeric) == 1 else f"{name} ({given.intent})"
        quantities = tuple(_quantity(text, source) for text in texts)
        if len(quantities) == 1:
            yield Candidate(quantities[0], words, task)
        else:
            yield Column(quantities, words, task)


_TEXT = re.compile(r"char|text|string|date|time|uuid|bool", re.IGNORECASE)


def _quantity(text: str, source: str, *, unit: units.Unit = units.NONE, percent: bool = False) -> Quantity:
    found = number(text.lstrip("-"), unit=unit, percent=percent)
    if text.startswith("-"):
        found = replace(found, expression=f"(-{found.expression})", shown=f"(−{found.shown})")
    return replace(found, origins=(Origin(read(found), _shortened(source)),))


def _decimal(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text = repr(value) if isinstance(value, float) else str(value)
    if not re.fullmatch(r"-?[0-9]{1,300}(?:\.[0-9]{1,300})?(?:[eE][+-]?[0-9]{1,3})?", text):
        return None
    try:
        plain = f"{Decimal(text):f}"
    except InvalidOperation:
        return None
    sign = "-" if plain.startswith("-") else ""
    plain = plain.lstrip("-").lstrip("0") or "0"
    return sign + (plain if plain[0] != "." else f"0{plain}")


def _unit(text: Any) -> units.Unit:
    if not isinstance(text, str) or text == "%" or not text:
        return units.NONE
    try:
        given = tokens_of(text[:40])
    except Stuck:
        return units.NONE
    found = unit_at(given, 0)
    return found[1] if found and found[0] == len(given) else units.NONE


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SOURCE else f"{line[:_SOURCE]}…"


def _split(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text[:2000].lower())


def _words(phrase: Sequence[str]) -> list[str]:
    words = [
        "tax" if word in {"vat", "mwst", "mehrwertsteuer", "umsatzsteuer", "gst"} else word for word in phrase
    ]
    return [word for word in words if word not in _ASKING or word == "many"]


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


_STEMMED_GENERIC = frozenset(_stem(word) for word in _GENERIC)
_STEMMED_KINDS = frozenset(_stem(word) for kind in _KINDS for word in kind)


def _is_money(quantity: Quantity) -> bool:
    return any(name in units.CURRENCIES for name, _ in quantity.unit)


def _agree(words: frozenset[str], theirs: frozenset[str]) -> bool:
    """Tell whether a phrase and a figure are of one kind: a total may be what is of no other kind."""
    asked = [kind for kind in _KINDS if kind & words]
    named = [kind for kind in _KINDS if {_stem(word) for word in kind} & theirs]
    if asked == [_TOTAL]:
        return not named or _TOTAL in named
    return all(kind in named for kind in asked if kind is not _TOTAL)
