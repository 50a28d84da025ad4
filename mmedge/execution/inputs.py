"""From what a caller passes to what the stages take: names, strings, absent modalities, checks.

This runs at every call. A stream of calls differs in its values and seldom in its names, dtypes and
shapes, and only those are checked; so a combination that has passed is remembered, with what stood
in for its absent modalities, and the last one is compared first. Between two runs of a network the
caches hold its weights and not this code, which makes the little work here several times dearer
than a tight loop shows. All checks of a call stand in this one module for that reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from mmedge.constraints import Relations, allows, spans
from mmedge.errors import InputError
from mmedge.execution.arrays import contiguous, gpu_interface, host_array
from mmedge.spec import DTYPES, Array, Dimension, Manifest, Modality, TensorSpec

if TYPE_CHECKING:
    from mmedge.bundle import Bundle
    from mmedge.execution.text import NoTextEncoder, TextEncoder

__all__ = ["PROMPT", "Feeds", "call_inputs"]


#: Name, dtype and shape of each input, one after another (a flat tuple is cheaper to make and
#: compare than a nested one). Dtypes that compare equal are equal in byte order too.
Signature = tuple[Any, ...]

#: The dimension of a caller's tokens; no bundle can have one of that name.
PROMPT = "prompt tokens"

#: Combinations that are remembered.
MAX_PASSED = 256


class Feeds:
    """Checks and completes the inputs of one network.

    Args:
        bundle: gives the manifest, the tokenizers and the stand-in tokens.
        on_gpu: whether arrays that live on a GPU can be used where they are.
    """

    def __init__(self, bundle: Bundle, *, on_gpu: bool = False) -> None:
        manifest = bundle.manifest
        self._specs, dimensions = call_inputs(manifest)
        self._dtypes = {name: DTYPES[spec.dtype] for name, spec in self._specs.items()}
        #: Limits of dynamic sizes.
        self.relations = Relations(dimensions, manifest.constraints)
        self._modalities = manifest.modalities
        self._on_gpu = on_gpu
        # They lie beside the golden samples, which a load has no other need to read.
        stand_ins = any(modality.absent == "token" for modality in manifest.modalities)
        self._tokens = bundle.absent_tokens() if stand_ins else {}
        self._texts = _text_encoders(bundle, self._specs, dimensions)
        self._passed: dict[Signature, dict[str, Array]] = {}
        # Name, dtype and shape of each input of the last call, and what stood in for others.
        self._last: tuple[tuple[tuple[str, Any, Any], ...], dict[str, Array]] = ((), {})
        # By modality, of the last value of one that passed alone: the rows that it was checked
        # with, name, dtype and shape of each input, and its sizes.
        self._alone: dict[str, tuple[Any, tuple[tuple[str, Any, Any], ...], dict[str, int]]] = {}

    def takes(self, name: str) -> bool:
        """Whether a call may give something under this name."""
        return name in self._specs or name in self._texts

    def prepare(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Every input of the network by name, checked.

        ``values`` maps input names to arrays (NumPy, DLPack, or ``__cuda_array_interface__`` where
        a GPU runs the stages). A modality with a tokenizer also takes a string, under its own name
        or its ids input's. An optional modality may be left out.

        Raises:
            InputError: unknown or missing name, or another dtype, rank or size than declared.
        """
        last_inputs, stand_ins = self._last
        if last_inputs and len(values) == len(last_inputs):
            for name, dtype, shape in last_inputs:
                value = values.get(name)
                # The type first: nothing else is known to have the rest. NumPy has one object for
                # each dtype of a native byte order; another that is equal takes the longer way.
                if (
                    type(value) is not ndarray
                    or value.dtype is not dtype
                    or value.shape != shape
                    or not value.flags.c_contiguous
                ):
                    break
            else:
                return {**values, **stand_ins}
        return self._prepare_other(values)

    def _prepare_other(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """:meth:`prepare` for another combination than the last."""
        signature = _signature(values)
        if signature is not None:
            stand_ins = self._passed.get(signature)
            if stand_ins is not None:
                self._last = _split_signature(signature), stand_ins
                return {**values, **stand_ins}
        feeds = self._check(values)
        # A bound, since each may hold stand-ins; past it, a new combination is checked each time.
        if signature is not None and len(self._passed) < MAX_PASSED:
            stand_ins = {name: value for name, value in feeds.items() if name not in values}
            self._passed[signature] = stand_ins
            self._last = _split_signature(signature), stand_ins
        return feeds

    def check_modality(
        self,
        name: str,
        value: Any,  # noqa: ANN401
        rows: Mapping[str, int] | None = None,
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """One modality's value alone, checked: its arrays by input, its dynamic dimensions' sizes.

        ``value`` is an array (for a modality of one input), a mapping from each of its inputs to an
        array, or a string where the modality has a tokenizer. ``rows`` maps inputs to an axis of
        which a chunk may have any number of rows, the same for each input; a chunk lies on the
        host, and the axis has no part in the sizes returned. These are not to be written to.

        Raises:
            InputError: unknown modality, missing or unknown input, another dtype, rank or size.
        """
        before = self._alone.get(name)
        if before is not None and before[0] is rows:
            _, expected, sizes = before
            arrays = {expected[0][0]: value} if type(value) is ndarray else value
            if type(arrays) is dict and _is_alike(arrays, expected):
                return {key: arrays[key] for key, _, _ in expected}, sizes
        modality = next((m for m in self._modalities if m.name == name), None)
        if modality is None:
            names = ", ".join(m.name for m in self._modalities)
            raise InputError(f"unknown modality {name!r}; this bundle has {names}")
        if isinstance(value, str):
            modality_values: dict[str, Any] = dict(self._tokenize(name, value))
        elif isinstance(value, Mapping):
            modality_values = dict(value)
        elif len(modality.inputs) == 1:
            modality_values = {modality.inputs[0]: value}
        else:
            raise InputError(
                f"modality {name!r} has several inputs; pass a mapping with an array for each of "
                f"{', '.join(modality.inputs)}"
            )
        if modality_values.keys() != set(modality.inputs):
            raise InputError(
                f"modality {name!r}: expected inputs {', '.join(modality.inputs)}, "
                f"got {', '.join(map(str, modality_values)) or 'none'}"
            )
        values = {key: self._array(key, modality_values[key]) for key in modality.inputs}
        if rows is None:
            sizes = self._sizes(values)
        else:
            sizes = self._sizes(self._one_row(values, rows), rows)
        values = _contiguous(values)
        signature = _signature(values)
        if signature is not None:
            self._alone[name] = rows, _split_signature(signature), sizes
        return values, sizes

    def _one_row(self, values: Mapping[str, Any], rows: Mapping[str, int]) -> dict[str, Array]:
        """The first row of each chunk; all have the same number, at least one."""
        first_rows: dict[str, Array] = {}
        counts: dict[str, int] = {}
        for name, value in values.items():
            axis = rows[name]
            if type(value) is not np.ndarray:
                raise InputError(f"input {name!r}: chunks of a window are put together on the host")
            # A wrong rank is told by the check that follows.
            counts[name] = value.shape[axis] if axis < value.ndim else 1
            if counts[name] < 1:
                raise InputError(f"input {name!r}: a chunk without rows, shape {list(value.shape)}")
            index = (slice(None),) * axis + (slice(0, 1),)
            first_rows[name] = value[index] if axis < value.ndim else value
        if len(set(counts.values())) > 1:
            raise InputError(f"the inputs of a chunk have different numbers of rows: {counts}")
        return first_rows

    def stand_in(self, name: str, sizes: Mapping[str, int]) -> dict[str, Array]:
        """What stands for an absent modality, by input.

        Sizes not given are the smallest, or the smallest that keep the bundle's constraints.

        Raises:
            InputError: ``sizes`` break a constraint, or no size beside them keeps all.
        """
        modality = next(m for m in self._modalities if m.name == name)
        all_sizes = self._complete(sizes)
        return {
            key: self._stand_in(modality, self._specs[key], all_sizes) for key in modality.inputs
        }

    def _check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """:meth:`prepare` for a combination that has not been seen."""
        feeds: dict[str, Any] = {}
        for name, value in values.items():
            if isinstance(value, str):
                tokens = self._tokenize(name, value)
                twice = [key for key in tokens if key in feeds or (key != name and key in values)]
                if twice:
                    raise InputError(
                        f"input {twice[0]!r} is given twice: by itself and by the text of {name!r}"
                    )
                feeds.update(tokens)
            elif name in self._specs:
                feeds[name] = self._array(name, value)
            else:
                raise InputError(
                    f"unknown input {name!r}; this bundle takes {', '.join(self._specs)}"
                )
        sizes = self._sizes(feeds)
        feeds = _contiguous(feeds)
        if len(feeds) < len(self._specs):
            self._fill(feeds, sizes)
        return feeds

    def _array(self, name: str, value: Any) -> Any:  # noqa: ANN401
        """``value`` as an array of the declared dtype; its size is not looked at yet."""
        dtype = self._dtypes[name]
        if type(value) is not np.ndarray:
            value = self._foreign(name, value)
            if not isinstance(value, np.ndarray):
                return value
        if value.dtype != dtype:
            raise InputError(
                f"input {name!r}: expected dtype {dtype}, got {value.dtype}; convert it where it "
                "is made, so that no precision is lost unseen"
            )
        return value

    def _foreign(self, name: str, value: Any) -> Any:  # noqa: ANN401
        """Take an array of another library: over DLPack, or as it is when it lies on a GPU."""
        try:
            interface = gpu_interface(value)
            if interface is None:
                return host_array(value)
        except InputError as error:
            raise InputError(
                f"input {name!r}: expected an array of {self._specs[name]}: {error}"
            ) from error
        if not self._on_gpu:
            raise InputError(
                f"input {name!r} lies on a GPU, but this variant runs on the CPU; copy it to "
                "the host first, or load a variant for the GPU"
            )
        dtype = np.dtype(interface["typestr"])
        if dtype != self._dtypes[name]:
            raise InputError(
                f"input {name!r}: expected dtype {self._dtypes[name]}, got {dtype} (on a GPU)"
            )
        if not _is_contiguous(interface):
            raise InputError(
                f"input {name!r}: a GPU array must be C-contiguous; make a contiguous copy"
            )
        return value

    def _sizes(
        self, feeds: Mapping[str, Any], unchecked: Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Check ranks and sizes; return the size of each dynamic dimension in this call.

        ``unchecked`` maps inputs to an axis whose size is not looked at.
        """
        sizes: dict[str, int] = {}
        for name, value in feeds.items():
            spec = self._specs[name]
            shape = (
                value.shape
                if type(value) is np.ndarray
                else tuple(value.__cuda_array_interface__["shape"])
            )
            if len(shape) != len(spec.shape):
                raise InputError(
                    f"input {name!r}: expected rank {len(spec.shape)} "
                    f"[{', '.join(map(str, spec.shape))}], got rank {len(shape)} {list(shape)}"
                )
            for axis, (size, expected) in enumerate(zip(shape, spec.shape, strict=True)):
                if unchecked is not None and unchecked[name] == axis:
                    continue
                if isinstance(expected, int):
                    if size != expected:
                        raise InputError(
                            f"input {name!r}: axis {axis} must have size {expected} "
                            f"[{', '.join(map(str, spec.shape))}], got {list(shape)}"
                        )
                elif sizes.setdefault(expected, size) != size:
                    raise InputError(
                        f"input {name!r}: axis {axis} is dimension {expected!r}, which is "
                        f"{sizes[expected]} elsewhere in this call, got {size}"
                    )
        for symbol, size in sizes.items():
            limit = self.relations.dimensions[symbol]
            if not allows(limit, size):
                raise InputError(
                    f"dimension {symbol!r} may be {spans(limit)} in this bundle, got {size}"
                )
        if fault := self.relations.fault(sizes):
            raise InputError(fault)
        return sizes

    def _fill(self, feeds: dict[str, Any], sizes: dict[str, int]) -> None:
        """Put in what stands for each optional modality that was left out."""
        stand_ins: list[tuple[Modality, str]] = []
        for modality in self._modalities:
            absent = [name for name in modality.inputs if name not in feeds]
            if not absent:
                continue
            if modality.required or len(absent) < len(modality.inputs):
                present_names = [name for name in modality.inputs if name in feeds]
                present_text = (
                    f"; {', '.join(present_names)} of the same modality was given"
                    if present_names
                    else ""
                )
                raise InputError(
                    f"missing input {', '.join(map(repr, absent))} of modality "
                    f"{modality.name!r}{present_text}"
                )
            stand_ins.extend((modality, name) for name in absent)
        completed = self._complete(sizes)
        for modality, name in stand_ins:
            feeds[name] = self._stand_in(modality, self._specs[name], completed)

    def _complete(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """``sizes`` and those of what stands in (:meth:`Relations.complete`)."""
        all_sizes = self.relations.complete(sizes)
        if fault := self.relations.fault(all_sizes):
            raise InputError(f"nothing can stand in for what is absent: {fault}")
        return all_sizes

    def _stand_in(self, modality: Modality, spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
        shape = tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
        if modality.absent == "token":
            # Constant along dynamic axes by the format's rule: one slice of each serves any size.
            first_slices = tuple(
                slice(0, 1) if isinstance(s, str) else slice(None) for s in spec.shape
            )
            return contiguous(np.broadcast_to(self._tokens[spec.name][first_slices], shape))
        return np.zeros(shape, DTYPES[spec.dtype])

    def _tokenize(self, name: str, text: str) -> dict[str, Array]:
        """Token inputs for ``text``, given under a modality's or an ids input's name."""
        for modality in self._modalities:
            tokenizer = modality.tokenizer
            if tokenizer is not None and name in (modality.name, tokenizer.ids):
                return self._texts[modality.name].encode(text)
        takers = list(self._texts)
        raise InputError(
            f"input {name!r} takes no text; "
            + (f"these do: {', '.join(takers)}" if takers else "this bundle has no tokenizer")
        )


def call_inputs(manifest: Manifest) -> tuple[dict[str, TensorSpec], Mapping[str, Dimension]]:
    """What a call takes, by name, and the limits of dynamic dimensions.

    A loop takes the caller's tokens in as many runs of its stage as it needs, so that they are any
    number: [batch, n], whatever one run takes.
    """
    specs, loop = manifest.inputs(), manifest.loop
    if loop is None or loop.kind != "generate" or loop.token not in specs:
        return specs, manifest.dimensions
    token = specs[loop.token]
    specs[loop.token] = replace(token, shape=(token.shape[0], PROMPT))
    modality = next(m for m in manifest.modalities if loop.token in m.inputs)
    # One that is left out has no tokens, unless a token stands for it.
    least = int(modality.absent == "token" and not modality.required)
    return specs, {**manifest.dimensions, PROMPT: Dimension(least, 1)}


def _text_encoders(
    bundle: Bundle, specs: Mapping[str, TensorSpec], dimensions: Mapping[str, Dimension]
) -> dict[str, TextEncoder | NoTextEncoder]:
    if all(modality.tokenizer is None for modality in bundle.manifest.modalities):
        return {}
    # A bundle without text need not load what reads it.
    from mmedge.execution.text import text_encoders

    return text_encoders(bundle, specs, dimensions)


def _contiguous(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays on the host in C order; called once their sizes are known to be allowed."""
    return {
        name: contiguous(value) if type(value) is ndarray else value
        for name, value in values.items()
    }


def _signature(values: Mapping[str, Any]) -> Signature | None:
    """What decides whether ``values`` pass; None where a value needs more than a check."""
    parts: list[Any] = []
    for name, value in values.items():
        if type(value) is not ndarray or not value.flags.c_contiguous:
            return None
        parts += name, value.dtype, value.shape
    return tuple(parts)


def _is_alike(values: Mapping[str, Any], expected: tuple[tuple[str, Any, Any], ...]) -> bool:
    """Whether ``values`` are plain arrays of these names, dtypes and shapes, in C order.

    :meth:`Feeds.prepare` looks in the same way, without the cost of a call.
    """
    if len(values) != len(expected):
        return False
    for name, dtype, shape in expected:
        value = values.get(name)
        if (
            type(value) is not ndarray
            or value.dtype is not dtype
            or value.shape != shape
            or not value.flags.c_contiguous
        ):
            return False
    return True


def _split_signature(signature: Signature) -> tuple[tuple[str, Any, Any], ...]:
    """Name, dtype and shape of each input apart."""
    return tuple(zip(signature[::3], signature[1::3], signature[2::3], strict=True))


def _is_contiguous(interface: Mapping[str, Any]) -> bool:
    strides = interface.get("strides")
    if strides is None:
        return True
    step = np.dtype(interface["typestr"]).itemsize
    for size, stride in zip(reversed(interface["shape"]), reversed(strides), strict=True):
        if size > 1 and stride != step:
            return False
        step *= size
    return True
