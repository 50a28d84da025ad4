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
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.bench.machine.neighbours import busy_words
from mmedge.bench.tune import tune
from mmedge.bundle import Bundle
from mmedge.spec import Variant
from mmedge_export.calibration.calibrate import calibrate
from mmedge_export.calibration.calls import all_stages
from mmedge_export.calibration.checkpoint import Checkpoint, digest
from mmedge_export.open_questions import line
from mmedge_export.quantize.accuracy_gate import AccuracyGate
from mmedge_export.quantize.evaluate import BundleNetwork
from mmedge_export.quantize.golden_differences import golden_differences, with_slack
from mmedge_export.quantize.judged_calls import (
    CALIBRATED,
    calibration_options,
    judged_calls,
)
from mmedge_export.quantize.options import QuantizeOptions
from mmedge_export.quantize.plan_search import PlanSearch
from mmedge_export.quantize.report import QuantizationReport
from mmedge_export.quantize.stage_work import StageWork, quantised
from mmedge_export.quantize.task import Task
from mmedge_export.quantize.whole_graph import add_variant
from mmedge_export.targets.onnxruntime.in_place import add_in_place
from mmedge_export.targets.onnxruntime.schemes import SCALES_BY_AXIS
from mmedge_export.targets.registry import quantizer
from mmedge_export.targets.variants import check_runs_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mmedge.spec import Manifest
    from mmedge_export.calibration.observed import Observed
    from mmedge_export.quantize.accuracy_gate import Verdict
    from mmedge_export.quantize.golden_differences import GoldenDifferences
    from mmedge_export.targets.registry import Store

__all__ = ["quantize"]

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
) -> tuple[Bundle, QuantizationReport]:
    """Add a variant of lower precision, if one is worth keeping.

    On the CPU every node that multiplies by constant weights is timed in each form that the
    precision offers (:mod:`mmedge_export.targets.onnxruntime.schemes`), then the stages; the
    fastest plan is judged by the task. For TensorRT all products are taken in 8 bits, and the
    graph that an engine is built from is judged, in ONNX Runtime on the CPU. Where too much is
    lost, nodes are put back to float32: the stages that do harm are found first, then the nodes in
    them, each turned on alone; the shortest prefix of that ranking that passes is put back
    (:func:`mmedge_export.quantize.back_off.back_off`).

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
        InputError: the GPUs or sizes that engines are to be built for do not fit.
        BackendError: the library that builds engines is not installed, or needs a GPU.
        AccuracyError: nothing that was tried keeps the limit.
        BundleError: the bundle cannot be read or written.
    """
    settings = options or QuantizeOptions()
    tell = progress or (lambda _: None)
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    try:
        if settings.backend != "ort":
            check_runs_once(opened.manifest, f"{settings.backend} {settings.precision}")
        target = quantizer(settings.backend)
        store = target.open_store(opened, settings.backend, settings.precision, settings.engines)
        opened, base = target.float_variant(opened)
        with _folder(resume) as folder:
            return _quantize(
                opened,
                base,
                task or Task.golden(opened),
                folder,
                settings,
                store,
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
    store: Store,
    *,
    tell: Callable[[str], None],
    phase: Callable[[str, int, int], None],
) -> tuple[Bundle, QuantizationReport]:
    manifest = bundle.manifest
    threads, backend = options.threads, options.backend
    if task.invented:
        tell(
            f"judged on made-up samples: {len(task.samples)}, the example and inputs at random; "
            "give --task, or export with samples, to judge on real ones"
        )
    tell(f"running the float network on {len(task.samples)} samples")
    target = quantizer(backend)
    network = BundleNetwork(bundle, threads=threads, backend=backend)
    calls, left_out = judged_calls(task, manifest, network)
    answers = network.answers(calls)
    # What a loop that denoises makes is no choice.
    chooses = manifest.loop is None or manifest.loop.kind == "generate"
    gate = AccuracyGate(task, answers, options, chooses=chooses)
    works = [
        StageWork.start(stage, bundle.file(stage.graph), folder, backend, options.precision)
        for stage in all_stages(manifest)
    ]
    smoothed = _calibrate(bundle, works, task, folder, phase)
    # A larger budget goes on from what a smaller one found, and so do engines for another GPU.
    later = ("budget", "engines")
    settings = {key: value for key, value in asdict(options).items() if key not in later}
    versions = [metadata.version(name) for name in ("mmedge", *target.PACKAGES)]
    data = [_digest(answers), _digest(task.calibration), gate.metric]
    job = digest([sorted(bundle.manifest.files.items()), settings, versions, data])
    search = PlanSearch(
        bundle,
        works,
        task,
        calls,
        gate,
        options,
        tell=tell,
        checkpoint=Checkpoint(folder / "checkpoint.json", job),
    )
    search.choose()
    verdict = search.meet_limit()
    latency = search.latency() if verdict is not None and not target.NOT_TIMED else None
    if latency is not None and options.goal == "speed" and latency.speedup[1] <= 1.0:
        doubt = busy_words(search.others)
        why = f"is not measurably faster{'' if doubt is None else f', but {doubt}'}"
        tell(f"the whole network {why}")
        verdict = None
    reports = search.stages()
    report = QuantizationReport(
        variants=(),
        stages=reports,
        verdict=verdict,
        metric=gate.metric,
        limit=gate.limit,
        samples=len(task.samples),
        attempts=gate.attempts,
        latency_ms=None if latency is None else latency.call,
        speedup=None if latency is None else latency.speedup,
        first_ms=None if latency is None else latency.first,
        token_ms=None if latency is None else latency.token,
        tokens=0 if latency is None else latency.tokens,
        bytes_before=bundle.size(base),
        bytes_after=bundle.size(base),
        remarks=(*_remarks(task, manifest), *_old_stages(works), *smoothed),
        not_checked=(*target.NOT_CHECKED, *_not_checked(task, verdict), *left_out),
        others_share=search.others,
    )
    if verdict is None:
        return bundle, report
    differences = golden_differences(bundle, search.final()[1])
    remarks = [*report.remarks, *differences.remarks()]
    report = replace(report, remarks=tuple(remarks))
    variant = _variant(report, options.precision, differences, base, backend)
    graphs = {work.stage.name: work.graph() for work in works if quantised(work.plan)}
    tell("adding the variant")
    quantized = bundle
    added: list[Variant] = []
    for stored, files in store(bundle, variant, graphs, folder, tell):
        quantized, complete, remark = add_variant(quantized, stored, files, folder)
        added.append(complete)
        remarks += [remark] if remark else []
    in_place: list[Variant] = []
    if backend == "ort" and _grows(manifest):
        stale = replace(added[0], cache="in_place").id
        if stale in {other.id for other in quantized.manifest.variants}:
            quantized = quantized.without_variant(stale)
        quantized, in_place = add_in_place(quantized, remarks.append, beside=added[0].id)
        added += in_place
    report = replace(
        report,
        variants=tuple(one.id for one in added),
        bytes_after=quantized.size(added[0]),
        remarks=tuple(remarks),
        not_checked=added[0].not_checked,
    )
    if latency is not None:
        # It was not taken with the threads that were found before.
        now = {"latency_ms": latency.call[0], "threads": None, "cores": None}
        quantized = quantized.with_metrics({base.id: now})
    if not target.NOT_TIMED:
        manifest = quantized.manifest
        backends = {other.backend for other in manifest.variants if other.target == "cpu"}
        if (len(backends) > 1 or in_place) and manifest.samples:
            quantized, _ = tune(quantized, threads=threads, tell=tell)
    return quantized, report


def _grows(manifest: Manifest) -> bool:
    """Whether a loop that generates has states that grow from token to token."""
    loop = manifest.loop
    return (
        loop is not None
        and loop.kind == "generate"
        and any(s.stage == loop.stage and s.axis is not None for s in manifest.states)
    )


def _digest(samples: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of arrays: what a run that was stopped must have in common to go on."""
    sha = hashlib.sha256()
    for sample in samples:
        for name in sorted(sample):
            value = np.asarray(sample[name])  # texts are lists
            sha.update(f"{name} {value.dtype} {value.shape}".encode())
            sha.update(np.ascontiguousarray(value).tobytes())
    return sha.hexdigest()


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
                name: tensor.channel_max
                for name, tensor in observed.get(work.stage.name, {}).items()
                if tensor.channel_max is not None
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
        work.take_ranges(observed.get(work.stage.name, {}))
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
        options=calibration_options(task, bundle.manifest),
        state=state,
        progress=lambda sample_number: phase(state.name, sample_number, count),
    )


def _variant(
    report: QuantizationReport,
    precision: str,
    differences: GoldenDifferences,
    base: Variant,
    backend: str,
) -> Variant:
    """What is known of the variant before its files are made: as yet it has the float32 ones."""
    target = quantizer(backend)
    whole, stages = differences.whole, differences.stages
    largest = max(tolerance.rtol for tolerance in (whole, *stages.values()))
    least = target.least_tolerance(base)
    versions = {name: metadata.version(name) for name in target.PACKAGES}
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
        backend,
        precision,
        "cpu",
        base.files,
        with_slack(whole, least),
        {name: with_slack(tolerance, least) for name, tolerance in stages.items()},
        build=versions | report.record(),
        metrics=metrics,
        not_checked=report.not_checked,
    )


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
    lines = []
    if task.invented:
        lines.append(
            f"real inputs: judged on {len(task.samples)} made-up samples, the example and inputs "
            "at random"
        )
    if task.metric is None:
        choices = [
            f"the largest element of {name!r} is another in {changed_rows} of {rows} rows"
            for name, (changed_rows, rows) in ({} if verdict is None else verdict.changed).items()
            if changed_rows
        ]
        lines.append(
            "; ".join(["the task: no metric, judged by how far outputs lie apart", *choices])
        )
    return tuple(line(text) for text in lines)


def _remarks(task: Task, manifest: Manifest) -> tuple[str, ...]:
    remarks = []
    if task.metric is not None and task.shared:
        remarks.append(
            "the samples are few: ranges were taken from samples that are judged as well"
        )
    loop = manifest.loop
    if loop is not None and loop.kind == "generate" and loop.limit > CALIBRATED:
        remarks.append(f"ranges are of the first {CALIBRATED} tokens of each sample at most")
    if task.metric is not None and loop is None and manifest.states and task.carries_state:
        remarks.append(
            "each sample begins with the state that the one before left: the bound of the drop "
            "takes them for independent"
        )
    return tuple(remarks)


@contextlib.contextmanager
def _folder(resume: str | Path | None) -> Iterator[Path]:
    if resume is None:
        with tempfile.TemporaryDirectory(prefix="mmedge-quantize-") as temporary:
            yield Path(temporary)
        return
    folder = Path(resume)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
