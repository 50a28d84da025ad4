"""Runs the stages for a stream: one modality's encoder, stand-ins, and the fusion."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from mmedge.errors import InputError
from mmedge.execution.plan import StagePlan
from mmedge.stream.sanity import same_content
from mmedge.stream.stage_states import StageStates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmedge.bundle import Bundle
    from mmedge.execution.inputs import Feeds
    from mmedge.spec import Array, PlanName, Stage
    from mmedge.stream.sample import Item

__all__ = ["Compute", "Encoded", "Encoder", "Fused", "LoopRunner", "StageRunner", "Steps"]

#: Arrays by a state's input, by stage; a stage that is not in it begins with its initial values.
States = Mapping[str, Mapping[str, "Array"]]
NO_STATES: States = {}

#: Sets of sizes per modality for which the features of its stand-in are kept.
MAX_STAND_INS = 16


class Encoder(Protocol):
    """What is encoded for: a modality in a stream, or in a replay of one."""

    name: str


class Steps(Protocol):
    """The loop of one result: :class:`mmedge.execution.loop_run.LoopRun`."""

    @property
    def finish(self) -> str | None:
        """Why it ended; None while there are steps to come."""

    def advance(self) -> bool:
        """Take the next step; say whether there was one."""

    def result(self) -> dict[str, Any]:
        """What the loop gives, of the steps taken so far, which are the last ones."""


class StageRunner(Protocol):
    """What a stream needs of a pipeline to compute."""

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run one stage on tensors that fit it."""


class LoopRunner(StageRunner, Protocol):
    """The same of one whose bundle has a loop."""

    @property
    def start_loop(self) -> Callable[..., Steps]:
        """Begins the loop on the network's inputs and outputs by name, with options of a call."""


class Encoded:
    """Outcome of an encoding: the features, or the message of what went wrong.

    ``compute`` made it. ``values`` are the encoder's inputs, and ``states`` the new ones of its
    stages. ``ran`` lists the stages that ran, which is what the work cost.
    """

    def __init__(self, compute: Compute) -> None:
        self.compute = compute
        self.values: Mapping[str, Any] = {}
        self.features: dict[str, Any] | None = None
        self.states: dict[str, Mapping[str, Array]] = {}
        self.message = ""
        self.skipped = False
        self.ran: list[str] = []


class Fused:
    """Outcome of a fusion: the outputs, or what went wrong; else as :class:`Encoded`.

    ``loop`` has the steps that are to follow, if any, ``steps`` says how many were taken,
    ``end`` what ended it before its own end (:meth:`Compute.end`; None: nothing did), and
    ``remark`` the same in words.
    """

    def __init__(self) -> None:
        self.outputs: dict[str, Any] | None = None
        self.loop: Steps | None = None
        self.steps = 0
        self.end: tuple[str, str | None] | None = None
        self.remark = ""
        self.states: dict[str, Mapping[str, Array]] = {}
        self.message = ""
        self.ran: list[str] = []


class Compute:
    """The work itself of one network, without time or lock.

    It keeps the features of stand-ins, and those of each modality's last encoding.

    Args:
        stages: runs them.
        bundle: has them.
        plan: which one runs.
        feeds: makes stand-ins.
        loop_options: of every run of the loop.

    Attributes:
        step_stages: names of the stages of a loop's step, and of its end.
    """

    def __init__(
        self,
        stages: StageRunner,
        bundle: Bundle,
        plan: PlanName,
        feeds: Feeds,
        loop_options: Mapping[str, Any],
    ) -> None:
        self._feeds = feeds
        manifest = bundle.manifest
        loop_stages = manifest.loop_stages()
        names = [stage.name for stage in loop_stages]
        self.step_stages = names[:1], names[1:]
        self._start_loop = (
            partial(cast("LoopRunner", stages).start_loop, **loop_options) if loop_stages else None
        )
        in_loop = {spec.name for stage in loop_stages for spec in stage.inputs}
        #: Outputs of the network that a result has beside what a loop gives.
        self._results = manifest.returned_outputs()
        self._outputs = manifest.outputs
        plan_stages = manifest.in_order(plan)
        runs = {stage.name: partial(stages.run_stage, stage.name) for stage in plan_stages}
        self._plan = StagePlan(plan_stages, runs, self._outputs)
        self._states = StageStates(bundle, plan_stages)
        self._with_state = frozenset(state.stage for state in manifest.states)
        features = {
            spec.name
            for encoder in self._plan.encoders.values()
            for stage in encoder
            for spec in stage.outputs
        }
        #: Outputs that are kept as states, too, or as features for results to come.
        self._shared = (self._states.outputs | features).intersection(self._results)
        #: Tensors that are kept of a modality once its encoder has run.
        self._wanted = {spec.name for stage in self._plan.fusion for spec in stage.inputs}
        self._wanted |= {*self._outputs, *in_loop}
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
        #: Inputs and features of the last run of each encoder for the stream.
        self._last: dict[str, tuple[Mapping[str, Any], dict[str, Any]]] = {}
        #: Encoders may run at most once at a time for the stand-ins of a modality.
        self._turns = {modality.name: threading.Lock() for modality in manifest.modalities}

    def prepare(self, name: str) -> None:
        """Encode the stand-in of an optional modality, of the smallest sizes, for when it is lost.

        An encoder that fails here fails again, and is reported, when the stand-in is needed.
        """
        if name in self._optional and name in self._plan.encoders:
            with suppress(Exception):
                self._stand_in(name, {}, [])

    def encode(self, track: Encoder, item: Item) -> Encoded:
        """Run the modality's encoder on ``item``, unless the one before had the same content.

        With state it runs whatever came before. Only one thread at a time encodes for one track.
        """
        outcome = Encoded(self)
        try:
            outcome.values = values = item.build()
            before = self._last.get(track.name)
            if item.turn is not None:
                outcome.features, outcome.states = self._encode(
                    track.name, values, outcome.ran, item.turn.states
                )
            elif before is not None and same_content(values, before[0]):
                outcome.features, outcome.skipped = before[1], True
            else:
                outcome.features, _ = self._encode(track.name, values, outcome.ran)
                self._last[track.name] = values, outcome.features
        except Exception as error:  # noqa: BLE001  # reported with the sample; others go on
            outcome.features = None
            outcome.message = f"{type(error).__name__}: {error}"
        return outcome

    def has_encoder(self, name: str) -> bool:
        """Whether a modality has one."""
        return name in self._plan.encoders

    def encode_aside(self, name: str, item: Item, states: States = NO_STATES) -> Encoded:
        """Run a modality's encoder on ``item``, beside the stream and from any thread.

        Args:
            name: the modality's.
            item: what is encoded; it is left as it is.
            states: what the encoder's stages take of states.
        """
        outcome = Encoded(self)
        try:
            outcome.values = values = item.build()
            outcome.features, outcome.states = self._encode(name, values, outcome.ran, states)
        except Exception as error:  # noqa: BLE001  # told by whoever asked for it
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
            if self._start_loop is not None:
                # Its sizes are those of all inputs, whatever its stage takes of them.
                for name, item in items.items():
                    inputs = self._feeds.stand_in(name, sizes) if item is None else item.build()
                    tensors.update(inputs)
            for name, item in items.items():
                if item is None:
                    tensors.update(self._stand_in(name, sizes, outcome.ran))
                elif item.features is not None:
                    tensors.update(item.features)
                else:
                    tensors.update(self._encode(name, item.build(), outcome.ran)[0])
            outcome.states = self._advance(tensors, self._plan.fusion, outcome.ran, states)
            outcome.outputs = {name: tensors[name] for name in self._results}
            for name in self._shared:
                # What is kept is not to be written to by a reader of results.
                outcome.outputs[name] = tensors[name].copy()
            if self._start_loop is not None:
                outcome.loop = self._start_loop(tensors)
        except Exception as error:  # noqa: BLE001  # becomes the reason of a result
            outcome.outputs = None
            outcome.message = f"{type(error).__name__}: {error}"
        return outcome

    def step(self, outcome: Fused) -> bool:
        """Take the next step of a loop; say whether there are more."""
        if outcome.loop is None:
            return False
        try:
            outcome.steps += outcome.loop.advance()
        except Exception as error:  # noqa: BLE001  # becomes the reason of a result
            outcome.outputs, outcome.loop = None, None
            outcome.message = f"{type(error).__name__}: {error}"
            return False
        return outcome.loop.finish is None

    def end(self, outcome: Fused, why: str = "", finish: str | None = None) -> None:
        """Take what the loop gives.

        Args:
            outcome: gets it.
            why: why it takes no more steps; empty: there are none left.
            finish: what the outputs say of it then; None: there are none.
        """
        loop, outcome.loop = outcome.loop, None
        if loop is None or outcome.outputs is None or (why and finish is None):
            return
        if why:
            outcome.end = why, finish
            outcome.remark = f"{why} after {outcome.steps} steps"
        try:
            given = loop.result()
        except (TimeoutError, InputError):
            # It denoises, and there is no estimate yet.
            outcome.outputs = None
            outcome.remark += ", before it had a result"
            return
        except Exception as error:  # noqa: BLE001  # becomes the reason of a result
            outcome.outputs = None
            outcome.message = f"{type(error).__name__}: {error}"
            return
        if why:
            ends = given["finish"]
            given["finish"] = (
                finish if isinstance(ends, str) else [finish if e == "cancel" else e for e in ends]
            )
        outcome.outputs = {**given, **outcome.outputs}

    def _advance(
        self, tensors: dict[str, Any], stages: Sequence[Stage], ran: list[str], states: States
    ) -> dict[str, Mapping[str, Array]]:
        """Run stages on ``tensors`` and on their states; the new states by stage."""
        after: dict[str, Mapping[str, Array]] = {}
        for stage in stages:
            has_state = stage.name in self._with_state
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
