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
    from mmedge_export.capture.golden import Run

__all__ = ["ATOL", "RTOL", "ParityCheck", "check", "check_operators"]

#: Default limits: float32 graphs that computed the same function lay within 1e-5 of the scale in
#: every network tried; ``ATOL`` is for outputs that are zero but for rounding.
RTOL, ATOL = 1e-4, 1e-6

#: What a single operator may differ by, as a multiple of the limits of outputs: one that the
#: exporter writes wrongly is far off, and of a tensor inside nobody asked for so many digits.
INSIDE = 10


class ParityCheck:
    """Holds a graph in ONNX Runtime against its network, case by case.

    Args:
        graph: has the tensors that messages name.
        run: the graph.
        tolerance: of its outputs.
    """

    def __init__(self, graph: CapturedGraph, run: Run, tolerance: Tolerance) -> None:
        self._graph, self._run, self._tolerance = graph, run, tolerance
        self._comparisons: dict[str, OutputComparison] = {}
        self._worst_cases: dict[str, tuple[float, ParityCase]] = {}

    def check(self, cases: Iterable[ParityCase]) -> None:
        """Run the graph in each case.

        Raises:
            ExportError: as :meth:`add`, or the graph fails.
        """
        for case in cases:
            self.add(case, self._run(case.inputs))

    def add(self, case: ParityCase, results: Mapping[str, Array]) -> None:
        """Compare what the graph gave in a case.

        Raises:
            ExportError: an output differs by more than the tolerance in some case so far. The
                message names the first tensor inside the graph that does, where the graph came from
                torch.
        """
        tolerance = self._tolerance
        for name, reference in case.outputs.items():
            comparison = self._comparisons.setdefault(name, OutputComparison(tolerance))
            share = comparison.relative(comparison.add(results[name], reference))
            if name not in self._worst_cases or share > self._worst_cases[name][0]:
                self._worst_cases[name] = share, case
            deviation = comparison.result()
            if not deviation.passes:
                # That a channel is small may be known only now: the case that differs came before.
                culprit = self._worst_cases[name][1]
                more = allow_more(deviation, tolerance)
                raise ExportError(
                    f"the exported graph is not the network: output {name!r} {deviation} for "
                    f"{culprit.what} (limit: {tolerance.rtol:g} of the scale + "
                    f"{tolerance.atol:g}).\n  {_first(self._graph, culprit, tolerance)}"
                    + (f"\n  What to do: {more}" if more else "")
                )

    def worst(self) -> float:
        """The largest relative difference of any output that is not zero throughout."""
        # Of a reference of zeros there is no share; what passes there is within atol.
        shares = (comparison.result().max_rel for comparison in self._comparisons.values())
        return max((share for share in shares if np.isfinite(share)), default=0.0)


def check(
    graph: CapturedGraph, run: Run, cases: Iterable[ParityCase], tolerance: Tolerance
) -> float:
    """Hold ``run``, the graph in ONNX Runtime, against the network in every case.

    Returns:
        The largest relative difference of any output that is not zero throughout.

    Raises:
        ExportError: as :meth:`ParityCheck.check`.
    """
    parity = ParityCheck(graph, run, tolerance)
    parity.check(cases)
    return parity.worst()


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
