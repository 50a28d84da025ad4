"""An ONNX file becomes a bundle as it is, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mmedge.errors import ExportError
from mmedge.spec import Dimension
from mmedge_export import Input, Model, SourceOptions, export
from mmedge_export.sources.onnx import read_onnx

FLOAT, INT64, BOOL, UINT8 = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.UINT8,
)


def write(path: Path, *, external: bool = False, ids_dim: str | None = "length") -> Path:
    """Token ids through an embedding, summed under a mask; an image; plus a count."""
    table = np.random.default_rng(0).standard_normal((30, 16)).astype(np.float32)
    nodes = [
        helper.make_node("Unsqueeze", ["ids", "two"], ["ids3"]),
        helper.make_node("Squeeze", ["ids3", "two"], ["ids2"]),
        helper.make_node("Gather", ["table", "ids2"], ["embedded"]),
        helper.make_node("Cast", ["mask"], ["mask1"], to=FLOAT),
        helper.make_node("Unsqueeze", ["mask1", "two"], ["mask3"]),
        helper.make_node("Mul", ["embedded", "mask3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["text"], keepdims=0),
        helper.make_node("Cast", ["image"], ["image1"], to=FLOAT),
        helper.make_node("Add", ["text", "image1"], ["y"]),
        helper.make_node("Shape", ["ids"], ["shape"]),
    ]
    graph = helper.make_graph(
        nodes,
        "text and image",
        [
            helper.make_tensor_value_info("ids", INT64, ["batch", ids_dim]),
            helper.make_tensor_value_info("mask", BOOL, ["batch", ids_dim]),
            helper.make_tensor_value_info("image", UINT8, ["batch", 16]),
        ],
        [
            helper.make_tensor_value_info("y", FLOAT, ["batch", 16]),
            helper.make_tensor_value_info("shape", INT64, [2]),
        ],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([2]), "two"),
            numpy_helper.from_array(np.array([1]), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(
        model, path, save_as_external_data=external, location="weights.bin", size_threshold=64
    )
    return path


@pytest.mark.parametrize("external", [False, True])
def test_it_becomes_a_bundle_that_computes_the_same(external, tmp_path):
    path = write(tmp_path / "net.onnx", external=external)
    assert (tmp_path / "weights.bin").exists() == external
    with export(
        path, tmp_path / "b", options=SourceOptions(modality={"text": ["ids", "mask"]})
    ) as bundle:
        manifest, samples = bundle.manifest, bundle.samples()
    assert manifest.name == "net"
    assert [(m.name, m.inputs) for m in manifest.modalities] == [
        ("text", ("ids", "mask")),
        ("image", ("image",)),
    ]
    assert manifest.dimensions == {"batch": Dimension(1, 1), "length": Dimension(1, 16)}
    assert manifest.outputs == ("y", "shape")
    assert manifest.provenance["opset"] == "17"
    assert manifest.provenance["source"] == "net.onnx"
    assert "torch" not in manifest.provenance
    assert "parity" not in manifest.variants[0].metrics  # the file is its own reference
    original, stored = (
        ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        for file in (path, tmp_path / "b/onnx/model.onnx")
    )
    rng = np.random.default_rng(3)
    values = {
        "ids": rng.integers(0, 30, (3, 7)),
        "mask": rng.random((3, 7)) < 0.5,
        "image": rng.integers(0, 256, (3, 16), np.uint8),
    }
    for a, b in zip(original.run(None, values), stored.run(None, values), strict=True):
        np.testing.assert_array_equal(a, b)
    for sample in samples:
        y = original.run(["y"], dict(sample.inputs))[0]
        np.testing.assert_array_equal(sample.outputs["y"], y)
    # Indices stay inside the table (ONNX Runtime would refuse others) and use most of it.
    assert max(int(sample.inputs["ids"].max()) for sample in samples) > 20
    assert samples[0].inputs["mask"].all()
    assert samples[0].inputs["image"].max() > 100


def test_dimensions_without_a_name_get_one_and_sizes_can_be_given(tmp_path):
    path = write(tmp_path / "net.onnx", ids_dim=None)
    model = read_onnx(path, sizes={"ids_1": 5, "mask_1": 5, "batch": 2})
    assert model.inputs["ids"].shape() == ("batch", "ids_1")
    assert model.inputs["ids"].example.shape == (2, 5)
    with pytest.raises(ExportError, match="sizes name time, but the dynamic dimensions are batch"):
        read_onnx(path, sizes={"time": 5})


def test_integers_that_index_nothing_are_zero_or_one(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Cast", ["flags"], ["y"], to=FLOAT)],
        "g",
        [helper.make_tensor_value_info("flags", INT64, [50])],
        [helper.make_tensor_value_info("y", FLOAT, [50])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "flags.onnx",
    )
    example = read_onnx(tmp_path / "flags.onnx").inputs["flags"].example
    assert set(example.tolist()) == {0, 1}


def test_a_model_in_python_gives_an_onnx_file_its_contract(tmp_path):
    path = write(tmp_path / "net.onnx")
    described = read_onnx(path)
    inputs = {
        name: Input(value.example, dynamic=value.dynamic, rate_hz=5.0, required=name == "ids")
        for name, value in described.inputs.items()
    }
    with export(Model(path, inputs, ["y", "shape"]), tmp_path / "b") as bundle:
        assert {m.rate_hz for m in bundle.manifest.modalities} == {5.0}


def image(shape: tuple[int, ...], dtype: str) -> dict[str, Input]:
    return {"image": Input(np.zeros(shape, dtype))}


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda i: {k: v for k, v in i.items() if k != "mask"}, "the graph's inputs are ids, mask"),
        (lambda i: i | image((1, 16), "float32"), "'image' is uint8 .* in the graph"),
        (lambda i: i | image((1, 9), "uint8"), r"the model says uint8 \(1, 9\)"),
        (lambda i: i | image((16,), "uint8"), r"the model says uint8 \(16,\)"),
    ],
)
def test_a_model_that_does_not_match_the_graph_is_refused(change, pattern, tmp_path):
    path = write(tmp_path / "net.onnx")
    model = Model(path, change(dict(read_onnx(path).inputs)), ["y", "shape"])
    with pytest.raises(ExportError, match=pattern):
        export(model, tmp_path / "b")


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(ExportError, match="text.onnx cannot be read as ONNX|is no ONNX network"):
        read_onnx(tmp_path / "text.onnx")
    path = write(tmp_path / "net.onnx", external=True)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(
        ExportError, match="net.onnx cannot be read as ONNX.*external data beside it"
    ):
        read_onnx(path)


def test_types_that_a_bundle_cannot_hold_are_refused(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["words"], ["y"])],
        "g",
        [helper.make_tensor_value_info("words", TensorProto.STRING, [2])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [2])],
    )
    onnx.save(helper.make_model(graph), tmp_path / "words.onnx")
    with pytest.raises(ExportError, match="input 'words' is string"):
        read_onnx(tmp_path / "words.onnx")


def test_an_unknown_operator_is_an_export_error(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Mystery", ["x"], ["y"], domain="strange")],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [2])],
        [helper.make_tensor_value_info("y", FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("strange", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="domain .strange.*docs/reference/onnx.md, rule .domain."):
        export(tmp_path / "m.onnx", tmp_path / "b")


def test_an_opset_cannot_be_asked_of_a_file(tmp_path):
    path = write(tmp_path / "net.onnx")
    with pytest.raises(ExportError, match="has opset 17, but 20 was asked for"):
        export(path, tmp_path / "b", opset=20)
    export(path, tmp_path / "b", opset=17).close()


def test_torch_is_not_needed(tmp_path):
    path = write(tmp_path / "net.onnx")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from mmedge_export import export\n"
        "export(sys.argv[1], sys.argv[2]).close()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path), str(tmp_path / "b")], check=True)
    assert (tmp_path / "b/manifest.json").exists()


def test_a_bundles_own_graph_can_be_exported_again(tmp_path):
    with export(networks.cameras(), tmp_path / "a", split=False) as first:
        specs = first.manifest.inputs()
    with export(tmp_path / "a/onnx/model.onnx", tmp_path / "b") as second:
        assert second.manifest.inputs() == specs
        assert second.manifest.outputs == ("depth", "occluded")
