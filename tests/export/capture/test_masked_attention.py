"""Attention with masks answers as torch does, also where a row hides every key."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from kinds import kinds
from onnx import numpy_helper
from torch import Tensor, nn

import mmedge
from mmedge_export import Input, Model, export
from mmedge_export.capture.guard_attention import guard_attention
from mmedge_export.passes.clamp_masks import MASK
from mmedge_export.targets.tensorrt import float16

WIDTH, HEADS = 8, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 5, WIDTH)).astype(np.float32)
SEEN = np.array([[1, 0, 1, 1, 1], [1, 1, 1, 0, 1]], bool)

#: Wholly, in one row, partly, and not at all.
MASKS = {
    "all": SEEN & False,
    "one": SEEN & np.array([[True], [False]]),
    "part": SEEN,
    "none": SEEN | True,
}


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def additive(seen: Tensor, low: float) -> Tensor:
    return torch.zeros(seen.shape).masked_fill(~seen, low)


class Attention(nn.Module):
    """Queries of one modality over keys of the other, by each way to write it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.few = nn.Linear(WIDTH, WIDTH // HEADS)

    def forward(self, x: Tensor, y: Tensor, seen: Tensor) -> Tensor:
        q, k, v = heads(self.q(x)), heads(self.k(y)), heads(self.v(y))
        seen = seen[:, None, None, :]
        if self.kind == "rows":  # a mask of queries and keys, in which one query sees nothing
            seen = seen & (torch.arange(x.shape[1]) != 1)[:, None]
        if self.kind in ("softmax", "eager"):
            low = -torch.inf if self.kind == "softmax" else torch.finfo(x.dtype).min
            scores = q @ k.transpose(-1, -2) / 2
            scores = (
                scores + additive(seen, low) if low > -torch.inf else scores.masked_fill(~seen, low)
            )
            return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        options = {}
        if self.kind == "grouped":
            k, v = (self.few(y)[:, None] for _ in "kv")
            options = {"enable_gqa": True}
        low = {"infinite": -torch.inf, "lowest": torch.finfo(x.dtype).min}.get(self.kind)
        mask = seen if low is None else additive(seen, low)
        out = F.scaled_dot_product_attention(q, k, v, mask, scale=0.3, **options)
        return out.transpose(1, 2).flatten(2)


class Multihead(nn.Module):
    def __init__(self, kind: str, *, weights: bool) -> None:
        super().__init__()
        self.kind, self.weights = kind, weights
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor, y: Tensor, seen: Tensor) -> Tensor:
        hidden = ~seen if self.kind == "bool" else additive(seen, -torch.inf)
        return self.attention(x, y, y, key_padding_mask=hidden, need_weights=self.weights)[0]


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor, y: Tensor, seen: Tensor) -> Tensor:
        out = self.attention(y, y, y, key_padding_mask=~seen, need_weights=False)[0]
        return out + x.mean(1, keepdim=True)


class Encoder(nn.Module):
    def __init__(self, *, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers) if layers else layer

    def forward(self, x: Tensor, y: Tensor, seen: Tensor) -> Tensor:
        return self.encoder(y, src_key_padding_mask=~seen) + x.mean(1, keepdim=True)


NETS = {
    **{
        kind: (lambda kind=kind: Attention(kind))
        for kind in ("bool", "rows", "infinite", "lowest", "grouped", "softmax", "eager")
    },
    "multihead bool": lambda: Multihead("bool", weights=False),
    "multihead float": lambda: Multihead("float", weights=False),
    "multihead bool, weights": lambda: Multihead("bool", weights=True),
    "multihead float, weights": lambda: Multihead("float", weights=True),
    "multihead of itself": SelfAttention,
    "encoder layer": lambda: Encoder(layers=0),
    "encoder": lambda: Encoder(layers=2),
}


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return NETS[kind]().eval()


def inputs() -> dict[str, Input]:
    x = RNG.normal(size=(2, 3, WIDTH)).astype(np.float32)
    return {
        "x": Input(x, dynamic={0: "batch", 1: "rows"}),
        "y": Input(X, dynamic={0: "batch", 1: "keys"}),
        "seen": Input(SEEN, dynamic={0: "batch", 1: "keys"}),
    }


@pytest.fixture(autouse=True)
def _as_in_training():
    """Kernels for evaluation alone put 0 at the hidden positions of an encoder."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("split", kinds([False, True], first=(True,)))
@pytest.mark.parametrize("kind", NETS)
def test_the_bundle_answers_as_torch_does(kind, split, tmp_path):
    net = network(kind)
    export(Model(net, inputs(), ["out"]), tmp_path / "b", split=split).close()
    with mmedge.load(tmp_path / "b") as pipe:
        for seen in MASKS.values():
            for keys in (5, 2, 1):
                x = RNG.normal(size=(2, 4, WIDTH)).astype(np.float32)
                values = {"x": x, "y": X[:, :keys], "seen": seen[:, :keys]}
                with torch.no_grad():
                    want = net(**{name: torch.from_numpy(v) for name, v in values.items()})
                got = pipe(**values)["out"]
                np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("opset", kinds([18, 19, 21, 22, 23], first=(18, 23)))
@pytest.mark.parametrize("kind", ["rows", "infinite"])
def test_in_every_opset(kind, opset, tmp_path):
    net = network(kind)
    export(Model(net, inputs(), ["out"]), tmp_path / "b", opset=opset).close()
    with mmedge.load(tmp_path / "b") as pipe:
        for seen in MASKS.values():
            values = {"x": X[:, :3], "y": X, "seen": seen}
            with torch.no_grad():
                want = net(**{name: torch.from_numpy(v) for name, v in values.items()}).numpy()
            np.testing.assert_allclose(pipe(**values)["out"], want, rtol=1e-4, atol=2e-6)


class Unmasked(nn.Module):
    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        h = heads(x)
        return F.scaled_dot_product_attention(h, h, h, is_causal=self.causal)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_without_a_mask_stays(causal):
    net = Unmasked(causal=causal)
    program = torch.export.export(net, (torch.from_numpy(X),))
    nodes = [node.target for node in program.graph.nodes]
    guard_attention(program, 20)
    assert [node.target for node in program.graph.nodes] == nodes


def test_nan_in_queries_stays_nan(tmp_path):
    """torch's exporter takes it for a row that hides every key."""
    net = network("bool")
    export(Model(net, inputs(), ["out"]), tmp_path / "b").close()
    x = X[:, :3].copy()
    x[0, 1] = np.nan
    values = {"x": x, "y": X, "seen": MASKS["one"]}
    with torch.no_grad():
        want = net(**{name: torch.from_numpy(v) for name, v in values.items()}).numpy()
    assert np.isnan(want).any()
    with mmedge.load(tmp_path / "b", allow_non_finite=True) as pipe:
        np.testing.assert_allclose(pipe(**values)["out"], want, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("kind", ["bool", "infinite", "lowest"])
def test_float16_answers_alike(kind, tmp_path):
    """The lowest float32 becomes a mask that float16 holds, though it is held against infinity."""
    x = X[:, :3]
    samples = [({"x": x, "y": X, "seen": seen}, None) for seen in MASKS.values()]
    model = Model(network(kind), inputs(), ["out"], samples=samples)
    with export(model, tmp_path / "b", split=False) as bundle:
        (stage,) = float16.to_float16(bundle, tmp_path).values()
    assert stage.error < 5e-3
    constants = [numpy_helper.to_array(one) for one in onnx.load(stage.file).graph.initializer]
    floats = [one for one in constants if one.dtype in (np.float16, np.float32)]
    assert min(one[np.isfinite(one)].min(initial=0.0) for one in floats) >= MASK
