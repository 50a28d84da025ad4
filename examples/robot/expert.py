"""The scripted expert: one of eight manoeuvres from the goal's place, a lidar scan and the gyro."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COMMANDS", "MANOEUVRES", "RAYS", "REACHED_M", "SWERVES", "TURNING", "Goal", "decide"]

RAYS = 256
"""Rays of one scan; ray 0 points backward, ray 128 forward, counted counterclockwise."""

MANOEUVRES = (
    "stop", "straight", "bear left", "bear right", "spin left", "spin right", "swerve left",
    "swerve right",
)  # fmt: skip
"""What the robot can do, in the order of the network's logits."""

COMMANDS = (
    (0.0, 0.0), (0.8, 0.0), (0.5, 0.7), (0.5, -0.7), (0.0, 1.6), (0.0, -1.6), (0.25, 1.1),
    (0.25, -1.1),
)  # fmt: skip
"""Speed in m/s and turn rate in rad/s (positive is left) that each manoeuvre asks for."""

STOP, STRAIGHT, BEAR_LEFT, BEAR_RIGHT, SPIN_LEFT, SPIN_RIGHT, SWERVE_LEFT, SWERVE_RIGHT = range(8)

REACHED_M = 0.8
"""A goal whose centre is this near, and in view, is reached."""

SWERVES = (SWERVE_LEFT, SWERVE_RIGHT)
"""The manoeuvres that the lidar decides on."""

AHEAD_RAD = np.radians(8)
"""A goal within this bearing is straight ahead."""

CORRIDOR_M = (0.8, 0.3)
"""What stands this far ahead, and this far to either side, is in the way."""

GOAL_M = 0.45
"""Hits this near to the goal's centre are the goal."""

FREER = 1.25
"""A side with this many times the room of the other is chosen whatever the robot does."""

TURNING = 0.3
"""Turn rate in rad/s from which on the robot counts as turning."""

_ANGLES = -np.pi + 2 * np.pi * np.arange(RAYS) / RAYS


@dataclass(frozen=True)
class Goal:
    """Where a goal is, seen from the robot: metres, radians (positive is left), and if in view."""

    distance: float
    bearing: float
    visible: bool


def decide(goal: Goal, scan: NDArray[np.floating], gyro: float) -> int:
    """The manoeuvre for one goal.

    Args:
        goal: the goal's place; used only while the goal is in view, so that a camera can know it.
        scan: ranges in metres, ``[RAYS]``.
        gyro: turn rate in rad/s, positive is left. It breaks the ties: where to look for a goal
            that is out of view, and on which side to pass when both are about as free.

    Returns:
        Index into :data:`MANOEUVRES`.
    """
    if goal.visible and goal.distance < REACHED_M:
        return STOP
    if not goal.visible:
        return SPIN_LEFT if gyro > -0.1 else SPIN_RIGHT
    x, y = scan * np.cos(_ANGLES), scan * np.sin(_ANGLES)
    at = goal.distance * np.cos(goal.bearing), goal.distance * np.sin(goal.bearing)
    other = np.hypot(x - at[0], y - at[1]) > GOAL_M
    if np.any(other & (x > 0) & (x < CORRIDOR_M[0]) & (np.abs(y) < CORRIDOR_M[1])):
        return _swerve(scan, gyro)
    if abs(goal.bearing) < AHEAD_RAD:
        return STRAIGHT
    return BEAR_LEFT if goal.bearing > 0 else BEAR_RIGHT


def _swerve(scan: NDArray[np.floating], gyro: float) -> int:
    """The side on which there is more room within 2 m, or the one that the robot turns to."""
    near = np.minimum(scan, 2.0)
    quarter = RAYS // 4
    right, left = near[quarter : 2 * quarter].sum(), near[2 * quarter + 1 : 3 * quarter + 1].sum()
    if left > FREER * right:
        return SWERVE_LEFT
    if right > FREER * left:
        return SWERVE_RIGHT
    return SWERVE_RIGHT if gyro < -TURNING else SWERVE_LEFT
