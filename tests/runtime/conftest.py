"""Small bundles (``sums`` has everything in it, ``pair`` two modalities), and recorded machines.

``both`` is ``pair`` with both plans.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
import sysfs_trees as trees
from echo import make_echo
from onnx import TensorProto, helper
from streaming import make_streaming
from tokenizers import Tokenizer as Tokens
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import mmedge
from mmedge.backends.onnxruntime.session import OrtSession
from mmedge.bench.machine import energy, monitor
from mmedge.bundle import Bundle
from mmedge.spec import (
    Dimension,
    Manifest,
    Modality,
    Plan,
    Sample,
    Stage,
    TensorSpec,
    Tokenizer,
    Tolerance,
    Variant,
)

IMAGE = TensorSpec("image", "uint8", ("batch", 2, 2, 3))
IDS = TensorSpec("ids", "int64", ("batch", 6))
MASK = TensorSpec("mask", "bool", ("batch", 6))
PCM = TensorSpec("pcm", "float32", ("batch", "samples"))
STATE = TensorSpec("state", "float32", ("batch", 2))
SEEN = TensorSpec("seen", "float32", ("batch", 1))
OUT = TensorSpec("out", "float32", ("batch", 1))
LEVEL = TensorSpec("level", "float32", ("batch", 1))
HEARD = TensorSpec("heard", "float32", ("batch", 1))


def save(name, nodes, inputs, outputs) -> bytes:
    kinds = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
    infos = [
        [
            helper.make_tensor_value_info(s.name, kinds.get(s.dtype, TensorProto.FLOAT), s.shape)
            for s in specs
        ]
        for specs in (inputs, outputs)
    ]
    graph = helper.make_graph(
        nodes, name, *infos, [helper.make_tensor("rest", TensorProto.INT64, [2], [0, -1])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def total(source: str, result: str) -> list:
    """Sum of each row's elements as float32 [batch, 1]."""
    return [
        helper.make_node("Cast", [source], [f"{result}_f"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", [f"{result}_f", "rest"], [f"{result}_r"]),
        helper.make_node("ReduceSum", [f"{result}_r", "last"], [result], keepdims=1),
    ]


LAST = helper.make_node("Constant", [], ["last"], value_ints=[-1])


@pytest.fixture(scope="session")
def sums(tmp_path_factory):
    """Two stages: ``seen`` sums the image; ``out`` = seen + ids * 10 + mask * 100 + pcm + state."""
    encoder = save("encoder", [LAST, *total("image", "seen")], [IMAGE], [SEEN])
    nodes = [LAST]
    for name in ("ids", "mask", "pcm", "state"):
        nodes += total(name, f"{name}_sum")
    for name, weight in (("ids", 10.0), ("mask", 100.0)):
        nodes.append(helper.make_node("Constant", [], [f"{name}_w"], value_float=weight))
        nodes.append(helper.make_node("Mul", [f"{name}_sum", f"{name}_w"], [f"{name}_x"]))
    nodes.append(
        helper.make_node("Sum", ["seen", "ids_x", "mask_x", "pcm_sum", "state_sum"], ["out"])
    )
    fusion = save("fusion", nodes, [SEEN, IDS, MASK, PCM, STATE], [OUT])
    tokens = Tokens(WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2, "ball": 3}, unk_token="[UNK]"))
    tokens.pre_tokenizer = Whitespace()
    manifest = Manifest(
        name="sums",
        modalities=(
            Modality("camera", ("image",)),
            Modality(
                "text",
                ("ids", "mask"),
                required=False,
                tokenizer=Tokenizer("assets/text.json", "ids", "mask"),
            ),
            Modality("voice", ("pcm",), required=False),
            Modality("state", ("state",), required=False, absent="token"),
        ),
        # Out of order on purpose: the runtime sorts them.
        stages=(
            Stage("fusion", "onnx/fusion.onnx", (SEEN, IDS, MASK, PCM, STATE), (OUT,)),
            Stage("camera", "onnx/camera.onnx", (IMAGE,), (SEEN,), modality="camera"),
        ),
        outputs=("out", "seen"),
        variants=(
            Variant(
                "ort",
                "fp32",
                "cpu",
                {"fusion": "onnx/fusion.onnx", "camera": "onnx/camera.onnx"},
                Tolerance(1e-5, 1e-6),
            ),
        ),
        files={},
        dimensions={"batch": Dimension(1, 1, 8), "samples": Dimension(2, 4, 10)},
    )
    sample = Sample(
        {
            "image": np.ones((1, 2, 2, 3), np.uint8),
            "ids": np.zeros((1, 6), np.int64),
            "mask": np.zeros((1, 6), np.bool_),
            "pcm": np.ones((1, 4), np.float32),
            "state": np.zeros((1, 2), np.float32),
        },
        {"seen": np.full((1, 1), 12, np.float32), "out": np.full((1, 1), 16, np.float32)},
    )
    folder = tmp_path_factory.mktemp("bundles")
    Bundle.write(
        folder / "sums.mmedge",
        manifest,
        {
            "onnx/fusion.onnx": fusion,
            "onnx/camera.onnx": encoder,
            "assets/text.json": tokens.to_str().encode(),
        },
        samples=[sample],
        absent={"state": np.full((1, 2), 0.25, np.float32)},
    ).close()
    return folder / "sums.mmedge"


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """Encoders of two modalities: ``out`` = sum(image) + 2 * sum(pcm) + sum(state).

    Stage ``camera`` yields ``seen``, an output of the network too; voice has two encoders, ``mic``
    and ``ear``; state goes to ``fusion`` alone. The two golden samples share their image.
    """
    two = helper.make_node("Constant", [], ["two"], value_float=2.0)
    double = helper.make_node("Mul", ["level", "two"], ["heard"])
    add = helper.make_node("Sum", ["seen", "heard", "state_sum"], ["out"])
    stages = {
        Stage("camera", "onnx/camera.onnx", (IMAGE,), (SEEN,), modality="camera"): total(
            "image", "seen"
        ),
        Stage("mic", "onnx/mic.onnx", (PCM,), (LEVEL,), modality="voice"): total("pcm", "level"),
        Stage("ear", "onnx/ear.onnx", (LEVEL,), (HEARD,), modality="voice"): [two, double],
        Stage("fusion", "onnx/fusion.onnx", (SEEN, HEARD, STATE), (OUT,)): [
            *total("state", "state_sum"),
            add,
        ],
    }
    manifest = Manifest(
        name="pair",
        modalities=(
            Modality("camera", ("image",)),
            Modality("voice", ("pcm",), required=False),
            Modality("state", ("state",), required=False),
        ),
        stages=tuple(stages),
        outputs=("out", "seen"),
        variants=(
            Variant("ort", "fp32", "cpu", {s.name: s.graph for s in stages}, Tolerance(1e-5, 1e-6)),
        ),
        files={},
        dimensions={"batch": Dimension(1, 1, 8), "samples": Dimension(2, 4, 10)},
    )
    samples = [
        Sample(
            {
                "image": np.ones((1, 2, 2, 3), np.uint8),
                "pcm": np.full((1, 4), value, np.float32),
                "state": np.zeros((1, 2), np.float32),
            },
            {
                name: np.full((1, 1), result, np.float32)
                for name, result in {
                    "seen": 12,
                    "level": 4 * value,
                    "heard": 8 * value,
                    "out": 12 + 8 * value,
                }.items()
            },
        )
        for value in (1, 2)
    ]
    path = tmp_path_factory.mktemp("bundles") / "pair.mmedge"
    files = {
        stage.graph: save(stage.name, [LAST, *nodes], stage.inputs, stage.outputs)
        for stage, nodes in stages.items()
    }
    Bundle.write(path, manifest, files, samples=samples).close()
    return path


@pytest.fixture(scope="session")
def both(pair, tmp_path_factory):
    """``pair`` cut and whole, with a variant of a lower precision that is only cut."""
    with Bundle.open(pair) as bundle:
        cut = bundle.manifest
        samples = bundle.samples()
        files = {stage.graph: bytes(bundle.read(stage.graph)) for stage in cut.stages}
    nodes = [LAST, *total("image", "seen"), *total("pcm", "level"), *total("state", "state_sum")]
    nodes.append(helper.make_node("Constant", [], ["two"], value_float=2.0))
    nodes.append(helper.make_node("Mul", ["level", "two"], ["heard"]))
    nodes.append(helper.make_node("Sum", ["seen", "heard", "state_sum"], ["out"]))
    whole = Stage("model", "onnx/model.onnx", (IMAGE, PCM, STATE), (OUT, SEEN))
    (base,) = cut.variants
    manifest = replace(
        cut,
        name="both",
        stages=(*cut.stages, whole),
        plans=(Plan("cut", tuple(s.name for s in cut.stages)), Plan("whole", ("model",))),
        variants=(
            replace(base, files={**base.files, "model": whole.graph}),
            replace(base, precision="int8"),
        ),
    )
    files[whole.graph] = save("model", nodes, whole.inputs, whole.outputs)
    path = tmp_path_factory.mktemp("bundles") / "both.mmedge"
    Bundle.write(path, manifest, files, samples=samples).close()
    return path


@pytest.fixture
def runs(monkeypatch):
    """Counts runs of ONNX Runtime by the name of a stage's first output."""
    counted = Counter()
    run = OrtSession.run

    def count(self, feeds):
        counted[self.outputs[0].name] += 1
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "run", count)
    return counted


@pytest.fixture(scope="module")
def unsynced():
    """A disk that others use takes seconds to flush."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


@pytest.fixture(scope="module")
def streaming(tmp_path_factory):
    return make_streaming(tmp_path_factory.mktemp("streaming") / "streaming")


@pytest.fixture(scope="module")
def open_echo(tmp_path_factory):
    """A pipeline of modalities (see :mod:`echo`), made once for each set of them."""
    folder, pipes = tmp_path_factory.mktemp("echo"), {}

    def open_pipe(**modalities):
        key = repr(modalities)
        if key not in pipes:
            path = make_echo(folder / f"bundle{len(pipes)}", modalities)
            pipes[key] = mmedge.load(path, threads=1)
        return pipes[key]

    yield open_pipe
    for pipe in pipes.values():
        pipe.close()


@pytest.fixture(scope="module")
def manifest(streaming):
    with Bundle.open(streaming) as bundle:
        return bundle.manifest


@pytest.fixture
def x86(tmp_path):
    return trees.x86(tmp_path)


@pytest.fixture
def orin(tmp_path):
    return trees.orin(tmp_path)


@pytest.fixture
def at_once(monkeypatch):
    """Samples come as often as asked, and short blocks have an energy."""
    monkeypatch.setattr(monitor, "BUDGET", 1.0)
    monkeypatch.setattr(energy, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(energy, "MIN_GPU_SECONDS", 0.0)
