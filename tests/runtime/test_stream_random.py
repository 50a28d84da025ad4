"""Random schedules on a simulated clock: what must hold whatever the sensors do."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import COLUMNS, LIMITS, TOKEN, inputs, make_streaming, value

import mmedge
from mmedge.stream import Exact, Hold, Interpolate, Latest, SimulatedClock, Stream, Window

NAMES = tuple(COLUMNS)
VOICE = Window(8, 4)
#: Float seconds of a limit that an age may be above it by rounding.
SLACK = 1.1e-6


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


@dataclass(frozen=True)
class Schedule:
    """Milliseconds throughout. An event: (time, modality, stamp's offset, content)."""

    trigger: object
    costs: dict
    align: dict
    deadline: float | None
    options: dict
    events: tuple = field(default=())
    broken: int = 0  # every so many values, one that no encoder takes; 0: none


POLICIES = {
    "lidar": [Latest(), Hold(120.0), Exact(30.0), Exact(0.0)],
    "text": [Latest(), Hold(50.0)],
    "state": [Latest(), Interpolate(), Interpolate(max_age_ms=30.0), Exact(10.0), Hold(20.0)],
    "odom": [Latest(), Interpolate(max_age_ms=200.0), Exact(25.0), Hold(40.0)],
}


#: Offsets of a bad stamp, in milliseconds.
OFFSETS = (-1, -7, -20, -60, -150, -1400, 300, 1001)


def sense(rng, names, length):
    """Events in order of time: each sensor at its own rate with jitter, late, faulty, or lost."""
    events = []
    trouble = rng.choice([0.0, 0.05, 0.3])
    for name in names:
        period = rng.choice([10, 20, 33, 50, 90])
        lost = sorted(rng.randrange(length + 1) for _ in range(rng.choice([0, 0, 2, 4])))
        delay = -rng.choice([0, 0, 0, 5, 40])
        back = rng.randrange(length + 1) if rng.random() < trouble else None
        for k in range(length // period):
            at = k * period + rng.randrange(period)
            if sum(at >= edge for edge in lost) % 2:
                continue
            bad = rng.random() < trouble
            offset = rng.choice(OFFSETS) if bad and rng.random() < 0.5 else delay
            if back is not None and at >= back:
                offset -= 1500  # the sensor's clock was set back
            content = rng.choice(["same", "nan"]) if bad and offset == delay else "good"
            events.append((at, name, offset, content))
            if bad and rng.random() < 0.2:
                events.append((at, name, offset, "same"))
    return sorted(events)


@st.composite
def schedules(draw):
    stages = ("see", "scan", "read", "double", "shift", "hear", "fuse")
    align = {name: draw(st.sampled_from(found)) for name, found in POLICIES.items()}
    # Drawn by seed: hundreds of draws would take longer than the stream itself.
    rng = random.Random(draw(st.integers(0, 2**32)))
    names = ["camera", *(name for name in NAMES[1:] if rng.random() < 0.8)]
    costs = [rng.choice([0, 0, 1, 5, 20, 60]) for _ in stages]
    if rng.random() < 0.3:
        costs[rng.randrange(len(stages))] = 300
    return Schedule(
        trigger=draw(st.sampled_from(["camera", "camera", "any", "lidar", "odom", 20, 7.5])),
        costs={name: cost / 1000 for name, cost in zip(stages, costs, strict=True)},
        align={**align, "voice": VOICE},
        deadline=draw(st.sampled_from([None, None, 30.0, 200.0])),
        options={
            "depth": draw(st.sampled_from([2, 5, 64])),
            "recover_after": draw(st.sampled_from([1, 2, 3])),
            "keep": draw(st.sampled_from([2, 16])),
        },
        broken=draw(st.sampled_from([0, 0, 2, 5])),
        events=tuple(sense(rng, names, draw(st.sampled_from([600, 1000, 300, 30])))),
    )


#: The stage that sees what was pushed, and the input that tells its number, by modality.
FIRST = {
    "see": ("camera", "image"),
    "scan": ("lidar", "points"),
    "read": ("text", "ids"),
    "double": ("odom", "wheel"),
}


class Breaking:
    """A pipeline whose encoders raise for some values, and which remembers when that was seen."""

    def __init__(self, pipe, schedule, clock):
        self.bundle, self.variant, self._pipe = pipe.bundle, pipe.variant, pipe
        self._every, self._clock = schedule.broken, clock
        self.failed = {name: [] for name in NAMES}

    def run_stage(self, stage, feeds):
        if self._every and stage in FIRST:
            name, key = FIRST[stage]
            number = int(feeds[key].reshape(-1)[0])
            if number and number % self._every == 0:
                self.failed[name].append((number, self._clock() + self._clock.costs[stage]))
                raise ValueError(f"{stage} broke")
        return self._pipe.run_stage(stage, feeds)


class Run:
    """A stream that is driven by a schedule and remembers what was pushed."""

    def __init__(self, pipe, schedule):
        self.clock = SimulatedClock(start=1000.0, costs=schedule.costs)
        self.pipe = Breaking(pipe, schedule, self.clock)
        self.stream = Stream(
            self.pipe,
            trigger=schedule.trigger,
            deadline_ms=schedule.deadline,
            align=schedule.align,
            clock=self.clock,
            **schedule.options,
        )
        self.pushed = {name: [] for name in NAMES}
        self.results = []

    def step(self, at, modality, offset, content):
        self.clock.advance_to(1000.0 + at / 1000)
        made = value(modality, sum(map(len, self.pushed.values())) + 1)
        pushed = self.pushed[modality]
        if content == "same" and pushed:
            made = pushed[-1][1]
        elif content == "nan" and modality != "text":
            made = made.copy()
            made.reshape(-1)[-1] = np.nan
        t = self.clock() + offset / 1000
        assert self.stream.push(modality, made, t=t) == len(pushed)
        pushed.append((t, made))

    def fetch(self):
        health = self.stream.health()
        waiting = health.results - health.results_dropped - len(self.results)
        self.results += [self.stream.result(0) for _ in range(waiting)]
        return health


def play(pipe, schedule, check=lambda run: None):
    run = Run(pipe, schedule)
    with run.stream:
        for event in schedule.events:
            run.step(*event)
            check(run)
        if isinstance(schedule.trigger, str):
            # Nothing hangs: each of the two triggers waits for what runs, at most one more encoding
            # of each modality, and the fusion.
            run.clock.advance(6 * sum(schedule.costs.values()) + 0.01)
            check(run)
            assert run.stream.health().triggers_pending == 0
    check_account(run.stream.health())
    assert all(m.pending == 0 for m in run.stream.health().modalities.values())
    return run


def check_account(health):
    for name, state in health.modalities.items():
        assert state.pushed == state.used + sum(state.dropped.values()) + state.pending, name
        assert state.pending >= 0
    assert health.triggers == (
        health.results
        + health.triggers_superseded
        + health.triggers_closed
        + health.triggers_pending
    )
    assert 0 <= health.triggers_pending <= 2


def limit_of(schedule, name):
    policy = schedule.align.get(name, Latest())
    own = getattr(policy, "max_age_ms", None)
    return LIMITS[name] if own is None else own / 1000


def check_result(pipe, schedule, run, result, last):
    # Counted from the stamp, or from the arrival of one that was ahead.
    assert 0 <= result.latency <= max(result.made - result.t, result.latency * (result.t > 1000))
    assert (result.met is None) == (schedule.deadline is None)
    assert not (result.met and not result.fresh)
    assert set(result.ages) == set(NAMES)
    if not result.fresh:
        assert result.reason
        if result.outputs is not None:
            assert result.outputs is last.outputs
            assert result.samples == last.samples
            check_ages(schedule, result)
        return last
    assert result.reason == ""
    # Each modality was used or says why not; what is both is an older value that stood in.
    assert set(result.samples) | set(result.absent) == set(NAMES)
    for name in set(result.samples) & set(result.absent) - {"odom"}:
        assert result.absent[name].startswith("encoder_error: ValueError: "), result.absent
    check_ages(schedule, result)
    check_failures(schedule, run, result)
    values = {}
    for name, used in result.samples.items():
        for sample in used:
            t, made = run.pushed[name][sample.seq]
            assert t == sample.t
            assert name == "text" or np.isfinite(made).all()
        policy, limit = schedule.align.get(name, Latest()), limit_of(schedule, name)
        assert result.ages[name] == result.t - used[0].t
        if name not in result.absent:
            # Neither too old nor too new: its oldest sample, and its newest.
            for sample in used:
                assert limit is None or abs(result.t - sample.t) <= limit + SLACK
        exact = isinstance(policy, Exact) and schedule.trigger not in (name, "any")
        if exact and name not in result.absent:
            assert abs(result.ages[name]) <= policy.tolerance_ms / 1000 + SLACK
        if name in result.absent and len(used) == 2 and name != "voice":
            return result  # a mixture of another time, which nothing tells
        values.update(recompute(name, run, used, result.t))
    for name in set(NAMES) - set(result.samples):
        assert result.ages[name] is None
    expected = pipe.run(values)
    for key, array in result.outputs.items():
        assert array.tobytes() == expected[key].tobytes()
    if "state" in result.absent:
        assert result.outputs["out"][0, COLUMNS["state"]].tolist() == TOKEN[0].tolist()
    return result


def check_ages(schedule, result):
    """Nothing speaks for a modality beyond its limit without a word; never for a required one."""
    assert "camera" not in result.absent
    for name, age in result.ages.items():
        limit = limit_of(schedule, name)
        if age is not None and limit is not None and name not in result.absent:
            assert age <= limit + SLACK, name


def check_failures(schedule, run, result):
    """A value from before a failed encoding is never used without a word."""
    for name, failures in run.pipe.failed.items():
        policy = schedule.align.get(name, Latest())
        if name in result.absent or schedule.trigger in (name, "any"):
            continue
        if isinstance(policy, Exact | Interpolate):
            continue  # encoded again, at another time, in another order
        numbers = [number_of(name, value) for _, value in run.pushed[name]]
        used = result.samples[name][0].seq
        seen = result.made - schedule.costs["fuse"] - 1e-9
        for number, at in failures:
            assert at >= seen or numbers.index(number) <= used, name


def number_of(name, made):
    return int((made["ids"] if name == "text" else made).reshape(-1)[0])


def check_no_gap(pushed, used):
    """Between the chunks of a window nothing was dropped but repetitions of them."""
    kept = [(t, made.tobytes()) for t, made in (pushed[sample.seq] for sample in used)]
    for seq in range(used[0].seq, used[-1].seq + 1):
        t, made = pushed[seq]
        assert (t, made.tobytes()) in kept


def recompute(name, run, used, t):
    made = [run.pushed[name][sample.seq][1] for sample in used]
    if name == "voice":
        check_no_gap(run.pushed[name], used)
        return {"pcm": np.concatenate(made, axis=1)}
    if len(used) == 1:
        return inputs(name, made[0])
    before, after = used
    assert before.t < t < after.t
    weight = (t - before.t) / (after.t - before.t)
    a, b = (m.astype(np.float64) for m in made)
    return inputs(name, (a + (b - a) * weight).astype(np.float32))


@settings(max_examples=2000)
@given(schedule=schedules())
def test_any_schedule_is_accounted_for_and_computes_what_it_says(pipe, schedule):
    lasts = {"last": None, "done": 0}

    def check(run):
        check_account(run.fetch())
        if run.stream.health().results_dropped:
            # A repeated result may repeat one that was never fetched.
            lasts["lost"] = True
        for result in run.results[lasts["done"] :]:
            if lasts.get("lost") and not result.fresh:
                continue
            lasts["last"] = check_result(pipe, schedule, run, result, lasts["last"])
        lasts["done"] = len(run.results)

    play(pipe, schedule, check)


@settings(max_examples=100)
@given(schedule=schedules())
def test_the_same_schedule_gives_the_same_bits(pipe, schedule):
    first, second = (play(pipe, schedule, Run.fetch) for _ in range(2))
    assert first.stream.health() == second.stream.health()
    assert [plain(r) for r in first.results] == [plain(r) for r in second.results]


def plain(result):
    outputs = result.outputs and {k: v.tobytes() for k, v in result.outputs.items()}
    rest = {f: getattr(result, f) for f in result.__slots__ if f != "outputs"}
    return outputs, rest
