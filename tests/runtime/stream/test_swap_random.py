"""Swaps at random moments of random schedules: nothing is lost, and nothing is of two networks."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stream_checks import check_account, fetch
from swap_bundles import Planted, check_origin, frame, make_network

import mmedge
from mmedge.errors import InputError
from mmedge.stream import Exact, Hold, Interpolate, Latest, Observer, SimulatedClock

POLICIES = {
    "lidar": [Latest(), Latest(wait_ms=15.0), Hold(80.0), Exact(20.0, wait_ms=10.0), Interpolate()],
    "state": [Latest(), Interpolate(wait_ms=5.0), Exact(15.0)],
    "camera": [Latest(), Exact(30.0, wait_ms=20.0), Interpolate(wait_ms=20.0)],
}
TRIGGERS = ["camera", "camera", "lidar", "any", 25.0]
STAGES = [f"{stage}{number}" for stage in ("see", "scan", "fuse") for number in (1, 2, 3)]


class Log(Observer):
    def __init__(self):
        self.results, self.events, self.back = [], [], []

    def on_result(self, result):
        self.results.append(result)

    def on_event(self, event):
        self.events.append((event.kind, len(self.results)))
        if event.kind == "rolled_back":
            self.back.append((event.details["new"]["number"], len(self.results)))


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    """Network 1, network 2, and network 3 that gives NaN now and then."""
    folder = tmp_path_factory.mktemp("networks")
    loaded = [
        mmedge.load(make_network(folder / f"{number}", number, **options), threads=1)
        for number, options in ((1, {}), (2, {}), (3, {"nan_from": 60.0}))
    ]
    yield loaded
    for pipe in loaded:
        pipe.close()


def breaks(every, clock):
    """What fails at some values of the camera, or of the lidar, from some time on."""

    def act(stage, feeds):
        value = int(next(iter(feeds.values())).reshape(-1)[0])
        if stage[:-1] in ("see", "scan", "fuse") and value and value % every == 0:
            raise ValueError(f"{stage} broke at {clock():g}")

    return act


def play(pipes, seed, trigger, align, deadline, *, swaps):
    """Drive a stream by a schedule of this seed; its log and its events by what they are."""
    rng = random.Random(seed)
    costs = {stage: rng.choice([0, 1, 4, 12, 30, 45]) / 1000 for stage in STAGES}
    clock = SimulatedClock(start=50.0, costs=costs)
    events = []
    for name in ("camera", "lidar", "state"):
        period = rng.choice([8, 20, 33, 70])
        events += [(k * period + rng.randrange(period), name) for k in range(400 // period)]
    events += [(rng.randrange(400), rng.choice(["forget", "forget", "reset"])) for _ in range(2)]
    rng = random.Random(seed + 1)  # what follows changes nothing above
    moments = [(rng.randrange(350), "swap") for _ in range(3)]
    log = Log()
    with pipes[0].stream(
        trigger=trigger, align=align, deadline_ms=deadline, clock=clock, keep=1000
    ) as stream:
        stream.observe(log)
        for number, (at, what) in enumerate(sorted(events + (moments if swaps else []))):
            clock.advance_to(50.0 + at / 1000)
            if what == "swap":
                change(stream, pipes, rng, clock)
            elif what == "forget":
                stream.forget(["camera", "lidar", "state"][at % 3])
            elif what == "reset":
                stream.reset()
            else:
                value = frame(at + 1) if what != "state" else np.full((1, 1), at, np.float32)
                stream.push(what, value)
            if number % 3 == 0:
                check_account(stream.health())
        clock.advance(float(seed % 2))
        check_account(stream.health())
        fetch(stream)
    health = stream.health()
    check_account(health)
    assert all(m.pending == 0 for m in health.modalities.values())
    return log


def change(stream, pipes, rng, clock):
    pipe = rng.choice(pipes)
    if rng.random() < 0.4:
        # Golden samples are zeros, which never break.
        pipe = Planted(pipe, breaks(rng.choice([2, 5, 11]), clock))
    limited = rng.random() < 0.3
    shadow = rng.choice([0, 1, 4])
    probation = rng.choice([0, 2, 20])
    if stream._core.change is not None:
        with pytest.raises(InputError, match="another swap is under way"):
            stream.swap(pipe)
        return
    stream.swap(
        pipe,
        shadow=shadow,
        limit={"score": 0.01} if limited and shadow else None,
        probation=probation,
        shadow_old=bool(limited and shadow and probation),
        patience_ms=rng.choice([0.0, 20.0, 1000.0]),
    )


@given(
    st.integers(0, 2**32),
    st.sampled_from(TRIGGERS),
    st.fixed_dictionaries({name: st.sampled_from(found) for name, found in POLICIES.items()}),
    st.sampled_from([None, None, 25.0, 80.0]),
)
def test_whatever_is_swapped_when(pipes, seed, trigger, align, deadline):
    log = play(pipes, seed, trigger, align, deadline, swaps=True)
    for result in log.results:
        check_origin(result)
        if result.outputs is not None:
            assert result.network.digest in {pipe.bundle.digest for pipe in pipes}
    for number, at in log.back:
        # Not once more, and nothing of it is repeated.
        assert all(result.network.number != number for result in log.results[at:])
    kinds = [kind for kind, _ in log.events]
    ends = {"swap_refused", "rolled_back", "swap_confirmed"}
    assert kinds.count("swap_started") == sum(kind in ends for kind in kinds)
    # Until the first switch, all is as without: the same results of the same samples.
    plain = play(pipes, seed, trigger, align, deadline, swaps=False)
    first = next((at for kind, at in log.events if kind == "swapped"), len(plain.results))
    for one, other in zip(plain.results[:first], log.results[:first], strict=False):
        assert (one.outputs is None) == (other.outputs is None)
        # A swap after the last push has the results fetched later, and may tell of drops later.
        others = {"outputs": None, "dropped": {}, "lateness": 0.0}
        assert replace(one, **others) == replace(other, **others)
        for name, value in (one.outputs or {}).items():
            assert np.array_equal(value, other.outputs[name], equal_nan=True)
