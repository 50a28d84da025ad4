"""Two ONNX files as one model: what is computed once for a call, and a decoder run token by token.

What the decoder takes beside tokens, positions and states has the name of an output or input of the
first file. Dimensions of the decoder that are those of the first file get its names.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge.errors import ExportError
from mmedge_export.loops import Generate, StateInput
from mmedge_export.sources.onnx import dynamic_axes, load_file, reference
from mmedge_export.sources.onnx_loop import find_states, growing_axis, zero_states
from mmedge_export.sources.onnx_mask import MASK, fill_mask
from mmedge_export.sources.onnx_output_sizes import SizeRun, observe_sizes
from mmedge_export.sources.onnx_outputs import infer_outputs
from mmedge_export.sources.onnx_rename import rename
from mmedge_export.sources.onnx_settle import settle

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mmedge.spec import Array
    from mmedge_export.model import Model
    from mmedge_export.sources.onnx_file import OnnxFile
    from mmedge_export.sources.onnx_loop import OnnxLoop

__all__ = ["with_decoder"]

#: What an output of the first file is called that a state of the same name begins with.
FIRST = "initial."


def with_decoder(model: Model, decoder: Path, loop: OnnxLoop, *, one_token: bool = False) -> Model:
    """``model`` with the loop of a decoder that takes what it gives.

    Args:
        model: of the first file.
        decoder: the second file.
        loop: names its tokens, scores, states and positions.
        one_token: it takes one token at a time, whatever the file says.

    Raises:
        ExportError: the decoder takes something that nobody gives, has an output that nobody takes,
            or what is named a state is none.
    """
    if loop.token is None:
        raise ExportError(f"--decoder {decoder}: needs --token, its input for tokens")
    if loop.token in model.inputs:  # its own tokens, such as those of a text to be translated
        token = f"decoder_{loop.token}"
        (decoder,) = rename([decoder], {loop.token: token})
        loop = replace(loop, token=token)
    model = _free_states(model, loop.named_states(load_file(decoder)))
    first = load_file(model.module)  # type: ignore[arg-type] # a file's model has its path
    run_first = reference(first, model.outputs)
    model, _ = settle(model, first, run_first)
    if MASK not in model.inputs and MASK not in model.outputs:
        decoder = fill_mask(decoder, str(loop.token), loop.named_states(load_file(decoder)))
    runs = observe_sizes(model, run_first)
    return _Pair(model, first, load_file(decoder), loop, runs).join(
        run_first({name: value.example for name, value in model.inputs.items()}),
        one_token=one_token,
    )


def _free_states(model: Model, states: Iterable[str]) -> Model:
    """``model`` without outputs of a state's name; such an output is what the state begins with."""
    names = {name: f"{FIRST}{name}" for name in states if name in model.outputs}
    if not names:
        return model
    (path,) = rename([model.module], names)  # type: ignore[list-item] # a file's model has its path
    return replace(model, module=path, outputs=[names.get(name, name) for name in model.outputs])


class _Pair:
    """Both files, by the names of their inputs and outputs."""

    def __init__(
        self,
        model: Model,
        first: OnnxFile,
        decoder: OnnxFile,
        loop: OnnxLoop,
        runs: Sequence[SizeRun],
    ) -> None:
        self.model, self.first, self.decoder, self.loop = model, first, decoder, loop
        self.runs = runs
        names = decoder.normalized.inputs, decoder.normalized.outputs
        self.states = {**find_states(*names), **loop.states}
        self._check(*names)

    def _check(self, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
        loop, path = self.loop, self.decoder.path
        for kind, names, there in (
            ("input", [loop.token, loop.position, *self.states], inputs),
            ("output", [loop.logits, *self.states.values()], outputs),
        ):
            for name in names:
                if name is not None and name not in there:
                    raise ExportError(
                        f"{path}: no {kind} {name!r}; its {kind}s are {', '.join(there)}"
                    )
        own = {loop.token, loop.position, *self.states}
        taken = {*self.model.inputs, *self.model.outputs}
        unknown = [name for name in inputs if name not in own and name not in taken]
        if unknown:
            raise ExportError(
                f"{path}: input {', '.join(unknown)} is no state and nothing that "
                f"{self.first.path} takes or gives ({', '.join(sorted(taken))}); give the two the "
                f"same name with --rename OLD=NEW, or name the state with --state INPUT=OUTPUT"
            )
        unused = [name for name in outputs if name not in {*self.states.values(), loop.logits}]
        if unused:
            raise ExportError(
                f"{path}: output {', '.join(unused)} is neither {loop.logits!r} nor a state; name "
                f"the input that takes it with --state INPUT={unused[0]}"
            )
        for name in (*self.states, loop.token, loop.logits, *filter(None, [loop.position])):
            if name in taken:
                raise ExportError(
                    f"{path}: {name!r} is also an input or output of {self.first.path}, which is "
                    "another tensor; rename one in its file"
                )

    def join(self, outputs: Mapping[str, Array], *, one_token: bool) -> Model:
        """The model.

        Args:
            outputs: of the first file on its example.
            one_token: see :func:`with_decoder`.
        """
        loop, model = self.loop, self.model
        values = {
            name: model.inputs[name].example if name in model.inputs else outputs[name]
            for name in self.decoder.normalized.inputs
            if name in model.inputs or name in outputs
        }
        symbols = self._symbols()
        kinds = {str(value.name): value for value in self.decoder.inputs}
        token_shape = self._token_shape(kinds[str(loop.token)], symbols, one_token=one_token)
        sizes = {
            size: values[name].shape[axis]
            for name, kind in kinds.items()
            if name in values
            for axis, size in dynamic_axes(kind).items()
        }
        for name in filter(None, (loop.token, loop.position)):
            kind = kinds[name]
            shape = [
                size if isinstance(size, int) else sizes.get(str(size.value), 1)
                for size in kind.shape or ()
            ]
            # The first token of a text, at the first position.
            values[name] = np.zeros(shape, ir.DataType(kind.dtype or 0).numpy())
        for name in self.states:
            if f"{FIRST}{name}" in outputs:
                values[name] = outputs[f"{FIRST}{name}"]
        states = zero_states(self.decoder, values, loop)
        results = reference(self.decoder, list(self.decoder.normalized.outputs))(
            {**states, **values}
        )
        position = None if loop.position is None else values[loop.position]
        return replace(
            model,
            loop=Generate(
                self.decoder.path,
                token=str(loop.token),
                logits=loop.logits,
                state={
                    name: self._state(name, {**states, **values}[name], results[output], symbols)
                    for name, output in self.states.items()
                },
                start=loop.start,
                stop=loop.stop,
                limit=loop.limit,
                position=loop.position,
                tokenizer=loop.tokenizer,
                token_shape=token_shape,
                token_dtype=values[str(loop.token)].dtype.name,
                position_shape=None if position is None else token_shape[2 - position.ndim :],
            ),
        )

    def _symbols(self) -> dict[str, int | str]:
        """The first file's size of each dimension of the decoder that it decides."""
        infer_outputs(
            self.first.graph.model,
            {name: value.shape() for name, value in self.model.inputs.items()},
            self.first.normalized.output_shapes,
            self.runs,
            {},
        )
        known: dict[str, list[int | str | None]] = {
            str(value.name): [
                size if isinstance(size, int) else size.value for size in value.shape or ()
            ]
            for value in self.first.graph.model.graph.outputs
        }
        known |= {name: list(value.shape()) for name, value in self.model.inputs.items()}
        symbols: dict[str, int | str] = {}
        for value in self.decoder.inputs:
            shape = known.get(str(value.name), [])
            for axis, symbol in dynamic_axes(value).items():
                size = shape[axis] if axis < len(shape) else None
                if size is not None:
                    symbols.setdefault(symbol, size)
        return symbols

    def _token_shape(
        self, token: ir.Value, symbols: Mapping[str, int | str], *, one_token: bool
    ) -> tuple[int | str, ...]:
        """Batch, and how many tokens a run takes."""
        if token.shape is None or len(token.shape) not in (1, 2):
            raise ExportError(
                f"{self.decoder.path}: input {token.name!r} for tokens is {token.shape}; expected "
                "[batch, new], [batch, 1] or [batch]"
            )
        axes = dynamic_axes(token)
        batch = symbols.get(axes[0], axes[0]) if 0 in axes else int(str(token.shape[0]))
        if len(token.shape) == 1:
            return (batch,)
        return (batch, axes[1] if 1 in axes and not one_token else 1)

    def _state(
        self, name: str, before: Array, after: Array, symbols: Mapping[str, int | str]
    ) -> StateInput:
        kind = next(value for value in self.decoder.inputs if value.name == name)
        axes = dynamic_axes(kind)
        output = self.states[name]
        if f"{FIRST}{name}" in self.model.outputs:
            return StateInput(output, initial=f"{FIRST}{name}")
        grows = growing_axis(str(self.decoder.path), name, output, axes, before, after)
        shape = [
            axes[axis] if axis == grows else symbols.get(axes[axis], size) if axis in axes else size
            for axis, size in enumerate(before.shape)
        ]
        return StateInput(output, shape, before.dtype.name, None if grows is None else axes[grows])
