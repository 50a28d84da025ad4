"""The bundle of the tests, whose answers tell which sample of each sensor was used.

Made in mmedge's own environment, since the one of ROS has no onnx: python make_bundle.py PATH
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
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

HEIGHT, WIDTH, JOINTS, WORDS, MIXED = 48, 64, 6, 4, 8
IMAGE = TensorSpec("image", "uint8", ("batch", HEIGHT, WIDTH, 3))
POINTS = TensorSpec("points", "float32", ("batch", "points", 3))
ANGLES = TensorSpec("angles", "float32", ("batch", JOINTS))
IDS = TensorSpec("ids", "int64", ("batch", WORDS))
MASK = TensorSpec("mask", "bool", ("batch", WORDS))
SEEN = TensorSpec("seen", "float32", ("batch", MIXED))
SCANNED = TensorSpec("scanned", "float32", ("batch", MIXED))
FELT = TensorSpec("felt", "float32", ("batch", MIXED))
READ = TensorSpec("read", "float32", ("batch", 1))
USED = TensorSpec("used", "float32", ("batch", 4))
MIX = TensorSpec("mix", "float32", ("batch", MIXED))
KINDS = {"uint8": TensorProto.UINT8, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}

RNG = np.random.default_rng(11)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], **attributes)


def constant(name, value):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))


def weights(rows):
    return RNG.normal(0.0, 1.0 / np.sqrt(rows), (rows, MIXED)).astype(np.float32)


def number_first(rows):
    """Column 0 of the features is the sample's number, exactly; the others mix all its values."""
    matrix = weights(rows)
    matrix[:, 0] = 0.0
    return matrix


def camera_nodes():
    # The number stands in the first three values of the picture, 256 to a value.
    matrix = number_first(HEIGHT * WIDTH * 3)
    matrix[:3, 0] = [1.0, 256.0, 65536.0]
    return [
        constant("flat", np.array([0, -1], np.int64)),
        constant("w", matrix),
        node("Cast", ["image"], "f", to=TensorProto.FLOAT),
        node("Reshape", ["f", "flat"], "r"),
        node("MatMul", ["r", "w"], "seen"),
    ]


def lidar_nodes():
    # The number is x of every point; the greatest is taken.
    matrix = number_first(3)
    matrix[0, 0] = 1.0
    return [
        constant("a", np.array([1], np.int64)),
        constant("w", matrix),
        node("ReduceMax", ["points", "a"], "m", keepdims=0),
        node("MatMul", ["m", "w"], "scanned"),
    ]


def joint_nodes():
    matrix = number_first(JOINTS)
    matrix[0, 0] = 1.0
    return [constant("w", matrix), node("MatMul", ["angles", "w"], "felt")]


def text_nodes():
    return [
        constant("a", np.array([1], np.int64)),
        node("Cast", ["ids"], "i", to=TensorProto.FLOAT),
        node("Cast", ["mask"], "k", to=TensorProto.FLOAT),
        node("Mul", ["i", "k"], "ik"),
        node("ReduceSum", ["ik", "a"], "read"),
    ]


def fusion_nodes():
    first = [constant("at", np.array([0], np.int64))]
    parts = []
    for name in ("seen", "scanned", "felt"):
        first.append(node("Gather", [name, "at"], f"{name}_0", axis=1))
        parts.append(f"{name}_0")
    return [
        *first,
        node("Concat", [*parts, "read"], "used", axis=1),
        constant("tiny", np.float32(1e-3)),
        node("Sum", ["seen", "scanned", "felt"], "all"),
        node("Mul", ["all", "tiny"], "less"),
        node("Tanh", ["less"], "mix"),
    ]


STAGES = (
    Stage("camera", "onnx/camera.onnx", (IMAGE,), (SEEN,), modality="camera"),
    Stage("lidar", "onnx/lidar.onnx", (POINTS,), (SCANNED,), modality="lidar"),
    Stage("arm", "onnx/arm.onnx", (ANGLES,), (FELT,), modality="arm"),
    Stage("text", "onnx/text.onnx", (IDS, MASK), (READ,), modality="text"),
    Stage("fusion", "onnx/fusion.onnx", (SEEN, SCANNED, FELT, READ), (USED, MIX)),
)
NODES = {
    "camera": camera_nodes,
    "lidar": lidar_nodes,
    "arm": joint_nodes,
    "text": text_nodes,
    "fusion": fusion_nodes,
}


def graph(stage):
    inputs, outputs = (
        [
            helper.make_tensor_value_info(s.name, KINDS.get(s.dtype, TensorProto.FLOAT), s.shape)
            for s in specs
        ]
        for specs in (stage.inputs, stage.outputs)
    )
    model = helper.make_model(
        helper.make_graph(NODES[stage.name](), stage.name, inputs, outputs),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def make(path):
    tokens = Tokens(WordLevel({"[PAD]": 0, "[UNK]": 1, "go": 2, "left": 3}, unk_token="[UNK]"))
    tokens.pre_tokenizer = Whitespace()
    manifest = Manifest(
        name="robot",
        modalities=(
            Modality("camera", ("image",), rate_hz=30.0, max_age_ms=200.0),
            Modality("lidar", ("points",), required=False, rate_hz=10.0, max_age_ms=300.0),
            Modality("arm", ("angles",), required=False, rate_hz=100.0, max_age_ms=100.0),
            Modality(
                "text", ("ids", "mask"), required=False,
                tokenizer=Tokenizer("assets/text.json", "ids", "mask"),
            ),
        ),
        stages=STAGES,
        outputs=("used", "mix"),
        variants=(
            Variant(
                "ort", "fp32", "cpu", {stage.name: stage.graph for stage in STAGES},
                Tolerance(1e-5, 1e-5),
            ),
        ),
        files={},
        dimensions={"batch": Dimension(1, 1, 4), "points": Dimension(1, 16, 4096)},
    )  # fmt: skip
    zeros = {spec.name: np.zeros([1 if isinstance(n, str) else n for n in spec.shape], spec.dtype)
             for stage in STAGES for spec in (*stage.inputs, *stage.outputs)}  # fmt: skip
    inputs = {name: zeros[name] for name in ("image", "points", "angles", "ids", "mask")}
    outputs = {name: value for name, value in zeros.items() if name not in inputs}
    files = {stage.graph: graph(stage) for stage in STAGES}
    files["assets/text.json"] = tokens.to_str().encode()
    Bundle.write(path, manifest, files, samples=[Sample(inputs, outputs)]).close()


if __name__ == "__main__":
    make(sys.argv[1])
