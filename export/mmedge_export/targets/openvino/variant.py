"""OpenVINO as a backend: graphs as it takes them, running them, and the variant of a bundle."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.backends.openvino.compiled import Compiled, core
from mmedge.backends.openvino.session import (
    SPECIALISED,
    check_range,
    compile_settings,
    fix_shapes,
    grows,
    ports,
)
from mmedge.errors import AccuracyError, BackendError, ExportError, MMEdgeError
from mmedge.execution.plan import StagePlan
from mmedge.loader import load
from mmedge.tolerance import difference
from mmedge_export.capture.other_sizes import check_sizes
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.open_questions import line
from mmedge_export.targets.openvino.integers import check_integers
from mmedge_export.targets.variants import base_variant

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.bundle import Bundle
    from mmedge.spec import Array, Stage, TensorSpec, Variant

__all__ = ["OpenVinoRunner", "add_openvino"]

#: More sets of shapes than a check tries: each gets a form of its own.
_ALL_SIZES = 64


class OpenVinoRunner:
    """A graph's file in OpenVINO on the CPU, compiled for the first sets of shapes it is given.

    Args:
        path: of the file.
        stage: what it stands for, which says how many threads it is worth.
        alone: whether it is the network's only stage.
        threads: most threads; None: one for each core.
        specialised: sets of shapes that get a form of their own, as in the runtime.

    Raises:
        ExportError: OpenVINO does not load the file.
    """

    def __init__(
        self,
        path: Path,
        stage: Stage,
        *,
        alone: bool,
        threads: int | None,
        specialised: int = SPECIALISED,
    ) -> None:
        self._name = path.name
        self._specialised = specialised
        self._settings = compile_settings(stage, alone=alone, threads=threads)
        try:
            self._model: Any = core().read_model(_without_functions(path))
        except RuntimeError as error:
            raise ExportError(f"OpenVINO does not load {path.name}: {error}") from error
        self._inputs = [_name(port, stage.inputs) for port in self._model.inputs]
        self._outputs = [_name(port, stage.outputs) for port in self._model.outputs]
        self._compiled: dict[tuple[tuple[int, ...], ...], Compiled] = {}
        self._general: Compiled | None = None

    def __call__(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Raises:
            ExportError: OpenVINO does not compile the graph for these shapes, or the run failed.
        """
        try:
            arrays = [values[name] for name in self._inputs]
            for name, value in zip(self._inputs, arrays, strict=True):
                if value.dtype == np.int64:
                    check_range(value, f"{self._name}: input {name!r}")
            shapes = tuple(value.shape for value in arrays)
            return self._for(shapes).run(arrays)
        except (KeyError, RuntimeError, BackendError) as error:
            input_shapes = {name: list(value.shape) for name, value in values.items()}
            raise ExportError(
                f"OpenVINO fails on {self._name} with {input_shapes}: {error}"
            ) from error

    def check(self, stage: Stage) -> None:
        """See that the graph's inputs and outputs are those of ``stage``, in types that are kept.

        Raises:
            ExportError: they are not.
        """
        try:
            ports(self._model.inputs, stage.inputs, "input", stage)
            ports(self._model.outputs, stage.outputs, "output", stage)
        except BackendError as error:
            raise ExportError(f"OpenVINO cannot run {self._name}: {error}") from error

    def _for(self, shapes: tuple[tuple[int, ...], ...]) -> Compiled:
        """The form for some shapes; as in the runtime there are few of fixed ones."""
        if shapes in self._compiled:
            return self._compiled[shapes]
        if len(self._compiled) < self._specialised:
            model = fix_shapes(self._model, shapes)
            compiled = self._compiled[shapes] = Compiled(model, self._settings, self._outputs)
            return compiled
        if self._general is None:
            self._general = Compiled(self._model, self._settings, self._outputs)
        return self._general


def _name(port: Any, specs: tuple[TensorSpec, ...]) -> str:  # noqa: ANN401
    """What a stage calls one of its model's ports, which may have several names."""
    names = sorted(port.get_names())
    spec_names = {spec.name for spec in specs}
    return str(next((name for name in names if name in spec_names), names[0]))


def _without_functions(path: Path) -> Path | bytes:
    """A graph as OpenVINO takes it: the file, or its content with functions written out."""
    import onnx
    from onnx import inliner

    if not onnx.load(path, load_external_data=False).functions:
        return path
    try:
        content: bytes = inliner.inline_local_functions(onnx.load(path)).SerializeToString()
    except ValueError as error:  # over 2 GB
        raise ExportError(f"{path.name} has functions and is too large: {error}") from error
    return content


def add_openvino(bundle: Bundle) -> tuple[Bundle, Variant]:
    """Add the float32 variant of OpenVINO, after checking it against the golden samples.

    A loop, and what has state, is also run whole.

    Args:
        bundle: open; it is closed where this succeeds.

    Returns:
        The new bundle, open, and the variant.

    Raises:
        AccuracyError: it does not compute what the golden samples hold, or something else than ONNX
            Runtime does at other sizes (:func:`mmedge_export.capture.other_sizes.check_sizes`) or
            in integers on extreme inputs
            (:func:`mmedge_export.targets.openvino.integers.check_integers`).
        ExportError: OpenVINO is not installed or does not take a graph.
    """
    try:
        version = metadata.version("openvino")
    except metadata.PackageNotFoundError as error:
        raise ExportError("OpenVINO is not installed: pip install 'mmedge[openvino]'") from error
    base = base_variant(bundle, "ort")
    if base is None:
        raise ExportError(f"{bundle.path}: it has no float32 graphs; export the network again")
    if not bundle.manifest.samples:
        raise ExportError(f"{bundle.path}: no golden samples to prove it by; export it again")
    manifest = bundle.manifest
    stages = manifest.stages

    def opened(specialised: int) -> dict[str, OpenVinoRunner]:
        return {
            stage.name: OpenVinoRunner(
                bundle.file(stage.graph),
                stage,
                alone=manifest.has_cores(stage),
                threads=None,
                # As in the runtime.
                specialised=0 if grows(manifest, stage) else specialised,
            )
            for stage in stages
        }

    runners = opened(SPECIALISED)
    for stage in stages:
        runners[stage.name].check(stage)
    every = StagePlan(stages, runners)  # stages of all plans: each is run alone
    for number, sample in enumerate(bundle.samples()):
        for stage, outputs in every.alone(sample.tensors()):
            for name, value in outputs.items():
                limit = base.tolerances.get(name, base.tolerance)
                result = difference(value, sample.outputs[name], limit)
                if not result.passes:
                    raise AccuracyError(
                        f"OpenVINO {version}, stage {stage.name!r}, golden sample {number}: "
                        f"output {name!r} {result}, {result.limit_used:.3g} times what its "
                        f"tolerance allows ({limit}); use ONNX Runtime, and report this"
                    )
    # Shapes that come often get a form of their own, all others share one: both are tried.
    open_questions = check_sizes(
        bundle,
        base,
        {stage.name: Runner(bundle.file(stage.graph)) for stage in stages},
        [opened(_ALL_SIZES), opened(0)],
        backend=f"OpenVINO {version}",
    )
    with tempfile.TemporaryDirectory(prefix="mmedge-openvino-") as temporary:
        for stage in stages:
            open_questions += check_integers(
                bundle.file(stage.graph),
                stage,
                bundle.samples(),
                Path(temporary),
                exact=lambda path, _stage: Runner(path),
                tested=lambda path, wide: OpenVinoRunner(path, wide, alone=True, threads=None),
            )
    files: dict[str, bytes | Path] = {}
    paths = {}
    for stage in stages:
        paths[stage.name] = stage.graph
        if bundle.functions(stage.graph):
            paths[stage.name] = name = f"{stage.graph.removesuffix('.onnx')}.inlined.onnx"
            files[name] = _inlined(bundle.file(stage.graph))
    variant = replace(
        base,
        backend="openvino",
        files=paths,
        build={"openvino": version},
        metrics={},
        not_checked=tuple(map(line, open_questions)),
    )
    bundle = bundle.with_variant(variant, files)
    if manifest.states or manifest.loops:
        try:
            # Which it does only where what is loaded computes the golden samples.
            load(bundle, variant.id).close()
        except MMEdgeError:
            bundle.without_variant(variant.id).close()
            raise
    return bundle, variant


def _inlined(path: Path) -> bytes:
    """A graph without functions, with weights in the same files."""
    import onnx
    from onnx import inliner

    model = onnx.load(path, load_external_data=False)
    content: bytes = inliner.inline_local_functions(model).SerializeToString()
    return content
