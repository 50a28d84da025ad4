"""Exported networks with a loop are measured: each modality cached, tokens, a prompt."""

from __future__ import annotations

import json
from importlib.resources import files

import jsonschema
import loop_networks as networks
import pytest
from shared import once

from mmedge.bench.measure import bench
from mmedge_export import export

SCHEMA = json.loads(files("mmedge.bench.report").joinpath("report.schema.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("name", "steps", "modalities", "stages"),
    [
        ("captions", 12, {"image", "audio"}, {"image", "audio"}),
        ("continued", 9, set(), set()),
        ("spoken", 8, set(), {"model"}),
    ],
)
def test_an_exported_loop_is_measured(tmp_path_factory, name, steps, modalities, stages):
    def make(folder):
        export(getattr(networks, name)(), folder / "net").close()

    path = once(tmp_path_factory, f"loop-{name}", make) / "net"
    report = bench(str(path), calls=25, threads=1, warmup=2)
    jsonschema.validate(json.loads(report.to_json()), SCHEMA)
    loop = report.loop
    assert loop["steps"] == steps
    assert loop["step_ms"]["count"] == 25 * (steps - 1)
    assert loop["first_cached_by_modality_ms"].keys() == modalities
    assert loop["state_bytes"] > 0
    parts = ["inputs", *stages, "prefill", loop["stage"], "outputs", "residual"]
    assert set(report.stages) == set(parts)
    assert {row["stage"] for row in report.operators} == {*stages, loop["stage"]}
