"""Streams by the C API, on a clock of the caller's: results, ages, drops, counters."""

from __future__ import annotations

import ctypes
from math import isnan

import numpy as np
import pytest
from native_builds import ROOT

from mmedge.native.runtime import NativeBundle, NativePipeline, library
from mmedge.native.structures import NUMBERS, Tensor

pytestmark = pytest.mark.native_build

BUNDLE = ROOT / "conformance/cases/bundles/both.mmedge"
INPUTS = {"camera": b"image", "voice": b"pcm", "lidar": b"points"}
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
    )


class Stream:
    """A stream of a pipeline, and its clock."""

    def __init__(self, pipe, trigger):
        self.c, self.time = library(), 100.0
        for name in ("push", "take", "output", "result_modality", "dropped", "counters", "poll"):
            getattr(self.c, f"mmedge_stream_{name}").restype = ctypes.c_int
        self.c.mmedge_stream_close.argtypes = (ctypes.c_void_p,)
        self.c.mmedge_stream_close.restype = None
        self._clock = CLOCK(lambda _: self.time)
        largest = (Size * 1)(Size(b"batch", 2))
        options = Options(
            ctypes.sizeof(Options), trigger, 0, 0, None, 0, 64, 16, 1.0, 3,
            ctypes.cast(largest, ctypes.c_void_p), 1, self._clock, None,
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
        return np.frombuffer(data, np.float32).reshape(tuple(tensor.shape[: tensor.rank]))

    def used(self, index):
        used = Used(ctypes.sizeof(Used))
        self.check(self.c.mmedge_stream_result_modality(self.handle, index, ctypes.byref(used)))
        return used

    def dropped(self, modality, reason=None):
        count = ctypes.c_uint64()
        words = (modality.encode(), None if reason is None else reason.encode())
        self.check(self.c.mmedge_stream_dropped(self.handle, *words, ctypes.byref(count)))
        return count.value

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
    counters = Counters(ctypes.sizeof(Counters))
    stream.check(stream.c.mmedge_stream_counters(stream.handle, ctypes.byref(counters)))
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
