"""Sample reports, realistic in shape: drifting latency with bursts, parts that add up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mmedge.bench.report.report import Report

SUMMARY = ("count", "mean", "std", "min", "p50", "p90", "p99", "p99_9", "max")
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
KEPT = 20_000
#: Share of a call's latency by part; the residual is what is left.
SHARES = {"inputs": 0.03, "camera": 0.52, "mic": 0.11, "fusion": 0.31, "outputs": 0.015}
OPERATORS = (
    ("camera", "backbone.layer3", "Conv", 18, 0.44),
    ("camera", "backbone.layer2", "Conv", 12, 0.27),
    ("camera", "backbone.stem", "Conv", 1, 0.12),
    ("camera", "backbone.layer3", "Relu", 17, 0.09),
    ("camera", "pool", "GlobalAveragePool", 1, 0.08),
    ("mic", "encoder.rnn", "GRU", 1, 0.71),
    ("mic", "encoder.mel", "MatMul", 2, 0.29),
    ("fusion", "cross.attention", "MatMul", 8, 0.52),
    ("fusion", "cross.attention", "Softmax", 4, 0.24),
    ("fusion", "head", "Gemm", 2, 0.24),
)


def sample(seed=0, scale=1.0, calls=1000, **changes):
    """A one-shot, closed-loop report; ``scale`` slows everything, ``changes`` replace keys."""
    rng = np.random.default_rng(seed)
    latency = scale * _latency(rng, calls)
    start = np.concatenate([[0.0], np.cumsum(latency[:-1] + 0.02)]) / 1e3
    kept = np.unique(np.linspace(0, calls - 1, min(calls, KEPT)).round().astype(int))
    parts = {
        name: latency * share * rng.uniform(0.97, 1.0, calls) for name, share in SHARES.items()
    }
    parts["residual"] = latency - sum(parts.values())
    seconds = float(start[-1] + latency[-1] / 1e3)
    stages = {name: summary(values) for name, values in parts.items()}
    profiled = {stage: 0.93 * stages[stage]["mean"] for stage in ("camera", "mic", "fusion")}
    report = Report(
        bundle={"name": "robot-vqa", "manifest_sha256": f"{seed:02x}" * 32},
        variant="ort-int8-cpu",
        load={
            "kind": "closed",
            "mode": "one-shot",
            "calls": calls,
            "seconds": None,
            "threads": 4,
            "inputs": "16 golden samples in turn",
            "rate_hz": None,
            "gap_ms": None,
            "recording": None,
            "interference": None,
            "beside": None,
        },
        warmup={
            "calls": 80,
            "settled": True,
            "rule": "medians of two blocks of 20 calls in a row differ by less than 2 %",
        },
        latency_ms=summary(latency),
        confidence_ms=_confidence(rng, latency),
        jitter_ms={
            "std": float(latency.std()),
            "mean_step": float(np.abs(np.diff(latency)).mean()) if calls > 1 else 0.0,
            "p99_less_p50": None
            if calls < 100
            else summary(latency)["p99"] - summary(latency)["p50"],
        },
        deadline=_deadline(latency, 20.0 * scale),
        throughput_hz=calls / seconds,
        series={
            "start_s": [float(value) for value in start[kept]],
            "latency_ms": [float(value) for value in latency[kept]],
            "kept": len(kept),
            "of": calls,
        },
        cold_start_ms=scale * 612.0,
        cold_start_parts_ms={
            "interpreter": scale * 38.0,
            "import": scale * 171.0,
            "load": scale * 352.0,
            "samples": scale * 22.0,
            "first_call": scale * 29.0,
        },
        first_call_ms=scale * 27.4,
        peak_memory_bytes=214_958_080,
        stages=stages,
        operators=_operators(profiled),
        operators_unexplained={
            "words": "what the backend does between two operators",
            "stages": {
                stage: {"profiled_ms": profiled[stage], "stage_ms": stages[stage]["mean"]}
                for stage in profiled
            },
        },
        copies=[
            {"what": "camera", "bytes": 602_112, "why": "rows were not contiguous"},
            {"what": "score", "bytes": 52, "why": "outputs are handed out as arrays of their own"},
        ],
        attention={"fusion": "segmented attention, CPU kernel"},
        accuracy={
            "samples": 16,
            "ok": True,
            "rows": [
                {
                    "output": "score",
                    "max_abs": 0.0131,
                    "max_rel": 0.0044,
                    "atol": 0.05,
                    "rtol": 0.05,
                    "ok": True,
                }
            ],
        },
        metric={"value": 0.912, "name": "accuracy on 512 questions", "drop": 0.004,
                "drop_bound": 0.0098},
        size_bytes=11_534_336,
        device=_device(seconds),
        energy={
            "joules_per_result": 0.118 * scale,
            "watts": 8.4,
            "source": "RAPL package counter, whole processor",
            "missing": None,
        },
    )  # fmt: skip
    return replace(report, **changes)


def stream(seed=0, scale=1.0, calls=1000, **changes):
    """A report of a replayed recording through a stream."""
    rng = np.random.default_rng(seed + 1)
    report = sample(seed, scale, calls)
    load = {**report.load, "kind": "replay", "mode": "stream", "recording": "hall-3.npz",
            "inputs": "samples of the recording at their own times"}  # fmt: skip
    stream_keys = {
        "load": load,
        "ages_ms": {
            "camera": summary(scale * rng.gamma(6.0, 4.0, calls)),
            "mic": summary(scale * rng.gamma(4.0, 2.5, calls)),
            "joints": summary(scale * rng.gamma(2.0, 1.2, calls)),
        },
        "drops": {"camera": {"superseded": 41, "too old": 3}, "mic": {}, "joints": {"nan": 2}},
        "results": {
            "triggers": calls + 12,
            "results": calls,
            "fresh": max(calls - 30, 0),
            "stale": 28,
            "empty": 2,
            "deadline_misses": report.deadline["missed"],
            "superseded": 12,
        },
    }
    return replace(report, **(stream_keys | changes))


def generated(seed=0, steps=48, calls=400, modalities=("camera", "mic"), **changes):
    """A report of a bundle that generates: steady tokens that grow slower, and one call stalls."""
    rng = np.random.default_rng(seed + 2)
    before, prefill = 8.0 + rng.gamma(3.0, 0.3, calls), 5.0 + rng.gamma(3.0, 0.2, calls)
    growth = 1.0 + np.arange(steps - 1) / steps / 3
    times = 2.0 * growth * (1.0 + 0.05 * rng.standard_normal((calls, steps - 1)))
    times[calls // 2, steps // 3] = 60.0
    report = sample(seed, calls=calls)
    first, together = before + prefill, times.sum(axis=1)
    slowest = times[int(together.argmax())]
    small = np.full(calls, 0.05)
    parts = {"inputs": 8 * small, "camera": before - 9 * small, "prefill": prefill,
             "step": together, "outputs": small, "residual": small}  # fmt: skip
    latency = sum(parts.values())
    section = {
        "kind": "generate", "stage": "step", "steps": steps, "rows": 1,
        "first_ms": summary(first),
        "first_confidence_ms": {"p50": [13.9, 14.2], "p99": None},
        "encoders_ms": summary(before), "prefill_ms": summary(prefill),
        "first_cached_ms": summary(0.3 + rng.gamma(3.0, 0.1, 120)),
        "first_cached_by_modality_ms": {
            name: summary(7.0 + 3.0 * i + rng.gamma(3.0, 0.1, 120))
            for i, name in enumerate(modalities)
        },
        "step_ms": summary(times.ravel()),
        "step_confidence_ms": {"p50": [2.31, 2.34], "p99": [2.8, 2.9]},
        "steps_per_s": 1e3 / float(times.mean()),
        "state_bytes": 6_291_456, "real_time_factor": 0.04,
        "by_step": {
            "step": list(range(1, steps)),
            "p50_ms": np.median(times, axis=0).tolist(),
            "p99_ms": np.percentile(times, 99, axis=0).tolist(),
            "max_ms": times.max(axis=0).tolist(),
            "slowest_call_ms": slowest.tolist(),
        },
        "series": {
            "first_ms": first.tolist(), "step_ms": np.median(times, axis=1).tolist(),
            "steps_ms": together.tolist(),
        },
        "blocks": "whole sessions", "not_measured": [],
    }  # fmt: skip
    keys = {
        "stages": {name: summary(values) for name, values in parts.items()},
        "latency_ms": summary(latency), "loop": section, "deadline": None,
        "series": {"start_s": (np.cumsum(latency) / 1e3).tolist(),
                   "latency_ms": latency.tolist(), "kept": calls, "of": calls},
    }  # fmt: skip
    return replace(report, **(keys | changes))


def compared(seed=0, **changes):
    """A report of ``mmedge sweep``: six variants, three of them on the Pareto front."""
    rows = [
        ("ort-fp32-cpu", 4, 24.1, 31.0, 44_040_192, 0.916, True),
        ("ort-fp16-cpu", 4, 25.3, 33.2, 22_020_096, 0.916, False),
        ("ort-int8-cpu", 4, 14.0, 20.6, 11_534_336, 0.912, True),
        ("ort-int8-cpu", 1, 30.2, 36.1, 11_534_336, 0.912, False),
        ("ort-int4-cpu", 4, 11.8, 17.3, 6_815_744, 0.884, False),
        ("trt-int8-sm_87", None, 5.2, 6.0, 13_107_200, 0.905, True),
    ]
    variants = [
        {
            "variant": variant,
            "threads": threads,
            "p50_ms": p50,
            "p50_low_ms": 0.98 * p50,
            "p50_high_ms": 1.03 * p50,
            "p99_ms": p99,
            "throughput_hz": 1e3 / p50,
            "peak_memory_bytes": 4 * size + 120_000_000,
            "size_bytes": size,
            "metric": metric,
            "cold_start_ms": 300.0 + size / 1e5,
            "pareto": pareto,
        }
        for variant, threads, p50, p99, size, metric, pareto in rows
    ]
    recommended = {
        "variant": "ort-int8-cpu",
        "threads": 4,
        "why": "the fastest whose metric drop is bounded by 0.01",
    }
    return sample(seed, **({"variants": variants, "recommended": recommended} | changes))


def summary(values):
    """The keys of a summary, with percentiles that the count can carry."""
    ordered = np.sort(np.asarray(values, float))
    count = len(ordered)
    found = {"count": count, "mean": float(ordered.mean()), "std": float(ordered.std()),
             "min": float(ordered[0])}  # fmt: skip
    for key, q in PERCENTILES.items():
        enough = round(count * (100 - q) / 100, 9) >= 1
        rank = int(np.ceil(round(count * q / 100, 9)))
        found[key] = float(ordered[max(rank, 1) - 1]) if enough else None
    return {**found, "max": float(ordered[-1])}


def _latency(rng, calls):
    """Milliseconds: a right-skewed body, slow drift, a slower stretch and rare preemptions."""
    body = 13.0 + rng.gamma(3.0, 0.45, calls)
    drift = 0.4 * np.sin(np.linspace(0, 7, calls))
    at = np.linspace(0, 1, calls)
    slower = np.where((at > 0.6) & (at < 0.72), 2.6, 0.0)
    preempted = np.where(rng.random(calls) < 0.006, rng.gamma(4.0, 2.0, calls), 0.0)
    return body + drift + slower + preempted


def _confidence(rng, latency):
    found = {}
    for key in (*PERCENTILES, "mean"):
        value = summary(latency)[key]
        half = {"p50": 0.01, "mean": 0.01, "p90": 0.02, "p99": 0.05, "p99_9": 0.12}.get(key)
        found[key] = None if value is None else [value * (1 - half), value * (1 + half)]
    return found


def _deadline(latency, limit):
    missed = latency > limit
    longest = run = 0
    for miss in missed:
        run = run + 1 if miss else 0
        longest = max(longest, run)
    return {
        "ms": limit,
        "missed": int(missed.sum()),
        "rate": float(missed.mean()),
        "longest_run": longest,
    }


def _operators(profiled):
    rows = [
        {"stage": stage, "module": module, "op": op, "calls": calls,
         "ms": share * profiled[stage], "share": share}
        for stage, module, op, calls, share in OPERATORS
    ]  # fmt: skip
    return sorted(rows, key=lambda row: -row["ms"])


def _device(seconds):
    """What the machine's monitor records, with a stretch at a lower clock."""

    def state(load, temperature, throttled):
        return {
            "governors": ["schedutil"],
            "frequency_mhz": [2200.0] * 6,
            "frequency_source": "scaling_cur_freq",
            "temperature_c": {"cpu-thermal": temperature, "gpu-thermal": temperature - 2.5},
            "cooling": {"cpufreq-cpu0": 0},
            "load_average": [load, load, load],
            "threads": 9,
            "memory_available_bytes": 4_123_456_789,
            "swap_used_bytes": 0,
            "cgroup_throttled": {"periods": throttled, "seconds": 0.0},
            "thermal_throttle": None,
            "gpus": [],
            "jetson": {"power_mode": {"id": 0, "name": "MAXN"}, "rails_w": {"VDD_IN": 8.4}},
        }

    def during(share):
        slow = 0.6 < share < 0.72
        fastest = 1500.0 if slow else 2200.0
        return {
            "at_s": float(share * seconds),
            "frequency_mhz": {"mean": fastest - 60.0, "min": fastest - 220.0, "max": fastest},
            "temperature_c": {"cpu-thermal": 50 + 14 * share, "gpu-thermal": 47 + 12 * share},
            "power_w": {"VDD_IN": 6.9 if slow else 8.7 + share % 0.1},
            "load": {"busy": 0.71, "own": 0.69, "others": 0.02, "steal": 0.0},
            "gpu": {},
            "cooling": {"cpufreq-cpu0": 3} if slow else {},
        }

    return {
        "name": "Jetson Orin Nano",
        "cpu": "ARMv8 Cortex-A78AE",
        "board": "NVIDIA Jetson Orin Nano Developer Kit",
        "machine": "aarch64",
        "system": "Linux 5.15.148-tegra",
        "realtime_kernel": False,
        "virtual": False,
        "container": None,
        "python": "3.11.7",
        "cores": 6,
        "affinity": "0-5",
        "memory_bytes": 7_990_173_696,
        "governor": "schedutil",
        "gpus": ["Orin"],
        "libraries": {"mmedge": "0.1.0", "numpy": "2.4.6", "onnxruntime": "1.32.0"},
        "commit": None,
        **state(0.31, 47.0, 0),
        "before": state(0.31, 47.0, 0),
        "during": [during(float(share)) for share in np.linspace(0, 1, 41)],
        "after": {
            **state(1.05, 63.5, 0),
            "cpu_share": {"busy": 0.71, "own": 0.69, "others": 0.02, "steal": 0.0},
        },
        "throttled": "the processor's frequency fell to 1500 MHz of 2200 MHz in 5 of 41 samples",
        "sampling": {
            "period_s": 0.5,
            "taken": 41,
            "kept": 41,
            "cpu_share": 0.0007,
            "watched": ["CPU frequency", "cooling devices"],
        },
    }
