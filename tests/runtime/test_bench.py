"""A measurement's parts add up, claims fit its calls, and a wrong variant is never timed."""

from __future__ import annotations

import json
import time

import pytest

import mmedge
from mmedge.backends.ort import OrtSession
from mmedge.bench import coldstart, host
from mmedge.bench.measure import bench
from mmedge.errors import BackendError, InputError

KEYS = {"mean", "std", "min", "p50", "p90", "p99", "p99_9", "max"}


@pytest.fixture(scope="module")
def report(sums):
    return bench(str(sums), threads=1, calls=200, warmup=5)


def test_the_keys_that_others_rely_on(report):
    assert set(report.latency_ms) == KEYS
    assert report.throughput_hz > 0
    assert report.peak_memory_bytes > 10 * 2**20
    assert report.device["libraries"]["numpy"]
    assert report.load["calls"] == 200
    assert report.accuracy["ok"] is True


def test_a_percentile_that_200_calls_cannot_carry_is_none(report):
    assert report.latency_ms["p99"] is not None
    assert report.latency_ms["p99_9"] is None


def test_stages_and_residual_add_up_to_the_call(report):
    assert list(report.stages) == ["inputs", "camera", "fusion", "residual"]
    parts = sum(stage["mean"] for stage in report.stages.values())
    assert parts == pytest.approx(report.latency_ms["mean"], rel=1e-6)
    residual = report.stages["residual"]
    assert residual["min"] > 0
    assert residual["p50"] < 0.2  # two clock reads and a dict, in ms: nothing is unaccounted for


def test_cold_start_is_the_sum_of_its_parts(report):
    parts = report.cold_start_parts_ms
    assert sum(parts.values()) == pytest.approx(report.cold_start_ms)
    assert list(parts) == ["interpreter", "import", "load", "samples", "first_call"]
    assert all(value > 0 for value in parts.values())


def test_a_planted_sleep_shows_in_its_stage_alone(sums, monkeypatch):
    run = OrtSession.run

    def slow(self, feeds):
        if "pcm" in feeds:
            time.sleep(0.004)
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "run", slow)
    found = bench(str(sums), threads=1, calls=20, warmup=2)
    assert found.stages["fusion"]["p50"] >= 4
    assert found.stages["camera"]["p50"] < 2
    assert found.latency_ms["p50"] >= 4


def test_report_round_trip(report, tmp_path):
    path = tmp_path / "r.json"
    text = report.to_json(path)
    assert path.read_text() == text
    assert mmedge.Report.from_json(path) == report


def test_what_is_no_report_is_refused(report, tmp_path):
    path = tmp_path / "r.json"
    with pytest.raises(InputError, match="cannot be read"):
        mmedge.Report.from_json(path)
    data = json.loads(report.to_json())
    path.write_text(json.dumps(data | {"report_version": 99}))
    with pytest.raises(InputError, match="expected a report of version 1, got 99"):
        mmedge.Report.from_json(path)
    path.write_text(json.dumps({key: data[key] for key in data if key != "stages"}))
    with pytest.raises(InputError, match="not a whole report: .*'stages'"):
        mmedge.Report.from_json(path)
    path.write_text(json.dumps(data | {"added_later": 1}))
    assert mmedge.Report.from_json(path) == report
    path.write_text("[]")
    with pytest.raises(InputError, match="got list"):
        mmedge.Report.from_json(path)


def test_a_wrong_variant_is_not_timed(sums, monkeypatch):
    run = OrtSession.run

    def wrong(self, feeds):
        return {name: value + 1 for name, value in run(self, feeds).items()}

    monkeypatch.setattr(OrtSession, "run", wrong)
    phases = []
    with pytest.raises(mmedge.AccuracyError, match="differs from the golden samples"):
        bench(str(sums), calls=100, warmup=0, progress=lambda phase, *_: phases.append(phase))
    assert set(phases) == {"verify"}


@pytest.mark.parametrize(("calls", "warmup"), [(0, 1), (1, -1)])
def test_counts_are_checked(sums, calls, warmup):
    with pytest.raises(ValueError, match="calls must be >= 1"):
        bench(str(sums), calls=calls, warmup=warmup)


def test_a_failing_child_tells_its_last_words(tmp_path):
    with pytest.raises(BackendError, match="(?s)cold-start process failed.*cannot be read"):
        coldstart.measure(
            str(tmp_path / "none"), variant=("ort", "fp32", "cpu"), threads=None, calls=1
        )


def test_the_machine_state_is_plain_data():
    state = host.state()
    assert json.loads(json.dumps(state)) == state
    assert state["cores"] >= 1


def test_calls_that_repeat_their_inputs_run_every_stage(pair, runs):
    found = bench(str(pair), threads=1, calls=20, warmup=3)
    # The first call, two samples verified twice, warm-up and timed calls.
    assert set(runs.values()) == {1 + 4 + 3 + 20}
    assert all(found.stages[stage]["min"] > 0 for stage in ("camera", "mic", "ear", "fusion"))
