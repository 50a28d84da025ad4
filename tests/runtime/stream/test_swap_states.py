"""Swaps of networks with states and loops: states go on or begin anew, and results say so."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from loop_bundles import Captioner
from stream_checks import balanced, fetch
from stream_loops import fold, make_recurrent, value

import mmedge
from mmedge.stream import SimulatedClock


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory):
    """Twice the same, with a state in the audio's encoder and one in the fusion."""
    folder = tmp_path_factory.mktemp("states")
    paths = [make_recurrent(folder / name, remember=True) for name in ("a", "b")]
    with mmedge.load(paths[0], threads=1) as pipe:
        yield pipe, paths


class Robot:
    def __init__(self, pipe):
        self.clock = SimulatedClock(start=100.0, costs={"listen": 0.004})
        self.stream = pipe.stream(trigger="camera", clock=self.clock, keep=1000)
        self.audio, self.results = [], []

    def push(self, count):
        for _ in range(count):
            for _ in range(2):
                self.audio.append(len(self.audio) + 1)
                self.clock.advance(0.02)
                self.stream.push("audio", value("audio", self.audio[-1]))
            self.clock.advance(0.01)
            self.stream.push("camera", value("camera", 9))
            self.clock.advance(0.01)
        made = fetch(self.stream)
        self.results += made
        balanced(self.stream)
        return made


def heard(result):
    return int(result.outputs["out"][0, 0])


def test_states_go_on_in_another_variant_of_the_same_bundle(recurrent):
    pipe, paths = recurrent
    with mmedge.load(paths[0], threads=1) as other:
        robot, plain = Robot(pipe), Robot(pipe)
        robot.push(3)
        swap = robot.stream.swap(other, shadow=3, limit=0.0, probation=3)
        robot.push(12)
        plain.push(15)
        assert swap.state == "confirmed"
        # As if there had been no switch: every value was taken once, in order.
        for one, two in zip(plain.results, robot.results, strict=True):
            assert np.array_equal(one.outputs["out"], two.outputs["out"])
            assert one.notes == two.notes
        assert heard(robot.results[-1]) == fold(robot.audio)
        assert {r.network.number for r in robot.results} == {0, 1}
        assert swap.report.differences["out"].max_abs == 0
        assert robot.stream.health().modalities["audio"].state_missed == 0
        robot.stream.close()
        plain.stream.close()


def retrained(path):
    """The network with another graph of the audio's encoder, that computes the same."""
    make_recurrent(path, remember=True)
    manifest = (path / "manifest.json").read_text()
    graph = path / "onnx" / "listen.onnx"
    model = onnx.load(graph)
    before = hashlib.sha256(graph.read_bytes()).hexdigest()
    model.graph.name = "retrained"
    graph.chmod(0o644)
    graph.write_bytes(model.SerializeToString())
    after = hashlib.sha256(graph.read_bytes()).hexdigest()
    assert before in manifest
    manifest = manifest.replace(before, after)
    digest = hashlib.sha256(manifest.encode()).hexdigest()
    sums = (path / "manifest.sha256").read_text().split()
    for name, text in (
        ("manifest.json", manifest),
        ("manifest.sha256", "  ".join([digest, *sums[1:]]) + "\n"),
    ):
        (path / name).chmod(0o644)
        (path / name).write_text(text)
    return path


def test_states_of_another_network_begin_anew_and_results_say_so(recurrent, tmp_path):
    pipe, _ = recurrent
    path = retrained(tmp_path / "other")
    robot = Robot(pipe)
    robot.push(3)
    swap = robot.stream.swap(path)
    assert swap.state == "refused"
    assert "the stages listen, filter, fuse have states" in swap.report.reason
    assert "Pass shadow=0" in swap.report.reason
    swap = robot.stream.swap(path, shadow=0, probation=2)
    robot.clock.advance(0.005)  # what is ready is encoded anew
    assert swap.state == "probation"
    robot.push(3)
    assert swap.state == "confirmed"
    # It begins with the value that was ready at the switch.
    assert heard(robot.results[-1]) == fold(robot.audio[5:])
    assert "its state began anew: the network was swapped" in robot.results[3].notes["audio"]
    assert "its state began anew" in robot.results[3].notes["fuse"]
    assert all("anew" not in str(r.notes) for r in robot.results[4:])
    health = robot.stream.health()
    assert (health.state_resets, health.modalities["audio"].state_resets) == (1, 1)
    # Who knows that they mean the same has them go on.
    swap = robot.stream.swap(pipe, shadow=2, limit=0.0, carry_states=True, probation=2)
    robot.push(6)
    assert swap.state == "confirmed"
    assert heard(robot.results[-1]) == fold(robot.audio[5:])
    robot.stream.close()


def test_states_begin_anew_when_the_old_network_comes_back(recurrent, tmp_path):
    pipe, _ = recurrent
    robot = Robot(pipe)
    robot.push(2)
    swap = robot.stream.swap(retrained(tmp_path / "other"), shadow=0)
    robot.push(2)
    swap.cancel()
    first = len(robot.audio)
    robot.push(2)
    assert swap.state == "rolled_back"
    # What is ready is encoded anew first.
    assert heard(robot.results[-1]) == fold(robot.audio[first - 1 :])
    assert "the network was rolled back" in robot.results[4].notes["audio"]
    robot.stream.close()


def image(number):
    return np.random.default_rng(number).normal(size=(1, 5, 6)).astype(np.float32)


def test_loops_are_run_to_their_end_in_the_shadow(tmp_path):
    Captioner().write(tmp_path / "a", stop=(), limit=6).close()
    Captioner(seed=4).write(tmp_path / "b", stop=(), limit=6).close()
    clock = SimulatedClock(start=10.0, costs={"step": 0.01})
    with (
        mmedge.load(tmp_path / "a", threads=1) as pipe,
        pipe.stream(trigger="image", clock=clock, deadline_ms=500) as stream,
    ):

        def push(count):
            for number in range(count):
                stream.push("image", image(number % 3))
                clock.advance(0.1)
            return fetch(stream)

        expected = push(3)
        swap = stream.swap(tmp_path / "b", shadow=3, limit=0.0, allow_unverified=True)
        push(3)
        assert swap.state == "refused"
        assert "output 'tokens' differs in" in swap.report.reason
        assert "golden samples were not replayed" in swap.report.not_checked[0]
        same = {"limit": 0.0, "allow_unverified": True}
        swap = stream.swap(tmp_path / "a", shadow=3, probation=2, **same)
        results = push(9)
        assert swap.state == "confirmed"
        assert swap.report.compared == 3
        assert swap.report.shadow_seconds == pytest.approx(0.06)
        for number, result in enumerate(results):
            tokens = expected[number % 3].outputs["tokens"]
            assert np.array_equal(result.outputs["tokens"], tokens)
        # A loop that was ended before its end is compared with nothing.
        swap = stream.swap(tmp_path / "a", shadow=2, **same)
        clock.costs["step"] = 0.2
        push(3)
        clock.advance(1.0)
        assert (swap.state, swap.report.compared) == ("shadow", 0)
        assert swap.report.not_comparable > 0


def test_what_was_forgotten_while_networks_changed_is_in_no_state(recurrent):
    pipe, paths = recurrent
    with mmedge.load(paths[0], threads=1) as other:
        robot = Robot(pipe)
        swap = robot.stream.swap(other, shadow=0, probation=100)
        robot.push(3)
        assert swap.state == "probation"
        robot.stream.push("audio", value("audio", 100))  # is being encoded when
        swap.cancel()  # its encoding becomes void, and then
        robot.stream.forget("audio")
        robot.clock.advance(1.0)
        assert swap.state == "rolled_back"
        robot.audio.clear()
        robot.push(3)
        assert heard(robot.results[-1]) == fold(robot.audio)
        health = robot.stream.health().modalities["audio"]
        assert health.dropped["forgotten"] >= 1
        robot.stream.close()
