"""What a user asks of a variant of lower precision, said once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmedge.backends import check_threads
from mmedge.errors import ExportError, InputError
from mmedge_export.quantize.limits import BUDGET, GOALS, MAX_ERROR
from mmedge_export.targets.registry import find_target, precisions

if TYPE_CHECKING:
    from mmedge_export.targets.tensorrt import EngineOptions

__all__ = ["QuantizeOptions"]


@dataclass(frozen=True)
class QuantizeOptions:
    """How a bundle is quantized, and what may be lost.

    Attributes:
        precision: ``int8``; ``int4`` (weights of matrix products alone) on the CPU; ``fp8`` for
            TensorRT.
        max_drop: of the metric, on all of the samples' kind with confidence 95 %; None:
            :data:`mmedge_export.quantize.limits.MAX_DROP`.
        min_metric: that must be kept, in place of ``max_drop``.
        max_error: where there is no metric, largest relative error of an output on any sample.
        goal: ``speed`` keeps what is measurably faster on this device, ``size`` what is smaller.
            Of engines neither is measured: all that keeps the limit is quantised.
        budget: most candidates that are judged.
        threads: most threads of a stage; None: the default.
        backend: that is to run it: ``ort``; ``openvino``, whose float32 variant is added where
            the bundle has none; or ``tensorrt`` and ``tensorrt_rtx`` (also ``tensorrt-rtx``), for
            which engines are built.
        engines: what TensorRT's are built for; None: this machine's GPU.

    Raises:
        InputError: an unknown goal or backend, or a precision that the backend has not.
        ValueError: ``threads`` is not a whole number from 1.
        ExportError: limits that contradict each other, or that no number of samples shows.
    """

    precision: str = "int8"
    max_drop: float | None = None
    min_metric: float | None = None
    max_error: float = MAX_ERROR
    goal: str = "speed"
    budget: int = BUDGET
    threads: int | None = None
    backend: str = "ort"
    engines: EngineOptions | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "backend", self.backend.replace("-", "_"))
        why = find_target(self.backend).WHY_NONE
        if why:
            raise InputError(f"backend {self.backend!r} quantizes nothing: {why}")
        if self.precision not in precisions(self.backend):
            raise InputError(
                f"precision {self.precision!r}: expected {' or '.join(precisions(self.backend))}, "
                f"which are those of backend {self.backend!r}"
            )
        if self.goal not in GOALS:
            raise InputError(f"goal {self.goal!r}: expected {' or '.join(GOALS)}")
        check_threads(self.threads)
        if self.max_drop is not None and self.min_metric is not None:
            raise ExportError("give max_drop or min_metric, not both")
        if self.max_drop is not None and not self.max_drop > 0:
            raise ExportError(
                f"max_drop must be positive, got {self.max_drop}: no number of samples shows that "
                "nothing at all is lost"
            )
