"""A network with state and without a loop: samples that follow each other, each with its state.

What a state begins with, and what it is after some runs, follows from the network itself. So the
network is captured with its states among its inputs, which hold what the runs before gave.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mmedge.errors import ExportError
from mmedge.spec import DTYPES
from mmedge.tolerance import difference
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.golden import GENERATED, checked
from mmedge_export.capture.reference import open_run
from mmedge_export.inputs import Input

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmedge.spec import Array, TensorSpec
    from mmedge_export.capture.golden import Run
    from mmedge_export.capture.proof_options import ProofOptions
    from mmedge_export.loops import StateInput
    from mmedge_export.model import Model

__all__ = ["StatefulNetwork", "check_state", "first_state"]

#: Runs before the example's, so that a state that grows has something in it.
_RUNS = 3


class StatefulNetwork:
    """A model with ``state``, open to be run; a context manager.

    Args:
        model: the network.

    Attributes:
        outputs: the output that the next run takes, by the input that takes it.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.outputs = {name: value.output for name, value in model.state.items()}
        self._history: list[dict[str, Array]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        inputs = [*self.model.inputs, *self.model.state]
        module: Any = self.model.module
        self._run = self._stack.enter_context(open_run(module, inputs, self._names()))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def captured(self) -> Model:
        """The model with its states among its inputs, and samples that hold them."""
        model = self.model
        inputs = probe_inputs.example(model)
        states = self._first(inputs)
        for _ in range(_RUNS):
            states = self._next(inputs, states)
        modality = "state"
        while modality in model.modalities():
            modality += "_"
        given = {
            name: Input(
                states[name],
                modality=modality,
                dynamic={a: n for a, n in enumerate(value.shape or ()) if isinstance(n, str)},
            )
            for name, value in model.state.items()
        }
        growing = {value.grows for value in model.state.values() if value.grows is not None}
        dims = {**dict.fromkeys(growing, (0, None)), **model.dims}
        return replace(
            model,
            inputs={**model.inputs, **given},
            outputs=self._names(),
            dims=dims,
            state={},
            computed=frozenset(given),
            state_outputs=self.outputs,
            samples=None if model.samples is None else self._samples(),
        )

    def restored(self, captured: Model) -> Model:
        """``captured`` with its states apart from its inputs again."""
        inputs = {name: captured.inputs[name] for name in self.model.inputs}
        names = {name for value in inputs.values() for name in value.dynamic.values()}
        return replace(
            self.model,
            inputs=inputs,
            dims={name: limits for name, limits in captured.dims.items() if name in names},
        )

    def check(self, graph: Run, options: ProofOptions) -> None:
        """Run samples one after another, network and graph each with the state it gave itself.

        Raises:
            ExportError: they differ at some run; the message names it.
        """
        sequence = self._history
        if not sequence:
            sizes = probe_inputs.sizes(self.model, probe_inputs.example(self.model))
            rng = np.random.default_rng(0)
            sequence = [probe_inputs.random(self.model, sizes, rng) for _ in range(GENERATED)]
        states: tuple[Mapping[str, Array], Mapping[str, Array]] = ({}, {})
        for number, inputs in enumerate(sequence):
            if not states[0] or not self._continues(inputs, states[0]):
                states = (self._first(inputs), self._first(inputs))
            expected = self._run({**inputs, **states[0]})
            got = graph({**inputs, **states[1]})
            for name, value in expected.items():
                deviation = difference(got[name], value, options.tolerance)
                if not deviation.passes:
                    raise ExportError(
                        f"with the state carried from run to run, the graph is not the network: "
                        f"output {name!r} {deviation} in run {number}, though each run by itself "
                        "agrees; errors add up in the state. Allow more with rtol, or bound what "
                        "the network adds to its state"
                    )
            states = (
                {name: expected[output] for name, output in self.outputs.items()},
                {name: got[output] for name, output in self.outputs.items()},
            )
        options.tell(f"state carried over {len(sequence)} runs: the graph follows the network")

    def output_shapes(
        self, specs: Mapping[str, TensorSpec], options: ProofOptions
    ) -> dict[str, tuple[int | str, ...]]:
        """Shapes of new states that a graph does not say, as those of the states that they follow.

        A graph that computes them in branches (``If``) says none. Whether a new state has the shape
        of the one before is tried at other sizes of the inputs.

        Args:
            specs: of the graph's inputs and outputs, by name.
            options: whom to tell.

        Raises:
            ExportError: one has another shape at some sizes.
        """
        shapes: dict[str, tuple[int | str, ...]] = {}
        input_sizes = {size for name in self.outputs for size in specs[name].shape}
        for name, value in self.model.state.items():
            before, after = specs[name].shape, specs[value.output].shape
            grows = None if value.grows is None else before.index(value.grows)
            if len(before) == len(after) and any(
                isinstance(size, str) and size not in input_sizes and axis != grows
                for axis, size in enumerate(after)
            ):
                shapes[value.output] = tuple(
                    after[axis] if axis == grows else size for axis, size in enumerate(before)
                )
        if not shapes:
            return {}
        tried = 0
        for sizes in probe_inputs.probes(self.model):
            inputs = probe_inputs.resize(self.model, probe_inputs.example(self.model), sizes)
            states = self._first(inputs)
            try:
                outputs = self._run({**inputs, **states})
            except ExportError:
                continue  # the network takes no such sizes
            self._check_states(states, outputs)
            tried += 1
        names = ", ".join(map(repr, shapes))
        options.tell(f"the graph does not say the shape of {names}: as before, at {tried} sizes")
        return shapes

    def _names(self) -> Sequence[str] | Mapping[str, str]:
        outputs = self.model.outputs
        further_outputs = [name for name in self.outputs.values() if name not in outputs]
        if not isinstance(outputs, Mapping):
            return [*outputs, *further_outputs]
        return {**outputs, **{name: name for name in further_outputs}}

    def _samples(self) -> Iterator[tuple[dict[str, Array], None]]:
        states: Mapping[str, Array] = {}
        for number, inputs in enumerate(checked(self.model) or ()):
            if not states or not self._continues(inputs, states):
                states = self._first(inputs)
            if number < GENERATED:
                self._history.append(inputs)
            yield {**inputs, **states}, None
            states = self._next(inputs, states)

    def _continues(self, inputs: Mapping[str, Array], states: Mapping[str, Array]) -> bool:
        """Whether the states are of the sizes that the inputs have."""
        sizes = probe_inputs.sizes(self.model, inputs)
        return all(
            sizes.get(size, states[name].shape[axis]) == states[name].shape[axis]
            for name, value in self.model.state.items()
            for axis, size in enumerate(value.shape or ())
            if isinstance(size, str)
        )

    def _first(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        sizes = probe_inputs.sizes(self.model, inputs)
        return {name: first_state(name, value, sizes) for name, value in self.model.state.items()}

    def _next(self, inputs: Mapping[str, Array], states: Mapping[str, Array]) -> dict[str, Array]:
        outputs = self._run({**inputs, **states})
        self._check_states(states, outputs)
        return {name: outputs[output] for name, output in self.outputs.items()}

    def _check_states(self, states: Mapping[str, Array], outputs: Mapping[str, Array]) -> None:
        for name, value in self.model.state.items():
            axis = None if value.grows is None else tuple(value.shape or ()).index(value.grows)
            check_state(name, value.output, states[name], outputs[value.output], axis)


def first_state(name: str, value: StateInput, sizes: Mapping[str, int]) -> Array:
    """What a state begins with.

    Args:
        name: of its input.
        value: it does not begin as an output of the network.
        sizes: of the dynamic dimensions in its shape.

    Raises:
        ExportError: a dimension has no size there.
    """
    shape = []
    for size in value.shape or ():
        if isinstance(size, str) and size not in sizes and size != value.grows:
            raise ExportError(
                f"state {name!r}: its shape names {size!r}, but no input has a dynamic dimension "
                f"of that name (there are: {', '.join(sizes) or 'none'}); give its size, or say "
                f"which dimension grows; of an ONNX file, --rename {size}=OTHER makes it another"
            )
        shape.append(0 if size == value.grows else sizes[size] if isinstance(size, str) else size)
    if isinstance(value.initial, str):
        return np.zeros(shape, DTYPES[value.dtype])
    stored = np.asarray(value.initial)
    full = [
        n if size == value.grows else s
        for n, s, size in zip(stored.shape, shape, value.shape or (), strict=True)
    ]
    if any(n not in (1, s) for n, s in zip(stored.shape, full, strict=True)):
        raise ExportError(
            f"state {name!r}: it begins as an array {list(stored.shape)}, which does not fit a "
            f"call's {full}; give it with size 1 along dynamic axes"
        )
    return np.array(np.broadcast_to(stored, full))


def check_state(name: str, output: str, before: Array, after: Array, axis: int | None) -> None:
    """Refuse a new state that the next run does not take.

    Args:
        name: of the input.
        output: of that name.
        before: what the run took.
        after: what it gave.
        axis: the one along which it grows.

    Raises:
        ExportError: ``after`` has another dtype or shape.
    """
    fits = before.ndim == after.ndim and all(
        a == b or at == axis
        for at, (a, b) in enumerate(zip(before.shape, after.shape, strict=True))
    )
    if before.dtype != after.dtype or not fits:
        grows = "" if axis is None else f", except along axis {axis}, which grows"
        raise ExportError(
            f"state {name!r}: a run takes {before.dtype} {list(before.shape)} and gives "
            f"{output!r} as {after.dtype} {list(after.shape)}; they must be alike{grows}. Return "
            "the whole new state, and say grows= of a state that has more after each run"
        )
