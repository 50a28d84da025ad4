"""The cut of whole networks: nothing is said but which inputs form a modality."""

from __future__ import annotations

import functools
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from fusions import EXPECTED, FUSIONS, traced
from onnx.reference import ReferenceEvaluator

import mmedge
from mmedge.execution.verify import verify
from mmedge.spec import Tolerance
from mmedge.tolerance import difference
from mmedge_export import export
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.network import TorchNetwork, evaluation
from mmedge_export.onnx_graph.graph import save
from mmedge_export.onnx_graph.runner import Runner
from mmedge_export.partition.flops import measure_shapes, node_flops
from mmedge_export.partition.split import split
from mmedge_export.zoo.vqa.model import describe
from mmedge_export.zoo.vqa.network import FUSION, VqaNet

#: What the hand counts of tests/fusions.py count.
HEAVY = {"MatMul", "Gemm", "Conv", "GRU"}

LIMIT = Tolerance(1e-5, 1e-6)


@functools.cache
def cut(name: str):
    model, graph = traced(name)
    return split(graph.model, model.modalities(), probe_inputs.example(model), least_flops=1)


def chain(made, folder):
    save({part.name: part.model for part in made.parts}, folder)
    runners = [(part, Runner(folder / f"onnx/{part.name}.onnx")) for part in made.parts]

    def run(values):
        tensors = dict(values)
        for part, runner in runners:
            tensors.update(runner({name: tensors[name] for name in part.inputs}))
        return tensors

    return run


def heavy(part, shapes) -> int:
    """Operations that the hand counts count; of segmented attention its two products."""
    total = 0
    for node in part.model.graph:
        if node.op_type in HEAVY:
            total += node_flops(node, shapes)
        elif node.op_type.startswith("SegmentedAttention"):
            q, rest = node.inputs[0], node.inputs[1:]
            sizes = [shapes[value.name].shape for value in rest]
            # Keys and values alternate in no order that matters here: each row of either costs
            # one product of the head's width with each query.
            b, h, rows, d = shapes[q.name].shape
            pairs = sum(s[2] for s in sizes if len(s) == 4 and s[1] == h and s[3] == d)
            total += 2 * b * h * rows * d * pairs
    return total


@pytest.mark.parametrize("name", FUSIONS)
def test_work_of_each_stage_is_what_a_hand_count_says(name):
    made, expected = cut(name), EXPECTED[name]
    model, _ = traced(name)
    shapes = measure_shapes(made.whole, probe_inputs.example(model))
    found = {part.modality: heavy(part, shapes) for part in made.parts}
    wanted = {key: count for key, count in expected.encoders.items() if count}
    if len(made.parts) == 1:
        assert found == {None: expected.total}
        assert any(remark.startswith("nothing to cut") for remark in made.cut.remarks)
        return
    assert {key: count for key, count in found.items() if key is not None and count} == wanted
    assert found.get(None, 0) == expected.fusion


@pytest.mark.parametrize("name", FUSIONS)
def test_the_cut_network_is_the_uncut_one_at_every_size(name, tmp_path):
    made = cut(name)
    model, graph = traced(name)
    save({"model": graph.model}, tmp_path)
    whole, parts = Runner(tmp_path / "onnx/model.onnx"), chain(made, tmp_path)
    with evaluation(model.module):
        network = TorchNetwork(model)
        example = probe_inputs.example(model)
        cases = [
            example,
            *(probe_inputs.resize(model, example, s) for s in probe_inputs.probes(model)),
        ]
        for values in cases:
            got, uncut, original = parts(values), whole(values), network(values)
            for output in model.outputs:
                assert difference(got[output], uncut[output], LIMIT).passes
                assert difference(got[output], original[output], Tolerance(1e-4, 1e-5)).passes


@pytest.mark.parametrize("name", [n for n in FUSIONS if EXPECTED[n].crossing])
def test_as_many_tensors_cross_as_by_hand(name):
    made = cut(name)
    fusion = set(made.parts[-1].inputs)
    found = {p.modality: len(fusion & set(p.outputs)) for p in made.parts if p.modality}
    wanted = EXPECTED[name].crossing
    assert {key: found.get(key, 0) for key in wanted} == wanted


@pytest.mark.parametrize("name", ["cross_attention", "cross_attention_library"])
def test_keys_and_values_of_every_layer_are_projected_in_the_encoders(name):
    made = cut(name)
    moved = {move.modality for move in made.cut.moves}
    assert moved == set(EXPECTED[name].encoders)
    assert all(move.flops > 0 for move in made.cut.moves)
    segmented = [
        n for n in made.parts[-1].model.graph if n.op_type.startswith("SegmentedAttention")
    ]
    assert len(segmented) == 3, "one for each layer"


def test_the_body_of_segmented_attention_is_standard_operators(tmp_path):
    made = cut("cross_attention")
    model, _ = traced("cross_attention")
    fusion = made.parts[-1]
    assert any(key[0] == "mmedge" for key in fusion.model.functions)
    tensors = chain(made, tmp_path)(probe_inputs.example(model))
    reference = ReferenceEvaluator(ir.to_proto(fusion.model))
    (got,) = reference.run(list(fusion.outputs), {n: tensors[n] for n in fusion.inputs})
    np.testing.assert_allclose(got, tensors[fusion.outputs[0]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSION)
def test_every_fusion_of_the_zoo_is_cut(fusion, tmp_path):
    torch.manual_seed(0)
    model = describe(VqaNet(fusion=fusion).eval(), f"vqa-{fusion}")
    model = replace(model, samples=list(model.samples)[:2])
    with export(model, tmp_path / "cut", split=True) as bundle:
        stages = {stage.name: stage for stage in bundle.manifest.stages}
        assert set(stages) == {"image", "text", "audio", "fusion"}
        assert [stages[m].modality for m in ("image", "text", "audio")] == [
            "image",
            "text",
            "audio",
        ]
        whole = sum(stage.flops for stage in stages.values())
        assert stages["fusion"].flops < 0.3 * whole
        # No sensor's raw data and no size goes into the fusion stage.
        kinds = {spec.name: spec.dtype for spec in stages["fusion"].inputs}
        assert not {"image", "text", "audio"} & set(kinds)
        assert set(kinds.values()) <= {"float32", "bool"}
        used = {w for s in bundle.manifest.stages for w in bundle.weights(s.graph)}
        assert used == {"onnx/weights.data"}
    with mmedge.load(tmp_path / "cut") as pipe:
        assert verify(pipe).ok


def test_no_split_keeps_one_stage(tmp_path):
    with export(FUSIONS["gated_late"](), tmp_path / "b", split=False) as bundle:
        assert [stage.name for stage in bundle.manifest.stages] == ["model"]
        assert bundle.manifest.cut.remarks == ("not cut: asked not to",)


def test_projections_of_an_unchanged_modality_are_not_executed(tmp_path, monkeypatch):
    """What ONNX Runtime's own profile says ran, in every layer."""
    folder = tmp_path / "b"
    export(FUSIONS["cross_attention"](), folder, samples_limit=1, split=True).close()
    numbers = itertools.count()

    class Profiled(ort.SessionOptions):
        def __init__(self):
            super().__init__()
            self.enable_profiling = True
            self.profile_file_prefix = str(tmp_path / f"profile{next(numbers)}")

    monkeypatch.setattr(ort, "SessionOptions", Profiled)
    calls = 5
    with mmedge.load(folder) as pipe:
        values = dict(pipe.bundle.samples()[0].inputs)
        outputs = []
        for k in range(calls):
            values["image"] = values["image"] + np.float32(0.01 * k)
            outputs.append(next(iter(pipe.run(values).values())))
        assert not np.array_equal(outputs[1], outputs[2])
        products = {}
        for stage in pipe.bundle.manifest.stages:
            nodes = ir.load(folder / stage.graph).graph
            products[stage.name] = sum(node.op_type in ("MatMul", "Gemm") for node in nodes)
        ran = {}
        for name, session in pipe._loaded.sessions.items():
            events = json.loads(Path(session._session.end_profiling()).read_text())
            ops = [e["args"]["op_name"] for e in events if e.get("cat") == "Node"]
            ran[name] = sum(op in ("MatMul", "Gemm", "FusedMatMul") for op in ops)
    # Three layers project keys and values of each memory; only the image's more than once.
    for name in ("image", "text", "audio"):
        assert products[name] >= 6
        assert ran[name] == products[name] * (calls if name == "image" else 1)
