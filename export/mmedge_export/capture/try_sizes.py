"""The graph is tried at other sizes than the example's, before anything is made of it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import ExportError
from mmedge.tolerance import difference
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.case import ParityCase, allow_more
from mmedge_export.sources import onnx_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mmedge.spec import Array, Tolerance
    from mmedge.tolerance import Difference
    from mmedge_export.capture.golden import Run
    from mmedge_export.capture.limits import Limits
    from mmedge_export.capture.run_size import RunSize
    from mmedge_export.model import Model

__all__ = ["try_sizes"]

#: Of the way from the example to sizes whose run is too large.
_SHARES = (1 / 2, 1 / 4, 1 / 8, 1 / 16)


@dataclass(frozen=True)
class _Trial:
    """The network at ``sizes``, unless it refuses them, and how far the graph is from it."""

    sizes: dict[str, int]
    what: str
    cases: tuple[ParityCase, ...] = ()
    #: Output and difference of the worst; None where the graph does not run.
    worst: tuple[str, Difference] | None = None
    refusal: ExportError | None = None
    #: Whether random inputs alone were compared.
    is_bounded: bool = False

    @property
    def passes(self) -> bool:
        return self.worst is not None and self.worst[1].passes


def try_sizes(
    model: Model,
    limits: Limits,
    run: Run,
    graph: Run,
    tolerance: Tolerance,
    leave: Callable[[str], None],
    *,
    size: RunSize,
    varied: bool,
    least: int,
    note: Callable[[ParityCase, Mapping[str, Array]], None],
) -> list[ParityCase]:
    """Try ``graph`` at the sizes of :func:`.probe_inputs.probes` and at witnesses.

    A case in which it is not the network for no reason that is known is returned and not noted: the
    parity check finds the tensor that differs.

    Args:
        model: has the example.
        limits: what is known of the assumptions on sizes.
        run: the network itself.
        graph: the exported graph.
        tolerance: of its outputs.
        leave: called with a line on what is not checked.
        size: says which runs are large. There random inputs alone are compared, where the network
            takes such; and sizes nearer to the example's, where a run would be one of the largest.
        varied: whether the model's samples have other sizes than the example in every dimension.
            If so, a size that the network refuses is left unchecked: inputs that depend on each
            other (lengths, indices) can be real in samples only.
        least: smallest integer that may be made up, below those of the example.
        note: called with each case in which the graph is the network, and what it gave.

    Returns:
        What was tried and the network did not refuse.

    Raises:
        ExportError: the graph is not the network at some sizes, for an assumption that does not
            hold there, or the network refuses sizes that its dimensions allow.
    """
    probes = list(probe_inputs.probes(model))
    example = probe_inputs.sizes(model, probe_inputs.example(model))
    most = size.largest([example, *probes[:1]])
    waiting = deque(_bounded(probes, example, limits, size, most, leave))
    if 1 in example.values():  # at which it was not traced
        waiting.appendleft(example)
    tried_sizes: list[dict[str, int]] = []
    trials: list[_Trial] = []
    while waiting:
        sizes = limits.domain.near(waiting.popleft())
        if (
            sizes is not None
            and sizes not in tried_sizes
            and probe_inputs.elements(model, sizes) <= probe_inputs.LARGEST
        ):
            tried_sizes.append(sizes)
            is_large = size.is_large(sizes)
            trials.append(
                _try(model, sizes, run, graph, tolerance, note, one_case=is_large, least=least)
            )
        if not waiting:
            waiting.extend(limits.witnesses(tried_sizes))
    differing = [trial for trial in trials if trial.refusal is None and not trial.passes]
    refusals = [trial for trial in trials if trial.refusal is not None]
    reason = limits.reason(
        [trial.sizes for trial in differing],
        [trial.sizes for trial in refusals],
        [trial.sizes for trial in trials if trial.passes],
    )
    if differing and reason:
        raise ExportError(
            _rounding(differing, tolerance, reason)
            or f"the graph is not the network at {differing[0].what}: {reason}"
        )
    for trial in refusals:
        refusal = (
            f"the network refuses {trial.what}, though its dynamic dimensions allow these sizes"
        )
        if reason:
            raise ExportError(f"{refusal}: {reason}\n  {trial.refusal}") from trial.refusal
        if not varied:
            advice = (
                f"{refusal}: state the smallest and largest size of each in Model.dims (and what "
                f"they are a multiple of), or give samples of several sizes. {trial.refusal}"
            )
            if isinstance(model.module, Path):
                raise onnx_rules.refusal(advice, "sizes") from trial.refusal
            raise ExportError(advice) from trial.refusal
        leave(f"{trial.what}, which the network refuses ({trial.refusal})")
    if bounded := [trial for trial in trials if trial.cases and trial.is_bounded]:
        operations = max(size.operations(trial.sizes) for trial in bounded)
        leave(
            f"the example's values at {'; '.join(_sizes_text(trial.sizes) for trial in bounded)}: "
            f"random inputs alone were compared there (a run takes up to {operations:,} operations)"
        )
    return [case for trial in trials for case in trial.cases]


def _bounded(
    probes: Sequence[dict[str, int]],
    example: Mapping[str, int],
    limits: Limits,
    size: RunSize,
    most: int,
    leave: Callable[[str], None],
) -> list[dict[str, int]]:
    """``probes``, nearer to the example where a run takes more than ``most`` operations."""
    bounded: list[dict[str, int]] = []
    for probe in probes:
        if size.operations(probe) <= most:
            bounded.append(probe)
            continue
        nearer: dict[str, int] | None = None
        for share in _SHARES:
            nearer = limits.domain.near(
                {name: base + int((probe[name] - base) * share) for name, base in example.items()}
            )
            if nearer is not None and size.operations(nearer) <= most:
                bounded.append(nearer)
                break
        leave(
            f"{_sizes_text(probe)}: a run takes {size.operations(probe):,} operations"
            + (f"; {_sizes_text(bounded[-1])} was tried" if nearer in bounded else "")
        )
    return bounded


def _sizes_text(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def _try(
    model: Model,
    sizes: dict[str, int],
    run: Run,
    graph: Run,
    tolerance: Tolerance,
    note: Callable[[ParityCase, Mapping[str, Array]], None],
    *,
    one_case: bool,
    least: int,
) -> _Trial:
    # At the example's sizes a large run was made of the example.
    is_example = sizes == probe_inputs.sizes(model, probe_inputs.example(model))
    if (
        one_case
        and not is_example
        and (cases := _random(model, sizes, run, least) or _random(model, sizes, run))
    ):
        worst = _worst(graph, cases, tolerance, note)
        return _Trial(sizes, cases[0].what, tuple(cases), worst, is_bounded=True)
    what = f"the example at {_sizes_text(sizes)}"
    inputs = probe_inputs.resize(model, probe_inputs.example(model), sizes)
    try:
        cases = [ParityCase(what, inputs, run(inputs))]
        if not one_case or not is_example:
            cases += _random(model, sizes, run)
    except ExportError as refusal:
        return _Trial(sizes, what, refusal=refusal)
    return _Trial(sizes, what, tuple(cases), _worst(graph, cases, tolerance, note))


def _random(
    model: Model, sizes: Mapping[str, int], run: Run, least: int | None = None
) -> list[ParityCase]:
    """Random inputs of ``sizes``, where the network takes them and answers with numbers.

    With ``least`` they vary as those of a golden sample, and are such a one's if one was made up at
    these sizes: what was run for it is not run again.
    """
    rng = np.random.default_rng(0)
    inputs = probe_inputs.random(model, sizes, rng, vary=least is not None, least=least or 0)
    try:
        outputs = run(inputs)
    except ExportError:
        return []
    if not all(np.isfinite(value).all() for value in outputs.values()):
        return []
    what = f"random inputs at {_sizes_text(sizes)}"
    return [ParityCase(what, inputs, outputs)]


def _worst(
    graph: Run,
    cases: Sequence[ParityCase],
    tolerance: Tolerance,
    note: Callable[[ParityCase, Mapping[str, Array]], None],
) -> tuple[str, Difference] | None:
    """The output that takes most of its tolerance in any case; None where the graph fails.

    A case in which all are within it is noted.
    """
    differences: list[tuple[str, Difference]] = []
    for case in cases:
        try:
            results = graph(case.inputs)
        except ExportError:
            return None
        of_case = [
            (name, difference(results[name], value, tolerance))
            for name, value in case.outputs.items()
        ]
        if all(deviation.passes for _, deviation in of_case):
            note(case, results)
        differences += of_case
    return max(differences, key=lambda pair: _rank(pair[1]))


def _rounding(trials: Sequence[_Trial], tolerance: Tolerance, reason: str) -> str:
    """The message where all differ by so little that it may be rounding; empty where not."""
    worst = max(
        ((trial, *trial.worst) for trial in trials if trial.worst is not None),
        key=lambda each: _rank(each[2]),
        default=None,
    )
    if worst is None or any(trial.worst is None for trial in trials):
        return ""
    trial, output, deviation = worst
    more = allow_more(deviation, tolerance)
    return more and (
        f"the graph is near the network and not equal at {trial.what}: output {output!r} "
        f"{deviation}; {more}. If it is no rounding: {reason}"
    )


def _rank(deviation: Difference) -> float:
    return inf if isnan(deviation.limit_used) else deviation.limit_used
