"""Runs of MLPerf's loadgen, and what its logs say of them."""

from __future__ import annotations

import ctypes
import gc
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "PERCENTILES", "SLACK_NS", "Case", "Trace", "read_results", "read_trace", "run_loadgen",
    "set_timer_slack",
]  # fmt: skip

#: Names of percentiles in a report, and of loadgen's results.
PERCENTILES = {"p50": "50.00", "p90": "90.00", "p99": "99.00"}
MARK = ":::MLLOG "
#: prctl(2): how late the kernel may wake a sleeping thread, in ns, and its default.
PR_SET_TIMERSLACK, SLACK_NS = 29, 50_000


@dataclass(frozen=True, slots=True)
class Case:
    """A run of loadgen: its scenario, and arrivals a second in the server's."""

    scenario: str
    queries: int
    rate_hz: float | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """What loadgen did in a run: which sample each query took, when it was due, its latency.

    Times are nanoseconds; ``due_ns`` counts from the first query.
    """

    samples: tuple[int, ...]
    due_ns: tuple[int, ...]
    latency_ns: tuple[int, ...]


def read_results(lines: Iterable[str]) -> dict[str, float]:
    """Percentiles and mean in milliseconds from the lines of ``mlperf_log_detail.txt``.

    Raises:
        ValueError: a result is missing, or loadgen reports an error of the run.
    """
    found: dict[str, float] = {}
    for line in lines:
        if not line.startswith(MARK):
            continue
        entry = json.loads(line.removeprefix(MARK))
        if entry["metadata"]["is_error"]:
            raise ValueError(f"loadgen reports an error: {entry['key']}: {entry['value']}")
        found[entry["key"]] = entry["value"]
    wanted = {name: f"result_{q}_percentile_latency_ns" for name, q in PERCENTILES.items()}
    wanted["mean"] = "result_mean_latency_ns"
    missing = [key for key in wanted.values() if key not in found]
    if missing:
        raise ValueError(f"loadgen's log has no {', '.join(missing)}")
    return {name: found[key] / 1e6 for name, key in wanted.items()}


def read_trace(lines: Iterable[str]) -> Trace:
    """The queries of ``mlperf_log_trace.json``, in order.

    Lines are read one by one: loadgen does not escape quotes in others than those of queries, so
    that the whole is no JSON.

    Raises:
        ValueError: queries are missing.
    """
    begins = {}
    for line in lines:
        if line.startswith('{"name":"Sample"') and '"ph":"b"' in line:
            event = json.loads(line.rstrip().rstrip(","))
            begins[event["args"]["query_seq"]] = event
    if sorted(begins) != list(range(len(begins))) or not begins:
        raise ValueError(f"loadgen's trace has {len(begins)} queries, and not all in a row")
    events = [begins[number] for number in range(len(begins))]
    first = events[0]["ts"]
    return Trace(
        tuple(event["args"]["sample_idx"] for event in events),
        # Microseconds with three decimals.
        tuple(round((event["ts"] - first) * 1000.0) for event in events),
        tuple(event["args"]["complete_ns"] for event in events),
    )


def run_loadgen(
    call: Callable[[int], object], case: Case, samples: int, *, trace: bool = False
) -> tuple[dict[str, float], Trace | None]:
    """One run of loadgen: the results it reports, and with ``trace`` what it did.

    ``inside`` among the results is the median of the calls alone, by the clock of ``mmedge bench``.

    Args:
        call: made with the index of the sample.
        case: what to run.
        samples: how many there are.
        trace: whether loadgen keeps a trace, which takes time of its own.
    """
    import mlperf_loadgen as loadgen

    inside: list[int] = []

    def issue(queries: Any) -> None:  # noqa: ANN401
        for query in queries:
            begin = perf_counter_ns()
            call(query.index)
            inside.append(perf_counter_ns() - begin)
            loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(query.id, 0, 0)])

    test = loadgen.TestSettings()
    test.scenario = getattr(loadgen.TestScenario, case.scenario)
    test.mode = loadgen.TestMode.PerformanceOnly
    test.min_query_count = case.queries
    test.min_duration_ms = 0
    if case.rate_hz is not None:
        test.server_target_qps = case.rate_hz
        # So long that no query fails by it.
        test.server_target_latency_ns = 10**12
    with tempfile.TemporaryDirectory() as folder:
        output = loadgen.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        log = loadgen.LogSettings()
        log.log_output, log.enable_trace = output, trace
        # Nothing is written while times are taken.
        log.log_mode = loadgen.LoggingMode.EndOfTestOnly
        system = loadgen.ConstructSUT(issue, lambda: None)
        library = loadgen.ConstructQSL(samples, samples, lambda _: None, lambda _: None)
        gc.collect()
        gc.disable()
        try:
            loadgen.StartTestWithLogSettings(system, library, test, log)
        finally:
            gc.enable()
            loadgen.DestroyQSL(library)
            loadgen.DestroySUT(system)
        lines = (Path(folder) / "mlperf_log_detail.txt").read_text("utf-8").splitlines()
        events = (Path(folder) / "mlperf_log_trace.json").read_text("utf-8").splitlines()
    results = read_results(lines) | {"inside": float(np.median(inside)) / 1e6}
    return results, read_trace(events) if trace else None


def set_timer_slack(nanoseconds: int) -> None:
    """How late the kernel may wake this thread, and those that it starts.

    Raises:
        OSError: the system has no such setting.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(nanoseconds), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_TIMERSLACK)")
