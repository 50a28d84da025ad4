"""Every parser keeps its contract on its corpus and on a few thousand changes of it.

The same inputs each time; ``make fuzz`` tries as many others as asked for (tests/fuzz/run.py).
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz import run, targets
from fuzz.targets import MEMORY_BYTES, SECONDS, TARGETS, Target

from mmedge.errors import BundleError

RUNS = {"report": 300, "recording-folder": 1000}


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_keeps_its_contract(name):
    if name == "recording-mcap":
        pytest.importorskip("mcap")
    found = run.supervise(TARGETS[name], RUNS.get(name, 2000), seed=1)
    assert found.faults == []
    assert found.inputs >= RUNS.get(name, 2000)
    assert found.accepted > 0  # or nothing was tried but the first look
    assert found.refused > 0
    assert found.slowest_s < SECONDS
    assert found.peak_mb * 1e6 < MEMORY_BYTES


@pytest.mark.parametrize("name", TARGETS)
def test_good_inputs_are_taken(name):
    if name == "recording-mcap":
        pytest.importorskip("mcap")
    for seed in sorted((targets.CORPUS / name).iterdir()):
        if not seed.name.startswith("fault-"):
            TARGETS[name].run(seed.read_bytes())
    targets.clean()


def planted(fault):
    """A target that refuses everything, and does ``fault`` at every fifth input."""
    count = []

    def parse(data):
        count.append(1)
        if len(count) % 5 == 0:
            fault()
        raise BundleError("no")

    return Target("manifest", parse, (BundleError,), TARGETS["manifest"].mutate)


def _raise():
    raise ValueError("wrong class")


FAULTS = {
    "ValueError: wrong class": _raise,
    "crash: SIGKILL": lambda: signal.raise_signal(signal.SIGKILL),
    "memory": lambda: bytearray(b"x") * (MEMORY_BYTES + (100 << 20)),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_planted_fault_is_found(what):
    found = run.supervise(planted(FAULTS[what]), 12, seed=0)
    assert found.faults
    assert all(fault["what"].startswith(what) for fault in found.faults)
    assert bytes.fromhex(found.faults[0]["data"])


def test_a_hang_is_found(monkeypatch):
    monkeypatch.setattr(run, "SECONDS", 0.2)
    found = run.supervise(planted(lambda: time.sleep(3)), 6, seed=0)
    assert found.faults[0]["what"] == "Late: more than 0.2 s"


def test_the_command(tmp_path):
    command = [sys.executable, Path(run.__file__), "manifest", "graph", "--runs", "20"]
    done = subprocess.run(
        [*command, "--output", tmp_path / "o.json"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [line.count('"per_second"') for line in done.stdout.splitlines()] == [1, 1]
    assert (tmp_path / "o.json").exists()
