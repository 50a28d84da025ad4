"""ONNX files as many writers make them: taken as ONNX Runtime runs them, or refused by a rule."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import mmedge
from mmedge.errors import ExportError
from mmedge_export import export
from mmedge_export.onnx_source import read_onnx

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(0)


def save(
    path: Path, nodes, inputs, outputs, weights=(), *, opset=17, ir_version=8, inner=(), **options
) -> Path:
    """Write a graph; ``inputs`` and ``outputs`` are (name, type, shape)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in dict(weights).items()],
        value_info=[helper.make_tensor_value_info(*value) for value in inner],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    onnx.save(model, path, **options)
    return path


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def check(path: Path, tmp_path: Path, *feeds: dict, **options):
    """Export, load, and compare with ONNX Runtime on ``feeds``, by position of the inputs."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    with export(path, tmp_path / "bundle", overwrite=True, **options) as bundle:
        manifest = bundle.manifest
    with mmedge.load(tmp_path / "bundle") as pipe:
        for values in feeds:
            expected = session.run(None, values)
            got = pipe(**dict(zip(manifest.inputs(), values.values(), strict=True)))
            for name, value in zip(manifest.outputs, expected, strict=True):
                np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-6)
                assert got[name].dtype == value.dtype
                assert got[name].shape == value.shape
    return manifest


def two_encoders(width: int):
    """Nodes and weights of two encoders that are added; biases of 4 * width bytes."""
    nodes = [
        helper.make_node("Gemm", ["a", "w", "p"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Gemm", ["b", "v", "q"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
        helper.make_node("Add", ["d", "f"], ["y"]),
    ]
    sizes = {"w": (1024, width), "v": (1024, width), "p": (width,), "q": (width,)}
    return nodes, {name: floats(*shape) for name, shape in sizes.items()}


@pytest.mark.parametrize("width", [1, 63, 64, 100, 255, 256, 1024])
@pytest.mark.parametrize("split", [True, False])
def test_external_weights_of_any_size_are_placed_anew(width, split, tmp_path):
    """torch.onnx.export puts a bias of 400 bytes into its data file."""
    nodes, weights = two_encoders(width)
    path = save(
        tmp_path / "net.onnx",
        nodes,
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, ["n", 1024])],
        [("y", FLOAT, ["n", width])],
        weights,
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=0,
    )
    manifest = check(path, tmp_path, {"a": floats(3, 1024), "b": floats(3, 1024)}, split=split)
    assert len(manifest.stages) == (3 if split and width > 16 else 1)


def test_external_constants_are_placed_anew(tmp_path):
    constant = helper.make_node(
        "Constant", [], ["w"], value=numpy_helper.from_array(floats(64, 100), "w")
    )
    path = save(
        tmp_path / "net.onnx",
        [constant, helper.make_node("MatMul", ["a", "w"], ["y"])],
        [("a", FLOAT, ["n", 64])],
        [("y", FLOAT, ["n", 100])],
        save_as_external_data=True,
        location="net.onnx.data",
        size_threshold=0,
        convert_attribute=True,
    )
    assert (tmp_path / "net.onnx.data").stat().st_size >= 25_600
    check(path, tmp_path, {"a": floats(3, 64)})


def relu_chain(*names: str):
    return [helper.make_node("Relu", [a], [b]) for a, b in pairwise(names)]


def test_nodes_in_any_order(tmp_path):
    nodes, weights = two_encoders(64)
    path = save(
        tmp_path / "net.onnx",
        nodes[::-1],
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, ["n", 1024])],
        [("y", FLOAT, ["n", 64])],
        weights,
    )
    manifest = check(path, tmp_path, {"a": floats(2, 1024), "b": floats(2, 1024)}, split=True)
    assert [stage.name for stage in manifest.stages] == ["a", "b", "fusion"]


@pytest.mark.parametrize("ir_version", [3, 8])
def test_weights_among_the_inputs(ir_version, tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [("x", FLOAT, ["n", 3]), ("w", FLOAT, [3])],
        [("y", FLOAT, ["n", 3])],
        {"w": floats(3)},
        ir_version=ir_version,
        opset=8,
    )
    manifest = check(path, tmp_path, {"x": floats(2, 3)})
    assert list(manifest.inputs()) == ["x"]
    # From version 4 on a caller could override it: that it is fixed is said.
    said = any("'w'" in r and "default" in r for r in manifest.cut.remarks)
    assert said == (ir_version > 3)


def test_a_size_below_zero_is_open(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        relu_chain("x", "y"),
        [("x", FLOAT, [-1, 3])],
        [("y", FLOAT, [-1, 3])],
    )
    manifest = check(path, tmp_path, {"x": floats(2, 3)}, {"x": floats(5, 3)})
    assert manifest.inputs()["x"].shape == ("x_0", 3)
    assert manifest.stages[0].outputs[0].shape == ("x_0", 3)


def test_a_size_of_zero_is_zero(tmp_path):
    """As in ONNX Runtime, which refuses any other."""
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Concat", ["x", "k"], ["y"], axis=0)],
        [("x", FLOAT, [0, 3])],
        [("y", FLOAT, [2, 3])],
        {"k": floats(2, 3)},
    )
    manifest = check(path, tmp_path, {"x": floats(0, 3)})
    assert manifest.inputs()["x"].shape == (0, 3)


def test_names_of_dimensions_stay_different(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [*relu_chain("a", "y"), *relu_chain("b", "z"), *relu_chain("c", "u")],
        [("a", FLOAT, ["n.1", "批"]), ("b", FLOAT, ["n_1", "次"]), ("c", FLOAT, ["n.1", "?"])],
        [("y", FLOAT, ["n.1", "批"]), ("z", FLOAT, ["n_1", "次"]), ("u", FLOAT, [None, "?"])],
    )
    feeds = {"a": floats(2, 3), "b": floats(4, 5), "c": floats(2, 7)}
    manifest = check(path, tmp_path, feeds)
    a, b, c = (spec.shape for spec in manifest.inputs().values())
    assert len({*a, *b, *c}) == 5
    assert a[0] == c[0]


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        (("x:0", "serving_default_b:0"), ("StatefulPartitionedCall:0",)),
        (("输入", "入力"), ("输出",)),
        (("gpu_0/data_0", "gpu_0/data.0"), ("y",)),
        (("a b", "a_b"), ("a/b",)),
        (("a+b", "a-b"), ("a*b",)),
        (("x" * 300, "x" * 301), ("y",)),
    ],
)
def test_names_of_tensors_stay_different(names, outputs, tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Sub", list(names), ["a_b_1"]), *relu_chain("a_b_1", *outputs)],
        [(name, FLOAT, ["n", 2]) for name in names],
        [(name, FLOAT, ["n", 2]) for name in outputs],
    )
    feeds = dict(zip(names, (floats(3, 2), floats(3, 2)), strict=True))
    manifest = check(path, tmp_path, feeds)
    assert len(manifest.modalities) == 2
    for old, new in zip((*names, *outputs), (*manifest.inputs(), *manifest.outputs), strict=True):
        assert (old == new) or any(repr(old) in remark for remark in manifest.cut.remarks)
    # Grouping is by the names of the bundle, and comes before any name is refused.
    manifest = check(path, tmp_path, feeds, modality={"both": list(manifest.inputs())})
    assert [m.name for m in manifest.modalities] == ["both"]


def test_outputs_that_no_node_yields(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        relu_chain("x", "y"),
        [("x", FLOAT, [3, 2])],
        [
            ("x", FLOAT, [None, None]),
            ("y", FLOAT, ["n", 2]),
            ("w", FLOAT, [2]),
            ("y", FLOAT, ["n", 2]),
        ],
        {"w": floats(2)},
        inner=[("x", FLOAT, [7, 7]), ("w", FLOAT, [9])],
    )
    manifest = check(path, tmp_path, {"x": floats(3, 2)})
    assert manifest.inputs()["x"].shape == (3, 2)
    assert manifest.outputs == ("x_1", "y", "w", "y_1")


def test_sizes_that_a_file_states_wrongly(tmp_path):
    nodes, weights = two_encoders(64)
    path = save(
        tmp_path / "net.onnx",
        nodes,
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, ["n", 1024])],
        [("y", FLOAT, [7, "n"])],
        weights,
        inner=[("c", FLOAT, [7, 9]), ("d", FLOAT, ["n", "n"]), ("e", FLOAT, ["m", 64])],
    )
    feeds = [{"a": floats(n, 1024), "b": floats(n, 1024)} for n in (1, 3)]
    manifest = check(path, tmp_path, *feeds, split=True)
    assert [stage.name for stage in manifest.stages] == ["a", "b", "fusion"]
    shapes = {s.name: s.shape for stage in manifest.stages for s in stage.outputs}
    assert shapes["y"] == ("n", 64)
    assert set(shapes.values()) == {("n", 64)}


def test_a_size_that_follows_values_is_open_whatever_the_file_states(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("NonZero", ["x"], ["y"])],
        [("x", FLOAT, [2, 4])],
        [("y", INT64, [2, 8])],
    )
    x = floats(2, 4)
    x[0] = 0
    manifest = check(path, tmp_path, {"x": x}, {"x": floats(2, 4)}, {"x": floats(2, 4) * 0})
    assert manifest.stages[0].outputs[0].shape == (2, "y_1")


def test_sizes_that_onnx_runtime_alone_infers_are_fixed(tmp_path):
    """Operators of its own are unknown to ONNX's shape inference."""
    node = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", alpha=2.0)
    path = save(
        tmp_path / "net.onnx",
        [node],
        [("x", FLOAT, ["n", 4])],
        [("y", FLOAT, None)],
        {"w": floats(4, 5)},
    )
    model = onnx.load(path)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    manifest = check(path, tmp_path, {"x": floats(3, 4)})
    assert manifest.stages[0].outputs[0].shape == ("n", 5)


def fails(*_args, **_options):
    raise IndexError("list index out of range")


@pytest.mark.parametrize(
    ("place", "stages", "what"),
    [
        ("push_concat", ["a", "b", "fusion"], "rearranging the graph"),
        ("segment_attention", ["a", "b", "fusion"], "rearranging the graph"),
        ("owners", ["model"], "the cut by modality"),
        ("measure_shapes", ["model"], "the cut by modality"),
    ],
)
def test_a_pass_or_cut_that_fails_is_left_out(place, stages, what, tmp_path, monkeypatch, caplog):
    nodes, weights = two_encoders(64)
    path = save(
        tmp_path / "net.onnx",
        nodes,
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, ["n", 1024])],
        [("y", FLOAT, ["n", 64])],
        weights,
    )
    monkeypatch.setattr(f"mmedge_export.split.{place}", fails)
    lines: list[str] = []
    feeds = {"a": floats(2, 1024), "b": floats(2, 1024)}
    with caplog.at_level("INFO", "mmedge_export"):
        manifest = check(path, tmp_path, feeds, split=True, progress=lines.append)
    assert [stage.name for stage in manifest.stages] == stages
    said = f"{what} is left out: IndexError: list index out of range (report this)"
    assert said in manifest.cut.remarks
    assert f"  {said}" in lines
    assert any(record.exc_info for record in caplog.records)


def test_a_cut_that_computes_something_else_is_left_out(tmp_path, monkeypatch):
    nodes, weights = two_encoders(64)
    path = save(
        tmp_path / "net.onnx",
        nodes,
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, ["n", 1024])],
        [("y", FLOAT, ["n", 64])],
        weights,
    )
    from mmedge_export import split

    def wrong(*args):
        found = real(*args)
        args[0].graph.initializers["v"].const_value = split.ir.tensor(floats(1024, 64))
        return found

    real = split.push_concat
    monkeypatch.setattr(split, "push_concat", wrong)
    feeds = {"a": floats(2, 1024), "b": floats(2, 1024)}
    manifest = check(path, tmp_path, feeds, split=True)
    assert any("the cut network is not the whole one" in remark for remark in manifest.cut.remarks)
    assert [stage.name for stage in manifest.stages] == ["a", "b", "fusion"]


def reshape(tmp_path: Path) -> Path:
    """What is made up for its second input cannot be right, since the file says nothing of it."""
    return save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Add", ["sizes", "more"], ["target"]),
            helper.make_node("Reshape", ["x", "target"], ["y"]),
        ],
        [("x", FLOAT, [4, 6]), ("sizes", INT64, [2])],
        [("y", FLOAT, [None, None])],
        {"more": np.array([5, 1])},
    )


def test_an_example_that_cannot_be_made_up_is_asked_for(tmp_path):
    path = reshape(tmp_path)
    with pytest.raises(ExportError, match=r"likely sizes.*--example FILE.*rule 'example'"):
        export(path, tmp_path / "bundle")
    example = {"x": floats(4, 6), "sizes": np.array([1, 3])}
    manifest = check(path, tmp_path, example, example=example)
    assert manifest.inputs()["sizes"].shape == (2,)


@pytest.mark.parametrize("kind", ["npz", "safetensors", "folder"])
def test_the_command_line_takes_an_example(kind, tmp_path):
    from safetensors.numpy import save_file
    from typer.testing import CliRunner

    from mmedge.cli.app import build_app

    path = reshape(tmp_path)
    example = {"x": floats(4, 6), "sizes": np.array([1, 3])}
    file = tmp_path / f"example.{kind}"
    if kind == "npz":
        np.savez(file, **example)
    elif kind == "safetensors":
        save_file(example, file)
    else:
        file.mkdir()
        for name, value in example.items():
            np.save(file / f"{name}.npy", value)
    words = ["export", str(path), "-o", str(tmp_path / "b"), "--example", str(file)]
    result = CliRunner().invoke(build_app(), words, catch_exceptions=False)
    assert result.exit_code == 0
    with mmedge.load(tmp_path / "b") as pipe:
        np.testing.assert_array_equal(pipe(**example)["y"], example["x"].reshape(6, 4))
        golden = pipe.bundle.samples()[0].inputs
        np.testing.assert_array_equal(golden["x"], example["x"])


def test_examples_that_do_not_fit_are_refused(tmp_path):
    path = reshape(tmp_path)
    x, sizes = floats(4, 6), np.array([1, 3])
    for example, message in (
        ({"x": x}, "lacks 'sizes'"),
        ({"x": x, "sizes": sizes, "z": x}, "has the unknown 'z'"),
        ({"x": x[:3], "sizes": sizes}, r"input 'x' is float32 \[4, 6\]"),
        ({"x": x, "sizes": sizes.astype(np.int32)}, "input 'sizes' is int64"),
    ):
        with pytest.raises(ExportError, match=message):
            read_onnx(path, example=example)


def test_one_text_for_sizes_that_differ_in_the_example(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [*relu_chain("a", "y"), *relu_chain("b", "z")],
        [("a", FLOAT, ["dim", "dim"]), ("b", FLOAT, None)],
        [("y", FLOAT, ["dim", "dim"]), ("z", FLOAT, None)],
    )
    with pytest.raises(ExportError, match="'b' has no shape.*rule 'rank'"):
        read_onnx(path)
    example = {"a": floats(2, 3), "b": floats(2, 3, 4)}
    manifest = check(path, tmp_path, example, example=example)
    assert manifest.inputs()["a"].shape == ("dim", "a_1")
    assert manifest.inputs()["b"].shape == ("b_0", "b_1", "b_2")


def flat_net(tmp_path: Path, batch: object, target: list[int], **options) -> Path:
    """x [batch, 4, 6] reshaped to ``target`` and multiplied by [24, 3]."""
    return save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Reshape", ["x", "target"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["y"]),
        ],
        [("x", FLOAT, [batch, 4, 6])],
        [("y", FLOAT, [batch, 3])],
        {"target": np.array(target), "w": floats(24, 3)},
        **options,
    )


def test_a_batch_that_was_made_dynamic_afterwards_is_fixed(tmp_path):
    """Its file says "batch", and a reshape inside is still to one row."""
    lines: list[str] = []
    path = flat_net(tmp_path, "batch", [1, 24])
    manifest = check(path, tmp_path, {"x": floats(1, 4, 6)}, progress=lines.append)
    assert manifest.inputs()["x"].shape == (1, 4, 6)
    assert manifest.stages[0].outputs[0].shape == (1, 3)
    said = next(r for r in manifest.cut.remarks if "dimension 'batch' is fixed at 1" in r)
    assert f"  {said}" in lines


def test_a_batch_that_is_dynamic_stays_so(tmp_path):
    feeds = [{"x": floats(n, 4, 6)} for n in (1, 2, 5)]
    manifest = check(flat_net(tmp_path, "batch", [-1, 24]), tmp_path, *feeds)
    assert manifest.inputs()["x"].shape == ("batch", 4, 6)
    assert manifest.stages[0].outputs[0].shape[1] == 3


def test_sizes_that_fit_each_other_stay_dynamic(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Add", ["a", "b"], ["y"])],
        [("a", FLOAT, ["n", 4]), ("b", FLOAT, ["m", 4])],
        [("y", FLOAT, [None, 4])],
    )
    example = {"a": floats(3, 4), "b": floats(3, 4)}
    manifest = check(
        path, tmp_path, example, {"a": floats(5, 4), "b": floats(5, 4)}, example=example
    )
    assert [spec.shape[0] for spec in manifest.inputs().values()] == ["n", "m"]
    assert any("dimensions n, m: the network refuses" in r for r in manifest.cut.remarks)


def test_debug_shows_where_what_is_left_out_failed(tmp_path):
    script = tmp_path / "run.py"
    path = flat_net(tmp_path, "batch", [-1, 24])
    script.write_text(
        "import sys\nimport mmedge_export.split\n"
        "def owners(*_):\n    raise KeyError('x')\n"
        "mmedge_export.split.owners = owners\n"
        "from mmedge.cli import main\nmain()\n"
    )
    words = [sys.executable, script, "export", path, "-o", tmp_path / "b", "--overwrite"]
    plain = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "the cut by modality is left out: KeyError: 'x' (report this)" in plain.stderr
    assert "Traceback" not in plain.stderr
    debug = subprocess.run([*words, "--debug"], capture_output=True, text=True, check=True)
    assert "in owners" in debug.stderr
