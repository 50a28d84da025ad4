"""Runs the stages for a stream: one modality's encoder, stand-ins, and the fusion."""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from mmedge.execution.plan import StagePlan
from mmedge.stream.sanity import same_content

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.execution.inputs import Feeds
    from mmedge.spec import Array, Manifest, PlanName, Stage
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.sample import Item

__all__ = ["Compute", "Encoded", "StageRunner"]

#: Sets of sizes per modality for which the features of its stand-in are kept.
MAX_STAND_INS = 16


class StageRunner(Protocol):
    """What a stream needs of a pipeline to compute."""

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run one stage on tensors that fit it."""


class Encoded:
    """Outcome of an encoding: the features, or the message of what went wrong.

    ``ran`` lists the stages that ran, which is what the work cost.
    """

    def __init__(self) -> None:
        self.features: dict[str, Any] | None = None
        self.message = ""
        self.skipped = False
        self.ran: list[str] = []


class Compute:
    """The work itself, without time, lock or state but the features of stand-ins."""

    def __init__(
        self, stages: StageRunner, manifest: Manifest, plan: PlanName, feeds: Feeds
    ) -> None:
        self._feeds = feeds
        self._outputs = manifest.outputs
        plan_stages = manifest.in_order(plan)
        runs = {stage.name: partial(stages.run_stage, stage.name) for stage in plan_stages}
        self._plan = StagePlan(plan_stages, runs, self._outputs)
        #: Tensors that are kept of a modality once its encoder has run.
        self._wanted = {spec.name for stage in self._plan.fusion for spec in stage.inputs}
        self._wanted |= set(self._outputs)
        self._optional = {m.name for m in manifest.modalities if not m.required}
        #: The dynamic dimensions of each modality, and their smallest sizes.
        self._sizes = {
            modality.name: sorted(
                (size, dimension.min if (dimension := manifest.dimensions.get(size)) else 1)
                for size in {
                    size
                    for name in modality.inputs
                    for size in manifest.inputs()[name].shape
                    if isinstance(size, str)
                }
            )
            for modality in manifest.modalities
        }
        self._stand_ins: dict[tuple[Any, ...], dict[str, Any]] = {}
        #: Encoders may run at most once at a time for the stand-ins of a modality.
        self._turns = {modality.name: threading.Lock() for modality in manifest.modalities}

    def prepare(self, name: str) -> None:
        """Encode the stand-in of an optional modality, of the smallest sizes, for when it is lost.

        An encoder that fails here fails again, and is reported, when the stand-in is needed.
        """
        if name in self._optional and name in self._plan.encoders:
            with suppress(Exception):
                self._stand_in(name, {}, [])

    def encode(self, track: ModalityState, item: Item) -> Encoded:
        """Run the modality's encoder on ``item``, unless the one before had the same content.

        Only one thread at a time encodes for one track.
        """
        outcome = Encoded()
        try:
            values = item.build()
            before = track.encoded
            if before is not None and same_content(values, before[0]):
                outcome.features, outcome.skipped = before[1], True
            else:
                outcome.features = self._encode(track.name, values, outcome.ran)
                track.encoded = values, outcome.features
        except Exception as error:  # noqa: BLE001  # reported with the sample; others go on
            outcome.message = f"{type(error).__name__}: {error}"
        return outcome

    def _encode(self, name: str, values: Mapping[str, Any], ran: list[str]) -> dict[str, Any]:
        tensors = dict(values)
        self._advance(tensors, self._plan.encoders.get(name, ()), ran)
        return {key: value for key, value in tensors.items() if key in self._wanted}

    def fuse(
        self, items: Mapping[str, Item | None], sizes: Mapping[str, int], ran: list[str]
    ) -> dict[str, Array]:
        """Outputs from what was chosen of each modality; None: its stand-in, of ``sizes``."""
        tensors: dict[str, Any] = {}
        for name, item in items.items():
            if item is None:
                tensors.update(self._stand_in(name, sizes, ran))
            elif item.features is not None:
                tensors.update(item.features)
            else:
                tensors.update(self._encode(name, item.build(), ran))
        self._advance(tensors, self._plan.fusion, ran)
        return {name: tensors[name] for name in self._outputs}

    def _advance(self, tensors: dict[str, Any], stages: Sequence[Stage], ran: list[str]) -> None:
        for stage in stages:
            ran.append(stage.name)  # one that fails has cost something, too
            self._plan.advance(tensors, (stage,))

    def _stand_in(self, name: str, sizes: Mapping[str, int], ran: list[str]) -> dict[str, Any]:
        key = name, *(sizes.get(size, least) for size, least in self._sizes[name])
        with self._turns[name]:
            features = self._stand_ins.get(key)
            if features is None:
                features = self._encode(name, self._feeds.stand_in(name, sizes), ran)
                if len(self._stand_ins) < MAX_STAND_INS * len(self._turns):
                    self._stand_ins[key] = features
        return features
