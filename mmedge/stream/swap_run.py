"""The steps of a guarded swap: a bundle is loaded, tried, switched to and watched.

It is longer than most, since it is one sequence of steps, each of which may end it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from mmedge.errors import InputError
from mmedge.stream.background import give_memory_back
from mmedge.stream.contract import check_contract, check_place, is_same_network
from mmedge.stream.handover import Handover
from mmedge.stream.network import Renewed, make_network
from mmedge.stream.probation import Probation
from mmedge.stream.shadow import Comparisons, Live, Shadow, find_non_finite
from mmedge.stream.swap_report import SwapOptions, SwapReport

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.spec import Manifest
    from mmedge.stream.background import Background
    from mmedge.stream.choose import Active
    from mmedge.stream.compute import Encoded, Fused
    from mmedge.stream.modality_state import ModalityState
    from mmedge.stream.network import Network
    from mmedge.stream.result import Result
    from mmedge.stream.shadow import ShadowRun
    from mmedge.stream.state_machine import StreamStateMachine
    from mmedge.stream.swap_load import SwapLoad

__all__ = ["ENDS", "State", "SwapRun"]

State = Literal[
    "loading", "shadow", "handover", "probation", "confirmed", "refused", "rolled_back", "canceled"
]
#: How a swap may end.
ENDS = ("confirmed", "refused", "rolled_back", "canceled")


class SwapRun:
    """One swap. Not thread-safe; the stream's lock is held around every call.

    Args:
        core: the stream.
        background: runs what is beside it.
        time: tells the stream's time in seconds.
        load: loads the new network.
        options: how the swap was asked for.
        loop_options: of every run of a loop.

    Attributes:
        state: as :class:`SwapReport` has it.
        title: see :class:`mmedge.stream.change.Change`.
    """

    title = "another swap is under way; wait until it has ended, or cancel it"

    def __init__(
        self,
        core: StreamStateMachine,
        background: Background,
        time: Callable[[], float],
        load: SwapLoad,
        options: SwapOptions,
        loop_options: Mapping[str, Any],
    ) -> None:
        self._core, self._background, self._time = core, background, time
        self._load, self._options, self._loop_options = load, options, loop_options
        self._old = core.network
        self._new: Network | None = None
        self.state: State = "loading"
        self._reason = ""
        self._carry = False
        self._shadow: Shadow | None = None
        self._comparisons = Comparisons(options.metric_limit, core.deadline)
        self._handover: Handover | None = None
        self._is_shadowing = False
        self._skipped = self._not_comparable = 0
        self._non_finite: set[str] = set()
        #: What the old network had encoded at the switch.
        self._kept: dict[str, Renewed] = {}
        self._waited_for: tuple[str, ...] = ()
        self._probation: Probation | None = None
        self._report: SwapReport | None = None
        #: Whether a step of loading is at work, and whether the stream was closed.
        self._has_step = self._is_stream_closed = False

    def make_report(self) -> SwapReport:
        """What has been found so far."""
        return self._report or self._make_report()

    @property
    def progress(self) -> str:
        """How far it is, in words."""
        results = 0 if self._probation is None else self._probation.results
        return (
            f"it is in the state {self.state!r}, with {len(self._comparisons)} of "
            f"{self._options.shadow} results compared and {results} of {self._options.probation} "
            "in probation"
        )

    def cancel(self) -> None:
        """Give up: the old network goes on, or runs again if the new one is in probation."""
        if self.state in ENDS:
            return
        now = self._time()
        if self.state == "probation":
            self._roll_back("the application canceled it", now)
        else:
            self._end("canceled", "the application canceled it", now)
        self._core.wake(now)

    # Loading, in the background.

    def start(self, now: float) -> None:
        """Begin; called once, with the lock held."""
        self._core.change = self
        source = "a loaded pipeline" if not self._load.owns else f"{self._load.path}"
        details = {"source": source, "old": self._old.id._asdict()}
        self._core.tell("swap_started", now, f"a swap to {source} was started", **details)
        self._do(self._open, self._opened)

    def _do(
        self, step: Callable[[], object], then: Callable[[], None], *, low: bool = True
    ) -> None:
        """Take a step of loading, and go on after it."""
        self._has_step = True
        self._background.submit(step, self._after(then), low=low)

    def _after(self, then: Callable[[], None]) -> Callable[[object], None]:
        """Go on after a step that was not canceled meanwhile, and did not fail."""

        def go_on(outcome: object) -> None:
            self._has_step = False
            if self.state in ENDS:
                # What this step loaded is not wanted any more.
                self._new = None
                if self._core.closed:
                    self._load.close()
                else:
                    # Without the stream's lock: it may take long.
                    self._background.submit(partial(_close, self._load.close), _ignore)
            elif isinstance(outcome, Exception):
                why = f"{type(outcome).__name__}: {outcome}"
                self._end("refused", why, self._time())
            else:
                then()

        return go_on

    def _open(self) -> None:
        bundle = self._load.open()
        running = self._old.pipe.bundle
        check_contract(running.manifest, bundle.manifest)
        self._load.check_version()
        is_same = is_same_network(bundle, running)
        if self._core.drift is not None and not is_same:
            raise InputError(
                "the stream has a drift profile of the network that runs, and what another one "
                "makes of the same samples would be told as drift; make the stream without drift"
            )
        self._carry = is_same if self._options.carry_states is None else self._options.carry_states
        owners = _stages_with_state(running.manifest)
        if owners and not self._carry and (self._options.shadow or self._options.shadow_old):
            raise InputError(
                f"the stages {', '.join(owners)} have states, which another network does not "
                "share: the two would be compared on different ones. Pass shadow=0 and no "
                "shadow_old, so that states begin anew; or carry_states=True, if "
                "they mean the same in both"
            )

    def _opened(self) -> None:
        # Not at low priority, which the threads that a backend starts would keep.
        self._do(self._load.load, self._loaded, low=False)

    def _loaded(self) -> None:
        self._do(self._prepare, self._prepared)

    def _prepare(self) -> None:
        load = self._load
        pipe = load.pipe
        if pipe is None:
            return
        check_place(self._old.pipe.variant, pipe.variant)
        load.verify()
        number = self._core.networks
        new = make_network(
            number, pipe, self._loop_options, close=load.close if load.owns else None
        )
        for name in self._core.tracks:
            new.compute.prepare(name)
        self._new = new

    def _prepared(self) -> None:
        if self._new is None:
            return
        self._core.networks += 1
        if self._new.close is not None:
            self._core.owned = [*self._core.owned, self._new]
        if self._options.shadow:
            self._shadow = self._make_shadow(self._new)
            self._set_state("shadow")
        else:
            self._hand_over()

    def _make_shadow(self, network: Network) -> Shadow:
        options = self._options
        return Shadow(
            network,
            self._background,
            options.limits,
            options.metric,
            with_states=self._carry,
            finds_non_finite=network is self._new,
        )

    # Shadow runs.

    def _capture(self, active: Active, outcome: Fused) -> None:
        """Have a live result computed in the shadow, unless one is being computed."""
        if self._shadow is None:
            return
        if outcome.outputs is None:
            return  # its result is counted
        if outcome.remark:
            self._not_comparable += 1
        elif self._is_shadowing:
            self._skipped += 1
        else:
            self._is_shadowing = True
            live = Live.of(active, outcome)
            shadow = self._shadow
            done = partial(self._compared, shadow)
            self._background.submit(partial(shadow.run, live), done, network=shadow.network)

    def _compared(self, shadow: Shadow, run: ShadowRun | Exception) -> None:
        self._is_shadowing = False
        if self.state in ENDS or shadow is not self._shadow:
            return
        now = self._time()
        fault = run.fault if not isinstance(run, Exception) else f"{type(run).__name__}: {run}"
        if not isinstance(run, Exception):
            self._comparisons.add(run)
        if self.state == "probation":
            if fault:
                self._roll_back(f"beside the old network: {fault}", now)
                self._core.wake(now)
            return
        is_whole = len(self._comparisons) >= self._options.shadow
        fault = fault or (self._comparisons.fault() if is_whole else "")
        if fault:
            self._end("refused", f"in the shadow of the old network: {fault}", now)
        elif is_whole:
            self._shadow = None
            self._hand_over()

    # The switch.

    def _hand_over(self) -> None:
        if self._new is None:
            return
        self._set_state("handover")
        self._handover = Handover(
            self._core,
            self._background,
            self._time,
            self._new,
            "the network was swapped",
            carry=self._carry,
            patience=self._options.patience,
            done=self._switched,
            failed=partial(self._end, "refused"),
        )
        now = self._time()
        self._handover.look(now)
        self._core.wake(now)

    def _switched(self, now: float, names: list[str]) -> None:
        handover, self._handover = self._handover, None
        if handover is None or self._new is None:
            return
        self._kept = handover.kept
        self._waited_for = tuple(names)
        details = {
            "old": self._old.id._asdict(),
            "new": self._new.id._asdict(),
            "compared": len(self._comparisons),
            "skipped": self._skipped,
            "waited_for": self._waited_for,
            "states": "carried" if self._carry else "begun anew",
        }
        wait = f"; results wait for {', '.join(names)} to be encoded" if names else ""
        title = f"{self._new.id.digest[:12]} {self._new.id.variant}"
        self._core.tell("swapped", now, f"the stream runs {title}{wait}", **details)
        if not self._options.probation:
            self._end("confirmed", "", now)
            return
        if self._options.shadow_old:
            self._comparisons = Comparisons(self._options.metric_limit, None)
            self._shadow = self._make_shadow(self._old)
        total = self._core.results_total
        share = self._core.misses / total if total else 0.0
        most = self._options.probation
        self._probation = Probation(self._new, most, share, self._non_finite)
        self._set_state("probation")

    # Probation.

    def _roll_back(self, why: str, now: float) -> None:
        """Have the old network run again; what the new one has encoded is encoded anew."""
        shadow, kept = self._shadow, self._kept
        if shadow is not None:
            # A copy, made at once: a run in the shadow may add to it meanwhile.
            for name, (item, encoded) in dict(shadow.features).items():
                kept[name] = Renewed(item, encoded.features or {}, encoded.states)
        tracks = self._core.tracks
        usable = {
            name: renewed
            for name, renewed in kept.items()
            if renewed.item is tracks[name].ready and (tracks[name].sequence is None or self._carry)
        }
        names = self._core.switch(
            self._old, usable, f"the network was rolled back: {why}", carry=self._carry
        )
        # What the new one gave is not to be given again.
        self._core.distrust_outputs()
        self._waited_for = tuple(names)
        self._end("rolled_back", why, now)

    def on_encoded(self, track: ModalityState, outcome: Encoded, now: float) -> None:
        """See :class:`mmedge.stream.change.Change`."""
        if self._probation is not None:
            fault = self._probation.check_encoded(track, outcome)
            if fault:
                self._roll_back(fault, now)

    def on_fused(self, active: Active, outcome: Fused, now: float) -> bool:
        """See :class:`mmedge.stream.change.Change`."""
        if self._probation is not None:
            fault = self._probation.check_fused(active, outcome)
            if fault:
                self._roll_back(fault, now)
                return False
        elif self.state == "shadow":
            for name, value in (outcome.outputs or {}).items():
                if find_non_finite({name: value}):
                    self._non_finite.add(name)
        if active.network is self._core.network:
            self._capture(active, outcome)
        return True

    def on_result(self, result: Result, now: float) -> None:  # noqa: ARG002
        """See :class:`mmedge.stream.change.Change`."""
        if self._probation is not None:
            self._probation.add(result)
        if self._shadow is not None:
            self._not_comparable += result.outputs is None or not result.fresh

    def on_idle(self, now: float) -> None:
        """See :class:`mmedge.stream.change.Change`."""
        probation = self._probation
        if self._handover is not None:
            self._handover.look(now)
        elif probation is None:
            return
        elif probation.fault:
            self._roll_back(probation.fault, now)
        elif probation.is_over and (self._shadow is None or len(self._comparisons)):
            fault = "" if self._shadow is None else self._comparisons.fault()
            if fault:
                self._roll_back(f"beside the old network: {fault}", now)
            else:
                self._end("confirmed", "", now)

    def close(self, now: float) -> None:
        """See :class:`mmedge.stream.change.Change`."""
        self._is_stream_closed = True
        self._end("canceled", "the stream was closed", now)

    # The end.

    def _set_state(self, state: State) -> None:
        self.state = state
        self._background.notify()

    def _end(self, state: State, reason: str, now: float) -> None:
        """End, tell why, and free the network that does not run."""
        if self.state in ENDS:
            return
        was = self.state
        is_closed = self._is_stream_closed
        if self._handover is not None:
            self._handover.cancel("closed" if is_closed else "superseded")
        self.state, self._reason = state, reason
        self._report = report = self._make_report()
        self._core.change = None
        kinds = {"confirmed": "swap_confirmed", "rolled_back": "rolled_back"}
        messages = {
            "confirmed": "the new network is kept",
            "rolled_back": f"the old network runs again: {reason}",
        }
        runs = "new" if self._core.network is not self._old else "old"
        details = {
            "state": state,
            "reason": reason,
            "step": was,
            "old": report.old._asdict(),
            "new": None if report.new is None else report.new._asdict(),
            "compared": report.compared,
            "skipped": report.skipped,
            "results": report.results,
            "misses": report.misses,
            "not_checked": report.not_checked,
        }
        message = messages.get(state, f"the {runs} network goes on: {reason}")
        self._core.tell(kinds.get(state, "swap_refused"), now, message, **details)
        if not is_closed:
            self._free()
        self._new, self._shadow, self._handover = None, None, None
        self._probation, self._kept = None, {}
        # Whoever keeps what this came to does not keep a network that was closed.
        del self._old
        self._background.notify()

    def _free(self) -> None:
        """Free the network that does not run, unless it is the caller's."""
        core, old = self._core, self._old
        close: Callable[[], None] | None = self._load.close
        loser = self._new
        if core.network is not old:
            loser, close = old, old.close
            if close is None and self._options.close_old and self.state == "confirmed":
                close = getattr(old.pipe, "close", None)
        elif self._has_step:
            # That frees what it loads when it ends.
            close = None
        core.owned = [network for network in core.owned if network is not loser]
        if close is not None:
            self._background.submit(partial(_close, close), _ignore)

    def _make_report(self) -> SwapReport:
        options, comparisons, probation = self._options, self._comparisons, self._probation
        return SwapReport(
            state=self.state,
            reason=self._reason,
            old=self._old.id,
            new=None if self._new is None else self._new.id,
            compared=len(comparisons),
            skipped=self._skipped,
            not_comparable=self._not_comparable,
            differences=dict(comparisons.differences),
            metric=comparisons.metric,
            shadow_seconds=comparisons.median,
            waited_for=self._waited_for,
            results=0 if probation is None else probation.results,
            misses=0 if probation is None else probation.misses,
            misses_allowed=0.0 if probation is None else probation.misses_allowed,
            not_checked=options.not_checked(
                is_verified=self._load.is_verified, has_deadline=self._core.deadline is not None
            ),
        )


def _close(close: Callable[[], None]) -> None:
    close()
    give_memory_back()


def _ignore(_: object) -> None:
    """Nothing depends on how it ended."""


def _stages_with_state(manifest: Manifest) -> list[str]:
    """The stages of a stream that have a state."""
    with_state = {state.stage for state in manifest.states}
    return [stage.name for stage in manifest.in_order() if stage.name in with_state]
