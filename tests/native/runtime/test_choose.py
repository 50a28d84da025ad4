"""Which variant and plan the C++ runtime chooses on devices, by the cases of conformance/."""

from __future__ import annotations

import json
import subprocess

import pytest
from native_builds import ROOT

pytestmark = pytest.mark.native_build

CASES = ROOT / "conformance" / "cases"
#: What a row of a case says that is decided here.
DECIDED = ("variant", "decisions", "plan", "why_plan", "verified_at_load", "error")


def test_choices_are_those_of_the_cases(probe):
    path = CASES / "choices" / "choices.json"
    command = [probe("choose_probe"), path, CASES / "bundles"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    cases = json.loads(path.read_text())["cases"]
    assert len(rows) == len(cases) > 80
    for case, row in zip(cases, rows, strict=True):
        assert row == {name: case[name] for name in DECIDED if name in case}, case
