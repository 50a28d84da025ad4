"""The stages of a bundle: the network cut by modality, or whole where that serves better."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from mmedge.errors import ExportError
from mmedge.execution.plan import StagePlan
from mmedge.spec import Cut, Plan, Stage, TensorSpec, Tolerance
from mmedge.tolerance import difference
from mmedge_export.onnx_graph.graph import Graph, Runner, save
from mmedge_export.partition.flops import measure_shapes, model_flops
from mmedge_export.partition.split import LEAST_FLOPS, Part, Split, split

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence
    from pathlib import Path

    from mmedge.spec import Array, Dimension
    from mmedge_export.model import Model

__all__ = [
    "CUT_ATOL",
    "CUT_RTOL",
    "Stages",
    "count_flops",
    "make_stages",
    "whole_stage",
]

log = logging.getLogger(__name__)

#: How far an output of the cut network may lie from the uncut graph's: the same float32 work in
#: another order.
CUT_RTOL, CUT_ATOL = 1e-5, 1e-6


@dataclass(frozen=True)
class Stages:
    """What a bundle gets: stages, their files, limits of their dimensions, and how to run them.

    ``run`` gives the network's outputs; ``boundary_tensors`` those that pass between stages, for
    given inputs. Without ``plans`` the stages are one.
    """

    stages: tuple[Stage, ...]
    files: Mapping[str, Path]
    dimensions: Mapping[str, Dimension]
    cut: Cut
    run: Callable[[Mapping[str, Array]], dict[str, Array]]
    boundary_tensors: Callable[[Mapping[str, Array]], dict[str, Array]]
    plans: tuple[Plan, ...] = ()


def whole_stage(
    graph: Graph,
    model: Model,
    outputs: Mapping[str, Array],
    folder: Path,
    remarks: Sequence[str] = (),
    flops: int = 0,
) -> Stages:
    """The network as one stage, ``model``.

    Args:
        graph: of the network.
        model: names inputs and outputs.
        outputs: of the example.
        folder: for the files.
        remarks: why it is not cut.
        flops: of one run on the example.
    """
    _declare(graph, outputs)
    files = save({"model": graph.model}, folder)
    run = Runner(folder / "onnx/model.onnx", list(model.outputs))
    inputs, results, dimensions = graph.specs(model, outputs, run.shapes)
    stage = Stage("model", "onnx/model.onnx", inputs, results, flops=flops)
    return Stages((stage,), files, dimensions, Cut((), tuple(remarks)), run, lambda _: {})


def _declare(graph: Graph, outputs: Mapping[str, Array]) -> None:
    """Give outputs a type and a rank where the graph states none."""
    for value in graph.model.graph.outputs:
        if value.shape is None:
            value.shape = ir.Shape([None] * outputs[str(value.name)].ndim)
        if value.type is None:
            dtype = ir.DataType.from_numpy(outputs[str(value.name)].dtype)
            value.type = ir.TensorType(dtype)


def make_stages(
    graph: Graph,
    model: Model,
    example: Mapping[str, Array],
    outputs: Mapping[str, Array],
    folder: Path,
    *,
    whole: bool,
    least_flops: int = LEAST_FLOPS,
) -> Stages:
    """Cut the network by modality where there is something to cut.

    A pass or a cut that fails is left out: first what only rearranges the graph, then the cut
    itself. A remark names the exception, which is also logged with its traceback.

    Args:
        graph: of the network.
        model: says which inputs form a modality.
        example: inputs.
        outputs: the network's, for the example.
        folder: for the files.
        whole: keep the uncut network as a plan beside the cut one. Its graph shares their weights.
        least_flops: of an encoder (:func:`mmedge_export.partition.split.split`).
    """
    remarks: list[str] = []
    for rearranged in (True, False):
        try:
            made = split(
                graph.model,
                model.modalities(),
                example,
                least_flops=least_flops,
                rearrange=rearranged,
            )
            made = replace(made, cut=replace(made.cut, remarks=(*remarks, *made.cut.remarks)))
            return _cut_stages(made, graph, model, example, outputs, folder, keep_whole=whole)
        except Exception as error:  # noqa: BLE001 - a cut is never worth an export
            what = "rearranging the graph" if rearranged else "the cut by modality"
            remarks.append(_left_out(what, error))
            shutil.rmtree(folder, ignore_errors=True)
    flops, uncounted = count_flops(graph.model, example)
    return whole_stage(graph, model, outputs, folder / "whole", (*remarks, *uncounted), flops)


def count_flops(model: ir.Model, example: Mapping[str, Array]) -> tuple[int, tuple[str, ...]]:
    """Operations of one run on ``example``; where they cannot be counted, 0 and a remark."""
    try:
        return model_flops(model, measure_shapes(model, example)), ()
    except Exception as error:  # noqa: BLE001 - a figure is never worth an export
        return 0, (_left_out("counting operations", error),)


def _left_out(what: str, error: Exception) -> str:
    """A remark on a step that failed. The log has the traceback."""
    log.info("%s is left out", what, exc_info=error)
    said = " ".join(str(error).split())[:300]
    return f"{what} is left out: {type(error).__name__}: {said} (report this)"


def _cut_stages(
    made: Split,
    graph: Graph,
    model: Model,
    example: Mapping[str, Array],
    outputs: Mapping[str, Array],
    folder: Path,
    *,
    keep_whole: bool,
) -> Stages:
    """The stages of a cut; see :func:`make_stages`."""
    flops = sum(part.flops for part in made.parts)
    if len(made.parts) == 1:
        return whole_stage(graph, model, outputs, folder / "whole", made.cut.remarks, flops)
    _declare(graph, outputs)
    # Before the parts are saved: the graph is theirs, with every boundary tensor as an output.
    uncut = folder / "uncut"
    save({"uncut": made.whole}, uncut)
    names = [str(value.name) for value in made.whole.graph.outputs]
    reference = Runner(uncut / "onnx/uncut.onnx", names)
    inputs, tensors, dimensions = Graph(made.whole).specs(
        model, reference(example), reference.shapes
    )
    specs = {spec.name: spec for spec in (*inputs, *tensors)}
    parts = {part.name: part.model for part in made.parts}
    whole = _free("model", parts)
    saved = folder / "cut"
    # Saved together, a weight that several graphs have is written once.
    files = save({**parts, whole: graph.model} if keep_whole else parts, saved)
    if not keep_whole:
        save({whole: graph.model}, folder / "whole")
    stages = tuple(_stage(part, specs) for part in made.parts)
    cut = Plan("cut", tuple(parts))
    runs = {stage.name: Runner(saved / stage.graph) for stage in stages}
    plan = StagePlan(stages, runs, model.outputs)
    place = saved if keep_whole else folder / "whole"
    exact = Runner(place / f"onnx/{whole}.onnx", list(model.outputs))
    plans: tuple[Plan, ...] = (cut,)
    if keep_whole:
        gives = tuple(specs[name] for name in model.outputs)
        stages += (Stage(whole, f"onnx/{whole}.onnx", inputs, gives, flops=flops),)
        plans += (Plan("whole", (whole,)),)

    def run(values: Mapping[str, Array]) -> dict[str, Array]:
        got, expected = plan.run(values), exact(values)
        for name, value in expected.items():
            compared = difference(got[name], value, Tolerance(CUT_RTOL, CUT_ATOL))
            if not compared.passes:
                raise ExportError(
                    f"the cut network is not the whole one: output {name!r} {compared}; export "
                    "with --no-split, and report this"
                )
        return got

    run(example)  # a cut that is wrong here is left out

    def boundary_tensors(values: Mapping[str, Array]) -> dict[str, Array]:
        results = reference(values)
        return {name: results[name] for name in names if name not in model.outputs}

    return Stages(stages, files, dimensions, made.cut, run, boundary_tensors, plans)


def _free(name: str, names: Container[str]) -> str:
    """``name``, or one like it that is none of ``names``."""
    while name in names:
        name += "_"
    return name


def _stage(part: Part, specs: Mapping[str, TensorSpec]) -> Stage:
    return Stage(
        part.name,
        f"onnx/{part.name}.onnx",
        tuple(specs[name] for name in part.inputs),
        tuple(specs[name] for name in part.outputs),
        part.modality,
        flops=part.flops,
    )
