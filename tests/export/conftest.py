"""What tests of the toolchain share."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared import once

from mmedge_export import export


@pytest.fixture(scope="session")
def zoo_cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference network cut into stages, as one file; change a copy of it."""

    def make(folder: Path) -> None:
        export("zoo:vqa-attention", folder / "vqa.mmedge", split=True).close()

    return once(tmp_path_factory, "zoo-vqa-attention", make) / "vqa.mmedge"
