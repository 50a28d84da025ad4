"""Streams of the C++ runtime: every result, age, drop, reason and counter is Python's."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from native_builds import ROOT
from ort_kit import LIBRARY

if str(ROOT / "conformance") not in sys.path:
    sys.path.insert(0, str(ROOT / "conformance"))

import case_streams
from caller_driver import play_on_own_clock
from case_streams import random_schedules
from native_streams import check_streams, play_native

pytestmark = pytest.mark.native_build

CASES = ROOT / "conformance" / "cases"
BUNDLES = CASES / "bundles"


def check(probe, schedules):
    """Compare schedules whose results Python made here, with the same library and one thread."""
    rows = play_native(probe("stream_probe"), schedules)
    for schedule, row in zip(schedules, rows, strict=True):
        assert "refused" not in row, (schedule["name"], row["refused"])
        for what in ("results", "healths", "errors"):
            assert row[what] == schedule[what], (schedule["name"], what)


def test_schedules_of_the_cases(probe):
    lines = (CASES / "streams" / "schedules.jsonl").read_text(encoding="ascii").splitlines()
    schedules = [json.loads(line) for line in lines]
    assert check_streams(probe("stream_probe")) == []
    assert len({schedule["bundle"] for schedule in schedules}) == 6
    # Outputs depend on the machine that made the cases.
    for schedule in schedules:
        schedule.update(run_again(schedule))
    check(probe, schedules)


def run_again(schedule):
    rows = case_streams.play(case_streams.load(BUNDLES, schedule["bundle"]), schedule)
    return json.loads(json.dumps(rows))


def test_random_schedules(probe):
    check(probe, json.loads(json.dumps(random_schedules(BUNDLES, 7, range(80)))))


def on_own_clock(seed, numbers):
    """Random schedules on a clock of the caller's that is set, and has wrong readings."""
    schedules = []
    for number in numbers:
        rng = random.Random(f"clock-{seed}-{number}")
        schedule = json.loads(json.dumps(case_streams.random_schedule(rng)))
        schedule.update(name=f"clock-{seed}-{number}", own_clock=True)
        steps = [-1e4, -3.0, -0.5, -0.05, 0.5, 2.5, 60.0, 3600.0]
        times = [event["at"] for event in schedule["events"]]
        sets = [(rng.uniform(times[0], times[-1]), rng.choice(steps)) for _ in range(4)]
        schedule["sets"] = sorted(sets)
        for event in schedule["events"]:
            if rng.random() < 0.03:
                event["clock"] = rng.choice(steps)
            elif rng.random() < 0.03:
                event["wrong"] = rng.choice([None, -1e6, 1e6, 5.0])
        if rng.random() < 0.1:
            # It gives nothing of use any more.
            schedule["events"][len(schedule["events"]) // 2]["clock"] = None
        schedules.append({**schedule, **play_on_own_clock(BUNDLES, schedule)})
    return json.loads(json.dumps(schedules))


def test_clock_of_the_callers_that_is_set(probe):
    """What jumps and wrong readings do, with loops and states too, is what Python makes of them."""
    schedules = on_own_clock(3, range(60))
    check(probe, schedules)
    lasts = [schedule["healths"][-1] for schedule in schedules]
    assert sum(health.get("clock_jumps", 0) for health in lasts) > 50
    assert sum(health.get("clock_glitches", 0) for health in lasts) > 30
    assert any("failure" in health for health in lasts)
    notes = [note for s in schedules for r in s["results"] for note in r.get("notes", {}).values()]
    assert any("by which the clock was set ahead" in note for note in notes)


def test_timer_that_is_faster_than_its_stages_comes_back(probe):
    """Ticks that come due while stages run wait for the next call."""
    camera = {"inputs": {"image": [[1, 4], [1, 0, 0, 0]]}, "modality": "camera", "t": None}
    schedule = {
        "bundle": "streaming",
        "own_clock": True,
        "start": 0.0,
        "costs": {"fuse": 0.3},
        "failing": {},
        "fail_every": 0,
        "options": {
            "trigger": 20.0,
            "align": {"camera": {"policy": "Hold", "max_age_ms": 1e6}},
            "sanity": {},
        },
        "events": [
            {"at": 0.0, "do": "push", **camera},
            {"at": 2.0, "do": "push", **camera},
            {"at": 3.0, "do": "fetch"},
        ],
    }
    (row,) = play_native(probe("stream_probe"), [schedule])
    health = row["healths"][-1]
    assert 5 < health["results"] < 15
    assert health["triggers_superseded"] > 30
    assert len(row["results"]) == health["results"]


def test_windows_without_room_are_counted(probe):
    """Where memory for chunks is short, they are dropped as queue_full, and the account holds."""
    lines = (CASES / "streams" / "schedules.jsonl").read_text(encoding="ascii").splitlines()
    schedules = [json.loads(line) for line in lines if '"Window"' in line]
    schedules = [s for s in schedules if s["bundle"] == "streaming"]
    for schedule in schedules:
        schedule["options"]["align"]["voice"].update(policy="Window", length=60, hop=1)
        schedule["options"]["align"]["voice"].update(rate_hz=None, max_age_ms=None)
    drops = 0
    done = subprocess.run(
        [probe("stream_probe"), BUNDLES, LIBRARY],
        input="\n".join(
            json.dumps(_with_memory(schedule, chunks=2, chunk_rows=64)) for schedule in schedules
        ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for line in done.stdout.splitlines():
        health = json.loads(line)["healths"][-1]
        for state in health["modalities"].values():
            counts = state.get("dropped", {})
            total = state.get("used", 0) + sum(counts.values()) + state.get("pending", 0)
            assert state.get("pushed", 0) == total
            assert "pending" not in state
        drops += health["modalities"]["voice"].get("dropped", {}).get("queue_full", 0)
    assert drops > 0


def _with_memory(schedule, **memory):
    align = schedule["options"]["align"]
    return {
        **schedule,
        "options": {
            **schedule["options"],
            "align": {**align, "voice": {**align["voice"], **memory}},
        },
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trigger": "radar"}, "expected 'any', a rate in Hz, or one of camera, lidar"),
        ({"trigger": 0.0}, "must be above 0 Hz"),
        ({"trigger": 1e6}, "must be 1e-05 to 100000 Hz"),
        ({"deadline_ms": 0.0}, "deadline_ms must be above 0"),
        ({"depth": 1}, "depth must be at least 2"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"recover_after": 0}, "recover_after must be at least 1"),
        ({"future": -1.0}, "future must be at least 0"),
        ({"align": {"radar": {"policy": "Latest"}}}, "align: unknown modality 'radar'"),
        ({"align": {"state": {"policy": "Hold", "max_age_ms": 0.0}}}, "max_age_ms must be above"),
        ({"align": {"state": {"policy": "Exact", "tolerance_ms": -1.0}}}, "0 or more, got -1"),
        ({"align": {"text": {"policy": "Interpolate"}}}, "only float inputs are interpolated"),
        (
            {"align": {"odom": {"policy": "Interpolate", "quaternions": [[0, 4]]}}},
            "no elements (0, 4) on the last axis",
        ),
        (
            {"align": {"odom": {"policy": "Interpolate", "quaternions": [[0, 2]]}}},
            "a quaternion is 4 elements",
        ),
        (
            {"align": {"odom": {"policy": "Interpolate", "angles": [[0, 2], [1, 2]]}}},
            "overlap",
        ),
        ({"align": {"voice": {"policy": "Window", "length": 0}}}, "length must be at least 1"),
        ({"align": {"voice": {"policy": "Window", "length": 65}}}, "the window's length is 65"),
        (
            {"align": {"voice": {"policy": "Window", "length": 64, "rate_hz": 100.0}}},
            "is 630 ms older than its newest, but max_age_ms is 500",
        ),
        ({"sanity": {"odom": {"frozen_after": 1}}}, "frozen_after must be 2 or more"),
        ({"sanity": {"odom": {"range_margin": -1.0}}}, "range_margin must be 0 or more"),
    ],
)
def test_options_that_are_refused(probe, options, words):
    schedule = {
        "bundle": "streaming",
        "start": 0.0,
        "costs": {},
        "failing": {},
        "fail_every": 0,
        "options": {"trigger": "camera", "align": {}, "sanity": {}, **options},
        "events": [],
    }
    done = subprocess.run(
        [probe("stream_probe"), BUNDLES, LIBRARY],
        input=json.dumps(schedule),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert words in json.loads(done.stdout)["refused"]


def test_threads_decide_as_a_simulation_does(probe):
    """Stages that take no time of the clock: each thread finds what the simulated clock found.

    Threads that end at one time do so in any order. With a deadline that has passed already, what
    is awaited depends on that; and in which of two results a drop is told.
    """
    schedules = json.loads(json.dumps(random_schedules(BUNDLES, 11, range(80))))
    for schedule in schedules:
        schedule.update(costs={}, threads=True)
        schedule["options"]["deadline_ms"] = None
        schedule.update(run_again(schedule))
    rows = play_native(probe("stream_probe"), schedules)
    for schedule, row in zip(schedules, rows, strict=True):
        assert "refused" not in row, (schedule["name"], row["refused"])
        for result in [*row["results"], *schedule["results"]]:
            result.pop("dropped", None)
        for what in ("results", "healths", "errors"):
            assert row[what] == schedule[what], (schedule["name"], what)
    assert sum(len(schedule["results"]) for schedule in schedules) > 700
