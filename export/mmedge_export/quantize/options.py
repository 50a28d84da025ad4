"""What a user asks of a variant of lower precision, said once."""

from __future__ import annotations

from dataclasses import dataclass

from mmedge.errors import ExportError, InputError
from mmedge.pipeline import check_threads
from mmedge_export.quantize.limits import BUDGET, GOALS, MAX_ERROR, PRECISIONS
from mmedge_export.targets.variants import BACKENDS

__all__ = ["QuantizeOptions"]


@dataclass(frozen=True)
class QuantizeOptions:
    """How a bundle is quantized, and what may be lost.

    Attributes:
        precision: ``int8``, or ``int4`` (weights of matrix products alone).
        max_drop: of the metric, on all of the samples' kind with confidence 95 %; None:
            :data:`mmedge_export.quantize.limits.MAX_DROP`.
        min_metric: that must be kept, in place of ``max_drop``.
        max_error: where there is no metric, largest relative error of an output on any sample.
        goal: ``speed`` keeps what is measurably faster on this device, ``size`` what is smaller.
        budget: most candidates that are judged.
        threads: most threads of a stage; None: the default.
        backend: that is to run it: ``ort``, or ``openvino``, whose float32 variant is added where
            the bundle has none.

    Raises:
        InputError: an unknown precision, goal or backend.
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

    def __post_init__(self) -> None:
        for what, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("goal", self.goal, GOALS),
            ("backend", self.backend, BACKENDS),
        ):
            if value not in known:
                raise InputError(f"{what} {value!r}: expected {' or '.join(known)}")
        check_threads(self.threads)
        if self.max_drop is not None and self.min_metric is not None:
            raise ExportError("give max_drop or min_metric, not both")
        if self.max_drop is not None and not self.max_drop > 0:
            raise ExportError(
                f"max_drop must be positive, got {self.max_drop}: no number of samples shows that "
                "nothing at all is lost"
            )
