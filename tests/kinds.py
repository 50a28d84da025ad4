"""Parameters of a test of which `make test` takes some, and .ci/run all."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def kinds(names: Iterable[Any], first: Collection[Any]) -> list[Any]:
    """Those of ``first`` always; the others, of kinds that these show, where further ones run."""
    marks = pytest.mark.further_class
    return [name if name in first else pytest.param(name, marks=marks) for name in names]
