"""The shipped weights of ``zoo:speak``, by torch and as a bundle."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import mmedge
from mmedge.execution.verify import verify
from mmedge_export import export, zoo
from mmedge_export.zoo import data_files
from mmedge_export.zoo.hear import phrases
from mmedge_export.zoo.pcm import to_float
from mmedge_export.zoo.speak import sample_set
from mmedge_export.zoo.speak.evaluation import listen, torch_speaker, words_understood
from mmedge_export.zoo.speak.model import SAMPLES
from mmedge_export.zoo.text_evaluation import word_error_rate

WEIGHTS = data_files.weights() / "speak.safetensors"
RESULTS = Path(__file__).parents[3] / "benchmarks/results"


@pytest.fixture(scope="module")
def model():
    return zoo.factory("speak")


@pytest.fixture(scope="module")
def clips(model):
    """What torch says for each sample."""
    return torch_speaker(model.module)(list(SAMPLES))


def test_hear_understands_what_is_said(clips):
    assert word_error_rate(listen(clips), SAMPLES) <= 0.05


def test_hear_understands_requests_never_read_in_training(model):
    texts = [phrase.english for phrase in phrases.load().unseen[::20]]
    assert word_error_rate(listen(torch_speaker(model.module)(texts)), texts) <= 0.05


def test_other_texts_sound_different(clips):
    # So that a listener who guesses well cannot make the tests above pass.
    heard = listen([clips[1], clips[4]])
    assert heard == ["stop", "no"]
    noise = np.random.default_rng(0).standard_normal(30_000).astype(np.float32) * 0.1
    assert listen([noise])[0] not in SAMPLES


def test_the_shipped_clips_are_what_the_network_says(clips):
    named = sample_set.load()
    assert tuple(named.values()) == SAMPLES
    for name, clip in zip(named, clips, strict=True):
        with wave.open(str(sample_set.folder() / name)) as reader:
            assert reader.getframerate() == 16_000
            stored = to_float(np.frombuffer(reader.readframes(reader.getnframes()), "<i2"))
        assert stored.shape == clip.shape
        np.testing.assert_allclose(stored, clip, atol=5e-3 * float(np.abs(clip).max()) + 1e-4)


def test_the_files_are_small():
    assert WEIGHTS.stat().st_size <= 8_000_000
    assert sum(path.stat().st_size for path in sample_set.folder().iterdir()) <= 500_000


def test_the_shipped_weights_are_those_of_the_results():
    (network,) = json.loads((RESULTS / "zoo_speak.json").read_text())["networks"]
    with safe_open(WEIGHTS, framework="pt") as stored:
        assert json.loads(stored.metadata()["recipe"]) == network["recipe"]
    rows = json.loads((RESULTS / "bundle_speak.json").read_text())["rows"]
    (unseen,) = (row for row in rows if row["what"] == "unseen")
    assert unseen["torch"] == pytest.approx(network["accuracy"]["unseen"], abs=2e-3)
    assert unseen["fp32"] == pytest.approx(unseen["torch"], abs=2e-3)
    assert unseen["torch"]["word_error_rate"] <= 0.1


@pytest.mark.further_class
def test_the_exported_bundle_says_what_torch_says(model, clips, tmp_path):
    export(model, tmp_path / "bundle", rtol=1e-2).close()
    with mmedge.load(tmp_path / "bundle", precision="fp32", device="cpu") as pipe:
        outputs = [pipe(text=text) for text in SAMPLES]
        assert verify(pipe).ok
    for output, clip in zip(outputs, clips, strict=True):
        assert output["samples"].tolist() == [len(clip)]
        distance = np.abs(output["audio"][0, : len(clip)] - clip).max()
        assert distance <= 5e-3 * float(np.abs(clip).max())
    assert words_understood(outputs, list(SAMPLES)) >= 0.95
