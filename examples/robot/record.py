"""Records the expert's drives in pybullet and writes ``recording.safetensors``.

Only this and ``world.py`` need pybullet (``pip install pybullet==3.2.7``). In the folder
``examples``, ``python -m robot.record [--output FILE]`` takes about two minutes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pybullet as bullet
from safetensors.numpy import save_file

from robot import recording
from robot.expert import COMMANDS, MANOEUVRES, REACHED_M, decide
from robot.world import TICKS_HZ, Room

if TYPE_CHECKING:
    from numpy.typing import NDArray

SEED = 7
CAMERA, LIDAR, STATE = (TICKS_HZ // hz for hz in (30, 10, 100))
"""Ticks between two deliveries of each sensor."""

SHOT = 10
"""Every how manyth frame of a drive becomes a shot: 3 a second, which differ enough to teach."""

PATIENCE_S = 10.0
"""After this long the next goal is named, whether the last was reached or not."""

REST_S = 0.6
"""How long the robot stays where it was told to go."""

REPLAYED = 151
"""Seed of the replayed room: one in which the expert has to swerve early, midway and late."""
SECONDS = 20.0


class Drive:
    """The expert drives through one room for some seconds and everything is written down.

    Args:
        rng: draws the room, the noise, and the goals.
        seconds: how long.
        astray: share of time in which the expert's command is replaced by a random one, so that
            states are seen that the expert itself never gets into; what is recorded as its choice
            stays its choice.
        every: every how manyth camera frame is rendered.
    """

    def __init__(
        self, rng: np.random.Generator, seconds: float, *, astray: float, every: int
    ) -> None:
        self.room = Room(rng)
        self.frames: list[NDArray[np.uint8]] = []
        self.stamps: dict[str, list[float]] = {"camera": [], "lidar": [], "state": [], "text": []}
        self.values: dict[str, list[Any]] = {key: [] for key in ("lidar", "state", "goal")}
        self.at_frame: list[tuple[int, int]] = []
        self.choices: list[list[int]] = []
        self.reached = self.hits = 0
        self._rng = rng
        self._astray = astray
        self._goal = -1
        self._order = list(rng.permutation(len(self.room.things)))
        self._since = self._rest = self._stray_until = 0.0
        self._stray = (0.0, 0.0)
        command = COMMANDS[0]
        for tick in range(round(seconds * TICKS_HZ)):
            t = tick / TICKS_HZ
            if tick % STATE == 0:
                self._deliver("state", t, self.room.state())
            if tick % LIDAR == 0:
                self._deliver("lidar", t, self.room.lidar())
            if tick % CAMERA == 0:
                command = self._choose(t, render=tick % (CAMERA * every) == 0)
                self.hits += self.room.touching()
            self.room.step(command)

    def _deliver(self, sensor: str, t: float, value: object) -> None:
        self.stamps[sensor].append(t)
        self.values[sensor].append(value)

    def _choose(self, t: float, *, render: bool) -> tuple[float, float]:
        goals = self.room.goals()
        if self._goal < 0 or self._done(goals[self._goal].distance, t):
            self._order.append(self._order.pop(0))
            self._goal, self._since, self._rest = self._order[0], t, 0.0
            self.stamps["text"].append(t)
            self.values["goal"].append(self.room.things[self._goal])
        scan = self.values["lidar"][-1].astype(np.float32)
        gyro = float(self.values["state"][-1][2])
        choices = [decide(goal, scan, gyro) for goal in goals]
        if render:
            self.stamps["camera"].append(t)
            self.frames.append(self.room.camera())
            self.choices.append(choices)
            self.at_frame.append((len(self.values["lidar"]) - 1, len(self.values["state"]) - 1))
        if t < self._stray_until:
            return self._stray
        if self._rng.uniform() < self._astray / 15:  # lasts half a second, 15 frames, on average
            self._stray_until = t + self._rng.uniform(0.2, 0.8)
            self._stray = COMMANDS[self._rng.integers(len(COMMANDS))]
        return COMMANDS[choices[self._goal]]

    def _done(self, distance: float, t: float) -> bool:
        if distance < REACHED_M and not self._rest:
            self._rest = t + REST_S
            self.reached += 1
        return 0 < self._rest < t or t - self._since > PATIENCE_S

    def goal_at_frames(self) -> NDArray[np.int64]:
        """Index into ``values["goal"]`` of the instruction in force at each frame."""
        return np.searchsorted(self.stamps["text"], self.stamps["camera"], side="right") - 1


def shots(seed: int, rooms: int, seconds: float, *, astray: float) -> dict[str, NDArray[Any]]:
    """Drives through ``rooms`` rooms, as the arrays of ``recording.Shots`` (frames packed)."""
    drives = []
    for room in range(rooms):
        rng = np.random.default_rng((SEED, seed, room))
        drives.append(Drive(rng, seconds, astray=astray, every=SHOT))
    print(
        f"{rooms} rooms, {sum(d.reached for d in drives)} goals reached, "
        f"{sum(d.hits > 0 for d in drives)} drives with a collision"
    )
    counts = [len(d.frames) for d in drives]
    choices = np.concatenate([np.array(d.choices, np.uint8) for d in drives])
    for index, name in enumerate(MANOEUVRES):
        print(f"  {name:13} {np.mean(choices == index):6.1%}")
    return {
        "room": np.repeat(np.arange(rooms, dtype=np.int16), counts),
        "t": np.concatenate([d.stamps["camera"] for d in drives]),
        "lidar": np.stack([d.values["lidar"][i] for d in drives for i, _ in d.at_frame]),
        "state": np.stack([d.values["state"][i] for d in drives for _, i in d.at_frame]),
        "kinds": np.concatenate(
            [np.tile(np.array(d.room.things, np.uint8), (len(d.frames), 1)) for d in drives]
        ),
        "manoeuvre": choices,
        **recording.pack_frames([frame for d in drives for frame in d.frames]),
    }


def replay(seed: int, seconds: float) -> dict[str, NDArray[Any]]:
    """One drive with every frame, as the arrays of ``recording.Replay`` (frames packed)."""
    drive = Drive(np.random.default_rng((SEED, seed)), seconds, astray=0.0, every=1)
    things = drive.room.things
    goals = np.array(drive.values["goal"], np.uint8)
    now = [things.index(goals[i]) for i in drive.goal_at_frames()]
    choices = np.array(drive.choices, np.uint8)
    chosen = choices[np.arange(len(now)), now]
    print(f"replay: {drive.reached} goals reached, {drive.hits} frames in collision")
    print("  " + " ".join(str(c) for c in chosen[::6]))
    return {
        "camera_t": np.array(drive.stamps["camera"]),
        "lidar_t": np.array(drive.stamps["lidar"]),
        "lidar": np.stack(drive.values["lidar"]),
        "state_t": np.array(drive.stamps["state"]),
        "state": np.stack(drive.values["state"]),
        "text_t": np.array(drive.stamps["text"]),
        "goal": goals,
        "manoeuvre": chosen,
        **recording.pack_frames(drive.frames),
    }


def main() -> None:
    """Record all parts and write them."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--output", type=Path, default=recording.PATH)
    options.add_argument("--rooms", type=int, default=80)
    chosen = options.parse_args()
    start = time.monotonic()
    bullet.connect(bullet.DIRECT)
    parts = {
        "train": shots(0, chosen.rooms, SECONDS, astray=0.3),
        "test": shots(1, max(chosen.rooms // 4, 1), SECONDS, astray=0.0),
        "replay": replay(REPLAYED, SECONDS),
    }
    arrays = {
        f"{part}.{key}": value for part, found in parts.items() for key, value in found.items()
    }
    save_file(arrays, chosen.output)
    size = chosen.output.stat().st_size / 1e6
    print(f"{chosen.output}: {size:.1f} MB in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
