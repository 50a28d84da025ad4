"""What tests of the toolchain share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shared import zoo_bundle

from mmedge.bench import subprocesses
from mmedge.bench.stats import block_timer


@pytest.fixture(scope="session", autouse=True)
def brief_timing() -> Iterator[None]:
    """What is timed is timed briefly, and a busy machine is not waited for.

    No test here goes by what is faster in truth: where that matters, a test says it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocesses, "PROCESSES", 1)
        patch.setattr(subprocesses, "BLOCKS", 1)
        patch.setattr(subprocesses, "BLOCK_MS", 1.0)
        patch.setattr(block_timer, "PAUSE_S", 0.0)
        patch.setattr(block_timer, "BLOCK_S", 0.0003)
        yield


@pytest.fixture(scope="session")
def zoo_cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference network cut into stages, as one file; change a copy of it."""
    return zoo_bundle(tmp_path_factory, "vqa-attention")
