"""What a request asks to be worked out: one expression, with the figures that it takes over."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cartrita.orchestrator.skills import Brief
from cartrita.orchestrator.skills.calculate import quantities
from cartrita.orchestrator.skills.calculate.grammar import COMMANDS, NoReading, Parser
from cartrita.orchestrator.skills.calculate.quantities import Quantity, Stuck
from cartrita.orchestrator.skills.calculate.references import References, is_reference
from cartrita.orchestrator.skills.calculate.templates import from_template
from cartrita.orchestrator.skills.calculate.tokens import Token, tokens
from cartrita.tools.arithmetic import LONGEST_EXPRESSION

# The tool counts the parts of a syntax tree; every sign, name and number of an expression is at most three.
_MOST_SIGNS = 90


@dataclass(frozen=True, slots=True)
class Calculation:
    """What is to be worked out. Of a comparison it is the difference of its two sides."""

    quantity: Quantity
    sides: tuple[Quantity, Quantity] | None = None
    question: str = ""


def calculation(brief: Brief) -> Calculation:
    """Read a request. Raises Stuck, saying what is missing or not understood."""
    given = _stripped(tokens(brief.intent))
    references = References(brief.inputs)
    references.refuse_years([token.text for token in given if token.quantity is not None])
    if not given:
        raise Stuck("question_not_understood", _ASK)
    found = _compared(given, references) or Calculation(_chained(given, references))
    expression = found.quantity.expression
    if len(expression) > LONGEST_EXPRESSION or len(re.findall(r"[\w.]+|[^\s\w]", expression)) > _MOST_SIGNS:
        raise Stuck(
            "question_not_understood", "That is more than one expression can hold: ask for it in parts."
        )
    if re.fullmatch(r"[0-9.]+", expression):
        raise Stuck(
            "question_not_understood", f"What is to be done with {quantities.read(found.quantity)}? {_ASK}"
        )
    return found


_ASK = "Write it as an expression, such as (231.80 + 20) * 1.19, or as “19 % of 231.80”."
_LEAD = re.compile(
    r"(?:(?:please|and|then|now|next|so|also|ok|okay|finally|first|bitte|dann|und|just|well|hi|hello|,|:|"
    r"can you|could you|would you|i need to know|i want to know|i would like to know|tell me|give me|show me|"
    r"find out|find|determine|calculate|compute|evaluate|work out|figure out|solve|"
    r"the result of|the value of|calcula|calcule|calculer|berechne|errechne|rechne aus|das ergebnis von|"
    r"what would be|what will be|what is|what are|what do|what does|what|how much is|how much are|"
    r"how much do|how much does|how much would|how many is|how many are|how many sind|how many ist|"
    r"was kosten|was kostet|was macht|combien coûtent|combien coûte) )+"
)
_TAIL = re.compile(
    r"(?: (?:please|bitte|thanks|thank you|=|\?|\.|(?<=0 )(?:cost|costs|kosten|kostet)|together|altogether|"
    r"in total|in all|insgesamt|zusammen|equal|equals|make|makes|exactly|come to|aus|ausrechnen|now|then|"
    r"for me|to me))+"
)


def _text(given: Sequence[Token]) -> str:
    return " ".join("0" if token.quantity is not None else token.text.replace(" ", "_") for token in given)


def _stripped(given: Sequence[Token]) -> Sequence[Token]:
    """Leave out the words around a request that say nothing about its figure."""
    lead = _LEAD.match(_text(given) + " ")
    given = given[lead.group().count(" ") :] if lead else given
    text = _text(given)
    for found in _TAIL.finditer(text):
        if found.end() == len(text):
            return given[: len(given) - found.group().count(" ")]
    return given


_BIGGER = frozenset({"greater", "larger", "bigger", "more", "higher", "größer", "above"})
_SMALLER = frozenset({"less", "smaller", "lower", "fewer", "kleiner", "below"})


def _compared(given: Sequence[Token], references: References) -> Calculation | None:
    if given[0].text not in {"is", "are", "ist", "sind"}:
        return None
    given = given[1:]
    for place, token in enumerate(given):
        following = given[place + 1].text if place + 1 < len(given) else ""
        if token.text in _BIGGER | _SMALLER and following in {"than", "als"}:
            end = place + 2
        elif token.text in {">", "<"}:
            end = place + 1
        elif token.text == "equal" and following == "to":
            end = place + 2
        else:
            continue
        try:
            one, other = (_read(part, references)[0] for part in (given[:place], given[end:]))
        except NoReading:
            break
        if one.percent != other.percent:
            break
        word = ">" if token.text in _BIGGER | {">"} else "=" if token.text == "equal" else "<"
        return Calculation(quantities.minus(one, other), (one, other), word)
    raise Stuck("question_not_understood", f"It is not understood what is to be compared. {_ASK}")


def _chained(given: Sequence[Token], references: References) -> Quantity:
    try:
        return _read(given, references)[0]
    except NoReading as whole:
        parts = _parts(given)
        if len(parts) == 1:
            raise _not_understood(given, whole) from None
        found = _part(parts[0], references, None)
        for part in parts[1:]:
            found = _part(part, references, found)
        return found


def _part(given: Sequence[Token], references: References, previous: Quantity | None) -> Quantity:
    try:
        found, goes_on = _read(given, references, previous=previous)
    except NoReading as unread:
        raise _not_understood(given, unread) from None
    if previous is not None and not goes_on:
        raise Stuck(
            "question_not_understood",
            "It asks for two figures that have nothing to do with each other: ask for one at a time.",
        )
    return found


def _parts(given: Sequence[Token]) -> list[Sequence[Token]]:
    """Cut a request before the commands that go on from what was before."""
    found: list[Sequence[Token]] = []
    start = 0
    place = 0
    while place < len(given):
        end = place
        while place < len(given) and given[place].text in {",", ".", "and", "then", "und", "dann"}:
            place += 1
        joined = place > end
        then = any(token.text in {"then", "dann"} for token in given[end:place])
        goes_on = place < len(given) and (
            given[place].text in COMMANDS or (then and given[place].text in _GOES_ON)
        )
        if joined and end > start and goes_on:
            found.append(given[start:end])
            start = place
        elif not joined:
            place += 1
    return [*found, given[start:]]


_GOES_ON = frozenset({"plus", "minus", "times", "+", "-", "*"})


def _read(
    given: Sequence[Token], references: References, *, previous: Quantity | None = None
) -> tuple[Quantity, bool]:
    if not given:
        raise NoReading
    parser = Parser(given, references, previous=previous)
    try:
        found = from_template(given, parser.reference)
    except NoReading:
        try:
            found = parser.whole()
        except NoReading:
            raise NoReading(parser.furthest) from None
    parser.refuse_one_figure_twice()
    return found, parser.goes_on


def _not_understood(given: Sequence[Token], unread: NoReading) -> Stuck:
    furthest = unread.args[0] if unread.args and isinstance(unread.args[0], int) else 0
    if not any(token.quantity is not None for token in given) and not any(
        is_reference(token.text) for token in given
    ):
        return Stuck("figure_missing", f"There is no number in it to calculate with. {_ASK}")
    said = " ".join(token.text for token in given[furthest : furthest + 4])[:80]
    at = f"“{said}” is not understood" if said else "Something is missing at the end"
    return Stuck("question_not_understood", f"{at}. {_ASK}")
