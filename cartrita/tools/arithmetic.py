"""Arithmetic on text: a closed set of operators and functions over exact numbers, with every size bounded.

Numbers are integers and decimals of 34 significant digits (IEEE 754 decimal128), so that 0.1 + 0.2 is 0.3.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Decimal, DecimalException, localcontext
from typing import ClassVar

from cartrita.errors import BadInput

Number = int | Decimal

LONGEST_EXPRESSION = 1000
MOST_DIGITS = 1000
_PRECISION = 34
_MOST_PARTS = 300


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
            return _bounded(_value(tree.body, expression.strip()))
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


def _value(node: ast.expr, source: str) -> Number:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.Constant(value=float()):
            return _bounded(Decimal((ast.get_source_segment(source, node) or "").replace("_", "")))
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


def _bounded(value: Number) -> Number:
    # 3.33 bits a digit; asked of the bits, because writing a huge integer out is what must not happen.
    if isinstance(value, int) and value.bit_length() > MOST_DIGITS * 3.33:
        raise NotCalculable(f"A number has more than {MOST_DIGITS} digits.", field="expression")
    if isinstance(value, Decimal) and not value.is_finite():
        raise NotCalculable("The result is not a finite number.", field="expression")
    if isinstance(value, Decimal) and value and abs(value.adjusted()) > MOST_DIGITS:
        raise NotCalculable(f"A number has more than {MOST_DIGITS} digits.", field="expression")
    return value


def _divide(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int) and right and left % right == 0:
        return left // right
    return Decimal(left) / Decimal(right)


def _floor_divide(left: Number, right: Number) -> Number:
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    quotient = Decimal(left) / Decimal(right)
    if quotient.adjusted() >= _PRECISION:
        raise NotCalculable("The quotient has too many digits.", field="expression")
    return math.floor(quotient)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if abs(base) > 1 and exponent * math.log10(abs(base)) > MOST_DIGITS:
            raise NotCalculable(f"A number has more than {MOST_DIGITS} digits.", field="expression")
        power: int = base**exponent
        return power
    return Decimal(base) ** Decimal(exponent)


def _exact(whole: Callable[[Number, Number], Number]) -> Callable[[Number, Number], Number]:
    def apply(left: Number, right: Number) -> Number:
        if isinstance(left, int) and isinstance(right, int):
            return whole(left, right)
        return whole(Decimal(left), Decimal(right))

    return apply


def _by_float(function: Callable[[float], float]) -> Callable[[Number], Number]:
    return lambda value: Decimal(repr(function(float(value))))


def _root(value: Number) -> Number:
    if isinstance(value, int) and value >= 0 and math.isqrt(value) ** 2 == value:
        return math.isqrt(value)
    return Decimal(value).sqrt()


def _round(value: Number, digits: Number = 0) -> Number:
    if not isinstance(digits, int) or not 0 <= digits <= 30:
        raise NotCalculable("round takes 0 to 30 digits after the point.", field="expression")
    if isinstance(value, int):
        return value
    rounded = value.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return rounded if digits else int(rounded)


def _factorial(value: Number) -> Number:
    if not isinstance(value, int) or not 0 <= value <= 450:
        raise NotCalculable("factorial takes an integer from 0 to 450.", field="expression")
    return math.factorial(value)


def _log(value: Number, base: Number | None = None) -> Number:
    natural = Decimal(value).ln()
    return natural if base is None else natural / Decimal(base).ln()


_OPERATORS: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: _exact(operator.add),
    ast.Sub: _exact(operator.sub),
    ast.Mult: _exact(operator.mul),
    ast.Div: _divide,
    ast.FloorDiv: _floor_divide,
    ast.Mod: lambda left, right: _exact(operator.sub)(
        left, _exact(operator.mul)(right, _floor_divide(left, right))
    ),
    ast.Pow: _power,
}
_CONSTANTS: Mapping[str, Number] = {
    "pi": Decimal("3.141592653589793238462643383279503"),
    "e": Decimal("2.718281828459045235360287471352662"),
}
_FUNCTIONS: Mapping[str, Callable[..., Number]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": _by_float(math.cos),
    "exp": lambda value: Decimal(value).exp(),
    "factorial": _factorial,
    "floor": math.floor,
    "log": _log,
    "log10": lambda value: Decimal(value).log10(),
    "max": max,
    "min": min,
    "round": _round,
    "sin": _by_float(math.sin),
    "sqrt": _root,
    "tan": _by_float(math.tan),
}
