"""Examples of ONNX files: made up, given, and what they say of dynamic dimensions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx_files import FLOAT, INT64, check, floats, relu_chain, save

import mmedge
from mmedge.errors import ExportError
from mmedge_export import SourceOptions, export
from mmedge_export.sources.onnx import read_onnx


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
    manifest = check(path, tmp_path, example, options=SourceOptions(example=example))
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
    manifest = check(path, tmp_path, example, options=SourceOptions(example=example))
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


def test_sizes_that_only_change_together_are_one(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Add", ["a", "b"], ["y"]), *relu_chain("c", "z")],
        [("a", FLOAT, ["n", 4]), ("b", FLOAT, ["m", 4]), ("c", FLOAT, ["k"])],
        [("y", FLOAT, [None, 4]), ("z", FLOAT, [None])],
    )
    feeds = [{"a": floats(n, 4), "b": floats(n, 4), "c": floats(2)} for n in (3, 5)]
    manifest = check(path, tmp_path, *feeds, options=SourceOptions(example=feeds[0]))
    assert [spec.shape[0] for spec in manifest.inputs().values()] == ["n", "n", "k"]
    assert any("'n' and 'm' are one, 'n'" in r for r in manifest.cut.remarks)


def test_limits_of_sizes_are_found(tmp_path):
    """A kernel of 5 wants 5 rows; halves and back wants an even number of columns."""
    path = save(
        tmp_path / "net.onnx",
        [
            helper.make_node("Conv", ["x", "k"], ["c"], pads=[0, 2, 0, 2]),
            helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[1, 2], strides=[1, 2]),
            helper.make_node("Upsample", ["p", "scales"], ["u"]),
            helper.make_node("Add", ["u", "c"], ["y"]),
        ],
        [("x", FLOAT, [1, 1, "rows", "columns"])],
        [("y", FLOAT, [1, 1, None, None])],
        {"k": floats(1, 1, 5, 5), "scales": np.array([1, 1, 1, 2], np.float32)},
        opset=9,
    )
    feeds = [{"x": floats(1, 1, *shape)} for shape in ((5, 2), (7, 6), (16, 18))]
    manifest = check(path, tmp_path, *feeds)
    rows, columns = manifest.dimensions["rows"], manifest.dimensions["columns"]
    assert (rows.min, rows.max, rows.multiple) == (5, None, 1)
    assert (columns.min, columns.max, columns.multiple) == (2, None, 2)
    said = " ".join(manifest.cut.remarks)
    assert "'rows' may be 5 and more" in said
    assert "'columns' may be 2 and more, in steps of 2" in said


def test_floats_that_give_nan_are_drawn_anew(tmp_path):
    path = save(
        tmp_path / "net.onnx",
        [helper.make_node("Log", ["x"], ["y"]), helper.make_node("Acosh", ["z"], ["u"])],
        [("x", FLOAT, ["n", 20]), ("z", FLOAT, ["n", 20])],
        [("y", FLOAT, ["n", 20]), ("u", FLOAT, ["n", 20])],
    )
    example = {"x": abs(floats(2, 20)), "z": 1 + abs(floats(2, 20))}
    manifest = check(path, tmp_path, example)
    assert any("floats from 1.05 to 2" in remark for remark in manifest.cut.remarks)
