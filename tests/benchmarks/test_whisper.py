"""Whisper: its front end by the published formula, its texts with the package's weights."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks/networks"))

import speech_clips
import whisper_tiny
from generation import Run, generate
from log_mel import LogMel, mel_filters
from package_files import PackageError


@pytest.fixture(scope="module")
def model():
    try:
        return whisper_tiny.load()
    except PackageError as error:
        pytest.skip(f"whisper-tiny.en cannot be had: {error}")


@pytest.fixture(scope="module")
def clips():
    try:
        return speech_clips.load_clips()
    except PackageError as error:
        pytest.skip(f"the clips cannot be had: {error}")


def test_the_spectrogram_is_that_of_the_published_formula():
    audio = torch.randn(2, 40_000, generator=torch.Generator().manual_seed(0)) * 0.1
    padded = torch.nn.functional.pad(audio, (0, 480_000 - 40_000))
    spectrum = torch.stft(padded, 400, 160, window=torch.hann_window(400), return_complex=True)
    power = torch.from_numpy(mel_filters()).float() @ spectrum[..., :-1].abs() ** 2
    for row, mel in zip(LogMel()(audio), power.clamp(min=1e-10).log10(), strict=True):
        expected = (torch.maximum(mel, mel.max() - 8) + 4) / 4
        torch.testing.assert_close(row, expected, atol=1e-4, rtol=0)


def test_filters_have_area_one():
    areas = torch.from_numpy(mel_filters()).sum(1) * (16_000 / 400)
    # As far as a sum over few frequencies is an area: triangles are 75 Hz wide and more.
    torch.testing.assert_close(areas, torch.ones(80).double(), atol=0.1, rtol=0)


def test_a_clip_is_recognized(model, clips):
    tokenizer = pytest.importorskip("tokenizers").Tokenizer.from_file(str(model.loop.tokenizer))
    text = tokenizer.decode(whisper_tiny.recognize(model, clips[4]))
    assert text == " He might even have been made amiable himself."
    assert speech_clips.word_error_rate([(clips[4].transcript, text)]) == 0


def test_tokens_at_once_are_those_one_by_one(model, clips):
    inputs = {"audio": torch.from_numpy(clips[3].samples)[None]}
    tokens = [*model.loop.start, 11161, 339, 6405]
    run = Run(model, inputs)
    for token in tokens:
        scores = run.step([token])
    torch.testing.assert_close(Run(model, inputs).step(tokens), scores, atol=1e-4, rtol=0)


def test_a_limit_ends_a_run(model, clips):
    inputs = {"audio": torch.from_numpy(clips[4].samples)[None]}
    assert generate(model, inputs, limit=3) == [679, 1244, 772]


def test_word_error_rate():
    rate = speech_clips.word_error_rate
    assert rate([("mister smith has ten cats", "Mr. Smith has 10 cats.")]) == 0
    assert rate([("one two three four", "one three four five")]) == 0.5
    assert rate([("one two", ""), ("three four", "three four")]) == 0.5
