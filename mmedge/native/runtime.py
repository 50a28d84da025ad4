"""libmmedge, the runtime in C++, by ctypes: ``cpp_ext/include/mmedge/mmedge.h``.

It is long, since it declares every function of the API, and its three handles refer to each other.
"""

from __future__ import annotations

import ctypes
import json
from copy import copy
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge import sdk
from mmedge.closable import Closable
from mmedge.errors import (
    AccuracyError,
    BackendError,
    BundleError,
    InputError,
    MMEdgeError,
    NoVariantError,
    SignatureError,
)
from mmedge.native.loop_calls import FINISH, NativeStep, loop_options, read_step
from mmedge.native.structures import (
    Choice,
    LoadOptions,
    LoopOptions,
    LoopStepStruct,
    NativeRelease,
    OpenOptions,
    ReleaseStruct,
    Tensor,
    TensorSpecStruct,
    VerifiedOutput,
    VerifiedOutputStruct,
    array_of,
    contiguous,
    tensors_of,
)
from mmedge.spec import Decision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mmedge.spec import Array

__all__ = ["NativeBundle", "NativePipeline", "NativeState", "library"]

NAME = "libmmedge.so.0"


#: Statuses of mmedge/base.h; any other is a BackendError.
ERRORS: Mapping[int, type[MMEdgeError | TimeoutError]] = {
    1: InputError,
    100: BundleError,
    101: NoVariantError,
    102: BackendError,
    103: AccuracyError,
    105: SignatureError,
    200: InputError,
    201: InputError,
    202: InputError,
    203: TimeoutError,
}


@cache
def library(path: Path | None = None) -> Any:  # noqa: ANN401
    """The loaded library; None: that of this installation.

    Raises:
        BackendError: there is none.
    """
    place = sdk.folder() / "lib" / NAME if path is None else path
    try:
        c = ctypes.CDLL(str(place))
    except OSError as error:
        raise BackendError(f"{place} cannot be loaded: {error}") from error
    c.mmedge_last_error.restype = ctypes.c_char_p
    c.mmedge_bundle_digest.restype = ctypes.c_char_p
    pointer, handle = ctypes.POINTER, ctypes.c_void_p
    c.mmedge_bundle_open_with.argtypes = (ctypes.c_char_p, pointer(OpenOptions), pointer(handle))
    c.mmedge_bundle_release.argtypes = (handle, pointer(ReleaseStruct))
    c.mmedge_bundle_signature.argtypes = (
        handle, ctypes.c_int32, pointer(ctypes.c_char_p), pointer(ctypes.c_int32),
    )  # fmt: skip
    c.mmedge_bundle_close.argtypes = (handle,)
    c.mmedge_bundle_close.restype = None
    c.mmedge_bundle_digest.argtypes = (handle,)
    c.mmedge_pipeline_load.argtypes = (handle, pointer(LoadOptions), pointer(handle))
    c.mmedge_pipeline_clone.argtypes = (handle, pointer(handle))
    c.mmedge_pipeline_close.argtypes = (handle,)
    c.mmedge_pipeline_close.restype = None
    c.mmedge_pipeline_choice.argtypes = (handle, pointer(Choice))
    c.mmedge_pipeline_decision.argtypes = (
        handle, ctypes.c_int32, pointer(ctypes.c_char_p), pointer(ctypes.c_int32),
        pointer(ctypes.c_char_p),
    )  # fmt: skip
    for kind in ("input", "output"):
        getattr(c, f"mmedge_pipeline_{kind}_count").argtypes = (handle,)
        getattr(c, f"mmedge_pipeline_{kind}").argtypes = (
            handle, ctypes.c_int32, pointer(TensorSpecStruct),
        )  # fmt: skip
    c.mmedge_pipeline_warm_up.argtypes = (handle, pointer(Tensor), ctypes.c_int32)
    c.mmedge_pipeline_run.argtypes = (
        handle, pointer(Tensor), ctypes.c_int32, pointer(Tensor), ctypes.c_int32,
    )  # fmt: skip
    c.mmedge_pipeline_forget.argtypes = (handle,)
    c.mmedge_pipeline_forget.restype = None
    c.mmedge_pipeline_run_state.argtypes = (*c.mmedge_pipeline_run.argtypes, handle)
    c.mmedge_state_create.argtypes = (handle, pointer(handle))
    c.mmedge_state_copy.argtypes = (handle, pointer(handle))
    c.mmedge_state_reserve.argtypes = (handle, handle)
    c.mmedge_state_position.argtypes = (handle,)
    c.mmedge_state_position.restype = ctypes.c_int64
    for name in ("close", "reset"):
        getattr(c, f"mmedge_state_{name}").argtypes = (handle,)
        getattr(c, f"mmedge_state_{name}").restype = None
    c.mmedge_loop_reserve.argtypes = (handle, ctypes.c_int64, ctypes.c_int64)
    c.mmedge_loop_begin.argtypes = (
        handle, pointer(Tensor), ctypes.c_int32, pointer(LoopOptions), handle,
    )  # fmt: skip
    c.mmedge_loop_step.argtypes = (handle, pointer(LoopStepStruct))
    c.mmedge_loop_cancel.argtypes = (handle,)
    c.mmedge_loop_cancel.restype = None
    c.mmedge_loop_result.argtypes = (
        handle, pointer(ctypes.c_int32), ctypes.c_int32, pointer(Tensor), ctypes.c_int32,
    )  # fmt: skip
    c.mmedge_pipeline_verify.argtypes = (
        handle, pointer(ctypes.c_int32), pointer(ctypes.c_int32),
    )  # fmt: skip
    c.mmedge_pipeline_verified_output.argtypes = (
        handle, ctypes.c_int32, pointer(VerifiedOutputStruct),
    )  # fmt: skip
    c.mmedge_bundle_verify.argtypes = (handle,)
    c.mmedge_bundle_manifest.argtypes = (handle, pointer(ctypes.c_size_t))
    c.mmedge_bundle_manifest.restype = ctypes.c_void_p
    return c


def check(c: Any, status: int) -> None:  # noqa: ANN401
    """Raise what a status stands for, with the library's words."""
    if status:
        raise ERRORS.get(status, BackendError)(c.mmedge_last_error().decode(errors="replace"))


class NativeBundle(Closable):
    """A bundle, opened and checked by libmmedge.

    Args:
        path: of the bundle.
        trusted_keys: PEM texts of public keys, of which one has to have signed it; none: no
            signature is verified.
        lowest_version: a release of a lower one is refused.
        now: seconds since 1970 in UTC, of a source of time that is trusted; None: the system's
            clock.
        signature_library: path of libsodium or libcrypto; None: as ``mmedge/mmedge.h`` says.

    Raises:
        BundleError: it breaks a rule.
        SignatureError: its signature is not as asked, or cannot be checked.
        InputError: a lowest version without keys.
        BackendError: this installation has no libmmedge.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        trusted_keys: Sequence[bytes] = (),
        lowest_version: int = 0,
        now: int | None = None,
        signature_library: str | Path | None = None,
    ) -> None:
        if any(0 in key for key in trusted_keys):
            # C would take it for the end of a text.
            raise SignatureError("a trusted key: expected PEM, got a text with a null character")
        self._c = library()
        self.handle = ctypes.c_void_p()
        options = OpenOptions(
            ctypes.sizeof(OpenOptions),
            (ctypes.c_char_p * len(trusted_keys))(*trusted_keys) if trusted_keys else None,
            len(trusted_keys),
            lowest_version,
            -1 if now is None else now,
            None if signature_library is None else str(signature_library).encode(),
        )
        check(
            self._c,
            self._c.mmedge_bundle_open_with(str(path).encode(), options, ctypes.byref(self.handle)),
        )

    def release(self) -> NativeRelease | None:
        """What it was signed as; None: it has no signature."""
        release = ReleaseStruct(ctypes.sizeof(ReleaseStruct))
        check(self._c, self._c.mmedge_bundle_release(self.handle, release))
        if release.verified == 0:
            return None
        key_ids: dict[str, bool] = {}
        for index in range(release.signatures):
            key_id, verified = ctypes.c_char_p(), ctypes.c_int32()
            check(self._c, self._c.mmedge_bundle_signature(self.handle, index, key_id, verified))
            key_ids[(key_id.value or b"").decode()] = bool(verified.value)
        expires = None if release.expires < 0 else release.expires
        verified_by = tuple(name for name, verified in key_ids.items() if verified)
        return NativeRelease(
            release.version, release.signed_at, expires, tuple(key_ids), verified_by
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest in lower-case hex."""
        text: bytes = self._c.mmedge_bundle_digest(self.handle)
        return text.decode()

    def manifest(self) -> Any:  # noqa: ANN401
        """The manifest as it is written: plain values of JSON."""
        size = ctypes.c_size_t()
        text = self._c.mmedge_bundle_manifest(self.handle, size)
        return json.loads(ctypes.string_at(text, size.value))

    def verify(self) -> None:
        """Read and check what opening leaves for later: samples and labels.

        Raises:
            BundleError: something is not as the manifest declares.
        """
        check(self._c, self._c.mmedge_bundle_verify(self.handle))

    def close(self) -> None:
        """Free it. Pipelines go on. May be called twice."""
        handle, self.handle = self.handle, ctypes.c_void_p()
        self._c.mmedge_bundle_close(handle)


class NativePipeline(Closable):
    """A bundle's network, loaded by libmmedge; for one thread at a time.

    Args:
        bundle: open.
        options: fields of ``mmedge_load_options`` by name; a text for a path or a name, and for
            ``kernels`` and ``spin`` also None. ``onnxruntime`` and ``openvino`` are by default the
            libraries of the installed packages.

    Raises:
        MMEdgeError: as :func:`mmedge.load`.
    """

    def __init__(self, bundle: NativeBundle, **options: Any) -> None:  # noqa: ANN401
        self._c = c = library()
        self.handle = ctypes.c_void_p()
        options.setdefault("onnxruntime", installed_onnxruntime())
        options.setdefault("openvino", installed_openvino())
        fields: dict[str, Any] = {"kernels": -1, "spin": -1, "cache": 1}
        for name, value in options.items():
            if value is not None:
                fields[name] = str(value).encode() if isinstance(value, (str, bytes)) else value
        given = LoadOptions(ctypes.sizeof(LoadOptions), **fields)
        check(c, c.mmedge_pipeline_load(bundle.handle, given, ctypes.byref(self.handle)))
        self.outputs = tuple(
            self._spec("output", index).name
            for index in range(c.mmedge_pipeline_output_count(self.handle))
        )
        self._options: object = None

    def _spec(self, kind: str, index: int) -> TensorSpecStruct:
        spec = TensorSpecStruct(ctypes.sizeof(TensorSpecStruct))
        check(self._c, getattr(self._c, f"mmedge_pipeline_{kind}")(self.handle, index, spec))
        return spec

    def choice(self) -> dict[str, Any]:
        """What was loaded, and why: fields of ``mmedge_choice``."""
        choice = Choice(ctypes.sizeof(Choice))
        check(self._c, self._c.mmedge_pipeline_choice(self.handle, choice))
        return {
            name: value.decode() if isinstance(value := getattr(choice, name), bytes) else value
            for name, *_ in Choice._fields_[1:]
        }

    def decisions(self) -> tuple[Decision, ...]:
        """For every variant of the bundle, whether it was chosen and why."""
        decisions = []
        for index in range(self.choice()["decisions"]):
            variant, accepted, reason = ctypes.c_char_p(), ctypes.c_int32(), ctypes.c_char_p()
            check(
                self._c,
                self._c.mmedge_pipeline_decision(self.handle, index, variant, accepted, reason),
            )
            texts = [(text.value or b"").decode() for text in (variant, reason)]
            decisions.append(Decision(texts[0], accepted=bool(accepted.value), reason=texts[1]))
        return tuple(decisions)

    def warm_up(self, inputs: Mapping[str, Array] | None = None) -> None:
        """Set memory aside for calls of these inputs, or of the example's sizes.

        Raises:
            MMEdgeError: as :meth:`run`.
        """
        tensors = tensors_of(inputs or {})
        check(
            self._c,
            self._c.mmedge_pipeline_warm_up(self.handle, tensors, len(inputs or {})),
        )

    def clone(self) -> NativePipeline:
        """A handle of the same network for another thread; not warm."""
        other = copy(self)
        other.handle = ctypes.c_void_p()
        check(self._c, self._c.mmedge_pipeline_clone(self.handle, ctypes.byref(other.handle)))
        return other

    def forget(self) -> None:
        """Run every stage in the next call."""
        self._c.mmedge_pipeline_forget(self.handle)

    def state(self) -> NativeState:
        """A new state for calls.

        Raises:
            InputError: the bundle keeps none between calls.
        """
        state = NativeState(self._c)
        check(self._c, self._c.mmedge_state_create(self.handle, ctypes.byref(state.handle)))
        return state

    def run(
        self, inputs: Mapping[str, Array], *, state: NativeState | None = None
    ) -> dict[str, Array]:
        """Run once; arrays by output name. ``state`` is taken, and holds the new one afterwards.

        The handle is warmed up for inputs that need more memory than those before.

        Raises:
            InputError: a name, dtype, rank or size that does not fit.
            BackendError: the engine failed.
        """
        arrays = contiguous(inputs)
        tensors = tensors_of(arrays)
        outputs = (Tensor * len(self.outputs))(*(Tensor(name) for name in self.outputs))
        kept = None if state is None else state.handle
        arguments = (self.handle, tensors, len(arrays), outputs, len(outputs), kept)
        status = self._c.mmedge_pipeline_run_state(*arguments)
        if status == NOT_WARM:
            self._warm_up_for(arrays, state)
            status = self._c.mmedge_pipeline_run_state(*arguments)
        check(self._c, status)
        return {output.name.decode(): array_of(output) for output in outputs}

    def _warm_up_for(self, arrays: Mapping[str, Array], state: NativeState | None) -> None:
        self.warm_up(arrays)
        if state is not None:
            check(self._c, self._c.mmedge_state_reserve(state.handle, self.handle))

    def reserve(self, rows: int, tokens: int) -> None:
        """Set memory aside for loops of so many rows that begin with so many tokens each."""
        check(self._c, self._c.mmedge_loop_reserve(self.handle, rows, tokens))

    def begin(
        self,
        inputs: Mapping[str, Array],
        *,
        cached: bool = True,
        state: NativeState | None = None,
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Begin a loop; ``options`` are those of :meth:`mmedge.Pipeline.iterate`.

        Raises:
            InputError: an input, an option or the state does not fit.
            BackendError: the engine failed.
        """
        given, arrays_kept = loop_options(options, cached=cached)
        arrays = contiguous(inputs)
        tensors = tensors_of(arrays)
        kept = None if state is None else state.handle
        arguments = (self.handle, tensors, len(arrays), ctypes.byref(given), kept)
        status = self._c.mmedge_loop_begin(*arguments)
        if status == NOT_WARM:
            self._warm_up_for(arrays, state)
            if given.noise:  # its shape may be larger than that of the example
                self.reserve(1, np.size(options["noise"]))
            status = self._c.mmedge_loop_begin(*arguments)
        check(self._c, status)
        # Arrays that options point to have to stay.
        self._options = (given, arrays_kept)

    def steps(self) -> Iterator[NativeStep]:
        """The steps of the loop that was begun, as they come."""
        while (step := self.step()) is not None:
            yield step

    def step(self) -> NativeStep | None:
        """The next step of the loop that was begun; None: it has ended."""
        step = LoopStepStruct(ctypes.sizeof(LoopStepStruct))
        check(self._c, self._c.mmedge_loop_step(self.handle, step))
        return read_step(step) if step.taken else None

    def cancel(self) -> None:
        """Take no more steps of the loop."""
        self._c.mmedge_loop_cancel(self.handle)

    def result(self, rows: int = 1) -> tuple[dict[str, Array], list[str]]:
        """What the loop gives, and why each of ``rows`` rows ended; it ends with that.

        Raises:
            TimeoutError: the deadline of a loop ``denoise`` passed before it had an estimate.
        """
        outputs = (Tensor * len(self.outputs))(*(Tensor(name) for name in self.outputs))
        finish = (ctypes.c_int32 * rows)()
        check(
            self._c,
            self._c.mmedge_loop_result(self.handle, finish, rows, outputs, len(outputs)),
        )
        arrays = {output.name.decode(): array_of(output) for output in outputs}
        return arrays, [FINISH[word] for word in finish]

    def verify(self) -> tuple[VerifiedOutput, ...]:
        """Replay the golden samples; each output that was compared.

        Raises:
            BackendError: a stage failed.
            BundleError: there are no samples.
        """
        count = ctypes.c_int32()
        status = self._c.mmedge_pipeline_verify(self.handle, None, count)
        if ERRORS.get(status) is not AccuracyError:
            check(self._c, status)
        rows = []
        for index in range(count.value):
            row = VerifiedOutputStruct(ctypes.sizeof(VerifiedOutputStruct))
            check(self._c, self._c.mmedge_pipeline_verified_output(self.handle, index, row))
            names = (row.stage.decode(), row.output.decode())
            numbers = (row.max_abs, row.limit_used, row.max_rel, row.scale)
            rows.append(VerifiedOutput(*names, *numbers, row.where.decode()))
        return tuple(rows)

    def close(self) -> None:
        """Free it. May be called twice."""
        handle, self.handle = self.handle, ctypes.c_void_p()
        self._c.mmedge_pipeline_close(handle)


class NativeState:
    """What stages hand to themselves between calls; :meth:`NativePipeline.state` makes it."""

    def __init__(self, c: Any) -> None:  # noqa: ANN401
        self._c = c
        self.handle = ctypes.c_void_p()

    @property
    def position(self) -> int:
        """Tokens that the stage of a loop has taken; without a loop, calls."""
        position: int = self._c.mmedge_state_position(self.handle)
        return position

    def copy(self) -> NativeState:
        """Another state of the same content."""
        other = NativeState(self._c)
        check(self._c, self._c.mmedge_state_copy(self.handle, ctypes.byref(other.handle)))
        return other

    def reset(self) -> None:
        """Forget everything."""
        self._c.mmedge_state_reset(self.handle)

    def close(self) -> None:
        """Free it. May be called twice."""
        handle, self.handle = self.handle, ctypes.c_void_p()
        self._c.mmedge_state_close(handle)


NOT_WARM = 201


def installed_onnxruntime() -> str | None:
    """The folder of the installed package's library; None where there is none."""
    return _folder_of("onnxruntime", "capi")


def installed_openvino() -> str | None:
    """The same of OpenVINO."""
    return _folder_of("openvino", "libs")


def _folder_of(package: str, below: str) -> str | None:
    from importlib.util import find_spec

    spec = find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    return f"{places[0]}/{below}" if places else None
