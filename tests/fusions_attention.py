"""Fusion networks of tests that join tokens: cross-attention, joint attention, two towers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from fusion_parts import (
    BATCH,
    HEADS,
    HIDDEN,
    PATCHES,
    TOKENS_IMAGE,
    WIDTH,
    WORDS,
    Expected,
    Patches,
    Words,
    attention,
    floats,
    image,
    layer,
    linear,
    transformer_layer,
    words,
)
from torch import Tensor, nn

from mmedge_export import Input, Model

# Cross-attention over four memories

QUERIES, LAYERS, FRAMES = 6, 3, 24


class CrossLayer(nn.Module):
    """Self-attention over queries, cross-attention over the memory, feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.itself = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.feed = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))

    def forward(self, x: Tensor, memory: Tensor, seen: Tensor) -> Tensor:
        normed = self.norms[0](x)
        x = x + self.itself(normed, normed, normed, need_weights=False)[0]
        q, k, v = (
            part.unflatten(-1, (HEADS, WIDTH // HEADS)).transpose(1, 2)
            for part in (self.query(self.norms[1](x)), self.key(memory), self.value(memory))
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None, :])
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.feed(self.norms[2](x))


class FourMemories(nn.Module):
    """Image, audio, text and state tokens in one memory that learned queries attend to."""

    def __init__(self, *, library: bool) -> None:
        super().__init__()
        self.image = Patches()
        self.audio = nn.Sequential(nn.Linear(20, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.text = Words()
        self.state = nn.Sequential(nn.Linear(8, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))
        self.queries = nn.Parameter(torch.randn(QUERIES, WIDTH))
        if library:
            made = nn.TransformerDecoderLayer(WIDTH, HEADS, HIDDEN, 0.0, "gelu", batch_first=True)
            self.decoder = nn.TransformerDecoder(made, LAYERS)
        else:
            self.layers = nn.ModuleList(CrossLayer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, 7)

    def forward(
        self, image: Tensor, audio: Tensor, ids: Tensor, mask: Tensor, state: Tensor
    ) -> Tensor:
        parts = [
            self.image(image),
            self.audio(audio),
            self.text(ids, mask),
            self.state(state)[:, None],
        ]
        memory = torch.cat(parts, dim=1)
        valid = [mask if at == 2 else part.new_ones(part.shape[:2], dtype=torch.bool)
                 for at, part in enumerate(parts)]  # fmt: skip
        seen = torch.cat(valid, dim=1)
        x = self.queries.expand(memory.shape[0], -1, -1)
        if hasattr(self, "decoder"):
            x = self.decoder(x, memory, memory_key_padding_mask=~seen)
        else:
            for each in self.layers:
                x = each(x, memory, seen)
        return self.head(x)


def _four_memories(*, library: bool) -> Model:
    torch.manual_seed(0)
    inputs = {
        "image": image(),
        "audio": Input(floats(BATCH, FRAMES, 20), dynamic={0: "batch", 1: "frames"}),
        **words(),
        "state": Input(floats(BATCH, 8), dynamic={0: "batch"}, rate_hz=100.0),
    }
    dims = {"batch": (1, 8), "words": (2, 32), "frames": (2, 100)}
    return Model(FourMemories(library=library), inputs, ["actions"], dims=dims)


def cross_attention() -> Model:
    """Own projections and scaled_dot_product_attention; two dynamic lengths."""
    return _four_memories(library=False)


def cross_attention_library() -> Model:
    """The same with torch's TransformerDecoder, which projects keys and values in one."""
    return _four_memories(library=True)


def _memory(length: int) -> int:
    """Keys and values of ``length`` tokens, in every layer."""
    return LAYERS * linear(BATCH * length, WIDTH, 2 * WIDTH)


_MEMORY = TOKENS_IMAGE + FRAMES + WORDS + 1
_CROSS = Expected(
    encoders={
        "image": PATCHES + _memory(TOKENS_IMAGE),
        "audio": linear(BATCH * FRAMES, 20, HIDDEN)
        + linear(BATCH * FRAMES, HIDDEN, WIDTH)
        + _memory(FRAMES),
        "text": transformer_layer(WORDS) + _memory(WORDS),
        "state": linear(BATCH, 8, HIDDEN) + linear(BATCH, HIDDEN, WIDTH) + _memory(1),
    },
    fusion=LAYERS
    * (
        transformer_layer(QUERIES)
        + linear(BATCH * QUERIES, WIDTH, 2 * WIDTH)  # the queries and what leaves
        + attention(QUERIES, _MEMORY)
    )
    + linear(BATCH * QUERIES, WIDTH, 7),
    pushed={
        "image": _memory(TOKENS_IMAGE),
        "audio": _memory(FRAMES),
        "text": _memory(WORDS),
        "state": _memory(1),
    },
)


# Self-attention over the tokens of two modalities


class Joint(nn.Module):
    """Image and sound tokens in one sequence, through two layers."""

    def __init__(self, *, norm_first: bool) -> None:
        super().__init__()
        self.image, self.sound = Patches(), nn.Linear(20, WIDTH)
        self.layers = nn.ModuleList(layer(norm_first=norm_first) for _ in range(2))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, image: Tensor, sound: Tensor) -> Tensor:
        x = torch.cat([self.image(image), self.sound(sound)], dim=1)
        for each in self.layers:
            x = each(x)
        return self.head(x.mean(1))


def _joint(*, norm_first: bool) -> Model:
    torch.manual_seed(0)
    sound = Input(floats(BATCH, FRAMES, 20), dynamic={0: "batch", 1: "frames"})
    inputs = {"image": image(), "sound": sound}
    return Model(Joint(norm_first=norm_first), inputs, ["logits"], dims={"frames": (2, 100)})


def joint_attention() -> Model:
    """torch's encoder layers, which normalise after; one dynamic length."""
    return _joint(norm_first=False)


def joint_attention_prenorm() -> Model:
    """The same, normalised before."""
    return _joint(norm_first=True)


def _packed(length: int) -> int:
    """Queries, keys and values of ``length`` tokens in one layer."""
    return linear(BATCH * length, WIDTH, 3 * WIDTH)


_JOINT = Expected(
    encoders={
        "image": PATCHES + _packed(TOKENS_IMAGE),
        "sound": linear(BATCH * FRAMES, 20, WIDTH) + _packed(FRAMES),
    },
    fusion=2 * transformer_layer(TOKENS_IMAGE + FRAMES)
    - _packed(TOKENS_IMAGE + FRAMES)
    + linear(BATCH, WIDTH, 5),
    pushed={"image": _packed(TOKENS_IMAGE), "sound": _packed(FRAMES)},
)


# Two towers


class TwoTowers(nn.Module):
    """An embedding of the image and one of the text, of length 1 each."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.see = Patches(), layer()
        self.text = Words()
        self.image_head, self.text_head = nn.Linear(WIDTH, 16), nn.Linear(WIDTH, 16)

    def forward(self, image: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.image_head(self.see(self.image(image)).mean(1))
        read = self.text(ids, mask) * mask[..., None]
        read = self.text_head(read.sum(1) / mask.sum(1, keepdim=True).clamp(min=1))
        return F.normalize(seen, dim=-1), F.normalize(read, dim=-1)


def two_towers() -> Model:
    """No fusion: each output depends on one modality."""
    torch.manual_seed(0)
    inputs = {"image": image(), **words()}
    outputs = ["image_embedding", "text_embedding"]
    return Model(TwoTowers(), inputs, outputs, dims={"words": (2, 32)})


_TOWERS = Expected(
    encoders={
        "image": PATCHES + transformer_layer(TOKENS_IMAGE) + linear(BATCH, WIDTH, 16),
        "text": transformer_layer(WORDS) + linear(BATCH, WIDTH, 16),
    },
    fusion=0,
    crossing={"image": 0, "text": 0},
)


EXPECTED: dict[str, Expected] = {
    "cross_attention": _CROSS,
    "cross_attention_library": _CROSS,
    "joint_attention": _JOINT,
    "joint_attention_prenorm": _JOINT,
    "two_towers": _TOWERS,
}
