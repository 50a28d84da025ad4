"""Random small fusion networks: whatever the architecture, the bundle computes it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmedge_export import Input, Model, export
from mmedge_export.capture import probe_inputs
from mmedge_export.capture.network import TorchNetwork, evaluation

ACTIVATIONS = (nn.ReLU, nn.GELU, nn.Tanh, nn.SiLU, nn.Sigmoid)


class Fusion(nn.Module):
    """An MLP or a CNN per input, joined by concatenation, sum or a gate."""

    def __init__(
        self, kinds: list[str], width: int, depth: int, activation: int, join: str
    ) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        self.encoders = nn.ModuleDict()
        for index, kind in enumerate(kinds):
            layers: list[nn.Module] = []
            for level in range(depth):
                if kind == "image":
                    layers += [nn.Conv2d(width if level else 3, width, 3, padding=1), act()]
                else:
                    layers += [nn.Linear(width if level else 5, width), nn.LayerNorm(width), act()]
            if kind == "image":
                layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            self.encoders[f"in{index}"] = nn.Sequential(*layers)
        self.join = join
        self.gate = nn.Linear(width * len(kinds), len(kinds))
        self.head = nn.Linear(width * (len(kinds) if join == "concat" else 1), 4)

    def forward(self, **inputs: Tensor) -> Tensor:
        parts = [encoder(inputs[name]) for name, encoder in self.encoders.items()]
        if self.join == "concat":
            return self.head(torch.cat(parts, dim=1))
        if self.join == "sum":
            return self.head(sum(parts))
        weights = self.gate(torch.cat(parts, dim=1)).softmax(-1)
        return self.head((torch.stack(parts, dim=1) * weights[..., None]).sum(1))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    kinds=st.lists(st.sampled_from(["image", "vector"]), min_size=1, max_size=3),
    width=st.integers(1, 9),
    depth=st.integers(1, 2),
    activation=st.integers(0, len(ACTIVATIONS) - 1),
    join=st.sampled_from(["concat", "sum", "gate"]),
    batch=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_a_random_network_is_exported_as_it_is(kinds, width, depth, activation, join, batch, seed):
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    shapes = {"image": (batch, 3, 6, 7), "vector": (batch, 5)}
    inputs = {
        f"in{index}": Input(
            rng.standard_normal(shapes[kind]).astype(np.float32), dynamic={0: "batch"}
        )
        for index, kind in enumerate(kinds)
    }
    model = Model(Fusion(kinds, width, depth, activation, join), inputs, ["y"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "b"
        export(model, path).close()
        values = probe_inputs.random(model, {"batch": batch + 3}, rng)
        session = ort.InferenceSession(path / "onnx/model.onnx", providers=["CPUExecutionProvider"])
        (got,) = session.run(None, values)
    with evaluation(model.module):
        wanted = TorchNetwork(model)(values)["y"]
    assert np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max() + 1e-6
