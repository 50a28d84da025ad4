"""Variants timed in processes of their own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from mmedge.bench import subprocesses
from mmedge.bench.subprocesses import Cell, time_apart
from mmedge.bundle import Bundle
from mmedge.errors import BackendError


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(subprocesses, "PROCESSES", 2)
    monkeypatch.setattr(subprocesses, "BLOCKS", 2)
    monkeypatch.setattr(subprocesses, "BLOCK_MS", 1.0)


def children():
    """Process ids of this process's children."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(listed.read_text(encoding="ascii").split())


def test_every_variant_gets_a_time(sums, quick):
    before = children()
    with Bundle.open(sums) as bundle:
        variants = [v for v in bundle.manifest.variants if v.target == "cpu"]
    found = time_apart(
        str(sums), [Cell(variant, None, count) for variant in variants for count in (1, 2)]
    )
    assert len(found) == 2 * len(variants)
    assert all(0 < ms < 1000 for ms in found)
    assert children() <= before


def test_a_variant_that_does_not_load_is_named_and_nothing_is_left(sums, quick, capfd):
    before = children()
    with Bundle.open(sums) as bundle:
        good = next(v for v in bundle.manifest.variants if v.target == "cpu")
    with pytest.raises(BackendError, match="tvm-.*the process that times it ended"):
        time_apart(str(sums), [Cell(good), Cell(replace(good, backend="tvm"))])
    assert "tvm" in capfd.readouterr().err
    assert children() <= before
