"""The shipped recording: stamped sensor streams of a robot, one safetensors file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Arrays = Mapping[str, NDArray[Any]]

__all__ = [
    "COLOURS",
    "PATH",
    "PHRASES",
    "SHAPES",
    "SIZE",
    "Recording",
    "Replay",
    "Shots",
    "kind_name",
    "pack_frames",
    "unpack_frames",
]

PATH = Path(__file__).with_name("recording.safetensors")
"""What ``record.py`` wrote."""

SIZE = 64
"""Width and height of a frame."""

COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("box", "pillar")

PHRASES = ("go to the {}", "drive to the {}", "find the {}", "approach the {}")
"""Ways to name a goal."""


def kind_name(kind: int) -> str:
    """What a kind of goal is called, such as ``red box``."""
    return f"{COLOURS[kind % len(COLOURS)]} {SHAPES[kind // len(COLOURS)]}"


def pack_frames(frames: Sequence[NDArray[np.uint8]]) -> dict[str, NDArray[Any]]:
    """Frames as PNG files one after another: ``png`` uint8 ``[bytes]``, ``ends`` int64 ``[n]``."""
    files = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "PNG", optimize=True)
        files.append(file.getvalue())
    ends = np.cumsum([len(file) for file in files], dtype=np.int64)
    return {"png": np.frombuffer(b"".join(files), np.uint8), "ends": ends}


def unpack_frames(png: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.uint8]:
    """What :func:`pack_frames` packed: uint8 ``[n, SIZE, SIZE, 3]``."""
    starts = [0, *ends[:-1]]
    files = [png[a:b].tobytes() for a, b in zip(starts, ends, strict=True)]
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


@dataclass(frozen=True)
class Shots:
    """Single moments of many rooms, with what the expert does there for each goal in the room.

    Attributes:
        room: which room, int16 ``[n]``.
        t: seconds since the room's start, float64 ``[n]``.
        frame: uint8 ``[n, SIZE, SIZE, 3]``, taken at ``t``.
        lidar: the newest scan at ``t``, float32 ``[n, 256]``, metres.
        state: the newest state at ``t``, float32 ``[n, 5]``.
        kinds: the goals in the room, uint8 ``[n, goals]``; see :func:`kind_name`.
        manoeuvre: the expert's choice for each of them, uint8 ``[n, goals]``.
    """

    room: NDArray[np.int16]
    t: NDArray[np.float64]
    frame: NDArray[np.uint8]
    lidar: NDArray[np.float32]
    state: NDArray[np.float32]
    kinds: NDArray[np.uint8]
    manoeuvre: NDArray[np.uint8]


@dataclass(frozen=True)
class Replay:
    """One drive through a room that no shot comes from, every sensor at its own rate.

    Stamps are seconds, float64. Sensors that share a stamp are to be pushed in the order state,
    lidar, text, camera.

    Attributes:
        camera_t, frame: 30 Hz, uint8 ``[n, SIZE, SIZE, 3]``.
        lidar_t, lidar: 10 Hz, float32 ``[n, 256]``, metres.
        state_t, state: 100 Hz, float32 ``[n, 5]``.
        text_t, goal: a new instruction when the last goal was reached, or not within 10 s; kinds.
        manoeuvre: the expert's choice at each frame, uint8 ``[n]``.
    """

    camera_t: NDArray[np.float64]
    frame: NDArray[np.uint8]
    lidar_t: NDArray[np.float64]
    lidar: NDArray[np.float32]
    state_t: NDArray[np.float64]
    state: NDArray[np.float32]
    text_t: NDArray[np.float64]
    goal: NDArray[np.uint8]
    manoeuvre: NDArray[np.uint8]

    def instructions(self) -> list[str]:
        """One for each of ``text_t``."""
        return [PHRASES[0].format(kind_name(int(kind))) for kind in self.goal]


class Recording:
    """The three parts of the shipped file, unpacked when asked for.

    Raises:
        FileNotFoundError: the file is not there.
    """

    def __init__(self, path: Path = PATH) -> None:
        self._arrays = load_file(path)

    def shots(self, part: str) -> Shots:
        """``train`` or ``test``: rooms that have nothing in common."""
        return Shots(**self._part(part))

    def replay(self) -> Replay:
        """The drive to replay."""
        return Replay(**self._part("replay"))

    def _part(self, part: str) -> dict[str, Any]:
        found = {
            name.removeprefix(f"{part}."): value
            for name, value in self._arrays.items()
            if name.startswith(f"{part}.")
        }
        found["frame"] = unpack_frames(found.pop("png"), found.pop("ends"))
        # Half precision saves space on disk; sensors deliver, and networks take, float32.
        return {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in found.items()}
