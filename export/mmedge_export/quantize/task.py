"""Samples and the metric that judges a network on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.capture import probe_inputs
from mmedge_export.open_questions import INVENTED
from mmedge_export.sources.user_code import each, safe_metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.bundle import Bundle
    from mmedge.execution.call_options import CallOptions
    from mmedge.spec import Array, Sample
    from mmedge_export.model import Metric, Model

__all__ = ["CALIBRATION", "Task"]

#: Samples that ranges are taken from. More change them little: TensorRT's documentation and ONNX
#: Runtime's examples call for 100 to 500.
CALIBRATION = 128


@dataclass(frozen=True)
class Task:
    """What a network has to be good at.

    Attributes:
        samples: pairs of inputs and target that the metric is computed on.
        calibration: inputs that ranges are taken from.
        metric: ``metric(outputs, targets)``, larger is better; None: outputs are held against the
            network's own.
        shared: whether the calibration samples are among those that are judged.
        invented: whether the samples are an example and made-up inputs, as export makes them for a
            network that brings none.
        options: of the calls that are judged, such as ``{"limit": 32}`` of a loop that generates.
            What is timed and calibrated on goes on to the loop's own limit.
        carries_state: whether a sample begins with the state that the one before left, in a network
            that keeps one without a loop; else each begins anew.
        golden_samples: where the samples are a bundle's golden ones, these.
    """

    samples: Sequence[tuple[Mapping[str, Array], Any]]
    calibration: Sequence[Mapping[str, Array]]
    metric: Metric | None
    shared: bool = False
    invented: bool = False
    options: CallOptions = field(default_factory=dict)  # type: ignore[assignment]
    carries_state: bool = True
    golden_samples: Sequence[Sample] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "metric", safe_metric(self.metric))

    @classmethod
    def of(cls, model: Model, *, calibration: int = CALIBRATION) -> Task:
        """The model's own evaluation samples and metric.

        The first ``calibration`` samples are not judged where at least twice as many remain.

        Raises:
            ExportError: the model has no samples, or they do not fit it.
        """
        source = model.evaluation if model.evaluation is not None else model.samples or ()
        samples = [
            (probe_inputs.check(model, inputs, f"sample {number}"), target)
            for number, (inputs, target) in enumerate(each(source, "evaluation sample"))
        ]
        if not samples:
            raise ExportError(
                "a lower precision is judged on samples, and the model has none; give "
                "Model(evaluation=...), and metric=... to judge by your own metric"
            )
        shared = len(samples) < 3 * calibration
        first = [inputs for inputs, _ in samples[:calibration]]
        return cls(samples if shared else samples[calibration:], first, model.metric, shared)

    @classmethod
    def golden(cls, bundle: Bundle) -> Task:
        """The bundle's golden samples, judged by how far outputs lie from the golden ones.

        Raises:
            ExportError: the bundle has none.
        """
        samples = bundle.samples()
        if not samples:
            raise ExportError(f"{bundle.path}: no golden samples; export the bundle again")
        inputs = [sample.inputs for sample in samples]
        invented = bundle.manifest.provenance.get("samples") == INVENTED
        pairs = [(values, None) for values in inputs]
        return cls(
            pairs, inputs, None, shared=True, invented=invented, golden_samples=tuple(samples)
        )

    @property
    def targets(self) -> list[Any]:
        """Target of every sample."""
        return [target for _, target in self.samples]
