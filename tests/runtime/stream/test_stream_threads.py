"""Streams with threads on the wall clock: pushers, slow and failing encoders, closing."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from streaming import COLUMNS, make_streaming, value

import mmedge
from mmedge.errors import BackendError
from mmedge.stream import Exact, Hold, Sanity, Stream, Window

#: Seconds after which a test gives up waiting; nothing is asserted on how long things take.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    path = make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")
    with mmedge.load(path, threads=1) as pipe:
        yield pipe


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("mmedge ")]


def await_true(condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    assert not workers()
    yield
    await_true(lambda: not workers())


@contextmanager
def gated(pipe, monkeypatch, stage):
    """``stage`` runs only while the event is set; yields it and one that says it was entered."""
    real, gate, entered = pipe.run_stage, threading.Event(), threading.Event()

    def run_stage(name, feeds):
        if name == stage:
            entered.set()
            assert gate.wait(PATIENCE)
        return real(name, feeds)

    monkeypatch.setattr(pipe, "run_stage", run_stage)
    try:
        yield gate, entered
    finally:
        gate.set()


def assert_closed_account(stream):
    for state in stream.health().modalities.values():
        assert state.pending == 0
        assert state.pushed == state.used + sum(state.dropped.values())


def test_each_frame_makes_a_result(pipe):
    with Stream(pipe, trigger="camera") as s:
        s.push("text", "red ball")
        for k in range(50):
            s.push("camera", value("camera", k))
            r = s.result(PATIENCE)
            assert r.outputs["out"][0, COLUMNS["camera"]].tolist() == [k]
            assert r.outputs["out"][0, COLUMNS["text"]].tolist() == [5]
            assert r.made >= r.t
        assert s.health().modalities["camera"].used == 50


def test_timer_on_the_wall_clock_and_on_another(pipe):
    for clock in (None, lambda: 10 * time.monotonic()):
        with Stream(pipe, trigger=200, clock=clock, align={"camera": Hold(1e7)}) as s:
            s.push("camera", value("camera", 1))
            times = [s.result(PATIENCE).t for _ in range(5)]
            assert times == sorted(set(times))


def test_many_pushers_and_every_sample_accounted_for(pipe):
    align = {"voice": Window(8, 4), "state": Exact(5)}
    errors = []
    with Stream(pipe, trigger="any", align=align, keep=4) as s:

        def pushes(modality):
            try:
                for k in range(200):
                    s.push(modality, value(modality, k))
            except Exception as error:  # noqa: BLE001  # shown below
                errors.append(error)

        names = [*COLUMNS, "camera", "state"]
        pushers = [threading.Thread(target=pushes, args=(name,)) for name in names]
        for thread in pushers:
            thread.start()
        while any(thread.is_alive() for thread in pushers):
            try:
                result = s.result(0.05)
            except TimeoutError:
                continue
            if result.outputs is not None:
                seq = result.samples["camera"][0].seq
                assert seq < 400
        for thread in pushers:
            thread.join()
        assert not errors
        # Two threads push to one modality: each stamp is taken in order of the samples' numbers.
        states = s.health().modalities
        assert states["camera"].pushed == states["state"].pushed == 400
        assert "out_of_order" not in states["camera"].dropped
        for state in states.values():
            assert state.pushed == state.used + sum(state.dropped.values()) + state.pending
        await_true(lambda: s.health().triggers_pending == 0)
        health = s.health()
        assert health.triggers == health.results + health.triggers_superseded
    assert_closed_account(s)


def test_slow_encoder_does_not_set_the_rate(pipe, monkeypatch):
    with (
        gated(pipe, monkeypatch, "scan") as (gate, entered),
        Stream(pipe, trigger="camera", align={"lidar": Hold(1e7)}) as s,
    ):
        gate.set()
        s.push("lidar", value("lidar", 2))
        s.push("camera", value("camera", 0))
        assert s.result(PATIENCE).samples["lidar"][0].seq == 0
        gate.clear()
        entered.clear()
        s.push("lidar", value("lidar", 3))
        assert entered.wait(PATIENCE)
        for k in range(1, 20):  # its encoder is stuck all the while
            s.push("camera", value("camera", k))
            r = s.result(PATIENCE)
            assert r.samples["lidar"][0].seq == 0
            assert r.outputs["out"][0, COLUMNS["lidar"]].tolist() == [2.5, 2.5]
        gate.set()
        await_true(lambda: s.health().modalities["lidar"].encodes == 2)
        s.push("camera", value("camera", 99))
        assert s.result(PATIENCE).samples["lidar"][0].seq == 1


@pytest.mark.serial
def test_an_optional_encoder_that_hangs_is_given_up_before_the_deadline(pipe, monkeypatch):
    with (
        gated(pipe, monkeypatch, "scan") as (gate, entered),
        Stream(pipe, trigger="camera", deadline_ms=400.0) as s,
    ):
        gate.set()
        s.push("lidar", value("lidar", 1))
        s.push("camera", value("camera", 0))
        assert s.result(PATIENCE).samples["lidar"][0].seq == 0
        gate.clear()
        entered.clear()
        time.sleep(0.35)  # what is ready is too old by now
        s.push("lidar", value("lidar", 2))
        assert entered.wait(PATIENCE)
        for k in range(1, 4):  # its encoder is stuck all the while
            s.push("camera", value("camera", k))
            r = s.result(PATIENCE)
            assert r.outputs["out"][0, COLUMNS["lidar"]].tolist() == [0.5, 0.5]
            assert r.absent["lidar"].startswith("too_old")
            # Beyond its age limit, the one in flight would not do either.
            assert k > 1 or "a newer one is still being encoded" in r.absent["lidar"]
        await_true(lambda: not s.health().modalities["lidar"].present)
        gate.set()


def test_a_clock_that_raises_in_a_worker_fails_the_stream(pipe, monkeypatch):
    broken = threading.Event()

    def clock():
        if broken.is_set() and threading.current_thread().name.startswith("mmedge "):
            raise OSError("no /clock")
        return time.monotonic()

    with (
        gated(pipe, monkeypatch, "see") as (gate, entered),
        Stream(pipe, trigger="camera", clock=clock) as s,
    ):
        s.push("camera", value("camera", 1))
        assert entered.wait(PATIENCE)
        broken.set()
        gate.set()
        with pytest.raises(BackendError, match="'mmedge camera' died: .*clock raised OSError"):
            s.result(PATIENCE)
        with pytest.raises(BackendError, match="the stream failed"):
            s.push("camera", value("camera", 2))
        assert_closed_account(s)


def test_encoder_that_raises_does_not_stop_the_others(pipe, monkeypatch):
    real = pipe.run_stage

    def run_stage(name, feeds):
        if name == "scan" and np.any(feeds["points"] > 0):
            raise ValueError("lidar encoder broke")
        return real(name, feeds)

    monkeypatch.setattr(pipe, "run_stage", run_stage)
    with Stream(pipe, trigger="camera") as s:
        for k in range(1, 6):
            s.push("lidar", value("lidar", k))
            await_true(lambda k=k: s.health().modalities["lidar"].errors == k)
            s.push("camera", value("camera", k))
            r = s.result(PATIENCE)
            assert r.outputs["out"][0, COLUMNS["camera"]].tolist() == [k]
            assert r.absent["lidar"] == "encoder_error: ValueError: lidar encoder broke"
        state = s.health().modalities["lidar"]
        assert state.dropped == {"encoder_error": 5}
        assert state.last_error == "ValueError: lidar encoder broke"


@pytest.mark.parametrize("stage", ["see", "fuse"])
def test_close_during_a_stage_wakes_who_waits_and_returns(pipe, monkeypatch, stage):
    with gated(pipe, monkeypatch, stage) as (gate, entered):
        s = Stream(pipe, trigger="camera")
        caught = []

        def waits():
            try:
                s.result()
            except BackendError as error:
                caught.append(str(error))

        waiter = threading.Thread(target=waits)
        waiter.start()
        s.push("camera", value("camera", 1))
        assert entered.wait(PATIENCE)
        s.push("camera", value("camera", 2))
        s.close()
        waiter.join(PATIENCE)
        assert caught == ["the stream is closed; make a new one"]
        # Only the thread inside the stage is still there, and it ends with the stage.
        await_true(lambda: len(workers()) == 1)
        assert_closed_account(s)
        before = s.health()
        gate.set()
        await_true(lambda: not workers())
        assert s.health() == before
        with pytest.raises(BackendError, match="closed"):
            s.push("camera", value("camera", 3))
        s.close()


def test_forgotten_stream_ends_its_threads(pipe):
    s = Stream(pipe, trigger=50)
    assert workers()
    del s
    gc.collect()
    await_true(lambda: not workers())


def test_several_streams_share_a_pipeline(pipe):
    sanity = {"camera": Sanity(frozen_after=None)}
    streams = [Stream(pipe, trigger="camera", sanity=sanity) for _ in range(3)]
    try:
        for k in range(20):
            for n, s in enumerate(streams):
                s.push("camera", value("camera", 100 * n + k))
            for n, s in enumerate(streams):
                out = s.result(PATIENCE).outputs["out"]
                assert out[0, COLUMNS["camera"]].tolist() == [100 * n + k]
    finally:
        for s in streams:
            s.close()


def test_closed_pipeline_shows_in_the_results(tmp_path):
    pipe = mmedge.load(make_streaming(tmp_path / "b"), threads=1)
    with Stream(pipe, trigger="camera") as s:
        pipe.close()
        s.push("camera", value("camera", 1))
        assert "is closed" in s.result(PATIENCE).reason


def test_a_wait_that_is_in_vain_says_what_is_missing(pipe):
    with Stream(pipe, trigger="camera") as s:
        s.push("lidar", value("lidar", 1))
        with pytest.raises(TimeoutError) as caught:
            s.result(0.01)
        text = str(caught.value)
        assert text.startswith("no result within 0.01 s: trigger 'camera' fired 0 times")
        assert "camera absent (no sample yet), 0 pushed; lidar present, 1 pushed" in text


@pytest.mark.serial
def test_waits_for_partners_end_in_real_time(pipe):
    """The partner comes while the trigger waits for it, and then not at all."""
    align = {"state": Exact(1, wait_ms=200)}
    with Stream(pipe, trigger="camera", align=align) as s:
        t = time.monotonic()
        s.push("camera", value("camera", 1), t=t)
        time.sleep(0.02)
        s.push("state", value("state", 5), t=t)
        r = s.result(PATIENCE)
        assert r.outputs["out"][0, COLUMNS["state"]].tolist() == [5, 5, 5]
        s.push("camera", value("camera", 2), t=t + 0.02)
        r = s.result(PATIENCE)
        assert "state" in r.absent
        assert r.made - t - 0.02 > 0.19


def test_forget_and_reset_while_stages_run(pipe, monkeypatch):
    with gated(pipe, monkeypatch, "fuse") as (gate, entered), Stream(pipe, trigger="camera") as s:
        for forget in (lambda: s.forget("text"), s.reset):
            gate.clear()
            entered.clear()
            s.push("text", "red")
            s.push("camera", value("camera", 1))
            assert entered.wait(PATIENCE)
            forget()
            s.push("camera", value("camera", 2))
            gate.set()
            until = time.monotonic() + PATIENCE
            camera = None
            while camera != [2] and time.monotonic() < until:
                r = s.result(PATIENCE)
                assert "text" in r.absent
                camera = r.outputs["out"][0, COLUMNS["camera"]].tolist()
            assert camera == [2]
            await_true(lambda: s.health().triggers_pending == 0)
            s.reset()
    assert_closed_account(s)
