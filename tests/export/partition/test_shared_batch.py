"""Inputs that a network joins to one batch run by themselves: same values, one owner each."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from batch_graphs import batches
from fusion_graphs import run
from hypothesis import given, settings

from mmedge_export.partition.owners import find_owners
from mmedge_export.partition.push_concat import push_concat

WORK = ("Conv", "Gemm", "MatMul", "Softmax", "InstanceNormalization", "MaxPool", "Resize")


def owners_of_work(model, groups):
    owners = find_owners(model.graph, groups)
    return {owners.of(n.outputs[0]) for n in model.graph if n.op_type in WORK}


def check(case):
    """Push; the same values at two batches; what was told, and the owners of all work."""
    backbone, proto = case
    groups = {name: [name] for name in backbone.names}
    model = ir.serde.deserialize_model(proto)
    remarks = []
    push_concat(model, groups, remarks.append)
    after = ir.serde.serialize_model(model)
    for batch in (1, 3):
        values = backbone.values(batch)
        expected, got = run(proto, values), run(after, values)
        for name, value in expected.items():
            scale = max(1.0, float(np.abs(value).max(initial=0)))
            np.testing.assert_allclose(got[name], value, rtol=0, atol=2e-6 * scale)
    return remarks, owners_of_work(model, groups), groups


@settings(max_examples=20)
@given(batches())
def test_each_input_of_a_batch_runs_by_itself(case):
    remarks, owners, groups = check(case)
    assert owners == {frozenset([name]) for name in groups}
    (remark,) = remarks or [None]
    if remark is not None:  # a backbone of products with weights alone may be one of tokens
        assert remark.is_cut
        assert remark.text.startswith(" and ".join(groups))
        assert f"for each of the {len(groups)} by itself" in remark.text


@settings(max_examples=8)
@given(batches(mixing=True))
def test_what_mixes_the_rows_of_a_batch_stays_whole_and_is_told(case):
    remarks, owners, groups = check(case)
    assert frozenset(groups) in owners
    assert [remark for remark in remarks if not remark.is_cut and "mixes rows" in remark.text]


GROUPS = {"left": ["left"], "right": ["right"], "state": ["state"]}

MIXES = (
    "Softmax 'y' on, which is not cut: it mixes rows of the batch, or is not known to treat each "
    "by itself"
)

#: What follows one batch of two, which modalities each output has then, and why it is not cut.
CASES = {
    "stacked and taken out at once": (
        """
        one = Constant<value_ints = [1]>()
        a = Unsqueeze(left, one) b = Unsqueeze(right, one) x = Concat<axis = 1>(a, b)
        i = Constant<value_int = -1>() z = Gather<axis = 1>(x, i) y = Relu(z)
        """,
        {"right"},
        None,
    ),
    "parts of one camera and of both": (
        """
        x = Concat<axis = 0>(left, right) r = Relu(x)
        s = Constant<value_ints = [1]>() e = Constant<value_ints = [9]>()
        y = Slice(r, s, e, s0)
        """,
        {"left", "right"},
        None,
    ),
    "attention within each sample": (
        """
        x = Concat<axis = 0>(left, right) q = Relu(x) h = Attention(q, x, x)
        n = Shape<start = 0, end = 1>(left) nn = Concat<axis = 0>(n, n)
        y, z = Split<axis = 0>(h, nn)
        """,
        {"left"},
        None,
    ),
    "a scale that another modality makes": (
        "x = Concat<axis = 0>(left, right) h = Mul(x, state) y = GlobalMaxPool(h)",
        {"left", "right", "state"},
        "Mul 'h' on, which is not cut: it depends on state too",
    ),
    "a softmax over the batch": (
        "x = Concat<axis = 0>(left, right) p = GlobalMaxPool(x) y = Softmax<axis = 0>(p)",
        {"left", "right"},
        MIXES,
    ),
    "tokens, which are meant to be mixed": (
        "x = Concat<axis = 0>(left, right) r = Relu(x) y = Softmax<axis = 0>(r)",
        {"left", "right"},
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_and_told_of_a_batch(name):
    body, modalities, told = CASES[name]
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
    g (float[B,2,3,3] left, float[B,2,3,3] right, float[1,2,1,1] state) => (float[N,M,K,L] y)
    <int64[1] s0 = {{0}}> {{ {body} }}"""
    model = ir.serde.deserialize_model(onnx.parser.parse_model(text))
    rng = np.random.default_rng(0)
    values = {n: rng.standard_normal((4, 2, 3, 3)).astype(np.float32) for n in ("left", "right")}
    values["state"] = np.ones((1, 2, 1, 1), np.float32)
    expected = run(model, values)
    remarks = []
    push_concat(model, GROUPS, remarks.append)
    np.testing.assert_array_equal(run(model, values)["y"], expected["y"])
    owners = find_owners(model.graph, GROUPS)
    assert owners.of(model.graph.outputs[0]) == modalities
    share = "left and right share one batch (concat 'x') from "
    assert [r.text for r in remarks if not r.is_cut] == ([share + told] if told else [])
