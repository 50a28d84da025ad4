"""Operations of nodes against counts by hand, published figures and torch's own counter."""

from __future__ import annotations

from collections import Counter
from math import log2

import fusions
import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmedge.errors import ExportError
from mmedge_export import Input, Model
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.network import TorchNetwork, evaluation
from mmedge_export.capture.trace import trace
from mmedge_export.partition.flops import MeasuredTensor, measure_shapes, model_flops, node_flops

HEAVY = {"MatMul", "Gemm", "Conv", "ConvTranspose", "GRU", "LSTM"}
F = onnx.TensorProto.FLOAT


def parsed(inputs: str, body: str, outputs: str = "y", opset: int = 20, more: str = "") -> ir.Model:
    """A model from ONNX's text form; outputs get the types that they have."""
    header = f'<ir_version: 10, opset_import: ["": {opset}, "mmedge": 1]>'
    proto = onnx.parser.parse_model(f"{header}\nnet ({inputs}) => () {{ {body} }}\n{more}")
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs.split())
    return ir.from_proto(proto)


def example(model: ir.Model) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        str(value.name): rng.integers(1, 3, tuple(value.shape)).astype(value.dtype.numpy())
        for value in model.graph.inputs
    }


def counted(model: ir.Model) -> int:
    return model_flops(model, measure_shapes(model, example(model)))


QUANTISED = ", float x_scale, uint8 x_zero, float w_scale, int8 w_zero, float y_scale, uint8 y_zero"

PRODUCTS = {
    "matmul": ("float[2,3,4] x, float[4,5] w", "y = MatMul(x, w)", 2 * (2 * 3 * 5) * 4),
    "matmul of a vector": ("float[4] x, float[4,5] w", "y = MatMul(x, w)", 2 * 5 * 4),
    "matmul that broadcasts": (
        "float[2,1,3,4] x, float[7,4,5] w",
        "y = MatMul(x, w)",
        2 * (2 * 7 * 3 * 5) * 4,
    ),
    "gemm": ("float[3,4] x, float[4,5] w, float[5] b", "y = Gemm(x, w, b)", 2 * (3 * 5) * 4),
    "gemm, transposed": (
        "float[4,3] x, float[5,4] w",
        "y = Gemm<transA = 1, transB = 1>(x, w)",
        2 * (3 * 5) * 4,
    ),
    "conv": (
        "float[2,4,9,9] x, float[6,2,3,3] w, float[6] b",
        "y = Conv<group = 2, strides = [2, 2], pads = [1, 1, 1, 1]>(x, w, b)",
        2 * (2 * 6 * 5 * 5) * (2 * 3 * 3),
    ),
    "conv, 1-d": ("float[1,3,10] x, float[8,3,4] w", "y = Conv(x, w)", 2 * (8 * 7) * (3 * 4)),
    "conv, 3-d": (
        "float[1,2,4,5,6] x, float[3,2,2,2,2] w",
        "y = Conv(x, w)",
        2 * (3 * 3 * 4 * 5) * (2 * 8),
    ),
    "conv, depthwise": (
        "float[1,4,8,8] x, float[4,1,3,3] w",
        "y = Conv<group = 4>(x, w)",
        2 * (4 * 6 * 6) * 9,
    ),
    "transposed conv": (
        "float[1,4,5,5] x, float[4,3,2,2] w",
        "y = ConvTranspose<group = 2, strides = [2, 2]>(x, w)",
        2 * (4 * 5 * 5) * (3 * 2 * 2),
    ),
    "integer matmul": ("uint8[3,4] x, int8[4,5] w", "y = MatMulInteger(x, w)", 2 * (3 * 5) * 4),
    "integer conv": (
        "uint8[1,2,5,5] x, uint8[3,2,3,3] w",
        "y = ConvInteger(x, w)",
        2 * (3 * 3 * 3) * (2 * 9),
    ),
    "quantised matmul": (
        "uint8[3,4] x, int8[4,5] w" + QUANTISED,
        "y = QLinearMatMul(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero)",
        2 * (3 * 5) * 4,
    ),
    "quantised conv": (
        "uint8[1,2,5,5] x, int8[3,2,3,3] w" + QUANTISED,
        "y = QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero)",
        2 * (3 * 3 * 3) * (2 * 9),
    ),
    "einsum": (
        "float[2,3,4] x, float[2,4,5] w",
        'y = Einsum<equation = "bij,bjk->bik">(x, w)',
        2 * (2 * 3 * 4 * 5),
    ),
    "einsum, implicit": (
        "float[3,4] x, float[4,5] w",
        'y = Einsum<equation = "ij, jk">(x, w)',
        2 * (3 * 4 * 5),
    ),
    "einsum, ellipsis": (
        "float[6,1,3,4] x, float[1,2,4,5] w",
        'y = Einsum<equation = "...ij,...jk->...ik">(x, w)',
        2 * (6 * 2 * 3 * 4 * 5),
    ),
    "einsum, outer product": (
        "float[3] x, float[4] w",
        'y = Einsum<equation = "i,j->ij">(x, w)',
        3 * 4,
    ),
    "einsum, one operand": ("float[3,4] x", 'y = Einsum<equation = "ij->i">(x)', 3 * 4),
    "lstm, both ways": (
        "float[7,2,3] x, float[2,24,3] w, float[2,24,6] r",
        'y, h, c = LSTM<hidden_size = 6, direction = "bidirectional">(x, w, r)',
        7 * 2 * 2 * (2 * 4 * 6 * (3 + 6) + 9 * 6),
    ),
    "gru, optional inputs left out": (
        "float[7,2,3] x, float[1,18,3] w, float[1,18,6] r, float[1,2,6] h",
        'y = GRU<hidden_size = 6>(x, w, r, "", "", h)',
        7 * 2 * (2 * 3 * 6 * (3 + 6) + 8 * 6),
    ),
    "rnn": (
        "float[7,2,3] x, float[1,6,3] w, float[1,6,6] r",
        "y = RNN<hidden_size = 6>(x, w, r)",
        7 * 2 * (2 * 6 * (3 + 6) + 6),
    ),
}

OTHERS = {
    "elementwise": ("float[3,4] x", "y = Exp(x)", 12),
    "elementwise that broadcasts": ("float[3,1] x, float[1,4] w", "y = Add(x, w)", 12),
    "where": ("bool[3,4] c, float[3,4] x, float[4] w", "y = Where(c, x, w)", 12),
    "maximum of three": ("float[3,4] a, float[4] b, float[3,4] c", "y = Max(a, b, c)", 24),
    "softmax": ("float[3,4] x", "y = Softmax(x)", 5 * 12),
    "batch normalisation": (
        "float[2,3,4] x, float[3] s, float[3] b, float[3] m, float[3] v",
        "y = BatchNormalization(x, s, b, m, v)",
        2 * 24,
    ),
    "layer normalisation": (
        "float[3,4] x, float[4] s, float[4] b",
        "y = LayerNormalization(x, s, b)",
        7 * 12,
    ),
    "instance normalisation": (
        "float[2,3,4] x, float[3] s, float[3] b",
        "y = InstanceNormalization(x, s, b)",
        7 * 24,
    ),
    "reduction": ("float[3,4] x", "y = ReduceMax(x)", 12),
    "argmax": ("float[3,4] x", "y = ArgMax<axis = 1>(x)", 12),
    "global pooling": ("float[2,3,5,5] x", "y = GlobalAveragePool(x)", 150),
    "maximum pooling": (
        "float[1,2,8,8] x",
        "y = MaxPool<kernel_shape = [3, 2], strides = [2, 2]>(x)",
        (2 * 3 * 4) * 6,
    ),
    "average pooling": (
        "float[1,2,8,8] x",
        "y = AveragePool<kernel_shape = [4, 4], strides = [4, 4]>(x)",
        (2 * 2 * 2) * 16,
    ),
    "bilinear resize": (
        "float[1,2,4,4] x",
        's = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() y = Resize<mode = "linear">(x, "", s)',
        (2 * 8 * 8) * 2 * 4,
    ),
    "resize along one axis": (
        "float[1,2,4,4] x",
        's = Constant<value_floats = [1.0, 1.0, 1.0, 2.0]>() y = Resize<mode = "linear">(x, "", s)',
        (2 * 4 * 8) * 2 * 2,
    ),
    "nearest resize": (
        "float[1,2,4,4] x",
        's = Constant<value_floats = [1.0, 1.0, 2.0, 2.0]>() y = Resize(x, "", s)',
        0,
    ),
    "grid sample": (
        "float[1,2,4,4] x, float[1,3,5,2] g",
        "y = GridSample(x, g)",
        (2 * 3 * 5) * 2 * 4,
    ),
    "short-time fourier transform": (
        "float[1,64,1] x, float[16] w",
        "s = Constant<value_int = 8>() y = STFT(x, s, w)",
        7 * 16 + round(5 * 7 * 16 * log2(16)),
    ),
    "fourier transform": (
        "float[3,16,1] x",
        'a = Constant<value_int = 1>() y = DFT(x, "", a)',
        round(5 * 3 * 16 * log2(16)),
    ),
    "integers": ("int64[3,4] x, int64[4] w", "y = Mul(x, w)", 12),
    "moved data": (
        "float[3,4] x, int64[2] i",
        """a = Transpose(x) b = Concat<axis = 0>(a, a) c = Gather(b, i) d = Shape(c)
           e = Reshape(c, d) f = Cast<to = 10>(e) g = Identity(f) h = Expand(g, d)
           j, k = Split<num_outputs = 2>(h) l = SequenceConstruct(j, k)
           z = Constant<value_int = 0>() m = SequenceAt(l, z)
           y = Trilu(m)""",
        0,
    ),
}

NEWER = {
    "attention": (
        "float[2,4,5,8] q, float[2,4,7,8] k, float[2,4,7,6] v",
        "y = Attention(q, k, v)",
        (2 * 4 * 5 * 7) * (2 * 8 + 2 * 6 + 5),
    ),
    "attention, 3-d and grouped": (
        "float[2,5,32] q, float[2,7,16] k, float[2,7,12] v",
        "y = Attention<q_num_heads = 4, kv_num_heads = 2>(q, k, v)",
        (2 * 4 * 5 * 7) * (2 * 8 + 2 * 6 + 5),
    ),
    "attention with a past": (
        "float[2,4,5,8] q, float[2,4,7,8] k, float[2,4,7,8] v, float[2,4,3,8] p, float[2,4,3,8] r",
        'y, nk, nv = Attention(q, k, v, "", p, r)',
        (2 * 4 * 5 * 10) * (4 * 8 + 5),
    ),
    "rms normalisation": ("float[3,4] x, float[4] s", "y = RMSNormalization(x, s)", 4 * 12),
}


@pytest.mark.parametrize("name", PRODUCTS | OTHERS)
def test_an_operator_counts_what_a_hand_counts(name):
    inputs, body, wanted = (PRODUCTS | OTHERS)[name]
    assert counted(parsed(inputs, body)) == wanted


@pytest.mark.parametrize("name", NEWER)
def test_an_operator_of_opset_23_counts_what_a_hand_counts(name):
    inputs, body, wanted = NEWER[name]
    assert counted(parsed(inputs, body, opset=23)) == wanted


def test_transposed_products_agree_with_torch():
    """An independent counter: torch's own."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2),
        nn.Flatten(),
        nn.Linear(6 * 17 * 17, 5),
    )
    model = Model(net, {"input": Input(networks.floats(2, 3, 16, 16))}, ["y"])
    assert heavy(model) == by_torch(model)


def heavy(model: Model) -> int:
    """Operations of matrix products, convolutions and recurrent operators in the traced graph."""
    with evaluation(model.module):
        graph = trace(model).model
    shapes = measure_shapes(graph, probe_inputs.example(model))
    return sum(node_flops(node, shapes) for node in graph.graph if node.op_type in HEAVY)


def by_torch(model: Model) -> int:
    with evaluation(model.module), FlopCounterMode(display=False) as counter:
        TorchNetwork(model).call(probe_inputs.example(model))
    return counter.get_total_flops()


def test_resnet18_has_its_published_number_of_operations():
    networks.declare_torchvision()
    from torchvision.models import ResNet18_Weights, resnet18

    model = Model(resnet18(weights=None), {"x": Input(networks.floats(1, 3, 224, 224))}, ["y"])
    found = heavy(model)
    assert found == by_torch(model)
    published = ResNet18_Weights.IMAGENET1K_V1.meta["_ops"]  # in 1e9 multiply-adds
    assert round(found / 2e9, 3) == published


def test_a_vision_transformer_has_the_operations_of_its_formula():
    tokens, width, layers, classes = 4 * 4 + 1, 192, 3, 10
    patches = 2 * 16 * width * (3 * 8 * 8)
    projections = 2 * tokens * width * (3 * width + width)
    attention = 2 * 2 * tokens * tokens * width
    mlp = 2 * 2 * tokens * width * 4 * width
    wanted = patches + layers * (projections + attention + mlp) + 2 * width * classes
    assert heavy(networks.vit()) == wanted


def test_a_node_that_was_not_measured_is_refused():
    (node,) = parsed("float[3,4] x, float[4,5] w", "y = MatMul(x, w)").graph
    with pytest.raises(ExportError, match="MatMul .* nothing is known of the size of 'y'"):
        node_flops(node, {})


# Functions, control flow and segments


def with_functions() -> ir.Model:
    function = """<domain: "local", opset_import: ["": 20, "local": 1]>
    project <axis> (x, w, size) => (y) {
      a = Transpose<perm = [1, 0]>(w)
      b = MatMul(x, a)
      c = Reshape(b, size)
      y = local.flattened<axis: int = @axis>(c)
    }
    <domain: "local", opset_import: ["": 20]>
    flattened <axis> (x) => (y) { a = Flatten<axis: int = @axis>(x) b = ReduceMax(a) y = Relu(b) }
    """
    header = '<ir_version: 10, opset_import: ["": 20, "local": 1]>'
    body = """size = Constant<value_ints = [3, 1, 5]>()
              y = local.project<axis = 1>(x, w, size)"""
    proto = onnx.parser.parse_model(
        f"{header}\nnet (float[3,4] x, float[5,4] w) => () {{ {body} }}\n{function}"
    )
    proto.graph.output.append(onnx.ValueInfoProto(name="y"))
    return ir.from_proto(proto)


def test_a_call_counts_what_its_body_holds():
    model = with_functions()
    assert len(model.functions) == 2
    assert counted(model) == 2 * 3 * 5 * 4 + 15 + 1
    inlined = with_functions()
    ir.passes.common.InlinePass()(inlined)
    assert counted(inlined) == counted(model)


def test_of_two_branches_the_cheaper_one_counts():
    model = parsed(
        "bool c, float[3,4] x, float[4,5] w",
        """z = Exp(x)
           y = If(c) <
             then_branch = t () => (float[3,5] a) { a = MatMul(z, w) },
             else_branch = e () => (float[3,1] b) { b = ReduceMax<axes = [1]>(z) }
           >""",
        opset=17,
    )
    assert counted(model) == 12 + min(2 * 3 * 5 * 4, 12)


LOOP = """n = Constant<value_int = 6>() t = Cast<to = 9>(n)
          last{stacked} = Loop(n, t, x) <
            body = b (int64 i, bool go, float[3,4] h)
              => (bool on, float[3,4] m{yielded}) {{
                on = Identity(go) p = MatMul(h, w) m = Tanh(p) {more}
              }}
          >"""


def test_a_loop_counts_every_step_where_it_yields_for_each():
    inputs, step = "float[3,4] x, float[4,4] w", 2 * 3 * 4 * 4 + 12
    stacked = LOOP.format(stacked=", y", yielded=", float[3,4] s", more="s = Identity(m)")
    assert counted(parsed(inputs, stacked, "last y")) == 6 * step
    assert counted(parsed(inputs, LOOP.format(stacked="", yielded="", more=""), "last")) == step


def test_a_scan_counts_every_step():
    model = parsed(
        "float[3,4] x, float[3,7,4] xs, float[4,4] w",
        """last, y = Scan(x, xs) <num_scan_inputs = 1, scan_input_axes = [1],
             body = b (float[3,4] h, float[3,4] e) => (float[3,4] m, float[3,4] s) {
               p = MatMul(h, w) m = Add(p, e) s = Identity(m)
             }
           >""",
        "last y",
    )
    assert counted(model) == 7 * (2 * 3 * 4 * 4 + 12)


def test_work_of_unknown_size_inside_a_body_counts_none():
    model = parsed(
        "bool c, float[3,4] x",
        """y = If(c) <
             then_branch = t () => (a) { i = NonZero(x) f = Cast<to = 1>(i) a = Exp(f) },
             else_branch = e () => (b) { j = NonZero(x) g = Cast<to = 1>(j) h = Exp(x) b = Exp(g) }
           >""",
    )
    assert counted(model) == 0


@st.composite
def segments(draw: st.DrawFn) -> tuple[tuple[int, ...], list[int], bool]:
    size = st.integers(1, 6)
    return (
        tuple(draw(size) for _ in range(5)),
        draw(st.lists(st.integers(0, 9), min_size=1, max_size=4)),
        draw(st.booleans()),
    )


@given(segments())
def test_attention_over_segments_counts_as_over_all_of_them(case):
    (batch, heads, rows, depth, width), lengths, biased = case
    kinds = ir.DataType.FLOAT
    count, names = len(lengths), []
    shapes = {"q": MeasuredTensor((batch, heads, rows, depth), kinds)}
    for kind, last in (("k", depth), ("v", width)):
        for index, length in enumerate(lengths):
            names.append(f"{kind}{index}")
            shapes[names[-1]] = MeasuredTensor((batch, heads, length, last), kinds)
    values = [ir.Value(name=name) for name in ["q", *names, *(["bias"] if biased else [])]]
    kind = f"SegmentedAttention{count}" + ("Biased" if biased else "")
    node = ir.Node("mmedge", kind, values)
    whole = ir.Node("", "Attention", [ir.Value(name=name) for name in "qkv"])
    joint = {
        "q": shapes["q"],
        "k": MeasuredTensor((batch, heads, sum(lengths), depth), kinds),
        "v": MeasuredTensor((batch, heads, sum(lengths), width), kinds),
    }
    scores = batch * heads * rows * sum(lengths)
    assert node_flops(whole, joint) == scores * (2 * (depth + width) + 5)
    assert node_flops(node, shapes) == node_flops(whole, joint) + (scores if biased else 0)


@pytest.mark.parametrize(
    "kind", ["SegmentedAttention", "SegmentedAttention0", "SegmentedAttention2"]
)
def test_segmented_attention_that_does_not_fit_its_inputs_is_refused(kind):
    node = ir.Node("mmedge", kind, [ir.Value(name=name) for name in "qkv"])
    with pytest.raises(ExportError, match="has 3 inputs; expected SegmentedAttention<M>"):
        node_flops(node, {})


def test_a_function_of_that_name_counts_as_the_attention_and_not_as_its_body():
    function = """<domain: "mmedge", opset_import: ["": 20]>
    SegmentedAttention2 (q, k0, k1, v0, v1) => (y) {
      k = Concat<axis = 2>(k0, k1) v = Concat<axis = 2>(v0, v1)
      t = Transpose<perm = [0, 1, 3, 2]>(k)
      s = MatMul(q, t) p = Softmax(s) y = MatMul(p, v)
    }"""
    heads = ", ".join(
        f"float[2,4,{n},8] {name}"
        for name, n in zip(("q", "k0", "k1", "v0", "v1"), (5, 3, 6, 3, 6), strict=True)
    )
    model = parsed(heads, "y = mmedge.SegmentedAttention2(q, k0, k1, v0, v1)", more=function)
    assert counted(model) == (2 * 4 * 5 * 9) * (4 * 8 + 5)
    inlined = model.clone()
    ir.passes.common.InlinePass()(inlined)
    assert counted(inlined) == counted(model)


@pytest.mark.parametrize("name", fusions.FUSIONS)
def test_fusion_networks_have_the_operations_of_their_formulas(name):
    """Counted there from the layers' sizes, and here from the traced graph as it is."""
    (model, captured), expected = fusions.traced(name), fusions.EXPECTED[name]
    graph = captured.model
    shapes = measure_shapes(graph, probe_inputs.example(model))
    reach = {name: {key} for key, names in model.modalities().items() for name in names}
    found = Counter(dict.fromkeys((*expected.encoders, "fusion"), 0))
    for node in graph.graph:
        # The size of a tensor is no content of it.
        taken = [] if node.op_type == "Shape" else [v for v in node.inputs if v is not None]
        seen = set().union(*(reach.get(str(value.name), set()) for value in taken))
        reach |= {str(value.name): seen for value in node.outputs}
        if node.op_type in HEAVY:
            found["fusion" if len(seen) != 1 else next(iter(seen))] += node_flops(node, shapes)
    wanted = {key: flops - expected.pushed.get(key, 0) for key, flops in expected.encoders.items()}
    assert found == wanted | {"fusion": expected.fusion + sum(expected.pushed.values())}
    assert found.total() == expected.total
