"""Calibration: what tensors of a bundle hold while its samples run, streamed and resumable.

Memory stays bounded however many samples there are: of each tensor a histogram is kept, and of one
sample at most :data:`LIMIT_BYTES` of observed tensors live at once. A graph whose tensors take more
is run several times, each time for a group of them. Graphs run without ONNX Runtime's
optimisations: fusions depend on which tensors are asked for, and so would the values.

It is long, since one pass over the samples, its groups and its resuming share their state.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from mmedge.errors import BackendError, ExportError, InputError
from mmedge.schema import SAMPLES
from mmedge_export.calibration.calibration_state import CalibrationState
from mmedge_export.calibration.calls import BundleCalls, all_stages
from mmedge_export.calibration.observed import Observed
from mmedge_export.onnx_graph.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from mmedge.bundle import Bundle
    from mmedge.execution.call_options import CallOptions
    from mmedge.execution.inputs import Feeds
    from mmedge.spec import Array, Manifest, Stage

__all__ = ["LIMIT_BYTES", "calibrate"]

#: Bytes of observed tensors that one run of a graph may yield; a single larger tensor is run alone.
LIMIT_BYTES = 256 << 20

#: Changes with what a state file holds, so that a file of another version is not taken up.
_STATE = "mmedge calibration 2"


def calibrate(
    bundle: Bundle,
    inputs: Iterable[Mapping[str, Array]],
    graphs: Mapping[str, Path],
    tensors: Mapping[str, Sequence[str]],
    *,
    absent_share: float = 0.25,
    seed: int = 0,
    options: CallOptions | None = None,
    state: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, dict[str, Observed]]:
    """Run samples through the stages in order and observe tensors of their graphs.

    Each sample's features go from stage to stage, so that a fusion stage sees features that belong
    together. A loop is run on them to its end, or to the ``limit`` of ``options``, and every run of
    its stage is observed. States without a loop go from a sample to the next. Stages that nothing
    observed depends on are not run.

    Args:
        bundle: open; it says which stages there are and what stands in for an absent modality.
        inputs: one mapping for each sample, of what :meth:`mmedge.execution.inputs.Feeds.prepare`
            takes: all inputs of the network, but those of optional modalities may be missing.
        graphs: the float ONNX graph to run for a stage, with its weights beside it; for stages that
            are not named, the bundle's own.
        tensors: names of float tensors to observe by stage: inputs of the stage, or what a node of
            its graph yields. Values inside functions and control flow cannot be named.
        absent_share: probability that an optional modality is left out of a sample that has it,
            0 to 1, decided for each by ``seed`` and the sample's index. No sample loses all its
            modalities. One that the network does not take without it is used as it is.
        seed: of ``absent_share``.
        options: of every call, such as ``limit`` of a loop that generates.
        state: a file that keeps the progress. A later call with the same graphs, tensors, seed and
            share goes on from there, to bitwise the same result, provided that ``inputs`` yields
            the same samples. A file of another calibration, or a damaged one, is written anew.
        progress: called after each sample that was run with how many are done, those of ``state``
            included.

    Returns:
        stage -> tensor -> what it held, for everything in ``tensors``.

    Raises:
        ExportError: an unknown stage or tensor, a tensor that is not of floats, no samples or fewer
            than the state file has done, a sample that the bundle refuses, or ONNX Runtime refuses
            a graph or fails on a sample.
        BackendError: ONNX Runtime cannot be imported.
    """
    manifest = bundle.manifest
    _check_arguments(manifest, graphs, tensors, absent_share, seed)
    observed = {
        stage: {name: Observed() for name in dict.fromkeys(names)}
        for stage, names in tensors.items()
    }
    copies: dict[Path, Path] = {}
    count = skipped = 0
    told: set[tuple[str, str]] = set()

    def observe(stage: str, name: str, array: Array) -> None:
        if count > skipped:
            is_first = not skipped and (stage, name) not in told
            told.add((stage, name))
            observed[stage][name].update(array, first=is_first)

    with tempfile.TemporaryDirectory(prefix="mmedge-calibrate-") as folder:
        runs = [
            _ObservedStage(
                stage,
                graphs.get(stage.name) or bundle.file(stage.graph),
                list(observed.get(stage.name, {})),
                Path(folder) / stage.name,
                copies,
                observe,
                grows=any(s.stage == stage.name and s.axis is not None for s in manifest.states),
            )
            for stage in _needed(manifest, observed)
        ]
        calls = BundleCalls(bundle, {run.stage.name: run for run in runs}, [r.stage for r in runs])
        states: dict[str, Array] = {}
        saved = None
        if state is not None:
            job = _job(manifest, runs, observed, absent_share, seed, options)
            saved = CalibrationState(state, job, observed)
            skipped = saved.load()
        for index, sample in enumerate(inputs):
            count = index + 1
            # What a stage hands to itself has to be there for the samples behind.
            if count <= skipped and not calls.keeps_state:
                continue
            values = _prepare(calls.feeds, manifest, sample, absent_share, seed, index)
            states = calls.compute(values, states)
            if manifest.loop is not None:
                calls.finish(values, options or {})
            if count <= skipped:
                continue
            if saved is not None:
                saved.save(count)
            if progress is not None:
                progress(count)
    if count < skipped:
        raise ExportError(
            f"{state}: {skipped} samples of this calibration are done, inputs has {count}; "
            "pass the same samples, or remove the file to start again"
        )
    if not count:
        raise ExportError("calibration needs samples, but inputs has none; pass at least one")
    if saved is not None and count > skipped:
        saved.save(count, now=True)
    return observed


class _ObservedStage:
    """A stage's graph, written to ``folder`` with observed tensors as further outputs."""

    def __init__(
        self,
        stage: Stage,
        path: Path,
        names: Sequence[str],
        folder: Path,
        copies: dict[Path, Path],
        observe: Callable[[str, str, Array], None],
        *,
        grows: bool,
    ) -> None:
        self.stage = stage
        # A state that grows makes each run larger than the last: sizes are measured anew where they
        # have doubled, so that a group may take twice the limit.
        self._growth = 2.0 if grows else 1.0
        self._observe = observe
        self._path = path
        self._folder = folder
        try:
            self._graph = onnx.load(path, load_external_data=False)
            self._weights = _weights(self._graph)
            folder.mkdir()
            for location in self._weights:
                _place(path.parent / location, folder / location, copies)
        except Exception as error:  # protobuf's errors have no common base
            raise ExportError(
                f"stage {stage.name!r}: {path} cannot be read as ONNX: {error}; give a valid file "
                "with its weights beside it"
            ) from error
        input_names = {spec.name for spec in stage.inputs}
        inner_names = {name for node in self._graph.graph.node for name in node.output}
        for name in names:
            if name not in input_names and name not in inner_names:
                raise ExportError(
                    f"stage {stage.name!r}: no node of {path.name} yields a tensor {name!r}, nor "
                    f"is it an input ({', '.join(sorted(input_names))}); name tensors of this graph"
                )
        self._taken = [name for name in names if name in input_names]
        self._inner = [name for name in names if name not in input_names]
        #: Largest sizes so far in bytes: of all inputs together, and of each tensor.
        self._largest = -1
        self._sizes: dict[str, int] = {}
        #: Of each run of the graph, the session and the observed tensors that it yields.
        self._groups: list[tuple[Runner, list[str]]] = []

    def digests(self) -> list[str]:
        """SHA-256 in hex of the graph and its weights."""
        digests = []
        for path in (self._path, *(self._folder / location for location in self._weights)):
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        return digests

    def __call__(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """The stage's outputs for ``values``; observed tensors are told one at a time."""
        for name in self._taken:
            self._tell(name, values[name])
        size = sum(values[spec.name].nbytes for spec in self.stage.inputs)
        if size > self._growth * self._largest:
            self._largest = size
            for name, size_now in self._measure(values).items():
                self._sizes[name] = max(self._sizes.get(name, 0), size_now)
        if not self._groups or any(
            len(group) > 1 and self._bytes(group) > LIMIT_BYTES for _, group in self._groups
        ):
            self._plan()
        outputs: dict[str, Array] = {}
        for index, (run, group) in enumerate(self._groups):
            results = run(values)
            if index == 0:
                outputs = {spec.name: results[spec.name] for spec in self.stage.outputs}
            for name in group:
                array = results.pop(name)
                self._sizes[name] = max(self._sizes[name], array.nbytes)
                self._tell(name, array)
        return outputs

    def _tell(self, name: str, array: Array) -> None:
        if array.dtype.kind != "f":
            raise ExportError(
                f"stage {self.stage.name!r}: tensor {name!r} is {array.dtype}; only tensors of "
                "floats have a range to quantise by"
            )
        self._observe(self.stage.name, name, array)

    def _bytes(self, names: Iterable[str]) -> int:
        return sum(self._sizes[name] for name in names)

    def _plan(self) -> None:
        """Put tensors into groups by the largest sizes seen; the first also gives the outputs."""
        groups: list[list[str]] = [[]]
        for name in self._inner:
            if groups[-1] and self._bytes([*groups[-1], name]) > LIMIT_BYTES:
                groups.append([])
            groups[-1].append(name)
        self._groups = []  # before the new sessions take memory
        outputs = [spec.name for spec in self.stage.outputs]
        for group in groups:
            names = list(dict.fromkeys([*outputs, *group]))
            self._groups.append((self._session(self._graph, names), group))
            outputs = []

    def _measure(self, values: Mapping[str, Array]) -> dict[str, int]:
        """Bytes of each tensor for ``values`` if it is float32; only the counts are read back."""
        if not self._inner:
            return {}
        counting = onnx.ModelProto()
        counting.CopyFrom(self._graph)
        names = {name for node in counting.graph.node for name in (*node.input, *node.output)}
        prefix = "size"
        while any(name.startswith(prefix) for name in names):
            prefix += "_"
        counts = {f"{prefix}{index}": name for index, name in enumerate(self._inner)}
        for count, name in counts.items():
            counting.graph.node.append(onnx.helper.make_node("Size", [name], [count]))
        sizes = self._session(counting, list(counts))(values)
        return {name: int(sizes[count]) * 4 for count, name in counts.items()}

    def _session(self, graph: onnx.ModelProto, outputs: Sequence[str]) -> Runner:
        exposed = onnx.ModelProto()
        exposed.CopyFrom(graph)
        del exposed.graph.output[:]
        # ONNX Runtime infers the types.
        exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        # Not the name of a weight file.
        file = self._folder / f"{self._path.stem}.observed.onnx"
        onnx.save(exposed, file)
        return Runner(file, outputs, _options())


def _check_arguments(
    manifest: Manifest,
    graphs: Mapping[str, Path],
    tensors: Mapping[str, Sequence[str]],
    absent_share: float,
    seed: int,
) -> None:
    stage_names = [stage.name for stage in all_stages(manifest)]
    for what, names in (("graphs", graphs), ("tensors", tensors)):
        for name in names:
            if name not in stage_names:
                raise ExportError(
                    f"{what}: no stage {name!r}; this bundle has {', '.join(stage_names)}"
                )
    if not 0.0 <= absent_share <= 1.0 or seed < 0:
        raise ExportError(
            f"absent_share must be from 0 to 1 and seed 0 or more, got {absent_share} and {seed}"
        )


def _needed(manifest: Manifest, stages: Collection[str]) -> list[Stage]:
    """The stages named and those that they take features from, in order; with a loop, all."""
    if manifest.loops:
        return list(all_stages(manifest))
    features: set[str] = set()
    stages_in_order: list[Stage] = []
    for stage in reversed(manifest.in_order()):
        if stage.name not in stages and features.isdisjoint(spec.name for spec in stage.outputs):
            continue
        features.update(spec.name for spec in stage.inputs)
        stages_in_order.insert(0, stage)
    return stages_in_order


def _prepare(
    feeds: Feeds,
    manifest: Manifest,
    sample: Mapping[str, Array],
    absent_share: float,
    seed: int,
    index: int,
) -> dict[str, Array]:
    """Inputs of the network, after leaving out what the draw for this sample says."""
    names = {m.name: {m.name, *m.inputs} for m in manifest.modalities}
    draws = np.random.default_rng([seed, index]).random(len(names))
    draw_of = {
        modality.name: float(draw)
        for modality, draw in zip(manifest.modalities, draws, strict=True)
        if not names[modality.name].isdisjoint(sample)
    }
    left_out = [
        m.name
        for m in manifest.modalities
        if not m.required and draw_of.get(m.name, 1.0) < absent_share
    ]
    if len(left_out) == len(draw_of) and left_out:
        left_out.remove(max(left_out, key=draw_of.__getitem__))
    unwanted = {name for modality in left_out for name in names[modality]}
    if unwanted:
        try:
            return feeds.prepare({k: v for k, v in sample.items() if k not in unwanted})
        except InputError:
            pass  # such as a size that only this modality tells
    try:
        return feeds.prepare(sample)
    except InputError as error:
        raise ExportError(f"sample {index} of the calibration: {error}") from error


def _options() -> Any:  # noqa: ANN401
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise BackendError("calibration needs ONNX Runtime: pip install 'mmedge[cpu]'") from error
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # It runs Size nodes as soon as it can: their tensors need not wait until the end.
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    # A graph of several groups has several sessions, which would each keep its own copy of the
    # weights and as much memory as a run ever took.
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _job(
    manifest: Manifest,
    runs: Sequence[_ObservedStage],
    observed: Mapping[str, Collection[str]],
    *rest: object,
) -> bytes:
    """SHA-256 of everything but the samples that the result depends on."""
    tensors = [(stage, list(names)) for stage, names in observed.items()]
    network = (
        *(manifest.modalities, manifest.stages, manifest.dimensions),
        *(manifest.states, manifest.loops),
    )
    graphs = [run.digests() for run in runs]
    content = (_STATE, graphs, tensors, rest, network, manifest.files.get(SAMPLES))
    return hashlib.sha256(repr(content).encode()).digest()


def _weights(model: onnx.ModelProto) -> list[str]:
    """Locations of the external data, relative to the graph's folder and inside of it."""
    tensors = list(model.graph.initializer)
    nodes = [*model.graph.node, *(node for body in model.functions for node in body.node)]
    while nodes:
        for attribute in nodes.pop().attribute:
            tensors += [attribute.t, *attribute.tensors]
            for graph in (attribute.g, *attribute.graphs):
                tensors += graph.initializer
                nodes += graph.node
    entries = (entry for tensor in tensors for entry in tensor.external_data)
    locations = sorted({entry.value for entry in entries if entry.key == "location"})
    for location in locations:
        if Path(location).is_absolute() or ".." in Path(location).parts:
            raise ValueError(f"weights outside of its folder: {location}")
    return locations


def _place(source: Path, target: Path, copies: dict[Path, Path]) -> None:
    """Copy a weight file, once for all stages.

    ONNX Runtime refuses symbolic links out of the graph's folder, and a hard link would change the
    original's status: an open bundle takes that for a change of the file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    source = source.resolve(strict=True)
    if source in copies:
        os.link(copies[source], target)
    else:
        copies[source] = target
        shutil.copyfile(source, target)
