"""Calibration of real graphs in ONNX Runtime: what is observed, in which samples, and going on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import mmedge
from mmedge.bundle import Bundle
from mmedge.errors import ExportError, InputError
from mmedge.execution.inputs import Feeds
from mmedge_export.calibration import calibrate as module
from mmedge_export.calibration import calibration_state
from mmedge_export.calibration.calibrate import calibrate
from mmedge_export.calibration.observed import Observed

#: All the float tensors of the tiny bundle's graph.
TINY = {"net": ["image_f", "image_r", "image_n", "image_s", "text_f", "text_s", "score"]}


@pytest.fixture
def bundle(tiny_bundle):
    with Bundle.open(tiny_bundle) as opened:
        yield opened


def tiny_samples(count, batch=2):
    rng = np.random.default_rng(5)
    return [
        {
            "image": rng.integers(0, 256, (batch, 4, 4, 3), np.uint8),
            "text": rng.integers(1, 9, (batch, 5)),
        }
        for _ in range(count)
    ]


def same(one, other):
    assert one.keys() == other.keys()
    for stage, tensors in one.items():
        assert list(tensors) == list(other[stage])
        assert tensors
        for name, seen in tensors.items():
            a, b = seen.histogram.to_arrays(), other[stage][name].histogram.to_arrays()
            assert {k: v.tobytes() for k, v in a.items()} == {k: v.tobytes() for k, v in b.items()}
            maxima = seen.channel_max, other[stage][name].channel_max
            assert (maxima[0] is None) == (maxima[1] is None)
            if maxima[0] is not None:
                assert maxima[0].tobytes() == maxima[1].tobytes()


# What is observed.


def test_every_value_of_the_samples_is_seen(bundle):
    samples = tiny_samples(5)
    seen = calibrate(bundle, samples, {}, TINY, absent_share=0.0)["net"]
    assert list(seen) == TINY["net"]
    pixels = np.concatenate([s["image"].reshape(-1, 48) for s in samples]).astype(np.float32)
    text = np.concatenate([s["text"] for s in samples]).astype(np.float32)
    for name, values in (("image_r", pixels), ("text_f", text)):
        assert seen[name].histogram.min == values.min()
        assert seen[name].histogram.max == values.max()
        assert seen[name].histogram.finite == values.size
        assert seen[name].histogram.zeros == np.count_nonzero(values == 0)
        np.testing.assert_array_equal(seen[name].channel_max, values.max(axis=0))
        assert seen[name].channel_max.dtype == np.float32
    with mmedge.load(bundle.path) as pipe:
        scores = np.concatenate([pipe.run(s)["score"] for s in samples])
    assert seen["score"].histogram.min == pytest.approx(scores.min(), rel=1e-5)
    np.testing.assert_allclose(seen["score"].channel_max, np.abs(scores).max(axis=0), rtol=1e-5)
    got = seen["text_f"].range(levels=256, symmetric=True)
    assert got.low == -got.high
    assert 7.9 < got.high <= 8.0


def test_progress_counts_the_samples(bundle):
    counts = []
    calibrate(bundle, iter(tiny_samples(3)), {}, {"net": ["score"]}, progress=counts.append)
    assert counts == [1, 2, 3]


def test_channels_of_the_last_axis():
    seen = Observed()
    seen.update(np.array([[1, -5, 0], [-2, 3, 0]], np.float32), first=True)
    np.testing.assert_array_equal(seen.channel_max, [2, 5, 0])
    seen.update(np.array([np.nan, -np.inf, -7], np.float16), first=False)
    np.testing.assert_array_equal(seen.channel_max, [2, 5, 7])
    seen.update(np.zeros((0, 3), np.float32), first=False)
    seen.update(np.array([[-9, 0, 1e300]]), first=False)
    np.testing.assert_array_equal(seen.channel_max, [9, 5, np.finfo(np.float32).max])
    seen.update(np.zeros((2, 4), np.float32), first=False)
    assert seen.channel_max is None
    seen.update(np.zeros((2, 4), np.float32), first=False)
    assert seen.channel_max is None
    scalar = Observed()
    scalar.update(np.array(2.0, np.float32), first=True)
    assert scalar.channel_max is None
    assert scalar.histogram.max == 2.0


def other_graph(folder, kind=TensorProto.FLOAT16):
    """A graph for the tiny bundle's stage that computes otherwise, with its weights elsewhere."""
    folder.mkdir()
    weight = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["text"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["wide", "weight"], ["product"]),
        helper.make_node("Cast", ["product"], ["half"], to=kind),
        helper.make_node("Log", ["half"], ["log"]),
        helper.make_node("Cast", ["log"], ["score"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "other",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 4, 4, 3]),
            helper.make_tensor_value_info("text", TensorProto.INT64, ["batch", 5]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 2])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = folder / "other.onnx"
    (folder / "sub").mkdir()
    onnx.save(model, path, save_as_external_data=True, location="sub/graph.onnx", size_threshold=0)
    return path, weight


def test_another_graph_runs_in_place_of_a_stage(bundle, tmp_path):
    path, weight = other_graph(tmp_path / "other")
    before = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    assert len(before) == 2
    samples = tiny_samples(4)
    names = ["product", "half", "log"]
    seen = calibrate(bundle, samples, {"net": path}, {"net": names}, absent_share=0.0)["net"]
    product = np.concatenate([s["text"].astype(np.float32) @ weight for s in samples])
    np.testing.assert_allclose(seen["product"].channel_max, np.abs(product).max(axis=0), rtol=1e-5)
    assert seen["half"].histogram.max == np.float16(product.max())
    # NaN and infinities are counted and poison nothing.
    negative = int(np.count_nonzero(product < 0))
    assert 0 < negative < product.size
    assert seen["log"].histogram.nonfinite == negative
    assert np.isfinite(seen["log"].channel_max).all()
    got = seen["log"].range()
    assert np.isfinite([got.low, got.high, got.error]).all()
    assert before == {f: f.read_bytes() for f in path.parent.rglob("*") if f.is_file()}


# Which samples an optional modality is left out of.


def texts(bundle, share, seed=0, samples=None):
    samples = tiny_samples(40, batch=1) if samples is None else samples
    seen = calibrate(bundle, samples, {}, TINY, absent_share=share, seed=seed)["net"]
    # Token ids are 1 and more, so that zeros are those of the stand-in.
    return seen["text_f"].histogram.zeros // 5, seen


def test_a_share_of_the_samples_goes_without_an_optional_modality(bundle):
    none, whole = texts(bundle, 0.0)
    every, without = texts(bundle, 1.0)
    assert (none, every) == (0, 40)
    same({"net": {"image_n": whole["image_n"]}}, {"net": {"image_n": without["image_n"]}})
    some, seen = texts(bundle, 0.5)
    assert 10 <= some <= 30
    same({"net": seen}, {"net": texts(bundle, 0.5)[1]})
    counts = {texts(bundle, 0.5, seed)[0] for seed in range(4)}
    assert len(counts) > 1


def test_a_sample_may_come_without_it(bundle):
    samples = tiny_samples(6, batch=1)
    for sample in samples[:4]:
        del sample["text"]
    assert texts(bundle, 0.0, samples=samples)[0] == 4
    assert texts(bundle, 1.0, samples=samples)[0] == 6


def test_a_sample_keeps_one_modality(tiny, tmp_path):
    modalities = tuple(replace(m, required=False) for m in tiny.manifest.modalities)
    manifest = replace(tiny.manifest, modalities=modalities)
    samples = [{"image": s["image"] | 1, "text": s["text"]} for s in tiny_samples(40, batch=1)]
    with Bundle.write(tmp_path / "b", manifest, tiny.files, samples=tiny.samples) as opened:
        lost, seen = texts(opened, 1.0, samples=samples)
        images = seen["image_f"].histogram.zeros // 48
        assert lost + images == 40
        assert 5 < lost < 35
        # What a sample has alone is never left out.
        alone = [{"text": s["text"]} for s in samples]
        assert texts(opened, 1.0, samples=alone)[0] == 0


def test_a_sample_that_cannot_go_without_is_used_as_it_is(bundle, monkeypatch):
    prepare = Feeds.prepare

    def strict(self, values):
        if "text" not in values:
            raise InputError("no text")
        return prepare(self, values)

    monkeypatch.setattr(Feeds, "prepare", strict)
    assert texts(bundle, 1.0)[0] == 0


# In groups.


def count_sessions(monkeypatch):
    made = []

    class Counted(module.Runner):
        def __init__(self, path, outputs, options):
            made.append(list(outputs))
            super().__init__(path, outputs, options)

    monkeypatch.setattr(module, "Runner", Counted)
    return made


def test_groups_of_tensors_change_nothing(bundle, monkeypatch):
    samples = tiny_samples(10)
    made = count_sessions(monkeypatch)
    whole = calibrate(bundle, samples, {}, TINY)
    assert len(made) == 2  # one counts
    made.clear()
    monkeypatch.setattr(module, "LIMIT_BYTES", 400)
    groups = calibrate(bundle, samples, {}, TINY)
    # 96 float32 a picture is all that fits.
    assert made[1:] == [["score", "image_f"], ["image_r"], ["image_n", "image_s"], *made[4:]]
    assert sum(map(len, made[1:])) == len(TINY["net"]) + 1
    same(whole, groups)


def test_groups_follow_samples_that_grow(bundle, monkeypatch):
    samples = [tiny_samples(1, batch)[0] for batch in (1, 1, 4, 2, 4)]
    made = count_sessions(monkeypatch)
    whole = calibrate(bundle, samples, {}, TINY)
    one = ["score", *TINY["net"][:-1]]
    assert [names for names in made if "score" in names] == [one]
    made.clear()
    monkeypatch.setattr(module, "LIMIT_BYTES", 1000)
    same(whole, calibrate(bundle, samples, {}, TINY))
    # Batch 1 fits in one run; batch 4, whose pictures take 768 bytes each time, does not.
    planned = [names for names in made if not names[0].startswith("size")]
    last = ["image_n", "image_s", "text_f", "text_s", "score"]
    assert planned == [one, ["score", "image_f"], ["image_r"], last]


# Going on.


class StoppedError(Exception):
    pass


def stopped(samples, after):
    for index, sample in enumerate(samples):
        if index == after:
            raise StoppedError
        yield sample


def test_a_later_call_goes_on(bundle, tmp_path):
    state = tmp_path / "state"
    samples = tiny_samples(40)
    whole = calibrate(bundle, samples, {}, TINY)
    with pytest.raises(StoppedError):
        calibrate(bundle, stopped(samples, 21), {}, TINY, state=state)
    counts = []
    resumed = calibrate(bundle, iter(samples), {}, TINY, state=state, progress=counts.append)
    assert counts == list(range(17, 41))
    same(whole, resumed)
    counts.clear()
    same(whole, calibrate(bundle, samples, {}, TINY, state=state, progress=counts.append))
    assert counts == []
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    with pytest.raises(ExportError, match="40 samples of this calibration are done, inputs has 39"):
        calibrate(bundle, samples[:39], {}, TINY, state=state)


def test_time_saves_too(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration_state, "SAVE_SECONDS", -1.0)
    with pytest.raises(StoppedError):
        calibrate(bundle, stopped(tiny_samples(9), 3), {}, TINY, state=tmp_path / "state")
    counts = []
    calibrate(bundle, tiny_samples(9), {}, TINY, state=tmp_path / "state", progress=counts.append)
    assert counts[0] == 4


KILLED = """
import os, signal, sys
sys.path[:0] = ["tests", "tests/export/calibration"]
from pathlib import Path
from test_calibrate import TINY, Bundle, calibrate, tiny_samples

def progress(done):
    if done == 37:
        os.kill(os.getpid(), signal.SIGKILL)

with Bundle.open(sys.argv[1]) as bundle:
    calibrate(bundle, tiny_samples(50), {}, TINY, state=Path(sys.argv[2]), progress=progress)
"""


def test_a_killed_calibration_goes_on(bundle, tmp_path, pytestconfig):
    state = tmp_path / "state"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(bundle.path), str(state)],
        cwd=pytestconfig.rootpath,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    counts = []
    resumed = calibrate(bundle, tiny_samples(50), {}, TINY, state=state, progress=counts.append)
    assert counts == list(range(33, 51))
    same(calibrate(bundle, tiny_samples(50), {}, TINY), resumed)


def spoil(data):
    """Damaged files: cut off, empty, with a byte changed anywhere, and something else."""
    yield b""
    yield data[:31]
    yield data[: len(data) // 2]
    yield data[:-1]
    yield data + b"\0"
    yield b"no state" * 1000
    for place in np.linspace(0, len(data) - 1, 25).astype(int):
        yield data[:place] + bytes([data[place] ^ 64]) + data[place + 1 :]


def test_a_damaged_file_is_written_anew(bundle, tmp_path):
    state = tmp_path / "state"
    names = {"net": ["score"]}
    whole = calibrate(bundle, tiny_samples(2), {}, names, state=state)
    good = state.read_bytes()
    for bad in spoil(good):
        assert bad != good
        state.write_bytes(bad)
        counts = []
        got = calibrate(bundle, tiny_samples(2), {}, names, state=state, progress=counts.append)
        assert counts == [1, 2]
        same(whole, got)
        assert state.read_bytes() == good


def test_another_calibration_starts_afresh(bundle, tmp_path):
    path, _ = other_graph(tmp_path / "other")
    state = tmp_path / "state"
    how = {"graphs": {}, "tensors": {"net": ["score"]}, "seed": 0, "absent_share": 0.25}
    for change in (
        {"seed": 1},
        {"absent_share": 0.5},
        {"tensors": {"net": ["score", "text_s"]}},
        {"graphs": {"net": path}},
        {},
    ):
        calibrate(bundle, tiny_samples(2), state=state, **how)
        counts = []
        calibrate(bundle, tiny_samples(2), state=state, progress=counts.append, **{**how, **change})
        assert counts == ([1, 2] if change else [])
    # The same graph with other weights.
    how["graphs"] = {"net": path}
    calibrate(bundle, tiny_samples(2), state=state, **how)
    weights = path.parent / "sub/graph.onnx"
    weights.write_bytes(weights.read_bytes()[::-1])
    calibrate(bundle, tiny_samples(2), state=state, progress=counts.append, **how)
    assert counts == [1, 2]


def test_a_file_that_cannot_be_used_is_an_error(bundle, tmp_path):
    with pytest.raises(ExportError, match="progress cannot be saved"):
        calibrate(bundle, tiny_samples(1), {}, TINY, state=tmp_path / "none" / "state")
    with pytest.raises(ExportError, match="progress cannot be read"):
        calibrate(bundle, tiny_samples(1), {}, TINY, state=tmp_path)


# What is refused.


@pytest.mark.parametrize(
    ("graphs", "tensors", "message"),
    [
        ({}, {"net": ["score", "nothing"]}, "no node of net.onnx yields a tensor 'nothing'"),
        ({}, {"net": ["w_text"]}, "no node of net.onnx yields a tensor 'w_text'"),
        ({}, {"mouth": ["score"]}, "tensors: no stage 'mouth'; this bundle has net"),
        ({"mouth": "a.onnx"}, {}, "graphs: no stage 'mouth'; this bundle has net"),
        ({}, {"net": ["text"]}, "tensor 'text' is int64; only tensors of floats"),
        ({"net": "none.onnx"}, {"net": ["score"]}, "none.onnx cannot be read as ONNX"),
    ],
)
def test_wrong_names_are_refused(bundle, tmp_path, graphs, tensors, message):
    files = {stage: tmp_path / name for stage, name in graphs.items()}
    with pytest.raises(ExportError, match=message):
        calibrate(bundle, tiny_samples(1), files, tensors)


def test_a_tensor_of_integers_is_refused(bundle, tmp_path):
    path, _ = other_graph(tmp_path / "other", TensorProto.INT32)
    model = onnx.load(path, load_external_data=False)
    log = next(node for node in model.graph.node if node.op_type == "Log")
    log.op_type = "Abs"
    onnx.save(model, path)
    with pytest.raises(ExportError, match="tensor 'half' is int32; only tensors of floats"):
        calibrate(bundle, tiny_samples(1), {"net": path}, {"net": ["half"]})


def test_weights_outside_the_folder_are_refused(bundle, tmp_path):
    path, _ = other_graph(tmp_path / "other")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../other/sub/graph.onnx"
    onnx.save(model, path)
    with pytest.raises(ExportError, match="weights outside of its folder"):
        calibrate(bundle, tiny_samples(1), {"net": path}, {"net": ["half"]})


def test_samples_that_cannot_be_used_are_refused(bundle):
    with pytest.raises(ExportError, match="inputs has none; pass at least one"):
        calibrate(bundle, [], {}, TINY)
    samples = [*tiny_samples(2), {"text": tiny_samples(1)[0]["text"]}]
    with pytest.raises(ExportError, match="sample 2 of the calibration: missing input 'image'"):
        calibrate(bundle, samples, {}, TINY)
    for share, seed in ((1.5, 0), (-0.1, 0), (0.5, -1)):
        with pytest.raises(ExportError, match="absent_share must be from 0 to 1 and seed 0"):
            calibrate(bundle, tiny_samples(1), {}, TINY, absent_share=share, seed=seed)


# A network that is cut by modality.


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    # Not at the top: they import torch, which the killed process above can do without.
    from fusions import FUSIONS

    from mmedge_export import export

    path = tmp_path_factory.mktemp("fusion") / "b"
    with export(FUSIONS["cross_attention"](), path, samples_limit=2, split=True) as opened:
        yield opened


def cut_samples(count):
    rng = np.random.default_rng(11)

    def floats(*shape):
        return rng.standard_normal(shape, np.float32)

    return [
        {
            "image": floats(2, 3, 32, 32),
            "audio": floats(2, 5 + index, 20),
            "ids": rng.integers(0, 10, (2, 7)),
            "mask": np.ones((2, 7), bool),
            "state": floats(2, 8),
        }
        for index in range(count)
    ]


def fusion_names(opened):
    """The fusion stage, its float inputs, and what its mmedge functions and MatMuls yield."""
    stage = next(s for s in opened.manifest.stages if s.modality is None)
    graph = onnx.load(opened.file(stage.graph), load_external_data=False).graph
    called = [node.output[0] for node in graph.node if node.domain == "mmedge"]
    assert len(called) == 3
    products = [node.output[0] for node in graph.node if node.op_type in ("MatMul", "Gemm")]
    taken = [spec.name for spec in stage.inputs if spec.dtype == "float32"]
    return stage, taken, called, products


def test_features_go_from_stage_to_stage(cut):
    fusion, taken, called, products = fusion_names(cut)
    names = {stage.name: [s.name for s in stage.outputs] for stage in cut.manifest.stages}
    names[fusion.name] += [*taken, *called, *products]
    samples = cut_samples(4)
    seen = calibrate(cut, samples, {}, names, absent_share=0.0)
    for stage in cut.manifest.stages:
        if stage is not fusion:
            for spec in stage.outputs:
                assert seen[stage.name][spec.name].histogram.finite > 0
                same(
                    {"": {"": seen[stage.name][spec.name]}},
                    {"": {"": seen[fusion.name][spec.name]}},
                )
    with mmedge.load(cut.path, kernels=False) as pipe:
        actions = np.concatenate([pipe.run(s)["actions"] for s in samples])
    got = seen[fusion.name]["actions"]
    assert got.histogram.finite == actions.size
    np.testing.assert_allclose(
        got.channel_max, np.abs(actions).reshape(-1, actions.shape[-1]).max(axis=0), rtol=1e-4
    )
    assert all(seen[fusion.name][name].histogram.finite > 0 for name in called + products)
    assert all(seen[fusion.name][name].channel_max is not None for name in called)


def test_only_what_is_needed_runs(cut, monkeypatch):
    made = count_sessions(monkeypatch)
    name = next(s.name for s in cut.manifest.stages if s.modality == "audio")
    output = next(s for s in cut.manifest.stages if s.name == name).outputs[0].name
    calibrate(cut, cut_samples(1), {}, {name: [output]})
    assert len(made) == 2
    made.clear()
    fusion, taken, _, _ = fusion_names(cut)
    calibrate(cut, cut_samples(1), {}, {fusion.name: taken})
    assert len(made) == len(cut.manifest.stages)


def test_a_cut_network_in_groups_and_going_on(cut, monkeypatch, tmp_path):
    fusion, taken, called, products = fusion_names(cut)
    names = {fusion.name: [*products, *called, *taken]}
    samples = cut_samples(12)
    whole = calibrate(cut, samples, {}, names)
    monkeypatch.setattr(module, "LIMIT_BYTES", 5000)
    monkeypatch.setattr(calibration_state, "SAVE_SAMPLES", 5)
    made = count_sessions(monkeypatch)
    with pytest.raises(StoppedError):
        calibrate(cut, stopped(samples, 8), {}, names, state=tmp_path / "state")
    assert len(made) > len(cut.manifest.stages) + 5
    monkeypatch.setattr(module, "LIMIT_BYTES", 20000)
    counts = []
    resumed = calibrate(cut, samples, {}, names, state=tmp_path / "state", progress=counts.append)
    assert counts == list(range(6, 13))
    same(whole, resumed)
