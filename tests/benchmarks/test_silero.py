"""silero-vad: probabilities of the torch network are those of the package's class and ONNX file."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks/networks"))

import silero
from package_files import PackageError
from speech_clips import RATE, load_clips, speech

import mmedge
from mmedge_export import export


@pytest.fixture(scope="module")
def samples():
    try:
        silero.load()
        return speech(10)
    except PackageError as error:
        pytest.skip(f"silero-vad or the clips cannot be had: {error}")


def test_probabilities_are_those_of_the_package(samples):
    values = silero.probabilities(silero.load(), samples)
    expected = silero.package_probabilities(samples)
    assert len(values) == len(expected) == -(-10 * RATE // silero.CHUNK)
    np.testing.assert_allclose(values, expected, atol=silero.TOLERANCE, rtol=0)
    # Speech, a second of silence, speech.
    first = len(load_clips()[0].samples)
    assert values[: first // 512].mean() > 0.8
    assert values[first // 512 + 4 : (first + RATE) // 512 - 2].mean() < 0.1


def test_a_bundle_keeps_the_state_from_piece_to_piece(samples, tmp_path):
    export(silero.factory(), tmp_path / "vad.mmedge")
    expected = silero.package_probabilities(samples)
    with mmedge.load(tmp_path / "vad.mmedge") as pipe:
        state = pipe.state()
        values = [
            pipe(audio=piece[None], state=state)["probability"] for piece in silero.chunks(samples)
        ]
        np.testing.assert_allclose(np.ravel(values), expected, atol=silero.TOLERANCE, rtol=0)
        with pipe.stream(trigger="audio") as stream:
            for n, piece in enumerate(silero.chunks(samples)):
                stream.push("audio", piece[None], t=n * 0.032)
                values[n] = stream.result(timeout=30).outputs["probability"]
    np.testing.assert_allclose(np.ravel(values), expected, atol=silero.TOLERANCE, rtol=0)


def test_the_last_piece_is_filled_with_silence():
    pieces = silero.chunks(np.ones(600, np.float32))
    assert pieces.shape == (2, 512)
    assert pieces[1].sum() == 600 - 512
