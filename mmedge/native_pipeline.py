"""A pipeline whose network libmmedge runs: ``mmedge.load(..., runtime="native")``.

It has the methods of :class:`mmedge.Pipeline`, and libmmedge does all the work: it opens and checks
the bundle, chooses and loads the variant, checks inputs, runs, loops and verifies. Only arrays are
made ready here. What libmmedge does not do raises an :class:`mmedge.InputError` that names it.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Unpack
from weakref import finalize

import numpy as np

from mmedge.backends.large_pages import NOT_ASKED
from mmedge.bundle import Bundle
from mmedge.bundle.load import load as open_checked
from mmedge.errors import BundleError, InputError, MMEdgeError
from mmedge.execution.arrays import contiguous, gpu_interface, host_array
from mmedge.execution.call_options import CallOptions, check_options
from mmedge.execution.laps import Laps
from mmedge.execution.loaded_plan import CACHE_BYTES, pipeline_title
from mmedge.execution.loop_run import LoopRun, Owner
from mmedge.execution.native_calls import NativeRun, NativeState
from mmedge.execution.native_handles import Handles, refuse
from mmedge.execution.native_text import NativeTexts
from mmedge.execution.scheduler import Schedule
from mmedge.execution.verify import Row
from mmedge.forks import watch
from mmedge.native import runtime
from mmedge.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmedge.backends import Attention
    from mmedge.bundle.signature import PublicKey, Signature, TrustedKeys
    from mmedge.execution.feature_cache import CacheInfo
    from mmedge.execution.state import State
    from mmedge.spec import Array, PlanName
    from mmedge.stream import Stream

__all__ = ["NativePipeline", "load_native"]

#: Options of a load that libmmedge has too.
_OPTIONS = (
    "plan", "precision", "device", "threads", "kernels", "spin", "allow_unverified",
    "allow_non_finite",
)  # fmt: skip
#: What others ask for, and their values that ask for nothing.
_REFUSED: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "cache_bytes": ("limit the feature cache by bytes (it holds the call before, or nothing: 0)",
                    (CACHE_BYTES, 0)),
    "concurrent": ("run encoders at the same time (concurrent)", (None, False)),
    "run_timeout_s": ("limit the time of a run (run_timeout_s)", (None,)),
    "large_pages": ("ask for large pages (large_pages)", (None, False)),
    "cores": ("choose cores (cores; a stream's are options of mmedge/stream.h)", (None,)),
    "priority": ("choose a priority (priority; likewise)", (None,)),
    "memory_limit_bytes": ("limit memory (memory_limit_bytes)", (None,)),
    "isolate": ("load in a child process first (isolate)", (False,)),
}  # fmt: skip


class NativePipeline(Pipeline):
    """A bundle that libmmedge has loaded; :func:`mmedge.load` makes it.

    You may call it from several threads: each call takes a handle of its own on the same network.

    Args:
        bundle: open.
        opened: the same, open in libmmedge.
        options: fields of ``mmedge_load_options``.
        owns_bundle: whether it is closed with the pipeline.

    Raises:
        MMEdgeError: as :func:`mmedge.load`.
    """

    def __init__(  # the base class loads what runs in Python
        self,
        bundle: Bundle,
        opened: runtime.NativeBundle,
        options: Mapping[str, Any],
        *,
        owns_bundle: bool,
    ) -> None:
        self.bundle, self._owns_bundle = bundle, owns_bundle
        if opened.digest != bundle.digest:
            raise BundleError(f"{bundle.path}: changed since it was opened; open it again")
        handle = runtime.NativePipeline(opened, **options)
        choice = handle.choice()
        manifest = bundle.manifest
        self.variant = next(v for v in manifest.variants if v.id == choice["variant"])
        self.decisions, self.why_plan = handle.decisions(), choice["why_plan"]
        self.threads = choice["threads"] or None
        self.placement = None
        self._plan: PlanName = choice["plan"]
        self._handles = Handles(handle, pipeline_title(manifest, self.variant))
        self._texts = NativeTexts(self._handles)
        self._disowned = False
        # Who drops a pipeline need not close it, as in Python.
        finalize(self, self._handles.close).atexit = False
        watch(self)

    @property
    def plan(self) -> PlanName:
        """The plan that is loaded: ``whole``, or ``cut`` by modality."""
        return self._plan

    @property
    def schedule(self) -> Schedule:
        """Encoders of a call run one after another."""
        return Schedule(concurrent=False)

    @property
    def attention(self) -> dict[str, Attention]:
        """Refused."""
        refuse("say what runs attention over segments (attention)")

    @property
    def large_pages(self) -> str:
        """As of :class:`mmedge.Pipeline`."""
        return NOT_ASKED

    def cache_info(self) -> dict[str, CacheInfo]:
        """Refused."""
        refuse("count what its feature cache gives (cache_info)")

    def __call__(self, **inputs: Any) -> dict[str, Any]:  # noqa: ANN401
        """As of :class:`mmedge.Pipeline`."""
        manifest = self.bundle.manifest
        options: dict[str, Any] = {}
        if manifest.loops or manifest.states:
            taken = {*manifest.inputs(), *(m.name for m in manifest.modalities)}
            for name in CallOptions.__optional_keys__ - taken:
                if name in inputs:
                    options[name] = inputs.pop(name)
        return self.run(inputs, **options)

    def run(
        self, inputs: Mapping[str, Any], *, cached: bool = True, **options: Unpack[CallOptions]
    ) -> dict[str, Any]:
        """As of :class:`mmedge.Pipeline`; the cache holds the call before."""
        if self.bundle.manifest.loop is not None:
            with self.iterate(inputs, cached=cached, **options) as steps:
                while steps.advance():
                    pass
                return steps.result()
        check_options(self.bundle.manifest, options)
        arrays = self._arrays(inputs)
        state = self._state_of(options)
        with self._handles.use() as handle, nullcontext() if state is None else state.taken():
            if cached:
                return handle.run(arrays, state=None if state is None else state.handle)
            handle.forget()
            try:
                return handle.run(arrays, state=None if state is None else state.handle)
            finally:
                handle.forget()

    def iterate(
        self, inputs: Mapping[str, Any], *, cached: bool = True, **options: Unpack[CallOptions]
    ) -> LoopRun:
        """As of :class:`mmedge.Pipeline`."""
        manifest = self.bundle.manifest
        loop = manifest.loop
        if loop is None:
            name = manifest.name
            raise InputError(f"bundle {name!r} has no loop, so there are no steps; call run()")
        check_options(manifest, options)
        arrays = self._arrays(inputs)
        state = self._state_of(options)
        others = {name: value for name, value in options.items() if name != "state"}
        texts = None if getattr(loop, "tokenizer", None) is None else self._texts
        run = NativeRun(
            self._handles, manifest, arrays, state, cached=cached, options=others, texts=texts
        )
        return LoopRun(run, Owner(self._check_open, Laps(()), state=state))

    def state(self, tensors: Mapping[str, Array] | None = None) -> NativeState:
        """As of :class:`mmedge.Pipeline`, always a new one."""
        if tensors is not None:
            refuse("begin a State with tensors")
        with self._handles.use() as handle:
            return NativeState(handle.state(), self._handles)

    def timed(self, *_inputs: Any, **_options: Any) -> NoReturn:  # noqa: ANN401
        """Refused."""
        refuse("time the parts of a call (timed)")

    def stream(self, **_options: Any) -> Stream:  # noqa: ANN401
        """Refused."""
        refuse("serve Stream in Python; its own streams are those of mmedge/stream.h (stream)")

    def run_stage(self, *_arguments: Any, **_more: Any) -> NoReturn:  # noqa: ANN401
        """Refused."""
        refuse("run one stage alone (run_stage)")

    def start_loop(self, *_tensors: Any, **_options: Any) -> NoReturn:  # noqa: ANN401
        """Refused."""
        refuse("begin a loop on the network's outputs (start_loop)")

    def use_plan(self, plan: PlanName) -> None:
        """Refused, but for the plan that is loaded."""
        self._handles.check_open()
        if plan != self._plan:
            refuse(f"change the plan of what is loaded (use_plan); load it with plan={plan!r}")

    def replay(self) -> tuple[Row, ...]:
        """What golden samples say of each output, for :func:`mmedge.execution.verify.verify`."""
        with self._handles.use() as handle:
            return tuple(
                Row(r.stage, r.output, r.max_abs, r.max_rel, r.limit_used, r.scale, r.where)
                for r in handle.verify()
            )

    def disown(self) -> None:
        """See :class:`mmedge.forks.Inherited`."""
        self._handles.disown()
        self._disowned = True

    def close(self) -> None:
        """As of :class:`mmedge.Pipeline`; a call in another thread ends first."""
        if self._disowned:
            return
        self._handles.close()
        if self._owns_bundle:
            self.bundle.close()

    def _arrays(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """What a caller passes as plain arrays in C order."""
        arrays: dict[str, Array] = {}
        for name, value in inputs.items():
            if isinstance(value, str):
                tokens = self._texts.encode(name, value)
                twice = [key for key in tokens if key in arrays or (key != name and key in inputs)]
                if twice:
                    raise InputError(
                        f"input {twice[0]!r} is given twice: by itself and by the text of {name!r}"
                    )
                arrays.update(tokens)
                continue
            try:
                if type(value) is not np.ndarray and gpu_interface(value) is not None:
                    raise InputError("it lies on a GPU; copy it to the host first")
                arrays[str(name)] = contiguous(host_array(value))
            except InputError as error:
                raise InputError(f"input {name!r}: {error}") from error
        return arrays

    def _check_open(self) -> None:
        # Of this object, so that steps of a loop keep it alive.
        self._handles.check_open()

    def _state_of(self, options: CallOptions) -> NativeState | None:
        state: State | None = options.get("state")
        if state is None:
            return None
        if not isinstance(state, NativeState) or not state.is_of(self._handles):
            raise InputError(
                "this State belongs to another pipeline; make one with state() of the pipeline "
                "that you call"
            )
        return state


def load_native(
    bundle: str | Path | Bundle,
    variant: str | None,
    *,
    backend: str,
    trusted_keys: Sequence[PublicKey] | None = None,
    lowest_version: int | None = None,
    **options: Any,  # noqa: ANN401
) -> NativePipeline:
    """Load a bundle in libmmedge; the arguments are those of :func:`mmedge.load`.

    With keys, libmmedge checks who signed the bundle, before Python parses anything of it. Keys of
    a bundle that is open hold here, too.

    Raises:
        InputError: libmmedge does not do what an option asks for.
        MMEdgeError: as :func:`mmedge.load`.
    """
    for name, (what, values) in _REFUSED.items():
        if options[name] not in values:
            refuse(what)
    given = {name: options[name] for name in _OPTIONS if options[name] is not None}
    for name in ("kernels", "spin", "allow_unverified", "allow_non_finite"):
        if name in given:
            given[name] = int(given[name])
    given |= {"variant": variant, "cache": int(options["cache_bytes"] > 0)}
    if backend != "auto":
        given["backend"] = backend.replace("-", "_")
    if isinstance(bundle, Bundle):
        with _open_native(bundle.path, bundle.trusted) as opened:
            return NativePipeline(bundle, opened, given, owns_bundle=False)
    trusted = None
    if trusted_keys is not None or lowest_version is not None:
        from mmedge.bundle.signature import TrustedKeys

        trusted = TrustedKeys.of(trusted_keys, lowest_version)
    with ExitStack() as stack:
        if trusted is not None:
            opened = stack.enter_context(_open_native(Path(bundle), trusted))
        # What libmmedge has verified, and nothing that took its place meanwhile.
        own = Bundle(
            open_checked(Path(bundle), manifest_digest=None if trusted is None else opened.digest)
        )
        try:
            if trusted is None:
                opened = stack.enter_context(_open_native(own.path, None))
            pipe = NativePipeline(own, opened, given, owns_bundle=True)
        except MMEdgeError:
            own.close()
            raise
        if trusted is not None:
            own.trusted, own.signature = trusted, _signature_of(opened)
        return pipe


def _open_native(path: Path, trusted: TrustedKeys | None) -> runtime.NativeBundle:
    if trusted is None:
        return runtime.NativeBundle(path)
    keys = [pem.encode() for pem in trusted.pems()]
    return runtime.NativeBundle(path, trusted_keys=keys, lowest_version=trusted.lowest_version)


def _signature_of(opened: runtime.NativeBundle) -> Signature | None:
    """What libmmedge says of a bundle that it has verified."""
    from mmedge.bundle.signature import Signature
    from mmedge.schema.release import Release

    release = opened.release()
    if release is None:
        return None
    statement = Release(opened.digest, release.version, release.signed, release.expires)
    return Signature(statement, release.key_ids, release.verified_by)
