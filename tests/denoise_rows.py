"""Schedules of diffusion as rows of a loop, and the same samplers as their papers write them.

Both are float64. A sampler takes ``noise_at(x, t)``, what a network predicts of the noise in ``x``
(of a flow, of its velocity), and ``draw(step)``, normal numbers; it returns ``x`` after each step.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

#: Steps that the networks were trained on.
TRAINED = 1000
#: The share of the data's variance that is left at each time, of a linear beta.
CUMPROD = np.cumprod(1.0 - np.linspace(1e-4, 0.02, TRAINED, dtype=np.float64))


def leading_times(steps):
    """Times of equal spacing, from large to small, each with the one that follows (-1: the end)."""
    times = [i * (TRAINED // steps) for i in range(steps)][::-1]
    return list(pairwise([*times, -1]))


def solver_times(steps):
    """Times of equal spacing from the last one, without the end."""
    return np.linspace(0, TRAINED - 1, steps + 1).round()[::-1][:-1].astype(int).tolist()


def share_at(t):
    return CUMPROD[t] if t >= 0 else 1.0


def alpha_sigma(name, t):
    """What of the data and of the noise is in a sample of time ``t``."""
    if name == "euler flow":
        return 1 - t / TRAINED, t / TRAINED
    share = share_at(int(t))
    return share**0.5, (1 - share) ** 0.5


def ddim_rows(steps):
    rows = []
    for t, after in leading_times(steps):
        now, then = share_at(t), share_at(after)
        p, q = now**-0.5, -((1 - now) ** 0.5) * now**-0.5
        rows.append((float(t), 1.0, p, q, then**0.5, 0.0, (1 - then) ** 0.5, 0.0, 0.0))
    return rows


def ddim(x, steps, noise_at, draw):
    """Song, Meng and Ermon 2021, equation 12 with sigma 0."""
    for t, after in leading_times(steps):
        noise, now, then = noise_at(x, t), share_at(t), share_at(after)
        data = (x - np.sqrt(1 - now) * noise) / np.sqrt(now)
        x = np.sqrt(then) * data + np.sqrt(1 - then) * noise
        yield x


def ddpm_rows(steps):
    rows = []
    for t, after in leading_times(steps):
        now, then = share_at(t), share_at(after)
        beta = 1 - now / then
        p, q = now**-0.5, -((1 - now) ** 0.5) * now**-0.5
        r, s = then**0.5 * beta / (1 - now), (1 - beta) ** 0.5 * (1 - then) / (1 - now)
        c = ((1 - then) / (1 - now) * beta) ** 0.5
        rows.append((float(t), 1.0, p, q, r, s, 0.0, 0.0, c))
    return rows


def ddpm(x, steps, noise_at, draw):
    """Ho, Jain and Abbeel 2020, algorithm 2, with the smaller of the two variances."""
    for step, (t, after) in enumerate(leading_times(steps)):
        now, then = share_at(t), share_at(after)
        alpha = now / then
        mean = (x - (1 - alpha) / np.sqrt(1 - now) * noise_at(x, t)) / np.sqrt(alpha)
        x = mean + np.sqrt((1 - alpha) * (1 - then) / (1 - now)) * draw(step)
        yield x


def euler_flow_rows(steps):
    return [
        (now * TRAINED, 1.0, 1.0, -now, 0.0, 1.0, after - now, 0.0, 0.0)
        for now, after in pairwise(np.linspace(1.0, 0.0, steps + 1))
    ]


def euler_flow(x, steps, noise_at, draw):
    """Euler steps along the velocity of a rectified flow, from noise at 1 to data at 0."""
    for now, after in pairwise(np.linspace(1.0, 0.0, steps + 1)):
        x = x - (now - after) * noise_at(x, now * TRAINED)
        yield x


def dpm_solver_rows(steps):
    rows, before = [], None
    for i, (t, after) in enumerate(pairwise([*solver_times(steps), -1])):
        (a, s), (a1, s1) = (alpha_sigma("", at) for at in (t, after))
        now, then = np.log(a / s), np.log(a1 / s1) if s1 else np.inf
        scale = -a1 * np.expm1(now - then)
        share = 0.0 if i in (0, steps - 1) else (then - now) / (2 * (now - before))
        last = -scale * share
        rows.append((float(t), 1.0, 1 / a, -s / a, scale * (1 + share), s1 / s, 0.0, last, 0.0))
        before = now
    return rows


def dpm_solver(x, steps, noise_at, draw):
    """DPM-Solver++(2M), Lu et al. 2022, algorithm 2, the last step of the first order."""
    times, data = [*solver_times(steps), -1], []
    log_ratio = [np.log(np.divide(*alpha_sigma("", t))) for t in times[:-1]] + [np.inf]
    for i, t in enumerate(times[:-1]):
        (a, s), (a1, s1) = alpha_sigma("", t), alpha_sigma("", times[i + 1])
        h = log_ratio[i + 1] - log_ratio[i]
        data.append((x - s * noise_at(x, t)) / a)
        d = data[-1]
        if 0 < i < steps - 1:
            r = (log_ratio[i] - log_ratio[i - 1]) / h
            d = (1 + 1 / (2 * r)) * data[-1] - 1 / (2 * r) * data[-2]
        x = s1 / s * x - a1 * (np.exp(-h) - 1) * d
        yield x


SAMPLERS = {
    "ddim": (ddim_rows, ddim),
    "ddpm": (ddpm_rows, ddpm),
    "euler flow": (euler_flow_rows, euler_flow),
    "dpm-solver++(2m)": (dpm_solver_rows, dpm_solver),
}
