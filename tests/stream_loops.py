"""Bundles for streams whose stages have a state, and what they compute, in whole numbers.

A state is a remainder: ``31 * state + value`` modulo 8191, so that it tells which values it has
taken and in which order. Encoders: ``listen`` of the audio, whose feature is its state;
``filter`` of the imu, optional, whose state begins as :data:`STORED`; ``see`` of the camera has
none. ``out`` is, side by side: the audio's state, half more than the imu's, the camera's sum, and,
where the fusion has a state, its own, of the sum of the others.
"""

from __future__ import annotations

import numpy as np
from denoise_rows import euler_flow_rows
from onnx import helper
from streaming import constant, graph, node

from mmedge.backends import SessionOptions
from mmedge.backends.registry import open_stage
from mmedge.bundle import Bundle
from mmedge.loop_spec import DenoiseLoop, StateSpec
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

MODULUS = 8191
STORED = 7

PCM = TensorSpec("pcm", "float32", ("batch", "samples"))
HEARD_BEFORE = TensorSpec("heard_before", "float32", ("batch", 1))
HEARD = TensorSpec("heard", "float32", ("batch", 1))
IMU = TensorSpec("imu", "float32", ("batch", 1))
TILT = TensorSpec("tilt", "float32", ("batch", 1))
TILT_NEXT = TensorSpec("tilt_next", "float32", ("batch", 1))
FILTERED = TensorSpec("filtered", "float32", ("batch", 1))
IMAGE = TensorSpec("image", "float32", ("batch", 4))
SEEN = TensorSpec("seen", "float32", ("batch", 1))
MEMORY = TensorSpec("memory", "float32", ("batch", 1))
MEMORY_NEXT = TensorSpec("memory_next", "float32", ("batch", 1))
OUT = TensorSpec("out", "float32", ("batch", 3))
OUT_WITH_STATE = TensorSpec("out", "float32", ("batch", 4))
PAST = TensorSpec("past", "float32", ("batch", "old"))
PRESENT = TensorSpec("present", "float32", ("batch", "all"))
TOTAL = TensorSpec("total", "float32", ("batch", 1))


def follow(state, value):
    """The state after a value."""
    return (31 * state + int(value)) % MODULUS


def fold(values, state=0):
    """The state after values."""
    for value in values:
        state = follow(state, value)
    return state


def fold_nodes(state, value, after):
    """``after = (31 * state + value) mod 8191``, exact in float32."""
    return [
        constant("factor", np.float32(31)),
        constant("modulus", np.float32(MODULUS)),
        node("Mul", [state, "factor"], "shifted"),
        node("Add", ["shifted", value], "added"),
        node("Mod", ["added", "modulus"], after, fmod=1),
    ]


def sum_node(value, total):
    return [constant("axis", np.array([1], np.int64)), node("ReduceSum", [value, "axis"], total)]


LISTEN = (
    (PCM, HEARD_BEFORE),
    (HEARD,),
    [*sum_node("pcm", "loud"), *fold_nodes("heard_before", "loud", "heard")],
)
FILTER = (
    (IMU, TILT),
    (TILT_NEXT, FILTERED),
    [
        *fold_nodes("tilt", "imu", "tilt_next"),
        constant("half", np.float32(0.5)),
        node("Add", ["tilt_next", "half"], "filtered"),
    ],
)
SEE = ((IMAGE,), (SEEN,), sum_node("image", "seen"))
FUSE = (
    (HEARD, FILTERED, SEEN),
    (OUT,),
    [node("Concat", ["heard", "filtered", "seen"], "out", axis=1)],
)
REMEMBER = (
    (HEARD, FILTERED, SEEN, MEMORY),
    (OUT_WITH_STATE, MEMORY_NEXT),
    [
        node("Concat", ["heard", "filtered", "seen"], "all", axis=1),
        node("Floor", ["all"], "whole"),
        *sum_node("whole", "sum"),
        *fold_nodes("memory", "sum", "memory_next"),
        node("Concat", ["all", "memory_next"], "out", axis=1),
    ],
)
GATHER = (
    (PCM, PAST),
    (PRESENT, TOTAL),
    [
        helper.make_node("Concat", ["past", "pcm"], ["present"], axis=1),
        *sum_node("present", "total"),
    ],
)

DIMENSIONS = {
    "batch": Dimension(1, 1, 4),
    "samples": Dimension(1, 4, 64),
    "old": Dimension(0, 1, 12),
    "all": Dimension(1, 1, 16),
}


def write(path, stages, modalities, outputs, states, *, sample, stored=None, loops=(), run=None):
    """Write a bundle of ``stages``: (inputs, outputs, nodes) and modality by name."""
    files = {
        f"onnx/{name}.onnx": graph(name, nodes, inputs, results)
        for name, ((inputs, results, nodes), _) in stages.items()
    }
    all_stages = tuple(
        Stage(name, f"onnx/{name}.onnx", inputs, results, modality=modality)
        for name, ((inputs, results, _), modality) in stages.items()
    )
    sizes = {
        s for stage in all_stages for spec in (*stage.inputs, *stage.outputs) for s in spec.shape
    }
    manifest = Manifest(
        name="recurrent",
        modalities=tuple(modalities),
        stages=all_stages,
        outputs=tuple(outputs),
        variants=(
            Variant(
                "ort",
                "fp32",
                "cpu",
                {stage.name: stage.graph for stage in all_stages},
                Tolerance(1e-6, 1e-6),
            ),
        ),
        files={},
        dimensions={name: size for name, size in DIMENSIONS.items() if name in sizes},
        states=tuple(states),
        loops=tuple(loops),
    )
    inputs = {name for modality in modalities for name in modality.inputs}
    made = {spec.name for stage in all_stages for spec in stage.outputs}
    golden = Sample(
        {name: value for name, value in sample.items() if name in inputs},
        {name: value for name, value in sample.items() if name in made},
        {name: value for name, value in sample.items() if name not in inputs | made},
        run or {},
    )
    Bundle.write(path, manifest, files, samples=[golden], states=stored).close()
    return path


def make_recurrent(path, *, remember=False, imu=None):
    """Three sensors, two of them with state; ``remember``: the fusion has one, too."""
    modalities = [
        Modality("audio", ("pcm",), rate_hz=50.0, sample_rate_hz=200),
        Modality("imu", ("imu",), required=False, rate_hz=100.0, max_age_ms=200.0, **imu or {}),
        Modality("camera", ("image",), required=False, rate_hz=20.0),
    ]
    stages = {
        "listen": (LISTEN, "audio"),
        "filter": (FILTER, "imu"),
        "see": (SEE, "camera"),
        "fuse": (REMEMBER if remember else FUSE, None),
    }
    states = [
        StateSpec("listen", "heard_before", "heard"),
        StateSpec("filter", "tilt", "tilt_next", initial="stored"),
    ]
    zero, tilt = np.zeros((1, 1), np.float32), fold([0], STORED)
    sample = {
        "pcm": np.zeros((1, 4), np.float32),
        "imu": zero,
        "image": np.zeros((1, 4), np.float32),
        "heard_before": zero,
        "heard": zero,
        "tilt": zero + STORED,
        "tilt_next": zero + tilt,
        "filtered": zero + tilt + 0.5,
        "seen": zero,
        "out": np.array([[0, tilt + 0.5, 0, tilt][: 4 if remember else 3]], np.float32),
    }
    if remember:
        states.append(StateSpec("fuse", "memory", "memory_next"))
        sample |= {"memory": zero, "memory_next": zero + tilt}
    stored = {"tilt": np.full((1, 1), STORED, np.float32)}
    return write(path, stages, modalities, ["out"], states, sample=sample, stored=stored)


def make_detector(path, *, modality="audio"):
    """One sensor and one stage with state: the whole network. ``modality`` is the stage's."""
    zero = np.zeros((1, 1), np.float32)
    return write(
        path,
        {"listen": (LISTEN, modality)},
        [Modality("audio", ("pcm",), sample_rate_hz=200)],
        ["heard"],
        [StateSpec("listen", "heard_before", "heard")],
        sample={"pcm": np.zeros((1, 4), np.float32), "heard_before": zero, "heard": zero},
    )


def make_growing(path):
    """One sensor, whose encoder keeps all values that have come: a state that grows."""
    row = np.zeros((1, 4), np.float32)
    return write(
        path,
        {"gather": (GATHER, "audio")},
        [Modality("audio", ("pcm",))],
        ["total"],
        [StateSpec("gather", "past", "present", axis=1, initial="empty")],
        sample={
            "pcm": row,
            "past": row[:, :0],
            "present": row,
            "total": np.zeros((1, 1), np.float32),
        },
    )


def make_policy(path, *, schedule=None, decoder=False, **loop):
    """A camera and joints steer a loop that denoises actions, in steps along a flow."""
    joints = TensorSpec("joints", "float32", ("batch", 2))
    actions = TensorSpec("actions", "float32", ("batch", 3, 2))
    flow = TensorSpec("flow", "float32", ("batch", 3, 2))
    time = TensorSpec("time", "float32", ())
    plan = TensorSpec("plan", "float32", ("batch", 3, 2))
    axis = [constant("one", np.array([1], np.int64))]
    step = [
        *axis,
        node("Unsqueeze", ["seen", "one"], "seen_3d"),
        node("Unsqueeze", ["joints", "one"], "joints_3d"),
        constant("trained", np.float32(1000)),
        node("Div", ["time", "trained"], "share"),
        node("Add", ["seen_3d", "joints_3d"], "goal"),
        node("Sub", ["actions", "goal"], "apart"),
        node("Mul", ["apart", "share"], "scaled"),
        node("Tanh", ["scaled"], "flow"),
    ]
    stages = {
        "see": (SEE, "camera"),
        "step": (((actions, time, SEEN, joints), (flow,), step), None),
    }
    sample = {
        "image": np.zeros((1, 4), np.float32),
        "joints": np.zeros((1, 2), np.float32),
        "seen": np.zeros((1, 1), np.float32),
        "actions": np.zeros((1, 3, 2), np.float32),
        "time": np.zeros((), np.float32),
        "flow": np.zeros((1, 3, 2), np.float32),
    }
    if decoder:
        double = [node("Add", ["actions", "actions"], "plan")]
        stages["decode"] = (((actions,), (plan,), double), None)
        sample["plan"] = np.zeros((1, 3, 2), np.float32)
    schedule = euler_flow_rows(10) if schedule is None else schedule
    denoise = DenoiseLoop(
        "denoise",
        stage="step",
        latent="actions",
        time="time",
        prediction="flow",
        schedule=tuple(schedule),
        decoder="decode" if decoder else None,
        **loop,
    )
    zeros = np.zeros((1, 3, 2), np.float32)
    return write(
        path,
        stages,
        [
            Modality("camera", ("image",), rate_hz=30.0),
            Modality("joints", ("joints",), required=False, rate_hz=100.0),
        ],
        ["seen"],
        [],
        sample=sample,
        loops=[denoise],
        run={"noise": zeros, "latents": np.zeros((3, 1, 3, 2), np.float32)},
    )


def value(modality, number, *, rows=4):
    """A value of one modality that an encoder takes as ``number``."""
    size = {"audio": rows, "imu": 1, "camera": 4, "joints": 2}[modality]
    array = np.zeros((1, size), np.float32)
    array[0, 0] = number
    return array


class Stages:
    """The stages of a bundle, loaded: what a stream needs of a pipeline."""

    def __init__(self, path):
        self.bundle = Bundle.open(path)
        manifest = self.bundle.manifest
        self.variant = manifest.variants[0]
        self._sessions = {
            stage.name: open_stage(
                self.bundle, stage, self.variant, options=SessionOptions(threads=1)
            )
            for stage in manifest.stages
        }
        #: By stage, what it took at each run, in order.
        self.runs = {stage.name: [] for stage in manifest.stages}

    def run_stage(self, stage, feeds):
        self.runs[stage].append({name: array.copy() for name, array in feeds.items()})
        return self._sessions[stage].run(feeds)
