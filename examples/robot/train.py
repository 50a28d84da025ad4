"""Trains the robot's network on the shipped recording and states how good it is.

In the folder ``examples``, ``python -m robot.train`` takes a few minutes on two CPU cores and
writes ``weights.safetensors``, ``tokenizer.json`` and ``result.json`` beside itself.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from robot.evaluate import evaluate
from robot.expert import MANOEUVRES, TURNING
from robot.network import HERE, TOKENIZER, WEIGHTS, Pilot, build_tokenizer, tokenize
from robot.recording import COLOURS, PATH, PHRASES, SHAPES, Recording, Shots, kind_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

RESULT = HERE / "result.json"

BATCH = 48
RATE = 2e-3
LOST = {"camera": 0.1, "lidar": 0.3, "state": 0.1, "text": 0.1}
"""How often each input is blanked in training, so that the network does without it sensibly."""

#: Manoeuvre by its number when left and right are swapped.
MIRRORED = torch.tensor([0, 1, 3, 2, 5, 4, 7, 6])


def mirror(
    frame: Tensor, lidar: Tensor, state: Tensor, right: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Moments with left and right swapped; each argument has a batch axis."""
    # Ray 0 points backward: mirrored, ray i becomes ray -i.
    scan = lidar.flip(1).roll(1, 1)
    swapped = state[:, [1, 0, 2, 3, 4]] * torch.tensor([1, 1, -1, 1, -1])
    return frame.flip(2), scan, swapped, MIRRORED[right]


class Batches:
    """Shuffled, augmented batches: frames get noise and light, whole moments are mirrored."""

    def __init__(self, shots: Shots, generator: torch.Generator) -> None:
        self._frame = torch.from_numpy(shots.frame)
        self._lidar, self._state = torch.from_numpy(shots.lidar), torch.from_numpy(shots.state)
        self._kinds = torch.from_numpy(shots.kinds).long()
        self._right = torch.from_numpy(shots.manoeuvre).long()
        self._generator = generator
        kinds = range(len(COLOURS) * len(SHAPES))
        texts = [phrase.format(kind_name(kind)) for kind in kinds for phrase in PHRASES]
        self._texts = torch.from_numpy(tokenize(texts)).view(len(kinds), len(PHRASES), -1)

    def __len__(self) -> int:
        return len(self._frame) // BATCH

    def __iter__(self) -> Iterator[tuple[list[Tensor], Tensor]]:
        """One pass: the four inputs (text for every goal in the room) and the right choices."""
        order = torch.randperm(len(self._frame), generator=self._generator)
        for index in order[: len(self) * BATCH].view(-1, BATCH):
            yield self._batch(index)

    def _batch(self, index: Tensor) -> tuple[list[Tensor], Tensor]:
        frame, lidar, state = self._frame[index], self._lidar[index], self._state[index]
        right = self._right[index]
        # Without a turn to continue the expert prefers the left, so only turns can be mirrored.
        flip = (self._random(BATCH) < 0.5) & (state[:, 2].abs() > TURNING)
        mirrored = mirror(frame[flip], lidar[flip], state[flip], right[flip])
        frame[flip], lidar[flip], state[flip], right[flip] = mirrored
        light = 0.7 + 0.6 * self._random(BATCH, 1, 1, 1)
        noise = 6 * torch.randn(frame.shape, generator=self._generator)
        frame = (frame * light + noise).clamp(0, 255).to(torch.uint8)
        kinds = self._kinds[index]
        phrase = torch.randint(len(PHRASES), kinds.shape, generator=self._generator)
        text = self._texts[kinds, phrase]
        inputs = {"camera": frame, "lidar": lidar, "state": state, "text": text}
        for name, value in inputs.items():
            kept = (self._random(BATCH) >= LOST[name]).view(-1, *[1] * (value.ndim - 1))
            inputs[name] = value * kept.to(value.dtype)
        return list(inputs.values()), right

    def _random(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator)


def train(shots: Shots, *, passes: int, seed: int) -> Pilot:
    """A network trained on ``shots`` for ``passes`` passes."""
    torch.manual_seed(seed)
    batches = Batches(shots, torch.Generator().manual_seed(seed))
    net = Pilot(build_tokenizer().get_vocab_size())
    counts = np.bincount(shots.manoeuvre.ravel(), minlength=len(MANOEUVRES))
    weight = torch.from_numpy((counts.mean() / counts) ** 0.5).float()
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, passes * len(batches))
    start = time.monotonic()
    for number in range(passes):
        total = 0.0
        for (camera, lidar, state, text), right in batches:
            # One look at the room serves all its goals: only the instruction differs.
            logits = net.answer(camera, lidar, state, text)
            loss = F.cross_entropy(logits.flatten(0, 1), right.flatten(), weight)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"{number + 1:3}: loss {total / len(batches):.3f}, {time.monotonic() - start:.0f} s")
    return net.eval()


def main() -> None:
    """Train, judge, write."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--recording", type=Path, default=PATH)
    options.add_argument("--output", type=Path, default=HERE, help="folder for weights and result")
    options.add_argument("--passes", type=int, default=36)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    recording = Recording(chosen.recording)
    build_tokenizer().save(str(TOKENIZER))
    shots, held_out = recording.shots("train"), recording.shots("test")
    start, worked = time.monotonic(), time.process_time()
    net = train(shots, passes=chosen.passes, seed=chosen.seed)
    seconds, worked = time.monotonic() - start, time.process_time() - worked
    save_file(
        {name: value.contiguous() for name, value in net.state_dict().items()},
        chosen.output / WEIGHTS.name,
    )
    result = {
        "task": "the manoeuvre of a scripted expert, one of " + ", ".join(MANOEUVRES),
        "training": {
            "rooms": len(np.unique(shots.room)),
            "frames": len(shots.t),
            "instructions per frame": shots.kinds.shape[1],
            "passes": chosen.passes,
            "seed": chosen.seed,
            "threads": chosen.threads,
            "seconds": round(seconds),
            "processor seconds": round(worked),
            "parameters": sum(value.numel() for value in net.parameters()),
        },
        "held out": {
            "rooms": len(np.unique(held_out.room)),
            "frames": len(held_out.t),
            **evaluate(net, held_out, majority=majority(shots)),
        },
    }
    (chosen.output / RESULT.name).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["held out"], indent=2))


def majority(shots: Shots) -> int:
    """The manoeuvre that the expert chooses most."""
    return int(np.bincount(shots.manoeuvre.ravel()).argmax())


if __name__ == "__main__":
    main()
