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

It is long, since the forms of a session and what each is compiled for are one choice.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections import deque
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.backends import Attention
from mmedge.backends.cores import stage_threads
from mmedge.device import usable_cores
from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    from mmedge.backends import SessionOptions
    from mmedge.bundle import Bundle
    from mmedge.spec import Array, Sample, Stage, TensorSpec, Variant

__all__ = [
    "SPECIALISED", "Compiled", "OpenVinoSession", "check_range", "compile_settings", "core",
    "fix_shapes", "golden_shapes", "open_stage", "ports", "read_onnx",
]  # fmt: skip

#: Most sets of input shapes that a session is compiled for by themselves.
SPECIALISED = 4

#: Largest input that is copied to where OpenVINO has it. Telling it of another place took 10 us and
#: slowed the run by 20 (OpenVINO 2026.4, AMD EPYC), which is copying this much.
COPIED_BYTES = 1 << 18

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

Shapes = tuple[tuple[int, ...], ...]


class Compiled:
    """A model compiled for the CPU, with requests that wait to be used again.

    Args:
        model: OpenVINO's.
        settings: from :func:`compile_settings`.
        outputs: names of those that are wanted.

    Raises:
        BackendError: some of it would run on another device.
        RuntimeError: OpenVINO refuses it.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401
        settings: Mapping[str, Any],
        outputs: Sequence[str],
    ) -> None:
        compiled = core().compile_model(model, "CPU", dict(settings))
        devices = list(compiled.get_property("EXECUTION_DEVICES"))
        if devices != ["CPU"]:
            raise BackendError(f"OpenVINO: expected every node on the CPU, found {devices}")
        self._compiled = compiled
        index = {name: i for i, port in enumerate(compiled.outputs) for name in port.get_names()}
        self._outputs = [(name, index[name]) for name in outputs]
        self._by_copy = [
            not port.partial_shape.is_dynamic
            and prod(port.shape) * port.element_type.size <= COPIED_BYTES
            for port in compiled.inputs
        ]
        # One run at a time each; a deque's pop and append are atomic.
        self._idle: deque[tuple[Any, list[Array | None]]] = deque()

    def run(self, values: Sequence[Array]) -> dict[str, Array]:
        """Outputs by name.

        Args:
            values: C-contiguous, in the order of the model's inputs.
        """
        try:
            request, places = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
            places = [
                request.get_input_tensor(index).data if by_copy else None
                for index, by_copy in enumerate(self._by_copy)
            ]
        for index, (value, place) in enumerate(zip(values, places, strict=True)):
            if place is not None:
                np.copyto(place, value)
            else:
                # A tensor cannot lie on what may not be written.
                tensor = _tensor(value, shared_memory=value.flags.writeable)
                request.set_input_tensor(index, tensor)
        request.infer(share_outputs=True)
        # The next run of the request writes where this one's outputs lie.
        outputs = {
            name: np.array(request.get_output_tensor(index).data) for name, index in self._outputs
        }
        self._idle.append((request, places))
        return outputs


def _tensor(value: Array, *, shared_memory: bool) -> Any:  # noqa: ANN401
    import openvino

    return openvino.Tensor(value, shared_memory=shared_memory)


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
        if self._model is None:
            raise BackendError(f"{self._where}: the session is closed; load the bundle again")
        values = [feeds[name] for name in self._names]
        for index in self._wide:
            check_range(values[index], f"{self._where}: input {self._names[index]!r}")
        try:
            compiled = self._by_shapes.get(tuple(value.shape for value in values))
            return (compiled or self._any_shapes()).run(values)
        except Exception as error:  # the binding raises several unrelated types
            raise BackendError(f"{self._where}: OpenVINO failed: {error}") from error

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
    # A state that grows has another shape in each run.
    grows = any(
        state.stage == stage.name and state.axis is not None for state in bundle.manifest.states
    )
    samples = () if grows else bundle.samples()
    try:
        model = read_onnx(path)
        return OpenVinoSession(model, settings, stage, where, samples=samples, attention=attention)
    except BackendError:
        raise
    except Exception as error:  # the binding raises several unrelated types
        raise BackendError(f"{where}: OpenVINO refused the graph: {error}") from error


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


_CORE: list[Any] = []
_CORE_LOCK = threading.Lock()


def core() -> Any:  # noqa: ANN401
    """OpenVINO's Core; one for the process, since making it takes its time."""
    with _CORE_LOCK:
        if not _CORE:
            _CORE.append(_import_silently().Core())
        return _CORE[0]


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


def _import_silently() -> ModuleType:
    """The package ``openvino``, without the telemetry that importing it would start.

    It would look up a host and write into the user's home folder, and no variable turns that off;
    without the package ``openvino_telemetry`` OpenVINO does nothing of it. A process that uses that
    package already has decided for itself.
    """
    hidden = "openvino_telemetry"
    if hidden in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[hidden] = None  # type: ignore[assignment] # importing it raises ImportError
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[hidden]


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
