"""Variants of a stream that follow the load: planted on a simulated clock, and on threads."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from stream_checks import balanced, check_account, fetch
from swap_bundles import Planted, check_origin, frame, make_network

import mmedge
from mmedge.errors import InputError
from mmedge.machine import SensorFiles
from mmedge.stream import Adaptive, Ceiling, Observer, SimulatedClock, Stream, hottest

VARIANTS = ("fp32", "fp16", "int8")
#: Milliseconds of the fusion by variant when the machine is quiet.
QUIET = (12.0, 6.0, 2.0)
PATIENCE = 60.0


class Log(Observer):
    def __init__(self):
        self.events, self.results = [], []

    def on_event(self, event):
        self.events.append(event)

    def on_result(self, result):
        self.results.append(result)

    @property
    def switches(self):
        return [e for e in self.events if e.kind == "variant_switched"]


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    path = make_network(tmp_path_factory.mktemp("variants") / "net", 1, variants=VARIANTS)
    loaded = [
        mmedge.load(path, f"ort-{name}-cpu", threads=1, allow_unverified=True) for name in VARIANTS
    ]
    yield loaded
    for pipe in loaded:
        pipe.close()


class Robot:
    def __init__(self, pipes, **options):
        self.clock = SimulatedClock(start=10.0)
        self.slow(1.0)
        settings = {"dwell_s": 0.5, "hold_s": 2.0, **options}
        self.stream = pipes[0].stream(
            trigger="camera",
            deadline_ms=40,
            clock=self.clock,
            keep=10_000,
            variants=Adaptive(pipes[1:], **settings),
        )
        self.log = Log()
        self.stream.observe(self.log)
        self.count = 0

    def slow(self, factor):
        """All work takes so many times as long from now on."""
        for name, cost in zip(VARIANTS, QUIET, strict=True):
            self.clock.costs[f"ort-{name}-cpu/fuse1"] = cost * factor / 1000
            self.clock.costs[f"ort-{name}-cpu/see1"] = 0.002 * factor

    def run(self, seconds):
        for _ in range(round(seconds / 0.05)):
            self.count += 1
            self.stream.push("lidar", frame(self.count))
            self.stream.push("camera", frame(self.count))
            self.clock.advance(0.05)
        balanced(self.stream)
        return fetch(self.stream)

    def finish(self):
        """Close, and check what holds for every run."""
        self.stream.close()
        health = self.stream.health()
        check_account(health)
        assert all(m.pending == 0 for m in health.modalities.values())
        for result in self.log.results:
            check_origin(result)
        times = [event.t for event in self.log.switches]
        assert all(b - a >= 0.5 for a, b in itertools.pairwise(times))


def variants(results):
    return [VARIANTS.index(r.network.variant.split("-")[1]) for r in results]


def test_down_as_far_as_needed_while_it_is_slow_and_up_again_after(pipes):
    robot = Robot(pipes)
    assert set(variants(robot.run(2.0))) == {0}
    robot.slow(3.2)  # 44.8 ms, 25.6 ms, 12.8 ms: of 40
    slow = robot.run(4.0)
    # One is late before it is known. The second variant is within the deadline, and above the
    # margin, so it stays.
    assert variants(slow)[-1] == 1
    assert sorted(variants(slow)) == variants(slow)
    late = [r for r in slow if not r.met]
    assert len(late) <= 2
    assert all(r.met for r in slow[-60:])
    robot.slow(6.0)  # 84 ms, 48 ms, 24 ms
    assert variants(robot.run(2.0))[-1] == 2
    robot.slow(1.0)
    after = robot.run(8.0)
    assert variants(after)[-1] == 0
    assert sorted(variants(after), reverse=True) == variants(after)
    robot.finish()
    first, second, third, fourth = robot.log.switches
    assert (first.details["before"], first.details["after"]) == ("ort-fp32-cpu", "ort-fp16-cpu")
    assert first.message.startswith("ort-fp16-cpu runs in place of ort-fp32-cpu: 95 % of results")
    assert first.details["figures"]["share"] > 0.9
    assert [e.details["level"] for e in robot.log.switches] == [1, 2, 1, 0]
    assert third.details["reason"].startswith("calm for 2")
    assert robot.stream.health().events["variant_switched"] == 4
    # No result waits for a switch: every modality was encoded before.
    assert all(e.details["waited_for"] == () for e in robot.log.switches)
    assert all(not r.absent.get("camera") for r in robot.log.results)
    assert second.t > first.t
    assert fourth.t > third.t


def test_probes_of_a_machine_that_stays_slow_become_rare(pipes):
    robot = Robot(pipes[:2])
    robot.slow(3.2)
    robot.clock.costs["ort-fp16-cpu/fuse1"] = 0.004  # the cheaper one does not suffer
    robot.clock.costs["ort-fp16-cpu/see1"] = 0.002
    robot.run(60.0)
    robot.finish()
    ups = [e.t for e in robot.log.switches if e.details["level"] == 0]
    gaps = [b - a for a, b in itertools.pairwise(ups)]
    assert len(ups) >= 3
    assert all(b > 1.5 * a for a, b in itertools.pairwise(gaps))
    # A probe that fails costs the results of one dwell, and no more.
    misses = sum(r.met is False for r in robot.log.results)
    assert misses <= (0.5 / 0.05 + 1) * (len(ups) + 1)


def test_a_ceiling_is_heeded_and_hysteresis_keeps_it_from_swinging(pipes):
    heat = [60.0]
    ceiling = Ceiling("heat", lambda: heat[0], above=85.0, below=75.0)
    robot = Robot(pipes, ceilings=[ceiling], read_every_s=0.2)
    assert set(variants(robot.run(2.0))) == {0}
    heat[0] = 86.0
    assert variants(robot.run(1.5))[-1] == 2
    heat[0] = 80.0  # neither too hot nor cool
    assert set(variants(robot.run(10.0))) == {2}
    heat[0] = 74.0
    assert variants(robot.run(8.0))[-1] == 0
    heat[0] = None
    robot.run(1.0)
    assert robot.log.events[-1].kind == "ceiling_unread"
    robot.finish()
    assert "heat is 86, 85 is allowed" in robot.log.switches[0].message


def test_a_ceiling_that_raises_is_not_known(pipes):
    def read():
        raise OSError("no sensor")

    robot = Robot(pipes, ceilings=[Ceiling("heat", read, 85.0, 75.0)])
    robot.slow(3.2)
    robot.run(1.0)
    robot.slow(1.0)
    # Down by the deadline; and never up, since nothing says that it is cool.
    assert variants(robot.run(10.0))[-1] == 1
    robot.finish()
    assert [e.kind for e in robot.log.events].count("ceiling_unread") == 1


def test_a_variant_that_cannot_take_over_is_left_out_for_a_while(pipes):
    def fail(stage, _feeds):
        if armed and stage == "scan1":
            raise ValueError("engine lost")

    armed = []
    robot = Robot([pipes[0], Planted(pipes[1], fail), pipes[2]])
    armed.append(True)
    robot.slow(3.2)
    results = robot.run(3.0)
    assert set(variants(results)) == {0}
    assert all(r.outputs is not None for r in results)
    robot.finish()
    failed = [e for e in robot.log.events if e.kind == "variant_failed"]
    assert "ort-fp16-cpu does not take over: its encoder of 'lidar' failed" in failed[0].message
    assert all(b.t - a.t >= 0.5 for a, b in itertools.pairwise(failed))


def test_what_cannot_be_chosen_from_is_refused(pipes, tmp_path):
    with pytest.raises(InputError, match="at least one cheaper pipeline"):
        Adaptive([])
    with pytest.raises(InputError, match="names of their own"):
        Adaptive(pipes[1:], ceilings=[Ceiling("share", lambda: 1.0, 2.0, 1.0)])
    with pytest.raises(InputError, match="without a deadline or a ceiling"):
        pipes[0].stream(trigger="camera", clock=SimulatedClock(), variants=Adaptive(pipes[1:]))
    with (
        mmedge.load(make_network(tmp_path / "other", 7), threads=1) as other,
        pytest.raises(InputError, match="is of another network: its graphs differ"),
    ):
        pipes[0].stream(
            trigger="camera", clock=SimulatedClock(), deadline_ms=50, variants=Adaptive([other])
        )
    robot = Robot(pipes)
    with pytest.raises(InputError, match="chooses among variants by itself"):
        robot.stream.swap(pipes[1])
    robot.finish()


def test_the_hottest_zone_of_a_recorded_machine(tmp_path):
    for number, text in ((0, "41000"), (1, "78500")):
        zone = tmp_path / "sys/class/thermal" / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "type").write_text(f"zone{number}\n")
        (zone / "temp").write_text(f"{text}\n")
    assert hottest(SensorFiles.find(tmp_path))() == 78.5
    assert hottest(SensorFiles.find(tmp_path / "nothing"))() is None


def test_the_program_of_the_page(tmp_path, monkeypatch):
    page = (Path(__file__).parents[3] / "docs" / "howto" / "adapt.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    # The golden samples know the first variant's id alone.
    make_network(tmp_path / "robot.mmedge", 1, variants=("fp32", "int8"))
    program = program.replace('plan="cut"', "allow_unverified=True")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(program, "adapt.md", "exec"), names)
    assert names["stream"].health().events["variants"] == 1


def test_on_threads_with_planted_slowness(pipes):
    slow = []

    def act(stage, _feeds):
        if slow and stage == "fuse1":
            until = monotonic() + 0.15
            while monotonic() < until:
                pass

    best = Planted(pipes[0], act)
    log = Log()
    settings = Adaptive([pipes[2]], dwell_s=0.0, hold_s=0.2, patience_ms=0.0)
    with Stream(best, trigger="camera", deadline_ms=100, variants=settings) as stream:
        stream.observe(log)
        number = 0

        def drive(variant):
            nonlocal number
            until = monotonic() + PATIENCE
            result = None
            while result is None or (result.network.variant != variant and monotonic() < until):
                number += 1
                stream.push("state", np.full((1, 1), number, np.float32))
                stream.push("camera", frame(number))
                result = stream.result(PATIENCE)
            assert result.network.variant == variant

        drive("ort-fp32-cpu")
        slow.append(True)
        drive("ort-int8-cpu")
        slow.clear()
        drive("ort-fp32-cpu")
        health = balanced(stream)
    for result in log.results:
        check_origin(result)
    assert health.events["variant_switched"] >= 2
    assert health.results == number
