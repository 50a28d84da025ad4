"""One-shot runs of a bundle: named inputs in, named outputs out.

Of a bundle with several stages, the encoders of a modality whose content has been seen lately are
not run again (see :mod:`mmedge.execution.feature_cache`), and those that must run may run at once
(see :mod:`mmedge.execution.scheduler`). Neither changes a bit of any output.

It is long, since it is one class whose methods are documented for users.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import inf
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Self

from mmedge.backends import Session, SessionOptions
from mmedge.backends.registry import open_stage, probe
from mmedge.bundle import Bundle
from mmedge.errors import BackendError, BundleError, InputError, MMEdgeError
from mmedge.execution.feature_cache import CACHE_BYTES, FeatureCache
from mmedge.execution.finite import FiniteInputs
from mmedge.execution.inputs import Feeds
from mmedge.execution.plan import StagePlan
from mmedge.execution.scheduler import Scheduler, serially
from mmedge.execution.verify import verify
from mmedge.forks import ADVICE, keep_for_ever, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from mmedge.backends import Attention
    from mmedge.execution.feature_cache import CacheInfo, Key
    from mmedge.execution.plan import Run
    from mmedge.execution.scheduler import Schedule
    from mmedge.spec import Array, Decision, Device, Manifest, Stage, Variant
    from mmedge.stream import Stream
    from mmedge.stream.policies import Policy
    from mmedge.stream.sanity import Sanity

__all__ = ["Pipeline", "check_threads", "load"]


class _Laps:
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


def _runner(session: Session) -> Run:
    def run(feeds: Mapping[str, Any]) -> dict[str, Array]:
        # Looked up at each call, so that a tracer may exchange it in between.
        return session.run(feeds)

    return run


class Pipeline:
    """A bundle's stages, loaded on one device. Made by :func:`load`; safe to call from threads.

    Attributes:
        bundle: the bundle it came from; closed with the pipeline unless the caller opened it.
        variant: the variant that runs.
        decisions: for every variant of the bundle, whether it was taken and why.
        threads: most intra-op threads of each stage on the CPU; None: the backend's default.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: Variant,
        decisions: tuple[Decision, ...],
        *,
        options: SessionOptions,
        cache_bytes: int = CACHE_BYTES,
        concurrent: bool | None = None,
        allow_non_finite: bool = False,
        owns_bundle: bool = True,
    ) -> None:
        self.bundle = bundle
        self._owns_bundle = owns_bundle
        self.variant = variant
        self.decisions = decisions
        self.threads = options.threads
        manifest = bundle.manifest
        self._feeds = Feeds(bundle, on_gpu=variant.target != "cpu")
        finite = FiniteInputs(bundle)
        self._finite = None if allow_non_finite or not finite.names else finite
        self._outputs = manifest.outputs
        self._sessions: dict[str, Session] = {}
        self._whole: Callable[[Mapping[str, Any]], dict[str, Array]] | None = None
        self._disowned = False
        watch(self)
        # A single stage is the whole network, and not an encoder in front of anything.
        several = len(manifest.stages) > 1
        taken = _encoder_inputs(manifest) if several else {}
        self._cache = FeatureCache(taken, limit=cache_bytes) if taken and cache_bytes else None
        self._scheduler = Scheduler(most=len(taken), concurrent=concurrent)
        # Of the network's outputs those that encoders make: the cache may hold the same arrays.
        features = {s.name for stage in manifest.stages if stage.modality for s in stage.outputs}
        self._shared = features.intersection(manifest.outputs)
        try:
            for stage in manifest.in_order():
                self._sessions[stage.name] = open_stage(bundle, stage, variant, options=options)
            # Backends opened files by their paths: were they those that were checked?
            bundle.check_unchanged()
            # A process that is killed cleans nothing up: what was unpacked goes as soon as it can.
            bundle.release()
        except MMEdgeError:
            self.close()
            raise
        runs = {name: _runner(session) for name, session in self._sessions.items()}
        self._plan = StagePlan(manifest.in_order(), runs, self._outputs)
        self._encoders = self._plan.encoders if several else {}
        self._others = self._plan.fusion if several else self._plan.stages
        self._parts = ("inputs", *runs, "outputs")
        # One stage that yields just the network's outputs needs nothing around its session.
        only = None if several else next(iter(self._sessions.values()))
        direct = only is not None and tuple(spec.name for spec in only.outputs) == self._outputs
        self._whole = only.run if only is not None and direct else None

    @property
    def schedule(self) -> Schedule:
        """Whether encoders that must run in the same call run at once, and what decided it."""
        return self._scheduler.schedule

    @property
    def attention(self) -> dict[str, Attention]:
        """What runs attention over segments, by stage; stages without any are not in it."""
        found = {name: session.attention for name, session in self._sessions.items()}
        return {name: attention for name, attention in found.items() if attention is not None}

    def cache_info(self) -> dict[str, CacheInfo]:
        """Counters of the feature cache by modality; empty where there is none.

        Modalities without an encoder of their own are not in it, and a bundle of one stage has
        none.
        """
        return self._cache.info() if self._cache is not None else {}

    def __call__(self, **inputs: Any) -> dict[str, Array]:  # noqa: ANN401
        """Run once; each keyword is an input's name. See :meth:`run`."""
        return self.run(inputs)

    def run(self, inputs: Mapping[str, Any], *, cached: bool = True) -> dict[str, Array]:
        """Run once, without the encoders of modalities whose content has been seen lately.

        Args:
            inputs: array by input name, of the dtype and shape that ``bundle.manifest`` declares;
                NumPy, anything with DLPack on the host, or ``__cuda_array_interface__`` where the
                variant runs on a GPU. A string for a modality with a tokenizer. Optional
                modalities may be left out. No array may be written to until the call returns: this
                call's outputs would be wrong, though no later call's.
            cached: False runs every stage, and neither reads nor fills the feature cache.

        Returns:
            NumPy array by output name, in the manifest's order; the caller's own, to write to.

        Raises:
            InputError: a wrong name, dtype, rank or size; NaN or infinity where no golden sample
                has it (see :func:`load`).
            BackendError: the engine failed, or the pipeline is closed (another thread may close it
                during the call).
        """
        # Read once: another thread may close the pipeline.
        whole = self._whole
        if whole is not None:
            values = self._feeds.prepare(inputs)
            if self._finite is not None:
                self._finite.check(values)
            return whole(values)
        return self._answer(inputs, cached=cached, run_encoders=self._scheduler.run)[0]

    def timed(
        self, inputs: Mapping[str, Any], *, cached: bool = True
    ) -> tuple[dict[str, Array], dict[str, int]]:
        """:meth:`run`, and the nanoseconds that each part of it took.

        The parts are ``inputs`` (checks, tokenising, stand-ins, hashing), every stage by its name,
        0 for one whose outputs came from the cache, and ``outputs`` (collecting them, copying what
        the cache may hold, and freeing the tensors between stages). They follow one another without
        a gap: the few microseconds that lead up to a stage count as its own. It is there to
        attribute time: encoders run one after another, even where :meth:`run` runs them at once, so
        that parts add up.
        """
        return self._answer(inputs, cached=cached, run_encoders=serially)

    def _answer(
        self,
        inputs: Mapping[str, Any],
        *,
        cached: bool,
        run_encoders: Callable[[Mapping[str, Callable[[], dict[str, Array]]]], Any],
    ) -> tuple[dict[str, Array], dict[str, int]]:
        """Outputs and the time of each part."""
        laps = _Laps(self._parts)
        self._check_open()
        cache = self._cache if cached else None
        values = self._feeds.prepare(inputs)
        if self._finite is not None:
            self._finite.check(values)
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
        return outputs, laps.parts

    def stream(
        self,
        *,
        trigger: str | float,
        deadline_ms: float | None = None,
        align: Mapping[str, Policy] | None = None,
        sanity: Mapping[str, Sanity] | None = None,
        clock: Callable[[], float] | None = None,
        **limits: Any,  # noqa: ANN401
    ) -> Stream:
        """Run each encoder when its sensor delivers; see :class:`mmedge.stream.Stream`.

        Several streams may share a pipeline; close them before it. ``limits`` are the stream's
        other arguments: ``depth``, ``keep``, ``future``, ``recover_after``.

        Raises:
            InputError: an unknown modality, a policy that does not fit it, or a number that cannot
                be.
            BackendError: the pipeline is closed.
        """
        # A program that makes single calls does without the stream's modules.
        from mmedge.stream import Stream

        self._check_open()
        return Stream(
            self,
            trigger=trigger,
            deadline_ms=deadline_ms,
            align=align,
            sanity=sanity,
            clock=clock,
            **limits,
        )

    def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
        """Run one stage alone on tensors that fit it, such as golden ones; nothing is checked.

        Raises:
            InputError: the bundle has no such stage.
            BackendError: the engine failed.
        """
        self._check_open()
        if stage not in self._parts[1:-1]:
            known = ", ".join(self._parts[1:-1])
            raise InputError(f"no stage {stage!r}; this bundle has {known}")
        return self._plan.run_stage(stage, feeds)

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
            held, key = cache.recall(modality, values)
            if held is None:
                keys[modality] = key
            else:
                features.append(held)
        return features, keys

    def _encode(
        self, modality: str, values: Mapping[str, Any], key: Key | None, laps: _Laps
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
        for session in self._sessions.values():
            keep_for_ever(session)
        self._disowned = True
        self._sessions = {}
        self._whole = self._cache = None

    def _check_open(self) -> None:
        if not self._sessions:
            if self._disowned:
                raise BackendError(f"{self!r}: {ADVICE}")
            raise BackendError(f"{self!r} is closed; load the bundle again")

    def close(self) -> None:
        """Free the sessions and the bundle. May be called twice.

        A call that is under way in another thread ends with a BackendError, or with its result
        where it had begun its last stage.
        """
        if self._disowned:
            return
        sessions, self._sessions = self._sessions, {}
        self._whole = None
        for session in sessions.values():
            session.close()
        self._scheduler.close()
        if self._cache is not None:
            self._cache.close()
        if self._owns_bundle:
            self.bundle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Pipeline {self.bundle.manifest.name!r} {self.variant.id}>"


def load(
    bundle: str | Path | Bundle,
    variant: str | None = None,
    *,
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    concurrent: bool | None = None,
    kernels: bool | None = None,
    spin: bool | None = None,
    allow_unverified: bool = False,
    allow_non_finite: bool = False,
    run_timeout_s: float | None = None,
    isolate: bool = False,
) -> Pipeline:
    """Open a bundle, choose a variant for this machine, load it, and see that it works here.

    A variant that export could not prove on this kind of machine, an engine or one of lower
    precision, replays the bundle's golden samples and is refused outside its tolerance. The
    bundle's own graphs on the CPU are not replayed (:func:`mmedge.execution.verify.verify` does
    that).

    Args:
        bundle: its directory, its ``.mmedge`` file, or an open one, which is not read and checked
            again: it stays the caller's, to be closed after the pipeline.
        variant: id of the variant to take, as ``mmedge inspect`` lists them. None: the best that
            runs here, of those that the next three allow.
        backend: ``"ort"``, ``"openvino"``, ``"tensorrt"``, ``"tensorrt_rtx"`` (or
            ``"tensorrt-rtx"``), or ``"auto"`` for the best that runs here (see
            :meth:`mmedge.Bundle.select`).
        precision: take variants of this precision only, such as ``"fp32"``.
        device: ``"cpu"``, ``"cuda"`` or an architecture such as ``"sm_87"``: take variants made
            for it only. None: whatever this machine offers.
        threads: most intra-op threads of each stage on the CPU; of several stages, one with
            little work uses fewer. None: the number that :func:`mmedge.bench.tune.tune` found on
            a machine of as many cores as this one, else the backend's default.
        cache_bytes: most bytes of encoder outputs that are held, to be used again when the content
            of a modality comes again (see :mod:`mmedge.execution.feature_cache`). 0 holds none.
        concurrent: whether encoders that must run in the same call run at once, in threads. None:
            whichever is faster, as measured in the first calls (see
            :mod:`mmedge.execution.scheduler`).
        kernels: whether attention over segments runs in mmedge's kernel, where there is one, or in
            the standard operators that graphs carry for it. None: in the kernel where that was
            measured to be no slower on this kind of processor (:mod:`mmedge.native.dispatch`).
        spin: whether ONNX Runtime's idle threads wait for the next call awake, which starts it
            sooner and takes the cores from whatever else runs there. None: only where the network
            is one stage.
        allow_unverified: take a variant as it is, without replaying golden samples.
        allow_non_finite: pass NaN and infinity on to the network. Without it a call refuses them in
            an input in which no golden sample has them; arrays on a GPU are not looked at. (A
            stream has its own rules: :class:`mmedge.stream.sanity.Sanity`.)
        run_timeout_s: most seconds of one run of one stage in ONNX Runtime, which then raises
            BackendError; an endless loop ends so. It is looked at between two operators: a single
            one is not interrupted. None: no limit.
        isolate: load the bundle as asked in a child process first, and run its golden samples
            there, within :data:`mmedge.execution.isolation.SECONDS` and ``MEMORY_BYTES``. For a
            bundle whose maker is not trusted: what crashes a library, or takes too much, ends the
            child. What inputs of other values do is not tried.

    Raises:
        ValueError: ``cache_bytes`` is negative, ``threads`` is not a whole number from 1, or
            ``run_timeout_s`` is not above 0.
        BundleError: the bundle cannot be trusted or read.
        InputError: ``device`` is none that this machine offers, or there is no such variant.
        NoVariantError: none of its variants can run here as asked.
        BackendError: the chosen variant failed to load, or would run elsewhere than it says.
        AccuracyError: it does not compute here what it should; the message names the first stage.
    """
    if cache_bytes < 0:
        raise ValueError(f"cache_bytes must be >= 0, got {cache_bytes}")
    check_threads(threads)
    if run_timeout_s is not None and not 0 < run_timeout_s < inf:
        raise ValueError(f"run_timeout_s must be seconds above 0, or None; got {run_timeout_s!r}")
    opened = bundle if isinstance(bundle, Bundle) else None
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    isolated = None
    if isolate:
        from mmedge.execution.isolation import load_in_child  # only some loads need it

        isolated = load_in_child({
            "bundle": str(path), "variant": variant, "backend": backend,
            "precision": precision, "device": device,
            "threads": threads, "concurrent": concurrent, "kernels": kernels, "spin": spin,
            "allow_unverified": allow_unverified, "allow_non_finite": allow_non_finite,
            "run_timeout_s": run_timeout_s,
        })  # fmt: skip
    held = Bundle.open(path) if opened is None else opened
    try:
        if isolated is not None and isolated != held.digest:
            raise BundleError(f"{path}: changed since a child process loaded it; load it again")
        here = probe()
        chosen, decisions = held.select(
            restrict(here, device),
            variant=variant,
            backend=backend.replace("-", "_"),
            precision=precision,
        )
        pipe = Pipeline(
            held,
            chosen,
            decisions,
            options=SessionOptions(
                threads=threads or _tuned_threads(chosen, here),
                kernels=kernels,
                spin=spin,
                run_timeout_s=run_timeout_s,
            ),
            cache_bytes=cache_bytes,
            concurrent=concurrent,
            allow_non_finite=allow_non_finite,
            owns_bundle=opened is None,
        )
    except MMEdgeError:
        if opened is None:
            held.close()
        raise
    if not allow_unverified and not _proven(held.manifest, chosen):
        try:
            verify(pipe).check()
        except BaseException:
            pipe.close()
            raise
    return pipe


def check_threads(threads: object) -> None:
    """Raise ValueError unless ``threads`` is None or a whole number from 1: 0 is no default."""
    if threads is not None and (type(threads) is not int or threads < 1):
        raise ValueError(f"threads must be a whole number from 1, or None; got {threads!r}")


def _tuned_threads(variant: Variant, device: Device) -> int | None:
    """Threads that were measured to be fastest, where that says something of this machine."""
    if variant.metrics.get("cores") != device.cores:
        return None
    found = int(variant.metrics.get("threads", 0))
    return found if 1 <= found <= device.cores else None


def _proven(manifest: Manifest, variant: Variant) -> bool:
    """Whether export has held this very computation against the network."""
    own = {stage.name: stage.graph for stage in manifest.stages}
    return (variant.backend, variant.target) == ("ort", "cpu") and variant.files == own


def _encoder_inputs(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """Network inputs that the encoders of each modality take; other inputs go to fusion alone."""
    taken: dict[str, set[str]] = {}
    for stage in manifest.stages:
        if stage.modality is not None:
            taken.setdefault(stage.modality, set()).update(spec.name for spec in stage.inputs)
    return {
        modality.name: tuple(name for name in modality.inputs if name in taken[modality.name])
        for modality in manifest.modalities
        if modality.name in taken
    }


def restrict(device: Device, target: str | None) -> Device:
    """``device`` as if it offered ``target`` alone; unchanged for None.

    Raises:
        InputError: this machine does not offer it.
    """
    if target is None:
        return device
    if target not in device.targets:
        why = device.missing.get(target)
        raise InputError(
            f"device {target!r} is not here; this machine offers {', '.join(device.targets)}"
            + (f" ({why})" if why else "")
        )
    return replace(device, targets=(target,))
