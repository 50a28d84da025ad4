"""The latency predictor, and the simulated clock that its stream tests run on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmedge.errors import InputError
from mmedge.stream.clock import SimulatedClock
from mmedge.stream.latency_predictor import HALF_LIFE, KEPT, QUANTILE, LatencyPredictor

latencies = st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=200)


@given(seen=latencies)
def test_estimate_is_the_weighted_quantile(seen):
    predictor = LatencyPredictor()
    assert predictor.estimate() is None
    for latency in seen:
        predictor.observe(latency)
    estimate = predictor.estimate()
    weighted = [(v, 0.5 ** (i / HALF_LIFE)) for i, v in enumerate(reversed(seen[-KEPT:]))]
    total = sum(w for _, w in weighted)
    assert sum(w for v, w in weighted if v <= estimate) >= QUANTILE * total - 1e-6
    assert sum(w for v, w in weighted if v < estimate) < QUANTILE * total + 1e-6


@given(seen=latencies, deadline=st.floats(1e-3, 1.0))
def test_relaxing_ends_below_any_deadline(seen, deadline):
    """It can skip many times in a row, but never for ever."""
    predictor = LatencyPredictor()
    for latency in seen:
        predictor.observe(latency)
    for _ in range(100):  # 0.9**100 * 10 s < 1 ms
        if predictor.estimate() <= deadline:
            return
        predictor.relax()
    raise AssertionError(predictor.estimate())


def test_a_slow_spell_is_forgotten():
    predictor = LatencyPredictor()
    for latency in [1.0] * 10 + [0.01] * KEPT:
        predictor.observe(latency)
    assert predictor.estimate() == 0.01


def test_events_happen_in_order_and_may_plan_others():
    clock, seen = SimulatedClock(start=2.0), []
    clock.call_at(4.0, lambda: seen.append(("b", clock())))
    clock.call_at(3.0, lambda: clock.call_at(4.0, lambda: seen.append(("c", clock()))))
    clock.call_at(1.0, lambda: seen.append(("a", clock())))  # has passed: due at once
    clock.advance(1.5)
    assert (seen, clock()) == ([("a", 2.0)], 3.5)
    clock.advance_to(4.0)
    assert seen == [("a", 2.0), ("b", 4.0), ("c", 4.0)]
    with pytest.raises(InputError, match="time does not go backward"):
        clock.advance_to(3.9)
    with pytest.raises(InputError, match="the cost of stage 'net'"):
        SimulatedClock(costs={"net": -1.0})
