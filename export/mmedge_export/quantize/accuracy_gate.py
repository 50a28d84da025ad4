"""Whether answers are good enough, by the user's metric or against the network's own."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import AccuracyError, ExportError
from mmedge_export.quantize.evaluate import changed_choices, error
from mmedge_export.quantize.limits import ALPHA, MAX_DROP
from mmedge_export.quantize.metric_drop import Drop, Spending, drop_of
from mmedge_export.quantize.options import QuantizeOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.spec import Array
    from mmedge_export.quantize.task import Task

__all__ = ["AccuracyGate", "Verdict"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one candidate.

    Attributes:
        ok: whether it keeps the limit.
        error: mean over the samples of their largest difference, as a share of its scale
            (:func:`mmedge_export.quantize.evaluate.error`).
        worst: the largest of any sample.
        metric: of the candidate; None without a metric.
        drop: of the metric, with its bounds; None without a metric.
        changed: without a metric, of outputs that may be scores: in how many rows another element
            is the largest, and of how many rows
            (:func:`mmedge_export.quantize.evaluate.changed_choices`). It decides nothing.
    """

    ok: bool
    error: float
    worst: float
    metric: float | None = None
    drop: Drop | None = None
    changed: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class AccuracyGate:
    """Judges candidates by the same samples, and spends its chance of error over all of them.

    Args:
        task: the samples and the metric.
        reference: what the network itself answers.
        options: with the limits; None: the defaults.
        chooses: whether answers may be scores to choose by.

    Raises:
        ExportError: limits that do not fit the task, or a metric that is no number.
        AccuracyError: the network itself does not reach ``min_metric``, or the samples are too few
            to show any drop as small as the limit.
    """

    def __init__(
        self,
        task: Task,
        reference: Sequence[dict[str, Array]],
        options: QuantizeOptions | None = None,
        *,
        chooses: bool = True,
    ) -> None:
        settings = options or QuantizeOptions()
        max_drop, min_metric, max_error = settings.max_drop, settings.min_metric, settings.max_error
        self._task, self._reference = task, list(reference)
        self._max_error, self._chooses = max_error, chooses
        self._spending = Spending(ALPHA)
        self.attempts = 0
        self.metric: float | None = None
        self.limit = MAX_DROP if max_drop is None else max_drop
        if task.metric is None:
            if max_drop is not None or min_metric is not None:
                raise ExportError(
                    "a limit of the metric needs a metric: give Model(metric=...), or leave the "
                    f"limit out; outputs may then differ by {max_error:g} from the network's own"
                )
            self.limit = max_error
            return
        self.metric = float(task.metric(self._reference, task.targets))
        if min_metric is not None:
            self.limit = self.metric - min_metric
            if not self.limit > 0:
                raise AccuracyError(
                    f"the network itself reaches {self.metric:.4g} on the {len(task.samples)} "
                    f"samples, no more than the {min_metric:g} that are asked for"
                )
        unchanged = self._drop(self._reference, self._spending.alpha(1))
        if unchanged.bound > self.limit:
            enough = math.ceil(len(task.samples) * unchanged.bound / self.limit)
            raise AccuracyError(
                f"{len(task.samples)} samples cannot show a drop of at most {self.limit:g}: even "
                f"where no answer changes, it may be up to {unchanged.bound:.3g} (confidence "
                f"{unchanged.level:.3g}). Give about {enough} samples or more, or a larger limit"
            )

    def __call__(self, answers: Sequence[dict[str, Array]]) -> Verdict:
        """Judge one candidate by its answers to the task's samples."""
        return self.restore(asdict(self.evaluate(answers)))

    def evaluate(self, answers: Sequence[dict[str, Array]]) -> Verdict:
        """What the next verdict would be; it does not count as an attempt yet."""
        errors = error(answers, self._reference)
        mean, worst = float(np.mean(errors)), float(np.max(errors))
        if self._task.metric is None:
            changes = changed_choices(answers, self._reference) if self._chooses else {}
            return Verdict(worst <= self._max_error, mean, worst, changed=changes)
        drop = self._drop(answers, self._spending.alpha(self.attempts + 1))
        metric = float(self._task.metric(list(answers), self._task.targets))
        return Verdict(drop.bound <= self.limit, mean, worst, metric, drop)

    def restore(self, values: Mapping[str, Any]) -> Verdict:
        """The verdict of :meth:`evaluate`, now or in a run that was stopped, as plain values."""
        self.attempts += 1
        drop = None if values["drop"] is None else Drop(**values["drop"])
        changes = {name: (int(rows), int(of)) for name, (rows, of) in values["changed"].items()}
        return Verdict(**{**values, "drop": drop, "changed": changes})

    def _drop(self, answers: Sequence[dict[str, Array]], alpha: float) -> Drop:
        if self._task.metric is None:
            raise ExportError("there is no metric to compare by")
        return drop_of(self._task.metric, self._reference, answers, self._task.targets, alpha=alpha)
