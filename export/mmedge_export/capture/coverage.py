"""What the evidence for a graph leaves open: inputs that never varied, outputs that showed nothing.

A graph that agrees with its network on samples that are all alike has been shown to agree on one of
them. So whatever does not vary is varied here as far as the network itself takes it, and what is
left is put into words for the manifest.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from mmedge.errors import ExportError
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.case import ParityCase
from mmedge_export.capture.finite import has_nan
from mmedge_export.open_questions import line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mmedge.spec import Array
    from mmedge_export.model import Model
    from mmedge_export.onnx_graph.graph import Graph

__all__ = [
    "Coverage",
    "beyond",
    "least_integer",
    "to_vary",
    "variations",
    "wider",
]


#: Elements of a tensor that are looked at before all of them are.
_FEW = 4

#: How much wider floats are drawn where an output showed nothing.
_FACTORS = (4, 16)


class Coverage:
    """What was seen of every input and output over the cases that a graph was held against.

    Args:
        model: names the inputs and outputs.
    """

    def __init__(self, model: Model) -> None:
        self._inputs = {name: _TensorSummary() for name in model.inputs}
        self._outputs = {name: _TensorSummary() for name in model.outputs}

    def add(self, case: ParityCase) -> None:
        """Note a case."""
        for summaries, values in ((self._inputs, case.inputs), (self._outputs, case.outputs)):
            for name, value in values.items():
                summaries[name].add(value)

    def watch(self, cases: Iterable[ParityCase]) -> Iterator[ParityCase]:
        """``cases``, each noted as it passes."""
        for case in cases:
            self.add(case)
            yield case

    def constant(self) -> list[str]:
        """Inputs that were the same in every case."""
        return [name for name, summary in self._inputs.items() if not summary.varied]

    def silent(self) -> bool:
        """Whether some output was empty, or the same, in every case so far."""
        return any(
            summary.cases == summary.empty or not summary.varied
            for summary in self._outputs.values()
        )

    def findings(self) -> list[str]:
        """What was not checked, a line each."""
        findings = [
            f"input {name!r} never varied: it was {self._inputs[name].words()} in all samples"
            for name in self.constant()
        ]
        for name, summary in self._outputs.items():
            if summary.cases == summary.empty:
                findings.append(f"output {name!r} was empty in all samples")
            elif summary.cases == summary.nan:
                findings.append(f"output {name!r} was NaN in all samples")
            elif summary.nan:
                findings.append(
                    f"output {name!r} had NaN in {summary.nan} of {summary.cases} samples"
                )
            if summary.cases > summary.empty and summary.cases > summary.nan and not summary.varied:
                words = f"constant ({summary.words()})" if summary.single else "the same"
                findings.append(f"output {name!r} was {words} in all samples")
        return [line(text) for text in findings]


class _TensorSummary:
    """One tensor over all cases."""

    def __init__(self) -> None:
        self.cases = self.empty = self.nan = 0
        self.varied = False
        #: Whether all its elements were one value so far, and that value.
        self.single = True
        self._value: np.generic | None = None
        self._first: dict[tuple[int, ...], Array] = {}
        self._last: Array | None = None

    def add(self, value: Array) -> None:
        """Note what it was in one case."""
        self.cases += 1
        if not value.size:
            self.empty += 1
            return
        if value is self._last:  # as constants of a loop are: without NaN, and nothing new
            return
        holds_nan = has_nan(value)
        self._last = None if holds_nan else value
        if holds_nan and np.isnan(value).all():
            self.nan += 1
            return
        self.nan += holds_nan
        if self.varied:
            return
        if self._value is None:
            self._value = value.flat[0]
        self.single = self.single and bool(np.all(value == self._value))
        first = self._first.setdefault(value.shape, value)
        # Of other sizes it may be the same thing repeated; what is one value does not vary by that.
        self.varied = not np.array_equal(value, first, equal_nan=_floats(value)) or (
            not self.single and _other(value, self._first)
        )
        if self.varied:
            self._first.clear()

    def words(self) -> str:
        """What it was where it did not vary."""
        if self.single and self._value is not None:
            return (
                str(self._value.item()).lower() if self._value.dtype == bool else f"{self._value}"
            )
        return "the same"


def _floats(value: Array) -> bool:
    return bool(np.issubdtype(value.dtype, np.inexact))


def _other(value: Array, first: Mapping[tuple[int, ...], Array]) -> bool:
    """Whether ``value`` holds what none of other sizes holds."""
    others = [array.ravel() for array in first.values() if array is not value]
    if not others:
        return False
    held = np.concatenate(others)
    few = value.ravel()[:: max(value.size // _FEW, 1)]  # says so most often, and is soon compared
    return any(not (held == each).any() for each in few) or not np.isin(value, held).all()


def least_integer(file: Graph | None) -> int:
    """Smallest integer that may be made up for the inputs of a network: 0, or 1.

    ``file`` is the graph of an ONNX file; None: the network is torch's. An ONNX file that divides
    integers by what its inputs hold is not given 0: ONNX Runtime ends the process where torch would
    raise.
    """
    if file is None:
        return 0
    graph = file.model.graph
    constant = {*graph.initializers, *_constants(graph)}
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if node.op_type not in ("Div", "Mod") or len(node.inputs) < 2:
            continue
        divisor = node.inputs[1]
        kind = None if divisor is None else divisor.dtype
        if (
            divisor is not None
            and divisor.name not in constant
            and (kind is None or kind.is_integer())
        ):
            return 1
    return 0


def _constants(graph: ir.Graph) -> list[str]:
    return [
        str(value.name) for node in graph if node.op_type == "Constant" for value in node.outputs
    ]


def to_vary(model: Model, constant: Iterable[str]) -> list[str]:
    """Inputs to vary: those that were constant, and where samples were made up, all but floats."""
    if model.samples is not None:
        return list(constant)
    floats = {name for name, value in model.inputs.items() if _floats(value.example)}
    return [name for name in model.inputs if name not in floats or name in constant]


def wider(
    model: Model, run: Callable[[Mapping[str, Array]], dict[str, Array]], base: ParityCase
) -> Iterator[ParityCase]:
    """``base`` with floats drawn from wider and wider ranges, as far as the network answers.

    For outputs that showed nothing: nothing is detected in small numbers, and what is dead or
    saturated in the samples may not be so far away.
    """
    floats = [n for n, v in model.inputs.items() if _floats(v.example) and v.example.size]
    for factor in _FACTORS if floats else ():
        inputs = dict(base.inputs)
        for name in floats:
            inputs[name] = probe_inputs.widened(base.inputs[name], factor)
        try:
            outputs = run(inputs)
        except ExportError:
            continue
        if not any(map(has_nan, outputs.values())):
            yield ParityCase(f"the example with floats {factor} times as wide", inputs, outputs)


def beyond(
    model: Model,
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    base: ParityCase,
) -> Iterator[ParityCase]:
    """``base`` with integers far from those of the samples, where the network takes them.

    What the network does with them is no part of what it was made for, so a refusal says nothing.
    An ONNX file is not tried: its runtime may end the process.
    """
    if isinstance(model.module, Path):
        return
    for name, spec in model.inputs.items():
        if spec.tokenizer is not None:
            continue
        for words, value in probe_inputs.extremes(base.inputs[name]):
            inputs = {**base.inputs, name: value}
            try:
                outputs = run(inputs)
            except ExportError:
                continue
            if all(v.shape == base.outputs[n].shape and not has_nan(v) for n, v in outputs.items()):
                yield ParityCase(f"the example with input {name!r} {words}", inputs, outputs)


def variations(
    model: Model,
    run: Callable[[Mapping[str, Array]], dict[str, Array]],
    base: ParityCase,
    names: Iterable[str],
    leave: Callable[[str], None],
    *,
    least: int = 0,
) -> Iterator[ParityCase]:
    """``base`` with each of the named inputs varied by itself, as far as the network takes it.

    Booleans are all true, all false, and true at random, at least one in each row; integers are 0,
    their largest, and anything between; floats lie in their range, or about a constant. What the
    network refuses, or answers with NaN where it did not before, is no case.

    Args:
        model: has the example of every input.
        run: the network itself.
        base: inputs that the network takes.
        names: of the inputs to vary.
        leave: called with a line on what the network does not take.
        least: smallest integer that may be tried, below the smallest of the example.
    """
    for name in names:
        refusals = []
        count = 0
        for words, value in probe_inputs.others(base.inputs[name], least=least):
            what = f"input {name!r} {words}"
            inputs = {**base.inputs, name: value}
            try:
                outputs = run(inputs)
            except ExportError:
                refusals.append(f"{words}: the network refuses it")
                continue
            nan_outputs = [
                n for n, v in outputs.items() if has_nan(v) and not has_nan(base.outputs[n])
            ]
            if nan_outputs:
                refusals.append(f"{words}: the network answers {nan_outputs[0]!r} with NaN")
                continue
            if isinstance(model.module, Path) and any(
                v.shape != base.outputs[n].shape for n, v in outputs.items()
            ):
                refusals.append(f"{words}: outputs have another size")
                continue
            count += 1
            yield ParityCase(f"the example with {what}", inputs, outputs)
        if refusals and (not count or base.inputs[name].dtype == np.bool_):
            leave(f"input {name!r} {'; '.join(refusals)}")
