"""Which of a traced program's assumptions on sizes do not hold at every size that a call may have.

What the network's own code asks of a size decides which of its branches is in the graph: where the
answer is not the same at every allowed size, the export is refused with the line that asks. What
torch asks while it runs operators most often only chooses among ways to the same result (whether
sizes are 0 or 1, strides): it is tried, at sizes where it does not hold, against the network
itself, and is a reason to refuse only where the graph differs there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mmedge.constraints import Expression, parse
from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import sympy

    from mmedge.spec import Constraint, Dimension
    from mmedge_export.capture.relations import Relation
    from mmedge_export.domain import Question, SizeDomain

__all__ = ["Limits"]

#: Sizes at which a relation of torch's own does not hold, at which it is tried.
_WITNESSES = 2

#: Largest number that sizes are advised to be multiples of.
_MULTIPLE = 1024


@dataclass
class _Opaque:
    """A relation that the grammar of a bundle cannot say; ``text`` is torch's."""

    expression: sympy.Basic
    names: frozenset[str] = field(init=False)
    text: str = field(init=False)

    def __post_init__(self) -> None:
        self.names = frozenset(str(s) for s in self.expression.free_symbols)
        self.text = str(self.expression)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        from sympy import Integer

        values = {s: Integer(sizes[str(s)]) for s in self.expression.free_symbols}
        try:
            return bool(self.expression.xreplace(values).doit())
        except (TypeError, ValueError, ZeroDivisionError, OverflowError):
            return False


class Limits:
    """A traced program's assumptions, held against the sizes that calls may have.

    A relation that the limits of each dimension prove is dropped, and so is one that holds at all
    sizes that :class:`mmedge_export.domain.SizeDomain` tries: every one, or a choice of thousands.

    Args:
        relations: what the traced program assumes.
        domain: sizes that calls may have.

    Raises:
        ExportError: what the network's own code asks of sizes has another answer at some of them.
    """

    def __init__(self, relations: Sequence[Relation], domain: SizeDomain) -> None:
        self.domain = domain
        self._relations: list[tuple[Relation, Question]] = []
        self._open: list[tuple[Relation, Question]] = []
        branches: list[tuple[Relation, Question]] = []
        for relation in relations:
            if _is_proven(relation.expression, domain):
                continue
            pair = relation, _question(relation)
            self._relations.append(pair)
            breaking_sizes = domain.breaks(pair[1])
            if (
                breaking_sizes
                and relation.direct
                and not all(_is_tiny(sizes) for sizes in breaking_sizes)
            ):
                branches.append(pair)
            elif breaking_sizes:
                self._open.append(pair)
        if branches:
            raise ExportError(
                "the network takes another branch at other sizes, and a graph holds only one "
                "branch: " + "\n  ".join(self._describe(*pair) for pair in branches)
            )

    def constraints(self) -> tuple[Constraint, ...]:
        """The domain's, each with the line of the network that it is for, where that is known."""
        if not self.domain.constraints:
            return ()
        free_domain = self.domain.unconstrained()
        sources: dict[str, str] = {}
        for relation, question in sorted(self._relations, key=lambda pair: not pair[0].direct):
            if not free_domain.breaks(question) or self.domain.breaks(question):
                continue
            for constraint in self.domain.constraints:
                if parse(constraint.expression).names & question.names:
                    sources.setdefault(constraint.expression, relation.source)
        return tuple(
            replace(each, source=sources.get(each.expression, each.source))
            for each in self.domain.constraints
        )

    def witnesses(self, tried_sizes: Iterable[Mapping[str, int]]) -> list[dict[str, int]]:
        """Sizes at which open relations do not hold, where ``tried_sizes`` has too few such."""
        sizes = [dict(each) for each in tried_sizes]
        middle = {name: limits.opt for name, limits in self.domain.dimensions.items()}
        witnesses: list[dict[str, int]] = []
        for _, question in self._open:
            lacking = _WITNESSES - sum(not question.holds(each) for each in (*sizes, *witnesses))
            if lacking <= 0:
                continue
            breaking_sizes = self.domain.breaks(question)
            breaking_sizes.sort(
                key=lambda each: sum(abs(n - middle[name]) for name, n in each.items())
            )
            # The nearest to the example, and one as far as half of those that were looked at.
            for part in (breaking_sizes[0], breaking_sizes[len(breaking_sizes) // 2])[:lacking]:
                candidate = {**middle, **part}
                if self.domain.allows(candidate) and candidate not in (*sizes, *witnesses):
                    witnesses.append(candidate)
        return witnesses

    def reason(
        self,
        failing_sizes: Sequence[Mapping[str, int]],
        refused_sizes: Sequence[Mapping[str, int]],
        passing_sizes: Sequence[Mapping[str, int]],
    ) -> str:
        """Why the graph is not the network at sizes ``failing_sizes``, and what to do; or empty.

        The network itself refuses ``refused_sizes``, for which that a size is 0 or 1 is no reason
        unless its own code asks. It is the relation that fails at fewest of ``passing_sizes``, and
        of those the one that explains most of what failed; among equals one that the network's code
        asks for, then the shortest.
        """
        if any(all(question.holds(sizes) for _, question in self._open) for sizes in failing_sizes):
            return ""  # there must be another reason
        guilty = []
        for index, (relation, question) in enumerate(self._open):
            relevant_sizes = list(failing_sizes)
            if relation.direct or not all(_is_tiny(s) for s in self.domain.breaks(question)):
                relevant_sizes += refused_sizes
            explained_count = sum(not question.holds(sizes) for sizes in relevant_sizes)
            if explained_count:
                lost_count = sum(not question.holds(sizes) for sizes in passing_sizes)
                rank = lost_count, -explained_count, not relation.direct, len(question.text)
                guilty.append((*rank, index))
        return self._describe(*self._open[min(guilty)[-1]]) if guilty else ""

    def _describe(self, relation: Relation, question: Question) -> str:
        example = {name: limits.opt for name, limits in self.domain.dimensions.items()}
        where = f"because of {relation.place}" if relation.place else "because of an operator"
        if not question.holds(example):
            # Traced at size 2 where the example has 1, which torch would take for a constant.
            sizes_text = ", ".join(f"{name}={example[name]}" for name in sorted(question.names))
            return (
                f"at {sizes_text}, as in the example, it is another than at larger sizes, {where}\n"
                "  What to do: give an example that is larger than 1 in each dynamic dimension, or "
                "take the axis out of Input.dynamic"
            )
        breaking_sizes = self.domain.breaks(question)
        # An example of what it would get wrong, near the one that it gets right.
        nearest_sizes = min(
            breaking_sizes, key=lambda each: sum(abs(n - example[d]) for d, n in each.items())
        )
        at = ", ".join(f"{name}={size}" for name, size in nearest_sizes.items())
        return (
            f"this one needs {question.text} (not so at {at}), {where}\n"
            f"  What to do: {'; or '.join(self._fixes(question))}"
        )

    def _fixes(self, question: Question) -> list[str]:
        """Ways to keep ``question``."""
        fixes = []
        for name in sorted(question.names):
            limits = self._narrow(name, question)
            if limits == "":
                fix = f"take {name!r} out of Input.dynamic (this line fixes it to one size)"
                return [f"{fix}, or write the line for any size"]
            if limits is not None:
                fixes.append(f'state dims={{"{name}": {limits}}}')
        if len(question.names) == 2 and question.text.split() == [
            (first := min(question.names)),
            "==",
            (second := max(question.names)),
        ]:
            fixes.append(f"give both axes the name {first!r} in place of {second!r}")
        if isinstance(question, Expression):
            fixes.append(
                f"accept the limit with Model(constraints=({question.text!r},)): every call is "
                "then checked for it"
            )
        return [*fixes, "compute both sides and choose with torch.where"]

    def _narrow(self, name: str, question: Question) -> str | None:
        """Limits of ``name`` that imply ``question``; empty where they leave one size."""
        limits = self.domain.dimensions[name]
        trials = self.domain.trials(question)
        sizes = sorted({each[name] for each in trials})
        good_sizes = set(sizes) - {each[name] for each in trials if not question.holds(each)}
        if limits.opt not in good_sizes:
            return None
        if good_sizes == {limits.opt}:
            return "" if len(question.names) == 1 else None
        low, high = _run(sizes, good_sizes, limits.opt)
        if good_sizes == {size for size in sizes if low <= size <= high}:
            most = limits.max if high == sizes[-1] else high
            step = "" if limits.multiple == 1 else f", {limits.multiple}"
            return f"({low}, {most}{step})"
        return _multiples(limits, sizes, good_sizes)


def _run(sizes: Sequence[int], good_sizes: set[int], middle: int) -> tuple[int, int]:
    """First and last of the sizes around ``middle`` that are all good."""
    at = sizes.index(middle)
    low = high = at
    while low > 0 and sizes[low - 1] in good_sizes:
        low -= 1
    while high + 1 < len(sizes) and sizes[high + 1] in good_sizes:
        high += 1
    return sizes[low], sizes[high]


def _multiples(limits: Dimension, sizes: Sequence[int], good_sizes: set[int]) -> str | None:
    for step in range(2, min(limits.opt, _MULTIPLE) + 1):
        if limits.opt % step == 0 and all(size in good_sizes for size in sizes if size % step == 0):
            low = max(-(-limits.min // step), 0 if 0 in good_sizes else 1) * step
            most = None if limits.max is None else limits.max // step * step
            return f"({low}, {most}, {step})"
    return None


def _question(relation: Relation) -> Question:
    # A graph that did not come from torch has no relations, and needs neither torch nor sympy.
    from mmedge_export.capture.relation_text import relation_text

    text = relation_text(relation.expression)
    return _Opaque(relation.expression) if text is None else parse(text)


def _is_tiny(sizes: Mapping[str, int]) -> bool:
    """Whether a size is 0 or 1, at which every bundle is tried."""
    return any(size <= 1 for size in sizes.values())


def _is_proven(expression: sympy.Basic, domain: SizeDomain) -> bool:
    """Whether the limits of each dimension alone make ``expression`` true."""
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

    ranges = {
        symbol: ValueRanges(
            domain.dimensions[str(symbol)].min,
            int_oo if (most := domain.dimensions[str(symbol)].max) is None else most,
        )
        for symbol in expression.free_symbols
    }
    try:
        bounds = bound_sympy(expression, ranges)
    except Exception:  # noqa: BLE001 - torch's arithmetic of ranges does not know every function
        return False
    return bool(bounds.lower == True)  # noqa: E712 - sympy's own true
