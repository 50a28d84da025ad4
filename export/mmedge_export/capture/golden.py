"""Golden samples: what goes into a bundle as proof, and what a graph is checked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import ExportError
from mmedge.spec import Array, Sample, Tolerance
from mmedge.tolerance import difference
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.case import ParityCase
from mmedge_export.capture.finite import check_outputs, has_nan
from mmedge_export.capture.run_size import LARGE
from mmedge_export.sources.user_code import each
from mmedge_export.text import side_check

if TYPE_CHECKING:
    from mmedge_export.capture.run_size import RunSize
    from mmedge_export.model import Model

__all__ = [
    "EVERY",
    "GENERATED",
    "GENERATED_LARGE",
    "SAMPLES",
    "RepeatabilityError",
    "Run",
    "absences",
    "checked",
    "every",
    "golden",
    "has_other_sizes",
    "make_up",
    "repeatable",
]

#: Samples that a bundle takes from its model as golden ones, unless asked otherwise.
SAMPLES = 16

#: Golden samples of a model that brings none: its example, and random inputs of the same kind.
GENERATED = 4

#: As many of one whose run is large.
GENERATED_LARGE = 2

#: Samples between two lines of progress.
EVERY = 100


class RepeatabilityError(ExportError):
    """The network gives other outputs for the same inputs."""


Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def golden(
    model: Model,
    run: Run,
    sample_inputs: Iterator[dict[str, Array]],
    limit: int,
    *,
    allow_nan: bool = False,
) -> list[Sample]:
    """The first ``limit`` samples of ``model`` with the network's own outputs.

    Args:
        model: has the samples.
        run: the network itself.
        sample_inputs: what :func:`checked` made of them; the rest stays in it.
        limit: at least 1.
        allow_nan: whether the network's answers may be NaN.

    Raises:
        ExportError: a sample does not fit the inputs, or the network fails on it or answers NaN.
    """
    samples = []
    for number, inputs in enumerate(islice(sample_inputs, limit)):
        outputs = run(inputs)
        if not allow_nan:
            check_outputs(model, outputs, f"sample {number}")
        samples.append(Sample(inputs, outputs))
    if not samples:
        raise ExportError("samples are empty; give at least one, or None to have them generated")
    return samples


def checked(model: Model) -> Iterator[dict[str, Array]] | None:
    """Inputs of each of the model's samples in turn, checked as they come; None without samples.

    Raises:
        ExportError: a sample does not fit the inputs.
    """
    if model.samples is None:
        return None
    return _check_each(model, model.samples)


def _check_each(
    model: Model, samples: Iterable[tuple[Mapping[str, Array], Any]]
) -> Iterator[dict[str, Array]]:
    check_side = side_check(model.inputs, model.modalities().values())
    for index, pair in enumerate(each(samples, "sample")):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ExportError(
                f"sample {index}: expected a pair (inputs, target), got {type(pair).__name__}; "
                "give None as the target of a sample without one"
            )
        inputs = probe_inputs.check(model, pair[0], f"sample {index}")
        check_side(inputs)
        yield inputs


def every(
    model: Model,
    run: Run,
    samples: Sequence[Sample],
    further_inputs: Iterator[dict[str, Array]] | None,
    tell: Callable[[str], None],
    leave: Callable[[str], None],
    size: RunSize,
    *,
    few_batches: bool,
) -> Iterator[ParityCase]:
    """Every sample as it is, and at another batch size where the batch is dynamic.

    Samples are taken one at a time and let go, so that any number of them fits in memory. Those
    that are made up here are not taken at another batch size where a run is large: random inputs
    were compared at such sizes. With ``few_batches``
    the golden ones alone are.

    Args:
        model: says which dimension is the batch (:func:`.probe_inputs.rebatch`).
        run: the network itself.
        samples: golden samples.
        further_inputs: inputs of the samples after them.
        tell: called with a line of text every :data:`EVERY` samples.
        leave: called with a line on what is not checked: a sample at another batch size that the
            network refuses, or is not tried at.
        size: says which runs are large.
        few_batches: whether further samples, steps of a loop, are taken as they are alone.

    Raises:
        ExportError: a sample does not fit the inputs, or the network fails on it as it is.
    """
    golden_cases = (ParityCase("", sample.inputs, sample.outputs) for sample in samples)
    further_cases = (ParityCase("", inputs, run(inputs)) for inputs in further_inputs or ())
    previous_inputs: Mapping[str, Array] | None = None
    has_refused = False
    skipped: list[int] = []
    for index, case in enumerate(chain(golden_cases, further_cases)):
        yield replace(case, what=f"sample {index}")
        other = probe_inputs.rebatch(model, case.inputs, previous_inputs)
        previous_inputs = case.inputs
        if other is not None and (
            index >= len(samples)
            if few_batches
            else model.samples is None and size.is_large(probe_inputs.sizes(model, other[1]))
        ):
            skipped.append(index)
        elif other is not None:
            words, inputs = other
            what = f"sample {index} at {words}"
            try:
                outputs = run(inputs)
            except ExportError as refusal:
                if not has_refused:
                    leave(f"{what}, which the network refuses ({refusal})")
                has_refused = True
            else:
                yield ParityCase(what, inputs, outputs)
        if (index + 1) % EVERY == 0:
            tell(f"checked {index + 1} samples")
    if skipped and few_batches:
        leave(f"loop: {len(skipped)} of the steps that were compared, at another batch size")
    elif skipped:
        leave(
            f"{len(skipped)} of the made-up samples, at another batch size: a run takes more than "
            f"{LARGE:,} operations, and random inputs were compared at other sizes"
        )


def absences(
    model: Model, run: Run, outputs: Mapping[str, Array], leave: Callable[[str], None]
) -> list[ParityCase]:
    """The example without each optional modality, and without all of them.

    What the runtime puts in their place (:func:`mmedge_export.capture.probe_inputs.without`) is
    nothing that a network must have been trained with: attention over no valid token gives NaN.

    Args:
        model: says which modalities are optional.
        run: the network itself.
        outputs: those of the example.
        leave: called with a line on what is not checked: the network needs one of its optional
            modalities.

    Raises:
        ExportError: the network refuses the absence of one modality, or answers it with NaN.
    """
    groups = model.modalities()
    optional = [name for name, inputs in groups.items() if not model.inputs[inputs[0]].required]
    sets = [[name] for name in optional]
    if len(optional) > 1:
        sets.append(optional)
    cases = []
    for absent in sets:
        what = f"{' and '.join(absent)} absent"
        inputs = probe_inputs.without(model, probe_inputs.example(model), absent)
        fault, cause = "", None
        try:
            case = ParityCase(what, inputs, run(inputs))
        except ExportError as refusal:
            fault, cause = f"the network refuses it ({refusal})", refusal
        else:
            nan_outputs = [
                n for n, v in case.outputs.items() if has_nan(v) and not has_nan(outputs[n])
            ]
            if not nan_outputs:
                cases.append(case)
                continue
            fault = f"output {nan_outputs[0]!r} of the network has NaN"
        if len(absent) > 1:
            leave(f"{what}: {fault}; one of them must be given")
            continue
        stand_ins = ", ".join(f"{name!r} {list(inputs[name].shape)}" for name in groups[absent[0]])
        kind = "token" if model.inputs[groups[absent[0]][0]].absent == "token" else "zeros"
        raise ExportError(
            f"modality {absent[0]!r} is optional, but with {what} (the {kind} standing in for "
            f'{stand_ins}) {fault}. Say required=True, give absent="token" with an absent_token '
            "that the network takes, or make the network handle what stands in (an attention mask "
            "of zeros leaves nothing to attend to)"
        ) from cause
    return cases


def has_other_sizes(model: Model, samples: Sequence[Sample]) -> bool:
    """Whether the user's ``samples`` have another size than the example in every dimension."""
    if model.samples is None:
        return False
    sizes = probe_inputs.sizes(model, probe_inputs.example(model))
    return all(
        any(probe_inputs.sizes(model, sample.inputs)[symbol] != size for sample in samples)
        for symbol, size in sizes.items()
    )


def repeatable(run: Run, inputs: Mapping[str, Array], tolerance: Tolerance) -> dict[str, Array]:
    """Outputs for ``inputs``.

    Raises:
        RepeatabilityError: a second run gives others.
    """
    first, second = run(inputs), run(inputs)
    for name, value in first.items():
        deviation = difference(second[name], value, tolerance)
        if not deviation.passes:
            raise RepeatabilityError(
                f"the network is not deterministic: on the same input, output {name!r} "
                f"{deviation} between two runs; take random operations and state that is kept "
                "between calls out of its forward"
            )
    return first


def make_up(
    model: Model,
    run: Run,
    limit: int,
    size: RunSize,
    leave: Callable[[str], None],
    *,
    least: int = 0,
) -> list[Sample]:
    """Golden samples of a model without any, with the network's own outputs.

    They are its example and seeded random inputs of the same kind
    (:func:`mmedge_export.capture.probe_inputs.random`) at several sizes, :data:`GENERATED` in all,
    or :data:`GENERATED_LARGE` where a run of the example is large. Booleans and integers that are
    constant in the example are varied where the network takes that. Random inputs that the network
    refuses or answers with NaN are left out.

    Args:
        model: has the example.
        run: the network itself.
        limit: most samples, at least 1.
        size: says which runs are large.
        leave: called with a line on what is not checked.
        least: smallest integer that may be made up, below those of the example.
    """
    example = probe_inputs.example(model)
    samples = [Sample(example, run(example))]
    opt = {name: limits.opt for name, limits in model.dimensions().items()}
    variety = [opt, *probe_inputs.probes(model)]
    count = min(limit, GENERATED)
    if size.is_large(probe_inputs.sizes(model, example)) and count > GENERATED_LARGE:
        leave(
            f"more than {GENERATED_LARGE} made-up samples: a run takes {size.operations(opt):,} "
            "operations"
        )
        count = GENERATED_LARGE
        variety = variety[1:] or variety  # at which it is compared in any case
    for index in range(count - 1):
        # What is first drawn at some sizes is what is compared there.
        seed, place = divmod(index, len(variety))
        sizes = variety[place]
        answer = partial(_answer, model, run, sizes, seed, least=least)
        sample = answer(vary=True)
        # The sizes of an ONNX file's outputs are what it says, whatever its inputs hold.
        if sample is None or isinstance(model.module, Path):
            plain_sample = answer(vary=False)
            if sample is None or (
                plain_sample is not None and _shapes(plain_sample) != _shapes(sample)
            ):
                sample = plain_sample
        if sample is not None:
            samples.append(sample)
    return samples


def _shapes(sample: Sample) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in sample.outputs.items()}


def _answer(
    model: Model, run: Run, sizes: Mapping[str, int], seed: int, *, vary: bool, least: int
) -> Sample | None:
    """A generated sample; None where the network refuses it or answers NaN."""
    # A generator of its own for each, so that a refused one does not change the others.
    rng = np.random.default_rng(seed)
    inputs = probe_inputs.random(model, sizes, rng, vary=vary, least=least)
    try:
        outputs = run(inputs)
    except ExportError:
        return None
    return None if any(map(has_nan, outputs.values())) else Sample(inputs, outputs)
