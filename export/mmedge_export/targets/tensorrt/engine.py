"""A bundle's stages as TensorRT or TensorRT-RTX engines, stored in the bundle as a variant.

TensorRT-RTX builds on a machine without a GPU, for any architecture it knows. TensorRT builds on
the GPU that the engine is for. An engine runs on the library version and the architecture that it
was built with and on nothing else; it is a cache of the graph, which stays in the bundle.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from mmedge.backends.tensorrt import SOURCES
from mmedge.backends.tensorrt.library import library_version
from mmedge.bundle import Bundle
from mmedge.errors import BackendError, InputError
from mmedge.schema.names import MAX_TEXT
from mmedge.spec import Stage, Tolerance, Variant
from mmedge_export.open_questions import NOT_RUN
from mmedge_export.targets.tensorrt.engine_builder import EngineBuilder
from mmedge_export.targets.tensorrt.float16 import TOLERANCE, to_float16
from mmedge_export.targets.tensorrt.profiles import Sizes, resolve_profiles

if TYPE_CHECKING:
    from mmedge_export.targets.tensorrt.quantize import Precision

__all__ = ["FP32_TOLERANCE", "PRECISIONS", "build", "build_all"]

#: What an engine may compute in; ``fp32`` is IEEE float32 (TF32 is off).
PRECISIONS = ("fp32", "fp16", "int8", "fp8")

#: The first architecture with fp8 (E4M3) products, Ada.
FP8_SM = 89

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
            :func:`mmedge_export.targets.tensorrt.float16.to_float16`), or ``int8`` or ``fp8``:
            products in 8 bits, calibrated on the golden samples, and all else in float32 (see
            :func:`mmedge_export.targets.tensorrt.stages.to_qdq`).
        profile: smallest, best and largest size of dynamic dimensions of the inputs, by name;
            others as :func:`mmedge_export.targets.tensorrt.profiles.resolve_profiles` says.
        workspace: bytes of GPU memory that a layer may use as scratch; None: the library's default.
        progress: told what is being done, a line at a time.

    Returns:
        The new bundle, open. A variant of the same backend, precision and target is replaced.

    Raises:
        InputError: an unknown backend, target or precision, a profile that does not fit, or fp8 for
            an architecture before sm_89.
        BackendError: the library is not installed, needs a GPU, or refuses a graph.
        AccuracyError: a lower precision cannot hold the golden samples.
        ExportError: a graph cannot be quantised.
        BundleError: the bundle cannot be read or written.
    """
    built, _ = build_all(
        bundle,
        backend=backend,
        targets=[target],
        precisions=[precision],
        profile=profile,
        workspace=workspace,
        progress=progress,
    )
    return built


def build_all(
    bundle: Bundle | str | Path,
    *,
    backend: str,
    targets: Sequence[str],
    precisions: Sequence[str],
    profile: Mapping[str, tuple[int, int, int]] | None = None,
    workspace: int | None = None,
    progress: Progress | None = None,
) -> tuple[Bundle, tuple[Variant, ...]]:
    """:func:`build` for every target in every precision; also returns the variants that it made.

    Graphs are converted once for all targets. All engines are built before the first is stored, so
    an error while building leaves the bundle as it was.
    """
    backend = backend.replace("-", "_")
    tell = progress or (lambda _: None)
    for precision in precisions:
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
    if "fp8" in precisions:
        _refuse_fp8(builders)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    made: list[tuple[Variant, dict[str, Path]]] = []
    try:
        sizes = resolve_profiles(opened, profile)
        with tempfile.TemporaryDirectory(prefix="mmedge-build-") as temporary:
            for precision in dict.fromkeys(precisions):
                folder = Path(temporary) / precision
                folder.mkdir()
                graphs = _graphs(opened, precision, folder, tell)
                made += [
                    _build_variant(opened, builder, precision, graphs, sizes, folder, tell)
                    for builder in builders
                ]
            for variant, files in made:
                opened = opened.with_variant(variant, files)
    except BaseException:
        if opened is not bundle:
            opened.close()
        raise
    return opened, tuple(variant for variant, _ in made)


@dataclass(frozen=True, slots=True)
class _Graph:
    """What an engine is built from: a file, the variant's record of it, and its relative error."""

    file: Path
    record: Mapping[str, str]
    error: float | None = None


def _graphs(bundle: Bundle, precision: str, folder: Path, tell: Progress) -> dict[str, _Graph]:
    """A graph of every stage in ``precision``; those that had to be changed lie in ``folder``.

    Raises:
        InputError: the bundle's own graphs are of a lower precision already.
    """
    stages = bundle.manifest.stages
    own = {stage.name: stage.graph for stage in stages}
    native = next((v.precision for v in bundle.manifest.variants if v.files == own), "fp32")
    if native not in {"fp32", precision}:
        raise InputError(
            f"precision {precision!r}: the bundle's graphs are {native}, and engines are typed as "
            f"the graph is; build it with precision {native}"
        )
    if native == precision:
        return {stage.name: _Graph(_as_exported(bundle, stage, folder), {}) for stage in stages}
    graphs = {}
    if precision == "fp16":
        for name, half in to_float16(bundle, folder, progress=tell).items():
            kept = _kept(f"{len(half.kept)} of {half.nodes} nodes", half.kept)
            graphs[name] = _Graph(half.file, {f"{name} kept float32": kept}, half.error)
    else:
        from mmedge_export.targets.tensorrt.stages import to_qdq

        kind: Precision = "int8" if precision == "int8" else "fp8"
        for name, made in to_qdq(bundle, folder, precision=kind, progress=tell).items():
            count = len(made.kept) + len(made.quantized)
            reasons = [f"{node} ({reason})" for node, reason in made.kept.items()]
            kept = _kept(f"{len(made.kept)} of {count} products", reasons)
            graphs[name] = _Graph(made.file, {f"{name} kept float32": kept}, made.error)
    return graphs


def _refuse_fp8(builders: Sequence[EngineBuilder]) -> None:
    """Refuse targets without fp8 before anything is calibrated."""
    for builder in builders:
        if int(builder.target.removeprefix("sm_")) < FP8_SM:
            raise InputError(
                f"precision fp8 for {builder.target}: products in fp8 (E4M3) need sm_{FP8_SM} or "
                "later; build it with precision int8 or fp16"
            )


def _tolerance(precision: str, errors: Sequence[float]) -> Tolerance:
    """What a variant may differ by; ``errors`` are those of its stages, none where unchanged."""
    if precision in ("fp32", "fp16"):
        return FP32_TOLERANCE if precision == "fp32" else TOLERANCE
    from mmedge_export.targets.tensorrt.stages import tolerance_of

    return tolerance_of(max(errors, default=0.0))


def _build_variant(
    bundle: Bundle,
    builder: EngineBuilder,
    precision: str,
    graphs: Mapping[str, _Graph],
    sizes: Mapping[str, Sizes],
    folder: Path,
    tell: Progress,
) -> tuple[Variant, dict[str, Path]]:
    """One variant and its files, which lie in ``folder``, by path in the bundle."""
    errors = [graph.error for graph in graphs.values() if graph.error is not None]
    variant = Variant(
        backend=builder.backend,
        precision=precision,
        target=builder.target,
        files={},
        tolerance=_tolerance(precision, errors),
        not_checked=(NOT_RUN,),
        requires={SOURCES[builder.backend].distribution: library_version(builder.backend)},
    )
    record = builder.options()
    record.update((f"profile {name}", str(size)) for name, size in sorted(sizes.items()))
    files: dict[str, Path] = {}
    paths: dict[str, str] = {}
    seconds, size = 0.0, 0
    for stage in bundle.manifest.in_order():
        tell(f"{variant.id}: {stage.name}")
        graph = graphs[stage.name]
        start = perf_counter()
        try:
            engine = builder.build(graph.file, stage, sizes)
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
        record.update(graph.record)
        if graph.error is not None:
            record[f"{stage.name} max_rel"] = f"{graph.error:.3g}"
    metrics = {"build_s": round(seconds, 3), "engine_bytes": float(size)}
    if errors:
        metrics[f"{precision}_max_rel"] = max(errors)
    return replace(variant, files=paths, build=record, metrics=metrics), files


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


def _kept(text: str, kept: Iterable[str]) -> str:
    """``text``, and which nodes stayed float32: as many as a record holds."""
    text = ": ".join(filter(None, (text, ", ".join(kept))))
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 4].rpartition(",")[0] + ", ..."
