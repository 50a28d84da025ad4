from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmedge_export.zoo import reports
from mmedge_export.zoo.vqa.evaluate import SUBSETS

RESULTS = Path(__file__).parents[3] / "benchmarks/results/zoo_accuracy.json"


@pytest.fixture(scope="module")
def networks():
    return json.loads(RESULTS.read_text())["networks"]


def test_every_fusion_meets_its_target(networks):
    assert [n["recipe"]["fusion"] for n in networks] == ["attention", "concat", "weighted", "conv"]
    for network in networks:
        assert network["test_questions"] == 9_673
        assert set(network["accuracy"]) == set(SUBSETS)
        assert network["accuracy"]["image+text"] >= 0.93
    assert networks[0]["accuracy"]["image+text"] >= 0.97
    assert networks[0]["accuracy"]["image+voice"] >= 0.85


def test_the_shipped_weights_are_those_of_the_results(networks):
    from safetensors import safe_open

    from mmedge_export.zoo import data_files

    with safe_open(data_files.weights() / "vqa-attention.safetensors", framework="pt") as stored:
        assert json.loads(stored.metadata()["recipe"]) == networks[0]["recipe"]


def test_reports_are_gathered_in_the_order_of_the_fusions(tmp_path, networks):
    for network in reversed(networks):
        name = f"vqa-{network['recipe']['fusion']}.json"
        (tmp_path / name).write_text(json.dumps(network))
    reports.main([str(tmp_path), "--results", str(tmp_path)])
    assert json.loads((tmp_path / "zoo_accuracy.json").read_text()) == {"networks": networks}
