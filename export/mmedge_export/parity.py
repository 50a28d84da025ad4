"""Does an exported graph compute what the network computes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
    magnitude of the reference. ``reason`` is set where the tensors cannot be compared by value.
    """

    largest: float
    relative: float
    passes: bool
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        return f"differs by up to {self.largest:.3g}, {self.relative:.2g} of its largest value"


def compare(got: Array, reference: Array, tolerance: Tolerance) -> Difference:
    """Compare as :class:`mmedge.spec.Tolerance` says; integers and booleans must be equal.

    NaN equals NaN and an infinity itself, since a network may mean them.
    """
    if got.dtype != reference.dtype or got.shape != reference.shape:
        found = f"is {got.dtype} {list(got.shape)}"
        expected = f"{reference.dtype} {list(reference.shape)}"
        return Difference(np.inf, np.inf, passes=False, reason=f"{found}, expected {expected}")
    if got.size == 0:
        return Difference(0.0, 0.0, passes=True)
    if not np.issubdtype(reference.dtype, np.inexact):
        wrong = int(np.count_nonzero(got != reference))
        share = wrong / got.size
        reason = f"differs in {wrong} of {got.size} elements" if wrong else ""
        return Difference(share, share, passes=not wrong, reason=reason)
    a, b = got.astype(np.float64), reference.astype(np.float64)
    finite = np.isfinite(b)
    if (
        not np.array_equal(a[~finite], b[~finite], equal_nan=True)
        or not np.isfinite(a[finite]).all()
    ):
        reason = "has NaN or infinities where the reference has not, or the other way round"
        return Difference(np.inf, np.inf, passes=False, reason=reason)
    largest = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    scale = float(np.abs(b[finite]).max(initial=0.0))
    passes = largest <= tolerance.atol + tolerance.rtol * scale
    return Difference(largest, largest / scale if scale else largest, passes=passes)


def check(
    graph: Graph,
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    cases: Sequence[Case],
    tolerance: Tolerance,
) -> float:
    """Hold ``run``, the graph in ONNX Runtime, against the network in every case.

    Returns:
        The largest relative difference of any output.

    Raises:
        ExportError: an output differs by more than ``tolerance`` in some case. The message names
            the first tensor inside the graph that does, where the graph came from torch.
    """
    worst = 0.0
    for case in cases:
        got = run(case.inputs)
        for name, reference in case.outputs.items():
            difference = compare(got[name], reference, tolerance)
            if not difference.passes:
                raise ExportError(
                    f"the exported graph is not the network: output {name!r} {difference} for "
                    f"{case.what} (limit: {tolerance.rtol:g} of the largest value + "
                    f"{tolerance.atol:g}).\n  {_first(graph, case, tolerance)}"
                )
            worst = max(worst, difference.relative if np.isfinite(difference.relative) else 0.0)
    return worst


def _first(graph: Graph, case: Case, tolerance: Tolerance) -> str:
    if graph.program is None:
        return "The graph did not come from torch, so its inner tensors have no reference."
    from mmedge_export.bisect import first_divergence

    return first_divergence(graph, case, tolerance)
