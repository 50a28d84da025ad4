"""Whether another bundle can take over a running stream: what it takes and gives is the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmedge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mmedge.bundle import Bundle
    from mmedge.spec import Manifest, Modality, Stage, Variant

__all__ = ["check_contract", "check_place", "is_same_network"]


def check_contract(running: Manifest, new: Manifest) -> None:
    """Compare what two bundles take, give and keep.

    Their names, weights, precision, ranges seen at export and stages may differ.

    Raises:
        InputError: the first thing that differs, what it is in each, and what to do.
    """
    for what, (before, after) in _pairs(running, new):
        if before != after:
            raise InputError(
                f"the new bundle, {new.name!r}, has another contract: {what} is {after} there and "
                f"{before} in the one that runs, {running.name!r}. Export it with the same "
                "contract, or close the stream and make one of the new bundle"
            )


def is_same_network(one: Bundle, other: Bundle) -> bool:
    """Whether two bundles have the same stages by the content of their graphs and weights.

    They may differ in their variants, and in what was measured on them.
    """
    graphs = [
        {
            stage.name: [bundle.manifest.files.get(file) for file in _graph_files(bundle, stage)]
            for stage in bundle.manifest.stages
        }
        for bundle in (one, other)
    ]
    return graphs[0] == graphs[1]


def _graph_files(bundle: Bundle, stage: Stage) -> list[str]:
    return [stage.graph, *sorted(bundle.weights(stage.graph))]


def check_place(running: Variant, new: Variant) -> None:
    """Raise InputError where one variant takes arrays of the host and the other of a GPU."""
    before, after = (variant.target != "cpu" for variant in (running, new))
    if before != after:
        raise InputError(
            f"variant {new.id} runs on {new.target!r}, {running.id} on {running.target!r}: samples "
            "that the stream holds would lie elsewhere; load a variant for the same kind of device"
        )


def _pairs(running: Manifest, new: Manifest) -> Iterator[tuple[str, Sequence[Any]]]:
    names = [sorted(m.name for m in manifest.modalities) for manifest in (running, new)]
    yield "the list of modalities", names
    others = {modality.name: modality for modality in new.modalities}
    for modality in running.modalities:
        yield from _modality_pairs(running, modality, new, others[modality.name])
    yield "the list of constraints", [sorted(map(str, m.constraints)) for m in (running, new)]
    yield "the list of outputs", [sorted(m.returned_outputs()) for m in (running, new)]
    outputs = [_outputs(manifest) for manifest in (running, new)]
    for name in running.returned_outputs():
        yield f"output {name!r}", [specs.get(name) for specs in outputs]
    for what, modality_states in (("modalities", True), ("fusion stages", False)):
        owners = [_owners(manifest, of_modality=modality_states) for manifest in (running, new)]
        yield f"the list of {what} with state", owners
    loops = ["none" if m.loop is None else m.loop.kind for m in (running, new)]
    yield "the kind of loop", loops


def _modality_pairs(
    running: Manifest, before: Modality, new: Manifest, after: Modality
) -> Iterator[tuple[str, Sequence[Any]]]:
    where = f"modality {before.name!r}"
    for field in ("required", "rate_hz", "max_age_ms", "absent", "sample_rate_hz"):
        yield f"{field} of {where}", [getattr(m, field) for m in (before, after)]
    yield f"the list of inputs of {where}", [sorted(m.inputs) for m in (before, after)]
    specs = running.inputs(), new.inputs()
    for name in before.inputs:
        yield f"input {name!r}", [str(by_name[name]) for by_name in specs]
        for size in specs[0][name].shape:
            if isinstance(size, str):
                limits = [manifest.dimensions.get(size) for manifest in (running, new)]
                spans = [None if limit is None else (limit.min, limit.max) for limit in limits]
                yield f"the span (min, max) of dimension {size!r}", spans
    yield (
        f"the tokenizer of {where}",
        [_tokenizer(running, before), _tokenizer(new, after)],
    )
    encoders = [
        any(stage.modality == before.name for stage in manifest.in_order())
        for manifest in (running, new)
    ]
    yield f"an encoder of {where}", ["there" if there else "not there" for there in encoders]


def _tokenizer(manifest: Manifest, modality: Modality) -> tuple[Any, ...] | None:
    """The tokenizer without the name of its file, which is told by its content."""
    tokenizer = modality.tokenizer
    if tokenizer is None:
        return None
    fields = (getattr(tokenizer, name) for name in type(tokenizer).__slots__ if name != "file")
    return (f"SHA-256 {manifest.files.get(tokenizer.file)}", *fields)


def _outputs(manifest: Manifest) -> dict[str, str]:
    return {
        spec.name: f"{spec.dtype} {list(spec.shape)}"
        for stage in manifest.stages
        for spec in stage.outputs
    }


def _owners(manifest: Manifest, *, of_modality: bool) -> list[str]:
    """Modalities whose encoders have a state, or the other stages that do."""
    stages = {state.stage for state in manifest.states}
    in_loop = {stage.name for stage in manifest.loop_stages()}
    return sorted(
        {
            stage.modality or stage.name
            for stage in manifest.in_order()
            if stage.name in stages - in_loop and (stage.modality is not None) == of_modality
        }
    )
