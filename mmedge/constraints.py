"""Relations between dynamic sizes: read strictly, evaluated exactly, never by ``eval``.

docs/reference/bundle.md has the grammar. A relation is read once, when a bundle is opened, into
nested tuples ``(operator, operand, ...)``; sizes are looked at once for each combination of shapes.
It is longer than most, since the grammar, its meaning and what completes sizes are one rule.
"""

from __future__ import annotations

import re
from itertools import islice, product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mmedge.spec import Constraint, Dimension

__all__ = [
    "LARGEST",
    "MAX_ALL_TOKENS",
    "MAX_CONSTRAINTS",
    "MAX_DEPTH",
    "MAX_LENGTH",
    "MAX_TOKENS",
    "WORDS",
    "Expression",
    "Relations",
    "allows",
    "parse",
    "round_up",
    "spans",
]

#: Relations of a bundle; characters, tokens and nesting of one of them.
MAX_CONSTRAINTS, MAX_LENGTH, MAX_TOKENS, MAX_DEPTH = 256, 1000, 256, 32

#: Tokens of all relations: :meth:`Relations.complete` may evaluate each thousands of times.
MAX_ALL_TOKENS = 2048

#: Every number written or met while evaluating lies within this, to either side of 0.
LARGEST = 2**63 - 1

#: What is no name of a dimension in an expression.
WORDS = frozenset({"and", "or", "not", "min", "max"})

#: Combinations of sizes that :meth:`Relations.complete` tries, and sizes in a row for each.
_TRIES, _STEPS = 4096, 64

# Compiled at its first use: most bundles have no relations.
_LEXEME = r" *(?:([0-9]+)|([A-Za-z_][A-Za-z0-9_]*)|(//|==|!=|<=|>=|[-+*%<>(),]))"
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_COMPUTE: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}
_Tree = tuple[Any, ...]


class Expression:
    """A relation that has been read, made by :func:`parse`.

    ``names`` are the dimensions in it, ``tokens`` its numbers, names, operators and brackets.
    """

    __slots__ = ("_tree", "names", "text", "tokens")

    def __init__(self, text: str, tree: _Tree, names: frozenset[str], tokens: int) -> None:
        self.text, self._tree, self.names, self.tokens = text, tree, names, tokens

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it holds at ``sizes``; a division by 0 or a number past LARGEST breaks it."""
        try:
            return bool(_value(self._tree, sizes))
        except (ZeroDivisionError, OverflowError):
            return False


class Relations:
    """The limits of a bundle's dimensions and the relations between them.

    Args:
        dimensions: limits by name.
        constraints: relations that :func:`parse` takes.
    """

    def __init__(
        self, dimensions: Mapping[str, Dimension], constraints: Sequence[Constraint] = ()
    ) -> None:
        self.dimensions = dimensions
        self._relations = tuple((c, parse(c.expression)) for c in constraints)
        self.any = bool(self._relations)
        self._names = sorted({name for _, relation in self._relations for name in relation.names})
        self._broken: dict[tuple[tuple[str, int], ...], str | None] = {}

    def fault(self, sizes: Mapping[str, int]) -> str | None:
        """What is wrong with ``sizes``, in words; None where every relation between them holds.

        A relation in which other names occur as well is not looked at.
        """
        if not self.any:
            return None
        key = tuple(sizes.items())
        if key in self._broken:
            return self._broken[key]
        broken = self._first_broken(sizes)
        fault = None if broken is None else self._describe(broken, sizes)
        if len(self._broken) < _TRIES:  # a bound; past it, each is looked at anew
            self._broken[key] = fault
        return fault

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether every relation between ``sizes`` holds."""
        return self._first_broken(sizes) is None

    def complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """``sizes`` and, for every other dimension, a size: what stands in for what is absent.

        Those are the smallest where that keeps every relation. Else, for each that a relation
        names, in order of name, the first 64 sizes are tried and, for every size in ``sizes``, the
        next that the dimension may have from there on and the one after: ascending, the last name
        changing fastest, at most 4,096 combinations. Where none keeps every relation it is the
        smallest again, which :meth:`fault` refuses.
        """
        smallest = {name: limits.min for name, limits in self.dimensions.items()} | dict(sizes)
        if not self.any or self.holds(smallest) or not self.holds(sizes):
            return smallest
        free_names = [name for name in self._names if name not in sizes]
        near = [_candidates(self.dimensions[name], sizes.values()) for name in free_names]
        # Of the others it is known that they hold.
        open_relations = [
            relation for _, relation in self._relations if relation.names - sizes.keys()
        ]
        for combination in islice(product(*near), _TRIES):
            candidate = smallest | dict(zip(free_names, combination, strict=True))
            if all(relation.holds(candidate) for relation in open_relations):
                return candidate
        return smallest

    def _first_broken(self, sizes: Mapping[str, int]) -> tuple[Constraint, Expression] | None:
        return next(
            (
                (constraint, relation)
                for constraint, relation in self._relations
                if relation.names <= sizes.keys() and not relation.holds(sizes)
            ),
            None,
        )

    def _describe(self, broken: tuple[Constraint, Expression], sizes: Mapping[str, int]) -> str:
        constraint, relation = broken
        broken_sizes = ", ".join(f"{name}={sizes[name]}" for name in sorted(relation.names))
        return (
            f"sizes {broken_sizes}: this bundle takes only {constraint.expression}, because of "
            f"{constraint.source}\n  What to do: pass sizes that keep it; elsewhere the network "
            "does something else, which is not in this bundle's graphs"
        )


def allows(dimension: Dimension, size: int) -> bool:
    """Whether ``size`` is within the limits of ``dimension``, relations to others aside."""
    most = size if dimension.max is None else dimension.max
    return dimension.min <= size <= most and size % dimension.multiple == 0


def spans(dimension: Dimension) -> str:
    """The sizes that ``dimension`` may have, in words."""
    most = "any" if dimension.max is None else dimension.max
    step = "" if dimension.multiple == 1 else f" in multiples of {dimension.multiple}"
    return f"{dimension.min} to {most}{step}"


def round_up(dimension: Dimension, size: int) -> int:
    """The smallest size from ``size`` on that ``dimension`` may have; its largest where none is."""
    size = max(-(-size // dimension.multiple) * dimension.multiple, dimension.min)
    return size if dimension.max is None else min(size, dimension.max)


def _candidates(dimension: Dimension, near: Iterable[int]) -> list[int]:
    step = dimension.multiple
    sizes = {dimension.min + step * index for index in range(_STEPS)}
    for size in near:
        nearest = round_up(dimension, size)
        sizes |= {nearest, nearest + step}
    return sorted(size for size in sizes if allows(dimension, size))


def parse(text: str) -> Expression:
    """Read a relation.

    Raises:
        ValueError: ``text`` is none; the message says what was expected where.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"at most {MAX_LENGTH} characters, got {len(text)}")
    reader = _RelationReader(text)
    tree, kind = reader.read_or(0)
    if not reader.at_end():
        raise reader.misfit("the end or an operator")
    if kind is not bool:
        raise ValueError(f"a relation such as {text.strip()} == 0, got a number")
    return Expression(text, tree, frozenset(reader.names), reader.count)


class _RelationReader:
    """Recursive descent: one method for each rule of the grammar, with the depth so far.

    Each gives the tree and its type, ``bool`` or ``int``.
    """

    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        self._tokens = _split(text)
        self._at = 0

    @property
    def count(self) -> int:
        return len(self._tokens)

    def at_end(self) -> bool:
        return self._at == self.count

    def misfit(self, expected: str) -> ValueError:
        got = "the end" if self.at_end() else repr(self._tokens[self._at])
        return ValueError(f"{expected}, got {got} at token {self._at + 1}")

    def _take(self, *tokens: str) -> str:
        """The next token if it is one of ``tokens``, else an empty text."""
        if self.at_end() or self._tokens[self._at] not in tokens:
            return ""
        self._at += 1
        return self._tokens[self._at - 1]

    def _need(self, token: str) -> None:
        if not self._take(token):
            raise self.misfit(repr(token))

    def read_or(self, depth: int) -> tuple[_Tree, type]:
        _check_depth(depth)
        return self._join("or", self._read_and, depth)

    def _read_and(self, depth: int) -> tuple[_Tree, type]:
        return self._join("and", self._read_not, depth)

    def _join(
        self, word: str, read_part: Callable[[int], tuple[_Tree, type]], depth: int
    ) -> tuple[_Tree, type]:
        first, kind = read_part(depth)
        parts = [first]
        while self._take(word):
            part, also = read_part(depth)
            self._check_kind(bool, kind, also)
            parts.append(part)
        return (first, kind) if len(parts) == 1 else ((word, *parts), bool)

    def _read_not(self, depth: int) -> tuple[_Tree, type]:
        if not self._take("not"):
            return self._read_comparison(depth)
        _check_depth(depth)
        tree, kind = self._read_not(depth + 1)
        self._check_kind(bool, kind)
        return ("not", tree), bool

    def _read_comparison(self, depth: int) -> tuple[_Tree, type]:
        first, kind = self._read_sum(depth)
        operator = self._take(*_COMPARE)
        if not operator:
            return first, kind
        second, also = self._read_sum(depth)
        self._check_kind(int, kind, also)
        return (operator, first, second), bool

    def _read_sum(self, depth: int) -> tuple[_Tree, type]:
        return self._chain(("+", "-"), self._read_product, depth)

    def _read_product(self, depth: int) -> tuple[_Tree, type]:
        return self._chain(("*", "//", "%"), self._read_factor, depth)

    def _chain(
        self,
        operators: Sequence[str],
        read_operand: Callable[[int], tuple[_Tree, type]],
        depth: int,
    ) -> tuple[_Tree, type]:
        """Operators of one rank, from the left; the tree is as deep as the chain is long."""
        tree, kind = read_operand(depth)
        while operator := self._take(*operators):
            operand, also = read_operand(depth)
            self._check_kind(int, kind, also)
            tree = (operator, tree, operand)
        return tree, kind

    def _read_factor(self, depth: int) -> tuple[_Tree, type]:
        _check_depth(depth)
        if self._take("-"):
            tree, kind = self._read_factor(depth + 1)
            self._check_kind(int, kind)
            return ("-", ("number", 0), tree), int
        if self._take("("):
            tree, kind = self.read_or(depth + 1)
            self._need(")")
            return tree, kind
        if word := self._take("min", "max"):
            return self._read_call(word, depth), int
        if self.at_end():
            raise self.misfit("a number or a dimension")
        token = self._tokens[self._at]
        if token.isdigit():
            self._at += 1
            return ("number", int(token)), int
        if token in WORDS or not (token[0].isalpha() or token[0] == "_"):
            raise self.misfit("a number or a dimension")
        self._at += 1
        self.names.add(token)
        return ("name", token), int

    def _read_call(self, word: str, depth: int) -> _Tree:
        self._need("(")
        parts = []
        while True:
            tree, kind = self._read_sum(depth + 1)
            self._check_kind(int, kind)
            parts.append(tree)
            if not self._take(","):
                break
        self._need(")")
        if len(parts) < 2:
            raise ValueError(f"{word} of at least two numbers")
        tree = parts[0]
        for part in parts[1:]:
            tree = (word, tree, part)
        return tree

    def _check_kind(self, expected: type, *kinds: type) -> None:
        if any(kind is not expected for kind in kinds):
            expected_word, word = (
                ("a relation", "a number") if expected is bool else ("a number", "a relation")
            )
            raise ValueError(f"{expected_word}, got {word} before token {self._at + 1}")


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested at most {MAX_DEPTH} deep")


def _split(text: str) -> list[str]:
    tokens: list[str] = []
    at, end = 0, len(text.rstrip(" "))
    match_lexeme = re.compile(_LEXEME).match
    while at < end:
        match = match_lexeme(text, at)
        if match is None:
            raise ValueError(f"a number, a dimension or an operator, got {text[at:][:20]!a}")
        token = match[1] or match[2] or match[3]
        if match[1] and (len(token) > 19 or int(token) > LARGEST):
            raise ValueError(f"numbers up to {LARGEST}, got {token[:30]}")
        tokens.append(token)
        at = match.end()
        if len(tokens) > MAX_TOKENS:
            raise ValueError(f"at most {MAX_TOKENS} numbers, names and operators")
    return tokens


def _value(tree: _Tree, sizes: Mapping[str, int]) -> int:
    """The number or truth of ``tree``.

    Raises:
        ZeroDivisionError: a division by 0.
        OverflowError: a number past LARGEST.
    """
    operator = tree[0]
    if operator == "number":
        return int(tree[1])
    if operator == "name":
        return sizes[tree[1]]
    if operator == "and":
        return all(_value(part, sizes) for part in tree[1:])
    if operator == "or":
        return any(_value(part, sizes) for part in tree[1:])
    if operator == "not":
        return not _value(tree[1], sizes)
    first, second = _value(tree[1], sizes), _value(tree[2], sizes)
    if operator in _COMPARE:
        return _COMPARE[operator](first, second)
    result = _COMPUTE[operator](first, second)
    if not -LARGEST <= result <= LARGEST:
        raise OverflowError(f"{result} is past {LARGEST}")
    return result
