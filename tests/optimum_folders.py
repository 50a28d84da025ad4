"""Folders of the layout that Optimum writes, of small networks with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import loop_networks as networks
import numpy as np
import onnx
import torch
from loop_networks import HEADS, WIDTH, WORDS, attend, causal, heads
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F

from mmedge_export.noise import quiet

START, STOP, LIMIT = 0, 1, 14


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embed(input_ids)
        mask = attention_mask[:, None, None].bool()
        return x + self.mix(attend(heads(x), heads(x), heads(x), mask))


class Decoder(nn.Module):
    """One layer: tokens, keys and values of those before, and of what the encoder gave."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(64, WIDTH)
        self.qkv, self.q, self.kv = (
            nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH),
        )  # fmt: skip
        self.head = nn.Linear(WIDTH, WORDS)

    def step(self, ids: Tensor, k: Tensor | None, v: Tensor | None, ek, ev, mask):
        past = 0 if k is None else k.shape[2]
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1], device=ids.device) + past)
        q, new_k, new_v = (heads(part) for part in self.qkv(x).chunk(3, -1))
        k = new_k if k is None else torch.cat([k, new_k], 2)
        v = new_v if v is None else torch.cat([v, new_v], 2)
        x = x + attend(q, k, v, causal(x, past))
        if callable(ek):
            ek, ev = ek(x), ev(x)
        x = x + 4 * attend(heads(3 * self.q(x)), ek, ev, mask[:, None, None].bool())
        return 4 * self.head(F.gelu(x)), k, v, ek, ev

    def cross(self, encoded: Tensor, part: int):
        """Keys or values, with the batch read from the decoder's own values."""
        projected = self.kv(encoded).chunk(2, -1)[part]
        return lambda x: projected.view(x.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)


class First(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, encoder_attention_mask, input_ids, encoder_hidden_states):
        logits, k, v, ek, ev = self.decoder.step(
            input_ids, None, None, self.decoder.cross(encoder_hidden_states, 0),
            self.decoder.cross(encoder_hidden_states, 1), encoder_attention_mask,
        )  # fmt: skip
        return logits, k, v, ek, ev


class Next(First):
    def forward(self, encoder_attention_mask, input_ids, k, v, ek, ev):
        return self.decoder.step(input_ids, k, v, ek, ev, encoder_attention_mask)[:3]


BATCH, LENGTH, NEW, PAST = (
    "batch_size", "encoder_sequence_length", "decoder_sequence_length",
    "past_decoder_sequence_length",
)  # fmt: skip
TEXT, TOKENS = {0: BATCH, 1: LENGTH}, {0: BATCH, 1: NEW}
CACHE, CROSS = {0: BATCH, 2: PAST}, {0: BATCH, 2: LENGTH}


def write(path: Path, module: nn.Module, inputs: dict, outputs: list[str]) -> None:
    """``inputs``: example and dynamic axes by name."""
    names = {size for _, axes in inputs.values() for size in axes.values()}
    dims = {name: torch.export.Dim(name) for name in names}
    shapes = tuple({axis: dims[size] for axis, size in axes.items()} for _, axes in inputs.values())
    with quiet():
        program = torch.onnx.export(
            module.eval(), tuple(value for value, _ in inputs.values()), dynamic_shapes=shapes,
            input_names=list(inputs), output_names=outputs, dynamo=True, verbose=False,
        )  # fmt: skip
    onnx.save(program.model_proto, path)


def write_tokenizer(folder: Path, **config: object) -> None:
    words = {"<s>": 0, "</s>": 1, "<pad>": 2} | {f"w{i}": i for i in range(3, WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"pad_token": "<pad>", "padding_side": "right", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def translator() -> tuple[Encoder, Decoder]:
    torch.manual_seed(11)
    return Encoder().eval(), Decoder().eval()


def write_translator(folder: Path) -> None:
    """encoder_model.onnx, decoder_model.onnx, decoder_with_past_model.onnx."""
    encoder, decoder = translator()
    ids, mask = torch.randint(3, WORDS, (2, 7)), torch.ones(2, 7, dtype=torch.int64)
    encoded = torch.randn(2, 7, WIDTH)
    cache, cross = (
        torch.randn(2, HEADS, 5, WIDTH // HEADS),
        torch.randn(2, HEADS, 7, WIDTH // HEADS),
    )
    text = {"input_ids": (ids, TEXT), "attention_mask": (mask, TEXT)}
    write(folder / "encoder_model.onnx", encoder, text, ["last_hidden_state"])
    sides = [f"0.{side}.{what}" for side in ("decoder", "encoder") for what in ("key", "value")]
    tokens = {"encoder_attention_mask": (mask, TEXT), "input_ids": (ids[:, :4], TOKENS)}
    write(
        folder / "decoder_model.onnx", First(decoder),
        {**tokens, "encoder_hidden_states": (encoded, TEXT)},
        ["logits", *(f"present.{name}" for name in sides)],
    )  # fmt: skip
    past = [(cache, CACHE), (cache.flip(2), CACHE), (cross, CROSS), (cross.flip(2), CROSS)]
    write(
        folder / "decoder_with_past_model.onnx", Next(decoder),
        {**tokens, **{f"past_key_values.{n}": value for n, value in zip(sides, past, strict=True)}},
        ["logits", *(f"present.{name}" for name in sides[:2])],
    )  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "decoder": {}}))
    (folder / "generation_config.json").write_text(
        json.dumps(
            {
                "decoder_start_token_id": START,
                "eos_token_id": STOP,
                "max_length": LIMIT + 1,
                "suppress_tokens": [7, 8, -1],
                "begin_suppress_tokens": [9],
                "num_beams": 4,
            }
        )
    )
    write_tokenizer(folder)


def translate(ids: np.ndarray, mask: np.ndarray) -> list[list[int]]:
    """Greedy tokens of each row, in torch."""
    encoder, decoder = translator()
    first = First(decoder)
    ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
    sequence = torch.full((len(ids), 1), START)
    with torch.no_grad():
        encoded = encoder(ids, mask)
        for index in range(LIMIT):
            logits = first(mask, sequence, encoded)[0][:, -1]
            logits[:, [7, 8, *([9] if index == 0 else [])]] = -torch.inf
            sequence = torch.cat([sequence, logits.argmax(-1)[:, None]], 1)
    rows = sequence[:, 1:].tolist()
    return [row[: row.index(STOP)] if STOP in row else row for row in rows]


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.types = nn.Embedding(WORDS, WIDTH), nn.Embedding(2, WIDTH)
        self.places, self.head = nn.Embedding(24, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        at = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.embed(input_ids) + self.types(token_type_ids) + self.places(at)
        mask = attention_mask[..., None].float()
        return self.head((F.gelu(x) * mask).sum(1) / mask.sum(1))


def classifier() -> Classifier:
    torch.manual_seed(12)
    return Classifier().eval()


def write_classifier(folder: Path) -> None:
    ids = torch.randint(3, WORDS, (2, 7))
    axes = {0: "batch_size", 1: "sequence_length"}
    inputs = {
        "input_ids": (ids, axes), "attention_mask": (torch.ones_like(ids), axes),
        "token_type_ids": (torch.zeros_like(ids), axes),
    }  # fmt: skip
    write(folder / "model.onnx", classifier(), inputs, ["logits"])
    labels = {"0": "bad", "1": "so-so", "2": "good"}
    config = {"model_type": "bert", "id2label": labels, "max_position_embeddings": 24}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder)


def write_writer(folder: Path) -> None:
    """model.onnx, a decoder with past."""
    torch.manual_seed(2)
    ids, past = torch.randint(3, WORDS, (2, 3)), torch.randn(2, HEADS, 5, WIDTH // HEADS)
    rows = {0: "batch_size", 1: "sequence_length"}
    cache = {0: "batch_size", 2: "past_sequence_length"}
    inputs = {
        "input_ids": (ids, rows), "position_ids": (torch.arange(5, 8).repeat(2, 1), rows),
        "past_key_values.0.key": (past, cache), "past_key_values.0.value": (past.flip(2), cache),
    }  # fmt: skip
    outputs = ["logits", "present.0.key", "present.0.value"]
    write(folder / "model.onnx", networks.Writer(), inputs, outputs)
    config = {"model_type": "gpt2", "n_positions": 64, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder, padding_side="left")
