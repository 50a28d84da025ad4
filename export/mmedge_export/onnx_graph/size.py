"""A size that need not be a number yet: a polynomial over the dynamic dimensions of a graph."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmedge.spec import Dimension

__all__ = ["ONE", "ZERO", "Size", "product", "total"]

Monomial = tuple[str, ...]
"""Dimensions multiplied with each other, sorted; none is the number 1."""


@dataclass(frozen=True)
class Size:
    """A polynomial with integer coefficients; two that are equal are the same size in every run.

    The converse does not hold: two dimensions with different names may always be the same size.
    """

    terms: tuple[tuple[Monomial, int], ...] = ()

    @staticmethod
    def of(value: int | str) -> Size:
        """A number, or a dimension by its name.

        A name that is a sum, difference, product or quotient (``s0//2 + 1``, as exporters write it)
        is read as such; any other text is one dimension.
        """
        if isinstance(value, int):
            return Size((((), value),) if value else ())
        try:
            return _read(ast.parse(value, mode="eval").body)
        except (SyntaxError, ValueError):
            return Size((((value,), 1),))

    @property
    def number(self) -> int | None:
        """The size where it is fixed."""
        if not self.terms:
            return 0
        return self.terms[0][1] if self.terms[-1][0] == () else None

    def at(self, sizes: Mapping[str, int]) -> int | None:
        """The number where dimensions have these sizes; None where one of them is missing."""
        if any(name not in sizes for names, _ in self.terms for name in names):
            return None
        return sum(f * math.prod(sizes[name] for name in names) for names, f in self.terms)

    def least(self, names: Mapping[str, int | str], dimensions: Mapping[str, Dimension]) -> int:
        """The smallest number; 0 where that is open, as of detections: there may be none.

        Args:
            names: what stands here for dimensions, or sizes of them.
            dimensions: the limits of each.
        """
        if any(factor < 0 for _, factor in self.terms):
            return 0
        known = {
            name: size if isinstance(size, int) else dimensions[size].min
            for name, size in names.items()
        }
        return self.at(known) or 0

    def __add__(self, other: Size) -> Size:
        sums = dict(self.terms)
        for names, factor in other.terms:
            sums[names] = sums.get(names, 0) + factor
        return _from(sums)

    def __sub__(self, other: Size) -> Size:
        return self + other * Size.of(-1)

    def __mul__(self, other: Size) -> Size:
        sums: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                names = tuple(sorted(left + right))
                sums[names] = sums.get(names, 0) + a * b
        return _from(sums)

    def over(self, other: Size) -> Size | None:
        """The exact quotient, None where there is none (long division by leading terms)."""
        if not other.terms:
            return None
        names, factor = other.terms[-1]
        rest, quotient = self, ZERO
        for _ in range(64):  # of terms; a quotient with more is none that we could use
            if not rest.terms:
                return quotient
            factors = list(rest.terms[-1][0])
            for name in names:
                if name not in factors:
                    return None
                factors.remove(name)
            if rest.terms[-1][1] % factor:
                return None
            term = Size(((tuple(factors), rest.terms[-1][1] // factor),))
            rest, quotient = rest - term * other, quotient + term
        return None

    def floor(self, other: Size) -> Size | None:
        """The quotient rounded down, None where it may round otherwise in ONNX.

        Where it is not exact it is a dimension of its own, the same for equal operands. ONNX rounds
        towards zero and exporters' ``//`` down, which is the same only from 0 on: a numerator with
        a negative coefficient has none.
        """
        exact = self.over(other)
        if exact is not None or not other.terms:
            return exact
        if min(factor for _, factor in (*self.terms, *other.terms)) < 0:
            return None
        return Size((((f"({self})//({other})",), 1),))

    def __str__(self) -> str:
        words = ["*".join([str(factor)] * (factor != 1 or not names) + list(names))
                 for names, factor in self.terms]  # fmt: skip
        return " + ".join(words) or "0"


def _from(sums: dict[Monomial, int]) -> Size:
    # By degree first: a monomial order, so that the last term leads.
    terms = [(names, factor) for names, factor in sums.items() if factor]
    return Size(tuple(sorted(terms, key=lambda term: (len(term[0]), term[0]))))


def _read(tree: ast.expr) -> Size:
    match tree:
        case ast.Constant(value=int(number)):
            return Size.of(number)
        case ast.Name(id=name):
            return Size((((name,), 1),))
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _read(left) + _read(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _read(left) - _read(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _read(left) * _read(right)
        case ast.BinOp(left=left, op=ast.FloorDiv(), right=right):
            quotient = _read(left).floor(_read(right))
            if quotient is not None:
                return quotient
    raise ValueError(ast.dump(tree))


ZERO, ONE = Size.of(0), Size.of(1)


def product(sizes: Iterable[Size]) -> Size:
    """Of none: 1."""
    return math.prod(sizes, start=ONE)


def total(sizes: Iterable[Size]) -> Size:
    """Of none: 0."""
    return sum(sizes, start=ZERO)
