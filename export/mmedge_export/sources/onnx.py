"""An ONNX file as a :class:`Model`: no torch involved, the graph goes into the bundle as it is.

docs/reference/onnx.md says which files are taken and by which rule others are refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge.bundle.operators import DOMAINS
from mmedge.errors import ExportError
from mmedge.schema.names import MAX_ELEMENTS, MAX_RANK
from mmedge.spec import DTYPES, Array
from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.onnx_graph.graph import Graph, dimension_name
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.sources.onnx_example import Candidate, candidates
from mmedge_export.sources.onnx_file import OnnxFile
from mmedge_export.sources.onnx_loop import OnnxLoop, with_loop, zero_states
from mmedge_export.sources.onnx_mask import MASK, fill_mask
from mmedge_export.sources.onnx_normalize import OWN_DOMAIN, normalize, read_model
from mmedge_export.sources.onnx_rules import check_operators, refusal
from mmedge_export.sources.onnx_settle import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

__all__ = ["dynamic_axes", "load_file", "match", "read_onnx", "reference"]


def read_onnx(
    path: Path,
    *,
    sizes: Mapping[str, int] | None = None,
    example: Mapping[str, Array] | None = None,
    loop: OnnxLoop | None = None,
) -> Model:
    """Describe the network in an ONNX file, with the examples given or made-up ones.

    Each input becomes a modality of its own (:meth:`Model.regrouped` joins them). Dynamic
    dimensions keep their names; one without a name gets ``<input>_<axis>``.

    Made-up examples are seeded: floats are standard normal, uint8 and int8 cover their whole range,
    booleans are true. Other integers are what the operators that take them ask for (indices within
    a table, axes, sizes), else 0 or 1, which suits masks and flags. Whether the network takes them
    is found out by :func:`settle`.

    Args:
        path: the ``.onnx`` file; external data is found beside it.
        sizes: size of a dynamic dimension in the made-up example; by default 1 along the first axis
            and 16 along others.
        example: an array for each input, by its name in the file or in the bundle; those of states
            may be left out.
        loop: which inputs are states, and how the file is run step by step.

    Raises:
        ExportError: the file is not ONNX, breaks a rule of docs/reference/onnx.md, or the example
            does not fit it.
    """
    if loop is not None and loop.token is not None:
        original = path
        path = fill_mask(path, loop.token, loop.named_states(load_file(path)))
        if example is not None and path is not original:
            example = {name: value for name, value in example.items() if name != MASK}
    file = load_file(path)
    if example is not None:
        if sizes:
            raise ExportError("sizes are for made-up examples; the example given has its own")
        inputs = _with_example(file, example, loop)
    else:
        inputs = _made_up(file, next(candidates(file, sizes or {})))
        symbols = {symbol for value in inputs.values() for symbol in value.dynamic.values()}
        if unknown := set(sizes or {}) - symbols:
            raise ExportError(
                f"{path}: sizes name {', '.join(sorted(unknown))}, but the dynamic dimensions are "
                f"{', '.join(sorted(symbols)) or 'none'}"
            )
    outputs = list(file.normalized.outputs)
    model = Model(
        path, inputs, outputs, name=path.stem, made_up=None if example is not None else sizes or {}
    )
    if loop is None:
        return model
    run = reference(file, outputs)
    return with_loop(settle(model, file, run)[0], loop, run)


def load_file(path: Path) -> OnnxFile:
    """Read an ONNX file; large weights stay on disk until they are used.

    Raises:
        ExportError: it is missing or not ONNX, its external data is missing, or it breaks a rule of
            docs/reference/onnx.md.
    """
    try:
        model, outputs = read_model(path)
        for value in model.graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.numpy()
        interface = normalize(model, outputs)
    except ExportError:
        raise
    except Exception as error:  # protobuf's and onnx-ir's errors have no common base
        cause: BaseException = error
        while cause.__cause__ is not None:  # onnx-ir names the place alone, and not what is wrong
            cause = cause.__cause__
        raise ExportError(
            f"{path} cannot be read as ONNX: {type(cause).__name__}: {cause}; give a valid .onnx "
            "file with its external data beside it"
        ) from error
    file = OnnxFile(path, Graph(model), interface)
    _check(file)
    return file


def match(model: Model, file: OnnxFile) -> None:
    """Raise ExportError unless ``model`` names the inputs and outputs of ``file`` as they are."""
    graph_inputs = {str(value.name): value for value in file.inputs}
    for what, names, graph_names in (
        ("input", model.inputs, graph_inputs),
        ("output", model.outputs, file.normalized.outputs),
    ):
        if set(names) != set(graph_names):
            raise ExportError(
                f"{file.path}: the graph's {what}s are {', '.join(graph_names)}, the model names "
                f"{', '.join(names)}; name each of them"
            )
    for name, value in model.inputs.items():
        _check_input(file, graph_inputs[name], value.example, value.shape())


def reference(
    file: OnnxFile, names: Collection[str]
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """The file itself in ONNX Runtime, by the names of the bundle.

    Args:
        file: the ONNX file.
        names: of the outputs.

    Raises:
        ExportError: ONNX Runtime does not load it.
    """
    inputs, outputs = file.normalized.inputs, file.normalized.outputs
    try:
        runner = Runner(file.path, list(dict.fromkeys(outputs.values())))
    except ExportError as error:
        raise refusal(f"{file.path}: {error}", "runs") from error

    ranks: dict[str, int] = {}

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        outputs_by_file_name = runner({old: values[new] for new, old in inputs.items()})
        results = {name: outputs_by_file_name[outputs[name]] for name in names}
        for name, value in results.items():
            where = f"{file.path}: output {name!r}"
            if not isinstance(value, np.ndarray) or value.dtype.name not in DTYPES:
                kind = getattr(value, "dtype", type(value).__name__)
                raise refusal(f"{where} is {kind}", "dtype")
            rank = ranks.setdefault(name, value.ndim)
            if value.ndim != rank:
                raise refusal(f"{where} has rank {value.ndim} here and {rank} elsewhere", "rank")
            if value.ndim > MAX_RANK:
                raise refusal(f"{where} has rank {value.ndim}", "rank")
            if value.size > MAX_ELEMENTS:
                raise refusal(f"{where} has {value.size:,} elements", "size")
        return results

    return run


def _made_up(file: OnnxFile, candidate: Candidate) -> dict[str, Input]:
    return {
        str(value.name): Input(candidate.values[str(value.name)], dynamic=symbols)
        for value, symbols in ((v, dynamic_axes(v)) for v in file.inputs)
    }


def dynamic_axes(value: ir.Value) -> dict[int, str]:
    """Names of an input's dynamic dimensions."""
    return {
        axis: str(size.value)
        for axis, size in enumerate(value.shape or ())
        if not isinstance(size, int)
    }


def _with_example(
    file: OnnxFile, example: Mapping[str, Array], loop: OnnxLoop | None
) -> dict[str, Input]:
    """Inputs with the values of ``example``, whose keys are names of the file or of the bundle.

    States of ``loop`` that it lacks are zeros.
    """
    old = file.normalized.inputs
    bundle_names = {**{name: name for name in old}, **{was: name for name, was in old.items()}}
    values = {bundle_names[name]: value for name, value in example.items() if name in bundle_names}
    values = {**zero_states(file, values, loop), **values}
    unknown = [name for name in example if name not in bundle_names]
    missing = [name for name in old if name not in values]
    if unknown or missing:
        raise ExportError(
            f"{file.path}: the example "
            + " and ".join(
                f"{kind} {', '.join(map(repr, names))}"
                for kind, names in (("lacks", missing), ("has the unknown", unknown))
                if names
            )
            + f"; the inputs are {', '.join(old.values())}"
        )
    inputs: dict[str, Input] = {}
    sizes: dict[str, int] = {}
    for value in file.inputs:
        name = str(value.name)
        array = np.asarray(values[name])
        rank = array.ndim if value.shape is None else len(value.shape)
        if value.shape is None:
            value.shape = ir.Shape([dimension_name(f"{name}_{axis}") for axis in range(rank)])
        symbols = dynamic_axes(value) if rank == array.ndim else {}
        for axis, symbol in symbols.items():
            # One text for sizes that differ: writers put the same word on whatever is open.
            if sizes.setdefault(symbol, array.shape[axis]) != array.shape[axis]:
                symbols[axis] = dimension_name(f"{name}_{axis}")
        shape = tuple(symbols.get(axis, size) for axis, size in enumerate(array.shape))
        _check_input(file, value, array, shape)
        inputs[name] = Input(array, dynamic=symbols)
    return inputs


def _check_input(
    file: OnnxFile, graph_input: ir.Value, example: Array, shape: tuple[int | str, ...]
) -> None:
    dtype = None if graph_input.dtype is None else graph_input.dtype.numpy()
    sizes = None if graph_input.shape is None else list(graph_input.shape)
    fits = sizes is None or (
        len(sizes) == example.ndim
        and all(
            size == model_size
            for size, model_size in zip(sizes, shape, strict=True)
            if isinstance(size, int)
        )
    )
    if dtype != example.dtype or not fits:
        raise ExportError(
            f"{file.path}: input {graph_input.name!r} is {dtype} {sizes} in the graph, the model "
            f"says {example.dtype} {shape}"
        )


def _check(file: OnnxFile) -> None:
    """Raise ExportError where the file breaks a rule that can be told without running it."""
    model = file.graph.model
    if not model.graph.outputs:
        raise refusal(f"{file.path} has no outputs", "no-outputs")
    if not model.graph.inputs:
        raise refusal(f"{file.path} has no inputs: it is a constant", "no-inputs")
    for kind, values in (("input", model.graph.inputs), ("output", model.graph.outputs)):
        for value in values:
            where = f"{file.path}: {kind} {value.name!r}"
            if value.type is not None and not isinstance(value.type, ir.TensorType):
                raise refusal(f"{where} is {value.type}, expected a tensor", "container")
            if value.dtype is not None and _dtype_name(value.dtype) not in DTYPES:
                raise refusal(
                    f"{where} is {value.dtype.name.lower()}, expected one of {', '.join(DTYPES)}; "
                    "cast it inside the network",
                    "dtype",
                )
            if value.shape is not None and len(value.shape) > MAX_RANK:
                raise refusal(f"{where} has rank {len(value.shape)}", "rank")
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if (
            node.op_type == "BatchNormalization"
            and node.attributes.get_int("training_mode", 0) == 1
        ):
            raise refusal(
                f"{file.path}: {node.name or node.op_type} is in training mode, in which ONNX "
                "Runtime writes new statistics into its own inputs; export the network for "
                "inference",
                "training",
            )
        if node.domain not in DOMAINS and node.domain != OWN_DOMAIN:
            raise refusal(
                f"{file.path}: operator {node.op_type!r} is of domain {node.domain!r}, expected "
                f"one of {', '.join(sorted(filter(None, DOMAINS)))}",
                "domain",
            )
    check_operators(model, str(file.path))


def _dtype_name(dtype: ir.DataType) -> str:
    name = dtype.name.lower()
    return {"float": "float32", "double": "float64"}.get(name, name)
