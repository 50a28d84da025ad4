"""The tables of ``mmedge bench``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.backends.large_pages import NOT_ASKED
from mmedge.bench.machine.neighbours import busy_share, busy_words
from mmedge.cli.console import list_not_checked, number, say, table, warn
from mmedge.cli.draw import size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mmedge.bench.report.loop_sections import LoopIntervals, LoopSection, StreamLoopSection
    from mmedge.bench.report.report import Report
    from mmedge.bench.report.sections import (
        DeviceSection,
        EnergySection,
        Figure,
        LoadSection,
        Summary,
    )

__all__ = ["busy_remarks", "show"]

FIGURES: tuple[Figure, ...] = ("mean", "p50", "p90", "p99", "p99_9", "max")
#: Operators that the table shows; the report has all.
TOP = 10


def show(report: Report) -> None:
    """Every section of a report in short, on stdout; what to beware of, on stderr."""
    title = (
        f"{report.bundle['name']} on {report.device['name']}: {report.variant}, "
        f"{report.load['calls']} calls, {_arrivals(report.load)}, latency in ms"
    )
    rows = [("end to end", *(number(report.latency_ms[key]) for key in FIGURES))]
    confidence: Mapping[str, Any] = report.confidence_ms
    intervals = [_interval(confidence.get(key)) for key in FIGURES]
    rows.append(("  95 % interval", *intervals))
    rows += [
        (name, *(number(part[key]) for key in FIGURES)) for name, part in report.stages.items()
    ]
    table(title, ("part", *FIGURES), rows)
    if report.loop is not None:
        _show_loop(report.loop)
    if report.stream_loop is not None:
        _show_stream_loop(report.stream_loop)
    if report.operators:
        table(
            f"operators: {min(TOP, len(report.operators))} largest of {len(report.operators)}",
            ("stage", "module", "operator", "nodes", "ms", "of the stage"),
            [
                (row["stage"], row["module"], row["op"], row["calls"], number(row["ms"]),
                 f"{100 * row['share']:.1f} %")
                for row in report.operators[:TOP]
            ],
        )  # fmt: skip
    tensors = [row for row in report.copies if row["bytes"]]
    if tensors:
        table(
            "copied in a call",
            ("what", "bytes", "why"),
            [(row["what"], row["bytes"], row["why"]) for row in tensors],
        )
    _show_stream(report)
    _show_variants(report)
    table("this machine", ("figure", "value"), list(_machine(report)))
    list_not_checked(report.not_checked)
    for line in _warnings(report):
        warn(line)
    for line in _remarks(report):
        say(line)


def _show_loop(loop: LoopSection) -> None:
    """Steps of a loop."""
    first, step = ("first token", "between tokens") if loop["kind"] == "generate" else (
        "first step", "a step"
    )  # fmt: skip
    lines: list[tuple[str, Summary | LoopIntervals | None]] = [
        (first, loop["first_ms"]),
        ("  95 % interval", loop["first_confidence_ms"]),
        ("  up to the loop", loop["encoders_ms"]),
        ("  prefill", loop["prefill_ms"]),
        (f"{first}, all cached", loop["first_cached_ms"]),
        *(
            (f"{first}, {name} cached, others new", times)
            for name, times in loop["first_cached_by_modality_ms"].items()
        ),
        (step, loop["step_ms"]),
        ("  95 % interval", loop["step_confidence_ms"]),
    ]
    title = f"loop {loop['kind']}: {loop['steps']} steps a call, in ms; intervals draw"
    table(f"{title} {loop['blocks']}", ("time", *FIGURES), _time_rows(lines))
    factor = loop["real_time_factor"]
    table(
        "of the loop",
        ("figure", "value"),
        [
            ("rows of a call", "differ" if loop["rows"] is None else str(loop["rows"])),
            ("steps a second", number(loop["steps_per_s"])),
            ("state at the end", size(loop["state_bytes"])),
            *([] if factor is None else [("real-time factor", number(factor))]),
            *[("not measured", words) for words in loop["not_measured"]],
        ],
    )


def _show_stream_loop(loop: StreamLoopSection) -> None:
    """Runs of a loop in a stream."""
    first, between = ("first token", "between tokens") if loop["kind"] == "generate" else (
        "first step", "between steps"
    )  # fmt: skip
    rows = _time_rows(
        [
            (f"{first}, behind encoders", loop["first_ms"]),
            (between, loop["between_ms"]),
            ("  95 % interval", loop["between_confidence_ms"]),
        ]
    )
    steps = f"{loop['fewest_steps']} to {loop['most_steps']} steps each, {loop['steps']} in all"
    runs = "1 run" if loop["runs"] == 1 else f"{loop['runs']} runs"
    table(f"loop {loop['kind']} in the stream: {runs}, {steps}; in ms", ("time", *FIGURES), rows)
    table(
        "of the loop",
        ("figure", "value"),
        [
            ("steps a second", number(loop["steps_per_s"])),
            ("runs by their end", ", ".join(f"{why} {n}" for why, n in loop["finish"].items())),
        ],
    )


def _time_rows(lines: Sequence[tuple[str, Summary | LoopIntervals | None]]) -> list[Any]:
    """A row of each of ``lines`` that has figures."""
    rows = []
    for name, times in lines:
        if times is None:
            continue
        figures: Mapping[str, Any] = times
        show = number if "count" in figures else _interval
        rows.append((name, *(show(figures.get(key)) for key in FIGURES)))
    return rows


def _machine(report: Report) -> Iterator[tuple[str, str]]:
    """The figures that are one line each."""
    yield "made", report.created or "not known"
    jitter, deadline, metric = report.jitter_ms, report.deadline, report.metric
    yield "throughput", number(report.throughput_hz, "Hz")
    steps = number(jitter["mean_step"], "ms")
    tail = number(jitter["p99_less_p50"], "ms")
    yield "jitter", f"std {number(jitter['std'], 'ms')}, call to call {steps}, p99 - p50 {tail}"
    if deadline is not None:
        what = "trigger" if report.load["mode"] == "stream" else "call"
        plural = "" if deadline["missed"] == 1 else "s"
        share = f"{deadline['missed']} {what}{plural} ({100 * deadline['rate']:.3g} %)"
        yield (
            f"deadline of {deadline['ms']:g} ms",
            f"missed by {share}, at most {deadline['longest_run']} in a row",
        )
    yield (
        "warm-up",
        f"{report.warmup['calls']} calls, {'' if report.warmup['settled'] else 'NOT '}settled",
    )
    late = report.device.get("wake_up_late_ms")
    if late:
        yield "wake-ups late", f"{number(late['p50'], 'ms')} p50, {number(late['max'], 'ms')} max"
    yield "first call", number(report.first_call_ms, "ms")
    yield "cold start", number(report.cold_start_ms, "ms")
    for name, value in report.cold_start_parts_ms.items():
        yield f"  {name}", number(value, "ms")
    yield "peak memory", f"{report.peak_memory_bytes / 2**20:.1f} MiB"
    if report.size_bytes is not None:
        yield "size", size(report.size_bytes)
    if metric is not None:
        drop, bound = number(metric["drop"]), number(metric["drop_bound"])
        yield "metric", f"{number(metric['value'])} ({metric['name']}; drop {drop}, below {bound})"
    for stage, kernel in report.attention.items():
        yield f"attention in {stage}", kernel
    if report.large_pages != NOT_ASKED:
        yield "large pages of memory", report.large_pages
    for stage, sums in report.operators_unexplained["stages"].items():
        profiled, plain = number(sums["profiled_ms"], "ms"), number(sums["stage_ms"], "ms")
        yield f"operators of {stage}", f"{profiled} with the profiler; the stage without: {plain}"
    if not report.operators and (words := report.operators_unexplained["words"]):
        yield "operators", words
    if not any(row["bytes"] for row in report.copies) and report.copies:
        yield "copied in a call", "nothing"
    if interference := report.load["interference"]:
        yield "meanwhile", interference
    yield from _state(report.device, report.load)
    yield "energy", _energy(report.energy)


def _state(device: DeviceSection, load: LoadSection) -> Iterator[tuple[str, str]]:
    """What the machine was while it was measured."""
    yield "plan", load.get("plan") or "not stated"
    yield "cores, threads", f"{device['cores']}, {load['threads'] or 'default'}"
    share = (device.get("after") or {}).get("cpu_share")
    if share:
        parts = ("own", "others", "steal")
        yield "processor time", ", ".join(f"{key} {_percent(share[key])}" for key in parts)
    governor, boost = device.get("governor"), device.get("boost")
    boost_words = {None: "boost not told", True: "boost on", False: "boost off"}
    yield "clock", f"governor {governor or 'not told'}, {boost_words.get(boost, 'boost not told')}"
    yield "throttled", device.get("throttled") or "no"


def _energy(energy: EnergySection) -> str:
    if energy["joules_per_result"] is None:
        return f"not known: {energy['missing']}"
    words = (
        f"{number(energy['joules_per_result'], 'J')} a result, {number(energy['watts'], 'W')} "
        f"({energy['source']})"
    )
    return f"{words}; missing: {energy['missing']}" if energy["missing"] else words


def _show_stream(report: Report) -> None:
    """Input ages, drops and results of a stream."""
    if report.ages_ms:
        table(
            "age of what results used, in ms",
            ("modality", *FIGURES, "dropped"),
            [
                (
                    name,
                    *(number(ages[key]) for key in FIGURES),
                    ", ".join(f"{key} {n}" for key, n in report.drops.get(name, {}).items() if n)
                    or "none",
                )
                for name, ages in report.ages_ms.items()
            ],
        )
    if report.results is not None:
        table("results", tuple(report.results), [tuple(report.results.values())])


def _show_variants(report: Report) -> None:
    if not report.variants:
        return
    table(
        "all variants, closed loop, ms; * : no other is better in everything",
        ("", "variant", "plan", "threads", "p50", "95 % interval", "p99", "Hz", "memory MiB",
         "size MiB", "metric", "cold start ms"),
        [
            (
                "*" if row["pareto"] else "",
                row["variant"],
                row.get("plan") or "-",
                row["threads"] or "default",
                number(row["p50_ms"]),
                _interval((row["p50_low_ms"], row["p50_high_ms"])),
                number(row["p99_ms"]),
                number(row["throughput_hz"]),
                number(_mebibytes(row["peak_memory_bytes"])),
                number(_mebibytes(row["size_bytes"])),
                number(row["metric"]),
                number(row["cold_start_ms"]),
            )
            for row in report.variants
        ],
    )  # fmt: skip
    best = report.recommended
    if best is not None:
        table(
            "recommended",
            ("variant", "plan", "threads", "why"),
            [
                (
                    best["variant"] or "none",
                    best.get("plan") or "-",
                    best["threads"] or "default",
                    best["why"],
                )
            ],
        )


def _warnings(report: Report) -> Iterator[str]:
    """What a reader must know before believing a figure."""
    yield from busy_remarks(report)
    if not report.warmup["settled"]:
        yield f"latency had not settled when timing began (settled: {report.warmup['rule']})"
    if "OVERLOADED" in report.load["inputs"]:
        yield f"{report.load['inputs']}; latency grows with the length of such a run"


def _remarks(report: Report) -> Iterator[str]:
    """What helps to read the figures."""
    count = report.latency_ms["count"]
    missing = [key for key in ("p99", "p99_9") if report.latency_ms[key] is None]
    if missing:
        yield f"not given (-): {', '.join(missing)}, for which {count} calls are too few"
    if report.load["kind"] == "closed":
        yield (
            "closed loop: a slow call delays those behind it, which then do not count as late; "
            "--rate HZ shows what a sensor would see"
        )


def busy_remarks(report: Report) -> Iterator[str]:
    """Whether others used the cores, unless it was asked for."""
    if report.load.get("interference"):
        return
    if words := busy_words(busy_share((report.device.get("after") or {}).get("cpu_share"))):
        yield f"{words}: the figures are of the machine as it was, not of the bundle alone"


def _arrivals(load: LoadSection) -> str:
    words = {
        "closed": "closed loop",
        "rate": "golden samples at their nominal rates"
        if load["rate_hz"] is None
        else f"{number(load['rate_hz'])} arrivals a second",
        "gap": f"{number(load['gap_ms'])} ms between calls",
        "replay": f"replay of {load['recording']}",
    }
    return words[load["kind"]]


def _interval(ends: Any) -> str:  # noqa: ANN401
    return "-" if ends is None or None in ends else f"{ends[0]:.4g} - {ends[1]:.4g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _mebibytes(size: float | None) -> float | None:
    return None if size is None else size / 2**20
