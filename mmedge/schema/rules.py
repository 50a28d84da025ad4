"""Rules between the fields of a manifest: names that must exist, be unique, fit, and form a DAG.

It is long, since the rules of one document are read as one.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from math import prod
from typing import TYPE_CHECKING, Literal

from mmedge.constraints import MAX_ALL_TOKENS, parse
from mmedge.schema.names import (
    DIGEST,
    MANIFEST,
    MAX_ELEMENTS,
    MAX_LATENCY_MS,
    MAX_SAMPLE_TENSORS,
    SAMPLES,
    SIGNATURE,
)
from mmedge.schema.read import Misfit, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import ModuleType

    from mmedge.spec import Manifest, Plan, TensorSpec

__all__ = ["check"]

#: Tensors of a sample that a run of a loop gave, at most (docs/reference/bundle.md, "Samples").
LOOP_TENSORS = 2


def check(manifest: Manifest) -> None:
    """Raise Misfit at the first rule between fields that ``manifest`` breaks."""
    _check_unique(manifest)
    loops = _loop_rules(manifest)
    if loops is not None:
        loops.check_stages(manifest)
    _check_plans(manifest)
    _check_shapes(manifest)
    _check_constraints(manifest)
    for plan in manifest.all_plans():
        _check_flow(manifest, plan)
        _check_encoders(manifest, plan)
    if loops is not None:
        loops.check(manifest)
    _check_outputs(manifest)
    _check_modalities(manifest)
    _check_ranges(manifest)
    _check_moves(manifest)
    _check_variants(manifest)
    _check_metrics(manifest)
    _check_samples(manifest)
    _check_files(manifest)


def _loop_rules(manifest: Manifest) -> ModuleType | None:
    """The rules on states and loops, where there are any: most bundles do without the module."""
    if not manifest.states and not manifest.loops:
        return None
    from mmedge.schema import loops

    return loops


def _tensors(
    manifest: Manifest, field: Literal["inputs", "outputs"], plan: Plan | None = None
) -> Iterator[tuple[str, TensorSpec]]:
    """Inputs or outputs of every stage, or of those of a plan, with their JSON paths."""
    for i, stage in enumerate(manifest.stages):
        if plan is not None and stage.name not in plan.stages:
            continue
        for j, spec in enumerate(getattr(stage, field)):
            yield f"$.stages[{i}].{field}[{j}]", spec


def _network_inputs(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for i, modality in enumerate(manifest.modalities):
        for j, name in enumerate(modality.inputs):
            yield f"$.modalities[{i}].inputs[{j}]", name


def _check_unique(manifest: Manifest) -> None:
    _check_names_once(
        (f"$.modalities[{i}].name", m.name) for i, m in enumerate(manifest.modalities)
    )
    _check_names_once((f"$.stages[{i}].name", s.name) for i, s in enumerate(manifest.stages))
    _check_names_once((f"$.variants[{i}]", v.id) for i, v in enumerate(manifest.variants))
    _check_names_once((f"$.outputs[{i}]", name) for i, name in enumerate(manifest.outputs))
    _check_names_once(_network_inputs(manifest))
    _check_names_once((f"$.plans[{i}].name", plan.name) for i, plan in enumerate(manifest.plans))
    for i, stage in enumerate(manifest.stages):
        _check_names_once(
            (f"$.stages[{i}].inputs[{j}].name", s.name) for j, s in enumerate(stage.inputs)
        )


def _check_outputs(manifest: Manifest) -> None:
    """A network gives something; with a loop it is the loop that does."""
    if not manifest.outputs and not manifest.loops:
        raise Misfit("$.outputs", "a list of 1 to 4096", "a list of 0")


def _check_plans(manifest: Manifest) -> None:
    """Every stage but those of a loop belongs to one plan, which is called after what it is."""
    in_loop = {stage.name for stage in manifest.loop_stages()}
    stage_names = {stage.name for stage in manifest.stages} - in_loop
    for i, plan in enumerate(manifest.plans):
        for j, name in enumerate(plan.stages):
            if name not in stage_names:
                of_loop = f"{name!r}, a stage of a loop" if name in in_loop else f"unknown {name!r}"
                raise Misfit(f"$.plans[{i}].stages[{j}]", "the name of a stage", of_loop)
        if (plan.name == "whole") != (len(plan.stages) == 1):
            expected = "one stage in 'whole', several in 'cut'"
            raise Misfit(f"$.plans[{i}].stages", expected, f"{len(plan.stages)} in {plan.name!r}")
    _check_names_once(
        (f"$.plans[{i}].stages[{j}]", name)
        for i, plan in enumerate(manifest.plans)
        for j, name in enumerate(plan.stages)
    )
    if manifest.plans and (
        stages_in_none := stage_names - {name for plan in manifest.plans for name in plan.stages}
    ):
        raise Misfit("$.plans", "every stage in one plan", f"stage {min(stages_in_none)!r} in none")


def _check_names_once(names: Iterable[tuple[str, str]]) -> None:
    places: dict[str, str] = {}
    for where, name in names:
        if name in places:
            raise Misfit(where, "a name used once", f"duplicate {name!r}, also at {places[name]}")
        places[name] = where


def _check_shapes(manifest: Manifest) -> None:
    sizes = manifest.dimensions
    for name, limit in sizes.items():
        if not limit.min <= limit.opt or (limit.max is not None and limit.opt > limit.max):
            got = f"{limit.min}, {limit.opt}, {limit.max}"
            raise Misfit(f"$.dimensions[{name!r}]", "min <= opt <= max", got)
        if any(size % limit.multiple for size in (limit.min, limit.opt, limit.max or 0)):
            got = f"{limit.min}, {limit.opt}, {limit.max}"
            raise Misfit(f"$.dimensions[{name!r}]", f"multiples of {limit.multiple}", got)
    for field in ("inputs", "outputs"):
        for where, spec in _tensors(manifest, field):
            for axis, size in enumerate(spec.shape):
                if isinstance(size, str) and size not in sizes:
                    at = f"{where}.shape[{axis}]"
                    raise Misfit(at, "a dimension listed in $.dimensions", repr(size))
            count = prod(s if isinstance(s, int) else sizes[s].opt for s in spec.shape)
            if count > MAX_ELEMENTS:
                raise Misfit(f"{where}.shape", f"at most {MAX_ELEMENTS} elements", str(count))


def _check_constraints(manifest: Manifest) -> None:
    if not manifest.constraints:
        return
    network_inputs = {name for _, name in _network_inputs(manifest)}
    inputs = {
        size
        for _, spec in _tensors(manifest, "inputs")
        if spec.name in network_inputs
        for size in spec.shape
    }
    tokens = 0
    for i, constraint in enumerate(manifest.constraints):
        where = f"$.constraints[{i}].expression"
        try:
            relation = parse(constraint.expression)
        except ValueError as error:
            expected, _, got = str(error).partition(", got ")
            raise Misfit(where, expected, got or show(constraint.expression)) from error
        if unknown_names := relation.names - inputs:
            expected = "names of dimensions that inputs have"
            raise Misfit(where, expected, f"unknown dimension {min(unknown_names)!r}")
        tokens += relation.tokens
    if tokens > MAX_ALL_TOKENS:
        expected = f"at most {MAX_ALL_TOKENS} numbers, names and operators in all"
        raise Misfit("$.constraints", expected, str(tokens))


def _check_flow(manifest: Manifest, plan: Plan) -> None:
    """Every tensor has one source, one dtype and one shape, and no stage waits for itself."""
    stages = [stage for stage in manifest.stages if stage.name in plan.stages]
    _check_names_once(
        (f"{where}.name", spec.name) for where, spec in _tensors(manifest, "outputs", plan)
    )
    network_inputs = {name for _, name in _network_inputs(manifest)}
    producers = {spec.name: stage for stage in stages for spec in stage.outputs}
    first_specs: dict[str, tuple[str, TensorSpec]] = {}
    for where, spec in _tensors(manifest, "outputs"):
        at, first_spec = first_specs.setdefault(spec.name, (where, spec))  # of any plan
        if first_spec != spec:
            raise Misfit(where, f"{first_spec} as at {at}", str(spec))
        if spec.name in network_inputs:
            got = f"{spec.name!r}, an input of a modality"
            raise Misfit(f"{where}.name", "a name that only this stage yields", got)
    # A loop's stages read inputs too; what they take is checked with the loop.
    read_names = {spec.name for stage in manifest.loop_stages() for spec in stage.inputs}
    state_names = {(state.stage, state.input) for state in manifest.states}
    for where, spec in _tensors(manifest, "inputs", plan):
        read_names.add(spec.name)
        is_state = any((stage.name, spec.name) in state_names for stage in stages)
        if spec.name not in network_inputs and spec.name not in producers and not is_state:
            expected = "an input of a modality or an output of a stage"
            raise Misfit(f"{where}.name", expected, f"unknown tensor {spec.name!r}")
        at, first_spec = first_specs.setdefault(spec.name, (where, spec))
        if first_spec != spec:
            raise Misfit(where, f"{first_spec} as at {at}", str(spec))
    for where, name in _network_inputs(manifest):
        if name not in read_names:
            raise Misfit(
                where,
                f"an input that some stage takes{_plan_in_words(manifest, plan)}",
                f"unknown tensor {name!r}",
            )
    for i, name in enumerate(manifest.outputs):
        if name not in producers:
            expected = f"an output of a stage{_plan_in_words(manifest, plan)}"
            raise Misfit(f"$.outputs[{i}]", expected, f"unknown tensor {name!r}")
    waits = {
        stage.name: {producers[spec.name].name for spec in stage.inputs if spec.name in producers}
        for stage in stages
    }
    try:
        TopologicalSorter(waits).prepare()
    except CycleError as error:
        got = f"a cycle: {' -> '.join(error.args[1])}"
        raise Misfit("$.stages", "stages of which none waits for itself", got) from error


def _plan_in_words(manifest: Manifest, plan: Plan) -> str:
    """The plan that a rule is about, in words, where there are several."""
    return f" of plan {plan.name!r}" if len(manifest.plans) > 1 else ""


def _check_encoders(manifest: Manifest, plan: Plan) -> None:
    """An encoder may be cached per modality because nothing of another modality reaches it."""
    owner: dict[str, str | None] = {}
    for modality in manifest.modalities:
        owner.update(dict.fromkeys(modality.inputs, modality.name))
    stages = [(i, s) for i, s in enumerate(manifest.stages) if s.name in plan.stages]
    for _, stage in stages:
        owner.update((spec.name, stage.modality) for spec in stage.outputs)
        # What a stage gives itself is of its own modality.
        owner.update((s.input, stage.modality) for s in manifest.states if s.stage == stage.name)
    modality_names = {modality.name for modality in manifest.modalities}
    for i, stage in stages:
        if stage.modality is None:
            continue
        if stage.modality not in modality_names:
            got = f"unknown modality {stage.modality!r}"
            raise Misfit(f"$.stages[{i}].modality", "the name of a modality or null", got)
        for j, spec in enumerate(stage.inputs):
            if owner[spec.name] != stage.modality:
                got = f"{spec.name!r} of {owner[spec.name] or 'a fusion stage'}"
                expected = f"a tensor of modality {stage.modality!r} alone"
                raise Misfit(f"$.stages[{i}].inputs[{j}]", expected, got)


def _check_modalities(manifest: Manifest) -> None:
    for i, modality in enumerate(manifest.modalities):
        if (tokenizer := modality.tokenizer) is None:
            continue
        for field, taker in (("ids", tokenizer.ids), ("mask", tokenizer.mask)):
            if taker is not None and taker not in modality.inputs:
                at = f"$.modalities[{i}].tokenizer.{field}"
                raise Misfit(at, f"an input of modality {modality.name!r}", repr(taker))


def _check_ranges(manifest: Manifest) -> None:
    network_inputs = {name for _, name in _network_inputs(manifest)}
    for name, span in manifest.ranges.items():
        if name not in network_inputs:
            raise Misfit("$.ranges", "inputs of modalities as keys", f"unknown input {name!r}")
        if span.min > span.max:
            raise Misfit(f"$.ranges[{name!r}]", "min <= max", f"{span.min}, {span.max}")


def _check_moves(manifest: Manifest) -> None:
    modality_names = {modality.name for modality in manifest.modalities}
    for i, move in enumerate(manifest.cut.moves):
        if move.modality not in modality_names:
            got = f"unknown modality {move.modality!r}"
            raise Misfit(f"$.cut.moves[{i}].modality", "the name of a modality", got)


def _check_variants(manifest: Manifest) -> None:
    names = [stage.name for stage in manifest.stages]
    for i, variant in enumerate(manifest.variants):
        at = f"$.variants[{i}].files"
        for name in variant.files:
            if name not in names:
                raise Misfit(at, "names of stages as keys", f"unknown stage {name!r}")
        runs = manifest.plan_names(variant)
        for plan in manifest.all_plans():
            # All files of a plan or none, and of one plan at least all.
            partly = any(name in variant.files for name in plan.stages)
            if plan.name not in runs and (partly or not runs):
                missing_stage = next(name for name in plan.stages if name not in variant.files)
                expected = f"a file for each stage{_plan_in_words(manifest, plan)}"
                raise Misfit(at, expected, f"none for stage {missing_stage!r}")
        for stage in manifest.loop_stages():
            if stage.name not in variant.files:
                expected = "a file for each stage of the loop"
                raise Misfit(at, expected, f"none for stage {stage.name!r}")
        if variant.plan is not None and variant.plan not in runs:
            expected = f"null or a plan that it has files for: {', '.join(runs)}"
            raise Misfit(f"$.variants[{i}].plan", expected, repr(variant.plan))
        if variant.cache == "in_place":
            from mmedge.schema.cache import check_cache

            check_cache(manifest, f"$.variants[{i}].cache")
        output_names = {spec.name for stage in manifest.stages for spec in stage.outputs}
        for name in variant.tolerances:
            if name not in output_names:
                at = f"$.variants[{i}].tolerances"
                raise Misfit(at, "names of stages' outputs as keys", f"unknown tensor {name!r}")
    for name in manifest.labels:
        if name not in manifest.outputs:
            raise Misfit("$.labels", "names of outputs as keys", f"unknown output {name!r}")


def _check_metrics(manifest: Manifest) -> None:
    """What decides which variant is taken; threads that cannot be are ignored at loading."""
    for i, variant in enumerate(manifest.variants):
        latency = variant.metrics.get("latency_ms", 1.0)
        if not 0 < latency <= MAX_LATENCY_MS:
            at = f"$.variants[{i}].metrics['latency_ms']"
            raise Misfit(at, f"a number above 0 to {MAX_LATENCY_MS:g}", f"{latency:g}")


def _check_samples(manifest: Manifest) -> None:
    each = len(manifest.inputs()) + sum(len(stage.outputs) for stage in manifest.stages)
    each += len(manifest.step_inputs()) + len(manifest.loops) * LOOP_TENSORS
    if manifest.samples * each > MAX_SAMPLE_TENSORS:
        expected = f"at most {MAX_SAMPLE_TENSORS} tensors in all samples"
        raise Misfit("$.samples", expected, f"{manifest.samples} samples of {each}")


def _check_files(manifest: Manifest) -> None:
    files: Mapping[str, str] = manifest.files
    for name in files:
        if name in {MANIFEST, DIGEST, SIGNATURE}:
            expected = "every file but the manifest, its digest and its signature"
            raise Misfit("$.files", expected, f"{name!r}")
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in files:
                raise Misfit("$.files", "a path that is a file or a folder", f"{folder!r} as both")
    for where, name in _references(manifest):
        if name not in files:
            raise Misfit(where, "a file listed in $.files", f"unknown file {name!r}")


def _references(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for i, stage in enumerate(manifest.stages):
        yield f"$.stages[{i}].graph", stage.graph
    for i, variant in enumerate(manifest.variants):
        for name, file in variant.files.items():
            yield f"$.variants[{i}].files[{name!r}]", file
    for name, file in manifest.labels.items():
        yield f"$.labels[{name!r}]", file
    for i, modality in enumerate(manifest.modalities):
        if modality.tokenizer is not None:
            yield f"$.modalities[{i}].tokenizer.file", modality.tokenizer.file
        if modality.absent == "token" and not modality.required:
            yield f"$.modalities[{i}].absent", SAMPLES
    loops = _loop_rules(manifest)
    if loops is not None:
        yield from loops.references(manifest)
    if manifest.samples:
        yield "$.samples", SAMPLES
