"""What belongs to which part of a model with a loop: the module, its constants, and the step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import ExportError
from mmedge.spec import Array, TensorSpec
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.golden import GENERATED, checked
from mmedge_export.inputs import Input
from mmedge_export.loop_checks import parameters
from mmedge_export.loops import StateInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge.spec import Dimension, Sample
    from mmedge_export.model import Model
    from mmedge_export.proof.network import NetworkProof

__all__ = ["Constants", "LoopCase", "LoopParts", "constant_inputs"]

#: Weights of a step that is large: a run of hundreds of its steps takes a minute of one core.
_LARGE = 100_000_000

#: What the output of ``module`` is called that a state of the same name begins with.
_FIRST = "initial."


@dataclass(frozen=True)
class LoopCase:
    """What one run of a loop begins with.

    Attributes:
        what: in words.
        inputs: of the whole network.
        outputs: of ``module``, and what passes between its stages.
    """

    what: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class Constants:
    """What a step takes that stays the same, as the stages before it say.

    Attributes:
        specs: of outputs and inputs of the network.
        dimensions: that they name.
    """

    specs: Mapping[str, TensorSpec]
    dimensions: Mapping[str, Dimension]

    def sizes(self, values: Mapping[str, Array]) -> dict[str, int]:
        """Size of each dynamic dimension in ``values``."""
        return {
            size: values[name].shape[axis]
            for name, spec in self.specs.items()
            if name in values
            for axis, size in enumerate(spec.shape)
            if isinstance(size, str)
        }


class LoopParts:
    """A model with a loop, taken apart by names. Nothing is run here.

    Args:
        model: it has a loop.
        samples: how many golden samples to take.
    """

    def __init__(self, model: Model, samples: int) -> None:
        if model.loop is None:
            raise ValueError("a model without a loop has no parts")
        self.model, self.loop, self._count = model, model.loop, samples
        self._given: list[dict[str, Array]] = []
        #: Samples that no run of the loop begins with.
        self.further_samples = 0

    @cached_property
    def state_inputs(self) -> dict[str, StateInput]:
        """Every state of the step; one that begins as an output of its own name says which."""
        return {
            name: value
            if isinstance(value, StateInput)
            else StateInput(value, initial=self.output_names[name])
            for name, value in self.loop.state.items()
        }

    @cached_property
    def output_names(self) -> dict[str, str]:
        """Outputs of ``module`` as the bundle calls them, by what the model calls them."""
        return {
            name: f"{_FIRST}{name}" if name in self.loop.state else name
            for name in self.model.outputs
        }

    @cached_property
    def module_inputs(self) -> list[str]:
        """Inputs of the network that ``module`` takes."""
        module = self.model.module
        names = [name for name in self.model.inputs if name not in self.loop.given]
        if module is None:
            return []
        taken = parameters(module)
        if taken is None:
            in_file = _names_in_file(Path(str(module)))
            return [name for name in names if name in in_file]
        return [name for name in names if name in taken[0] or taken[1]]

    @cached_property
    def constant_names(self) -> list[str]:
        """Outputs of ``module`` that the step takes, as the bundle calls them."""
        outputs = [name for name in self.model.outputs if name not in self.loop.state]
        return _taken(self.loop.step, outputs, any_keyword=True)

    @cached_property
    def raw_names(self) -> list[str]:
        """Inputs of the network that the step takes beside what the loop gives."""
        names = [name for name in self.model.inputs if name not in self.loop.given]
        return _taken(self.loop.step, names, any_keyword=False)

    @cached_property
    def step_weights(self) -> int:
        """How many weights a step of torch has; 0 of a file."""
        step: Any = self.loop.step
        return 0 if isinstance(step, Path) else sum(p.numel() for p in step.parameters())

    @property
    def is_large(self) -> bool:
        """Whether a step takes so long that fewer of them are run."""
        return self.step_weights > _LARGE

    def check_inputs(self) -> None:
        """Refuse inputs that nobody takes."""
        users = {*self.module_inputs, *self.raw_names, *self.loop.given}
        for name in self.model.inputs:
            if name not in users:
                raise ExportError(
                    f"input {name!r}: neither module nor step takes it; leave it out, or name it "
                    "after a parameter of one of their forwards"
                )

    def module_model(self) -> Model:
        """The model of ``module`` alone."""
        model = self.model
        inputs = {name: model.inputs[name] for name in self.module_inputs}
        if not inputs:
            raise ExportError("module: it takes none of the inputs; leave it out (module=None)")
        outputs: Any = model.outputs
        if any(new != name for name, new in self.output_names.items()):
            if isinstance(model.module, Path):
                renamed = next(name for name, new in self.output_names.items() if new != name)
                raise ExportError(
                    f"state {renamed!r}: it has the name of an output of the ONNX file; give the "
                    f"state's input another name, or say StateInput(..., initial={renamed!r})"
                )
            keys = dict(outputs) if isinstance(outputs, Mapping) else {n: n for n in outputs}
            outputs = {self.output_names[name]: key for name, key in keys.items()}
        symbols = {symbol for value in inputs.values() for symbol in value.dynamic.values()}
        return replace(
            model,
            inputs=inputs,
            outputs=outputs,
            samples=None if model.samples is None else self._module_samples(),
            evaluation=None,
            metric=None,
            labels={},
            dims={name: limits for name, limits in model.dims.items() if name in symbols},
            constraints=[text for text in model.constraints if not _names(text) - symbols],
            loop=None,
        )

    def _module_samples(self) -> Iterator[tuple[dict[str, Array], None]]:
        for number, inputs in enumerate(checked(self.model) or ()):
            self.further_samples = max(number + 1 - self._count, 0)
            if number < self._count:
                self._given.append(inputs)
            yield {name: inputs[name] for name in self.module_inputs}, None

    def cases(self, proof: NetworkProof | None) -> list[LoopCase]:
        """What runs of the loop begin with: one for each golden sample of the bundle.

        Args:
            proof: of ``module``, whose samples they follow.
        """
        rng = np.random.default_rng(0)
        example = probe_inputs.example(self.model)
        if proof is None:
            if self.model.samples is not None:
                given = list(checked(self.model) or ())
                inputs = given[: self._count]
                self.further_samples = len(given) - len(inputs)
            else:
                inputs = [example]
                inputs += [
                    self._draw({}, rng, number) for number in range(1, min(GENERATED, self._count))
                ]
            return [LoopCase(f"sample {n}", values, {}) for n, values in enumerate(inputs)]
        samples: tuple[Sample, ...] = proof.all_samples()
        count = len(proof.samples)
        cases = []
        for number, sample in enumerate(samples):
            if number < len(self._given):
                further_inputs: Mapping[str, Array] = self._given[number]
            else:
                further_inputs = self._draw(sample.inputs, rng, number)
            inputs_of_all = {
                name: sample.inputs.get(name, further_inputs[name]) for name in self.model.inputs
            }
            what = f"sample {number}" if number < count else "an absent modality"
            cases.append(LoopCase(what, inputs_of_all, sample.outputs))
        return cases

    def _draw(
        self, sample: Mapping[str, Array], rng: np.random.Generator, number: int
    ) -> dict[str, Array]:
        """Inputs like the example, at the sizes of ``sample`` where that has them."""
        inputs = {name: self.model.inputs[name] for name in self.model.inputs}
        sizes = {
            symbol: limits.opt + number * limits.multiple
            if limits.max is None or limits.opt + number * limits.multiple <= limits.max
            else limits.opt
            for symbol, limits in self.model.dimensions().items()
        }
        sizes |= {
            symbol: sample[name].shape[axis]
            for name, value in inputs.items()
            if name in sample
            for axis, symbol in value.dynamic.items()
        }
        allowed = self.model.domain().near(sizes)
        return probe_inputs.random(self.model, allowed or sizes, rng)

    def constants(self, proof: NetworkProof | None) -> Constants:
        """What the step takes that the network's inputs and ``module`` give."""
        specs: dict[str, TensorSpec] = {}
        dimensions: dict[str, Dimension] = dict(self.model.dimensions())
        if proof is not None:
            by_name = {s.name: s for stage in proof.stages.stages for s in stage.outputs}
            sources = [value.source for value in self.state_inputs.values()]
            names = [*self.constant_names, *(name for name in sources if name is not None)]
            specs |= {name: by_name[name] for name in names}
            seen_sizes = [case.outputs for case in proof.sizes]
            seen_sizes += [sample.outputs for sample in proof.samples]
            for name, limits in proof.stages.dimensions.items():
                sizes = [
                    values[spec.name].shape[axis]
                    for values in seen_sizes
                    for spec in specs.values()
                    for axis, size in enumerate(spec.shape)
                    if size == name
                ]
                # There may be none of what comes out, but here there always was.
                is_new = name not in dimensions and bool(sizes)
                least = min(limits.min or 1, *sizes) if is_new else limits.min
                dimensions[name] = replace(limits, min=least)
        for name in self.raw_names:
            value = self.model.inputs[name]
            specs[name] = TensorSpec(name, value.example.dtype.name, value.shape())
        return Constants(specs, dimensions)

    def values(self, case: LoopCase) -> dict[str, Array]:
        """What the step takes of a case that stays the same."""
        return {
            **{name: case.outputs[name] for name in self.constant_names},
            **{name: case.inputs[name] for name in self.raw_names},
        }


def constant_inputs(
    constants: Constants, values: Mapping[str, Array], names: Sequence[str]
) -> dict[str, Input]:
    """Constants of a step as inputs of its model, with ``values`` as the example."""
    return {
        name: Input(
            values[name],
            dynamic={
                axis: size
                for axis, size in enumerate(constants.specs[name].shape)
                if isinstance(size, str)
            },
        )
        for name in names
    }


def _names(text: str) -> frozenset[str]:
    from mmedge.constraints import parse

    return parse(text).names


def _names_in_file(path: Path) -> Mapping[str, str]:
    from mmedge_export.sources.onnx import load_file

    return load_file(path).normalized.inputs


def _taken(module: Any, names: Sequence[str], *, any_keyword: bool) -> list[str]:  # noqa: ANN401
    taken = parameters(module)
    if taken is None:
        in_file = _names_in_file(module)
        return [name for name in names if name in in_file]
    return [name for name in names if name in taken[0] or (taken[1] and any_keyword)]
