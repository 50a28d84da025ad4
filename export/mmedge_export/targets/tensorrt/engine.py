"""A bundle's stages as TensorRT or TensorRT-RTX engines, stored in the bundle as a variant.

TensorRT-RTX builds on a machine without a GPU, for any architecture it knows. TensorRT builds on
the GPU that the engine is for. An engine runs on the library version and the architecture that it
was built with and on nothing else; it is a cache of the graph, which stays in the bundle.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from mmedge.backends.registry import probe
from mmedge.backends.tensorrt import SOURCES
from mmedge.backends.tensorrt.library import library_version
from mmedge.bundle import Bundle
from mmedge.errors import BackendError, InputError
from mmedge.schema.names import MAX_TEXT
from mmedge.spec import Stage, Tolerance, Variant
from mmedge_export.open_questions import NOT_RUN
from mmedge_export.targets.tensorrt import SCHEMES
from mmedge_export.targets.tensorrt.engine_builder import EngineBuilder
from mmedge_export.targets.tensorrt.float16 import TOLERANCE, to_float16
from mmedge_export.targets.tensorrt.profiles import resolve_profiles
from mmedge_export.targets.variants import check_runs_once

if TYPE_CHECKING:
    from mmedge_export.targets.tensorrt.profiles import ProfileSizes

__all__ = [
    "FP32_TOLERANCE",
    "PRECISIONS",
    "EngineSource",
    "build",
    "build_all",
    "build_variant",
    "float_source",
]

#: What an engine may compute in without a task to judge it; ``fp32`` is IEEE float32 (TF32 is off).
#: Lower ones go through the gate (:func:`mmedge_export.quantize.quantize`).
PRECISIONS = ("fp32", "fp16")

#: How far a float32 engine's outputs may lie from the golden ones: the sums run in another order,
#: over thousands of terms with a rounding of 6e-8 each.
FP32_TOLERANCE = Tolerance(rtol=1e-3, atol=1e-5)

Progress = Callable[[str], None]


def build(
    bundle: Bundle | str | Path,
    *,
    backend: str = "tensorrt_rtx",
    target: str = "current",
    precision: str = "fp32",
    profile: Mapping[str, tuple[int, int, int]] | None = None,
    workspace: int | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Build engines of every stage and add them to the bundle as one variant.

    Args:
        bundle: an open bundle, which is closed on success, or where one lies. It is rewritten in
            its place.
        backend: ``tensorrt_rtx`` (also ``tensorrt-rtx``) or ``tensorrt``.
        target: an architecture such as ``sm_89``, or ``current`` for this machine's GPU.
        precision: ``fp32``, or ``fp16`` with what needs float32 kept so (see
            :func:`mmedge_export.targets.tensorrt.float16.to_float16`).
        profile: smallest, best and largest size of dynamic dimensions of the inputs, by name;
            others as :func:`mmedge_export.targets.tensorrt.profiles.resolve_profiles` says.
        workspace: bytes of GPU memory that a layer may use as scratch; None: the library's default.
        progress: told what is being done, a line at a time.

    Returns:
        The new bundle, open. A variant of the same backend, precision and target is replaced.

    Raises:
        InputError: an unknown backend, target or precision, or a profile that does not fit.
        BackendError: the library is not installed, needs a GPU, or refuses a graph.
        AccuracyError: float16 cannot hold the golden samples.
        BundleError: the bundle cannot be read or written.
    """
    new_bundle, _ = build_all(
        bundle,
        backend=backend,
        targets=[target],
        precisions=[precision],
        profile=profile,
        workspace=workspace,
        progress=progress,
    )
    return new_bundle


def build_all(
    bundle: Bundle | str | Path,
    *,
    backend: str,
    targets: Sequence[str],
    precisions: Sequence[str],
    profile: Mapping[str, tuple[int, int, int]] | None = None,
    workspace: int | None = None,
    in_place: bool = True,
    progress: Progress | None = None,
) -> tuple[Bundle, tuple[Variant, ...]]:
    """:func:`build` for every target in every precision; also returns the variants that it made.

    Graphs are converted once for all targets. All engines are built before the first is stored, so
    an error while building leaves the bundle as it was. Without ``in_place`` it stays as it is: the
    engines are kept in the cache folder of this device
    (:meth:`mmedge.bundle.Bundle.keep_engines`).
    """
    backend = backend.replace("-", "_")
    tell = progress or (lambda _: None)
    for precision in precisions:
        if precision in SCHEMES:
            raise InputError(
                f"precision {precision!r} is judged by a task: use mmedge quantize with backend "
                f"{backend}"
            )
        if precision not in PRECISIONS:
            raise InputError(
                f"precision {precision!r}: engines are built in {', '.join(PRECISIONS)}"
            )
    try:
        import onnx  # noqa: F401
        import onnx_ir as ir  # noqa: F401
    except ImportError as error:
        raise BackendError(
            f"building engines needs {error.name}, which is not installed: "
            "pip install 'mmedge[build]'"
        ) from error
    builders = [EngineBuilder(backend, target, workspace=workspace) for target in targets]
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    variants: list[tuple[Variant, dict[str, Path]]] = []
    try:
        check_runs_once(opened.manifest, "engines")
        sizes = resolve_profiles(opened, profile)
        with tempfile.TemporaryDirectory(prefix="mmedge-build-") as temporary:
            for precision in dict.fromkeys(precisions):
                folder = Path(temporary) / precision
                folder.mkdir()
                sources = _sources(opened, precision, folder, tell)
                errors = [source.error for source in sources.values() if source.error is not None]
                variant = Variant(
                    backend=backend,
                    precision=precision,
                    target="",
                    files={},
                    tolerance=FP32_TOLERANCE if precision == "fp32" else TOLERANCE,
                    metrics={f"{precision}_max_rel": max(errors)} if errors else {},
                    not_checked=(NOT_RUN,),
                )
                variants += [
                    build_variant(opened, builder, variant, sources, sizes, folder, tell)
                    for builder in builders
                ]
            for variant, files in variants if in_place else ():
                opened = opened.with_variant(variant, files)
            if not in_place:
                opened.keep_engines(variants, probe())
    except BaseException:
        if opened is not bundle:
            opened.close()
        raise
    return opened, tuple(variant for variant, _ in variants)


@dataclass(frozen=True, slots=True)
class EngineSource:
    """What an engine is built from: a file, the variant's record of it, and its relative error."""

    file: Path
    record: Mapping[str, str] = field(default_factory=dict)
    error: float | None = None


def _sources(
    bundle: Bundle, precision: str, folder: Path, tell: Progress
) -> dict[str, EngineSource]:
    """A graph of every stage in ``precision``; those that had to be changed lie in ``folder``.

    Raises:
        InputError: the bundle's own graphs are of a lower precision already.
    """
    manifest = bundle.manifest
    stages = manifest.in_order()
    native = next((v.precision for v in manifest.variants if manifest.runs_own_graphs(v)), "fp32")
    if native not in {"fp32", precision}:
        raise InputError(
            f"precision {precision!r}: the bundle's graphs are {native}, and engines are typed as "
            f"the graph is; build it with precision {native}"
        )
    if native == precision:
        return {stage.name: float_source(bundle, stage, folder) for stage in stages}
    sources = {}
    for name, half in to_float16(bundle, folder, progress=tell).items():
        text = _shortened(f"{len(half.kept)} of {half.nodes} nodes", half.kept)
        sources[name] = EngineSource(half.file, {f"{name} kept float32": text}, half.error)
    return sources


def float_source(bundle: Bundle, stage: Stage, folder: Path) -> EngineSource:
    """The stage's graph as it was exported."""
    return EngineSource(_as_exported(bundle, stage, folder))


def build_variant(
    bundle: Bundle,
    builder: EngineBuilder,
    variant: Variant,
    sources: Mapping[str, EngineSource],
    sizes: Mapping[str, ProfileSizes],
    folder: Path,
    tell: Progress,
) -> tuple[Variant, dict[str, Path]]:
    """``variant`` for one GPU and its files, which lie in ``folder``, by path in the bundle.

    Raises:
        BackendError: the library refuses a graph.
    """
    variant = replace(
        variant,
        backend=builder.backend,
        target=builder.target,
        requires={SOURCES[builder.backend].distribution: library_version(builder.backend)},
    )
    record = {**variant.build, **builder.options()}
    record.update((f"profile {name}", str(size)) for name, size in sorted(sizes.items()))
    files: dict[str, Path] = {}
    paths: dict[str, str] = {}
    seconds, size = 0.0, 0
    for stage in bundle.manifest.in_order():
        tell(f"{variant.id}: {stage.name}")
        source = sources[stage.name]
        start = perf_counter()
        try:
            engine = builder.build(source.file, stage, sizes)
        except BackendError as error:
            raise BackendError(f"variant {variant.id}: {error}") from error
        took = perf_counter() - start
        seconds, size = seconds + took, size + len(engine)
        path = f"engines/{variant.id}/{stage.name}.engine"
        files[path] = folder / f"{builder.target}.{stage.name}.engine"
        files[path].write_bytes(engine)
        paths[stage.name] = path
        record[f"{stage.name} seconds"] = f"{took:.2f}"
        record[f"{stage.name} bytes"] = str(len(engine))
        record[f"{stage.name} source"] = _source_digest(bundle, stage)
        record.update(source.record)
        if source.error is not None:
            record[f"{stage.name} max_rel"] = f"{source.error:.3g}"
    measures = {**variant.metrics, "build_s": round(seconds, 3), "engine_bytes": float(size)}
    return replace(variant, files=paths, build=record, metrics=measures), files


def _as_exported(bundle: Bundle, stage: Stage, folder: Path) -> Path:
    """The stage's graph as it is, or changed in ``folder``.

    Functions are inlined, since TensorRT looks an operator up by its name alone, and uint8 is cast
    before it is moved.
    """
    import onnx_ir as ir
    from onnx_ir.passes import common

    from mmedge_export.passes.widen_uint8 import WidenUint8Pass

    infer = common.ShapeInferencePass(strict_mode=False, data_prop=False)
    model = ir.load(bundle.file(stage.graph))
    modified = bool(model.functions)
    common.InlinePass()(model)
    if any(spec.dtype == "uint8" for spec in stage.inputs):
        widened = WidenUint8Pass()(infer(model).model)
        model, modified = widened.model, modified or widened.modified
    if not modified:
        return bundle.file(stage.graph)
    file = folder / f"{stage.name}.onnx"
    ir.save(model, file, external_data=f"{file.name}.data")
    return file


def _source_digest(bundle: Bundle, stage: Stage) -> str:
    """SHA-256 over the SHA-256s of the stage's graph and of the weight files that it uses."""
    names = [stage.graph, *bundle.weights(stage.graph)]
    listed = "".join(f"{bundle.manifest.files[name]}  {name}\n" for name in names)
    return hashlib.sha256(listed.encode()).hexdigest()


def _shortened(text: str, nodes: Iterable[str]) -> str:
    """``text``, and which nodes stayed float32: as many as a record holds."""
    text = ": ".join(filter(None, (text, ", ".join(nodes))))
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 4].rpartition(",")[0] + ", ..."
