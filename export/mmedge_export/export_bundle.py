"""From a model to a verified bundle: trace, check, collect, write.

It is long, since the steps stand in one place in their order.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from itertools import chain
from pathlib import Path

import numpy as np

from mmedge.bundle import Bundle
from mmedge.errors import ExportError
from mmedge.spec import (
    Array,
    Manifest,
    Modality,
    Range,
    Sample,
    Stage,
    Tokenizer,
    Tolerance,
    Variant,
)
from mmedge_export.capture import parity, probe_inputs
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
from mmedge_export.capture.golden import SAMPLES, absences, checked, every, golden, has_other_sizes
from mmedge_export.capture.limits import Limits
from mmedge_export.capture.reference import open_reference
from mmedge_export.capture.try_sizes import try_sizes
from mmedge_export.model import Model
from mmedge_export.onnx_graph.graph import Graph, precision
from mmedge_export.open_questions import INVENTED, NOT_RUN, line
from mmedge_export.partition.stages import ExportedStages, count_flops, make_stages, whole_stage
from mmedge_export.passes.guard_division import GuardDivisionPass
from mmedge_export.sources.loader import load_source

__all__ = ["CUDA_RTOL", "SAMPLES", "export"]

#: Tolerance stated for ONNX Runtime on CUDA, where it is not measured at export: float32 products
#: may round their factors to TF32's 10 bits of mantissa (2**-11, 5e-4), which adds up over layers.
CUDA_RTOL = 1e-2

Tell = Callable[[str], None]


def export(
    model: Model | str | Path,
    path: str | Path,
    *,
    opset: int | None = None,
    samples_limit: int = SAMPLES,
    overwrite: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    modality: Mapping[str, Sequence[str]] | None = None,
    sizes: Mapping[str, int] | None = None,
    example: Mapping[str, Array] | None = None,
    split: bool | None = None,
    name: str | None = None,
    source: str = "",
    allow_nan: bool = False,
    progress: Tell | None = None,
) -> Bundle:
    """Turn a network into a bundle that is proven to compute what the network computes.

    The graph is held against the network on its example, on the example and random inputs at other
    sizes of its dynamic dimensions (what the traced program assumes of sizes has to hold at all of
    them, see :mod:`mmedge_export.capture.limits`), without each optional modality (and without all
    of them, where the network takes that), and on every sample, as it is and at another batch size
    where the batch is dynamic. The golden outputs are those of the network itself; tensors that
    pass between stages are those of the uncut graph. The bundle has an encoder stage for each
    modality with work of its own and a fusion stage, the plan ``cut``, and one stage, ``model``,
    the plan ``whole``, which is alone where there is nothing to cut. It has a variant each for ONNX
    Runtime on the CPU, whose largest relative difference is its metric ``parity`` (an ONNX file,
    being its own reference, has none), and on CUDA, which is not run here.

    Args:
        model: the network, or what :func:`mmedge_export.sources.loader.load_source` takes.
        path: of the bundle; with the suffix ``.mmedge`` one zip, otherwise a directory.
        opset: version of the ONNX operators that a torch network is traced to; None:
            :data:`mmedge_export.capture.trace.OPSET`.
        samples_limit: golden samples to take from the model, at least 1. The example without its
            optional modalities comes on top.
        overwrite: replace a bundle at ``path``.
        rtol: largest difference of an output as a share of its largest value; None:
            :data:`mmedge_export.capture.parity.RTOL`.
        atol: largest absolute difference on top; None: :data:`mmedge_export.capture.parity.ATOL`.
        modality: inputs of each modality, in place of what the model says.
        sizes: size of dynamic dimensions of an ONNX file in a made-up example.
        example: an array for each input of an ONNX file, in place of a made-up one.
        split: None keeps the network cut by modality, where there is something to cut, and whole,
            with weights that both share; True keeps it cut alone, and False whole alone.
        name: of the bundle; None: the model's, or its class's.
        source: what a :class:`Model` that is given was loaded from, for the bundle's provenance.
        allow_nan: take weights that are NaN or infinite, and golden outputs that are NaN.
        progress: called with a line of text before each step, and on what is not checked.

    Returns:
        The bundle, open; what its proof leaves open is its manifest's ``not_checked``
        (:mod:`mmedge_export.capture.coverage`).

    Raises:
        ExportError: the network cannot be traced, is not what the graph computes, its parts do not
            fit each other, or it holds or answers NaN.
        BundleError: something is at ``path`` already, or the bundle cannot be written.
    """
    tell: Tell = progress or (lambda _: None)
    if samples_limit < 1:
        raise ExportError(f"samples_limit must be at least 1, got {samples_limit}")
    if not isinstance(model, Model):
        source = str(model)
        tell(f"loading {source}")
        model = load_source(source, sizes=sizes, example=example)
    if modality:
        model = model.regrouped(modality)
    tolerance = Tolerance(
        parity.RTOL if rtol is None else rtol, parity.ATOL if atol is None else atol
    )
    if not allow_nan:
        check_weights(model)
    not_checked: list[str] = []

    def leave(text: str) -> None:
        not_checked.append(line(text))
        tell(f"not checked: {text}")

    with tempfile.TemporaryDirectory() as temporary, open_reference(model) as network:
        folder = Path(temporary)
        tell("running the network itself")
        for remark in network.remarks:
            tell(f"  {remark}")
        model, run_network = network.model, network.run
        if model.made_up is not None:
            leave("the example is made up; --example FILE gives a real one")
        values = probe_inputs.example(model)
        outputs = network.repeated(values, tolerance, leave)
        if not allow_nan:
            check_outputs(model, outputs, "the example")
        absent = absences(model, run_network, outputs, leave)
        ranges: dict[str, Range] = {}
        samples_given = _record_ranges(model, checked(model), ranges)
        least = least_integer(network.graph)
        samples = golden(
            model, run_network, samples_given, samples_limit, allow_nan=allow_nan, least=least
        )
        base = ParityCase("the example", values, outputs)
        tell("tracing")
        graph = network.trace(opset)
        limits = Limits(graph.relations, model.domain())
        for check in graph.checks:
            leave(f"what the network checks of values at {check}: the graphs do not make the check")
        GuardDivisionPass()(graph.model)
        exported_stages = _choose_stages(
            graph, model, values, outputs, folder, split=split, tell=tell
        )
        tell("checking the graph against the network")
        size_cases = try_sizes(
            model,
            limits,
            run_network,
            exported_stages.run,
            tolerance,
            leave,
            varied=has_other_sizes(model, samples),
        )
        first_cases = [base, *absent, *size_cases]
        coverage, unproven = Coverage(model), list[str]()

        def varied() -> Iterator[ParityCase]:
            """What the samples, all of them checked by now, kept constant."""
            unproven.extend(to_vary(model, coverage.constant()))
            yield from variations(model, run_network, base, unproven, leave, least=least)
            if coverage.silent():
                yield from wider(model, run_network, base)

        seen_cases = coverage.watch(
            chain(every(model, run_network, samples, samples_given, tell, leave), varied())
        )
        worst = parity.check(graph, exported_stages.run, chain(first_cases, seen_cases), tolerance)
        parity.check_operators(graph, [base, *size_cases[-1:]], tolerance, leave)
        for case in beyond(model, run_network, base):
            try:
                parity.check(graph, exported_stages.run, [case], tolerance)
            except ExportError as fault:
                leave(f"{case.what}: there the graph is another function ({fault})")
        for finding in coverage.findings():
            leave(finding)
        # An ONNX file is its own reference: that it agrees with itself is no measure of anything.
        metrics = {} if isinstance(model.module, Path) else {"parity": worst}
        tell("writing the bundle")
        files, tokenizers, labels = _assets(model, outputs)
        kind = precision(graph.model)
        proofs = [*samples, *(Sample(case.inputs, case.outputs) for case in absent)]
        manifest = Manifest(
            name=_name(name or model.name or _module_name(model)),
            modalities=_make_modalities(model, tokenizers),
            stages=exported_stages.stages,
            outputs=tuple(model.outputs),
            variants=(
                _make_variant(exported_stages.stages, kind, "cpu", tolerance, metrics),
                _make_variant(
                    exported_stages.stages,
                    kind,
                    "cuda",
                    Tolerance(max(tolerance.rtol, CUDA_RTOL), tolerance.atol),
                    {},
                    (NOT_RUN,),
                ),
            ),
            files={},
            dimensions=exported_stages.dimensions,
            ranges=ranges,
            cut=replace(
                exported_stages.cut, remarks=(*network.remarks, *exported_stages.cut.remarks)
            ),
            constraints=limits.constraints(),
            labels=labels,
            provenance=_provenance(model, graph, source, allow_nan=allow_nan),
            not_checked=tuple(not_checked),
            plans=exported_stages.plans,
        )
        return Bundle.write(
            path,
            manifest,
            {**exported_stages.files, **files},
            samples=[
                Sample(
                    proof.inputs,
                    {**proof.outputs, **exported_stages.boundary_tensors(proof.inputs)},
                )
                for proof in proofs
            ],
            absent=_tokens(model),
            overwrite=overwrite,
        )


def _choose_stages(
    graph: Graph,
    model: Model,
    example: Mapping[str, Array],
    outputs: Mapping[str, Array],
    folder: Path,
    *,
    split: bool | None,
    tell: Tell,
) -> ExportedStages:
    if split is False:
        flops, uncounted = count_flops(graph.model, example)
        remarks = ("not cut: asked not to", *uncounted)
        return whole_stage(graph, model, outputs, folder, remarks, flops)
    tell("cutting by modality")
    stages = make_stages(graph, model, example, outputs, folder, whole=split is None)
    for remark in stages.cut.remarks:
        tell(f"  {remark}")
    return stages


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

    def watched() -> Iterator[dict[str, Array]]:
        for inputs in samples:
            for name, value in inputs.items():
                if name not in tokens and value.dtype != np.bool_:
                    _widen(ranges, name, value)
            yield inputs

    return watched()


def _widen(ranges: dict[str, Range], name: str, value: Array) -> None:
    finite = value[np.isfinite(value)]
    if not finite.size:
        return
    low, high = float(finite.min()), float(finite.max())
    before = ranges.get(name, Range(low, high))
    ranges[name] = Range(min(low, before.min), max(high, before.max))


def _make_variant(
    stages: Sequence[Stage],
    kind: str,
    target: str,
    tolerance: Tolerance,
    metrics: Mapping[str, float],
    not_checked: tuple[str, ...] = (),
) -> Variant:
    files = {stage.name: stage.graph for stage in stages}
    return Variant("ort", kind, target, files, tolerance, metrics=metrics, not_checked=not_checked)


def _make_modalities(model: Model, tokenizers: Mapping[str, str]) -> tuple[Modality, ...]:
    modalities = []
    for name, inputs in model.modalities().items():
        first_input = model.inputs[inputs[0]]
        tokenizer = None
        if name in tokenizers:
            ids = next(n for n in inputs if model.inputs[n].tokenizer is not None)
            mask = next((n for n in inputs if n != ids), None)
            tokenizer = Tokenizer(tokenizers[name], ids, mask)
        modalities.append(
            Modality(
                name=name,
                inputs=inputs,
                required=first_input.required,
                rate_hz=first_input.rate_hz,
                max_age_ms=first_input.max_age_ms,
                absent=first_input.absent,
                tokenizer=tokenizer,
                sample_rate_hz=first_input.sample_rate_hz,
            )
        )
    return tuple(modalities)


def _assets(
    model: Model, outputs: Mapping[str, Array]
) -> tuple[dict[str, bytes | Path], dict[str, str], dict[str, str]]:
    """Asset files by path in the bundle; tokenizer of each modality; labels of each output."""
    files: dict[str, bytes | Path] = {}
    tokenizers: dict[str, str] = {}
    labels: dict[str, str] = {}
    for name, inputs in model.modalities().items():
        for value in (model.inputs[n] for n in inputs):
            if value.tokenizer is not None and name not in tokenizers:
                tokenizers[name] = f"assets/{_name(name)}.tokenizer.json"
                files[tokenizers[name]] = Path(value.tokenizer)
    for index, (output, names) in enumerate(model.labels.items()):
        classes = outputs[output].shape[-1] if outputs[output].ndim else 0
        if len(names) != classes:
            raise ExportError(
                f"labels of {output!r}: {len(names)} names for {classes} classes (its last axis); "
                "give one name per class"
            )
        labels[output] = f"assets/{index}.labels.json"
        files[labels[output]] = json.dumps(list(names), indent=1).encode()
    return files, tokenizers, labels


def _tokens(model: Model) -> dict[str, Array]:
    """Stand-ins of optional inputs, at the smallest size of each dynamic dimension, but 1."""
    least = {symbol: max(limits.min, 1) for symbol, limits in model.dimensions().items()}
    return {
        name: np.broadcast_to(
            value.absent_token,
            [least[size] if isinstance(size, str) else size for size in value.shape()],
        )
        for name, value in model.inputs.items()
        if value.absent_token is not None and not value.required
    }


def _provenance(model: Model, graph: Graph, source: str, *, allow_nan: bool) -> dict[str, str]:
    """What made the bundle; no path of this machine."""
    provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "mmedge": metadata.version("mmedge"),
        "opset": str(graph.opset),
        "python": platform.python_version(),
        "samples": INVENTED if model.samples is None else "given",
    }
    if allow_nan:
        provenance["allow_nan"] = "yes"
    libraries = ["onnx_ir", "onnxruntime"]
    if isinstance(model.module, Path):
        provenance["source"] = model.module.name
        provenance["producer"] = " ".join(
            filter(None, (graph.model.producer_name, graph.model.producer_version))
        )
    else:
        kind = type(model.module)
        provenance["network"] = f"{kind.__module__}.{kind.__qualname__}"
        provenance["source"] = re.split(r"[/\\]", source)[-1] or provenance["network"]
        provenance["exporter"] = "torch.onnx.export(dynamo=True)"
        libraries += ["torch", "onnx", "onnxscript"]
    for library in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            provenance[library] = metadata.version(library)
    return provenance


def _module_name(model: Model) -> str:
    module = model.module
    return module.stem if isinstance(module, Path) else type(module).__name__


def _name(text: str) -> str:
    """``text`` as a manifest's name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:64] or "network"
