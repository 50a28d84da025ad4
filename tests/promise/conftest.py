"""What tests of random networks and files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from shared import translations_read_once


@pytest.fixture(scope="session", autouse=True)
def quick_exports() -> Iterator[None]:
    """Exports of one process share what torch reads anew for each."""
    with translations_read_once():
        yield
