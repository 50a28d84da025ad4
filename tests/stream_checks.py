"""What tests of streams ask of a result, and of the account that a stream keeps."""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress

import numpy as np
from streaming import COLUMNS

from mmedge.stream import SimulatedClock


class Source:
    """Real time and ``offset``; the readings in ``odd`` come first."""

    def __init__(self):
        self.offset, self.odd = 0.0, []

    def __call__(self):
        odd = self.odd.pop(0) if self.odd else 0.0
        if isinstance(odd, Exception):
            raise odd
        if not isinstance(odd, float):
            return odd
        return time.monotonic() + self.offset + odd


def part(result, modality):
    return result.outputs["out"][0, COLUMNS[modality]].tolist()


def check_account(health):
    """Samples and windows of every modality, and triggers, are each in one place."""
    for name, state in health.modalities.items():
        assert state.pushed == state.used + sum(state.dropped.values()) + state.pending, name
        lost = sum(state.windows_dropped.values())
        assert state.windows == state.windows_used + lost + state.windows_pending, name
        assert min(state.pending, state.windows_pending) >= 0, name
    assert health.triggers == (
        health.results
        + health.triggers_superseded
        + health.triggers_closed
        + health.triggers_pending
    )


def balanced(stream):
    """The account adds up; returns the snapshot."""
    health = stream.health()
    check_account(health)
    return health


@contextmanager
def echo_stream(pipe, start=1000.0, costs=None, **options):
    """A stream of a bundle (see :mod:`echo`) and its simulated clock; its account adds up."""
    clock = SimulatedClock(start=start, costs=costs)
    with pipe.stream(clock=clock, **options) as stream:
        yield stream, clock
        balanced(stream)
    health = balanced(stream)
    assert all(m.pending == m.windows_pending == 0 for m in health.modalities.values())


def fetch(stream):
    """All results that there are."""
    results = []
    with suppress(TimeoutError):
        while True:
            results.append(stream.result(0.0))
    return results


def full(number, size=4):
    """A value whose elements are all ``number``."""
    return np.full((1, size), number, np.float32)


def rows(first, count):
    """A chunk of numbered rows."""
    return np.arange(first, first + count, dtype=np.float32)[None]
