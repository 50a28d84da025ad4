"""A complete bundle of a few hundred bytes of weights: two modalities, one stage, one output."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from mmedge.spec import (
    Dimension,
    Manifest,
    Modality,
    Sample,
    Stage,
    TensorSpec,
    Tolerance,
    Variant,
)

GRAPH, WEIGHTS, LABELS = "onnx/net.onnx", "onnx/net.onnx.data", "assets/labels.json"


@dataclass(frozen=True)
class Tiny:
    """Arguments of ``Bundle.write``."""

    manifest: Manifest
    files: dict[str, bytes]
    samples: tuple[Sample, ...]


def make_tiny() -> Tiny:
    """score = image / 255 @ w_image + text @ w_text, with both weights as external data."""
    rng = np.random.default_rng(7)
    w_image = rng.normal(size=(48, 2)).astype(np.float32)
    w_text = rng.normal(size=(5, 2)).astype(np.float32)
    samples = []
    for batch in (1, 3):
        image = rng.integers(0, 256, size=(batch, 4, 4, 3), dtype=np.uint8)
        text = rng.integers(0, 9, size=(batch, 5), dtype=np.int64)
        score = image.reshape(batch, 48).astype(np.float32) / np.float32(255) @ w_image
        score = score + text.astype(np.float32) @ w_text
        samples.append(Sample({"image": image, "text": text}, {"score": score}))
    return Tiny(
        manifest=tiny_manifest(),
        files={
            GRAPH: _graph(w_image, w_text).SerializeToString(deterministic=True),
            WEIGHTS: w_image.tobytes() + w_text.tobytes(),
            LABELS: json.dumps(["no", "yes"]).encode(),
        },
        samples=tuple(samples),
    )


def tiny_manifest() -> Manifest:
    """Without files and samples, which ``Bundle.write`` fills in."""
    return Manifest(
        name="tiny",
        modalities=(
            Modality("image", ("image",), rate_hz=30.0, max_age_ms=100.0),
            Modality("text", ("text",), required=False, absent="zeros"),
        ),
        stages=(
            Stage(
                "net",
                GRAPH,
                inputs=(
                    TensorSpec("image", "uint8", ("batch", 4, 4, 3)),
                    TensorSpec("text", "int64", ("batch", 5)),
                ),
                outputs=(TensorSpec("score", "float32", ("batch", 2)),),
            ),
        ),
        outputs=("score",),
        variants=(Variant("ort", "fp32", "cpu", {"net": GRAPH}, Tolerance(1e-5, 1e-5)),),
        files={},
        dimensions={"batch": Dimension(1, 1, 4)},
        labels={"score": LABELS},
        provenance={"source": "tests"},
    )


def external(name: str, shape: tuple[int, ...], location: str, offset: int = 0) -> TensorProto:
    """A float32 initializer whose data lies at ``location``."""
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    length = 4 * int(np.prod(shape))
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _graph(w_image: np.ndarray, w_text: np.ndarray) -> onnx.ModelProto:
    location = WEIGHTS.rpartition("/")[2]
    nodes = [
        helper.make_node("Cast", ["image"], ["image_f"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["image_f", "flat"], ["image_r"]),
        helper.make_node("Div", ["image_r", "scale"], ["image_n"]),
        helper.make_node("MatMul", ["image_n", "w_image"], ["image_s"]),
        helper.make_node("Cast", ["text"], ["text_f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["text_f", "w_text"], ["text_s"]),
        helper.make_node("Add", ["image_s", "text_s"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 4, 4, 3]),
            helper.make_tensor_value_info("text", TensorProto.INT64, ["batch", 5]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch", 2])],
        [
            helper.make_tensor("flat", TensorProto.INT64, [2], [-1, 48]),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [255.0]),
            external("w_image", w_image.shape, location),
            external("w_text", w_text.shape, location, offset=w_image.nbytes),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
