"""OpenVINO sessions on the CPU, compiled for the shapes that calls are expected to have.

On a processor that multiplies integers fast, OpenVINO runs many int8 graphs faster than ONNX
Runtime does, and some of float32 too. It reads the same ONNX graphs, without mmedge's own functions
of operators, which :mod:`mmedge_export.targets.openvino.variant` writes out as their bodies. It
computes int64 in 32 bits: inputs beyond that are refused, and what a graph makes inside must stay
within.

A graph that is compiled for fixed shapes runs 1.2 to 1.8 times as fast as one for any shapes
(OpenVINO 2026.4, four networks, one thread). So a session compiles one form for the shapes of the
golden samples, up to :data:`SPECIALISED` of them, when it is loaded, and one for any other shapes
at the first call that needs it, which then takes longer by that. Each form holds the weights once
more, in the order that its kernels take them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from mmedge.backends import Attention
from mmedge.backends.cores import stage_threads
from mmedge.backends.openvino.compiled import Compiled, core
from mmedge.device import usable_cores
from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mmedge.backends import SessionOptions
    from mmedge.backends.openvino.compiled import Shapes
    from mmedge.backends.openvino.stepper import OpenVinoStepper
    from mmedge.bundle import Bundle
    from mmedge.loop_spec import StateSpec
    from mmedge.spec import Array, Manifest, Sample, Stage, TensorSpec, Variant

__all__ = [
    "SPECIALISED", "OpenVinoSession", "check_range", "compile_settings", "fix_shapes",
    "golden_shapes", "grows", "open_stage", "ports", "read_onnx",
]  # fmt: skip

#: Most sets of input shapes that a session is compiled for by themselves.
SPECIALISED = 4

#: OpenVINO's names of tensor types -> dtype names of a manifest. float64 is not among them: on the
#: CPU OpenVINO computes it in 32 bits, without a word.
DTYPE_NAMES: Mapping[str, str] = {
    "boolean": "bool",
    "f16": "float16",
    "f32": "float32",
    "i32": "int32",
    "i64": "int64",
    "i8": "int8",
    "u8": "uint8",
}

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1

#: Integers whose range Python finds sooner than NumPy: of 16, between two runs of a network that
#: leaves nothing of either in the caches, NumPy's two reductions took 50 us (AMD EPYC).
FEW = 256


class OpenVinoSession:
    """A stage in OpenVINO (see :class:`mmedge.backends.Session`).

    Args:
        model: as read, of any shapes.
        settings: from :func:`compile_settings`.
        stage: what it stands for.
        where: names stage and variant in errors.
        samples: golden samples, for whose shapes it is compiled now.
        attention: what is said of attention over segments.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        settings: Mapping[str, Any],
        stage: Stage,
        where: str,
        *,
        samples: Sequence[Sample] = (),
        attention: Attention | None = None,
    ) -> None:
        self.attention = attention
        self._model: Any = model
        self._settings, self._where = settings, where
        self.inputs = ports(model.inputs, stage.inputs, "input", stage)
        self.outputs = ports(model.outputs, stage.outputs, "output", stage)
        self._names = [spec.name for spec in self.inputs]
        self._output_names = [spec.name for spec in self.outputs]
        self._wide = [i for i, spec in enumerate(self.inputs) if spec.dtype == "int64"]
        self._lock = threading.Lock()
        self._by_shapes: dict[Shapes, Compiled] = {}
        self._general: Compiled | None = None
        dynamic = any(port.partial_shape.is_dynamic for port in model.inputs)
        for shapes in golden_shapes(samples, self._names) if dynamic else ():
            self._by_shapes[shapes] = Compiled(
                fix_shapes(model, shapes), settings, self._output_names
            )
        if not self._by_shapes:
            self._general = Compiled(model, settings, self._output_names)

    def _any_shapes(self) -> Compiled:
        """Compiled for any shapes; made when first needed."""
        if self._general is None:
            with self._lock:
                if self._general is None:
                    self._general = Compiled(self._model, self._settings, self._output_names)
        return self._general

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run once; see :meth:`mmedge.backends.Session.run`."""
        self._check_open()
        values = [feeds[name] for name in self._names]
        self._check_values(values)
        try:
            return self._form(tuple(value.shape for value in values)).run(values)
        except Exception as error:  # the binding raises several unrelated types
            raise BackendError(f"{self._where}: OpenVINO failed: {error}") from error

    def stepper(self, states: Sequence[StateSpec]) -> OpenVinoStepper:
        """See :meth:`mmedge.backends.SteppingSession.stepper`."""
        self._check_open()
        # Only some bundles have a loop.
        from mmedge.backends.openvino.stepper import OpenVinoStepper

        return OpenVinoStepper(self._form, self._check_values, self._names, states, self._where)

    def _check_open(self) -> None:
        if self._model is None:
            raise BackendError(f"{self._where}: the session is closed; load the bundle again")

    def _check_values(self, values: Sequence[Array | None]) -> None:
        """Raise BackendError where one, in the model's order, has integers beyond 32 bits."""
        for index in self._wide:
            value = values[index]
            if value is not None:
                check_range(value, f"{self._where}: input {self._names[index]!r}")

    def _form(self, shapes: Shapes) -> Compiled:
        """What is compiled for some shapes of the inputs, in the model's order."""
        return self._by_shapes.get(shapes) or self._any_shapes()

    def close(self) -> None:
        """Free the compiled models."""
        self._model, self._general = None, None
        self._by_shapes = {}


def open_stage(
    bundle: Bundle, stage: Stage, variant: Variant, *, options: SessionOptions
) -> OpenVinoSession:
    """Load one stage; see :func:`mmedge.backends.registry.open_stage`."""
    where = f"stage {stage.name!r}, variant {variant.id}"
    try:
        core()
    except ImportError as error:
        raise BackendError(
            f"{where}: OpenVINO cannot be imported: pip install 'mmedge[openvino]': {error}"
        ) from error
    if variant.target != "cpu":
        raise BackendError(
            f"{where}: OpenVINO runs variants for cpu, not for {variant.target}; "
            "export the bundle again"
        )
    nodes = sum(bundle.functions(stage.graph).values())
    if options.kernels and nodes:
        raise BackendError(
            f"{where}: mmedge's kernels do not run in OpenVINO; load with backend='ort'"
        )
    attention = Attention(nodes, None, "OpenVINO has no such operator") if nodes else None
    settings = compile_settings(
        stage, alone=bundle.manifest.has_cores(stage), threads=options.threads
    )
    # A bundle's own errors are not OpenVINO's.
    path = bundle.file(variant.files[stage.name])
    samples = () if grows(bundle.manifest, stage) else bundle.samples()
    try:
        model = read_onnx(path)
        return OpenVinoSession(model, settings, stage, where, samples=samples, attention=attention)
    except BackendError:
        raise
    except Exception as error:  # the binding raises several unrelated types
        raise BackendError(f"{where}: OpenVINO refused the graph: {error}") from error


def grows(manifest: Manifest, stage: Stage) -> bool:
    """Whether a stage has another shape in each run: then no form of it is worth compiling."""
    return any(s.stage == stage.name and s.axis is not None for s in manifest.states)


def fix_shapes(model: Any, shapes: Shapes) -> Any:  # noqa: ANN401
    """A copy of an OpenVINO model whose inputs have just these shapes, in their order."""
    copy = model.clone()
    copy.reshape({port: list(shape) for port, shape in zip(copy.inputs, shapes, strict=True)})
    return copy


def check_range(values: Array, what: str) -> None:
    """Refuse integers that OpenVINO would cut off: on the CPU it computes int64 in 32 bits.

    Raises:
        BackendError: one lies beyond int32.
    """
    if not values.size:
        return
    if values.size <= FEW:
        each = values.ravel().tolist()
        low, high = min(each), max(each)
    else:
        low, high = int(values.min()), int(values.max())
    if low < INT32_MIN or high > INT32_MAX:
        raise BackendError(
            f"{what}: expected integers of 32 bits, which is what OpenVINO computes int64 in, got "
            f"{low} to {high}; load with backend='ort'"
        )


def golden_shapes(samples: Sequence[Sample], names: Sequence[str]) -> list[Shapes]:
    """The sets of shapes in which golden samples enter a stage, the most frequent first.

    Args:
        samples: with every tensor that enters a stage.
        names: of the stage's inputs.
    """
    counts: dict[Shapes, int] = {}
    for sample in samples:
        tensors = sample.tensors()
        shapes = tuple(tensors[name].shape for name in names)
        counts[shapes] = counts.get(shapes, 0) + 1
    return sorted(counts, key=lambda shapes: -counts[shapes])[:SPECIALISED]


def compile_settings(stage: Stage, *, alone: bool, threads: int | None = None) -> dict[str, Any]:
    """How a stage uses the processor, as OpenVINO's properties.

    Args:
        stage: the stage; one with little work gets few threads.
        alone: whether it is the only stage.
        threads: most threads; None: one for each core.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": stage_threads(stage, alone=alone, threads=threads)
        or usable_cores(),
        # Otherwise it computes in bfloat16 where the processor has it: not what was verified.
        "INFERENCE_PRECISION_HINT": "f32",
        # Threads of several stages, or of several programs, would be pinned to the same cores.
        "ENABLE_CPU_PINNING": False,
    }


def read_onnx(path: Path) -> Any:  # noqa: ANN401
    """An ONNX file as OpenVINO's model, read by the reader for ONNX and no other.

    ``Core.read_model`` chooses one by what the file looks like, and XML is a network to it too.

    Raises:
        Exception: the file is not ONNX, or has what OpenVINO cannot run; its errors have no base.
    """
    core()  # which imports openvino as it should be
    from openvino.frontend import FrontEndManager

    reader = FrontEndManager().load_by_framework("onnx")
    return reader.convert(reader.load(str(path)))


def ports(
    model_ports: Sequence[Any], manifest_specs: tuple[TensorSpec, ...], kind: str, stage: Stage
) -> tuple[TensorSpec, ...]:
    """The specs of a model's own inputs or outputs, in the model's order.

    Raises:
        BackendError: they are not what the manifest declares of them.
    """
    by_name = {spec.name: spec for spec in manifest_specs}
    specs = []
    for port in model_ports:
        # A port has further names where the graph passes the tensor on under another one.
        names = sorted(port.get_names())
        name = next((name for name in names if name in by_name), names[0] if names else "")
        spec, shape = by_name.pop(name, None), port.partial_shape
        dtype = DTYPE_NAMES.get(port.element_type.get_type_name(), str(port.element_type))
        if spec is not None and spec.dtype not in DTYPE_NAMES.values():
            raise BackendError(
                f"stage {stage.name!r}: {kind} {spec}: variants for OpenVINO take "
                f"{', '.join(DTYPE_NAMES.values())}; use backend='ort'"
            )
        if spec is None or dtype != spec.dtype or len(shape) != len(spec.shape):
            raise BackendError(
                f"stage {stage.name!r}: OpenVINO has the {kind} {name!r} as {dtype} {shape}, the "
                f"manifest declares {spec or 'no such one'}; use backend='ort'"
            )
        specs.append(spec)
    if by_name:
        raise BackendError(
            f"stage {stage.name!r}: OpenVINO has no {kind} {min(by_name)!r}, which the manifest "
            "declares; use backend='ort'"
        )
    return tuple(specs)
