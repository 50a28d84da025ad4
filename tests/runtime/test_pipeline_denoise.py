"""Pipelines of bundles with a loop that denoises."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

import mmedge
from mmedge.execution.denoise import DenoiseRun
from tests.loop_bundles import Painter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("denoise")


@pytest.fixture(scope="module")
def painter(folder):
    network = Painter()
    network.write(folder / "painter")
    with mmedge.load(folder / "painter") as pipe:
        yield network, pipe


def condition(seed: int, batch: int = 1):
    return np.random.default_rng(seed).normal(size=(batch, 3)).astype(np.float32)


def latents(network, pipe, value, **options):
    """After each step, with the network in NumPy."""
    tensors = {"condition": value, "guide": np.tanh(value @ network.weight)}
    run = DenoiseRun(
        pipe.bundle.manifest,
        {"step": network.run_step()},
        tensors,
        unconditional={"guide": network.without},
        run_unconditional=network.run_step(),
        **options,
    )
    return [step.latent for step in run]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_last_latent_is_that_of_the_schedule(painter, batch, seed):
    network, pipe = painter
    value = condition(1, batch)
    expected = latents(network, pipe, value, seed=seed)
    for _ in range(2):
        result = pipe(condition=value, seed=seed)
        assert list(result) == ["latent", "finish"]
        assert result["finish"] == "schedule"
        assert result["latent"].shape == (batch, 3, 4)
        np.testing.assert_allclose(result["latent"], expected[-1], rtol=0, atol=2e-6)
    steps = list(pipe.iterate({"condition": value}, seed=seed))
    assert [step.index for step in steps] == [0, 1, 2]
    for step, latent in zip(steps, expected, strict=True):
        np.testing.assert_allclose(step.latent, latent, rtol=0, atol=2e-6)
    assert np.array_equal(steps[-1].latent, result["latent"])


def test_the_callers_noise(painter):
    network, pipe = painter
    noise = np.random.default_rng(0).normal(size=(1, 5, 4)).astype(np.float32)
    expected = latents(network, pipe, condition(2), noise=noise)[-1]
    result = pipe(condition=condition(2), noise=noise)["latent"]
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)
    with pytest.raises(mmedge.InputError, match="noise: dimension 'high' takes .* got 10"):
        pipe(condition=condition(2), noise=np.zeros((1, 10, 4), np.float32))


def test_a_decoder_makes_the_result(folder, painter):
    network, pipe = painter
    network.write(folder / "decoded", decoder=True)
    latent = pipe(condition=condition(3))["latent"]
    with mmedge.load(folder / "decoded") as decoded:
        result = decoded(condition=condition(3))
        assert list(result) == ["picture", "finish"]
        assert np.array_equal(result["picture"], latent * 2)
        result, parts = decoded.timed({"condition": condition(3)})
        assert list(parts) == ["inputs", "read", "step", "decode", "outputs"]
        assert parts["decode"] > 0


def test_a_run_that_is_left_has_an_estimate(painter):
    _, pipe = painter
    run = pipe.iterate({"condition": condition(4)})
    next(run)
    assert run.result()["latent"].shape == (1, 3, 4)
    assert run.finish == "cancel"
    assert list(run) == []
    with pytest.raises(mmedge.InputError, match="canceled before it had an estimate"):
        pipe.iterate({"condition": condition(4)}).result()
    with pytest.raises(TimeoutError, match="the deadline passed before the loop had an estimate"):
        pipe(condition=condition(4), deadline_ms=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 3}, "option 'limit': a bundle with a loop 'denoise' takes "),
        ({"temperature": 1.0}, "option 'temperature': a bundle with a loop 'denoise'"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_options_that_do_not_fit(painter, options, message):
    _, pipe = painter
    with pytest.raises(mmedge.InputError, match=message):
        pipe(condition=condition(0), **options)


def test_eight_threads_paint_each_its_own(painter):
    _, pipe = painter
    expected = [pipe(condition=condition(seed), seed=seed)["latent"] for seed in range(8)]
    wrong = []

    def work(seed):
        for _ in range(20):
            if not np.array_equal(
                pipe(condition=condition(seed), seed=seed)["latent"], expected[seed]
            ):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_steps_state_is_of_one_call(painter):
    _, pipe = painter
    with pytest.raises(mmedge.InputError, match="keeps no state from call to call"):
        pipe.state()


def test_a_run_is_freed_when_it_ends(painter):
    """Not when the collector comes."""
    _, pipe = painter
    gc.collect()
    gc.disable()
    try:
        run = pipe.iterate({"condition": condition(0)})
        list(run)
        inner = weakref.ref(run._run)
        del run
        assert inner() is None
    finally:
        gc.enable()
