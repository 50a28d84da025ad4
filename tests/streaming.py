"""A bundle for streams, whose output tells which value of each modality was used.

``out`` is, side by side: the sum of the camera's elements, the two sums over the lidar's points and
0.5, the sum of the text's ids, the state as it is, twice the odometry and 1, and the first and last
of the voice's samples.
"""

from __future__ import annotations

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
    Range,
    Sample,
    Stage,
    TensorSpec,
    Tokenizer,
    Tolerance,
    Variant,
)

#: Columns of ``out`` by modality.
COLUMNS = {
    "camera": slice(0, 1),
    "lidar": slice(1, 3),
    "text": slice(3, 4),
    "state": slice(4, 7),
    "odom": slice(7, 9),
    "voice": slice(9, 11),
}
#: Maximum ages in seconds; None: not stated.
LIMITS = {
    "camera": 0.2,
    "lidar": 0.3,
    "text": None,
    "state": 0.1,
    "odom": 0.15,
    "voice": 0.5,
}
TOKEN = np.array([[-1.0, -2.0, -3.0]], np.float32)

KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}

IMAGE = TensorSpec("image", "float32", ("batch", 4))
POINTS = TensorSpec("points", "float32", ("batch", "points", 2))
IDS = TensorSpec("ids", "int64", ("batch", 4))
MASK = TensorSpec("mask", "bool", ("batch", 4))
STATE = TensorSpec("state", "float32", ("batch", 3))
WHEEL = TensorSpec("wheel", "float32", ("batch", 2))
PCM = TensorSpec("pcm", "float32", ("batch", "samples"))
SEEN = TensorSpec("seen", "float32", ("batch", 1))
SHAPE = TensorSpec("shape", "float32", ("batch", 2))
SAID = TensorSpec("said", "float32", ("batch", 1))
TWICE = TensorSpec("twice", "float32", ("batch", 2))
MOVED = TensorSpec("moved", "float32", ("batch", 2))
HEARD = TensorSpec("heard", "float32", ("batch", 2))
OUT = TensorSpec("out", "float32", ("batch", 11))


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], **attributes)


def constant(name, value):
    return helper.make_node(
        "Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(value), name)
    )


def axis(name, value):
    return constant(name, np.array([value], np.int64))


STAGES = (
    ("see", "camera", (IMAGE,), (SEEN,), [axis("a", 1), node("ReduceSum", ["image", "a"], "seen")]),
    (
        "scan",
        "lidar",
        (POINTS,),
        (SHAPE,),
        [
            axis("a", 1),
            constant("half", np.float32(0.5)),
            node("ReduceSum", ["points", "a"], "sum", keepdims=0),
            node("Add", ["sum", "half"], "shape"),
        ],
    ),
    (
        "read",
        "text",
        (IDS, MASK),
        (SAID,),
        [
            axis("a", 1),
            node("Cast", ["ids"], "ids_f", to=TensorProto.FLOAT),
            node("Cast", ["mask"], "mask_f", to=TensorProto.FLOAT),
            node("Mul", ["ids_f", "mask_f"], "real"),
            node("ReduceSum", ["real", "a"], "said"),
        ],
    ),
    # Two stages one after the other, listed in the wrong order.
    (
        "shift",
        "odom",
        (TWICE,),
        (MOVED,),
        [constant("one", np.float32(1)), node("Add", ["twice", "one"], "moved")],
    ),
    ("double", "odom", (WHEEL,), (TWICE,), [node("Add", ["wheel", "wheel"], "twice")]),
    (
        "hear",
        "voice",
        (PCM,),
        (HEARD,),
        [
            constant("ends", np.array([0, -1], np.int64)),
            node("Gather", ["pcm", "ends"], "heard", axis=1),
        ],
    ),
    (
        "fuse",
        None,
        (SEEN, SHAPE, SAID, STATE, MOVED, HEARD),
        (OUT,),
        [node("Concat", ["seen", "shape", "said", "state", "moved", "heard"], "out", axis=1)],
    ),
)

MODALITIES = (
    Modality("camera", ("image",), rate_hz=30.0, max_age_ms=200.0),
    Modality("lidar", ("points",), required=False, rate_hz=10.0, max_age_ms=300.0),
    Modality(
        "text",
        ("ids", "mask"),
        required=False,
        tokenizer=Tokenizer("assets/text.json", "ids", "mask"),
    ),
    Modality("state", ("state",), required=False, rate_hz=200.0, max_age_ms=100.0, absent="token"),
    Modality("odom", ("wheel",), required=False, rate_hz=20.0, max_age_ms=150.0, absent="last"),
    Modality("voice", ("pcm",), required=False, max_age_ms=500.0),
)


def graph(name, nodes, inputs, outputs) -> bytes:
    infos = [
        [helper.make_tensor_value_info(s.name, KINDS[s.dtype], s.shape) for s in specs]
        for specs in (inputs, outputs)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, name, *infos),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def make_streaming(path, *, modalities=MODALITIES, ranges=None, constraints=()):
    """Write the bundle to ``path``; return ``path``."""
    tokens = Tokens(WordLevel({"[PAD]": 0, "[UNK]": 1, "red": 2, "ball": 3}, unk_token="[UNK]"))
    tokens.pre_tokenizer = Whitespace()
    files = {f"onnx/{name}.onnx": graph(name, nodes, i, o) for name, _, i, o, nodes in STAGES}
    manifest = Manifest(
        name="streaming",
        modalities=modalities,
        stages=tuple(
            Stage(name, f"onnx/{name}.onnx", inputs, outputs, modality=modality)
            for name, modality, inputs, outputs, _ in STAGES
        ),
        outputs=("out", "seen"),
        variants=(
            Variant(
                "ort",
                "fp32",
                "cpu",
                {name: f"onnx/{name}.onnx" for name, *_ in STAGES},
                Tolerance(1e-6, 1e-6),
            ),
        ),
        files={},
        dimensions={
            "batch": Dimension(1, 1, 4),
            "points": Dimension(0, 4, 64),
            "samples": Dimension(1, 8, 64),
        },
        constraints=constraints,
        ranges={"wheel": Range(0.0, 1000.0)} if ranges is None else ranges,
    )
    zeros = {"out": np.zeros((1, 11), np.float32)}
    zeros["out"][0, COLUMNS["lidar"]] = 0.5
    zeros["out"][0, COLUMNS["odom"]] = 1.0
    sample = Sample(
        {
            "image": np.zeros((1, 4), np.float32),
            "points": np.zeros((1, 4, 2), np.float32),
            "ids": np.zeros((1, 4), np.int64),
            "mask": np.zeros((1, 4), np.bool_),
            "state": np.zeros((1, 3), np.float32),
            "wheel": np.zeros((1, 2), np.float32),
            "pcm": np.zeros((1, 8), np.float32),
        },
        {
            **zeros,
            "seen": np.zeros((1, 1), np.float32),
            "shape": np.full((1, 2), 0.5, np.float32),
            "said": np.zeros((1, 1), np.float32),
            "twice": np.zeros((1, 2), np.float32),
            "moved": np.ones((1, 2), np.float32),
            "heard": np.zeros((1, 2), np.float32),
        },
    )
    Bundle.write(
        path,
        manifest,
        {**files, "assets/text.json": tokens.to_str().encode()},
        samples=[sample],
        absent={"state": TOKEN},
    ).close()
    return path


def value(modality, number, *, batch=1):
    """A value that holds ``number``, which must be below 2**20 to come out exactly."""
    n = np.float32(number)
    if modality == "camera":
        made = np.zeros((batch, 4), np.float32)
        made[:, 0] = n
    elif modality == "lidar":
        made = np.zeros((batch, 1 + number % 3, 2), np.float32)
        made[:, 0] = n
    elif modality == "text":
        mask = np.ones((batch, 4), np.bool_)
        return {"ids": np.full((batch, 4), number, np.int64), "mask": mask}
    elif modality == "state":
        made = np.full((batch, 3), n, np.float32)
    elif modality == "odom":
        made = np.full((batch, 2), n % 1000, np.float32)
    else:  # a chunk of 4 rows
        made = np.full((batch, 4), n, np.float32)
    return made


def inputs(modality, made):
    """``made`` by input name."""
    if isinstance(made, dict):
        return made
    names = {m.name: m.inputs[0] for m in MODALITIES}
    return {names[modality]: made}
