"""Replay a bundle's golden samples on this machine: does the loaded variant compute the same?

Every stage is run on the golden tensors that enter it, so that an error is found in the stage that
makes it and not in the ones behind it; then the whole network is run from its inputs. Of a loop,
every step's scores are compared while it is made to choose the golden tokens, or its latents; then
it runs freely, and has to choose the same tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from mmedge.errors import AccuracyError, BundleError
from mmedge.execution.plan import StagePlan
from mmedge.tolerance import OutputComparison

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mmedge.execution.replayable import Replayable
    from mmedge.execution.verify_loop import Choice
    from mmedge.spec import Array, PlanName, Tolerance

__all__ = ["Row", "Verification", "verify"]

#: ``stage`` of the rows that compare the whole network's outputs, and what its loop gives.
WHOLE, LOOP = "(whole network)", "(loop)"


@dataclass(frozen=True, slots=True)
class Row:
    """Worst difference of one output over all golden samples.

    ``max_abs`` is ``max |got - golden|``, ``max_rel`` the largest share of the scale of its place,
    ``limit_used`` the largest share of the tolerance that an element takes (pass: <= 1). ``scale``
    is what that element is held against, ``where`` what has it: empty for the whole tensor, else a
    channel or the like in words (:mod:`mmedge.tolerance`).
    """

    stage: str
    output: str
    max_abs: float
    max_rel: float
    limit_used: float
    scale: float = 0.0
    where: str = ""

    @property
    def ok(self) -> bool:
        """Whether every sample lies within the tolerance. NaN never does."""
        return self.limit_used <= 1.0


@dataclass(frozen=True, slots=True)
class Verification:
    """What :func:`verify` found of one plan of a variant.

    ``in_parts`` names the stages that are a part of the network, whose outputs are held to
    ``tolerances``: those of the cut, and of a loop. One that is all of it is held to ``tolerance``,
    since its errors add up as those of all stages do.
    """

    variant: str
    plan: PlanName
    samples: int
    tolerance: Tolerance
    tolerances: Mapping[str, Tolerance]
    rows: tuple[Row, ...]
    in_parts: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every output of every stage lies within the tolerance."""
        return all(row.ok for row in self.rows)

    def check(self) -> None:
        """Raise AccuracyError, naming the first stage and output that is off, unless all is ok."""
        for row in self.rows:
            if not row.ok:
                limit = self.tolerance
                if row.stage in self.in_parts:
                    limit = self.tolerances.get(row.output, limit)
                raise AccuracyError(
                    f"variant {self.variant}: output {row.output!r} of stage {row.stage!r} differs "
                    f"from the golden samples by {row.max_abs:.3g} (relative {row.max_rel:.3g}"
                    + (f", scale of {row.where}: {row.scale:.3g}" if row.where else "")
                    + "), "
                    f"{row.limit_used:.3g} times what rtol={limit.rtol:g}, "
                    f"atol={limit.atol:g} allows. Build the variant again on this device, "
                    "or use another one (mmedge inspect lists them)"
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which has no infinity and no NaN: None stands for them."""
        rows = [
            {
                key: None if isinstance(value, float) and not np.isfinite(value) else value
                for key, value in asdict(row).items()
            }
            | {"ok": row.ok}
            for row in self.rows
        ]
        return asdict(self) | {"ok": self.ok, "rows": rows, "in_parts": list(self.in_parts)}


@runtime_checkable
class ReplaysItself(Protocol):
    """A pipeline whose engine replays golden samples by itself: :mod:`mmedge.native_pipeline`."""

    def replay(self) -> tuple[Row, ...]:
        """Worst difference of each output."""


def verify(pipeline: Replayable, *, progress: Callable[[int], None] | None = None) -> Verification:
    """Replay all golden samples through ``pipeline``.

    Args:
        pipeline: a loaded bundle.
        progress: called with the number of samples done.

    Raises:
        BundleError: the bundle has no golden samples.
        BackendError: a stage failed to run.
    """
    manifest, variant = pipeline.bundle.manifest, pipeline.variant
    stages = (*manifest.in_order(pipeline.plan), *manifest.loop_stages())
    parts = stages if pipeline.plan == "cut" else manifest.loop_stages()
    in_parts = tuple(stage.name for stage in parts)
    if isinstance(pipeline, ReplaysItself):
        return Verification(
            variant.id,
            pipeline.plan,
            manifest.samples,
            variant.tolerance,
            variant.tolerances,
            pipeline.replay(),
            in_parts,
        )
    samples = pipeline.bundle.samples()
    if not samples:
        raise BundleError(f"{pipeline.bundle.path}: no golden samples; export the bundle again")
    comparisons: dict[tuple[str, str], OutputComparison] = {}
    choices: list[Choice] = []
    plan = StagePlan(stages, {s.name: partial(pipeline.run_stage, s.name) for s in stages})

    def compare(stage: str, got: Mapping[str, Array], golden: Mapping[str, Array]) -> None:
        for output, value in got.items():
            limit = variant.tolerance
            if stage in in_parts:
                limit = variant.tolerances.get(output, limit)
            comparison = comparisons.setdefault((stage, output), OutputComparison(limit))
            comparison.add(value, golden[output])

    for count, sample in enumerate(samples, 1):
        tensors = sample.tensors()
        for stage, outputs in plan.alone(tensors):
            compare(stage.name, outputs, sample.outputs)
        # Not cached: content that comes again must be computed again to prove anything.
        if manifest.loop is not None:
            from mmedge.execution.verify_loop import replay_loop  # most bundles have no loop

            replay = replay_loop(pipeline, manifest.loop, sample)
            for output, got, golden in replay.tensors:
                compare(LOOP, {output: got}, {output: golden})
            choices += replay.choices
        elif manifest.states:
            outputs = pipeline.run(sample.inputs, cached=False, state=pipeline.state(sample.step))
            compare(WHOLE, outputs, sample.outputs)
        else:
            compare(WHOLE, pipeline.run(sample.inputs, cached=False), sample.outputs)
        if progress is not None:
            progress(count)
    rows = []
    for key, comparison in comparisons.items():
        worst = comparison.result()
        rows.append(
            Row(*key, worst.max_abs, worst.max_rel, worst.limit_used, worst.scale, worst.where)
        )
    if manifest.loop is not None and manifest.loop.kind == "generate":
        rows.append(_choice_row(choices, variant.tolerance))
    return Verification(
        variant.id,
        pipeline.plan,
        len(samples),
        variant.tolerance,
        variant.tolerances,
        tuple(rows),
        in_parts,
    )


def _choice_row(choices: Iterable[Choice], tolerance: Tolerance) -> Row:
    """What a loop chose: the token that lies furthest from the golden one in its scores."""
    from mmedge.execution.verify_loop import worst_choice

    worst = worst_choice(choices, tolerance)
    if worst is None:
        return Row(LOOP, "tokens", 0.0, 0.0, 0.0)
    share = worst.gap / worst.scale if worst.scale else float(np.inf)
    used = worst.limit_used(tolerance)
    return Row(LOOP, "tokens", worst.gap, share, used, worst.scale, str(worst))
