"""Bundles whose outputs are the token ids and the mask that a text became."""

from __future__ import annotations

import contextlib

import numpy as np
from onnx import TensorProto, helper
from tokenizers import Tokenizer as Tokens
from tokenizers import models, pre_tokenizers

import mmedge
from mmedge.bundle import Bundle
from mmedge.spec import (
    Dimension,
    Manifest,
    Modality,
    Sample,
    Stage,
    TensorSpec,
    Tokenizer,
    Tolerance,
    Variant,
)

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "go", "left", "right", "to", "red", "box")
VOCABULARY = {word: number for number, word in enumerate(WORDS)}
ONNX_TYPES = {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}


def words(**padding) -> Tokens:
    """A tokenizer of whole words, with padding if any is given."""
    tokens = Tokens(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    if padding:
        tokens.enable_padding(**{"pad_id": 0, "pad_token": "[PAD]", **padding})
    return tokens


def write_text_bundle(
    path, tokenizer: bytes, *, length=8, mask=True, least=1, dtype="int64", most=64
):
    """Write it; ``length`` is a number or the name of a dimension of at least ``least``."""
    names = ["ids", "mask"] if mask else ["ids"]
    dtypes = [dtype, "bool"][: len(names)]
    ins = tuple(TensorSpec(n, d, (1, length)) for n, d in zip(names, dtypes, strict=True))
    outs = tuple(TensorSpec(f"{s.name}_seen", s.dtype, s.shape) for s in ins)
    infos = [
        [helper.make_tensor_value_info(s.name, ONNX_TYPES[s.dtype], s.shape) for s in specs]
        for specs in (ins, outs)
    ]
    nodes = [
        helper.make_node("Identity", [a.name], [b.name]) for a, b in zip(ins, outs, strict=True)
    ]
    graph = helper.make_model(
        helper.make_graph(nodes, "text", *infos),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    size = length if isinstance(length, int) else max(least, 8)
    arrays = [np.ones((1, size), np.dtype(d)) for d in dtypes]
    manifest = Manifest(
        name="text",
        modalities=(
            Modality(
                "text",
                tuple(names),
                tokenizer=Tokenizer("assets/t.json", *(["ids", "mask"][: len(names)])),
            ),
        ),
        stages=(Stage("net", "onnx/net.onnx", ins, outs),),
        outputs=tuple(s.name for s in outs),
        variants=(Variant("ort", "fp32", "cpu", {"net": "onnx/net.onnx"}, Tolerance(1e-6, 1e-6)),),
        files={},
        dimensions={} if isinstance(length, int) else {length: Dimension(least, size, most)},
    )
    sample = Sample(
        dict(zip(names, arrays, strict=True)),
        {s.name: a for s, a in zip(outs, arrays, strict=True)},
    )
    files = {"onnx/net.onnx": graph.SerializeToString(), "assets/t.json": tokenizer}
    Bundle.write(path, manifest, files, samples=[sample]).close()
    return path


@contextlib.contextmanager
def text_pipe(folder, tokens: Tokens, **kw):
    path = write_text_bundle(folder / "text.mmedge", tokens.to_str().encode(), **kw)
    with mmedge.load(path, threads=1) as pipe:
        yield pipe
