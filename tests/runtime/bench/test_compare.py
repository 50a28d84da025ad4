"""Comparisons claim what the runs show and no more; gates; the Pareto front and recommendations."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import reports
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.bench import replay, sweep
from mmedge.bench.report.compare import compare
from mmedge.bench.report.gates import parse_gate
from mmedge.bench.stats.resample import LEAST_CALLS, Spread, half_width, misses, spreads
from mmedge.bench.stats.summary import percentile
from mmedge.bench.sweep import pareto, recommend
from mmedge.bundle import Bundle
from mmedge.errors import AccuracyError, InputError, NoVariantError
from mmedge.recording.pace import Pace


def simulated(rng, scale=1.0, *, sessions=10, calls=100, between=0.005, memory=0.5, spread=0.1):
    """A series of several sessions, autocorrelated within and shifted between them."""
    z = rng.normal(size=(sessions, calls))
    for call in range(1, calls):
        z[:, call] = memory * z[:, call - 1] + math.sqrt(1 - memory**2) * z[:, call]
    shift = between * rng.normal(size=(sessions, 1))
    latency = (10 * scale * np.exp(spread * z + shift)).ravel()
    return {
        "start_s": (np.cumsum(latency) / 1e3).tolist(),
        "latency_ms": latency.tolist(),
        "part": np.repeat(np.arange(sessions), calls).tolist(),
        "kept": latency.size,
        "of": latency.size,
    }


def steady(seed, scale=1.0, **changes):
    """A report of a run on a quiet machine, in sessions: 5 % from call to call, 0.3 % between."""
    series = simulated(np.random.default_rng(seed), scale, between=0.003, spread=0.05)
    latency = series["latency_ms"]
    report = reports.sample(0)
    return replace(
        report,
        series=series,
        latency_ms=reports.summary(latency),
        throughput_hz=1e3 / float(np.mean(latency)),
        deadline=reports._deadline(np.array(latency), 12.0),
        **changes,
    )


def row(found, name):
    return next(row for row in found.rows if row.name == name)


def log_ratio(a, b, q):
    return math.log(percentile(b["latency_ms"], q) / percentile(a["latency_ms"], q))


# Statistics


def test_intervals_of_null_pairs_hold_the_truth():
    # 95 % of them should; of 40, a binomial of 0.95 is below 34 in three cases of 1000.
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(40):
        a, b = simulated(rng, between=0.02), simulated(rng, between=0.02)
        half = half_width(spreads(a, seed=1)["p50"], spreads(b, seed=2)["p50"])
        hits += abs(log_ratio(a, b, 50)) <= half
    assert hits >= 34


def test_one_session_cannot_show_what_differs_between_sessions():
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(30):
        a, b = (simulated(rng, sessions=1, calls=1000, between=0.02) for _ in range(2))
        half = half_width(spreads(a, seed=1)["p50"], spreads(b, seed=2)["p50"])
        hits += abs(log_ratio(a, b, 50)) <= half
    assert hits <= 24


def test_long_blocks_bear_strong_autocorrelation():
    # Blocks of n^(1/3) calls hold the truth in 79 % of such pairs.
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(40):
        a, b = (simulated(rng, sessions=1, calls=1000, memory=0.9) for _ in range(2))
        half = half_width(spreads(a, seed=1)["p50"], spreads(b, seed=2)["p50"])
        hits += abs(log_ratio(a, b, 50)) <= half
    assert hits >= 33


def test_a_small_count_is_not_resampled():
    series = simulated(np.random.default_rng(0), sessions=1, calls=LEAST_CALLS - 1)
    assert spreads(series) == {}
    assert misses(series, 10.0) is None
    series = simulated(np.random.default_rng(0), sessions=1, calls=99)
    assert set(spreads(series)) == {"p50", "p90", "mean", "throughput"}


def test_no_miss_is_no_proof_of_none():
    series = simulated(np.random.default_rng(0))
    spread = misses(series, 1e6)
    assert 0.5 / 1000 < spread.error < 3 / 1000


def test_sessions_far_apart_do_not_count_as_slow_calls():
    series = simulated(np.random.default_rng(0))
    start = np.array(series["start_s"]) + 100.0 * np.array(series["part"])
    apart = {**series, "start_s": start.tolist()}
    assert spreads(apart)["throughput"].error < 2 * spreads(series)["mean"].error


@given(
    scale=st.floats(0.001, 1000.0),
    count=st.integers(LEAST_CALLS, 300),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=15)
def test_the_unit_of_time_does_not_matter(scale, count, seed):
    series = simulated(np.random.default_rng(seed), sessions=1, calls=count)
    scaled = {
        **series,
        "latency_ms": [scale * value for value in series["latency_ms"]],
        "start_s": [scale * value for value in series["start_s"]],
    }
    for key, spread in spreads(series).items():
        assert spreads(scaled)[key].error == pytest.approx(spread.error, rel=1e-3, abs=1e-9)


def test_student():
    # From a table of t at 97.5 %.
    for degrees, t in ((4, 2.7764), (9, 2.2622), (30, 2.0423)):
        assert half_width(Spread(1.0, degrees)) == pytest.approx(t, rel=1e-3)
    assert half_width(Spread(0.0, 9), Spread(0.0, 9)) == 0.0


# Comparison


def test_a_slower_run_is_shown_to_be_slower():
    found = compare(steady(1), steady(2, 1.05))
    for name in ("p50", "mean", "throughput"):
        assert row(found, name).verdict == "slower"
        low, high = row(found, name).ratio_95
        truth = 1 / 1.05 if name == "throughput" else 1.05
        assert low < truth < high
    assert row(found, "deadline").verdict == "worse"
    back = compare(steady(2, 1.05), steady(1))
    assert row(back, "p50").verdict == row(back, "throughput").verdict == "faster"
    assert row(back, "deadline").verdict == "better"


def test_a_null_change_is_not_shown():
    found = compare(steady(1), steady(2))
    for name in ("p50", "p90", "p99", "p99.9", "mean", "throughput", "deadline"):
        assert row(found, name).verdict == "no difference shown"


def test_what_cannot_be_resampled_says_so():
    found = compare(reports.sample(0), reports.sample(1, calls=50))
    assert row(found, "p50").ratio_95 is not None
    assert row(found, "p99").ratio_95 is None
    assert row(found, "p99").note == "B cannot give it"
    for name in ("memory", "cold_start", "energy", "stage camera p50"):
        assert row(found, name).verdict == "not shown"
        assert row(found, name).note == "one number a report"
    assert row(found, "size").verdict == row(found, "metric").verdict == "same"
    empty = {"start_s": [], "latency_ms": [], "kept": 0, "of": 0}
    found = compare(reports.sample(0), reports.sample(1, series=empty))
    assert row(found, "p50").ratio == pytest.approx(1, abs=0.1)
    assert "too few calls" in row(found, "p50").note


def test_different_deadlines_are_not_compared():
    other = reports.sample(1, deadline={"ms": 5.0, "missed": 0, "rate": 0.0, "longest_run": 0})
    found = row(compare(reports.sample(0), other), "deadline")
    assert (found.a, found.b, found.note) == (None, None, "the deadlines are 20 ms and 5 ms")


def test_a_deadline_of_a_stream_has_no_interval_of_its_fresh_results():
    for a, b in ((reports.stream(0), reports.stream(1)), (reports.sample(0), reports.stream(1))):
        found = row(compare(a, b), "deadline")
        assert (found.a, found.b) == (a.deadline["rate"], b.deadline["rate"])
        assert (found.difference_95, found.verdict) == (None, "not shown")
        assert "fresh results alone" in found.note
        with pytest.raises(InputError, match="deadline cannot be judged: .*fresh results alone"):
            compare(a, b, [parse_gate("deadline=0.01")])


def loaded(inputs):
    report = reports.sample(0)
    return replace(report, load={**report.load, "inputs": inputs})


def test_how_a_run_went_is_no_difference_of_load():
    source = SimpleNamespace(name="a; b", bundle="robot", missing="")
    paces = [Pace(900, 17, 1234.5, 30.0), Pace(900, 0, 0.0, 30.0)]
    late, kept = (replay._words(source, "camera", SimpleNamespace(pace=pace)) for pace in paces)
    assert late != kept
    assert "DIFFERENT" not in "".join(compare(loaded(late), loaded(kept)).remarks)
    other = replay._words(source, "lidar", SimpleNamespace(pace=paces[0]))
    assert "inputs is recording 'a; b'" in "".join(compare(loaded(late), loaded(other)).remarks)


@pytest.mark.parametrize(
    ("a", "b", "told"),
    [
        ("", "; 1 arrivals not answered when the run ended", ""),
        (
            "; 1 arrivals not answered when the run ended",
            "; OVERLOADED: 50 arrivals not answered when the run ended",
            "B was OVERLOADED: 50 arrivals not answered when the run ended; latency grows",
        ),
        (
            "; OVERLOADED: 9 arrivals still waited when the last fell due",
            "",
            "A was OVERLOADED: 9 arrivals still waited when the last fell due; latency grows",
        ),
    ],
)
def test_an_overload_is_told_and_is_no_difference_of_load(a, b, told):
    golden = "16 golden samples in turn"
    remarks = "\n".join(compare(loaded(golden + a), loaded(golden + b)).remarks)
    assert "DIFFERENT" not in remarks
    assert told in remarks
    assert ("OVERLOADED" in remarks) == bool(told)


def test_two_different_things_are_told_loudly():
    a = reports.sample(0)
    assert not [text for text in compare(a, a).remarks if "DIFFERENT" in text]
    b = replace(
        a,
        load={**a.load, "kind": "rate", "rate_hz": 30.0},
        bundle={"name": "other", "manifest_sha256": "00"},
        variant="ort-fp32-cpu",
        device={**a.device, "cpu": "another"},
    )
    words = "\n".join(compare(a, b).remarks)
    for part in (
        "DIFFERENT LOAD: kind is closed in A and rate in B",
        "DIFFERENT BUNDLES: A is robot-vqa, B is other",
        "DIFFERENT MACHINES",
        "ort-int8-cpu",
    ):
        assert part in words


def test_what_may_explain_a_difference():
    a = reports.sample(0)
    quiet = {**a.device, "throttled": None}
    busy = {"at_s": 0.5, "frequency_mhz": {"mean": 1200.0}, "load": {"others": 0.6, "steal": 0.1}}
    before = {**quiet["before"], "load_average": [3.0, 0, 0], "memory_available_bytes": 1}
    libraries = {**quiet["libraries"], "onnxruntime": "1.31.0"}
    device = {
        **quiet,
        "boost": True,
        "libraries": libraries,
        "before": before,
        "during": [busy],
        "throttled": "unknown: nothing can be read",
    }
    told = compare(replace(a, device=quiet), replace(a, device=device))
    assert "boost: None in A, True in B" in told.explanations
    assert "libraries.onnxruntime: 1.32.0 in A, 1.31.0 in B" in told.explanations
    assert "before.load_average: 0.31 in A, 3 in B" in told.explanations
    for name in ("during.frequency_mhz.mean", "during.load.others"):
        assert any(text.startswith(name) for text in told.explanations)
    assert not [text for text in told.explanations if "memory_available" in text]
    assert not [text for text in told.explanations if "throttled:" in text]
    assert [text for text in told.remarks if "B was measured beside other work" in text]
    assert not [text for text in told.remarks if "A was measured beside" in text]
    same = compare(replace(a, device=quiet), replace(a, device=quiet))
    assert same.explanations == ()
    throttled = compare(a, a).explanations
    assert throttled[0].startswith("A was throttled: the processor's frequency")


def test_a_comparison_is_plain_data():
    found = compare(reports.sample(0), reports.stream(1), [parse_gate("memory=1%")])
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["gates"][0]["gate"] == "memory=1%"
    assert {"p50", "energy", "stage fusion p50"} <= {row["name"] for row in data["rows"]}


# Gates


@pytest.mark.parametrize(
    ("text", "name", "limit", "relative"),
    [
        ("p99=5%", "p99", 0.05, True),
        ("p99_9 = 5 %", "p99.9", 0.05, True),
        ("p50=0.2ms", "p50", 0.2, False),
        ("p50=200us", "p50", 0.2, False),
        ("throughput=2Hz", "throughput", 2.0, False),
        ("metric=0.5", "metric", 0.5, False),
        ("metric=1%", "metric", 0.01, True),
        ("deadline=0.01", "deadline", 0.01, False),
        ("memory=1MiB", "memory", 2**20, False),
        ("stage camera p50=10%", "stage camera p50", 0.1, True),
    ],
)
def test_gates_are_read(text, name, limit, relative):
    gate = parse_gate(text)
    assert (gate.name, gate.limit, gate.relative) == (name, pytest.approx(limit), relative)


@pytest.mark.parametrize(
    "text",
    ["", "p50", "p50=", "p50=5", "p50=-1%", "p50=5J", "p50=nan%", "deadline=1%", "p77=1%", "=1%"],
)
def test_gates_that_cannot_be_read_are_named_with_examples(text):
    with pytest.raises(InputError) as error:
        parse_gate(text)
    assert repr(text) in str(error.value)
    assert "examples: p99=5%" in str(error.value)


@given(text=st.text(max_size=20))
def test_any_text_is_a_gate_or_an_input_error(text):
    try:
        gate = parse_gate(text)
    except InputError:
        return
    assert gate.limit >= 0.0


def test_a_gate_finds_five_percent_and_no_null_change():
    gate = parse_gate("p50=3%")
    for seed in range(20):
        base = steady(100 + seed)
        assert not compare(base, steady(200 + seed, 1.05), [gate]).ok
        assert compare(base, steady(300 + seed), [gate]).ok


def test_a_gate_is_kept_when_nothing_is_shown():
    # Two runs of much noise: the estimate is past the limit, and the interval holds 1.
    rng = np.random.default_rng(0)
    for seed in range(50):
        latency = 10 * np.exp(0.5 * rng.normal(size=40))
        series = {"start_s": list(range(40)), "latency_ms": latency.tolist(), "kept": 40, "of": 40}
        noisy = reports.sample(seed, series=series, latency_ms=reports.summary(latency))
        found = compare(steady(1), noisy, [parse_gate("p50=3%")])
        p50 = row(found, "p50")
        if p50.ratio > 1.03 and p50.ratio_95[0] < 1:
            assert found.ok
            assert "no worsening shown; up to" in found.gates[0].why
            assert "cannot be excluded" in found.gates[0].why
            return
    pytest.fail("no such pair was drawn")


def test_how_far_a_kept_gate_can_be_off():
    found = compare(steady(1), steady(2), [parse_gate(f"{name}=0.01%") for name in ("p50", "mean")])
    for outcome, name in zip(found.gates, ("p50", "mean"), strict=True):
        high = row(found, name).ratio_95[1]
        assert high > 1.0001
        assert f"up to {100 * (high - 1):.3g} % worse cannot be excluded" in outcome.why
    wide = compare(steady(1), steady(2), [parse_gate("p50=50%"), parse_gate("throughput=9Hz")])
    assert not [outcome for outcome in wide.gates if "excluded" in outcome.why]


def test_exact_figures_and_single_numbers_are_judged_by_the_number():
    a = reports.sample(0)
    b = replace(a, metric={**a.metric, "value": 0.905}, peak_memory_bytes=2 * a.peak_memory_bytes)
    for text, broken in (
        ("metric=0.005", True),
        ("metric=0.01", False),
        ("size=0%", False),
        ("memory=50%", True),
        ("memory=100%", False),
        ("cold_start=0ms", False),
    ):
        assert compare(a, b, [parse_gate(text)]).gates[0].broken is broken
    assert "no confidence" in compare(a, b, [parse_gate("memory=1%")]).gates[0].why


@pytest.mark.parametrize("text", ["p99=5%", "metric=0.5", "stage nose p50=1%", "energy=1J"])
def test_a_gate_that_cannot_be_judged_is_no_pass(text):
    few = reports.sample(0, calls=50, metric=None, energy={"joules_per_result": None})
    with pytest.raises(InputError, match="gate"):
        compare(few, few, [parse_gate(text)])


# All variants

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "variant": st.sampled_from(["a", "b", "c"]),
            "plan": st.sampled_from(["cut", "whole"]),
            "threads": st.sampled_from([1, 2, None]),
            "p50_ms": st.sampled_from([1.0, 2.0, 3.0]),
            "p99_ms": st.sampled_from([3.0, 4.0, 5.0]) | st.none(),
            "p99_high_ms": st.sampled_from([5.0, 6.0]) | st.none(),
            "metric": st.sampled_from([0.8, 0.9]) | st.none(),
            "size_bytes": st.integers(1, 3),
            "peak_memory_bytes": st.integers(1, 3),
        }
    ),
    min_size=1,
    max_size=8,
)


@given(rows=ROWS)
def test_the_front_is_not_empty_and_nothing_on_it_is_dominated(rows):
    key = "p50_ms" if any(row["p99_ms"] is None for row in rows) else "p99_ms"
    front = pareto(rows)
    assert any(front)

    def dominates(x, y):
        points = [
            (row[key], -1.0 * (-1 if row["metric"] is None else row["metric"]), row["size_bytes"])
            for row in (x, y)
        ]
        return points[0] != points[1] and all(p <= q for p, q in zip(*points, strict=True))

    for own, on in zip(rows, front, strict=True):
        assert on == (not any(dominates(other, own) for other in rows))
        if not on:
            stronger = [other for other, kept in zip(rows, front, strict=True) if kept]
            assert any(dominates(other, own) for other in stronger)


@given(rows=ROWS, deadline=st.sampled_from([None, 2.0, 4.0, 5.0, 7.0]))
def test_what_is_recommended_meets_the_deadline_and_none_is_more_accurate(rows, deadline):
    found = recommend(rows, deadline)

    def worst(row):
        return row["p99_high_ms"] if row["p99_ms"] else None

    meeting = [row for row in rows if deadline is None or (worst(row) and worst(row) <= deadline)]
    if not meeting:
        assert found["variant"] is None
        assert "none meets" in found["why"]
        return
    best = max(-1 if row["metric"] is None else row["metric"] for row in meeting)
    assert any(
        all(row[key] == found[key] for key in ("variant", "plan", "threads"))
        and (-1 if row["metric"] is None else row["metric"]) == best
        for row in meeting
    )


def test_reasons_are_told():
    rows = [
        {"variant": name, "plan": "cut", "threads": 1, "p50_ms": p99 / 2, "p99_ms": p99,
         "p99_high_ms": p99 + 1,
         "metric": metric, "size_bytes": 1, "peak_memory_bytes": 1}
        for name, p99, metric in (("exact", 20.0, 0.9), ("good", 9.0, 0.89), ("quick", 4.0, 0.8))
    ]  # fmt: skip
    assert recommend(rows, None)["variant"] == "exact"
    found = recommend(rows, 10.0)
    assert found["variant"] == "good"
    assert found["why"] == ("the most accurate that meets 10 ms at p99 (up to 10 ms), metric 0.89")
    assert recommend(rows, 9.5)["variant"] == "quick"
    assert (
        "the nearest, quick, cut with 1 threads, has a p99 of up to 5 ms"
        in recommend(rows, 2)["why"]
    )
    with pytest.raises(ValueError, match="nothing was measured"):
        recommend([], None)
    # Without an interval of its p99 nothing can be said to meet a deadline.
    wide = [{**row, "p99_high_ms": None} for row in rows]
    assert recommend(wide, 1e3)["variant"] is None
    assert "too few calls for the interval of a p99; make 500 or more" in recommend(wide, 9)["why"]
    rows[2]["metric"] = None
    assert recommend(rows, 10.0)["why"] == (
        "the most accurate of those that state a metric, and meets 10 ms at p99 (up to 10 ms), "
        "metric 0.89"
    )
    assert recommend(rows, 6.0)["why"] == (
        "none that states a metric meets the deadline: the fastest that meets 6 ms at p99 "
        "(up to 5 ms)"
    )


@pytest.mark.parametrize(("calls", "known"), [(480, False), (500, True)])
def test_a_p99_that_rests_on_few_calls_has_no_interval(calls, known, two_variants, monkeypatch):
    cold = sweep.coldstart.ColdStart(1.0, {}, 1)
    monkeypatch.setattr(sweep.coldstart, "measure", lambda *_, **__: cold)
    with Bundle.open(two_variants) as bundle:
        chosen = sweep._Combination(bundle.manifest.variants[0], "whole", 1, seconds=1.0)
    series = simulated(np.random.default_rng(0), calls=calls // 10)
    chosen.start_s, chosen.latency_ms = series["start_s"], series["latency_ms"]
    chosen.part = series["part"]
    found = sweep._row(two_variants, chosen, 1, None)
    assert found["p99_ms"] is not None
    assert (found["p99_high_ms"] is not None) is known


@pytest.fixture(scope="module")
def two_variants(tiny, tmp_path_factory):
    """The tiny bundle with its variant twice, once under another precision and with a metric."""
    own = tiny.manifest.variants[0]
    small = replace(own, precision="int8", metrics={"metric": 0.89, "metric_drop": 0.01})
    path = tmp_path_factory.mktemp("two") / "two"
    manifest = replace(tiny.manifest, variants=(own, small))
    Bundle.write(path, manifest, tiny.files, samples=tiny.samples).close()
    return str(path)


def test_all_combinations_of_a_bundle(two_variants):
    told = []
    rows, advice = sweep.sweep(
        two_variants,
        threads=[1],
        calls=504,
        deadline_ms=1e5,
        progress=lambda *words: told.append(words),
    )
    assert [(row["variant"], row["plan"], row["threads"]) for row in rows] == [
        ("ort-fp32-cpu", "whole", 1),
        ("ort-int8-cpu", "whole", 1),
    ]
    assert [row["metric"] for row in rows] == [pytest.approx(0.9), 0.89]
    schema = json.loads(
        Path(sweep.__file__).parent.joinpath("report/report.schema.json").read_text()
    )
    item = schema["properties"]["variants"]["items"]
    for row in rows:
        assert set(row) == set(item["properties"])
        assert 0 < row["p50_low_ms"] <= row["p50_ms"] <= row["p50_high_ms"]
        assert row["p50_ms"] <= row["p99_ms"]
        assert row["throughput_hz"] > 0
        assert row["peak_memory_bytes"] > 10 * 2**20
        # The graph and its weights (48 + 5 rows of 2 float32).
        assert 4 * 2 * 53 < row["size_bytes"] < 3000
    assert rows[0]["pareto"] is True
    assert advice["variant"] == "ort-fp32-cpu"
    assert {phase for phase, *_ in told} == {"verify", "measure", "cold start"}
    assert told[-1][1] == told[-1][2]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_a_variant_that_fails_is_left_out_and_named(two_variants, monkeypatch):
    check = sweep._check

    def wrong(path, variant, plan):
        if variant.precision in failing:
            raise AccuracyError("it computes something else")
        check(path, variant, plan)

    monkeypatch.setattr(sweep, "_check", wrong)
    failing = {"int8"}
    rows, advice = sweep.sweep(two_variants, threads=[1], calls=6)
    assert [row["variant"] for row in rows] == ["ort-fp32-cpu"]
    assert "left out: ort-int8-cpu, whole (it computes something else)" in advice["why"]
    failing = {"int8", "fp32"}
    with pytest.raises(AccuracyError, match="something else"):
        sweep.sweep(two_variants, threads=[1], calls=6)


def test_what_cannot_be_measured_is_refused(two_variants):
    with pytest.raises(NoVariantError, match="no variant can run"):
        sweep.sweep(two_variants, backend="tensorrt")
    with pytest.raises(ValueError, match="calls must be"):
        sweep.sweep(two_variants, calls=1)
    with pytest.raises(ValueError, match="threads >= 1"):
        sweep.sweep(two_variants, threads=[0])


def test_the_metric_of_full_precision_is_that_of_a_quantised_variant_and_its_drop(tiny):
    own = tiny.manifest.variants[0]
    small = replace(
        own,
        precision="int8",
        files={"net": "onnx/small.onnx"},
        metrics={"metric": 0.89, "metric_drop": 0.01},
    )
    manifest = replace(tiny.manifest, variants=(own, small))
    assert sweep._metric(own, manifest) == pytest.approx(0.9)
    assert sweep._metric(small, manifest) == 0.89
    assert sweep._metric(own, tiny.manifest) is None
