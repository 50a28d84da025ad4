"""Loops in a stream: they start at a trigger, end in time, and encoders go on meanwhile."""

from __future__ import annotations

import random

import numpy as np
import pytest
from denoise_rows import euler_flow_rows
from hypothesis import given
from hypothesis import strategies as st
from loop_bundles import Captioner, Completer
from stream_checks import balanced, fetch
from stream_loops import make_policy, value
from stream_schedules import sense

import mmedge
from mmedge.errors import InputError
from mmedge.stream import SimulatedClock

STEP = 0.01
#: Whole captions by their image, which many schedules use.
WHOLE = {}


@pytest.fixture(scope="module")
def captioner(tmp_path_factory):
    # It never stops by itself.
    path = tmp_path_factory.mktemp("loops") / "captioner"
    Captioner().write(path, stop=(), limit=12).close()
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    with mmedge.load(make_policy(tmp_path_factory.mktemp("loops") / "policy"), threads=1) as pipe:
        yield pipe


class Robot:
    """A stream on a simulated clock over a pipeline."""

    def __init__(self, pipe, *, costs=None, **options):
        self.clock = SimulatedClock(start=100.0, costs={"step": STEP, **(costs or {})})
        self.stream = pipe.stream(clock=self.clock, **options)

    def push(self, modality, *arrays, every=0.0):
        for array in arrays:
            self.clock.advance(every)
            self.stream.push(modality, array)

    def results(self, seconds=0.0):
        self.clock.advance(seconds)
        return fetch(self.stream)


def image(number):
    return np.random.default_rng(number).normal(size=(1, 5, 6)).astype(np.float32)


def captions(pipe, *numbers):
    return [pipe.run({"image": image(number)})["tokens"].tolist() for number in numbers]


def test_a_trigger_runs_the_loop_to_its_end(captioner):
    robot = Robot(captioner, trigger="image")
    for number in range(3):
        robot.push("image", image(number))
        (result,) = robot.results(1.0)
        assert result.fresh
        assert (result.reason, result.latency) == ("", pytest.approx(12 * STEP))
        assert result.outputs["tokens"].tolist() == captions(captioner, number)[0]
        assert result.outputs["finish"] == ["limit"]
        assert set(result.outputs) == {"tokens", "lengths", "finish"}
        # Of when the loop began, however long it took.
        assert result.ages == {"image": 0.0}


def test_a_newer_trigger_waits_and_takes_the_place_of_one_that_waits(captioner):
    robot = Robot(captioner, trigger="image")
    robot.push("image", *map(image, range(4)), every=0.02)
    first, last = robot.results(1.0)
    assert [r.outputs["tokens"].tolist() for r in (first, last)] == captions(captioner, 0, 3)
    health = balanced(robot.stream)
    assert (health.triggers, health.triggers_superseded) == (4, 2)


def test_a_newer_trigger_cancels_if_asked_to(captioner):
    robot = Robot(captioner, trigger="image", newer_trigger="cancel")
    robot.push("image", *map(image, range(4)), every=0.033)
    results = robot.results(1.0)
    whole = captions(captioner, 0, 1, 2, 3)
    for result, tokens in zip(results[:3], whole, strict=False):
        count = result.outputs["tokens"].shape[1]
        # The step that runs is taken to its end.
        assert count in (3, 4)
        assert result.outputs["tokens"].tolist() == [tokens[0][:count]]
        assert result.outputs["finish"] == ["cancel"]
        assert result.reason == f"canceled: a newer trigger came after {count} steps"
        assert (result.fresh, result.met) == (True, None)
    assert results[3].outputs["tokens"].tolist() == whole[3]
    assert balanced(robot.stream).triggers_superseded == 0


def test_a_deadline_ends_the_loop_in_time(captioner):
    robot = Robot(captioner, trigger="image", deadline_ms=55)
    whole = captions(captioner, *range(6))
    for number in range(6):
        robot.push("image", image(number))
        (result,) = robot.results(1.0)
        assert (result.fresh, result.met) == (True, True)
        assert result.outputs["tokens"].tolist() == [whole[number][0][:5]]
        assert result.outputs["finish"] == ["deadline"]
        assert result.reason == "deadline: the loop was ended after 5 steps"
    health = balanced(robot.stream)
    assert (health.stale, health.deadline_misses) == (0, 0)


def test_what_cannot_even_begin_in_time_repeats_the_last_outputs(captioner):
    robot = Robot(captioner, trigger="image", deadline_ms=25, costs={"see": 0.03})
    robot.push("image", image(0))
    robot.push("image", image(1), every=1.0)
    robot.push("image", image(2), every=1.0)
    first, second, third = robot.results(1.0)
    # The first run of a stage says nothing of those to come.
    assert first.outputs["tokens"].shape == (1, 0)
    assert first.reason == "deadline: the loop was ended after 0 steps"
    assert not first.met
    assert second.fresh
    assert (third.fresh, third.outputs) == (False, second.outputs)


def test_encoders_go_on_while_a_loop_runs(captioner):
    robot = Robot(captioner, trigger=1.0, costs={"see": 0.001})
    robot.clock.advance(0.9)
    robot.push("image", *map(image, range(20)), every=0.01)
    (result,) = robot.results(0.1)
    used = result.samples["image"][-1].seq
    assert result.outputs["tokens"].tolist() == captions(captioner, used)[0]
    health = balanced(robot.stream).modalities["image"]
    assert health.encodes == 20 > used + 8


@pytest.mark.parametrize("how", ["forget", "reset", "close"])
def test_what_nobody_wants_any_more_takes_no_more_steps(captioner, monkeypatch, how):
    steps = []
    start = captioner.start_loop

    def start_loop(tensors, **options):
        run = start(tensors, **options)
        advance = run.advance
        run.advance = lambda: steps.append(1) or advance()
        return run

    monkeypatch.setattr(captioner, "start_loop", start_loop)
    robot = Robot(captioner, trigger="image")
    robot.push("image", image(0))
    robot.clock.advance(0.035)
    assert len(steps) == 4
    getattr(robot.stream, how)(*(["image"] if how == "forget" else []))
    robot.clock.advance(1.0)
    assert len(steps) == 4
    if how != "close":
        robot.push("image", image(1))
        (result,) = robot.results(1.0)
        assert result.outputs["tokens"].tolist() == captions(captioner, 1)[0]


def test_a_step_that_fails_is_told(captioner, monkeypatch):
    start = captioner.start_loop

    def start_loop(tensors, **options):
        run = start(tensors, **options)

        def advance():
            raise ValueError("a broken step")

        run.advance = advance
        return run

    robot = Robot(captioner, trigger="image")
    monkeypatch.setattr(captioner, "start_loop", start_loop)
    robot = Robot(captioner, trigger="image")
    robot.push("image", image(0))
    (result,) = robot.results(1.0)
    assert result.outputs is None
    assert result.reason == "fusion failed: ValueError: a broken step"


def test_options_of_the_loop_are_those_of_a_call(captioner):
    options = {"limit": 7, "temperature": 1.5, "seed": 3}
    robot = Robot(captioner, trigger="image", loop_options=options)
    robot.push("image", image(0))
    expected = captioner.run({"image": image(0)}, **options)
    assert robot.results(1.0)[0].outputs["tokens"].tolist() == expected["tokens"].tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loop_options": {"state": 1}}, "'state': a stream begins each loop anew"),
        ({"loop_options": {"deadline_ms": 1}}, "'deadline_ms': a stream has its own"),
        ({"newer_trigger": "replace"}, "expected 'wait' or 'cancel', got 'replace'"),
    ],
)
def test_options_that_a_stream_does_not_take(captioner, options, words):
    with pytest.raises(InputError, match=words):
        Robot(captioner, trigger="image", **options)


@pytest.mark.parametrize("options", [{"newer_trigger": "cancel"}, {"loop_options": {"limit": 1}}])
def test_options_of_a_loop_without_one(streaming, options):
    with mmedge.load(streaming, threads=1) as pipe, pytest.raises(InputError, match="has no loop"):
        Robot(pipe, trigger="camera", **options)


@pytest.mark.parametrize("required", [True, False])
def test_a_prompt_is_pushed_like_any_value(tmp_path, required):
    path = tmp_path / "completer"
    Completer().write(path, start=(1,), stop=(), limit=6, required=required).close()
    with mmedge.load(path, threads=1) as pipe:
        robot = Robot(pipe, trigger=1.0)
        for prompt in ([[3, 4, 5]], [[6]], [[2, 7]]):
            tokens = np.array(prompt, np.int64)
            robot.push("text", tokens)
            *_, result = robot.results(1.5)
            assert result.outputs["tokens"].tolist() == pipe(tokens=tokens)["tokens"].tolist()
        robot.stream.forget("text")
        *_, result = robot.results(1.5)
        if required:
            assert "forgotten" in result.reason
        else:
            assert result.absent == {"text": "forgotten"}
            assert result.outputs["tokens"].tolist() == pipe.run({})["tokens"].tolist()


def test_a_policy_plans_at_the_rate_of_the_camera(policy):
    robot = Robot(policy, trigger="camera", costs={"step": 0.002}, loop_options={"seed": 5})
    for number in range(30):
        robot.push("joints", *[value("joints", number / 10)] * 3, every=0.01)
        robot.push("camera", value("camera", number / 20), every=1 / 30 - 0.03)
    results = robot.results(1.0)
    assert len(results) == 16  # those that wait to be fetched
    assert all(r.latency == pytest.approx(0.02) for r in results)
    inputs = {"image": value("camera", 29 / 20), "joints": value("joints", 2.9)}
    expected = policy.run(inputs, seed=5)
    assert results[-1].outputs["latent"].tobytes() == expected["latent"].tobytes()
    assert results[-1].outputs["finish"] == "schedule"
    assert set(results[-1].outputs) == {"latent", "finish"}
    health = balanced(robot.stream)
    assert (health.results, health.triggers_superseded) == (30, 0)


def test_an_absent_sensor_of_a_policy_is_replaced(policy):
    robot = Robot(policy, trigger="camera")
    robot.push("camera", value("camera", 1))
    (result,) = robot.results(1.0)
    assert result.absent == {"joints": "no sample yet"}
    expected = policy.run({"image": value("camera", 1)})
    assert result.outputs["latent"].tobytes() == expected["latent"].tobytes()


def test_a_deadline_gives_the_estimate_of_the_last_step(policy):
    robot = Robot(policy, trigger="camera", deadline_ms=45)
    robot.push("camera", value("camera", 1))
    (result,) = robot.results(1.0)
    assert (result.met, result.reason) == (True, "deadline: the loop was ended after 4 steps")
    with policy.iterate({"image": value("camera", 1)}) as steps:
        for step in steps:
            if step.index == 3:
                break
        expected = steps.result()
    assert result.outputs["latent"].tobytes() == expected["latent"].tobytes()
    assert (result.outputs["finish"], expected["finish"]) == ("deadline", "cancel")


def test_without_an_estimate_there_is_no_result(tmp_path):
    rows = [(*row[:2], 0.0, 0.0, *row[4:]) for row in euler_flow_rows(10)]
    with mmedge.load(make_policy(tmp_path / "policy", schedule=rows), threads=1) as pipe:
        robot = Robot(pipe, trigger="camera", deadline_ms=45)
        robot.push("camera", value("camera", 1))
        (result,) = robot.results(1.0)
    assert result.outputs is None
    expected = "deadline: the loop was ended after 4 steps, before it had a result"
    assert result.reason == expected


def test_there_is_time_for_the_decoder(tmp_path):
    with mmedge.load(make_policy(tmp_path / "policy", decoder=True), threads=1) as pipe:
        robot = Robot(pipe, trigger="camera", deadline_ms=100, costs={"decode": 0.032})
        results = []
        for number in range(3):
            robot.push("camera", value("camera", number))
            results += robot.results(1.0)
        assert all(set(r.outputs) == {"plan", "finish"} for r in results)
    # How long it takes is known after the first.
    assert [r.met for r in results] == [False, True, True]
    assert results[1].reason == "deadline: the loop was ended after 6 steps"


def test_streams_on_one_pipeline_do_not_disturb_each_other(captioner):
    clocks = [SimulatedClock(start=100.0, costs={"step": STEP}) for _ in range(2)]
    streams = [captioner.stream(trigger="image", clock=clock) for clock in clocks]
    for number, (clock, stream) in enumerate(zip(clocks, streams, strict=True)):
        clock.advance(0.01)
        stream.push("image", image(number))
    for _ in range(20):  # a step of one, a step of the other
        for clock in clocks:
            clock.advance(STEP)
    tokens = [fetch(stream)[0].outputs["tokens"].tolist() for stream in streams]
    assert tokens == captions(captioner, 0, 1)


@st.composite
def schedules(draw):
    rng = random.Random(draw(st.integers(0, 2**32)))
    options = {
        "trigger": draw(st.sampled_from(["image", 20.0, 7.5])),
        "deadline_ms": draw(st.sampled_from([None, 20.0, 60.0, 500.0])),
        "newer_trigger": draw(st.sampled_from(["wait", "cancel"])),
        "costs": {"see": rng.choice([0, 0.005, 0.05]), "step": rng.choice([0, 0.001, 0.01])},
    }
    return options, sense(rng, ["image"], draw(st.sampled_from([300, 1000])))


@given(schedule=schedules())
def test_whatever_ends_a_loop_its_result_is_a_beginning_of_the_whole(captioner, schedule):
    options, events = schedule
    robot, pushed, results = Robot(captioner, **options), [], []
    for at, name, offset, content, _ in [*events, (1500, "image", 0, "last", 0)]:
        robot.clock.advance_to(max(robot.clock(), 100.0 + at / 1000))
        results += fetch(robot.stream)
        if content == "forget":
            robot.stream.forget(name)
        elif content == "reset":
            robot.stream.reset()
        else:
            number = len(pushed) % 20
            pushed.append(number)
            array = image(number) * np.float32(np.nan if content == "nan" else 1)
            robot.stream.push("image", array, t=robot.clock() + offset / 1000)
        balanced(robot.stream)
    results += robot.results(1.0)
    assert results
    for result in results:
        if result.outputs is None or not result.fresh:
            assert result.reason
            continue
        number = pushed[result.samples["image"][0].seq]
        if number not in WHOLE:
            WHOLE[number] = captions(captioner, number)[0][0]
        tokens = WHOLE[number]
        count = result.outputs["tokens"].shape[1]
        assert result.outputs["tokens"].tolist() == [tokens[:count]]
        (end,) = result.outputs["finish"]
        assert (end == "limit") == (count == 12)
        why = {"limit": "", "deadline": "deadline: the loop", "cancel": "canceled: a newer"}[end]
        assert result.reason.startswith(why)
        assert bool(result.reason) == bool(why)
        deadline = options["deadline_ms"]
        assert (result.met is None) == (deadline is None)
        # Once it is known how long a step takes, none is begun that would end too late.
        in_time = deadline is None or result.latency_ms <= deadline + 1e-6
        assert end != "deadline" or in_time or count <= 2 or not options["costs"]["step"]


@pytest.mark.parametrize("newer_trigger", ["wait", "cancel"])
@pytest.mark.parametrize("trigger", ["image", 200.0])
def test_threads(captioner, trigger, newer_trigger):
    whole = captions(captioner, *range(40))
    with captioner.stream(trigger=trigger, newer_trigger=newer_trigger) as stream:
        for number in range(40):
            stream.push("image", image(number))
            result = stream.result(10.0)
            if result.outputs is None:
                continue  # a tick before the first image
            tokens = whole[result.samples["image"][-1].seq][0]
            count = result.outputs["tokens"].shape[1]
            assert result.outputs["tokens"].tolist() == [tokens[:count]]
            assert (count == 12) == (not result.reason)
        balanced(stream)
