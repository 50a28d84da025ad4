"""Two bundles whose calls take turns: what drifts leaves their ratio alone."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import reports
from typer.testing import CliRunner

from mmedge.bench import interleaved as pairing
from mmedge.bench import measure as measuring
from mmedge.bench.interleaved import bench_pair
from mmedge.bench.machine.monitor import Monitor
from mmedge.bench.report import report as report_module
from mmedge.bench.report.compare import compare, took_turns
from mmedge.bench.report.gates import parse_gate
from mmedge.bench.report.report import Report
from mmedge.bench.stats.resample import half_width, pairs, spreads
from mmedge.cli.app import build_app
from mmedge.errors import InputError, MMEdgeError
from mmedge.loader import load
from mmedge.pipeline import Pipeline

SESSIONS = 16


def drifting(rng, scale=1.0, *, calls=100):
    """Two series of sessions side by side, the second ``scale`` times as slow, as a machine drifts.

    Its speed walks by 6 % from pair to pair; a session differs from the other of its pair by 1 %,
    and calls by 3 %.
    """
    drift = 0.06 * np.cumsum(rng.normal(size=SESSIONS))
    made = []
    for factor in (1.0, scale):
        own = drift + 0.01 * rng.normal(size=SESSIONS)
        latency = (
            factor * np.exp(own[:, None] + 0.03 * rng.normal(size=(SESSIONS, calls)))
        ).ravel()
        made.append(
            {
                "start_s": (np.cumsum(latency) / 1e3).tolist(),
                "latency_ms": latency.tolist(),
                "part": np.repeat(np.arange(SESSIONS), calls).tolist(),
                "kept": latency.size,
                "of": latency.size,
            }
        )
    return made


def in_turn(rng, scale=1.0, *, beside=("x", "x"), calls=100):
    """Reports of such series."""
    found = []
    for series, name in zip(drifting(rng, scale, calls=calls), beside, strict=True):
        report = reports.sample(0)
        latency = series["latency_ms"]
        found.append(
            replace(
                report,
                series=series,
                latency_ms=reports.summary(np.array(latency)),
                throughput_hz=1e3 / float(np.mean(latency)),
                load={**report.load, "beside": name},
            )
        )
    return found


def row(found, name):
    return next(row for row in found.rows if row.name == name)


def test_neighbours_tell_what_runs_apart_cannot_on_a_machine_that_drifts():
    rng = np.random.default_rng(0)
    held = found = apart = 0
    for _ in range(60):
        a, b = drifting(rng, 1.05)
        mean, spread = pairs(a, b)[0]["p50"]
        held += abs(mean - math.log(1.05)) <= half_width(spread)
        found += mean - half_width(spread) > 0.0
        wide = half_width(spreads(a, seed=1)["p50"], spreads(b, seed=2)["p50"])
        apart += math.log(np.median(b["latency_ms"]) / np.median(a["latency_ms"])) > wide
    # 95 % should hold; a binomial of 0.95 is below 52 in two cases of 1000.
    assert held >= 52
    assert found == 60
    assert apart <= 20


def test_gates_on_pairs():
    rng = np.random.default_rng(1)
    gates = [parse_gate("p50=3%"), parse_gate("throughput=3%")]
    null = [compare(*in_turn(rng), gates) for _ in range(20)]
    slow = [compare(*in_turn(rng, 1.05), gates) for _ in range(20)]
    assert all(found.ok for found in null)
    assert not any(found.ok for found in slow)
    p50 = row(slow[0], "p50")
    assert p50.paired
    assert p50.ratio_95[0] < p50.ratio < p50.ratio_95[1]
    # The figure that is shown is not the one of medians that drifted apart.
    assert p50.difference == pytest.approx(p50.a * (p50.ratio - 1.0))
    assert row(slow[0], "throughput").ratio == pytest.approx(1 / 1.05, rel=0.01)


def test_a_figure_that_sessions_cannot_carry_is_not_given():
    a, b = in_turn(np.random.default_rng(2), calls=50)
    found = row(compare(a, b), "p99")
    assert found.verdict == "not shown"
    assert found.note == "sessions of too few calls"
    with pytest.raises(InputError, match="too few calls"):
        compare(a, b, [parse_gate("p99=5%")])


@pytest.mark.parametrize("beside", [("x", "y"), (None, None), ("x", None)])
def test_runs_that_did_not_take_turns_are_compared_each_by_itself(beside):
    a, b = in_turn(np.random.default_rng(3), beside=beside)
    assert not took_turns(a, b)
    assert not row(compare(a, b), "p50").paired


def test_sessions_must_be_as_many():
    a, b = drifting(np.random.default_rng(4))
    keep = np.array(b["part"]) < 10
    fewer = {**b, **{key: np.array(b[key])[keep].tolist() for key in ("start_s", "latency_ms")}}
    fewer["part"] = np.array(b["part"])[keep].tolist()
    found, why = pairs(a, fewer)
    assert found == {}
    assert "16 and 10 sessions" in why


def test_a_reports_series_from_before_the_key_reads_as_alone():
    a, b = in_turn(np.random.default_rng(5))
    old = {key: value for key, value in a.load.items() if key != "beside"}
    assert not took_turns(replace(a, load=old), replace(b, load=old))


@pytest.fixture
def two(sums, tmp_path):
    """The same bundle twice, under two names."""
    other = tmp_path / "other.mmedge"
    (shutil.copytree if sums.is_dir() else shutil.copy)(sums, other)
    return str(sums), str(other)


def test_calls_take_turns_in_sessions_side_by_side(two, monkeypatch):
    order, calls = [], []
    timed = Pipeline.timed

    class Noted(pairing.BenchRun):
        def opened(self):
            order.append(self.path)
            return super().opened()

    def called(self, inputs, **options):
        calls.append(str(self.bundle.path))
        return timed(self, inputs, **options)

    monkeypatch.setattr(pairing, "BenchRun", Noted)
    monkeypatch.setattr(Pipeline, "timed", called)
    told = []
    a, b = bench_pair(
        two, threads=1, calls=60, sessions=6, warmup=1, progress=lambda *words: told.append(words)
    )
    pairs_of = [tuple(order[n : n + 2]) for n in range(0, 12, 2)]
    assert all(set(one) == set(two) for one in pairs_of)
    # Each comes first as often.
    assert [one[0] for one in pairs_of].count(two[0]) == 3
    # A call each to warm up, then ten of each.
    for number, (a_path, b_path) in enumerate(pairs_of):
        assert calls[22 * number : 22 * (number + 1)] == [a_path, b_path] * 11
    assert told[-1][1:] == (6, 6)
    assert took_turns(a, b)
    assert sorted(set(a.series["part"])) == list(range(6))
    schema = json.loads(Path(report_module.__file__).with_name("report.schema.json").read_text())
    for report in (a, b):
        assert report.load["calls"] == 60
        assert report.energy["joules_per_result"] is None
        assert "took turns" in report.energy["missing"]
        assert set(report.stages) > {"residual"}
        assert report.copies
        # Seconds of its own calls: the other's are no part of its throughput.
        assert report.throughput_hz == pytest.approx(1e3 / report.latency_ms["mean"])
        jsonschema.validate(json.loads(report.to_json()), schema)
    assert row(compare(a, b), "p50").paired


def test_idle_threads_leave_the_cores_to_the_other(two, monkeypatch):
    asked = []

    def opened(*args, **options):
        asked.append(options["spin"])
        return load(*args, **options)

    monkeypatch.setattr(measuring, "open_pipeline", opened)
    bench_pair(two, calls=5, sessions=5, warmup=0)
    assert asked == [False] * 10


def test_calls_are_dealt_to_sessions_and_samples_of_the_machine_fit_them(two, monkeypatch):
    record = Monitor.record

    def sampled(self):
        # The last one is taken when all calls have ended.
        return {**record(self), "during": [{"at_s": at} for at in (0.0, 1e-4, 5.0)]}

    monkeypatch.setattr(Monitor, "record", sampled)
    a, b = bench_pair(two, threads=1, calls=52, sessions=5, warmup=0)
    for report in (a, b):
        assert np.bincount(report.series["part"]).tolist() == [11, 11, 10, 10, 10]
        assert report.load["calls"] == 52
        assert report.warmup["calls"] == 0
        assert report.warmup["settled"] is False
        seconds = report.series["start_s"][-1] + report.series["latency_ms"][-1] / 1e3
        times = [sample["at_s"] for sample in report.device["during"]]
        assert len(times) == 15
        assert times == sorted(times)
        # Seconds of this bundle's own calls.
        assert times[-1] == pytest.approx(seconds)


def test_the_first_is_closed_when_the_second_does_not_open(two, tmp_path, monkeypatch):
    closed = []
    close = Pipeline.close
    monkeypatch.setattr(Pipeline, "close", lambda self: closed.append(self) or close(self))
    monkeypatch.setattr(pairing.random.Random, "shuffle", lambda self, turns: None)
    with pytest.raises(MMEdgeError):
        bench_pair((two[0], str(tmp_path / "none")), threads=1)
    assert [str(pipe.bundle.path) for pipe in closed] == [two[0]]


@pytest.mark.parametrize("gate", ["energy=5%", "deadline=0.01"])
def test_a_gate_that_can_never_be_judged_is_refused_at_once(two, monkeypatch, gate):
    monkeypatch.setattr("mmedge.cli.compare.bench_pair", lambda *_, **__: pytest.fail("measured"))
    done = call(*two, "--gate", gate)
    assert done.exit_code == 2
    assert "no energy and no deadline" in " ".join(done.output.replace("│", " ").split())


def call(*words):
    return CliRunner().invoke(build_app(), ["compare", *map(str, words)])


def test_the_command_measures_bundles_and_finds_one_that_was_slowed(two, tmp_path, monkeypatch):
    timed = Pipeline.timed

    def slower(self, inputs, **options):
        found = timed(self, inputs, **options)
        if str(self.bundle.path) == two[1]:
            for _ in range(20):
                timed(self, inputs, **options)
        return found

    monkeypatch.setattr(Pipeline, "timed", slower)
    done = call(*two, "--calls", 200, "--sessions", 5, "--gate", "p50=50%", "--json",
                "-o", tmp_path / "kept")  # fmt: skip
    assert done.exit_code == 1, done.output
    data = json.loads(done.stdout)
    assert data["gates"][0]["broken"]
    assert next(one for one in data["rows"] if one["name"] == "p50")["paired"]
    a, b = (Report.from_json(tmp_path / "kept" / f"{name}.json") for name in "ab")
    assert took_turns(a, b)


def test_a_gate_that_cannot_be_judged_loses_no_measurement(two, tmp_path):
    done = call(*two, "--calls", 20, "--sessions", 5, "--gate", "p99=5%", "-o", tmp_path)
    assert isinstance(done.exception, InputError)
    assert "p50" in done.stdout
    assert Report.from_json(tmp_path / "a.json").load["calls"] == 20


def test_energy_of_different_counters_is_not_compared():
    a, b = in_turn(np.random.default_rng(6))
    b = replace(b, energy={**b.energy, "source": "something else"})
    found = row(compare(a, b), "energy")
    assert found.a is None
    assert "something else in B" in found.note


def test_misuse_of_the_command(two, tmp_path):
    report = tmp_path / "a.json"
    reports.sample(0).to_json(report)
    mixed = call(two[0], report)
    assert mixed.exit_code == 2
    assert "two reports or two bundles" in mixed.stderr
    of_reports = call(report, report, "--sessions", 8)
    assert of_reports.exit_code == 2
    assert "--sessions" in of_reports.stderr
    assert call(report, report, "--backend", "ort").exit_code == 2
    few = call(*two, "--calls", 3)
    assert few.exit_code == 2
    (tmp_path / "file").write_text("")
    taken = call(*two, "-o", tmp_path / "file")
    assert taken.exit_code == 2
    assert "file is no folder" in " ".join(taken.stderr.replace("│", " ").split())


def test_a_bundle_that_took_turns_is_no_equal_of_one_alone():
    a, b = in_turn(np.random.default_rng(6), beside=("x", None))
    (told,) = [words for words in compare(a, b).remarks if "took turns" in words]
    assert told.startswith("DIFFERENT LOAD: calls of A took turns")
    a, b = in_turn(np.random.default_rng(6), beside=("x", "y"))
    assert [words for words in compare(a, b).remarks if "calls of A and B took turns" in words]
    a, b = in_turn(np.random.default_rng(6))
    assert not [words for words in compare(a, b).remarks if "took turns" in words]
