"""Weights in the order of their elements."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["OrderWeightsPass"]


class OrderWeightsPass(ir.passes.InPlacePass):
    """Copy weights that are transposed views of others, as torch's exporter folds them.

    Every file would else be written, and every session be opened, from them element by element.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Replace the tensors of such weights."""
        modified = False
        for name, value in model.graph.initializers.items():
            tensor = value.const_value
            if isinstance(tensor, ir.Tensor) and not tensor.numpy().flags.c_contiguous:
                array = np.ascontiguousarray(tensor.numpy())
                value.const_value = ir.Tensor(array, dtype=tensor.dtype, name=name)
                modified = True
        return ir.passes.PassResult(model, modified=modified)
