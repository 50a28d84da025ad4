"""The same network in fewer and cheaper operators, before it becomes stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from mmedge_export.passes.divide_by_root import DivideByRootPass
from mmedge_export.passes.lift_transposes import LiftTransposesPass
from mmedge_export.passes.merge_projections import MergeProjectionsPass
from mmedge_export.passes.name_sizes import NameSizesPass
from mmedge_export.passes.rotate_halves import RotateHalvesPass
from mmedge_export.passes.scale_queries import ScaleQueriesPass
from mmedge_export.passes.simplify_reshapes import SimplifyReshapesPass

if TYPE_CHECKING:
    from mmedge.spec import Dimension
    from mmedge_export.model import Model

__all__ = ["may_be_empty", "simplify"]


def simplify(graph: ir.Model, model: Model) -> ir.Model:
    """A copy of ``graph`` that computes the same up to rounding; it shares weights with it.

    What is rewritten is told by dataflow and by operators. Every rewrite is in standard operators,
    and serves each runtime: fewer nodes to start, and forms that runtimes fuse.

    Args:
        graph: of the whole network, or of a step.
        model: says which dimensions may be 0.
    """
    graph = graph.clone()
    DivideByRootPass()(graph)
    NameSizesPass()(graph)
    LiftTransposesPass()(graph)
    ScaleQueriesPass()(graph)
    RotateHalvesPass()(graph)
    SimplifyReshapesPass(may_be_empty(graph, model))(graph)
    if model.computed:  # of a loop, and never cut: a cut shares weights among its parts
        sizes = {name: size.opt for name, size in _dimensions(graph, model).items()}
        MergeProjectionsPass(sizes)(graph)
    RemoveUnusedNodesPass()(graph)
    return graph


def may_be_empty(graph: ir.Model, model: Model) -> frozenset[str]:
    """What the graph calls the dimensions of its inputs that may be 0."""
    return frozenset(name for name, size in _dimensions(graph, model).items() if size.min == 0)


def _dimensions(graph: ir.Model, model: Model) -> dict[str, Dimension]:
    """Dimensions of the inputs by what the graph calls them."""
    dimensions = model.dimensions()
    return {
        size.value: dimensions[name]
        for value in graph.graph.inputs
        if (model_input := model.inputs.get(str(value.name))) is not None
        for size, name in zip(value.shape or (), model_input.shape(), strict=False)
        if isinstance(size, ir.SymbolicDim) and size.value is not None and isinstance(name, str)
    }
