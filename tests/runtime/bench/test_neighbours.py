"""Other processes on the same cores are seen, and told beside the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from mmedge.bench.machine.neighbours import BUSY, Neighbours, busy_words

BUSY_LOOP = [sys.executable, "-I", "-c", "while True: pass"]


@pytest.fixture
def others():
    """As many busy processes of somebody else as there are cores."""
    # A process of its own starts them, so that they are no children of this one.
    running = [
        subprocess.Popen(BUSY_LOOP, start_new_session=True) for _ in range(os.cpu_count() or 1)
    ]
    time.sleep(0.3)
    yield
    for process in running:
        process.kill()
        process.wait()


def spin(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_busy_processes_are_seen(others):
    with Neighbours() as seen:
        spin(0.5)
    assert seen.share > BUSY
    assert "other processes took" in busy_words(seen.share)


def test_what_a_child_that_ended_did_does_not_count():
    program = "import time\nend = time.process_time() + 1.0\nwhile time.process_time() < end: pass"
    start = time.monotonic()
    with Neighbours() as seen:
        subprocess.run([sys.executable, "-c", program], check=True)
    whole = (os.cpu_count() or 1) * (time.monotonic() - start)
    # The child's second is left out, whatever others did in the rest.
    assert seen.share <= 1.05 - 1.0 / whole


def test_a_moment_tells_nothing():
    with Neighbours() as seen:
        pass
    assert seen.share is None
    assert busy_words(None) is None
    assert busy_words(0.01) is None


def test_bench_and_tune_say_it_on_stderr(pair, tmp_path, others):
    report = tmp_path / "r.json"
    command = [sys.executable, "-m", "mmedge"]
    bench = [*command, "bench", str(pair), "--seconds", "0.5", "--no-profile", "-q", "-o"]
    done = subprocess.run([*bench, str(report), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["device"]["after"]["cpu_share"]["others"] > BUSY
    done = subprocess.run([*bench, str(report)], capture_output=True, text=True)
    assert "warning: other processes took" in done.stderr
    tune = [*command, "tune", str(pair), "-o", str(tmp_path / "tuned"), "--threads", "1", "-q"]
    done = subprocess.run(tune, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning: other processes took" in done.stderr
