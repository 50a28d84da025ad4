"""A stream's clock that is set while triggers, encodings, pushes and results are under way."""

from __future__ import annotations

import threading
import time

import pytest
from stream_checks import Source, balanced, part
from streaming import make_streaming, value

import mmedge
from mmedge.stream import Stream
from mmedge.stream.sanity import Checker

WAIT = 60.0
#: Seconds that anything here takes at most, on a machine that is busy with other things.
SOON = 10.0
JUMPS = [3600.0, 1.7e9, -10.0, -3600.0]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")


@pytest.fixture
def gated(path):
    with mmedge.load(path, threads=1) as pipe:
        yield Gated(pipe)


class Gated:
    """A pipeline, one stage of which stops once when it is told to, until it is let go on."""

    def __init__(self, pipe):
        self.bundle, self.variant, self._pipe = pipe.bundle, pipe.variant, pipe
        self.stage = ""
        self.inside, self.go_on = threading.Event(), threading.Event()

    def run_stage(self, name, feeds):
        if name == self.stage and not self.inside.is_set():
            self.inside.set()
            assert self.go_on.wait(WAIT)
        return self._pipe.run_stage(name, feeds)


def push_all(s, source, k):
    """A value of each modality but the text, stamped with the clock."""
    stamp = source()
    for name in ("lidar", "state", "odom", "camera"):
        s.push(name, value(name, k), t=stamp)


def first_result(s, source):
    s.push("text", "red ball")
    push_all(s, source, 1)
    while s.result(WAIT).outputs is None:
        pass  # a tick before the frame


def hold(gated, stage, s, source, k):
    """Have a trigger under way that waits in a stage."""
    gated.stage = stage
    push_all(s, source, k)
    assert gated.inside.wait(WAIT)


def check(r, source):
    """All times of a result go together, on the clock as it is now."""
    # Stamps of this century resolve 0.24 us.
    assert -1e-6 < r.latency < SOON
    assert r.made - r.t == pytest.approx(r.latency, abs=1e-5)
    assert abs(r.made - source()) < SOON
    assert r.outputs_t is None or r.outputs_t == r.t
    assert 0.0 <= r.lateness < SOON
    for name, used in r.samples.items():
        assert r.ages[name] == pytest.approx(r.t - min(u.t for u in used), abs=1e-5)


@pytest.mark.parametrize("offset", JUMPS)
@pytest.mark.parametrize("stage", ["see", "fuse"])
@pytest.mark.parametrize("trigger", ["camera", 20])
def test_a_trigger_under_way_does_not_count_the_jump(gated, offset, stage, trigger):
    source = Source()
    with Stream(gated, trigger=trigger, clock=source, deadline_ms=SOON * 1e3) as s:
        first_result(s, source)
        hold(gated, stage, s, source, 2)
        source.offset = offset
        s.now()
        gated.go_on.set()
        while not (r := s.result(WAIT)).samples.get("camera"):
            check(r, source)
        check(r, source)
        if stage == "fuse" or trigger == "camera":
            assert (r.fresh, r.met) == (True, True)
            assert part(r, "text") == [5.0]
            assert all(abs(r.ages[name]) < SOON for name in r.samples)
            told = [name for name, note in r.notes.items() if "the clock was set ahead" in note]
            assert told == (list(r.samples) if offset > 0 else [])
        # What comes next, and what is known of how long things take.
        for k in range(3, 9):
            push_all(s, source, k)
            while (r := s.result(WAIT)).outputs is None or part(r, "camera") != [k]:
                check(r, source)  # a tick before the frame
            check(r, source)
            assert r.fresh
            assert r.ages["text"] > 3600.0 - SOON if offset > 0 else r.ages["text"] < SOON
            assert not [note for note in r.notes.values() if "set ahead" in note]
        assert s._core.network.timings.fusion.estimate() < SOON
        assert s._core.tracks["camera"].encoding.estimate() < SOON
        h = balanced(s)
        assert h.latency_p95 < SOON
        assert (h.clock_jumps, h.clock_glitches) == (1, 0)


@pytest.mark.parametrize("offsets", [(3600.0,), (-10.0,), (3600.0, 7200.0), (3600.0, 10.0)])
def test_a_trigger_that_waits_does_not_count_the_jump_either(gated, offsets):
    source = Source()
    with Stream(gated, trigger="camera", clock=source, deadline_ms=SOON * 1e3) as s:
        first_result(s, source)
        hold(gated, "fuse", s, source, 2)
        push_all(s, source, 3)
        for offset in offsets:
            source.offset = offset
            s.now()
        # What comes after the jump is newer than the trigger by the time that passed.
        s.push("state", value("state", 4), t=source())
        s.push("text", "ball")
        gated.go_on.set()
        for k in (2, 3):
            r = s.result(WAIT)
            check(r, source)
            assert (part(r, "camera"), r.fresh, r.met) == ([k], True, True)
            assert not r.absent.get("state"), r.absent
            assert all(abs(r.ages[name]) < SOON for name in r.samples)
        assert r.samples["state"][0].seq == 3
        assert r.ages["state"] < 0.0
        assert "state" not in r.notes
        balanced(s)


@pytest.mark.parametrize("offset", JUMPS)
def test_an_encoder_does_not_seem_to_hang_after_a_jump(gated, offset):
    source = Source()
    with Stream(gated, trigger="camera", clock=source) as s:
        hold(gated, "scan", s, source, 1)
        source.offset = offset
        s.now()
        time.sleep(0.1)
        h = balanced(s)
        assert (h.triggers_pending, h.results) == (1, 0)
        assert "has run for" not in h.modalities["lidar"].reason
        gated.go_on.set()
        r = s.result(WAIT)
        check(r, source)
        assert "lidar" in r.samples
        assert s._core.tracks["lidar"].encoding.estimate() < SOON
        balanced(s)


@pytest.mark.parametrize("offset", JUMPS)
def test_a_push_under_way_does_not_count_the_jump(gated, offset, monkeypatch):
    """The clock is set between the reading that judges a stamp, and the one that triggers."""
    source = Source()
    with Stream(gated, trigger="camera", clock=source) as s:
        first_result(s, source)
        check_values = Checker.check

        def check_and_set(self, values):
            source.offset = offset
            return check_values(self, values)

        monkeypatch.setattr(Checker, "check", check_and_set)
        s.push("camera", value("camera", 2), t=source())
        r = s.result(WAIT)
        check(r, source)
        assert (part(r, "camera"), r.fresh) == ([2], True)
        assert abs(r.ages["camera"]) < SOON
        balanced(s)


@pytest.mark.parametrize("offset", JUMPS)
def test_a_result_that_waits_is_as_late_as_it_waited(gated, offset):
    source = Source()
    with Stream(gated, trigger="camera", clock=source) as s:
        push_all(s, source, 1)
        while not s.health().results:
            time.sleep(0.005)
        begun = time.monotonic()
        time.sleep(0.05)
        source.offset = offset
        s.now()
        least = time.monotonic() - begun
        assert least - 1e-3 <= s.result(WAIT).lateness < SOON
