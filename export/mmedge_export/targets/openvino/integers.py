"""Whether OpenVINO computes the integers of a graph: it runs many of their operators in float32.

On the CPU OpenVINO (2026.4) divides and reduces 32 and 64 bits in float32, which is wrong above
2**24, and its 8 bits saturate where ONNX wraps around. Golden samples seldom have such numbers.
So every node that computes integers or booleans of integers that the inputs hold becomes an output
of a copy of the graph, and the copy runs on extreme inputs in ONNX Runtime and in OpenVINO: the two
must agree bit for bit. Sizes are no content and stay below 2**24. What exceeds 32 bits is cut off,
which :mod:`mmedge.backends.openvino.session` says; it is no fault here, but is said of the variant.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import AccuracyError, ExportError
from mmedge.spec import DTYPES, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mmedge.spec import Array, Sample, Stage

    Run = Callable[[Mapping[str, Array]], dict[str, Array]]
    Open = Callable[[Path, Stage], Run]

__all__ = ["check_integers"]

#: Operators that move integers and compute none.
_MOVES = frozenset(
    {"Compress", "Concat", "ConstantOfShape", "DepthToSpace", "Expand", "Flatten", "Gather"}
    | {"GatherElements", "GatherND", "Identity", "Pad", "Reshape", "Shape", "Size", "Slice"}
    | {"SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where"}
)

#: Operators that make whole numbers of floats: torch's exporter divides integers by them.
_ROUNDS = frozenset({"Cast", "Ceil", "Floor", "Round"})

#: Magnitudes of integers to try; indices into a table are taken up to its size only. With the
#: largest, sums and differences stay within the 32 bits that OpenVINO has int64 in.
_MAGNITUDES = (2**30 - 1, 2**25 - 1, 2**16 - 1, 2**8 - 1, 2**4 - 1, 1)


def check_integers(
    path: Path,
    stage: Stage,
    samples: Sequence[Sample],
    folder: Path,
    *,
    exact: Open,
    tested: Open,
) -> list[str]:
    """See that OpenVINO computes a stage's integers on extreme inputs.

    Args:
        path: of the stage's graph.
        stage: its inputs and outputs.
        samples: golden ones; the first gives sizes, and what is no integer.
        folder: for a copy of the graph.
        exact: opens a graph in ONNX Runtime.
        tested: opens a graph in OpenVINO.

    Returns:
        What could not be checked, a line each.

    Raises:
        AccuracyError: a node computes another integer; the message names it.
        ExportError: a backend does not load the copy.
    """
    import onnx
    from onnx import inliner

    model = onnx.load(path, load_external_data=False)
    if model.functions:
        model = inliner.inline_local_functions(model)
    nodes, hidden = _integer_nodes(model)
    if not nodes:
        return []
    node_specs = [TensorSpec(name, kind, ()) for name, (_, kind) in nodes.items() if kind in DTYPES]
    output_names = {value.name for value in model.graph.output}
    for spec in node_specs:
        if spec.name not in output_names:
            kind = onnx.helper.np_dtype_to_tensor_dtype(DTYPES[spec.dtype])
            model.graph.output.append(onnx.helper.make_tensor_value_info(spec.name, kind, None))
    copy = folder / path.name
    _write(model, path, copy)
    wide = replace(
        stage, outputs=tuple({s.name: s for s in (*stage.outputs, *node_specs)}.values())
    )
    runs = exact(copy, wide), tested(copy, wide)
    tensors = samples[0].tensors()
    base = {spec.name: tensors[spec.name] for spec in stage.inputs}
    reached = 0
    beyond: dict[str, None] = {}
    for magnitude, values in _extremes(base):
        try:
            right = runs[0](values)
        except ExportError:
            continue  # an index out of range, most likely: a smaller magnitude is
        try:
            result = runs[1](values)
        except ExportError as error:
            raise AccuracyError(
                f"stage {stage.name!r}: OpenVINO fails on integers up to {magnitude} that ONNX "
                f"Runtime takes: {error}; use ONNX Runtime"
            ) from error
        reached = max(reached, magnitude)
        for name, (words, _) in nodes.items():
            if name in right and _compare(stage, words, magnitude, result[name], right[name]):
                beyond[words] = None
    lines = [
        f"stage {stage.name!r}: what {words} gives beyond 32 bits is cut off" for words in beyond
    ]
    if hidden:
        lines.append(f"stage {stage.name!r}: integers computed in branches and loops ({hidden[0]})")
    if not reached:
        words = next(iter(nodes.values()))[0]
        lines.append(f"stage {stage.name!r}: integers of other inputs than the samples ({words})")
    return lines


def _compare(stage: Stage, words: str, magnitude: int, result: Array, right: Array) -> bool:
    """Whether there is more than 32 bits hold; raises AccuracyError where other values differ."""
    if result.shape == right.shape:
        exact = right.astype(np.int64)
        beyond = np.abs(right.astype(np.float64)) > np.iinfo(np.int32).max
        wrong = (result.astype(np.int64) != exact) & ~beyond
        if not wrong.any():
            return bool(beyond.any())
        at = int(np.flatnonzero(wrong)[0])
        difference = f"{result.flat[at]} where it is {right.flat[at]}"
    else:
        difference = f"sizes {list(result.shape)} where they are {list(right.shape)}"
    raise AccuracyError(
        f"stage {stage.name!r}: OpenVINO computes other integers: {words} gives {difference}, with "
        f"inputs of a magnitude up to {magnitude}. It computes them in float32, and saturates 8 "
        "bits; use ONNX Runtime, or compute in the network with floats"
    )


def _integer_nodes(model: Any) -> tuple[dict[str, tuple[str, str]], list[str]]:  # noqa: ANN401
    """Outputs of nodes that compute whole numbers of content: words on the node, and the dtype.

    And words on those inside branches and loops, which cannot be looked at.
    """
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=False).graph
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for values in (inferred.input, inferred.output, inferred.value_info)
        for value in values
    } | {tensor.name: tensor.data_type for tensor in inferred.initializer}
    content = {value.name for value in model.graph.input}
    # Of these nothing is known but integers: exact, until something rounds.
    whole = {name for name in content if _integer(kinds.get(name))}
    nodes: dict[str, tuple[str, str]] = {}
    hidden: list[str] = []
    for node in model.graph.node:
        content_inputs = [name for name in node.input if name in content]
        inner = [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        if inner:
            hidden += [
                f"{other.op_type} in {node.op_type}"
                for graph in inner
                for other in graph.node
                if other.op_type in ("Div", "Mod", "BitShift", "ReduceMax", "ReduceMin")
            ]
        if node.op_type in ("Shape", "Size") or not (content_inputs or inner):
            continue
        content.update(node.output)
        if not inner and set(content_inputs) <= whole:
            whole.update(node.output)
        rounds = node.op_type in _ROUNDS and set(content_inputs) <= whole
        computes = any(_integer(kinds.get(name)) for name in content_inputs)
        if inner or node.op_type in _MOVES or not (computes or rounds):
            continue
        for name in node.output:
            kind = kinds.get(name)
            integers = _integer(kind) or kind == onnx.TensorProto.BOOL
            if name and kind and (integers or (rounds and kind == onnx.TensorProto.FLOAT)):
                dtype = onnx.helper.tensor_dtype_to_np_dtype(kind).name
                nodes[name] = (f"{node.op_type} {node.name or name!r}", dtype)
    return nodes, hidden


def _integer(kind: int | None) -> bool:
    import onnx

    if not kind:
        return False
    return bool(np.issubdtype(onnx.helper.tensor_dtype_to_np_dtype(kind), np.integer))


def _extremes(base: Mapping[str, Array]) -> Iterator[tuple[int, dict[str, Array]]]:
    """``base`` with extreme integers, and their magnitude; never 0, which may be a divisor."""
    rng = np.random.default_rng(0)
    integers = [name for name, value in base.items() if np.issubdtype(value.dtype, np.integer)]
    for magnitude in _MAGNITUDES:
        for low in (-magnitude, 1):
            values = dict(base)
            for name in integers:
                kind = base[name].dtype
                limits = np.iinfo(kind.name)
                least, most = max(low, limits.min + 1), min(magnitude, limits.max)
                # Half of them near the end, where float32 rounds.
                values_near = rng.integers(least, most, base[name].shape, np.int64, endpoint=True)
                near = most - rng.integers(0, min(most, 64), base[name].shape, np.int64)
                values_near = np.where(rng.random(base[name].shape) < 0.5, values_near, near)
                values[name] = np.where(values_near == 0, 1, values_near).astype(kind)
            yield magnitude, values


def _write(model: Any, source: Path, target: Path) -> None:  # noqa: ANN401
    """Write a graph whose weights lie beside ``source``, with these inside or beside it."""
    import onnx

    onnx.load_external_data_for_model(model, str(source.parent))
    try:
        target.write_bytes(model.SerializeToString())
    except ValueError:  # over 2 GB
        onnx.save(model, target, save_as_external_data=True, location=f"{target.name}.data")
