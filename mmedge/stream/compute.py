"""Runs the stages for a stream: one modality's encoder, stand-ins, and the fusion."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from mmedge.execution.plan import StagePlan
from mmedge.stream.sanity import same_content
from mmedge.stream.stage_states import StageStates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge.execution.inputs import Feeds
    from mmedge.spec import Array, Manifest, PlanName, Stage
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.sample import Item

__all__ = ["Compute", "Encoded", "Fused", "StageRunner"]

#: Arrays by a state's input, by stage; a stage that is not in it begins with its initial values.
States = Mapping[str, Mapping[str, "Array"]]
NO_STATES: States = {}

#: Sets of sizes per modality for which the features of its stand-in are kept.
MAX_STAND_INS = 16


class StageRunner(Protocol):
    """What a stream needs of a pipeline to compute."""

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run one stage on tensors that fit it."""


class Encoded:
    """Outcome of an encoding: the features, or the message of what went wrong.

    ``states`` are the new ones of its stages. ``ran`` lists the stages that ran, which is what the
    work cost.
    """

    def __init__(self) -> None:
        self.features: dict[str, Any] | None = None
        self.states: dict[str, Mapping[str, Array]] = {}
        self.message = ""
        self.skipped = False
        self.ran: list[str] = []


class Fused:
    """Outcome of a fusion: the outputs, or what went wrong; else as :class:`Encoded`."""

    def __init__(self) -> None:
        self.outputs: dict[str, Array] | None = None
        self.states: dict[str, Mapping[str, Array]] = {}
        self.message = ""
        self.ran: list[str] = []


class Compute:
    """The work itself, without time or lock; it keeps nothing but the features of stand-ins.

    Args:
        stages: runs them.
        manifest: of the bundle.
        plan: which one runs.
        feeds: makes stand-ins.
        stored: what states that begin as ``stored`` begin with, by input.
    """

    def __init__(
        self,
        stages: StageRunner,
        manifest: Manifest,
        plan: PlanName,
        feeds: Feeds,
        stored: Mapping[str, Array],
    ) -> None:
        self._feeds = feeds
        self._outputs = manifest.outputs
        plan_stages = manifest.in_order(plan)
        runs = {stage.name: partial(stages.run_stage, stage.name) for stage in plan_stages}
        self._plan = StagePlan(plan_stages, runs, self._outputs)
        self._states = StageStates(manifest, plan_stages, stored)
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

        With state it runs whatever came before. Only one thread at a time encodes for one track.
        """
        outcome = Encoded()
        try:
            values = item.build()
            before = track.encoded
            if item.turn is not None:
                outcome.features, outcome.states = self._encode(
                    track.name, values, outcome.ran, item.turn.states
                )
            elif before is not None and same_content(values, before[0]):
                outcome.features, outcome.skipped = before[1], True
            else:
                outcome.features, _ = self._encode(track.name, values, outcome.ran)
                track.encoded = values, outcome.features
        except Exception as error:  # noqa: BLE001  # reported with the sample; others go on
            outcome.features = None
            outcome.message = f"{type(error).__name__}: {error}"
        return outcome

    def _encode(
        self, name: str, values: Mapping[str, Any], ran: list[str], states: States = NO_STATES
    ) -> tuple[dict[str, Any], dict[str, Mapping[str, Array]]]:
        """Features of one modality, and the new states of its stages."""
        tensors = dict(values)
        after = self._advance(tensors, self._plan.encoders.get(name, ()), ran, states)
        return {key: value for key, value in tensors.items() if key in self._wanted}, after

    def fuse(
        self,
        items: Mapping[str, Item | None],
        sizes: Mapping[str, int],
        states: States = NO_STATES,
    ) -> Fused:
        """Outputs from what was chosen of each modality; None: its stand-in, of ``sizes``."""
        outcome = Fused()
        try:
            tensors: dict[str, Any] = {}
            for name, item in items.items():
                if item is None:
                    tensors.update(self._stand_in(name, sizes, outcome.ran))
                elif item.features is not None:
                    tensors.update(item.features)
                else:
                    tensors.update(self._encode(name, item.build(), outcome.ran)[0])
            outcome.states = self._advance(tensors, self._plan.fusion, outcome.ran, states)
            outcome.outputs = {
                # What is kept as a state is not to be written to by a reader of results.
                name: tensors[name].copy() if name in self._states.outputs else tensors[name]
                for name in self._outputs
            }
        except Exception as error:  # noqa: BLE001  # becomes the reason of a result
            outcome.message = f"{type(error).__name__}: {error}"
        return outcome

    def _advance(
        self, tensors: dict[str, Any], stages: Sequence[Stage], ran: list[str], states: States
    ) -> dict[str, Mapping[str, Array]]:
        """Run stages on ``tensors`` and on their states; the new states by stage."""
        after: dict[str, Mapping[str, Array]] = {}
        for stage in stages:
            has_state = stage.name in self._states
            if has_state:
                self._states.enter(stage, tensors, states)
            ran.append(stage.name)  # one that fails has cost something, too
            self._plan.advance(tensors, (stage,))
            if has_state:
                after[stage.name] = self._states.leave(stage, tensors)
        return after

    def _stand_in(self, name: str, sizes: Mapping[str, int], ran: list[str]) -> dict[str, Any]:
        key = name, *(sizes.get(size, least) for size, least in self._sizes[name])
        with self._turns[name]:
            features = self._stand_ins.get(key)
            if features is None:
                # A stand-in is no value of a sequence: it meets the first states, and leaves none.
                features, _ = self._encode(name, self._feeds.stand_in(name, sizes), ran)
                if len(self._stand_ins) < MAX_STAND_INS * len(self._turns):
                    self._stand_ins[key] = features
        return features
