"""The CUDA calls that an engine session needs: one stream, device buffers, copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mmedge.errors import BackendError

if TYPE_CHECKING:
    from mmedge.spec import Array

__all__ = ["CudaMemory", "Memory"]


class Memory(Protocol):
    """Memory of one GPU and one stream on it. Sizes are in bytes, pointers are addresses."""

    @property
    def stream(self) -> int:
        """Handle of the stream that all copies are queued on."""

    def use(self) -> None:
        """Make the GPU current in the calling thread."""

    def allocate(self, size: int) -> int:
        """Reserve device memory; the address of its first byte."""

    def free(self, pointer: int) -> None:
        """Give back what :meth:`allocate` reserved."""

    def to_device(self, pointer: int, array: Array) -> None:
        """Queue a copy of a C-contiguous array; it must live until :meth:`wait` returns."""

    def to_host(self, array: Array, pointer: int) -> None:
        """Queue a copy into a C-contiguous array that lives until :meth:`wait` returns."""

    def wait(self, stream: int | None = None) -> None:
        """Return when all work queued on ``stream`` (None: the own one) is done."""

    def close(self) -> None:
        """Destroy the stream. May be called twice."""


class CudaMemory:
    """:class:`Memory` through the CUDA runtime API of ``cuda-bindings``.

    Args:
        device: index of the GPU among those that the driver offers.

    Raises (here and in every method):
        BackendError: cuda-bindings is not installed, or a CUDA call failed.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise BackendError(
                "engines need cuda-bindings for GPU memory, which is not installed: "
                f"pip install 'cuda-bindings==MAJOR.*' for your CUDA's major version: {error}"
            ) from error
        self._cuda: Any = runtime
        self._device = device
        self._stream: Any = None
        self.use()
        # Not the default stream: it waits for all others, and TensorRT synchronises more on it.
        self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)

    @property
    def stream(self) -> int:
        """See :attr:`Memory.stream`."""
        return int(self._stream)

    def use(self) -> None:
        """See :meth:`Memory.use`."""
        self._call("cudaSetDevice", self._device)

    def allocate(self, size: int) -> int:
        """See :meth:`Memory.allocate`."""
        return int(self._call("cudaMalloc", size))

    def free(self, pointer: int) -> None:
        """See :meth:`Memory.free`."""
        self._call("cudaFree", pointer)

    def to_device(self, pointer: int, array: Array) -> None:
        """See :meth:`Memory.to_device`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", pointer, array.ctypes.data, array.nbytes, kind, self._stream)

    def to_host(self, array: Array, pointer: int) -> None:
        """See :meth:`Memory.to_host`."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, pointer, array.nbytes, kind, self._stream)

    def wait(self, stream: int | None = None) -> None:
        """See :meth:`Memory.wait`."""
        self._call("cudaStreamSynchronize", self._stream if stream is None else stream)

    def close(self) -> None:
        """See :meth:`Memory.close`."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self._call("cudaStreamDestroy", stream)

    def _call(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Call a function of the runtime API: its one result, or None."""
        status, *results = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(status)
            raise BackendError(f"CUDA: {name} failed: {text.decode()} ({status.name})")
        return results[0] if results else None
