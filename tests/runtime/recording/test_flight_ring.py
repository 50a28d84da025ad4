"""The ring of a flight recorder: bounded in seconds and bytes, with what its records need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.recording.flight.records import (
    EventRecord,
    ItemRecord,
    ResultRecord,
    RunRecord,
    SampleRecord,
)
from mmedge.recording.flight.ring import FlightRing


def sample(time, seq, nbytes=100, modality="camera"):
    value = {"image": np.zeros(1, np.uint8)}
    return SampleRecord(time, nbytes, modality, seq, value, time, time, None, "", 0, time)


def result(time, samples, nbytes=10, runs=()):
    items = {f"m{k}": ItemRecord(s.modality, (s,)) for k, s in enumerate(samples)}
    items |= {f"r{k}": ItemRecord("audio", (), run=run) for k, run in enumerate(runs)}
    needs = (*samples, *runs)
    return ResultRecord(time, nbytes, None, None, 0, 0, items, {}, {}, 0, None, 0, needs=needs)


def kept(ring):
    """All records that are kept, found by following what needs what."""
    found = {id(record): record for record in ring.records}
    todo = list(ring.records)
    while todo:
        for needed in todo.pop().needs:
            if id(needed) not in found:
                found[id(needed)] = needed
                todo.append(needed)
    return list(found.values())


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["sample", "run", "result", "event"]),
        st.sampled_from([0.0, 0.1, 0.5, 3.0]),  # seconds since the step before
        st.integers(1, 400),  # bytes
        st.lists(st.integers(1, 12), max_size=3),  # how far back what it needs lies
    ),
    max_size=60,
)


@given(STEPS, st.sampled_from([200, 1000, 10**9]))
def test_it_never_has_more_and_has_what_came_within_the_window(steps, memory_bytes):
    ring = FlightRing(2.0, memory_bytes)
    samples, runs, everything, now = [], [], [], 0.0
    for seq, (kind, seconds, nbytes, back) in enumerate(steps):
        now += seconds
        needs_some = kind in ("run", "result")
        wanted = [samples[-k] for k in back if k <= len(samples)] if needs_some else []
        for needed in wanted:
            if ring.find(needed.key) is None:
                ring.hold(needed)  # as of one that the stream still uses
        if kind == "sample":
            record = sample(now, seq, nbytes)
            samples.append(record)
        elif kind == "run":
            item = ItemRecord("audio", tuple(wanted), seq)
            record = RunRecord(now, nbytes, item, 0, seq, {}, needs=item.samples)
            runs.append(record)
        elif kind == "result":
            record = result(now, wanted, nbytes, [r for r in runs[-1:] if r.is_kept])
        else:
            record = EventRecord(now, nbytes, None, 0)
        ring.add(record)
        everything.append(record)
        assert ring.nbytes == sum(record.nbytes for record in kept(ring)) <= memory_bytes
        expected = [record for record in everything if record.time >= now - 2.0]
        if not ring.evicted:
            assert list(ring.records) == expected
            assert ring.evicted_until is None
        else:  # the oldest had to go, and it says how many of them
            assert list(ring.records) == expected[len(expected) - len(ring.records) :]
        held = [record for record in kept(ring) if not any(record is r for r in ring.records)]
        assert {id(r) for r in ring.held} == {id(r) for r in held}
        assert ring.is_whole == (len(ring.records) == len(everything))


def test_what_is_still_used_outlives_the_window_and_goes_with_its_last_user():
    ring = FlightRing(1.0, 10**6)
    prompt = sample(0.0, 0, modality="text")
    ring.add(prompt)
    for k in range(30):
        ring.add(result(k * 0.1, [prompt]))
    assert ring.held == [prompt]
    assert ring.find(("text", 0)) is prompt
    ring.add(sample(10.0, 1))
    assert ring.held == []
    assert ring.find(("text", 0)) is None
    assert ring.nbytes == 100


def test_a_run_keeps_its_samples_and_a_result_its_run():
    ring = FlightRing(1.0, 10**6)
    chunk = sample(0.0, 0, modality="audio")
    ring.add(chunk)
    run = RunRecord(0.0, 50, ItemRecord("audio", (chunk,)), 0, 0, {}, needs=(chunk,))
    ring.add(run)
    ring.add(result(0.5, [], runs=[run]))
    ring.trim(1.2)
    assert sorted(map(id, ring.held)) == sorted(map(id, [chunk, run]))
    ring.trim(2.0)
    assert (ring.held, ring.nbytes, len(ring.records)) == ([], 0, 0)


def test_of_too_many_bytes_the_oldest_go_and_are_counted():
    ring = FlightRing(100.0, 350)
    for k in range(5):
        ring.add(sample(float(k), k))
    assert [record.seq for record in ring.records] == [2, 3, 4]
    assert (ring.evicted, ring.evicted_until) == ({"sample": 2}, 1.0)
    ring.add(sample(5.0, 5, nbytes=1000))  # more than all of it
    assert (len(ring.records), ring.nbytes) == (0, 0)
    assert ring.evicted == {"sample": 6}


@pytest.mark.parametrize("time", [0.0, 5.0])
def test_a_record_that_the_window_ends_on_is_kept(time):
    ring = FlightRing(5.0, 10**6)
    ring.add(sample(0.0, 0))
    ring.add(sample(time, 1))
    assert len(ring.records) == 2
