"""One-shot runs of a bundle: named inputs in, named outputs out.

It is longer than most, since it is one class whose methods are documented for users.
"""

from __future__ import annotations

import threading
from copy import copy
from typing import TYPE_CHECKING, Any, Unpack

from mmedge.backends.large_pages import NOT_ASKED
from mmedge.backends.registry import probe
from mmedge.bundle.choose import choose_plan, is_proven
from mmedge.closable import Closable
from mmedge.errors import InputError
from mmedge.execution.calls import Calls
from mmedge.execution.loaded_plan import CACHE_BYTES, Laps, LoadedPlan, pipeline_title
from mmedge.execution.scheduler import serially
from mmedge.forks import watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from functools import partial

    from mmedge.backends import Attention, SessionOptions
    from mmedge.bundle import Bundle
    from mmedge.drift import DriftProfile
    from mmedge.execution.call_options import CallOptions
    from mmedge.execution.feature_cache import CacheInfo
    from mmedge.execution.loop_run import LoopRun
    from mmedge.execution.scheduler import Schedule
    from mmedge.execution.state import State
    from mmedge.spec import Array, Decision, PlanName, Variant
    from mmedge.stream import Stream
    from mmedge.stream.policies import Policy
    from mmedge.stream.sanity import Sanity

__all__ = ["Pipeline"]


class Pipeline(Closable):
    """A bundle on one device, with one of its plans loaded. :func:`mmedge.load` makes it.

    You may call it from several threads.

    Attributes:
        bundle: the bundle; it is closed with the pipeline unless the caller opened it.
        variant: the variant that runs.
        decisions: for every variant of the bundle, whether it was chosen and why.
        why_plan: why :attr:`plan` is the one that is loaded, in words.
        threads: most intra-op threads of each stage on the CPU; None: the backend's default.
        reload: loads another bundle with the arguments that this one was loaded with; None: nobody
            said how.
    """

    reload: partial[Pipeline] | None = None

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        decisions: tuple[Decision, ...],
        *,
        plan: PlanName,
        why_plan: str = "",
        options: SessionOptions,
        cache_bytes: int = CACHE_BYTES,
        concurrent: bool | None = None,
        allow_non_finite: bool = False,
        allow_unverified: bool = False,
        owns_bundle: bool = True,
    ) -> None:
        self.bundle = bundle
        self._owns_bundle = owns_bundle
        self.variant = variant
        self.decisions = decisions
        self.why_plan = why_plan
        self.threads = options.threads
        self.placement = options.placement
        self._calls = Calls(
            bundle,
            on_gpu=variant.target != "cpu",
            allow_non_finite=allow_non_finite,
        )
        self._disowned = False
        self._lock = threading.Lock()

        def open_plan(name: PlanName) -> LoadedPlan:
            return LoadedPlan(
                bundle,
                variant,
                name,
                options=options,
                cache_bytes=cache_bytes,
                concurrent=concurrent,
            )

        self._open_plan = open_plan
        self._verified = allow_unverified or is_proven(bundle.manifest, variant)
        self._loaded = open_plan(plan)
        watch(self)
        if not self._verified:
            try:
                self._verify(self._loaded)
            except BaseException:
                self.close()
                raise

    @property
    def plan(self) -> PlanName:
        """The plan that is loaded: ``whole``, or ``cut`` by modality."""
        return self._loaded.name

    @property
    def schedule(self) -> Schedule:
        """Whether encoders of one call run at the same time, and what decided it."""
        return self._loaded.scheduler.schedule

    @property
    def attention(self) -> dict[str, Attention]:
        """What runs attention over segments, by stage; stages without it are left out."""
        sessions = self._loaded.sessions.items()
        return {stage: a for stage, session in sessions if (a := session.attention) is not None}

    @property
    def large_pages(self) -> str:
        """How much of what loading took lies in large pages of memory, in words."""
        pages = self._loaded.large_pages
        return NOT_ASKED if pages is None else str(pages)

    def place_thread(self) -> None:
        """Give the calling thread the cores and the priority that the pipeline was loaded with.

        A call works in the thread that makes it, and where ``threads`` is above 1 in others beside
        it. Threads of a stream are placed without this. Nothing takes it back.

        Raises:
            InputError: the pipeline was loaded without cores and priority.
            BackendError: the system does not allow it.
        """
        if self.placement is None:
            raise InputError(
                f"{self.bundle.manifest.name!r} was loaded without cores and priority; give load "
                "cores=[...] or priority=..."
            )
        self.placement.place()

    def cache_info(self) -> dict[str, CacheInfo]:
        """Counters of the feature cache by modality; empty if there is no cache.

        Modalities without their own encoder are left out. The plan ``whole`` has no cache.
        """
        return self._loaded.cache_info()

    def __call__(self, **inputs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Run once; each keyword is an input's name, or else an option. See :meth:`run`."""
        return self.run(inputs, **self._calls.take_options(inputs))

    def run(
        self,
        inputs: Mapping[str, Any],
        *,
        cached: bool = True,
        **options: Unpack[CallOptions],
    ) -> dict[str, Any]:
        """Run once. The encoder of a modality whose content came lately does not run again.

        A bundle with a loop is run to its end; :meth:`iterate` gives the steps as they come.

        Args:
            inputs: array by input name, of the dtype and shape that ``bundle.manifest`` declares:
                a NumPy array, anything with DLPack on the host, or, if the variant runs on a GPU,
                anything with ``__cuda_array_interface__``. For a modality with a tokenizer, a
                string. Optional modalities may be left out. Write to no array until the call
                returns: this call's outputs would be wrong, though no later call's.
            cached: False runs every stage, and neither reads nor fills the feature cache.
            options: for a bundle with state, ``state``: what the call begins with, and leaves its
                state in (:meth:`state`); None: anew. For a loop that generates, also ``limit``
                (most tokens, at most the bundle's), ``stop`` (the tokens that end a row, in place
                of the bundle's; ``()``: none), ``seed``, ``temperature``, ``top_k`` and ``top_p``
                (of the choice of tokens; None: the bundle's), ``forced`` (tokens [batch, n] that
                are chosen first whatever their scores, to see the scores of a text that is known),
                and ``deadline_ms`` (milliseconds from the call on after which no step begins). For
                a loop that denoises, ``seed``, ``noise`` (the first noise, before it is scaled;
                None: of the seed) and ``deadline_ms``.

        Returns:
            NumPy array by output name, in the manifest's order. The caller may write to them. With
            a loop, what the loop gives, and the outputs that it does not take. One that generates
            gives ``tokens`` (int64 [batch, n]), ``lengths`` (int64 [batch]), ``finish`` (a list,
            for each row ``stop``, ``limit``, ``deadline`` or ``cancel``), and ``text`` (a list)
            where the bundle has a tokenizer for it. One that denoises gives ``latent``, or what its
            decoder makes of it, and ``finish`` (``schedule``, ``deadline`` or ``cancel``).

        Raises:
            InputError: a wrong name, dtype, rank or size; NaN or infinity where no golden sample
                has it (see :func:`mmedge.load`); or an option that does not fit.
            TimeoutError: the deadline passed before a loop that denoises had an estimate.
            BackendError: the engine failed, or the pipeline is closed (another thread may close it
                during the call).
        """
        # Read once: another thread may close the pipeline, or load another plan.
        loaded_plan = self._loaded
        direct = loaded_plan.direct
        if direct is not None and not options:
            return direct(self._calls.prepare(inputs))
        run_encoders = loaded_plan.scheduler.run
        return self._calls.answer(
            loaded_plan, inputs, cached=cached, run_encoders=run_encoders, options=options
        )[0]

    def iterate(
        self,
        inputs: Mapping[str, Any],
        *,
        cached: bool = True,
        **options: Unpack[CallOptions],
    ) -> LoopRun:
        """Run a bundle with a loop, and give its steps as they come.

        The stages before the loop run at once, each step when it is asked for. Leaving the steps
        cancels the rest.

        >>> for step in pipe.iterate({"image": frame}, limit=50):  # doctest: +SKIP
        ...     print(step.text[0], end="", flush=True)

        Arguments are those of :meth:`run`.

        Raises:
            InputError: the bundle has no loop; or as :meth:`run`.
        """
        plan = self._loaded
        laps, run_encoders = Laps(plan.parts), plan.scheduler.run
        return self._calls.begin_loop(
            plan, inputs, laps, cached=cached, run_encoders=run_encoders, options=options
        )

    def state(self, tensors: Mapping[str, Array] | None = None) -> State:
        """A new :class:`mmedge.State`: what stages hand to themselves, for calls that follow.

        Args:
            tensors: what it begins with, as :meth:`mmedge.State.tensors` gave them after a call;
                None: the first value. A bundle with a loop takes none.

        Raises:
            InputError: the bundle keeps no state between calls, or ``tensors`` are not it.
        """
        return self._calls.state(tensors)

    def timed(
        self,
        inputs: Mapping[str, Any],
        *,
        cached: bool = True,
        **options: Unpack[CallOptions],
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Run once as :meth:`run` does, and return also the nanoseconds of each part of the call.

        - ``inputs``: checks, tokenizing, stand-ins, hashing.
        - Every stage by its name, from the end of the part before it: 0 if its outputs came from
          the cache. That of a loop has the time of all steps, with the choice of tokens.
        - ``outputs``: collecting them, copying what the cache may hold, and freeing the tensors
          between stages.

        Encoders run one after another here, so that the parts add up.
        """
        return self._calls.answer(
            self._loaded, inputs, cached=cached, run_encoders=serially, options=options
        )

    def stream(
        self,
        *,
        trigger: str | float,
        deadline_ms: float | None = None,
        align: Mapping[str, Policy] | None = None,
        sanity: Mapping[str, Sanity] | None = None,
        clock: Callable[[], float] | None = None,
        drift: DriftProfile | None = None,
        **limits: Any,  # noqa: ANN401
    ) -> Stream:
        """Make a stream, which runs each encoder when its sensor delivers.

        See :class:`mmedge.stream.Stream`, also for ``drift`` and ``limits``. Several streams may
        share a pipeline. Close them before it. A stream needs the plan ``cut``. If another plan is
        loaded, ``cut`` replaces it, and single calls run ``cut`` from then on. With ``load(...,
        plan="cut")`` only one plan is ever loaded.

        Raises:
            InputError: an unknown modality, a policy that does not fit it, or a number that is not
                allowed.
            BackendError: the pipeline is closed, or the plan ``cut`` does not load.
            AccuracyError: the plan does not compute here what it should.
        """
        # A program that makes single calls does without the stream's modules.
        from mmedge.stream import Stream

        self.use_plan(self.bundle.manifest.stream_plan(self.variant))
        return Stream(
            self,
            trigger=trigger,
            deadline_ms=deadline_ms,
            align=align,
            sanity=sanity,
            clock=clock,
            drift=drift,
            **limits,
        )

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run one stage alone on tensors that fit it, such as golden ones. Nothing is checked.

        Raises:
            InputError: the bundle has no such stage.
            BackendError: the engine failed.
        """
        loaded_plan = self._loaded
        loaded_plan.check_open()
        if stage not in loaded_plan.sessions:
            other_stages = [
                s.name for s in self.bundle.manifest.stages if s.name not in loaded_plan.sessions
            ]
            if stage in other_stages:
                raise InputError(
                    f"stage {stage!r} is not of the plan that is loaded, {self.plan!r}; load the "
                    "bundle with another plan"
                )
            raise InputError(
                f"no stage {stage!r}; this bundle has {', '.join(loaded_plan.sessions)}"
            )
        return loaded_plan.run_stage(stage, feeds)

    def start_loop(self, tensors: Mapping[str, Any], **options: Unpack[CallOptions]) -> LoopRun:
        """See :meth:`mmedge.execution.loaded_plan.LoadedPlan.start_loop`."""
        return self._loaded.start_loop(tensors, options)

    def use_plan(self, plan: PlanName) -> None:
        """Load a plan in place of the one that is loaded, unless it is the same.

        Calls in other threads end on the plan that they began with.

        Raises:
            InputError: the variant has no such plan.
            BackendError: the pipeline is closed, or the plan does not load.
            AccuracyError: the plan does not compute here what it should.
        """
        choose_plan(self.bundle.manifest, self.variant, probe(), plan=plan)
        with self._lock:
            self._loaded.check_open()
            if plan == self.plan:
                return
            loaded_plan = self._open_plan(plan)
            try:
                if not self._verified:
                    self._verify(loaded_plan)
                self._loaded.check_open()  # another thread may have closed the pipeline
            except BaseException:
                loaded_plan.close()
                raise
            self._loaded = loaded_plan
            self.why_plan = "it was asked for"
            # Not closed: a call in another thread may be under way. Its sessions go with it.

    def _verify(self, loaded_plan: LoadedPlan) -> None:
        # A variant that export has proven does without the module.
        from mmedge.execution.verify import verify

        # Calls in other threads keep the plan that is loaded until this one has passed.
        candidate = copy(self)
        candidate._loaded = loaded_plan  # noqa: SLF001 - of this class
        verify(candidate).check()

    def disown(self) -> None:
        """See :class:`mmedge.forks.Inherited`: the sessions' threads are the parent's."""
        self._loaded.disown()
        self._disowned = True

    def close(self) -> None:
        """Free the sessions and the bundle. You may call it twice.

        A call in another thread ends with a BackendError, or with its result if it had begun its
        last stage.
        """
        if self._disowned:
            return
        self._loaded.close()
        if self._owns_bundle:
            self.bundle.close()

    def __repr__(self) -> str:
        return pipeline_title(self.bundle.manifest, self.variant)
