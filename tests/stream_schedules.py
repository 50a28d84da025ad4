"""Random schedules of what sensors do to a stream, on a simulated clock."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from stream_checks import check_account
from streaming import COLUMNS, value

from mmedge.stream import Exact, Hold, Interpolate, Latest, SimulatedClock, Stream, Window

NAMES = tuple(COLUMNS)


@dataclass(frozen=True)
class Schedule:
    """Milliseconds throughout.

    An event: (time, modality, stamp's offset, content, rows of a chunk). The content is "good",
    "nan", or "same" as before; or it says "forget", or "reset".
    """

    trigger: object
    costs: dict
    align: dict
    deadline: float | None
    options: dict
    events: tuple = field(default=())
    broken: int = 0  # every so many values, one that no encoder takes; 0: none


POLICIES = {
    "lidar": [Latest(), Hold(120.0), Exact(30.0), Exact(0.0), Exact(5.0, wait_ms=40.0)],
    "text": [Latest(), Hold(50.0), Latest(wait_ms=30.0)],
    "state": [
        Latest(),
        Interpolate(),
        Interpolate(max_age_ms=30.0, wait_ms=15.0),
        Exact(10.0),
        Hold(20.0),
    ],
    "odom": [
        Latest(),
        Interpolate(max_age_ms=200.0),
        Exact(25.0, wait_ms=60.0),
        Hold(40.0, wait_ms=5.0),
    ],
    "voice": [
        Window(8, 4),
        Window(8, 8),
        Window(8, 3, max_age_ms=60.0),
        Window(8, 16),
        Window(8, 4, rate_hz=200.0),
        Window(16, 4, rate_hz=400.0, max_gap_ms=30.0),
    ],
}
#: Longest of the waits, in seconds.
LONGEST_WAIT = 0.06


TRIGGERS = ["camera", "camera", "any", "lidar", "odom", "voice", 20, 7.5]
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
        step = rng.choice([1500, 950, 120, 30])
        back = rng.randrange(length + 1) if rng.random() < trouble else None
        for k in range(length // period):
            at = k * period + rng.randrange(period)
            if sum(at >= edge for edge in lost) % 2:
                continue
            bad = rng.random() < trouble
            offset = rng.choice(OFFSETS) if bad and rng.random() < 0.5 else delay
            if back is not None and at >= back:
                offset -= step  # the sensor's clock was set back
            content = rng.choice(["same", "nan"]) if bad and offset == delay else "good"
            rows = rng.choice([1, 4, 4, 4, 12, 20])
            events.append((at, name, offset, content, rows))
            if bad and rng.random() < 0.2:
                events.append((at, name, offset, "same", rows))
    for _ in range(rng.choice([0, 0, 1, 3])):
        what = rng.choice(["forget", "forget", "reset"])
        events.append((rng.randrange(length), rng.choice(names), 0, what, 0))
    # Now and then nothing comes for five seconds.
    pause = rng.randrange(length) if rng.random() < 0.3 else length
    return sorted((at + 5000 * (at >= pause), *rest) for at, *rest in events)


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
        trigger=draw(st.sampled_from(TRIGGERS)),
        costs={name: cost / 1000 for name, cost in zip(stages, costs, strict=True)},
        align=align,
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
        self.rows = 0
        #: Number of the first sample that may be used, by modality.
        self.first = dict.fromkeys(NAMES, 0)
        self.results = []
        self.told = {name: Counter() for name in NAMES}

    def step(self, at, modality, offset, content, rows):
        self.clock.advance_to(1000.0 + at / 1000)
        if content == "forget":
            self.stream.forget(modality)
            self.first[modality] = len(self.pushed[modality])
        elif content == "reset":
            self.stream.reset()
            self.first = {name: len(pushed) for name, pushed in self.pushed.items()}
        else:
            self.push(modality, offset, content, rows)

    def push(self, modality, offset, content, rows):
        t = self.clock() + offset / 1000
        pushed = self.pushed[modality]
        made = value(modality, sum(map(len, self.pushed.values())) + 1)
        same = content == "same" and pushed
        if modality == "voice":
            # Rows are numbered, so that a window shows what is missing in it.
            made = np.arange(self.rows, self.rows + rows, dtype=np.float32)[None]
            same = same and pushed[-1][0] == t
            self.rows += 0 if same else rows
        if same:
            made = pushed[-1][1]
        elif content == "nan" and modality != "text":
            made = made.copy()
            made.reshape(-1)[-1] = np.nan
        assert self.stream.push(modality, made, t=t) == len(pushed)
        pushed.append((t, made))

    def fetch(self):
        health = self.stream.health()
        waiting = health.results - health.results_dropped - len(self.results)
        # One at work, and one that waits or the windows of a chunk of 20 rows.
        assert 0 <= health.triggers_pending <= 9
        for _ in range(waiting):
            result = self.stream.result(0)
            for name, used in result.samples.items():
                assert used[0].seq >= self.first[name], name
            self.results.append(result)
            assert result.lateness >= 0
            for name, counts in result.dropped.items():
                self.told[name].update(counts)
                # Told once, and also what results that nobody fetched would have told.
                dropped = self.stream.health().modalities[name].dropped
                assert all(n <= dropped[why] for why, n in self.told[name].items()), name
        return health


def play(pipe, schedule, check=lambda run: None):
    run = Run(pipe, schedule)
    with run.stream:
        for number, event in enumerate(schedule.events):
            run.step(*event)
            if number % 3:
                check(run)
        if isinstance(schedule.trigger, str):
            # Nothing hangs: each trigger waits for partners, what runs, at most one more encoding
            # of each modality, and the fusion.
            each = 3 * sum(schedule.costs.values()) + LONGEST_WAIT
            run.clock.advance((2 + run.stream.health().triggers_pending) * each + 0.01)
            check(run)
            assert run.stream.health().triggers_pending == 0
    check_account(run.stream.health())
    assert all(m.pending == m.windows_pending == 0 for m in run.stream.health().modalities.values())
    return run
