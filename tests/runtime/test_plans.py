"""A bundle that holds its network cut and whole: which is loaded, when, and what says why."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import mmedge
from mmedge.backends.registry import probe
from mmedge.bundle import Bundle
from mmedge.bundle.choose import choose_plan
from mmedge.cli.app import build_app
from mmedge.errors import AccuracyError, BackendError, InputError
from mmedge.execution.verify import verify
from mmedge.pipeline import Pipeline
from mmedge.stream import SimulatedClock

CUT = {"camera", "mic", "ear", "fusion"}


@pytest.fixture
def opened(monkeypatch):
    """Names of stages in the order in which they are loaded."""
    names = []
    from mmedge.execution import loaded_plan

    real = loaded_plan.open_stage

    def count(bundle, stage, variant, *, options):
        names.append(stage.name)
        return real(bundle, stage, variant, options=options)

    monkeypatch.setattr(loaded_plan, "open_stage", count)
    return names


def test_single_calls_run_whole_and_load_nothing_else(both, opened, runs):
    with mmedge.load(both, threads=1) as pipe:
        assert (pipe.plan, pipe.variant.id) == ("whole", "ort-fp32-cpu")
        assert "rule" in pipe.why_plan
        for sample in pipe.bundle.samples():
            outputs = pipe.run(sample.inputs)
            assert list(outputs) == ["out", "seen"]
            np.testing.assert_array_equal(outputs["out"], sample.outputs["out"])
            assert list(pipe.timed(sample.inputs)[1]) == ["inputs", "model", "outputs"]
        assert pipe.cache_info() == {}
    assert opened == ["model"]
    assert runs == {"out": 4}


def test_cut_is_had_for_the_asking_and_keeps_features(both, opened, runs):
    with mmedge.load(both, plan="cut", threads=1) as pipe:
        assert (pipe.plan, pipe.why_plan) == ("cut", "it was asked for")
        for sample in pipe.bundle.samples():  # which share their image
            np.testing.assert_array_equal(pipe.run(sample.inputs)["out"], sample.outputs["out"])
        assert pipe.cache_info()["camera"].hits == 1
    assert set(opened) == CUT
    assert runs["seen"] == 1


def test_a_variant_without_the_plan_is_refused_it(both):
    with pytest.raises(InputError, match="ort-int8-cpu has no plan 'whole'; it has cut"):
        mmedge.load(both, "ort-int8-cpu", plan="whole")
    with mmedge.load(both, "ort-int8-cpu") as pipe:
        assert (pipe.plan, pipe.why_plan) == ("cut", "the variant has no other")


def test_a_stream_runs_cut_in_place_of_whole(both, opened, runs):
    clock = SimulatedClock()
    with mmedge.load(both, threads=1) as pipe:
        with pipe.stream(trigger="camera", clock=clock) as stream:
            assert (pipe.plan, pipe.why_plan) == ("cut", "it was asked for")
            sample = pipe.bundle.samples()[0]
            stream.push("voice", sample.inputs["pcm"], t=0.0)
            stream.push("state", sample.inputs["state"], t=0.0)
            stream.push("camera", sample.inputs["image"], t=0.0)
            clock.advance_to(1.0)
            result = stream.result(timeout=0)
        assert result is not None
        assert result.outputs["out"] == sample.outputs["out"]
        assert pipe.run(sample.inputs)["out"] == sample.outputs["out"]
        assert pipe.plan == "cut"
    assert opened == ["model", "camera", "mic", "ear", "fusion"]
    assert runs["seen"] >= 1


def test_a_stream_of_a_pipeline_that_is_cut_loads_nothing_more(both, opened):
    with mmedge.load(both, plan="cut") as pipe, pipe.stream(trigger="camera"):
        pass
    assert sorted(opened) == sorted(CUT)


def test_a_plan_that_computes_something_else_is_not_changed_to(both, monkeypatch):
    with mmedge.load(both) as pipe:
        monkeypatch.setattr(pipe, "_verified", False)
        run_stage = Pipeline.run_stage

        def off(self, stage, feeds):
            outputs = run_stage(self, stage, feeds)
            return {n: v + 1 for n, v in outputs.items()} if stage == "ear" else outputs

        plans = []

        def look(self, stage, feeds):
            plans.append(pipe.plan)  # what a call in another thread would run meanwhile
            return off(self, stage, feeds)

        monkeypatch.setattr(Pipeline, "run_stage", look)
        with pytest.raises(AccuracyError, match="stage 'ear'"):
            pipe.stream(trigger="camera")
        assert set(plans) == {"whole"}
        assert pipe.plan == "whole"
        sample = pipe.bundle.samples()[0]
        assert pipe.run(sample.inputs)["out"] == sample.outputs["out"]


def test_calls_in_other_threads_survive_the_change(both):
    wrong = []
    with mmedge.load(both, threads=1) as pipe:
        sample = pipe.bundle.samples()[0]
        stop = threading.Event()

        def call():
            while not stop.is_set():
                try:
                    if pipe.run(sample.inputs)["out"] != sample.outputs["out"]:
                        wrong.append("an answer")
                except Exception as error:  # noqa: BLE001
                    wrong.append(error)

        workers = [threading.Thread(target=call) for _ in range(2)]
        for worker in workers:
            worker.start()
        with pipe.stream(trigger="camera"):
            pass
        stop.set()
        for worker in workers:
            worker.join()
    assert wrong == []


def test_a_closed_pipeline_has_no_stream(both):
    pipe = mmedge.load(both)
    pipe.close()
    with pytest.raises(BackendError, match="is closed"):
        pipe.stream(trigger="camera")


def test_both_plans_are_verified(both):
    for plan in ("cut", "whole"):
        with mmedge.load(both, plan=plan) as pipe:
            found = verify(pipe)
        assert (found.plan, found.ok) == (plan, True)
    done = CliRunner().invoke(build_app(), ["verify", str(both), "--all", "--json"])
    assert done.exit_code == 0, done.stderr
    verified = json.loads(done.stdout)["verified"]
    assert [(row["variant"], row["plan"]) for row in verified] == [
        ("ort-fp32-cpu", "cut"),
        ("ort-fp32-cpu", "whole"),
        ("ort-int8-cpu", "cut"),
    ]


def test_the_tolerance_of_a_stage_alone_is_not_that_of_the_network_as_one(both, tmp_path):
    """An output of fusion is held tighter on golden features than at the end of all errors."""
    with Bundle.open(both) as bundle:
        opened = bundle.copy(tmp_path / "tight.mmedge")
    variant = opened.manifest.variants[0]
    tight = replace(variant.tolerance, rtol=0.0, atol=0.0)
    loose = replace(variant.tolerance, rtol=0.5)
    graph = bytes(opened.read("onnx/model.onnx"))
    off = graph.replace(np.float32(2.0).tobytes(), np.float32(2.5).tobytes())
    assert off != graph
    opened.with_variant(
        replace(
            variant,
            files={**variant.files, "model": "onnx/off.onnx"},
            tolerance=loose,
            tolerances={"out": tight},
        ),
        {"onnx/off.onnx": off},
    ).close()
    for plan in ("cut", "whole"):
        with mmedge.load(tmp_path / "tight.mmedge", "ort-fp32-cpu", plan=plan) as pipe:
            assert verify(pipe).ok


@pytest.mark.parametrize(
    ("plan", "cores", "expected"),
    [("cut", 0, "cut"), ("whole", 0, "whole"), ("cut", 1, "whole"), (None, 0, "whole")],
)
def test_a_measured_plan_counts_on_a_machine_of_as_many_cores(both, plan, cores, expected):
    here = probe()
    with Bundle.open(both) as bundle:
        variant = bundle.manifest.variants[0]
        metrics = {"cores": float(here.cores + cores)}
        variant = replace(variant, plan=plan, metrics=metrics)
        name, why = choose_plan(bundle.manifest, variant, here)
    assert name == expected
    assert "mmedge tune" in why
    assert ("measured to be" in why) == (plan is not None and not cores)


def test_a_stage_of_the_other_plan_is_named(both):
    with mmedge.load(both) as pipe:
        with pytest.raises(InputError, match="'ear' is not of the plan that is loaded, 'whole'"):
            pipe.run_stage("ear", {})
        with pytest.raises(InputError, match="no stage 'nose'; this bundle has model"):
            pipe.run_stage("nose", {})


def test_a_pipeline_that_is_closed_while_it_changes_its_plan_stays_closed(both, monkeypatch):
    pipe = mmedge.load(both)
    monkeypatch.setattr(pipe, "_verified", False)
    monkeypatch.setattr(Pipeline, "_verify", lambda self, loaded_plan: self.close())
    with pytest.raises(BackendError, match="is closed"):
        pipe.use_plan("cut")
    assert pipe.plan == "whole"
    with pytest.raises(BackendError, match="is closed"):
        pipe.run({})
