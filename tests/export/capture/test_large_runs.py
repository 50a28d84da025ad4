"""Large runs are made once at their sizes, and what was not compared there is said."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mmedge.errors import ExportError
from mmedge_export import Input, Model, export
from mmedge_export.capture import run_size
from mmedge_export.capture.run_size import RunSize
from mmedge_export.onnx_graph.runner import Runner


class _Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(6, 6)

    def forward(self, x):
        return {"y": torch.tanh(self.layer(x))}


def _model():
    torch.manual_seed(0)
    x = np.random.default_rng(1).normal(size=(2, 5, 6)).astype(np.float32)
    return Model(
        _Wide().eval(),
        {"x": Input(x, dynamic={0: "rows", 1: "parts"})},
        ["y"],
        dims={"rows": (1, 8), "parts": (1, 40)},
    )


def test_operations_grow_with_the_input_that_grows_most():
    size = RunSize(_model(), {None: 100}, {})
    assert size.operations({"rows": 2, "parts": 5}) == 100
    assert size.operations({"rows": 8, "parts": 5}) == 400
    assert RunSize(_model(), {None: 100}, {"parts": 1}).operations({"rows": 2, "parts": 5}) == 500
    assert not RunSize(_model(), {}, {}).is_large({"rows": 8, "parts": 40})


def test_operations_of_a_modality_grow_with_its_own_inputs():
    model = Model(
        _Wide().eval(),
        {
            "picture": Input(np.zeros((2, 6), np.float32), dynamic={0: "pictures"}),
            "text": Input(np.zeros((2, 5), np.float32), dynamic={0: "texts", 1: "tokens"}),
        },
        ["y"],
        dims={"pictures": (1, 8), "texts": (1, 8), "tokens": (1, 40)},
    )
    size = RunSize(model, {"picture": 1000, "text": 10, None: 1}, {})
    assert size.operations({"pictures": 2, "texts": 2, "tokens": 40}) == 1000 + 80 + 8
    assert size.operations({"pictures": 8, "texts": 2, "tokens": 5}) == 4000 + 10 + 4


@pytest.mark.parametrize("large", [True, False])
def test_an_export_says_what_it_did_not_compare_at_large_sizes(large, tmp_path, monkeypatch):
    for name in ("mmedge_export.capture.run_size", "mmedge_export.capture.golden"):
        monkeypatch.setattr(f"{name}.LARGE", 1000 if large else run_size.LARGE)
    lines = []
    with export(_model(), tmp_path / "x.mmedge", progress=lines.append) as bundle:
        text = " ".join(bundle.manifest.not_checked)
    assert ("the example's values at rows=3" in text) is large
    assert ("rows=8, parts=1" in text) is large  # the largest of each is tried nevertheless
    assert ("of the made-up samples, at another batch size" in text) is large
    assert ("the operators inside the graph, each on its own, for" in text) is large
    assert any("not checked: the example's values" in line for line in lines) is large


class _Planted(_Wide):
    """Wrong in the graph alone, from a size on: what is traced is what is small."""

    def forward(self, x):
        y = super().forward(x)["y"]
        if torch.onnx.is_in_onnx_export():
            return {"y": y}
        return {"y": torch.where(torch.tensor(x.shape[0] > 7), y + 1, y)}


def test_a_fault_at_the_largest_size_alone_is_found_in_a_large_run(tmp_path, monkeypatch):
    monkeypatch.setattr("mmedge_export.capture.run_size.LARGE", 1)
    model = replace(_model(), module=_Planted().eval())
    with pytest.raises(ExportError, match="rows=8"):
        export(model, tmp_path / "x.mmedge")


class _Pair(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.see, self.hear = torch.nn.Linear(64, 9000), torch.nn.Linear(64, 9000)

    def forward(self, image, audio):
        return {"y": torch.tanh(self.see(image)) @ torch.tanh(self.hear(audio)).T}


def test_a_large_network_is_compared_uncut_once_at_each_size(tmp_path, monkeypatch):
    runs = []
    call = Runner.__call__

    def record(self, values, outputs=None):
        runs.append(tuple(value.shape for value in values.values()))
        return call(self, values, outputs)

    monkeypatch.setattr(Runner, "__call__", record)
    rng = np.random.default_rng(0)
    rows = {
        name: Input(rng.normal(size=(2, 64)).astype(np.float32), dynamic={0: f"{name}s"})
        for name in ("image", "audio")
    }
    torch.manual_seed(0)
    model = Model(_Pair().eval(), rows, ["y"], dims={"images": (1, 4), "audios": (1, 4)})
    uncut_runs = {}
    for large in (False, True):
        if large:
            monkeypatch.setattr("mmedge_export.partition.stages.LARGE", 1)
        with export(model, tmp_path / f"{large}.mmedge") as bundle:
            assert len(bundle.manifest.plans) == 2
            lines = bundle.manifest.not_checked
        assert any("the uncut network beside the cut one" in line for line in lines) is large
        uncut_runs[large] = [shapes for shapes in runs if len(shapes) == 2]
        runs.clear()
    assert set(uncut_runs[True]) == set(uncut_runs[False])
    assert len(uncut_runs[True]) < len(uncut_runs[False])
