"""Networks that attend over concatenated modalities, and how their graphs are run and compared."""

from __future__ import annotations

import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import nn

from mmedge_export.capture.standard_operators import in_standard_operators
from mmedge_export.onnx_graph.runner import Runner

D, HEADS, QUERIES = 16, 2, 3
GROUPS = {"image": ["image", "image_valid"], "text": ["text", "text_valid"]}


def heads(x):
    return x.reshape(*x.shape[:2], HEADS, -1).transpose(1, 2)


class Cross(nn.Module):
    """Learned queries attend over the tokens of both, in several layers."""

    def __init__(self, layers=3, mask=None):
        super().__init__()
        self.mask = mask
        self.queries = nn.Parameter(torch.randn(1, QUERIES, D))
        self.norm = nn.LayerNorm(D)
        for name in "qkvo":
            setattr(self, name, nn.ModuleList(nn.Linear(D, D) for _ in range(layers)))

    def forward(self, image, text, image_valid=None, text_valid=None):
        tokens = self.norm(torch.cat([image, text], 1))
        x = self.queries.expand(tokens.shape[0], -1, -1)
        bias = None
        if image_valid is not None:
            bias = torch.cat([image_valid, text_valid], 1)[:, None, None]
            if self.mask == "low":
                bias = (~bias).to(x.dtype) * -1e4
            elif self.mask == "infinite":
                bias = torch.zeros_like(bias, dtype=x.dtype).masked_fill(~bias, float("-inf"))
            bias = bias.expand(-1, -1, QUERIES, -1)
        for q, k, v, o in zip(self.q, self.k, self.v, self.o, strict=True):
            y = F.scaled_dot_product_attention(
                heads(q(x)), heads(k(tokens)), heads(v(tokens)), attn_mask=bias
            )
            x = x + o(y.transpose(1, 2).flatten(2))
        return x


class Multihead(nn.Module):
    """torch's own module over both; with weights it takes another path."""

    def __init__(self, *, batch_first=True, weights=False):
        super().__init__()
        self.attention = nn.MultiheadAttention(D, HEADS, batch_first=batch_first)
        self.batch_first, self.weights = batch_first, weights
        self.queries = nn.Parameter(torch.randn(1, QUERIES, D))

    def forward(self, image, text, image_valid=None, text_valid=None):
        tokens = torch.cat([image, text], 1)
        x = self.queries.expand(tokens.shape[0], -1, -1)
        hidden = None if image_valid is None else ~torch.cat([image_valid, text_valid], 1)
        if not self.batch_first:
            tokens, x = tokens.transpose(0, 1), x.transpose(0, 1)
        return self.attention(x, tokens, tokens, hidden, need_weights=self.weights)[0]


class Decoder(nn.Module):
    """torch's decoder: self-attention of queries, then attention over both."""

    def __init__(self, *, norm_first):
        super().__init__()
        layer = nn.TransformerDecoderLayer(
            D, HEADS, 2 * D, batch_first=True, norm_first=norm_first, activation="gelu"
        )
        self.decoder = nn.TransformerDecoder(layer, 2)
        for weight in self.parameters():  # layers begin as copies, which the exporter merges
            nn.init.normal_(weight, std=0.3)
        for weights in self.decoder.parameters():  # its layers are copies, which exporters merge
            nn.init.normal_(weights, std=0.2)
        self.queries = nn.Parameter(torch.randn(1, QUERIES, D))

    def forward(self, image, text):
        tokens = torch.cat([image, text], 1)
        return self.decoder(self.queries.expand(tokens.shape[0], -1, -1), tokens)


class Joint(nn.Module):
    """Self-attention of the tokens of both, packed projections, twice."""

    def __init__(self):
        super().__init__()
        self.kind = nn.ParameterList(nn.Parameter(torch.randn(D)) for _ in range(2))
        self.norm = nn.ModuleList(nn.LayerNorm(D) for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(D, 3 * D) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(D, D) for _ in range(2))

    def forward(self, image, text):
        x = torch.cat([image + self.kind[0], text + self.kind[1]], 1)
        for norm, qkv, out in zip(self.norm, self.qkv, self.out, strict=True):
            b, length, _ = x.shape
            packed = qkv(norm(x)).reshape(b, length, 3, HEADS, D // HEADS)
            q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
            y = F.scaled_dot_product_attention(q, k, v)
            x = x + out(y.transpose(1, 2).reshape(b, length, D))
        return x


NETS = {
    "cross": (Cross, False),
    "low": (lambda: Cross(mask="low"), True),
    "boolean": (lambda: Cross(mask="boolean"), True),
    "infinite": (lambda: Cross(mask="infinite"), True),
    "multihead": (Multihead, False),
    "multihead_masked": (Multihead, True),
    "multihead_weights": (lambda: Multihead(weights=True), True),
    "multihead_sequence_first": (lambda: Multihead(batch_first=False), True),
    "decoder_pre": (lambda: Decoder(norm_first=True), False),
    "decoder_post": (lambda: Decoder(norm_first=False), False),
    "joint": (Joint, False),
}


@cache
def _exported(name, opset):
    make, masked = NETS[name]
    torch.manual_seed(0)
    net = make().eval()
    batch, image, text = (torch.export.Dim(n) for n in ("batch", "image", "text"))
    args = [torch.randn(2, 7, D), torch.randn(2, 4, D)]
    shapes = [{0: batch, 1: image}, {0: batch, 1: text}]
    if masked:
        args += [torch.ones(2, 7, dtype=torch.bool), torch.ones(2, 4, dtype=torch.bool)]
        shapes += shapes
    inputs = ["image", "text", "image_valid", "text_valid"][: len(args)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        captured = torch.export.export(net, tuple(args), dynamic_shapes=tuple(shapes), strict=False)
        captured, _ = in_standard_operators(net, captured, opset)
        program = torch.onnx.export(
            captured, dynamo=True, opset_version=opset, input_names=inputs, verbose=False
        )
    return ir.serde.serialize_model(program.model)


def exported(name, opset=20):
    """A fresh graph of one of :data:`NETS`."""
    return ir.serde.deserialize_model(_exported(name, opset))


def feeds(batch, image, text, seed=0, valid=0.6):
    """Inputs of any of :data:`NETS`."""
    rng = np.random.default_rng(seed)
    lengths = {"image": image, "text": text}
    tokens = {n: rng.standard_normal((batch, k, D)).astype(np.float32) for n, k in lengths.items()}
    return tokens | {f"{n}_valid": rng.random((batch, k)) < valid for n, k in lengths.items()}


def run(model, values, outputs=None):
    """What ONNX Runtime gives, and that the model is valid."""
    proto = ir.serde.serialize_model(model) if isinstance(model, ir.Model) else model
    onnx.checker.check_model(proto, full_check=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        onnx.save(proto, path)
        return Runner(path, outputs)(values)


def assert_same(got, wanted):
    """Equal but for rounding, NaN where NaN are wanted."""
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        scale = np.abs(value[np.isfinite(value)]).max(initial=1.0) if value.size else 1.0
        np.testing.assert_allclose(got[name], value, rtol=1e-5, atol=1e-5 * scale, err_msg=name)
