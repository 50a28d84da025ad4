"""A draft of a factory from a torch module: inputs by its signature, shapes by its first layers."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn

from mmedge.errors import ExportError
from mmedge_export.sources.factory_text import Draft, DraftInput
from mmedge_export.sources.python_object import load_attribute
from mmedge_export.sources.user_code import running

if TYPE_CHECKING:
    from mmedge.spec import Array

__all__ = ["draft_torch"]

_FORMS = (
    "model.onnx, or path/to/file.py:NAME or package.module:NAME of a torch module's class, of a "
    "function without arguments that gives a module, or of a module"
)

#: Size of an axis of space, time or tokens that a layer takes any of.
SIDE, TOKENS = 64, 16

#: Operations that a layer's input is looked for behind: they keep sizes.
_KEEPING = ("float", "to", "contiguous", "relu", "add", "sub", "mul", "truediv", "dropout", "type")


def draft_torch(source: str, place: Path) -> Draft:
    """Make the module if that needs nothing, and look at its ``forward``.

    Args:
        source: ``file.py:name`` or ``package.module:name`` of a class, of a function without
            arguments that gives a module, or of a module.
        place: of the factory to be, which imports from there.

    Raises:
        ExportError: there is no such thing, making it raised, or it is no torch module.
    """
    thing = load_attribute(source, _FORMS, "Net")
    where, _, name = source.rpartition(":")
    imports, module_name = _import_lines(where, place)
    imports.append(f"from {module_name} import {name}")
    call, module = _make(thing, name, source)
    kind = thing if inspect.isclass(thing) else type(module)
    notes: list[str] = []
    inputs = _inputs(kind, module, notes)
    outputs = _outputs(module, inputs) if module is not None else []
    if inputs and all(entry.example is not None for entry in inputs) and not outputs:
        # The guesses do not go through the network: they are none.
        inputs = [DraftInput(entry.name, None, {}, entry.note) for entry in inputs]
    network = [
        f"network = {call}",
        "# FILL IN: the trained weights, such as",
        '# network.load_state_dict(torch.load("weights.pt", weights_only=True))',
        "network.eval()",
    ]
    if any(entry.example is None for entry in inputs) or not outputs or module is None:
        imports.append("from mmedge_export.scaffold import fill_in")
    return Draft(source, imports, network, inputs, outputs, notes)


def _import_lines(where: str, place: Path) -> tuple[list[str], str]:
    """Lines that make the source importable from the factory, and the module's name."""
    if not where.endswith(".py"):
        return [], where
    folder = os.path.relpath(Path(where).resolve().parent, place.resolve().parent)
    if folder == ".":
        return [], Path(where).stem
    lines = [
        "import sys",
        "from pathlib import Path",
        f'sys.path.insert(0, str(Path(__file__).resolve().parent / "{Path(folder).as_posix()}"))',
    ]
    return lines, Path(where).stem


def _make(thing: Any, name: str, source: str) -> tuple[str, nn.Module | None]:  # noqa: ANN401
    """The expression that makes the module, and the module if that needs no arguments."""
    if isinstance(thing, nn.Module):
        return name, thing
    if inspect.isclass(thing) and not issubclass(thing, nn.Module):
        raise ExportError(f"{source} is a {thing.__name__}; expected a torch.nn.Module")
    if not callable(thing):
        raise ExportError(
            f"{source} is {type(thing).__name__}; expected a class of a torch.nn.Module, a module, "
            "or a function that gives one"
        )
    arguments = [
        f"{parameter.name}=fill_in({parameter.name!r})"
        for parameter in inspect.signature(thing).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if arguments:
        return f"{name}({', '.join(arguments)})  # FILL IN", None
    with running(source):
        module = thing()
    if not isinstance(module, nn.Module):
        raise ExportError(f"{source} gave {type(module).__name__}; expected a torch.nn.Module")
    return f"{name}()", module


def _inputs(kind: type, module: nn.Module | None, notes: list[str]) -> list[DraftInput]:
    signature = inspect.signature(kind.forward)  # type: ignore[attr-defined]
    inputs: list[DraftInput] = []
    guesses = {} if module is None else _guesses(module)
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            notes.append(f"forward also takes {parameter}: name its tensors as inputs by hand.")
        elif parameter.default is not parameter.empty:
            notes.append(f"forward also takes {parameter}, which is left at its default here.")
        else:
            example, note = guesses.get(parameter.name, (None, ""))
            dynamic = {} if example is None else {0: "batch"}
            inputs.append(DraftInput(parameter.name, example, dynamic, note))
    if not inputs:
        notes.append("No input could be told from forward: name them by hand.")
    return inputs


def _guesses(module: nn.Module) -> dict[str, tuple[Array, str]]:
    """Examples by input, from the first layer that takes each."""
    try:
        graph = fx.symbolic_trace(module).graph
    except Exception:  # noqa: BLE001 - tracing a network that it cannot is no fault here
        return {}
    examples: dict[str, tuple[Array, str]] = {}
    for node in graph.nodes:
        if node.op == "placeholder":
            layer = _first_layer(node, module)
            example = None if layer is None else _example(module.get_submodule(layer))
            if example is not None:
                examples[str(node.target)] = example, f"CHECK: as the layer {layer!r} takes it"
    return examples


def _first_layer(node: fx.Node, module: nn.Module) -> str | None:
    for user in node.users:
        if user.op == "call_module":
            layer = module.get_submodule(str(user.target))
            if _example(layer) is not None:
                return str(user.target)
            if isinstance(layer, nn.ReLU | nn.Dropout | nn.Identity):
                return _first_layer(user, module)
        name = getattr(user.target, "__name__", str(user.target))
        if user.op in ("call_function", "call_method") and name in _KEEPING:
            return _first_layer(user, module)
    return None


def _example(layer: nn.Module) -> Array | None:
    """What a layer takes, with a batch of 1; None for layers that tell no sizes."""
    shape: tuple[int, ...]
    if isinstance(layer, nn.Embedding):
        return np.random.default_rng(0).integers(0, layer.num_embeddings, (1, TOKENS), np.int64)
    if isinstance(layer, nn.Linear):
        shape = (1, layer.in_features)
    elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        shape = (1, layer.in_channels, *[SIDE] * len(layer.kernel_size))
    elif isinstance(layer, nn.LayerNorm):
        shape = (1, *layer.normalized_shape)
    elif isinstance(layer, nn.GRU | nn.LSTM | nn.RNN) and layer.batch_first:
        shape = (1, TOKENS, layer.input_size)
    else:
        return None
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _outputs(module: nn.Module, inputs: list[DraftInput]) -> list[str]:
    """Names for what the module returns on the examples; none where it does not run on them."""
    values = {entry.name: entry.example for entry in inputs}
    if not values or any(value is None for value in values.values()):
        return []
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            result = module(**{name: torch.from_numpy(value) for name, value in values.items()})
    except Exception:  # noqa: BLE001 - guesses that do not fit are no fault of the network
        return []
    finally:
        module.train(training)
    if isinstance(result, Mapping):
        return [str(key) for key, value in result.items() if isinstance(value, torch.Tensor)]
    if isinstance(result, tuple | list):
        return [f"output_{index}" for index in range(len(result))]
    return ["output"] if isinstance(result, torch.Tensor) else []
