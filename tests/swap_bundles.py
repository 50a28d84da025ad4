"""Bundles for swaps: every output tells which network encoded each input, and which one fused.

``out`` is, side by side: the camera's two values and its encoder's id, the lidar's two and its
encoder's id, the state's one value, and the fusion's id. ``score`` is the sum of the camera's
values and ``offset``; it is NaN where the first of them is ``nan_from`` or more.
"""

from __future__ import annotations

import numpy as np
from streaming import constant, graph, node

from mmedge.bundle import Bundle
from mmedge.spec import Manifest, Modality, Sample, Stage, TensorSpec, Tolerance, Variant

IMAGE = TensorSpec("image", "float32", (1, 2))
POINTS = TensorSpec("points", "float32", (1, 2))
STATE = TensorSpec("state", "float32", (1, 1))
SEEN = TensorSpec("seen", "float32", (1, 3))
SHAPE = TensorSpec("shape", "float32", (1, 3))
OUT = TensorSpec("out", "float32", (1, 8))
SCORE = TensorSpec("score", "float32", (1,))

CAMERA = Modality("camera", ("image",), rate_hz=20.0, max_age_ms=200.0)
LIDAR = Modality("lidar", ("points",), required=False, rate_hz=10.0, max_age_ms=300.0)
ARM = Modality("state", ("state",), required=False, rate_hz=100.0, max_age_ms=100.0)

#: Columns of ``out`` that hold an id: of the camera's encoder, the lidar's, and the fusion.
CAMERA_ID, LIDAR_ID, FUSION_ID = 2, 5, 7


#: Variants that a network may have, in the order of their ids.
PRECISIONS = ("fp32", "fp16", "int8")
#: The id of each network that was written, by its digest.
NUMBERS = {}


def make_network(
    path,
    number,
    *,
    offset=0.0,
    nan_from=1e6,
    camera=CAMERA,
    lidar=LIDAR,
    out=OUT,
    variants=("fp32",),
):
    """Write a network with its ``number`` as id; return ``path``.

    The ids of further variants count on from there: no golden sample has them.
    """
    see, scan, fuse = (f"{stage}{number}" for stage in ("see", "scan", "fuse"))
    files, used = {}, []
    for k, precision in enumerate(variants):
        identity = constant("id", np.full((1, 1), number + k, np.float32))
        parts = {
            see: (
                "camera",
                (IMAGE,),
                (SEEN,),
                [identity, node("Concat", ["image", "id"], "seen", axis=1)],
            ),
            scan: (
                lidar.name,
                (POINTS,),
                (SHAPE,),
                [identity, node("Concat", ["points", "id"], "shape", axis=1)],
            ),
            fuse: (
                None,
                (SEEN, SHAPE, STATE),
                (out, SCORE),
                [
                    identity,
                    node("Concat", ["seen", "shape", "state", "id"], out.name, axis=1),
                    constant("both", np.array([0, 1], np.int64)),
                    constant("first", np.array([0], np.int64)),
                    constant("axis", np.array([1], np.int64)),
                    constant("offset", np.array([offset], np.float32)),
                    constant("nan_from", np.float32(nan_from)),
                    constant("zero", np.float32(0)),
                    node("Gather", ["seen", "both"], "values", axis=1),
                    node("ReduceSum", ["values", "axis"], "sum", keepdims=0),
                    node("Gather", ["seen", "first"], "head", axis=1),
                    node("ReduceSum", ["head", "axis"], "value", keepdims=0),
                    node("Sub", ["nan_from", "value"], "below"),
                    node("Log", ["below"], "log"),  # NaN from there on
                    node("Mul", ["log", "zero"], "nothing"),
                    node("Add", ["sum", "nothing"], "total"),
                    node("Add", ["total", "offset"], "score"),
                ],
            ),
        }
        folder = "onnx" if not k else f"onnx/{precision}"
        used.append({name: f"{folder}/{name}.onnx" for name in parts})
        for name, (_, taken, made, nodes) in parts.items():
            files[used[k][name]] = graph(name, nodes, taken, made)
    stages = tuple(
        Stage(name, used[0][name], taken, made, modality=modality)
        for name, (modality, taken, made, _) in parts.items()
    )
    manifest = Manifest(
        name=f"network{number}",
        modalities=(camera, lidar, ARM),
        stages=stages,
        outputs=(out.name, "score"),
        variants=tuple(
            Variant("ort", precision, "cpu", paths, Tolerance(1e-6, 1e-6))
            for precision, paths in zip(variants, used, strict=True)
        ),
        files={},
    )
    zeros = {spec.name: np.zeros(spec.shape, np.float32) for spec in (IMAGE, POINTS, STATE)}
    seen = np.array([[0, 0, number]], np.float32)
    made = np.array([[0, 0, number, 0, 0, number, 0, number]], np.float32)
    golden = {
        "seen": seen,
        "shape": seen,
        out.name: made,
        "score": np.array([offset], np.float32),
    }
    with Bundle.write(path, manifest, files, samples=[Sample(zeros, golden)]) as bundle:
        NUMBERS[bundle.digest] = number
    return path


def ids(result):
    """The networks that a result is of: of the camera's encoder, the lidar's, and the fusion."""
    row = result.outputs["out"][0]
    return [int(row[column]) for column in (CAMERA_ID, LIDAR_ID, FUSION_ID)]


def check_origin(result):
    """All of a result is of the network that it names."""
    if result.outputs is not None:
        place = PRECISIONS.index(result.network.variant.split("-")[1])
        assert set(ids(result)) == {NUMBERS[result.network.digest] + place}, result


def frame(number):
    return np.array([[number, 1.0]], np.float32)


class Planted:
    """A loaded pipeline that does something else at some runs of some stages."""

    def __init__(self, pipe, act):
        self.bundle, self.variant, self.plan = pipe.bundle, pipe.variant, pipe.plan
        self._pipe, self._act = pipe, act
        self.closed = False

    def run_stage(self, stage, feeds):
        self._act(stage, feeds)
        return self._pipe.run_stage(stage, feeds)

    def run(self, inputs, **options):
        return self._pipe.run(inputs, **options)

    def close(self):
        self.closed = True
