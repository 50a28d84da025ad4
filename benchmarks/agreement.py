"""Do two runs of ``mmedge bench`` agree, and does ``mmedge compare`` find a planted slowdown?

Pairs of runs of the reference network, each of several fresh sessions. There are

* null pairs, of the same thing twice: their p50 agree when the 95 % interval of the ratio holds 1;
  the gate ``p50=3%`` must not break;
* planted pairs: in the second run every call of a session is followed by a busy wait of 5 % of its
  own time; the gate must break.

As it stands, a run is one process with its sessions one after another, like ``mmedge bench
--sessions 6``. With ``--interleave`` each session is a process of its own, and those of both runs
take turns in random order, so that what the machine does meanwhile happens to both: the way to
compare on a machine that others use.

What is written is every pair's ratio and interval, with sessions as blocks and, for comparison, as
if each run had been one session; what share of the processor others had; and the rates, of all
pairs and of those where that share was at most 10 %.

Exit status 1 where fewer than 95 % of null pairs agree, a null pair breaks the gate, or a planted
one does not. Run: ``python benchmarks/agreement.py --repeats 40`` (half an hour).
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from mmedge.backends.ort import OrtSession
from mmedge.bench import host
from mmedge.bench.compare import compare
from mmedge.bench.gates import parse_gate
from mmedge.bench.measure import bench
from mmedge.bench.report import Report
from mmedge.bench.stats import summary

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.spec import Array

RESULTS = Path(__file__).parent / "results" / "agreement.json"
SLOWDOWN = 0.05
GATE = "p50=3%"
LEAST_AGREEMENT = 0.95
#: Share of the processor for others up to which a run counts as made on a quiet machine.
QUIET = 0.1


def slow_down(share: float) -> None:
    """Make every session of this process busy for ``share`` of a call's time after it."""
    run = OrtSession.run

    def slower(self: OrtSession, feeds: Mapping[str, Any]) -> dict[str, Array]:
        start = perf_counter_ns()
        outputs = run(self, feeds)
        end = perf_counter_ns()
        until = end + share * (end - start)
        while perf_counter_ns() < until:
            pass
        return outputs

    OrtSession.run = slower  # type: ignore[method-assign]


def measure(bundle: Path, calls: int, sessions: int, *, planted: bool) -> Report:
    """One run of ``mmedge bench`` in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "report.json")
        command = [sys.executable, __file__, "--child", str(bundle), "--output", str(output)]
        command += ["--calls", str(calls), "--sessions", str(sessions)]
        subprocess.run([*command, *(["--planted"] if planted else [])], check=True)
        return Report.from_json(output)


def pool(sessions: Sequence[Report]) -> Report:
    """One report of a run from its sessions; figures that are no pool of calls are the first's."""
    latency, start, part = [], [], []
    seconds = 0.0
    for number, session in enumerate(sessions):
        latency += session.series["latency_ms"]
        start += [value + seconds for value in session.series["start_s"]]
        part += [number] * len(session.series["latency_ms"])
        seconds += session.series["of"] / session.throughput_hz
    calls = sum(session.series["of"] for session in sessions)
    series = {
        "start_s": start,
        "latency_ms": latency,
        "part": part,
        "kept": len(part),
        "of": calls,
    }
    return replace(
        sessions[0], latency_ms=summary(latency), throughput_hz=calls / seconds, series=series
    )


def pair(
    bundle: Path, arguments: argparse.Namespace, order: random.Random, *, planted: bool
) -> dict[str, Any]:
    """Measure both runs of a pair and compare them."""
    calls, sessions = arguments.calls, arguments.sessions
    processes = sessions if arguments.interleave else 1
    turns = [0, 1] * processes
    order.shuffle(turns)
    runs: tuple[list[Report], list[Report]] = ([], [])
    for turn in turns:
        run = measure(
            bundle, calls // processes, sessions // processes, planted=planted and turn == 1
        )
        runs[turn].append(run)
    a, b = (pool(run) if arguments.interleave else run[0] for run in runs)
    found = compare(a, b, [parse_gate(GATE)])
    p50 = next(row for row in found.rows if row.name == "p50")
    single = compare(_as_one_session(a), _as_one_session(b))
    return {
        "planted": planted,
        "p50_ms": [p50.a, p50.b],
        "ratio": p50.ratio,
        "ratio_95": p50.ratio_95,
        "ratio_95_as_one_session": next(row.ratio_95 for row in single.rows if row.name == "p50"),
        "broken": not found.ok,
        "others": [_others(run) for run in runs],
    }


def rates(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares of null pairs that agree and of pairs that break the gate; None of no pairs."""

    def share(hits: list[bool]) -> float | None:
        return sum(hits) / len(hits) if hits else None

    null = [one for one in pairs if not one["planted"]]
    planted = [one for one in pairs if one["planted"]]
    return {
        "null_pairs": len(null),
        "planted_pairs": len(planted),
        "agree": share([_holds_one(one["ratio_95"]) for one in null]),
        "agree_as_one_session": share([_holds_one(one["ratio_95_as_one_session"]) for one in null]),
        "null_broken": share([one["broken"] for one in null]),
        "planted_broken": share([one["broken"] for one in planted]),
    }


def _others(run: Sequence[Report]) -> float | None:
    """Largest share of the processor that others had in one of a run's samples."""
    samples = [sample for report in run for sample in report.device["during"]]
    loads = [sample["load"] for sample in samples if sample.get("load")]
    return max(
        ((load.get("others") or 0.0) + (load.get("steal") or 0.0) for load in loads), default=None
    )


def _quiet(one: Mapping[str, Any]) -> bool:
    return all(share is not None and share <= QUIET for share in one["others"])


def _as_one_session(report: Report) -> Report:
    return replace(report, series={**report.series, "part": None})


def _holds_one(interval: tuple[float, float]) -> bool:
    return interval[0] <= 1.0 <= interval[1]


def main() -> None:
    """Run, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=40, help="null pairs; half as many planted")
    parser.add_argument("--sessions", type=int, default=6, help="fresh sessions of each run")
    parser.add_argument("--interleave", action="store_true", help="sessions of a pair take turns")
    parser.add_argument("--calls", type=int, default=1200, help="timed calls of each run")
    parser.add_argument("--bundle", type=Path, help="default: the reference network, exported")
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS.name} beside the others")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--planted", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        if arguments.planted:
            slow_down(SLOWDOWN)
        report = bench(
            str(arguments.child),
            threads=1,
            calls=arguments.calls,
            sessions=arguments.sessions,
            profiled=False,
        )
        report.to_json(arguments.output)
        return
    output = arguments.output or RESULTS
    order = random.Random(0)  # noqa: S311 - an order of measurement, no secret
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle
        if bundle is None:
            # It needs torch, which children do not.
            from mmedge_export import export

            bundle = Path(folder, "vqa")
            export("zoo:vqa-attention", bundle, split=True).close()
        kinds = [False] * arguments.repeats + [True] * (arguments.repeats // 2)
        order.shuffle(kinds)
        for planted in kinds:
            found = pair(bundle, arguments, order, planted=planted)
            print(json.dumps(found), flush=True)
            pairs.append(found)
    found = rates(pairs)
    result = {
        "what": "agreement of pairs of runs of mmedge bench, and a planted slowdown",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "device": host.state(),
        "sessions": arguments.sessions,
        "interleaved": arguments.interleave,
        "calls": arguments.calls,
        "slowdown": SLOWDOWN,
        "gate": GATE,
        "rates": found,
        "rates_quiet": rates([one for one in pairs if _quiet(one)]),
        "pairs": pairs,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    print(f"wrote {output}")
    faults = []
    if found["agree"] is not None and found["agree"] < LEAST_AGREEMENT:
        faults.append(f"{found['agree']:.0%} of null pairs agree, expected {LEAST_AGREEMENT:.0%}")
    if found["null_broken"]:
        faults.append(f"{found['null_broken']:.0%} of null pairs break {GATE}, expected none")
    if found["planted_broken"] is not None and found["planted_broken"] < 1.0:
        faults.append(f"{found['planted_broken']:.0%} of planted pairs break {GATE}, expected all")
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
