"""The stages of one plan of a bundle, and of its loop, loaded: what a pipeline calls.

Of several stages, the encoders of a modality whose content has been seen lately are not run again
(see :mod:`mmedge.execution.feature_cache`), and those that must run may run at once (see
:mod:`mmedge.execution.scheduler`). Neither changes a bit of any output.

It is longer than most, since a call's stages and a loop behind them are one piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mmedge.backends.large_pages import LEAST_BYTES, private_memory, use_large_pages
from mmedge.backends.registry import open_stage
from mmedge.errors import BackendError, InputError, MMEdgeError
from mmedge.execution.call_options import check_options, deadline_of
from mmedge.execution.laps import Laps
from mmedge.execution.loop_run import LoopRun, Owner
from mmedge.execution.plan import StagePlan
from mmedge.execution.scheduler import Scheduler
from mmedge.execution.state import FirstStates, call_sizes
from mmedge.forks import ADVICE, keep_for_ever

if TYPE_CHECKING:
    from mmedge.backends import Session, SessionOptions
    from mmedge.backends.large_pages import LargePages
    from mmedge.bundle import Bundle
    from mmedge.execution.call_options import CallOptions, StartRun
    from mmedge.execution.feature_cache import CacheInfo, FeatureCache, Key
    from mmedge.execution.generate import TokenLoop
    from mmedge.execution.latent_loop import LatentLoop
    from mmedge.execution.plan import Run
    from mmedge.execution.state import State
    from mmedge.spec import Array, Manifest, PlanName, Stage, Variant

__all__ = ["CACHE_BYTES", "Laps", "LoadedPlan", "RunEncoders", "pipeline_title"]

#: Runs tasks by modality and returns their results.
RunEncoders = Callable[[Mapping[str, Callable[[], "dict[str, Array]"]]], Any]

#: Default limit of what all cached features together may hold, in bytes: 64 MiB.
CACHE_BYTES = 64 * 2**20


class LoadedPlan:
    """The sessions of one plan, and its calls. Safe to call from threads.

    Args:
        bundle: open.
        variant: of it; has files for the plan's stages.
        name: of the plan.
        options: of every session.
        cache_bytes: most bytes of features that are held; 0 holds none.
        concurrent: whether encoders run at once; None: as measured in the first calls.

    Attributes:
        name: of the plan.
        sessions: by stage; empty once closed.
        parts: of a call, in order: ``inputs``, the stages, ``outputs``.
        direct: where the plan is one stage that yields just the network's outputs, its session's
            run: nothing needs to be around it. Else None.
        scheduler: of the encoders.
        loop: of the bundle, if it has one.
        has_state: whether a stage hands something to itself.
        large_pages: what of the sessions' memory lies in large pages; None: not asked for.

    Raises:
        MMEdgeError: a stage does not load.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        name: PlanName,
        *,
        options: SessionOptions,
        cache_bytes: int,
        concurrent: bool | None,
    ) -> None:
        self._manifest = manifest = bundle.manifest
        stages = manifest.in_order(name)
        self.name = name
        self._title = pipeline_title(manifest, variant)
        self._disowned = False
        self._outputs = manifest.outputs
        # A single stage is the whole network, and not an encoder in front of anything; with a loop
        # it is in front of that.
        several = len(stages) > 1 or bool(manifest.loops)
        self._first = [
            FirstStates(bundle, stage)
            for stage in stages
            if any(state.stage == stage.name for state in manifest.states)
        ]
        self._input_specs = tuple(manifest.inputs().values())
        self.has_state = bool(manifest.states)
        inputs = _encoder_inputs(manifest, stages) if several else {}
        encoders = len(inputs)
        self._prefix_name = ""
        if manifest.loop is not None and manifest.loop.kind == "generate":
            self._prefix_name = _prefix_name(manifest, manifest.loop.stage)
            inputs[self._prefix_name] = _other_inputs(manifest, inputs, manifest.loop.token)
        self._cache: FeatureCache | None = None
        if inputs and cache_bytes:
            from mmedge.execution.feature_cache import FeatureCache  # `whole` has no use for it

            self._cache = FeatureCache(inputs, limit=cache_bytes)
        self._cached = inputs
        placement = options.placement
        self.scheduler = Scheduler(
            most=encoders,
            concurrent=concurrent,
            begin=None if placement is None else placement.place,
        )
        # Of the network's outputs those that encoders make: the cache may hold the same arrays.
        features = {spec.name for stage in stages if stage.modality for spec in stage.outputs}
        self._shared = features.intersection(manifest.outputs)
        loop_stages = manifest.loop_stages()
        loop = manifest.loop
        self._decoder = loop.decoder if loop is not None and loop.kind == "denoise" else None
        self._results = manifest.returned_outputs()
        self.sessions: dict[str, Session] = {}
        self.loop: TokenLoop | LatentLoop | None = None
        self.large_pages: LargePages | None = None
        wants_large_pages = options.large_pages
        if wants_large_pages is None:
            wants_large_pages = bundle.size(variant) >= LEAST_BYTES
        before = private_memory() if wants_large_pages and variant.target == "cpu" else None
        try:

            def open_stages() -> None:
                for stage in (*stages, *loop_stages):
                    self.sessions[stage.name] = open_stage(bundle, stage, variant, options=options)

            if placement is None:
                open_stages()
            else:
                placement.run(open_stages)
            if before is not None:
                self.large_pages = use_large_pages(before)
            # Backends opened files by their paths: were they those that were checked?
            bundle.check_unchanged()
            if loop_stages:
                self.loop = self._open_loop(bundle)
            # A process that is killed cleans nothing up: what was unpacked goes as soon as it can.
            bundle.release()
        except MMEdgeError:
            self.close()
            raise
        self.runs = {stage: _runner(session) for stage, session in self.sessions.items()}
        self._plan = StagePlan(stages, self.runs, self._outputs)
        self._all_stages = StagePlan((*stages, *loop_stages), self.runs)
        self._encoders = self._plan.encoders if several else {}
        self._others = self._plan.fusion if several else self._plan.stages
        self.parts = ("inputs", *self.runs, "outputs")
        only = None if several or self.has_state else next(iter(self.sessions.values()))
        has_all_outputs = (
            only is not None and tuple(spec.name for spec in only.outputs) == self._outputs
        )
        self.direct = only.run if only is not None and has_all_outputs else None

    def _open_loop(self, bundle: Bundle) -> TokenLoop | LatentLoop:
        # Only some bundles have a loop, and of one kind.
        if self._prefix_name:
            from mmedge.execution.generate import TokenLoop

            return TokenLoop(bundle, self.sessions, self._cache, self._prefix_name)
        from mmedge.execution.latent_loop import LatentLoop

        return LatentLoop(bundle, self.sessions)

    def answer(
        self,
        values: dict[str, Any],
        laps: Laps,
        *,
        cached: bool,
        run_encoders: RunEncoders,
        state: State | None = None,
    ) -> dict[str, Array]:
        """The network's outputs.

        Args:
            values: every input by name, checked; emptied.
            laps: of this call; the part ``inputs`` is under way.
            cached: whether features may come from the cache, and are put there.
            run_encoders: runs tasks by modality and returns their results.
            state: what stages begin with, and leave their states in; None: each begins anew.
        """
        self.compute(values, laps, cached=cached, run_encoders=run_encoders, state=state)
        if state is not None:
            state.replace(self.states(values), state.position + 1, 0, None)
        outputs = self._copies(values, self._outputs)
        # Freed before the clock is read, so that it is not left unexplained; nothing else holds
        # them but the cache.
        values.clear()
        laps.end("outputs")
        return outputs

    def compute(
        self,
        values: dict[str, Any],
        laps: Laps,
        *,
        cached: bool,
        run_encoders: RunEncoders,
        state: State | None = None,
    ) -> object:
        """Add what every stage of the plan gives to ``values``, by name.

        The arguments are those of :meth:`answer`. The result stands for all inputs but the tokens
        of a loop; None: nothing does.
        """
        cache = self._cache if cached else None
        for first in self._first:
            # A stage behind encoders may have none of the inputs that say how large a call is.
            sizes = call_sizes((*first.stage.inputs, *self._input_specs), values)
            if state is None or state.is_new:
                values.update(first.make(sizes, {}))
            else:
                first.check(state.arrays, sizes)
                values.update({each.input: state.arrays[each.input] for each in first.states})
        rest = None
        if cache is not None and self._prefix_name:
            # Copied, so that what is hashed is what is computed with.
            cache.copy_inputs(self._prefix_name, values)
            rest = cache.key(self._prefix_name, values)
        features, keys, missing = self._recall(values, cache)
        tasks = {
            modality: partial(self._encode, modality, values, keys[modality], laps)
            for modality in missing
        }
        laps.end("inputs")
        features.extend(run_encoders(tasks).values())
        while features:
            values.update(features.pop())
        self._plan.advance(values, self._others, laps.after)
        if rest is None or self._first or None in keys.values():
            return None
        return (rest, *keys.values())

    def begin_loop(
        self,
        values: dict[str, Any],
        laps: Laps,
        start: StartRun,
        *,
        cached: bool,
        run_encoders: RunEncoders,
        state: State | None,
    ) -> LoopRun:
        """Run the stages before the loop, and begin it.

        Args:
            values: every input by name, checked.
            laps: as for :meth:`answer`.
            start: of :attr:`loop`, with the options of this call.
            cached: as for :meth:`answer`.
            run_encoders: as for :meth:`answer`.
            state: as for :meth:`answer`; the call has acquired it.
        """
        key = self.compute(values, laps, cached=cached, run_encoders=run_encoders, state=state)
        states = {} if state is None else self.states(values)
        owner = Owner(self.check_open, laps, self._decoder, self.results(values), states, state)
        return LoopRun(start(values, key), owner)

    def start_loop(self, tensors: Mapping[str, Any], options: CallOptions) -> LoopRun:
        """Begin the loop on the network's inputs and outputs, such as features; none are checked.

        Args:
            tensors: by name; inputs that no stage of the loop takes give it sizes.
            options: of a call, without ``state``.

        Raises:
            InputError: there is no loop, or an option does not fit.
            BackendError: the pipeline is closed.
        """
        if options.get("state") is not None:
            raise InputError("option 'state': it is also for what is before the loop; call run()")
        owner = Owner(self.check_open, Laps(self.parts), self._decoder)
        return LoopRun(self.starter(options)(tensors, None), owner)

    def starter(self, options: CallOptions) -> StartRun:
        """What begins the loop with the options of a call, whose deadline counts from now.

        Args:
            options: of a call.

        Raises:
            InputError: there is no loop, or an option does not fit.
            BackendError: the pipeline is closed.
        """
        deadline = deadline_of(options.get("deadline_ms"))
        if self.loop is None:
            name = self._manifest.name
            raise InputError(f"bundle {name!r} has no loop, so there are no steps; call run()")
        check_options(self._manifest, options)
        self.check_open()
        return self.loop.starter(options, deadline)

    def states(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The states that a call of the plan's stages leaves, by the inputs that take them.

        Raises:
            BackendError: one is NaN somewhere.
        """
        states: dict[str, Array] = {}
        for first in self._first:
            states.update(first.leave(values))
        # What is returned, too, may be written to.
        names = {
            state.input for f in self._first for state in f.states if state.output in self._outputs
        }
        return {name: array.copy() if name in names else array for name, array in states.items()}

    def results(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The network's outputs that a call with a loop returns beside what the loop gives."""
        return self._copies(values, self._results)

    def _copies(self, values: Mapping[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
        """Outputs by name, of which the caller may write to each."""
        if self._cache is None:
            return {name: values[name] for name in names}
        shared = self._shared
        return {name: values[name].copy() if name in shared else values[name] for name in names}

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """What the stage of that name gives for what it takes of ``feeds``."""
        return self._all_stages.run_stage(stage, feeds)

    def cache_info(self) -> dict[str, CacheInfo]:
        """Counters of the feature cache by modality; empty where there is none."""
        return self._cache.info() if self._cache is not None else {}

    def _recall(
        self, values: dict[str, Any], cache: FeatureCache | None
    ) -> tuple[list[Mapping[str, Array]], dict[str, Key | None], list[str]]:
        """Features that are held, a key of each modality, and those whose encoders must run.

        Where the key is None, features are not to be held. The inputs of those that must run are
        replaced by copies in ``values``.
        """
        if cache is None:
            return [], dict.fromkeys(self._encoders), list(self._encoders)
        features: list[Mapping[str, Array]] = []
        keys: dict[str, Key | None] = {}
        missing: list[str] = []
        for modality in self._encoders:
            recalled, keys[modality] = (
                cache.recall(modality, values) if modality in self._cached else (None, None)
            )
            if recalled is None:
                missing.append(modality)
            else:
                features.append(recalled)
        return features, keys, missing

    def _encode(
        self, modality: str, values: Mapping[str, Any], key: Key | None, laps: Laps
    ) -> dict[str, Array]:
        """Run the encoders of one modality, most often one, and hold what they make."""
        tensors = dict(values)
        features: dict[str, Array] = {}

        def collect(stage: Stage, _feeds: Mapping[str, Any], outputs: Mapping[str, Array]) -> None:
            features.update(outputs)
            laps.end(stage.name)

        self._plan.advance(tensors, self._encoders[modality], collect)
        if key is not None and self._cache is not None:
            self._cache.put(modality, key, features)
        return features

    def check_open(self) -> None:
        """Raise BackendError where it is closed, or belongs to the parent of this process."""
        if not self.sessions:
            why = ADVICE if self._disowned else "load the bundle again"
            raise BackendError(f"{self._title}{':' if self._disowned else ' is closed;'} {why}")

    def disown(self) -> None:
        """See :class:`mmedge.forks.Inherited`: the sessions' threads are the parent's."""
        self._disowned = True
        for session in self.sessions.values():
            keep_for_ever(session)
        self.sessions, self.direct, self._cache = {}, None, None

    def close(self) -> None:
        """Free the sessions. May be called twice."""
        sessions, self.sessions = self.sessions, {}
        self.direct = None
        for session in sessions.values():
            session.close()
        self.scheduler.close()
        if self._cache is not None:
            self._cache.close()


def pipeline_title(manifest: Manifest, variant: Variant) -> str:
    """What a pipeline is called in messages."""
    return f"<Pipeline {manifest.name!r} {variant.id}>"


def _runner(session: Session) -> Run:
    def run(feeds: Mapping[str, Any]) -> dict[str, Array]:
        # Looked up at each call, so that a tracer may exchange it in between.
        return session.run(feeds)

    return run


def _encoder_inputs(manifest: Manifest, stages: tuple[Stage, ...]) -> dict[str, tuple[str, ...]]:
    """Network inputs that the encoders of each modality take; other inputs go to fusion alone.

    Without modalities whose encoders have state: what they give depends on more than the inputs.
    """
    with_state = {state.stage for state in manifest.states}
    names: dict[str, set[str]] = {}
    for stage in stages:
        if stage.modality is not None:
            names.setdefault(stage.modality, set()).update(spec.name for spec in stage.inputs)
    for stage in stages:
        if stage.modality is not None and stage.name in with_state:
            names.pop(stage.modality, None)
    return {
        modality.name: tuple(name for name in modality.inputs if name in names[modality.name])
        for modality in manifest.modalities
        if modality.name in names
    }


def _prefix_name(manifest: Manifest, stage: str) -> str:
    """Under which name the first tokens of a loop are in the cache: its stage's, if it is free."""
    modalities = {modality.name for modality in manifest.modalities}
    return stage if stage not in modalities else f"{stage} (loop)"


def _other_inputs(
    manifest: Manifest, inputs: Mapping[str, tuple[str, ...]], token: str
) -> tuple[str, ...]:
    """Network inputs that are no cached encoder's, without the tokens of a loop."""
    encoded = {name for names in inputs.values() for name in names} | {token}
    return tuple(name for name in manifest.inputs() if name not in encoded)
