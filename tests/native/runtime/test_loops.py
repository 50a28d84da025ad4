"""Loops and states of libmmedge beside those of Python: what is left where, and when."""

from __future__ import annotations

import numpy as np
import pytest
from native_builds import ROOT

import mmedge
from mmedge.errors import InputError
from mmedge.native.runtime import NativeBundle, NativePipeline

BUNDLES = ROOT / "conformance" / "cases" / "bundles"


@pytest.fixture
def both():
    """Loads a bundle of the conformance cases in both runtimes; the native one is warm."""
    opened = []

    def load(name, rows=4, tokens=64):
        python = mmedge.load(BUNDLES / f"{name}.mmedge", threads=1, kernels=False)
        with NativeBundle(BUNDLES / f"{name}.mmedge") as bundle:
            native = NativePipeline(bundle, threads=1, kernels=0)
        native.reserve(rows, tokens)
        opened.extend((python, native))
        return python, native

    yield load
    for each in opened:
        each.close()


def prompt():
    return {"tokens": np.array([[3, 5, 7]])}


def test_a_cancelled_loop_leaves_what_there_is_and_goes_on_from_there(both):
    python, native = both("completer")
    states = python.state(), native.state()
    with python.iterate(prompt(), seed=3, state=states[0], cached=False) as steps:
        expected = [next(steps).tokens.tolist() for _ in range(4)]
    native.begin(prompt(), seed=3, state=states[1])
    steps = native.steps()
    assert [next(steps).tokens.tolist() for _ in range(4)] == expected
    native.cancel()
    assert list(steps) == []
    outputs, finish = native.result()
    assert finish == ["cancel"]
    assert outputs["tokens"].tolist() == np.transpose(expected).tolist()
    assert states[1].position == states[0].position
    again = python.run(prompt(), seed=3, limit=5, state=states[0], cached=False)
    native.begin(prompt(), seed=3, limit=5, state=states[1])
    list(native.steps())
    assert np.array_equal(native.result()[0]["tokens"], again["tokens"])
    states[1].close()


def test_a_loop_that_is_given_up_leaves_its_state_as_it_was(both):
    _, native = both("completer")
    state = native.state()
    native.begin(prompt(), seed=1, limit=3, state=state)
    list(native.steps())
    position = state.position
    other = state.copy()
    native.begin(prompt(), seed=1, state=state)
    next(native.steps())
    with NativeBundle(BUNDLES / "completer.mmedge") as bundle, NativePipeline(bundle) as another:
        another.reserve(4, 64)
        with pytest.raises(InputError, match="another pipeline"):
            another.begin(prompt(), state=state)
    native.begin(prompt(), seed=2, limit=6, state=other)  # gives the one before up
    first = [step.tokens.tolist() for step in native.steps()]
    assert state.position == position < other.position
    native.begin(prompt(), seed=2, limit=6, state=state)
    assert [step.tokens.tolist() for step in native.steps()] == first
    state.reset()
    assert state.position == 0
    for each in (state, other):
        each.close()


def test_a_run_takes_all_steps(both):
    python, native = both("speller")
    sound = {"sound": np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)}
    expected = python.run(sound)
    got = native.run(sound)
    assert list(got) == [name for name in expected if name != "finish"]
    for name, value in got.items():
        assert np.array_equal(value, expected[name]), name


def test_a_denoised_result_is_that_of_python_and_of_no_call_there_is_none(both):
    python, native = both("painter")
    condition = {"condition": np.ones((2, 3), np.float32)}
    with pytest.raises(InputError, match="no loop was begun"):
        native.result()
    assert np.array_equal(native.run(condition)["picture"], python.run(condition)["picture"])
    with pytest.raises(InputError, match="takes seed, noise and deadline_ms"):
        native.begin(condition, temperature=1.0)


def test_more_rows_than_were_set_aside_are_told(both):
    python, native = both("completer", rows=1, tokens=4)
    tokens = {"tokens": np.tile(np.arange(1, 8), (5, 1))}
    native.begin(tokens, seed=5)  # warms up again, and tries once more
    list(native.steps())
    assert np.array_equal(native.result(5)[0]["tokens"], python.run(tokens, seed=5)["tokens"])
