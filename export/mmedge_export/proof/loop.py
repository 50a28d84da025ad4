"""A network with a loop, on its way into a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.spec import Cut, Plan, Sample
from mmedge_export.onnx_graph.share_weights import share_weights
from mmedge_export.proof.content import BundleContent
from mmedge_export.proof.loop_parts import LoopParts
from mmedge_export.proof.network import prove
from mmedge_export.proof.single_run import choose_stages, name_modality

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array, Dimension
    from mmedge_export.capture.captured_graph import CapturedGraph
    from mmedge_export.capture.proof_options import ProofOptions
    from mmedge_export.model import Model
    from mmedge_export.partition.stages import ExportedStages
    from mmedge_export.proof.loop_proof import LoopProof
    from mmedge_export.proof.network import NetworkProof

__all__ = ["prove_loop"]

#: Work below which an encoder is no stage of its own: it runs once for all steps, so that any pays.
_LEAST_FLOPS = 1

#: Golden runs of a loop with a large step where the user gives none: each takes all of its steps.
_LARGE_RUNS = 2


def prove_loop(
    model: Model, folder: Path, options: ProofOptions, *, split: bool | None
) -> BundleContent:
    """What a bundle says of a network with a loop.

    Args:
        model: the network; it has a loop.
        folder: for files.
        options: how it is held against its graphs.
        split: False: what ``module`` makes is one stage. It is cut otherwise, and cut alone, since
            it runs once for many steps.

    Raises:
        ExportError: as :func:`mmedge_export.export_bundle.export`.
    """
    if model.made_up is not None:
        options.leave("the example is made up; --example FILE gives a real one")
    parts = LoopParts(model, options.samples)
    parts.check_inputs()
    if parts.is_large and model.samples is None and options.samples > _LARGE_RUNS:
        options.leave(
            f"loop: more than {_LARGE_RUNS} made-up runs: a step has {parts.step_weights:,} weights"
        )
        options = replace(options, samples=_LARGE_RUNS)
        parts = LoopParts(model, options.samples)
    proof = (
        None
        if model.module is None
        else _prove_module(parts, folder / "module", options, split=split)
    )
    if parts.loop.kind == "generate":
        from mmedge_export.proof.generate import prove_generate as prove_step
    else:
        from mmedge_export.proof.denoise import prove_denoise as prove_step
    steps = prove_step(parts, proof, folder, options)
    if parts.further_samples:
        options.leave(
            f"loop: no run began with the {parts.further_samples} samples after the golden ones"
        )
    return _content(parts, proof, steps, folder, options)


def _prove_module(
    parts: LoopParts, folder: Path, options: ProofOptions, *, split: bool | None
) -> NetworkProof:
    options.tell("the network's constants")

    def choose(
        graph: CapturedGraph,
        model: Model,
        example: Mapping[str, Array],
        outputs: Mapping[str, Array],
    ) -> ExportedStages:
        stages = choose_stages(
            graph,
            model,
            example,
            outputs,
            folder,
            split=split is not False,
            tell=options.tell,
            least_flops=_LEAST_FLOPS,
        )
        return name_modality(model, stages)

    return prove(parts.module_model(), choose, options)


def _content(
    parts: LoopParts,
    proof: NetworkProof | None,
    steps: LoopProof,
    folder: Path,
    options: ProofOptions,
) -> BundleContent:
    model = parts.model
    if proof is not None:
        model = replace(
            model,
            inputs={n: proof.model.inputs.get(n, value) for n, value in model.inputs.items()},
        )
    proofs = [*(() if proof is None else (proof,)), *steps.proofs]
    dimensions: dict[str, Dimension] = {}
    files: dict[str, Path] = {}
    for number, each in enumerate(proofs):
        stage_files, shared = each.stages.files, 0
        if files:
            stage_files, shared = share_weights(stage_files, files, folder / f"shared{number}")
        if shared:
            options.tell(f"{shared:,} bytes of weights are those of other stages, and stored once")
        files |= stage_files
        for name, limits in each.stages.dimensions.items():
            dimensions.setdefault(name, limits)
    for name, limits in parts.constants(proof).dimensions.items():
        if name in dimensions:
            dimensions[name] = limits
    for name, size in steps.opt.items():
        dimensions[name] = replace(dimensions[name], opt=size)
    plan_stages = () if proof is None else proof.stages.stages
    plan = Plan("cut" if len(plan_stages) > 1 else "whole", tuple(s.name for s in plan_stages))
    remarks = [remark for each in proofs for remark in each.remarks]
    step_remarks = [remark for each in steps.proofs for remark in each.stages.cut.remarks]
    for remark in step_remarks:
        options.tell(f"  {remark}")
    cut = Cut((), ()) if proof is None else proof.stages.cut
    worst = [p.worst for p in proofs if not isinstance(p.model.module, Path)]
    stages = tuple(stage for each in proofs for stage in each.stages.stages)
    return BundleContent(
        model=model,
        graphs=tuple(each.graph for each in proofs),
        stages=stages,
        files=files,
        dimensions=dimensions,
        cut=replace(cut, remarks=(*remarks, *cut.remarks, *step_remarks)),
        plans=(plan,) if plan_stages else (),
        samples=tuple(
            Sample(case.inputs, {**case.outputs, **sample.outputs}, sample.step, sample.loop)
            for case, sample in zip(steps.cases, steps.samples, strict=True)
        ),
        output_names=tuple(parts.output_names.values()),
        outputs={} if proof is None else proof.outputs,
        constraints=() if proof is None else proof.limits.constraints(),
        ranges={} if proof is None else proof.ranges,
        worst=max(worst) if worst else None,
        states=steps.states,
        loops=(steps.loop,),
        first_states=steps.first_states,
        unconditional=steps.unconditional,
        assets=steps.assets,
    )
