"""The one executor of stages: in which order they run, what each takes, and what passes between.

Whoever runs a bundle says how one stage is run; the rest is here, for a call and for parts of it,
for a stage alone on golden tensors, and for a look at what goes in and comes out of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from mmedge.spec import Array, Stage

__all__ = ["After", "Run", "StagePlan"]

#: Runs one stage: its outputs by name for its inputs by name.
Run = Callable[[Mapping[str, Any]], dict[str, "Array"]]

#: Called after a stage with the stage, what it took and what it gave.
After = Callable[["Stage", Mapping[str, Any], Mapping[str, "Array"]], None]


class StagePlan:
    """The stages of a network, and how to run each. Without state: safe to call from threads.

    Args:
        stages: in an order in which each finds what it takes
            (:meth:`mmedge.spec.Manifest.in_order`).
        runs: by a stage's name, how it is run.
        outputs: names of the network's outputs.

    Attributes:
        stages: all of them.
        encoders: by modality, the stages that take inputs of it alone.
        fusion: the stages of no single modality.
    """

    def __init__(
        self, stages: Iterable[Stage], runs: Mapping[str, Run], outputs: Iterable[str] = ()
    ) -> None:
        self.stages = tuple(stages)
        self.encoders: dict[str, tuple[Stage, ...]] = {}
        for stage in self.stages:
            if stage.modality is not None:
                self.encoders[stage.modality] = (*self.encoders.get(stage.modality, ()), stage)
        self.fusion = tuple(stage for stage in self.stages if stage.modality is None)
        self._runs = runs
        self._outputs = tuple(outputs)
        self._inputs = {s.name: tuple(spec.name for spec in s.inputs) for s in self.stages}

    def advance(
        self,
        tensors: dict[str, Any],
        stages: Iterable[Stage] | None = None,
        after: After | None = None,
    ) -> None:
        """Run stages one after another and add what they give to ``tensors``.

        Args:
            tensors: by name; holds what the first stage takes.
            stages: of this plan, in its order; None: all.
            after: called after each.
        """
        for stage in self.stages if stages is None else stages:
            name = stage.name
            feeds = {key: tensors[key] for key in self._inputs[name]}
            outputs = self._runs[name](feeds)
            tensors.update(outputs)
            if after is not None:
                after(stage, feeds, outputs)

    def run(self, inputs: Mapping[str, Any], after: After | None = None) -> dict[str, Array]:
        """The network's outputs for its inputs, in order; ``after`` is called after each stage."""
        tensors = dict(inputs)
        self.advance(tensors, after=after)
        return {name: tensors[name] for name in self._outputs}

    def alone(self, tensors: Mapping[str, Any]) -> Iterator[tuple[Stage, dict[str, Array]]]:
        """Each stage, and what it gives for ``tensors``: nothing passes from one to the next.

        Args:
            tensors: everything that any stage takes, such as golden tensors.
        """
        for stage in self.stages:
            yield stage, self.run_stage(stage.name, tensors)

    def run_stage(self, stage: str, tensors: Mapping[str, Any]) -> dict[str, Array]:
        """What the stage of that name gives for what it takes of ``tensors``."""
        return self._runs[stage]({key: tensors[key] for key in self._inputs[stage]})
