"""Which tensors a call copies, and which pass by reference: counted on the arrays of a real call.

What an engine does inside itself is not seen: a GPU's cache, or a change of layout, is its own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.backends.registry import backend
from mmedge.bench.stage_inputs import first_states
from mmedge.execution.inputs import Feeds
from mmedge.execution.plan import StagePlan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.bench.report.sections import CopiedTensor
    from mmedge.pipeline import Pipeline
    from mmedge.spec import Array, Stage

__all__ = ["copies"]


def copies(pipe: Pipeline, inputs: Mapping[str, Any]) -> list[CopiedTensor]:
    """Run every stage once and tell what is copied on the way from ``inputs`` to the outputs.

    The feature cache is left alone: each stage runs, and what the cache would spare is counted.

    Args:
        pipe: an open pipeline.
        inputs: as for :meth:`mmedge.Pipeline.run`.

    Returns:
        In the order of a call; what is not copied is in it with 0 bytes. Of a call with a loop what
        is before the loop: how its stage keeps states is the backend's own.

    Raises:
        InputError, BackendError: as :meth:`mmedge.Pipeline.run`.
    """
    on_gpu = pipe.variant.target != "cpu"
    values = Feeds(pipe.bundle, on_gpu=on_gpu).prepare(inputs)
    rows = [_input(name, inputs, value) for name, value in values.items()]
    tensors: dict[str, Array] = {}

    def look(stage: Stage, feeds: Mapping[str, Any], outputs: Mapping[str, Array]) -> None:
        rows.extend(_into(stage, pipe, feeds, tensors))
        rows.append(_out_of(stage, outputs, on_gpu=on_gpu))
        tensors.update(outputs)

    stages = pipe.bundle.manifest.in_order(pipe.plan)
    values.update(first_states(pipe.bundle, stages, values))
    runs = {stage.name: partial(pipe.run_stage, stage.name) for stage in stages}
    StagePlan(stages, runs).advance(values, after=look)
    return [*rows, *_cached(pipe, tensors)]


def _input(name: str, inputs: Mapping[str, Any], prepared: Any) -> CopiedTensor:  # noqa: ANN401
    """From what the caller passes to what the stages take."""
    what = f"input {name}"
    if name not in inputs or isinstance(inputs[name], str):
        size = _bytes(prepared)
        # What stands in is remembered with inputs of which no more than dtype and shape is checked.
        if all(isinstance(x, np.ndarray) and x.flags.c_contiguous for x in inputs.values()):
            return _copied(
                what, 0, f"a stand-in of {size} bytes, made once for inputs of these shapes"
            )
        return _copied(
            what, size, "made in each call: tokens of a text, or what stands in beside one"
        )
    value = inputs[name]
    if value is prepared:
        return _copied(what, 0, "taken where it lies")
    if not isinstance(value, np.ndarray):
        value = np.from_dlpack(value)
    if np.shares_memory(value, prepared):
        return _copied(what, 0, "another library's array, taken where it lies")
    return _copied(what, _bytes(prepared), "not C-contiguous; pass one that is")


def _into(
    stage: Stage, pipe: Pipeline, feeds: Mapping[str, Any], tensors: Mapping[str, Array]
) -> list[CopiedTensor]:
    """What a stage takes, from the caller and from other stages."""
    rows = []
    for origin, names in (
        ("inputs", [name for name in feeds if name not in tensors]),
        ("tensors of other stages", [name for name in feeds if name in tensors]),
    ):
        if not names:
            continue
        what = f"{origin} into {stage.name} ({len(names)})"
        host = [feeds[name] for name in names if isinstance(feeds[name], np.ndarray)]
        if pipe.variant.target != "cpu":
            size = sum(map(_bytes, host))
            why = "host to device" if host else "they lie on the device"
        else:
            size, why = backend(pipe.variant.backend).copied(host)
        rows.append(_copied(what, size, why))
    return rows


def _out_of(stage: Stage, outputs: Mapping[str, Array], *, on_gpu: bool) -> CopiedTensor:
    """What a stage yields: an array over the engine's own buffer, or a copy of that."""
    what = f"outputs of {stage.name} ({len(outputs)})"
    size = sum(map(_bytes, outputs.values()))
    if on_gpu:
        return _copied(what, size, "device to host")
    copied = sum(_bytes(value) for value in outputs.values() if value.flags.owndata)
    if copied:
        return _copied(what, copied, "copied out of buffers that the engine uses again")
    return _copied(what, 0, f"{size} bytes by reference: arrays over the engine's own buffers")


def _cached(pipe: Pipeline, tensors: Mapping[str, Array]) -> list[CopiedTensor]:
    """Outputs of the network that the feature cache may hold as well."""
    manifest = pipe.bundle.manifest
    stages = manifest.in_order(pipe.plan)
    features = {s.name for stage in stages if stage.modality for s in stage.outputs}
    names = [name for name in manifest.returned_outputs() if name in features]
    if not names or not pipe.cache_info():
        return []
    return [
        _copied(
            f"outputs {', '.join(names)}",
            sum(_bytes(tensors[name]) for name in names),
            "the feature cache holds them, and the caller may write to its own; not copied in a "
            "call with cached=False",
        )
    ]


def _copied(what: str, size: int, why: str) -> CopiedTensor:
    return {"what": what, "bytes": size, "why": why}


def _bytes(value: Any) -> int:  # noqa: ANN401
    """Size of an array on the host, or of one that lies on a GPU."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    interface = value.__cuda_array_interface__
    return int(np.prod(interface["shape"]) * np.dtype(interface["typestr"]).itemsize)
