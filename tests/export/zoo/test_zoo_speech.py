from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmedge.errors import ExportError
from mmedge_export.zoo import clip_augment, speech, voices
from mmedge_export.zoo.resample import resample
from mmedge_export.zoo.vqa import augment

QUESTIONS = ["is there a red shape?", "what color is the shape?"]


def test_no_held_out_voice_is_heard_in_training():
    assert not set(voices.TRAIN) & set(voices.HELD_OUT)
    assert sorted((*voices.TRAIN, *voices.HELD_OUT)) == sorted(voices.VARIANTS)
    train = voices.plan("train", QUESTIONS, 2)
    test = voices.plan("test", QUESTIONS, 2)
    assert not {u.variant for u in train} & {u.variant for u in test}
    assert "en-gb-x-rp" not in {u.accent for u in train}


def test_the_plan_is_whole_and_repeats():
    plan = voices.plan("test", QUESTIONS, 3)
    assert plan == voices.plan("test", QUESTIONS, 3)
    assert plan != voices.plan("test", QUESTIONS, 3, seed=1)
    assert len(plan) == len(QUESTIONS) * len(voices.HELD_OUT) * 3
    for text in QUESTIONS:
        assert {u.variant for u in plan if u.text == text} == set(voices.HELD_OUT)


def test_voices_are_drawn_for_each_sentence():
    drawn = voices.draw("train", QUESTIONS, 5)
    assert drawn == voices.draw("train", QUESTIONS, 5)
    assert drawn != voices.draw("train", QUESTIONS, 5, seed=1)
    assert len(drawn) == 5 * len(QUESTIONS)
    for text in QUESTIONS:
        variants = [u.variant for u in drawn if u.text == text]
        assert len(set(variants)) == 5
        assert set(variants) <= set(voices.TRAIN)
    held_out = voices.draw("test", QUESTIONS, len(voices.HELD_OUT))
    assert {u.variant for u in held_out} == set(voices.HELD_OUT)
    with pytest.raises(ValueError, match="14 readings of each sentence; test has 13 variants"):
        voices.draw("test", QUESTIONS, 14)


@pytest.mark.parametrize("hz", [200.0, 1_000.0, 6_000.0])
def test_resampling_keeps_a_tone_below_nyquist(hz):
    t = np.arange(22_050) / 22_050
    out = resample(np.sin(2 * np.pi * hz * t).astype(np.float32), 22_050, 16_000)
    want = np.sin(2 * np.pi * hz * np.arange(len(out)) / 16_000)
    assert len(out) == 16_000
    np.testing.assert_allclose(out[200:-200], want[200:-200], atol=2e-3)


def test_resampling_removes_a_tone_above_nyquist():
    t = np.arange(22_050) / 22_050
    out = resample(np.sin(2 * np.pi * 9_500 * t).astype(np.float32), 22_050, 16_000)
    assert np.abs(out[200:-200]).max() < 1e-3


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(0, 3_000),
    rates=st.tuples(*[st.sampled_from([8_000, 11_025, 16_000, 22_050, 48_000])] * 2),
)
def test_resampled_length_and_level(samples, rates):
    out = resample(np.full(samples, 0.5, np.float32), *rates)
    assert len(out) == -(-samples * rates[1] // rates[0])
    assert out.dtype == np.float32
    inner = out[len(out) // 3 : len(out) // 3 * 2] if samples > 900 else out[:0]
    np.testing.assert_allclose(inner, 0.5, atol=1e-3)


def test_resampling_refuses_stereo():
    with pytest.raises(ValueError, match="1-D"):
        resample(np.zeros((2, 10), np.float32), 8_000, 16_000)


def test_a_missing_synthesiser_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ExportError, match="apt-get install espeak-ng"):
        speech.synthesise(voices.plan("test", QUESTIONS, 1)[0])


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_a_corpus_is_made_once_and_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(voices, "HELD_OUT", voices.HELD_OUT[:2])
    made = speech.corpus("test", QUESTIONS, tmp_path, takes=1, processes=1)
    again = speech.corpus("test", QUESTIONS, tmp_path, takes=1, processes=1)
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(made.pcm, again.pcm)
    assert len(made) == 4
    assert set(made.by_question()) == set(QUESTIONS)
    for n in range(len(made)):
        clip = made.clip(n)
        assert clip.dtype == np.int16
        assert 0.5 < len(clip) / speech.RATE < 5
        assert np.abs(clip.astype(int)).max() > 1_000


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(2_000, 90_000), seed=st.integers(0, 1_000))
def test_an_augmented_clip_stays_a_signal(samples, seed):
    rng = np.random.default_rng(seed)
    pcm = (np.sin(np.arange(samples) / 9) * 9_000).astype(np.int16)
    out = augment.clip(pcm, rng)
    assert out.dtype == np.float32
    assert out.ndim == 1
    assert len(out) <= 80_000
    assert 0 < np.abs(out).max() <= 1


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(2_000, 90_000), seed=st.integers(0, 1_000))
def test_a_colored_clip_is_as_long_and_as_loud(samples, seed):
    pcm = np.sin(np.arange(samples) / 9).astype(np.float32) * np.float32(0.4)
    before = pcm.copy()
    out = clip_augment.color(pcm, np.random.default_rng(seed))
    np.testing.assert_array_equal(pcm, before)
    assert out.shape == pcm.shape
    assert out.dtype == np.float32
    assert np.abs(out).max() == pytest.approx(np.abs(pcm).max(), rel=1e-3)
    assert (out != pcm).any()


def test_an_augmented_image_keeps_its_colour():
    rng = np.random.default_rng(0)
    frame = np.full((64, 64, 3), (200, 60, 90), np.uint8)
    for _ in range(20):
        out = augment.image(frame, rng)
        assert out.shape == frame.shape
        assert out.dtype == np.uint8
        np.testing.assert_allclose(out.mean(axis=(0, 1)), (200, 60, 90), rtol=0.08)
