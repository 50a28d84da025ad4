"""A relation of torch's symbolic shapes in the grammar of a bundle (docs/reference/bundle.md).

The grammar has whole numbers alone. True division, and halves and quarters that Python code
multiplies a size with, are carried as a fraction with a whole denominator and multiplied out.
"""

from __future__ import annotations

from fractions import Fraction
from functools import reduce
from math import lcm

import sympy

from mmedge.constraints import parse

__all__ = ["relation_text"]

#: Largest denominator: floats with it are exact for every size, which 0.3 * size is not.
_FINEST = 1024

_COMPARE = {
    "Equality": "==",
    "Unequality": "!=",
    "StrictLessThan": "<",
    "LessThan": "<=",
    "StrictGreaterThan": ">",
    "GreaterThan": ">=",
}

#: How tight an operator binds.
_OR, _AND, _COMPARISON, _SUM, _PRODUCT, _ATOM = range(6)

_Text = tuple[str, int]


class _NoFormError(ValueError):
    """A function that the grammar lacks."""


def relation_text(relation: sympy.Basic) -> str | None:
    """``relation``, over names of dimensions, as text; None where it has no such form."""
    try:
        text = _relation(relation)[0]
        parse(text)
    except ValueError:
        return None
    return text


def _relation(relation: sympy.Basic) -> _Text:
    kind = type(relation).__name__
    if isinstance(relation, (sympy.And, sympy.Or)):
        word, rank = ("and", _AND) if isinstance(relation, sympy.And) else ("or", _OR)
        parts = sorted(_within(_relation(part), rank + 1) for part in relation.args)
        return f" {word} ".join(parts), rank
    if isinstance(relation, sympy.Not):
        return f"not ({_relation(relation.args[0])[0]})", _COMPARISON
    if kind not in _COMPARE:
        raise _NoFormError(kind)
    left, right = (_fraction(side) for side in relation.args)
    ends = lcm(left[1], right[1])
    sides = [
        _within(_times(_number(ends // denominator), text), _SUM)
        for text, denominator in (left, right)
    ]
    return f"{sides[0]} {_COMPARE[kind]} {sides[1]}", _COMPARISON


def _fraction(expression: sympy.Basic) -> tuple[_Text, int]:
    """Numerator and a whole denominator above 0."""
    kind = type(expression).__name__
    if isinstance(expression, (sympy.Rational, sympy.Float)):
        exact = Fraction(str(expression)) if expression.is_Rational else Fraction(float(expression))
        if exact.denominator > _FINEST:
            raise _NoFormError(str(expression))
        return _number(exact.numerator), exact.denominator
    if kind in ("ToFloat", "Identity"):
        return _fraction(expression.args[0])
    if isinstance(expression, sympy.Add):
        parts = [_fraction(part) for part in expression.args]
        ends = reduce(lcm, (end for _, end in parts))
        return _sum([_times(_number(ends // end), text) for text, end in parts]), ends
    if isinstance(expression, sympy.Mul):
        if expression.could_extract_minus_sign():
            text, end = _fraction(-expression)
            return _negate(text), end
        parts = [_fraction(part) for part in expression.args]
        texts = [text for text, _ in parts]
        return reduce(_times, texts), reduce(lambda a, b: a * b, (end for _, end in parts))
    if kind in ("IntTrueDiv", "FloatTrueDiv"):
        (text, end), divisor = _fraction(expression.args[0]), expression.args[1]
        while type(divisor).__name__ == "ToFloat":
            divisor = divisor.args[0]
        if not divisor.is_number or float(divisor) < 1 or not float(divisor).is_integer():
            raise _NoFormError(str(expression))
        return text, end * int(float(divisor))
    return _whole(expression), 1


def _whole(expression: sympy.Basic) -> _Text:
    """An expression whose value is a whole number."""
    kind, args = type(expression).__name__, expression.args
    if isinstance(expression, sympy.Symbol):
        return expression.name, _ATOM
    if isinstance(expression, sympy.Pow) or kind == "PowByNatural":
        if not (args[1].is_Integer and 1 <= args[1] <= 4):
            raise _NoFormError(str(expression))
        return reduce(_times, [_integer(args[0])] * int(args[1]))
    if kind in ("FloorDiv", "CleanDiv"):
        return _divide(_integer(args[0]), _integer(args[1]))
    if kind == "CeilDiv":
        return _negate(_divide(_negate(_integer(args[0])), _integer(args[1])))
    if kind in ("Mod", "PythonMod"):
        return _operator(_integer(args[0]), "%", _integer(args[1]))
    if kind == "ModularIndexing":
        return _operator(_divide(_integer(args[0]), _integer(args[1])), "%", _integer(args[2]))
    if kind in ("Max", "Min"):
        parts = sorted(_integer(part)[0] for part in args)
        return f"{kind.lower()}({', '.join(parts)})", _ATOM
    if kind in ("FloorToInt", "CeilToInt", "TruncToInt"):
        argument = args[0]
        if kind == "TruncToInt" and not _is_never_negative(argument):
            raise _NoFormError(str(expression))
        if type(argument).__name__ == "IntTrueDiv":
            top, end = _integer(argument.args[0]), _integer(argument.args[1])
        else:
            top, denominator = _fraction(argument)
            end = _number(denominator)
        if kind == "CeilToInt":
            return _negate(_divide(_negate(top), end))
        return _divide(top, end)
    raise _NoFormError(str(expression))


def _is_never_negative(expression: sympy.Basic) -> bool:
    """Whether it has nothing that could make it negative: sizes are not."""
    return not any(
        (part.is_number and part.is_negative) or type(part).__name__ in ("FloorDiv", "Mod")
        for part in sympy.preorder_traversal(expression)
    )


def _integer(expression: sympy.Basic) -> _Text:
    text, end = _fraction(expression)
    if end != 1:
        raise _NoFormError(str(expression))
    return text


def _number(value: int) -> _Text:
    return str(value), _ATOM if value >= 0 else _SUM


def _within(text: _Text, rank: int) -> str:
    return text[0] if text[1] >= rank else f"({text[0]})"


def _times(first: _Text, second: _Text) -> _Text:
    if first[0] == "1":
        return second
    if second[0] == "1":
        return first
    if first[0].isdigit() and second[0].isdigit():
        return _number(int(first[0]) * int(second[0]))
    return _operator(first, "*", second)


def _operator(first: _Text, operator: str, second: _Text) -> _Text:
    return f"{_within(first, _PRODUCT)} {operator} {_within(second, _ATOM)}", _PRODUCT


def _divide(first: _Text, second: _Text) -> _Text:
    return first if second[0] == "1" else _operator(first, "//", second)


def _negate(text: _Text) -> _Text:
    if text[0].startswith("-") and text[0].count("-") == 1 and text[1] == _SUM:
        operand = text[0][1:]
        if operand.isidentifier() or operand.isdigit():
            return operand, _ATOM
    return f"-{_within(text, _ATOM)}", _SUM


def _sum(parts: list[_Text]) -> _Text:
    """Positive terms first, numbers last, so that it reads as one would write it."""
    parts.sort(key=lambda part: (part[0].startswith("-"), part[0].lstrip("-").isdigit(), part[0]))
    text = _within(parts[0], _SUM)
    for part, rank in parts[1:]:
        term = _within((part, rank), _SUM)
        text += f" - {term[1:]}" if term.startswith("-") else f" + {term}"
    return text, _SUM
