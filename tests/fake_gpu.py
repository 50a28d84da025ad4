"""A GPU made of bytes: memory with a queue, and an engine that runs a Python function on it.

Work is only queued until something waits, as on a real stream, so that reading too early shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np


class FakeMemory:
    """:class:`mmedge.backends.tensorrt.memory.Memory`; ``log`` lists what was called."""

    stream = 4242

    def __init__(self) -> None:
        self.blocks: dict[int, bytearray] = {}
        self.queue: list[Callable[[], None]] = []
        self.log: list[tuple] = []
        self._next = 0x1000
        self.closed = 0

    def use(self) -> None:
        self.log.append(("use",))

    def allocate(self, size: int) -> int:
        assert size > 0
        address, self._next = self._next, self._next + size + 256
        self.blocks[address] = bytearray(size)
        self.log.append(("allocate", size))
        return address

    def free(self, pointer: int) -> None:
        del self.blocks[pointer]

    def to_device(self, pointer: int, array: np.ndarray) -> None:
        assert array.flags.c_contiguous
        self.log.append(("to_device", array.nbytes))
        self.queue.append(lambda: self.store(pointer, array))

    def to_host(self, array: np.ndarray, pointer: int) -> None:
        self.log.append(("to_host", array.nbytes))

        def copy() -> None:
            array[...] = self.fetch(pointer, array.shape, array.dtype)

        self.queue.append(copy)

    def wait(self, stream: int | None = None) -> None:
        self.log.append(("wait", stream))
        if stream is None:
            while self.queue:
                self.queue.pop(0)()

    def close(self) -> None:
        self.closed += 1

    def store(self, pointer: int, array: np.ndarray) -> None:
        self.blocks[pointer][: array.nbytes] = array.tobytes()

    def fetch(self, pointer: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(bytes(self.blocks[pointer][:size]), dtype).reshape(shape)

    def count(self, what: str) -> int:
        return sum(entry[0] == what for entry in self.log)


class FakeEngine:
    """``ICudaEngine`` and its ``IExecutionContext`` in one.

    ``tensors`` maps a name to (mode, DataType, shape, location) and ``limits`` an input to its
    smallest and largest shape; ``layers`` are told to a profiler; ``shapes`` gives the outputs'
    shapes from the inputs' shapes, and ``compute`` the outputs' values from the inputs' values.
    """

    def __init__(
        self,
        memory: FakeMemory,
        tensors: Mapping[str, tuple],
        limits: Mapping[str, tuple],
        shapes: Callable[[Mapping[str, tuple[int, ...]]], Mapping[str, tuple[int, ...]]],
        compute: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
        dtypes: Mapping[str, np.dtype],
    ) -> None:
        self.memory, self.tensors, self.limits = memory, dict(tensors), limits
        self.shapes, self.compute, self.dtypes = shapes, compute, dtypes
        self.set: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.works = True
        self.context: FakeEngine | None = self
        self.profiler: object = None
        self.layers: list[tuple[str, float]] = []
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> object:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> object:
        return self.tensors[name][1]

    def get_tensor_location(self, name: str) -> object:
        return self.tensors[name][3]

    def get_tensor_profile_shape(self, name: str, index: int) -> tuple:
        assert index == 0
        low, high = self.limits[name]
        return low, low, high

    def create_execution_context(self) -> FakeEngine | None:
        return self.context

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if not self.set:
            return self.tensors[name][2]
        return self.shapes(self.set)[name]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.set[name] = tuple(shape)
        return self.works

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address > 0
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == self.memory.stream
        addresses, shapes = dict(self.addresses), dict(self.set)

        def work() -> None:
            values = {
                name: self.memory.fetch(addresses[name], shape, self.dtypes[name])
                for name, shape in shapes.items()
            }
            for name, value in self.compute(values).items():
                self.memory.store(addresses[name], value)
            if self.profiler is not None:
                for layer in self.layers:
                    self.profiler.report_layer_time(*layer)

        self.memory.queue.append(work)
        return self.works


class OnGpu:
    """An array in :class:`FakeMemory` as another library would hand it over."""

    def __init__(self, memory: FakeMemory, array: np.ndarray, stream: int | None = None) -> None:
        self.pointer = memory.allocate(max(array.nbytes, 1))
        memory.store(self.pointer, array)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (self.pointer if array.nbytes else 0, False),
            "version": 3,
            "stream": stream,
        }


def fake_log() -> SimpleNamespace:
    return SimpleNamespace(errors=[], warnings=[])
