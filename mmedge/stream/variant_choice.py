"""Has the network of a stream follow the policy of :class:`mmedge.stream.Adaptive`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mmedge.errors import InputError
from mmedge.stream.contract import check_contract, check_place, is_same_network
from mmedge.stream.handover import Handover
from mmedge.stream.network import Timings, make_network
from mmedge.stream.variant_policy import Decision, VariantPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from mmedge.stream.adaptive import Adaptive
    from mmedge.stream.background import Background
    from mmedge.stream.choose import Active
    from mmedge.stream.compute import Encoded, Fused
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.network import Network
    from mmedge.stream.result import Result
    from mmedge.stream.state_machine import StreamStateMachine

__all__ = ["VariantChoice", "prepare_choice"]


def prepare_choice(
    settings: Adaptive, best: Network, loop_options: Mapping[str, Any], deadline: float | None
) -> VariantChoice:
    """Check the variants against the best, and run each of them once.

    Args:
        settings: which variants, and when to switch.
        best: the network that the stream is made with.
        loop_options: of every run of a loop.
        deadline: seconds from a trigger to its result; None: none.

    Raises:
        InputError: one of them is of another network, or nothing could ever switch.
        BackendError: one does not run.
    """
    if deadline is None and not settings.ceilings:
        raise InputError("variants: without a deadline or a ceiling nothing would ever switch")
    networks = [best]
    for number, pipe in enumerate(settings.cheaper, start=1):
        running, bundle = best.pipe.bundle, pipe.bundle
        check_contract(running.manifest, bundle.manifest)
        check_place(best.pipe.variant, pipe.variant)
        if not is_same_network(running, bundle):
            raise InputError(
                f"variants: {pipe.variant.id} of bundle {bundle.manifest.name!r} is of another "
                "network: its graphs differ; load variants of one export (mmedge quantize "
                "makes them), or go over to another network by stream.swap"
            )
        use_plan = getattr(pipe, "use_plan", None)
        if use_plan is not None:
            use_plan(bundle.manifest.stream_plan(pipe.variant))
        network = make_network(number, pipe, loop_options)
        for modality in bundle.manifest.modalities:
            network.compute.prepare(modality.name)
        networks.append(network)
    for network in networks[1:]:
        _warm(network)
    policy = VariantPolicy(
        len(networks), settings.ceilings, settings.policy, has_deadline=deadline is not None
    )
    return VariantChoice(settings, networks, policy)


def _warm(network: Network) -> None:
    """Run each stage once on a golden sample, where there are some: first runs are slow."""
    samples = network.pipe.bundle.samples()
    for stage in network.pipe.bundle.manifest.in_order() if samples else ():
        tensors = {**samples[0].inputs, **samples[0].outputs}
        feeds = {spec.name: tensors.get(spec.name) for spec in stage.inputs}
        if all(value is not None for value in feeds.values()):
            network.pipe.run_stage(stage.name, feeds)


class VariantChoice:
    """Has the network of a stream follow a policy. The stream's lock is held around every call.

    Args:
        settings: how the stream was asked for.
        networks: from the best to the cheapest.
        policy: decides.

    Attributes:
        title: see :class:`mmedge.stream.change.Change`.
    """

    title = "the stream chooses among variants by itself; make one without variants to swap"

    def __init__(
        self, settings: Adaptive, networks: Sequence[Network], policy: VariantPolicy
    ) -> None:
        self._settings, self._networks, self._policy = settings, networks, policy
        self._readings: dict[str, float | None] = {}
        self._next_reading: float | None = None
        self._is_reading = False
        self._decision: Decision | None = None
        self._handover: Handover | None = None

    def attach(
        self, core: StreamStateMachine, background: Background, time: Callable[[], float]
    ) -> None:
        """Begin to look after a stream."""
        self._core, self._background, self._time = core, background, time
        core.networks = len(self._networks)
        core.change = self
        pipes = [network.pipe for network in self._networks]
        variants = [pipe.variant.id for pipe in pipes]
        sizes = [pipe.bundle.size(pipe.variant) for pipe in pipes]
        core.tell(
            "variants",
            time(),
            f"the stream chooses among {', '.join(variants)}: {sum(sizes)} bytes of files",
            variants=variants,
            bytes=sizes,
        )
        self._read(time())

    def on_encoded(self, track: ModalityState, outcome: Encoded, now: float) -> None:
        """See :class:`mmedge.stream.change.Change`."""

    def on_fused(self, active: Active, outcome: Fused, now: float) -> bool:  # noqa: ARG002
        """See :class:`mmedge.stream.change.Change`."""
        return True

    def on_result(self, result: Result, now: float) -> None:  # noqa: ARG002
        """See :class:`mmedge.stream.change.Change`."""
        if self._next_reading is not None and now >= self._next_reading:
            self._read(now)
        self._look(now)

    def on_idle(self, now: float) -> None:
        """See :class:`mmedge.stream.change.Change`."""
        decision, self._decision = self._decision, None
        if self._handover is None and decision is not None:
            network = self._networks[decision.level]
            # What it took under another load says nothing of now.
            network.timings = Timings(network.timings.encodings)
            self._handover = Handover(
                self._core,
                self._background,
                self._time,
                network,
                "another variant runs",
                carry=True,
                patience=self._settings.patience_ms / 1000.0,
                done=partial(self._switched, decision),
                failed=partial(self._failed, decision),
                low=False,
            )
        if self._handover is not None:
            self._handover.look(now)

    def close(self, now: float) -> None:  # noqa: ARG002
        """See :class:`mmedge.stream.change.Change`."""
        if self._handover is not None:
            self._handover.cancel("closed")
        self._core.change = None

    def _look(self, now: float) -> None:
        if self._handover is not None:
            return
        deadline, estimate = self._core.deadline, self._core.network.timings.latency.estimate()
        share = None if deadline is None or estimate is None else estimate / deadline
        self._decision = self._policy.look(now, share, self._readings)

    def _read(self, now: float) -> None:
        """Read the ceilings, in a thread of its own."""
        if not self._settings.ceilings or self._is_reading:
            return
        self._is_reading = True
        self._next_reading = now + self._settings.read_every_s
        self._background.submit(self._read_all, self._take_readings)

    def _read_all(self) -> dict[str, float | None]:
        readings: dict[str, float | None] = {}
        for ceiling in self._settings.ceilings:
            try:
                readings[ceiling.name] = ceiling.read()
            except Exception:  # noqa: BLE001 - of the user's function: it is not known then
                readings[ceiling.name] = None
        return readings

    def _take_readings(self, readings: dict[str, float | None] | Exception) -> None:
        self._is_reading = False
        if self._core.closed or isinstance(readings, Exception):
            return
        unread = sorted(name for name, value in readings.items() if value is None)
        before = {name for name, value in self._readings.items() if value is None}
        self._readings = readings
        now = self._time()
        if unread and set(unread) - before:
            self._core.tell(
                "ceiling_unread",
                now,
                f"{', '.join(unread)} cannot be read: no better variant is tried until it can",
                names=unread,
            )
        self._look(now)
        if not self._core.is_fusing:
            self.on_idle(now)
            self._core.wake(now)

    def _switched(self, decision: Decision, now: float, names: list[str]) -> None:
        self._handover = None
        before = self._networks[self._policy.level].id.variant
        after = self._networks[decision.level].id.variant
        self._policy.switch(decision.level, now)
        self._core.tell(
            "variant_switched",
            now,
            f"{after} runs in place of {before}: {decision.reason}",
            before=before,
            after=after,
            level=decision.level,
            reason=decision.reason,
            figures=dict(decision.figures),
            hold=self._policy.hold,
            waited_for=tuple(names),
        )

    def _failed(self, decision: Decision, why: str, now: float) -> None:
        self._handover = None
        self._policy.fail(now)
        variant = self._networks[decision.level].id.variant
        self._core.tell(
            "variant_failed", now, f"{variant} does not take over: {why}", variant=variant
        )
