"""A three-stage bundle with what engines must get right: uint8, int64, attention, dynamic sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper, parser

from mmedge.bundle import Bundle
from mmedge.spec import (
    Constraint,
    Dimension,
    Manifest,
    Modality,
    Sample,
    Stage,
    TensorSpec,
    Tolerance,
    Variant,
)

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'

IMAGE = """camera (uint8[batch,8,8,3] image) => (float[batch,16,16] seen) {
  [channels] t = Transpose<perm=[0,3,1,2]>(image)
  [widen] f = Cast<to=1>(t)
  [scale] n = Div(f, full)
  [conv] c = Conv<strides=[2,2],kernel_shape=[3,3],pads=[1,1,1,1]>(n, w_conv)
  [relu] r = Relu(c)
  [flat] s = Reshape(r, to_tokens)
  [tokens] k = Transpose<perm=[0,2,1]>(s)
  [norm] seen = LayerNormalization<axis=-1>(k, gain, bias)
}"""

AUDIO = """voice (float[batch,samples] pcm) => (float[batch,frames,16] heard) {
  [lift] x = Unsqueeze(pcm, one)
  [basis] b = Conv<strides=[20],kernel_shape=[40],pads=[20,20]>(x, w_basis)
  [power] p = Mul(b, b)
  [floor] e = Add(p, tiny)
  [log] l = Log(e)
  [turn] t = Transpose<perm=[0,2,1]>(l)
  [project] heard = MatMul(t, w_project)
}"""

FUSION = """fusion (float[batch,16,16] seen, float[batch,frames,16] heard, int64[batch,6] ids)
  => (float[batch,4] answer) {
  [embed] q = Gather<axis=0>(table, ids)
  [keys] k = Concat<axis=1>(seen, heard)
  [turn] kt = Transpose<perm=[0,2,1]>(k)
  [scores] a = MatMul(q, kt)
  [shrink] d = Mul(a, shrink_by)
  [pad] p = Equal(ids, zero)
  [hide] m = Where(p, masked, nothing)
  [hide3] m3 = Unsqueeze(m, last)
  [masking] z = Add(d, m3)
  [softmax] w = Softmax<axis=-1>(z)
  [mix] v = MatMul(w, k)
  [pool] o = ReduceMean<keepdims=0>(v, one)
  [head] answer = MatMul(o, w_head)
}"""


def graph(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    """A model from ONNX's text form; names in it that nothing makes are these constants."""
    model = parser.parse_model(HEADER + text)
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    return model


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What ONNX Runtime makes of it."""
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def write_bundle(
    path: Path,
    models: dict[str, onnx.ModelProto],
    feeds: list[dict[str, np.ndarray]],
    dimensions: dict[str, Dimension],
    constraints: Sequence[Constraint] = (),
) -> Bundle:
    """A bundle of stages given in running order; the golden outputs are ONNX Runtime's."""
    stages = [_stage(name, model) for name, model in models.items()]
    made = {spec.name for stage in stages for spec in stage.outputs}
    inputs = dict.fromkeys(s.name for stage in stages for s in stage.inputs if s.name not in made)
    samples = []
    for feed in feeds:
        tensors = dict(feed)
        for stage, model in zip(stages, models.values(), strict=True):
            tensors |= run(model, {spec.name: tensors[spec.name] for spec in stage.inputs})
        samples.append(Sample(feed, {name: tensors[name] for name in tensors if name not in feed}))
    manifest = Manifest(
        name=path.stem,
        modalities=tuple(Modality(name, (name,)) for name in inputs),
        stages=tuple(stages),
        outputs=(stages[-1].outputs[-1].name,),
        variants=(
            Variant("ort", "fp32", "cpu", {s.name: s.graph for s in stages}, Tolerance(1e-4, 1e-5)),
        ),
        files={},
        dimensions=dimensions,
        constraints=tuple(constraints),
    )
    files = {s.graph: m.SerializeToString() for s, m in zip(stages, models.values(), strict=True)}
    return Bundle.write(path, manifest, files, samples=samples)


def write_trio(path: Path) -> Bundle:
    """Encoders of image and voice, a fusion with attention over both; frames follow samples."""
    rng = np.random.default_rng(3)

    def weights(*shape: int) -> np.ndarray:
        scale = float(np.prod(shape[1:])) ** -0.5
        return np.asarray(rng.standard_normal(shape) * scale, np.float32)

    ints = {"one": np.array([1]), "last": np.array([-1]), "zero": np.array(0)}
    floats = {
        "full": np.float32(255),
        "tiny": np.float32(1e-7),
        "shrink_by": np.float32(0.25),
        "masked": np.float32(-1e9),
        "nothing": np.float32(0),
    }
    scalars = {name: np.array(value) for name, value in (ints | floats).items()}
    models = {
        "camera": graph(
            IMAGE,
            full=scalars["full"],
            w_conv=weights(16, 3, 3, 3),
            to_tokens=np.array([0, 16, 16]),
            gain=np.ones(16, np.float32),
            bias=np.zeros(16, np.float32),
        ),
        "voice": graph(
            AUDIO,
            one=ints["one"],
            w_basis=weights(24, 1, 40),
            tiny=scalars["tiny"],
            w_project=weights(24, 16),
        ),
        "fusion": graph(
            FUSION,
            table=weights(9, 16),
            w_head=weights(16, 4),
            **{n: scalars[n] for n in ("shrink_by", "zero", "masked", "nothing", "last", "one")},
        ),
    }
    feeds = [
        {
            "image": rng.integers(0, 256, (batch, 8, 8, 3), np.uint8),
            "pcm": (rng.standard_normal((batch, samples)) * 0.02).astype(np.float32),
            "ids": rng.integers(0, 9, (batch, 6)),
        }
        for batch, samples in ((1, 400), (2, 640))
    ]
    sizes = {
        "batch": Dimension(1, 1, 4),
        "samples": Dimension(40, 400),
        "frames": Dimension(1, 21),
    }
    return write_bundle(path, models, feeds, sizes)


def with_spec(bundle: Bundle, stage: str, spec: TensorSpec) -> Stage:
    """A stage of the bundle that declares another tensor than its graph has."""
    found = next(s for s in bundle.manifest.stages if s.name == stage)
    return replace(
        found,
        inputs=tuple(spec if s.name == spec.name else s for s in found.inputs),
        outputs=tuple(spec if s.name == spec.name else s for s in found.outputs),
    )


def _stage(name: str, model: onnx.ModelProto) -> Stage:
    def specs(values: list[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(
                v.name,
                onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type).name,
                tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim),
            )
            for v in values
        )

    return Stage(name, f"onnx/{name}.onnx", specs(model.graph.input), specs(model.graph.output))
