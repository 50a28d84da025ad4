"""Small networks with loops and state that tests of the toolchain share; random, seeded weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmedge_export import Denoise, Generate, Input, Model, StateInput
from mmedge_export.schedules import ddim, flow_euler

RNG = np.random.default_rng(3)
WIDTH, HEADS, WORDS = 32, 4, 40


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def samples(*shapes: dict[str, tuple[int, ...]]):
    return [({name: floats(*shape) for name, shape in each.items()}, None) for each in shapes]


def heads(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).flatten(2)


def causal(new: Tensor, past: int) -> Tensor:
    """[new, past + new]: a token sees itself and what came before."""
    count = new.shape[1]
    rows = torch.arange(count, device=new.device)[:, None] + past
    return torch.arange(past + count, device=new.device)[None, :] <= rows


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, past_k: Tensor, past_v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (heads(part) for part in self.qkv(x).chunk(3, -1))
        past = past_k.shape[2]
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        return self.out(attend(q, k, v, causal(x, past))), k, v


class Encoder(nn.Module):
    """Frames and sounds, each to keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.audio = nn.Linear(12, WIDTH), nn.Linear(8, WIDTH)
        self.kv = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, image: Tensor, audio: Tensor) -> dict[str, Tensor]:
        results = {}
        for name, x in (("image", self.image(image)), ("audio", self.audio(audio))):
            k, v = self.kv(F.gelu(x)).chunk(2, -1)
            results |= {f"{name}_k": heads(k), f"{name}_v": heads(v)}
        return results


class Decoder(nn.Module):
    """One layer: self-attention with a cache, and attention to what the encoder gave."""

    def __init__(self, room: int = 64) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(room, WIDTH)
        self.attention, self.q = SelfAttention(), nn.Linear(WIDTH, WIDTH)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

    def forward(
        self,
        input_ids: Tensor,
        past_k: Tensor,
        past_v: Tensor,
        image_k: Tensor,
        image_v: Tensor,
        audio_k: Tensor,
        audio_v: Tensor,
    ) -> dict[str, Tensor]:
        places = torch.arange(input_ids.shape[1], device=input_ids.device) + past_k.shape[2]
        x = self.embed(input_ids) + self.places(places)
        more, k, v = self.attention(x, past_k, past_v)
        x = x + more
        keys, values = torch.cat([image_k, audio_k], 2), torch.cat([image_v, audio_v], 2)
        x = x + 6 * attend(heads(3 * self.q(x)), keys, values)
        return {"logits": 4 * self.head(self.norm(x)), "present_k": k, "present_v": v}


CACHE = {
    f"past_{name}": StateInput(
        f"present_{name}", ("batch", HEADS, "past", WIDTH // HEADS), grows="past"
    )
    for name in "kv"
}


def captions(**options) -> Model:
    """Encoder and decoder over two modalities."""
    torch.manual_seed(0)
    options = {"start": [1], "stop": [2], "limit": 12, "state": CACHE, **options}
    step = options.pop("step", None) or Decoder()
    return Model(
        Encoder().eval(),
        {
            "image": Input(floats(2, 6, 12), dynamic={0: "batch", 1: "patches"}, rate_hz=30),
            "audio": Input(floats(2, 9, 8), dynamic={0: "batch", 1: "frames"}),
        },
        ["image_k", "image_v", "audio_k", "audio_v"],
        samples=samples(
            {"image": (2, 6, 12), "audio": (2, 9, 8)},
            {"image": (1, 4, 12), "audio": (1, 5, 8)},
            {"image": (3, 7, 12), "audio": (3, 3, 8)},
        ),
        loop=Generate(step.eval(), **options),
    )


class TextCondition(nn.Module):
    """A camera's frame and a text's ids, each to features."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.words = nn.Linear(12, WIDTH), nn.Embedding(WORDS, WIDTH)

    def forward(self, image: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.image(image)), self.words(ids).mean(1)


class Denoiser(nn.Module):
    """Predicts noise of a latent [batch, horizon, 6] under two conditions."""

    def __init__(self, *, uses_latent: bool = True) -> None:
        super().__init__()
        self.inside, self.time = nn.Linear(6, WIDTH), nn.Linear(2, WIDTH)
        self.outside, self.uses_latent = nn.Linear(WIDTH, 6), uses_latent

    def forward(
        self, latent: Tensor, timestep: Tensor, view: Tensor, words: Tensor
    ) -> dict[str, Tensor]:
        angle = timestep.float().reshape(-1, 1) / 100
        at = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        x = self.inside(latent) + (at + words)[:, None]
        x = torch.cat([view, x], 1)
        x = attend(heads(x), heads(x), heads(x))[:, view.shape[1] :]
        return {"prediction": self.outside(F.silu(x))}


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 12)

    def forward(self, latent: Tensor) -> Tensor:
        return self.up(latent).clamp(-1, 1)


def alphas_cumprod(count: int = 100) -> np.ndarray:
    return np.cumprod(1 - np.linspace(1e-3, 4e-2, count))


def picture(**options) -> Model:
    """DDIM with guidance and a decoder; two modalities."""
    torch.manual_seed(0)
    options = {
        "schedule": ddim(alphas_cumprod(), 8),
        "shape": ("batch", "horizon", 6),
        "sizes": {"horizon": 7},
        "guidance": 3.0,
        "unconditional": {"ids": np.zeros((1, 4), np.int64)},
        "decoder": Pixels().eval(),
        "outputs": ["pixels"],
        "time_shape": ("batch",),
        **options,
    }
    step = options.pop("step", None) or Denoiser()
    ids = RNG.integers(1, WORDS, (1, 4))
    return Model(
        TextCondition().eval(),
        {
            "image": Input(floats(1, 5, 12), dynamic={0: "batch"}),
            "ids": Input(ids, dynamic={0: "batch", 1: "words_n"}),
        },
        ["view", "words"],
        loop=Denoise(step.eval(), **options),
    )


class Prefix(nn.Module):
    """An image as what the decoder has already seen: keys and values of three tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.kv = nn.Linear(12, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.kv(F.gelu(self.image(image))).chunk(2, -1)
        return heads(k), heads(v)


class Writer(nn.Module):
    """A decoder without constants; takes positions."""

    def __init__(self, room: int = 64) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(room, WIDTH)
        self.attention, self.head = SelfAttention(), nn.Linear(WIDTH, WORDS)

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, past_k: Tensor, past_v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = self.embed(input_ids) + self.places(position_ids)
        more, k, v = self.attention(x, past_k, past_v)
        return 4 * self.head(x + more), k, v


def prefixed(**options) -> Model:
    """A decoder alone, after an image that is a prefix of its cache."""
    torch.manual_seed(1)
    options = {"start": [1, 5], "stop": [2], "limit": 10, "position": "position_ids", **options}
    return Model(
        Prefix().eval(),
        {"image": Input(floats(1, 3, 12), dynamic={0: "batch", 1: "patches"})},
        ["past_k", "past_v"],
        loop=Generate(
            Writer().eval(), state={"past_k": "present_k", "past_v": "present_v"}, **options
        ),
    )


def continued(**options) -> Model:
    """A text and nothing else."""
    torch.manual_seed(2)
    ids = RNG.integers(3, WORDS, (1, 4))
    options = {"stop": [2], "limit": 9, "position": "position_ids", "state": CACHE, **options}
    step = options.pop("step", None) or Writer()
    return Model(
        None,
        {"input_ids": Input(ids, modality="text", dynamic={0: "batch", 1: "new"})},
        dims={"new": (1, 16)},
        loop=Generate(step.eval(), **options),
    )


class Letters(nn.Module):
    """The encoder of a GRU pair: the last state of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Linear(5, WIDTH), nn.GRUCell(WIDTH, WIDTH)

    def forward(self, letters: Tensor) -> Tensor:
        h = torch.tanh(self.embed(letters[:, 0]))
        for at in range(1, 4):
            h = self.cell(self.embed(letters[:, at]), h)
        return h


class Sounds(nn.Module):
    """The decoder of a GRU pair, one token at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.cell = nn.Embedding(WORDS, WIDTH), nn.GRUCell(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, token: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        h = self.cell(self.embed(token), h)
        return 9 * self.head(h), h


def spoken(**options) -> Model:
    """g2p: GRU to GRU."""
    torch.manual_seed(3)
    options = {"start": [1], "stop": [2], "limit": 8, "token_shape": ("batch",), **options}
    return Model(
        Letters().eval(),
        {"letters": Input(floats(2, 4, 5), dynamic={0: "batch"})},
        ["h"],
        loop=Generate(Sounds().eval(), token="token", state={"h": "h_new"}, **options),
    )


def policy_head(**options) -> Model:
    """Flow matching: actions from noise in five steps, under one condition."""
    torch.manual_seed(4)

    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image, self.state = nn.Linear(12, WIDTH), nn.Linear(7, WIDTH)

        def forward(self, image: Tensor, joints: Tensor) -> tuple[Tensor, Tensor]:
            return torch.tanh(self.image(image)), torch.tanh(self.state(joints))

    return Model(
        Features().eval(),
        {
            "image": Input(floats(1, 5, 12), rate_hz=30),
            "joints": Input(floats(1, 7), rate_hz=100),
        },
        ["view", "words"],
        loop=Denoise(Denoiser().eval(), schedule=flow_euler(5), shape=(1, 8, 6), **options),
    )


class Policy(nn.Module):
    """A GRU over what two sensors say."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.imu = nn.Linear(300, 400), nn.Linear(6, WIDTH)
        self.cell, self.out = nn.GRUCell(400 + WIDTH, WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, image: Tensor, imu: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.cat([F.gelu(self.image(image)), self.imu(imu)], -1)
        h = self.cell(x, h)
        return torch.tanh(self.out(h)), h


def policy(**options) -> Model:
    torch.manual_seed(5)
    return Model(
        Policy().eval(),
        {
            "image": Input(floats(1, 300), dynamic={0: "batch"}, rate_hz=30),
            "imu": Input(floats(1, 6), dynamic={0: "batch"}, rate_hz=200),
        },
        ["action"],
        samples=samples(
            *[{"image": (1, 300), "imu": (1, 6)}] * 3, {"image": (2, 300), "imu": (2, 6)}
        ),
        **{"state": {"h": StateInput("h_new", ("batch", WIDTH))}, **options},
    )


class InertialTrack(nn.Module):
    """A GRU over one sensor, which another one joins."""

    def __init__(self) -> None:
        super().__init__()
        self.imu, self.cell = nn.Linear(6, 200), nn.GRUCell(200, 200)
        self.image, self.out = nn.Linear(300, 400), nn.Linear(600, 4)

    def forward(self, image: Tensor, imu: Tensor, h: Tensor) -> dict[str, Tensor]:
        h = self.cell(F.gelu(self.imu(imu)), h)
        joint = torch.cat([F.gelu(self.image(image)), h], -1)
        return {"pose": self.out(joint), "h_new": h}


def tracked() -> Model:
    torch.manual_seed(6)
    return Model(
        InertialTrack().eval(),
        {
            "image": Input(floats(1, 300), dynamic={0: "batch"}),
            "imu": Input(floats(1, 6), dynamic={0: "batch"}),
        },
        ["pose"],
        state={"h": StateInput("h_new", ("batch", 200))},
    )


class Voice(nn.Module):
    """A detector over chunks of sound, with a cell and a window of what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.cell, self.out = (
            nn.Linear(24, WIDTH),
            nn.LSTMCell(WIDTH, WIDTH),
            nn.Linear(WIDTH, 1),
        )

    def forward(self, chunk: Tensor, window: Tensor, h: Tensor, c: Tensor):
        x = torch.cat([window, chunk], 1)
        h, c = self.cell(torch.tanh(self.mix(x)), (h, c))
        return self.out(h).sigmoid(), x[:, -8:], h, c


def voice() -> Model:
    torch.manual_seed(7)
    return Model(
        Voice().eval(),
        {"chunk": Input(floats(1, 16), dynamic={0: "batch"}, rate_hz=31.25)},
        ["speech"],
        state={
            "window": StateInput("window_new", ("batch", 8)),
            "h": StateInput("h_new", ("batch", WIDTH)),
            "c": StateInput("c_new", ("batch", WIDTH), initial=np.ones((1, WIDTH), np.float32)),
        },
    )


class Glossary(nn.Module):
    """Features of a hint in words, by the table of the decoder that takes them."""

    def __init__(self, table: nn.Embedding) -> None:
        super().__init__()
        self.words, self.kv = table, nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, hint: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.kv(self.words(hint)).chunk(2, -1)
        return heads(k), heads(v)


def hinted() -> Model:
    """Module and step have a table of words in common."""
    torch.manual_seed(8)
    step = Writer()
    hint = RNG.integers(3, WORDS, (1, 3))
    return Model(
        Glossary(step.embed).eval(),
        {"hint": Input(hint, dynamic={0: "batch", 1: "hints"})},
        ["past_k", "past_v"],
        loop=Generate(
            step.eval(),
            state={"past_k": "present_k", "past_v": "present_v"},
            start=[1],
            stop=[2],
            limit=6,
            position="position_ids",
        ),
    )
