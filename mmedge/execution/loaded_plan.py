"""The stages of one plan of a bundle, loaded: what a pipeline calls.

Of several stages, the encoders of a modality whose content has been seen lately are not run again
(see :mod:`mmedge.execution.feature_cache`), and those that must run may run at once (see
:mod:`mmedge.execution.scheduler`). Neither changes a bit of any output.
"""

from __future__ import annotations

from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from mmedge.backends.registry import open_stage
from mmedge.errors import MMEdgeError
from mmedge.execution.plan import StagePlan
from mmedge.execution.scheduler import Scheduler
from mmedge.forks import keep_for_ever

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mmedge.backends import Session, SessionOptions
    from mmedge.bundle import Bundle
    from mmedge.execution.feature_cache import CacheInfo, FeatureCache, Key
    from mmedge.execution.plan import Run
    from mmedge.spec import Array, Modality, PlanName, Stage, Variant

__all__ = ["CACHE_BYTES", "Laps", "LoadedPlan"]

#: Default limit of what all cached features together may hold, in bytes: 64 MiB.
CACHE_BYTES = 64 * 2**20


class Laps:
    """Splits a call into parts without gaps: each ends now and began where the last one ended.

    In nanoseconds, by part in ``parts``. Of no use where parts run at once.
    """

    __slots__ = ("_last", "parts")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._last = perf_counter_ns()
        self.parts = dict.fromkeys(names, 0)

    def end(self, name: str) -> None:
        """The part ``name`` ends."""
        now = perf_counter_ns()
        self.parts[name] += now - self._last
        self._last = now

    def after(self, stage: Stage, *_tensors: object) -> None:
        """The part of a stage ends."""
        self.end(stage.name)


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
        manifest = bundle.manifest
        stages = manifest.in_order(name)
        self.name = name
        self._outputs = manifest.outputs
        # A single stage is the whole network, and not an encoder in front of anything.
        several = len(stages) > 1
        inputs = _encoder_inputs(manifest.modalities, stages) if several else {}
        self._cache: FeatureCache | None = None
        if inputs and cache_bytes:
            from mmedge.execution.feature_cache import FeatureCache  # `whole` has no use for it

            self._cache = FeatureCache(inputs, limit=cache_bytes)
        self.scheduler = Scheduler(most=len(inputs), concurrent=concurrent)
        # Of the network's outputs those that encoders make: the cache may hold the same arrays.
        features = {spec.name for stage in stages if stage.modality for spec in stage.outputs}
        self._shared = features.intersection(manifest.outputs)
        self.sessions: dict[str, Session] = {}
        try:
            for stage in stages:
                self.sessions[stage.name] = open_stage(bundle, stage, variant, options=options)
            # Backends opened files by their paths: were they those that were checked?
            bundle.check_unchanged()
            # A process that is killed cleans nothing up: what was unpacked goes as soon as it can.
            bundle.release()
        except MMEdgeError:
            self.close()
            raise
        runs = {stage: _runner(session) for stage, session in self.sessions.items()}
        self._plan = StagePlan(stages, runs, self._outputs)
        self._encoders = self._plan.encoders if several else {}
        self._others = self._plan.fusion if several else self._plan.stages
        self.parts = ("inputs", *runs, "outputs")
        only = None if several else next(iter(self.sessions.values()))
        has_all_outputs = (
            only is not None and tuple(spec.name for spec in only.outputs) == self._outputs
        )
        self.direct = only.run if only is not None and has_all_outputs else None

    def answer(
        self,
        values: dict[str, Any],
        laps: Laps,
        *,
        cached: bool,
        run_encoders: Callable[[Mapping[str, Callable[[], dict[str, Array]]]], Any],
    ) -> dict[str, Array]:
        """The network's outputs.

        Args:
            values: every input by name, checked; emptied.
            laps: of this call; the part ``inputs`` is under way.
            cached: whether features may come from the cache, and are put there.
            run_encoders: runs tasks by modality and returns their results.
        """
        cache = self._cache if cached else None
        features, keys = self._recall(values, cache)
        tasks = {
            modality: partial(self._encode, modality, values, key, laps)
            for modality, key in keys.items()
        }
        laps.end("inputs")
        features.extend(run_encoders(tasks).values())
        while features:
            values.update(features.pop())
        self._plan.advance(values, self._others, laps.after)
        outputs = {name: values[name] for name in self._outputs}
        if cache is not None:
            outputs.update({name: outputs[name].copy() for name in self._shared})
        # Freed before the clock is read, so that it is not left unexplained; nothing else holds
        # them but the cache.
        values.clear()
        laps.end("outputs")
        return outputs

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """What the stage of that name gives for what it takes of ``feeds``."""
        return self._plan.run_stage(stage, feeds)

    def cache_info(self) -> dict[str, CacheInfo]:
        """Counters of the feature cache by modality; empty where there is none."""
        return self._cache.info() if self._cache is not None else {}

    def _recall(
        self, values: dict[str, Any], cache: FeatureCache | None
    ) -> tuple[list[Mapping[str, Array]], dict[str, Key | None]]:
        """Features that are held, and a key (None: not to be held) of each other modality.

        The inputs of the others are replaced by copies in ``values``.
        """
        if cache is None:
            return [], dict.fromkeys(self._encoders)
        features: list[Mapping[str, Array]] = []
        keys: dict[str, Key | None] = {}
        for modality in self._encoders:
            recalled, key = cache.recall(modality, values)
            if recalled is None:
                keys[modality] = key
            else:
                features.append(recalled)
        return features, keys

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

    def disown(self) -> None:
        """See :class:`mmedge.forks.Inherited`: the sessions' threads are the parent's."""
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


def _runner(session: Session) -> Run:
    def run(feeds: Mapping[str, Any]) -> dict[str, Array]:
        # Looked up at each call, so that a tracer may exchange it in between.
        return session.run(feeds)

    return run


def _encoder_inputs(
    modalities: tuple[Modality, ...], stages: tuple[Stage, ...]
) -> dict[str, tuple[str, ...]]:
    """Network inputs that the encoders of each modality take; other inputs go to fusion alone."""
    names: dict[str, set[str]] = {}
    for stage in stages:
        if stage.modality is not None:
            names.setdefault(stage.modality, set()).update(spec.name for spec in stage.inputs)
    return {
        modality.name: tuple(name for name in modality.inputs if name in names[modality.name])
        for modality in modalities
        if modality.name in names
    }
