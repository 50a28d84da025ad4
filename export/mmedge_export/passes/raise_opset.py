"""Old graphs in a later version of the ONNX operators."""

from __future__ import annotations

import onnx
import onnx_ir as ir

__all__ = ["raise_opset"]

#: Bytes of weights up to which a graph is converted: the converter takes one protobuf message.
MOST_BYTES = 1 << 30

#: The IR version that came with opset 13.
IR_VERSION = 7


def raise_opset(model: ir.Model, opset: int) -> ir.Model:
    """``model`` with the operators of ``opset`` where it has older ones and they can be converted.

    What it computes is to be checked by who uses it: ONNX's converter is not complete, and leaves
    an operator that it does not know as it is.

    Returns:
        Another model, or ``model`` itself where nothing was converted.
    """
    weights = [v.const_value for v in model.graph.initializers.values()]
    size = sum(tensor.nbytes for tensor in weights if tensor is not None)
    if model.opset_imports.get("", opset) >= opset or size > MOST_BYTES:
        return model
    proto = ir.to_proto(ir.external_data.load_to_model(model.clone()))
    try:
        new_proto = onnx.version_converter.convert_version(proto, opset)
    except Exception:  # noqa: BLE001 - C++ errors without a common base; the old graph serves too
        return model
    new_model = ir.from_proto(new_proto)
    new_model.ir_version = max(new_model.ir_version or 0, IR_VERSION)
    return new_model
