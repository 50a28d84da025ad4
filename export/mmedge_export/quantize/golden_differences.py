"""How far a network lies from the golden samples, and the tolerance that a device is held to.

A loop is replayed as :mod:`mmedge.execution.verify` does: every choice's scores while it is made to
choose the golden tokens, or its latents; then it runs freely. A token in which the free run differs
has to be as good as the golden one within the tolerance, so the tolerance is large enough for that,
and how many runs differ is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import AccuracyError
from mmedge.execution.verify_loop import replay_loop
from mmedge.schema.names import MAX_RTOL
from mmedge.spec import Tolerance
from mmedge.tolerance import OutputComparison
from mmedge_export.calibration.calls import all_stages
from mmedge_export.quantize.evaluate import Call

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mmedge.bundle import Bundle
    from mmedge.execution.verify_loop import Choice
    from mmedge.spec import Array
    from mmedge_export.quantize.evaluate import BundleNetwork

__all__ = ["SLACK", "GoldenDifferences", "golden_differences", "with_slack"]

#: What the largest difference from the golden samples is multiplied by for the tolerance that a
#: device is held to: other processors round in another order, and quantisation magnifies that.
SLACK = 1.5


@dataclass(frozen=True)
class GoldenDifferences:
    """What the golden samples need (:meth:`mmedge.tolerance.OutputComparison.least`).

    Attributes:
        whole: of the whole network, and of its loop.
        stages: of every output of a stage, on the golden tensors that enter it.
        rows: golden rows that a loop that generates was run on.
        choices: the first token that is another, of each row that has one.
    """

    whole: Tolerance
    stages: Mapping[str, Tolerance]
    rows: int
    choices: tuple[Choice, ...]

    def remarks(self) -> tuple[str, ...]:
        """What a user has to know of the loop's own choices."""
        if not self.choices:
            return ()
        worst = max(self.choices, key=lambda choice: choice.gap)
        words = (
            "on the golden samples the loop chooses other tokens than float32 in "
            f"{len(self.choices)} of {self.rows} rows, each time within the tolerance; such as "
            f"{worst}, whose scores lie {worst.gap:.3g} apart"
        )
        return (words,)


def golden_differences(bundle: Bundle, network: BundleNetwork) -> GoldenDifferences:
    """Run the network on the golden samples.

    Raises:
        AccuracyError: an output is not what they hold, and no tolerance would make it so.
    """
    manifest = bundle.manifest
    stages: dict[str, OutputComparison] = {}
    whole: dict[str, OutputComparison] = {}
    choices: list[Choice] = []
    rows = 0

    def compare(
        comparisons: dict[str, OutputComparison],
        outputs: Mapping[str, Any],
        golden: Mapping[str, Array],
    ) -> None:
        for name, value in outputs.items():
            comparison = comparisons.setdefault(name, OutputComparison(Tolerance(0.0, 0.0)))
            comparison.add(value, golden[name])

    for sample in bundle.samples():
        tensors = sample.tensors()
        for stage in all_stages(manifest):
            feeds = {spec.name: tensors[spec.name] for spec in stage.inputs}
            compare(stages, network.runners[stage.name](feeds), sample.outputs)
        if manifest.loop is None:
            call = Call(sample.inputs, states=sample.step if manifest.states else None)
            for values in network.answer_and_states(call):
                compare(whole, values, sample.outputs)
            continue
        replay = replay_loop(network, manifest.loop, sample)
        for output, got, golden in replay.tensors:
            compare(whole, {output: got}, {output: golden})
        choices += replay.choices
        rows += len(sample.loop["tokens"]) if manifest.loop.kind == "generate" else 0
    in_parts = manifest.has_both_plans() or len(manifest.in_order()) > 1
    if not in_parts:  # a stage that is all there is before a loop is held to the same
        outputs = {spec.name for stage in manifest.in_order() for spec in stage.outputs}
        whole |= {f"{name} alone": stages[name] for name in outputs if name in stages}
    ends = [_least(name, comparison) for name, comparison in whole.items()]
    # Two scores may each be off by the tolerance: a choice takes half of its gap.
    ties = [0.5 * choice.gap / choice.scale if choice.scale else np.inf for choice in choices]
    return GoldenDifferences(
        Tolerance(
            max([end.rtol for end in ends] + ties, default=0.0),
            max((end.atol for end in ends), default=0.0),
        ),
        {name: _least(name, comparison) for name, comparison in stages.items()},
        rows,
        tuple(choices),
    )


def with_slack(difference: Tolerance, least: Tolerance) -> Tolerance:
    """Some more than what was measured, and no less than ``least``.

    Raises:
        AccuracyError: it is more than a bundle may state.
    """
    rtol, atol = SLACK * difference.rtol, SLACK * difference.atol
    if not rtol <= MAX_RTOL:
        raise AccuracyError(
            f"on the golden samples the quantised network is off by {difference.rtol:.3g} of the "
            f"scale; a device holds it to {SLACK:g} times that, and a tolerance of more than "
            f"{MAX_RTOL:g} says nothing. Give a smaller limit"
        )
    return Tolerance(max(rtol, least.rtol), max(atol, least.atol))


def _least(name: str, comparison: OutputComparison) -> Tolerance:
    try:
        return comparison.least()
    except AccuracyError as fault:
        raise AccuracyError(
            f"output {name!r} of the quantised network is not what the golden samples hold: it "
            f"{fault}. No device would take it: give the network's scores as outputs and not what "
            "is decided by them, or keep fp32"
        ) from fault
