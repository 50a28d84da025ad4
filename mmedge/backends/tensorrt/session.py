"""TensorRT and TensorRT-RTX sessions.

Every layer of an engine runs on the GPU: there is no second processor that one could fall back to
(mmedge builds engines without the DLA), so placement needs no check here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.backends.tensorrt import SOURCES
from mmedge.backends.tensorrt.library import (
    DTYPE_NAMES,
    load_library,
    make_log,
    make_profiler,
)
from mmedge.backends.tensorrt.memory import CudaMemory, Memory
from mmedge.device import find_gpus
from mmedge.errors import BackendError
from mmedge.spec import DTYPES, Array, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.backends import Attention, SessionOptions
    from mmedge.bundle import Bundle
    from mmedge.spec import Stage, Variant

__all__ = ["TensorRTSession", "open_stage"]

Shape = tuple[int, ...]


class TensorRTSession:
    """A stage as a TensorRT engine (see :class:`mmedge.backends.Session`).

    Device buffers are kept between runs and grow when a larger input comes. Runs from several
    threads follow one another: an execution context serves one at a time.

    Args:
        trt: the library's module.
        engine: deserialised; belongs to the session from now on, with ``runtime``.
        runtime: what deserialised it; must outlive it.
        memory: of the GPU that the engine lies on; belongs to the session.
        log: gives ``errors``, a list of what the library said.

    Raises:
        BackendError: the engine's inputs or outputs are not the stage's.
    """

    def __init__(
        self,
        trt: Any,  # noqa: ANN401
        engine: Any,  # noqa: ANN401
        stage: Stage,
        variant: Variant,
        *,
        runtime: Any,  # noqa: ANN401
        memory: Memory,
        log: Any,  # noqa: ANN401
    ) -> None:
        self.inputs = stage.inputs
        self.outputs = stage.outputs
        self.attention: Attention | None = None  # an engine does not tell
        self._where = f"stage {stage.name!r}, variant {variant.id}"
        self._dtypes = {spec.name: DTYPES[spec.dtype] for spec in (*self.inputs, *self.outputs)}
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> (address, bytes)
        self._lock = threading.Lock()
        self._log = log
        self._trt = trt
        self._profiler: Any = None
        self._memory: Memory | None = memory
        self._runtime, self._engine = runtime, engine
        self._context: Any = None
        try:
            _check_tensors(trt, engine, stage, self._where)
            self._limits = {
                spec.name: _limits(engine, spec)
                for spec in self.inputs
                if any(isinstance(size, str) for size in spec.shape)
            }
            self._context = engine.create_execution_context()
            if self._context is None:
                raise BackendError(
                    f"{self._where}: no memory for the engine on this GPU, or it failed to start: "
                    f"{self._reason()}"
                )
        except BackendError:
            self.close()
            raise

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run once; see :meth:`mmedge.backends.Session.run`.

        Raises:
            BackendError: an input is larger or smaller than the engine was built for, the engine
                failed, or the session is closed.
        """
        with self._lock:
            memory = self._memory
            if memory is None:
                raise BackendError(f"{self._where}: the session is closed; load the bundle again")
            memory.use()
            self._log.errors.clear()
            for spec in self.inputs:
                self._feed(memory, spec.name, feeds[spec.name])
            results = {spec.name: self._prepare(memory, spec.name) for spec in self.outputs}
            if not self._context.execute_async_v3(memory.stream):
                raise BackendError(f"{self._where}: the engine failed: {self._reason()}")
            for name, array in results.items():
                if array.nbytes:
                    memory.to_host(array, self._buffers[name][0])
            memory.wait()  # the arrays in feeds are read until here
            return results

    def record_layers(self) -> list[tuple[str, float]]:
        """Have each run from now on add the name and the milliseconds of each of its layers.

        Runs take longer for it; it is for a session that is opened to be profiled.

        Returns:
            The list that runs add to.

        Raises:
            BackendError: the session is closed, or the library refuses.
        """
        with self._lock:
            if self._memory is None:
                raise BackendError(f"{self._where}: the session is closed; load the bundle again")
            try:
                # Kept for as long as the context that calls it.
                self._profiler = make_profiler(self._trt)
                self._context.profiler = self._profiler
            except Exception as error:  # the binding raises several unrelated types
                raise BackendError(f"{self._where}: no profile by layer: {error}") from error
            layers: list[tuple[str, float]] = self._profiler.layers
            return layers

    def _feed(self, memory: Memory, name: str, value: Any) -> None:  # noqa: ANN401
        """Set one input's shape and address; copy it unless it lies on the GPU."""
        if isinstance(value, np.ndarray):
            self._set_shape(name, value.shape)
            address = self._reserve(memory, name, value.nbytes)
            if value.nbytes:
                memory.to_device(address, value)
        else:
            interface = value.__cuda_array_interface__
            self._set_shape(name, tuple(interface["shape"]))
            address = interface["data"][0]
            # Version 3 of the interface: the array is ready when this stream has come to it.
            if interface.get("stream") is not None:
                memory.wait(interface["stream"])
            if not address:  # an empty array has no address; an engine insists on one
                address = self._reserve(memory, name, 0)
        self._set_address(name, address)

    def _prepare(self, memory: Memory, name: str) -> Array:
        """An array for one output, and a device buffer of its size."""
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise BackendError(
                f"{self._where}: the size of output {name!r} depends on values, {shape}; "
                "an engine cannot tell it before it runs: run this bundle with backend ort"
            )
        array: Array = np.empty(shape, self._dtypes[name])
        self._set_address(name, self._reserve(memory, name, array.nbytes))
        return array

    def _set_shape(self, name: str, shape: Shape) -> None:
        least, most = self._limits.get(name, (shape, shape))
        for axis, (size, low, high) in enumerate(zip(shape, least, most, strict=True)):
            if not low <= size <= high:
                raise BackendError(
                    f"{self._where}: input {name!r} has size {size} on axis {axis}, the engine was "
                    f"built for {low} to {high}; build it again with a wider --profile"
                )
        if not self._context.set_input_shape(name, shape):
            raise BackendError(
                f"{self._where}: the engine refused shape {shape} of input {name!r}: "
                f"{self._reason()}"
            )

    def _set_address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise BackendError(
                f"{self._where}: the engine refused the buffer of {name!r}: {self._reason()}"
            )

    def _reserve(self, memory: Memory, name: str, size: int) -> int:
        """Address of a buffer of at least ``size`` bytes, kept for the next run."""
        address, capacity = self._buffers.get(name, (0, 0))
        if capacity < max(size, 1):
            if capacity:
                del self._buffers[name]
                memory.free(address)
            address = memory.allocate(max(size, 1))
            self._buffers[name] = address, max(size, 1)
        return address

    def _reason(self) -> str:
        return "; ".join(self._log.errors) or "the library gave no reason"

    def close(self) -> None:
        """Free the engine, its buffers and the stream. May be called twice."""
        with self._lock:
            memory, self._memory = self._memory, None
            if memory is None:
                return
            memory.use()
            # In this order: a context points into its engine, an engine into its runtime.
            self._context = None
            self._engine = None
            self._runtime = None
            while self._buffers:
                memory.free(self._buffers.popitem()[1][0])
            memory.close()


def open_stage(
    bundle: Bundle, stage: Stage, variant: Variant, *, options: SessionOptions
) -> TensorRTSession:
    """Load one stage; see :func:`mmedge.backends.registry.open_stage`.

    Raises:
        BackendError: no GPU of the variant's target is here, the library or cuda-bindings is not
            installed, or the library refuses the engine.
    """
    del options  # threads are the CPU's
    where = f"stage {stage.name!r}, variant {variant.id}"
    # First of all: some TensorRT runtimes end the process when made without a GPU.
    gpus = find_gpus()
    if not gpus:
        raise BackendError(
            f"{where}: running an engine needs an NVIDIA GPU and its driver, and the driver offers "
            "none to this process. Install or expose it (containers need --gpus all), or load the "
            "bundle with backend='ort'"
        )
    matching = [index for index, gpu in enumerate(gpus) if gpu.sm == variant.target]
    if not matching:
        raise BackendError(
            f"{where}: built for {variant.target}, this machine has "
            f"{', '.join(f'{gpu.name} ({gpu.sm})' for gpu in gpus)}; build it for this machine: "
            f"mmedge build BUNDLE --backend {variant.backend.replace('_', '-')}"
        )
    trt = load_library(variant.backend)
    memory = CudaMemory(matching[0])
    try:
        log = make_log(trt)
        runtime = trt.Runtime(log)
        data = bundle.read(variant.files[stage.name])
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise BackendError(
                f"{where}: {SOURCES[variant.backend].distribution} {trt.__version__} refused the "
                f"engine: {'; '.join(log.errors) or 'it gave no reason'}{_why(runtime, data)}. "
                "Build it again on this machine with mmedge build"
            )
    except BackendError:
        memory.close()
        raise
    return TensorRTSession(trt, engine, stage, variant, runtime=runtime, memory=memory, log=log)


def _why(runtime: Any, data: memoryview) -> str:  # noqa: ANN401
    """What the library's own check of the file says, in versions that have one."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    validity, bits = runtime.get_engine_validity(data)
    return f" (validity {getattr(validity, 'name', validity)}, diagnostics {bits:#x})"


def _check_tensors(trt: Any, engine: Any, stage: Stage, where: str) -> None:  # noqa: ANN401
    """The engine's inputs and outputs are those that the manifest declares, and lie on the GPU."""
    tensors: dict[str, tuple[Any, TensorSpec]] = {
        spec.name: (mode, spec)
        for mode, specs in (
            (trt.TensorIOMode.INPUT, stage.inputs),
            (trt.TensorIOMode.OUTPUT, stage.outputs),
        )
        for spec in specs
    }
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    if sorted(names) != sorted(tensors):
        raise BackendError(
            f"{where}: the engine has tensors {sorted(names)}, the manifest declares "
            f"{sorted(tensors)}; build it again"
        )
    for name in names:
        mode, spec = tensors[name]
        if engine.get_tensor_mode(name) != mode:
            raise BackendError(
                f"{where}: tensor {name!r} is an {engine.get_tensor_mode(name).name.lower()} of "
                f"the engine, the manifest declares an {mode.name.lower()}; build it again"
            )
        dtype_name = engine.get_tensor_dtype(name).name
        dtype = DTYPE_NAMES.get(dtype_name, dtype_name)
        shape = tuple(engine.get_tensor_shape(name))
        fits = len(shape) == len(spec.shape) and all(
            isinstance(dimension, str) or size in (-1, dimension)
            for size, dimension in zip(shape, spec.shape, strict=True)
        )
        if dtype != spec.dtype or not fits:
            raise BackendError(
                f"{where}: tensor {name!r} is {dtype} {shape} in the engine, the manifest declares "
                f"{spec}; build it again"
            )
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise BackendError(
                f"{where}: tensor {name!r} must lie in host memory, because its values are sizes; "
                "such engines are not supported, compute sizes from shapes in the network"
            )


def _limits(engine: Any, spec: TensorSpec) -> tuple[Shape, Shape]:  # noqa: ANN401
    """Smallest and largest shape of an input that the engine was built for."""
    least, _, most = engine.get_tensor_profile_shape(spec.name, 0)
    return tuple(least), tuple(most)
