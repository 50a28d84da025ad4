"""Whatever the user's own code raises is told with its line, and no traceback is shown unasked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mmedge.cli.app import run

FACTORY = """
import sys
import numpy as np
import torch
from torch import nn

from mmedge_export import Input, Model
from mmedge_export.quantize import Task


class Net(nn.Module):
    def __init__(self, bad=False):
        super().__init__()
        self.fc, self.bad = nn.Linear(8, 4), bad

    def forward(self, x):
        if self.bad:
            return self.fc(self.missing)
        return self.fc(x)


def samples(count=4, fail=None):
    for index in range(count):
        if index == fail:
            open("no such recording")
        yield {"x": np.ones((1, 8), np.float32)}, index


def model(**options):
    net = Net(options.pop("bad", False))
    return Model(net.eval(), {"x": Input(np.zeros((1, 8), np.float32))}, ["y"], **options)


def raising():
    return model().nothing


def leaving():
    sys.exit(0)


def forward():
    return model(bad=True)


def reading():
    return model(samples=samples(fail=2))


def wrong_metric(outputs, targets):
    return sum(out["z"] for out in outputs)


def judging():
    return model(evaluation=list(samples(400)), metric=wrong_metric)


def counting():
    return model(evaluation=list(samples(400)), metric=lambda outputs, targets: "good")


def evaluating():
    return model(evaluation=samples(400, fail=390), metric=lambda outputs, targets: 1.0)


def iterating():
    return model(samples=3)
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "net.py"
    path.write_text(FACTORY)
    return path


def export(*words):
    command = [sys.executable, "-m", "mmedge", "export", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("factory", "words", "said", "line"),
    [
        ("raising", (), "raised AttributeError", "return model().nothing"),
        ("leaving", (), "SystemExit(0): it ends the program", "sys.exit(0)"),
        ("forward", (), "the network itself fails in", "self.fc(self.missing)"),
        ("reading", (), "sample 2 raised FileNotFoundError", 'open("no such recording")'),
        ("iterating", (), "samples raised TypeError", ""),
        ("judging", ("--precision", "int8"), "the metric raised KeyError", 'out["z"]'),
        ("counting", ("--precision", "int8"), "the metric returned str; expected a number", ""),
        ("evaluating", ("--precision", "int8"), "evaluation sample 390 raised", "no such"),
    ],
)
def test_the_users_line_is_named(net, tmp_path, capfd, factory, words, said, line):
    code = run(["export", f"{net}:{factory}", "-o", str(tmp_path / "b"), *words, "--json"])
    assert code == 1
    printed = capfd.readouterr()
    assert "Traceback" not in printed.err
    error = json.loads(printed.out)["error"]
    assert error["kind"] == "ExportError"
    assert said in error["message"]
    assert line in error["message"]


def test_the_traceback_is_there_when_asked_for(net, tmp_path):
    done = export(f"{net}:raising", "-o", tmp_path / "b", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "return model().nothing" in done.stderr


@pytest.mark.parametrize(
    "text", ["def f(:\n", "import sys\nsys.exit(3)\n", "raise ValueError('no weights')\n"]
)
def test_a_file_that_cannot_be_imported(tmp_path, text):
    (tmp_path / "bad.py").write_text(text)
    done = export(f"{tmp_path / 'bad.py'}:f", "-o", tmp_path / "b")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "bad.py" in done.stderr
    assert "line" in done.stderr
