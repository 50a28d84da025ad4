"""A small bundle with everything in it: two stages, four modalities, text, a token, sizes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer as Tokens
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from mmedge.bundle import Bundle
from mmedge.spec import (
    Dimension,
    Manifest,
    Modality,
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
