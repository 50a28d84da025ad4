"""Encoders with state in a stream: each value once, in order; what was missed is said."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from stream_checks import balanced, check_account, fetch
from stream_loops import STORED, Stages, fold, make_detector, make_growing, make_recurrent, value

from mmedge.errors import InputError
from mmedge.stream import Exact, Hold, Interpolate, SimulatedClock, Stream, Window

LISTEN = 0.004


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    return make_recurrent(tmp_path_factory.mktemp("states") / "bundle")


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return make_detector(tmp_path_factory.mktemp("states") / "bundle")


class Robot:
    """A stream on a simulated clock over a bundle's stages, whose values are numbers."""

    def __init__(self, path, *, costs=None, failing=(), **options):
        self.stages = Stages(path)
        self.clock = SimulatedClock(start=100.0, costs=costs)
        self.failing = set(failing)
        run = self.stages.run_stage

        def run_stage(stage, feeds):
            outputs = run(stage, feeds)
            if stage == "listen" and int(feeds["pcm"][0, 0]) in self.failing:
                raise ValueError("a broken chunk")
            return outputs

        self.stages.run_stage = run_stage
        self.stream = Stream(self.stages, clock=self.clock, **options)

    def push(self, modality, *numbers, every=0.02, **options):
        for number in numbers:
            self.clock.advance(every)
            self.stream.push(modality, value(modality, number), **options)

    def heard(self, result):
        return int(result.outputs["out" if "out" in result.outputs else "heard"][0, 0])

    def taken(self, stage="listen", name="pcm"):
        return [int(feeds[name][0, 0]) for feeds in self.stages.runs[stage]]

    def health(self, modality="audio"):
        return balanced(self.stream).modalities[modality]


def test_every_value_is_taken_once_and_in_order_whatever_triggers(recurrent):
    robot = Robot(recurrent, trigger="camera")
    robot.push("audio", 1, 2, 3)
    robot.push("camera", 9)
    robot.push("audio", 4)
    robot.push("camera", 9)
    results = fetch(robot.stream)
    assert [robot.heard(r) for r in results] == [fold([1, 2, 3]), fold([1, 2, 3, 4])]
    assert all(not r.notes for r in results)
    health = robot.health()
    # Those that a result used only by way of the state count as used.
    assert (health.used, health.encodes, health.pending) == (4, 4, 0)
    assert (health.state_missed, health.dropped) == (0, {})


def test_a_value_of_equal_content_is_another_value(recurrent):
    robot = Robot(recurrent, trigger="audio")
    robot.push("audio", 5, 5, 5)
    assert robot.heard(fetch(robot.stream)[-1]) == fold([5, 5, 5])
    assert (robot.health().encodes, robot.health().encodes_skipped) == (3, 0)


def test_a_sensor_that_is_faster_than_the_trigger_is_encoded_at_its_rate(recurrent):
    robot = Robot(recurrent, trigger=5.0)
    robot.push("audio", 1)
    robot.push("imu", *range(30), every=0.01)
    result = robot.stream.result(1.0)
    last = result.samples["imu"][-1].seq
    assert last > 10
    assert result.outputs["out"][0, 1] == fold(range(last + 1), STORED) + 0.5


def test_values_wait_for_a_busy_encoder_and_none_is_replaced(recurrent):
    robot = Robot(recurrent, trigger="audio", costs={"listen": 0.09})
    robot.push("audio", *range(1, 11))
    robot.clock.advance(2.0)
    results = fetch(robot.stream)
    assert robot.taken() == list(range(1, 11))
    assert robot.heard(results[-1]) == fold(range(1, 11))
    # Triggers that came to no result were replaced; their values were taken.
    health = balanced(robot.stream)
    assert health.triggers_superseded == 10 - len(results) > 0
    assert (health.modalities["audio"].used, health.modalities["audio"].dropped) == (10, {})


def test_what_an_encoder_never_catches_up_with_is_dropped_and_said(recurrent):
    robot = Robot(recurrent, trigger="camera", costs={"listen": 1.0}, depth=3)
    robot.push("audio", *range(1, 9))
    robot.clock.advance(10.0)
    robot.push("camera", 0)
    assert robot.taken() == [1, 6, 7, 8]
    result = fetch(robot.stream)[-1]
    assert robot.heard(result) == fold([1, 6, 7, 8])
    assert result.notes["audio"] == "its state missed 4 values, the last as queue_full"
    health = robot.health()
    assert (health.dropped, health.state_missed, health.used) == ({"queue_full": 4}, 4, 4)
    robot.push("camera", 0)
    assert fetch(robot.stream)[-1].notes == {}  # told once


def test_a_trigger_whose_value_was_dropped_says_so(recurrent):
    robot = Robot(recurrent, trigger="audio", costs={"listen": 1.0, "fuse": 1.5}, depth=2)
    robot.push("audio", *range(1, 10))
    robot.clock.advance(30.0)
    taken = robot.taken()
    assert taken == sorted(set(taken))
    for result in fetch(robot.stream):
        assert result.outputs is None or robot.heard(result) in [
            fold(taken[: i + 1]) for i in range(len(taken))
        ]
    assert robot.health().state_missed == 9 - len(taken) > 0


def test_a_bad_value_is_missed_and_the_next_result_says_so(recurrent):
    robot = Robot(recurrent, trigger="camera")
    robot.push("audio", 1, 2)
    robot.push("audio", np.nan)
    robot.push("audio", 3)
    robot.push("camera", 0, 0)
    first, second = fetch(robot.stream)
    assert robot.heard(first) == fold([1, 2, 3])
    assert first.notes == {"audio": "its state missed a value, the last as nan"}
    assert second.notes == {}
    health = robot.health()
    assert (health.state_missed, health.dropped) == (1, {"nan": 1})


def test_late_and_repeated_values_do_not_enter_the_state(recurrent):
    robot = Robot(recurrent, trigger="audio")
    robot.push("audio", 1, 2)
    now = robot.clock()
    robot.push("audio", 2, every=0.0, t=now)  # again
    robot.push("audio", 3, t=now - 0.01)
    robot.push("audio", 4)
    assert robot.heard(fetch(robot.stream)[-1]) == fold([1, 2, 4])
    health = robot.health()
    assert health.dropped == {"duplicate": 1, "out_of_order": 1}
    assert health.state_missed == 1


def test_a_value_that_cannot_be_encoded_leaves_the_state_as_it_was(recurrent):
    robot = Robot(recurrent, trigger="audio", failing={3})
    robot.push("audio", 1, 2, 3, 4)
    results = fetch(robot.stream)
    assert results[2].outputs is None
    assert "a broken chunk" in results[2].reason
    assert robot.heard(results[3]) == fold([1, 2, 4])
    assert results[3].notes == {"audio": "its state missed a value, the last as encoder_error"}
    assert robot.health().state_missed == robot.health().errors == 1


def test_a_state_that_becomes_nan_is_not_kept(recurrent):
    robot = Robot(recurrent, trigger="audio")
    run = robot.stages.run_stage

    def overflowing(stage, feeds):
        outputs = run(stage, feeds)
        if stage == "listen" and feeds["pcm"][0, 0] == 2:
            outputs = {name: array * np.float32(np.nan) for name, array in outputs.items()}
        return outputs

    robot.stages.run_stage = overflowing
    robot.stream = Stream(robot.stages, trigger="audio", clock=robot.clock)
    robot.push("audio", 1, 2, 3)
    results = fetch(robot.stream)
    assert "made NaN of its state ('heard'); the state before is kept" in results[1].reason
    assert robot.heard(results[2]) == fold([1, 3])


def test_forget_and_reset_begin_the_state_anew(recurrent):
    robot = Robot(recurrent, trigger="camera", costs={"listen": LISTEN})
    robot.push("audio", 1, 2)
    robot.stream.forget("audio")  # while 2 is being encoded
    robot.push("audio", 3, 4)
    robot.push("camera", 0)
    result = fetch(robot.stream)[-1]
    assert robot.heard(result) == fold([3, 4])
    assert result.notes == {}
    robot.stream.reset()
    robot.push("audio", 5)
    robot.push("camera", 0)
    assert robot.heard(fetch(robot.stream)[-1]) == fold([5])
    health = robot.health()
    assert (health.state_missed, health.state_resets) == (0, 0)


def test_a_state_outlives_an_outage(recurrent):
    robot = Robot(recurrent, trigger="audio")
    robot.push("audio", 1)
    robot.push("audio", 2, every=3600.0)
    assert robot.heard(fetch(robot.stream)[-1]) == fold([1, 2])


@pytest.mark.parametrize("reset_after", [2.0, {"audio": 2}])
def test_a_state_begins_anew_after_a_gap_if_asked_to(recurrent, reset_after):
    robot = Robot(recurrent, trigger="camera", reset_after=reset_after)
    robot.push("audio", 1, 2)
    robot.push("audio", 3, every=1.99)
    robot.push("camera", 0)
    robot.push("audio", 4, every=2.5)
    robot.push("audio", 5)
    robot.push("camera", 0, 0)
    first, second, third = fetch(robot.stream)
    assert [robot.heard(r) for r in (first, second, third)] == [
        fold([1, 2, 3]),
        fold([4, 5]),
        fold([4, 5]),
    ]
    assert (first.notes, third.notes) == ({}, {})
    remark = "its state began anew: 2.52 s lie between its value and the one before"
    assert second.notes == {"audio": remark}
    assert robot.health().state_resets == 1


@pytest.mark.parametrize(("reset_after", "first"), [(None, [1, 2, 3]), (9.0, [])])
def test_a_clock_that_was_set_back(recurrent, reset_after, first):
    robot = Robot(recurrent, trigger="camera", reset_after=reset_after)
    robot.push("audio", 1, 2, 3)
    for number in (4, 5, 6, 7):
        robot.push("audio", number, t=robot.clock() - 50)
    robot.push("camera", 0)
    result = fetch(robot.stream)[-1]
    # Two samples pass until it is sure that the clock was set.
    assert robot.heard(result) == fold([*first, 6, 7])
    health = robot.health()
    assert (health.clock_jumps, health.state_missed) == (1, 2)
    assert health.state_resets == (reset_after is not None)
    assert ("its source's clock was set back" in result.notes["audio"]) == (not first)
    assert "missed 2 values" in result.notes["audio"]


def test_a_jump_of_the_streams_clock_is_no_gap(recurrent):
    readings = {"offset": 0.0, "t": 100.0}

    def clock():
        readings["t"] += 1e-6
        return readings["t"] + readings["offset"]

    stages = Stages(recurrent)
    with Stream(stages, trigger="audio", clock=clock, reset_after=2.0) as stream:
        for number in (1, 2):
            stream.push("audio", value("audio", number))
            stream.result(10.0)
        readings["offset"] += 1000.0
        stream.push("audio", value("audio", 3))
        result = stream.result(10.0)
    assert stream.health().clock_jumps == 1
    assert int(result.outputs["out"][0, 0]) == fold([1, 2, 3])


@pytest.mark.parametrize(
    ("absent", "expected"), [({}, fold([0], STORED)), ({"absent": "last"}, fold([5, 6], STORED))]
)
def test_what_stands_in_for_a_lost_sensor_leaves_its_state_alone(tmp_path, absent, expected):
    robot = Robot(make_recurrent(tmp_path / "bundle", imu=absent), trigger="audio")
    robot.push("audio", 1)
    # A stand-in meets the first state; with "last", before there is a value, it does so too.
    assert fetch(robot.stream)[-1].outputs["out"][0, 1] == fold([0], STORED) + 0.5
    robot.push("imu", 5, 6)
    robot.push("audio", 2)
    assert fetch(robot.stream)[-1].outputs["out"][0, 1] == fold([5, 6], STORED) + 0.5
    robot.push("audio", 3, every=1.0)  # the imu is too old
    result = fetch(robot.stream)[-1]
    assert "too_old" in result.absent["imu"]
    assert result.outputs["out"][0, 1] == expected + 0.5
    robot.push("imu", 7, 8, 9)
    robot.push("audio", 4)
    assert fetch(robot.stream)[-1].outputs["out"][0, 1] == fold([5, 6, 7, 8, 9], STORED) + 0.5


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Exact(10.0), "Exact encodes at a trigger and not in order; use Latest or Hold"),
        (Interpolate(), "Interpolate encodes at a trigger"),
        (Window(8, 4), "would give it rows again and again; set hop=8"),
        (Window(8, 16), "would give it rows not at all; set hop=8"),
    ],
)
def test_policies_that_break_the_order_are_refused(recurrent, policy, words):
    with pytest.raises(InputError, match=f"'audio': its encoder has a state.*{words}"):
        Robot(recurrent, trigger="camera", align={"audio": policy})


@pytest.mark.parametrize(
    ("reset_after", "words"),
    [
        ({"camera": 1.0}, "'camera' has no state; audio, imu do"),
        ({"audio": 0.0}, "must be above 0 s, got 0"),
        (-1, "must be above 0 s"),
        ({"audio": "1 s"}, "expected a number of seconds"),
    ],
)
def test_what_reset_after_cannot_be(recurrent, reset_after, words):
    with pytest.raises(InputError, match=words):
        Robot(recurrent, trigger="camera", reset_after=reset_after)


def test_reset_after_without_a_state_is_refused(streaming):
    with pytest.raises(InputError, match="no stage that this stream runs has a state"):
        Stream(Stages(streaming), trigger="camera", reset_after=1.0)


def test_windows_give_a_state_every_row_once(recurrent):
    window = Window(8, 8)
    robot = Robot(recurrent, trigger="audio", align={"audio": window, "imu": Hold(100)})
    rows = np.arange(1, 41, dtype=np.float32)
    for start, stop in ((0, 3), (3, 20), (20, 33), (33, 40)):
        robot.clock.advance((stop - start) / 200)
        robot.stream.push("audio", rows[None, start:stop])
    results = fetch(robot.stream)
    sums = rows.reshape(5, 8).sum(axis=1)
    assert [robot.heard(r) for r in results] == [fold(sums[: i + 1]) for i in range(5)]
    assert robot.health().windows_used == 5


def test_a_gap_between_windows_is_missed(recurrent):
    robot = Robot(recurrent, trigger="audio", align={"audio": Window(8, 8)})
    ones = np.ones((1, 8), np.float32)
    for every in (0.04, 0.04, 0.5, 0.04):
        robot.clock.advance(every)
        robot.stream.push("audio", ones)
    results = fetch(robot.stream)
    assert robot.heard(results[-1]) == fold([8, 8, 8, 8])
    assert results[2].notes["audio"] == "its state missed a value, the last as gap"
    assert robot.health().state_missed == 1


def test_a_chunk_of_many_windows_is_taken_whole(recurrent):
    robot = Robot(recurrent, trigger="camera", align={"audio": Window(2, 2, rate_hz=200)}, depth=2)
    robot.clock.advance(1.0)
    robot.stream.push("audio", np.ones((1, 64), np.float32))
    robot.clock.advance(1.0)
    robot.push("camera", 0)
    assert robot.heard(fetch(robot.stream)[-1]) == fold([2] * 32)


def test_streams_on_one_pipeline_share_no_state(recurrent):
    one, other = Robot(recurrent, trigger="audio"), Robot(recurrent, trigger="audio")
    other.stages = one.stages
    other.stream = Stream(one.stages, trigger="audio", clock=other.clock)
    one.push("audio", 1)
    other.push("audio", 7)
    one.push("audio", 2)
    other.push("audio", 8)
    assert [robot.heard(fetch(robot.stream)[-1]) for robot in (one, other)] == [
        fold([1, 2]),
        fold([7, 8]),
    ]


def test_the_whole_network_may_be_one_encoder(detector):
    robot = Robot(detector, trigger="audio", costs={"listen": 0.05})
    robot.push("audio", *range(1, 9))
    robot.clock.advance(1.0)
    results = fetch(robot.stream)
    assert robot.taken() == list(range(1, 9))
    assert robot.heard(results[-1]) == fold(range(1, 9))
    # A reader may write to what it was given.
    results[-1].outputs["heard"][:] = 0
    robot.push("audio", 9)
    robot.clock.advance(1.0)
    assert robot.heard(fetch(robot.stream)[-1]) == fold(range(1, 10))


def test_a_state_that_grows_ends_where_its_dimension_does(tmp_path):
    robot = Robot(make_growing(tmp_path / "bundle"), trigger="audio")
    robot.push("audio", 1, 2, 3, 4, 5, 6)
    results = fetch(robot.stream)
    assert [int(r.outputs["total"][0, 0]) for r in results[:4]] == [1, 3, 6, 10]
    for result in results[4:]:
        assert "the stream's state has grown to 16 along 'old', which takes 0 to" in result.reason
    robot.stream.reset()
    robot.push("audio", 7)
    assert fetch(robot.stream)[-1].outputs["total"].item() == 7


def test_a_value_of_another_batch_does_not_fit_the_state(detector):
    robot = Robot(detector, trigger="audio")
    robot.push("audio", 1)
    robot.clock.advance(0.02)
    robot.stream.push("audio", np.ones((2, 4), np.float32))
    reason = fetch(robot.stream)[-1].reason
    assert "the stream's state has size 1 along axis 0 ('batch'), this call has 2" in reason
    robot.push("audio", 2)
    assert robot.heard(fetch(robot.stream)[-1]) == fold([1, 2])
    robot.stream.forget("audio")
    robot.clock.advance(0.02)
    robot.stream.push("audio", np.ones((2, 4), np.float32))
    assert fetch(robot.stream)[-1].outputs["heard"].tolist() == [[4], [4]]


def test_threads_take_every_value_once_and_in_order(recurrent):
    stages = Stages(recurrent)
    with Stream(stages, trigger="camera", depth=1000) as stream:
        for number in range(300):
            stream.push("audio", value("audio", number))
            stream.push("imu", value("imu", number))
            if number % 7 == 0:
                stream.push("camera", value("camera", number))
        last = None
        while last is None or last.outputs is None or last.samples["audio"][-1].seq < 299:
            stream.push("camera", value("camera", 0))
            last = stream.result(10.0)
    assert Counter(int(feeds["pcm"][0, 0]) for feeds in stages.runs["listen"]) == dict.fromkeys(
        range(300), 1
    )
    assert int(last.outputs["out"][0, 0]) == fold(range(300))
    check_account(stream.health())
