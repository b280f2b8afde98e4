"""Arithmetic on text: a closed set of operators and functions over exact numbers, with every size bounded.

Sums, products, quotients and whole powers are exact (rational numbers), so that 0.1 + 0.2 is 0.3 and
1 / 3 * 3 is 1. What is not rational, and the value of the whole, has 34 significant digits (IEEE 754
decimal128).
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Decimal, DecimalException, localcontext
from fractions import Fraction
from functools import reduce
from typing import Any, ClassVar, cast

from cartrita.errors import BadInput

Number = int | Decimal
# While it is worked out a number may also be a ratio of integers.
_Exact = int | Fraction | Decimal

LONGEST_EXPRESSION = 1000
MOST_DIGITS = 1000
_PRECISION = 34
_MOST_PARTS = 300
_LONG_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
_NOTHING = Decimal("1e-60")


class NotCalculable(BadInput):
    """The expression is not arithmetic, or has no result within the bounds."""

    code: ClassVar[str] = "not_calculable"


def calculate(expression: str) -> Number:
    """Evaluate an arithmetic expression: + - * / // % **, parentheses, the functions and constants below.

    Raises NotCalculable, saying what is not understood or out of bounds.
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise NotCalculable(
            f"The expression is above {LONGEST_EXPRESSION} characters; split it.", field="expression"
        )
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NotCalculable(
            f"{expression[:80]!r} is not an arithmetic expression; write it like (3 + 4.5) * 2.",
            field="expression",
        ) from None
    if sum(1 for _ in ast.walk(tree)) > _MOST_PARTS:
        raise NotCalculable("The expression has too many parts; split it.", field="expression")
    try:
        with localcontext(prec=_PRECISION):
            return _rounded(_value(tree.body, expression.strip()))
    except ZeroDivisionError:
        raise NotCalculable("The expression divides by zero.", field="expression") from None
    except DecimalException:
        raise NotCalculable(
            "The expression has no result among the real numbers.", field="expression"
        ) from None
    except (ArithmeticError, ValueError, TypeError) as error:
        raise NotCalculable(f"The expression has no result: {error}.", field="expression") from None


def written(value: Number) -> str:
    """Write a number as decimal text, without trailing zeros."""
    if isinstance(value, int):
        return str(value)
    with localcontext(prec=_PRECISION):
        plain = value.normalize()
    return f"{plain:f}" if -12 <= plain.adjusted() < _PRECISION else f"{plain:e}"


def _value(node: ast.expr, source: str) -> _Exact:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.Constant(value=float()):
            return _exact(_bounded(Decimal((ast.get_source_segment(source, node) or "").replace("_", ""))))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, source)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _value(operand, source)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _bounded(_OPERATORS[type(op)](_value(left, source), _value(right, source)))
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_FUNCTIONS[name](*(_value(argument, source) for argument in arguments)))
    said = (ast.get_source_segment(source, node) or "")[:80]
    known = ", ".join(sorted([*_FUNCTIONS, *_CONSTANTS]))
    raise NotCalculable(f"{said!r} is not arithmetic; known names: {known}.", field="expression")


def _bounded(value: _Exact) -> _Exact:
    # 3.33 bits a digit; asked of the bits, because writing a huge integer out is what must not happen.
    if isinstance(value, int) and value.bit_length() > MOST_DIGITS * 3.33:
        raise NotCalculable(f"A number has more than {MOST_DIGITS} digits.", field="expression")
    if isinstance(value, Fraction):
        if value.denominator == 1:
            return _bounded(value.numerator)
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MOST_DIGITS * 3.33:
            return _bounded(_decimal(value))
    if isinstance(value, Decimal) and not value.is_finite():
        raise NotCalculable("The result is not a finite number.", field="expression")
    if isinstance(value, Decimal) and value and abs(value.adjusted()) > MOST_DIGITS:
        raise NotCalculable(f"A number has more than {MOST_DIGITS} digits.", field="expression")
    return value


def _rounded(value: _Exact) -> Number:
    value = _bounded(value)
    return _decimal(value) if isinstance(value, Fraction) else value


def _decimal(value: _Exact) -> Decimal:
    if isinstance(value, Fraction):
        return Decimal(value.numerator) / Decimal(value.denominator)
    return Decimal(value)


def _exact(value: _Exact) -> _Exact:
    """Return a decimal as the ratio that it is, unless that has too many digits."""
    if isinstance(value, Decimal) and value.is_finite() and abs(value.adjusted()) < MOST_DIGITS // 2:
        ratio = Fraction(value)
        return ratio.numerator if ratio.denominator == 1 else ratio
    return value


def _either(apply: Callable[[Any, Any], Any]) -> Callable[[_Exact, _Exact], _Exact]:
    """Apply to ratios where both are, else to decimals."""

    def applied(left: _Exact, right: _Exact) -> _Exact:
        if isinstance(left, Decimal) or isinstance(right, Decimal):
            return cast("Decimal", apply(_decimal(left), _decimal(right)))
        return cast("int | Fraction", apply(left, right))

    return applied


def _divide(left: Any, right: Any) -> Any:
    return left / right if isinstance(left, Decimal) else Fraction(left) / right


def _floor_divide(left: _Exact, right: _Exact) -> _Exact:
    if not isinstance(left, Decimal) and not isinstance(right, Decimal):
        return left // right
    quotient = _decimal(left) / _decimal(right)
    if quotient.adjusted() >= _PRECISION:
        raise NotCalculable("The quotient has too many digits.", field="expression")
    return math.floor(quotient)


def _power(base: _Exact, exponent: _Exact) -> _Exact:
    if isinstance(exponent, int) and isinstance(base, int | Fraction):
        largest: int = max(abs(base.numerator), base.denominator)
        digits = abs(exponent) * math.log10(largest) if largest > 1 else 0
        if digits <= MOST_DIGITS:
            return Fraction(base) ** exponent
        if isinstance(base, int):
            raise NotCalculable(f"A number has more than {MOST_DIGITS} digits.", field="expression")
    return _decimal(base) ** _decimal(exponent)


def _sine(value: _Exact) -> _Exact:
    if not -(10**20) <= value <= 10**20:
        raise NotCalculable("An angle is at most 1e20.", field="expression")
    # The Taylor series of the angle within one turn, with digits to spare.
    with localcontext(prec=80):
        angle = _decimal(value) % (2 * _LONG_PI)
        term = angle
        found = Decimal(0)
        place = 1
        while abs(term) > _NOTHING:
            found += term
            term = -term * angle * angle / ((place + 1) * (place + 2))
            place += 2
        # pi has 34 digits, and half of it may be off by one in the last: sin(pi) and cos(pi / 2) are 0.
        return found.quantize(Decimal("1e-32")) or Decimal(0)


def _cosine(value: _Exact) -> _Exact:
    with localcontext(prec=80):
        return _sine(_LONG_PI / 2 - _decimal(value))


def _tangent(value: _Exact) -> _Exact:
    return _either(_divide)(_sine(value), _cosine(value))


def _by_decimal(function: Callable[[Decimal], Decimal]) -> Callable[[_Exact], _Exact]:
    return lambda value: function(_decimal(value))


def _root(value: _Exact) -> _Exact:
    return _whole_root(value, 2) if value >= 0 else _decimal(value).sqrt()


def _cube_root(value: _Exact) -> _Exact:
    return -_whole_root(-value, 3) if value < 0 else _whole_root(value, 3)


def _whole_root(value: _Exact, degree: int) -> _Exact:
    """Return the root of a number that is not negative, exact where it is a ratio of integers."""
    with localcontext(prec=_PRECISION + 6):
        decimal = _decimal(value)
        root = decimal.sqrt() if degree == 2 else decimal ** (Decimal(1) / degree) if decimal else decimal
    if not isinstance(value, Decimal):
        above, below = (_integer_root(part, degree) for part in (value.numerator, value.denominator))
        if above**degree == value.numerator and below**degree == value.denominator:
            return Fraction(above, below)
    return +root


def _integer_root(value: int, degree: int) -> int:
    if degree == 2:
        return math.isqrt(value)
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    return low


def _round(value: _Exact, digits: _Exact = 0) -> _Exact:
    if not isinstance(digits, int) or not 0 <= digits <= 30:
        raise NotCalculable("round takes 0 to 30 digits after the point.", field="expression")
    if isinstance(value, int):
        return value
    if isinstance(value, Fraction):
        scaled = abs(value) * 10**digits
        whole = math.floor(scaled + Fraction(1, 2))
        return Fraction(whole if value > 0 else -whole, 10**digits)
    rounded = value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return rounded if digits else int(rounded)


def _factorial(value: _Exact) -> _Exact:
    if not isinstance(value, int) or not 0 <= value <= 450:
        raise NotCalculable("factorial takes an integer from 0 to 450.", field="expression")
    return math.factorial(value)


def _combinations(of: _Exact, chosen: _Exact) -> _Exact:
    if not isinstance(of, int) or not isinstance(chosen, int) or not 0 <= chosen <= of <= 450:
        raise NotCalculable("comb takes two integers from 0 to 450, the larger first.", field="expression")
    return math.comb(of, chosen)


def _of_integers(name: str, function: Callable[..., int]) -> Callable[..., _Exact]:
    def applied(*values: _Exact) -> _Exact:
        if not values or not all(isinstance(value, int) for value in values):
            raise NotCalculable(f"{name} takes integers.", field="expression")
        return function(*values)

    return applied


def _of_some(name: str, function: Callable[[tuple[_Exact, ...]], _Exact]) -> Callable[..., _Exact]:
    def applied(*values: _Exact) -> _Exact:
        if not values:
            raise NotCalculable(f"{name} takes one number or more.", field="expression")
        return function(values)

    return applied


def _sum(values: tuple[_Exact, ...]) -> _Exact:
    return reduce(_either(operator.add), values)


def _mean(values: tuple[_Exact, ...]) -> _Exact:
    return _either(_divide)(_sum(values), len(values))


def _median(values: tuple[_Exact, ...]) -> _Exact:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else _mean((ordered[middle - 1], ordered[middle]))


def _log(value: _Exact, base: _Exact | None = None) -> _Exact:
    # The constant e is cut after 34 digits; its logarithm is 1 all the same.
    natural = Decimal(1) if value == _CONSTANTS["e"] else _decimal(value).ln()
    return natural if base is None else natural / _decimal(base).ln()


_OPERATORS: Mapping[type[ast.operator], Callable[[_Exact, _Exact], _Exact]] = {
    ast.Add: _either(operator.add),
    ast.Sub: _either(operator.sub),
    ast.Mult: _either(operator.mul),
    ast.Div: _either(_divide),
    ast.FloorDiv: _floor_divide,
    ast.Mod: lambda left, right: _either(operator.sub)(
        left, _either(operator.mul)(right, _floor_divide(left, right))
    ),
    ast.Pow: _power,
}
_CONSTANTS: Mapping[str, Number] = {
    "pi": Decimal("3.141592653589793238462643383279503"),
    "e": Decimal("2.718281828459045235360287471352662"),
}
_FUNCTIONS: Mapping[str, Callable[..., _Exact]] = {
    "abs": abs,
    "cbrt": _cube_root,
    "ceil": math.ceil,
    "comb": _combinations,
    "cos": _cosine,
    "exp": _by_decimal(Decimal.exp),
    "factorial": _factorial,
    "floor": math.floor,
    "gcd": _of_integers("gcd", math.gcd),
    "lcm": _of_integers("lcm", math.lcm),
    "log": _log,
    "log10": _by_decimal(Decimal.log10),
    "max": max,
    "mean": _of_some("mean", _mean),
    "median": _of_some("median", _median),
    "min": min,
    "round": _round,
    "sin": _sine,
    "sqrt": _root,
    "sum": _of_some("sum", _sum),
    "tan": _tangent,
}
