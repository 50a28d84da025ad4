"""TensorRT and TensorRT-RTX: two libraries with nearly the same Python API."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

from mmedge.backends.tensorrt import SOURCES
from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DTYPE_NAMES", "library_version", "load_library", "make_log",
    "make_profiler",
]  # fmt: skip


#: Names of TensorRT's DataType -> dtype names of a manifest. TensorRT has no float64: its parser
#: takes such tensors and computes in float32.
DTYPE_NAMES: Mapping[str, str] = {
    "BOOL": "bool",
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
}


def load_library(backend: str) -> Any:  # noqa: ANN401
    """Import the library that serves ``backend``.

    Raises:
        BackendError: it is not installed, or cannot be loaded; the message has the install line.
    """
    library = SOURCES[backend]
    try:
        return importlib.import_module(library.module)
    except (ImportError, OSError) as error:
        raise BackendError(
            f"backend {backend}: {library.distribution} cannot be imported: {error}. "
            f"Fix: pip install 'mmedge[{library.extra}]'"
            + (" (on a Jetson it comes with JetPack)" if backend == "tensorrt" else "")
        ) from error


def library_version(backend: str) -> str:
    """Version of the installed library, as :func:`mmedge.backends.registry.probe` tells it."""
    library = SOURCES[backend]
    try:
        return metadata.version(library.distribution)
    except metadata.PackageNotFoundError:
        return str(load_library(backend).__version__)


def make_log(trt: Any) -> Any:  # noqa: ANN401
    """A logger for ``trt`` that keeps errors and warnings instead of printing them.

    Its ``errors`` and ``warnings`` are lists of messages in the order they came.
    """

    class Log(trt.ILogger):  # type: ignore[misc]
        """Collects what the library says."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 asks for this very call
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            """Called by the library, from any of its threads."""
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                self.warnings.append(message)

    return Log()


def make_profiler(trt: Any) -> Any:  # noqa: ANN401
    """A profiler for ``trt``; its ``layers`` lists the name and milliseconds of each, as told."""

    class LayerProfiler(trt.IProfiler):  # type: ignore[misc]
        """Collects the times of an execution context's layers."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # pybind11 asks for this very call
            self.layers: list[tuple[str, float]] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by the library once a layer and run."""
            self.layers.append((layer_name, ms))

    return LayerProfiler()
