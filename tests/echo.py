"""A bundle that gives back what it was given: for each input ``x``, an output ``x_used``."""

from __future__ import annotations

import numpy as np
from streaming import graph, node

from mmedge.bundle import Bundle
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


def make_echo(path, modalities):
    """Write the bundle to ``path``; return ``path``.

    ``modalities``: of each name, a pair of the sizes of its inputs' last axis by input's name (a
    number, or "rows"), and the other arguments of its :class:`Modality`.
    """
    stages, files, fused, sample, outputs = [], {}, [], {}, {}
    for name, (inputs, _) in modalities.items():
        taken = [TensorSpec(key, "float32", (1, size)) for key, size in inputs.items()]
        kept = [TensorSpec(f"{s.name}_kept", "float32", s.shape) for s in taken]
        nodes = [node("Identity", [a.name], b.name) for a, b in zip(taken, kept, strict=True)]
        files[f"onnx/{name}.onnx"] = graph(name, nodes, taken, kept)
        stages.append(Stage(name, f"onnx/{name}.onnx", tuple(taken), tuple(kept), modality=name))
        for spec, made in zip(taken, kept, strict=True):
            used = TensorSpec(f"{spec.name}_used", "float32", spec.shape)
            fused.append((made, used))
            zeros = np.zeros([8 if size == "rows" else size for size in spec.shape], np.float32)
            sample[spec.name] = outputs[made.name] = outputs[used.name] = zeros
    nodes = [node("Identity", [a.name], b.name) for a, b in fused]
    made, used = (tuple(side) for side in zip(*fused, strict=True))
    files["onnx/fuse.onnx"] = graph("fuse", nodes, made, used)
    stages.append(Stage("fuse", "onnx/fuse.onnx", made, used))
    graphs = {stage.name: stage.graph for stage in stages}
    rows = any("rows" in spec.shape for spec in made)
    manifest = Manifest(
        name="echo",
        modalities=tuple(
            Modality(name, tuple(inputs), **options)
            for name, (inputs, options) in modalities.items()
        ),
        stages=tuple(stages),
        outputs=tuple(spec.name for spec in used),
        variants=(Variant("ort", "fp32", "cpu", graphs, Tolerance(1e-6, 1e-6)),),
        files={},
        dimensions={"rows": Dimension(1, 8, 64)} if rows else {},
    )
    Bundle.write(path, manifest, files, samples=[Sample(sample, outputs)]).close()
    return path
