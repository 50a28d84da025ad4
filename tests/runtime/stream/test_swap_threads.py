"""Swaps on threads: the same rules, whatever the moment."""

from __future__ import annotations

import gc
import threading
import weakref
from time import monotonic

import numpy as np
import pytest
from stream_checks import balanced, check_account
from swap_bundles import Planted, check_origin, frame, make_network

import mmedge
from mmedge.errors import BackendError
from mmedge.stream.swap_load import SwapLoad

#: Seconds after which a test gives up.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    for number in (1, 2):
        make_network(folder / f"{number}", number)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    with mmedge.load(folder / "1", threads=1) as pipe:
        yield pipe


def drive(stream, is_over, results, first=0):
    """Push frames, and fetch the result of each, until it is over; the next frame's number."""
    until = monotonic() + PATIENCE
    number = first
    while not is_over() and monotonic() < until:
        number += 1
        stream.push("state", np.full((1, 1), number, np.float32))
        stream.push("lidar", frame(number))
        stream.push("camera", frame(number))
        results.append(stream.result(PATIENCE))
    assert is_over()
    return number


def check(results):
    for result in results:
        check_origin(result)
        assert result.outputs is not None
        # The triggering sample is in it.
        assert result.outputs["out"][0, 0] == result.samples["camera"][0].seq + 1
    # One result of each frame, in order.
    assert [r.samples["camera"][0].seq for r in results] == list(range(len(results)))


def test_a_swap_loses_no_result_and_is_confirmed(pipe, folder):
    results = []
    with pipe.stream(trigger="camera") as stream:
        swap = stream.swap(folder / "2", shadow=5, limit={"score": 1e-3}, probation=10)
        last = drive(stream, lambda: swap.state == "confirmed", results)
        assert swap.wait(0) == "confirmed"
        drive(stream, lambda: len(results) >= last + 5, results, last)
        assert balanced(stream).events["swapped"] == 1
        (owned,) = stream._core.owned
    check(results)
    assert not owned.pipe._loaded.sessions  # closed with the stream that loaded it
    numbers = [r.network.number for r in results]
    assert numbers == sorted(numbers)
    assert set(numbers) == {0, 1}
    assert swap.report.compared == 5
    until = monotonic() + PATIENCE
    while any(t.name == "mmedge load" for t in threading.enumerate()) and monotonic() < until:
        pass
    assert not any(thread.name == "mmedge load" for thread in threading.enumerate())


def test_who_keeps_a_swap_keeps_no_network_that_was_replaced(pipe, folder):
    results, gone, swaps, last = [], [], [], 0
    with pipe.stream(trigger="camera") as stream:
        for _ in range(3):
            swaps.append(stream.swap(folder / "2", shadow=1, probation=1))
            last = drive(stream, lambda: swaps[-1].state == "confirmed", results, last)
            gone += [weakref.ref(network.pipe) for network in stream._core.owned]
        until = monotonic() + PATIENCE
        while any(reference() for reference in gone[:-1]) and monotonic() < until:
            gc.collect()
        # The first two are gone, the third one runs.
        assert [reference() is None for reference in gone] == [True, True, False]
    assert [swap.report.state for swap in swaps] == ["confirmed"] * 3


def test_back_and_forth_between_loaded_pipelines(pipe, folder):
    results, swaps = [], 0
    with mmedge.load(folder / "2", threads=1) as other, pipe.stream(trigger="camera") as stream:
        last = 0
        for _ in range(3):
            for source in (other, pipe):
                swap = stream.swap(source, shadow=1, probation=2, patience_ms=0)
                last = drive(stream, lambda s=swap: s.state == "confirmed", results, last)
                swaps += 1
    check(results)
    numbers = [r.network.number for r in results]
    assert numbers == sorted(numbers)
    # The results of the last probation are made before it is confirmed.
    assert numbers[-1] == swaps


def test_a_crash_brings_the_old_network_back(pipe, folder):
    armed = []

    def crash(stage, _feeds):
        if armed and stage == "see2":
            raise OSError("device lost")

    results = []
    with mmedge.load(folder / "2", threads=1) as other, pipe.stream(trigger="camera") as stream:
        swap = stream.swap(Planted(other, crash), shadow=1, probation=10_000)
        last = drive(stream, lambda: swap.state == "probation", results)
        armed.append(True)
        last = drive(stream, lambda: swap.state == "rolled_back", results, last)
        drive(stream, lambda: len(results) >= last + 3, results, last)
        assert "OSError: device lost" in swap.report.reason
    check(results)
    assert {r.network.number for r in results[-3:]} == {0}


def test_a_bundle_that_does_not_load_is_refused_and_gone(pipe, tmp_path):
    path = make_network(tmp_path / "off", 2, offset=9.0)
    results = []
    with pipe.stream(trigger="camera") as stream:
        swap = stream.swap(tmp_path / "nothing")
        assert swap.wait(PATIENCE) == "refused"
        assert "BundleError" in swap.report.reason
        # Many results, so that the test sees it loaded before it is refused.
        swap = stream.swap(path, shadow=32, limit={"score": 0.1})
        drive(stream, lambda: len(stream._core.owned) == 1, results)
        owned = weakref.ref(stream._core.owned[0].pipe)
        drive(stream, lambda: swap.state == "refused", results, len(results))
        until = monotonic() + PATIENCE
        while owned() is not None and monotonic() < until:
            gc.collect()
        assert owned() is None
    check(results)


def test_closed_at_any_moment(pipe, folder):
    for pushes in (0, 1, 4):
        with pipe.stream(trigger="camera") as stream:
            swap = stream.swap(folder / "2", shadow=2, probation=100)
            for number in range(pushes):
                stream.push("camera", frame(number))
                stream.result(PATIENCE)
        assert swap.wait(PATIENCE) == "canceled"
        check_account(stream.health())
        assert all(m.pending == 0 for m in stream.health().modalities.values())
        with pytest.raises(BackendError, match="closed"):
            stream.swap(folder / "2")


def test_a_network_whose_loading_was_canceled_is_closed_without_the_streams_lock(
    pipe, folder, monkeypatch
):
    entered, go, ended = threading.Event(), threading.Event(), threading.Event()
    free = []
    verify, close = SwapLoad.verify, SwapLoad.close

    def slowly(load):
        verify(load)
        entered.set()
        assert go.wait(PATIENCE)

    with pipe.stream(trigger="camera") as stream:

        def look():
            # A push waits no longer than for this.
            free.append(stream._lock.acquire(timeout=0.5))
            if free[-1]:
                stream._lock.release()

        def close_and_look(load):
            other = threading.Thread(target=look)
            other.start()
            other.join()
            close(load)
            ended.set()

        monkeypatch.setattr(SwapLoad, "verify", slowly)
        monkeypatch.setattr(SwapLoad, "close", close_and_look)
        swap = stream.swap(folder / "2", shadow=2)
        assert entered.wait(PATIENCE)
        loaded = weakref.ref(swap._run._load.pipe)
        swap.cancel()
        go.set()
        assert ended.wait(PATIENCE)
        assert free == [True]
        # Whoever keeps the swap keeps nothing of what it loaded.
        until = monotonic() + PATIENCE
        while loaded() is not None and monotonic() < until:
            gc.collect()
        assert loaded() is None
        assert swap.state == "canceled"
