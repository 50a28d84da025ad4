"""From a bundle to the same bundle with a variant of lower precision.

It is long, since the steps stand in one place in their order.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge.bench.machine.neighbours import busy_words
from mmedge.bench.tune import tune
from mmedge.bundle import Bundle
from mmedge.errors import AccuracyError, ExportError
from mmedge.spec import Tolerance, Variant
from mmedge.tolerance import OutputComparison
from mmedge_export.calibration.calibrate import calibrate
from mmedge_export.calibration.checkpoint import Journal, digest
from mmedge_export.onnx_graph.graph import save
from mmedge_export.open_questions import line
from mmedge_export.quantize.accuracy_gate import AccuracyGate
from mmedge_export.quantize.evaluate import Network
from mmedge_export.quantize.graph_edits import untype
from mmedge_export.quantize.options import QuantizeOptions
from mmedge_export.quantize.plan_search import PlanSearch
from mmedge_export.quantize.report import Report
from mmedge_export.quantize.schemes import SCALES_BY_AXIS
from mmedge_export.quantize.stage_work import StageWork, quantised
from mmedge_export.quantize.task import Task
from mmedge_export.targets.variants import base_variant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmedge.spec import Array, Sample
    from mmedge_export.calibration.observed import Observed
    from mmedge_export.quantize.accuracy_gate import Verdict

__all__ = ["SLACK", "quantize"]

#: What the largest difference from the golden samples is multiplied by for the tolerance that a
#: device is held to: other processors round in another order, and quantisation magnifies that.
SLACK = 1.5

#: Share of the calibration samples that an optional modality is left out of.
ABSENT_SHARE = 0.25


def quantize(
    bundle: Bundle | str | Path,
    task: Task | None = None,
    options: QuantizeOptions | None = None,
    *,
    resume: str | Path | None = None,
    progress: Callable[[str], None] | None = None,
    phase: Callable[[str, int, int], None] | None = None,
) -> tuple[Bundle, Report]:
    """Add a variant of lower precision for the CPU, if one is worth keeping.

    Every node that multiplies by constant weights is timed in each form that the precision offers
    (:mod:`mmedge_export.quantize.schemes`), then the stages; the fastest plan is judged by the
    task. Where too much is lost, nodes are put back to float32: the stages that do harm are found
    first, then the nodes in them, each turned on alone; the shortest prefix of that ranking that
    passes is put back (:func:`mmedge_export.quantize.back_off.back_off`).

    Args:
        bundle: an open bundle, which is closed when a variant is added, or where one lies. It is
            rewritten in its place then.
        task: samples and metric; None: the golden samples, judged by the outputs' error.
        options: precision, limits and goal; None: int8 for speed, with the default limits.
        resume: a folder for what is known so far; the same call goes on from there.
        progress: told what is being done, a line at a time.
        phase: told how far long steps are, as ``phase(what, done, total)``.

    Returns:
        The bundle, open, and what was decided.

    Raises:
        ExportError: the bundle's graphs are not float32, or the task does not fit it.
        AccuracyError: nothing that was tried keeps the limit.
        BundleError: the bundle cannot be read or written.
    """
    asked = options or QuantizeOptions()
    tell = progress or (lambda _: None)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    try:
        opened, base = _float_variant(opened, asked.backend)
        with _folder(resume) as folder:
            return _quantize(
                opened,
                base,
                task or Task.golden(opened),
                folder,
                asked,
                tell=tell,
                phase=phase or (lambda *_: None),
            )
    except BaseException:
        if opened is not bundle:
            opened.close()
        raise


def _quantize(
    bundle: Bundle,
    base: Variant,
    task: Task,
    folder: Path,
    options: QuantizeOptions,
    *,
    tell: Callable[[str], None],
    phase: Callable[[str, int, int], None],
) -> tuple[Bundle, Report]:
    stages = bundle.manifest.in_order()
    threads, backend = options.threads, options.backend
    if task.invented:
        tell(
            f"judged on made-up samples: {len(task.samples)}, the example and inputs at random; "
            "give --task, or export with samples, to judge on real ones"
        )
    tell(f"running the float network on {len(task.samples)} samples")
    network = Network(bundle, threads=threads, backend=backend)
    answers = network.answers(inputs for inputs, _ in task.samples)
    judge = AccuracyGate(task, answers, options)
    works = [StageWork.start(stage, bundle.file(stage.graph), folder, backend) for stage in stages]
    smoothed = _calibrate(bundle, works, task, folder, phase)
    # A larger budget goes on from what a smaller one found.
    asked = {key: value for key, value in asdict(options).items() if key != "budget"}
    made_by = [metadata.version(name) for name in ("mmedge", *_libraries(backend))]
    given = [_digest(answers), _digest(task.calibration), judge.metric]
    job = digest([sorted(bundle.manifest.files.items()), asked, made_by, given])
    gate = PlanSearch(
        bundle,
        works,
        task,
        judge,
        options,
        tell=tell,
        journal=Journal(folder / "journal.json", job),
    )
    gate.choose()
    verdict = gate.hold()
    latency = gate.latency() if verdict is not None else None
    if latency is not None and options.goal == "speed" and latency[1][1] <= 1.0:
        doubt = busy_words(gate.others)
        why = f"is not measurably faster{'' if doubt is None else f', but {doubt}'}"
        tell(f"the whole network {why}")
        verdict = None
    reports = gate.stages()
    report = Report(
        variant=None,
        stages=reports,
        verdict=verdict,
        metric=judge.metric,
        limit=judge.limit,
        samples=len(task.samples),
        attempts=judge.attempts,
        latency_ms=None if latency is None else latency[0],
        speedup=None if latency is None else latency[1],
        bytes_before=bundle.size(base),
        bytes_after=bundle.size(base),
        remarks=(*_remarks(task), *_old_stages(works), *smoothed),
        not_checked=_not_checked(task, verdict),
        others_share=gate.others,
    )
    if verdict is None:
        return bundle, report
    variant = _variant(bundle, works, report, options.precision, gate.final()[1], base)
    graphs = {work.stage.name: ir.load(work.graph()) for work in works if quantised(work.plan)}
    for model in graphs.values():
        untype(model.graph)
    tell("adding the variant")
    files = save(_shared(graphs), folder, place=f"onnx/{variant.id}")
    made = bundle.with_variant(variant, files)
    report = replace(report, variant=variant.id, bytes_after=made.size(variant))
    if latency is not None:
        # It was not taken with the threads that were found before.
        now = {"latency_ms": latency[0][0], "threads": None, "cores": None}
        made = made.with_metrics({base.id: now})
    backends = {other.backend for other in made.manifest.variants if other.target == "cpu"}
    if len(backends) > 1 and made.manifest.samples:
        made, _ = tune(made, threads=threads, tell=tell)
    return made, report


def _digest(samples: Sequence[Mapping[str, Array]]) -> str:
    """SHA-256 of arrays: what a run that was stopped must have in common to go on."""
    found = hashlib.sha256()
    for sample in samples:
        for name, value in sorted(sample.items()):
            found.update(f"{name} {value.dtype} {value.shape}".encode())
            found.update(np.ascontiguousarray(value).tobytes())
    return found.hexdigest()


def _float_variant(bundle: Bundle, backend: str) -> tuple[Bundle, Variant]:
    """The float32 variant of a backend, with the bundle, to which it may have been added."""
    base = base_variant(bundle, backend)
    if base is not None:
        return bundle, base
    if backend == "openvino":
        from mmedge_export.targets.openvino import add_openvino

        return add_openvino(bundle)
    raise ExportError(
        f"{bundle.path}: no variant of ONNX Runtime on the CPU; export the network again"
    )


def _libraries(backend: str) -> tuple[str, ...]:
    """Packages whose versions say what a variant was made with."""
    return ("onnxruntime", "openvino") if backend == "openvino" else ("onnxruntime",)


def _calibrate(
    bundle: Bundle,
    works: Sequence[StageWork],
    task: Task,
    folder: Path,
    phase: Callable[[str, int, int], None],
) -> tuple[str, ...]:
    """Give every stage its ranges, with outliers smoothed; remarks on what was smoothed."""
    observed = _observe(bundle, works, task, folder / "calibration", phase)
    remarks = []
    for work in works:
        smoothed = work.smooth(
            {
                name: seen.channel_max
                for name, seen in observed.get(work.stage.name, {}).items()
                if seen.channel_max is not None
            }
        )
        if smoothed:
            remarks.append(
                f"{work.stage.name}: outlying channels of {', '.join(smoothed)} were moved into "
                "the weights behind"
            )
    if remarks:
        observed = _observe(bundle, works, task, folder / "calibration-smoothed", phase)
    for work in works:
        for name, seen in observed.get(work.stage.name, {}).items():
            chosen = seen.range(levels=256)
            work.ranges[name] = chosen.low, chosen.high
    return tuple(remarks)


def _observe(
    bundle: Bundle,
    works: Sequence[StageWork],
    task: Task,
    state: Path,
    phase: Callable[[str, int, int], None],
) -> dict[str, dict[str, Observed]]:
    count = len(task.calibration)
    return calibrate(
        bundle,
        task.calibration,
        {work.stage.name: work.prepared for work in works},
        {work.stage.name: work.tensors() for work in works if work.sites},
        absent_share=ABSENT_SHARE,
        state=state,
        progress=lambda done: phase(state.name, done, count),
    )


def _variant(
    bundle: Bundle,
    works: Sequence[StageWork],
    report: Report,
    precision: str,
    network: Network,
    base: Variant,
) -> Variant:
    files = {
        work.stage.name: f"onnx/{base.backend}-{precision}-cpu/{work.stage.name}.onnx"
        if quantised(work.plan)
        else base.files[work.stage.name]
        for work in works
    }
    whole, stages = _differences(bundle, network)
    largest = max(found.rtol for found in (whole, *stages.values()))
    record = {name: metadata.version(name) for name in _libraries(base.backend)} | report.record()
    metrics = {"max_rel": largest}
    if report.latency_ms is not None:
        metrics["latency_ms"] = report.latency_ms[1]
    verdict = report.verdict
    if verdict is not None and verdict.metric is not None and verdict.drop is not None:
        metrics |= {
            "metric": verdict.metric,
            "metric_drop": verdict.drop.drop,
            "metric_drop_bound": verdict.drop.bound,
        }
    return Variant(
        base.backend,
        precision,
        "cpu",
        files,
        _slack(whole, base.tolerance),
        {name: _slack(found, base.tolerance) for name, found in stages.items()},
        build=record,
        metrics=metrics,
        not_checked=report.not_checked,
    )


def _slack(found: Tolerance, base: Tolerance) -> Tolerance:
    """Some more than what was found, and no less than what the float32 variant is held to."""
    return Tolerance(max(SLACK * found.rtol, base.rtol), max(SLACK * found.atol, base.atol))


def _differences(bundle: Bundle, network: Network) -> tuple[Tolerance, dict[str, Tolerance]]:
    """What the golden samples need (:meth:`mmedge.tolerance.OutputComparison.least`).

    Of the whole network's outputs, and of every stage's on the golden tensors that enter it.
    """
    stages: dict[str, OutputComparison] = {}
    whole: dict[str, OutputComparison] = {}

    def hold(
        compared: dict[str, OutputComparison], got: Mapping[str, Array], sample: Sample
    ) -> None:
        for name, value in got.items():
            held = compared.setdefault(name, OutputComparison(Tolerance(0.0, 0.0)))
            held.add(value, sample.outputs[name])

    for sample in bundle.samples():
        tensors = {**sample.inputs, **sample.outputs}
        for run in network.runners.values():
            hold(stages, run(tensors), sample)
        hold(whole, network(sample.inputs), sample)
    ends = [_least(name, held) for name, held in whole.items()]
    return (
        Tolerance(max(end.rtol for end in ends), max(end.atol for end in ends)),
        {name: _least(name, held) for name, held in stages.items()},
    )


def _least(name: str, held: OutputComparison) -> Tolerance:
    try:
        return held.least()
    except AccuracyError as fault:
        raise AccuracyError(
            f"output {name!r} of the quantised network is not what the golden samples hold: it "
            f"{fault}. No device would take it: give the network's scores as outputs and not what "
            "is decided by them, or keep fp32"
        ) from fault


def _shared(graphs: Mapping[str, ir.Model]) -> dict[str, ir.Model]:
    """The graphs with equal tensors held once, so that they are written once."""
    known: dict[tuple[str, tuple[int, ...], bytes], ir.TensorProtocol] = {}
    for model in graphs.values():
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None:
                array = tensor.numpy()
                key = (tensor.dtype.name, array.shape, array.tobytes())
                value.const_value = known.setdefault(key, tensor)
    return dict(graphs)


def _old_stages(works: Sequence[StageWork]) -> tuple[str, ...]:
    """A remark on each stage whose convolutions stay float because its operators are too old."""
    return tuple(
        f"{work.stage.name}: {stuck} convolutions stay float32: the graph's opset is older than "
        f"{SCALES_BY_AXIS} and could not be raised; export the network with a later one"
        for work in works
        if (stuck := sum(site.op == "Conv" and not site.forms for site in work.sites))
    )


def _not_checked(task: Task, verdict: Verdict | None) -> tuple[str, ...]:
    """What the judgement leaves open; empty for a metric on real samples."""
    found = []
    if task.invented:
        found.append(
            f"real inputs: judged on {len(task.samples)} made-up samples, the example and inputs "
            "at random"
        )
    if task.metric is None:
        choices = [
            f"the largest element of {name!r} is another in {changed} of {rows} rows"
            for name, (changed, rows) in ({} if verdict is None else verdict.changed).items()
            if changed
        ]
        found.append(
            "; ".join(["the task: no metric, judged by how far outputs lie apart", *choices])
        )
    return tuple(line(text) for text in found)


def _remarks(task: Task) -> tuple[str, ...]:
    if task.metric is not None and task.shared:
        return ("the samples are few: ranges were taken from samples that are judged as well",)
    return ()


@contextlib.contextmanager
def _folder(resume: str | Path | None) -> Iterator[Path]:
    if resume is None:
        with tempfile.TemporaryDirectory(prefix="mmedge-quantize-") as temporary:
            yield Path(temporary)
        return
    folder = Path(resume)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
