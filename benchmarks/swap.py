"""What a swap costs a running stream: latency of results while it goes on, against none going on.

The network is ``driver`` of benchmarks/streaming.py, batch 1, one thread, exported twice, so that
both networks take the same time and every difference is the swap's. One stream on real threads gets
30 pictures a second, and three states with each. Timed is it from a picture's push until its result
is there. A round is a block without a swap, and then one swap to the other bundle, from its path,
whose results are told apart by the state that the swap was in when the picture was pushed:
``loading`` (and golden samples), ``shadow``, ``handover``, ``probation``; and ``first`` is the
first result of the new network in each round. Each percentile is held against that of the blocks
without, with bootstrap intervals over rounds.

What is measured runs in a process of its own, without torch.

Run: ``python benchmarks/swap.py`` (about three minutes for 40 rounds).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter, perf_counter_ns, sleep
from typing import TYPE_CHECKING, Any

import numpy as np

import mmedge
from mmedge.bench.machine import host
from mmedge.bench.machine.neighbours import Neighbours
from mmedge.machine import resident_bytes
from mmedge.stream import Observer

if TYPE_CHECKING:
    from mmedge.pipeline import Pipeline
    from mmedge.stream import Event, Stream

RESULTS = Path(__file__).parent / "results" / "swap.json"
BOOTSTRAP = 2000
#: Pictures a second; results of a block without a swap, in the shadow, and in probation.
RATE, PLAIN, SHADOW, PROBATION = 30.0, 30, 20, 20
#: Untimed steps at the beginning.
UNTIMED = 30
ENDS = ("confirmed", "refused", "rolled_back", "canceled")


class Switches(Observer):
    """The switches, and what each says of itself."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        """Keep it."""
        self.events.append(event)


class Sensors:
    """Pushes a picture that differs from the one before, and states, at a rate."""

    def __init__(self, pipe: Pipeline, stream: Stream) -> None:
        sample = pipe.bundle.samples()[0].inputs
        self._values = {
            modality.name: np.array(sample[modality.inputs[0]])
            for modality in pipe.bundle.manifest.modalities
        }
        self._stream, self._count = stream, 0
        for name, value in self._values.items():
            stream.push(name, value)
        stream.result(60.0)
        self._due = perf_counter()

    def step(self) -> tuple[int, int]:
        """Wait for the time of the next picture, push, wait for the result; ns, and its network."""
        self._due = max(self._due + 1.0 / RATE, perf_counter())
        sleep(max(0.0, self._due - perf_counter()))
        self._count += 1
        for _ in range(3):
            self._values["state"].flat[0] = self._count % 97 / 97
            self._stream.push("state", self._values["state"])
        picture = self._values["camera"]
        picture.flat[0] = self._count % 251
        start = perf_counter_ns()
        self._stream.push("camera", picture)
        result = self._stream.result(60.0, latest=True)
        return perf_counter_ns() - start, result.network.number


def play_round(stream: Stream, sensors: Sensors, source: str) -> dict[str, Any]:
    """A block without a swap, and one swap; ns by what went on."""
    times: dict[str, list[int]] = {"plain": [sensors.step()[0] for _ in range(PLAIN)]}
    resident = {"before": resident_bytes()}  # a second after the swap before
    begin, network = perf_counter(), None
    swap = stream.swap(source, shadow=SHADOW, limit=1e-3, probation=PROBATION)
    times["call"] = [round(1e9 * (perf_counter() - begin))]
    while (before := swap.state) not in ENDS:
        state: str = before
        took, number = sensors.step()
        if network is not None and number != network:
            state = "first"
        network = number
        times.setdefault(state, []).append(took)
        if state == "first":
            resident["both"] = resident_bytes()
    if swap.state != "confirmed":
        raise RuntimeError(f"the swap was {swap.state}: {swap.report.reason}")
    report = swap.report
    return {
        "ns": times,
        "seconds": perf_counter() - begin,
        "skipped": report.skipped,
        "shadow_ms": 1e3 * (report.shadow_seconds or 0.0),
        "waited_for": list(report.waited_for),
        "resident": resident,
    }


def child(paths: list[str], rounds: int) -> None:
    """Measure in this process, and print JSON."""
    with mmedge.load(paths[0], threads=1) as pipe, pipe.stream(trigger="camera") as stream:
        switches = Switches()
        stream.observe(switches)
        sensors = Sensors(pipe, stream)
        for _ in range(UNTIMED):
            sensors.step()
        with Neighbours() as others:
            found = [play_round(stream, sensors, paths[(n + 1) % 2]) for n in range(rounds)]
        kinds = [event.kind for event in switches.events]
    print(json.dumps({
        "rounds": found,
        "others_share": others.share,
        "events": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
    }))  # fmt: skip


def compare(rounds: list[dict[str, Any]], state: str, q: float) -> dict[str, Any]:
    """A percentile in ms of the results in a state, and in the blocks without; their ratio."""
    generator = np.random.default_rng(0)
    rows = [(r["ns"].get(state, []), r["ns"]["plain"]) for r in rounds]
    drawn = generator.integers(0, len(rows), (BOOTSTRAP, len(rows)))

    def figures(picked: Any) -> tuple[float, float]:  # noqa: ANN401
        one, plain = (np.concatenate([rows[i][side] for i in picked]) for side in (0, 1))
        return float(np.percentile(one, q)) if one.size else np.nan, float(np.percentile(plain, q))

    one, plain = figures(range(len(rows)))
    samples = np.array([figures(picked) for picked in drawn])
    return {
        "ms": one / 1e6,
        "plain_ms": plain / 1e6,
        "ratio": one / plain,
        "ratio_95": np.nanpercentile(samples[:, 0] / samples[:, 1], [2.5, 97.5]).tolist(),
    }


def main() -> None:
    """Export, measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--bundles", type=Path, help="keep the exported bundles in this folder")
    options = parser.parse_args()
    if options.child:
        *paths, rounds = options.child
        child(paths, int(rounds))
        return
    state = host.state()
    with tempfile.TemporaryDirectory() as name:
        folder = options.bundles or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        bundles = [folder / f"{which}.mmedge" for which in "ab"]
        if not all(bundle.exists() for bundle in bundles):
            from streaming import driver

            from mmedge_export import export

            for bundle in bundles:
                export(driver(), bundle)
        command = [sys.executable, __file__, "--child", *map(str, bundles), str(options.rounds)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    rounds = found["rounds"]
    keys = ("name", "cpu", "machine", "system", "python", "cores", "load_average", "libraries")
    states = ("loading", "shadow", "handover", "first", "probation")
    report = {
        "what": "results of a stream while its bundle is swapped, beside blocks without a swap",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": platform.machine(),
        "device": {key: state[key] for key in keys},
        "network": "driver",
        "rate_hz": RATE,
        "rounds": len(rounds),
        "events": found["events"],
        "others_share": found["others_share"],
        "states": [
            {
                "state": name,
                "results": count,
                **{f"p{q}": compare(rounds, name, q) for q in (50, 99)},
                "worst_ms": max(t for r in rounds for t in r["ns"].get(name, [0])) / 1e6,
            }
            for name in states
            if (count := sum(len(r["ns"].get(name, [])) for r in rounds))
        ],
        "plain_results": sum(len(r["ns"]["plain"]) for r in rounds),
        "plain_worst_ms": max(t for r in rounds for t in r["ns"]["plain"]) / 1e6,
        "call_ms": float(np.median([r["ns"]["call"][0] for r in rounds])) / 1e6,
        "swap_s": float(np.median([r["seconds"] for r in rounds])),
        "skipped": sum(r["skipped"] for r in rounds),
        "shadow_ms": float(np.median([r["shadow_ms"] for r in rounds])),
        "waited": sum(bool(r["waited_for"]) for r in rounds),
        "resident_mib": {
            name: float(np.median(values)) / 2**20
            for name, values in (
                ("first", [rounds[0]["resident"]["before"]]),
                ("both", [r["resident"]["both"] for r in rounds]),
                # A second later, once what was replaced has been freed.
                ("after", [r["resident"]["before"] for r in rounds[1:]]),
            )
        },
        "resident_growth_mib": (rounds[-1]["resident"]["before"] - rounds[1]["resident"]["before"])
        / 2**20,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
