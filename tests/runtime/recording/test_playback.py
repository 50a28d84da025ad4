"""Recordings on a simulated clock: the results of a stream, with costs, the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from recording_kit import Listed, at
from streaming import COLUMNS

import mmedge
from mmedge.errors import InputError
from mmedge.recording import Playback, Recorded
from mmedge.stream import Exact


@pytest.fixture(scope="module")
def pipe(streaming):
    with mmedge.load(streaming, threads=1) as pipe:
        yield pipe


def drive(seconds=2):
    """Camera at 10 Hz, state at 50 Hz, the rest now and then; arrivals begin at 100 s."""
    samples = []
    for k in range(50 * seconds):
        t = 100.0 + k / 50
        samples.append(at("state", t, k))
        if k % 5 == 0:
            samples += [at(name, t, k) for name in ("lidar", "text", "odom", "voice")]
            samples.append(at("camera", t, k, t=t - 0.01))
    return Listed(samples)


def play(pipe, recording, **options):
    with Playback(pipe, recording, trigger="camera", **options) as playback:
        return playback, list(playback)


def test_the_same_recording_gives_the_same_results(pipe):
    playback, results = play(pipe, drive())
    assert playback.origin == 100.0
    assert playback.pushed == {
        "camera": 20, "lidar": 20, "text": 20, "state": 100, "odom": 20, "voice": 20,
    }  # fmt: skip
    assert len(results) == 20
    assert [round(result.t, 9) for result in results] == [
        round(k / 10 - 0.01, 9) for k in range(20)
    ]
    again = play(pipe, drive())[1]
    for one, other in zip(results, again, strict=True):
        assert one.outputs["out"].tobytes() == other.outputs["out"].tobytes()
        assert (one.t, one.made, one.samples) == (other.t, other.made, other.samples)
    assert np.any(results[-1].outputs["out"][:, COLUMNS["state"]])


def test_costs_make_latency_and_alignment_is_the_streams(pipe):
    free = play(pipe, drive())[1]
    _, results = play(pipe, drive(), costs={"fuse": 0.03}, align={"state": Exact(1.0, 50.0)})
    assert {round(result.latency, 9) for result in free} == {0.01}
    assert all(result.latency >= 0.04 - 1e-9 for result in results)
    with pytest.raises(InputError, match="costs: no stage 'nose'; this bundle has"):
        play(pipe, drive(), costs={"nose": 1.0})


def test_an_empty_recording_has_no_results(pipe):
    playback, results = play(pipe, Listed([]))
    assert (playback.origin, results) == (None, [])


def test_a_timer_ends_with_the_last_sample(pipe):
    with Playback(pipe, drive(), trigger=5.0) as playback:
        results = list(playback)
    assert [round(result.t, 9) for result in results] == [round(k / 5, 9) for k in range(1, 10)]


def test_stamps_of_another_clock_are_told_at_the_end(pipe):
    samples = [Recorded(s.modality, s.t + 1e6, s.arrival, s.value) for s in drive().samples]
    with pytest.raises(InputError, match="they are of two clocks"):
        play(pipe, Listed(samples))


def test_what_does_not_fit_is_refused_before_it_is_played(pipe):
    with pytest.raises(InputError, match="modality 'nose' is none of bundle"):
        play(pipe, Listed([], modalities=("nose",)))
    with pytest.raises(InputError, match="no samples of 'camera', which is to trigger"):
        play(pipe, Listed([], modalities=("state",)))
