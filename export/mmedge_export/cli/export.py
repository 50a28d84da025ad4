"""``mmedge export``: a trained network becomes a bundle."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmedge.bundle import Bundle
from mmedge.cli.console import (
    JsonOption,
    emit_json,
    list_not_checked,
    number,
    say,
    table,
    waiting,
    warn,
)
from mmedge.cli.draw import size as size_of
from mmedge.cli.loops import loop_rows
from mmedge.cli.output import check_new
from mmedge_export.capture.golden import SAMPLES
from mmedge_export.cli.quantize import (
    BudgetOption,
    GoalOption,
    MaxDropOption,
    MaxErrorOption,
    MinMetricOption,
    ResumeOption,
    check_resume,
    print_report,
    quantize_bundle,
    quantize_options,
    refuse_metric_limits,
)
from mmedge_export.cli.source_options import SourceFlags
from mmedge_export.install import installed
from mmedge_export.open_questions import INVENTED, NOT_RUN
from mmedge_export.sources.loader import load_source
from mmedge_export.sources.user_code import each
from mmedge_export.targets.registry import precisions

if TYPE_CHECKING:
    from mmedge.spec import Manifest, Variant
    from mmedge_export.quantize.report import QuantizationReport

__all__ = ["export"]

#: What a bundle can have beside float32 where it was exported.
_PRECISIONS = precisions("ort")

SourceArgument = Annotated[
    str,
    typer.Argument(
        help="file.py:factory, package.module:factory, model.onnx, optimum:DIR, hf:DIR, "
        "lerobot:DIR or zoo:NAME."
    ),
]
OutputOption = Annotated[
    Path,
    typer.Option("--output", "-o", help="The bundle: a directory, or one file NAME.mmedge."),
]
OpsetOption = Annotated[
    int | None, typer.Option(help="Version of the ONNX operators; default 20.", min=1)
]
GoldenSamplesOption = Annotated[int, typer.Option(help="Golden samples in the bundle.", min=1)]
RtolOption = Annotated[
    float | None,
    typer.Option(help="Largest difference, as a share of an output's largest value.", min=0),
]
SplitOption = Annotated[
    bool | None,
    typer.Option(
        "--split/--no-split",
        help="--split: keep the plan cut alone; --no-split: whole alone; default: both.",
    ),
]
NameOption = Annotated[str | None, typer.Option(help="Name of the bundle.")]
PrecisionOption = Annotated[
    str,
    typer.Option(
        help=f"fp32 alone, or {' or '.join(_PRECISIONS)} as well where it pays and the metric "
        "holds."
    ),
]
AllowNanOption = Annotated[
    bool, typer.Option("--allow-nan", help="Take weights and golden outputs that are NaN.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an older bundle.")]


def export(
    source: SourceArgument,
    output: OutputOption,
    *,
    flags: SourceFlags,
    opset: OpsetOption = None,
    golden_samples: GoldenSamplesOption = SAMPLES,
    rtol: RtolOption = None,
    split: SplitOption = None,
    name: NameOption = None,
    overwrite: OverwriteOption = False,
    allow_nan: AllowNanOption = False,
    precision: PrecisionOption = "fp32",
    max_drop: MaxDropOption = None,
    min_metric: MinMetricOption = None,
    max_error: MaxErrorOption = None,
    goal: GoalOption = None,
    budget: BudgetOption = None,
    resume: ResumeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Trace a network, check the graph against it, and write a bundle."""
    if precision != "fp32" and precision not in _PRECISIONS:
        raise typer.BadParameter(f"--precision {precision!r}: fp32, {' or '.join(_PRECISIONS)}")
    check_resume(resume)
    options = quantize_options(
        precision="int8" if precision == "fp32" else precision,
        max_drop=max_drop,
        min_metric=min_metric,
        max_error=max_error,
        goal=goal,
        budget=budget,
    )
    if precision == "fp32":
        _refuse_alone(
            max_drop=max_drop, min_metric=min_metric, max_error=max_error, budget=budget,
            resume=resume, **{"for": goal},
        )  # fmt: skip
    elif source.lower().endswith(".onnx"):
        refuse_metric_limits(options, "an ONNX file has none")
    check_new(output, overwrite=overwrite)
    source_options = flags.options()
    # What the user's own code prints must not mix with the result.
    with contextlib.redirect_stdout(sys.stderr):
        with waiting(f"loading {source}"):
            source_model = load_source(source, source_options)
        model = source_model.model
        with installed("exporting"):
            from mmedge_export.export_bundle import export as export_bundle
            from mmedge_export.quantize.task import Task
        if precision != "fp32" and model.metric is None:
            refuse_metric_limits(options, f"{source} has none")
        if precision != "fp32" and model.samples is not None:
            # Taken more than once.
            model = replace(model, samples=list(each(model.samples, "sample")))
        bundle = export_bundle(
            replace(source_model, model=model),
            output,
            opset=opset,
            samples_limit=golden_samples,
            overwrite=overwrite,
            rtol=rtol,
            split=split,
            name=name,
            source=source,
            allow_nan=allow_nan,
            progress=say,
        )
        task = None if precision == "fp32" or model.metric is None else Task.of(model)
    report = None
    if precision != "fp32":
        try:
            report = quantize_bundle(bundle, task, options, resume)
        except BaseException:  # a signal too
            warn(f"{output} holds the float32 network alone; mmedge quantize goes on from it")
            raise
        bundle = Bundle.open(output)
    with bundle:
        manifest = bundle.manifest
        total = sum(len(bundle.read(file)) for file in manifest.files)
    parity = manifest.variants[0].metrics.get("parity")  # an ONNX file has none
    if as_json:
        emit_json(
            {
                "path": str(output),
                "name": manifest.name,
                "bytes": total,
                "inputs": {name: str(spec) for name, spec in manifest.inputs().items()},
                "outputs": list(manifest.outputs),
                "modalities": {m.name: list(m.inputs) for m in manifest.modalities},
                "stages": [stage.name for stage in manifest.stages],
                "states": [asdict(state) for state in manifest.states],
                "loops": [asdict(loop) for loop in manifest.loops],
                "variants": [variant.id for variant in manifest.variants],
                "samples": manifest.samples,
                "parity": parity,
                "provenance": dict(manifest.provenance),
                "not_checked": list(manifest.not_checked),
                "not_run": [v.id for v in manifest.variants if NOT_RUN in v.not_checked],
                "quantized": None if report is None else report.to_dict(),
            }
        )
        _check_kept(report)
        return
    table(
        f"{manifest.name}: {output} ({size_of(total)})",
        ("what", "value"),
        [
            *(
                (f"modality {m.name}", "; ".join(str(manifest.inputs()[n]) for n in m.inputs))
                for m in manifest.modalities
            ),
            *(
                (f"output {spec.name}", str(spec))
                for stage in manifest.stages
                for spec in stage.outputs
                if spec.name in manifest.outputs
            ),
            ("stages", ", ".join(stage.name for stage in manifest.stages)),
            *loop_rows(manifest),
            ("variants", ", ".join(map(_variant, manifest.variants))),
            ("golden samples", f"{manifest.samples}{_made_up_note(manifest)}"),
            (
                "largest difference from the network",
                "the file itself is the reference" if parity is None else number(parity),
            ),
        ],
    )
    if report is not None:
        print_report(report)
    list_not_checked([*manifest.not_checked, *(() if report is None else report.not_checked)])
    _check_kept(report)


def _refuse_alone(**options: object) -> None:
    """Options of a lower precision say nothing where none is asked for."""
    names = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if names:
        raise typer.BadParameter(
            f"{', '.join(names)}: for a lower precision, and none is asked for; add --precision "
            f"{' or '.join(_PRECISIONS)}"
        )


def _variant(variant: Variant) -> str:
    return f"{variant.id} ({NOT_RUN})" if NOT_RUN in variant.not_checked else variant.id


def _made_up_note(manifest: Manifest) -> str:
    made_up = manifest.provenance.get("samples") == INVENTED
    return ": the example and made-up inputs" if made_up else ""


def _check_kept(report: QuantizationReport | None) -> None:
    """Exit 1 where a lower precision was asked for and none was worth keeping."""
    if report is not None and report.variant is None:
        raise typer.Exit(1)
