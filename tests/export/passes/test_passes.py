"""Naming a graph's boundary and stripping its metadata, on graphs made by hand."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from mmedge_export.passes.name_boundary import NameBoundaryPass
from mmedge_export.passes.strip_metadata import CLASSES, NAMESPACE, SCOPES, StripMetadataPass

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[2] a, float[2] b) => (float[2] sum, float[2] a, float[2] sum, float[2] w)
<float[2] w = {3, 4}, float[2] unused = {0, 0}>
{
    inner = Mul(b, w)
    cond_ = ReduceSum<keepdims = 0>(inner)
    zero = Constant<value = float {0.0}>()
    cond = Greater(cond_, zero)
    inner2 = If(cond) <
        then_branch = t () => (float[2] x) { x = Add(inner, a) },
        else_branch = e () => (float[2] y) { y = Sub(inner, a) }
    >
    sum = Identity(inner2)
}
"""


def graph() -> ir.Model:
    text = TEXT.replace("(float[2] sum, float[2] a, float[2] sum, float[2] w)", "(float[2] sum)")
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    values = {v.name: v for v in (*model.graph.inputs, *model.graph.initializers.values())}
    (total,) = model.graph.outputs
    model.graph.outputs.extend([values["a"], total, values["w"]])
    return model


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["image", "text"], ["one", "two", "three", "four"]),
        (["b", "a"], ["inner", "w", "x", "sum"]),  # swapped, and all taken
        (["inner2", "unused"], ["a", "b", "y", "cond"]),
    ],
)
def test_every_value_keeps_its_meaning_under_its_new_name(inputs, outputs):
    model = graph()
    naming = NameBoundaryPass(inputs, outputs)
    naming(model)
    assert [v.name for v in model.graph.inputs] == inputs
    assert [v.name for v in model.graph.outputs] == outputs
    assert naming.renamed["a"] == inputs[0]
    assert naming.renamed["sum"] == outputs[0]
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto, full_check=True)
    for sign in (1, -1):
        a, b = np.array([1, 2], np.float32), sign * np.array([5, 6], np.float32)
        total = b * [3, 4] + sign * a
        got = ReferenceEvaluator(proto).run(None, dict(zip(inputs, (a, b), strict=True)))
        for value, wanted in zip(got, (total, a, total, [3, 4]), strict=True):
            np.testing.assert_array_equal(value, wanted)


def test_scopes_stay_and_all_else_goes():
    model = graph()
    place = "/home/someone/net.py"
    for node in model.graph:
        node.metadata_props.update(
            {
                SCOPES: repr(["", "wrapped", "wrapped.enc", "mul"]),
                CLASSES: repr(["Wrapper", "net.Net", "net.Enc", "aten.mul"]),
                NAMESPACE: place,
                "pkg.torch.onnx.stack_trace": place,
            }
        )
        node.doc_string = place
        for value in node.outputs:
            value.metadata_props["where"] = place
    model.doc_string = model.graph.doc_string = place
    model.metadata_props["where"] = model.graph.metadata_props["where"] = place
    weight = model.graph.initializers["w"]
    weight.name = "wrapped.enc.w"
    weight.metadata_props["where"] = place
    StripMetadataPass("wrapped")(model)
    assert place not in ir.to_onnx_text(model)
    proto = ir.serde.serialize_model(model)
    assert place.encode() not in proto.SerializeToString()
    node = model.graph[0]
    assert dict(node.metadata_props) == {
        SCOPES: repr(["", "enc", "mul"]),
        CLASSES: repr(["net.Net", "net.Enc", "aten.mul"]),
        NAMESPACE: ": net.Net/enc: net.Enc/mul: aten.mul",
    }
    assert "enc.w" in model.graph.initializers
    assert {t.name for t in proto.graph.initializer} >= {"enc.w"}
