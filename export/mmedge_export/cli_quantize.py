"""``mmedge quantize``: add a variant of lower precision to a bundle."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmedge.bundle import Bundle
from mmedge.cli.console import (
    BundleArgument,
    JsonOption,
    ThreadsOption,
    emit_json,
    phases,
    stderr,
    table,
)
from mmedge.errors import InputError
from mmedge_export.install import installed
from mmedge_export.loader import load_object
from mmedge_export.quantize.limits import BUDGET, GOALS, MAX_DROP, MAX_ERROR, PRECISIONS
from mmedge_export.source import Model

if TYPE_CHECKING:
    from mmedge_export.quantize.report import Report
    from mmedge_export.quantize.task import Task

__all__ = [
    "BudgetOption",
    "GoalOption",
    "MaxDropOption",
    "MaxErrorOption",
    "MinMetricOption",
    "ResumeOption",
    "print_report",
    "quantize",
    "quantize_bundle",
]

MaxDropOption = Annotated[
    float | None,
    typer.Option(
        help=f"Most that the metric may drop by, with confidence 95 %; {MAX_DROP:g} by default.",
        min=0,
    ),
]
MinMetricOption = Annotated[
    float | None, typer.Option(help="Metric that must be kept, in place of --max-drop.")
]
MaxErrorOption = Annotated[
    float,
    typer.Option(
        help="Without a metric: largest relative error of an output on any golden sample.", min=0
    ),
]
GoalOption = Annotated[
    str,
    typer.Option(
        "--for", help=f"{' or '.join(GOALS)}: keep what is measurably faster here, or smaller."
    ),
]
BudgetOption = Annotated[int, typer.Option(help="Most candidates that are judged.", min=1)]
ResumeOption = Annotated[
    Path | None, typer.Option(help="Folder that keeps what is known, to go on after a stop.")
]


def quantize(
    bundle: BundleArgument,
    *,
    task: Annotated[
        str | None,
        typer.Option(
            help="file.py:factory or package.module:factory of a Task, or of a Model with samples "
            "and a metric. Without it the golden samples are the judge."
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help=f"{' or '.join(PRECISIONS)}.")] = "int8",
    max_drop: MaxDropOption = None,
    min_metric: MinMetricOption = None,
    max_error: MaxErrorOption = MAX_ERROR,
    goal: GoalOption = "speed",
    budget: BudgetOption = BUDGET,
    threads: ThreadsOption = None,
    backend: Annotated[
        str, typer.Option(help="That is to run it on the CPU: ort or openvino.")
    ] = "ort",
    resume: ResumeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a variant of lower precision that keeps the task and pays; needs no torch."""
    with contextlib.redirect_stdout(sys.stderr):
        judged = None if task is None else _task(task)
    report = quantize_bundle(
        Bundle.open(bundle),
        judged,
        precision=precision,
        max_drop=max_drop,
        min_metric=min_metric,
        max_error=max_error,
        goal=goal,
        budget=budget,
        threads=threads,
        backend=backend,
        resume=resume,
    )
    if as_json:
        emit_json({"bundle": bundle, **report.to_dict()})
    else:
        print_report(report)
    if report.variant is None:
        raise typer.Exit(1)


def _task(spec: str) -> Task:
    from mmedge_export.quantize.task import Task

    made = load_object(spec)
    if isinstance(made, Model):
        return Task.of(made)
    if not isinstance(made, Task):
        raise InputError(
            f"--task {spec} gave {type(made).__name__}; expected a mmedge_export.quantize.Task, or "
            "a mmedge_export.Model with evaluation samples and a metric"
        )
    return made


def quantize_bundle(
    bundle: Bundle,
    task: Task | None,
    **options: Any,  # noqa: ANN401
) -> Report:
    """Quantise with progress on stderr; what the user's own metric prints goes there too.

    Args:
        bundle: open; it is closed.
        task: as :func:`mmedge_export.quantize.quantize` takes it.
        options: the others that it takes.
    """
    # onnx and all that: not before it is needed.
    with installed("quantising"):
        from mmedge_export.quantize.run import quantize as add_variant

    console = stderr()
    with contextlib.redirect_stdout(sys.stderr), phases(console) as tell:
        made, report = add_variant(
            bundle,
            task,
            progress=lambda line: console.print(line, markup=False, soft_wrap=True),
            phase=tell,
            **options,
        )
    made.close()
    return report


def print_report(report: Report) -> None:
    """The tables of stages and of the whole network."""
    table(
        "stages",
        ("stage", "nodes", "kept float32, and why", "speed against float32", "size"),
        report.rows(),
    )
    table("network", ("what", "value"), report.summary())
