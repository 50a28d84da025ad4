"""The walk over ONNX files agrees with the onnx package on what a graph reaches for."""

from __future__ import annotations

import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tiny import GRAPH, WEIGHTS, make_tiny

from mmedge.bundle import onnxfile
from mmedge.bundle.onnxfile import check_graph
from mmedge.errors import BundleError

MESSAGES = {
    "model": onnx.ModelProto,
    "graph": onnx.GraphProto,
    "node": onnx.NodeProto,
    "attribute": onnx.AttributeProto,
    "sparse": onnx.SparseTensorProto,
    "tensor": onnx.TensorProto,
    "function": onnx.FunctionProto,
    "training": onnx.TrainingInfoProto,
}
SIZES = {GRAPH: 1000, WEIGHTS: 424}


def check(model: onnx.ModelProto | bytes) -> list[str]:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return list(check_graph(memoryview(data), GRAPH, SIZES, "x").weights)


@pytest.mark.parametrize("kind", MESSAGES)
def test_no_message_that_matters_is_stepped_over(kind):
    known = {message.DESCRIPTOR.full_name: name for name, message in MESSAGES.items()}
    expected = {
        field.number: known[field.message_type.full_name]
        for field in MESSAGES[kind].DESCRIPTOR.fields
        if field.message_type is not None and field.message_type.full_name in known
    }
    if kind == "tensor":
        expected[onnx.TensorProto.EXTERNAL_DATA_FIELD_NUMBER] = "entry"
    assert expected == onnxfile._INNER[kind]


def test_strings_have_the_numbers_of_onnx():
    node, function, entry = onnx.NodeProto, onnx.FunctionProto, onnx.StringStringEntryProto
    assert onnxfile._STRINGS == {
        "node": {node.OP_TYPE_FIELD_NUMBER: "op", node.DOMAIN_FIELD_NUMBER: "domain"},
        "function": {function.NAME_FIELD_NUMBER: "op", function.DOMAIN_FIELD_NUMBER: "domain"},
        "entry": {entry.KEY_FIELD_NUMBER: "key", entry.VALUE_FIELD_NUMBER: "value"},
    }


def tiny_model() -> onnx.ModelProto:
    return onnx.load_model_from_string(make_tiny().files[GRAPH])


def test_weights_are_found_and_relative_to_the_graph():
    assert check(tiny_model()) == [WEIGHTS]


def test_an_operator_of_our_own_with_its_body_is_taken():
    model = tiny_model()
    relu = helper.make_node("Relu", ["x"], ["y"])
    imports = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("mmedge", "F", ["x"], ["y"], [relu], imports))
    model.graph.node.append(helper.make_node("F", ["score"], ["more"], domain="mmedge"))
    assert check(model) == [WEIGHTS]


@pytest.mark.parametrize("domain", sorted(onnxfile.DOMAINS))
def test_known_domains_are_taken_and_unused_imports_do_not_matter(domain):
    model = tiny_model()
    model.opset_import.append(helper.make_opsetid("ai.onnx.preview.training", 1))
    node = helper.make_node("Gelu", ["score"], ["more"], domain=domain)
    body = helper.make_graph([node], "body", [], [])
    model.graph.node.append(
        helper.make_node("If", ["c"], ["m"], then_branch=body, else_branch=body)
    )
    assert check(model) == [WEIGHTS]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_graph_or_a_bundle_error(data):
    try:
        check(data)
    except BundleError:
        return
    # What is accepted was stepped through to its end; it holds nothing to object to.
    assert data


BASE = make_tiny().files[GRAPH]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_is_accepted_of_a_damaged_graph_is_harmless_to_onnx_too(data):
    """Where both readers accept, onnx finds no domain and no weights that were not checked."""
    changed = bytearray(BASE)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        weights = check(bytes(changed))
        model = onnx.load_model_from_string(bytes(changed))
    except (BundleError, DecodeError):
        return
    assert {node.domain for node in model.graph.node} <= onnxfile.DOMAINS
    named = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert {f"onnx/{location}" for location in named} == set(weights)
