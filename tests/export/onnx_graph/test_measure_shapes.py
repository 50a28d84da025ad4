"""Sizes of values against the arrays of real runs."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mmedge.errors import ExportError
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.network import evaluation
from mmedge_export.capture.trace import trace
from mmedge_export.onnx_graph.measure_shapes import MeasuredTensor, measure_shapes

EXAMPLE = {name: np.ones(shape, np.float32) for name, shape in (("x", (3, 4)), ("w", (4, 5)))}


def parsed(inputs: str, body: str) -> ir.Model:
    """A model from ONNX's text form; its output gets the type that it has."""
    header = '<ir_version: 10, opset_import: ["": 20, "mmedge": 1]>'
    proto = onnx.parser.parse_model(f"{header}\nnet ({inputs}) => () {{ {body} }}")
    proto.graph.output.append(onnx.ValueInfoProto(name="y"))
    return ir.from_proto(proto)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_sizes_are_those_of_the_arrays_that_a_run_yields(name, tmp_path):
    model = networks.NETWORKS[name]()
    with evaluation(model.module):
        graph = trace(model).model
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    sizes = dict.fromkeys(model.dimensions(), 3)
    values = probe_inputs.random(model, sizes, np.random.default_rng(0))
    shapes = measure_shapes(graph, values)
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before

    proto = ir.to_proto(graph)
    given = {value.name for value in proto.graph.output}
    made = [name for node in proto.graph.node for name in node.output if name]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in given)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options)
    arrays = dict(zip(made, session.run(made, values), strict=True)) | values
    arrays |= {name: v.const_value.numpy() for name, v in graph.graph.initializers.items()}
    assert arrays.keys() == shapes.keys()
    for value, array in arrays.items():
        assert shapes[value].shape == array.shape, value
        assert shapes[value].nbytes == array.nbytes, value
        assert shapes[value].dtype == ir.DataType.from_numpy(array.dtype), value


def test_values_that_are_no_tensors_of_numbers_have_no_size():
    model = parsed(
        "float[3,4] x",
        """l = SequenceConstruct(x, x) z = Constant<value_int = 0>() y = SequenceAt(l, z)
           s = Constant<value_string = "text">() o = Optional(x) shape0 = OptionalHasElement(o)""",
    )
    shapes = measure_shapes(model, EXAMPLE)
    assert shapes.keys() == {"x", "z", "y", "shape0"}
    assert shapes["shape0"] == MeasuredTensor((), ir.DataType.BOOL)


def test_sizes_that_depend_on_values_are_measured():
    model = parsed("float[N] x", "n = NonZero(x) y = Cast<to = 1>(n)")
    shapes = measure_shapes(model, {"x": np.array([0, 2, 0, 3], np.float32)})
    assert shapes["n"] == MeasuredTensor((1, 2), ir.DataType.INT64)


@pytest.mark.parametrize(("dtype", "wanted"), [("INT4", 2), ("BOOL", 3), ("FLOAT16", 6)])
def test_bytes_are_packed(dtype, wanted):
    assert MeasuredTensor((3, 1), ir.DataType[dtype]).nbytes == wanted


def test_no_sizes_without_the_right_inputs():
    model = parsed("float[3,4] x, float[4,5] w", "y = MatMul(x, w)")
    with pytest.raises(ExportError, match="input 'w' is missing; there are x"):
        measure_shapes(model, {"x": EXAMPLE["x"]})
    with pytest.raises(
        ExportError, match=r"cannot be measured: the graph fails on x: float32 \[3, 3\]"
    ):
        measure_shapes(model, EXAMPLE | {"x": EXAMPLE["x"][:, :3]})


def test_a_graph_that_does_not_load_is_refused():
    model = parsed("float[3,4] x", "y = mmedge.Unknown(x)")
    with pytest.raises(ExportError, match="cannot be measured: ONNX Runtime .* does not load"):
        measure_shapes(model, EXAMPLE)
