"""What a bundle's manifest says, as the ``config.pbtxt`` of a Triton model.

The fields are those of Triton's ``model_config.proto``. Sizes that may vary are -1 there: their
limits, which Triton cannot state, are checked by mmedge in each request.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmedge import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Manifest, TensorSpec

__all__ = ["ModelConfig", "ServedTensor", "config_text", "model_config"]

#: dtype names of a manifest -> data types of Triton.
DATA_TYPES: Mapping[str, str] = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
}
STRING = "TYPE_STRING"
ANY = -1


@dataclass(frozen=True, slots=True)
class ServedTensor:
    """One input or output of the model: its name, Triton's data type, its sizes (-1: any)."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model of Triton.

    ``texts`` maps inputs that take a string to the modality that the string is for. ``parameters``
    are what ``model.py`` reads at load.
    """

    name: str
    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    instances: int = 1


def model_config(
    manifest: Manifest,
    name: str,
    *,
    parameters: Mapping[str, str] | None = None,
    instances: int = 1,
) -> ModelConfig:
    """The model of Triton that serves a bundle.

    A modality with a tokenizer has an input for a string beside those for token ids: under the
    modality's name, or, where a tensor has it, that name and ``_string``. A request gives one or
    the other, so that none of them is required by Triton; mmedge refuses a request with neither.

    Args:
        manifest: of the bundle.
        name: of the model.
        parameters: what ``model.py`` is to load.
        instances: processes that hold the bundle, at least 1.

    Raises:
        InputError: the bundle keeps state from call to call, which requests have no place for.
    """
    if manifest.states and manifest.loop is None:
        states = ", ".join(state.input for state in manifest.states)
        raise InputError(
            f"{manifest.name!r} keeps state from call to call ({states}), and requests to a server "
            "have none: each would begin anew. Embed the bundle (mmedge.load, Pipeline.state), or "
            "run it as a stream"
        )
    inputs, texts = _inputs(manifest)
    return ModelConfig(name, inputs, _outputs(manifest), texts, dict(parameters or {}), instances)


def config_text(config: ModelConfig, *, comment: str = "") -> str:
    """``config.pbtxt``, in protobuf's text format.

    Args:
        config: the model.
        comment: lines that stand above it.
    """
    lines = [f"# {line}".rstrip() for line in comment.splitlines()]
    lines += [f"name: {_quoted(config.name)}", 'backend: "python"', "max_batch_size: 0"]
    for kind, tensors in (("input", config.inputs), ("output", config.outputs)):
        for tensor in tensors:
            lines += [
                f"{kind} {{",
                f"  name: {_quoted(tensor.name)}",
                f"  data_type: {tensor.data_type}",
                f"  dims: [ {', '.join(map(str, tensor.dims))} ]",
            ]
            lines += ["  optional: true"] if tensor.optional else []
            lines += ["}"]
    lines += [
        "instance_group {",
        f"  count: {config.instances}",
        # mmedge says itself where a variant runs.
        "  kind: KIND_MODEL",
        "}",
    ]
    parameters = {**config.parameters, "texts": json.dumps(config.texts)}
    for key, value in parameters.items():
        lines += [
            "parameters {",
            f"  key: {_quoted(key)}",
            f"  value: {{ string_value: {_quoted(value)} }}",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _inputs(manifest: Manifest) -> tuple[tuple[ServedTensor, ...], dict[str, str]]:
    """The inputs, and which of them take a string for which modality."""
    specs, tensors, texts = manifest.inputs(), [], {}
    for modality in manifest.modalities:
        optional = not modality.required or modality.tokenizer is not None
        if modality.tokenizer is not None:
            name = modality.name
            while name in specs or name in texts:
                name += "_string"
            texts[name] = modality.name
            tensors.append(ServedTensor(name, STRING, (1,), optional=True))
        tensors += [_tensor(specs[name], optional=optional) for name in modality.inputs]
    return tuple(tensors), texts


def _outputs(manifest: Manifest) -> tuple[ServedTensor, ...]:
    """What a call returns, in its order (:meth:`mmedge.Pipeline.run`)."""
    specs = {spec.name: spec for stage in manifest.stages for spec in stage.outputs}
    returned = tuple(_tensor(specs[name]) for name in manifest.returned_outputs())
    loop = manifest.loop
    if loop is None:
        return returned
    if loop.kind == "generate":
        tensors = [
            ServedTensor("tokens", "TYPE_INT64", (ANY, ANY)),
            ServedTensor("lengths", "TYPE_INT64", (ANY,)),
            ServedTensor("finish", STRING, (ANY,)),
        ]
        if loop.tokenizer is not None:
            tensors.append(ServedTensor("text", STRING, (ANY,)))
        return (*tensors, *returned)
    stages = {stage.name: stage for stage in manifest.stages}
    if loop.decoder is not None:
        tensors = [_tensor(spec) for spec in stages[loop.decoder].outputs]
    else:
        taken = {spec.name: spec for spec in stages[loop.stage].inputs}
        latent = _tensor(taken[loop.latent])
        tensors = [ServedTensor("latent", latent.data_type, latent.dims)]
    return (*tensors, ServedTensor("finish", STRING, (1,)), *returned)


def _tensor(spec: TensorSpec, *, optional: bool = False) -> ServedTensor:
    # Triton has no tensors without a dimension; model.py takes theirs off, and puts it on.
    dims = tuple(size if isinstance(size, int) else ANY for size in spec.shape) or (1,)
    return ServedTensor(spec.name, DATA_TYPES[spec.dtype], dims, optional)


def _quoted(text: str) -> str:
    """A string of protobuf's text format: its escapes are those of C, bytes in octal."""
    parts = []
    for byte in text.encode():
        if byte in b'"\\':
            parts.append(f"\\{chr(byte)}")
        elif 32 <= byte < 127:
            parts.append(chr(byte))
        else:
            parts.append(f"\\{byte:03o}")
    return f'"{"".join(parts)}"'
