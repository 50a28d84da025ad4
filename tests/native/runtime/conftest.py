"""Programs around single parts of the C++ runtime, compiled once in a run of the tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from native_builds import build_probe
from shared import alone


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the program made of ``tests/native/runtime/NAME.cpp``.

    MMEDGE_PROBES names a folder to build in that stays from run to run.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = Path(os.environ.get("MMEDGE_PROBES", base / "shared" / "probes"))

    def make(name: str) -> Path:
        with alone(folder):
            return build_probe(folder, name)

    return make
