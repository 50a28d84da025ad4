"""A graph whose weights a session takes from memory: sessions that end soon need no files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge_export.onnx_graph.graph import EXTERNAL_BYTES

if TYPE_CHECKING:
    import onnx

    from mmedge.spec import Array

__all__ = ["MemoryGraph"]


@dataclass(frozen=True)
class MemoryGraph:
    """A graph and its weights.

    Attributes:
        proto: the graph; its weights name a file that does not exist.
        weights: elements by name, as unsigned integers of their size.
        dtypes: ONNX's number of the weights' dtype, by name.
    """

    proto: onnx.ModelProto
    weights: dict[str, Array]
    dtypes: dict[str, int]

    @classmethod
    def of(cls, model: ir.Model) -> MemoryGraph:
        """A model's; its weights are not copied where NumPy holds them in one piece.

        Weights of fewer than :data:`EXTERNAL_BYTES`, those inside control flow and those of less
        than a byte an element stay in the graph itself.
        """
        weights: dict[str, Array] = {}
        dtypes: dict[str, int] = {}
        tensors: dict[ir.Value, ir.TensorProtocol] = {}
        try:
            for name, value in model.graph.initializers.items():
                tensor = value.const_value
                if tensor is None:
                    continue
                if tensor.nbytes >= EXTERNAL_BYTES and tensor.dtype.bitwidth in (8, 16, 32, 64):
                    array = np.ascontiguousarray(tensor.numpy())
                    weights[name] = array.reshape(tensor.shape.numpy()).view(f"u{array.itemsize}")
                    dtypes[name] = int(tensor.dtype)
                    absent_file: ir.TensorProtocol = ir.ExternalTensor(
                        "weights",
                        0,
                        tensor.nbytes,
                        tensor.dtype,
                        shape=ir.Shape(tensor.shape.numpy()),
                        name=name,
                    )
                elif isinstance(tensor, ir.ExternalTensor):
                    absent_file = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
                else:
                    continue
                tensors[value] = tensor
                value.const_value = absent_file
            proto = ir.to_proto(model)
        finally:
            for value, tensor in tensors.items():
                value.const_value = tensor
        return cls(proto, weights, dtypes)
