"""Cores, priority and memory of a pipeline: what is asked for, or a reason why not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from streaming import value

import mmedge
from mmedge.backends.placement import Placement
from mmedge.errors import BackendError, InputError

CORES = sorted(os.sched_getaffinity(0))
LAST = CORES[-1]


def threads() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/task").iterdir()}


def where(thread: int) -> tuple[set[int], int]:
    return os.sched_getaffinity(thread), os.getpriority(os.PRIO_PROCESS, thread)


def test_threads_of_the_engine_are_placed_and_the_caller_stays(tiny_bundle, monkeypatch):
    # As if a thread were worth its while.
    monkeypatch.setattr("mmedge.backends.cores.FLOPS_PER_THREAD", 1)
    mine, before = where(threading.get_native_id()), threads()
    with mmedge.load(tiny_bundle, cores=CORES[-2:], priority=7) as pipe:
        until = time.monotonic() + 60
        # A thread that was joined may take a moment to go.
        while len(new := threads() - before) != len(CORES[-2:]) - 1:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert all(where(one) == (set(CORES[-2:]), 7) for one in new)
        assert pipe.threads == len(CORES[-2:])
        assert pipe.placement == Placement(tuple(CORES[-2:]), 7)
        assert where(threading.get_native_id()) == mine
    with mmedge.load(tiny_bundle, cores=[LAST]) as pipe:
        assert pipe.threads == 1
        found = []
        thread = threading.Thread(
            target=lambda: (pipe.place_thread(), found.append(where(threading.get_native_id())))
        )
        thread.start()
        thread.join()
        assert found == [({LAST}, mine[1])]
    assert where(threading.get_native_id()) == mine


def test_answers_are_the_same_and_threads_of_a_stream_are_placed(streaming):
    with (
        mmedge.load(streaming, cores=[LAST], priority=3) as pipe,
        mmedge.load(streaming, threads=1) as other,
    ):
        before = {thread.native_id for thread in threading.enumerate()}
        outputs = []
        for one in (pipe, other):
            with one.stream(trigger="camera") as stream:
                for name in ("lidar", "text", "state", "odom", "voice", "camera"):
                    stream.push(name, value(name, 1))
                result = stream.result(timeout=60)
                outputs.append(result.outputs["out"])
                new = [t.native_id for t in threading.enumerate() if t.native_id not in before]
                assert len(new) >= 6
                if one is pipe:
                    assert all(where(thread) == ({LAST}, 3) for thread in new)
        assert np.array_equal(*outputs)


def test_encoders_that_run_at_once_are_placed(both):
    seen = []
    with mmedge.load(both, plan="cut", concurrent=True, cores=[LAST], priority=2) as pipe:
        sample = pipe.bundle.samples()[0]
        pipe.run(sample.inputs, cached=False)
        seen = [t for t in threading.enumerate() if t.name.startswith("mmedge-encoder")]
        assert seen
        assert all(where(thread.native_id) == ({LAST}, 2) for thread in seen)
        expected = pipe.run(sample.inputs, cached=False)
    with mmedge.load(both, plan="cut", threads=1) as pipe:
        for name, array in pipe.run(sample.inputs, cached=False).items():
            assert np.array_equal(array, expected[name])


def test_what_cannot_be_is_refused(tiny_bundle):
    for options in (
        {"cores": []},
        {"cores": [4096]},
        {"cores": ["0"]},
        {"cores": [True]},
        {"priority": 20},
        {"priority": "fifo:0"},
        {"priority": "fifo"},
        {"priority": 1.5},
        {"priority": True},
        {"cores": [LAST], "threads": 2},
    ):
        with pytest.raises(ValueError, match=r"cores|priority|threads"):
            mmedge.load(tiny_bundle, **options)
    with pytest.raises(InputError, match="libmmedge does not choose a priority"):
        mmedge.load(tiny_bundle, runtime="native", priority=5)
    with mmedge.load(tiny_bundle) as pipe, pytest.raises(InputError, match="without cores"):
        pipe.place_thread()


#: Gives up the right to a higher priority, and asks for one.
WITHOUT_RIGHT = """
import ctypes, resource, sys
import mmedge
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
class Data(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]
libc, header, data = ctypes.CDLL(None, use_errno=True), Header(0x20080522, 0), (Data * 2)()
assert libc.capget(ctypes.byref(header), data) == 0
for part in (data[0],):
    part.effective &= ~(1 << 23)  # CAP_SYS_NICE
    part.permitted &= ~(1 << 23)
assert libc.capset(ctypes.byref(header), data) == 0
for limit in (resource.RLIMIT_NICE, resource.RLIMIT_RTPRIO):
    resource.setrlimit(limit, (0, 0))
for priority in (-5, "fifo:10"):
    try:
        mmedge.load(sys.argv[1], priority=priority)
    except mmedge.BackendError as error:
        print(error)
with mmedge.load(sys.argv[1], priority=19) as pipe:
    print(pipe.placement)
"""


def test_a_right_that_is_missing_is_named(tiny_bundle):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RIGHT, str(tiny_bundle)], capture_output=True, text=True
    )
    nice, fifo, placed = done.stdout.splitlines()
    assert "niceness -5: " in nice
    assert "CAP_SYS_NICE, or a limit 'nice' of 25 (is 0" in nice
    assert "SCHED_FIFO 10: " in fifo
    assert "a limit 'rtprio' of 10 (is 0" in fifo
    assert placed == "niceness 19"


def test_real_time_is_given_where_it_is_allowed(tiny_bundle):
    with pytest.raises(ValueError, match="spin"):
        mmedge.load(tiny_bundle, priority="fifo:1", spin=True)
    before = threads()
    try:
        pipe = mmedge.load(tiny_bundle, cores=CORES[-2:], priority="fifo:1")
    except BackendError as error:
        pytest.skip(f"this process has no right to real time: {error}")
    with pipe:
        engine = {t for t in threads() - before if os.sched_getaffinity(t) == set(CORES[-2:])}
        assert all(os.sched_getscheduler(thread) == os.SCHED_FIFO for thread in engine)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_pipeline_that_takes_more_memory_than_its_limit_is_refused(both, tmp_path):
    with mmedge.load(both, memory_limit_bytes=1 << 30) as pipe:
        assert pipe.run(pipe.bundle.samples()[0].inputs)
    # In a process of its own: here, loading may take what others have freed.
    program = f"import mmedge; mmedge.load({str(both)!r}, memory_limit_bytes=1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert re.search(
        r"BackendError: .* took .* MB of memory .* more than memory_limit_bytes", done.stderr
    )
    with pytest.raises(ValueError, match="memory_limit_bytes"):
        mmedge.load(both, memory_limit_bytes=0)
    with pytest.raises(InputError, match="libmmedge does not limit memory"):
        mmedge.load(both, runtime="native", memory_limit_bytes=1 << 30)


def test_memory_that_a_load_takes_is_what_the_error_says(pair, monkeypatch):
    held = []
    from mmedge.execution import loaded_plan

    open_stage = loaded_plan.open_stage

    def open_large(*arguments, **options):
        held.append(np.ones(40 << 20, np.uint8))
        return open_stage(*arguments, **options)

    monkeypatch.setattr(loaded_plan, "open_stage", open_large)
    with pytest.raises(BackendError, match="memory_limit_bytes") as told:
        mmedge.load(pair, memory_limit_bytes=30 << 20)
    words = str(told.value)
    taken = float(words.partition("took ")[2].partition(" MB")[0])
    assert len(held) * 41.9 < taken < len(held) * 41.9 + 30
