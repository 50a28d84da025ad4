"""A loop that generates tokens, on its way into a bundle.

It is long, since the steps of one proof share what they find out and stand in their order.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import ExportError
from mmedge.loop_spec import GenerateLoop, StateSpec
from mmedge_export.capture import probe_inputs, step_checks
from mmedge_export.capture.carried_state import first_state
from mmedge_export.capture.reference import open_run
from mmedge_export.capture.run_cache import RunCache
from mmedge_export.capture.token_steps import StepState, TokenSteps
from mmedge_export.inputs import Input
from mmedge_export.model import Model
from mmedge_export.partition.stages import count_flops, whole_stage
from mmedge_export.proof.content import tokenizer_path
from mmedge_export.proof.loop_parts import constant_inputs
from mmedge_export.proof.loop_proof import LoopProof, LoopSample
from mmedge_export.proof.network import prove

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.spec import Array
    from mmedge_export.capture.captured_graph import CapturedGraph
    from mmedge_export.capture.golden import Run
    from mmedge_export.capture.proof_options import ProofOptions
    from mmedge_export.capture.token_steps import TokenRun, TokenStep
    from mmedge_export.inputs import Limits
    from mmedge_export.loops import Generate
    from mmedge_export.partition.stages import ExportedStages
    from mmedge_export.proof.loop_parts import Constants, LoopCase, LoopParts
    from mmedge_export.proof.network import NetworkProof

__all__ = ["prove_generate"]

#: Steps of a run that are held against the network one by one, beside its tokens: all of the first
#: run unless a step is large, so many of each other; and bytes of states that all of them may have
#: together.
_FORCED, _FORCED_BYTES = 32, 512 << 20

#: Numbers that steps read in all, weights and inputs, beyond which golden ones alone are compared
#: at another batch size, and few of each further run: seconds of one core. And how many of such a
#: run.
_READS, _FEW = 1_000_000_000, 8

#: Bytes of golden scores in a bundle, about.
_SCORES = 8 << 20

#: The loop's own tokenizer in the bundle.
_TOKENIZER = "assets/loop.tokenizer.json"

#: Tokens before, and in, the example of a step. Neither is 0 or 1, which torch takes for constants.
_PAST, _NEW = 5, 3


def prove_generate(
    parts: LoopParts, proof: NetworkProof | None, folder: Path, options: ProofOptions
) -> LoopProof:
    """The step of a loop ``generate``, held against the network.

    Args:
        parts: the model, taken apart.
        proof: of what the step takes.
        folder: for files.
        options: how.

    Raises:
        ExportError: the step cannot be captured, is no step, or the graph computes something else.
    """
    return _GenerateExport(parts, proof, folder, options).prove()


class _GenerateExport:
    def __init__(
        self, parts: LoopParts, proof: NetworkProof | None, folder: Path, options: ProofOptions
    ) -> None:
        self.parts, self.folder, self.options = parts, folder, options
        self.loop: Generate = parts.loop  # type: ignore[assignment]
        self.constants: Constants = parts.constants(proof)
        self.cases: list[LoopCase] = parts.cases(proof)
        self.names = [*parts.constant_names, *parts.raw_names]
        stage_names = set() if proof is None else {stage.name for stage in proof.stages.stages}
        self.stage = "step"
        while self.stage in stage_names:
            self.stage += "_"
        self.token_shape = self._token_shape()
        self.shapes: dict[str, tuple[int | str, ...]] = {}
        self.axes: dict[str, int | None] = {}
        self.steps: TokenSteps

    def prove(self) -> LoopProof:
        """All steps."""
        loop, options = self.loop, self.options
        inputs = [*self.names, *loop.state, *loop.given]
        outputs = [loop.logits, *(value.output for value in self.parts.state_inputs.values())]
        module: Any = loop.step
        with open_run(module, inputs, outputs) as network:
            run = RunCache(network)
            options.tell("running the loop itself")
            self._find_shapes(run)
            model = self._model(run, outputs)
            example = {name: value.example for name, value in model.inputs.items()}
            first = self.cases[0]
            begin = (self.parts.values(first), self._first(first), self._begin(first))
            step_checks.check_generate(
                self.steps, network, example, options.tolerance, options.leave, begin
            )
            if loop.whole_prompt:
                options.leave(
                    "loop: tokens of a prompt see each other, so they were not compared with the "
                    "same tokens one after another"
                )
            else:
                step_checks.check_prefill(
                    self.steps,
                    run,
                    self.parts.values(first),
                    self._first(first),
                    self._tokens(run, first),
                    options.tolerance,
                )
            runs = [self._follow(run, number, case) for number, case in enumerate(self.cases)]
            takes_long = self._takes_long(runs)
            forced = [
                self._forced(number, each, _FEW if number and takes_long else _FORCED)
                for number, each in enumerate(runs)
            ]
            compared, count = sum(map(len, forced)), sum(each.count for each in runs)
            if compared < count:
                options.leave(
                    f"loop: of the {count} steps of golden runs {compared} were compared one by "
                    "one; the tokens of all of them were"
                )
            samples = [steps[0] for steps in forced]
            samples += [step for steps in forced for step in steps[1:]]
            model = replace(model, samples=[(step.feeds, None) for step in samples])
        proof = prove(
            model,
            self._choose,
            replace(options, samples=len(runs), few_batches=takes_long),
            [(step.feeds, step.outputs) for step in samples],
        )
        if loop.temperature:
            options.leave(
                f"tokens drawn at temperature {loop.temperature:g}: runs that take the best token "
                "were compared"
            )
        for case, golden in zip(self.cases, runs, strict=True):
            self._compare(case, golden, proof.stages.run)
        return LoopProof(
            proofs=(proof,),
            loop=self._spec(),
            samples=self._samples(proof, runs),
            cases=tuple(self.cases),
            states=self._states(),
            opt={str(self.token_shape[1]): 1} if self.steps.takes_many else {},
            first_states={
                name: value.initial
                for name, value in self.parts.state_inputs.items()
                if isinstance(value.initial, np.ndarray)
            },
            assets={} if loop.tokenizer is None else {_TOKENIZER: Path(loop.tokenizer)},
        )

    def _token_shape(self) -> tuple[int | str, ...]:
        loop, model = self.loop, self.parts.model
        if loop.token_shape is not None:
            return tuple(loop.token_shape)
        if loop.token in model.inputs:
            return model.inputs[loop.token].shape()
        batch: int | str = 1
        for spec in self.constants.specs.values():
            if spec.shape:
                batch = spec.shape[0]
                break
        new = "new"
        while new in self.constants.dimensions:
            new += "_"
        return (batch, new)

    def _batch(self, case: LoopCase) -> int:
        if self.loop.token in case.inputs:
            return len(case.inputs[self.loop.token])
        batch = self.token_shape[0]
        sizes = self.constants.sizes(self._all_values(case))
        if isinstance(batch, str) and batch not in sizes:
            raise ExportError(
                f"Generate: token_shape names {batch!r}, which is a dimension of nothing that the "
                f"step takes (there are: {', '.join(sizes) or 'none'}); give its size"
            )
        return sizes[batch] if isinstance(batch, str) else int(batch)

    def _all_values(self, case: LoopCase) -> dict[str, Array]:
        return {**case.outputs, **case.inputs}

    def _begin(self, case: LoopCase) -> Array:
        """The first tokens, [batch, new]."""
        batch = self._batch(case)
        start = np.tile(np.array(self.loop.start, np.int64), (batch, 1))
        prompt = case.inputs.get(self.loop.token)
        if prompt is None:
            return start
        return np.concatenate([start, prompt.astype(np.int64)], 1)

    def _first(self, case: LoopCase) -> dict[str, Array]:
        """What the first run takes as states."""
        values = self._all_values(case)
        batch = {str(self.token_shape[0]): self._batch(case)}
        sizes = {**batch, **self.constants.sizes(values)}
        states: dict[str, Array] = {}
        for name, value in self.parts.state_inputs.items():
            if value.source is not None:
                states[name] = values[value.source]
            else:
                states[name] = first_state(name, value, sizes)
        return states

    def _find_shapes(self, run: Run) -> None:
        """Shapes of states, by running the step once where an output says them."""
        case = self.cases[0]
        unknown_limits = dict.fromkeys(self.loop.state)
        axes: dict[str, int | None] = {}
        for name, value in self.parts.state_inputs.items():
            shape = self.constants.specs[value.source].shape if value.shape is None else value.shape  # type: ignore[index]
            self.shapes[name] = tuple(shape)
            axes[name] = None if value.grows is None else tuple(shape).index(value.grows)
        steps = TokenSteps(self.loop, (), self.token_shape, unknown_limits)
        states = self._first(case)
        piece = steps.pieces(self._begin(case))[0]
        outputs = run(steps.feeds(self.parts.values(case), states, piece, 0))
        step_checks.check_logits(self.loop, outputs[self.loop.logits], piece, self.token_shape)
        growing: dict[int, str] = {}
        for name, value in self.parts.state_inputs.items():
            if value.shape is not None:
                continue
            before, after = states[name].shape, outputs[value.output].shape
            different = [at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b]
            if len(before) == len(after) and len(different) == 1:
                (axis,) = different
                symbol = growing.setdefault(before[axis], self._free_name("past", growing))
                shape = list(self.shapes[name])
                shape[axis] = symbol
                self.shapes[name], axes[name] = tuple(shape), axis
        self.axes = axes
        self.steps = TokenSteps(
            self.loop,
            [StepState(n, v.output, axes[n]) for n, v in self.parts.state_inputs.items()],
            self.token_shape,
            {},
        )
        self.steps.advance(states, outputs)

    def _free_name(self, name: str, growing: Mapping[int, str]) -> str:
        names = {*self.constants.dimensions, *growing.values(), *map(str, self.token_shape)}
        while name in names:
            name += "_"
        return name

    def _total(self) -> int | None:
        """Most tokens that a run sees, its own and those that it begins with."""
        prompt: int | None = 0
        if (given := self.parts.model.inputs.get(self.loop.token)) is not None:
            size = given.shape()[1]
            prompt = self.constants.dimensions[size].max if isinstance(size, str) else size
        return None if prompt is None else len(self.loop.start) + prompt + self.loop.limit - 1

    def _tokens(self, run: Run, case: LoopCase) -> Array:
        """Tokens to be forced: those that a run begins with, and its own best ones, stops too."""
        begin = self._begin(case)
        wanted = _PAST + _NEW - begin.shape[1]
        if wanted <= 0:
            return begin[:, : _PAST + _NEW]
        result = self.steps.run(
            run, self.parts.values(case), self._first(case), begin, limit=wanted, stops=False
        )
        return np.concatenate([begin, result.tokens], 1)

    def _model(self, run: Run, outputs: Sequence[str]) -> Model:
        """The step as a network, with the example of a run in the middle."""
        case = self.cases[0]
        values, steps = self.parts.values(case), self.steps
        total = self._total()
        has_room = total is None or total >= _PAST + _NEW
        past, new = (_PAST, _NEW) if has_room else (2, 2)
        if not steps.takes_many:
            new = 1
        tokens = self._tokens(run, case)[:, : past + new]
        if tokens.shape[1] < past + new:
            raise ExportError(
                f"Generate: a run has room for {tokens.shape[1]} tokens; an example of a step "
                f"needs {past + new}: raise limit or dims"
            )
        pieces = [*steps.pieces(tokens[:, :past]), tokens[:, past:]]
        *_, last = steps.force(run, values, self._first(case), pieces)
        inputs = constant_inputs(self.constants, values, self.names)
        for name in self.loop.state:
            inputs[name] = _input(last.feeds[name], self.shapes[name])
        inputs[self.loop.token] = _input(last.feeds[self.loop.token], self.token_shape)
        if self.loop.position is not None:
            shape = self.loop.position_shape
            inputs[self.loop.position] = _input(
                last.feeds[self.loop.position],
                self.token_shape if shape is None else tuple(shape),
            )
        dims, constraints = self._limits(inputs, total, past + new)
        self.steps = TokenSteps(self.loop, steps.states, self.token_shape, self._most(dims))
        return Model(
            self.loop.step,
            inputs,
            list(outputs),
            dims=dims,
            constraints=constraints,
            name=self.stage,
            computed=frozenset((*self.parts.constant_names, *self.loop.state)),
            state_outputs={n: value.output for n, value in self.parts.state_inputs.items()},
        )

    def _limits(
        self, inputs: Mapping[str, Input], total: int | None, example: int
    ) -> tuple[dict[str, Limits], list[str]]:
        """Limits of the step's dimensions, and what keeps a run within them."""
        names = {size for value in inputs.values() for size in value.dynamic.values()}
        dims: dict[str, Limits] = {}
        constraints: list[str] = []
        new = self.token_shape[1] if self.steps.takes_many else None
        for name, known in self.constants.dimensions.items():
            if name in names:
                dims[name] = (known.min, known.max, known.multiple)
        for name, state in self.parts.state_inputs.items():
            axis = self.axes[name]
            if axis is None:
                continue
            symbol = str(self.shapes[name][axis])
            least = 0 if isinstance(state.initial, str) and state.initial == "empty" else 1
            bounded = total if least == 0 else None
            # The last run of a step that takes one token follows all tokens but that one.
            dims[symbol] = (least, bounded if bounded is None or new else max(bounded - 1, 1))
            if bounded is not None and new is not None and example <= bounded:
                constraints.append(f"{symbol} + {new} <= {bounded}")
        if new is not None and str(new) not in dims:
            dims[str(new)] = (1, None)
        for name, limits in self.loop.dims.items():
            if name not in names:
                raise ExportError(
                    f"Generate: dims names {name!r}, but the step has no dynamic dimension of that "
                    f"name (there are: {', '.join(sorted(names))})"
                )
            dims[name] = limits
            constraints = [text for text in constraints if not text.startswith(f"{name} +")]
            axes = [n for n, a in self.axes.items() if a is not None and self.shapes[n][a] == name]
            if axes and new is not None and limits[1] is not None and example <= limits[1]:
                constraints.append(f"{name} + {new} <= {limits[1]}")
        return dims, list(dict.fromkeys(constraints))

    def _most(self, dims: Mapping[str, Limits]) -> dict[str, int | None]:
        """The largest size of each state after a run, along the axis in which it grows."""
        added = 0 if self.steps.takes_many else 1
        limits = {
            name: dims[str(self.shapes[name][axis])][1]
            for name, axis in self.axes.items()
            if axis is not None
        }
        return {name: None if most is None else most + added for name, most in limits.items()}

    def _follow(self, run: Run, number: int, case: LoopCase) -> TokenRun:
        """A whole greedy run of the network itself."""
        try:
            return self.steps.run(
                run,
                self.parts.values(case),
                self._first(case),
                self._begin(case),
                limit=self.loop.limit,
                keep_bytes=_FORCED_BYTES // len(self.cases),
                keep_first=2 + number,
            )
        except ExportError as error:
            raise ExportError(
                f"Generate: {case.what}: a run of at most {self.loop.limit} tokens does not reach "
                f"its end: {error}; if the step has room for fewer tokens, lower limit"
            ) from error

    def _forced(self, number: int, run: TokenRun, most: int) -> list[TokenStep]:
        """Steps of a run: the golden one first."""
        golden = min(1 + number, run.count - 1)
        rest = [step for at, step in run.steps.items() if at != golden]
        if (number or self.parts.is_large) and len(rest) > most:
            at = np.linspace(0, len(rest) - 1, most).round().astype(int)
            rest = [rest[index] for index in at]
        return [run.steps[golden], *rest]

    def _takes_long(self, runs: Sequence[TokenRun]) -> bool:
        """Whether steps read so much that fewer of them are compared."""
        steps = [step for each in runs for step in each.steps.values()]
        values = sum(value.size for step in steps for value in step.feeds.values())
        return self.parts.is_large or values + len(steps) * self.parts.step_weights > _READS

    def _choose(
        self,
        graph: CapturedGraph,
        model: Model,
        example: Mapping[str, Array],
        outputs: Mapping[str, Array],
    ) -> ExportedStages:
        # As in most runs: one token.
        one = {str(self.token_shape[1]): 1} if self.steps.takes_many else {}
        one_token = probe_inputs.resize(model, example, one)
        flops, remarks = count_flops(graph.model, one_token, self.names)
        stages = whole_stage(
            graph, model, outputs, self.folder / "step", remarks, flops, name=self.stage
        )
        return replace(stages, counted_at=one)

    def _compare(self, case: LoopCase, golden: TokenRun, graph: Run) -> None:
        """Tokens of the graph's own run against the network's."""
        result = self.steps.run(
            graph,
            self.parts.values(case),
            self._first(case),
            self._begin(case),
            limit=self.loop.limit,
        )
        step_checks.compare_tokens(self.steps, case.what, golden, result, self.options)

    def _samples(self, proof: NetworkProof, runs: Sequence[TokenRun]) -> tuple[LoopSample, ...]:
        names = [*self.loop.state, *self.loop.given]
        budget = _SCORES // max(len(runs), 1)
        samples = []
        for sample, run in zip(proof.samples, runs, strict=True):
            count = max(min(len(run.scores), budget // max(run.scores[0].nbytes, 1)), 1)
            samples.append(
                LoopSample(
                    {name: sample.inputs[name] for name in names},
                    sample.outputs,
                    {"tokens": run.tokens, "logits": np.stack(run.scores[:count], 1)},
                )
            )
        return tuple(samples)

    def _states(self) -> tuple[StateSpec, ...]:
        specs = []
        for name, value in self.parts.state_inputs.items():
            initial: Any = "stored" if isinstance(value.initial, np.ndarray) else value.initial
            if value.source is not None:
                initial = "output"
            specs.append(
                StateSpec(
                    self.stage, name, value.output, self.axes[name], initial, source=value.source
                )
            )
        return tuple(specs)

    def _tokenizer(self) -> str | None:
        """What makes text of tokens: the loop's own file, or that of the caller's text."""
        prompt = self.parts.model.inputs.get(self.loop.token)
        if self.loop.tokenizer is not None:
            return _TOKENIZER
        if prompt is None or prompt.tokenizer is None:
            return None
        groups = self.parts.model.modalities()
        modality = next(name for name, names in groups.items() if self.loop.token in names)
        return tokenizer_path(modality)

    def _spec(self) -> GenerateLoop:
        loop = self.loop
        return GenerateLoop(
            kind="generate",
            stage=self.stage,
            token=loop.token,
            logits=loop.logits,
            limit=loop.limit,
            position=loop.position,
            start=tuple(loop.start),
            stop=tuple(loop.stop),
            suppress=tuple(loop.suppress),
            suppress_first=tuple(loop.suppress_first),
            temperature=float(loop.temperature),
            top_k=loop.top_k,
            top_p=float(loop.top_p),
            tokenizer=self._tokenizer(),
            whole_prompt=loop.whole_prompt,
        )


def _input(value: Array, shape: Sequence[int | str]) -> Input:
    return Input(value, dynamic={a: n for a, n in enumerate(shape) if isinstance(n, str)})
