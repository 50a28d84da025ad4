"""What a stream tells whoever watches it."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from stream_checks import balanced
from stream_loops import Stages, make_recurrent
from stream_loops import value as number
from streaming import make_streaming, value
from text_bundles import text_pipe, words

import mmedge
from mmedge.errors import InputError
from mmedge.stream import Interpolate, Observer, SimulatedClock, Stream, Window


class Log(Observer):
    """Keeps what it is told."""

    def __init__(self):
        self.pushes, self.encodings, self.results, self.events = [], [], [], []

    def on_push(self, modality, seq, value, t, arrival, fault):
        self.pushes.append((modality, seq, value, t, arrival, fault))

    def on_encoded(self, modality, samples, values, features, now):
        self.encodings.append((modality, samples, values, features, now))

    def on_result(self, result):
        self.results.append(result)

    def on_event(self, event):
        self.events.append(event)


class Faulty(Observer):
    """Raises at the second result."""

    count = 0

    def on_result(self, result):
        self.count += 1
        if self.count == 2:
            raise OSError("disk full")


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


def run(stream, clock, count):
    for k in range(count):
        clock.advance(0.05)
        stream.push("state", value("state", k))
        stream.push("camera", value("camera", k), t=clock() - 0.01)


def test_told_in_order_and_of_everything(pipe):
    clock, log = SimulatedClock(), Log()
    with Stream(pipe, trigger="camera", clock=clock, keep=2) as s:
        end = s.observe(log)
        run(s, clock, 5)
        clock.advance(0.01)
        s.push("state", np.full((1, 3), np.nan, np.float32))
        s.forget("state")
        s.reset()
        health = balanced(s)
        end()
        run(s, clock, 1)
    camera = [push for push in log.pushes if push[0] == "camera"]
    assert [push[1] for push in camera] == list(range(5))
    assert [push[4] - push[3] for push in camera] == pytest.approx([0.01] * 5)
    assert log.pushes[-1][5].startswith("nan")
    assert len(log.pushes) == sum(m.pushed for m in health.modalities.values())
    # Every result, though two at most wait to be fetched.
    assert len(log.results) == health.results == 5
    assert [r.samples["camera"][0].seq for r in log.results] == list(range(5))
    encoded = [e for e in log.encodings if e[0] == "camera"]
    assert [e[1][0].seq for e in encoded] == list(range(5))
    assert all(e[3] is not None and set(e[2]) == set(camera[0][2]) for e in encoded)
    assert [event.kind for event in log.events] == ["forget", "reset"]
    assert log.events[0].details == {"modality": "state"}
    assert health.events == {"forget": 1, "reset": 1}


def test_an_observer_that_raises_is_left_out_and_named(pipe):
    clock, log, faulty = SimulatedClock(), Log(), Faulty()
    with Stream(pipe, trigger="camera", clock=clock) as s:
        s.observe(faulty)
        s.observe(log)
        run(s, clock, 4)
        assert s.health().events == {"observer_error": 1}
    assert faulty.count == 2
    assert len(log.results) == 4
    assert log.events[0].message == (
        "Faulty.on_result raised OSError: disk full; it is told nothing more"
    )
    assert [event.kind for event in log.events] == ["observer_error", "close"]


def test_one_that_raises_at_the_event_of_another_is_told_nothing_more(pipe):
    told = []

    class Raises(Observer):
        def on_result(self, result):
            told.append("result")
            raise ValueError("first")

    class RaisesAtThat(Observer):
        def on_event(self, event):
            raise ValueError("second")

        def on_result(self, result):
            told.append("more")

    clock = SimulatedClock()
    with Stream(pipe, trigger="camera", clock=clock) as stream:
        stream.observe(Raises())
        stream.observe(RaisesAtThat())
        run(stream, clock, 3)
        assert stream.health().events == {"observer_error": 2}
    assert told == ["result"]


def test_what_ends_watching_does_not_keep_a_stream(pipe):
    stream = Stream(pipe, trigger="camera", clock=SimulatedClock())
    log = Log()
    end = stream.observe(log)
    reference = weakref.ref(stream)
    del stream
    gc.collect()
    assert reference() is None
    assert [event.kind for event in log.events] == ["close"]
    end()


def test_failure_and_clock_jumps_are_events(pipe):
    clock = iter([0.0, 0.1, 100.0, 100.1, 100.2, 100.3])
    log = Log()
    with Stream(pipe, trigger="camera", clock=lambda: next(clock)) as s:
        s.observe(log)
        for _ in range(4):
            s.now()
        with pytest.raises(Exception, match="stream failed"):
            for _ in range(9):
                s.now()
    kinds = [event.kind for event in log.events]
    assert kinds[-2:] == ["failure", "close"]
    assert "clock_jump" in kinds


def test_what_is_no_observer_is_refused(pipe):
    with (
        Stream(pipe, trigger="camera", clock=SimulatedClock()) as s,
        pytest.raises(InputError, match="expected a mmedge.stream.Observer, got function"),
    ):
        s.observe(lambda result: None)


def test_texts_are_told_as_they_were_pushed(tmp_path):
    with text_pipe(tmp_path, words()) as pipe:
        (modality,) = [m.name for m in pipe.bundle.manifest.modalities if m.tokenizer]
        log = Log()
        with pipe.stream(trigger=modality, clock=SimulatedClock()) as s:
            s.observe(log)
            s.push(modality, "red circle")
        assert log.pushes[0][2] == "red circle"


class Runs(Log):
    """Keeps also what is needed to run results again."""

    def __init__(self):
        super().__init__()
        self.order, self.fusions, self.state_runs = [], [], []

    def on_state_run(self, modality, item):
        self.order.append("state_run")
        self.state_runs.append((modality, item))

    def on_encoded(self, *told):
        self.order.append("encoded")
        super().on_encoded(*told)

    def on_fused(self, items, sizes, turns, outcome):
        self.order.append("fused")
        self.fusions.append((items, sizes, turns, outcome))

    def on_result(self, result):
        self.order.append("result")
        super().on_result(result)


def test_what_a_result_used_is_told_before_it(pipe):
    clock, log = SimulatedClock(), Runs()
    align = {"voice": Window(6, 3), "state": Interpolate(wait_ms=1)}
    with Stream(pipe, trigger="camera", clock=clock, align=align) as s:
        s.observe(log)
        for k in range(4):
            clock.advance(0.05)
            s.push("state", value("state", k))
            s.push("voice", value("voice", k))
        s.push("camera", value("camera", 1), t=clock() - 0.025)
    (items, sizes, turns, outcome), result = log.fusions[0], log.results[0]
    assert log.order[-2:] == ["fused", "result"]
    assert {n for n, item in items.items() if item is None} == set(result.absent)
    # A window of the last of 16 rows of chunks of 4 that ends at a multiple of 3.
    assert [sample.seq for sample in items["voice"].samples] == [2, 3]
    assert items["voice"].first_row == 9 - 8
    assert [sample.seq for sample in items["state"].samples] == [2, 3]
    assert (sizes["samples"], turns) == (6, {})
    assert outcome.outputs is result.outputs


def test_runs_of_an_encoder_with_state_are_told_with_the_states_they_began_with(tmp_path):
    stages = Stages(make_recurrent(tmp_path / "bundle"))
    clock, log = SimulatedClock(), Runs()
    with Stream(stages, trigger="audio", clock=clock) as s:
        s.observe(log)
        for k in (1, 2):
            clock.advance(0.02)
            s.push("audio", number("audio", k))
    first, second = (item.turn for _, item in log.state_runs)
    assert not first.states
    assert second.states
    assert log.order == ["state_run", "encoded", "fused", "result"] * 2


def test_an_application_tells_of_events_too(pipe):
    log = Log()
    with Stream(pipe, trigger="camera", clock=SimulatedClock(start=3.0)) as s:
        s.observe(log)
        s.tell("drift", "the camera is dark", modality="camera", score=0.9)
        assert s.health().events == {"drift": 1}
    s.tell("drift", "too late")
    (event, _close) = log.events
    assert (event.kind, event.t, event.message) == ("drift", 3.0, "the camera is dark")
    assert event.details == {"modality": "camera", "score": 0.9}
