"""The robot's fusion network, and what mmedge has to know of it.

In the folder ``examples``:
``python -m mmedge export robot.network:factory -o robot.mmedge``.

Each branch makes its tokens from its own raw input; the instruction then looks among the camera's
tokens for what it names, and a small network decides with that, the scan and the state.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor, nn

from mmedge_export import Input, Model
from robot.expert import MANOEUVRES, RAYS
from robot.recording import COLOURS, PHRASES, SHAPES, Recording, kind_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Pilot", "balanced_accuracy", "factory", "tokenize"]

HERE = Path(__file__).parent
WEIGHTS = HERE / "weights.safetensors"
TOKENIZER = HERE / "tokenizer.json"

D = 64
WORDS = 8
STATE = 5
GRID = 8


class Eye(nn.Module):
    """Camera branch: uint8 ``[B, SIZE, SIZE, 3]`` to tokens ``[B, GRID * GRID + 1, D]``.

    The last token is learned and stands for "nothing of that kind in view".
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(48, D, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(D, D, 3, padding=1),
        )
        self.place = nn.Parameter(torch.randn(1, GRID * GRID, D) * 0.3)
        self.nothing = nn.Parameter(torch.randn(1, 1, D) * 0.3)

    def forward(self, frame: Tensor) -> Tensor:
        """Tokens of a batch of frames."""
        pixels = frame.permute(0, 3, 1, 2).float() / 127.5 - 1
        seen = self.net(pixels).flatten(2).transpose(1, 2) + self.place
        # Every branch takes the batch's size from its own input, so that it can run on its own.
        return torch.cat([seen, self.nothing.expand(seen.shape[0], -1, -1)], dim=1)


class Feeler(nn.Module):
    """Lidar branch: metres, float32 ``[B, RAYS]``, to ``[B, D]``; zeros mean there is no scan."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(2, 24, 7, stride=4, padding=3),
            nn.ReLU(),
            nn.Conv1d(24, 24, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(24 * RAYS // 8, D),
            nn.ReLU(),
        )

    def forward(self, ranges: Tensor) -> Tensor:
        """One token for a batch of scans."""
        given = (ranges > 0).float()
        near = given / (ranges + 0.2)  # what is near is what matters
        token: Tensor = self.net(torch.stack([near, given], dim=1))
        return token


class Reader(nn.Module):
    """Text branch: ids int64 ``[B, q, WORDS]`` (0 pads) to ``[B, q, D]``."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, D)
        self.net = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D))

    def forward(self, text: Tensor) -> Tensor:
        """The mean of the words, transformed."""
        real = (text > 0).float().unsqueeze(-1)
        total = (self.words(text) * real).sum(dim=-2)
        token: Tensor = self.net(total / real.sum(dim=-2).clamp(min=1))
        return token


class Look(nn.Module):
    """A query looks among keys: cross-attention and a feed-forward layer, both residual."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(D, D) for _ in range(4))
        self.before, self.between = nn.LayerNorm(D), nn.LayerNorm(D)
        self.feed = nn.Sequential(nn.Linear(D, 2 * D), nn.ReLU(), nn.Linear(2 * D, D))

    def forward(self, asked: Tensor, tokens: Tensor) -> Tensor:
        """``asked`` ``[B, q, D]`` among ``tokens`` ``[B, n, D]``: ``[B, q, D]``."""
        q, k, v = (
            layer(value).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for layer, value in (
                (self.query, self.before(asked)),
                (self.key, tokens),
                (self.value, tokens),
            )
        )
        found = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        asked = asked + self.out(found)
        answered: Tensor = asked + self.feed(self.between(asked))
        return answered


class Pilot(nn.Module):
    """Camera, lidar, state and instruction to one of the manoeuvres.

    Args:
        vocabulary: number of token ids.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.eye, self.feeler, self.reader = Eye(), Feeler(), Reader(vocabulary)
        self.sense = nn.Sequential(nn.Linear(STATE, D), nn.ReLU(), nn.Linear(D, D), nn.ReLU())
        self.looks = nn.ModuleList([Look(), Look()])
        self.by_sight = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 2 * D))
        self.by_lidar, self.by_state = nn.Linear(D, 2 * D), nn.Linear(D, 2 * D)
        self.decide = nn.Sequential(
            nn.ReLU(), nn.Linear(2 * D, D), nn.ReLU(), nn.Linear(D, len(MANOEUVRES))
        )

    def forward(self, camera: Tensor, lidar: Tensor, state: Tensor, text: Tensor) -> Tensor:
        """Logits of the manoeuvres.

        Args:
            camera: uint8 ``[B, 64, 64, 3]``, RGB.
            lidar: float32 ``[B, 256]``, metres; zeros mean that there is no scan.
            state: float32 ``[B, 5]``: wheels and gyro in rad/s, accelerations in m/s2.
            text: int64 ``[B, 8]`` token ids; 0 pads.

        Returns:
            float32 ``[B, 8]``, in the order of ``expert.MANOEUVRES``.
        """
        return self.answer(camera, lidar, state, text.unsqueeze(1)).squeeze(1)

    def answer(self, camera: Tensor, lidar: Tensor, state: Tensor, text: Tensor) -> Tensor:
        """:meth:`forward` for several instructions at each moment, which look at it once.

        ``text`` is ``[B, q, 8]``; returns ``[B, q, 8]``.
        """
        seen, felt, sensed = self.eye(camera), self.feeler(lidar), self.sense(state)
        asked = self.reader(text)
        for look in self.looks:
            asked = look(asked, seen)
        felt, sensed = self.by_lidar(felt).unsqueeze(1), self.by_state(sensed).unsqueeze(1)
        # The first layer on the three parts is a sum of one layer on each.
        logits: Tensor = self.decide(self.by_sight(asked) + felt + sensed)
        return logits


def build_tokenizer() -> Tokenizer:
    """Whole words of all instructions, ids from 2; 0 pads to ``WORDS``, 1 is any other word."""
    kinds = [kind_name(kind) for kind in range(len(COLOURS) * len(SHAPES))]
    words = sorted({w for p in PHRASES for kind in kinds for w in p.format(kind).split()})
    vocabulary = {word: n for n, word in enumerate(["[PAD]", "[UNK]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=WORDS, pad_id=0, pad_token="[PAD]")  # noqa: S106
    return tokenizer


def tokenize(texts: list[str]) -> NDArray[np.int64]:
    """Ids of instructions by the shipped tokenizer: int64 ``[n, WORDS]``."""
    rows = Tokenizer.from_file(str(TOKENIZER)).encode_batch(texts)
    return np.array([row.ids for row in rows], np.int64)


def load_pilot(path: Path = WEIGHTS) -> Pilot:
    """The trained network in evaluation mode."""
    weights = load_file(path)
    net = Pilot(len(weights["reader.words.weight"]))
    net.load_state_dict(weights)
    return net.eval()


def balanced_accuracy(outputs: list[dict[str, NDArray[Any]]], targets: list[Any]) -> float:
    """Mean, over the manoeuvres that occur, of the share of each that is recognised.

    The expert searches half of the time and swerves seldom; here each counts the same.
    """
    chosen = np.array([int(out["manoeuvre"][0].argmax()) for out in outputs])
    right = np.array(targets)
    return float(np.mean([np.mean(chosen[right == m] == m) for m in np.unique(right)]))


def factory() -> Model:
    """The trained network with its contract: rates, greatest ages, and a lidar that may be lost."""
    shots = Recording().shots("test")
    rng = np.random.default_rng(0)
    samples = []
    for index in rng.permutation(len(shots.t))[:256]:
        goal = int(rng.integers(shots.kinds.shape[1]))
        text = PHRASES[0].format(kind_name(int(shots.kinds[index, goal])))
        one: dict[str, NDArray[Any]] = {
            "camera": shots.frame[index : index + 1],
            "lidar": shots.lidar[index : index + 1],
            "state": shots.state[index : index + 1],
            "text": tokenize([text]),
        }
        samples.append((one, int(shots.manoeuvre[index, goal])))
    batch = {0: "batch"}
    example = samples[0][0]
    return Model(
        load_pilot(),
        inputs={
            "camera": Input(example["camera"], dynamic=batch, rate_hz=30.0, max_age_ms=100.0),
            "lidar": Input(
                example["lidar"],
                dynamic=batch,
                rate_hz=10.0,
                max_age_ms=300.0,
                required=False,
                absent="zeros",
            ),
            "state": Input(example["state"], dynamic=batch, rate_hz=100.0, max_age_ms=50.0),
            "text": Input(example["text"], dynamic=batch, tokenizer=TOKENIZER),
        },
        outputs=("manoeuvre",),
        samples=samples,
        metric=balanced_accuracy,
        labels={"manoeuvre": MANOEUVRES},
        dims={"batch": (1, 64)},
        name="robot",
    )
