"""Do two runs of ``mmedge bench`` agree, and does ``mmedge compare`` find a planted slowdown?

Pairs of runs of the reference network, each of several fresh sessions. There are

* null pairs, of the same thing twice: their p50 agree when the 95 % interval of the ratio holds 1;
  the gate ``p50=3%`` must not break. That the runs' own intervals of p50 overlap is counted too;
* planted pairs: in the second run every call of a session is followed by a busy wait of 5 % of its
  own time; the gate must break.

As it stands, a run is one process with its sessions one after another, like ``mmedge bench
--sessions 6``. With ``--turns`` the calls of both take turns, as ``mmedge compare A B`` of two
bundles has them, so that what the machine does meanwhile happens to both.

What is written after each pair is every pair's ratio and interval; what share of the processor
others had; and the rates, of all pairs and of those where that share was at most 10 %.

Exit status 1 where fewer than 95 % of null pairs agree, a null pair breaks the gate, or a planted
one does not. Run: ``python benchmarks/agreement.py`` and ``python benchmarks/agreement.py --turns``
(20 minutes each).
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from mmedge.bench.interleaved import SESSIONS as IN_TURN
from mmedge.bench.interleaved import bench_pair
from mmedge.bench.machine import host
from mmedge.bench.measure import SESSIONS, bench
from mmedge.bench.report.compare import compare
from mmedge.bench.report.gates import parse_gate
from mmedge.bench.report.report import Report
from mmedge.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.spec import Array

SLOWDOWN = 0.05
GATE = "p50=3%"
LEAST_AGREEMENT = 0.95
#: Share of the processor for others up to which a run counts as made on a quiet machine.
QUIET = 0.1


def slow_down(share: float, which: Path) -> None:
    """Make pipelines of the bundle ``which`` busy for ``share`` of a call's time after it."""
    timed = Pipeline.timed

    def slower(
        self: Pipeline, inputs: Mapping[str, Any], *, cached: bool = True
    ) -> tuple[dict[str, Array], dict[str, int]]:
        start = perf_counter_ns()
        found = timed(self, inputs, cached=cached)
        end = perf_counter_ns()
        until = end + share * (end - start)
        while self.bundle.path == which and perf_counter_ns() < until:
            pass
        return found

    Pipeline.timed = slower  # type: ignore[assignment, method-assign]


def child(bundles: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Measure one bundle, or two in turn, and write their reports to the folder."""
    if arguments.planted:
        slow_down(SLOWDOWN, bundles[-1])
    calls, sessions, threads = arguments.calls, arguments.sessions, arguments.threads
    reports: Sequence[Report]
    if len(bundles) == 2:
        both = (str(bundles[0]), str(bundles[1]))
        reports = bench_pair(both, threads=threads, calls=calls, sessions=sessions)
    else:
        path = str(bundles[0])
        reports = [bench(path, threads=threads, calls=calls, sessions=sessions, profiled=False)]
    for number, report in enumerate(reports):
        report.to_json(arguments.output / f"{number}.json")


def measure(
    bundles: Sequence[Path], arguments: argparse.Namespace, *, planted: bool
) -> list[Report]:
    """The reports of one fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", *map(str, bundles), "--output", folder]
        for name in ("calls", "sessions", "threads"):
            command += [f"--{name}", str(getattr(arguments, name))]
        subprocess.run([*command, *(["--planted"] if planted else [])], check=True)
        return [Report.from_json(path) for path in sorted(Path(folder).iterdir())]


def pair(
    bundles: tuple[Path, Path],
    arguments: argparse.Namespace,
    order: random.Random,
    *,
    planted: bool,
) -> dict[str, Any]:
    """Measure both runs of a pair and compare them."""
    if arguments.turns:
        a, b = measure(bundles, arguments, planted=planted)
    else:
        runs: dict[int, Report] = {}
        for turn in order.sample((0, 1), 2):
            own = planted and turn == 1
            (runs[turn],) = measure(bundles[turn : turn + 1], arguments, planted=own)
        a, b = runs[0], runs[1]
    found = compare(a, b, [parse_gate(GATE)])
    p50 = next(row for row in found.rows if row.name == "p50")
    return {
        "planted": planted,
        "p50_ms": [p50.a, p50.b],
        "ratio": p50.ratio,
        "ratio_95": p50.ratio_95,
        "own_95": [own.confidence_ms["p50"] for own in (a, b)],
        "broken": not found.ok,
        "others": [_others(a), _others(b)],
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
        "overlap": share([_overlap(*one["own_95"]) for one in null]),
        "null_broken": share([one["broken"] for one in null]),
        "planted_broken": share([one["broken"] for one in planted]),
    }


def _others(report: Report) -> float | None:
    """Largest share of the processor that others had in one of a run's samples, or of its mean."""
    mean = report.device["after"]["cpu_share"]
    loads = [sample["load"] for sample in report.device["during"] if sample.get("load")]
    loads += [mean] if mean else []
    return max(
        ((load.get("others") or 0.0) + (load.get("steal") or 0.0) for load in loads if load),
        default=None,
    )


def _quiet(one: Mapping[str, Any]) -> bool:
    return all(share is not None and share <= QUIET for share in one["others"])


def _holds_one(interval: tuple[float, float]) -> bool:
    return interval[0] <= 1.0 <= interval[1]


def _overlap(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]


def main() -> None:
    """Run, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=40, help="null pairs; half as many planted")
    parser.add_argument("--turns", action="store_true", help="calls of a pair take turns")
    parser.add_argument("--sessions", type=int, help="fresh sessions of each run: 6, or 16 in turn")
    parser.add_argument("--calls", type=int, default=1600, help="timed calls of each run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bundle", type=Path, help="default: the reference network, exported")
    parser.add_argument("--output", type=Path, help="default: beside the other results")
    parser.add_argument("--child", type=Path, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--planted", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        child(arguments.child, arguments)
        return
    arguments.sessions = arguments.sessions or (IN_TURN if arguments.turns else SESSIONS)
    name = "agreement_turns.json" if arguments.turns else "agreement.json"
    output = arguments.output or Path(__file__).parent / "results" / name
    output.parent.mkdir(parents=True, exist_ok=True)
    order = random.Random(0)  # noqa: S311 - an order of measurement, no secret
    pairs: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    device = host.state()
    with tempfile.TemporaryDirectory() as folder:
        bundle = arguments.bundle
        if bundle is None:
            # It needs torch, which children do not.
            from mmedge_export import export

            bundle = Path(folder, "vqa")
            export("zoo:vqa-attention", bundle, split=True).close()
        # Of the same content, under a name that a planted slowdown is told by.
        again = Path(folder, "again")
        if bundle.is_dir():
            shutil.copytree(bundle, again)
        else:
            shutil.copy(bundle, again)
        kinds = [False] * arguments.repeats + [True] * (arguments.repeats // 2)
        order.shuffle(kinds)
        for planted in kinds:
            one = pair((bundle, again), arguments, order, planted=planted)
            print(json.dumps(one), flush=True)
            pairs.append(one)
            found = rates(pairs)
            result = {
                "what": "agreement of pairs of runs of mmedge bench, and a planted slowdown",
                "date": datetime.now(UTC).date().isoformat(),
                "machine": platform.machine(),
                "device": device,
                "sessions": arguments.sessions,
                "turns": arguments.turns,
                "calls": arguments.calls,
                "threads": arguments.threads,
                "slowdown": SLOWDOWN,
                "gate": GATE,
                "rates": found,
                "rates_quiet": rates([one for one in pairs if _quiet(one)]),
                "pairs": pairs,
            }
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
