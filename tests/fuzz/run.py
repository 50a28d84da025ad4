"""Give parsers changed inputs and say what came of it, as JSON.

    python tests/fuzz/run.py [TARGET ...] --runs 1000000 [--seed 0] [--output FILE]

Each target runs in child processes, so that a crash, a hang or too much memory is a finding and not
the end; the input that did it is kept under --keep. Without coverage to go by, an input with an
outcome that was not seen before (another error, another place in it) joins those that are changed.
tests/fuzz/with_atheris.py is guided by coverage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import os
import re
import resource
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from types import FrameType

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.targets import MEMORY_BYTES, SECONDS, TARGETS, Target, clean

#: Inputs that are changed further, at most; a child is ended where it says nothing for so long.
MOST_KEPT, SILENCE = 2000, 30.0

#: Of an error's words those that differ between inputs: numbers, and what is quoted.
_VARYING = re.compile(r"\d+|'[^']*'|\"[^\"]*\"|\[.*?\]")


class Late(BaseException):
    """An input took more than its time."""


@dataclass
class Findings:
    """What came of a target's inputs; times in seconds."""

    target: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    outcomes: int = 0
    faults: list[dict[str, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    peak_mb: float = 0.0
    seconds: float = 0.0


class Progress:
    """The input under way, in memory that the parent sees too."""

    SIZE = 1 << 20

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, self.SIZE)

    def set(self, number: int, data: bytes) -> None:
        """The input with this number begins."""
        self._map[16 : 16 + len(data)] = data
        self._map[:16] = number.to_bytes(8, "little") + len(data).to_bytes(8, "little")

    def get(self) -> tuple[int, bytes]:
        """Number and bytes of the last that began."""
        size = int.from_bytes(self._map[8:16], "little")
        return int.from_bytes(self._map[:8], "little"), self._map[16 : 16 + size]


def fuzz(
    target: Target, runs: int, seed: int, progress: Progress | None = None, *, replay: bool = True
) -> Findings:
    """Run a target in this process on its seeds and on ``runs`` changes of them.

    The same seed gives the same inputs.
    """
    findings = Findings(target.name)
    rng = Random(seed)
    seeds = target.seeds()
    pool = list(seeds)
    seen: set[str] = set()
    late = signal.signal(signal.SIGALRM, _raise_late)
    try:
        for data in seeds:  # what they need once (imports, tables) is not an input's
            _one(target, data, findings, seen)
        base = _peak_bytes()
        findings.inputs = findings.accepted = findings.refused = 0
        findings.slowest_s = 0.0
        begin = time.perf_counter()
        for number in range(runs + (len(seeds) if replay else 0)):
            data = (
                seeds[number]
                if replay and number < len(seeds)
                else target.mutate(rng.choice(seeds if rng.random() < 0.5 else pool), rng, seeds)
            )
            if progress is not None:
                progress.set(number + 1, data)
            if _one(target, data, findings, seen) and len(pool) < MOST_KEPT:
                pool.append(data)
            peak = _peak_bytes() - base
            if peak > MEMORY_BYTES:
                _add(findings, data, f"memory: {peak >> 20} MB")
                base += peak
            findings.peak_mb = max(findings.peak_mb, round(peak / 1e6, 1))
        findings.seconds = time.perf_counter() - begin
    finally:
        signal.signal(signal.SIGALRM, late)
        clean()
    findings.outcomes = len(seen)
    return findings


def _one(target: Target, data: bytes, findings: Findings, seen: set[str]) -> bool:
    """Run one input; whether its outcome is new."""
    start = time.perf_counter()
    outcome = "accepted"
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        target.run(data)
        findings.accepted += 1
    except target.errors as error:
        findings.refused += 1
        outcome = _VARYING.sub("", f"{type(error).__name__} {error}")[:200]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - whatever else is a fault
        outcome = f"{type(error).__name__}: {error}"[:300]
        _add(findings, data, outcome)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    findings.inputs += 1
    findings.slowest_s = max(findings.slowest_s, round(time.perf_counter() - start, 4))
    new = outcome not in seen
    seen.add(outcome)
    return new


def _add(findings: Findings, data: bytes, what: str) -> None:
    name = hashlib.sha256(data).hexdigest()[:16]
    findings.faults.append({"input": name, "what": what, "data": data.hex()})


def _raise_late(_number: int, _frame: FrameType | None) -> None:
    raise Late(f"more than {SECONDS:g} s")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def supervise(target: Target, runs: int, seed: int) -> Findings:
    """:func:`fuzz` in child processes: one that ends early is a fault, and another goes on."""
    total = Findings(target.name)
    begin = time.perf_counter()
    left, attempt = runs, 0
    while left > 0:
        progress = Progress()
        with tempfile.TemporaryFile() as out:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    found = fuzz(target, left, seed + attempt * 7919, progress, replay=attempt == 0)
                    out.write(json.dumps(asdict(found)).encode())
                    out.flush()
                    status = 0
                finally:
                    os._exit(status)
            fault = _wait(child, progress)
            out.seek(0)
            told = out.read()
        number, data = progress.get()
        attempt += 1
        if fault is None:
            found = Findings(**json.loads(told))
            left = 0
        else:
            found = Findings(target.name, inputs=number)
            _add(found, data, fault)
            left -= max(1, number)
        for name in ("inputs", "accepted", "refused"):
            setattr(total, name, getattr(total, name) + getattr(found, name))
        for name in ("outcomes", "slowest_s", "peak_mb"):
            setattr(total, name, max(getattr(total, name), getattr(found, name)))
        total.faults += found.faults
        if len(total.faults) > 100:
            break
    total.seconds = round(time.perf_counter() - begin, 1)
    return total


def _wait(child: int, progress: Progress) -> str | None:
    """Wait for a child; what it died of, None where it ended well."""
    last, since = -1, time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status):
                return f"crash: {signal.Signals(os.WTERMSIG(status)).name}"
            return None if os.WEXITSTATUS(status) == 0 else "crash: the process ended"
        number = progress.get()[0]
        if number != last:
            last, since = number, time.monotonic()
        elif time.monotonic() - since > SILENCE:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"hang: nothing for {SILENCE:g} s"
        time.sleep(0.05)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="write the findings here too")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-faults"), help="folder for faults")
    options = parser.parse_args()
    if unknown := set(options.targets) - TARGETS.keys():
        parser.error(f"no target {min(unknown)}; there are {', '.join(TARGETS)}")
    results = []
    for name in options.targets:
        found = supervise(TARGETS[name], options.runs, options.seed)
        for fault in found.faults:
            folder = options.keep / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / fault["input"]).write_bytes(bytes.fromhex(fault.pop("data")))
        results.append(
            asdict(found) | {"per_second": round(found.inputs / max(found.seconds, 1e-9))}
        )
        print(json.dumps(results[-1]), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=2) + "\n")
    sys.exit(any(result["faults"] for result in results))


if __name__ == "__main__":
    main()
