"""A room in pybullet: walls, coloured goals, low grey blocks, and a robot with three sensors.

The blocks are as grey as the floor and lower than what the camera sees nearby: only the lidar tells
where they are when it matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pybullet as bullet

from robot.expert import RAYS, Goal
from robot.recording import COLOURS, SHAPES, SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TICKS_HZ", "Room"]

TICKS_HZ = 300
"""Physics steps in a second: the smallest rate that 100, 30 and 10 Hz divide."""

# Of the room, the camera, the lidar and the robot.
SIDE_M = 6.0
FOV_DEG = 110.0
EYE_M = 0.9
LIDAR_M = 0.12
RANGE_M = 8.0
BODY_M = 0.2
SPEED_UP = 1.5  # m/s2
TURN_UP = 6.0  # rad/s2
AXLE_M = 0.3
WHEEL_M = 0.08

_RGB = {
    "red": (0.85, 0.1, 0.1),
    "green": (0.1, 0.7, 0.15),
    "blue": (0.1, 0.2, 0.85),
    "yellow": (0.9, 0.85, 0.1),
}
_FLOOR = (0.55, 0.55, 0.55)
_WALL = (0.8, 0.8, 0.78)
_ROBOT, _THINGS = 64, 3  # collision groups; 3 is what Bullet gives to all bodies by itself


@dataclass(frozen=True)
class _Thing:
    kind: int
    x: float
    y: float
    body: int


class Room:
    """One room and the robot in it, both drawn from ``rng``. Needs a pybullet connection.

    Attributes:
        things: kind of each goal in the room, what ``recording.kind_name`` takes.
    """

    def __init__(self, rng: np.random.Generator, *, goals: int = 4, blocks: int = 8) -> None:
        self._rng = rng
        bullet.resetSimulation()
        bullet.setGravity(0, 0, 0)
        bullet.setTimeStep(1 / TICKS_HZ)
        self._box((0, 0, -0.05), (SIDE_M / 2, SIDE_M / 2, 0.05), _FLOOR)
        for east, north in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            half = (0.05 if east else SIDE_M / 2, 0.05 if north else SIDE_M / 2, 0.6)
            self._box((east * SIDE_M / 2, north * SIDE_M / 2, 0.6), half, _WALL)
        taken: list[tuple[float, float, float]] = []
        kinds = rng.permutation(len(COLOURS) * len(SHAPES))[:goals]
        self._goals = [self._goal(int(kind), *self._place(taken, 0.5)) for kind in kinds]
        for _ in range(blocks):
            x, y = self._place(taken, 0.4)
            half = (*rng.uniform(0.1, 0.3, 2), 0.1)
            self._box((x, y, 0.1), half, _FLOOR, yaw=rng.uniform(0, np.pi))
        self.things = tuple(goal.kind for goal in self._goals)
        self.x, self.y = self._place(taken, 0.5)
        self.yaw = float(rng.uniform(-np.pi, np.pi))
        self.speed = self.turn = self._gain = 0.0  # m/s, rad/s, m/s2
        shape = bullet.createCollisionShape(bullet.GEOM_CYLINDER, radius=BODY_M, height=0.2)
        self._body = bullet.createMultiBody(10, shape, -1, (self.x, self.y, 0.12))
        # The lidar stands in the middle of the robot and must not see it.
        bullet.setCollisionFilterGroupMask(self._body, -1, _ROBOT, _THINGS)
        light = rng.uniform(-1, 1, 2)
        self._light = (float(light[0]), float(light[1]), 2.0)
        self._bright = float(rng.uniform(0.4, 0.6))

    def step(self, command: tuple[float, float]) -> None:
        """One tick of physics towards ``command`` (m/s, rad/s), within the motors' limits."""
        change = np.clip(command[0] - self.speed, -SPEED_UP / TICKS_HZ, SPEED_UP / TICKS_HZ)
        self._gain = float(change) * TICKS_HZ
        self.speed += float(change)
        limit = TURN_UP / TICKS_HZ
        self.turn += float(np.clip(command[1] - self.turn, -limit, limit))
        forward = (self.speed * np.cos(self.yaw), self.speed * np.sin(self.yaw), 0.0)
        bullet.resetBaseVelocity(self._body, forward, (0, 0, self.turn))
        bullet.stepSimulation()
        (self.x, self.y, _), _ = bullet.getBasePositionAndOrientation(self._body)
        self.yaw += self.turn / TICKS_HZ
        # A wheeled robot stays upright, whatever it runs into.
        upright = bullet.getQuaternionFromEuler((0, 0, self.yaw))
        bullet.resetBasePositionAndOrientation(self._body, (self.x, self.y, 0.12), upright)

    def touching(self) -> bool:
        """Whether the robot runs into something."""
        return bool(bullet.getContactPoints(self._body))

    def camera(self) -> NDArray[np.uint8]:
        """RGB ahead, uint8 ``[SIZE, SIZE, 3]``; no noise, so that it packs well."""
        eye = (self.x, self.y, EYE_M)
        ahead = (self.x + np.cos(self.yaw), self.y + np.sin(self.yaw), EYE_M)
        image: Any = bullet.getCameraImage(
            SIZE,
            SIZE,
            bullet.computeViewMatrix(eye, ahead, (0, 0, 1)),
            bullet.computeProjectionMatrixFOV(FOV_DEG, 1.0, 0.05, 15.0),
            lightDirection=self._light,
            lightAmbientCoeff=self._bright,
            lightDiffuseCoeff=0.5,
            lightSpecularCoeff=0.0,
            shadow=0,
            flags=bullet.ER_NO_SEGMENTATION_MASK,
            renderer=bullet.ER_TINY_RENDERER,
        )[2]
        return np.array(image, np.uint8).reshape(SIZE, SIZE, 4)[:, :, :3]

    def lidar(self) -> NDArray[np.float16]:
        """One scan in metres, ``[RAYS]``, with 1 cm of noise; 8 m where nothing is hit."""
        angles = self.yaw - np.pi + 2 * np.pi * np.arange(RAYS) / RAYS
        start = np.tile((self.x, self.y, LIDAR_M), (RAYS, 1))
        end = start + RANGE_M * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
        hits = bullet.rayTestBatch(start.tolist(), end.tolist(), collisionFilterMask=_THINGS)
        ranges = np.array([hit[2] for hit in hits]) * RANGE_M
        noisy = np.clip(ranges + self._rng.normal(0, 0.01, RAYS), 0.02, RANGE_M)
        return noisy.astype(np.float16)

    def state(self) -> NDArray[np.float16]:
        """Left and right wheel (rad/s), gyro (rad/s), forward and sideways acceleration (m/s2)."""
        wheels = [(self.speed + side * self.turn * AXLE_M / 2) / WHEEL_M for side in (-1, 1)]
        exact = np.array([*wheels, self.turn, self._gain, self.speed * self.turn])
        noise = self._rng.normal(0, (0.1, 0.1, 0.03, 0.1, 0.1))
        return (exact + noise).astype(np.float16)

    def goals(self) -> list[Goal]:
        """Where each goal is; in view means inside the camera's field and not hidden."""
        found = []
        for goal in self._goals:
            dx, dy = goal.x - self.x, goal.y - self.y
            distance = float(np.hypot(dx, dy))
            bearing = float((np.arctan2(dy, dx) - self.yaw + np.pi) % (2 * np.pi) - np.pi)
            inside = abs(bearing) < np.radians(FOV_DEG / 2)
            found.append(Goal(distance, bearing, inside and self._in_sight(goal)))
        return found

    def _in_sight(self, goal: _Thing) -> bool:
        across = np.array([goal.y - self.y, self.x - goal.x])
        across *= 0.12 / max(float(np.hypot(*across)), 1e-6)
        ends = [
            (goal.x + s * across[0], goal.y + s * across[1], height)
            for s in (-1, 0, 1)
            for height in (0.3, 0.45)
        ]
        eyes = [(self.x, self.y, EYE_M)] * len(ends)
        hits = bullet.rayTestBatch(eyes, ends, collisionFilterMask=_THINGS)
        return sum(hit[0] in (goal.body, -1) for hit in hits) >= len(hits) // 2

    def _place(self, taken: list[tuple[float, float, float]], room: float) -> tuple[float, float]:
        while True:
            x, y = self._rng.uniform(-SIDE_M / 2 + 0.6, SIDE_M / 2 - 0.6, 2)
            if all(np.hypot(x - a, y - b) > room + other for a, b, other in taken):
                taken.append((x, y, room))
                return float(x), float(y)

    def _goal(self, kind: int, x: float, y: float) -> _Thing:
        colour = _RGB[COLOURS[kind % len(COLOURS)]]
        if SHAPES[kind // len(COLOURS)] == "box":
            body = self._box((x, y, 0.25), (0.25,) * 3, colour, yaw=self._rng.uniform(0, np.pi))
        else:
            shape = bullet.createCollisionShape(bullet.GEOM_CYLINDER, radius=0.15, height=1.4)
            seen = bullet.createVisualShape(
                bullet.GEOM_CYLINDER, radius=0.15, length=1.4, rgbaColor=(*colour, 1)
            )
            body = bullet.createMultiBody(0, shape, seen, (x, y, 0.7))
        return _Thing(kind, x, y, body)

    def _box(
        self,
        at: tuple[float, ...],
        half: tuple[float, ...],
        colour: tuple[float, ...],
        *,
        yaw: float = 0.0,
    ) -> int:
        shape = bullet.createCollisionShape(bullet.GEOM_BOX, halfExtents=half)
        seen = bullet.createVisualShape(bullet.GEOM_BOX, halfExtents=half, rgbaColor=(*colour, 1))
        turned = bullet.getQuaternionFromEuler((0, 0, yaw))
        body: int = bullet.createMultiBody(0, shape, seen, at, turned)
        return body
