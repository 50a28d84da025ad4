"""The soak with planted faults, on a simulated clock: it finds none, and those put in for it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from soak_faults import CYCLE, soak_faults, write_bundle

from mmedge.stream.choose import Chooser
from mmedge.stream.modality_state import ModalityState
from mmedge.stream.state_machine import StreamStateMachine


def run(tmp_path):
    write_bundle(tmp_path / "b")
    measured, judges = soak_faults(tmp_path / "b", CYCLE, simulated=True)
    for judge, stream in zip(judges, measured["streams"], strict=True):
        for name, state in stream["health"]["modalities"].items():
            assert state["pending"] == 0
            assert state["pushed"] == state["used"] + sum(state["dropped"].values())
            assert state["pushed"] == measured["pushed"][name]
        assert judge.kinds["fresh"] > 300
    return " ".join(fault for judge in judges for fault in judge.faults)


def test_a_cycle_of_faults_makes_no_wrong_result(tmp_path):
    assert run(tmp_path) == ""


@pytest.mark.parametrize(
    ("of", "name", "value", "words"),
    [
        (
            StreamStateMachine,
            "_age_fault",
            lambda self, name, t: None,
            "older than its limit in truth",
        ),
        (StreamStateMachine, "forget", lambda self, name, now: None, "used after it was withdrawn"),
        (Chooser, "_waits", lambda self, *_, **__: True, "few fresh results"),
    ],
)
def test_it_finds_what_it_is_for(tmp_path, monkeypatch, of, name, value, words):
    monkeypatch.setattr(of, name, value)
    assert words in run(tmp_path)


def test_it_finds_a_dead_encoder_that_looks_alive(tmp_path, monkeypatch):
    real = ModalityState.fail

    def fail(track, item, message):
        real(track, item, message)
        track.encoder_error = None

    monkeypatch.setattr(ModalityState, "fail", fail)
    assert "from before a failed encoding, without a word" in run(tmp_path)
