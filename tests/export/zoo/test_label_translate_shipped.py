"""The shipped weights of ``zoo:label-translate``, by torch and as a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shared import zoo_bundle

import mmedge
from mmedge.errors import ExportError
from mmedge_export import zoo
from mmedge_export.zoo import data_files
from mmedge_export.zoo.label_translate import sample_set
from mmedge_export.zoo.label_translate.evaluation import torch_writer
from mmedge_export.zoo.label_translate.names import LANGUAGES, is_held_out

WEIGHTS = data_files.weights() / "label-translate.safetensors"
RESULTS = Path(__file__).parents[3] / "benchmarks/results"


@pytest.fixture(scope="module")
def model():
    return zoo.factory("label-translate")


@pytest.fixture(scope="module")
def texts(model):
    """What torch writes for each sample."""
    write = torch_writer(model.module)
    return [write(s.picture()[None], s.language)[0] for s in sample_set.load()]


def test_the_shipped_weights_read_and_translate_the_shipped_pictures(texts):
    samples = sample_set.load()
    right = [text == sample.text for text, sample in zip(texts, samples, strict=True)]
    assert sum(right) >= 10
    for language in LANGUAGES:
        assert sum(r for r, s in zip(right, samples, strict=True) if s.language == language) >= 2


def test_the_samples_are_of_every_language_and_of_names_never_seen():
    samples = sample_set.load()
    assert len(samples) == 12
    assert {sample.language for sample in samples if sample.is_known} == set(LANGUAGES)
    for sample in samples:
        assert is_held_out(sample.label) != sample.is_known
        assert sample.language == "en" or sample.is_known
        assert sample.picture().shape == (32, 192, 3)


def test_the_files_are_small():
    assert WEIGHTS.stat().st_size <= 8_000_000
    assert sum(p.stat().st_size for p in sample_set.folder().iterdir()) <= 200_000


def test_the_shipped_weights_are_those_of_the_results():
    from safetensors import safe_open

    (network,) = json.loads((RESULTS / "zoo_label_translate.json").read_text())["networks"]
    with safe_open(WEIGHTS, framework="pt") as stored:
        assert json.loads(stored.metadata()["recipe"]) == network["recipe"]
    rows = json.loads((RESULTS / "bundle_label_translate.json").read_text())["rows"]
    for row in rows:
        assert row["torch"] == pytest.approx(network["accuracy"][row["what"]], abs=1e-3)
        assert row["fp32"] == pytest.approx(row["torch"], abs=1e-3)


def test_weights_without_a_tokenizer_beside_them_are_refused(tmp_path):
    alone = tmp_path / "label-translate.safetensors"
    alone.write_bytes(WEIGHTS.read_bytes())
    with pytest.raises(ExportError, match=r"no tokenizer at .*label-translate\.tokenizer\.json"):
        zoo.factory("label-translate", alone)


@pytest.mark.further_class
def test_the_exported_bundle_writes_what_torch_writes(model, texts, tmp_path_factory):
    samples = sample_set.load()
    path = zoo_bundle(tmp_path_factory, "label-translate")
    with mmedge.load(path, precision="fp32") as pipe:
        for sample, expected in zip(samples, texts, strict=True):
            result = pipe(image=sample.picture()[None], language=f"<{sample.language}>")
            assert list(result["text"]) == [expected]
        images = np.stack([sample.picture() for sample in samples])
        rows = pipe(image=images, language=np.ones((len(samples), 1), np.int64))
        one_by_one = torch_writer(model.module)(images, "en")
        assert list(rows["text"]) == one_by_one
