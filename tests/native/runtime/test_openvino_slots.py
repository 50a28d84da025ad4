"""Slots of OpenVINO called at random by two threads, on memory that sanitizers watch."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace

import pytest
from native_builds import ROOT

from mmedge.bundle import Bundle
from mmedge.native.runtime import installed_openvino

pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'mmedge[openvino]'")
pytestmark = pytest.mark.native_build


def test_outputs_are_right_and_what_is_kept_stays(probe, tmp_path):
    program = probe("openvino_probe")
    path = shutil.copy(ROOT / "conformance/cases/bundles/state.mmedge", tmp_path / "state.mmedge")
    with Bundle.open(path) as bundle:
        (base,) = bundle.manifest.variants
        bundle.with_variant(replace(base, backend="openvino"), {}).close()
    # Otherwise TBB loads a library in a way that sanitizers do not know. What both libraries hold
    # until the process ends is no leak of ours.
    (tmp_path / "theirs").write_text("leak:libopenvino\nleak:libtbb\n")
    environment = {**os.environ, "TBB_ENABLE_SANITIZERS": "1"}
    environment["LSAN_OPTIONS"] = f"suppressions={tmp_path / 'theirs'}:print_suppressions=0"
    for seed in range(3):
        command = [program, path, installed_openvino(), str(seed), "3000"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        runs, refusals = map(int, done.stdout.split())
        assert runs > 1000
        assert refusals > 100
