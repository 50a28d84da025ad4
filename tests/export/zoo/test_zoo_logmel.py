from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge_export.zoo.logmel import BAND_HZ, FLOOR, HOP, MELS, RATE, WINDOW, LogMel, filterbank


def reference(pcm: np.ndarray) -> np.ndarray:
    """The same features by NumPy's FFT in float64, with the filters built one by one."""
    padded = np.concatenate([pcm.astype(np.float64), np.zeros(WINDOW)])
    count = len(pcm) // HOP + 1
    window = np.hanning(WINDOW + 1)[:-1]
    frames = np.stack([padded[n * HOP : n * HOP + WINDOW] * window for n in range(count)])
    power = np.abs(np.fft.rfft(frames / window.sum(), axis=1)) ** 2
    to_mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    edges = 700 * (10 ** (np.linspace(to_mel(BAND_HZ[0]), to_mel(BAND_HZ[1]), MELS + 2) / 2595) - 1)
    bins = np.fft.rfftfreq(WINDOW, 1 / RATE)
    bank = np.stack([np.interp(bins, edges[m : m + 3], [0, 1, 0]) for m in range(MELS)])
    return np.log(np.maximum(bank @ power.T, FLOOR))


@settings(max_examples=25, deadline=None)
@given(
    samples=st.integers(1_600, 12_000),
    decibels=st.floats(-60, 0),
    seed=st.integers(0, 2**16),
)
def test_it_agrees_with_a_float64_fft(samples, decibels, seed):
    rng = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * rng.uniform(100, 7000) * np.arange(samples) / RATE)
    pcm = ((tone + rng.standard_normal(samples) * 0.1) * 10 ** (decibels / 20)).astype(np.float32)
    found, valid = LogMel()(torch.from_numpy(pcm)[None])
    assert found.shape == (1, MELS, samples // HOP + 1)
    assert valid.shape == (1, samples // HOP + 1)
    np.testing.assert_allclose(found[0].numpy(), reference(pcm), atol=2e-3)


@pytest.mark.parametrize("hz", [300.0, 1_000.0, 4_000.0])
def test_a_tone_is_loudest_in_its_band(hz):
    pcm = torch.sin(2 * torch.pi * hz * torch.arange(8_000) / RATE)[None]
    found = LogMel()(pcm)[0][0, :, 10]
    centre = filterbank().argmax(axis=1) * RATE / WINDOW
    assert abs(centre[int(found.argmax())] - hz) <= 0.15 * hz


def test_every_band_has_a_filter():
    bank = filterbank()
    assert bank.shape == (MELS, WINDOW // 2 + 1)
    assert (bank.sum(axis=1) > 0).all()
    assert bank.min() >= 0
    assert bank.max() <= 1


def test_silence_is_the_floor_and_not_valid():
    found, valid = LogMel()(torch.zeros(1, 1_600))
    torch.testing.assert_close(found, torch.full_like(found, float(np.log(FLOOR))))
    assert not valid.any()
