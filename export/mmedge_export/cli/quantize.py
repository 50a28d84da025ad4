"""``mmedge quantize``: add a variant of lower precision to a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmedge.bundle import Bundle
from mmedge.cli.console import (
    BundleArgument,
    JsonOption,
    ThreadsOption,
    emit_json,
    list_not_checked,
    phases,
    say,
    stderr,
    table,
    waiting,
    warn,
)
from mmedge.cli.output import (
    BundleOutputOption,
    OverwriteOption,
    RemoveSignatureOption,
    misuse,
    rewriting,
)
from mmedge.cli.trust import TrustOptions
from mmedge.errors import InputError
from mmedge_export.cli.build import (
    ENGINES,
    ProfileOption,
    TargetOption,
    WorkspaceOption,
    check_targets,
)
from mmedge_export.cli.streams import stdout_on_stderr
from mmedge_export.install import installed
from mmedge_export.model import Model
from mmedge_export.quantize.limits import BUDGET, GOALS, MAX_DROP, MAX_ERROR
from mmedge_export.quantize.options import QuantizeOptions
from mmedge_export.sources.python_object import load_object
from mmedge_export.targets.registry import precisions, quantizes
from mmedge_export.targets.tensorrt import CURRENT, EngineOptions
from mmedge_export.targets.tensorrt.profiles import parse_profiles

if TYPE_CHECKING:
    from mmedge_export.quantize.report import QuantizationReport
    from mmedge_export.quantize.task import Task

__all__ = [
    "BudgetOption",
    "GoalOption",
    "MaxDropOption",
    "MaxErrorOption",
    "MinMetricOption",
    "ResumeOption",
    "check_choice",
    "check_resume",
    "print_report",
    "quantize",
    "quantize_bundle",
    "quantize_options",
    "refuse_metric_limits",
]


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(
            f"expected a positive number, got {value:g}: no number of samples shows that nothing "
            "at all is lost"
        )
    return value


MaxDropOption = Annotated[
    float | None,
    typer.Option(
        help=f"Most that the metric may drop by, with confidence 95 %; {MAX_DROP:g} by default.",
        callback=_positive,
    ),
]
MinMetricOption = Annotated[
    float | None, typer.Option(help="Metric that must be kept, in place of --max-drop.")
]
MaxErrorOption = Annotated[
    float | None,
    typer.Option(
        help="Without a metric: largest relative error of an output on any golden sample; "
        f"{MAX_ERROR:g} by default.",
        min=0,
    ),
]
GoalOption = Annotated[
    str | None,
    typer.Option(
        "--for",
        help=f"{' or '.join(GOALS)}: keep what is measurably faster here (default), or smaller.",
    ),
]
BudgetOption = Annotated[
    int | None,
    typer.Option(help=f"Most candidates that are judged; {BUDGET} by default.", min=1),
]
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
    precision: Annotated[str, typer.Option(help=f"{', '.join(precisions())}.")] = "int8",
    max_drop: MaxDropOption = None,
    min_metric: MinMetricOption = None,
    max_error: MaxErrorOption = None,
    goal: GoalOption = None,
    budget: BudgetOption = None,
    threads: ThreadsOption = None,
    backend: Annotated[
        str,
        typer.Option(
            help="That is to run it: ort or openvino (the CPU), tensorrt-rtx (needs no GPU to "
            "build) or tensorrt."
        ),
    ] = "ort",
    target: TargetOption = None,
    profile: ProfileOption = None,
    workspace: WorkspaceOption = None,
    resume: ResumeOption = None,
    output: BundleOutputOption = None,
    overwrite: OverwriteOption = False,
    remove_signature: RemoveSignatureOption = False,
    as_json: JsonOption = False,
    trust: TrustOptions,
) -> None:
    """Add a variant of lower precision that keeps the task and pays; needs no torch."""
    backend = backend.replace("-", "_")
    check_choice("--backend", backend, quantizes())
    check_choice("--precision", precision, precisions(backend))
    engines = _engines(backend, target, profile, workspace)
    check_resume(resume)
    options = quantize_options(
        precision=precision,
        max_drop=max_drop,
        min_metric=min_metric,
        max_error=max_error,
        goal=goal,
        budget=budget,
        threads=threads,
        backend=backend,
        engines=engines,
    )
    if task is None:
        refuse_metric_limits(options, "without --task there is none")
    trust.check(bundle)
    with rewriting(bundle, output, overwrite=overwrite, remove_signature=remove_signature) as place:
        with stdout_on_stderr(), waiting(f"loading {task}"):
            task_object = None if task is None else _task(task)
        if task_object is not None and task_object.metric is None:
            refuse_metric_limits(options, f"{task} has none")
        report = quantize_bundle(
            Bundle.open(place.path),
            task_object,
            options,
            resume,
        )
        place.keep = report.variant is not None
    if as_json:
        emit_json({"bundle": place.shown_path, **report.to_dict()})
    else:
        print_report(report)
        list_not_checked(report.not_checked)
    if report.variant is None:
        raise typer.Exit(1)


def _engines(
    backend: str, targets: list[str] | None, profile: list[str] | None, workspace: int | None
) -> EngineOptions | None:
    """What engines are built for; None for a backend that has none."""
    if backend not in ENGINES:
        for option, value in (("--target", targets), ("--profile", profile),
                              ("--workspace", workspace)):  # fmt: skip
            if value:
                raise typer.BadParameter(f"{option} is for engines; {backend} runs on this CPU")
        return None
    check_targets(targets or ())
    with misuse("--profile"):
        sizes = parse_profiles(profile or ())
    mebibytes = None if workspace is None else workspace << 20
    return EngineOptions(tuple(targets or (CURRENT,)), sizes, mebibytes)


def check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a word that is none of those that an option takes."""
    if value not in choices:
        raise typer.BadParameter(
            f"expected {' or '.join(choices)}; got {value!r}", param_hint=option
        )


def check_resume(folder: Path | None) -> None:
    """Refuse --resume of what is no folder."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise typer.BadParameter(f"{folder} is no folder", param_hint="--resume")


def quantize_options(
    *,
    precision: str,
    max_drop: float | None,
    min_metric: float | None,
    max_error: float | None,
    goal: str | None,
    budget: int | None,
    threads: int | None = None,
    backend: str = "ort",
    engines: EngineOptions | None = None,
) -> QuantizeOptions:
    """The options that ``quantize`` and ``export --precision`` share; None: the default.

    Raises:
        BadParameter: two contradict each other, or one is unknown.
    """
    if max_drop is not None and min_metric is not None:
        raise typer.BadParameter("--max-drop and --min-metric both limit the metric: give one")
    if goal is not None:
        check_choice("--for", goal, GOALS)
    optional = {"max_error": max_error, "goal": goal, "budget": budget}
    return QuantizeOptions(
        precision=precision,
        max_drop=max_drop,
        min_metric=min_metric,
        threads=threads,
        backend=backend,
        engines=engines,
        **{name: value for name, value in optional.items() if value is not None},  # type: ignore[arg-type]
    )


def refuse_metric_limits(options: QuantizeOptions, why: str) -> None:
    """Refuse limits of a metric where there is none: the outputs alone would be judged."""
    for name in ("max_drop", "min_metric"):
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(
                f"{option} limits a metric, and {why}; give Model(metric=...) with evaluation "
                "samples, or --max-error for the outputs"
            )


def _task(spec: str) -> Task:
    from mmedge_export.quantize.task import Task

    instance = load_object(spec)
    if isinstance(instance, Model):
        return Task.of(instance)
    if not isinstance(instance, Task):
        raise InputError(
            f"--task {spec} gave {type(instance).__name__}; expected a "
            "mmedge_export.quantize.Task, or a mmedge_export.Model with evaluation samples and a "
            "metric"
        )
    return instance


def quantize_bundle(
    bundle: Bundle,
    task: Task | None,
    options: QuantizeOptions,
    resume: Path | None,
) -> QuantizationReport:
    """Quantise with progress on stderr; what the user's own metric prints goes there too.

    Args:
        bundle: open; it is closed.
        task: as :func:`mmedge_export.quantize.quantize` takes it, like the next two.
        options: precision, limits and goal.
        resume: a folder for what is known so far.
    """
    # onnx and all that: not before it is needed.
    with installed("quantising"):
        from mmedge_export.quantize.quantize_bundle import quantize as add_variant

    console = stderr()
    with stdout_on_stderr(), phases(console) as tell:
        new_bundle, report = add_variant(
            bundle,
            task,
            options,
            resume=resume,
            progress=lambda line: say(line, console),
            phase=tell,
        )
    new_bundle.close()
    if report.warning is not None:
        warn(report.warning)
    return report


def print_report(report: QuantizationReport) -> None:
    """The tables of stages and of the whole network."""
    table(
        "stages",
        ("stage", "nodes", "kept float32, and why", "speed against float32", "size"),
        report.rows(),
    )
    table("network", ("what", "value"), report.summary())
