"""Commands and programs of the page on drift run, in order, on a bundle and its recordings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
from streaming import make_streaming, value

import mmedge
from mmedge.cli.app import run
from mmedge.recording import Recorder

PAGE = Path(__file__).resolve().parent.parent / "docs/howto/drift.md"


def test_commands_and_programs_of_the_page_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    make_streaming("robot.mmedge")
    with mmedge.Bundle.open("robot.mmedge") as bundle:
        for seed, name in enumerate(("monday", "tuesday", "today")):
            rng = np.random.default_rng(seed)
            with Recorder(f"{name}.mcap", bundle) as recorder:
                for index in range(450):
                    frame = rng.standard_normal((1, 4)).astype(np.float32)
                    if name == "today" and index > 200:
                        frame[0, 1] += 9.0
                    recorder.record("camera", frame, index / 10, index / 10)
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert [language for language, _ in blocks] == ["sh", "python", "python", "sh"]
    names = {"__name__": "page", "frame": value("camera", 1)}
    printed = []
    for language, text in blocks:
        if language == "sh":
            assert run(shlex.split(text)[1:]) == 0
        else:
            exec(compile(text, PAGE, "exec"), names)
        printed.append(capfd.readouterr())
    assert "wrote drift.json" in printed[0].err
    assert "no value of it came" in printed[0].out
    assert printed[2].out == "{}\n"  # less than a window came
    assert "modality 'camera' drifts, score" in printed[3].err
    assert "element 1" in printed[3].err
