"""Float16 graphs: which nodes stay float32, that the types fit, and that the check sees errors."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from engine_net import FUSION, graph, run, write_bundle, write_trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper

from mmedge.errors import AccuracyError, BackendError, BundleError, ExportError
from mmedge.spec import Dimension, Stage
from mmedge_export.onnx_graph.measure_ranges import Magnitudes, magnitudes_of, measure_ranges
from mmedge_export.passes.cast_float16 import CastFloat16Pass
from mmedge_export.passes.clamp_masks import MASK
from mmedge_export.passes.keep_float32 import keep_float32
from mmedge_export.passes.round_float16 import RoundFloat16Pass
from mmedge_export.passes.widen_uint8 import WidenUint8Pass
from mmedge_export.targets.tensorrt import float16
from mmedge_export.targets.tensorrt.engine import build
from mmedge_export.targets.tensorrt.float16 import TOLERANCE, prepare, to_float16

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def kept(model: onnx.ModelProto, *feeds: dict) -> dict[str, str]:
    prepared = prepare(ir.from_proto(model))
    return keep_float32(prepared, measure_ranges(prepared, feeds))


def typed(model: onnx.ModelProto, keep: set[str] | dict[str, str]) -> onnx.ModelProto:
    """The float16 graph, checked in full by onnx."""
    made = ir.to_proto(CastFloat16Pass(keep)(prepare(ir.from_proto(model))).model)
    onnx.checker.check_model(made, full_check=True)
    return made


def dtypes(model: onnx.ModelProto) -> dict[str, int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


# Which nodes are kept


def test_a_planted_overflow_is_kept_and_its_neighbours_are_not():
    model = graph(
        """net (float[3] x) => (float[3] y) {
          [before] a = Relu(x)
          [square] b = Mul(a, a)
          [shrink] c = Mul(b, small)
          [after] y = Tanh(c)
        }""",
        small=f32(1e-3),
    )
    reasons = kept(model, {"x": f32(1, 2, 3)}, {"x": f32(1, 2, 150)})
    assert list(reasons) == ["square", "shrink"]
    assert reasons["square"] == "b reaches 2.25e+04, above 10000"
    assert kept(model, {"x": f32(1, 2, 3)}) == {}


def test_all_that_a_logarithm_of_tiny_values_is_made_of_is_kept():
    model = graph(
        """net (float[1,1,40] x) => (float[1,4,9] y, float[1,4,9] z) {
          [basis] a = Conv<kernel_shape=[8],strides=[4]>(x, w)
          [power] b = Mul(a, a)
          [floor] c = Clip(b, least)
          [log] d = Log(c)
          [after] y = Tanh(d)
          [beside] z = Sigmoid(a)
        }""",
        w=np.full((4, 1, 8), 1e-2, np.float32),
        least=f32(1e-10)[0],
    )
    reasons = kept(model, {"x": np.full((1, 1, 40), 0.01, np.float32)})
    assert list(reasons) == ["basis", "power", "floor", "log"]
    assert reasons["basis"] == "feeds the logarithm log"


def test_a_logarithm_asks_nothing_of_what_comes_before_a_softmax():
    model = graph(
        """net (float[2,4] x) => (float[2,4] y) {
          [head] a = MatMul(x, w)
          [softmax] b = Softmax(a)
          [log] y = Log(b)
        }""",
        w=np.eye(4, dtype=np.float32),
    )
    assert list(kept(model, {"x": np.ones((2, 4), np.float32)})) == ["softmax", "log"]


def test_decisions_and_what_they_compare_are_kept_up_to_the_weights():
    model = graph(
        """net (float[2,4] x) => (bool[2,4] loud, float[2,4] y) {
          [head] a = MatMul(x, w)
          [size] b = Abs(a)
          [over] loud = Greater(b, threshold)
          [out] y = Relu(a)
        }""",
        w=np.eye(4, dtype=np.float32),
        threshold=f32(0.5),
    )
    assert list(kept(model, {"x": np.ones((2, 4), np.float32)})) == ["size", "over"]


def test_a_divisor_near_zero_is_kept_with_what_makes_it():
    model = graph(
        """net (float[2] x) => (float[2] y) {
          [make] a = Mul(x, tiny)
          [divide] y = Div(x, a)
        }""",
        tiny=f32(1e-3),
    )
    assert list(kept(model, {"x": f32(0.01, 0.5)})) == ["make", "divide"]
    assert kept(model, {"x": f32(0.3, 0.5)}) == {}


def test_a_tensor_wholly_below_the_normal_numbers_is_kept():
    model = graph(
        "net (float[2] x) => (float[2] y) { [down] a = Mul(x, t)\n [up] y = Div(a, t) }",
        t=f32(1e-4),
    )
    assert list(kept(model, {"x": f32(0.1, 0.2)})) == ["down", "up"]


def test_moves_between_kept_nodes_are_kept():
    model = graph(
        """net (float[2,3] x) => (float[3,2] y) {
          [one] a = Softmax(x)
          [turn] b = Transpose(a)
          [two] c = Softmax(b)
          [turn_again] d = Transpose(c)
          [mix] e = MatMul(w, d)
          [back] y = Transpose(e)
        }""",
        w=np.eye(2, dtype=np.float32),
    )
    assert list(kept(model, {"x": np.ones((2, 3), np.float32)})) == ["one", "turn", "two"]


@given(hnp.arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_ranges_join_as_their_values_do(values):
    half = len(values) // 2
    assert magnitudes_of(values) == magnitudes_of(values[:half]) | magnitudes_of(values[half:])
    found = magnitudes_of(values)
    assert found.smallest <= found.largest < np.inf
    assert (found == Magnitudes()) == (not np.any(values[np.isfinite(values)]))


# Masks


def constants_of_trio(name: str, value: float) -> onnx.ModelProto:
    floats = {"shrink_by": 0.25, "masked": value, "nothing": 0.0}
    return graph(
        FUSION,
        table=np.ones((9, 16), np.float32),
        w_head=np.ones((16, 4), np.float32),
        zero=np.array(0),
        last=np.array([-1]),
        one=np.array([1]),
        **{key: np.array(number, np.float32) for key, number in floats.items()},
    )


@pytest.mark.parametrize(
    ("value", "becomes"),
    [(-1e9, MASK), (-3.4e38, MASK), (-1e4, MASK), (-np.inf, -np.inf), (-9, -9)],
)
def test_masks_become_what_float16_holds(value, becomes):
    model = prepare(ir.from_proto(constants_of_trio("fusion", value)))
    (found,) = [v.const_value.numpy() for n, v in model.graph.initializers.items() if n == "masked"]
    assert found == np.float32(becomes)
    assert np.float16(found) == found


def test_a_large_negative_constant_that_is_no_mask_stays():
    for text in (
        "net (float[4] x) => (float[4] y) { y = Add(x, masked) }",
        "net (float[4] x) => (float[4] y) { a = Add(x, masked)\n b = Relu(a)\n y = Softmax(b) }",
        "net (float[4] x) => (float[4] y, float[4] z) { z = Add(x, masked)\n y = Softmax(z) }",
    ):
        model = prepare(ir.from_proto(graph(text, masked=f32(-1e9))))
        assert model.graph.initializers["masked"].const_value.numpy() == np.float32(-1e9)


@pytest.mark.parametrize(("call", "becomes"), [("x, x, x, m", MASK), ("x, x, m", -1e9)])
def test_only_the_mask_of_attention_is_a_mask(call, becomes):
    model = graph(
        f"net (float[1,1,2,2] x) => (float[1,1,2,2] y) {{ y = Attention({call}) }}",
        m=np.full((1, 1, 2, 2), -1e9, np.float32),
    )
    model.opset_import[0].version = 23
    found = prepare(ir.from_proto(model)).graph.initializers["m"].const_value.numpy()
    assert np.all(found == np.float32(becomes))


# The typed graph


def test_types_fit_and_cross_once_with_the_borders_as_they_were():
    model = graph(
        """net (float[2,3] x) => (float[2,3] y, float[2,3] z) {
          [first] a = Mul(x, w)
          [norm] b = LayerNormalization(a, w, w)
          [second] c = Add(b, w)
          [third] y = Mul(b, c)
          [fourth] z = Sub(y, c)
        }""",
        w=np.ones(3, np.float32),
    )
    made = typed(model, {"norm"})
    found = dtypes(made)
    assert {n: found[n] for n in ("x", "y", "z")} == {"x": FLOAT, "y": FLOAT, "z": FLOAT}
    assert {n: found[n] for n in ("a", "c", "b")} == {"a": HALF, "c": HALF, "b": FLOAT}
    assert {found["w"], found["w_float16"]} == {FLOAT, HALF}  # a weight of both kinds: two copies
    # x, a (up), b (down), and y and z (up): each once, though b and y have two readers.
    assert sum(node.op_type == "Cast" for node in made.graph.node) == 5


def test_weights_of_float16_nodes_alone_are_float16_alone():
    made = typed(
        graph("net (float[2,3] x) => (float[2,3] y) { y = Mul(x, w) }", w=np.ones(3, np.float32)),
        {},
    )
    assert [tensor.name for tensor in made.graph.initializer] == ["w_float16"]


def test_inputs_that_an_operator_wants_in_float32_stay():
    model = graph(
        """net (float[1,1,4,4] x) => (float[1,1,8,8] y) {
          a = Relu(x)
          b = Resize<mode="nearest">(a, "", scales)
          y = Relu(b)
        }""".replace('""', ""),
        scales=f32(1, 1, 2, 2),
    )
    found = dtypes(typed(model, {}))
    assert (found["scales"], found["b"]) == (FLOAT, HALF)


def test_casts_and_fillers_make_float16():
    model = graph(
        """net (int64[2] n) => (float[2] y) {
          a = Cast<to=1>(n)
          s = Shape(n)
          b = ConstantOfShape<value=float[1]{3.0}>(s)
          y = Add(a, b)
        }"""
    )
    made = typed(model, {})
    assert dtypes(made)["a"] == dtypes(made)["b"] == HALF
    rounded = ir.to_proto(RoundFloat16Pass()(ir.from_proto(made)).model)
    assert run(rounded, {"n": np.array([1, 2])})["y"].tolist() == [4, 5]


def test_branches_and_what_they_take_stay_float32():
    branch = helper.make_graph(
        [helper.make_node("Add", ["a", "w"], ["inner"], name="inside")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", FLOAT, [2])],
    )
    model = graph(
        """net (bool choose, float[2] x) => (float[2] y) {
          [before] a = Relu(x)
          [out] y = Relu(b)
        }""",
        w=f32(1, 2),
    )
    node = helper.make_node(
        "If", ["choose"], ["b"], name="if", then_branch=branch, else_branch=branch
    )
    model.graph.node.insert(1, node)
    made = typed(model, {})
    by_name = {node.name: node for node in made.graph.node}
    assert by_name["before"].output[0] == "a"
    assert dtypes(made)["a"] == HALF
    inside = by_name["if"].attribute[0].g.node[0]
    assert list(inside.input) == ["a_float32", "w"]
    rounded = ir.to_proto(RoundFloat16Pass()(ir.from_proto(made)).model)
    feeds = {"choose": np.array(True), "x": f32(-1, 5)}
    assert run(rounded, feeds)["y"].tolist() == run(model, feeds)["y"].tolist() == [1, 7]


def test_a_graph_without_dtypes_is_refused():
    model = ir.from_proto(graph("net (float[2] x) => (float[2] y) { a = Relu(x)\n y = Relu(a) }"))
    with pytest.raises(ExportError, match="tensor 'a' has no dtype; run shape inference"):
        CastFloat16Pass({})(model)


def test_a_graph_whose_types_do_not_fit_is_refused(tmp_path):
    text = "net (float16[2] x, float[2] w) => (float16[2] y) { y = Mul(x, w) }"
    file = tmp_path / "net.onnx"
    onnx.save(graph(text), file)
    stage = Stage("net", "onnx/net.onnx", (), ())
    with pytest.raises(BackendError, match="stage 'net': its float16 graph is not valid"):
        float16._check_types(file, stage)


# The check


def test_rounding_shows_what_onnx_runtime_hides():
    model = graph(
        "net (float[2] x) => (float[2] y) { [square] a = Mul(x, x)\n [root] y = Sqrt(a) }"
    )
    feeds = {"x": f32(1000, 3)}
    half = typed(model, {})
    assert run(half, feeds)["y"].tolist() == [1000, 3]  # the reason for the pass
    rounded = ir.to_proto(RoundFloat16Pass()(ir.from_proto(half)).model)
    assert run(rounded, feeds)["y"].tolist() == [np.inf, 3]


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float32, 6, elements=st.floats(-7e4, 7e4, width=32)))
def test_rounding_is_numpys(values):
    model = graph("net (float[6] x) => (float[6] y) { a = Neg(x)\n y = Neg(a) }")
    rounded = ir.to_proto(RoundFloat16Pass()(ir.from_proto(typed(model, {}))).model)
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16).astype(np.float32)
    assert np.array_equal(run(rounded, {"x": values})["y"], expected)


CANCEL = """net (float[4] x) => (float[4] y) {
  [far] a = Add(x, offset)
  [back] y = Sub(a, offset)
}"""


def test_what_float16_cannot_hold_is_refused_and_nothing_is_built(tmp_path):
    """No rule sees it: values are in range, the digits are gone. The check does."""
    model = graph(CANCEL, offset=f32(3000))
    bundle = write_bundle(tmp_path / "b", {"net": model}, [{"x": f32(0.1, 0.2, 0.3, 0.4)}], {})
    with pytest.raises(AccuracyError) as caught:
        build(bundle, target="sm_89", precision="fp16")
    assert "output 'y' of stage 'net'" in str(caught.value)
    assert "rtol=0.02" in str(caught.value)
    assert [v.id for v in bundle.manifest.variants] == ["ort-fp32-cpu"]


def test_errors_that_one_stage_makes_and_another_magnifies_are_seen(tmp_path):
    """Each stage passes on golden tensors; fed by each other they do not."""
    stages = {
        "one": graph("one (float[4] x) => (float[4] h) { h = Mul(x, w) }", w=f32(1.0 / 3)),
        "two": graph(
            "two (float[4] h) => (float[4] y) { [d] d = Sub(h, w)\n [log] y = Log(d) }",
            w=f32(0.3333),
        ),
    }
    bundle = write_bundle(tmp_path / "b", stages, [{"x": f32(1.0, 1.001, 1.002, 1.003)}], {})
    with pytest.raises(AccuracyError, match=r"output 'y' of all stages in a chain"):
        to_float16(bundle, tmp_path)


def test_the_trio_holds_and_its_stages_say_what_they_kept(tmp_path):
    with write_trio(tmp_path / "b") as bundle:
        made = to_float16(bundle, tmp_path)
    assert {name: list(stage.kept) for name, stage in made.items()} == {
        "camera": ["norm"],
        "voice": ["lift", "basis", "power", "floor", "log"],
        "fusion": ["pad", "softmax", "pool"],
    }
    assert all(0 < stage.error < TOLERANCE.rtol for stage in made.values())
    for stage in made.values():
        model = onnx.load(stage.file)
        onnx.checker.check_model(model, full_check=True)
        ort.InferenceSession(stage.file, providers=["CPUExecutionProvider"])
    assert dtypes(onnx.load(made["fusion"].file))["table_float16"] == HALF


def test_a_bundle_without_samples_is_refused(tmp_path):
    model = graph("net (float[2] x) => (float[2] y) { y = Relu(x) }")
    with (
        write_bundle(tmp_path / "b", {"net": model}, [], {}) as bundle,
        pytest.raises(BundleError, match="float16 needs golden samples"),
    ):
        to_float16(bundle, tmp_path)


# uint8


def test_uint8_that_is_moved_first_is_widened_to_the_same_values():
    model = graph(
        """net (uint8[batch,2,2,3] x) => (float[batch,12] y, float[batch,2,2,3] z) {
          [turn] t = Transpose<perm=[0,3,1,2]>(x)
          [flat] s = Reshape(t, shape)
          [cast] y = Cast<to=1>(s)
          [own] z = Cast<to=1>(x)
        }""",
        shape=np.array([0, -1]),
    )
    given_model = onnx.shape_inference.infer_shapes(model)
    result = WidenUint8Pass()(ir.from_proto(given_model))
    assert result.modified
    made = ir.to_proto(result.model)
    onnx.checker.check_model(made, full_check=True)
    assert dtypes(made)["t"] == dtypes(made)["s"] == TensorProto.INT32
    feeds = {"x": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3) * 10}
    for name, value in run(model, feeds).items():
        assert np.array_equal(run(made, feeds)[name], value)


@pytest.mark.parametrize(
    "body",
    [
        "y = Cast<to=1>(x)",  # nothing to do
        "t = Add(x, x)\n y = Cast<to=1>(t)",  # wraps at 256, which int32 does not
        "y = Cast<to=1>(x)\n z = Transpose(x)",  # an output that is uint8
    ],
)
def test_other_uses_of_uint8_are_left_alone(body):
    outputs = "float[2,2] y, uint8[2,2] z" if "z =" in body else "float[2,2] y"
    model = graph(f"net (uint8[2,2] x) => ({outputs}) {{ {body} }}")
    before = onnx.shape_inference.infer_shapes(model)
    result = WidenUint8Pass()(ir.from_proto(before))
    assert not result.modified
    assert [n.op_type for n in result.model.graph] == [n.op_type for n in model.graph.node]


def test_dimension_of_samples_is_kept(tmp_path):
    net = graph("net (float[n,2] x) => (float[n,2] y) { y = Tanh(x) }")
    feeds = [{"x": np.ones((n, 2), np.float32)} for n in (1, 3)]
    with write_bundle(tmp_path / "b", {"net": net}, feeds, {"n": Dimension(1, 1, 4)}) as bundle:
        made = to_float16(bundle, tmp_path)
    shape = onnx.load(made["net"].file).graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_param == "n"
