"""A fusion stage with state, and a whole network with state: one run for each result."""

from __future__ import annotations

import numpy as np
import pytest
from stream_checks import balanced, fetch
from stream_loops import STORED, Stages, fold, make_detector, make_recurrent, value

import mmedge
from mmedge.stream import SimulatedClock, Stream


@pytest.fixture(scope="module")
def remembering(tmp_path_factory):
    return make_recurrent(tmp_path_factory.mktemp("states") / "bundle", remember=True)


class Robot:
    """A stream over a bundle whose fusion has a state."""

    def __init__(self, path, *, costs=None, **options):
        self.stages = Stages(path)
        self.clock = SimulatedClock(start=100.0, costs=costs)
        self.stream = Stream(self.stages, clock=self.clock, **options)

    def push(self, modality, *numbers, every=0.02):
        for number in numbers:
            self.clock.advance(every)
            self.stream.push(modality, value(modality, number))

    def results(self, seconds=0.0):
        self.clock.advance(seconds)
        return fetch(self.stream)


def memory(results):
    """The fusion's state after results, by what they say that they were made of."""
    return fold(np.floor(r.outputs["out"][0, :3]).sum() for r in results)


def test_each_result_runs_the_state_once(remembering):
    robot = Robot(remembering, trigger="camera")
    robot.push("audio", 1, 2)
    robot.push("camera", 5, 6, 7)
    results = robot.results()
    assert len(results) == 3
    for count, result in enumerate(results, 1):
        assert result.outputs["out"][0, 3] == memory(results[:count])
        assert result.notes == {}
    assert "memory" not in results[0].outputs


def test_what_comes_to_no_result_does_not_move_the_state(remembering):
    robot = Robot(remembering, trigger="camera", costs={"fuse": 0.05})
    robot.push("audio", 1)
    robot.push("camera", *range(20))  # of most, the trigger is superseded
    results = robot.results(1.0)
    assert balanced(robot.stream).triggers_superseded > 5
    assert len(robot.stages.runs["fuse"]) == len(results)
    assert results[-1].outputs["out"][0, 3] == memory(results)
    # A result without a required modality has no outputs.
    robot.stream.forget("audio")
    robot.push("camera", 1)
    assert robot.results(1.0)[-1].outputs is None
    assert len(robot.stages.runs["fuse"]) == len(results)


def test_a_fusion_that_fails_leaves_the_state_as_it_was(remembering):
    robot = Robot(remembering, trigger="camera")
    run = robot.stages.run_stage

    def run_stage(stage, feeds):
        if stage == "fuse" and feeds["seen"][0, 0] == 6:
            raise ValueError("a broken fusion")
        return run(stage, feeds)

    robot.stages.run_stage = run_stage
    robot.stream = Stream(robot.stages, trigger="camera", clock=robot.clock)
    robot.push("audio", 1)
    robot.push("camera", 5, 6, 7)
    first, broken, last = robot.results()
    assert broken.reason.endswith("a broken fusion")
    assert last.outputs["out"][0, 3] == memory([first, last])


def test_repeated_outputs_do_not_move_the_state(remembering):
    robot = Robot(remembering, trigger="camera", costs={"fuse": 0.12}, deadline_ms=100)
    robot.push("audio", 1)
    for number in range(12):
        robot.push("camera", number, every=0.5)
    results = robot.results(1.0)
    fresh = [result for result in results if result.fresh]
    assert 2 < len(fresh) < len(results)
    assert fresh[-1].outputs["out"][0, 3] == memory(fresh)
    assert robot.stages.runs["fuse"][-1]["memory"] == memory(fresh[:-1])


def test_forgetting_what_the_state_has_taken_begins_it_anew(remembering):
    robot = Robot(remembering, trigger="camera", costs={"fuse": 0.01})
    robot.push("audio", 1)
    robot.push("camera", 5)
    before = robot.results(1.0)
    robot.stream.forget("imu")  # of which there was nothing
    robot.push("camera", 6)
    before += robot.results(1.0)
    assert before[-1].outputs["out"][0, 3] == memory(before)
    robot.push("imu", 3)
    robot.push("camera", 7)  # being fused
    robot.stream.forget("audio")
    robot.push("audio", 2)
    robot.push("camera", 8)
    robot.push("camera", 9)
    after = robot.results(1.0)
    assert after[-1].outputs["out"][0, 3] == memory([r for r in after if r.outputs])
    robot.stream.reset()
    robot.push("audio", 2)
    robot.push("camera", 1)
    last = robot.results(1.0)
    assert last[-1].outputs["out"][0, 3] == memory(last)


@pytest.mark.parametrize("reset_after", [{"fuse": 1.0}, {"fuse": 1.0, "audio": 60.0}])
def test_a_state_of_results_begins_anew_after_a_gap_if_asked_to(remembering, reset_after):
    robot = Robot(remembering, trigger="camera", reset_after=reset_after)
    robot.push("audio", 1)
    robot.push("camera", 1, 2)
    robot.push("camera", 3, every=5.0)
    robot.push("camera", 4)
    results = robot.results()
    assert results[-1].outputs["out"][0, 3] == memory(results[2:])
    remark = "its state began anew: 5 s lie between its value and the one before"
    assert [r.notes for r in results] == [{}, {}, {"fuse": remark}, {}]
    assert balanced(robot.stream).state_resets == 1
    assert balanced(robot.stream).modalities["audio"].state_resets == 0


def test_a_whole_network_of_no_modality_runs_once_for_each_result(tmp_path):
    robot = Robot(
        make_detector(tmp_path / "bundle", modality=None), trigger="audio", costs={"listen": 0.05}
    )
    robot.push("audio", *range(1, 9))
    results = robot.results(1.0)
    health = balanced(robot.stream)
    assert health.triggers_superseded == 8 - len(results) > 0
    used = [result.samples["audio"][0].seq + 1 for result in results]
    assert results[-1].outputs["heard"] == fold(used)
    # What the state has not taken was dropped with its trigger.
    assert health.modalities["audio"].dropped == {"superseded": 8 - len(used)}
    results[-1].outputs["heard"][:] = 0
    robot.push("audio", 10)
    assert robot.results(1.0)[-1].outputs["heard"] == fold([*used, 10])


def test_streams_share_no_state_of_results(remembering):
    stages = Stages(remembering)
    clocks = [SimulatedClock(start=100.0) for _ in range(2)]
    streams = [Stream(stages, trigger="camera", clock=clock) for clock in clocks]
    results = [[], []]
    for number in range(4):
        for each, (clock, stream) in enumerate(zip(clocks, streams, strict=True)):
            clock.advance(0.02)
            stream.push("audio", value("audio", number + 10 * each))
            stream.push("camera", value("camera", number))
            results[each] += fetch(stream)
    for each in results:
        assert each[-1].outputs["out"][0, 3] == memory(each)
    assert results[0][-1].outputs["out"][0, 3] != results[1][-1].outputs["out"][0, 3]


def test_a_single_call_begins_every_state_in_the_size_of_its_batch(remembering):
    with mmedge.load(remembering, threads=1) as pipe:
        inputs = {"pcm": np.ones((2, 4), np.float32), "imu": np.full((2, 1), 3, np.float32)}
        state = pipe.state()
        for heard, tilt in ((4, fold([3], STORED)), (fold([4, 4]), fold([3, 3], STORED))):
            out = pipe.run(inputs, state=state)["out"]
            assert out[:, :3].tolist() == [[heard, tilt + 0.5, 0]] * 2
