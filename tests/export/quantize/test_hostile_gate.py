"""The gate finds the layer that int8 breaks and leaves the others in int8.

All twenty networks, and what else the gate has against them: ``benchmarks/hostile.py``.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hostile_networks import HOSTILE, planted_nodes

import mmedge
from mmedge.execution.verify import verify
from mmedge_export import export
from mmedge_export.quantize import Task, quantize, stage_work
from mmedge_export.quantize.options import QuantizeOptions
from mmedge_export.targets import onnxruntime
from mmedge_export.targets.onnxruntime.schemes import find_sites

LIMIT = 0.02


@pytest.mark.parametrize(
    "name", ["outliers_0", "gate_1", "saturation_1", "temperature_1", "gain_0"]
)
def test_the_planted_layer_is_found(name, tmp_path, monkeypatch):
    schemes = [s for s in onnxruntime.SCHEMES["int8"] if s.name in ("static", "dynamic")]
    monkeypatch.setitem(onnxruntime.SCHEMES, "int8", schemes)
    monkeypatch.setattr(stage_work, "OUTLYING", np.inf)
    hostile = HOSTILE[name]()
    task = Task(list(hostile.model.samples), hostile.calibration, hostile.model.metric)
    bundle = export(hostile.model, tmp_path / "b", split=True)
    bundle, report = quantize(
        bundle, task, QuantizeOptions(goal="size", max_drop=LIMIT, threads=1), resume=tmp_path / "w"
    )
    bundle.close()
    sizes, planted = {}, set()
    for stage in report.stages:
        graph = tmp_path / "w" / f"{stage.name}.onnx"
        sizes |= {site.node: site.size for site in find_sites(ir.load(graph))}
        planted |= set(planted_nodes(onnx.load(graph, load_external_data=False), hostile))
    kept = {node for stage in report.stages for node in stage.kept}
    narrow = {node for stage in report.stages for node in stage.reduce_range}
    assert report.verdict.drop.bound <= LIMIT
    if hostile.kind == "saturation":
        assert planted & sizes.keys() <= narrow  # 7 bits mend it: nothing need go back
        assert not kept
    else:
        assert planted & kept
    others = sum(size for node, size in sizes.items() if node not in planted)
    assert sum(sizes[node] for node in kept - planted) <= 0.1 * others
    with mmedge.load(tmp_path / "b", precision="int8") as pipe:
        assert verify(pipe).ok


def test_outliers_are_smoothed_away(tmp_path):
    hostile = HOSTILE["gain_0"]()
    task = Task(list(hostile.model.samples), hostile.calibration, hostile.model.metric)
    bundle = export(hostile.model, tmp_path / "b", split=True)
    bundle, report = quantize(bundle, task, QuantizeOptions(goal="size", max_drop=LIMIT, threads=1))
    bundle.close()
    assert any("outlying channels" in remark for remark in report.remarks)
    assert report.attempts == 1
    assert not any(stage.kept for stage in report.stages)
