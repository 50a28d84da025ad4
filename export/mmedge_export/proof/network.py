"""One network becomes a graph in stages that is proven to compute it: trace, cut, check.

A bundle has one such network, or several: what is computed once for a call, and what a loop runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge.spec import Array, Range, Sample
from mmedge_export.capture import parity, probe_inputs
from mmedge_export.capture.captured_graph import CapturedGraph
from mmedge_export.capture.case import ParityCase
from mmedge_export.capture.coverage import (
    Coverage,
    beyond,
    least_integer,
    to_vary,
    variations,
    wider,
)
from mmedge_export.capture.finite import check_outputs, check_weights
from mmedge_export.capture.golden import (
    absences,
    checked,
    every,
    golden,
    has_other_sizes,
    make_up,
)
from mmedge_export.capture.limits import Limits
from mmedge_export.capture.reference import open_reference
from mmedge_export.capture.run_cache import RunCache
from mmedge_export.capture.run_size import RunSize
from mmedge_export.capture.try_sizes import try_sizes
from mmedge_export.partition.simplify import simplify
from mmedge_export.partition.stages import remark_of_failure
from mmedge_export.passes.guard_division import GuardDivisionPass

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from mmedge.spec import Tolerance
    from mmedge_export.capture.proof_options import ProofOptions, Tell
    from mmedge_export.model import Model
    from mmedge_export.partition.stages import ExportedStages

__all__ = ["ChooseStages", "NetworkProof", "prove"]

#: Makes the stages of a captured graph, given the network, and the example's inputs and outputs.
ChooseStages = Callable[
    ["CapturedGraph", "Model", Mapping[str, Array], Mapping[str, Array]], "ExportedStages"
]


@dataclass(frozen=True)
class NetworkProof:
    """A network's stages, and what they were held against.

    Attributes:
        model: the network; of an ONNX file with the examples and sizes that it takes.
        graph: of all of it.
        stages: made of the graph.
        samples: golden samples, with the network's own outputs.
        absent: the example without optional modalities.
        outputs: those of the example.
        sizes: the example at other sizes that the network takes.
        limits: what the graph assumes of sizes.
        ranges: what the inputs held in the samples that were given.
        remarks: what a user may notice of how an ONNX file was taken.
        worst: the largest relative difference of an output.
    """

    model: Model
    graph: CapturedGraph
    stages: ExportedStages
    samples: tuple[Sample, ...]
    absent: tuple[Sample, ...]
    outputs: Mapping[str, Array]
    sizes: tuple[ParityCase, ...]
    limits: Limits
    ranges: Mapping[str, Range]
    remarks: tuple[str, ...]
    worst: float

    def all_samples(self) -> tuple[Sample, ...]:
        """The golden samples of a bundle, with every stage's outputs."""
        return tuple(
            Sample(
                sample.inputs,
                {**sample.outputs, **self.stages.boundary_tensors(sample.inputs)},
            )
            for sample in (*self.samples, *self.absent)
        )


def prove(
    model: Model,
    choose_stages: ChooseStages,
    options: ProofOptions,
    runs: Sequence[tuple[Mapping[str, Array], Mapping[str, Array]]] = (),
) -> NetworkProof:
    """Capture a network, make its stages, and hold them against it.

    Args:
        model: the network.
        choose_stages: makes the stages.
        options: how.
        runs: inputs and outputs of the network that were made of it before.

    Raises:
        ExportError: as :func:`mmedge_export.export_bundle.export`.
    """
    tell, leave, tolerance = options.tell, options.leave, options.tolerance
    if not options.allow_nan:
        check_weights(model)
    with open_reference(model) as network:
        tell("running the network itself")
        for remark in network.remarks:
            tell(f"  {remark}")
        model = network.model
        if model.made_up is not None:
            leave("the example is made up; --example FILE gives a real one")
        values = probe_inputs.example(model)
        outputs = network.repeated(values, tolerance, leave)
        run_network = RunCache(network.run, known=runs)
        run_network.add(values, outputs)
        if not options.allow_nan:
            check_outputs(model, outputs, "the example")
        absent = absences(model, run_network, outputs, leave)
        ranges: dict[str, Range] = {}
        samples_given = _record_ranges(model, checked(model), ranges)
        least = least_integer(network.graph)
        samples: list[Sample] = []
        if samples_given is not None:
            samples = golden(
                model, run_network, samples_given, options.samples, allow_nan=options.allow_nan
            )
        base = ParityCase("the example", values, outputs)
        tell("tracing")
        graph = network.trace(options.opset)
        limits = Limits(graph.relations, model.domain())
        for check in graph.checks:
            leave(f"what the network checks of values at {check}: the graphs do not make the check")
        GuardDivisionPass()(graph.model)
        exported_stages, run_graph = _make_stages(graph, choose_stages, model, base, tolerance)
        for omission in exported_stages.not_checked:
            leave(omission)
        tell("checking the graph against the network")
        size = RunSize(model, exported_stages.flops(), exported_stages.counted_at)
        if samples_given is None:
            samples = make_up(model, run_network, options.samples, size, leave, least=least)
        parity_check = parity.ParityCheck(graph, run_graph, tolerance)
        compared_cases: list[ParityCase] = []

        def note(case: ParityCase, results: Mapping[str, Array]) -> None:
            parity_check.add(case, results)
            compared_cases.append(case)

        size_cases = try_sizes(
            model,
            limits,
            run_network,
            run_graph,
            tolerance,
            leave,
            size=size,
            varied=has_other_sizes(model, samples),
            least=least,
            note=note,
        )
        is_compared = set(map(id, compared_cases))
        parity_check.check(
            case for case in (base, *absent, *size_cases) if id(case) not in is_compared
        )
        coverage, unproven = Coverage(model), list[str]()

        def varied() -> Iterator[ParityCase]:
            """What the samples, all of them checked by now, kept constant."""
            unproven.extend(to_vary(model, coverage.constant()))
            yield from variations(model, run_network, base, unproven, leave, least=least)
            if coverage.silent():
                yield from wider(model, run_network, base)

        all_samples = every(
            model,
            run_network,
            samples,
            samples_given,
            tell,
            leave,
            size,
            few_batches=options.few_batches,
        )
        parity_check.check(coverage.watch(chain(all_samples, varied())))
        parity.check_operators(
            graph, _operator_cases(model, base, size_cases, size, leave), tolerance, leave
        )
        for case in beyond(model, run_network, base):
            try:
                parity.check(graph, run_graph, [case], tolerance)
            except ExportError as fault:
                leave(f"{case.what}: there the graph is another function ({fault})")
        for finding in coverage.findings():
            leave(finding)
    return NetworkProof(
        model=model,
        graph=graph,
        stages=exported_stages,
        samples=tuple(samples),
        absent=tuple(Sample(case.inputs, case.outputs) for case in absent),
        outputs=outputs,
        sizes=tuple(size_cases),
        limits=limits,
        ranges=ranges,
        remarks=network.remarks,
        worst=parity_check.worst(),
    )


def _make_stages(
    graph: CapturedGraph,
    choose_stages: ChooseStages,
    model: Model,
    example: ParityCase,
    tolerance: Tolerance,
) -> tuple[ExportedStages, RunCache]:
    """Stages of the simplified graph; of the graph itself, with a remark, where that fails."""

    def check(model_graph: ir.Model, run: RunCache) -> None:
        parity.check(CapturedGraph(model_graph), run, [example], tolerance)

    try:
        simple = replace(graph, model=simplify(graph.model, model))
        stages = choose_stages(simple, model, example.inputs, example.outputs)
        run = RunCache(stages.run)
        check(simple.model, run)
    except Exception as error:  # noqa: BLE001 - a cheaper graph is never worth an export
        stages = choose_stages(graph, model, example.inputs, example.outputs)
        run = RunCache(stages.run)
        try:
            check(graph.model, run)
        except ExportError:
            return stages, run  # it is the graph that is wrong: the checks that follow say more
        remark = remark_of_failure("simplifying the graph", error)
        stages = replace(stages, cut=replace(stages.cut, remarks=(*stages.cut.remarks, remark)))
    return stages, run


def _operator_cases(
    model: Model,
    example: ParityCase,
    cases: Sequence[ParityCase],
    size: RunSize,
    leave: Tell,
) -> list[ParityCase]:
    """The example, and the last case at another size.

    Where a run of one of them is large, the last case whose run is not stands in its place, or else
    the smallest.
    """
    sizes_of = {id(case): probe_inputs.sizes(model, case.inputs) for case in (example, *cases)}
    small = [case for case in cases if not size.is_large(sizes_of[id(case)])]
    smallest = min((example, *cases), key=lambda case: size.operations(sizes_of[id(case)]))
    chosen: list[ParityCase] = []
    skipped: list[ParityCase] = []
    for wanted in (example, *cases[-1:]):
        case = wanted
        if size.is_large(sizes_of[id(case)]):
            case = small[-1] if small else smallest
        if case is not wanted:
            skipped.append(wanted)
        if all(case is not other for other in chosen):
            chosen.append(case)
    if skipped:
        most = max(size.operations(sizes_of[id(case)]) for case in skipped)
        leave(
            "the operators inside the graph, each on its own, for "
            f"{' and '.join(case.what for case in skipped)}: a run takes {most:,} operations; they "
            f"were for {' and '.join(case.what for case in chosen)}"
        )
    return chosen


def _record_ranges(
    model: Model, samples: Iterator[dict[str, Array]] | None, ranges: dict[str, Range]
) -> Iterator[dict[str, Array]] | None:
    """``samples``, and in ``ranges`` what each input of numbers held so far (no token ids)."""
    if samples is None:
        return None
    tokens = {
        name
        for names in model.modalities().values()
        if any(model.inputs[n].tokenizer is not None for n in names)
        for name in names
    }

    latest: dict[str, Array] = {}  # constants of a loop are the same array in each step

    def watched() -> Iterator[dict[str, Array]]:
        for inputs in samples:
            for name, value in inputs.items():
                if name not in tokens and value.dtype != np.bool_ and latest.get(name) is not value:
                    latest[name] = value
                    _widen(ranges, name, value)
            yield inputs

    return watched()


def _widen(ranges: dict[str, Range], name: str, value: Array) -> None:
    if not value.size:
        return
    low, high = float(value.min()), float(value.max())
    if not np.isfinite(low + high):
        finite = value[np.isfinite(value)]
        if not finite.size:
            return
        low, high = float(finite.min()), float(finite.max())
    before = ranges.get(name, Range(low, high))
    ranges[name] = Range(min(low, before.min), max(high, before.max))
