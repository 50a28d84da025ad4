"""The smallest set of nodes to put back to full precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["BudgetError", "back_off", "offenders"]

#: Share of the summed squares of errors that may be left aside as too small to matter.
NEGLIGIBLE = 0.01


class BudgetError(Exception):
    """No more evaluations are allowed."""


def offenders(errors: dict[str, float]) -> list[str]:
    """The fewest names, worst first, that all but :data:`NEGLIGIBLE` of the squared error is of.

    Args:
        errors: of each, alone.
    """
    order = sorted(errors, key=lambda name: -errors[name])
    total = sum(value**2 for value in errors.values())
    names: list[str] = []
    rest = total
    for name in order:
        if names and rest <= NEGLIGIBLE * total:
            break
        names.append(name)
        rest -= errors[name] ** 2
    return names


def back_off(
    ranked: Sequence[str], passes: Callable[[frozenset[str]], bool], *, budget: int
) -> frozenset[str] | None:
    """Nodes to put back so that the rest passes: few of them, found in few evaluations.

    First the shortest prefix of ``ranked`` that passes, by doubling and then by halving; that more
    nodes put back do no harm is assumed and not checked. Then each node of the prefix but the last
    is tried in lower precision again, the least harmful first.

    Args:
        ranked: nodes that may be put back, the most harmful first.
        passes: whether a network passes with the given nodes put back. It was seen to fail with
            none.
        budget: most calls of ``passes``.

    Returns:
        The nodes; None where putting all of them back does not pass either.

    Raises:
        BudgetError: ``budget`` was used up before anything passed.
    """
    evaluations = budget

    def try_without(nodes: Sequence[str]) -> bool:
        nonlocal evaluations
        if evaluations <= 0:
            raise BudgetError
        evaluations -= 1
        return passes(frozenset(nodes))

    if not ranked:
        return None
    fails, size = 0, 1
    while not try_without(ranked[:size]):
        if size == len(ranked):
            return None
        fails, size = size, min(2 * size, len(ranked))
    while size - fails > 1 and evaluations:
        middle = (fails + size) // 2
        if try_without(ranked[:middle]):
            size = middle
        else:
            fails = middle
    back = list(ranked[:size])
    for node in reversed(ranked[: size - 1]):
        if not evaluations:
            break
        fewer = [other for other in back if other != node]
        if try_without(fewer):
            back = fewer
    return frozenset(back)
