"""Requests that are expressions in signs and words: recursive descent over the tokens.

Every word of a request must have its place, or there is no reading: what is skipped could change the figure.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from cartrita.orchestrator.skills.calculate import quantities, units
from cartrita.orchestrator.skills.calculate.quantities import Quantity, Stuck
from cartrita.orchestrator.skills.calculate.references import MANY, PRONOUNS, References, Want, is_reference
from cartrita.orchestrator.skills.calculate.tokens import Token, one_of, unit_at

# Steps that reading may take, so that no request is slow.
_MOST_STEPS = 20_000
_DEEPEST = 40
_LONGEST_PHRASE = 7  # words

_PLUS = frozenset({"+", "plus", "más", "piu"})
_MINUS = frozenset({"-", "minus", "less", "moins", "menos"})
_TIMES = frozenset({"*", "times", "mal", "fois", "por", "multiply"})
_OVER = frozenset({"/", "over", "entre", "durch"})
_OF = frozenset({"of", "von", "vom", "de", "del", "des", "aus"})
_AND = frozenset({"and", "und", "et", "y", ","})
_ARTICLES = frozenset({"the", "a", "an", "der", "die", "das", "den", "dem", "le", "la", "el"})
# What a percentage may be called.
_PARTS = frozenset(
    {"tax", "tip", "interest", "commission", "fee", "surcharge", "provision", "markup", "trinkgeld"}
)
_ANGLES = frozenset({"sin", "cos", "tan"})
_REBATES = frozenset({"discount", "rebate", "rabatt", "skonto", "reduction"})
_FUNCTIONS = one_of(
    "abs cbrt ceil comb cos exp factorial floor gcd lcm log log10 max mean median min round sin sqrt "
    "sum tan ln"
)
_OF_MANY: Mapping[str, str] = {
    "average": "mean",
    "mean": "mean",
    "durchschnitt": "mean",
    "mittelwert": "mean",
    "moyenne": "mean",
    "promedio": "mean",
    "median": "median",
    "maximum": "max",
    "largest": "max",
    "highest": "max",
    "minimum": "min",
    "smallest": "min",
    "lowest": "min",
    "gcd": "gcd",
    "lcm": "lcm",
}
_SUMS = frozenset({"sum", "total", "summe", "somme", "suma"})
_PRODUCTS = frozenset({"product", "produkt", "produit", "producto"})
_DIFFERENCES = frozenset({"difference", "differenz", "différence"})
_QUOTIENTS = frozenset({"quotient", "ratio", "verhältnis"})
# Where a phrase that means an earlier figure ends.
_ENDS = one_of(
    "by to from into in at with and und plus minus times mal divided as than is are per for on off "
    "less more if when how what then multiplied over durch auf um between among including rounded"
)
_RATES = frozenset({"rate", "percentage", "satz", "steuersatz"})
_BARE = one_of(
    "total result sum price amount revenue cost answer average difference rate ergebnis summe gesamtsumme"
)


class NoReading(Exception):
    """The tokens are not what was tried."""


class Parser:
    """Reads tokens as a quantity. `previous` is what the part of the request before came to."""

    def __init__(
        self, tokens: Sequence[Token], references: References, *, previous: Quantity | None = None
    ) -> None:
        self._tokens = tokens
        self._references = references
        self._previous = previous
        self._place = 0
        self._steps = 0
        self._depth = 0
        self._taxed = False
        self._said: dict[tuple[str, ...], Quantity] = {}
        self.furthest = 0
        self.goes_on = False

    def whole(self) -> Quantity:
        """Read all tokens as a command or an expression. Raises NoReading and Stuck."""
        for attempt in (self._command, self.expression):
            self._place = 0
            try:
                found = self._endings(attempt())
            except NoReading:
                continue
            if self._place == len(self._tokens):
                return found
        raise NoReading

    def refuse_one_figure_twice(self) -> None:
        """Raise Stuck where "it" stands before another phrase for the same figure: add it to the total."""
        text = f" {' '.join(token.text for token in self._tokens)} "
        for pronoun, one in self._said.items():
            for phrase, other in self._said.items():
                if (
                    len(pronoun) == 1
                    and pronoun[0] in PRONOUNS
                    and phrase
                    and phrase[0] not in PRONOUNS
                    and one == other
                    and 0 <= text.find(f" {pronoun[0]} ") < text.find(f" {' '.join(phrase)} ")
                ):
                    raise Stuck(
                        "question_not_understood",
                        f"“{pronoun[0]}” and “{' '.join(phrase)}” are one figure: write the other number.",
                    )

    def expression(self) -> Quantity:
        """Read sums of products of powers."""
        with self._nested():
            return self._sums()

    def _sums(self) -> Quantity:
        leading = self._word()
        if leading in _PLUS or leading in _MINUS or leading in {"*", "times", "mal"}:
            # "plus 10" goes on from what was before; "-5 + 3" does not.
            signed = leading == "-" and self._quantity_at(self._place + 1) is not None
            found = self._power_signed() if signed else self.reference(())
            found = self._products(found)
        else:
            found = self._products(self._power_signed())
        while True:
            if self._take(_PLUS):
                found = quantities.plus(found, self._products(self._power_signed()))
            elif self._take(_MINUS):
                self._taxed = False
                found = quantities.minus(found, self._products(self._power_signed()))
                self._refuse_tax()
            else:
                return found

    def reference(self, phrase: Sequence[str], want: Want = "") -> Quantity:
        """Return the figure that a phrase means: what was just worked out, or an earlier result."""
        found = self._referred_to(phrase, want)
        self._said[tuple(phrase)] = found
        return found

    def _referred_to(self, phrase: Sequence[str], want: Want) -> Quantity:
        if self._previous is not None and want != "percent":
            near = not phrase or phrase[0] in PRONOUNS or phrase[-1] in {"result", "ergebnis"}
            if near or (len(phrase) <= 2 and not self._references.candidates and phrase[-1] in _BARE):
                self.goes_on = True
                return self._previous
        return self._references.one(phrase, want)

    # Operators, from the loosest to the tightest.

    def _products(self, found: Quantity) -> Quantity:
        divided = False
        while True:
            word = self._word()
            if word in _TIMES and self._take(_TIMES):
                found = quantities.times(found, self._power_signed())
            elif word in _OVER and self._take(_OVER):
                found = quantities.over(found, self._power_signed())
                divided = found.is_plain and not found.origins
            elif word in {"mod", "%"} and self._take({"mod", "%"}):
                found = quantities.modulo(found, self._power_signed())
            elif divided and word in _OF and self._take(_OF):
                # 3/4 of 200
                found = quantities.times(self._atom("value"), found)
            else:
                return found

    def _power_signed(self) -> Quantity:
        with self._nested():
            if self._take({"-", "minus"}):
                if self._number_follows() and self._word(1) in {"squared", "cubed"}:
                    raise Stuck("question_not_understood", "Write (-3) squared or -(3 squared).")
                return quantities.negative(self._power_signed())
            if self._take({"+"}):
                return self._power_signed()
            return self._powers()

    def _powers(self) -> Quantity:
        base = self._after(self._atom())
        if self._take({"^", "hoch"}):
            exponent = self._power_signed()
            return self._after(quantities.power(base, exponent))
        return base

    def _after(self, found: Quantity) -> Quantity:
        while True:
            if self._take({"!"}):
                found = quantities.pure("factorial", found)
            elif self._take({"squared"}):
                found = quantities.power(found, quantities.number("2"))
            elif self._take({"cubed"}):
                found = quantities.power(found, quantities.number("3"))
            elif self._take({"factorial", "fakultät"}):
                found = quantities.pure("factorial", found)
            elif self._word() == "choose" and self._quantity_at(self._place + 1) is not None:
                self._place += 1
                found = quantities.pure("comb", found, self._atom())
            else:
                return found

    def _atom(self, want: Want = "") -> Quantity:
        with self._nested():
            return self._atom_within(want)

    def _atom_within(self, want: Want) -> Quantity:
        start = self._place
        quantity = self._quantity_at(start)
        if quantity is not None:
            self._place += 1
            return self._percentage(quantity) if quantity.percent else self._fraction(quantity)
        word = self._word()
        if not word:
            raise NoReading
        if word in {"√", "∛"}:
            self._place += 1
            root = self._atom()
            name = "sqrt" if word == "√" else "cbrt"
            return _root_of_unit(root) if root.unit else quantities.pure(name, root, shown=word)
        if word == "(":
            self._place += 1
            found = self.expression()
            self._expect(")")
            return self._unit_after(found)
        if word in _FUNCTIONS and self._word(1) == "(":
            return self._call(word)
        if word in {"pi", "e"} and self._word(1) not in _OF:
            self._place += 1
            shown = "π" if word == "pi" else "e"
            return Quantity(expression=word, shown=shown)
        for attempt in (self._named, lambda: self._referred(want)):
            self._place = start
            try:
                return attempt()
            except NoReading:
                continue
        raise NoReading

    def _percentage(self, part: Quantity) -> Quantity:
        """Read on after a percentage: of what, on what, off what."""
        start = self._place
        self._take(_ARTICLES)
        name = self._word()
        if self._take(_PARTS):
            self._taxed = self._taxed or name == "tax"
            if name == "interest" and self._take({"rate"}):
                return part
            if self._take({"on", "auf", "of", "for", "from", "von"}):
                return quantities.percent_of(part, self._closed("value", linear=True))
            if self._word() not in {"to", "zu", ")", "", "and", ","} and not self._is_sign():
                self._place = start
            return part
        if name in _REBATES:
            self._place += 1
            if self._word() in {"on", "auf", "of", "for", "from"}:
                raise Stuck(
                    "question_not_understood",
                    "The discount itself or the price after it? Write “20 % of 59.90” or “20 % off 59.90”.",
                )
            return part
        self._place = start
        if self._take(_OF) or self._take({"on"}):
            self._take({"all"})
            return quantities.percent_of(part, self._after(self._atom("value")))
        if self._word() in {"davon", "daraus"}:
            return quantities.percent_of(part, self._referred("value"))
        if self._take({"off"}):
            return quantities.less(self._closed("value", linear=True), part)
        return part

    def _fraction(self, found: Quantity) -> Quantity:
        if not found.fraction:
            return found
        if self._take(_OF) or self._word() in _ARTICLES or self._word() in PRONOUNS or self._number_follows():
            self._take({"of"})
            return quantities.times(self._closed("value", linear=True), found)
        return found

    def _named(self) -> Quantity:
        """Read what begins with the name of an operation: the sum of, half of, twice, the tax on."""
        self._take(_ARTICLES)
        word = self._word()
        if word in {"twice", "double", "triple", "doppelte", "doppelt", "thrice"}:
            self._place += 1
            self._take(_OF)
            return quantities.times(
                self._closed("value", linear=True), _literal("3" if word in {"triple", "thrice"} else "2")
            )
        if word in {
            "sqrt",
            "cbrt",
            "factorial",
            "fakultät",
            "log10",
            "log",
            "ln",
            "sin",
            "cos",
            "tan",
            "wurzel",
            "square",
            "cube",
            "racine",
        }:
            return self._function(word)
        if (
            word in {"greatest", "highest", "largest", "least", "lowest", "smallest"}
            and self._word(1) == "common"
        ):
            self._place += 3
            of = self._word(-1)
            if of not in {"divisor", "factor", "multiple", "denominator"}:
                raise NoReading
            self._need(_OF)
            return self._closed_list("lcm" if of == "multiple" else "gcd")
        if word in _SUMS | _PRODUCTS | _DIFFERENCES | _QUOTIENTS or word in _OF_MANY:
            return self._of_list(word)
        quantity = self._quantity_at(self._place)
        if quantity is not None and self._place and self._word(-1) in _ARTICLES:
            self._place += 1
            return self._percentage(quantity) if quantity.percent else self._fraction(quantity)
        if word in _PARTS and word != "interest":
            self._place += 1
            if self._quantity_at(self._place + 1) is not None and self._take({"of"}):
                rate = self._percent()
                self._need({"on"})
                return quantities.percent_of(rate, self._closed("value"))
            self._need({"on", "auf", "for"})
            whole = self._closed("value")
            if self._take({"at", "with", "bei", "mit"}):
                self._take({"a", "an", "the"})
                return quantities.percent_of(self._percent(), whole)
            return quantities.percent_of(self.reference(("the", word), "percent"), whole)
        raise NoReading

    def _of_list(self, word: str) -> Quantity:
        if word not in _DIFFERENCES | _QUOTIENTS and (known := self._known()) is not None:
            return known
        self._place += 1
        self._take({"value"})
        if word in _DIFFERENCES or word in _QUOTIENTS:
            if not (self._take(_OF) or self._take({"between", "zwischen"})):
                raise NoReading
            one, other = self._pair()
            self._refuse_operator()
            if word in _QUOTIENTS:
                return quantities.over(one, other)
            return quantities.applied("abs", quantities.minus(one, other))
        if not (self._take(_OF) or self._take({"from", "over"}) or self._number_follows()):
            raise NoReading
        if word in _SUMS:
            return self._closed_list("sum")
        if word in _PRODUCTS:
            items = self._several()
            self._refuse_operator()
            found = items[0]
            for item in items[1:]:
                found = quantities.times(found, item)
            return found
        return self._closed_list(_OF_MANY[word])

    def _known(self) -> Quantity | None:
        """Return what an earlier task came to where the words say just that: the sum of the amounts."""
        start = self._place
        try:
            phrase = self._phrase()
            if len(phrase) > 1:
                return self._references.one(phrase, "value")
        except (NoReading, Stuck):
            pass
        self._place = start
        return None

    def _closed_list(self, name: str) -> Quantity:
        items = self._several()
        self._refuse_operator()
        if name == "sum":
            return quantities.total(items)
        if name in {"gcd", "lcm"}:
            return quantities.pure(name, *items)
        if len({item.percent for item in items}) > 1:
            raise NoReading
        return quantities.applied(name, *items)

    def _function(self, word: str) -> Quantity:
        self._place += 1
        if word in {"square", "cube"}:
            # "the square of 7"; "square 7" is a command.
            self._need(_OF)
            return quantities.power(self._closed("value"), _literal("2" if word == "square" else "3"))
        self._take(_OF)
        name = {"wurzel": "sqrt", "racine": "sqrt", "fakultät": "factorial", "ln": "log"}.get(word, word)
        argument = self._closed("value")
        if word == "log" and not self._take({"base"}):
            raise Stuck(
                "question_not_understood",
                "To which base is the logarithm? Write log10(…), ln(…) or log(…, 2).",
            )
        if word == "log":
            return quantities.pure("log", argument, self._atom())
        if name == "sqrt" and argument.unit:
            return _root_of_unit(argument)
        if word in _ANGLES:
            argument = self._angle(argument)
        return quantities.pure(name, argument, shown={"sqrt": "√", "cbrt": "∛"}.get(name, word))

    def _call(self, word: str) -> Quantity:
        """Read a function of the tool with its arguments in parentheses."""
        self._place += 2
        arguments = [self._angle(self.expression()) if word in _ANGLES else self.expression()]
        while self._take({","}):
            arguments.append(self.expression())
        self._expect(")")
        if len(arguments) > 1 and any(one.comma for one in arguments):
            raise Stuck(
                "question_not_understood", "Separate the arguments of a function with a comma and a space."
            )
        if any(one.comma for one in arguments):
            raise Stuck(
                "question_not_understood",
                f"{word} may have two arguments there, or one with a decimal comma: write a decimal point.",
            )
        if word == "log" and len(arguments) == 1:
            raise Stuck(
                "question_not_understood",
                "To which base is the logarithm? Write log10(…), ln(…) or log(…, 2).",
            )
        if word == "round":
            if len(arguments) > 2 or any(not one.is_plain for one in arguments[1:]):
                raise NoReading
            digits = arguments[1].expression if len(arguments) == 2 else "0"
            if not digits.isdigit():
                raise NoReading
            return quantities.rounded(arguments[0], digits)
        if len(arguments) > 1 and word not in {
            "log",
            "max",
            "min",
            "mean",
            "median",
            "sum",
            "gcd",
            "lcm",
            "comb",
        }:
            raise NoReading
        if len(arguments) == 1 and word == "sqrt" and arguments[0].unit:
            return _root_of_unit(arguments[0])
        if word in {"max", "min", "mean", "median", "sum", "abs", "floor", "ceil"}:
            return quantities.applied(word, *arguments)
        return quantities.pure("log" if word == "ln" else word, *arguments, shown=word)

    def _angle(self, argument: Quantity) -> Quantity:
        """Return an angle in radians, which are what the tool takes."""
        if self._take({"degrees", "degree", "deg", "grad", "°"}):
            pi = Quantity(expression="pi", shown="π")
            return quantities.over(quantities.times(argument, pi), _literal("180"))
        if not self._take({"rad", "radians", "radian"}) and not re.search(r"\bpi\b", argument.expression):
            raise Stuck(
                "question_not_understood", "Degrees or radians? Write sin(30 degrees) or sin(0.5 rad)."
            )
        return argument

    # Commands.

    def _command(self) -> Quantity:
        word = self._word()
        command = COMMANDS.get(word)
        if command is None:
            raise NoReading
        self._place += 1
        return command(self)

    def add(self) -> Quantity:
        self._take({"up", "together"})
        items = self._items()
        whole: Quantity | None = None
        if self._take({"to", "zu"}):
            whole = self._operand()
        elif self._take({"on"}):
            self._need({"to", "top"})
            self._take(_OF)
            whole = self._operand()
        if whole is None and len(items) == 1:
            # Back to the one figure that it is to be added to.
            whole = self.reference((), "value")
        elif whole is None and any(item.percent for item in items):
            raise NoReading
        if whole is not None and sum(item.percent for item in items) and len(items) > 1:
            raise Stuck(
                "question_not_understood",
                "Several things are to be added, and one is a percentage: ask for them one after the other.",
            )
        return (
            quantities.total([whole, *items])
            if whole and not items[0].percent
            else (quantities.plus(whole, items[0]) if whole else quantities.total(items))
        )

    def subtract(self) -> Quantity:
        self._taxed = False
        part = self._operand()
        self._refuse_tax()
        whole = self._operand() if self._take({"from", "von", "off"}) else self.reference((), "value")
        return quantities.minus(whole, part)

    def take_away(self) -> Quantity:
        start = self._place
        try:
            self._taxed = False
            part = self._operand()
            if self._take({"from", "off", "away"}):
                self._refuse_tax()
                if self._word(-1) == "away":
                    self._need({"from"})
                return quantities.minus(self._operand(), part)
        except NoReading:
            pass
        self._place = start
        return self.expression()

    def multiply(self) -> Quantity:
        if self._take({"by", "with", "mit"}):
            return quantities.times(self.reference((), "value"), self._operand())
        items = self._items()
        if self._take({"by", "with", "mit"}):
            if len(items) != 1:
                raise NoReading
            items = [*items, self._operand()]
        if len(items) < 2:
            raise NoReading
        found = items[0]
        for item in items[1:]:
            found = quantities.times(found, item)
        return found

    def divide(self) -> Quantity:
        if self._take({"by", "durch"}):
            whole = self.reference((), "value")
        else:
            whole = self._operand()
            if self._take({"between", "among"}):
                pass
            elif not self._take({"by", "durch"}):
                raise NoReading
        part = self._operand()
        self._take({"people", "persons", "parts", "friends"})
        return quantities.over(whole, part)

    def scale(self, number: str, *, divide: bool = False) -> Quantity:
        whole = self.reference((), "value") if self._place == len(self._tokens) else self._operand()
        literal = _literal(number)
        return quantities.over(whole, literal) if divide else quantities.times(whole, literal)

    def raise_to(self, number: str) -> Quantity:
        whole = self.reference((), "value") if self._place == len(self._tokens) else self._operand()
        return quantities.power(whole, _literal(number))

    def grow(self, sign: int) -> Quantity:
        whole = self.reference((), "value") if self._word() in {"by", "um"} else self._operand()
        self._need({"by", "um"})
        part = self._operand()
        return quantities.plus(whole, part) if sign > 0 else quantities.minus(whole, part)

    def round(self) -> Quantity:
        if self._place == len(self._tokens) or self._word() in {"to", "auf", "off"}:
            whole = self.reference((), "value")
        else:
            whole = self.expression()
        return self._rounding(whole, needed=True) or whole

    def convert(self) -> Quantity:
        whole = self._operand()
        if self._word() not in {"to", "into", "in"} or not whole.unit:
            raise NoReading
        return whole

    def _endings(self, found: Quantity) -> Quantity:
        """Read what may follow: in km, to two decimals, in percent."""
        while self._place < len(self._tokens):
            start = self._place
            if self._word() in {"rounded", "to", "auf"} and (rounded := self._rounding(found, needed=False)):
                found = rounded
                continue
            self._place = start
            if self._take({"in", "to", "into", "as"}):
                self._take({"a", "an"})
                if self._word(-1) in {"a", "as"} and self._take({"decimal"}):
                    continue
                if self._take({"%", "percentage"}):
                    found = quantities.as_percent(found)
                    continue
                read = unit_at(self._tokens, self._place)
                if read is None and self._word() in {"inches", "inch"}:
                    read = self._place + 1, units.WORDS["inch"]
                if read is not None:
                    self._place = read[0]
                    found = _in_unit(found, read[1])
                    continue
            self._place = start
            self._reach()
            raise NoReading
        return found

    def _rounding(self, found: Quantity, *, needed: bool) -> Quantity | None:
        self._take({"rounded", "off"})
        if self._place == len(self._tokens):
            return quantities.rounded(found, "0") if needed else None
        if not self._take({"to", "auf"}):
            raise NoReading
        if self._take({"the"}):
            self._need({"nearest", "next"})
            word = self._word()
            self._place += 1
            digits = {
                "integer": "0",
                "whole": "0",
                "cent": "2",
                "hundredth": "2",
                "tenth": "1",
                "euro": "0",
                "dollar": "0",
            }.get(word)
            if digits is None:
                raise NoReading
            self._take({"number"})
            return quantities.rounded(found, digits)
        amount = self._quantity_at(self._place)
        if amount is None or not amount.is_plain or not amount.expression.isdigit():
            if needed:
                raise NoReading
            return None
        self._place += 1
        if not (
            self._take(
                {"decimals", "decimal", "places", "digits", "nachkommastellen", "stellen", "dezimalstellen"}
            )
        ):
            if needed:
                raise NoReading
            return None
        self._take({"places", "place", "digits"})
        self._take({"after"}) and self._need({"the"}) and (
            self._take({"point"}) or (self._need({"decimal"}) and self._need({"point"}))
        )
        return quantities.rounded(found, amount.expression)

    # Lists, operands, references.

    def _two(self) -> list[Quantity]:
        """Read “the two”, “both numbers”: one figure of each of two tasks. Nothing where it is not said."""
        start = self._place
        self._take({"the"})
        number = self._quantity_at(self._place)
        if self._place > start and number is not None and number.expression == "2":
            self._place += 1
            self._take({"results", "values", "numbers", "figures", "amounts"})
            if self._place == len(self._tokens) or self._word() in _ENDS:
                return list(self._references.many(["both"]))
        self._place = start
        return []

    def _items(self) -> list[Quantity]:
        """Read quantities separated by commas, "and", or only by spaces."""
        if two := self._two():
            return two
        first = self._word()
        if first in MANY or (
            first in _ARTICLES
            and self._word(1) in {"results", "values", "numbers", "figures", "amounts", "two"}
        ):
            start = self._place
            phrase = self._phrase()
            if self._place == len(self._tokens) or self._word() in _ENDS:
                return list(self._references.many(phrase))
            self._place = start
            self._take(_ARTICLES)
            self._take({"numbers", "values", "figures", "amounts"})
        else:
            self._take({"numbers", "values", "figures"})
        self._take({":"})
        found = [self._operand()]
        spaced = False
        while True:
            start = self._place
            if self._take(_AND):
                self._take({"and", "und"})
            elif (
                self._number_follows()
                and (len(found) > 1 or self._number_follows(1))
                and not (found[-1].unit)
            ):
                spaced = True
            elif self._number_follows():
                raise NoReading
            else:
                break
            try:
                found.append(self._operand())
            except NoReading:
                self._place = start
                break
        if any(item.comma for item in found):
            raise Stuck(
                "question_not_understood",
                "A comma in it may separate two numbers or be a decimal comma: write decimal points, and "
                "a space after commas between numbers.",
            )
        if spaced and any(len(item.expression) == 3 and item.expression.isdigit() for item in found[1:]):
            raise Stuck(
                "question_not_understood", "A space in it may separate thousands or two numbers: use commas."
            )
        return found

    def _several(self) -> list[Quantity]:
        items = self._items()
        if len(items) < 2:
            raise NoReading
        return items

    def _pair(self) -> tuple[Quantity, Quantity]:
        if two := self._two():
            if len(two) != 2:
                raise NoReading
            return two[0], two[1]
        start = self._place
        if self._word() in MANY or (
            self._word() in _ARTICLES and self._word(1) in {"two", "results", "values", "numbers"}
        ):
            items = self._items()
            if len(items) != 2:
                raise NoReading
            return items[0], items[1]
        self._place = start
        one = self._operand()
        if not self._take({"and", "to", "und", ","}):
            raise NoReading
        return one, self._operand()

    def _operand(self) -> Quantity:
        """Read a quantity or a product in signs, up to the next word."""
        self._take({"all"})
        found = self._power_signed()
        if self._word() in {"*", "/", "%"}:
            found = self._products(found)
        return found

    def _closed(self, want: Want = "", *, linear: bool = False) -> Quantity:
        """Read what an operation in words is of: an operator behind it could belong to either.

        With a linear one a factor behind it makes no difference.
        """
        found = self._after(self._atom(want))
        self._refuse_operator(linear=linear)
        return found

    def _refuse_operator(self, *, linear: bool = False) -> None:
        word = self._word()
        following = self._quantity_at(self._place + 1)
        if (word in _PLUS or word in _MINUS) and following is not None and following.percent:
            return
        if (
            word in _PLUS
            or word in _MINUS
            or word in {"^", "hoch", "mod", "%"}
            or (word in _TIMES | _OVER and not linear)
        ):
            raise Stuck(
                "question_not_understood",
                f"What stands before and after “{word}” can be grouped in two ways: add parentheses.",
            )

    def _refuse_tax(self) -> None:
        if self._taxed:
            raise Stuck(
                "question_not_understood",
                "Taking tax off can mean two figures: write “net of 119 at 19 %” where it is contained, or "
                "“119 - 19 %”.",
            )

    def _percent(self) -> Quantity:
        quantity = self._quantity_at(self._place)
        if quantity is not None and quantity.percent:
            self._place += 1
            return quantity
        found = self._referred("percent")
        if not found.percent:
            raise NoReading
        return found

    def _unit_after(self, found: Quantity) -> Quantity:
        """(3 + 4) km"""
        read = unit_at(self._tokens, self._place) if found.is_plain else None
        if read is None:
            return found
        self._place, unit = read
        return replace(found, unit=unit)

    def _referred(self, want: Want) -> Quantity:
        phrase = self._phrase()
        found = self.reference(phrase, want)
        return self._percentage(found) if found.percent and phrase[-1] in _RATES else found

    def _phrase(self) -> list[str]:
        first = self._word()
        if not (is_reference(first) or first in _BARE):
            raise NoReading
        phrase = [first]
        self._place += 1
        if first in {"it", "davon", "daraus", "es"}:
            return phrase
        while self._place < len(self._tokens) and len(phrase) < _LONGEST_PHRASE:
            token = self._tokens[self._place]
            if token.sign or token.quantity is not None or (token.text in _OF and phrase[-1] in _RATES):
                break
            if token.text in _ENDS and not (token.text in {"for", "in"} and self._noun_follows()):
                break
            phrase.append(token.text)
            self._place += 1
        return phrase

    def _noun_follows(self) -> bool:
        following = self._tokens[self._place + 1] if self._place + 1 < len(self._tokens) else None
        return (
            following is not None
            and not following.sign
            and following.quantity is None
            and following.text not in _ENDS
            and following.text not in units.WORDS
            and following.text != "percent"
        )

    # Tokens.

    def _word(self, ahead: int = 0) -> str:
        place = self._place + ahead
        if not 0 <= place < len(self._tokens) or self._tokens[place].quantity is not None:
            return ""
        return self._tokens[place].text

    def _is_sign(self) -> bool:
        return self._place < len(self._tokens) and self._tokens[self._place].sign

    def _quantity_at(self, place: int) -> Quantity | None:
        return self._tokens[place].quantity if place < len(self._tokens) else None

    def _number_follows(self, ahead: int = 0) -> bool:
        return self._quantity_at(self._place + ahead) is not None

    def _take(self, words: frozenset[str] | set[str]) -> bool:
        if self._word() and self._word() in words:
            self._place += 1
            self._reach()
            return True
        return False

    def _need(self, words: frozenset[str] | set[str]) -> bool:
        if not self._take(words):
            raise NoReading
        return True

    def _expect(self, sign: str) -> None:
        self._need({sign})

    def _reach(self) -> None:
        self.furthest = max(self.furthest, self._place)

    @contextmanager
    def _nested(self) -> Iterator[None]:
        self._reach()
        self._steps += 1
        if self._steps > _MOST_STEPS or self._depth > _DEEPEST:
            raise Stuck("question_not_understood", "The request is too deeply nested: ask for it in steps.")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1


def _literal(text: str) -> Quantity:
    return quantities.number(text)


def _root_of_unit(argument: Quantity) -> Quantity:
    halved = tuple((name, exponent // 2) for name, exponent in argument.unit)
    if units.raised(halved, 2) != argument.unit:
        raise Stuck("question_not_understood", f"The root of {quantities.read(argument)} has no known unit.")
    return Quantity(
        expression=f"sqrt({argument.expression})",
        shown=f"√({argument.shown})",
        unit=halved,
        origins=argument.origins,
    )


def _in_unit(found: Quantity, unit: units.Unit) -> Quantity:
    if found.is_plain and all(name in units.CURRENCIES for name, _ in unit):
        return replace(found, unit=unit)
    return quantities.converted(found, unit)


COMMANDS: Mapping[str, Callable[[Parser], Quantity]] = {
    "add": Parser.add,
    "addiere": Parser.add,
    "subtract": Parser.subtract,
    "deduct": Parser.subtract,
    "subtrahiere": Parser.subtract,
    "take": Parser.take_away,
    "multiply": Parser.multiply,
    "multipliziere": Parser.multiply,
    "divide": Parser.divide,
    "teile": Parser.divide,
    "dividiere": Parser.divide,
    "split": Parser.divide,
    "double": lambda parser: parser.scale("2"),
    "verdopple": lambda parser: parser.scale("2"),
    "triple": lambda parser: parser.scale("3"),
    "halve": lambda parser: parser.scale("2", divide=True),
    "halbiere": lambda parser: parser.scale("2", divide=True),
    "square": lambda parser: parser.raise_to("2"),
    "cube": lambda parser: parser.raise_to("3"),
    "increase": lambda parser: parser.grow(1),
    "raise": lambda parser: parser.grow(1),
    "decrease": lambda parser: parser.grow(-1),
    "reduce": lambda parser: parser.grow(-1),
    "lower": lambda parser: parser.grow(-1),
    "round": Parser.round,
    "runde": Parser.round,
    "convert": Parser.convert,
    "rechne": Parser.convert,
}
