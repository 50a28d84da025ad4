"""Schedules: what their rows compute is what the papers' formulas say."""

from __future__ import annotations

import numpy as np
import pytest

from mmedge.errors import ExportError
from mmedge_export.schedules import Schedule, ddim, ddpm, dpm_solver_2m, flow_euler

LEVELS = np.cumprod(1 - np.linspace(1e-4, 2e-2, 1000))
CLEAN = np.random.default_rng(0).standard_normal(64)


def denoise(schedule: Schedule, prediction: str, noise: np.ndarray) -> np.ndarray:
    """A run whose network knows the clean sample: it predicts exactly what there is of noise."""
    x, last = noise * schedule.initial_scale, 0.0
    for time, a, p, q, r, s, u, w, _ in schedule.rows:
        assert a == 1
        level = LEVELS[int(time)]
        alpha, sigma = np.sqrt(level), np.sqrt(1 - level)
        epsilon = (x - alpha * CLEAN) / sigma
        m = {"epsilon": epsilon, "v": alpha * epsilon - sigma * CLEAN, "sample": CLEAN}[prediction]
        e = p * x + q * m
        assert np.allclose(e, CLEAN, atol=1e-9)
        x, last = r * e + s * x + u * m + w * last, e
    return x


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("solver", [ddim, dpm_solver_2m])
def test_a_network_that_knows_the_sample_is_followed_to_it(solver, spacing, prediction):
    noise = np.random.default_rng(1).standard_normal(64)
    schedule = solver(LEVELS, 20, prediction=prediction, spacing=spacing)
    assert len(schedule.rows) == 20
    assert schedule.has_whole_times
    times = [row[0] for row in schedule.rows]
    assert times == sorted(times, reverse=True)
    assert np.allclose(denoise(schedule, prediction, noise), CLEAN, atol=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_ddim_with_all_the_noise_of_ddpm_is_ddpm(prediction):
    by_ddim = ddim(LEVELS, 1000, prediction=prediction, eta=1.0)
    by_ddpm = ddpm(LEVELS, prediction=prediction)
    for one, other in zip(by_ddim.rows, by_ddpm.rows, strict=True):
        # Both are sums of latent and prediction, once the estimate is put in.
        for row in ((one, other),):
            sums = [(r * p + s, r * q + u, c) for _, _, p, q, r, s, u, _, c in row]
            assert np.allclose(sums[0], sums[1], atol=1e-6)


def test_euler_adds_up_to_the_whole_way():
    schedule = flow_euler(10, time_scale=1000)
    assert [row[0] for row in schedule.rows] == pytest.approx(
        [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100]
    )
    assert sum(row[6] for row in schedule.rows) == pytest.approx(-1)
    forward = flow_euler(4, start=0.0, end=1.0)
    assert [row[6] for row in forward.rows] == [0.25] * 4
    shifted = flow_euler(4, shift=3.0)
    assert shifted.rows[2][0] == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert flow_euler(2, levels=[1, 0.4, 0]).rows[0][6] == pytest.approx(-0.6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ddim(LEVELS, 0), "expected a number of steps from 1 on, got 0"),
        (lambda: ddim(LEVELS, 1001), "1001 steps, but the network was trained with 1000 times"),
        (lambda: ddim([0.5, 1.5], 1), "a number between 0 and 1"),
        (lambda: ddim(LEVELS, 5, prediction="noise"), "prediction 'noise'"),
        (lambda: ddim(LEVELS, 5, spacing="even"), "spacing 'even'"),
        (lambda: flow_euler(3, levels=[1, 0]), "expected 4 times"),
        (lambda: Schedule(((1.0, 2.0),)), "expected 9 finite numbers: time, input_scale"),
        (lambda: Schedule(()), "no rows"),
    ],
)
def test_what_is_no_schedule_is_refused(make, message):
    with pytest.raises(ExportError, match=message):
        make()
