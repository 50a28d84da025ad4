"""Products that processors without VNNI cut off are found by their sums."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge_export.quantize.saturate import ROWS, patches, saturated, saturating_nodes
from mmedge_export.targets.onnxruntime.schemes import find_sites


def pairs_past_16_bits(x, w):
    """One by one, as the instruction multiplies: uint8 x, int8 w."""
    x, w = np.pad(x, ((0, 0), (0, len(w) % 2))), np.pad(w, ((0, len(w) % 2), (0, 0)))
    count = 0
    for row in x.tolist():
        for column in w.T.tolist():
            for k in range(0, len(row), 2):
                total = row[k] * column[k] + row[k + 1] * column[k + 1]
                count += not -32768 <= total <= 32767
    return count / (len(x) * w.shape[1] * len(w) // 2)


@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 5))
def test_the_share_is_that_of_the_instruction(seed, depth, columns):
    rng = np.random.default_rng(seed)
    # At the ends of what 8 bits hold, so that neither side has to be rounded.
    x = rng.choice([0, 1, 200, 255], (3, depth))
    w = rng.choice([-127, -64, 3, 64, 127], (depth, columns))
    w[rng.integers(depth)] = 127  # every column's scale is 1
    found = saturated(x.astype(np.float32), w.astype(np.float32), 0.0, 255.0)
    assert found == pytest.approx(pairs_past_16_bits(x, w))


def test_seven_bits_never_saturate():
    x = np.full((1, 2), 255.0, np.float32)
    assert saturated(x, np.array([[1.0], [1.0]], np.float32), 0.0, 255.0) == 1.0
    assert 2 * 255 * 64 <= 32767


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(0, 100))
def test_patches_are_what_a_convolution_multiplies(channels, size, stride, seed):
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((2, channels, 7, 6)).astype(np.float32)
    rows = patches(images, (size, size), (stride, stride), rng)
    assert rows.shape == (ROWS, size * size * channels)
    known = {
        images[b, :, i : i + size, j : j + size].transpose(1, 2, 0).tobytes()
        for b in range(2)
        for i in range(0, 8 - size, stride)
        for j in range(0, 7 - size, stride)
    }
    assert all(np.ascontiguousarray(row).tobytes() in known for row in rows)


def test_nodes_are_told_apart(tmp_path):
    mild = np.eye(4, dtype=np.float32)
    x = ir.val("x", ir.DataType.FLOAT, ["n", 4])
    weights = {"mild": mild, "wild": np.ones((4, 4), np.float32)}
    values = {
        name: ir.val(name, const_value=ir.tensor(array, name=name))
        for name, array in weights.items()
    }
    nodes = [ir.node("MatMul", [x, value], name=f"by_{name}") for name, value in values.items()]
    total = ir.node("Add", [node.outputs[0] for node in nodes])
    for number, node in enumerate((*nodes, total)):
        node.outputs[0].name = f"y{number}"
    graph = ir.Graph(
        [x], [total.outputs[0]], nodes=[*nodes, total], initializers=list(values.values()),
        opset_imports={"": 20}, name="g",
    )  # fmt: skip
    total.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    total.outputs[0].shape = ir.Shape(["n", 4])
    path = tmp_path / "g.onnx"
    ir.save(ir.Model(graph, ir_version=10), path)
    sites = find_sites(ir.load(path))
    sample = {"x": np.full((3, 4), 1.0, np.float32)}
    assert saturating_nodes(path, sites, [sample], {"x": (0.0, 1.0)}) == {"by_wild"}
    assert saturating_nodes(path, sites, [sample], {"x": (0.0, 4.0)}) == set()
