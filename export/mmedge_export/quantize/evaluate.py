"""What a bundle answers on samples, with some of its stages exchanged."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mmedge.execution.inputs import Feeds
from mmedge.execution.plan import StagePlan
from mmedge.spec import Tolerance
from mmedge.tolerance import OutputComparison, SampleErrors
from mmedge_export.targets.registry import quantizer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mmedge.bundle import Bundle
    from mmedge.execution.plan import Run
    from mmedge.spec import Array

__all__ = ["BundleNetwork", "changed_choices", "error"]

_EXACT = Tolerance(rtol=0.0, atol=0.0)


class BundleNetwork:
    """All stages of a bundle on the CPU.

    Args:
        bundle: open.
        graphs: by stage, graphs to run in place of the bundle's own.
        threads: most threads of a stage; None: the default.
        backend: that is to run it, as it is judged here
            (:meth:`mmedge_export.targets.registry.Quantizer.open_graph`).
    """

    def __init__(
        self,
        bundle: Bundle,
        graphs: Mapping[str, Path] | None = None,
        *,
        threads: int | None = None,
        backend: str = "ort",
    ) -> None:
        self._stages = stages = bundle.manifest.in_order()
        self._feeds = Feeds(bundle)
        self._outputs = bundle.manifest.outputs
        target = quantizer(backend)
        self.runners: dict[str, Run] = {
            stage.name: target.open_graph(
                (graphs or {}).get(stage.name) or bundle.file(stage.graph),
                stage,
                alone=len(stages) == 1,
                threads=threads,
            )
            for stage in stages
        }

    def tensors(
        self, inputs: Mapping[str, Array], more: Mapping[str, Mapping[str, Array]] | None = None
    ) -> dict[str, Array]:
        """Every tensor that enters or leaves a stage; ``more`` is fed to stages by name on top."""
        values = self._feeds.prepare(inputs)
        runs = {
            stage: partial(_with, runner, (more or {}).get(stage, {}))
            for stage, runner in self.runners.items()
        }
        StagePlan(self._stages, runs).advance(values)
        return values

    def __call__(
        self, inputs: Mapping[str, Array], more: Mapping[str, Mapping[str, Array]] | None = None
    ) -> dict[str, Array]:
        """The network's outputs."""
        values = self.tensors(inputs, more)
        return {name: values[name] for name in self._outputs}

    def answers(self, samples: Iterable[Mapping[str, Array]]) -> list[dict[str, Array]]:
        """The outputs of every sample."""
        return [self(inputs) for inputs in samples]


def _with(run: Run, more: Mapping[str, Array], feeds: Mapping[str, Array]) -> dict[str, Array]:
    return run({**feeds, **more})


def error(
    answers: Sequence[Mapping[str, Array]], reference: Sequence[Mapping[str, Array]]
) -> list[float]:
    """Of each sample the largest difference of an output as a share of its scale.

    By the rule that variants are verified by (:mod:`mmedge.tolerance`), with the scales of all
    samples together. Integers and booleans count the share of elements that differ; what is not
    finite in one alone is an infinite error.
    """
    scales: dict[str, OutputComparison] = {}
    compared: list[dict[str, float | SampleErrors]] = []
    for ours, theirs in zip(answers, reference, strict=True):
        differences: dict[str, float | SampleErrors] = {}
        for name, value in theirs.items():
            if ours[name].shape == value.shape and not np.issubdtype(value.dtype, np.floating):
                differences[name] = float(np.mean(ours[name] != value)) if value.size else 0.0
            else:
                comparison = scales.setdefault(name, OutputComparison(_EXACT))
                differences[name] = comparison.add(ours[name], value)
        compared.append(differences)
    return [
        max(
            scales[name].relative(one) if isinstance(one, SampleErrors) else one
            for name, one in differences.items()
        )
        for differences in compared
    ]


def changed_choices(
    answers: Sequence[Mapping[str, Array]], reference: Sequence[Mapping[str, Array]]
) -> dict[str, tuple[int, int]]:
    """By output, in how many rows the largest element is another one, and of how many rows.

    For floats with two elements or more along the last axis and a rank of at most 3, where such a
    row may be scores of classes or actions: an error that is small may still choose otherwise.
    """
    counts: dict[str, tuple[int, int]] = {}
    for ours, theirs in zip(answers, reference, strict=True):
        for name, value in theirs.items():
            scores = np.issubdtype(value.dtype, np.floating) and 1 <= value.ndim <= 3
            if (
                not scores
                or value.shape[-1] < 2
                or not value.size
                or ours[name].shape != value.shape
            ):
                continue
            other = np.argmax(ours[name], axis=-1) != np.argmax(value, axis=-1)
            changed_rows, rows = counts.get(name, (0, 0))
            counts[name] = changed_rows + int(np.count_nonzero(other)), rows + int(other.size)
    return counts
