"""Attacks by way of the ONNX graph. Digests are right: whoever made the bundle is hostile."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
from bundles_bad.attack import Attack, on_directory, on_file, rewrite_manifest
from onnx import TensorProto, helper
from tiny import GRAPH, WEIGHTS, external

from mmedge.schema.release import Envelope, Release, envelope_to_bytes, release_to_bytes


def _graph(change):
    def rewrite(data):
        model = onnx.load_model_from_string(data)
        change(model)
        return model.SerializeToString(deterministic=True)

    return on_file(GRAPH, rewrite)


def _node(op, domain="", **attributes):
    return helper.make_node(op, ["score"], ["more"], domain=domain, **attributes)


def _body(*nodes):
    return helper.make_graph(list(nodes), "body", [], [])


def _add(node):
    return _graph(lambda model: model.graph.node.append(node))


def _function(name, *nodes, domain="mmedge"):
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("mmedge", 1)]
    return helper.make_function(domain, name, ["score"], ["more"], list(nodes), imports)


def _functions(*functions):
    def change(model):
        model.graph.node.append(_node(functions[0].name, "mmedge"))
        model.functions.extend(functions)

    return _graph(change)


def _by_reference(change):
    """A function whose branches are an attribute of its own; ``change`` says what it is."""

    def apply(model):
        branch = helper.make_node("If", ["score"], ["more"])
        for name in ("then_branch", "else_branch"):
            branch.attribute.add(name=name, type=onnx.AttributeProto.GRAPH, ref_attr_name="body")
        model.functions.append(_function("F", branch))
        model.graph.node.append(_node("F", "mmedge"))
        change(model, helper.make_attribute("body", _body(_node("Steal", "evil"))))

    return _graph(apply)


def _location(location, offset=0):
    """The second weight moved to ``location``."""

    def change(model):
        model.graph.initializer[-1].CopyFrom(external("w_text", (5, 2), location, offset))

    return _graph(change)


def _two_locations(model):
    model.graph.initializer[-1].external_data.add(key="location", value="/etc/passwd")


def _constant(model):
    model.graph.node.append(
        helper.make_node("Constant", [], ["more"], value=external("v", (2,), "../secret"))
    )


def _branch_weights(model):
    body = _body(helper.make_node("Identity", ["v"], ["more"]))
    body.initializer.append(external("v", (2,), "/etc/passwd"))
    model.graph.node.append(_node("If", then_branch=body, else_branch=body))


def _sparse(model):
    sparse = model.graph.sparse_initializer.add(dims=[2])
    sparse.values.CopyFrom(external("v", (2,), "/etc/passwd"))
    sparse.indices.CopyFrom(helper.make_tensor("i", TensorProto.INT64, [2], [0, 1]))


def _training(model):
    node = helper.make_node("Steal", [], ["x"], domain="evil")
    model.training_info.add().algorithm.node.append(node)


def _deep(depth):
    node = _node("Steal", "evil")
    for _ in range(depth):
        node = _node("If", then_branch=_body(node), else_branch=_body())
    return node


def _ort_format(data):
    # A valid first field (ir_version) and a second one whose bytes are ORT's magic.
    return b"\x08\x0a\x12\x04ORTM" + data[2:]


def _behind(more):
    """Further fields of the model."""
    return on_file(GRAPH, lambda data: data + more)


def _at_root(location):
    """A graph beside the manifest, with the second weight at ``location``; the bundle is signed."""

    def change(path):
        model = onnx.load_model_from_string((path / GRAPH).read_bytes())
        model.graph.initializer[-2].external_data[0].value = WEIGHTS
        model.graph.initializer[-1].CopyFrom(external("w_text", (5, 2), location))
        (path / GRAPH).unlink()
        data = model.SerializeToString(deterministic=True)
        (path / "net.onnx").write_bytes(data)
        manifest = json.loads(
            (path / "manifest.json").read_text().replace(f'"{GRAPH}"', '"net.onnx"')
        )
        manifest["files"]["net.onnx"] = hashlib.sha256(data).hexdigest()
        data = json.dumps(manifest).encode()
        rewrite_manifest(path, data)
        release = Release(hashlib.sha256(data).hexdigest(), 0, 0, None)
        envelope = Envelope(release_to_bytes(release), {"0" * 64: bytes(64)})
        (path / "manifest.sig").write_bytes(envelope_to_bytes(envelope))

    return on_directory(change)


def _no_data(model):
    model.graph.initializer.add(name="big", data_type=TensorProto.FLOAT, dims=[1 << 31])


XML = b"""<?xml version="1.0"?><net name="n" version="11"><layers/><edges/></net>"""
STEAL = r"onnx/net\.onnx: operator 'Steal' of domain 'evil' is not known"
OUTSIDE = "external data outside the bundle: "

ATTACKS = [
    Attack("operator of another domain", STEAL, _add(_node("Steal", "evil"))),
    Attack(
        "operator in a branch", STEAL, _add(_node("If", then_branch=_body(_node("Steal", "evil"))))
    ),
    Attack("operator in nested branches", STEAL, _add(_deep(8))),
    Attack("branches without end", "nested deeper than 48", _add(_deep(20))),
    Attack("operator in a function", STEAL, _functions(_function("F", _node("Steal", "evil")))),
    Attack(
        "operator in a graph that a function is given",
        r"onnx/net\.onnx: a call of function 'F' passes a graph",
        _by_reference(lambda model, body: model.graph.node[-1].attribute.append(body)),
    ),
    Attack(
        "operator in a graph that a function has by default",
        "not an ONNX graph: a default of an attribute of function 'F'",
        _by_reference(lambda model, body: model.functions[-1].attribute_proto.append(body)),
    ),
    Attack("training graph", "not an ONNX graph: a training graph", _graph(_training)),
    Attack(
        "operator with a body of its own domain",
        "operator 'F' of domain 'evil'",
        _graph(
            lambda model: (
                model.graph.node.append(_node("F", "evil")),
                model.functions.append(_function("F", _node("Relu"), domain="evil")),
            )
        ),
    ),
    Attack(
        "mmedge operator without body",
        "operator 'SegmentedAttention' of domain 'mmedge'",
        _add(_node("SegmentedAttention", "mmedge")),
    ),
    Attack(
        "function that calls itself",
        "model-local function calls function 'F'",
        _functions(_function("F", _node("F", "mmedge"))),
    ),
    Attack(
        "function that calls functions",
        "model-local function calls function 'G'",
        _functions(_function("F", _node("G", "mmedge")), _function("G", _node("Relu"))),
    ),
    Attack(
        "engine context",
        "operator 'EPContext'",
        _add(_node("EPContext", "com.microsoft", ep_cache_context="/tmp/x")),
    ),
    Attack("weights at an absolute path", OUTSIDE + "absolute path", _location("/etc/passwd")),
    Attack("weights above the folder", OUTSIDE + r"'\.\.' in path", _location("../secret")),
    Attack("weights not listed", OUTSIDE + "'more' is not a file", _location("more")),
    Attack("weights without location", OUTSIDE + "empty part", _location("")),
    Attack(
        "weights at a memory address",
        OUTSIDE + "unsafe characters",
        _location("*/_ORT_MEM_ADDR_/*"),
    ),
    Attack(
        "weights in the manifest",
        OUTSIDE + "'../manifest.json'|'\\.\\.' in path",
        _location("../manifest.json"),
    ),
    *(
        Attack(f"weights in {name}", OUTSIDE + f"'{name}' is not a file", _at_root(name))
        for name in ("manifest.json", "manifest.sha256", "manifest.sig")
    ),
    Attack("weights past the end", "past the end", _location("net.onnx.data", offset=400)),
    Attack("weights at no number", "no whole numbers", _location("net.onnx.data", offset="-1")),
    Attack("weights at two locations", "repeated 'location'", _graph(_two_locations)),
    Attack("weights of a constant", OUTSIDE + r"'\.\.' in path", _graph(_constant)),
    Attack("weights of a branch", OUTSIDE + "absolute path", _graph(_branch_weights)),
    Attack("sparse weights", "not an ONNX graph: a sparse constant", _graph(_sparse)),
    Attack("no graph", "a file without a graph", _graph(lambda model: model.ClearField("graph"))),
    Attack("two graphs", "field 7 given twice", _behind(b"\x3a\x00")),
    Attack("XML", "not an ONNX graph", on_file(GRAPH, lambda _: XML)),
    Attack("XML after a space", "not an ONNX graph", on_file(GRAPH, lambda _: b"\n" + XML)),
    Attack(
        "graph as a number", "field 7 of wire type 0", on_file(GRAPH, lambda d: b"\x38\x01" + d)
    ),
    Attack("unknown field of a graph", "field 99 of wire type 2", _behind(b"\x9a\x06\x00")),
    Attack("constant without data", "with 0 bytes of data", _graph(_no_data)),
    Attack("ORT format", "ORT-format file", on_file(GRAPH, _ort_format)),
    Attack("graph is garbage", "not an ONNX graph", on_file(GRAPH, lambda _: b"\x0b" * 64)),
    Attack("graph is empty", "not an ONNX graph: an empty file", on_file(GRAPH, lambda _: b"")),
    Attack("graph is truncated", "not an ONNX graph: truncated", on_file(GRAPH, lambda d: d[:-9])),
    Attack(
        "graph with a number without end",
        "number not ended",
        on_file(GRAPH, lambda d: d + np.full(11, 0xFF, np.uint8).tobytes()),
    ),
]
