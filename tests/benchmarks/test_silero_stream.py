"""silero-vad as a stream with state: its probabilities are those of its own package."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks/networks"))

import silero
from package_files import PackageError
from speech_clips import RATE, speech

import mmedge
from mmedge.stream import SimulatedClock, Window
from mmedge_export import Input, Model, StateInput, export


def test_chunks_of_any_length_give_the_probabilities_of_the_package(tmp_path):
    try:
        detector, samples = silero.load(), speech(20)
        expected = silero.package_probabilities(samples)
    except PackageError as error:
        pytest.skip(f"silero-vad or the clips cannot be had: {error}")
    pieces = silero.chunks(samples)[:, None]
    model = Model(
        detector,
        inputs={"audio": Input(pieces[0], sample_rate_hz=RATE)},
        outputs=("probability",),
        state={
            "context": StateInput("last_context", (1, silero.CONTEXT)),
            "memory": StateInput("last_memory", (2, 1, silero.MEMORY)),
        },
        # All of it, so that no loud piece is out of the range that export has seen.
        samples=[({"audio": piece}, None) for piece in pieces],
    )
    export(model, tmp_path / "detector.mmedge")
    window = Window(silero.CHUNK, hop=silero.CHUNK)
    clock, rng, at, values = SimulatedClock(), np.random.default_rng(0), 0, []
    with (
        mmedge.load(tmp_path / "detector.mmedge", threads=1) as pipe,
        pipe.stream(trigger="audio", clock=clock, align={"audio": window}) as stream,
    ):
        while at < len(samples):
            chunk = samples[None, at : at + int(rng.integers(1, 3000))]
            at += chunk.shape[1]
            clock.advance(chunk.shape[1] / RATE)
            stream.push("audio", chunk)
            while stream.health().results > len(values):
                values.append(stream.result(0.0).outputs["probability"].item())
        health = stream.health().modalities["audio"]
    assert (health.state_missed, health.windows_dropped) == (0, {})
    assert len(values) == len(samples) // silero.CHUNK
    np.testing.assert_allclose(values, expected[: len(values)], rtol=0, atol=silero.TOLERANCE)
