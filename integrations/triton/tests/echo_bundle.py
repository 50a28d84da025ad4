"""A bundle that gives back what it is given: every dtype, without a dimension and with one."""

from __future__ import annotations

import numpy as np
from onnx import helper

from mmedge import Bundle
from mmedge.spec import (
    DTYPES,
    Dimension,
    Manifest,
    Modality,
    Sample,
    Stage,
    TensorSpec,
    Tolerance,
    Variant,
)

__all__ = ["write_echo"]


def write_echo(path):
    """For each dtype D the inputs ``D_one`` [] and ``D_many`` [n], of which n may be 0.

    Outputs have the names with ``_back``.
    """
    inputs, outputs, nodes, sample, golden = [], [], [], {}, {}
    for dtype in DTYPES:
        for kind, shape in (("one", ()), ("many", ("n",))):
            name = f"{dtype}_{kind}"
            inputs.append(TensorSpec(name, dtype, shape))
            outputs.append(TensorSpec(f"{name}_back", dtype, shape))
            nodes.append(helper.make_node("Identity", [name], [f"{name}_back"]))
            sample[name] = np.ones((3,) if shape else (), DTYPES[dtype])
            golden[f"{name}_back"] = sample[name].copy()
    infos = [
        [
            helper.make_tensor_value_info(
                spec.name, helper.np_dtype_to_tensor_dtype(DTYPES[spec.dtype]), spec.shape
            )
            for spec in specs
        ]
        for specs in (inputs, outputs)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "echo", *infos),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    manifest = Manifest(
        name="echo",
        modalities=(Modality("all", tuple(spec.name for spec in inputs)),),
        stages=(Stage("net", "onnx/net.onnx", tuple(inputs), tuple(outputs)),),
        outputs=tuple(spec.name for spec in outputs),
        variants=(Variant("ort", "fp32", "cpu", {"net": "onnx/net.onnx"}, Tolerance(0.0, 1e-6)),),
        files={},
        dimensions={"n": Dimension(0, 3, 1000)},
    )
    files = {"onnx/net.onnx": model.SerializeToString()}
    Bundle.write(path, manifest, files, samples=[Sample(sample, golden)]).close()
    return path
