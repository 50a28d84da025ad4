"""Pipelines of bundles with a loop that generates, and with state."""

from __future__ import annotations

import numpy as np
import pytest

import mmedge
from tests.loop_bundles import Captioner, Completer, Filter, Speller, reference


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("loops")


@pytest.fixture(scope="module")
def captioner(folder):
    network = Captioner()
    network.write(folder / "captioner")
    with mmedge.load(folder / "captioner") as pipe:
        yield network, pipe


@pytest.fixture(scope="module")
def speller(folder):
    network = Speller()
    network.write(folder / "speller")
    with mmedge.load(folder / "speller") as pipe:
        yield network, pipe


@pytest.fixture(scope="module")
def completer(folder):
    network = Completer()
    network.write(folder / "completer")
    with mmedge.load(folder / "completer") as pipe:
        yield network, pipe


def image(seed: int, batch: int = 1, frames: int = 5):
    return np.random.default_rng(seed).normal(size=(batch, frames, 6)).astype(np.float32)


def sound(seed: int, batch: int = 1):
    return np.random.default_rng(seed).normal(size=(batch, 3, 5)).astype(np.float32)


def rows(result):
    """The tokens of each row, as many as count."""
    return [
        tokens[:length].tolist()
        for tokens, length in zip(result["tokens"], result["lengths"], strict=True)
    ]


def starting(network, batch):
    return np.tile(np.array(network.start, np.int64), (batch, 1))


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_greedy_tokens_equal_those_of_single_steps(captioner, speller, seed, batch):
    for (network, pipe), name, value in (
        (captioner, "image", image(seed, batch)),
        (speller, "sound", sound(seed, batch)),
    ):
        result = pipe.run({name: value})
        expected = reference(
            network.scores(value), starting(network, batch), stop=network.stop, limit=network.limit
        )
        assert rows(result) == expected
        assert set(result) == {"tokens", "lengths", "finish"}
        assert result["tokens"].dtype == result["lengths"].dtype == np.int64
        assert result["tokens"].shape == (batch, max(map(len, expected)))
        assert result["finish"] == [
            "limit" if len(row) == network.limit else "stop" for row in expected
        ]
        for row, length in zip(result["tokens"], result["lengths"], strict=True):
            assert set(row[length:].tolist()) <= {network.stop[0]}


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_prompt_in_one_run_gives_what_single_steps_give(completer, count):
    network, pipe = completer
    prompt = np.random.default_rng(count).integers(1, 11, (1, count))
    expected = reference(network.scores(), prompt, stop=network.stop, limit=network.limit)
    assert rows(pipe(tokens=prompt)) == expected


@pytest.mark.parametrize("where", ["whole", "encoder", "fusion"])
def test_state_goes_from_call_to_call(tmp_path, where):
    Filter(where).write(tmp_path / "filter")
    ones = np.ones((1, 4), np.float32)
    with mmedge.load(tmp_path / "filter") as pipe:
        state = pipe.state()
        values = [pipe(x=ones, gain=ones, state=state)["y"][0, 0] for _ in range(3)]
        assert values == [1.0, 2.0, 2.5]
        assert pipe(x=ones, gain=ones)["y"][0, 0] == 1.0
        assert state.position == 3
        assert state.tensors()["h"].tolist() == [[1.75] * 4]
