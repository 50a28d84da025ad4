"""Does an exported graph compute what the network computes?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge.spec import Tolerance
from mmedge.tolerance import OutputComparison
from mmedge_export.capture.case import allow_more

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mmedge.spec import Array
    from mmedge_export.capture.captured_graph import CapturedGraph
    from mmedge_export.capture.case import ParityCase

__all__ = ["ATOL", "RTOL", "check", "check_operators"]

#: Default limits: float32 graphs that computed the same function lay within 1e-5 of the scale in
#: every network tried; ``ATOL`` is for outputs that are zero but for rounding.
RTOL, ATOL = 1e-4, 1e-6

#: What a single operator may differ by, as a multiple of the limits of outputs: one that the
#: exporter writes wrongly is far off, and of a tensor inside nobody asked for so many digits.
INSIDE = 10


def check(
    graph: CapturedGraph,
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    cases: Iterable[ParityCase],
    tolerance: Tolerance,
) -> float:
    """Hold ``run``, the graph in ONNX Runtime, against the network in every case.

    Returns:
        The largest relative difference of any output that is not zero throughout.

    Raises:
        ExportError: an output differs by more than ``tolerance`` in some case. The message names
            the first tensor inside the graph that does, where the graph came from torch.
    """
    comparisons: dict[str, OutputComparison] = {}
    worst_cases: dict[str, tuple[float, ParityCase]] = {}
    for case in cases:
        results = run(case.inputs)
        for name, reference in case.outputs.items():
            comparison = comparisons.setdefault(name, OutputComparison(tolerance))
            share = comparison.relative(comparison.add(results[name], reference))
            if name not in worst_cases or share > worst_cases[name][0]:
                worst_cases[name] = share, case
            deviation = comparison.result()
            if not deviation.passes:
                # That a channel is small may be known only now: the case that differs came before.
                culprit = worst_cases[name][1]
                more = allow_more(deviation, tolerance)
                raise ExportError(
                    f"the exported graph is not the network: output {name!r} {deviation} for "
                    f"{culprit.what} (limit: {tolerance.rtol:g} of the scale + "
                    f"{tolerance.atol:g}).\n  {_first(graph, culprit, tolerance)}"
                    + (f"\n  What to do: {more}" if more else "")
                )
    # Of a reference of zeros there is no share; what passes there is within atol.
    shares = (comparison.result().max_rel for comparison in comparisons.values())
    return max((share for share in shares if np.isfinite(share)), default=0.0)


def check_operators(
    graph: CapturedGraph,
    cases: Iterable[ParityCase],
    tolerance: Tolerance,
    leave: Callable[[str], None],
) -> None:
    """Hold every operator of a graph that came from torch against torch's, given the same inputs.

    For what outputs do not show: an argmax, a comparison or a saturated output answers the same
    though an operator before it computes something else. :data:`INSIDE` times ``tolerance`` is
    allowed. ``leave`` is called with a line where torch or ONNX Runtime cannot run them apart.

    Raises:
        ExportError: an operator computes something else in some case.
    """
    if graph.program is None:  # of an ONNX file, for which torch need not be installed
        return
    from mmedge_export.capture.bisect import OperatorCheck

    inner_tolerance = Tolerance(tolerance.rtol * INSIDE, tolerance.atol * INSIDE)
    check: OperatorCheck | None = None
    for case in cases:
        try:
            check = check or OperatorCheck(graph, graph.program)
            text = check.wrong(case, inner_tolerance)
        except (ExportError, IndexError, RuntimeError, TypeError, ValueError) as error:
            leave(f"the operators inside the graph, each on its own: {error}")
            return
        if text:
            raise ExportError(
                f"the exported graph is not the network, though its outputs agree for {case.what}: "
                f"an operator computes something else than torch from the same inputs (limit: "
                f"{inner_tolerance.rtol:g} of the scale + {inner_tolerance.atol:g}).\n"
                f"  It is {text}."
            )


def _first(graph: CapturedGraph, case: ParityCase, tolerance: Tolerance) -> str:
    if graph.program is None:
        return "The graph did not come from torch, so its inner tensors have no reference."
    from mmedge_export.capture.bisect import first_divergence

    return first_divergence(graph, case, tolerance)
