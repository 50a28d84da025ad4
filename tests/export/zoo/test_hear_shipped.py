"""The shipped weights of ``zoo:hear``, by torch and as a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shared import zoo_bundle

import mmedge
from mmedge.errors import ExportError
from mmedge.execution.verify import verify
from mmedge_export import zoo
from mmedge_export.zoo import data_files, voices
from mmedge_export.zoo.hear import phrases, sample_set
from mmedge_export.zoo.hear.evaluation import torch_writer
from mmedge_export.zoo.pcm import pad

WEIGHTS = data_files.weights() / "hear.safetensors"
RESULTS = Path(__file__).parents[3] / "benchmarks/results"


@pytest.fixture(scope="module")
def model():
    return zoo.factory("hear")


@pytest.fixture(scope="module")
def texts(model):
    """What torch writes for each sample."""
    write = torch_writer(model.module)
    return [write(s.pcm()[None], s.language)[0] for s in sample_set.load()]


def test_the_shipped_weights_hear_and_translate_the_shipped_clips(texts):
    samples = sample_set.load()
    right = [text == sample.text for text, sample in zip(texts, samples, strict=True)]
    assert sum(right) >= 8
    for language in phrases.LANGUAGES:
        assert sum(r for r, s in zip(right, samples, strict=True) if s.language == language) >= 3


def test_the_samples_are_of_held_out_voices_known_and_unseen():
    samples, requests = sample_set.load(), phrases.load()
    known = {phrase.english: phrase for phrase in requests.known}
    unseen = {phrase.english: phrase for phrase in requests.unseen}
    assert len(samples) == 10
    assert {sample.language for sample in samples} == set(phrases.LANGUAGES)
    for sample in samples:
        phrase = (known if sample.is_known else unseen)[sample.english]
        assert sample.text == phrase.text(sample.language)
        assert sample.speaker.split(",")[0].split("+")[1] in voices.HELD_OUT
        assert 0.5 < len(sample.pcm()) / 16_000 < 6


def test_the_files_are_small():
    assert WEIGHTS.stat().st_size <= 8_000_000
    assert sum(p.stat().st_size for p in sample_set.folder().iterdir()) <= 600_000


def test_the_shipped_weights_are_those_of_the_results():
    from safetensors import safe_open

    (network,) = json.loads((RESULTS / "zoo_hear.json").read_text())["networks"]
    with safe_open(WEIGHTS, framework="pt") as stored:
        assert json.loads(stored.metadata()["recipe"]) == network["recipe"]
    rows = json.loads((RESULTS / "bundle_hear.json").read_text())["rows"]
    for row in rows:
        assert row["torch"] == pytest.approx(network["accuracy"][row["what"]], abs=1e-3)
        assert row["fp32"] == pytest.approx(row["torch"], abs=1e-3)


def test_weights_without_a_tokenizer_beside_them_are_refused(tmp_path):
    alone = tmp_path / "hear.safetensors"
    alone.write_bytes(WEIGHTS.read_bytes())
    with pytest.raises(ExportError, match=r"no tokenizer at .*hear\.tokenizer\.json"):
        zoo.factory("hear", alone)


@pytest.mark.further_class
def test_the_exported_bundle_hears_what_torch_hears(texts, tmp_path_factory):
    samples = sample_set.load()
    with mmedge.load(zoo_bundle(tmp_path_factory, "hear"), precision="fp32") as pipe:
        assert verify(pipe).ok
        for sample, expected in zip(samples, texts, strict=True):
            result = pipe(audio=sample.pcm()[None], language=f"<{sample.language}>")
            assert list(result["text"]) == [expected]
        # Of different lengths, padded to the longest: as each alone.
        audio = pad([sample.pcm() for sample in samples])
        for language in phrases.LANGUAGES:
            token = 1 + phrases.LANGUAGES.index(language)
            rows = pipe(audio=audio, language=np.full((len(samples), 1), token))
            alone = [
                str(pipe(audio=s.pcm()[None], language=f"<{language}>")["text"][0]) for s in samples
            ]
            assert list(rows["text"]) == alone
