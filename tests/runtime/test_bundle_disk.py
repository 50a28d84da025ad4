"""Bundles and the disk: interrupted writes, full disks, and files placed for a backend."""

from __future__ import annotations

import resource
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tiny import GRAPH, WEIGHTS, external

from mmedge.bundle import Bundle
from mmedge.errors import BundleError
from mmedge.spec import Manifest, Modality, Sample, Stage, TensorSpec, Tolerance, Variant


@pytest.mark.parametrize("at", ["before the first", "between", "after the second"])
def test_ctrl_c_while_a_directory_is_replaced(tiny, tmp_path, monkeypatch, at):
    path = tmp_path / "old"  # also the word by which the writer might call what it sets aside
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
    rename = Path.rename
    calls = 0

    def interrupted(self, target):
        nonlocal calls
        calls += 1
        if (calls, at) in {(1, "before the first"), (2, "between")}:
            raise KeyboardInterrupt
        moved = rename(self, target)
        if (calls, at) == (2, "after the second"):
            raise KeyboardInterrupt
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Bundle.write(path, tiny.manifest, tiny.files, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    with Bundle.open(path) as bundle:
        bundle.verify()
        assert len(bundle.samples()) == (0 if at == "after the second" else 2)


def test_an_old_bundle_that_cannot_be_put_back_is_kept_beside(tiny, tmp_path, monkeypatch):
    path = tmp_path / "b"
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
    rename = Path.rename

    def refused(self, target):
        if target == path:
            raise PermissionError("the disk became read-only")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refused)
        with pytest.raises(BundleError, match="cannot be written: the disk became read-only"):
            Bundle.write(path, tiny.manifest, tiny.files, overwrite=True)
    assert not path.exists()
    (kept,) = tmp_path.glob(".b.*/b.old")
    with Bundle.open(kept) as bundle:
        assert len(bundle.samples()) == 2


def test_no_temporary_directory(tiny_zip, monkeypatch):
    with Bundle.open(tiny_zip) as bundle:
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
        with pytest.raises(
            BundleError,
            match=r"No such file.*set TMPDIR to a directory with 1 MB free, or unpack the bundle",
        ):
            bundle.file(GRAPH)


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path):
    path, _ = table(tmp_path, rows=2000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Bundle.open(path) as bundle:
        # The kernel then refuses to write past it, as it does on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            with pytest.raises(BundleError, match=r"net\.onnx\.data cannot be copied.* 3 MB free"):
                bundle.file(GRAPH)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        weights = bundle.file(GRAPH).with_name("net.onnx.data")
        assert weights.read_bytes() == bytes(bundle.read(WEIGHTS))
        assert {p.name for p in weights.parent.iterdir()} == {"net.onnx", "net.onnx.data"}


def table(folder, rows):
    """A zip bundle of one table of ``rows`` times 256 floats in external weights, and the table.

    ONNX Runtime repacks the weights of a matrix product, but gathers from a table where it lies.
    """
    values = np.random.default_rng(3).normal(size=(rows, 256)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "row"], ["out"])],
        "net",
        [helper.make_tensor_value_info("row", TensorProto.INT64, [4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [4, 256])],
        [external("table", values.shape, "net.onnx.data")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    row, out = TensorSpec("row", "int64", (4,)), TensorSpec("out", "float32", (4, 256))
    manifest = Manifest(
        "table",
        (Modality("row", ("row",)),),
        (Stage("net", GRAPH, (row,), (out,)),),
        ("out",),
        (Variant("ort", "fp32", "cpu", {"net": GRAPH}, Tolerance(0, 0)),),
        {},
    )
    index = np.array([0, 1, rows - 2, rows - 1])
    Bundle.write(
        folder / "b.mmedge",
        manifest,
        {GRAPH: model.SerializeToString(), WEIGHTS: values.tobytes()},
        samples=[Sample({"row": index}, {"out": values[index]})],
    ).close()
    return folder / "b.mmedge", values


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a mapped file may have to stay")
def test_a_session_outlives_the_files_it_was_made_from(tmp_path):
    path, values = table(tmp_path, rows=2000)  # 2 MB
    with Bundle.open(path) as bundle:
        file = bundle.file(GRAPH)
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        bundle.release()
        bundle.release()
        assert not file.parent.parent.exists()
        maps = Path("/proc/self/maps").read_text()
        assert f"{file.parent}/net.onnx.data (deleted)" in maps  # or this test would prove nothing
        for start in range(0, 2000, 4):
            rows = np.arange(start, start + 4)
            (out,) = session.run(["out"], {"row": rows})
            np.testing.assert_array_equal(out, values[rows])

        again = bundle.file(GRAPH)  # placed anew
        assert again.with_name("net.onnx.data").read_bytes() == values.tobytes()
        (sample,) = bundle.samples()
        (out,) = session.run(["out"], dict(sample.inputs))
        np.testing.assert_array_equal(out, sample.outputs["out"])


def test_releasing_a_directory_removes_nothing(tiny, tiny_bundle, tmp_path):
    path = shutil.copytree(tiny_bundle, tmp_path / "b")
    with Bundle.open(path) as bundle:
        bundle.file(GRAPH)
        bundle.release()
        assert bytes(bundle.read(WEIGHTS)) == tiny.files[WEIGHTS]
