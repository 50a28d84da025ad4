"""Schedules of a :class:`mmedge_export.Denoise` loop: published solvers as rows of numbers.

A row says how one step goes from a latent to the next (docs/reference/bundle.md, "Loop"), so that
whoever runs the loop computes sums of products and knows no solver. Names of the formulas: x is the
latent, m what the network predicts, e the estimate of the clean sample, z noise. A noise level has
a signal share alpha = sqrt(alphas_cumprod) and a noise share sigma = sqrt(1 - alphas_cumprod).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, isfinite, log, sqrt
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmedge.errors import ExportError
from mmedge.loop_spec import SCHEDULE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Prediction", "Schedule", "Spacing", "ddim", "ddpm", "dpm_solver_2m", "flow_euler"]

#: What the network predicts: the noise, the velocity alpha * noise - sigma * sample, or the sample.
Prediction = Literal["epsilon", "v", "sample"]

#: How the steps lie in the times of training: counted from 0, from the last one, or evenly between.
Spacing = Literal["leading", "trailing", "linspace"]


@dataclass(frozen=True)
class Schedule:
    """A fixed number of steps, a row of nine numbers each (:data:`SCHEDULE_COLUMNS` names them).

    ``initial_scale`` is what the first noise is multiplied by.
    """

    rows: tuple[tuple[float, ...], ...]
    initial_scale: float = 1.0

    def __post_init__(self) -> None:
        rows = tuple(tuple(map(float, row)) for row in self.rows)
        object.__setattr__(self, "rows", rows)
        for at, row in enumerate(rows):
            if len(row) != len(SCHEDULE_COLUMNS) or not all(map(isfinite, row)):
                raise ExportError(
                    f"schedule: row {at} is {row}; expected {len(SCHEDULE_COLUMNS)} finite "
                    f"numbers: {', '.join(SCHEDULE_COLUMNS)}"
                )
        if not rows:
            raise ExportError("schedule: no rows; expected one for each step")

    @property
    def has_whole_times(self) -> bool:
        """Whether every step's time is a whole number."""
        return all(row[0].is_integer() for row in self.rows)


def ddim(
    alphas_cumprod: Sequence[float] | np.ndarray,
    steps: int,
    *,
    prediction: Prediction = "epsilon",
    spacing: Spacing = "leading",
    offset: int = 0,
    eta: float = 0.0,
    last_alpha: float = 1.0,
) -> Schedule:
    """DDIM: Song, Meng, Ermon, "Denoising Diffusion Implicit Models" (2021), equation 12.

    x' = alpha' e + sqrt(1 - alpha'^2 - s^2) noise + s z, where s is ``eta`` times equation 16.

    Args:
        alphas_cumprod: of every time of training.
        steps: how many to take.
        prediction: what the network predicts.
        spacing: of the steps.
        offset: added to the times of ``leading``.
        eta: 0 takes no noise, 1 as much as DDPM.
        last_alpha: ``alphas_cumprod`` after the last step: 1, or that of time 0.
    """
    levels = _check(alphas_cumprod, steps, prediction)
    stride = len(levels) // steps
    rows = []
    for time in _times(len(levels), steps, spacing, offset):
        now = levels[time]
        after = levels[time - stride] if time >= stride else float(last_alpha)
        noise = eta * sqrt((1 - after) / (1 - now) * (1 - now / after))
        by_latent, by_prediction = _noise(now, prediction)
        rest = sqrt(max(1 - after - noise**2, 0.0))
        estimate = _estimate(now, prediction)
        rows.append(
            (time, 1, *estimate, sqrt(after), rest * by_latent, rest * by_prediction, 0, noise)
        )
    return Schedule(tuple(rows))


def ddpm(
    alphas_cumprod: Sequence[float] | np.ndarray,
    steps: int | None = None,
    *,
    prediction: Prediction = "epsilon",
    spacing: Spacing = "leading",
    offset: int = 0,
    variance: Literal["small", "large"] = "small",
) -> Schedule:
    """DDPM: Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models" (2020), equation 7.

    Args:
        alphas_cumprod: of every time of training.
        steps: how many to take; None: all of them.
        prediction: what the network predicts.
        spacing: of the steps.
        offset: added to the times of ``leading``.
        variance: of the noise, the two choices of section 3.2: ``small`` is that of the posterior,
            ``large`` is beta.
    """
    steps = len(alphas_cumprod) if steps is None else steps
    levels = _check(alphas_cumprod, steps, prediction)
    stride = len(levels) // steps
    rows = []
    for time in _times(len(levels), steps, spacing, offset):
        now = levels[time]
        after = levels[time - stride] if time >= stride else 1.0
        alpha = now / after
        beta = 1 - alpha
        posterior = max((1 - after) / (1 - now) * beta, 1e-20)
        noise = sqrt(posterior if variance == "small" else beta) if time > 0 else 0.0
        by_estimate = sqrt(after) * beta / (1 - now)
        by_latent = sqrt(alpha) * (1 - after) / (1 - now)
        rows.append((time, 1, *_estimate(now, prediction), by_estimate, by_latent, 0, 0, noise))
    return Schedule(tuple(rows))


def flow_euler(
    steps: int,
    *,
    start: float = 1.0,
    end: float = 0.0,
    shift: float = 1.0,
    time_scale: float = 1.0,
    levels: Sequence[float] | None = None,
) -> Schedule:
    """Euler's method on a flow: Lipman et al., "Flow Matching for Generative Modeling" (2023).

    x' = x + (t' - t) m. With ``start`` 1 and ``end`` 0 the noise is at 1, as in SD3, pi0 and
    SmolVLA; some policies have it at 0.

    Args:
        steps: how many to take.
        start: time of the noise.
        end: time of the sample.
        shift: of the times t, to shift t / (1 + (shift - 1) t): Esser et al., "Scaling Rectified
            Flow Transformers" (2024), equation 23.
        time_scale: what the network's time is multiplied by, such as 1000.
        levels: the ``steps`` + 1 times themselves, in place of ``start``, ``end`` and ``shift``.
    """
    _check_steps(steps)
    if levels is None:
        times = np.linspace(start, end, steps + 1)
        times = shift * times / (1 + (shift - 1) * times)
    else:
        times = np.asarray(levels, np.float64)
        if times.shape != (steps + 1,):
            raise ExportError(
                f"schedule: levels has shape {list(times.shape)}; expected {steps + 1} times, one "
                "more than the steps"
            )
    pairs = zip(times[:-1].tolist(), times[1:].tolist(), strict=True)
    return Schedule(
        tuple((now * time_scale, 1, 0, 0, 0, 1, after - now, 0, 0) for now, after in pairs)
    )


def dpm_solver_2m(
    alphas_cumprod: Sequence[float] | np.ndarray,
    steps: int,
    *,
    prediction: Prediction = "epsilon",
    spacing: Spacing = "linspace",
    offset: int = 0,
) -> Schedule:
    """DPM-Solver++(2M): Lu et al., "DPM-Solver++" (2022), algorithm 2.

    With l = log(alpha / sigma), h = l' - l, h0 the h of the step before, and g = alpha' (1 -
    exp(-h)): x' = sigma' / sigma x + g (1 + h / 2 h0) e - g h / 2 h0 e_before. The first and the
    last step are of first order; the last one goes to a noise level of 0.

    Args:
        alphas_cumprod: of every time of training.
        steps: how many to take.
        prediction: what the network predicts.
        spacing: of the steps.
        offset: added to the times of ``leading``.
    """
    levels = _check(alphas_cumprod, steps, prediction)
    count = len(levels)
    if spacing == "trailing":
        times = _times(count, steps, spacing, offset)
    elif spacing == "linspace":
        times = np.linspace(0, count - 1, steps + 1).round()[::-1][:-1].astype(int).tolist()
    else:
        grid = (np.arange(steps + 1) * (count // (steps + 1))).round()[::-1][:-1]
        times = (grid.astype(int) + offset).tolist()
    rows: list[tuple[float, ...]] = []
    before = 0.0
    for at, time in enumerate(times):
        now = levels[time]
        estimate = _estimate(now, prediction)
        if at == steps - 1:
            rows.append((time, 1.0, *estimate, 1.0, 0.0, 0.0, 0.0, 0.0))
            break
        after = levels[times[at + 1]]
        step = _half_log_ratio(after) - _half_log_ratio(now)
        gain = sqrt(after) * (1 - exp(-step))
        share = step / (2 * before) if at else 0.0
        by_latent = sqrt((1 - after) / (1 - now))
        rows.append((time, 1.0, *estimate, gain * (1 + share), by_latent, 0.0, -gain * share, 0.0))
        before = step
    return Schedule(tuple(rows))


def _half_log_ratio(level: float) -> float:
    """log(alpha / sigma)."""
    return 0.5 * (log(level) - log(1 - level))


def _estimate(level: float, prediction: Prediction) -> tuple[float, float]:
    """What the latent and the prediction count in the estimate of the sample."""
    alpha, sigma = sqrt(level), sqrt(1 - level)
    if prediction == "epsilon":
        return 1 / alpha, -sigma / alpha
    return (alpha, -sigma) if prediction == "v" else (0.0, 1.0)


def _noise(level: float, prediction: Prediction) -> tuple[float, float]:
    """What the latent and the prediction count in the noise of the latent."""
    alpha, sigma = sqrt(level), sqrt(1 - level)
    if prediction == "epsilon":
        return 0.0, 1.0
    return (sigma, alpha) if prediction == "v" else (1 / sigma, -alpha / sigma)


def _times(count: int, steps: int, spacing: Spacing, offset: int) -> list[int]:
    if spacing == "leading":
        times = np.arange(steps) * (count // steps) + offset
        return [int(time) for time in times[::-1]]
    if spacing == "trailing":
        return [int(time) - 1 for time in np.round(np.arange(count, 0, -count / steps))]
    if spacing == "linspace":
        return [int(time) for time in np.linspace(0, count - 1, steps).round()[::-1]]
    raise ExportError(f"schedule: spacing {spacing!r}; expected leading, trailing or linspace")


def _check_steps(steps: int) -> None:
    if type(steps) is not int or steps < 1:
        raise ExportError(f"schedule: expected a number of steps from 1 on, got {steps!r}")


def _check(
    alphas_cumprod: Sequence[float] | np.ndarray, steps: int, prediction: str
) -> list[float]:
    """The noise levels of training."""
    _check_steps(steps)
    if hasattr(alphas_cumprod, "detach"):
        alphas_cumprod = alphas_cumprod.detach().cpu().numpy()
    levels = np.asarray(alphas_cumprod, np.float64)
    if levels.ndim != 1 or not ((levels > 0) & (levels < 1)).all():
        raise ExportError(
            "schedule: alphas_cumprod holds a number between 0 and 1 for each time of training, "
            f"got shape {list(levels.shape)}"
        )
    if steps > len(levels):
        raise ExportError(
            f"schedule: {steps} steps, but the network was trained with {len(levels)} times"
        )
    if prediction not in ("epsilon", "v", "sample"):
        raise ExportError(f"schedule: prediction {prediction!r}; expected epsilon, v or sample")
    return [float(level) for level in levels]
