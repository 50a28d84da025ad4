"""Another backend is a folder and one line of the registry: nothing else knows its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from mmedge.bundle import Bundle

PACKAGE = '''
"""onnx's reference implementation as a backend."""

from importlib.util import find_spec

LIBRARIES = ("onnx",)
LIMITS_RUNS = False


def missing(backend, libraries, gpus):
    return {} if "onnx" in libraries else {backend: "pip install onnx"}


def copied(arrays):
    return sum(value.nbytes for value in arrays), "the toy copies everything"
'''

SESSION = """
import numpy as np
from onnx.reference import ReferenceEvaluator

from mmedge.errors import BackendError


class ToySession:
    attention = None

    def __init__(self, bundle, stage, variant):
        if variant.target != "cpu":
            raise BackendError(f"variant {variant.id}: a toy runs on the CPU")
        self.inputs, self.outputs = stage.inputs, stage.outputs
        self._graph = ReferenceEvaluator(str(bundle.file(variant.files[stage.name])))

    def run(self, feeds):
        names = [spec.name for spec in self.outputs]
        values = self._graph.run(names, {name: np.array(value) for name, value in feeds.items()})
        return dict(zip(names, map(np.asarray, values), strict=True))

    def close(self):
        self._graph = None


def open_stage(bundle, stage, variant, *, options):
    return ToySession(bundle, stage, variant)
"""

#: Read by Python at every start, so that the processes that bench starts know the backend, too.
LINE = """
from mmedge.backends import registry

registry.BACKENDS["toy"] = "toy_backend"
"""


@pytest.fixture
def toy(tmp_path):
    """Runs the command line, as it is where the backend is listed."""
    (tmp_path / "toy_backend").mkdir()
    (tmp_path / "toy_backend" / "__init__.py").write_text(PACKAGE)
    (tmp_path / "toy_backend" / "session.py").write_text(SESSION)
    (tmp_path / "sitecustomize.py").write_text(LINE)

    def run(*arguments: str) -> dict:
        done = subprocess.run(
            [sys.executable, "-m", "mmedge", *arguments, "--json"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def bundle(sums, tmp_path):
    path = tmp_path / "b.mmedge"
    with Bundle.open(sums) as source:
        copy = source.copy(path)  # other tests use the one that it is a copy of
        variant = replace(copy.manifest.variants[0], backend="toy", metrics={"latency_ms": 1e-3})
        copy.with_variant(variant, {}).close()
    return str(path)


def test_a_new_backend_is_probed_verified_and_measured(toy, bundle):
    assert "toy" in toy("env")["backends"]
    assert "toy-fp32-cpu" in json.dumps(toy("inspect", bundle))
    verified = toy("verify", bundle, "--backend", "toy")
    assert verified["ok"]
    assert {row["variant"] for row in verified["verified"]} == {"toy-fp32-cpu"}
    report = toy("bench", bundle, "--backend", "toy", "--calls", "20", "--sessions", "2")
    assert report["variant"] == "toy-fp32-cpu"
    assert report["latency_ms"]["p50"] > 0
    assert report["cold_start_ms"] > 0  # measured in a process of its own
    assert {row["why"] for row in report["copies"] if row["what"].startswith("inputs into")} == {
        "the toy copies everything"
    }
    assert "mmedge reads none of toy" in report["operators_unexplained"]["words"]


def test_without_its_line_it_is_told_to_be_unknown(bundle):
    done = subprocess.run(
        [sys.executable, "-m", "mmedge", "verify", bundle, "--backend", "toy"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "toy" in done.stderr
    assert "openvino" in done.stderr
