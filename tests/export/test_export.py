"""Networks through export() to a bundle on disk, and the bundle's graph run beside the network."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import networks
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

import mmedge
from mmedge.errors import BundleError, ExportError
from mmedge.spec import Dimension, TensorSpec
from mmedge_export import Input, Model, export
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.network import TorchNetwork, evaluation
from mmedge_export.passes.strip_metadata import SCOPES

MACHINE = (str(Path.cwd()), str(Path(torch.__file__).parent), str(Path.home()))


def outputs_of(model: Model, values: dict) -> dict:
    with evaluation(model.module):
        return TorchNetwork(model)(values)


def run(bundle: Path, values: dict) -> dict:
    """The bundle's own graph, straight from its file."""
    session = ort.InferenceSession(bundle / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, values), strict=True))


def assert_close(got: dict, wanted: dict) -> None:
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype
        assert got[name].shape == value.shape
        if value.dtype.kind == "f":
            limit = 1e-4 * np.abs(value).max() + 1e-6
            assert np.abs(got[name] - value).max() <= limit, name
        else:
            np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_network_becomes_a_bundle_that_computes_the_same(name, tmp_path, capfd):
    model = networks.NETWORKS[name]()
    path = tmp_path / name
    with export(model, path, split=False) as bundle:
        manifest = bundle.manifest
        samples = bundle.samples()
    assert capfd.readouterr() == ("", "")
    assert [variant.id for variant in manifest.variants] == ["ort-fp32-cpu", "ort-fp32-cuda"]
    assert manifest.variants[0].metrics["parity"] <= 1e-4
    assert manifest.outputs == tuple(model.outputs)
    assert list(manifest.inputs()) == list(model.inputs)

    # Sizes and values that the export itself has not seen.
    limits = {symbol: limit.max or 64 for symbol, limit in model.dimensions().items()}
    for seed, batch in enumerate((1, 3, 7)):
        sizes = {symbol: min(11, most) for symbol, most in limits.items()} | {"batch": batch}
        values = probe_inputs.random(model, sizes, np.random.default_rng(100 + seed))
        assert_close(run(path, values), outputs_of(model, values))

    # Golden outputs are the network's own, to the last bit.
    optional = {spec.modality for spec in model.inputs.values() if not spec.required}
    assert len(samples) == 4 + len(optional)
    for sample in samples:
        wanted = outputs_of(model, sample.inputs)
        for tensor, value in wanted.items():
            np.testing.assert_array_equal(sample.outputs[tensor], value)

    for file in path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(place.encode() in content for place in MACHINE), file
    onnx.checker.check_model(path / "onnx/model.onnx", full_check=True)


def test_a_module_is_traced_in_evaluation_mode_and_put_back(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.9), nn.BatchNorm1d(4))
    net[2].eval()
    modes = [part.training for part in net.modules()]
    assert modes == [True, True, True, False]
    model = Model(net, {"input": Input(networks.floats(2, 4), dynamic={0: "batch"})}, ["y"])
    export(model, tmp_path / "b").close()
    assert [part.training for part in net.modules()] == modes
    values = {"input": networks.floats(3, 4)}
    assert_close(run(tmp_path / "b", values), outputs_of(model, values))


def test_the_runtime_loads_it_and_verifies_it(tmp_path):
    model = networks.text_image()
    export(model, tmp_path / "b.mmedge").close()
    values = probe_inputs.random(model, {"batch": 3, "length": 9}, np.random.default_rng(5))
    with mmedge.load(tmp_path / "b.mmedge", backend="ort") as pipe:
        assert_close(
            {k: np.asarray(v) for k, v in pipe(**values).items()}, outputs_of(model, values)
        )


class Asymmetric(nn.Module):
    """Parameters in another order than the model's inputs, one of them by ``**kwargs``."""

    def forward(self, a: torch.Tensor, b: torch.Tensor, **more: torch.Tensor):
        y = a - 10 * b + 100 * more["c"]
        return {"y": y, "same": y, "a": a, "unused": (y, [a])}


def test_inputs_of_one_shape_are_never_mixed_up(tmp_path):
    inputs = {name: Input(networks.floats(1, 3), dynamic={0: "batch"}) for name in ("c", "b", "a")}
    # One name is also that of a node of the traced program, another of an output that is an input.
    model = Model(Asymmetric(), inputs, ["same", "out", "y"][::2])
    export(model, tmp_path / "b").close()
    values = {name: networks.floats(4, 3) for name in inputs}
    wanted = values["a"] - 10 * values["b"] + 100 * values["c"]
    got = run(tmp_path / "b", values)
    np.testing.assert_allclose(got["y"], wanted, rtol=1e-5)
    np.testing.assert_allclose(got["same"], wanted, rtol=1e-5)


class Clashing(nn.Module):
    """Outputs that are an input, a weight and one another."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(3.0))

    def forward(self, add: torch.Tensor, linear: torch.Tensor):
        total = add + linear
        return [total, add, self.weight, total, torch.relu(total) + 1]


def test_names_that_clash_with_the_graphs_own_are_kept_apart(tmp_path):
    inputs = {name: Input(networks.floats(2, 3)) for name in ("add", "linear")}
    outputs = ["add_1", "weight", "values_0", "relu", "network.weight"]
    model = Model(Clashing(), inputs, outputs)
    export(model, tmp_path / "b").close()
    values = {name: networks.floats(2, 3) for name in inputs}
    assert_close(run(tmp_path / "b", values), outputs_of(model, values))


class OneOfTwo(nn.Module):
    """Does not use its second input."""

    def forward(self, x: torch.Tensor, spare: torch.Tensor) -> torch.Tensor:
        return x.sum(1)


def test_an_input_that_the_network_ignores_stays_an_input(tmp_path):
    inputs = {
        "spare": Input(networks.floats(1, 3), dynamic={0: "batch"}),
        "x": Input(networks.floats(1, 4), dynamic={0: "batch"}),
    }
    with export(Model(OneOfTwo(), inputs, ["y"]), tmp_path / "b") as bundle:
        assert list(bundle.manifest.inputs()) == ["spare", "x"]
    with mmedge.load(tmp_path / "b", backend="ort") as pipe:
        values = {"spare": networks.floats(2, 3), "x": networks.floats(2, 4)}
        np.testing.assert_allclose(pipe(**values)["y"], values["x"].sum(1), rtol=1e-5)


class EveryType(nn.Module):
    """uint8, bool, int32, int64, float16 and float64 in; a sum of each kind out."""

    def forward(self, u, b, i, j, h, d):
        total = u.float() + b.float() + i.float() + j.float() + h.float() + d.float()
        return total, u, b, i + 1, j + 1, h * 2, d * 2


def test_every_dtype_of_a_bundle_passes_through(tmp_path):
    rng = np.random.default_rng(0)
    dtypes = ["uint8", "bool", "int32", "int64", "float16", "float64"]
    examples = [rng.integers(0, 2, (2, 3)).astype(dtype) for dtype in dtypes]
    inputs = {
        name: Input(example, dynamic={0: "batch"})
        for name, example in zip("ubijhd", examples, strict=True)
    }
    model = Model(EveryType(), inputs, ["total", *(f"{name}_out" for name in "ubijhd")])
    with export(model, tmp_path / "b") as bundle:
        specs = bundle.manifest.stages[0].outputs
    assert [spec.dtype for spec in specs] == ["float32", *dtypes]
    values = {name: np.concatenate([v.example] * 2) for name, v in inputs.items()}
    assert_close(run(tmp_path / "b", values), outputs_of(model, values))


def test_the_manifest_says_what_the_model_says(tmp_path):
    tokenizer = tmp_path / "words.json"
    Tokenizer(WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]")).save(str(tokenizer))
    base = networks.text_image()
    token = {0: "batch", 1: "length"}
    model = Model(
        base.module,
        {
            "ids": Input(base.inputs["ids"].example, modality="text", dynamic=token, required=False,
                         absent="token", absent_token=np.full((1, 1), 7), tokenizer=tokenizer),
            "mask": Input(base.inputs["mask"].example, modality="text", dynamic=token,
                          required=False, absent="token", absent_token=np.array([[True]])),
            "image": Input(base.inputs["image"].example, dynamic={0: "batch"}, rate_hz=30.0,
                           max_age_ms=50.0),
        },
        base.outputs, labels=base.labels, dims=base.dims, name="text and image",
    )  # fmt: skip
    with export(model, tmp_path / "b") as bundle:
        manifest, tokens, labels = bundle.manifest, bundle.absent_tokens(), bundle.labels("logits")
    text, image = manifest.modalities
    assert (text.name, text.inputs, text.required, text.absent) == (
        "text",
        ("ids", "mask"),
        False,
        "token",
    )
    assert (text.tokenizer.ids, text.tokenizer.mask) == ("ids", "mask")
    assert (image.name, image.required, image.rate_hz, image.max_age_ms) == (
        "image",
        True,
        30.0,
        50.0,
    )
    assert labels == ["a", "b", "c", "d", "e"]
    assert tokens.keys() == {"ids", "mask"}
    np.testing.assert_array_equal(tokens["ids"], [[7, 7]])
    assert manifest.name == "text-and-image"
    assert manifest.dimensions["length"] == Dimension(2, 6, 32)
    assert manifest.dimensions["tokens_1"] == Dimension(4, 12, None)
    assert manifest.stages[0].outputs == (
        TensorSpec("logits", "float32", ("batch", 5)),
        TensorSpec("best", "int64", ("batch",)),
        TensorSpec("tokens", "float32", ("batch", "tokens_1", 16)),
    )
    # As the package is called: torch.__version__ of the same wheel may name its build on top.
    assert manifest.provenance["torch"] == metadata.version("torch")
    assert torch.__version__.startswith(manifest.provenance["torch"])
    assert manifest.provenance["opset"] == "20"
    assert manifest.provenance["network"] == "networks.TextAndImage"


def test_samples_are_the_golden_ones_up_to_the_limit(tmp_path):
    base = networks.lstm()
    samples = [({"x": networks.floats(n, 7, 6)}, n) for n in (1, 2, 3)]
    model = Model(base.module, base.inputs, base.outputs, samples)
    with export(model, tmp_path / "b", samples_limit=2) as bundle:
        stored = bundle.samples()
    assert len(stored) == 2
    for sample, (inputs, _) in zip(stored, samples, strict=False):
        np.testing.assert_array_equal(sample.inputs["x"], inputs["x"])
        assert_close(sample.outputs, outputs_of(model, inputs))


@pytest.mark.parametrize(
    ("sample", "pattern"),
    [
        ({"x": np.zeros((1, 7, 6))}, "sample 0, input 'x': expected float32, got float64"),
        ({"x": np.zeros((7, 6), np.float32)}, "sample 0, input 'x': expected rank 3"),
        ({"x": np.zeros((1, 8, 6), np.float32)}, "sample 0, input 'x': axis 1 is 7 and must be 7"),
        ({}, "sample 0: missing input 'x'"),
        ({"x": np.zeros((1, 7, 6), np.float32), "z": 0}, "sample 0: unknown input 'z'"),
        ({"x": np.zeros((9, 7, 6), np.float32)}, r"dimension 'batch' is 9, but dims allows 1 to 4"),
        ([1.0], "sample 0: expected a mapping"),
    ],
)
def test_a_sample_that_does_not_fit_is_refused(sample, pattern, tmp_path):
    base = networks.lstm()
    model = Model(base.module, base.inputs, base.outputs, [(sample, None)], dims={"batch": (1, 4)})
    with pytest.raises(ExportError, match=pattern):
        export(model, tmp_path / "b")


def test_samples_must_be_pairs_and_there_must_be_some(tmp_path):
    base = networks.lstm()
    for samples, pattern in (
        (
            [{"x": base.inputs["x"].example}],
            r"sample 0: expected a pair \(inputs, target\), got dict",
        ),
        ([], "samples are empty"),
    ):
        with pytest.raises(ExportError, match=pattern):
            export(Model(base.module, base.inputs, base.outputs, samples), tmp_path / "b")


def test_labels_must_be_one_per_class(tmp_path):
    model = Model(
        nn.Linear(3, 2), {"input": Input(networks.floats(1, 3))}, ["y"], labels={"y": ["a"]}
    )
    with pytest.raises(ExportError, match="labels of 'y': 1 names for 2 classes"):
        export(model, tmp_path / "b")


def test_an_older_bundle_is_replaced_only_when_asked(tmp_path):
    model = Model(nn.Linear(3, 2), {"input": Input(networks.floats(1, 3))}, ["y"])
    export(model, tmp_path / "b").close()
    with pytest.raises(BundleError, match="already exists"):
        export(model, tmp_path / "b")
    export(model, tmp_path / "b", overwrite=True, name="other").close()
    assert json.loads((tmp_path / "b/manifest.json").read_text())["name"] == "other"


@pytest.mark.parametrize("opset", [18, 21, 23])
def test_other_opsets(opset, tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    example = Input(networks.floats(1, 5, 16), dynamic={0: "batch", 1: "length"})
    with export(Model(layer, {"src": example}, ["y"]), tmp_path / "b", opset=opset) as bundle:
        assert bundle.manifest.provenance["opset"] == str(opset)
    graph = onnx.load(tmp_path / "b/onnx/model.onnx")
    assert graph.opset_import[0].version == opset
    assert ("Attention" in {node.op_type for node in graph.graph.node}) == (opset >= 23)


def test_scopes_of_modules_stay_on_the_nodes(tmp_path):
    export(networks.cameras(), tmp_path / "b", split=False).close()
    graph = onnx.load(tmp_path / "b/onnx/model.onnx").graph
    scopes = {p.value for node in graph.node for p in node.metadata_props if p.key == SCOPES}
    assert any("'backbone', 'backbone.0'" in scope for scope in scopes)
    assert not any("network" in scope for scope in scopes)
    assert {p.key for node in graph.node for p in node.metadata_props} <= {
        SCOPES,
        "pkg.torch.onnx.class_hierarchy",
        "namespace",
    }
    assert "left_head.weight" in {value.name for value in graph.initializer}


def test_small_tensors_stay_in_the_graph_and_large_ones_lie_beside_it(tmp_path):
    small = Model(nn.Linear(3, 2), {"input": Input(networks.floats(1, 3))}, ["y"])
    large = Model(nn.Linear(64, 64), {"input": Input(networks.floats(1, 64))}, ["y"])
    with export(small, tmp_path / "s") as a, export(large, tmp_path / "l") as b:
        assert "onnx/model.onnx.data" not in a.manifest.files
        assert len(b.read("onnx/model.onnx.data")) >= 64 * 64 * 4
        assert len(b.read("onnx/model.onnx")) < 64 * 64 * 4


def test_half_precision_networks_are_called_so(tmp_path):
    net = nn.Linear(8, 8).half()
    model = Model(net, {"input": Input(networks.floats(1, 8).astype(np.float16))}, ["y"])
    with export(model, tmp_path / "b", rtol=1e-2) as bundle:
        assert [v.id for v in bundle.manifest.variants] == ["ort-fp16-cpu", "ort-fp16-cuda"]
        assert bundle.manifest.variants[0].tolerance.rtol == 1e-2
