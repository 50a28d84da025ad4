"""Does an exported graph compute what the network computes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge.verify import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mmedge.spec import Array, Tolerance
    from mmedge_export.graph import Graph

__all__ = ["ATOL", "RTOL", "Case", "Difference", "check", "compare"]

#: Default limits: float32 graphs that computed the same function lay within 1e-5 of the largest
#: value in every network tried; ``ATOL`` is for outputs that are zero but for rounding.
RTOL, ATOL = 1e-4, 1e-6


@dataclass(frozen=True)
class Case:
    """Inputs, the network's own outputs for them, and what to call them in a message."""

    what: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class Difference:
    """How far a tensor lies from what it should be.

    ``largest`` is the largest absolute difference, ``relative`` the same as a share of the largest
    magnitude of the reference, infinite where that is 0 (:func:`mmedge.verify.difference`).
    ``reason`` is set where these figures do not tell what is wrong.
    """

    largest: float
    relative: float
    passes: bool
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        if not np.isfinite(self.relative):
            return f"differs by up to {self.largest:.3g} where it should be zero throughout"
        return f"differs by up to {self.largest:.3g}, {self.relative:.2g} of its largest value"


def compare(got: Array, reference: Array, tolerance: Tolerance) -> Difference:
    """Compare as :class:`mmedge.spec.Tolerance` says; integers and booleans must be equal.

    NaN equals NaN and an infinity itself, since a network may mean them.
    """
    if got.dtype != reference.dtype or got.shape != reference.shape:
        found = f"is {got.dtype} {list(got.shape)}"
        expected = f"{reference.dtype} {list(reference.shape)}"
        return Difference(np.inf, np.inf, passes=False, reason=f"{found}, expected {expected}")
    largest, relative, used = difference(got, reference, tolerance)
    passes = used <= 1.0
    reason = ""
    if not np.issubdtype(reference.dtype, np.inexact):
        # float64, which the figures are in, cannot tell all int64 apart.
        wrong = int(np.count_nonzero(got != reference))
        passes = not wrong
        reason = f"differs in {wrong} of {got.size} elements" if wrong else ""
    elif not np.isfinite(largest):
        reason = "has NaN or infinities where the reference has not, or the other way round"
    return Difference(largest, relative, passes=passes, reason=reason)


def check(
    graph: Graph,
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    cases: Iterable[Case],
    tolerance: Tolerance,
) -> float:
    """Hold ``run``, the graph in ONNX Runtime, against the network in every case.

    Returns:
        The largest relative difference of any output that is not zero throughout.

    Raises:
        ExportError: an output differs by more than ``tolerance`` in some case. The message names
            the first tensor inside the graph that does, where the graph came from torch.
    """
    worst = 0.0
    for case in cases:
        got = run(case.inputs)
        for name, reference in case.outputs.items():
            found = compare(got[name], reference, tolerance)
            if not found.passes:
                raise ExportError(
                    f"the exported graph is not the network: output {name!r} {found} for "
                    f"{case.what} (limit: {tolerance.rtol:g} of the largest value + "
                    f"{tolerance.atol:g}).\n  {_first(graph, case, tolerance)}"
                )
            # Of a reference of zeros there is no share; what passes there is within atol.
            worst = max(worst, found.relative if np.isfinite(found.relative) else 0.0)
    return worst


def _first(graph: Graph, case: Case, tolerance: Tolerance) -> str:
    if graph.program is None:
        return "The graph did not come from torch, so its inner tensors have no reference."
    from mmedge_export.bisect import first_divergence

    return first_divergence(graph, case, tolerance)
