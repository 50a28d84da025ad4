"""Results of runs are used again for equal inputs alone."""

import numpy as np

from mmedge_export.capture.run_cache import RunCache


def _counted():
    calls = []

    def run(values):
        calls.append(values)
        return {"y": values["x"].astype(np.float64) + len(calls)}

    return run, calls


def test_equal_inputs_are_run_once_and_others_anew():
    run, calls = _counted()
    cached = RunCache(run)
    x = np.arange(6, dtype=np.float32)
    first = cached({"x": x})["y"]
    assert np.array_equal(cached({"x": x.copy()})["y"], first)
    assert len(calls) == 1
    for other in (x + 1, x.astype(np.int32), x.reshape(2, 3), x[::-1]):
        cached({"x": other})
    cached({"x": x, "z": x})
    assert len(calls) == 6


def test_results_that_were_noted_are_given_and_the_oldest_go():
    run, calls = _counted()
    cached = RunCache(run, limit=100)
    one, two = ({"x": np.full(6, value, np.float32)} for value in (1, 2))
    cached.add(one, {"y": np.zeros(6)})
    assert not cached(one)["y"].any()
    assert not calls
    cached(two)  # 48 bytes each
    cached({"x": np.zeros(6, np.float32)})
    assert cached(one)["y"].all()
    assert len(calls) == 3
