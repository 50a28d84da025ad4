"""``mmedge export`` as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys

import networks
import pytest
from typer.testing import CliRunner

from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge.errors import ExportError
from mmedge_export import export as export_bundle

SOURCE = "networks:cameras"


def run(*arguments: str):
    return CliRunner().invoke(build_app(), ["export", *arguments], catch_exceptions=True)


def test_json_alone_is_on_stdout(tmp_path):
    path = tmp_path / "cameras.mmedge"
    done = run(SOURCE, "-o", str(path), "--modality", "both=left,right", "--golden-samples", "2",
               "--name", "stereo", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["modalities"] == {"both": ["left", "right"]}
    assert said["samples"] == 2
    assert said["parity"] <= 1e-4
    assert said["inputs"]["left"] == "left: uint8[batch, 24, 32, 3]"
    assert "tracing" in done.stderr
    with Bundle.open(path) as bundle:
        assert bundle.manifest.name == "stereo"
        assert said["variants"] == [v.id for v in bundle.manifest.variants]
        assert said["bytes"] == sum(len(bundle.read(f)) for f in bundle.manifest.files)


def test_a_table_says_what_was_made_and_overwrite_is_asked_for(tmp_path):
    with export_bundle(networks.cameras(), tmp_path / "a", split=False) as bundle:
        graph = bundle.path / "onnx/model.onnx"
        arguments = (str(graph), "-o", str(tmp_path / "b"), "--dim", "batch=2")
        done = run(*arguments)
        assert done.exit_code == 0, done.output
        assert "modality left" in done.stdout
        assert "ort-fp32-cpu" in done.stdout
        assert "the file itself is the reference" in done.stdout
        again = run(*arguments)
        assert again.exit_code == 2
        said = " ".join(again.stderr.replace("│", " ").split())
        assert "already exists; name another place, or give --overwrite" in said
        replaced = run(*arguments, "--overwrite", "--json")
        assert replaced.exit_code == 0
        assert json.loads(replaced.stdout)["parity"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modality", "m=up"), "'up' is no input"),
        (
            ("--rate", "up=30"),
            "--rate up: no modality or input of that name; there are left",
        ),
        (("--optional", "up"), "--optional up: no modality or input of that name"),
        (
            ("--dim", "batch=2"),
            "--dim or --multiple: not for networks:cameras; the source",
        ),
        (("--opset", "5"), "ask for 18, or 20, the default"),
        (("--opset", "99"), "the newest that the installed onnx"),
    ],
)
def test_what_does_not_fit_is_told(arguments, message, tmp_path):
    done = run(SOURCE, "-o", str(tmp_path / "b"), *arguments)
    assert done.exit_code == 1
    assert isinstance(done.exception, ExportError)
    assert message in str(done.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--modality", "both"), "--modality 'both': expected NAME=VALUE"),
        (("--modality", "m=left", "--modality", "m=right"), "--modality 'm' is given twice"),
        (("--dim", "batch=x"), "--dim 'x': expected a size such as 8"),
        (
            ("--dim", "batch=1:2"),
            "--dim '1:2': expected a size such as 8, or smallest",
        ),
        (("--dim", "batch=4:2:8"), "--dim '4:2:8': expected smallest <= example <= largest"),
        (("--rate", "left=fast"), "--rate: expected a number above 0, got 'fast'"),
    ],
)
def test_what_is_typed_wrong_exits_with_2(arguments, message, tmp_path):
    done = run(SOURCE, "-o", str(tmp_path / "b"), *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_without_torch_a_source_says_what_to_install(tmp_path):
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    program = "import sys; sys.modules['torch'] = None; from mmedge.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "export", "zoo:vqa-attention", "-o", str(tmp_path / "b")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "needs torch, which is not installed: pip install 'mmedge[export,cpu]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_one_line_on_stderr_and_exit_1():
    command = [sys.executable, "-m", "mmedge.cli", "export", "missing.onnx", "-o", "x"]
    program = "from mmedge.cli import main; main()"
    command = [sys.executable, "-c", program, *command[3:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "ExportError: no such file: missing.onnx" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_verb_costs_nothing_until_it_runs():
    program = (
        "import sys, mmedge_export, mmedge_export.cli.export\n"
        "heavy = {'torch', 'onnx', 'onnx_ir', 'onnxscript', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_quantization_that_fails_says_what_lies_there(tmp_path):
    source = tmp_path / "bad_metric.py"
    source.write_text(
        "import numpy as np\nfrom torch import nn\nfrom mmedge_export import Input, Model\n"
        "def make():\n"
        "    rows = [({'input': np.full((1, 8), i, np.float32)}, 0) for i in range(40)]\n"
        "    return Model(nn.Linear(8, 8), {'input': Input(rows[1][0]['input'])}, ['y'],\n"
        "                 samples=rows, metric=lambda outputs, targets: 1 / 0)\n"
    )
    path = tmp_path / "b"
    done = run(f"{source}:make", "-o", str(path), "--precision", "int8")
    assert done.exit_code == 1
    assert "the metric raised ZeroDivisionError" in str(done.exception)
    assert f"warning: {path} holds the float32 network alone" in done.stderr
    with Bundle.open(path) as bundle:
        assert {variant.precision for variant in bundle.manifest.variants} == {"fp32"}
