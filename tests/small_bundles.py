"""Small bundles: ``sums`` has everything in it, ``pair`` two modalities, ``both`` two plans.

Each function writes one to a path and returns the path.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer as Tokens
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

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


def write_sums(path):
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
    Bundle.write(
        path,
        manifest,
        {
            "onnx/fusion.onnx": fusion,
            "onnx/camera.onnx": encoder,
            "assets/text.json": tokens.to_str().encode(),
        },
        samples=[sample],
        absent={"state": np.full((1, 2), 0.25, np.float32)},
    ).close()
    return path


def write_pair(path):
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
    files = {
        stage.graph: save(stage.name, [LAST, *nodes], stage.inputs, stage.outputs)
        for stage, nodes in stages.items()
    }
    Bundle.write(path, manifest, files, samples=samples).close()
    return path


def write_both(path, pair):
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
    Bundle.write(path, manifest, files, samples=samples).close()
    return path
