"""State and a loop of an ONNX file: which input takes which output of the run before.

A file says nothing of that. Decoders that other tools write name keys and values ``past_...`` and
``present_...``, which is taken as said; everything else is named by the user.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge_export.loops import Generate, StateInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from mmedge.spec import Array
    from mmedge_export.inputs import Input
    from mmedge_export.model import Model
    from mmedge_export.sources.onnx_file import OnnxFile

__all__ = ["OnnxLoop", "find_states", "growing_axis", "with_loop", "zero_states"]

#: How an input's name becomes that of the output which it takes, in the usual names.
_USUAL = (("past_key_values.", "present."), ("past_", "present_"), ("past.", "present."))

#: Size of a state's own dynamic dimensions in an example that does not hold it.
_STATE = 4


@dataclass(frozen=True)
class OnnxLoop:
    """What a user says of a file's state and loop.

    ``states`` maps an input to the output that it takes. ``token`` names the input for tokens;
    None: the file runs once for each call, and is no loop. The rest is that of
    :class:`mmedge_export.Generate`.
    """

    states: Mapping[str, str] = field(default_factory=dict)
    token: str | None = None
    logits: str = "logits"
    position: str | None = None
    start: tuple[int, ...] = ()
    stop: tuple[int, ...] = ()
    limit: int = 256
    tokenizer: Path | None = None

    def named_states(self, file: OnnxFile) -> dict[str, str]:
        """States that the user names, and with a loop those of usual names."""
        names = file.normalized.inputs, file.normalized.outputs
        return {**(find_states(*names) if self.token is not None else {}), **self.states}


def find_states(inputs: Iterable[str], outputs: Iterable[str]) -> dict[str, str]:
    """Inputs and the outputs that they take, by the usual names."""
    known_outputs = set(outputs)
    states: dict[str, str] = {}
    for name in inputs:
        for past, present in _USUAL:
            output = f"{present}{name.removeprefix(past)}"
            if name.startswith(past) and output in known_outputs:
                states[name] = output
                break
    return states


def with_loop(
    model: Model, loop: OnnxLoop, run: Callable[[Mapping[str, Array]], dict[str, Array]]
) -> Model:
    """A file's model with its states and its loop.

    Args:
        model: of the file, with all its inputs and outputs, and an example that it takes.
        loop: what the user says.
        run: the file; which axis of a state grows is found out by running it.

    Raises:
        ExportError: the file has no such inputs or outputs, or they are no state.
    """
    path, outputs = model.module, list(model.outputs)
    usual = find_states(model.inputs, outputs) if loop.token is not None else {}
    pairs = {**usual, **loop.states}
    for kind, names, known in (
        ("input", [*pairs, loop.token, loop.position], model.inputs),
        ("output", [*pairs.values(), *([loop.logits] if loop.token else [])], outputs),
    ):
        for name in names:
            if name is not None and name not in known:
                raise ExportError(f"{path}: no {kind} {name!r}; its {kind}s are {', '.join(known)}")
    values = {name: value.example for name, value in model.inputs.items()}
    results = run(values)
    states = {
        name: _state(str(path), name, output, model.inputs[name], results[output])
        for name, output in pairs.items()
    }
    inputs = {name: value for name, value in model.inputs.items() if name not in states}
    if loop.token is None:
        symbols = {symbol for value in inputs.values() for symbol in value.dynamic.values()}
        return replace(
            model,
            inputs=inputs,
            outputs=[name for name in outputs if name not in pairs.values()],
            state=states,
            dims={name: limits for name, limits in model.dims.items() if name in symbols},
        )
    unused = [name for name in outputs if name not in (*pairs.values(), loop.logits)]
    if unused:
        raise ExportError(
            f"{path}: output {', '.join(unused)} is neither {loop.logits!r} nor a state; name the "
            f"input that takes it with --state INPUT={unused[0]}, or take it out of the file"
        )
    token = model.inputs[loop.token]
    position = None if loop.position is None else inputs.pop(loop.position)
    return replace(
        model,
        module=None,
        inputs=inputs,
        outputs=(),
        loop=Generate(
            path,  # type: ignore[arg-type] # a file's model has its path
            token=loop.token,
            logits=loop.logits,
            state=states,
            start=loop.start,
            stop=loop.stop,
            limit=loop.limit,
            position=loop.position,
            tokenizer=loop.tokenizer,
            token_dtype=token.example.dtype.name,
            position_shape=None if position is None else position.shape(),
        ),
    )


def zero_states(
    file: OnnxFile, values: Mapping[str, Array], loop: OnnxLoop | None
) -> dict[str, Array]:
    """What stands for states that an example lacks, at the sizes that ``values`` have.

    Args:
        file: whose inputs some are.
        values: of other inputs.
        loop: which are states.
    """
    if loop is None:
        return {}
    names = loop.named_states(file)
    sizes = {
        size.value: values[str(value.name)].shape[axis]
        for value in file.inputs
        if str(value.name) in values
        for axis, size in enumerate(value.shape or ())
        if not isinstance(size, int) and axis < values[str(value.name)].ndim
    }
    states = {}
    for value in file.inputs:
        if value.name in names and value.dtype is not None:
            shape = [
                s if isinstance(s, int) else sizes.get(s.value, _STATE) for s in value.shape or ()
            ]
            states[str(value.name)] = np.zeros(shape, value.dtype.numpy())
    return states


def growing_axis(
    path: str, name: str, output: str, axes: Mapping[int, str], before: Array, after: Array
) -> int | None:
    """The axis along which a state grows; None: it keeps its shape.

    Args:
        path: of the file, for a message.
        name: of the input.
        output: that it takes.
        axes: names of the input's dynamic dimensions.
        before: what the input took in a run.
        after: what the output was then.

    Raises:
        ExportError: the output is no new value of the input.
    """
    different = [
        axis for axis, (a, b) in enumerate(zip(before.shape, after.shape, strict=False)) if a != b
    ]
    if before.ndim != after.ndim or before.dtype != after.dtype or len(different) > 1:
        raise ExportError(
            f"{path}: input {name!r} takes {before.dtype} {list(before.shape)}, but output "
            f"{output!r} is then {after.dtype} {list(after.shape)}; a state differs along the axis "
            "in which it grows, and in nothing else"
        )
    if different and different[0] not in axes:
        raise ExportError(
            f"{path}: input {name!r} has {before.shape[different[0]]} along axis {different[0]}, "
            f"but output {output!r} has {after.shape[different[0]]}; name another output, or "
            "export the file with that axis dynamic, if the state grows along it"
        )
    return different[0] if different else None


def _state(path: str, name: str, output: str, value: Input, result: Array) -> StateInput:
    axis = growing_axis(path, name, output, value.dynamic, value.example, result)
    return StateInput(
        output,
        value.shape(),
        value.example.dtype.name,
        None if axis is None else value.dynamic[axis],
    )
