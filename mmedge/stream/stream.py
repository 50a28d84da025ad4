"""A multi-rate run of a bundle: sensors push at their own rates, fused results come out.

It is longer than most modules by what its one class promises to callers.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import ExitStack
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mmedge.closable import Closable
from mmedge.errors import BackendError, InputError
from mmedge.execution.inputs import Feeds
from mmedge.forks import ADVICE, watch
from mmedge.stream.clock import StreamClock, read_seconds
from mmedge.stream.close import close_stream
from mmedge.stream.executors import make_driver
from mmedge.stream.modality_state import ModalityState
from mmedge.stream.network import Runnable, make_network
from mmedge.stream.options import (
    check_names,
    check_numbers,
    read_deadline,
    read_loop_options,
    read_reset_after,
    read_timeout,
    read_trigger,
)
from mmedge.stream.policies import Exact, Interpolate, Latest, Policy, Window, check_policy
from mmedge.stream.sample import StreamSample
from mmedge.stream.sanity import Checker, Sanity
from mmedge.stream.state_machine import StreamStateMachine
from mmedge.stream.state_sequence import StateSequence
from mmedge.stream.ticker import Ticker
from mmedge.stream.wait import describe_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from mmedge.drift import DriftProfile
    from mmedge.stream.adaptive import Adaptive
    from mmedge.stream.network import Network
    from mmedge.stream.observer import Observer
    from mmedge.stream.result import Health, Result
    from mmedge.stream.shadow import Limit, Metric
    from mmedge.stream.swap import Swap

__all__ = ["Stream"]


class Stream(Closable):
    """Runs a bundle's stages on what sensors push, each when its data is there.

    A bundle of encoders (stages of one modality) and fusion stages need not run as a whole for each
    result. A stream runs an encoder when its sensor delivers, keeps the features, aligns them in
    time at each trigger, and runs the fusion alone.

    **When encoders run.** A modality is encoded when its sample comes. While its encoder is busy,
    only the newest sample waits. Under :class:`Exact` and :class:`Interpolate`, and if its nominal
    rate exceeds the trigger's, it is encoded on demand: at a trigger, and only what that trigger
    uses. A sample whose content is bitwise that of the one encoded before is not encoded again.

    **State.** An encoder with state takes every accepted sample once, in the order of their stamps;
    up to ``depth`` of them wait for it, and of more the oldest are dropped as ``queue_full``. What
    it missed is in ``notes`` and :meth:`health`. A fusion stage with state takes every result that
    is made. :meth:`forget` and :meth:`reset` begin the states anew that have taken what is
    withdrawn.

    **What a result uses.**

    - The modality that triggered: the triggering sample. The result waits for it.
    - Modalities that are encoded on demand: what their policy chooses for the trigger's time. The
      result waits for it.
    - Any other: the newest sample whose features are ready. It is neither older nor newer than the
      trigger's time by more than the maximum age (the policy's, else the manifest's
      ``max_age_ms``). If there is none and one is being encoded, the result waits for that one: for
      a required modality as long as it takes, for an optional one while the deadline is not at
      risk. Without a deadline it waits up to one period of the trigger; for the first value, or
      what is encoded on demand, until the encoder seems to hang.

    So a slow encoder does not set the rate of results. One trigger runs and at most one waits (or
    the windows of one chunk, which run one after the other). A newer trigger takes its place.

    **Absence.** A required modality that is missing or too old makes a result without outputs. An
    optional one has a stand-in: zeros or a token, of the smallest size, or of the sizes of present
    modalities if they share dimensions. Under ``last`` it is the last good value, marked absent,
    and zeros before there is one. A modality whose newest encoding failed is absent as
    ``encoder_error`` until one succeeds. The last good value of an optional one is used while it is
    within a stated maximum age. A modality that a result used and a later one did not is back after
    ``recover_after`` good samples in a row; one that was never used, or is required, at once.

    **Bad samples.** :class:`Sanity` checks content. A bad sample is dropped, and the modality ages
    out. Without a maximum age it is absent from its first bad sample to the next good one. Stamps
    are checked too:

    - The same stamp again is ``duplicate``.
    - A stamp more than ``future`` seconds ahead of now, or further ahead than those before it, is
      ``future``.
    - A stamp older than the maximum age is ``too_old``.
    - A stamp behind the newest is ``out_of_order``. Under Exact and Interpolate the sample is put
      in its place if a trigger can still use it (it triggers nothing itself), else it is ``late``.

    Three samples in a row that are behind the newest, increase, and come no faster than twice the
    pace of their stamps show that the source's clock was set back. The history restarts with the
    third, and the samples before are dropped as ``clock_jump``. A history has ``depth`` samples;
    the oldest is dropped as ``queue_full``. A :class:`Window` begins anew after a chunk that is
    dropped, and after a gap, so that no window joins rows between which others are missing.

    **Accounting.** Each sample whose push returned is used (in a delivered computation), dropped
    for one named reason, or pending. So is each window. A push that raises is not counted.

    **Loops.** Of a bundle with a loop, a trigger starts the loop on the newest constants, while
    encoders go on. A newer trigger waits, or cancels it (``newer_trigger``). A deadline ends it in
    time. What it has then is the result, and ``reason`` says why it is no more.

    **Deadline.** With ``deadline_ms``, if 95 % of results are expected to take longer than that
    from the trigger's time, nothing is computed. The last good outputs are delivered again, marked
    as not fresh. But if a required modality that they used is too old by now, the stream computes.
    Each such skip relaxes the expectation, so that the stream tries again. A fresh result that
    comes late, and one that is not fresh, have ``met=False``.

    **Time.** ``clock`` is any callable that returns seconds, by default monotonic time. Stamps and
    all times of a result are in its seconds. A stream follows a clock that is set back or ahead
    (:class:`mmedge.stream.clock.StreamClock`), and does not use single wrong readings. Both are
    counted. Work in progress when it is set goes on as if it had not been (:class:`Result`). A
    clock that raises, and a thread that dies, fail the stream: pushes and results then raise. On a
    :class:`mmedge.stream.clock.SimulatedClock` no thread is used, and the same pushes give the same
    results, bit for bit. Use it from one thread.

    You may call a stream from several threads, and several streams may share a pipeline. Closing a
    stream does not close its pipeline.

    Args:
        pipe: a loaded pipeline; its ``run_stage`` does the work.
        trigger: a modality's name (each accepted sample of it, or each new window, unless it came
            late), a number (this many times a second of the clock, first after one period), or
            ``"any"`` (each accepted sample of any modality).
        deadline_ms: milliseconds from the trigger's time to the result; None: no deadline.
        align: policy by modality; :class:`Latest` for those not named.
        sanity: checks by modality; ``Sanity()`` for those not named.
        clock: see above; None: ``time.monotonic``.
        depth: samples in the history of a modality under Exact and Interpolate, and samples that
            wait for an encoder with state.
        keep: results that wait to be fetched; the oldest is dropped for a newer one.
        future: seconds that a stamp may be ahead of now.
        recover_after: good samples after which a lost optional modality is used again.
        reset_after: seconds between two samples after which the state of an encoder begins anew,
            or between the times of two results that of a fusion stage: a number for all, or by
            modality and by fusion stage. None: states outlive any gap.
        newer_trigger: what a trigger does while the loop of one before runs: it waits for the end,
            or cancels the loop after the step that runs.
        loop_options: of every run of the loop, as :meth:`mmedge.Pipeline.run` takes them, such as
            ``limit`` and ``seed``; but ``state`` and ``deadline_ms``, which the stream has itself.
        variants: cheaper variants to go over to where the deadline or the machine asks for it
            (:class:`mmedge.stream.Adaptive`).
        drift: what is normal, to score what comes by: in results, in :meth:`health` and by events
            (:mod:`mmedge.stream.drift`). None: nothing is scored.

    Attributes:
        pipe: as above.
        options: all the others as they were given, but ``clock``, and ``drift`` and ``variants``,
            which are of one bundle.
        clock: as above.
        start: the clock's seconds when the stream was made.

    Raises:
        InputError: an unknown modality, a policy that does not fit it, a number that is not
            allowed, or a drift profile of another bundle.
    """

    def __init__(
        self,
        pipe: Runnable,
        *,
        trigger: str | float,
        deadline_ms: float | None = None,
        align: Mapping[str, Policy] | None = None,
        sanity: Mapping[str, Sanity] | None = None,
        clock: Callable[[], float] | None = None,
        depth: int = 64,
        keep: int = 16,
        future: float = 1.0,
        recover_after: int = 3,
        reset_after: float | Mapping[str, float] | None = None,
        newer_trigger: Literal["wait", "cancel"] = "wait",
        loop_options: Mapping[str, Any] | None = None,
        drift: DriftProfile | None = None,
        variants: Adaptive | None = None,
    ) -> None:
        self.pipe = pipe
        self.options: Mapping[str, Any] = {
            "trigger": trigger, "deadline_ms": deadline_ms, "align": align, "sanity": sanity,
            "depth": depth, "keep": keep, "future": future, "recover_after": recover_after,
            "reset_after": reset_after, "newer_trigger": newer_trigger,
            "loop_options": loop_options,
        }  # fmt: skip
        self.clock = clock
        manifest = pipe.bundle.manifest
        plan = manifest.stream_plan(pipe.variant)
        loaded = getattr(pipe, "plan", plan)  # what stands in for a pipeline runs any stage
        if loaded != plan:
            raise InputError(
                f"a stream runs the plan {plan!r}, and {loaded!r} is loaded; load the bundle with "
                f"plan={plan!r}, or make the stream by the pipeline's method stream"
            )
        align, sanity = align or {}, sanity or {}
        names = [modality.name for modality in manifest.modalities]
        check_names("align", align, names)
        check_names("sanity", sanity, names)
        counts = {"depth": (depth, 2), "keep": (keep, 1), "recover_after": (recover_after, 1)}
        check_numbers(counts, future)
        deadline = read_deadline(deadline_ms)
        options = read_loop_options(manifest, newer_trigger, loop_options)
        triggers, rate = read_trigger(trigger, manifest)
        self._feeds = Feeds(pipe.bundle, on_gpu=pipe.variant.target != "cpu")
        plan_stages = manifest.in_order(plan)
        with_state = {state.stage for state in manifest.states}
        stages_with_state = [stage for stage in plan_stages if stage.name in with_state]
        encoders = {stage.modality for stage in stages_with_state if stage.modality is not None}
        fusion = [stage.name for stage in stages_with_state if stage.modality is None]
        limits = read_reset_after(reset_after, [*sorted(encoders), *fusion])
        tracks: dict[str, ModalityState] = {}
        self._checkers: dict[str, Checker] = {}
        specs = manifest.inputs()
        for modality in manifest.modalities:
            policy = align.get(modality.name, Latest())
            has_state = modality.name in encoders
            check_policy(policy, modality, specs, self._feeds.relations, has_state=has_state)
            stages = tuple(s for s in plan_stages if s.modality == modality.name)
            faster = rate is not None and modality.rate_hz is not None and modality.rate_hz > rate
            tracks[modality.name] = ModalityState(
                modality,
                policy,
                {name: specs[name] for name in modality.inputs},
                stages,
                lazy=not stages
                or (not has_state and (faster or isinstance(policy, Exact | Interpolate))),
                sequence=StateSequence(limits.get(modality.name)) if has_state else None,
                depth=depth,
                future=future,
                recover_after=recover_after,
            )
            self._checkers[modality.name] = Checker(
                sanity.get(modality.name, Sanity()),
                modality,
                manifest,
                chunks=isinstance(policy, Window),
            )
        self._trigger = trigger
        self._bundle = manifest.name
        # A push checks and copies under its modality's gate, which keeps its samples in order.
        self._gates = {name: threading.Lock() for name in names}
        network = make_network(0, pipe, options, feeds=self._feeds)
        self._loop_options = options
        self._core = StreamStateMachine(
            tracks,
            triggers,
            network,
            relations=self._feeds.relations,
            rate=rate,
            deadline=deadline,
            keep=keep,
            sequences={name: StateSequence(limits.get(name)) for name in fusion},
            cancels=newer_trigger == "cancel",
        )
        choice = None
        if variants is not None:
            from mmedge.stream.variant_choice import prepare_choice

            choice = prepare_choice(variants, network, options, deadline)
        if drift is not None:
            # Streams without a profile do without the modules.
            from mmedge.stream.drift import DriftObserver

            drift.check_bundle(manifest.name, pipe.bundle.digest)
            self._core.drift = DriftObserver(drift)
            self._core.drift.attach(self._core.observers)
        # Reentrant, because the finalizer below may run in any thread at any moment.
        self._lock = threading.RLock()
        self._clock = StreamClock(monotonic if clock is None else clock, self._core.follow_clock)
        self.start = self._clock.last
        if rate is not None and not triggers:
            self._core.ticker = Ticker(self._clock.last, rate)
        placement = getattr(pipe, "placement", None)  # what stands in for a pipeline has none
        self._driver = make_driver(self._core, self._lock, self._clock, clock, placement)
        if choice is not None:
            with self._lock:
                choice.attach(self._core, self._driver.background(), self._clock)
        self._disowned = False
        watch(self)
        # Also at exit: a thread inside an engine while the interpreter goes down would crash.
        parts = self._core, self._clock, self._lock, self._driver
        self._close = weakref.finalize(self, close_stream, *parts)

    def push(
        self,
        modality: str,
        value: Any,  # noqa: ANN401
        t: float | None = None,
        *,
        copy: bool = True,
    ) -> int:
        """Push one sample. Returns its number within its modality, from 0.

        Args:
            modality: its name.
            value: an array as the manifest declares it (for a modality of one input), a mapping
                from each of its inputs to an array, or, if it has a tokenizer, a string. Under
                :class:`Window`, a chunk of rows. An array on a GPU is not copied: do not write to
                it while its sample may be used. Its content is neither checked nor compared.
            t: when it was measured, in seconds of the stream's clock (see
                :func:`mmedge.stream.clock.read_seconds` for what is a number of seconds); None:
                now.
            copy: False saves the copy, for a host array that nobody writes to any more.

        Raises:
            InputError: unknown modality, wrong input names, dtype, rank or size, or a stamp that
                is no finite number of seconds.
            BackendError: the stream is closed, or failed; the message says why.
        """
        self._check_owned()
        stamp = None if t is None else read_seconds(t, f"modality {modality!r}: a stamp")
        gate = self._gate(modality)
        track = self._core.tracks[modality]
        with gate:
            values, sizes = self._feeds.check_modality(modality, value, track.row_axes)
            if copy and not isinstance(value, str):
                values = {
                    name: array.copy() if isinstance(array, np.ndarray) else array
                    for name, array in values.items()
                }
            with self._lock:
                now = self._time()
                ahead = self._clock.ahead
                # From here on, in the stream's own time.
                stamp = now if stamp is None else stamp + self._clock.offset
                fault = track.stamp_fault(stamp, now)
            lying = False
            if fault is None:
                # The slow part, in which other modalities need not wait.
                fault = self._checkers[modality].check(values)
                lying = fault is not None
                if self._core.drift is not None and fault is None:
                    self._core.drift.see(modality, values, now - self._clock.offset)
            with self._lock:
                later = self._time()
                if self._clock.ahead != ahead:
                    # The clock was set meanwhile: it is a sample of now, and not of before.
                    stamp, now = stamp + self._clock.ahead - ahead, later
                sample = StreamSample(track.ledger.take(), stamp, values, sizes, now)
                text = value if isinstance(value, str) else None
                self._core.push(modality, sample, fault, later, lying=lying, text=text)
                self._driver.wake()
        return sample.seq

    def now(self) -> float:
        """The time of the stream's clock in seconds, with which stamps are compared."""
        self._check_owned()
        with self._lock:
            return self._time() - self._clock.offset

    def result(self, timeout: float | None = None, *, latest: bool = False) -> Result:
        """Wait for the next result, in order, or for the newest.

        Args:
            timeout: most seconds to wait, 0 or more; None or infinity: as long as it takes. On a
                simulated clock, most seconds that the clock is advanced; None: until nothing is
                planned any more.
            latest: pass over all results but the newest, for a reader that is slower than results
                come. They count as ``results_dropped`` in :meth:`health`.

        Raises:
            TimeoutError: there was no result; the message says what the stream waits for.
            InputError: a timeout that makes no sense.
            BackendError: the stream is closed, or failed; the message says why.
        """
        timeout = read_timeout(timeout)
        self._check_owned()
        with self._lock:
            self._check_open()
            there = self._driver.wait(timeout)
            self._check_open()
            if not there:
                raise TimeoutError(describe_wait(self._read_health(), self._trigger, timeout))
            return self._core.take(self._time(), latest=latest)

    def forget(self, modality: str) -> None:
        """Withdraw the samples of a modality, such as an instruction that is no longer valid.

        No result that you fetch after this has used them. Work in progress begins anew without
        them, results that wait to be fetched and used them are dropped, and outputs that used them
        are not repeated. The samples count as dropped by ``forgotten``. The modality is absent as
        ``forgotten`` until its next sample, which is used at once and may have any stamp.

        Raises:
            InputError: an unknown modality.
            BackendError: the stream is closed.
        """
        self._check_owned()
        with self._gate(modality), self._lock:
            self._checkers[modality].forget()
            self._core.forget(modality, self._time())
            self._driver.wake()

    def reset(self) -> None:
        """Begin as if nothing had been pushed, because an episode ended.

        The stream drops work in progress, results that wait to be fetched, all samples (as
        ``reset``), the last good outputs, and which sensors were lost. Counters, the clock, a
        timer's ticks and the expected latency go on.

        Raises:
            BackendError: the stream is closed.
        """
        self._check_owned()
        with ExitStack() as gates:
            for gate in self._gates.values():
                gates.enter_context(gate)
            with self._lock:
                self._check_open()
                for checker in self._checkers.values():
                    checker.forget()
                self._core.reset(self._time())
                self._driver.wake()

    @property
    def network(self) -> Network:
        """The network that runs now; another one after :meth:`swap`."""
        return self._core.network

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have an observer told what happens from now on; call what is returned to end that.

        See :class:`mmedge.stream.Observer`; an InputError refuses anything else. It may be called
        from any thread, and after the stream was closed, when nothing happens any more.
        """
        self._check_owned()
        # What is returned does not keep the stream from being let go of.
        lock, observers = self._lock, self._core.observers
        with lock:
            observers.add(observer)

        def end() -> None:
            with lock:
                observers.remove(observer)

        return end

    def swap(
        self,
        source: str | Path | Runnable,
        *,
        shadow: int = 32,
        limit: Limit | None = None,
        metric: Metric | None = None,
        probation: int = 64,
        shadow_old: bool = False,
        carry_states: bool | None = None,
        close_old: bool = False,
        patience_ms: float = 1000.0,
        **load_options: Any,  # noqa: ANN401
    ) -> Swap:
        """Go over to another bundle, or another variant, while the stream runs.

        It returns at once. The new bundle is opened, loaded and verified in the background,
        computes live results in the shadow of the network that runs, takes over between two
        results, and is watched. If anything is wrong, the old network goes on, or runs again. The
        events ``swap_started``, ``swap_refused``, ``swapped``, ``rolled_back`` and
        ``swap_confirmed`` tell of it, and so does what is returned.

        The bundle must take and give what the one that runs does. No result is of both networks.

        Args:
            source: path of the bundle; it is loaded with the arguments that the pipeline of this
                stream was loaded with, and the stream closes it. Or a loaded pipeline, which the
                caller closes, after the swap has ended or the stream is closed.
            shadow: results that are computed by both networks before the switch. A live result is
                left out while the one before is still at work, and this is counted. 0: none.
            limit: how far the new outputs may lie from the live ones: a share of the output's
                scale, or an :class:`mmedge.spec.Tolerance`, for all outputs or by name. Integers
                and texts have to be equal. None: differences are reported, and nothing more. With
                ``metric``: most that the mean of the metric may be.
            metric: a function of the live outputs and the new ones that says how far they lie
                apart. It is called in another thread.
            probation: results after the switch during which a fault brings the old network back: an
                encoder or fusion that fails, NaN or infinity in an output that had none in the
                shadow, or more missed deadlines than before. 0: none.
            shadow_old: whether the old network goes on in the shadow during probation, held to
                ``limit`` and ``metric``.
            carry_states: whether states go on in the new network. None: only if its graphs are the
                same, such as in another variant. Otherwise they begin anew at the switch, and at
                the return.
            close_old: whether the pipeline that is replaced is closed when the swap is confirmed,
                though the stream did not load it. Nothing else may use it.
            patience_ms: how long the switch may wait for a moment in which no result has to wait.
            load_options: arguments of :func:`mmedge.load` in place of those of the pipeline.

        Raises:
            InputError: an argument that cannot be meant, or a swap is under way.
            BackendError: the stream is closed, or failed.
        """
        # Streams that swap nothing do without the modules.
        from mmedge.stream.swap import start_swap

        self._check_owned()
        with self._lock:
            now = self._time()
            return start_swap(
                self._core, self._driver, self._lock, self._clock, now, self._loop_options, source,
                load_options, shadow=shadow, limit=limit, metric=metric, probation=probation,
                shadow_old=shadow_old, carry_states=carry_states, close_old=close_old,
                patience_ms=patience_ms,
            )  # fmt: skip

    def tell(self, kind: str, message: str, **details: Any) -> None:  # noqa: ANN401
        """Tell observers of an event, and count it in ``health().events``.

        It may be called from any thread, but by no observer while it is told something. Of a stream
        that is closed nothing is told.

        Args:
            kind: the event's name, such as ``drift``.
            message: what happened, in words.
            details: the same by name: numbers and short texts.
        """
        self._check_owned()
        with self._lock:
            if not self._core.closed:
                self._core.tell(kind, self._time(), message, **details)

    def health(self) -> Health:
        """Return a snapshot of all counters."""
        self._check_owned()
        with self._lock:
            return self._read_health()

    def close(self) -> None:
        """Stop. You may call it twice, and from any thread.

        It wakes threads that wait in :meth:`result`, counts pending samples as dropped by
        ``closed``, and returns at once. A thread that is inside a stage ends when that stage does.
        """
        self._close()

    def _gate(self, modality: str) -> threading.Lock:
        gate = self._gates.get(modality)
        if gate is None:
            raise InputError(
                f"unknown modality {modality!r}; this bundle has {', '.join(self._gates)}"
            )
        return gate

    def disown(self) -> None:
        """See :class:`mmedge.forks.Inherited`: its threads and locks are the parent's."""
        self._disowned = True
        self._close.detach()

    def _check_owned(self) -> None:
        """Before any lock is taken, which a thread of the parent may have held."""
        if self._disowned:
            raise BackendError(f"a stream over {self._bundle!r}: {ADVICE}")

    def _check_open(self) -> None:
        if self._core.failure is not None:
            raise BackendError(f"the stream failed: {self._core.failure}; make a new one")
        if self._core.closed:
            raise BackendError("the stream is closed; make a new one")

    def _time(self) -> float:
        """The time now; a clock that fails ends the stream."""
        self._check_open()
        try:
            return self._clock()
        except BackendError as error:
            self._core.fail(str(error), self._clock.last)
            self._driver.wake()
            raise BackendError(f"the stream failed: {error}; make a new one") from error

    def _read_health(self) -> Health:
        now = self._clock.last if self._core.closed else self._time()
        clock = self._clock
        return self._core.health(now, clock_jumps=clock.jumps, clock_glitches=clock.glitches)
