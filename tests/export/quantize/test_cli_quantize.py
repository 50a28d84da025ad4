"""``mmedge quantize`` and ``mmedge export --precision`` as a user types them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import mmedge
from mmedge.bundle import Bundle
from mmedge.cli.app import build_app
from mmedge.execution.verify import verify
from mmedge_export.zoo.vqa.evaluation import Evaluation

FACTORY = """
import numpy as np
import torch
from torch import nn

from mmedge_export import Input, Model


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(32, 64), nn.Linear(16, 64)
        self.out = nn.Linear(64, 4)

    def forward(self, left, right):
        return self.out(torch.relu(self.a(left)) + torch.relu(self.b(right)))


def accuracy(outputs, targets):
    print("judging")  # must not get into the result
    pairs = zip(outputs, targets, strict=True)
    return float(np.mean([out["y"][0].argmax() == target for out, target in pairs]))


def factory(count=400, metric=accuracy):
    net, rng = Sum().eval(), np.random.default_rng(0)
    samples = []
    for _ in range(count):
        left = rng.standard_normal((1, 32)).astype(np.float32)
        right = rng.standard_normal((1, 16)).astype(np.float32)
        with torch.no_grad():
            answer = net(torch.from_numpy(left), torch.from_numpy(right))[0].argmax()
        samples.append(({"left": left, "right": right}, int(answer)))
    return Model(
        net,
        {name: Input(value, dynamic={0: "n"}) for name, value in samples[0][0].items()},
        ["y"],
        samples=(sample for sample in samples[:8]),  # a generator: it can be taken once
        evaluation=samples,
        metric=metric,
    )


def nothing():
    return 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli")
    (path / "sums.py").write_text(FACTORY)
    return path


def run(*arguments):
    return CliRunner().invoke(build_app(), [str(word) for word in arguments])


@pytest.fixture(scope="module")
def exported(folder):
    done = run("export", f"{folder / 'sums.py'}:factory", "-o", folder / "b", "--precision", "int8",
               "--for", "size", "--max-drop", "0.1", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    return folder / "b", json.loads(done.stdout)


def test_export_adds_what_the_metric_bears(exported):
    path, said = exported
    assert "ort-int8-cpu" in said["variants"]
    found = said["quantized"]
    assert found["variant"] == "ort-int8-cpu"
    assert found["verdict"]["drop"]["bound"] <= 0.1
    assert found["metric"] == 1.0
    with mmedge.load(path, precision="int8") as pipe:
        assert verify(pipe).ok
        assert pipe.variant.metrics["metric"] == found["verdict"]["metric"]


def test_a_table_of_stages_and_of_the_whole(exported, folder, tmp_path):
    path = shutil.copytree(exported[0], tmp_path / "b")
    done = run("quantize", path, "--task", f"{folder / 'sums.py'}:factory", "--for", "size",
               "--max-drop", "0.1", "--resume", tmp_path / "work")  # fmt: skip
    assert done.exit_code == 0, done.output
    for words in ("kept float32, and why", "with confidence 0.975 (limit 0.1)", "1.0000 -> "):
        assert words in done.stdout
    assert "judging" not in done.stdout
    assert (tmp_path / "work" / "checkpoint.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-drop", "0.0001"], "400 samples cannot show|272 samples cannot show"),
        (["--min-metric", "2"], "no more than the 2 that are asked for"),
    ],
)
def test_what_cannot_be_is_refused_and_the_bundle_stays(exported, folder, options, message):
    before = Bundle.open(exported[0]).manifest
    done = run("quantize", exported[0], "--task", f"{folder / 'sums.py'}:factory", *options)
    assert done.exit_code == 1
    with pytest.raises(type(done.exception), match=message):
        raise done.exception
    assert Bundle.open(exported[0]).manifest == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quantize", "none", "--precision", "int2"], "expected int8 or int4; got 'int2'"),
        (["quantize", "none", "--for", "fun"], "expected speed or size; got 'fun'"),
        (["quantize", "none", "--backend", "x"], "expected ort or openvino or tensorrt"),
        (["quantize", "none", "--max-drop", "0.1"], "and without --task there is none"),
        (["quantize", "none", "--min-metric", "1"], "and without --task there is none"),
        (["quantize", "none", "--max-drop", "0"], "expected a positive number, got 0"),
        (["quantize", "none", "--max-drop", "nan"], "expected a positive number, got nan"),
        (["quantize", "none", "--max-drop", "1", "--min-metric", "1"], "give one"),
        (["export", "x.onnx", "-o", "b", "--precision", "int8", "--max-drop", "1"],
         "an ONNX file has none"),
        (["export", "x.py:f", "-o", "b", "--max-drop", "0.1"], "--max-drop: for a lower precision"),
        (["export", "x.py:f", "-o", "b", "--for", "size"], "--for: for a lower precision"),
        (["export", "x.py:f", "-o", "b", "--resume", "r"], "--resume: for a lower precision"),
        (["export", "x.py:f", "-o", "none/b"], "there is no folder"),
        (["build", "none", "--precision", "fp7"], "expected fp32, fp16; got 'fp7'"),
        (["build", "none", "--target", "orin"], "expected sm_NN"),
        (["build", "none", "--precision", "int8"], "int8 is judged by a task: mmedge quantize"),
        (["quantize", "x", "--backend", "tensorrt", "--precision", "int4"], "expected int8 or fp8"),
        (["quantize", "none", "--target", "sm_89"], "--target is for engines; ort runs"),
        (["build", "none", "--backend", "x"], "expected tensorrt-rtx, tensorrt, openvino or ort"),
        (["build", "none", "--profile", "x=1"], "expected DIMENSION=MIN:OPT:MAX"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_at_once(words, message):
    """Before torch or onnx is imported, and before the bundle or source is looked at."""
    program = (
        "import sys\n"
        "from mmedge.cli.app import run\n"
        "code = run(sys.argv[1:])\n"
        "heavy = {'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'openvino'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stdout == ""


def test_a_limit_without_a_metric_is_refused_before_the_network_is_traced(folder, tmp_path):
    (tmp_path / "bare.py").write_text(
        "from sums import factory as whole\n\n\ndef factory():\n    return whole(4, None)\n"
    )
    shutil.copy(folder / "sums.py", tmp_path)
    source = f"{tmp_path / 'bare.py'}:factory"
    done = run("export", source, "-o", tmp_path / "b", "--precision", "int8", "--max-drop", "0.1")
    assert done.exit_code == 2
    assert "tracing" not in done.stderr
    assert "has none" in " ".join(done.stderr.replace("│", " ").split())


def test_an_onnx_file_is_judged_by_its_golden_samples(exported, tmp_path):
    graph = next((exported[0] / "onnx").glob("*.onnx"))
    with Bundle.open(exported[0]) as bundle:
        assert len(bundle.manifest.stages) == 1
    done = run("export", graph, "-o", tmp_path / "b", "--precision", "int8", "--for", "size",
               "--max-error", "0.5", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["quantized"]["verdict"]["metric"] is None


def test_a_task_must_be_one(exported, folder):
    done = run("quantize", exported[0], "--task", f"{folder / 'sums.py'}:nothing")
    assert "gave int; expected a mmedge_export.quantize.Task" in str(done.exception)


def test_export_refuses_an_unknown_precision(folder):
    done = run("export", f"{folder / 'sums.py'}:factory", "-o", folder / "c", "--precision", "fp4")
    assert done.exit_code == 2
    assert not (folder / "c").exists()


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_the_zoos_questions_come_by_text_and_by_voice_in_turn():
    first, again = list(Evaluation(4)), list(Evaluation(4))
    for (inputs, answer), (same, same_answer) in zip(first, again, strict=True):
        assert answer == same_answer
        assert all((inputs[name] == same[name]).all() for name in inputs)
    for number, (inputs, _) in enumerate(first):
        assert inputs["image"].shape == (1, 64, 64, 3)
        assert inputs["text"].any() == (number % 2 == 0)
        assert inputs["audio"].any() == (number % 2 == 1)
