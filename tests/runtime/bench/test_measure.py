"""A measurement's parts add up, claims fit its calls, and a wrong variant is never timed."""

from __future__ import annotations

import io
import json
import sys
import time
from array import array
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
from streaming import make_streaming
from typer.testing import CliRunner

import mmedge
from mmedge.backends.onnxruntime.session import OrtSession
from mmedge.bench import call_trace, coldstart
from mmedge.bench.arrivals import Load, Series
from mmedge.bench.machine import host
from mmedge.bench.measure import bench
from mmedge.bench.sessions import TimedSession, record
from mmedge.cli import bench_tables
from mmedge.cli.app import build_app
from mmedge.errors import BackendError, InputError

#: Modules that hold a function of their own name.
measure, sweep_cli = (import_module(f"mmedge.{name}") for name in ("bench.measure", "cli.sweep"))
KEYS = {"count", "mean", "std", "min", "p50", "p90", "p99", "p99_9", "max"}


@pytest.fixture(scope="module")
def report(sums):
    return bench(str(sums), threads=1, calls=200, warmup=5, deadline_ms=1e3)


def test_the_keys_that_others_rely_on(report):
    assert set(report.latency_ms) == KEYS
    assert report.throughput_hz > 0
    assert report.peak_memory_bytes > 10 * 2**20
    assert report.device["libraries"]["numpy"]
    assert report.load == {
        "kind": "closed",
        "mode": "one-shot",
        "calls": 200,
        "seconds": None,
        "plan": "cut",
        "threads": 1,
        "inputs": "1 golden samples in turn",
        "rate_hz": None,
        "gap_ms": None,
        "recording": None,
        "interference": None,
        "beside": None,
    }
    assert report.warmup["calls"] == 5
    assert report.warmup["settled"] is False  # too few to tell
    assert report.size_bytes > 1000
    assert report.metric is None
    assert report.accuracy["ok"] is True


def test_a_percentile_that_200_calls_cannot_carry_is_none(report):
    assert report.latency_ms["p99"] is not None
    assert report.latency_ms["p99_9"] is None


@pytest.mark.serial
def test_stages_and_residual_add_up_to_the_call(report):
    assert list(report.stages) == ["inputs", "camera", "fusion", "outputs", "residual"]
    parts = sum(stage["mean"] for stage in report.stages.values())
    assert parts == pytest.approx(report.latency_ms["mean"], rel=1e-6)
    residual = report.stages["residual"]
    assert residual["min"] > 0
    assert residual["p50"] < 0.2  # two clock reads and a dict, in ms: nothing is unaccounted for


def test_figures_are_of_one_series(report):
    latency = report.series["latency_ms"]
    assert report.series["kept"] == report.series["of"] == len(latency) == 200
    assert np.mean(latency) == pytest.approx(report.latency_ms["mean"])
    assert report.series["start_s"] == sorted(report.series["start_s"])
    low, high = report.confidence_ms["p50"]
    assert low <= report.latency_ms["p50"] <= high
    assert report.confidence_ms["p99_9"] is None
    assert report.deadline == {"ms": 1e3, "missed": 0, "rate": 0.0, "longest_run": 0}
    assert report.jitter_ms["mean_step"] > 0


def test_where_time_goes(report):
    assert {row["stage"] for row in report.operators} == {"camera", "fusion"}
    for stage in ("camera", "fusion"):
        rows = [row for row in report.operators if row["stage"] == stage]
        assert sum(row["share"] for row in rows) == pytest.approx(1)
        total = report.operators_unexplained["stages"][stage]["profiled_ms"]
        assert sum(row["ms"] for row in rows) == pytest.approx(total)
    assert report.copies


def test_the_machine_is_watched(report):
    assert report.device["before"].keys() <= report.device["after"].keys()
    assert report.device["cores"] >= 1
    # Where there is no energy, why is said.
    assert report.energy["joules_per_result"] is not None or report.energy["missing"]


def test_cold_start_is_the_sum_of_its_parts(report):
    parts = report.cold_start_parts_ms
    assert sum(parts.values()) == pytest.approx(report.cold_start_ms)
    assert list(parts) == ["interpreter", "import", "load", "samples", "first_call"]
    assert all(value > 0 for value in parts.values())


@pytest.mark.serial
def test_a_planted_sleep_shows_in_its_stage_alone(sums, monkeypatch):
    run = OrtSession.run

    def slow(self, feeds):
        if "pcm" in feeds:
            time.sleep(0.004)
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "run", slow)
    found = bench(str(sums), threads=1, calls=20, warmup=2, profiled=False)
    assert found.operators == []
    assert found.operators_unexplained == {"words": "not asked for", "stages": {}}
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
    with pytest.raises(InputError, match="no such file; mmedge bench -o writes a report"):
        mmedge.Report.from_json(path)
    data = json.loads(report.to_json())
    path.write_text(json.dumps(data | {"report_version": 99}))
    with pytest.raises(InputError, match="expected a report of version 2, got 99"):
        mmedge.Report.from_json(path)
    path.write_text(json.dumps({key: data[key] for key in data if key != "stages"}))
    with pytest.raises(InputError, match="not a whole report: .*'stages'"):
        mmedge.Report.from_json(path)
    path.write_text(json.dumps(data | {"added_later": 1}))
    assert mmedge.Report.from_json(path) == report
    path.write_text("[]")
    with pytest.raises(InputError, match="got a list"):
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
    with pytest.raises(ValueError, match="must be >= "):
        bench(str(sums), calls=calls, warmup=warmup)
    with pytest.raises(ValueError, match="expected 1 session"):
        bench(str(sums), calls=3, sessions=4)
    with pytest.raises(ValueError, match="deadline_ms must be > 0"):
        bench(str(sums), deadline_ms=0.0)


def test_a_failing_child_tells_its_last_words(tmp_path):
    with pytest.raises(BackendError, match="cold-start process failed.*: no such file"):
        coldstart.measure(
            str(tmp_path / "none"), variant="ort-fp32-cpu", plan="cut", threads=None, calls=1
        )


def test_the_machine_state_is_plain_data():
    state = host.state()
    assert json.loads(json.dumps(state)) == state
    assert state["cores"] >= 1


def test_calls_that_repeat_their_inputs_run_every_stage(pair, runs):
    found = bench(str(pair), threads=1, calls=20, warmup=3, profiled=False)
    # The first call, two samples verified twice, warm-up, timed calls, and the count of copies.
    assert set(runs.values()) == {1 + 4 + 3 + 20 + 1}
    assert all(found.stages[stage]["min"] > 0 for stage in ("camera", "mic", "ear", "fusion"))


@pytest.fixture
def busy(monkeypatch):
    """Each call's last stage takes 4 ms more."""
    run = OrtSession.run

    def slow(self, feeds):
        if "pcm" in feeds:
            time.sleep(0.004)
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "run", slow)


@pytest.mark.serial
def test_an_open_loop_counts_what_calls_wait_for(sums, busy):
    load = Load("rate", seconds=0.3, rate_hz=500.0)  # twice what it can
    found = bench(str(sums), threads=1, load=load, warmup=2, deadline_ms=50.0, profiled=False)
    assert found.load["kind"] == "rate"
    assert found.load["rate_hz"] == 500
    assert found.load["calls"] == found.latency_ms["count"] < 80
    assert "OVERLOADED" in found.load["inputs"]
    assert np.allclose(np.diff(found.series["start_s"]), 0.002)
    latency = found.series["latency_ms"]
    assert latency[-1] > latency[0] + 50
    assert next(iter(found.stages)) == "waiting"
    parts = sum(stage["mean"] for stage in found.stages.values())
    assert parts == pytest.approx(found.latency_ms["mean"])
    assert found.deadline["missed"] == found.deadline["longest_run"] > 10


@pytest.mark.serial
def test_a_gap_is_no_part_of_the_latency(sums):
    load = Load("gap", calls=5, gap_ms=20.0)
    found = bench(str(sums), threads=1, load=load, warmup=0, profiled=False)
    assert min(np.diff(found.series["start_s"])) >= 0.02
    assert found.latency_ms["min"] < 10
    assert found.device["wake_up_late_ms"]["count"] == 4


@pytest.mark.serial
def test_sessions_share_the_calls_and_are_the_blocks_of_the_intervals(sums, monkeypatch):
    # Each session is slower than the one before: within one nothing of it is seen.
    init, opened = OrtSession.__init__, []

    def born(self, *args, **kwargs):
        init(self, *args, **kwargs)
        opened.append(self)

    run = OrtSession.run

    def slow(self, feeds):
        time.sleep(0.0002 * (opened.index(self) // 2 + 1))
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "__init__", born)
    one = bench(str(sums), threads=1, calls=120, warmup=0, profiled=False)
    opened.clear()
    monkeypatch.setattr(OrtSession, "run", slow)
    found = bench(str(sums), threads=1, calls=121, sessions=6, warmup=1, profiled=False)
    assert len(opened) == 12
    part = found.series["part"]
    assert [part.count(number) for number in range(6)] == [21, 20, 20, 20, 20, 20]
    assert part == sorted(part)
    assert found.series["start_s"] == sorted(found.series["start_s"])
    assert found.warmup["calls"] == 6
    low, high = found.confidence_ms["p50"]
    assert high - low > 0.3 * found.latency_ms["p50"]
    assert found.confidence_ms["mean"] is not None
    assert found.confidence_ms["p99"] is None  # one call lies beyond it
    assert "part" not in one.series


def test_a_second_load_is_in_the_report(sums):
    command = f"{sys.executable} -c 'import time; time.sleep(60)'"
    found = bench(
        str(sums), threads=1, calls=5, warmup=0, profiled=False, interference=command, sessions=2
    )
    assert found.load["interference"] == f"command: {command}"


def test_a_trace_of_the_timed_calls(sums, tmp_path):
    path = tmp_path / "trace.json"
    bench(str(sums), threads=1, calls=7, warmup=0, trace=path)
    events = json.loads(path.read_text())["traceEvents"]
    assert sum(event["ph"] == "X" and event["name"] == "call" for event in events) == 7
    parts = {event["name"] for event in events if event.get("cat") == "part"}
    assert {"inputs", "camera", "fusion"} <= parts
    assert any(event.get("cat") == "operator" for event in events)


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_measured(sums, tmp_path):
    phases = []
    with pytest.raises(InputError, match="trace .*cannot be written"):
        bench(
            str(sums),
            trace=tmp_path / "none" / "t.json",
            progress=lambda phase, *_: phases.append(phase),
        )
    assert phases == []


def test_a_trace_keeps_what_a_file_holds_until_there_is_a_measurement(sums, tmp_path, monkeypatch):
    path = tmp_path / "trace.json"
    path.write_text("of another day")
    with pytest.raises(mmedge.MMEdgeError):
        bench(str(tmp_path / "none"), calls=5, trace=path)
    assert path.read_text() == "of another day"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call_trace, "write_trace", full)
    kept = []
    with pytest.raises(InputError, match="No space left"):
        bench(str(sums), threads=1, calls=5, warmup=0, profiled=False, trace=path,
              on_report=kept.append)  # fmt: skip
    assert kept[0].latency_ms["count"] == 5
    # The verb shows and writes what was measured, and fails after it.
    out = tmp_path / "r.json"
    done = cli(sums, "--calls", 6, "--threads", 1, "--warmup", 0, "--no-profile",
               "--trace", path, "-o", out, expect=1)  # fmt: skip
    assert isinstance(done.exception, InputError)
    assert "end to end" in done.stdout
    assert mmedge.Report.from_json(out).latency_ms["count"] == 6


def test_an_error_of_the_variants_does_not_lose_the_report(sums, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise BackendError("a variant broke")

    monkeypatch.setattr(sweep_cli, "measure_all", broken)
    out = tmp_path / "r.json"
    done = cli(sums, "--calls", 6, "--threads", 1, "--warmup", 0, "--no-profile",
               "-o", out, verb="sweep", expect=1)  # fmt: skip
    assert isinstance(done.exception, BackendError)
    assert "end to end" in done.stdout
    assert mmedge.Report.from_json(out).variants == []


def test_a_cold_start_does_not_verify_the_variant(sums, monkeypatch, capsys):
    # Verifying would be in the time of loading, and make the first call before it is timed.
    asked = []

    def opened(*args, **options):
        asked.append(options)
        return mmedge.load(*args, **options)

    monkeypatch.setattr(coldstart, "load", opened)
    request = {"path": str(sums), "variant": "ort-fp32-cpu", "plan": "cut"}
    request |= {"threads": 1, "calls": 1, "options": None}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    coldstart.child(time.monotonic_ns())
    assert len(json.loads(capsys.readouterr().out)["times"]) == 5
    assert asked == [{"plan": "cut", "threads": 1, "allow_unverified": True}]


class Watched:
    """A monitor's record of one session: samples at some MHz, and what the cores' time went to."""

    def __init__(self, *mhz, others=0.1, source="scaling_cur_freq"):
        self.mhz, self.others, self.source = mhz, others, source

    def record(self):
        share = {"busy": 0.5 + self.others, "own": 0.5, "others": self.others, "steal": 0.0}
        during = [
            {"at_s": float(at), "frequency_mhz": {"mean": mhz, "min": mhz, "max": mhz}}
            for at, mhz in enumerate(self.mhz)
        ]
        return {
            "before": {"frequency_source": self.source},
            "during": during,
            "after": {"cpu_share": share},
            "throttled": "unknown: too few samples",
            "sampling": {
                "period_s": 0.5, "taken": len(self.mhz), "kept": len(self.mhz),
                "cpu_share": 0.001, "watched": ["cgroup quota"],
            },
        }  # fmt: skip


def watched(*monitors, seconds=(1, 3)):
    none = array("q")
    return record(
        [
            TimedSession(Series(none, none, none, none, 0, round(s * 1e9)), {}, None, monitor)
            for s, monitor in zip(seconds, monitors, strict=True)
        ]
    )


def test_what_was_seen_in_all_sessions_counts():
    found = watched(Watched(3000, 3000, others=0.4), Watched(2000, 2000, others=0.0))
    # By their length: 1 s and 3 s.
    assert found["after"]["cpu_share"] == pytest.approx(
        {"busy": 0.6, "own": 0.5, "others": 0.1, "steal": 0.0}
    )
    assert found["throttled"] == (
        "over all sessions the CPU's frequency fell from 3000 to 2000 MHz"
    )
    assert found["sampling"] == {
        "period_s": 0.5, "taken": 4, "kept": 4, "cpu_share": pytest.approx(0.001),
        "watched": ["cgroup quota", "CPU frequency"],
    }  # fmt: skip
    assert [sample["at_s"] for sample in found["during"]] == [0, 1, 1, 2]
    assert watched(Watched(3000, 3000), Watched(3000, 2900))["throttled"] is None
    # A nominal frequency shows nothing, nor do few samples.
    nominal = [Watched(3000, 3000, source="cpuinfo (nominal)"), Watched(2000, 2000)]
    for few in (nominal, [Watched(3000), Watched(2000)]):
        assert watched(*few)["throttled"] == "unknown: too few samples"


def test_warm_up_goes_on_until_latency_is_steady(sums):
    found = bench(str(sums), threads=1, calls=5, profiled=False)
    assert found.warmup["calls"] >= 80
    assert "medians" in found.warmup["rule"]


def cli(*words, verb="bench", expect=0):
    done = CliRunner().invoke(build_app(), [verb, *map(str, words)])
    assert done.exit_code == expect, (done.output, done.exception)
    return done


def test_the_verb_shows_every_section_and_writes_every_file(sums, tmp_path):
    files = [tmp_path / name for name in ("r.json", "r.html", "t.json")]
    done = cli(
        sums, "--calls", 120, "--threads", 1, "--deadline", 5, "--interference", "cpu:1",
        "--output", files[0], "--html", files[1], "--trace", files[2],
    )  # fmt: skip
    for word in (
        "95 % interval", "residual", "operators:", "jitter", "deadline of 5 ms", "warm-up",
        "cold start", "energy", "throttled", "cpu: 1 busy process",
    ):  # fmt: skip
        assert word in done.stdout, word
    report = mmedge.Report.from_json(files[0])
    assert report.deadline["ms"] == 5
    assert files[1].read_text().startswith("<!")
    assert json.loads(files[2].read_text())["traceEvents"]


def test_all_variants(sums, tmp_path):
    path = tmp_path / "r.json"
    done = cli(
        sums, "--calls", 30, "--warmup", 0, "--threads", 1, "--no-profile", "-o", path, verb="sweep"
    )
    report = mmedge.Report.from_json(path)
    assert [row["variant"] for row in report.variants] == ["ort-fp32-cpu"]
    assert report.recommended["variant"] == "ort-fp32-cpu"
    assert "recommended" in done.stdout


def test_a_stream(tmp_path):
    bundle = make_streaming(tmp_path / "bundle")
    path = tmp_path / "r.json"
    done = cli(bundle, "--trigger", "camera", "--seconds", 1, "--warmup", 0,
               "--threads", 1, "--interference", "cpu:1", "-o", path, verb="replay")  # fmt: skip
    report = mmedge.Report.from_json(path)
    assert report.load["mode"] == "stream"
    assert report.load["interference"].startswith("cpu: 1 busy process")
    assert "camera" in report.ages_ms
    assert "age of what results used" in done.stdout


def test_a_stream_without_a_rate_says_when_samples_come(report, capsys):
    # Where any modality triggers there is no one rate.
    load = {**report.load, "kind": "rate", "mode": "stream", "rate_hz": None}
    bench_tables.show(replace(report, load=load))
    shown = " ".join(capsys.readouterr().out.split())
    assert "200 calls, golden samples at their nominal rates, latency in ms" in shown


@pytest.mark.parametrize(
    ("verb", "words", "match"),
    [
        ("bench", ("--calls", 5, "--seconds", 1), "--calls and --seconds"),
        ("bench", ("--rate", 5, "--gap", 1), "--rate and --gap"),
        ("bench", ("--warmup", "some"), "a number of calls or auto"),
        ("bench", ("--trigger", "camera"), "No such option: --trigger"),
        ("bench", ("--calls", 5, "--sessions", 6), "expected 6 or more"),
        ("sweep", ("--calls", 5), "expected 6 or more"),
        ("sweep", ("--interference", "cpu:1"), "No such option: --interference"),
        ("sweep", ("--rate", 5), "No such option: --rate"),
        ("replay", (), "needed, but for the dump of a flight recorder"),
        ("replay", ("--trigger", "nan"), "a rate above 0 Hz"),
        ("replay", ("--trigger", "camera", "--rate", 5), "No such option: --rate"),
        ("replay", ("r", "--trigger", "any", "--seconds", 1), "--seconds cannot be given"),
        ("replay", ("--trigger", "any", "--skip-gaps"), "--skip-gaps cannot be given"),
        ("replay", ("--trigger", "any", "--no-skip-gaps"), "--skip-gaps cannot be given"),
    ],
)
def test_misuse(sums, verb, words, match):
    done = cli(sums, *words, verb=verb, expect=2)
    # The box that typer draws wraps its lines.
    assert match in " ".join(done.stderr.replace("│", " ").split())
