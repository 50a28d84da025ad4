"""Bundles and the disk: interrupted writes, full disks, and files placed for a backend."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tiny import GRAPH, WEIGHTS, external

import mmedge
from mmedge.bundle import Bundle, place
from mmedge.errors import BundleError
from mmedge.spec import Manifest, Modality, Sample, Stage, TensorSpec, Tolerance, Variant


@pytest.fixture
def two_renames(monkeypatch):
    """A file system that cannot exchange two names."""
    monkeypatch.setattr(place, "_exchange", lambda one, other: False)


@pytest.mark.usefixtures("two_renames")
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


@pytest.mark.usefixtures("two_renames")
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
    with pytest.raises(BundleError, match=f"lies at {kept}: move it back"):
        Bundle.open(path)
    with Bundle.open(kept) as bundle:
        assert len(bundle.samples()) == 2


KILLED = """
import os, sys
from dataclasses import replace
from mmedge.bundle import Bundle, place, write
if sys.argv[2] == "between":
    place._exchange = lambda one, other: False
    rename = place.Path.rename
    def killed(self, target):
        rename(self, target)
        os.kill(os.getpid(), 9)
    place.Path.rename = killed
else:
    write.put = lambda staged, path: os.kill(os.getpid(), 9)
bundle = Bundle.open(sys.argv[1])
bundle.with_metrics({bundle.manifest.variants[0].id: {"latency_ms": 1.0}})
"""


def kill(path, at):
    done = subprocess.run([sys.executable, "-c", KILLED, path, at], capture_output=True)
    assert done.returncode == -9, done.stderr


def test_what_killed_processes_left_is_swept(tiny, tmp_path):
    path = tmp_path / "b"
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
    kill(path, "staged")
    kill(path, "staged")
    assert len(list(tmp_path.glob(".b.*"))) == 1  # the second swept the first's
    (tmp_path / ".b.mine").mkdir()
    (tmp_path / ".b.mine/notes").touch()
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples, overwrite=True).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".b.mine", "b"]


REPLACED = """
import os, shutil, sys
from pathlib import Path
from tiny import make_tiny
from mmedge.bundle import Bundle
tiny, path = make_tiny(), Path(sys.argv[1])
Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
Bundle.write(path, tiny.manifest, tiny.files, overwrite=True).close()  # all is imported
shutil.rmtree(path)
if os.geteuid() == 0:  # root may do as it likes
    os.setgroups([])
    os.setresuid(65534, 65534, 65534)
Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
for name in ("onnx", "assets"):
    (path / name).chmod(0o555)
Bundle.write(path, tiny.manifest, tiny.files, overwrite=True).close()
"""


def test_a_bundle_with_folders_that_may_not_be_written_to_is_replaced(tmp_path):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        path = Path(folder) / "b"
        settings = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-c", REPLACED, path], env=settings, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert [p.name for p in Path(folder).iterdir()] == ["b"]
        with Bundle.open(path) as bundle:
            assert not bundle.samples()


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_an_interruption_while_the_staging_folder_is_made_leaves_nothing(tmp_path, monkeypatch, at):
    """Ctrl-C around any of the steps: two folders and a file are made, and two locks taken."""
    steps = []

    def interrupted(step, *, before):
        def run(*args, **options):
            steps.append(step)
            if before and len(steps) == at:
                raise KeyboardInterrupt
            result = step(*args, **options)
            if len(steps) == at:
                raise KeyboardInterrupt
            return result

        return run

    with monkeypatch.context() as patch:
        # A lock that was taken and is nowhere held is the process's until it ends.
        patch.setattr(place, "_lock", interrupted(place._lock, before=True))
        patch.setattr(Path, "touch", interrupted(Path.touch, before=False))
        patch.setattr(Path, "mkdir", interrupted(Path.mkdir, before=False))
        with pytest.raises(KeyboardInterrupt), place.staging(tmp_path / "b"):
            pytest.fail("not interrupted")
    assert len(steps) == at
    assert list(tmp_path.iterdir()) == []
    with place.staging(tmp_path / "b") as folder:
        assert folder.is_dir()


def test_a_staging_folder_in_use_is_not_swept(tiny, tmp_path):
    path = tmp_path / "b"
    with place.staging(path) as folder:
        Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
        assert folder.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_the_last_of_a_bundle_is_kept_and_named(tiny, tmp_path):
    path = tmp_path / "b"
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
    kill(path, "between")
    assert not path.exists()
    with pytest.raises(BundleError, match=r"lies at .*/\.b\.\w+/b\.old: move it back"):
        Bundle.open(path)
    Bundle.write(tmp_path / "c", tiny.manifest, tiny.files, samples=tiny.samples).close()
    (kept,) = tmp_path.glob(".b.*/b.old")
    kept.rename(path)
    with Bundle.open(path) as bundle:
        assert len(bundle.samples()) == 2


def test_a_directory_is_there_at_every_moment(tiny, tmp_path):
    path = tmp_path / "b"
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
    stop, missing = threading.Event(), []

    def look():
        while not stop.is_set():
            if not path.exists():
                missing.append(1)

    watcher = threading.Thread(target=look)
    watcher.start()
    for _ in range(20):
        Bundle.write(path, tiny.manifest, tiny.files, overwrite=True).close()
    stop.set()
    watcher.join()
    assert not missing


@pytest.mark.parametrize("name", ["b", "b.mmedge"])
def test_who_rewrites_at_the_same_time_is_told_the_truth(tiny, tmp_path, name):
    """Of several that rewrite the same bundle, who reports failure has changed nothing."""
    path = tmp_path / name
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
    variant = tiny.manifest.variants[0].id
    done, failed = [], []

    def rewrite(number):
        bundle = Bundle.open(path)
        barrier.wait()
        try:
            bundle.with_metrics({variant: {f"m{number}": 1.0}}).close()
            done.append(number)
        except BundleError as error:
            failed.append(str(error))

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=rewrite, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 1
    assert all("changed since" in error for error in failed)
    with Bundle.open(path) as bundle:
        assert list(bundle.manifest.variants[0].metrics) == [f"m{done[0]}"]
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_bundle_that_is_exchanged_while_it_is_loaded(tiny, tmp_path, monkeypatch):
    path, other = tmp_path / "b", tmp_path / "c"
    Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples).close()
    changed = {**tiny.files, WEIGHTS: bytes(len(tiny.files[WEIGHTS]))}
    Bundle.write(other, tiny.manifest, changed).close()
    make = ort.InferenceSession

    def exchange(*arguments, **options):
        place._exchange(path, other)  # after the last check, before the library opens the file
        return make(*arguments, **options)

    monkeypatch.setattr(ort, "InferenceSession", exchange)
    with pytest.raises(BundleError, match="changed since the bundle was opened"):
        mmedge.load(path, backend="ort")


def test_zips_between_2_and_4_gib(tiny, tmp_path, monkeypatch):
    """Python writes 64-bit records from 2 GiB on, where a number does not need them yet."""
    for limit in (1, 300, 2000, 4000):
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
        path = tmp_path / f"b{limit}.mmedge"
        with Bundle.write(path, tiny.manifest, tiny.files, samples=tiny.samples) as bundle:
            bundle.verify()
        assert b"PK\x06\x06" in path.read_bytes()


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


def test_a_bundle_that_an_installer_linked_to_its_cache_opens(tiny, tmp_path):
    """uv and conda install the files of a package as hard links."""
    Bundle.write(tmp_path / "b", tiny.manifest, tiny.files, samples=tiny.samples).close()
    for file in [file for file in (tmp_path / "b").rglob("*") if file.is_file()]:
        (tmp_path / file.name).hardlink_to(file)
    Bundle.open(tmp_path / "b").close()
