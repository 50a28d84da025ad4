"""The clock of ``mmedge bench`` held against MLPerf's loadgen, on the same calls of one bundle.

loadgen (``mlcommons-loadgen``) is an independent C++ program that issues queries, takes the times
and reports percentiles. Two of its scenarios are run:

- ``single``: a query is issued when the last has ended, as in a closed loop of ``mmedge bench``;
- ``server``: queries arrive at random (Poisson), at a share of what the machine can do, and a
  latency counts from the scheduled arrival. ``mmedge bench`` takes the same schedule, which a
  first run reads from loadgen's trace, in place of its even one.

Both make the same calls in the same order (:func:`mmedge.bench.loop_calls.make_caller`), one at a
time and in one thread: loadgen's ``IssueQuery`` runs the network itself. They take turns in one
process on one pipeline, which is loaded anew for each round. Ratios are those of loadgen's own
percentiles of a round to ``mmedge bench``'s, with 95 % intervals over rounds.

``empty`` is the same with a call that does nothing: what a query costs in loadgen itself, by way of
Python, and what the wake-up for an arrival is late. ``without_own`` subtracts these medians, of
each side and round, from the medians of the network. In ``fine`` Linux's timer slack, by which it
may wake a sleeper later to save power, is 1 ns in place of its 50 us: loadgen sleeps until an
arrival, and ``mmedge bench`` spins through the last 0.2 ms.

``inside`` is the median of the calls alone, timed by the clock of ``mmedge bench`` within
loadgen's run. What loadgen's report has more is loadgen's own; what is left between ``inside`` and
``mmedge bench`` is no matter of clocks.

Run on a quiet machine: ``pip install mlcommons-loadgen``, ``python benchmarks/loadgen.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np
from loadgen_runs import PERCENTILES, SLACK_NS, Case, Trace, run_loadgen, set_timer_slack

import mmedge
from mmedge.bench import arrivals
from mmedge.bench.arrivals import Load
from mmedge.bench.loop_calls import make_caller
from mmedge.bench.machine import host
from mmedge.bench.stats.student import student_t
from mmedge.bench.stats.summary import summary
from mmedge.bench.warmup import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

RESULTS = Path(__file__).parent / "results" / "loadgen.json"
#: Rounds, queries of a run, and the server's arrivals as shares of what one call after another is.
#: Of n latencies loadgen takes the one of rank floor(n q) + 1, and mmedge that of rank ceil(n q):
#: the same where n q is not whole, as for p50, p90 and p99 of 999.
ROUNDS, QUERIES, SHARES = 12, 999, (0.3, 0.6)
#: Results of each round, by what was called and the tool.
Runs = dict[tuple[str, str], list[dict[str, float]]]


def log_ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Geometric mean over rounds of ``theirs`` over ``ours``, and its 95 % interval."""
    logs = np.log(np.divide(theirs, ours))
    half = student_t(0.975, len(logs) - 1.0) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    center = float(np.mean(logs))
    return {
        "ratio": math.exp(center),
        "ratio_95": [math.exp(center - half), math.exp(center + half)],
    }


def run_bench(call: Callable[[int], object], case: Case, plan: Trace) -> dict[str, float]:
    """The same calls by the loop and the percentiles of ``mmedge bench``."""
    if case.rate_hz is None:
        load, schedule = Load(calls=case.queries), None
    else:
        load = Load("rate", calls=case.queries, rate_hz=case.rate_hz)
        schedule = plan.due_ns
    series = arrivals.run(lambda index: call(plan.samples[index]), load, schedule=schedule)
    figures: Mapping[str, Any] = summary(np.asarray(series.latency_ns) / 1e6)
    return {name: float(figures[name]) for name in (*PERCENTILES, "mean")}


def do_nothing(_: int) -> None:
    """The call that is no work."""


def measure(bundle: Path, threads: int, rounds: int, queries: int) -> dict[str, Any]:
    """All cases in turn, round by round."""
    order = random.Random(0)  # noqa: S311 - an order of measurement, no secret
    with mmedge.load(bundle, threads=threads, concurrent=False) as pipe:
        inputs = [sample.inputs for sample in pipe.bundle.samples()]
        call = make_caller(pipe, inputs, None)
        warm_up(call, None)
        one = arrivals.run(call, Load(calls=queries))
        p50_s = float(np.median(np.asarray(one.latency_ns))) / 1e9
        network = f"{pipe.bundle.manifest.name}, {pipe.variant.id}, plan {pipe.plan}"
    cases = {"single": Case("SingleStream", queries)}
    for share in SHARES:
        cases[f"server {share:g}"] = Case("Server", queries, rate_hz=round(share / p50_s, 1))
    # loadgen draws samples and arrivals by fixed seeds: the same in each run.
    plans = {}
    for name, case in cases.items():
        plan = run_loadgen(do_nothing, case, len(inputs), trace=True)[1]
        assert plan is not None  # noqa: S101 - it was asked for
        plans[name] = plan
    runs = [
        (name, work, tool)
        for name in cases
        for work in ("network", "empty")
        for tool in ("loadgen", "bench")
    ]
    runs += [(name, "fine", "loadgen") for name, case in cases.items() if case.rate_hz is not None]
    found: dict[str, Runs] = {name: {} for name in cases}
    for _ in range(rounds):
        with mmedge.load(bundle, threads=threads, concurrent=False) as pipe:
            call = make_caller(pipe, inputs, None)
            warm_up(call, None)
            for name, work, tool in order.sample(runs, len(runs)):
                what = call if work == "network" else do_nothing
                # What ran before leaves its memory in the caches: some calls that do not count.
                for index in range(10):
                    what(index)
                if tool == "bench":
                    figures = run_bench(what, cases[name], plans[name])
                else:
                    set_timer_slack(1 if work == "fine" else SLACK_NS)
                    figures = run_loadgen(what, cases[name], len(inputs))[0]
                    set_timer_slack(SLACK_NS)
                found[name].setdefault((work, tool), []).append(figures)
    with mmedge.load(bundle, threads=threads, concurrent=False) as pipe:
        call = make_caller(pipe, inputs, None)
        warm_up(call, None)
        checks = {name: check_trace(call, cases[name], plans[name], len(inputs)) for name in cases}
    rows = {name: compare(found[name]) | checks[name] for name in cases}
    for name, case in cases.items():
        rows[name]["rate_hz"] = case.rate_hz
    return {"network": network, "single_call_ms": p50_s * 1e3, "rows": rows}


def check_trace(
    call: Callable[[int], object], case: Case, plan: Trace, samples: int
) -> dict[str, Any]:
    """Another run with a trace, whose calls both clocks time at once.

    ``clocks_us`` is how far apart the two clocks see the ends of calls, in microseconds, around
    their median: the middle 98 % of calls, and the largest. ``same_latencies`` has the percentiles
    of both rules for loadgen's latencies.

    Raises:
        ValueError: loadgen drew other samples or arrivals than before.
    """
    ends: list[int] = []

    def timed(sample: int) -> None:
        call(sample)
        ends.append(perf_counter_ns())

    reported, trace = run_loadgen(timed, case, samples, trace=True)
    assert trace is not None  # noqa: S101 - it was asked for
    if trace.samples != plan.samples:
        raise ValueError("loadgen drew other samples in another run of the same seeds")
    if case.rate_hz is not None and trace.due_ns != plan.due_ns:
        raise ValueError("loadgen's schedule is another in another run of the same seeds")
    figures: Mapping[str, Any] = summary(np.asarray(trace.latency_ns) / 1e6)
    theirs = np.asarray(trace.due_ns) + np.asarray(trace.latency_ns)
    apart = np.asarray(ends) - theirs
    apart = np.abs(apart - np.median(apart)) / 1e3
    return {
        "clocks_us": {"p98": float(np.percentile(apart, 98)), "max": float(apart.max())},
        "same_latencies": {
            name: {"loadgen": reported[name], "bench": float(figures[name])} for name in PERCENTILES
        },
    }


def compare(found: Runs) -> dict[str, Any]:
    """Figures of both tools in milliseconds, medians over rounds, and their ratios."""
    names = (*PERCENTILES, "mean")

    def column(work: str, tool: str, name: str) -> list[float]:
        return [one[name] for one in found[work, tool]]

    def own(tool: str) -> list[float]:
        """The median of each round without what the tool takes by itself."""
        pairs = zip(column("network", tool, "p50"), column("empty", tool, "p50"), strict=True)
        return [work - nothing for work, nothing in pairs]

    figures: dict[str, Any] = {}
    for work, tool in found:
        medians = {name: float(np.median(column(work, tool, name))) for name in names}
        figures.setdefault(work, {})[tool] = medians
    figures["ratio"] = {
        name: log_ratio(column("network", "bench", name), column("network", "loadgen", name))
        for name in names
    }
    figures["without_own"] = log_ratio(own("bench"), own("loadgen"))
    figures["inside_ms"] = float(np.median(column("network", "loadgen", "inside")))
    # Where no call waits for another, a call alone is what ``mmedge bench`` reports.
    figures["inside"] = log_ratio(
        column("network", "bench", "p50"), column("network", "loadgen", "inside")
    )
    return figures


def main() -> None:
    """Measure, print, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--queries", type=int, default=QUERIES, help="of a run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bundle", type=Path, help="in place of zoo:vqa-attention")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if summary(np.ones(max(options.queries, 1)))["p99"] is None or options.rounds < 2:
        parser.error("an interval needs 2 rounds, and a p99 more queries than --queries")
    device = host.state()
    with tempfile.TemporaryDirectory() as temporary:
        bundle = options.bundle
        if bundle is None:
            from mmedge_export import export

            bundle = Path(temporary) / "vqa.mmedge"
            export("zoo:vqa-attention", bundle)
        found = measure(bundle, options.threads, options.rounds, options.queries)
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": device,
        "load_at_end": host.state()["load_average"],
        "loadgen": version("mlcommons-loadgen"),
        # A run before all other processes is told as such.
        "realtime": os.sched_getscheduler(0) == os.SCHED_FIFO,
        "rounds": options.rounds,
        "queries": options.queries,
        "threads": options.threads,
        **found,
    }
    print(json.dumps(found["rows"], indent=2))
    options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
