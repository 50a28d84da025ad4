"""What was read once of a bundle's graphs is not read again, and counts as if it were."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper
from tiny import GRAPH, WEIGHTS, make_tiny

from mmedge.bundle import Bundle, onnxgraph, protobuf
from mmedge.bundle.onnxgraph import KnownParts, read_model
from mmedge.errors import BundleError


def graph(name: str = "g", *nodes: onnx.NodeProto) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    constant = helper.make_tensor("two", TensorProto.INT64, [1], [2])
    split = [
        helper.make_node("Softmax", ["x"], [f"y{index}"], axis=-1, name=f"n{index}")
        for index in range(3)
    ]
    network = helper.make_graph([*split, *nodes], name, [value], [value], [constant])
    return helper.make_model(network, ir_version=10).SerializeToString()


def branch(depth: int) -> onnx.NodeProto:
    """A node with bodies inside bodies."""
    inner = helper.make_node("Relu", ["x"], ["z"]) if depth == 0 else branch(depth - 1)
    body = helper.make_graph([inner], "body", [], [])
    return helper.make_node("If", ["c"], ["z"], then_branch=body)


def describe(data: bytes, known: KnownParts | None = None) -> list[object]:
    model = read_model(memoryview(data), known)
    return [
        [
            (
                node.op,
                node.inputs,
                node.outputs,
                {k: v.integers for k, v in node.attributes.items()},
            )
            for node in model.graph.nodes
        ],
        {name: (c.kind, c.shape, c.values) for name, c in model.graph.constants.items()},
        [(tensor.name, tensor.external) for tensor in model.external],
    ]


def test_a_second_file_reads_the_same_from_known_parts():
    known = KnownParts()
    first = describe(graph(), known)
    sizes = len(known.nodes), len(known.attributes), len(known.tensors)
    assert sizes == (3, 1, 1)  # the attribute is the same in all nodes
    assert describe(graph("other"), known) == first == describe(graph())
    assert sizes == (len(known.nodes), len(known.attributes), len(known.tensors))


def test_weights_beside_known_parts_are_told_for_each_file():
    data, known = make_tiny().files[GRAPH], KnownParts()
    assert describe(data, known) == describe(data, known) == describe(data)
    assert [entry["location"] for _, entry in describe(data, known)[2]]


@pytest.mark.parametrize("limit", ["MAX_NODES", "MAX_NAMES", "MAX_FIELDS"])
def test_known_parts_count_as_if_they_were_read(limit, monkeypatch):
    module = protobuf if limit == "MAX_FIELDS" else onnxgraph
    data = graph()

    def fits(most: int, known: KnownParts | None) -> bool:
        monkeypatch.setattr(module, limit, most)
        return "more than" not in fault(data, known)

    needed = next(most for most in range(1000) if fits(most, None))
    known = KnownParts()
    assert fits(needed, known)  # and now all parts are known
    assert fits(needed, known)
    assert not fits(needed - 1, known)


def fault(data: bytes, known: KnownParts | None) -> str:
    try:
        read_model(memoryview(data), known)
    except protobuf.WireError as error:
        return str(error)
    return ""


def test_a_node_with_bodies_is_read_where_it_stands():
    known = KnownParts()
    deepest = next(d for d in range(60) if fault(graph("g", branch(d + 1)), known))
    assert not fault(graph("g", branch(deepest)), known)
    # Its bodies were read without fault, but one level further in they lie too deep.
    body = helper.make_graph([branch(deepest)], "outer", [], [])
    deeper = helper.make_node("If", ["c"], ["z"], then_branch=body)
    assert "nested deeper" in fault(graph("g", deeper), known)


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS])
@pytest.mark.parametrize("form", ["b", "b.mmedge"])
def test_an_altered_file_is_named_whatever_else_is_wrong_with_it(tiny_bundle, tmp_path, name, form):
    with Bundle.open(tiny_bundle) as bundle:
        bundle.copy(tmp_path / form).close()
        content = bytes(bundle.read(name))
    path = tmp_path / form
    place = path / name if path.is_dir() else path
    data = place.read_bytes()
    assert data.count(content) == 1
    place.write_bytes(data.replace(content, bytes(len(content))))  # no graph at all
    with pytest.raises(BundleError, match=f"{name} is altered"):
        Bundle.open(path)
