"""A policy that stacks its cameras into one batch gets an encoder, and a cache, for each camera."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from shared import once
from torch import Tensor, nn

import mmedge
from mmedge.bundle import Bundle
from mmedge_export import Input, Model, export

STEPS, SIDE, WIDTH, STATE = 2, 32, 16, 5


class Block(nn.Module):
    """A residual block of a ResNet, with group normalization as policies have it."""

    def __init__(self, taken: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(taken, width, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in range(2))
        self.shortcut = nn.Conv2d(taken, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(y)) + self.shortcut(x)).relu()


class Encoder(nn.Module):
    """A small ResNet, and where in the picture each of its last channels is high."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 7, 2, 3)
        self.blocks = nn.Sequential(Block(8, 16, 2), Block(16, 32, 2))
        self.points = nn.Conv2d(32, WIDTH // 2, 1)
        line = torch.linspace(-1, 1, 4)
        self.register_buffer("grid", torch.cartesian_prod(line, line))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x[..., 2 : 2 + SIDE, 2 : 2 + SIDE]  # the middle of the picture
        x = self.points(self.blocks(F.max_pool2d(self.stem(x).relu(), 3, 1, 1)))
        x = F.adaptive_avg_pool2d(x, 4).reshape(-1, 16)
        return self.out((x.softmax(-1) @ self.grid).view(-1, WIDTH)).relu()


class Policy(nn.Module):
    """Two cameras over some steps of time through one encoder, then all with the robot's state."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.join = join
        self.encoder = Encoder()
        self.head = nn.Sequential(nn.Linear(STEPS * (2 * WIDTH + STATE), 32), nn.ReLU())
        self.action = nn.Linear(32, 4)

    def see(self, front: Tensor, wrist: Tensor) -> Tensor:
        batch, steps, *picture = front.shape
        if self.join == "inner":  # b s n ... -> (b s n) ..., and back to b s (n ...)
            pictures = torch.stack([front, wrist], dim=2)
            seen = self.encoder(pictures.reshape(batch * steps * 2, *picture))
            return seen.reshape(batch, steps, 2 * WIDTH)
        if self.join == "front":  # n b s ... -> (n b s) ..., and one after another
            pictures = torch.stack([front, wrist])
            seen = self.encoder(pictures.reshape(-1, *picture)).reshape(2, batch, steps, WIDTH)
            return torch.cat([seen[0], seen[1]], dim=-1)
        rows = batch * steps
        pictures = torch.cat([front.reshape(rows, *picture), wrist.reshape(rows, *picture)])
        seen = self.encoder(pictures)
        return torch.cat([seen[:rows], seen[rows:]], -1).reshape(batch, steps, -1)

    def forward(self, front: Tensor, wrist: Tensor, state: Tensor) -> Tensor:
        seen = self.see(front, wrist)
        return self.action(self.head(torch.cat([seen, state], dim=-1).flatten(1)))


def inputs(batch: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    picture = (batch, STEPS, 3, SIDE + 4, SIDE + 4)
    shapes = {"front": picture, "wrist": picture, "state": (batch, STEPS, STATE)}
    return {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}


def policy(join: str) -> Policy:
    torch.manual_seed(0)
    return Policy(join).eval()


JOINS = [
    "inner",
    pytest.param("front", marks=pytest.mark.further_class),
    pytest.param("cat", marks=pytest.mark.further_class),
]


@pytest.fixture(scope="module", params=JOINS)
def exported(request, tmp_path_factory):
    """The bundle, and how the network joins its cameras."""
    join = request.param

    def make(folder):
        sensors = {n: Input(x, dynamic={0: "batch"}) for n, x in inputs(2, 0).items()}
        export(Model(policy(join), sensors, ["action"]), folder / "net.mmedge").close()

    return once(tmp_path_factory, f"stacked-{join}", make) / "net.mmedge", join


def test_each_camera_has_an_encoder_that_shares_its_weights(exported):
    path, join = exported
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        data = [name for name in manifest.files if name.endswith(".data")]
        weights = sum(len(bundle.read(name)) for name in data)
    stages = {stage.name: stage for stage in manifest.stages}
    assert list(stages) == ["front", "wrist", "fusion", "model"]
    assert stages["front"].flops == stages["wrist"].flops > 50 * stages["fusion"].flops
    network = policy(join)
    assert len(data) == 1
    assert weights <= 1.05 * sum(4 * w.numel() for w in (*network.parameters(), *network.buffers()))
    (remark,) = [remark for remark in manifest.cut.remarks if "one batch" in remark]
    assert remark.startswith("front and wrist are joined to one batch")
    assert {move.modality for move in manifest.cut.moves} == {"front", "wrist"}


def test_it_answers_as_torch_and_keeps_what_each_camera_saw(exported):
    path, join = exported
    network = policy(join)
    with mmedge.load(path, plan="cut") as pipe:
        for batch in (1, 3):
            values = inputs(batch, batch)
            for sensor in (None, "front", "wrist", "state"):
                if sensor is not None:
                    values[sensor] = inputs(batch, batch + 10)[sensor]
                with torch.no_grad():
                    expected = network(**{n: torch.from_numpy(x) for n, x in values.items()})
                action = pipe.run(values)["action"]
                np.testing.assert_allclose(action, expected.numpy(), rtol=1e-4, atol=1e-5)
        # Of four calls a camera runs in the first, and in the one for which its picture is new.
        info = pipe.cache_info()
    assert {name: (one.hits, one.misses) for name, one in info.items()} == {
        "front": (4, 4),
        "wrist": (4, 4),
    }
