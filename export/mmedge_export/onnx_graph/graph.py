"""An ONNX graph on its way into a bundle: what it takes and gives, and its files."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from mmedge.errors import ExportError
from mmedge.spec import Array, Dimension, TensorSpec
from mmedge_export.onnx_graph.size import Size
from mmedge_export.onnx_graph.weight_rows import find_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmedge_export.model import Model

__all__ = [
    "EXTERNAL_BYTES",
    "Graph",
    "dimension_name",
    "is_external",
    "precision",
    "save",
]

#: A tensor of at least this many bytes goes to ``<graph>.onnx.data`` beside the graph, where a
#: session maps it and need not parse it; smaller ones (shapes, scalars) stay in the graph, where
#: shape inference reads them. A graph with no such tensor has no data file. What lies in another
#: file already is placed anew whatever its size, since that file is not the bundle's.
EXTERNAL_BYTES = 1024


@dataclass(frozen=True)
class Graph:
    """A whole network as ONNX."""

    model: ir.Model

    @property
    def opset(self) -> int:
        """Version of the ONNX operators."""
        return self.model.opset_imports[""]

    def specs(
        self,
        model: Model,
        outputs: Mapping[str, Array],
        inferred: Mapping[str, Sequence[object]] | None = None,
    ) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, Dimension]]:
        """Input and output specs, and all dynamic dimensions that they name.

        A dimension that only outputs have is named after the first output and axis where it occurs;
        the same expression of input dimensions (``2*time``) is the same dimension.

        Args:
            model: names the inputs and their dynamic dimensions.
            outputs: those of the example, which give the sizes of dimensions that only outputs
                have.
            inferred: shapes of outputs by ONNX Runtime, for sizes that the graph leaves
                open.

        Raises:
            ExportError: an output has another rank than the example's.
        """
        inputs = tuple(
            TensorSpec(name, value.example.dtype.name, value.shape())
            for name, value in model.inputs.items()
        )
        dimensions = model.dimensions()
        # What the graph itself calls each dimension: an ONNX file may write any text there.
        names: dict[str, int | str] = {}
        for value in self.model.graph.inputs:
            name = str(value.name)
            if name not in model.inputs:
                continue
            for size, own_size in zip(value.shape or (), model.inputs[name].shape(), strict=False):
                if isinstance(size, ir.SymbolicDim) and size.value:
                    names[size.value] = own_size
        specs = []
        for value in self.model.graph.outputs:
            output = outputs[str(value.name)]
            guess: list[object] = list((inferred or {}).get(str(value.name), ()))
            guess = guess if len(guess) == output.ndim else [None] * output.ndim
            declared_shape: list[object] = guess if value.shape is None else list(value.shape)
            if len(declared_shape) != output.ndim:
                raise ExportError(
                    f"output {value.name!r}: the graph says {value.shape}, the network gives "
                    f"{list(output.shape)}"
                )
            shape: list[int | str] = []
            for axis, declared_size in enumerate(declared_shape):
                dimension = _known_size(declared_size, guess[axis], names)
                if isinstance(dimension, str):
                    least = Size.of(dimension).least(names, dimensions) if dimension else 0
                    new_name = _free(dimension_name(f"{value.name}_{axis}"), dimensions)
                    dimension = names.setdefault(dimension, new_name) if dimension else new_name
                    limits = Dimension(min(least, output.shape[axis]), max(output.shape[axis], 1))
                    if isinstance(dimension, str):
                        dimensions.setdefault(dimension, limits)
                shape.append(dimension)
            specs.append(TensorSpec(str(value.name), output.dtype.name, tuple(shape)))
        return inputs, tuple(specs), dimensions


def save(models: Mapping[str, ir.Model], folder: Path, *, place: str = "onnx") -> dict[str, Path]:
    """Write the graph of each stage under ``folder``; path in the bundle -> file, graphs first.

    Tensors of :data:`EXTERNAL_BYTES` and more are external data in one file beside the graphs,
    each once, whichever stages use it: ``<place>/<stage>.onnx.data`` of a single stage,
    ``<place>/weights.data`` of several.
    """
    base = folder / place
    base.mkdir(parents=True, exist_ok=True)
    data = f"{next(iter(models))}.onnx.data" if len(models) == 1 else "weights.data"
    holders: dict[int, list[ir.Value]] = {}
    tensors: dict[int, ir.TensorProtocol] = {}
    for model in models.values():
        for graph in model.graphs():
            for value in graph.initializers.values():
                tensor = value.const_value
                if tensor is not None and is_external(tensor):
                    tensors[id(tensor)] = tensor
                    holders.setdefault(id(tensor), []).append(value)
    files = {f"{place}/{stage}.onnx": base / f"{stage}.onnx" for stage in models}
    placed: dict[int, ir.ExternalTensor] = {}
    if tensors:
        files[f"{place}/{data}"] = base / data
        pieces = find_rows(tensors) if len(models) > 1 else {}
        written = {key: tensor for key, tensor in tensors.items() if key not in pieces}
        external = ir.external_data.convert_tensors_to_external([*written.values()], base, data)
        placed = dict(zip(written, external, strict=True))
        for key, (whole, offset) in pieces.items():
            placed[key] = _piece(tensors[key], placed[whole], offset)
    try:
        for key, tensor in placed.items():
            for value in holders[key]:
                value.const_value = tensor
        for stage, model in models.items():
            ir.save(model, base / f"{stage}.onnx")
    finally:
        # The models outlive the folder.
        for key, values in holders.items():
            for value in values:
                value.const_value = tensors[key]
    return files


def _piece(tensor: ir.TensorProtocol, whole: ir.ExternalTensor, offset: int) -> ir.ExternalTensor:
    """A tensor that lies in the data of another one."""
    return ir.ExternalTensor(
        whole.location,
        (whole.offset or 0) + offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        base_dir=whole.base_dir,
    )


def is_external(tensor: ir.TensorProtocol) -> bool:
    """Whether a weight lies beside the graph in a bundle, and not in it."""
    if isinstance(tensor, ir.ExternalTensor):
        return True
    return tensor.dtype != ir.DataType.STRING and tensor.nbytes >= EXTERNAL_BYTES


def precision(*models: ir.Model) -> str:
    """``fp16`` when most bytes of floating-point weights are float16, else ``fp32``."""
    sizes = {ir.DataType.FLOAT16: 0, ir.DataType.FLOAT: 0}
    for value in chain(*(model.graph.initializers.values() for model in models)):
        if value.const_value is not None and value.const_value.dtype in sizes:
            sizes[value.const_value.dtype] += value.const_value.nbytes
    return "fp16" if sizes[ir.DataType.FLOAT16] > sizes[ir.DataType.FLOAT] else "fp32"


def dimension_name(text: str) -> str:
    """``text`` as a dimension's name: exporters write expressions and scopes into it."""
    identifier = "".join(c if c.isalnum() and c.isascii() else "_" for c in text)
    return (identifier if identifier[:1].isalpha() else f"d{identifier}")[:60]


def _known_size(declared_size: object, guess: object, names: Mapping[str, int | str]) -> int | str:
    """A size, or the graph's text for a dimension; empty where neither is known.

    ``guess`` is ONNX Runtime's, for a size that the graph leaves open. Its names of dimensions
    count only where they are those of inputs.
    """
    if isinstance(declared_size, int):
        return declared_size
    text = (
        declared_size if isinstance(declared_size, str) else getattr(declared_size, "value", None)
    )
    if text and not (declared_size is guess and text not in names):
        return str(text)
    return guess if isinstance(guess, int) or (isinstance(guess, str) and guess in names) else ""


def _free(name: str, names: Mapping[str, Any]) -> str:
    while name in names:
        name += "_"
    return name
