"""Random schedules over stages with state, against running them on one value after another."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_checks import check_account, fetch
from stream_loops import STORED, Stages, fold, make_recurrent, value
from stream_schedules import sense

from mmedge.stream import Hold, Latest, SimulatedClock, Stream, Window

#: The stage that takes a modality's values, its state's input, and what that begins with.
ENCODERS = {"audio": ("listen", "pcm", "heard_before", 0), "imu": ("filter", "imu", "tilt", STORED)}
COLUMNS = {"audio": 0, "imu": 1}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_recurrent(tmp_path_factory.mktemp("states") / "bundle", remember=True)


class Recurrent:
    """A stream that is driven by a schedule; which stage failed on what is remembered."""

    def __init__(self, path, *, costs, broken, **options):
        self.stages = Stages(path)
        self.clock = SimulatedClock(start=1000.0, costs=costs)
        self._run, self._broken, self.failures = self.stages.run_stage, broken, set()
        self.stages.run_stage = self.run_stage
        self.stream = Stream(self.stages, clock=self.clock, **options)
        self.pushed = {name: [] for name in ("audio", "imu", "camera")}
        self.results, self.epochs = [], {"audio": [0], "imu": [0], "fuse": [0]}
        self.number = 0

    def run_stage(self, stage, feeds):
        outputs = self._run(stage, feeds)
        count = len(self.stages.runs[stage]) - 1
        if self._broken and count % self._broken == self._broken - 1:
            self.failures.add((stage, count))
            raise ValueError(f"{stage} broke")
        return outputs

    def step(self, at, modality, offset, content):
        self.clock.advance_to(1000.0 + at / 1000)
        self.results += fetch(self.stream)
        if content == "forget":
            self.stream.forget(modality)
        elif content == "reset":
            self.stream.reset()
        else:
            self.number += 1
            number = np.nan if content == "nan" else self.number
            t = self.clock() + offset / 1000
            self.pushed[modality].append(number)
            self.stream.push(modality, value(modality, number, rows=4), t=t)
        check_account(self.stream.health())


@st.composite
def schedules(draw):
    rng = random.Random(draw(st.integers(0, 2**32)))
    costs = {
        stage: rng.choice([0, 1, 5, 20, 60]) / 1000 for stage in ("listen", "filter", "see", "fuse")
    }
    events = sense(rng, ["audio", "imu", "camera"], draw(st.sampled_from([300, 1000])))
    options = {
        "trigger": draw(st.sampled_from(["audio", "imu", "camera", "any", 20.0])),
        "deadline_ms": draw(st.sampled_from([None, None, 40.0])),
        "depth": draw(st.sampled_from([2, 5, 64])),
        "align": {
            "imu": draw(st.sampled_from([Latest(), Hold(50.0), Latest(wait_ms=10.0)])),
            "audio": draw(st.sampled_from([Latest(), Hold(80.0), Window(4, 4)])),
        },
    }
    return events, costs, draw(st.sampled_from([0, 0, 7])), options


@given(schedule=schedules())
def test_any_schedule_computes_what_the_values_taken_give_one_after_another(path, schedule):
    events, costs, broken, options = schedule
    robot = Recurrent(path, costs=costs, broken=broken, **options)
    for at, modality, offset, content, _ in events:
        robot.step(at, modality, offset, content)
    robot.clock.advance(10.0)
    robot.results += fetch(robot.stream)
    health = robot.stream.health()
    check_account(health)
    for modality, (stage, name, state, first) in ENCODERS.items():
        runs = robot.stages.runs[stage]
        numbers = check_order(robot, stage, runs, name, state, first)
        pushed = [n for n in robot.pushed[modality] if not np.isnan(n)]
        assert set(numbers) <= {*pushed, 0}, "0 is the stand-in"
        account = health.modalities[modality]
        assert account.encodes_skipped == 0
        quiet = not any(content in ("forget", "reset") for *_, content, _ in events)
        if quiet and not isinstance(options["align"].get(modality), Window):
            # Without a word of the user's, each value is in the state or was missed.
            taken = len(robot.pushed[modality]) - account.dropped.get("duplicate", 0)
            assert account.used + account.state_missed == taken - account.pending
    check_results(robot)


def check_order(robot, stage, runs, name, state, first):
    """Each run takes the state of the one before, or the first; returns the numbers in order."""
    numbers, last = [], first
    for count, feeds in enumerate(runs):
        number, before = int(feeds[name].reshape(-1)[0]), int(feeds[state].item())
        assert before in (last, first), "neither the state of the run before nor the first one"
        if number == 0:
            assert before == first
            continue
        numbers.append(number)
        if (stage, count) not in robot.failures:
            last = fold([number], before)
        elif before == first:
            last = first
    assert numbers == sorted(set(numbers)), "once each, in order"
    return numbers


def check_results(robot):
    """Each fresh result's encoders and fusion have taken what was said to be used, in order."""
    chains = {modality: states_by_number(robot, *ENCODERS[modality]) for modality in ENCODERS}
    for result in robot.results:
        if not result.fresh:
            continue
        out = result.outputs["out"][0]
        for modality, column in COLUMNS.items():
            used = result.samples.get(modality)
            expected = fold([0], ENCODERS[modality][3])
            if used is not None:
                expected = chains[modality][int(robot.pushed[modality][used[-1].seq])]
            assert out[column] == expected + 0.5 * (modality == "imu")
    check_fusion(robot)


def check_fusion(robot):
    """Each run takes the state of the one before, or what that took if it came to nothing."""
    taken = {0}
    made = []
    for count, feeds in enumerate(robot.stages.runs["fuse"]):
        before = int(feeds["memory"].item())
        assert before in taken
        total = sum(np.floor(feeds[name].item()) for name in ("heard", "filtered", "seen"))
        made.append(fold([total], before))
        failed = ("fuse", count) in robot.failures
        # 0: it began anew.
        taken = {0, before} if failed else {0, before, made[-1]}
    runs = iter(made)
    fresh = [int(result.outputs["out"][0, 3]) for result in robot.results if result.fresh]
    assert all(any(state == each for each in runs) for state in fresh), "in order"


def states_by_number(robot, stage, name, state, first):
    """The state after each number, as the network itself gives it one after another."""
    chain = {}
    for feeds in robot.stages.runs[stage]:
        number, before = int(feeds[name].reshape(-1)[0]), int(feeds[state].item())
        if number:
            chain[number] = fold([number], before)
    return chain
