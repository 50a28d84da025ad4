"""A loop, and states, held against the model around them; nothing is run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmedge.errors import ExportError
from mmedge.schema.names import TENSOR_NAME
from mmedge_export.inputs import Input
from mmedge_export.loops import Denoise, Generate, Loop, StateInput

__all__ = ["check_loop", "parameters"]


def parameters(module: Any) -> tuple[set[str], bool] | None:  # noqa: ANN401 - torch is not imported
    """What a torch module's forward takes by keyword, and whether it takes any; None: a file."""
    if isinstance(module, Path) or module is None:
        return None
    signature = inspect.signature(module.forward).parameters.values()
    names = {p.name for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return names, any(p.kind is p.VAR_KEYWORD for p in signature)


def check_loop(
    loop: Any,  # noqa: ANN401 - whatever the user gave
    state: Mapping[str, Any],
    inputs: Mapping[str, Input],
    outputs: Sequence[str] | Mapping[str, str],
    *,
    has_module: bool,
) -> None:
    """Refuse a loop, or states, that do not fit the model around them.

    Args:
        loop: ``Model.loop``.
        state: ``Model.state``.
        inputs: ``Model.inputs``.
        outputs: ``Model.outputs``.
        has_module: whether there is a module beside the loop's.
    """
    if loop is not None and not isinstance(loop, Generate | Denoise):
        raise ExportError(f"loop: expected Generate or Denoise, got {type(loop).__name__}")
    if loop is not None and state:
        raise ExportError(
            "state: a model with a loop has its states in the loop; move them to loop.state"
        )
    if loop is None and not has_module:
        raise ExportError("module: None is for a model with a loop; give a torch.nn.Module")
    if loop is None and not outputs:
        raise ExportError(f"outputs: expected a list of at least one name, got {outputs!r}")
    for name, value in state.items():
        if not isinstance(value, StateInput):
            raise ExportError(f"state {name!r}: expected a StateInput, got {type(value).__name__}")
        if value.source is not None:
            raise ExportError(
                f"state {name!r}: initial is {value.initial!r}; without a loop a state begins "
                '"empty", "zeros" or as an array'
            )
        if not TENSOR_NAME.fullmatch(name) or name in inputs or name in outputs:
            raise ExportError(
                f"state {name!r}: a state's input needs a name that no input or output has"
            )
    if loop is None:
        return
    if has_module != bool(outputs):
        raise ExportError(
            "outputs: "
            + ("name what module returns" if has_module else "there is no module to give them")
        )
    if isinstance(outputs, Mapping) is False and isinstance(outputs, str):
        raise ExportError(f"outputs: expected a list of names, got {outputs!r}")
    what = type(loop).__name__
    for name, value in loop.state.items():
        source = name if isinstance(value, str) else value.source
        if source is not None and source not in outputs:
            raise ExportError(
                f"{what}: state {name!r} begins as output {source!r}, which is none of "
                f"Model.outputs ({', '.join(outputs) or 'none'}); give a StateInput with its shape"
            )
        if name in inputs or (name in outputs and source != name):
            raise ExportError(f"{what}: state {name!r} is an input or output of the network too")
    for name in loop.given[1:] if loop.kind == "generate" else loop.given:
        if name in inputs:
            raise ExportError(f"{what}: {name!r} is one of Model.inputs; the loop gives it")
    for name in (*loop.given, loop.result):
        if name in outputs:
            raise ExportError(f"{what}: {name!r} is one of Model.outputs too; rename one of them")
    if loop.kind == "generate":
        if not loop.start and loop.token not in inputs:
            raise ExportError(
                f"Generate: nothing to begin with: give start, or make {loop.token!r} one of "
                "Model.inputs"
            )
        if loop.token in inputs:
            _check_prompt(loop, inputs[loop.token])
    else:
        known = {*inputs, *outputs}
        for name in loop.unconditional:
            if name not in known:
                raise ExportError(
                    f"Denoise: unconditional names {name!r}; expected inputs or outputs of the "
                    f"network: {', '.join(known)}"
                )
        if len({name in inputs for name in loop.unconditional}) > 1:
            raise ExportError(
                "Denoise: unconditional names inputs and outputs of the network; name one kind"
            )
    _check_parameters(loop, inputs, outputs)


def _check_prompt(loop: Generate, prompt: Input) -> None:
    if not isinstance(prompt, Input) or prompt.example.dtype.name not in ("int32", "int64"):
        return  # refused with the inputs
    if prompt.example.ndim != 2:
        raise ExportError(
            f"Generate: input {loop.token!r} has rank {prompt.example.ndim}; the caller's tokens "
            "are [batch, new]"
        )
    # A step that takes one token takes a prompt in as many runs.
    shapes = (prompt.shape(), (prompt.shape()[0], 1))
    if loop.token_shape is not None and tuple(loop.token_shape) not in shapes:
        raise ExportError(
            f"Generate: token_shape is {tuple(loop.token_shape)}, but input {loop.token!r} is "
            f"{prompt.shape()}; expected {shapes[1]}, which takes one token at a time, or leave "
            "token_shape out"
        )
    if not prompt.required and not loop.start:
        raise ExportError(
            f"Generate: input {loop.token!r} may be absent, and start is empty: there would be "
            "nothing to begin with; give start, or say required=True"
        )


def _check_parameters(
    loop: Loop, inputs: Mapping[str, Input], outputs: Sequence[str] | Mapping[str, str]
) -> None:
    """The step's forward takes what the loop gives, and needs nothing that nobody gives."""
    taken = parameters(loop.step)
    if taken is None:
        return
    names, takes_any = taken
    given = [*loop.given, *loop.state]
    for name in given:
        if name not in names and not takes_any:
            raise ExportError(
                f"{type(loop).__name__}: {type(loop.step).__name__}.forward takes no {name!r}; "
                f"its parameters are {', '.join(sorted(names)) or 'none'}"
            )
    step: Any = loop.step
    signature = inspect.signature(step.forward).parameters.values()
    for parameter in signature:
        has_default = parameter.default is not parameter.empty
        if parameter.name not in names or has_default:
            continue
        if parameter.name not in (*given, *inputs, *outputs):
            raise ExportError(
                f"{type(loop).__name__}: {type(loop.step).__name__}.forward needs "
                f"{parameter.name!r}, which is no output or input of the network, no state, and "
                "nothing that the loop gives; name it in Model.outputs or in state"
            )
