"""A network that runs once through, with or without state, on its way into a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.loop_spec import StateSpec
from mmedge.spec import Plan, Sample
from mmedge_export.capture.carried_state import StatefulNetwork
from mmedge_export.partition.stages import count_flops, make_stages, whole_stage
from mmedge_export.proof.content import BundleContent
from mmedge_export.proof.network import prove

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array, TensorSpec
    from mmedge_export.capture.captured_graph import CapturedGraph
    from mmedge_export.capture.proof_options import ProofOptions, Tell
    from mmedge_export.model import Model
    from mmedge_export.partition.stages import ExportedStages
    from mmedge_export.proof.network import NetworkProof

__all__ = ["choose_stages", "name_modality", "prove_network"]


def prove_network(
    model: Model, folder: Path, options: ProofOptions, *, split: bool | None
) -> BundleContent:
    """What a bundle says of a network without a loop.

    Args:
        model: the network.
        folder: for files.
        options: how it is held against its graph.
        split: whether to cut, see :func:`mmedge_export.export_bundle.export`.

    Raises:
        ExportError: as :func:`mmedge_export.export_bundle.export`.
    """
    if not model.state:

        def choose(
            graph: CapturedGraph,
            captured: Model,
            example: Mapping[str, Array],
            outputs: Mapping[str, Array],
        ) -> ExportedStages:
            return choose_stages(
                graph, captured, example, outputs, folder, split=split, tell=options.tell
            )

        return _content(model, prove(model, choose, options))
    with StatefulNetwork(model) as network:

        def choose_with_state(
            graph: CapturedGraph,
            captured: Model,
            example: Mapping[str, Array],
            outputs: Mapping[str, Array],
        ) -> ExportedStages:
            stages = choose_stages(
                graph,
                captured,
                example,
                outputs,
                folder,
                split=split,
                tell=options.tell,
                states=network.outputs,
            )
            return name_modality(model, stages)

        options.tell("running the network with its state")
        proof = prove(network.captured(), choose_with_state, options)
        network.check(proof.stages.run, options)
        specs = {
            spec.name: spec
            for stage in proof.stages.stages
            for spec in (*stage.inputs, *stage.outputs)
        }
        shapes = network.output_shapes(specs, options)
    content = _with_shapes(_content(model, proof), shapes)
    named = {spec.name: spec for stage in proof.stages.stages for spec in stage.inputs}
    states = tuple(
        StateSpec(
            stage.name,
            name,
            value.output,
            axis=None if value.grows is None else named[name].shape.index(value.grows),
            initial=value.initial if isinstance(value.initial, str) else "stored",  # type: ignore[arg-type]
        )
        for stage in proof.stages.stages
        for name, value in model.state.items()
        if any(spec.name == name for spec in stage.inputs)
    )
    return replace(
        content,
        model=network.restored(proof.model),
        samples=tuple(
            Sample(
                {name: value for name, value in sample.inputs.items() if name not in model.state},
                sample.outputs,
                {name: sample.inputs[name] for name in model.state},
            )
            for sample in content.samples
        ),
        output_names=tuple(model.outputs),
        states=states,
        first_states={
            name: value.initial
            for name, value in model.state.items()
            if not isinstance(value.initial, str)
        },
    )


def choose_stages(
    graph: CapturedGraph,
    model: Model,
    example: Mapping[str, Array],
    outputs: Mapping[str, Array],
    folder: Path,
    *,
    split: bool | None,
    tell: Tell,
    states: Mapping[str, str] | None = None,
    least_flops: int | None = None,
) -> ExportedStages:
    """The network cut by modality, whole, or both.

    Args:
        graph: of the network.
        model: says which inputs form a modality.
        example: inputs.
        outputs: the network's, for the example.
        folder: for the files.
        split: whether to cut, see :func:`mmedge_export.export_bundle.export`.
        tell: called with what was noticed.
        states: the output that the next run takes, by the input that takes it.
        least_flops: of an encoder; None: what pays off for a network that runs once.
    """
    if split is False:
        flops, uncounted = count_flops(graph.model, example)
        remarks = ("not cut: asked not to", *uncounted)
        return whole_stage(graph, model, outputs, folder, remarks, flops)
    tell("cutting by modality")
    limits = {} if least_flops is None else {"least_flops": least_flops}
    stages = make_stages(
        graph, model, example, outputs, folder, whole=split is None, states=states, **limits
    )
    for remark in stages.cut.remarks:
        tell(f"  {remark}")
    return stages


def name_modality(model: Model, stages: ExportedStages) -> ExportedStages:
    """The one stage of a network of one modality runs once for each value of it."""
    modalities = list(model.modalities())
    if len(modalities) > 1 or len(stages.stages) > 1:
        return stages
    stage = replace(stages.stages[0], modality=modalities[0])
    return replace(stages, stages=(stage,), plans=(Plan("whole", (stage.name,)),))


def _with_shapes(
    content: BundleContent, shapes: Mapping[str, tuple[int | str, ...]]
) -> BundleContent:
    """``content`` with other shapes of some tensors, and without dimensions that none has then."""
    if not shapes:
        return content

    def known(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(
            replace(spec, shape=shapes[spec.name]) if spec.name in shapes else spec
            for spec in specs
        )

    stages = tuple(
        replace(stage, inputs=known(stage.inputs), outputs=known(stage.outputs))
        for stage in content.stages
    )
    names = {
        size for stage in stages for spec in (*stage.inputs, *stage.outputs) for size in spec.shape
    }
    dimensions = {name: limits for name, limits in content.dimensions.items() if name in names}
    return replace(content, stages=stages, dimensions=dimensions)


def _content(model: Model, proof: NetworkProof) -> BundleContent:
    stages = proof.stages
    return BundleContent(
        model=proof.model,
        graphs=(proof.graph,),
        stages=stages.stages,
        files=stages.files,
        dimensions=stages.dimensions,
        cut=replace(stages.cut, remarks=(*proof.remarks, *stages.cut.remarks)),
        plans=stages.plans,
        samples=proof.all_samples(),
        output_names=tuple(model.outputs),
        outputs=proof.outputs,
        constraints=proof.limits.constraints(),
        ranges=proof.ranges,
        worst=None if isinstance(model.module, Path) else proof.worst,
    )
