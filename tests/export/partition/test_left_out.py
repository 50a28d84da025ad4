"""A pass or a cut that fails is left out of an export, and said."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from onnx import helper
from onnx_files import FLOAT, check, floats, relu_chain, save, two_encoders

pytestmark = pytest.mark.left_out


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
    monkeypatch.setattr(f"mmedge_export.partition.split.{place}", fails)
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
    from mmedge_export.partition import split

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


def test_debug_shows_where_what_is_left_out_failed(tmp_path):
    script = tmp_path / "run.py"
    path = save(
        tmp_path / "net.onnx", relu_chain("x", "y"), [("x", FLOAT, ["n"])], [("y", FLOAT, ["n"])]
    )
    script.write_text(
        "import sys\nimport mmedge_export.partition.split\n"
        "def owners(*_):\n    raise KeyError('x')\n"
        "mmedge_export.partition.split.owners = owners\n"
        "from mmedge.cli import main\nmain()\n"
    )
    words = [sys.executable, script, "export", path, "-o", tmp_path / "b", "--overwrite"]
    plain = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "the cut by modality is left out: KeyError: 'x' (report this)" in plain.stderr
    assert "Traceback" not in plain.stderr
    debug = subprocess.run([*words, "--debug"], capture_output=True, text=True, check=True)
    assert "in owners" in debug.stderr


def test_no_stage_takes_what_may_be_empty_where_that_ends_the_process(tmp_path):
    """How many rows are left of `a` is seen in no shape; ONNX Runtime's LSTM needs one."""
    nodes, weights = two_encoders(64)
    nodes = [
        *nodes[:-1],
        helper.make_node("ReduceMax", ["a"], ["m"], axes=[1], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["g"]),
        helper.make_node("Compress", ["d", "g"], ["k"], axis=0),
        helper.make_node("Add", ["k", "f"], ["s"]),
        helper.make_node("Unsqueeze", ["s", "one"], ["t"]),
        helper.make_node("LSTM", ["t", "x", "h"], ["", "y"], hidden_size=4),
    ]
    weights |= {
        "zero": np.zeros((), np.float32),
        "one": np.array([1]),
        "x": floats(1, 16, 64),
        "h": floats(1, 16, 4),
    }
    path = save(
        tmp_path / "net.onnx",
        nodes,
        [("a", FLOAT, ["n", 1024]), ("b", FLOAT, [1, 1024])],
        [("y", FLOAT, [1, 1, 4])],
        weights,
    )
    feeds = {"a": floats(3, 1024), "b": floats(1, 1024)}
    manifest = check(path, tmp_path, feeds, split=True)
    assert [stage.name for stage in manifest.stages] == ["model"]
    assert "stage 'fusion' would take may have nothing along 'k_0', and LSTM ends" in " ".join(
        manifest.cut.remarks
    )
