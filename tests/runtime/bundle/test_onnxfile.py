"""The walk over ONNX files agrees with the onnx package on what a graph reaches for."""

from __future__ import annotations

import onnx
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from tiny import GRAPH, WEIGHTS, make_tiny

from mmedge.bundle import onnxgraph, protobuf
from mmedge.bundle.onnxfile import check_graph
from mmedge.bundle.operators import DOMAINS
from mmedge.bundle.protobuf import BYTES, FIXED32, FIXED64, REPEATED, VARINT
from mmedge.errors import BundleError

TABLES = {
    "_MODEL": onnx.ModelProto,
    "_GRAPH": onnx.GraphProto,
    "_NODE": onnx.NodeProto,
    "_ATTRIBUTE": onnx.AttributeProto,
    "_TENSOR": onnx.TensorProto,
    "_FUNCTION": onnx.FunctionProto,
    "_VALUE": onnx.ValueInfoProto,
    "_TYPE": onnx.TypeProto,
    "_TENSOR_TYPE": onnx.TypeProto.Tensor,
    "_SHAPE": onnx.TensorShapeProto,
    "_OPSET": onnx.OperatorSetIdProto,
    "_ENTRY": onnx.StringStringEntryProto,
}
#: Fields of messages of the tables that are stepped over: they say of values what is not believed.
UNREAD = {"metadata_props", "value_info", "opset_import", "tp", "type_protos"}
SIZES = {GRAPH: 1000, WEIGHTS: 424}


def check(model: onnx.ModelProto | bytes) -> list[str]:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return list(check_graph(memoryview(data), GRAPH, SIZES, "x").weights)


def wire_types(field) -> int:
    """As the tables have them: a bit for each, and one for what is repeated."""
    wire = {
        FieldDescriptor.TYPE_STRING: BYTES,
        FieldDescriptor.TYPE_BYTES: BYTES,
        FieldDescriptor.TYPE_MESSAGE: BYTES,
        FieldDescriptor.TYPE_FLOAT: FIXED32,
        FieldDescriptor.TYPE_DOUBLE: FIXED64,
    }.get(field.type, VARINT)
    return 1 << wire | (1 << BYTES | 1 << REPEATED if field.is_repeated else 0)


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_are_those_of_onnx(table):
    expected = {field.number: wire_types(field) for field in TABLES[table].DESCRIPTOR.fields}
    known = getattr(onnxgraph, table)
    assert {tag: entry[:3] for tag, entry in known.items()} == {
        tag: entry[:3] for tag, entry in protobuf.table(expected).items()
    }
    inner = {message.DESCRIPTOR.full_name for message in TABLES.values()}
    for number, wire, _, skipped in known.values():
        field = TABLES[table].DESCRIPTOR.fields_by_number[number]
        if skipped and field.message_type is not None:  # nothing that matters lies inside
            assert wire == BYTES
            assert field.name in UNREAD or field.message_type.full_name not in inner


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


@pytest.mark.parametrize(
    ("domain", "op"),
    [("", "Gelu"), ("ai.onnx", "Gelu"), ("ai.onnx.ml", "Scaler"), ("com.microsoft", "Gelu")],
)
def test_known_domains_are_taken_and_unused_imports_do_not_matter(domain, op):
    model = tiny_model()
    model.opset_import.append(helper.make_opsetid("ai.onnx.preview.training", 1))
    node = helper.make_node(op, ["score"], ["more"], domain=domain)
    body = helper.make_graph([node], "body", [], [])
    model.graph.node.append(
        helper.make_node("If", ["c"], ["m"], then_branch=body, else_branch=body)
    )
    assert check(model) == [WEIGHTS]


@given(st.binary(max_size=80))
def test_any_bytes_are_a_graph_or_a_bundle_error(data):
    try:
        check(data)
    except BundleError:
        return
    # What is accepted was stepped through to its end; it holds nothing to object to.
    assert data


BASE = make_tiny().files[GRAPH]


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
    assert {node.domain for node in model.graph.node} <= set(DOMAINS)
    named = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert {f"onnx/{location}" for location in named} == set(weights)
