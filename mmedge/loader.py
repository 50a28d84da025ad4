"""Opens a bundle on this machine and loads what runs it: :func:`mmedge.load`."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING

from mmedge.backends import SessionOptions, check_threads
from mmedge.backends.registry import probe
from mmedge.bundle import Bundle
from mmedge.bundle.choose import choose_plan, tuned_threads
from mmedge.errors import BackendError, BundleError, MMEdgeError
from mmedge.execution.loaded_plan import CACHE_BYTES
from mmedge.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mmedge.backends.placement import Placement, Priority
    from mmedge.bundle.signature import PublicKey
    from mmedge.spec import PlanName, RuntimeName

__all__ = ["load"]


def load(
    bundle: str | Path | Bundle,
    variant: str | None = None,
    *,
    plan: PlanName | None = None,
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
    large_pages: bool | None = None,
    cores: Sequence[int] | None = None,
    priority: Priority | None = None,
    memory_limit_bytes: int | None = None,
    isolate: bool = False,
    runtime: RuntimeName = "python",
    trusted_keys: Sequence[PublicKey] | None = None,
    lowest_version: int | None = None,
) -> Pipeline:
    """Open a bundle, choose a variant for this machine, load it, and check that it works here.

    Some variants could not be proven at export on this kind of machine: engines, and variants of
    lower precision. They replay the bundle's golden samples, and are refused outside their
    tolerance. The bundle's own graphs on the CPU are not replayed;
    :func:`mmedge.execution.verify.verify` does that.

    Args:
        bundle: its directory, its ``.mmedge`` file, or an open bundle. An open one is not read and
            checked again, and the caller closes it after the pipeline.
        variant: id of the variant, as ``mmedge inspect`` lists them. None: the best that runs here
            and fits ``backend``, ``precision`` and ``device``.
        plan: ``"whole"`` runs the network as one graph, the fastest for inputs that never come
            again. ``"cut"`` runs it by modality: streams need it, and encoders of inputs that come
            again do not run. None: what :func:`mmedge.bench.tune.tune` measured on this device, or
            in place on a machine of as many cores; else ``whole``. One plan is loaded.
        backend: ``"ort"``, ``"openvino"``, ``"tensorrt"``, ``"tensorrt_rtx"`` (or
            ``"tensorrt-rtx"``), or ``"auto"`` for the best that runs here (see
            :meth:`mmedge.Bundle.select`).
        precision: use variants of this precision only, such as ``"fp32"``.
        device: use only variants for ``"cpu"``, ``"cuda"`` or an architecture such as ``"sm_87"``.
            None: whatever this machine offers.
        threads: most intra-op threads of each stage on the CPU. Of several stages, one with little
            work uses fewer. None: the number that :func:`mmedge.bench.tune.tune` measured on this
            device, or in place on a machine of as many cores; else the backend's default.
        cache_bytes: most bytes of encoder outputs in the feature cache. They are used again when
            the content of a modality comes again (see :mod:`mmedge.execution.feature_cache`). 0: no
            cache.
        concurrent: whether encoders of one call run at the same time, in threads. None: whichever
            is faster in the first calls (see :mod:`mmedge.execution.scheduler`).
        kernels: whether attention over segments runs in mmedge's kernel, if there is one, or in the
            standard operators of the graph. None: in the kernel if that was measured to be no
            slower on this kind of processor (:mod:`mmedge.native.dispatch`).
        spin: whether ONNX Runtime's idle threads stay awake between calls. The next call then
            starts sooner, and other work on the cores gets less of them. None: only if the network
            is one stage.
        allow_unverified: use a variant without replaying golden samples.
        allow_non_finite: pass NaN and infinity on to the network. Without it, a call refuses them
            in an input in which no golden sample has them. Arrays on a GPU are not checked. A
            stream has its own rules: :class:`mmedge.stream.sanity.Sanity`.
        run_timeout_s: most seconds of one run of one stage in ONNX Runtime. A longer run raises
            BackendError, also an endless loop. The time is checked between two operators: a single
            operator is not interrupted. None: no limit.
        large_pages: whether large pages are asked for the memory that loading takes on a CPU
            (:mod:`mmedge.backends.large_pages`). Calls then take less time, and loading more. None:
            where the variant has 64 MiB or more.
        cores: on which cores the pipeline's threads run, by number: those of ONNX Runtime, of
            encoders that run at once, and of streams. ``threads`` is at most their number, and that
            number by default. A call works in the caller's thread, which stays where it is, unless
            it asks with :meth:`mmedge.Pipeline.place_thread`. None: any.
        priority: of the same threads: a niceness from -20 to 19, or ``"fifo:N"``, real time
            (SCHED_FIFO) of priority N. Idle threads then sleep. None: that of whoever starts them.
        memory_limit_bytes: most private memory that loading and one call of a golden sample may
            take; a bundle that took more is closed again and refused with what it took. It is
            measured (:mod:`mmedge.memory_limit`): what other threads of the process take
            meanwhile counts too, and later calls are not held to it. None: no limit.
        isolate: load the bundle with these options in a child process first, and run its golden
            samples there, within :data:`mmedge.execution.isolation.SECONDS` and ``MEMORY_BYTES``.
            Use it for a bundle whose maker you do not trust: if a library crashes, or needs too
            much, the child ends. Inputs of other values are not tried.
        runtime: ``"python"``, or ``"native"``: libmmedge, the runtime in C++, does all the work
            (:mod:`mmedge.native_pipeline`). Answers are the same. What libmmedge does not do is
            refused by name.
        trusted_keys: Ed25519 public keys, each a PEM file or a PEM text. One of them has to have
            signed the bundle, which is checked before its manifest is parsed. None: no signature is
            verified. An open bundle was given its keys by :meth:`mmedge.Bundle.open`.
        lowest_version: lowest version of a signed release that is taken; None: 0.

    Raises:
        ValueError: ``cache_bytes`` is negative, ``threads`` is not a whole number from 1,
            ``run_timeout_s`` is not above 0, there is no such ``runtime``, ``trusted_keys`` is
            empty or given with an open bundle, ``lowest_version`` comes without keys, or ``cores``
            or ``priority`` cannot be.
        BundleError: the bundle cannot be trusted or read.
        SignatureError: it is not signed as asked, or a key cannot be read.
        InputError: this machine does not offer ``device``, the bundle has no such variant, or the
            variant no such plan.
        NoVariantError: no variant can run here with these arguments.
        BackendError: the chosen variant failed to load, or would run elsewhere than it says; or
            this process lacks the right to what ``cores`` or ``priority`` ask for, or it took
            more memory than ``memory_limit_bytes``.
        AccuracyError: the variant does not compute here what it should; the message names the first
            stage.
    """
    arguments = {name: value for name, value in locals().items() if name != "bundle"}
    if cache_bytes < 0:
        raise ValueError(f"cache_bytes must be >= 0, got {cache_bytes}")
    check_threads(threads)
    if memory_limit_bytes is not None and not memory_limit_bytes > 0:
        raise ValueError(f"memory_limit_bytes must be above 0, got {memory_limit_bytes}")
    placement = _read_placement(cores, priority, threads, spin=spin)
    if run_timeout_s is not None and not 0 < run_timeout_s < inf:
        raise ValueError(f"run_timeout_s must be seconds above 0, or None; got {run_timeout_s!r}")
    if isinstance(bundle, Bundle) and (trusted_keys is not None or lowest_version is not None):
        raise ValueError(
            "the bundle is open already: give trusted_keys and lowest_version to Bundle.open"
        )
    if runtime == "native":
        # Programs that run in Python need none of it.
        from mmedge.native_pipeline import load_native

        return load_native(
            bundle, variant, plan=plan, backend=backend, precision=precision, device=device,
            threads=threads, cache_bytes=cache_bytes, concurrent=concurrent, kernels=kernels,
            spin=spin, allow_unverified=allow_unverified, allow_non_finite=allow_non_finite,
            run_timeout_s=run_timeout_s, large_pages=large_pages, isolate=isolate,
            cores=cores, priority=priority, memory_limit_bytes=memory_limit_bytes,
            trusted_keys=trusted_keys, lowest_version=lowest_version,
        )  # fmt: skip
    if runtime != "python":
        raise ValueError(f"runtime must be 'python' or 'native', got {runtime!r}")
    caller_bundle = bundle if isinstance(bundle, Bundle) else None
    path = bundle.path if isinstance(bundle, Bundle) else bundle
    isolated = None
    if isolate:
        from mmedge.execution.isolation import load_in_child  # only some loads need it

        isolated = load_in_child({
            "bundle": str(path), "variant": variant, "plan": plan, "backend": backend,
            "precision": precision, "device": device,
            "threads": threads, "concurrent": concurrent, "kernels": kernels, "spin": spin,
            "allow_unverified": allow_unverified, "allow_non_finite": allow_non_finite,
            "run_timeout_s": run_timeout_s, "large_pages": large_pages,
            "cores": cores if cores is None else list(cores), "priority": priority,
            **_keys_of(caller_bundle, trusted_keys, lowest_version),
        })  # fmt: skip
    open_bundle = caller_bundle or Bundle.open(
        path, trusted_keys=trusted_keys, lowest_version=lowest_version
    )
    try:
        if isolated is not None and isolated != open_bundle.digest:
            raise BundleError(f"{path}: changed since a child process loaded it; load it again")
        here = probe()
        chosen_variant, decisions = open_bundle.select(
            here,
            variant=variant,
            backend=backend.replace("-", "_"),
            precision=precision,
            target=device,
        )
        if placement is not None and chosen_variant.backend != "ort":
            raise BackendError(
                f"variant {chosen_variant.id}: cores and priority are kept in ONNX Runtime alone; "
                "load with backend='ort', or start the process with taskset, nice or chrt"
            )
        threads = threads or tuned_threads(chosen_variant, here)
        if placement is not None and placement.cores:
            threads = min(threads or len(placement.cores), len(placement.cores))
        before = None
        if memory_limit_bytes is not None:
            from mmedge.memory_limit import check_memory, used_bytes

            before = used_bytes()
        name, why = choose_plan(open_bundle.manifest, chosen_variant, here, plan=plan)
        pipe = Pipeline(
            open_bundle,
            chosen_variant,
            decisions,
            plan=name,
            why_plan=why,
            options=SessionOptions(
                threads=threads,
                kernels=kernels,
                spin=False if placement is not None and placement.fifo is not None else spin,
                run_timeout_s=run_timeout_s,
                large_pages=large_pages,
                placement=placement,
            ),
            cache_bytes=cache_bytes,
            concurrent=concurrent,
            allow_non_finite=allow_non_finite,
            allow_unverified=allow_unverified,
            owns_bundle=caller_bundle is None,
        )
        if memory_limit_bytes is not None and before is not None:
            try:
                check_memory(pipe, before, memory_limit_bytes)
            except MMEdgeError:
                pipe.close()
                raise
    except MMEdgeError:
        if caller_bundle is None:
            open_bundle.close()
        raise
    pipe.reload = partial(load, **arguments)
    return pipe


def _read_placement(
    cores: Sequence[int] | None,
    priority: Priority | None,
    threads: int | None,
    *,
    spin: bool | None,
) -> Placement | None:
    """What ``cores`` and ``priority`` ask for, held against ``threads`` and ``spin``."""
    if cores is None and priority is None:
        return None
    from mmedge.backends.placement import read_placement  # only some loads need it

    placement = read_placement(cores, priority)
    if placement.cores and threads is not None and threads > len(placement.cores):
        raise ValueError(f"threads: {threads} are more than {placement}; give as many cores")
    if placement.fifo is not None and spin:
        raise ValueError("spin: idle threads in real time would keep all others off the cores")
    return placement


def _keys_of(
    bundle: Bundle | None, trusted_keys: Sequence[PublicKey] | None, lowest_version: int | None
) -> dict[str, list[str] | int]:
    """For a child process: the keys of a call, or those that an open bundle was opened with."""
    if bundle is not None:
        trusted = bundle.trusted
    elif trusted_keys is None and lowest_version is None:
        return {}
    else:
        from mmedge.bundle.signature import TrustedKeys

        trusted = TrustedKeys.of(trusted_keys, lowest_version)
    if trusted is None:
        return {}
    return {"trusted_keys": trusted.pems(), "lowest_version": trusted.lowest_version}
