"""Streams by the C API, on the caller's thread or threads of their own: results, ages, counters."""

from __future__ import annotations

import ctypes
import threading
import time
from math import isnan

import numpy as np
import pytest
from native_builds import ROOT

from mmedge.native.loop_calls import FINISH, loop_options
from mmedge.native.runtime import NativeBundle, NativePipeline, library
from mmedge.native.structures import NUMBERS, Tensor

pytestmark = pytest.mark.native_build

BUNDLE = ROOT / "conformance/cases/bundles/both.mmedge"
INPUTS = {"camera": b"image", "voice": b"pcm", "lidar": b"points", "image": b"image"}
CLOCK = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_void_p)


class Options(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("trigger", ctypes.c_char_p),
        ("trigger_hz", ctypes.c_double),
        ("deadline_ms", ctypes.c_double),
        ("modalities", ctypes.c_void_p),
        ("modality_count", ctypes.c_int32),
        ("depth", ctypes.c_int64),
        ("keep", ctypes.c_int64),
        ("future_s", ctypes.c_double),
        ("recover_after", ctypes.c_int64),
        ("largest", ctypes.c_void_p),
        ("largest_count", ctypes.c_int32),
        ("clock", CLOCK),
        ("clock_context", ctypes.c_void_p),
        ("threads", ctypes.c_void_p),
        ("loop_options", ctypes.c_void_p),
        ("cancel", ctypes.c_int32),
        ("resets", ctypes.c_void_p),
        ("reset_count", ctypes.c_int32),
    )


ON_RESULT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)


class Threads(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("name", ctypes.c_char_p),
        ("cpus", ctypes.c_void_p),
        ("cpu_count", ctypes.c_int32),
        ("priority", ctypes.c_int32),
        ("on_result", ON_RESULT),
        ("context", ctypes.c_void_p),
    )


class Size(ctypes.Structure):
    _fields_ = (("dimension", ctypes.c_char_p), ("size", ctypes.c_int64))


class Result(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("available", ctypes.c_int32),
        ("has_outputs", ctypes.c_int32),
        ("fresh", ctypes.c_int32),
        ("met", ctypes.c_int32),
        ("t", ctypes.c_double),
        ("made", ctypes.c_double),
        ("latency", ctypes.c_double),
        ("lateness", ctypes.c_double),
        ("outputs_t", ctypes.c_double),
        ("trigger", ctypes.c_char_p),
        ("reason", ctypes.c_char_p),
    )


class Used(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("modality", ctypes.c_char_p),
        ("age", ctypes.c_double),
        ("samples", ctypes.c_int32),
        ("sequence", ctypes.c_int64),
        ("stamp", ctypes.c_double),
        ("absent", ctypes.c_char_p),
        ("note", ctypes.c_char_p),
    )


class Counters(ctypes.Structure):
    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("triggers", ctypes.c_int64),
        ("results", ctypes.c_int64),
        ("stale", ctypes.c_int64),
        ("empty", ctypes.c_int64),
        ("deadline_misses", ctypes.c_int64),
        ("results_dropped", ctypes.c_int64),
        ("latency_p95", ctypes.c_double),
        ("clock_jumps", ctypes.c_int64),
        ("clock_glitches", ctypes.c_int64),
        ("state_resets", ctypes.c_int64),
    )


class Reset(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("after_s", ctypes.c_double))


class Stream:
    """A stream of a pipeline, and its clock; with threads, on the system's."""

    def __init__(self, pipe, trigger, threads=None, loop=None, resets=(), **largest_sizes):
        self.c, self.time = library(), 100.0
        self.c.mmedge_stream_wait.argtypes = (ctypes.c_void_p, ctypes.c_double)
        self.c.mmedge_stream_stop.argtypes = (ctypes.c_void_p,)
        self.c.mmedge_stream_stop.restype = None
        self.c.mmedge_stream_close.argtypes = (ctypes.c_void_p,)
        self.c.mmedge_stream_close.restype = None
        self._clock = CLOCK() if threads else CLOCK(lambda _: self.time)
        self._threads = threads
        sizes = {"batch": 2, **largest_sizes}
        largest = (Size * len(sizes))(*(Size(name.encode(), n) for name, n in sizes.items()))
        given = (Reset * len(resets))(*resets)
        options = Options(
            ctypes.sizeof(Options), trigger, 0, 0, None, 0, 64, 16, 1.0, 3,
            ctypes.cast(largest, ctypes.c_void_p), len(sizes), self._clock, None,
            ctypes.cast(ctypes.pointer(threads), ctypes.c_void_p) if threads else None,
            ctypes.cast(ctypes.pointer(loop), ctypes.c_void_p) if loop else None, 0,
            ctypes.cast(given, ctypes.c_void_p), len(resets),
        )  # fmt: skip
        self.handle = ctypes.c_void_p()
        self.check(
            self.c.mmedge_stream_open(pipe.handle, ctypes.byref(options), ctypes.byref(self.handle))
        )

    def check(self, status):
        assert status == 0, self.c.mmedge_last_error()

    def push(self, modality, array, stamp):
        tensor = Tensor(
            INPUTS[modality], array.ctypes.data, array.nbytes, NUMBERS[array.dtype], array.ndim
        )
        tensor.shape[: array.ndim] = array.shape
        seq, at = ctypes.c_int64(-1), ctypes.c_double(stamp)
        status = self.c.mmedge_stream_push(
            self.handle, modality.encode(), ctypes.byref(tensor), 1, ctypes.byref(at),
            ctypes.byref(seq),
        )  # fmt: skip
        return status, seq.value

    def take(self):
        result = Result(ctypes.sizeof(Result))
        self.check(self.c.mmedge_stream_take(self.handle, 0, ctypes.byref(result)))
        return result

    def output(self, name):
        tensor = Tensor(name.encode())
        self.check(self.c.mmedge_stream_output(self.handle, ctypes.byref(tensor)))
        data = ctypes.string_at(tensor.data, tensor.bytes)
        dtype = next(dtype for dtype, number in NUMBERS.items() if number == tensor.dtype)
        return np.frombuffer(data, dtype).reshape(tuple(tensor.shape[: tensor.rank]))

    def finish(self):
        rows, finish = ctypes.c_int32(), (ctypes.c_int32 * 8)()
        self.check(self.c.mmedge_stream_finish(self.handle, finish, 8, ctypes.byref(rows)))
        return [FINISH[number] for number in finish[: rows.value]]

    def used(self, index):
        used = Used(ctypes.sizeof(Used))
        self.check(self.c.mmedge_stream_result_modality(self.handle, index, ctypes.byref(used)))
        return used

    def dropped(self, modality, reason=None):
        count = ctypes.c_uint64()
        words = (modality.encode(), None if reason is None else reason.encode())
        self.check(self.c.mmedge_stream_dropped(self.handle, *words, ctypes.byref(count)))
        return count.value

    def counters(self):
        counters = Counters(ctypes.sizeof(Counters))
        self.check(self.c.mmedge_stream_counters(self.handle, ctypes.byref(counters)))
        return counters

    def wait(self, timeout_s):
        return self.c.mmedge_stream_wait(self.handle, timeout_s)

    def stop(self):
        self.c.mmedge_stream_stop(self.handle)

    def poll(self):
        self.check(self.c.mmedge_stream_poll(self.handle))

    def close(self):
        self.c.mmedge_stream_close(self.handle)


@pytest.fixture
def pipe():
    with NativeBundle(BUNDLE) as bundle, NativePipeline(bundle, plan="cut", threads=1) as pipe:
        yield pipe


@pytest.fixture
def stream(pipe):
    stream = Stream(pipe, b"camera")
    yield stream
    stream.close()


def frame(number):
    return np.full((1, 2, 2, 3), number, np.uint8)


VOICE = np.arange(4, dtype=np.float32).reshape(1, 4)


def test_a_result_has_outputs_of_a_call_and_ages_by_the_callers_clock(stream, pipe):
    assert stream.push("voice", VOICE, 99.75) == (0, 0)
    assert stream.take().available == 0
    assert stream.push("camera", frame(7), 99.875) == (0, 0)
    stream.poll()
    result = stream.take()
    assert (result.available, result.has_outputs, result.fresh, result.met) == (1, 1, 1, -1)
    assert (result.t, result.trigger, result.reason) == (99.875, b"camera", b"")
    expected = pipe.run({"image": frame(7), "pcm": VOICE})
    for name, value in expected.items():
        assert stream.output(name).tobytes() == value.tobytes(), name
    camera, voice, state = (stream.used(index) for index in range(3))
    assert (camera.modality, camera.age, camera.sequence, camera.stamp) == (b"camera", 0, 0, 99.875)
    assert (voice.age, voice.samples, voice.absent) == (0.125, 1, b"")
    assert isnan(state.age)
    assert (state.samples, state.sequence) == (0, -1)
    assert state.absent
    assert stream.take().available == 0


def test_every_sample_is_accounted_for(stream):
    for number, stamp in enumerate((99.5, 99.6, 99.6, 99.4, 101.5)):
        assert stream.push("camera", frame(number), stamp) == (0, number)
    stream.push("voice", np.full((1, 4), np.nan, np.float32), 99.5)
    stream.poll()
    results = 0
    while stream.take().available:
        results += 1
    assert results == 2
    reasons = ("duplicate", "out_of_order", "future")
    assert [stream.dropped("camera", reason) for reason in reasons] == [1, 1, 1]
    assert stream.dropped("camera") == 3
    assert stream.dropped("voice", "nan") == stream.dropped("voice") == 1
    counters = stream.counters()
    assert (counters.triggers, counters.results, counters.results_dropped) == (2, 2, 0)


def test_what_does_not_fit_is_refused_in_words(stream, pipe):
    assert stream.push("lidar", VOICE, 99.0)[0] == 200
    assert b"no modality 'lidar'" in stream.c.mmedge_last_error()
    assert stream.push("camera", frame(0)[:, :1].copy(), 99.0)[0] == 200
    count = ctypes.c_uint64()
    status = stream.c.mmedge_stream_dropped(
        stream.handle, b"camera", b"boredom", ctypes.byref(count)
    )
    assert status == 1
    with pytest.raises(AssertionError, match="expected 'any', a rate in Hz, or one of camera"):
        Stream(pipe, b"lidar")


def test_a_stream_that_was_stopped_says_so(stream):
    assert stream.wait(0) == 1
    assert b"runs on the caller's thread" in stream.c.mmedge_last_error()
    stream.stop()
    assert stream.push("camera", frame(0), 99.0)[0] == 102
    assert stream.c.mmedge_stream_poll(stream.handle) == 102
    result = Result(ctypes.sizeof(Result))
    assert stream.c.mmedge_stream_take(stream.handle, 0, ctypes.byref(result)) == 102
    assert b"the stream is closed" in stream.c.mmedge_last_error()


@pytest.fixture
def threaded(pipe):
    stream = Stream(pipe, b"camera", Threads(ctypes.sizeof(Threads)))
    yield stream
    stream.close()


def test_with_threads_a_reader_waits_for_results_of_calls(threaded, pipe):
    assert threaded.wait(0.01) == 203
    words = threaded.c.mmedge_last_error().decode()
    assert words.startswith(
        "no result within 0.01 s: triggers fired 0 times, 0 under way; camera ab"
    )
    assert words.endswith(". Push what triggers, or wait longer")
    for number in range(20):
        now = time.monotonic()
        voice = VOICE + np.float32(number)
        # Of an optional modality, what has never been used is waited for as the first value is.
        assert threaded.push("voice", voice, now) == (0, number)
        assert threaded.push("camera", frame(number), now + 0.001) == (0, number)
        assert threaded.wait(20) == 0
        result = threaded.take()
        assert (result.available, result.has_outputs, result.fresh) == (1, 1, 1)
        assert result.t == now + 0.001
        assert result.latency >= 0
        used = threaded.used(1)
        assert (used.modality, used.samples, used.absent) == (b"voice", 1, b"")
        expected = pipe.run({"image": frame(number), "pcm": VOICE + np.float32(used.sequence)})
        for name, value in expected.items():
            assert threaded.output(name).tobytes() == value.tobytes(), name
        threaded.poll()


def test_with_threads_every_sample_is_accounted_for(threaded):
    results = []

    def read():
        while (status := threaded.wait(5)) == 0:
            result = threaded.take()
            results.append((result.available, result.has_outputs))
        results.append(status)

    reader = threading.Thread(target=read)
    reader.start()
    pushed = {"camera": 0, "voice": 0}

    def push(modality, value, pause_s):
        for number in range(40):
            assert threaded.push(modality, value(number), time.monotonic())[0] == 0
            pushed[modality] += 1
            time.sleep(pause_s)

    sensors = [
        threading.Thread(target=push, args=("camera", frame, 0.004)),
        threading.Thread(target=push, args=("voice", lambda n: VOICE + np.float32(n), 0.009)),
    ]
    for sensor in sensors:
        sensor.start()
    for sensor in sensors:
        sensor.join()
    threaded.stop()
    reader.join()
    assert pushed["camera"] == pushed["voice"] == 40
    assert results[-1] == 102
    assert b"closed" in (threaded.wait(1) == 102 and threaded.c.mmedge_last_error())
    counters = threaded.counters()
    assert counters.triggers == 40
    assert 0 < len(results) - 1 <= counters.results <= 40
    reasons = ("superseded", "closed")
    for name in ("camera", "voice"):
        assert threaded.dropped(name) == sum(threaded.dropped(name, why) for why in reasons) <= 40


def test_results_are_delivered_on_a_thread_of_the_stream(pipe):
    seen, there = [], threading.Event()

    @ON_RESULT
    def on_result(context, handle, result):
        given = ctypes.cast(result, ctypes.POINTER(Result)).contents
        tensor = Tensor(pipe.outputs[0])
        status = stream.c.mmedge_stream_output(ctypes.c_void_p(handle), ctypes.byref(tensor))
        assert ctypes.c_void_p(handle).value == stream.handle.value
        seen.append((context, given.t, given.has_outputs, status, threading.get_ident()))
        stream.c.mmedge_stream_close(handle)  # only says that it must not
        there.set()

    stream = Stream(
        pipe, b"camera", Threads(ctypes.sizeof(Threads), None, None, 0, 0, on_result, 77)
    )
    assert stream.wait(0) == 1
    assert b"go to on_result" in stream.c.mmedge_last_error()
    now = time.monotonic()
    assert stream.push("camera", frame(3), now) == (0, 0)
    assert there.wait(20)
    ((context, t, has_outputs, status, thread),) = seen
    assert (context, t, has_outputs, status) == (77, now, 1, 0)
    assert thread != threading.get_ident()
    while (status := stream.push("camera", frame(4), time.monotonic())[0]) == 0:
        pass
    assert status == 102
    assert b"mmedge_stream_close was called in on_result" in stream.c.mmedge_last_error()
    stream.close()


def test_threads_that_the_system_does_not_permit_are_refused(pipe):
    cpus = (ctypes.c_int32 * 1)(1000)
    threads = Threads(ctypes.sizeof(Threads), b"arm", ctypes.cast(cpus, ctypes.c_void_p), 1)
    with pytest.raises(AssertionError, match="cannot run on CPU 1000"):
        Stream(pipe, b"camera", threads)


@pytest.mark.parametrize("threads", [None, Threads(ctypes.sizeof(Threads))])
def test_a_result_has_what_a_loop_gives(threads):
    given, _ = loop_options({"limit": 5, "seed": 3, "temperature": 0.8}, cached=True)
    image = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    with (
        NativeBundle(BUNDLE.with_name("captioner.mmedge")) as bundle,
        NativePipeline(bundle, threads=1) as pipe,
    ):
        stream = Stream(pipe, b"image", threads, given, frames=8, new=4)
        for number in range(3):
            frames = image[:, : 3 + number].copy()
            stamp = time.monotonic() if threads else 99.0 + number / 8
            assert stream.push("image", frames, stamp)[0] == 0
            if threads:
                assert stream.wait(20) == 0, stream.c.mmedge_last_error()
            result = stream.take()
            while not result.available:
                stream.time += 0.001
                stream.poll()
                result = stream.take()
            assert (result.has_outputs, result.reason) == (1, b"")
            pipe.begin({"image": frames}, limit=5, seed=3, temperature=0.8)
            assert len(list(pipe.steps())) == 5
            expected, finish = pipe.result(2)
            assert stream.finish() == finish
            for name in ("tokens", "lengths"):
                assert np.array_equal(stream.output(name), expected[name]), name
        stream.close()
        bad, _ = loop_options({"deadline_ms": 5}, cached=True)
        with pytest.raises(AssertionError, match="give its deadline_ms"):
            Stream(pipe, b"image", threads, bad, frames=8, new=4)


def test_options_of_a_loop_and_of_states_that_are_not_there_are_refused(pipe):
    given, _ = loop_options({"seed": 1}, cached=True)
    with pytest.raises(AssertionError, match="this bundle has no loop"):
        Stream(pipe, b"camera", None, given)
    with pytest.raises(AssertionError, match="reset_after"):
        Stream(pipe, b"camera", None, None, [Reset(b"camera", 2.0)])
