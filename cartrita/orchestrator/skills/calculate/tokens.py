"""The words, numbers and signs of a request. Numbers are read in digits and in English and German words."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cartrita.orchestrator.skills.calculate import units
from cartrita.orchestrator.skills.calculate.quantities import Quantity, Stuck, number
from cartrita.orchestrator.skills.calculate.units import Unit

LONGEST_REQUEST = 1500  # characters
_MOST_TOKENS = 160


@dataclass(frozen=True, slots=True)
class Token:
    """A word in small letters, a sign, or a quantity with its unit."""

    text: str
    quantity: Quantity | None = None
    sign: bool = False


def tokens(text: str) -> list[Token]:
    """Read a request. Raises Stuck where a number can be read in two ways, or where it is too long."""
    if len(text) > LONGEST_REQUEST:
        raise Stuck(
            "question_not_understood",
            f"The request is above {LONGEST_REQUEST:,} characters: ask for the figure alone.",
        )
    if dated := _DATE.search(text):
        raise Stuck(
            "question_not_understood",
            f"“{dated.group().strip()}” looks like a date or a time, which is not calculated with: write "
            "plain numbers, with spaces around operators.",
        )
    if re.match(r"\s*[-–—]\s", text):
        raise Stuck(
            "question_not_understood",
            "It begins with a dash, a bullet or a minus: leave it out or write 0 -.",
        )
    found = list(_with_units(_counted(_lexed(_prepared(text)))))
    if len(found) > _MOST_TOKENS:
        raise Stuck("question_not_understood", "The request has too many words: ask for the figure alone.")
    return found


def figures(text: str) -> list[tuple[Quantity, str]]:
    """Return the quantities of a prose text, each with its sentence; dates and numbers of sections are none.

    Raises Stuck where a number can be read in two ways.
    """
    found = []
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-ZÄÖÜ])|\n", text[: 4 * LONGEST_REQUEST]):
        previous = ""
        plain = re.sub(r"^\s*[-–—*]\s|[()\[\]]", " , ", _DATE.sub(" , ", sentence))
        for token in tokens(plain):
            if token.quantity and not token.quantity.fraction and previous not in _NUMBERED:
                found.append((token.quantity, sentence))
            previous = token.text
    return found


def one_of(words: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(words.split())


# What has a number as its name.
_NUMBERED = one_of(
    "section sections page pages chapter article paragraph clause table figure no nr version § seite "
    "abschnitt kapitel artikel absatz tabelle abbildung"
)
_DATE = re.compile(
    r"(?<![\w.,])(?:\d{4}-\d{1,2}-\d{1,2}|\d{1,2}/\d{1,2}/\d{2,4}|\d{1,2}\.\d{1,2}\.\d{2,4}|\d{1,2}\.\d{1,2}\.(?=\s|$)|"
    r"\d{1,2}:\d{2})(?![\w]|[.,]\d)"
)
_SIGNS = str.maketrans(
    {
        "×": " * ",
        "·": " * ",
        "∙": " * ",
        "⋅": " * ",
        "∗": " * ",
        "÷": " / ",
        "∕": " / ",
        "⁄": "/",
        "−": " - ",
        "–": " - ",
        "²": "^2 ",
        "³": "^3 ",
        "√": " √ ",
        "∛": " ∛ ",
        "π": " pi ",
        "½": " (1/2) ",
        "⅓": " (1/3) ",
        "⅔": " (2/3) ",
        "¼": " (1/4) ",
        "¾": " (3/4) ",
        "％": "%",
        "“": " ",
        "”": " ",
        "„": " ",
        '"': " ",
        "`": " ",
        "’": "'",
    }
)
# Several words that mean one sign or word, in the order in which they are replaced.
_PHRASES: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), use)
    for pattern, use in (
        (r"\b(what|how|that|it|here|there)'s\b", r"\1 is"),
        (r"\bi'd\b", "i would"),
        (r"\bd'", "de "),
        (r"\bl'", "le "),
        (r"^\s*rechne (.{1,200}) aus\b", r"\1"),
        (r"\*\*", "^"),
        (r"\bper ?cent\b|\bpercents\b|\bprozent\b|\bpour ?cent\b|\bpor ciento\b|\bpct\b", "%"),
        (r"(?<=%)\s*(?:der|des)\b", " von der"),
        (r"\b(?:multiplied|multipliziert|multiplié|multiplicado) (?:by|with|mit|par|por)\b", "times"),
        (r"\b(?:divided by|geteilt durch|dividiert durch|divisé par|dividido (?:por|entre))\b", "over"),
        (r"\b(?:raised )?to the power (?:of )?|\braised to\b", " ^ "),
        (r"\bto the (?:third|3rd) power\b", " ^ 3 "),
        (r"\bmodulo\b", "mod"),
        (r"(?<=\d)(?<!\b0)\s*x\s*(?=\d)|(?<=\d)\s+x\s+(?=\d)", " * "),
        (r"(?<=\d)\s*x\s*(?=[€$£])", " * "),
        (r"(?<=\d) : (?=\d)", " / "),
        (r"\bsquare root\b|\bquadratwurzel\b|\bracine carrée\b|\braíz cuadrada\b", "sqrt"),
        (r"\bcube root\b|\bkubikwurzel\b|\bcubic root\b", "cbrt"),
        (
            (
                r"\b(?:vat|mwst\.?|mehrwertsteuer|ust\.?|umsatzsteuer|gst|tva|iva|sales tax|"
                r"value[- ]added tax)(?!\w)"
            ),
            "tax",
        ),
        (r"\bwie ?viele?\b", "how many"),
        (
            (
                r"\bwas (?:ist|sind|macht|ergibt)\b|\bcombien (?:font|fait)\b|"
                r"\bcuánto (?:es|son)\b|\bquanto fa\b"
            ),
            "what is",
        ),
        (
            (
                r"\b(square|cubic) (m|cm|mm|km|ft|in|met(?:er|re)s?|kilomet(?:er|re)s?|"
                r"centimet(?:er|re)s?|feet|foot|inch(?:es)?)\b"
            ),
            r"\1-\2",
        ),
    )
)
# 1.234 in a text of one of these languages is as likely a thousand as one and a bit.
_OTHER_LANGUAGE = re.compile(
    r"\b(?:wie|was|ist|sind|von|vom|und|mal|durch|der|die|das|dem|den|auf|zu|je|bei|aus|berechne|rechne|addiere|"
    r"summe|prozent|wieviel|steuer|mwst|mehrwertsteuer|kosten|kostet|zins|zinsen|hoch|geteilt|wurzel|combien|font|"
    r"quel|quelle|est|le|la|les|et|de|du|des|fois|divisé|cuánto|es|el|los|y|por|entre|más|menos|calcula|calcule|"
    r"quanto|fa|il|per cento|umrechnen|wandle|ergebnis|davon)\b|[äöüßéèñ]"
)
_LEXEMES = re.compile(
    r"(?P<number>(?<![\w.])[0-9]+(?:[.,'\u00a0\u202f\u2009][0-9]+)*(?:e[+-]?[0-9]+(?!\w))?|(?<![\w.])\.[0-9]+)"
    r"|(?P<word>°\s?[cf]\b|[^\W\d_]+(?:['-][^\W\d_]+)*\d*|[€$£¥√∛])"
    r"|(?P<sign>[-+*/^()!,=%:<>])"
    r"|(?P<other>[^\s])"
)


def _prepared(text: str) -> str:
    text = re.sub(
        r"(?<=[0-9 ])°\s?([CF])\b|(?<=[0-9]) ([CF])\b", lambda found: " °" + (found[1] or found[2]), text
    )
    text = text.translate(_SIGNS).lower()
    for pattern, use in _PHRASES:
        text = pattern.sub(use, text)
    return text


def _lexed(text: str) -> Iterator[Token]:
    numbers = [found["number"] for found in _LEXEMES.finditer(text) if found["number"]]
    style = _Style.of(text, numbers)
    for found in _LEXEMES.finditer(text):
        if found["number"]:
            yield from style.read(found["number"], glued=text[: found.start()].endswith(("max(", "min(")))
        elif found["word"]:
            yield Token(found["word"].replace("° ", "°"))
        elif found["sign"]:
            yield Token(found["sign"], sign=True)
        elif found["other"] not in "?.;…¿¡":
            yield Token(found["other"], sign=True)
        elif found["other"] in ".;" and text[found.end() :].strip(" ?.;=\n"):
            # A further sentence; an ending full stop says nothing.
            yield Token(".", sign=True)


@dataclass(frozen=True, slots=True)
class _Style:
    """How the numbers of a text are written; None where the text does not show it."""

    english: bool
    comma_decimal: bool
    point_decimal: bool

    @classmethod
    def of(cls, text: str, numbers: Sequence[str]) -> "_Style":
        english = _OTHER_LANGUAGE.search(text) is None
        comma = any(re.fullmatch(r"[0-9]+(?:\.[0-9]{3})*,(?:[0-9]{1,2}|[0-9]{4,})", one) for one in numbers)
        point = any(re.fullmatch(r"[0-9]+(?:,[0-9]{3})*\.(?:[0-9]{1,2}|[0-9]{4,})", one) for one in numbers)
        return cls(english=english, comma_decimal=comma, point_decimal=point)

    def read(self, text: str, *, glued: bool) -> Iterator[Token]:
        text = text.replace("'", " ").replace("\u00a0", " ").replace("\u202f", " ").replace("\u2009", " ")
        if " " in text and not re.fullmatch(r"[0-9]{1,3}(?: [0-9]{3})+(?:[.,][0-9]+)?", text):
            raise _unreadable(text)
        text = text.replace(" ", "")
        mantissa, _, exponent = text.partition("e")
        commas, points = mantissa.count(","), mantissa.count(".")
        if glued and commas:
            raise _ambiguous(text, "put a space after each comma that separates two numbers")
        if commas > 1 and not points and not _is_grouped(mantissa, ","):
            # 1,5,7 is a list, but of 1,000,2,000 nobody knows.
            if any(len(item) == 3 for item in mantissa.split(",")[1:]):
                raise _ambiguous(text, "put a space after each comma that separates two numbers")
            for place, item in enumerate(mantissa.split(",")):
                if place:
                    yield Token(",", sign=True)
                yield _literal(item)
            return
        plain, comma = self._plain(mantissa, commas, points)
        yield _literal(plain + (f"e{exponent}" if exponent else ""), comma=comma)

    def _plain(self, text: str, commas: int, points: int) -> tuple[str, bool]:
        if commas and points:
            last = "," if text.rindex(",") > text.rindex(".") else "."
            other = "." if last == "," else ","
            whole, _, digits = text.rpartition(last)
            if last in whole or not _is_grouped(whole, other):
                raise _unreadable(text)
            return f"{whole.replace(other, '')}.{digits}", False
        if not commas and not points:
            return text, False
        sign = "," if commas else "."
        grouped = _is_grouped(text, sign)
        if commas + points > 1:
            if not grouped:
                raise _unreadable(text)
            return text.replace(sign, ""), False
        if sign == ",":
            if not grouped:
                return text.replace(",", "."), self.english
            if self.comma_decimal or not self.english:
                raise _ambiguous(text, f"write {text.replace(',', '')} or {text.replace(',', '.')}0")
            return text.replace(",", ""), False
        # Nobody adds a third decimal that is 0, but many write thousands like that.
        if grouped and (self.comma_decimal or not self.english or text.endswith("0")):
            if self.comma_decimal and not self.point_decimal:
                return text.replace(".", ""), False
            raise _ambiguous(text, f"write {text.replace('.', '')} or {text}0")
        return text, False


def _is_grouped(text: str, sign: str) -> bool:
    return re.fullmatch(rf"[1-9][0-9]{{0,2}}(?:\{sign}[0-9]{{3}})+", text) is not None


def _literal(text: str, *, comma: bool = False) -> Token:
    if "." in text or "e" in text:
        plain = text if text[0] != "." else f"0{text}"
        plain = re.sub(r"^0+(?=[0-9])", "", plain)
    else:
        plain = text.lstrip("0") or "0"
    return Token(plain, replace(number(plain), comma=comma))


def _ambiguous(text: str, remedy: str) -> Stuck:
    return Stuck("question_not_understood", f"{text} can be read in two ways: {remedy}.")


def _unreadable(text: str) -> Stuck:
    return Stuck(
        "question_not_understood", f"{text[:60]} is not a number that can be read: write it like 1234.5."
    )


_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_GERMAN_ONES = [
    "null",
    "eins",
    "zwei",
    "drei",
    "vier",
    "fünf",
    "sechs",
    "sieben",
    "acht",
    "neun",
    "zehn",
    "elf",
    "zwölf",
    "dreizehn",
    "vierzehn",
    "fünfzehn",
    "sechzehn",
    "siebzehn",
    "achtzehn",
    "neunzehn",
]
_GERMAN_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "tausend": 1000,
    "millionen": 10**6,
    "mio": 10**6,
    "milliarden": 10**9,
    "mrd": 10**9,
    "dozen": 12,
    "dozens": 12,
    "dutzend": 12,
}


def _number_words() -> dict[str, int]:
    words = {word: value for value, word in enumerate(_ONES)}
    words |= {
        f"{ten}{dash}{_ONES[one]}": 20 + 10 * place + one
        for place, ten in enumerate(_TENS)
        for one in range(1, 10)
        for dash in "-"
    }
    words |= {ten: 20 + 10 * place for place, ten in enumerate(_TENS)}
    german = {word: value for value, word in enumerate(_GERMAN_ONES)}
    german |= {ten: 20 + 10 * place for place, ten in enumerate(_GERMAN_TENS)}
    german |= {
        f"{'ein' if one == 1 else _GERMAN_ONES[one]}und{ten}": 20 + 10 * place + one
        for place, ten in enumerate(_GERMAN_TENS)
        for one in range(1, 10)
    }
    below = dict(german)
    for count in range(1, 10):
        for prefix in ("", "ein") if count == 1 else (_GERMAN_ONES[count],):
            german[f"{prefix}hundert"] = 100 * count
            german |= {
                f"{prefix}hundert{word}": 100 * count + value for word, value in below.items() if value
            }
    return words | german | {"dreissig": 30}


NUMBER_WORDS: Mapping[str, int] = _number_words()
_FRACTIONS: Mapping[str, int] = {
    "half": 2,
    "halves": 2,
    "third": 3,
    "thirds": 3,
    "quarter": 4,
    "quarters": 4,
    "fourth": 4,
    "fourths": 4,
    "fifth": 5,
    "fifths": 5,
    "sixth": 6,
    "sixths": 6,
    "eighth": 8,
    "eighths": 8,
    "tenth": 10,
    "tenths": 10,
    "hälfte": 2,
    "drittel": 3,
    "viertel": 4,
    "fünftel": 5,
    "zehntel": 10,
}
_ARTICLES = frozenset({"a", "an", "one", "ein", "eine", "einem", "die", "das"})


def _counted(found: Iterator[Token]) -> Iterator[Token]:
    """Put number words together: twenty five, 2.1 billion, a dozen, two thirds."""
    given = list(found)
    place = 0
    while place < len(given):
        token = given[place]
        word = token.text
        following = given[place + 1].text if place + 1 < len(given) else ""
        if word in _ARTICLES and following in _FRACTIONS:
            yield _fraction(1, _FRACTIONS[following])
            place += 2
        elif word in {"half", "hälfte"}:
            yield _fraction(1, 2)
            place += 1
        elif (
            word in NUMBER_WORDS and following in _FRACTIONS and following not in {"third", "fourth", "fifth"}
        ):
            yield _fraction(NUMBER_WORDS[word], _FRACTIONS[following])
            place += 2
        elif word in {"a", "an", "one", "eine", "ein"} and following in _SCALES:
            place, value = _scaled(given, place + 1, 1)
            yield _literal(str(value))
        elif word in NUMBER_WORDS or (token.quantity is None and word in {"dozen", "dutzend"}):
            place, value = _scaled(given, place, None)
            yield _literal(str(value))
        elif token.quantity is not None and following in _SCALES:
            scale = _SCALES[following]
            yield Token(
                f"{word} {following}",
                replace(token.quantity, expression=f"({word} * {scale})", shown=f"{word} {following}"),
            )
            place += 2
        else:
            yield token
            place += 1


def _scaled(given: Sequence[Token], place: int, start: int | None) -> tuple[int, int]:
    """Read number words from a place on: where they end, and their value."""
    whole, part, begun = 0, start or 0, start is not None
    while place < len(given):
        word = given[place].text
        if word in _SCALES and given[place].quantity is None:
            scale = _SCALES[word]
            if scale in {12, 100}:
                part = (part if begun else 1) * scale
            else:
                whole, part = whole + (part if begun else 1) * scale, 0
        elif word in NUMBER_WORDS and given[place].quantity is None:
            value = NUMBER_WORDS[word]
            fits = (
                not begun
                or (part % 100 == 0 and value < 100)
                or (part % 100 >= 20 and not part % 10 and 0 < value < 10)
            )
            if not fits or (begun and value == 0):
                break
            part += value
        else:
            break
        begun = True
        place += 1
    large = whole or part >= 100
    if (
        large
        and place + 1 < len(given)
        and given[place].text in {"and", "und"}
        and given[place + 1].text in NUMBER_WORDS
    ):
        raise Stuck(
            "question_not_understood",
            f"“and {given[place + 1].text}” may be part of the number before it or a number of its own: "
            "write numbers in digits.",
        )
    return place, whole + part


def _fraction(above: int, below: int) -> Token:
    text = f"{above}/{below}"
    return Token(
        text, Quantity(expression=f"({above} / {below})", shown=text, level=4, shown_level=2, fraction=True)
    )


_PER = frozenset({"/", "per", "pro", "je"})
_SQUARES: Mapping[str, int] = {"square": 2, "cubic": 3}


def _with_units(found: Iterator[Token]) -> Iterator[Token]:
    """Join numbers with the unit beside them, and with %."""
    given = list(found)
    place = 0
    while place < len(given):
        token = given[place]
        following = given[place + 1] if place + 1 < len(given) else None
        if (
            token.text in units.WORDS
            and units.WORDS[token.text][0][0] in units.CURRENCIES
            and following is not None
            and following.quantity is not None
            and not following.quantity.unit
            # "5 € 3" is no price.
            and not (place and given[place - 1].quantity is not None)
        ):
            end, unit = _per(given, place + 2, units.WORDS[token.text])
            _refuse_thousands(following.quantity)
            yield replace(following, quantity=replace(following.quantity, unit=unit))
            place = end
        elif token.quantity is not None and following is not None and following.text == "%":
            after = given[place + 2] if place + 2 < len(given) else None
            if after is not None and (after.quantity is not None or after.text == "("):
                yield token  # a remainder: 17 % 5
                place += 1
            else:
                yield replace(token, quantity=replace(token.quantity, percent=True))
                place += 2
        elif token.quantity is not None and following is not None and (read := unit_at(given, place + 1)):
            end, unit = read
            if unit[0][0] in units.CURRENCIES:
                _refuse_thousands(token.quantity)
            yield replace(token, quantity=replace(token.quantity, unit=unit))
            place = end
        else:
            yield token
            place += 1


def _refuse_thousands(price: Quantity) -> None:
    if _is_grouped(price.expression, "."):
        raise _ambiguous(
            price.expression, f"write {price.expression.replace('.', '')} or {price.expression}0"
        )


def unit_at(given: Sequence[Token], place: int) -> tuple[int, Unit] | None:
    """Read a unit, such as km, € per kg, degrees celsius, and tell where it ends."""
    if place < len(given) and given[place].text in {"degrees", "degree", "grad"}:
        place += 1
        if place == len(given) or given[place].text not in {"celsius", "fahrenheit", "centigrade"}:
            return None
    word = given[place].text if place < len(given) else ""
    if word == "in":
        return None
    unit = _unit(word)
    if unit is None:
        return None
    place += 1
    if place + 1 < len(given) and given[place].text == "^" and given[place + 1].text in {"2", "3"}:
        unit = units.raised(unit, int(given[place + 1].text))
        place += 2
    return _per(given, place, unit)


def _unit(word: str) -> Unit | None:
    prefix, _, name = word.partition("-")
    if prefix in _SQUARES and name in units.WORDS:
        return units.raised(units.WORDS[name], _SQUARES[prefix])
    return units.WORDS.get(word)


def _per(given: Sequence[Token], place: int, unit: Unit) -> tuple[int, Unit]:
    if place + 1 < len(given) and given[place].text in _PER:
        below = _unit(given[place + 1].text)
        if below is not None and given[place + 1].text != "in":
            return place + 2, units.product(unit, below, power=-1)
    return place, unit
