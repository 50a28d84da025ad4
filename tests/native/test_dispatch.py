"""The choice between the kernel and standard operators follows the measurements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmedge.native import dispatch
from mmedge.native.dispatch import KernelMeasurement, choose, measurements

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_table_is_what_the_results_say():
    subprocess.run([sys.executable, "benchmarks/dispatch.py", "--check"], cwd=ROOT, check=True)


def test_the_shipped_table_holds_positive_ratios_of_known_frameworks():
    assert measurements()
    for row in measurements():
        assert row.framework in ("onnxruntime", "torch")
        assert min(row.rows, row.keys, row.dim, row.speedup) > 0


@pytest.fixture
def _table(monkeypatch):
    rows = (
        KernelMeasurement("torch", "cpu-avx2", "float32", 64, 1, 64, 2.0),
        KernelMeasurement("torch", "cpu-avx2", "float32", 64, 1, 4096, 0.9),
        KernelMeasurement("torch", "cpu-avx2", "float32", 64, 256, 64, 1.0),
        KernelMeasurement("torch", "cpu-avx2", "float32", 64, 256, 4096, 0.8),
        KernelMeasurement("torch", "cpu-avx2", "float32", 128, 16, 256, 0.5),
    )
    monkeypatch.setattr(dispatch, "measurements", lambda: rows)
    choose.cache_clear()
    yield
    choose.cache_clear()


@pytest.mark.usefixtures("_table")
@pytest.mark.parametrize(
    ("rows", "keys", "kernel"),
    [
        (1, 64, True),
        (1, 4096, False),
        (1, 500, True),  # nearest by ratio: 64 lies 7.8 times below, 4096 8.2 times above
        (1, 520, False),
        (15, 64, True),  # either neighbour was faster, or as fast
        (10_000, 1, True),
        (10_000, 100_000, False),
    ],
)
def test_the_nearest_shape_counts(rows, keys, kernel):
    assert choose("torch", "cpu-avx2", rows=rows, keys=keys, dim=64).kernel is kernel


@pytest.mark.usefixtures("_table")
def test_the_least_favourable_counts_where_a_size_is_unknown():
    choice = choose("torch", "cpu-avx2", rows=1, dim=64)
    assert not choice.kernel
    assert choice.reason == (
        "measured on cpu-avx2: 0.90 times as fast as standard operators at 1 x 4096, heads of 64"
    )
    assert choose("torch", "cpu-avx2", keys=64, dim=64).kernel
    assert not choose("torch", "cpu-avx2").kernel


@pytest.mark.usefixtures("_table")
@pytest.mark.parametrize(
    ("framework", "device", "dtype"),
    [
        ("torch", "sm_90", "float32"),
        ("torch", "cpu-avx2", "float16"),
        ("onnxruntime", "cpu-avx2", "float32"),
    ],
)
def test_what_was_not_measured_gets_standard_operators(framework, device, dtype):
    choice = choose(framework, device, dtype, rows=1, keys=64, dim=64)
    assert not choice.kernel
    assert choice.reason == f"not measured on {device} with {dtype}"
