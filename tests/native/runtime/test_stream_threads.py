"""Streams of libmmedge with threads of their own: accounts, times of pushes, faults, races."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from native_builds import ROOT

from mmedge.native.runtime import installed_onnxruntime

pytestmark = pytest.mark.native_build

BUNDLE = ROOT / "conformance/cases/bundles/both.mmedge"
#: Milliseconds of a stage, rate of ticks (without one the camera triggers), steps of a loop.
STORMS = [(0, 0, 0), (5, 0, 0), (2, 200, 0), (1, 0, 6)]


def play(program, *arguments, **environment):
    done = subprocess.run(
        [program, BUNDLE, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def threads(probe):
    return probe("thread_probe")


def check_storm(row):
    """Every sample and trigger is in one place; results are of what they name."""
    assert row["pushes"] > 50
    assert sum(state["pushed"] for state in row["modalities"].values()) == row["pushes"]
    for name, state in row["modalities"].items():
        assert state["pending"] == 0, name
        assert state["pushed"] == state["used"] + state["all_dropped"], name
        assert set(state["dropped"]) <= {
            "superseded", "queue_full", "forgotten", "reset", "closed", "deadline", "duplicate",
            "out_of_order", "late", "clock_jump",
        }, name  # fmt: skip
    assert row["triggers"] == row["results"] + row["superseded"] + row["closed"]
    assert row["pending"] == 0
    assert row["taken"] > 5
    assert row["disagreeing"] == 0
    assert row["allocations"] == 0
    assert row["message"] == "the stream is closed; make a new one"


@pytest.mark.parametrize(("stage_ms", "rate", "steps"), STORMS)
def test_threads_push_take_withdraw_and_one_closes_in_their_midst(threads, stage_ms, rate, steps):
    check_storm(play(threads, "storm", 1.5, stage_ms, 3, rate, steps))


def test_a_push_does_not_wait_for_a_stage(threads):
    # A push that waited for one stage would take as long as that.
    row = play(threads, "slow", 700, 1500)
    assert row["worst"] < 0.35, row
    assert row["median"] < 0.005, row
    assert row["is_there"]
    assert row["runs"] >= 3


def test_a_stage_can_push_since_no_mutex_is_held_while_it_runs(threads):
    row = play(threads, "inside")
    assert row["is_there"]
    assert row["runs"] >= 2


def test_threads_have_the_name_and_processor_that_were_asked_for(threads):
    cpu = max(os.sched_getaffinity(0))
    row = play(threads, "settings", "arm", cpu, 0)
    assert set(row["names"]) == {"arm camera", "arm voice", "arm fusion"}
    assert row["fits"]
    assert not row["own"].startswith("arm")


def test_what_the_system_does_not_permit_is_refused_with_the_reason(threads):
    absent = max(os.sched_getaffinity(0)) + 100
    row = play(threads, "settings", "arm", absent, 0)
    assert f"cannot run on CPU {absent}" in row["refused"]
    assert not row["input"]
    row = play(threads, "settings", "arm", 5000, 0)
    assert "CPU 5000, expected 0 to 1023" in row["refused"]
    assert row["input"]
    row = play(threads, "settings", "arm", -1, 100)
    assert "priority 100, expected 1 to 99" in row["refused"]
    row = play(threads, "settings", "arm", -1, 10)
    if "refused" in row:
        assert "cannot have priority 10 of SCHED_FIFO" in row["refused"]
        assert "RLIMIT_RTPRIO" in row["refused"] or "error" in row["refused"]
    else:
        assert row["fits"]


def test_a_clock_that_gives_nothing_of_use_for_a_second_fails_the_stream(threads):
    row = play(threads, "clock")
    assert row["good"]
    assert row["fails"]
    assert row["after_s"] >= 1.0
    reason = "the stream failed: the stream's clock has given nothing of use for 1 s"
    assert row["message"].startswith(reason)
    assert row["message"] == row["other"]


def test_a_result_stays_while_others_come(threads):
    row = play(threads, "full")
    assert row["stays"]
    account = row["account"]
    assert account["lost"] >= account["results"] - 1 - 2


@pytest.fixture(scope="module")
def raced(installed):
    """The same program under the sanitizer of threads."""
    program = installed / "thread_races"
    done = subprocess.run([program, BUNDLE, "inside"], capture_output=True, text=True)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("the sanitizer of threads does not run with this system's address space")
    return program


@pytest.mark.parametrize(("stage_ms", "rate", "steps"), STORMS)
def test_the_sanitizer_of_threads_finds_no_race(raced, stage_ms, rate, steps):
    for seed in range(3):
        row = play(raced, "storm", 1, stage_ms, seed, rate, steps, TSAN_OPTIONS="halt_on_error=1")
        check_storm(row)


def test_the_sanitizer_of_threads_finds_no_race_in_a_failing_or_full_stream(raced):
    assert play(raced, "clock", TSAN_OPTIONS="halt_on_error=1")["fails"]
    assert play(raced, "full", TSAN_OPTIONS="halt_on_error=1")["stays"]
    assert play(raced, "inside", TSAN_OPTIONS="halt_on_error=1")["is_there"]


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_nothing_of_ours_allocates_on_any_thread(installed, mode):
    program = installed / "stream_allocations"
    command = [program, BUNDLE, installed_onnxruntime(), str(mode), "300"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    good, allocations, frees, locks, engine, results, refused, counted = map(
        int, done.stdout.split()
    )
    assert (good, allocations, frees) == (1, 0, 0)
    assert (results, refused) == (300, 300)
    assert engine > 0
    # The encoders' threads, that of the fusion, the one that delivers, and the caller's.
    assert counted == {0: 1, 1: 4, 2: 5}[mode]
    assert (locks == 0) == (mode == 0)
