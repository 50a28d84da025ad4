"""Sensors for ``benchmarks/drift.py``: cameras, a microphone, a lidar and a state vector.

What they see and hear is the data of the reference networks: pictures of easy-VQA, spoken questions
of espeak-ng, and the rooms of ``examples/robot``. What a sensor adds is simulated: light that
changes over the day and with clouds, exposure that flickers, noise, rooms that hum louder or not,
people who speak louder or not. A sensor is looked at five times a second, which is how often the
detector looks at one that comes thirty times a second; the values between are not made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

__all__ = ["HZ", "Camera", "Change", "Lidar", "Microphone", "Sensor", "StateVector", "Weather"]

#: Looks a second.
HZ = 5.0
DAY = 86_400.0
#: Standard deviations that the weather wanders, at most.
MOST = 1.5

#: What a change does to a value that the sensor would give: (value, generator) -> value.
Effect = Callable[["Floats", np.random.Generator], "Floats"]


@dataclass(frozen=True)
class Change:
    """A planted change of one sensor.

    Attributes:
        sensor: its name.
        kind: what changes.
        strength: how much, in words.
        optics: what happens to what comes in, before the sensor's noise; None: nothing.
        output: what happens to what the sensor gives, before it is rounded; None: nothing.
        swap: the sensor whose values come in place of its own.
    """

    sensor: str
    kind: str
    strength: str
    optics: Effect | None = None
    output: Effect | None = None
    swap: str = ""


class Weather:
    """Numbers that wander slowly about 0 with a standard deviation of 1, by their names.

    Each is an Ornstein-Uhlenbeck process, sampled at each look, that is held within bounds: the
    light of one day is within that of another.
    """

    def __init__(self, seed: int, times: Mapping[str, float]) -> None:
        self._rng = np.random.default_rng([seed, 77])
        self._keep = {name: np.exp(-1.0 / (HZ * seconds)) for name, seconds in times.items()}
        self._free = {name: float(self._rng.standard_normal()) for name in times}
        self.values = dict(self._free)

    def step(self) -> Mapping[str, float]:
        """The numbers a look later."""
        kicks = self._rng.standard_normal(len(self.values))
        for (name, keep), kick in zip(self._keep.items(), kicks, strict=True):
            self._free[name] = keep * self._free[name] + np.sqrt(1 - keep * keep) * float(kick)
            self.values[name] = min(max(self._free[name], -MOST), MOST)
        return self.values


class Sensor:
    """Values of one sensor, look after look, from a time of the day on.

    Args:
        seed: of everything that is drawn.
        start: seconds since midnight.
    """

    def __init__(self, seed: int, start: float) -> None:
        self.rng = np.random.default_rng([seed, 1])
        self.time = start
        #: What is changed; None: nothing.
        self.change: Change | None = None

    def look(self) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
        """The value of the next look, and the one that came before it where that is looked at."""
        raise NotImplementedError

    def __next__(self) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
        """The next look, after which a look's time has passed."""
        look = self.look()
        self.time += 1.0 / HZ
        return look

    def _optics(self, value: Floats) -> Floats:
        if self.change is None or self.change.optics is None:
            return value
        return self.change.optics(value, self.rng)

    def _output(self, value: Floats) -> Floats:
        if self.change is None or self.change.output is None:
            return value
        return self.change.output(value, self.rng)


class Camera(Sensor):
    """uint8 [1, 64, 64, 3] of pictures that follow each other every few seconds, or of rooms.

    Attributes:
        scene: number of the picture that is seen.
        light: how bright it is.
    """

    #: Noise of the sensor: gray levels.
    NOISE = 2.5

    def __init__(
        self,
        seed: int,
        start: float,
        pictures: Sequence[NDArray[np.uint8]],
        *,
        rooms: Sequence[NDArray[np.intp]] | None = None,
        warmth: float = 1.0,
    ) -> None:
        super().__init__(seed, start)
        self._pictures, self._rooms = pictures, rooms
        self._weather = Weather(seed, {"clouds": 300.0, "white": 1200.0, "x": 2.0, "y": 2.0})
        self._tint = np.array([warmth, 1.0, 1.0 / warmth], np.float32)
        self._noise = self.rng.standard_normal((24, 64, 64, 3), np.float32)
        self._until, self._queue = 0.0, list[int]()
        self.scene, self.light = 0, 1.0

    def _next_scene(self) -> None:
        if self._rooms is not None:
            if not self._queue:
                self._queue = self._rooms[int(self.rng.integers(len(self._rooms)))].tolist()
            self.scene = self._queue.pop(0)
        elif self.time >= self._until:
            self.scene = int(self.rng.integers(len(self._pictures)))
            self._until = self.time + 1.0 + self.rng.exponential(3.0)

    def look(self) -> tuple[NDArray[np.generic], None]:
        """See the class."""
        self._next_scene()
        weather = self._weather.step()
        day = 0.78 - 0.12 * np.cos(2.0 * np.pi * self.time / DAY)
        self.light = float(day * (1.0 + 0.05 * weather["clouds"]))
        frame = self._pictures[self.scene].astype(np.float32)
        if self._rooms is None:
            shift = (round(1.5 * weather["y"]), round(1.5 * weather["x"]))
            frame = np.roll(frame, shift, (0, 1))
        frame = self._optics(frame)
        flicker = self.light * (1.0 + 0.01 * float(self.rng.standard_normal()))
        white = 1.0 + 0.01 * weather["white"]
        frame = frame * (self._tint * np.array([white, 1.0, 1.0 / white], np.float32) * flicker)
        noise = self._noise[int(self.rng.integers(len(self._noise)))]
        frame += self.NOISE * np.roll(noise, int(self.rng.integers(64)), 0)
        frame = self._output(frame)
        np.clip(frame, 0.0, 255.0, out=frame)
        return np.round(frame).astype(np.uint8)[None], None


class Microphone(Sensor):
    """float32 [1, 533] of 16 kHz: people who speak at times, in a room that hums."""

    #: Samples of a chunk at 30 Hz, and of what a filter needs before it.
    CHUNK, BEFORE = 533, 128

    def __init__(self, seed: int, start: float, clips: Sequence[Floats]) -> None:
        super().__init__(seed, start)
        self._clips = clips
        self._weather = Weather(seed, {"room": 600.0})
        # Pink: the power of each frequency falls as its inverse.
        spectrum = np.fft.rfft(self.rng.standard_normal(16_000 * 60))
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 60.0))
        pink = np.fft.irfft(spectrum)
        self._room = (pink / pink.std()).astype(np.float32)
        self._clip = np.zeros(0, np.float32)
        self._begin, self._loud = start, 1.0

    def look(self) -> tuple[NDArray[np.generic], None]:
        """See the class."""
        length = self.CHUNK + self.BEFORE
        weather = self._weather.step()
        end = round((self.time - self._begin) * 16_000)
        if end - length > len(self._clip):
            self._clip = self._clips[int(self.rng.integers(len(self._clips)))]
            self._begin = self.time + float(self.rng.uniform(0.5, 4.0))
            self._loud = float(10.0 ** (self.rng.normal(0.0, 3.0) / 20.0))
            end = round((self.time - self._begin) * 16_000)
        sound = np.zeros(length, np.float32)
        first = max(0, end - length)
        part = self._clip[first : max(0, end)]
        if part.size:
            at = length - (end - first)
            sound[at : at + len(part)] = self._loud * part
        offset = int(self.rng.integers(len(self._room) - length))
        room = self._room[offset : offset + length]
        sound += np.float32(0.004 * 10.0 ** (2.0 * weather["room"] / 20.0)) * room
        sound = self._optics(sound)[self.BEFORE :]
        sound = sound + 0.0003 * self.rng.standard_normal(self.CHUNK, np.float32)
        sound = np.clip(self._output(sound), -1.0, 1.0)
        return sound.astype(np.float32)[None], None


class _Path(Sensor):
    """Rows of a robot that drives through one room after another, with noise of the sensor."""

    NOISE = 0.0

    def __init__(
        self, seed: int, start: float, rows: Floats, rooms: Sequence[NDArray[np.intp]]
    ) -> None:
        super().__init__(seed, start)
        self._rows, self._rooms = rows, rooms
        self._queue, self._newest = list[int](), 0

    def _next(self) -> tuple[Floats, Floats]:
        """The row of this look, and the one of the look before."""
        last = self._newest
        if not self._queue:
            self._queue = self._rooms[int(self.rng.integers(len(self._rooms)))].tolist()
            last = self._queue[0]
        self._newest = self._queue.pop(0)
        return self._rows[self._newest], self._rows[last]

    def _sense(self, row: Floats) -> Floats:
        noise = np.float32(self.NOISE) * self.rng.standard_normal(row.shape, np.float32)
        return self._output(self._optics(row) + noise).astype(np.float32)


class StateVector(_Path):
    """float32 [1, 5]: wheels and gyro in rad/s, accelerations in m/s2, a hundred times a second."""

    NOISE = 0.02
    _is_first = True

    def look(self) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
        """See the class."""
        row, last = self._next()
        before = row + (last - row) * np.float32(HZ / 100.0)
        first, self._is_first = self._is_first, False
        return self._sense(row)[None], None if first else self._sense(before)[None]


class Lidar(_Path):
    """float32 [1, 256]: distances around the robot in meters."""

    NOISE = 0.01

    def look(self) -> tuple[NDArray[np.generic], None]:
        """See the class."""
        return self._sense(self._next()[0])[None], None
