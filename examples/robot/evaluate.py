"""How good a network is on held-out rooms: with every input, without each, and next to guessing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from robot.expert import MANOEUVRES
from robot.network import balanced_accuracy, tokenize
from robot.recording import PHRASES, kind_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from robot.network import Pilot
    from robot.recording import Shots

__all__ = ["evaluate"]

INPUTS = ("camera", "lidar", "state", "text")


def evaluate(net: Pilot, shots: Shots, *, majority: int) -> dict[str, Any]:
    """The figures that go into ``result.json``.

    Args:
        net: in evaluation mode.
        shots: moments of rooms that the network was not trained on; each counts once for every goal
            in its room.
        majority: the manoeuvre that is most frequent in the training rooms.

    Returns:
        For every input blanked (and none): ``balanced accuracy`` and ``accuracy``, 0 to 1, to four
        decimals; the same for always guessing ``majority``; and the recall of each manoeuvre with
        every input.
    """
    right = shots.manoeuvre.ravel()
    whole = _logits(net, shots, None)
    guess = np.eye(len(MANOEUVRES), dtype=np.float32)[np.full(len(right), majority)]
    chosen = whole.argmax(1)
    return {
        "cases": len(right),
        "all inputs": _judge(whole, right),
        **{f"without {name}": _judge(_logits(net, shots, name), right) for name in INPUTS},
        f"always {MANOEUVRES[majority]}": _judge(guess, right),
        "recall": {
            name: round(float(np.mean(chosen[right == index] == index)), 4)
            for index, name in enumerate(MANOEUVRES)
        },
    }


def _judge(logits: NDArray[np.float32], right: NDArray[np.uint8]) -> dict[str, float]:
    balanced = balanced_accuracy([{"manoeuvre": row[None]} for row in logits], list(right))
    plain = float(np.mean(logits.argmax(1) == right))
    return {"balanced accuracy": round(balanced, 4), "accuracy": round(plain, 4)}


def _logits(net: Pilot, shots: Shots, blank: str | None) -> NDArray[np.float32]:
    """Logits for every goal at every moment, ``[moments * goals, manoeuvres]``."""
    texts = [PHRASES[0].format(kind_name(int(kind))) for kind in shots.kinds.ravel()]
    arrays: dict[str, NDArray[Any]] = {
        "camera": shots.frame,
        "lidar": shots.lidar,
        "state": shots.state,
        "text": tokenize(texts).reshape(*shots.kinds.shape, -1),
    }
    if blank:
        arrays[blank] = np.zeros_like(arrays[blank])
    found = []
    for start in range(0, len(shots.t), 64):
        part = {name: torch.from_numpy(value[start : start + 64]) for name, value in arrays.items()}
        with torch.inference_mode():
            found.append(net.answer(**part).flatten(0, 1).numpy())
    return np.concatenate(found)
