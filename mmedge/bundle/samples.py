"""Golden samples and absent tokens: ``samples.safetensors``.

Its keys are ``<i>.in.<input>`` and ``<i>.out.<tensor>`` for sample ``i`` from 0, with every input
of the network and every output of every stage, and ``absent.<input>`` for the inputs of optional
modalities whose ``absent`` is ``token``. A stand-in is used at every size, so along dynamic axes it
is constant, and as short as can be.

With state or a loop there are also ``<i>.step.<tensor>`` for what else a stage took, and what the
loop gave: ``<i>.loop.tokens`` and ``<i>.loop.logits``, or ``<i>.loop.noise`` and
``<i>.loop.latents``; ``state.<input>`` for states that begin as stored, and
``unconditional.<tensor>`` for guidance. Nothing else is in it.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from mmedge.constraints import Relations, allows
from mmedge.errors import BundleError
from mmedge.spec import DTYPES, Array, Manifest, Sample, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Samples", "samples_from_bytes", "samples_to_bytes"]

#: safetensors' dtype names -> those of a manifest.
_DTYPE_NAMES: Final[Mapping[str, str]] = {
    "BOOL": "bool", "F16": "float16", "F32": "float32", "F64": "float64",
    "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
    "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64",
}  # fmt: skip

#: Bytes of the file's header: some 200 for each tensor.
MAX_HEADER_BYTES: Final = 16 << 20

#: Share of the values of an output, over all samples, that may be NaN: NaN equals NaN when a
#: variant is held against them, so that of more nothing would be checked.
MAX_NAN: Final = 0.5

#: In a shape: any size.
_ANY: Final = "*"


class Samples(NamedTuple):
    """What the file holds: golden samples in order, and what is stored by tensors' names.

    Attributes:
        golden: the samples.
        absent: stand-ins of inputs of optional modalities.
        states: what states begin with.
        unconditional: what stands for outputs of the network in a run without condition.
    """

    golden: tuple[Sample, ...] = ()
    absent: Mapping[str, Array] = MappingProxyType({})
    states: Mapping[str, Array] = MappingProxyType({})
    unconditional: Mapping[str, Array] = MappingProxyType({})


def samples_from_bytes(data: bytes, manifest: Manifest, *, source: str) -> Samples:
    """Read the file; arrays have the dtypes and shapes that ``manifest`` declares.

    Raises:
        BundleError: not safetensors, a tensor is missing or unknown, or one has another dtype or
            shape than the manifest declares.
    """
    header = int.from_bytes(data[:8], "little")
    if header > MAX_HEADER_BYTES:
        raise BundleError(
            f"{source}: not safetensors: a header of {header} bytes, expected at most "
            f"{MAX_HEADER_BYTES}; export the bundle again"
        )
    try:
        tensors = dict(deserialize(data))  # type: ignore[no-untyped-call]
        arrays = {name: _array(name, tensor, source) for name, tensor in tensors.items()}
    except (SafetensorError, ValueError, OverflowError) as error:
        # ValueError, OverflowError: more axes or larger sizes than an array can have.
        raise BundleError(f"{source}: not safetensors: {error}; export the bundle again") from error
    _check(arrays, manifest, source)
    return Samples(
        golden=tuple(
            Sample(
                inputs={name: arrays[f"{i}.in.{name}"] for name in manifest.inputs()},
                outputs={name: arrays[f"{i}.out.{name}"] for name in _outputs(manifest)},
                step={name: arrays[f"{i}.step.{name}"] for name in manifest.step_inputs()},
                loop={name: arrays[f"{i}.loop.{name}"] for name in _loop_tensors(manifest)},
            )
            for i in range(manifest.samples)
        ),
        absent={spec.name: arrays[f"absent.{spec.name}"] for spec in _tokens(manifest)},
        states={spec.name: arrays[f"state.{spec.name}"] for spec in _stored_states(manifest)},
        unconditional={
            spec.name: arrays[f"unconditional.{spec.name}"] for spec in _unconditional(manifest)
        },
    )


def samples_to_bytes(manifest: Manifest, content: Samples, *, source: str) -> bytes:
    """Write the file. Equal content gives equal bytes.

    Raises:
        BundleError: an array is missing, unknown, or not as ``manifest`` declares it.
    """
    # Not ascontiguousarray, which turns a scalar into a vector.
    arrays = {
        key: np.asarray(value, order="C")
        for prefix, group in (
            *((f"{i}.in", sample.inputs) for i, sample in enumerate(content.golden)),
            *((f"{i}.out", sample.outputs) for i, sample in enumerate(content.golden)),
            *((f"{i}.step", sample.step) for i, sample in enumerate(content.golden)),
            *((f"{i}.loop", sample.loop) for i, sample in enumerate(content.golden)),
            ("absent", content.absent),
            ("state", content.states),
            ("unconditional", content.unconditional),
        )
        for key, value in ((f"{prefix}.{name}", value) for name, value in group.items())
    }
    _check(arrays, manifest, source)
    data: bytes = save(arrays)
    return data


def _array(name: str, tensor: Mapping[str, object], source: str) -> Array:
    dtype = _DTYPE_NAMES.get(str(tensor["dtype"]))
    if dtype is None:
        raise BundleError(f"{source}: {name!r} has dtype {tensor['dtype']}, which no bundle uses")
    flat: Array = np.frombuffer(tensor["data"], dtype=DTYPES[dtype])  # type: ignore[call-overload]
    return flat.reshape(tensor["shape"])  # type: ignore[call-overload, no-any-return]


def _outputs(manifest: Manifest) -> dict[str, TensorSpec]:
    return {spec.name: spec for stage in manifest.stages for spec in stage.outputs}


def _tokens(manifest: Manifest) -> Iterator[TensorSpec]:
    inputs = manifest.inputs()
    for modality in manifest.modalities:
        if modality.absent == "token" and not modality.required:
            yield from (inputs[name] for name in modality.inputs)


def _stored_states(manifest: Manifest) -> Iterator[TensorSpec]:
    inputs = manifest.step_inputs()
    names = dict.fromkeys(state.input for state in manifest.states if state.initial == "stored")
    return (inputs[name] for name in names)


def _unconditional(manifest: Manifest) -> Iterator[TensorSpec]:
    outputs = _outputs(manifest)
    for loop in manifest.loops:
        if loop.kind == "denoise":
            yield from (outputs[name] for name in loop.unconditional)


def _loop_tensors(manifest: Manifest) -> dict[str, tuple[str, tuple[int | str, ...]]]:
    """What a run of the loop gave, by name: its dtype, and its shape where ``_ANY`` is any size."""
    if manifest.loop is None:
        return {}
    loop = manifest.loop
    if loop.kind == "generate":
        logits = _outputs(manifest)[loop.logits]
        batch, words = logits.shape[0], logits.shape[-1]
        return {
            "tokens": ("int64", (batch, _ANY)),
            "logits": (logits.dtype, (batch, _ANY, words)),
        }
    latent = manifest.step_inputs()[loop.latent]
    return {
        "noise": (latent.dtype, latent.shape),
        # After the first step, the middle one and the last.
        "latents": (latent.dtype, (3, *latent.shape)),
    }


def _sample_groups(manifest: Manifest, i: int) -> Iterator[dict[str, TensorSpec]]:
    """Tensors of sample ``i``, in groups within which one dynamic dimension has one size."""
    outputs = _outputs(manifest)
    in_loop = {spec.name for stage in manifest.loop_stages() for spec in stage.outputs}
    inputs, loop = manifest.inputs(), manifest.loop
    if loop is not None and loop.kind == "generate" and loop.token in inputs:
        # A call begins with any number of tokens, also where one run takes a fixed number.
        token = inputs[loop.token]
        if len(token.shape) < 2 or isinstance(token.shape[1], int):
            inputs[loop.token] = replace(token, shape=(token.shape[0], _ANY))
    network = {f"{i}.in.{name}": spec for name, spec in inputs.items()}
    network |= {f"{i}.out.{name}": s for name, s in outputs.items() if name not in in_loop}
    yield network
    # A step's tokens are not as many as those that a call begins with.
    step = {f"{i}.step.{name}": spec for name, spec in manifest.step_inputs().items()}
    if step:
        yield step | {f"{i}.out.{name}": outputs[name] for name in in_loop}


def _check(arrays: Mapping[str, Array], manifest: Manifest, source: str) -> None:
    groups = [(i, group) for i in range(manifest.samples) for group in _sample_groups(manifest, i)]
    tokens = {f"absent.{spec.name}": spec for spec in _tokens(manifest)}
    runs = {
        f"{i}.loop.{name}": spec
        for i in range(manifest.samples)
        for name, spec in _loop_tensors(manifest).items()
    }
    stored = {f"state.{spec.name}": spec for spec in _stored_states(manifest)}
    stored |= {f"unconditional.{spec.name}": spec for spec in _unconditional(manifest)}
    expected_keys = {key for _, group in groups for key in group} | {*tokens, *runs, *stored}
    for fault, keys in (
        ("missing", expected_keys - arrays.keys()),
        ("unknown", arrays.keys() - expected_keys),
    ):
        if keys:
            raise BundleError(f"{source}: {fault} tensor {min(keys)!r}; export the bundle again")
    relations = Relations(manifest.dimensions, manifest.constraints)
    for index, group in groups:
        sizes: dict[str, int] = {}  # one dynamic dimension has one size within a group
        for key, spec in group.items():
            _check_array(arrays[key], spec, manifest, sizes, f"{source}: tensor {key!r}")
        if broken := relations.fault(sizes):
            raise BundleError(f"{source}: golden sample {index}: {broken}")
    for key, spec in tokens.items():
        _check_token(arrays[key], spec, manifest, f"{source}: tensor {key!r}")
    for key, spec in stored.items():
        _check_array(arrays[key], spec, manifest, {}, f"{source}: tensor {key!r}")
    for key, (dtype, shape) in runs.items():
        _check_run(arrays[key], dtype, shape, f"{source}: tensor {key!r}")
    for name in _outputs(manifest):
        _check_numbers([arrays[f"{i}.out.{name}"] for i in range(manifest.samples)], name, source)


def _check_numbers(golden: Sequence[Array], name: str, source: str) -> None:
    """Refuse golden outputs that are mostly no numbers."""
    size = sum(array.size for array in golden)
    if not size or golden[0].dtype.kind != "f":
        return
    share = sum(int(np.count_nonzero(np.isnan(array))) for array in golden) / size
    if share > MAX_NAN:
        raise BundleError(
            f"{source}: output {name!r} is NaN in {share:.0%} of its golden values, expected at "
            f"most {MAX_NAN:.0%}: nothing could be held against it; export the bundle again"
        )


def _check_array(
    array: Array, spec: TensorSpec, manifest: Manifest, sizes: dict[str, int], where: str
) -> None:
    got = _check_kind(array, spec, where)
    for size, expected in zip(array.shape, spec.shape, strict=True):
        if isinstance(expected, int):
            fits = size == expected
        elif expected == _ANY:
            fits = size > 0
        else:
            fits = allows(manifest.dimensions[expected], size)
            fits = fits and sizes.setdefault(expected, size) == size
        if not fits:
            raise BundleError(
                f"{where}: expected {spec} within its dimensions, {got}; export the bundle again"
            )


def _check_run(array: Array, dtype: str, shape: tuple[int | str, ...], where: str) -> None:
    fits = array.ndim == len(shape) and all(
        isinstance(expected, str) or size == expected
        for size, expected in zip(array.shape, shape, strict=False)
    )
    # A run may stop before any token, but its first scores are there.
    is_empty = not array.size and not where.endswith(".tokens'")
    if array.dtype != DTYPES[dtype] or not fits or is_empty:
        sizes = ", ".join(map(str, shape))
        raise BundleError(
            f"{where}: expected {dtype}[{sizes}], got {array.dtype}{list(array.shape)}; export the "
            "bundle again"
        )


def _check_token(array: Array, spec: TensorSpec, manifest: Manifest, where: str) -> None:
    """A stand-in is cut to size 1 along dynamic axes and repeated: nothing may be lost by it."""
    got = _check_kind(array, spec, where)
    for axis, (size, expected) in enumerate(zip(array.shape, spec.shape, strict=True)):
        if isinstance(expected, int):
            allowed_sizes = {expected}
        else:
            allowed_sizes = {1, max(1, manifest.dimensions[expected].min)}
        if size not in allowed_sizes:
            sizes = " or ".join(map(str, sorted(allowed_sizes)))
            raise BundleError(
                f"{where}: expected {spec} with size {sizes} along axis {axis}, {got}; give the "
                "stand-in with size 1 along dynamic axes and export the bundle again"
            )
    slices = tuple(slice(None) if isinstance(size, int) else slice(1) for size in spec.shape)
    # Bytes, so that a NaN equals itself.
    if np.broadcast_to(array[slices], array.shape).tobytes() != array.tobytes():
        raise BundleError(
            f"{where}: expected {spec} constant along its dynamic axes, {got} that varies; give "
            "the stand-in with size 1 along dynamic axes and export the bundle again"
        )


def _check_kind(array: Array, spec: TensorSpec, where: str) -> str:
    """Check dtype and rank; what was found, for an error about the shape."""
    got = f"got {array.dtype}{list(array.shape)}"
    if array.dtype != DTYPES[spec.dtype] or array.ndim != len(spec.shape):
        raise BundleError(f"{where}: expected {spec}, {got}; export the bundle again")
    return got
