"""A loop that makes a latent out of noise, on its way into a bundle.

It is long, since the steps of one proof share what they find out and stand in their order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import ExportError
from mmedge.execution.denoise import DenoiseRun
from mmedge.execution.random_numbers import normal
from mmedge.loop_spec import DenoiseLoop
from mmedge.spec import DTYPES, Dimension, Manifest, Stage, TensorSpec
from mmedge.tolerance import difference
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.reference import open_run
from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.partition.stages import count_flops, whole_stage
from mmedge_export.proof.loop_parts import constant_inputs
from mmedge_export.proof.loop_proof import LoopProof, LoopSample
from mmedge_export.proof.network import prove

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmedge.spec import Array
    from mmedge_export.capture.captured_graph import CapturedGraph
    from mmedge_export.capture.golden import Run
    from mmedge_export.capture.proof_options import ProofOptions
    from mmedge_export.inputs import Limits
    from mmedge_export.loops import Denoise
    from mmedge_export.partition.stages import ExportedStages
    from mmedge_export.proof.loop_parts import Constants, LoopCase, LoopParts
    from mmedge_export.proof.network import ChooseStages, NetworkProof

__all__ = ["prove_denoise"]

#: Steps of a run that are held against the network one by one, beside the latents.
_FORCED = 32


@dataclass(frozen=True)
class _Run:
    """A whole run: its noise, what each step took, and latents after the first, middle and last."""

    noise: Array
    feeds: tuple[Mapping[str, Array], ...]
    latents: tuple[Array, ...]


def prove_denoise(
    parts: LoopParts, proof: NetworkProof | None, folder: Path, options: ProofOptions
) -> LoopProof:
    """The step of a loop ``denoise``, and its decoder, held against the networks.

    Args:
        parts: the model, taken apart.
        proof: of what the step takes.
        folder: for files.
        options: how.

    Raises:
        ExportError: a network cannot be captured, is no step, or the graph computes something else.
    """
    return _DenoiseExport(parts, proof, folder, options).prove()


class _DenoiseExport:
    def __init__(
        self, parts: LoopParts, proof: NetworkProof | None, folder: Path, options: ProofOptions
    ) -> None:
        self.parts, self.folder, self.options, self.module = parts, folder, options, proof
        self.loop: Denoise = parts.loop  # type: ignore[assignment]
        self.constants: Constants = parts.constants(proof)
        self.cases: list[LoopCase] = parts.cases(proof)
        self.names = [*parts.constant_names, *parts.raw_names]
        taken = set() if proof is None else {stage.name for stage in proof.stages.stages}
        self.stage = _unused("step", taken)
        self.decoder_stage = _unused("decoder", {*taken, self.stage})
        self.specs = self._specs()
        self.unconditional = self._unconditional()

    def prove(self) -> LoopProof:
        """All steps."""
        loop, options = self.loop, self.options
        module: Any = loop.step
        with open_run(module, [spec.name for spec in self.specs], [loop.prediction]) as run:
            options.tell("running the loop itself")
            first = self._values(self.cases[0])
            self._check(run, first)
            runs = [self._follow(run, number, case) for number, case in enumerate(self.cases)]
            model = self._model(runs)
        proof = prove(
            model,
            self._one_stage(self.stage, self.folder / "step"),
            replace(options, samples=len(runs)),
        )
        if loop.guidance is not None and not any(
            np.any(first[name] != value) for name, value in self.unconditional.items()
        ):
            options.leave("unconditional: it is the same as the first sample's own")
        for number, (case, golden) in enumerate(zip(self.cases, runs, strict=True)):
            self._compare(case, golden, self._follow(proof.stages.run, number, case))
        proofs = [proof]
        decoded: tuple[Mapping[str, Array], ...] = ({},) * len(runs)
        if loop.decoder is not None:
            decoder = prove(
                self._decoder_model(runs),
                self._one_stage(self.decoder_stage, self.folder / "decoder"),
                replace(options, samples=len(runs)),
            )
            proofs.append(decoder)
            decoded = tuple(sample.outputs for sample in decoder.samples)
        return LoopProof(
            proofs=tuple(proofs),
            loop=self._spec(),
            samples=tuple(
                LoopSample(
                    {name: sample.inputs[name] for name in loop.given},
                    {**sample.outputs, **further},
                    {"noise": each.noise, "latents": np.stack(each.latents)},
                )
                for sample, each, further in zip(proof.samples, runs, decoded, strict=True)
            ),
            cases=tuple(self.cases),
            unconditional=self.unconditional,
        )

    def _specs(self) -> tuple[TensorSpec, ...]:
        """What the step takes."""
        loop = self.loop
        symbols = {
            size
            for name in self.names
            for size in self.constants.specs[name].shape
            if isinstance(size, str)
        }
        for name in (size for size in loop.shape if isinstance(size, str)):
            if name not in symbols and name not in loop.sizes:
                raise ExportError(
                    f"Denoise: shape names {name!r}, which nothing that the step takes has (there "
                    f"are: {', '.join(sorted(symbols)) or 'none'}); give its usual size, "
                    f'sizes={{"{name}": ...}}'
                )
        return (
            *(self.constants.specs[name] for name in self.names),
            TensorSpec(loop.latent, "float32", tuple(loop.shape)),
            TensorSpec(loop.time, str(loop.time_dtype), tuple(loop.time_shape)),
        )

    def _limits(self) -> dict[str, Dimension]:
        dimensions = dict(self.constants.dimensions)
        for name, size in self.loop.sizes.items():
            dimensions.setdefault(name, Dimension(1, size))
        for name, limits in self.loop.dims.items():
            if name not in dimensions:
                raise ExportError(
                    f"Denoise: dims names {name!r}, but the step has no dynamic dimension of that "
                    f"name (there are: {', '.join(sorted(dimensions)) or 'none'})"
                )
            dimensions[name] = Dimension(limits[0], dimensions[name].opt, limits[1])
        return dimensions

    def _values(self, case: LoopCase) -> dict[str, Array]:
        return self.parts.values(case)

    def _unconditional(self) -> dict[str, Array]:
        """What stands for constants in a run without condition, with one row."""
        given = self.loop.unconditional
        if not given:
            return {}
        first = self.cases[0]
        tensors: Mapping[str, Array] = given
        if next(iter(given)) in self.parts.model.inputs:
            if self.module is None:
                raise ExportError("Denoise: unconditional names inputs, but no module takes them")
            network = self.module.model
            module: Any = network.module
            sizes = {
                symbol: given[name].shape[axis]
                for name, value in network.inputs.items()
                if name in given
                for axis, symbol in value.dynamic.items()
            }
            inputs = {name: first.inputs[name] for name in self.parts.module_inputs}
            inputs = probe_inputs.resize(network, inputs, sizes)
            with open_run(module, self.parts.module_inputs, network.outputs) as run:
                usual, outputs = run(inputs), run({**inputs, **given})
            changed = [n for n in self.parts.constant_names if not _equal(outputs[n], usual[n])]
            tensors = {name: outputs[name] for name in changed}
        tensors = {name: tensors[name] for name in self.parts.constant_names if name in tensors}
        if not tensors:
            raise ExportError(
                f"Denoise: unconditional gives {', '.join(given)}, but nothing that the step takes "
                "changes with it: guidance would do nothing"
            )
        return {name: self._row(name, value) for name, value in tensors.items()}

    def _row(self, name: str, value: Array) -> Array:
        """A stored tensor has one row, which a call of any size repeats."""
        spec = self.constants.specs[name]
        batch = spec.shape[0] if spec.shape else 1
        limits = self.constants.dimensions.get(batch) if isinstance(batch, str) else None
        if limits is None or limits.min > 1 or value.shape[0] < 2:
            return value
        if not np.array_equal(value, np.broadcast_to(value[:1], value.shape)):
            raise ExportError(
                f"Denoise: unconditional {name!r} has rows that differ; give one row, which stands "
                "for all"
            )
        return value[:1]

    def _manifest(self) -> Manifest:
        """As much of a manifest as a run needs."""
        loop = replace(self._spec(), decoder=None)
        outputs = (TensorSpec(self.loop.prediction, "float32", tuple(self.loop.shape)),)
        stage = Stage(self.stage, "", self.specs, outputs)
        given = Stage("given", "", (), tuple(self.constants.specs[name] for name in self.names))
        return Manifest("loop", (), (stage, given), (), (), {}, self._limits(), loops=(loop,))

    def _follow(self, run: Run, number: int, case: LoopCase) -> _Run:
        """A whole run, from noise that is the case's own."""
        manifest = self._manifest()
        values = self._values(case)
        sizes = {name: limits.opt for name, limits in manifest.dimensions.items()}
        sizes |= self.constants.sizes({**case.outputs, **case.inputs})
        shape = [sizes[size] if isinstance(size, str) else size for size in self.loop.shape]
        noise = normal(number + 1, 0, int(np.prod(shape))).reshape(shape)
        feeds: list[Mapping[str, Array]] = []

        def watched(inputs: Mapping[str, Array]) -> dict[str, Array]:
            # What the loop gives is written to in place, the rest stays.
            given = {name: np.array(inputs[name]) for name in self.loop.given}
            feeds.append({**inputs, **given})
            return run(inputs)

        steps = DenoiseRun(
            manifest,
            {self.stage: watched},
            values,
            unconditional=self.unconditional,
            noise=noise,
        )
        count = len(self.loop.schedule.rows)
        wanted = (0, (count - 1) // 2, count - 1)
        latents = {step.index: step.latent for step in steps if step.index in wanted}
        return _Run(noise, tuple(feeds), tuple(latents[index] for index in wanted))

    def _check(self, run: Run, values: Mapping[str, Array]) -> None:
        """Refuse a module that is no step."""
        loop = self.loop
        sizes = {name: limits.opt for name, limits in self._limits().items()}
        sizes |= self.constants.sizes(values)
        shape = [sizes[size] if isinstance(size, str) else size for size in loop.shape]
        rng = np.random.default_rng(0)
        latent = rng.standard_normal(shape).astype(np.float32)
        time_shape = [sizes.get(s, 1) if isinstance(s, str) else s for s in loop.time_shape]
        rows = loop.schedule.rows
        times = [np.full(time_shape, row[0], DTYPES[str(loop.time_dtype)]) for row in rows]
        feeds = {**values, loop.latent: latent, loop.time: times[0]}
        prediction = run(feeds)[loop.prediction]
        if prediction.dtype != np.float32 or prediction.shape != latent.shape:
            raise ExportError(
                f"Denoise: {loop.prediction!r} is {prediction.dtype} {list(prediction.shape)}; "
                f"expected float32 {shape}, as the latent is"
            )
        if np.array_equal(run({**feeds, loop.latent: latent + 1})[loop.prediction], prediction):
            raise ExportError(
                f"Denoise: {loop.prediction!r} stays the same whatever {loop.latent!r} is; use the "
                "latent in step"
            )
        if rows[0][0] != rows[-1][0]:
            last = run({**feeds, loop.time: times[-1]})[loop.prediction]
            if np.array_equal(last, prediction):
                self.options.leave(
                    f"{loop.time!r}: {loop.prediction!r} does not depend on it in the first sample"
                )

    def _model(self, runs: Sequence[_Run]) -> Model:
        """The step as a network, with the example of a step in the middle of a run."""
        feeds = [each.feeds for each in runs]
        middle = feeds[0][len(feeds[0]) // 2]
        inputs = constant_inputs(self.constants, middle, self.names)
        for spec in self.specs[len(self.names) :]:
            dynamic = {a: n for a, n in enumerate(spec.shape) if isinstance(n, str)}
            inputs[spec.name] = Input(middle[spec.name], dynamic=dynamic)
        samples = [self._golden(number, each) for number, each in enumerate(runs)]
        for number, each in enumerate(feeds):
            count = len(each) if number == 0 else min(len(each), _FORCED)
            at = np.linspace(0, len(each) - 1, count).round().astype(int)
            samples += [each[index] for index in at]
        compared, count = len(samples) - len(feeds), sum(map(len, feeds))
        if compared < count:
            self.options.leave(
                f"loop: of the {count} steps of golden runs {compared} were compared one by one, "
                "and of each run the latent after its first, middle and last step"
            )
        return Model(
            self.loop.step,
            inputs,
            [self.loop.prediction],
            samples=[(values, None) for values in samples],
            dims=self._dims(inputs),
            name=self.stage,
            computed=frozenset(self.parts.constant_names),
        )

    def _golden(self, number: int, run: _Run) -> Mapping[str, Array]:
        """What a step of a run took, with the sample's own constants."""
        runs_of_step = 1 if self.loop.guidance is None else 2
        return run.feeds[runs_of_step * (number % (len(run.feeds) // runs_of_step))]

    def _dims(self, inputs: Mapping[str, Input]) -> dict[str, Limits]:
        names = {size for value in inputs.values() for size in value.dynamic.values()}
        return {
            name: (limits.min, limits.max, limits.multiple)
            for name, limits in self._limits().items()
            if name in names
        }

    def _one_stage(self, name: str, folder: Path) -> ChooseStages:
        """Makes the stage of a captured network, whole."""

        def choose(
            graph: CapturedGraph,
            model: Model,
            example: Mapping[str, Array],
            outputs: Mapping[str, Array],
        ) -> ExportedStages:
            constants = [name for name in self.names if name in model.inputs]  # a decoder has none
            flops, remarks = count_flops(graph.model, example, constants)
            return whole_stage(graph, model, outputs, folder, remarks, flops, name=name)

        return choose

    def _decoder_model(self, runs: Sequence[_Run]) -> Model:
        """The decoder as a network, on latents of golden steps, then on the last ones."""
        dynamic = {a: n for a, n in enumerate(self.loop.shape) if isinstance(n, str)}
        name = self.loop.latent
        inputs = {name: Input(runs[0].latents[-1], dynamic=dynamic)}
        golden = [self._golden(number, each)[name] for number, each in enumerate(runs)]
        latents = [*golden, *(each.latents[-1] for each in runs)]
        return Model(
            self.loop.decoder,
            inputs,
            list(self.loop.outputs),
            samples=[({name: latent}, None) for latent in latents],
            dims=self._dims(inputs),
            name=self.decoder_stage,
        )

    def _compare(self, case: LoopCase, golden: _Run, result: _Run) -> None:
        """Latents of the graph's own run against the network's."""
        count = len(self.loop.schedule.rows)
        places = (0, (count - 1) // 2, count - 1)
        for step, expected, got in zip(places, golden.latents, result.latents, strict=True):
            deviation = difference(got, expected, self.options.tolerance)
            if not deviation.passes:
                distance = np.abs(np.subtract(got, expected, dtype=np.float64))
                at = np.unravel_index(distance.argmax(), got.shape)
                raise ExportError(
                    f"the graph does not denoise as the network does: {case.what}, latent after "
                    f"step {step} of {count} {deviation}: {got[at]:.7g} in the graph, "
                    f"{expected[at]:.7g} in the network, at {list(map(int, at))}. Each step by "
                    "itself agrees; the differences add up: allow more with rtol, or take fewer "
                    "steps"
                )

    def _spec(self) -> DenoiseLoop:
        loop = self.loop
        return DenoiseLoop(
            kind="denoise",
            stage=self.stage,
            latent=loop.latent,
            time=loop.time,
            prediction=loop.prediction,
            schedule=loop.schedule.rows,
            initial_scale=loop.schedule.initial_scale,
            clip=loop.clip,
            guidance=loop.guidance,
            unconditional=tuple(getattr(self, "unconditional", ())),
            decoder=None if loop.decoder is None else self.decoder_stage,
        )


def _unused(name: str, names: set[str]) -> str:
    while name in names:
        name += "_"
    return name


def _equal(one: Array, other: Array) -> bool:
    return one.shape == other.shape and bool(np.array_equal(one, other))
