"""From a model to a verified bundle: trace, check, collect, write.

It is long, since the steps stand in one place in their order.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmedge.bundle import Bundle
from mmedge.errors import ExportError
from mmedge.spec import Array, Manifest, Modality, Tokenizer, Tolerance, Variant
from mmedge_export.capture import parity
from mmedge_export.capture.golden import SAMPLES
from mmedge_export.capture.proof_options import ProofOptions, Tell
from mmedge_export.collection import no_collection
from mmedge_export.onnx_graph.graph import precision
from mmedge_export.open_questions import INVENTED, NOT_RUN, line
from mmedge_export.proof.content import manifest_name, tokenizer_path
from mmedge_export.proof.loop import prove_loop
from mmedge_export.proof.single_run import prove_network
from mmedge_export.sources.loader import load_source
from mmedge_export.sources.source import SourceModel
from mmedge_export.targets.onnxruntime.in_place import add_in_place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge_export.model import Model
    from mmedge_export.onnx_graph.graph import Graph
    from mmedge_export.proof.content import BundleContent
    from mmedge_export.sources.source import SourceOptions

__all__ = ["CUDA_RTOL", "SAMPLES", "export"]

#: Tolerance stated for ONNX Runtime on CUDA, where it is not measured at export: float32 products
#: may round their factors to TF32's 10 bits of mantissa (2**-11, 5e-4), which adds up over layers.
CUDA_RTOL = 1e-2


@no_collection()
def export(
    model: Model | SourceModel | str | Path,
    path: str | Path,
    *,
    opset: int | None = None,
    samples_limit: int = SAMPLES,
    overwrite: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    options: SourceOptions | None = None,
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
    being its own reference, has none), and on CUDA, which is not run here. A loop that generates
    gets one more on the CPU where its keys and values can be written in place
    (:mod:`mmedge_export.targets.onnxruntime.in_place`).

    Args:
        model: the network, with what its source says of it where it comes from one; or a name that
            :func:`mmedge_export.sources.loader.load_source` takes.
        path: of the bundle; with the suffix ``.mmedge`` one zip, otherwise a directory.
        opset: version of the ONNX operators that a torch network is traced to; None:
            :data:`mmedge_export.capture.trace.OPSET`.
        samples_limit: golden samples to take from the model, at least 1. The example without its
            optional modalities comes on top.
        overwrite: replace a bundle at ``path``.
        rtol: largest difference of an output as a share of its largest value; None:
            :data:`mmedge_export.capture.parity.RTOL`.
        atol: largest absolute difference on top; None: :data:`mmedge_export.capture.parity.ATOL`.
        options: what else is said of a network that a source is to read, such as an example.
        split: None keeps the network cut by modality, where there is something to cut, and whole,
            with weights that both share; True keeps it cut alone, and False whole alone. With a
            loop None means cut alone.
        name: of the bundle; None: the model's, or its class's.
        source: what a model that is given was loaded from, for the bundle's provenance.
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
    if isinstance(model, str | Path):
        source = str(model)
        tell(f"loading {source}")
        model = load_source(source, options)
    elif options is not None:
        raise ExportError("options: they are for a source that is still to be read")
    remarks = model.remarks if isinstance(model, SourceModel) else ()
    open_questions = model.not_checked if isinstance(model, SourceModel) else ()
    model = model.model if isinstance(model, SourceModel) else model
    for remark in remarks:
        tell(remark)
    tolerance = Tolerance(
        parity.RTOL if rtol is None else rtol, parity.ATOL if atol is None else atol
    )
    not_checked: list[str] = []

    def leave(text: str) -> None:
        if line(text) in not_checked:
            return  # of several parts of a network
        not_checked.append(line(text))
        tell(f"not checked: {text}")

    for text in open_questions:
        leave(text)
    proof_options = ProofOptions(tolerance, samples_limit, tell, leave, opset, allow_nan)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if model.loop is not None:
            content = prove_loop(model, folder, proof_options, split=split)
        else:
            content = prove_network(model, folder, proof_options, split=split)
        tell("writing the bundle")
        model = content.model
        files, tokenizers, labels = _assets(model, content.outputs)
        manifest = Manifest(
            name=manifest_name(name or model.name or _module_name(model)),
            modalities=_make_modalities(model, tokenizers),
            stages=content.stages,
            outputs=content.output_names,
            variants=_make_variants(content, tolerance),
            files={},
            dimensions=content.dimensions,
            ranges={name: span for name, span in content.ranges.items() if name in model.inputs},
            cut=replace(content.cut, remarks=(*map(line, remarks), *content.cut.remarks)),
            constraints=content.constraints,
            labels=labels,
            provenance=_provenance(model, content.graphs, source, allow_nan=allow_nan),
            not_checked=tuple(not_checked),
            plans=content.plans,
            states=content.states,
            loops=content.loops,
        )
        bundle = Bundle.write(
            path,
            manifest,
            {**content.files, **content.assets, **files},
            samples=content.samples,
            absent=_tokens(model),
            states=content.first_states,
            unconditional=content.unconditional,
            overwrite=overwrite,
        )
    if any(loop.kind == "generate" for loop in content.loops):
        bundle, _ = add_in_place(bundle, tell)
    return bundle


def _make_variants(content: BundleContent, tolerance: Tolerance) -> tuple[Variant, ...]:
    kind = precision(*(graph.model for graph in content.graphs))
    files = {stage.name: stage.graph for stage in content.stages}
    # An ONNX file is its own reference: that it agrees with itself is no measure of anything.
    metrics = {} if content.worst is None else {"parity": content.worst}
    wide = Tolerance(max(tolerance.rtol, CUDA_RTOL), tolerance.atol)
    return (
        Variant("ort", kind, "cpu", files, tolerance, metrics=metrics),
        Variant("ort", kind, "cuda", files, wide, not_checked=(NOT_RUN,)),
    )


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
                tokenizers[name] = tokenizer_path(name)
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


def _provenance(
    model: Model, graphs: Sequence[Graph], source: str, *, allow_nan: bool
) -> dict[str, str]:
    """What made the bundle; no path of this machine."""
    provenance = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "mmedge": metadata.version("mmedge"),
        "opset": str(graphs[0].opset),
        "python": platform.python_version(),
        "samples": INVENTED if model.samples is None else "given",
    }
    if allow_nan:
        provenance["allow_nan"] = "yes"
    libraries = ["onnx_ir", "onnxruntime"]
    modules = _modules(model)
    first_module = next(iter(modules.values()))
    if isinstance(first_module, Path):
        provenance["source"] = first_module.name
        file = graphs[0].model
        provenance["producer"] = " ".join(filter(None, (file.producer_name, file.producer_version)))
    for key, module in modules.items():
        if not isinstance(module, Path):
            provenance[key] = f"{type(module).__module__}.{type(module).__qualname__}"
    if any(not isinstance(module, Path) for module in modules.values()):
        made_of = re.split(r"[/\\]", source)[-1] or provenance[next(iter(modules))]
        provenance.setdefault("source", made_of)
        provenance["exporter"] = "torch.onnx.export(dynamo=True)"
        libraries += ["torch", "onnx", "onnxscript"]
    for library in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            provenance[library] = metadata.version(library)
    return provenance


def _modules(model: Model) -> dict[str, object]:
    """Networks of a model by what provenance calls them; the first is what the bundle is of."""
    modules: dict[str, object] = {"network": model.module}
    if model.loop is not None:
        modules["step"] = model.loop.step
        modules["decoder"] = getattr(model.loop, "decoder", None)
    return {key: module for key, module in modules.items() if module is not None}


def _module_name(model: Model) -> str:
    module = next(iter(_modules(model).values()))
    return module.stem if isinstance(module, Path) else type(module).__name__
