"""Graphs of several stages and variants may keep their weights in one file."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tiny import external

from mmedge.bundle import Bundle
from mmedge.errors import BundleError
from mmedge.spec import Manifest, Modality, Stage, TensorSpec, Tolerance, Variant

SHARED, OTHER = "onnx/weights.data", "onnx/other.data"
ENCODER, FUSION = "onnx/encoder.onnx", "onnx/fusion.onnx"
WEIGHTS = np.arange(1, 17, dtype=np.float32)


def scale(source, target, location, offset):
    """target = source * 4 weights that lie at ``offset`` of ``location``."""
    graph = helper.make_graph(
        [helper.make_node("Mul", [source, "w"], [target])],
        "net",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info(target, TensorProto.FLOAT, [4])],
        [external("w", (4,), location, offset)],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


def variant(precision, encoder, fusion):
    files = {"encoder": encoder, "fusion": fusion}
    return Variant("ort", precision, "cpu", files, Tolerance(0, 0))


def write(path):
    tensors = [TensorSpec(name, "float32", (4,)) for name in ("x", "y", "z")]
    manifest = Manifest(
        name="shared",
        modalities=(Modality("x", ("x",)),),
        stages=(
            Stage("encoder", ENCODER, (tensors[0],), (tensors[1],), modality="x"),
            Stage("fusion", FUSION, (tensors[1],), (tensors[2],)),
        ),
        outputs=("z",),
        variants=(
            variant("fp32", ENCODER, FUSION),
            variant("fp16", "onnx/encoder.fp16.onnx", "onnx/fusion.fp16.onnx"),
        ),
        files={},
    )
    files = {
        ENCODER: scale("x", "y", "weights.data", 0),
        FUSION: scale("y", "z", "weights.data", 16),
        "onnx/encoder.fp16.onnx": scale("x", "y", "other.data", 0),
        "onnx/fusion.fp16.onnx": scale("y", "z", "other.data", 16),
        SHARED: WEIGHTS.tobytes(),
        OTHER: WEIGHTS[::-1].tobytes(),
    }
    return Bundle.write(path, manifest, files)


@pytest.fixture(params=["b", "b.mmedge"])
def bundle(request, tmp_path):
    with write(tmp_path / request.param) as opened:
        yield opened


def run(bundle, graph, value):
    session = ort.InferenceSession(bundle.file(graph), providers=["CPUExecutionProvider"])
    (name,) = [entry.name for entry in session.get_inputs()]
    return session.run(None, {name: value})[0]


def test_each_stage_runs_on_its_own_part(bundle):
    assert bundle.weights(ENCODER) == bundle.weights(FUSION) == (SHARED,)
    x = np.full(4, 2, np.float32)
    y = run(bundle, ENCODER, x)
    np.testing.assert_array_equal(y, x * WEIGHTS[:4])
    np.testing.assert_array_equal(run(bundle, FUSION, y), y * WEIGHTS[4:8])


def test_the_weights_are_placed_once(bundle):
    first = bundle.file(ENCODER).parent / "weights.data"
    placed = first.stat()
    second = bundle.file(FUSION).parent / "weights.data"
    assert second == first
    assert (second.stat().st_ino, second.stat().st_mtime_ns) == (placed.st_ino, placed.st_mtime_ns)
    bundle.release()
    assert bundle.file(FUSION).with_name("weights.data").read_bytes() == WEIGHTS.tobytes()


def test_shared_weights_stay_as_long_as_one_graph_uses_them(bundle):
    # The new variant keeps one of the old one's two graphs, and that graph keeps the weights.
    half = bundle.with_variant(variant("fp16", "onnx/encoder.fp16.onnx", FUSION), {})
    assert "onnx/fusion.fp16.onnx" not in half.manifest.files
    assert {"onnx/encoder.fp16.onnx", OTHER, SHARED} <= set(half.manifest.files)
    # The last graph that used them goes, and they go with it; the stages' own stay.
    none = half.with_variant(variant("fp16", ENCODER, FUSION), {})
    assert set(none.manifest.files) == {ENCODER, FUSION, SHARED}
    none.verify()
    none.close()


def test_a_new_graph_may_use_the_stages_weights(bundle):
    graph = scale("y", "z", "weights.data", 32)
    added = bundle.with_variant(
        variant("int8", ENCODER, "onnx/fusion.int8.onnx"), {"onnx/fusion.int8.onnx": graph}
    )
    y = np.ones(4, np.float32)
    np.testing.assert_array_equal(run(added, "onnx/fusion.int8.onnx", y), WEIGHTS[8:12])
    back = added.with_variant(variant("int8", ENCODER, FUSION), {})
    assert SHARED in back.manifest.files
    back.close()


def test_reading_past_the_shared_file_is_refused(bundle):
    graph = scale("y", "z", "weights.data", 52)
    with pytest.raises(BundleError, match="past the end of 'weights.data'"):
        bundle.with_variant(variant("int8", ENCODER, "onnx/int8.onnx"), {"onnx/int8.onnx": graph})
    bundle.verify()
