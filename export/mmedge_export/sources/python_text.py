"""Python expressions laid out over lines, as a formatter would."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Brackets", "Expression", "lay_out", "plain", "prefixed"]

#: Longest line.
_WIDTH = 100


@dataclass(frozen=True)
class Brackets:
    """What is written between brackets, a line each where one line is too short.

    Attributes:
        start: such as ``Input(``, with what stands before the first bracket.
        items: in order.
        end: such as ``)``.
    """

    start: str
    items: tuple[Expression, ...]
    end: str

    def __str__(self) -> str:
        return f"{self.start}{', '.join(map(str, self.items))}{self.end}"


Expression = str | Brackets


def plain(value: object) -> Expression:
    """Texts, numbers, and what holds such; anything else by its ``repr``."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return Brackets(
            "{", tuple(prefixed(f"{plain(key)}: ", plain(each)) for key, each in value.items()), "}"
        )
    if isinstance(value, tuple):
        return Brackets("(", tuple(map(plain, value)), ",)" if len(value) == 1 else ")")
    if isinstance(value, Sequence):
        return Brackets("[", tuple(map(plain, value)), "]")
    return repr(value)


def prefixed(prefix: str, expression: Expression) -> Expression:
    """``expression`` after ``prefix``, such as a keyword."""
    if isinstance(expression, Brackets):
        return Brackets(f"{prefix}{expression.start}", expression.items, expression.end)
    return f"{prefix}{expression}"


def lay_out(expression: Expression, indent: int, suffix: str = "") -> list[str]:
    """Lines of an expression.

    Args:
        expression: what is written.
        indent: spaces before the first line.
        suffix: what follows the last line.
    """
    space = " " * indent
    line = f"{space}{expression}{suffix}"
    if isinstance(expression, str) or len(line) <= _WIDTH:
        return [line]
    lines = [f"{space}{expression.start}"]
    for item in expression.items:
        lines += lay_out(item, indent + 4, ",")
    return [*lines, f"{space}{expression.end}{suffix}"]
