"""Small bundles (:mod:`small_bundles`), and recorded machines."""

from __future__ import annotations

import os
from collections import Counter

import pytest
import sysfs_trees as trees
from echo import make_echo
from small_bundles import write_both, write_pair, write_sums
from streaming import make_streaming

import mmedge
from mmedge.backends.onnxruntime.session import OrtSession
from mmedge.bench.machine import energy, monitor
from mmedge.bundle import Bundle


@pytest.fixture(scope="session")
def sums(tmp_path_factory):
    return write_sums(tmp_path_factory.mktemp("bundles") / "sums.mmedge")


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("bundles") / "pair.mmedge")


@pytest.fixture(scope="session")
def both(pair, tmp_path_factory):
    return write_both(tmp_path_factory.mktemp("bundles") / "both.mmedge", pair)


@pytest.fixture
def runs(monkeypatch):
    """Counts runs of ONNX Runtime by the name of a stage's first output."""
    counted = Counter()
    run = OrtSession.run

    def count(self, feeds):
        counted[self.outputs[0].name] += 1
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "run", count)
    return counted


@pytest.fixture(scope="module")
def unsynced():
    """A disk that others use takes seconds to flush."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    return make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")


@pytest.fixture(scope="module")
def open_echo(tmp_path_factory):
    """A pipeline of modalities (see :mod:`echo`), made once for each set of them."""
    folder, pipes = tmp_path_factory.mktemp("echo"), {}

    def open_pipe(**modalities):
        key = repr(modalities)
        if key not in pipes:
            path = make_echo(folder / f"bundle{len(pipes)}", modalities)
            pipes[key] = mmedge.load(path, threads=1)
        return pipes[key]

    yield open_pipe
    for pipe in pipes.values():
        pipe.close()


@pytest.fixture(scope="module")
def manifest(streaming):
    with Bundle.open(streaming) as bundle:
        return bundle.manifest


@pytest.fixture
def x86(tmp_path):
    return trees.x86(tmp_path)


@pytest.fixture
def orin(tmp_path):
    return trees.orin(tmp_path)


@pytest.fixture
def at_once(monkeypatch):
    """Samples come as often as asked, and short blocks have an energy."""
    monkeypatch.setattr(monitor, "BUDGET", 1.0)
    monkeypatch.setattr(energy, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(energy, "MIN_GPU_SECONDS", 0.0)
