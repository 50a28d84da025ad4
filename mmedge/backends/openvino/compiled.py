"""A graph compiled by OpenVINO for the CPU, and the one Core that compiles."""

from __future__ import annotations

import importlib
import sys
import threading
from collections import deque
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from mmedge.spec import Array

__all__ = ["Compiled", "Shapes", "core"]

#: Largest input that is copied to where OpenVINO has it. Telling it of another place took 10 us and
#: slowed the run by 20 (OpenVINO 2026.4, AMD EPYC), which is copying this much.
COPIED_BYTES = 1 << 18

#: Shapes of a model's inputs, in its order.
Shapes = tuple[tuple[int, ...], ...]


class Compiled:
    """A model compiled for the CPU, with requests that wait to be used again.

    Args:
        model: OpenVINO's.
        settings: from :func:`compile_settings`.
        outputs: names of those that are wanted.

    Attributes:
        outputs: name and index of each of those.
        fixed_outputs: indices of outputs of fixed shapes, which a request writes to one place.

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
        self.outputs = [(name, index[name]) for name in outputs]
        self.fixed_outputs = {
            i for i, port in enumerate(compiled.outputs) if not port.partial_shape.is_dynamic
        }
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
            request = self.request()
            places = [
                request.get_input_tensor(index).data if by_copy else None
                for index, by_copy in enumerate(self._by_copy)
            ]
        for index, (value, place) in enumerate(zip(values, places, strict=True)):
            if place is not None:
                np.copyto(place, value)
            else:
                request.set_input_tensor(index, self.tensor(value))
        request.infer(share_outputs=True)
        # The next run of the request writes where this one's outputs lie.
        outputs = {
            name: np.array(request.get_output_tensor(index).data) for name, index in self.outputs
        }
        self._idle.append((request, places))
        return outputs

    def request(self) -> Any:  # noqa: ANN401
        """A new infer request."""
        return self._compiled.create_infer_request()

    @staticmethod
    def tensor(value: Array) -> Any:  # noqa: ANN401
        """A tensor that lies on ``value``, or on a copy of what may not be written to."""
        import openvino

        return openvino.Tensor(value, shared_memory=value.flags.writeable)


_CORE: list[Any] = []
_CORE_LOCK = threading.Lock()


def core() -> Any:  # noqa: ANN401
    """OpenVINO's Core; one for the process, since making it takes its time."""
    with _CORE_LOCK:
        if not _CORE:
            _CORE.append(_import_silently().Core())
        return _CORE[0]


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
