"""libmmedge does what the cases in ``conformance/`` say."""

from __future__ import annotations

import pytest
import run_native
from hostile_bundles import ATTACKS, write_hostile


@pytest.mark.parametrize("name", run_native.CHECKS)
def test_nothing_differs(name):
    assert run_native.CHECKS[name]() == []


@pytest.mark.native_build
def test_hostile_bundles_are_refused(tmp_path):
    write_hostile(tmp_path / "hostile", ATTACKS)
    assert run_native.check_hostile(tmp_path / "hostile") == []
