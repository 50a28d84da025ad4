"""Loops are measured step by step, with calls of one length, and compared like everything else."""

from __future__ import annotations

import gc
import json
import time
import weakref
from dataclasses import replace
from importlib.resources import files

import jsonschema
import numpy as np
import pytest
from loop_samples import write_captions, write_filter, write_pictures
from typer.testing import CliRunner

import mmedge
from mmedge.backends.onnxruntime.session import OrtSession
from mmedge.bench.interleaved import bench_pair
from mmedge.bench.loop_calls import LoopCalls
from mmedge.bench.measure import bench
from mmedge.bench.report.compare import compare
from mmedge.bench.report.gates import parse_gate
from mmedge.bench.report.report import Report
from mmedge.bench.stats.resample import spreads, step_spreads
from mmedge.bench.sweep import sweep
from mmedge.bench.tune import tune
from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge.errors import InputError
from mmedge.execution.generate import GenerateRun

SCHEMA = json.loads(files("mmedge.bench.report").joinpath("report.schema.json").read_text("utf-8"))
QUICK = {"threads": 1, "warmup": 2, "profiled": False}


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    return write_captions(tmp_path_factory.mktemp("captions") / "captioner")


@pytest.fixture(scope="module")
def report(captions):
    return bench(captions, threads=1, calls=120, sessions=5, warmup=2)


def run(*args):
    result = CliRunner().invoke(build_app(), [str(arg) for arg in args], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    return result.output


def test_a_call_has_a_fixed_number_of_tokens_and_its_parts_add_up(report):
    loop = report.loop
    assert (loop["kind"], loop["stage"], loop["steps"], loop["rows"]) == ("generate", "step", 24, 1)
    assert report.load["inputs"] == (
        "2 golden samples in turn; 24 tokens a call, the best each time, stops ignored"
    )
    assert loop["first_ms"]["count"] == 120
    assert loop["step_ms"]["count"] == 120 * 23
    assert list(report.stages) == ["inputs", "see", "prefill", "step", "outputs", "residual"]
    means = {name: stage["mean"] for name, stage in report.stages.items()}
    assert sum(means.values()) == pytest.approx(report.latency_ms["mean"])
    assert 0 < means["residual"] < 0.2
    first = loop["encoders_ms"]["mean"] + loop["prefill_ms"]["mean"]
    assert first == pytest.approx(loop["first_ms"]["mean"])
    assert loop["prefill_ms"]["mean"] == pytest.approx(means["prefill"])
    assert means["inputs"] + means["see"] <= loop["encoders_ms"]["mean"]
    assert means["step"] == pytest.approx(23 * loop["step_ms"]["mean"], rel=0.05)
    assert loop["steps_per_s"] == pytest.approx(1e3 / loop["step_ms"]["mean"])
    # Keys and values of 2 heads of 4 numbers, at the start and 23 tokens.
    assert loop["state_bytes"] == 2 * 2 * 4 * 4 * 24
    assert {row["stage"] for row in report.operators} == {"see", "step"}
    # Keys and values go into the loop: nothing of them is returned, and copied for that.
    assert not any(row["bytes"] for row in report.copies)


def test_steps_are_told_by_their_number_and_by_call(report):
    by_step, series = report.loop["by_step"], report.loop["series"]
    assert by_step["step"] == list(range(1, 24))
    assert {len(values) for values in by_step.values()} == {23}
    for low, high in zip(by_step["p50_ms"], by_step["max_ms"], strict=True):
        assert 0 < low <= high
    assert len(series["first_ms"]) == len(report.series["latency_ms"]) == 120
    assert np.percentile(series["first_ms"], 50, method="inverted_cdf") == pytest.approx(
        report.loop["first_ms"]["p50"]
    )
    together = np.add(series["first_ms"], series["steps_ms"])
    assert (together <= report.series["latency_ms"]).all()


def test_intervals_draw_sessions_or_stretches_of_calls(report):
    assert report.loop["blocks"] == "whole sessions"
    for name in ("first", "step"):
        low, high = report.loop[f"{name}_confidence_ms"]["p50"]
        assert low <= report.loop[f"{name}_ms"]["p50"] <= high
    # 1 call of 120 lies beyond a p99.
    assert report.loop["first_confidence_ms"]["p99"] is None


def test_slow_calls_are_one_event_however_many_steps_they_have():
    rng = np.random.default_rng(0)
    slow = np.exp(rng.normal(size=(200, 1)) + 0.01 * rng.normal(size=(200, 40)))
    each = np.exp(rng.normal(size=(200, 40)))
    calls = {"start_s": np.arange(200.0), "latency_ms": np.ones(200)}
    by_call, by_step = (step_spreads(steps, calls)["p50"].error for steps in (slow, each))
    assert by_call > 3 * by_step
    # One step a call is a call.
    one = rng.gamma(4.0, size=(400, 1))
    series = {"start_s": np.arange(400.0), "latency_ms": one[:, 0]}
    assert step_spreads(one, series)["p50"].error == pytest.approx(spreads(series)["p50"].error)
    assert step_spreads(one[:5], series) == {}


def test_the_report_fits_its_schema_and_is_read_again(report, tmp_path):
    jsonschema.validate(json.loads(report.to_json(tmp_path / "r.json")), SCHEMA)
    assert Report.from_json(tmp_path / "r.json") == report
    data = json.loads(report.to_json())
    del data["loop"]["by_step"]["p50_ms"][0]
    (tmp_path / "short.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="by_step.* lists of one length"):
        Report.from_json(tmp_path / "short.json")
    del data["loop"]["by_step"]
    (tmp_path / "less.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match="loop.by_step"):
        Report.from_json(tmp_path / "less.json")


def test_a_report_without_a_loop_has_the_form_it_had(sums):
    report = bench(str(sums), calls=5, **QUICK)
    assert report.loop is None
    assert "loop" not in json.loads(report.to_json())
    rows = [row.name for row in compare(report, report).rows]
    assert not {"first_ms", "step_ms", "steps_per_s", "state_bytes"}.intersection(rows)


def test_cold_start_tells_the_first_token_apart(report):
    parts = report.cold_start_parts_ms
    assert list(parts) == [
        "interpreter", "import", "load", "samples", "first_token", "further_steps",
    ]  # fmt: skip
    assert sum(parts.values()) == pytest.approx(report.cold_start_ms)
    assert all(value > 0 for value in parts.values())


@pytest.mark.serial
def test_a_planted_stall_shows_in_its_step(captions, monkeypatch):
    advance = GenerateRun.advance

    def stall(self):
        if self.index == 5:
            time.sleep(0.01)
        return advance(self)

    monkeypatch.setattr(GenerateRun, "advance", stall)
    loop = bench(captions, calls=20, tokens=8, **QUICK).loop
    slow = {
        step for step, ms in zip(loop["by_step"]["step"], loop["by_step"]["p50_ms"], strict=True)
        if ms >= 10
    }  # fmt: skip
    assert slow == {5}
    assert loop["by_step"]["slowest_call_ms"][4] >= 10
    assert loop["first_ms"]["p50"] < 10


@pytest.mark.serial
def test_a_cached_first_token_does_without_the_encoder(captions, monkeypatch):
    run_session = OrtSession.run

    def slow(self, feeds):
        if "image" in feeds:
            time.sleep(0.01)
        return run_session(self, feeds)

    monkeypatch.setattr(OrtSession, "run", slow)
    loop = bench(captions, calls=5, tokens=2, **QUICK).loop
    assert loop["encoders_ms"]["min"] >= 10
    assert loop["prefill_ms"]["p50"] < 10
    assert loop["first_cached_ms"]["p50"] < 10
    assert loop["first_cached_ms"]["count"] >= 2
    assert loop["first_cached_by_modality_ms"] == {}  # there is one


def test_stops_are_ignored_and_fewer_tokens_than_asked_are_told(tmp_path):
    stopping = write_captions(tmp_path / "stopping", stop=(3,), limit=24)
    assert bench(stopping, calls=3, tokens=20, **QUICK).loop["steps"] == 20
    small = write_captions(tmp_path / "small", most=9)
    report = bench(small, calls=3, **QUICK)
    steps = report.loop["steps"]
    assert steps < 24
    assert (
        f"; {steps} tokens a call (24 asked for: the states take no more)"
        in (report.load["inputs"])
    )


def test_one_token_has_no_step(captions):
    loop = bench(captions, calls=25, tokens=1, **QUICK).loop
    assert loop["step_ms"] is loop["steps_per_s"] is None
    assert loop["by_step"]["step"] == loop["series"]["step_ms"] == []
    assert "time of a step: a call has one token" in loop["not_measured"]


def test_tokens_that_do_not_fit_are_refused(captions, sums):
    with pytest.raises(InputError, match="tokens: expected a number from 1 to 24.* got 25"):
        bench(captions, calls=3, tokens=25)
    with pytest.raises(InputError, match="'sums' has no loop that generates"):
        bench(str(sums), calls=3, tokens=4)
    with Bundle.open(captions) as bundle, pytest.raises(InputError, match="got 25"):
        tune(bundle, tokens=25)
    with pytest.raises(InputError, match="no loop that generates"):
        sweep(str(sums), tokens=4)


def test_a_denoising_call_has_all_its_steps(tmp_path):
    path = write_pictures(tmp_path / "painter")
    report = bench(path, calls=25, **QUICK)
    loop = report.loop
    assert (loop["kind"], loop["steps"], loop["rows"]) == ("denoise", 3, 2)
    assert loop["step_ms"]["count"] == 75
    assert loop["by_step"]["step"] == [0, 1, 2]
    assert loop["prefill_ms"] is None
    assert loop["state_bytes"] == 2 * 3 * 4 * 4  # the latent
    assert list(report.stages) == ["inputs", "read", "step", "decode", "outputs", "residual"]
    assert report.stages["decode"]["p50"] > 0
    assert "; 3 steps a call, the noise of one seed" in report.load["inputs"]
    assert list(report.cold_start_parts_ms)[-2:] == ["first_step", "further_steps"]
    jsonschema.validate(json.loads(report.to_json()), SCHEMA)
    with pytest.raises(InputError, match="no loop that generates"):
        bench(path, calls=3, tokens=2)


@pytest.mark.parametrize("where", ["whole", "encoder", "fusion"])
def test_a_state_without_a_loop_begins_anew_in_each_call(tmp_path, where):
    report = bench(write_filter(tmp_path / "filter", where), calls=5, threads=1, warmup=2)
    assert report.loop is None
    assert report.load["inputs"].endswith("; each call begins with a new state")
    assert report.operators
    assert report.copies


def test_runs_leave_no_garbage_for_a_collector_that_is_off(captions):
    with mmedge.load(captions) as pipe:
        gc.disable()
        try:
            loop_run = pipe.iterate(pipe.bundle.samples()[0].inputs)
            while loop_run.advance():
                pass
            loop_run.result()
            reference = weakref.ref(loop_run._run)
            del loop_run
            assert reference() is None
        finally:
            gc.enable()


def test_sound_has_a_real_time_factor(captions):
    with mmedge.load(captions) as pipe:
        inputs = [sample.inputs for sample in pipe.bundle.samples()]
        assert LoopCalls.of(pipe, inputs).seconds is None
        (modality,) = pipe.bundle.manifest.modalities
        sound = replace(modality, sample_rate_hz=6)
        manifest = replace(pipe.bundle.manifest, modalities=(sound,))
        pipe.bundle.manifest = manifest
        # One row of 5 frames of 6: samples lie along the longest axis.
        assert LoopCalls.of(pipe, inputs).seconds == pytest.approx(1.0)


def slower(report, factor):
    """The report with all steps slower by ``factor``."""
    loop = report.loop
    step = {key: factor * loop["step_ms"][key] for key in ("p50", "mean")}
    series = {
        **loop["series"],
        "step_ms": [factor * ms for ms in loop["series"]["step_ms"]],
        "steps_ms": [factor * ms for ms in loop["series"]["steps_ms"]],
    }
    changed = {
        **loop, "step_ms": {**loop["step_ms"], **step}, "series": series,
        "steps_per_s": loop["steps_per_s"] / factor, "state_bytes": 2 * loop["state_bytes"],
    }  # fmt: skip
    return replace(report, loop=changed)


def test_comparisons_and_gates_know_steps(report):
    gates = [parse_gate(text) for text in ("step_ms=5%", "first_ms=5%", "state_bytes=1KiB")]
    comparison = compare(report, slower(report, 20.0), gates)
    rows = {row.name: row for row in comparison.rows}
    assert rows["step_ms"].verdict == "slower"
    assert rows["step_ms"].ratio == pytest.approx(20.0)
    assert rows["steps_per_s"].verdict == "slower"
    assert rows["state_bytes"].verdict == "worse"
    assert rows["first_ms"].verdict == "no difference shown"
    assert [outcome.broken for outcome in comparison.gates] == [True, False, True]
    without = replace(report, loop=None)
    row = next(row for row in compare(report, without).rows if row.name == "step_ms")
    assert row.note == "B cannot give it"
    # Of runs whose calls took turns, sessions are compared one by one.
    load = {**report.load, "beside": "pair"}
    a, b = (replace(one, load=load) for one in (report, slower(report, 2.0)))
    rows = {row.name: row for row in compare(a, b).rows}
    assert rows["step_ms"].paired
    assert rows["step_ms"].ratio == pytest.approx(2.0)
    assert rows["steps_per_s"].ratio == pytest.approx(0.5)


def test_two_bundles_in_turn_have_calls_of_one_length(captions, tmp_path):
    short = write_captions(tmp_path / "short", limit=6)
    reports = bench_pair((captions, short), threads=1, calls=10, sessions=5, warmup=2)
    assert [report.loop["steps"] for report in reports] == [6, 6]
    assert reports[0].loop["state_bytes"] == reports[1].loop["state_bytes"]
    assert reports[0].loop["first_cached_ms"] is None
    assert any("took turns" in words for words in reports[0].loop["not_measured"])


def test_sweep_and_tune_take_whole_calls(captions):
    rows, best = sweep(captions, threads=[1], calls=12, tokens=7)
    assert [row["variant"] for row in rows] == ["ort-fp32-cpu"]
    assert best["variant"] == "ort-fp32-cpu"
    with Bundle.open(captions) as bundle:
        tuned, measurements = tune(bundle, threads=1, tokens=3)
        tuned.close()
    assert measurements["ort-fp32-cpu"].latency_ms > 0


def test_the_command_line_shows_the_loop(captions, tmp_path):
    out = run("bench", captions, "--calls", 20, "--tokens", 5, "--threads", 1, "--warmup", 2,
              "--sessions", 1, "--no-profile", "-o", tmp_path / "r.json")  # fmt: skip
    for words in ("loop generate: 5 steps a call", "first token", "between tokens",
                  "first token, all cached", "state at the end", "real-time factor"):  # fmt: skip
        assert words in out
    assert Report.from_json(tmp_path / "r.json").loop["steps"] == 5
    out = run("compare", tmp_path / "r.json", tmp_path / "r.json", "--gate", "step_ms=5%")
    assert "steps_per_s" in out
