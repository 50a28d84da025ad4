"""A user is told of work that a step does again each time."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from engine_net import graph
from torch.nn import functional as F

from mmedge_export import Generate, Input, Model, StateInput, export
from mmedge_export.partition.constant_work import constant_work
from mmedge_export.partition.flops import measure_shapes


def remark(body: str, constants: list[str]) -> str | None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((8, 8)).astype(np.float32) for name in "wv"}
    text = f"net (float[4,8] a, float[1,8] x) => (float[1,8] y) {{ {body} }}"
    model = ir.from_proto(graph(text, **arrays))
    example = {"a": np.ones((4, 8), np.float32), "x": np.ones((1, 8), np.float32)}
    return constant_work(model, measure_shapes(model, example), constants)


CROSS = """k = MatMul(a, w) kt = Transpose(k) s = MatMul(x, kt) p = Softmax(s)
           m = MatMul(p, a) y = MatMul(m, v)"""


def test_a_product_with_constants_alone_is_told():
    text = remark(CROSS, ["a"])
    assert text is not None
    assert "65% of a step's operations follow from a alone" in text
    assert "most of them in MatMul k: have module compute them" in text


@pytest.mark.parametrize("constants", [[], ["x"]])
def test_work_on_what_changes_is_none(constants):
    assert remark(CROSS, constants) is None


def test_little_work_is_not_told():
    assert remark("t = Neg(a) u = Transpose(t) s = MatMul(x, u) y = MatMul(s, a)", ["a"]) is None


class Encoder(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(16, 16)

    def forward(self, sound):
        return {"features": self.layer(sound)}


class Step(torch.nn.Module):
    """Projects the encoder's features to keys and values at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(11, 16)
        self.key, self.value = (torch.nn.Linear(16, 16) for _ in range(2))
        self.out = torch.nn.Linear(16, 11)

    def forward(self, token, features, past):
        seen = torch.cat([past, self.embedding(token)], 1)
        x = seen.cumsum(1)[:, past.shape[1] :]
        key, value = (layer(features)[:, None] for layer in (self.key, self.value))
        x = x + F.scaled_dot_product_attention(x[:, None], key, value)[:, 0]
        return {"logits": self.out(x), "present": seen}


def test_an_export_tells_it(tmp_path):
    torch.manual_seed(0)
    sound = np.random.default_rng(0).standard_normal((1, 12, 16), np.float32)
    lines: list[str] = []
    model = Model(
        Encoder().eval(),
        inputs={"sound": Input(sound)},
        outputs=["features"],
        loop=Generate(
            Step().eval(),
            token="token",
            logits="logits",
            state={"past": StateInput("present", (1, "past", 16), grows="past")},
            start=[1],
            stop=[10],
            limit=12,
        ),
    )
    with export(model, tmp_path / "loop.mmedge", progress=lines.append) as bundle:
        (told,) = [text for text in bundle.manifest.cut.remarks if "of a step's operations" in text]
    assert "follow from features alone" in told
    assert "most of them in key" in told
    assert any(told in line for line in lines)
