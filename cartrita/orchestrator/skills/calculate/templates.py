# ruff: noqa: E501 # a form is read best in one line
"""Requests of fixed forms: prices, taxes, discounts, changes in percent, interest, conversions, areas."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cartrita.orchestrator.skills.calculate import quantities, units
from cartrita.orchestrator.skills.calculate.grammar import NoReading
from cartrita.orchestrator.skills.calculate.quantities import Quantity, Stuck, number
from cartrita.orchestrator.skills.calculate.tokens import Token, unit_at

# Reads a phrase that means an earlier figure.
Reader = Callable[[Sequence[str], Any], Quantity]
Builder = Callable[..., Quantity]

_SLOTS = {
    "q": r"(Q\d+)",
    "p": r"(P\d+)",
    "x": r"(Q\d+|(?:the|my|our|that|this|it|its)(?: (?!at\b|by\b|with\b|is\b|to\b|from\b|and\b)[^\W\d_]+){0,4}?)",
    "r": r"(P\d+|the (?:[^\W\d_]+ ){0,2}?(?:rate|percentage))",
    "N": r"(?!at\b|and\b|for\b|cost|(?:it|its|that|this|the|my|our)\b)[^\W\d_](?:[^\W\d_]|['-])*",
    "U": r"(?!(?:it|its|that|this|the|my|our)\b)((?:square-|cubic-)?[^\W\d]+(?: (?:per|/|celsius|fahrenheit|\^)(?: [^\W\d_]+| Q\d+)?)*)",
    "a": r"(?: (?:a|the|an|die|der|das))?",
    "tax": r"(?: tax(?: rate)?(?: added)?)?",
    "year": r"(?: (?:interest|per year|a year|per annum|yearly|annually|annual interest|p a))*",
}

_templates: list[tuple[re.Pattern[str], Builder]] = []


def from_template(given: Sequence[Token], reader: Reader) -> Quantity:
    """Read tokens that have one of the forms. Raises NoReading and Stuck."""
    text = " ".join(_slot(place, token) for place, token in enumerate(given))
    for pattern, builder in _templates:
        if found := pattern.fullmatch(text):
            try:
                return builder(*(_argument(part, given, reader) for part in found.groups()))
            except NoReading:
                continue
    if re.search(r"\binterest\b|\bzins(?:en)?\b", text) and _years(given):
        raise Stuck(
            "question_not_understood",
            "Simple or compound interest? Write “simple interest on 1000 at 5 % for 10 years” or “compound "
            "interest on 1000 at 5 % for 10 years”.",
        )
    raise NoReading


def _slot(place: int, token: Token) -> str:
    if token.quantity is None:
        return token.text
    return f"{'P' if token.quantity.percent else 'Q'}{place}"


def _argument(part: str | None, given: Sequence[Token], reader: Reader) -> Any:
    if not part:
        return part
    if re.fullmatch(r"[PQ]\d+", part):
        return given[int(part[1:])].quantity
    words = part.split()
    if words[0] in {"the", "my", "our", "that", "this", "it", "its"}:
        return reader(words, "percent" if words[-1] in {"rate", "percentage"} else "value")
    return part


def _years(given: Sequence[Token]) -> bool:
    return any(token.quantity and token.quantity.unit in _PERIODS for token in given)


_YEARS: units.Unit = (("years", 1),)
_PERIODS = (_YEARS, (("months", 1),))


def _template(*patterns: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        for pattern in patterns:
            for name, slot in _SLOTS.items():
                pattern = pattern.replace(f"{{{name}}}", slot)  # noqa: PLW2901 # filled in step by step
            _templates.append((re.compile(pattern), builder))
        return builder

    return register


# Prices


_PRICED = (
    r"{q}(?: {N}){0,3} (at|à|zu|zu je|je|a) {q}(?: (?:each|apiece|(?:per|le|la|das|pro|je|a|the) ({N})))?"
)


@_template(
    _PRICED,
    rf"{_PRICED} (?:and|plus|und|,) {_PRICED}",
    rf"{_PRICED} ?, {_PRICED} (?:and|plus|und|, and) {_PRICED}",
    r"{q}(?: {N}){0,3} (for) {q} (?:each|apiece)()",
    r"(?:i|we) (?:bought|buy|ordered|order) {q}(?: {N}){0,3} (at|for) {q} (?:each|apiece)() (?:, |\. )?(?:what|how much) (?:did|do) (?:i|we) "
    r"(?:pay|spend|owe)",
    rf"(?:the )?(?:total|total cost|total price|cost|price) (?:of|for) {_PRICED}",
)
def _prices(*parts: Any) -> Quantity:
    return quantities.total([_price(*parts[place : place + 4]) for place in range(0, len(parts), 4)])


def _price(count: Quantity, at: str, price: Quantity, per: str | None) -> Quantity:
    if per and per in units.WORDS:
        price = replace(price, unit=units.product(price.unit, units.WORDS[per], power=-1))
    elif count.unit and at.endswith("je"):
        price = replace(price, unit=units.product(price.unit, count.unit, power=-1))
    elif count.unit and not any(power < 0 for _, power in price.unit):
        raise Stuck(
            "question_not_understood",
            f"{quantities.read(price)} is the price of how much? Write it per unit, such as 3.20 € per kg.",
        )
    found = quantities.times(count, price)
    if any(power < 0 or name not in units.CURRENCIES for name, power in found.unit):
        raise NoReading
    return found


@_template(
    r"(?:if )?{q}((?: {N}){0,2}) costs? {q} (?:, |\. )?(?:then )?(?:what|how much) (?:do|does|would|will|are|is|for) "
    r"{q}((?: {N}){0,2}?)(?: cost)?",
    r"(?:a|the|my) recipe for {q}((?: {N})?) (?:needs|uses|requires|takes) {q}(?: {N}){0,2} (?:, |\. )?how "
    r"(?:much|many)(?: {N})? (?:for|do i need for) {q}((?: {N})?)",
)
def _rule_of_three(had: Quantity, what: str, gave: Quantity, asked: Quantity, same: str) -> Quantity:
    if had.fraction or asked.fraction or (what and same and what.rstrip("s") != same.rstrip("s")):
        raise NoReading
    if had.unit or asked.unit:
        if not had.unit or not asked.unit:
            raise NoReading
        asked = quantities.converted(asked, had.unit)
    bare = replace(had, unit=units.NONE), replace(asked, unit=units.NONE)
    return quantities.over(quantities.times(gave, bare[1]), bare[0])


@_template(
    r"(?:if )?{q} (workers|people|men|machines|painters|pumps|taps|printers) (?:need|take|require) {q}(?: for {N} {N}| "
    r"to {N} {N} {N})? (?:, |\. )?how long (?:do|would|will) {q}(?: \2)? (?:need|take|require)"
)
def _shared_work(had: Quantity, _who: str, took: Quantity, asked: Quantity) -> Quantity:
    if not took.unit or not had.is_plain or not asked.is_plain:
        raise NoReading
    return quantities.over(quantities.times(took, had), asked)


@_template(
    r"(?:the )?price (?:per|of an?|of one|for one) ({N}) if {q}(?: ({N}))? costs? {q}",
    r"(?:the )?price (?:per|of an?|of one|for one) ({N}) (?:at|for|with) {q}(?: ({N}))? for {q}",
)
def _price_each(per: str, count: Quantity, what: str | None, price: Quantity) -> Quantity:
    if count.unit:
        if units.WORDS.get(per) is None:
            raise NoReading
        return quantities.over(price, quantities.converted(count, units.WORDS[per]))
    if per in units.WORDS or (what and what.rstrip("s") != per.rstrip("s")):
        raise NoReading
    return quantities.over(price, count)


@_template(
    r"split (?:(?:a|the) )?(?:(?:restaurant )?bill of )?{x} (?:between|among|by|into) {q}(?: people| persons| friends| of us)? "
    r"with(?: a)? {p} tip",
    r"split (?:a|the) (?:restaurant )?bill of {x} (?:between|among|by|into) {q}(?: people| persons| friends| of us)?()",
)
def _split_bill(bill: Quantity, people: Quantity, tip: Quantity | str | None) -> Quantity:
    if not people.is_plain:
        raise NoReading
    return quantities.over(quantities.more(bill, tip) if isinstance(tip, Quantity) else bill, people)


@_template(r"{q} (?:friends|people|persons) share {q} {N} at {q} (?:, |\. )?what does each (?:pay|owe)")
def _shared_price(people: Quantity, count: Quantity, price: Quantity) -> Quantity:
    if not people.is_plain or not count.is_plain:
        raise NoReading
    return quantities.over(quantities.times(count, price), people)


@_template(
    r"(?:i|we|he|she) (?:earns?|pays?|saves?|spends?|gets?) {q} (?:a|per|each|every) month (?:, |\. )?how much is (?:that|it) (?:a|per|in a) year"
)
def _monthly(paid: Quantity) -> Quantity:
    return quantities.times(paid, number("12"))


@_template(
    r"after how many (weeks|months|days|years) (?:have i saved|do i have|will i have) {q} (?:at|with) {q} (?:a|per|each|every) ({N})",
)
def _goal(periods: str, goal: Quantity, saved: Quantity, period: str) -> Quantity:
    if periods != f"{period}s":
        raise NoReading
    return replace(quantities.applied("ceil", quantities.over(goal, saved)), unit=units.WORDS[period])


@_template(
    r"(?:i|we) (?:save|put aside|earn) {q} (?:a|per|each|every) ({N}) (?:\. |, )?after how many (weeks|months|days|years) (?:have i saved|do i have|will i have) {q}",
)
def _saving(saved: Quantity, period: str, periods: str, goal: Quantity) -> Quantity:
    return _goal(periods, goal, saved, period)


# Discounts and taxes


@_template(
    r"(?:the )?(?:price|cost|total)(?: of {x})? after(?: a)? {p} (?:discount|rebate|reduction)(?: (?:on|from|of) {x})?",
)
def _after_discount(before: Quantity | None, part: Quantity, of: Quantity | None) -> Quantity:
    if (before is None) == (of is None):
        raise NoReading
    return quantities.less(before or of, part)  # type: ignore[arg-type] # one of them is there


@_template(
    r"{x} (?:with|after|minus|less|reduced by|discounted by)(?: a)? {p}(?: (?:discount|rebate|off|rabatt|reduction))?",
    r"discount {x} by {p}",
)
def _discounted(whole: Quantity, part: Quantity) -> Quantity:
    return quantities.less(whole, part)


@_template(
    r"(?:apply|give)(?: a| the)? {p} (?:discount|rebate) (?:to|on) {x}",
    r"{p} (?:discount|rebate|rabatt) applied to {x}",
)
def _apply_discount(part: Quantity, whole: Quantity) -> Quantity:
    return quantities.less(whole, part)


@_template(
    r"(?:the )?net(?: price| amount| value| total)? (?:if|when)(?: the)? gross(?: price| amount| value)? is {x} (?:and|with|at)(?: the)?"
    r"(?: tax(?: rate)?)?(?: is| of)? {r}{tax}",
    r"(?:the )?net(?: price| amount| value| total)? (?:of|from|for)(?:{a} gross(?: price| amount)?(?: of)?)? {x}(?: gross)? "
    r"(?:at|with|including|and|incl|,)(?: a)? {r}{tax}(?: included| contained)?",
    r"{x} (?:gross )?(?:without|excluding|before)(?: the)? {r} tax",
)
def _net(gross: Quantity, rate: Quantity) -> Quantity:
    return quantities.before(gross, rate)


@_template(
    r"(?:the )?net(?: price| amount| value| total)? of {x}()",
    r"(?:the )?(gross)(?: price| amount| value| total)? (?:of|for) {x}",
)
def _net_or_gross_without_rate(*_parts: Any) -> Quantity:
    raise Stuck(
        "figure_missing",
        "The tax rate is missing: write it, such as “net of 119 at 19 %” or “gross of 100 at 19 %”.",
    )


@_template(
    r"(?:the )?gross(?: price| amount| value| total)? (?:if|when)(?: the)? net(?: price| amount| value)? is {x} (?:and|with|at)(?: the)?"
    r"(?: tax(?: rate)?)?(?: is| of)? {r}{tax}",
    r"(?:the )?gross(?: price| amount| value| total)? (?:of|from|for)(?:{a} net(?: price| amount)?(?: of)?)? {x}(?: net)? "
    r"(?:at|with|plus|and)(?: a)? {r}{tax}",
    r"{x}(?: net)? (?:plus|and)(?: the)? {r} tax(?: added| on top)?",
)
def _gross(net: Quantity, rate: Quantity) -> Quantity:
    return quantities.more(net, rate)


@_template(r"{x} (?:including|incl|inclusive of|with) (?:{r} )?tax(?: at {r})?")
def _added_or_contained(*_parts: Any) -> Quantity:
    raise Stuck(
        "question_not_understood",
        "Is the tax to be added, or contained already? Write “100 plus 19 % VAT” or “net of 119 at 19 %”.",
    )


@_template(r"(?:the )?tax (?:at|of) {r} (?:on|for) {x}")
def _tax_at(rate: Quantity, net: Quantity) -> Quantity:
    return quantities.percent_of(rate, net)


@_template(r"how much (?:more|higher|larger|greater|bigger|longer|heavier) (?:is|are) {x} than {x}")
def _excess(one: Quantity, other: Quantity) -> Quantity:
    return quantities.minus(one, other)


@_template(r"{p} (?:more|higher|larger|greater) than {x}", r"{p} above {x}")
def _that_much_more(part: Quantity, whole: Quantity) -> Quantity:
    return quantities.more(whole, part)


@_template(r"{p} (?:less|lower|smaller|cheaper) than {x}", r"{p} below {x}")
def _that_much_less(part: Quantity, whole: Quantity) -> Quantity:
    return quantities.less(whole, part)


@_template(
    r"(?:how much (?:is )?(?:the )?)?(?:the )?tax (?:is )?(?:contained |included )?in {x} (?:at|with|of)(?: a)? {r}{tax}",
    r"(?:the )?tax (?:contained|included) in {x} (?:at|with)(?: a)? {r}{tax}",
)
def _tax_contained(gross: Quantity, rate: Quantity) -> Quantity:
    return quantities.contained(gross, rate)


# Percentages and changes


@_template(
    r"(?:(?:what|which|how many) )?(?:%|percentage) of {x} (?:is|are) {x}",
    r"how many % (?:of|von) {x} (?:is|are|sind) {x}",
)
def _share(whole: Quantity, part: Quantity) -> Quantity:
    return quantities.share(part, whole)


@_template(
    r"{x} (?:is|are) (?:what|which|how many) (?:%|percentage) of {x}",
    r"{x} (?:of|out of|von) {x} in %",
    r"{x} (?:as|in)(?: a)? (?:%|percentage) of {x}",
    r"(?:the )?(?:share|proportion|percentage|% share) of {x} (?:in|of) {x}(?: in %)?",
)
def _share_of(part: Quantity, whole: Quantity) -> Quantity:
    return quantities.share(part, whole)


@_template(
    r"{x} is {p} of (?:what|which)(?: number| amount)?", r"of (?:what|which)(?: number| amount)? is {x} {p}"
)
def _whole_of(part: Quantity, percentage: Quantity) -> Quantity:
    return quantities.over(part, percentage)


_ROSE = r"(?:rise|rose|increase|increased|grow|grew|went up|go up|climb|climbed|gain)"
_FELL = r"(?:fall|fell|decrease|decreased|drop|dropped|went down|go down|decline|declined|shrink|shrank|sink|sank)"
_SUBJECT = r"(?:(?:the|our|my|a|it|they)(?: {N}){0,3} |{N} )"


@_template(
    r"(?:the )?(?:percentage|%|relative) (?:change|increase|growth|rise) from {x} to {x}",
    r"(?:the )?(?:change|increase|growth|rise) from {x} to {x} (?:in %|as a percentage)",
    rf"by (?:how many %|what %|what percentage|how much %) (?:did {_SUBJECT}){_ROSE} from {{x}} to {{x}}",
    rf"by (?:how many %|what %|what percentage) did {_SUBJECT}change from {{x}} to {{x}}",
    rf"{_SUBJECT}(?:{_ROSE}|went|changed) from {{x}} to {{x}} (?:\. |, )?(?:what is|how much is|what was) the (?:increase|change|growth|rise) "
    r"in (?:%|percentage)",
    rf"{_SUBJECT}(?:{_ROSE}|went|changed) from {{x}} to {{x}} (?:\. |, )?(?:what is|how much is|what was) the (?:percentage|%) (?:increase|change|growth|rise)",
)
def _change(old: Quantity, new: Quantity) -> Quantity:
    _refuse_years(old, new)
    return quantities.change(old, new)


@_template(
    r"(?:the )?(?:percentage|%|relative) (?:decrease|drop|decline|fall|reduction) from {x} to {x}",
    r"(?:the )?(?:decrease|drop|decline|fall|reduction) from {x} to {x} (?:in %|as a percentage)",
    rf"by (?:how many %|what %|what percentage|how much %) (?:did {_SUBJECT}){_FELL} from {{x}} to {{x}}",
    rf"{_SUBJECT}(?:{_FELL}|went) from {{x}} to {{x}} (?:\. |, )?(?:what is|how much is|what was) the (?:decrease|drop|decline|reduction) "
    r"in (?:%|percentage)",
)
def _decrease(old: Quantity, new: Quantity) -> Quantity:
    _refuse_years(old, new)
    return quantities.as_percent(quantities.over(quantities.minus(old, new), old))


def _refuse_years(old: Quantity, new: Quantity) -> None:
    if all(re.fullmatch(r"(?:19|20)[0-9]{2}", one.expression) and one.is_plain for one in (old, new)):
        raise Stuck(
            "figure_missing",
            f"{old.shown} and {new.shown} look like years: write the figures of these years instead.",
        )


@_template(r"(?:by )?how many % is {x} (?:more|higher|larger|greater) than {x}")
def _more_than(new: Quantity, old: Quantity) -> Quantity:
    return quantities.change(old, new)


@_template(r"(?:by )?how many % is {x} (?:less|lower|smaller|cheaper) than {x}")
def _less_than(new: Quantity, old: Quantity) -> Quantity:
    return _decrease(old, new)


@_template(
    rf"by (?:what|which) factor did {_SUBJECT}(?:{_ROSE}|change)(?: if it (?:{_ROSE}|went))? from {{x}} to {{x}}",
    r"(?:the )?(?:growth )?factor from {x} to {x}",
)
def _growth_factor(old: Quantity, new: Quantity) -> Quantity:
    _refuse_years(old, new)
    return quantities.over(new, old)


@_template(r"how many times (?:larger |greater )?(?:does {x} fit into|is {x} contained in) {x}")
def _how_many_times(part: Quantity | None, other: Quantity | None, whole: Quantity) -> Quantity:
    found = part or other
    if found is None:
        raise NoReading
    return quantities.over(whole, found)


# Interest


@_template(
    r"(?:the )?simple interest (?:on|of|for) {x} at {r}{year} (?:for|over|in|after) {q}",
    r"(?:the )?simple interest (?:on|of|for) {x} (?:for|over) {q} at {r}{year}",
    r"(?:how much )?simple interest (?:does|do|will|would) {x} (?:earn|bring|yield|give) at {r}{year} (?:for|over|in|after) {q}",
)
def _simple_interest(capital: Quantity, one: Quantity, other: Quantity) -> Quantity:
    rate, time = (one, other) if one.percent else (other, one)
    return quantities.times(quantities.percent_of(rate, capital), _number_of_years(time))


@_template(
    r"(?:the )?compound(?:ed)? interest (?:on|of|for) {x} at {r}{year} (?:for|over|in|after) {q}",
    r"(?:the )?compound(?:ed)? interest (?:on|of|for) {x} (?:for|over) {q} at {r}{year}",
)
def _compound_interest(capital: Quantity, one: Quantity, other: Quantity) -> Quantity:
    return quantities.minus(_grown(capital, one, other), capital)


_COMPOUND = r"(?:(?: (?:compound(?:ed)?|with compound|yearly|annually|annual|every year|per year|interest))*)"


@_template(
    rf"{{x}} at {{r}}(?= .*\bcompound){_COMPOUND} (?:for|over|after|in) {{q}}{_COMPOUND}",
    rf"if i invest {{x}} at {{r}}(?= .*\bcompound){_COMPOUND} for {{q}}{_COMPOUND} (?:, )?(?:how much do i have|what do i have|how much is it|how much will i have)"
    r"(?: in the end| then| afterwards)?",
    rf"(?:the )?(?:final )?(?:value|amount|balance)(?: of)? {{x}} (?:after|in) {{q}} (?:at|with) {{r}}(?= .*\bcompound){_COMPOUND}",
    rf"(?:the )?(?:final )?(?:value|amount|balance)(?: of)? {{x}} (?:at|with) {{r}}(?= .*\bcompound){_COMPOUND} (?:after|for|over) {{q}}",
)
def _with_compound_interest(capital: Quantity, one: Quantity, other: Quantity) -> Quantity:
    return _grown(capital, one, other)


@_template(
    r"(?:the )?(?:yearly |annual )?interest (?:on|for|of) {x} at {r}(?: per year| a year| per annum)?(?: (?:for|in|over) {q})?",
)
def _interest_of_a_year(capital: Quantity, rate: Quantity, time: Quantity | None) -> Quantity:
    if time is not None and (time.unit != _YEARS or time.expression != "1"):
        raise NoReading
    return quantities.percent_of(rate, capital)


def _number_of_years(time: Quantity) -> Quantity:
    if time.unit not in _PERIODS:
        raise NoReading
    return replace(quantities.converted(time, _YEARS), unit=units.NONE)


def _grown(capital: Quantity, one: Quantity, other: Quantity) -> Quantity:
    rate, time = (one, other) if one.percent else (other, one)
    years = _number_of_years(time)
    if not years.expression.isdigit():
        raise Stuck(
            "question_not_understood", "Compound interest is worked out for whole years only: write how many."
        )
    base = quantities.more(number("1"), rate)
    # 1 * (1 + 5 / 100) says no more than (1 + 5 / 100).
    base = replace(
        base,
        expression=base.expression.removeprefix("1 * "),
        shown=base.shown.removeprefix("1 × "),
        level=quantities.ATOM,
        shown_level=quantities.ATOM,
    )
    growth = quantities.power(base, years)
    return quantities.times(capital, growth)


# Units


@_template(
    r"how many {U} (?:is|are|are there in|are in|in|has|have|do|does|make|make up|there are in|fit in) {q}(?: (?:have|has|make))?",
    r"(?:what is |how much is )?{U} in {q}",
)
def _in_units(unit: str, given: Quantity) -> Quantity:
    return quantities.converted(_measured(given), _unit_of(unit))


@_template(
    r"(?:convert |rechne |express )?{q} {q} (?:in|to|into) {U}(?: um)?",
    r"(?:convert |rechne |express )?{q} and {q} (?:in|to|into) {U}(?: um)?",
)
def _compound_measure(large: Quantity, small: Quantity, unit: str) -> Quantity:
    if large.unit == (("ft", 1),) and small.is_plain:
        small = replace(small, unit=(("in", 1),))
    if not large.unit or not small.unit or units.factor(small.unit, large.unit) is None:
        raise NoReading
    return quantities.converted(quantities.plus(large, small), _unit_of(unit))


@_template(r"(?:rechne|wandle) {q} in {U} um")
def _converted(given: Quantity, unit: str) -> Quantity:
    return quantities.converted(_measured(given), _unit_of(unit))


def _measured(given: Quantity) -> Quantity:
    if not given.unit:
        raise Stuck(
            "question_not_understood", f"{quantities.read(given)} has no unit to convert from: write one."
        )
    return given


def _unit_of(text: str) -> units.Unit:
    words = [Token(word) for word in text.split()]
    read = unit_at(words, 0)
    if read is None and text in {"inches", "inch"}:
        read = 1, units.WORDS["inch"]
    if read is None or read[0] != len(words):
        raise NoReading
    return read[1]


# Motion


@_template(
    r"how fast is {N}(?: {N})? (?:that|which|who) (?:travels|goes|drives|covers|runs|rides|does) {q} in {q}",
    r"(?:a|the|my) {N} (?:travels|goes|drives|covers|runs|rides|does) {q} in {q} (?:, |\. )?how fast (?:is|was) (?:it|he|she)(?: on average)?",
    r"(?:the )?average speed (?:for|over|of) {q} in {q}",
)
def _speed(way: Quantity, time: Quantity) -> Quantity:
    if not way.unit or not time.unit:
        raise NoReading
    return quantities.over(way, time)


@_template(
    r"how long does it take (?:for|to (?:drive|travel|ride|go|run|cover)) {q} at {q}",
    r"how long (?:do|does) (?:i|you|one|a car|it) (?:need|take) for {q} at {q}",
    r"wie lange (?:braucht|brauche|brauchen) (?:man|ich|wir) für {q} (?:bei|mit) {q}",
)
def _duration(way: Quantity, speed: Quantity) -> Quantity:
    if not way.unit or len(speed.unit) != 2:
        raise NoReading
    return quantities.over(way, speed)


# Series and areas


@_template(
    r"(?:the )?sum of (?:all |the |all the )?(?:numbers|integers|whole numbers|natural numbers) (?:from|between) {q} (?:to|and) {q}"
)
def _series(first: Quantity, last: Quantity) -> Quantity:
    if not (first.expression.isdigit() and last.expression.isdigit() and first.is_plain and last.is_plain):
        raise NoReading
    count = quantities.plus(quantities.minus(last, first), number("1"))
    return quantities.over(quantities.times(quantities.plus(first, last), count), number("2"))


@_template(
    r"(?:the )?area of (?:a|the) (?:rectangle|room|rectangular room|field|rectangular field|wall|garden) (?:of|with sides(?: of)?|measuring|that is) {q} (?:by|and|\*) {q}",
    r"how many (?:square-m|square-met(?:er|re)s) (?:is|has) (?:a|the) (?:room|rectangle|wall|field) of {q} (?:by|\*) {q}",
)
def _rectangle(one: Quantity, other: Quantity) -> Quantity:
    if one.is_plain and other.unit:
        one = replace(one, unit=other.unit)
    return quantities.times(one, other)


@_template(r"(?:the )?area of (?:a|the) square (?:of|with (?:sides?|an edge)(?: of)?) {q}")
def _square(side: Quantity) -> Quantity:
    return quantities.power(side, number("2"))


@_template(r"(?:the )?area of (?:a|the) circle (?:of|with)(?: a| the)? (radius|diameter)(?: of)? {q}")
def _circle(measure: str, length: Quantity) -> Quantity:
    radius = quantities.over(length, number("2")) if measure == "diameter" else length
    return quantities.times(_PI, quantities.power(radius, number("2")))


@_template(
    r"(?:the )?circumference of (?:a|the) circle (?:of|with)(?: a| the)? (radius|diameter)(?: of)? {q}"
)
def _circumference(measure: str, length: Quantity) -> Quantity:
    around = quantities.times(_PI, length)
    return around if measure == "diameter" else quantities.times(number("2"), around)


@_template(
    r"(?:the )?volume of (?:a|the) cube (?:of|with)(?: an| the)? (?:edge|side|edge length|side length)(?: of)? {q}"
)
def _cube(edge: Quantity) -> Quantity:
    return quantities.power(edge, number("3"))


@_template(
    r"(?:the )?hypotenuse of (?:a|the) (?:right )?(?:right-angled )?triangle (?:of|with)(?: sides| legs| the sides)?(?: of)? {q} and {q}",
    r"(?:the )?(?:length of the )?diagonal of (?:a|the) rectangle (?:of|with sides(?: of)?) {q} (?:by|and|\*) {q}",
)
def _hypotenuse(one: Quantity, other: Quantity) -> Quantity:
    if one.is_plain and other.unit:
        one = replace(one, unit=other.unit)
    squares = quantities.plus(quantities.power(one, number("2")), quantities.power(other, number("2")))
    root = Quantity(expression=f"sqrt({squares.expression})", shown=f"√({squares.shown})", unit=one.unit)
    return replace(root, origins=squares.origins)


_PI = Quantity(expression="pi", shown="π")
