"""A target is a package and one line of the registry: nothing else knows what it quantises."""

from __future__ import annotations

import pytest
from engine_net import write_trio

import mmedge
from mmedge.backends import registry as runtime
from mmedge.errors import InputError
from mmedge.execution.verify import verify
from mmedge_export.quantize import QuantizeOptions, quantize
from mmedge_export.targets.registry import TARGETS, find_target, precisions, quantizer, quantizes

PACKAGE = """
from mmedge_export.targets.quantizable import Scheme

SCHEMES = {"int8": (Scheme("dynamic", ("MatMul",)),)}
WHY_NONE = ""
"""

QUANTIZER = """
from dataclasses import replace

import toy_target
from mmedge_export.targets.onnxruntime import schemes
from mmedge_export.targets.onnxruntime.quantizer import *
from mmedge_export.targets.variants import base_variant


def float_variant(bundle):
    variant = replace(base_variant(bundle, "ort"), backend="toy")
    return bundle.with_variant(variant, {}), variant


def find_nodes(model, precision, ranges):
    return schemes.find_sites(model, toy_target.SCHEMES["int8"]), {}
"""

LINE = """
from mmedge.backends import registry

registry.BACKENDS["toy"] = "mmedge.backends.onnxruntime"
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Writes a package for the backend ``toy`` and lists it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(runtime.BACKENDS, "toy", "mmedge.backends.onnxruntime")
    # Read by Python at every start: the processes that time variants know the backend, too.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(LINE)

    def add(package, name):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(package)
        (tmp_path / name / "quantizer.py").write_text(QUANTIZER)
        monkeypatch.setitem(TARGETS, "toy", name)

    return add


def test_a_new_target_is_quantised_for(toy, tmp_path):
    toy(PACKAGE, "toy_target")
    assert precisions("toy") == ("int8",)
    options = QuantizeOptions(backend="toy", goal="size", max_error=0.3, threads=1)
    bundle, report = quantize(write_trio(tmp_path / "b.mmedge"), options=options)
    bundle.close()
    assert report.variant == "toy-int8-cpu"
    assert {form for stage in report.stages for form in stage.forms} <= {"dynamic", "float"}
    with mmedge.load(tmp_path / "b.mmedge", backend="toy", precision="int8") as pipe:
        assert verify(pipe).ok


def test_one_that_quantises_nothing_says_why(toy, tmp_path):
    toy('SCHEMES = {}\nWHY_NONE = "its kernels are of float32 alone"\n', "toy_floats")
    assert "toy" not in quantizes()
    with pytest.raises(InputError, match="'toy' quantizes nothing: its kernels are of float32"):
        QuantizeOptions(backend="toy")
    with pytest.raises(InputError, match="quantizes nothing"):
        quantizer("toy")


def test_every_backend_of_the_runtime_has_a_target():
    assert TARGETS.keys() == runtime.BACKENDS.keys()
    for name in TARGETS:
        target = find_target(name)
        assert bool(target.SCHEMES) != bool(target.WHY_NONE)
        assert all(scheme.operators for every in target.SCHEMES.values() for scheme in every)
    assert precisions() == ("int8", "int4", "fp8")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "tflite"}, "backend 'tflite': expected ort or openvino or tensorrt"),
        ({"precision": "fp8"}, "precision 'fp8': expected int8 or int4, .* backend 'ort'"),
        ({"backend": "tensorrt-rtx", "precision": "int4"}, "'int4': expected int8 or fp8"),
    ],
)
def test_what_a_backend_cannot_do_is_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        QuantizeOptions(**options)
