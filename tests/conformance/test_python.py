"""The Python runtime does what the cases in ``conformance/`` say."""

from __future__ import annotations

import numpy as np
import pytest
import run_python
from case_files import CASES, write_lines
from case_streams import random_schedules
from hostile_bundles import ATTACKS, write_hostile
from signature_files import taken_mutants

from mmedge.backends import cores
from mmedge.bundle import Bundle, signature
from mmedge.errors import BundleError, SignatureError
from mmedge.execution import generate, inputs
from mmedge.stream import latency_predictor, modality_state, sample, state_machine


@pytest.mark.parametrize("name", run_python.CHECKS)
def test_nothing_differs(name):
    assert run_python.CHECKS[name]() == []


@pytest.mark.parametrize(
    ("check", "module", "name", "value"),
    [
        ("choices", cores, "FLOPS_PER_THREAD", 5_000_000),
        ("streams", state_machine, "PATIENCE", 0.5),
        ("streams", latency_predictor, "RELAXED", 0.5),
        ("streams", modality_state, "HANG", 0.01),
        ("streams", sample.SampleAccounting, "condemn", lambda *_: None),
        ("calls", inputs.np, "zeros", np.ones),
        ("signatures", signature, "verify", lambda *_: True),
        ("loops", generate.GenerateRun, "_positions", lambda self, start, count: np.arange(count)),
    ],
)
def test_a_change_of_the_runtime_shows(check, module, name, value, monkeypatch):
    monkeypatch.setattr(module, name, value)
    assert run_python.CHECKS[check]()


@pytest.mark.parametrize("name", ["calls", "choices of tokens", "loops", "streams"])
def test_elsewhere_numbers_may_be_rounded_otherwise(name, monkeypatch):
    """As with other libraries or on another processor."""
    monkeypatch.setattr(run_python, "has_same_bits", lambda: False)
    assert run_python.CHECKS[name]() == []


def test_random_schedules_are_played_alike(tmp_path):
    write_lines(tmp_path / "random.jsonl", random_schedules(CASES / "bundles", 77, range(30)))
    assert run_python.check_streams(tmp_path / "random.jsonl") == []


def test_hostile_bundles_are_refused(tmp_path):
    # Every one is in test_bundles_bad.py; here they are read back from where others read them.
    write_hostile(tmp_path / "hostile", ATTACKS[::12])
    assert run_python.check_hostile(tmp_path / "hostile") == []


def test_mutants_of_a_signed_bundle_are_refused(tmp_path):
    def open_bundle(path, key):
        Bundle.open(path, trusted_keys=[key]).close()

    assert taken_mutants(tmp_path, open_bundle, count=1000, seed=2026) == []


def test_a_mutant_that_is_taken_shows(tmp_path):
    def open_bundle(path, _key):
        try:
            Bundle.open(path).close()  # without keys: what is canonical and fits is taken
        except SignatureError:
            raise
        except BundleError as error:
            raise SignatureError(str(error)) from error

    assert taken_mutants(tmp_path, open_bundle, count=50, seed=2026)
