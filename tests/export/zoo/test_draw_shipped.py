"""The shipped weights of ``zoo:draw``, by torch and as a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shared import zoo_bundle

import mmedge
from mmedge_export import zoo
from mmedge_export.zoo import data_files
from mmedge_export.zoo.draw import evaluation
from mmedge_export.zoo.draw.captions import Caption, encode
from mmedge_export.zoo.draw.drawing import to_bytes, torch_artist
from mmedge_export.zoo.draw.judge import judge
from mmedge_export.zoo.draw.model import SAMPLES, follows_caption

WEIGHTS = data_files.weights() / "draw.safetensors"
RESULTS = Path(__file__).parents[3] / "benchmarks/results"

#: Two of each of the held-out combinations, two of others.
CAPTIONS = [
    *(Caption(*pair, "big", "at the left") for pair in sorted(evaluation.HELD_OUT)),
    *(Caption(*pair, "small", "at the top") for pair in sorted(evaluation.HELD_OUT)),
    Caption("black", "circle", "big", "in the middle"),
    Caption("green", "rectangle", "small", "at the bottom right"),
]


@pytest.fixture(scope="module")
def model():
    return zoo.factory("draw")


@pytest.fixture(scope="module")
def noise() -> np.ndarray:
    return evaluation.noises(len(CAPTIONS), seed=11)


@pytest.fixture(scope="module")
def drawn(model, noise) -> np.ndarray:
    """What torch draws."""
    return torch_artist(model.module)([caption.text for caption in CAPTIONS], noise)


def test_the_shipped_weights_draw_what_captions_say(drawn):
    figures = evaluation.shares(judge(drawn), CAPTIONS)
    assert figures["color and shape"] >= 0.8
    assert figures["size"] >= 0.8
    assert figures["place"] >= 0.8


def test_other_noise_gives_another_picture(model):
    pictures = torch_artist(model.module)(["a red circle"] * 4, evaluation.noises(4, seed=2))
    verdicts = judge(pictures)
    assert len({verdict.box for verdict in verdicts}) == 4


def test_the_golden_captions_have_one_that_training_never_showed():
    assert SAMPLES[0].is_held_out
    assert {caption.size for caption in SAMPLES} == {"small", "big"}
    assert not any(caption.is_held_out for caption in SAMPLES[1:])


def test_the_metric_counts_pictures_that_are_all_right(drawn):
    outputs = [{"image": image[None].astype(np.float32) / 255} for image in drawn]
    share = follows_caption(outputs, CAPTIONS)
    assert share == evaluation.shares(judge(drawn), CAPTIONS)["all"]
    wrong = [Caption("gray", "circle", "big", "at the bottom") for _ in CAPTIONS]
    assert follows_caption(outputs, wrong) < share


def test_the_weights_are_small():
    assert WEIGHTS.stat().st_size <= 8_000_000


def test_the_shipped_weights_are_those_of_the_results():
    from safetensors import safe_open

    (network,) = json.loads((RESULTS / "zoo_draw.json").read_text())["networks"]
    with safe_open(WEIGHTS, framework="pt") as stored:
        assert json.loads(stored.metadata()["recipe"]) == network["recipe"]
    rows = json.loads((RESULTS / "bundle_draw.json").read_text())["rows"]
    for row in rows:
        if "all" in row["torch"]:
            trained = network["accuracy"][row["what"]]
            assert row["torch"]["all"] == pytest.approx(trained["all"], abs=0.02)
            assert row["fp32"]["all"] == pytest.approx(row["torch"]["all"], abs=0.02)


def test_the_exported_bundle_draws_what_torch_draws(noise, drawn, tmp_path_factory):
    with mmedge.load(zoo_bundle(tmp_path_factory, "draw"), precision="fp32") as pipe:
        result = pipe(text=encode([caption.text for caption in CAPTIONS]), noise=noise)
        pictures = to_bytes(result["image"])
        assert np.abs(pictures.astype(int) - drawn).max() <= 2
        assert result["finish"] == "schedule"
        first, again, other = (
            pipe(text="a teal triangle", seed=seed)["image"] for seed in (1, 1, 2)
        )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.5
