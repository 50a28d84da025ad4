"""Variants for ONNX Runtime on the CPU whose loop writes keys and values in place.

The pass (:mod:`mmedge_export.passes.in_place_cache`) reads from the graph what attention computes.
Here the whole of its result is held against the graph that it was made from, step by step: first
tokens, single ones, more at once, several rows, and so many that buffers are moved.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mmedge.backends.onnxruntime.in_place import InPlaceCache
from mmedge.backends.onnxruntime.session import InPlaceSession, OrtSession, session_options
from mmedge.errors import BackendError
from mmedge.execution.state import FirstStates, call_sizes
from mmedge.execution.steppers import make_stepper
from mmedge.spec import DTYPES
from mmedge.tolerance import difference
from mmedge_export.passes.in_place_cache import FAR, NotInPlaceError, in_place_graph
from mmedge_export.passes.in_place_cache.stage_feeds import StageFeeds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from mmedge.bundle import Bundle
    from mmedge.loop_spec import GenerateLoop
    from mmedge.spec import Array, Manifest, Stage, TensorSpec, Variant

__all__ = ["NotInPlaceError", "add_in_place", "in_place_variant"]

#: Tokens of the runs that are compared, one after another: first ones, single ones, more at once.
_CHUNKS = (5, 1, 1, 3, 1, 1)

#: Samples that give what a loop begins with.
_SAMPLES = 2

#: Room of the buffers that are compared, so that they are moved.
_ROOM = 4


def add_in_place(
    bundle: Bundle, tell: Callable[[str], None], *, beside: str | None = None
) -> tuple[Bundle, list[Variant]]:
    """Add a variant with a cache in place beside each that ONNX Runtime runs on the CPU.

    Args:
        bundle: open; it is closed where a variant is added.
        tell: told what was added, and why not what was not.
        beside: the one variant that gets one; None: all.

    Returns:
        The new bundle, open, and what was added or made anew.
    """
    added = []
    for variant in bundle.manifest.variants:
        if (variant.backend, variant.target, variant.cache) != ("ort", "cpu", "growing"):
            continue
        if beside not in (None, variant.id):
            continue
        try:
            new_variant, files = in_place_variant(bundle, variant)
        except NotInPlaceError as reason:
            tell(f"{variant.id}: its keys and values grow: {reason}")
            continue
        except Exception as error:  # noqa: BLE001 - a pass that fails leaves the graph as it is
            tell(f"{variant.id}: its keys and values grow: {type(error).__name__}: {error}")
            continue
        bundle = bundle.with_variant(new_variant, files)
        added.append(new_variant)
        tell(f"{new_variant.id}: its loop writes keys and values in place")
    return bundle, added


def in_place_variant(bundle: Bundle, variant: Variant) -> tuple[Variant, dict[str, bytes]]:
    """A variant beside one of the bundle, and the file that it brings.

    Args:
        bundle: open; it is left as it is.
        variant: of it, for ONNX Runtime on the CPU.

    Raises:
        NotInPlaceError: the loop's stage computes what the operator does not, or there is none.
    """
    manifest = bundle.manifest
    loop = manifest.loop
    if loop is None or loop.kind != "generate":
        raise NotInPlaceError("no loop generates tokens")
    (stage,) = manifest.loop_stages()
    growing = [s for s in manifest.states if s.stage == stage.name and s.axis == 2]
    beginnings = list(_beginnings(bundle, stage, loop)) if growing else []
    lengths = {begin.states[growing[0].input].shape[2] for begin in beginnings}
    name = variant.files[stage.name]
    path = bundle.file(name)
    model = in_place_graph(ir.load(path), manifest, sorted(lengths) or (0,))
    graph = ir.to_proto(model).SerializeToString()
    _check(path, graph, manifest, stage, loop, variant, beginnings)
    new_name = f"{name.removesuffix('.onnx')}.in_place.onnx"
    new_variant = replace(
        variant,
        cache="in_place",
        files={**variant.files, stage.name: new_name},
        build={**variant.build, "onnxruntime": metadata.version("onnxruntime")},
        metrics={},
    )
    if StageFeeds(manifest).past_limit() is None:
        # A window beyond that would not be seen.
        text = f"what tokens see was looked at up to {FAR} places, and the states have no limit"
        new_variant = replace(new_variant, not_checked=(*variant.not_checked, text))
    return new_variant, {new_name: graph}


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What a run begins with: rows, first states, and what the stage takes in all of its steps."""

    batch: int
    states: Mapping[str, Array]
    held: Mapping[str, Array]

    def doubled(self, specs: Mapping[str, TensorSpec], rows: str) -> _Beginning:
        """Each row twice."""

        def double(arrays: Mapping[str, Array]) -> dict[str, Array]:
            return {
                name: np.concatenate([array, array], axis=specs[name].shape.index(rows))
                if rows in specs[name].shape
                else array
                for name, array in arrays.items()
            }

        return _Beginning(2 * self.batch, double(self.states), double(self.held))


def _beginnings(bundle: Bundle, stage: Stage, loop: GenerateLoop) -> Iterator[_Beginning]:
    """Of golden samples, and of the first with twice as many rows."""
    first = FirstStates(bundle, stage)
    by_loop = {loop.token, loop.position, *(state.input for state in first.states)}
    specs = {spec.name: spec for spec in stage.inputs}
    rows = specs[loop.token].shape[0]
    limit = bundle.manifest.dimensions[rows].max if isinstance(rows, str) else 0
    for number, sample in enumerate(bundle.samples()[:_SAMPLES]):
        tensors = sample.tensors()
        held = {name: tensors[name] for name in specs if name not in by_loop}
        batch = tensors[loop.token].shape[0]
        sizes = call_sizes((specs[name] for name in held), tensors)
        if isinstance(rows, str):
            sizes[rows] = batch
        beginning = _Beginning(batch, first.make(sizes, tensors), held)
        yield beginning
        if not number and isinstance(rows, str) and (limit is None or 2 * batch <= limit):
            yield beginning.doubled(specs, rows)


def _check(
    path: Path,
    graph: bytes,
    manifest: Manifest,
    stage: Stage,
    loop: GenerateLoop,
    variant: Variant,
    beginnings: Sequence[_Beginning],
) -> None:
    """Hold a graph with buffers against the one that it was made from.

    Raises:
        NotInPlaceError: they differ, or there is no sample to begin with.
    """
    if not beginnings:
        raise NotInPlaceError("the bundle has no golden samples to compare it on")
    cache = InPlaceCache(manifest, loop, stage, room=_ROOM)
    growing = OrtSession(_session(path, path.parent, stage), stage, variant)
    in_place = InPlaceSession(_session(graph, path.parent, stage), stage, variant, cache)
    words = next(spec for spec in stage.outputs if spec.name == loop.logits).shape[-1]
    rng = np.random.default_rng(0)
    try:
        for beginning in beginnings:
            steppers = [make_stepper(session, cache.states) for session in (growing, in_place)]
            for stepper in steppers:
                stepper.begin(beginning.states)
                stepper.hold(beginning.held)
            taken = 0
            for count in _chunks(manifest, cache, beginning):
                tokens = rng.integers(
                    words if isinstance(words, int) else 2, size=(beginning.batch, count)
                )
                new = _inputs(cache, tokens, taken)
                results = []
                for stepper in steppers:
                    stepper.hold(new)
                    outputs, states = stepper.run(), stepper.states()
                    results.append(outputs | {s.output: states[s.input] for s in cache.states})
                taken += count
                where = f"{count} tokens in {beginning.batch} rows after {taken - count}"
                _compare(results[1], results[0], variant, where)
    except BackendError as error:
        raise NotInPlaceError(str(error)) from error
    finally:
        growing.close()
        in_place.close()


def _session(source: Path | bytes, folder: Path, stage: Stage) -> Any:  # noqa: ANN401
    """ONNX Runtime's, with few threads that do not wait awake."""
    import onnxruntime as ort

    options = session_options(stage, alone=True, spin=False)
    options.log_severity_level = 4  # fatal: errors are raised, and one voice is enough
    if isinstance(source, bytes):
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, str(folder))
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise NotInPlaceError(f"ONNX Runtime does not load it: {error}") from error


def _chunks(manifest: Manifest, cache: InPlaceCache, beginning: _Beginning) -> Iterator[int]:
    """How many tokens each run takes, within the limits of the stage."""
    size = cache.token.shape[1] if len(cache.token.shape) == 2 else 1
    most = size if isinstance(size, int) else manifest.dimensions[size].max
    room = cache.most
    if room is not None:
        room -= max(beginning.states[state.input].shape[2] for state in cache.growing)
    for chunk in _CHUNKS:
        count = chunk if most is None else min(chunk, most)
        if room is not None:
            room -= count
            if room < 0:
                return
        yield count


def _inputs(cache: InPlaceCache, tokens: Array, taken: int) -> dict[str, Array]:
    """Tokens [batch, new], and their positions, as the stage takes them."""
    spec = cache.token
    shape = tokens.shape[: len(spec.shape)]
    inputs = {spec.name: np.ascontiguousarray(tokens.astype(DTYPES[spec.dtype]).reshape(shape))}
    if cache.position is not None:
        rank = len(cache.position.shape)
        places = np.arange(taken, taken + tokens.shape[1], dtype=DTYPES[cache.position.dtype])
        array = (
            places if rank == 1 else places[0] if not rank else np.tile(places, (len(tokens), 1))
        )
        if rank == 1 and len(spec.shape) == 1:
            array = np.tile(places, len(tokens))
        inputs[cache.position.name] = np.ascontiguousarray(array).reshape(
            array.shape if rank else ()
        )
    return inputs


def _compare(
    got: Mapping[str, Array], expected: Mapping[str, Array], variant: Variant, where: str
) -> None:
    for name, value in got.items():
        limit = variant.tolerances.get(name, variant.tolerance)
        result = difference(value, expected[name], limit)
        if not result.passes:
            raise NotInPlaceError(
                f"with buffers, output {name!r} is another than without ({where}): {result}, "
                f"{result.limit_used:.3g} times what its tolerance allows ({limit})"
            )
