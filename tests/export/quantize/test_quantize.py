"""From a bundle to the same bundle with a variant of lower precision, and its way onto a device."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from fusions import FUSIONS

import mmedge
from mmedge.bench.machine.neighbours import Neighbours
from mmedge.bench.stats import block_timer
from mmedge.bundle import Bundle
from mmedge.errors import AccuracyError, ExportError, InputError
from mmedge.execution.verify import verify
from mmedge_export import export
from mmedge_export.calibration.checkpoint import Checkpoint
from mmedge_export.quantize import (
    Task,
    choose_schemes,
    plan_search,
    quantize,
    quantize_bundle,
)
from mmedge_export.quantize.call_times import CallTimes
from mmedge_export.quantize.options import QuantizeOptions

OPTIONS = {"goal": "size", "threads": 1, "max_error": 0.2}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A bundle in several stages, in float32 alone."""
    path = tmp_path_factory.mktemp("plain") / "b"
    export(FUSIONS["cross_attention"](), path, samples_limit=4, split=True).close()
    return path


@pytest.fixture(scope="module")
def made(plain, tmp_path_factory):
    """The same with an int8 variant, and the report."""
    path = tmp_path_factory.mktemp("made") / "b"
    shutil.copytree(plain, path)
    said: list[str] = []
    bundle, report = quantize(path, options=QuantizeOptions(**OPTIONS), progress=said.append)
    bundle.close()
    assert said[0].startswith("judged on made-up samples: 5, the example and inputs at random")
    return path, report


def copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "copy")


def digests(path):
    with Bundle.open(path) as bundle:
        return dict(bundle.manifest.files)


def test_the_variant_stands_in_the_bundle_and_runs(made):
    path, report = made
    assert report.variant == "ort-int8-cpu"
    with Bundle.open(path) as bundle:
        variant = bundle.manifest.variants[-1]
        floats = bundle.manifest.variants[0]
        assert variant.id == report.variant
        assert variant.files.keys() == floats.files.keys()
        assert set(variant.files.values()) != set(floats.files.values())
        assert bundle.size(variant) == report.bytes_after < 0.8 * report.bytes_before
        assert variant.metrics["latency_ms"] > 0
        assert floats.metrics["latency_ms"] > 0
        assert 1e-4 < variant.metrics["max_rel"] < 0.5
        for stage in report.stages:
            assert variant.build[stage.name].startswith(stage.form)
        for graph in set(variant.files.values()) - set(floats.files.values()):
            # Of a small network, what is written beside the weights counts.
            written = onnx.load(bundle.file(graph), load_external_data=False).graph
            assert written.initializer
            assert not {v.name for v in written.value_info} & {t.name for t in written.initializer}
        weights = [
            bundle.manifest.files[n] for n in bundle.weights(bundle.manifest.stages[0].graph)
        ]
        assert weights
    with mmedge.load(path, precision="int8") as pipe:
        assert pipe.variant.id == report.variant
        assert verify(pipe).ok
    with mmedge.load(path, precision="fp32") as pipe:
        assert verify(pipe).ok


def test_the_report_says_what_was_judged(made):
    _, report = made
    assert report.metric is None
    assert report.verdict.ok
    assert 0 < report.verdict.error <= report.verdict.worst <= 0.2
    assert report.samples == 5
    assert report.attempts == 1
    words = dict(report.summary())
    assert "remark" not in words
    invented, task = report.not_checked
    assert invented.startswith("real inputs: judged on 5 made-up samples")
    assert task.startswith("the task: no metric, judged by how far outputs lie apart")
    assert report.to_dict()["not_checked"] == [invented, task]
    with Bundle.open(made[0]) as bundle:
        assert bundle.manifest.variants[-1].not_checked == report.not_checked
    assert words["variant"] == "ort-int8-cpu"
    assert len(report.rows()) == len(report.stages)
    assert sum(stage.bytes_after for stage in report.stages) >= report.bytes_after


def test_a_report_is_json_also_where_an_error_is_infinite(made):
    report = replace(made[1], verdict=replace(made[1].verdict, error=float("inf")))
    said = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert said["verdict"]["error"] is None
    assert said["verdict"]["worst"] == made[1].verdict.worst
    many = replace(made[1], remarks=("one", "two" * 3000))
    record = many.record()
    assert record["remark"] == "one"
    assert len(record["remark 2"]) <= 4096


def test_made_again_it_takes_the_place_of_the_old_one(made, tmp_path):
    path = copy(made[0], tmp_path)
    before = set(digests(path))
    bundle, _ = quantize(path, options=QuantizeOptions(**OPTIONS))
    with bundle:
        ids = [variant.id for variant in bundle.manifest.variants]
        assert sorted(ids) == ["ort-fp32-cpu", "ort-fp32-cuda", "ort-int8-cpu"]
        assert set(bundle.manifest.files) == before


def test_int4_is_smaller_still(plain, made, tmp_path):
    path = copy(plain, tmp_path)
    bundle, report = quantize(
        path, options=QuantizeOptions(precision="int4", **OPTIONS | {"max_error": 0.9})
    )
    bundle.close()
    assert report.variant == "ort-int4-cpu"
    assert report.bytes_after < made[1].bytes_before
    assert {form for stage in report.stages for form in stage.forms} <= {"float", "block4"}
    with mmedge.load(path, precision="int4") as pipe:
        assert verify(pipe).ok


def test_nothing_that_breaks_the_limit_is_kept(plain, tmp_path):
    path = copy(plain, tmp_path)
    before = digests(path)
    with pytest.raises(AccuracyError, match="with no node in lower precision") as failure:
        quantize(path, options=QuantizeOptions(**OPTIONS | {"max_error": 1e-9}))
    assert "1 nodes put back: error" in str(failure.value)
    assert " alone: error 0." in str(failure.value)
    with pytest.raises(AccuracyError, match="nothing passed within 2 evaluations"):
        quantize(path, options=QuantizeOptions(**OPTIONS | {"max_error": 1e-9}, budget=2))
    assert digests(path) == before


def test_what_is_no_faster_is_not_kept(plain, tmp_path, monkeypatch):
    path = copy(plain, tmp_path)
    before = digests(path)

    def slower(ways, baseline, **_):
        return {}, dict.fromkeys(ways.keys() - {baseline}, (0.9, 0.8, 0.99))

    monkeypatch.setattr(choose_schemes, "compare_times", slower)
    bundle, report = quantize(path, options=QuantizeOptions(**OPTIONS | {"goal": "speed"}))
    bundle.close()
    assert report.variant is None
    assert report.verdict is None
    assert all(
        "not measurably faster: 0.90 [0.80, 0.99]" in s.speed for s in report.stages if s.kept
    )
    assert digests(path) == before


def test_the_whole_must_be_faster_as_well(plain, tmp_path, monkeypatch):
    path = copy(plain, tmp_path)
    before = digests(path)
    monkeypatch.setattr(choose_schemes, "compare_times", lambda ways, baseline, **_: (
        {}, dict.fromkeys(ways.keys() - {baseline}, (1.5, 1.4, 1.6))))  # fmt: skip
    monkeypatch.setattr(
        plan_search.PlanSearch,
        "latency",
        lambda self: CallTimes((1.0, 1.0), (1.0, 0.9, 1.1)),
    )
    bundle, report = quantize(path, options=QuantizeOptions(**OPTIONS | {"goal": "speed"}))
    bundle.close()
    assert report.variant is None
    assert digests(path) == before


def test_a_stopped_run_goes_on_where_it_was(plain, made, tmp_path, monkeypatch):
    """Neither ranges, nor timings, nor verdicts are found a second time."""
    path, folder = copy(plain, tmp_path), tmp_path / "work"
    limit = {"max_error": 0.5 * made[1].verdict.worst}  # nodes have to be put back
    phases, lines = [], []
    for name, target in (("_observe", phases), ("time_sites", lines)):
        module = quantize_bundle if name == "_observe" else plan_search
        old = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, _old=old, _to=target, **k: _to.append(1) or _old(*a, **k)
        )

    class StoppedError(Exception):
        pass

    def stop(self):
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(plan_search.PlanSearch, "latency", stop)
        with pytest.raises(StoppedError):
            quantize(path, options=QuantizeOptions(**OPTIONS | limit), resume=folder)
    timed = len(lines)
    assert timed > 1
    answers = []
    old = plan_search.BundleNetwork.answers
    monkeypatch.setattr(
        plan_search.BundleNetwork, "answers", lambda self, s: answers.append(1) or old(self, s)
    )
    bundle, report = quantize(path, options=QuantizeOptions(**OPTIONS | limit), resume=folder)
    bundle.close()
    assert len(lines) == timed
    assert report.attempts > 1
    assert answers == [1]  # the float network's own
    assert report.verdict.ok


def test_times_on_a_busy_machine_are_told_and_not_kept(plain, tmp_path, monkeypatch):
    """Others take the cores: figures carry that, and a run that goes on measures again."""
    path, folder = copy(plain, tmp_path), tmp_path / "work"
    monkeypatch.setattr(block_timer, "PAUSE_S", 0.0)
    asked = QuantizeOptions(**OPTIONS | {"goal": "speed"})
    share = {"now": 0.6}

    class Busy(Neighbours):
        def __exit__(self, *_):
            self.share = share["now"]

    monkeypatch.setattr(block_timer, "Neighbours", Busy)
    timed, old = [], plan_search.time_sites
    monkeypatch.setattr(plan_search, "time_sites", lambda *a, **k: timed.append(1) or old(*a, **k))
    lines = []
    try:
        bundle, report = quantize(path, options=asked, resume=folder, progress=lines.append)
    except AccuracyError:
        pytest.fail("a limit of 0.2 holds")
    bundle.close()
    assert report.others_share == 0.6
    assert "other processes took 60 % of the cores" in report.warning
    assert all("60 % of the cores" in s.speed for s in report.stages if s.speed != "-")
    first = len(timed)
    assert first >= 1
    share["now"] = 0.0
    shutil.rmtree(path)
    bundle, report = quantize(copy(plain, tmp_path), options=asked, resume=folder)
    bundle.close()
    assert report.warning is None
    assert len(timed) == 2 * first  # measured again
    shutil.rmtree(path)
    quantize(copy(plain, tmp_path), options=asked, resume=folder)[0].close()
    assert len(timed) == 2 * first  # and kept, being undisturbed


def test_a_disturbed_measurement_is_made_again_and_the_least_disturbed_is_taken(monkeypatch):
    monkeypatch.setattr(block_timer, "PAUSE_S", 0.0)
    shares = iter([0.5, 0.2, 0.4, 0.5, 0.05, 0.3, 0.3, 0.3, 0.3, 0.3])
    made = []

    class Busy(Neighbours):
        def __exit__(self, *_):
            self.share = next(shares)

    def rounds(ways, *, rounds, seed):
        made.append(len(made))
        return {name: block_timer.Timing((float(made[-1]),)) for name in ways}

    monkeypatch.setattr(block_timer, "Neighbours", Busy)
    monkeypatch.setattr(block_timer, "_rounds", rounds)
    with block_timer.note_disturbance() as disturbance:
        assert block_timer.interleave({"a": int})["a"].blocks == (1.0,)  # 0.2 of three
        assert (disturbance.share, disturbance.again, disturbance.busy) == (0.2, 2, True)
        assert block_timer.interleave({"a": int})["a"].blocks == (4.0,)  # 0.05 is quiet enough
        assert (disturbance.share, disturbance.again) == (0.2, 3)
        block_timer.interleave({"a": int})
        block_timer.interleave({"a": int})
        assert disturbance.again == block_timer.AGAIN  # a machine that stays busy is not waited for
    assert len(made) == 10


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"job": "another", "found": {"key": 0}}'])
def test_a_checkpoint_of_another_job_or_damaged_is_begun_anew(tmp_path, damage):
    path = tmp_path / "checkpoint.json"
    path.write_text(damage)
    assert Checkpoint(path, "job").recall("key", lambda: [1]) == [1]
    assert Checkpoint(path, "job").recall("key", lambda: [2]) == [1]


def test_wrong_words_are_refused(plain):
    with pytest.raises(InputError, match=r"precision 'int2': expected int8 or int4"):
        quantize(plain, options=QuantizeOptions(precision="int2"))
    with pytest.raises(InputError, match=r"goal 'beauty': expected speed or size"):
        quantize(plain, options=QuantizeOptions(goal="beauty"))
    with pytest.raises(ExportError, match="needs a metric"):
        quantize(plain, options=QuantizeOptions(max_drop=0.1))


def test_samples_are_split_between_ranges_and_judgement():
    model = FUSIONS["cross_attention"]()
    inputs = {name: value.example for name, value in model.inputs.items()}
    many = [(inputs, number) for number in range(400)]

    task = Task.of(_with(model, many), calibration=100)
    assert (len(task.calibration), len(task.samples), task.shared) == (100, 300, False)
    assert task.targets == list(range(100, 400))
    few = Task.of(_with(model, many[:50]), calibration=100)
    assert (len(few.calibration), len(few.samples), few.shared) == (50, 50, True)
    with pytest.raises(ExportError, match="the model has none"):
        Task.of(_with(model, []))


def _with(model, samples):
    return replace(model, evaluation=samples)


# On a device.


def altered(path, target, stage_of, factor):
    """Write the bundle anew with the largest weights of one stage's graph changed."""
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        graph = stage_of(manifest)
        data = bundle.weights(graph)[0]
        model = onnx.load_from_string(bytes(bundle.read(graph)))
        files = {
            name: bytes(bundle.read(name)) for name in manifest.files if name != mmedge_samples()
        }
        tensors = [t for t in model.graph.initializer if t.external_data]
        sizes = {t.name: {e.key: e.value for e in t.external_data} for t in tensors}
        largest = max(tensors, key=lambda t: int(sizes[t.name]["length"]))
        start = int(sizes[largest.name].get("offset", 0))
        stop = start + int(sizes[largest.name]["length"])
        dtype = onnx.helper.tensor_dtype_to_np_dtype(largest.data_type)
        values = np.frombuffer(files[data][start:stop], dtype)
        changed = (values.astype(np.float64) * factor).astype(dtype).tobytes()
        files[data] = files[data][:start] + changed + files[data][stop:]
        Bundle.write(
            target, manifest, files, samples=bundle.samples(), absent=bundle.absent_tokens()
        ).close()
    return target


def mmedge_samples():
    from mmedge.schema import SAMPLES

    return SAMPLES


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_altered_weights_are_found_and_the_stage_is_named(made, tmp_path, precision):
    """Digests fit, since the bundle was written anew: only replaying the samples can tell."""
    with Bundle.open(made[0]) as bundle:
        variant = next(v for v in bundle.manifest.variants if v.precision == precision)
        own = {s.graph for s in bundle.manifest.stages}
        names = [
            stage.name
            for stage in bundle.manifest.stages
            if (variant.files[stage.name] in own) == (precision == "fp32")
        ]
    for number, name in enumerate(names):
        path = altered(made[0], tmp_path / str(number), lambda _, n=name: variant.files[n], 0.5)
        with mmedge.load(path, precision=precision, allow_unverified=True) as pipe:
            found = verify(pipe)
        assert not found.ok
        bad = {row.stage for row in found.rows if not row.ok}
        assert name in bad
        assert bad <= {name, "(whole network)"}
        if precision != "fp32":
            with pytest.raises(AccuracyError, match=f"stage '{name}'"):
                mmedge.load(path, precision=precision)


def test_the_command_line_needs_no_torch(plain, tmp_path):
    path = copy(plain, tmp_path)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('torch is blocked')")
    program = "import sys; from mmedge.cli import main; main()"
    command = [sys.executable, "-c", program, "quantize", str(path), "--for", "size", "--json"]
    done = subprocess.run(
        [*command, "--max-error", "0.2", "--threads", "1"],
        env={**os.environ, "PYTHONPATH": str(blocked)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["variant"] == "ort-int8-cpu"
