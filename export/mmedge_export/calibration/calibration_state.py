"""The file that keeps a calibration's progress."""

from __future__ import annotations

import hashlib
import io
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.errors import ExportError
from mmedge_export.calibration.checkpoint import write_whole
from mmedge_export.calibration.histogram import Histogram

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from mmedge_export.calibration.observed import Observed

__all__ = ["CalibrationState"]

#: Progress is saved after so many samples or so many seconds, whichever comes first.
SAVE_SAMPLES, SAVE_SECONDS = 16, 10.0


class CalibrationState:
    """The file that keeps progress: SHA-256 of the job and of the rest, then an ``.npz``."""

    def __init__(
        self, path: Path, job: bytes, observed: Mapping[str, Mapping[str, Observed]]
    ) -> None:
        self._path = path
        self._job = job
        self._observed = [one for names in observed.values() for one in names.values()]
        self._saved = 0
        self._time = time.monotonic()

    def load(self) -> int:
        """Take up what the file holds, if it is of this job and whole; how many samples it has."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise ExportError(f"{self._path}: progress cannot be read: {error}") from error
        seal, payload = data[:32], data[32:]
        if seal != hashlib.sha256(self._job + payload).digest():
            return 0
        with np.load(io.BytesIO(payload), allow_pickle=False) as file_arrays:
            arrays = dict(file_arrays)
        self._saved = int(arrays.pop("done"))
        lengths, channels = arrays.pop("lengths"), arrays.pop("channels")
        ends = np.cumsum(np.maximum(lengths, 0))
        for index, one in enumerate(self._observed):
            one.histogram = Histogram.from_arrays({k: v[index] for k, v in arrays.items()})
            if lengths[index] >= 0:
                one.channel_max = channels[ends[index] - lengths[index] : ends[index]].copy()
        return self._saved

    def save(self, count: int, *, now: bool = False) -> None:
        """Write what was observed of ``count`` samples if that is due, or ``now``."""
        waited = count - self._saved >= SAVE_SAMPLES or time.monotonic() - self._time > SAVE_SECONDS
        if not (waited or now):
            return
        histograms = [one.histogram.to_arrays() for one in self._observed]
        channels = [one.channel_max for one in self._observed]
        arrays: dict[str, Any] = {
            key: np.array([h[key] for h in histograms]) for key in Histogram().to_arrays()
        }
        arrays["done"] = np.array(count)
        arrays["lengths"] = np.array([-1 if c is None else c.size for c in channels], np.int64)
        arrays["channels"] = np.concatenate(
            [np.zeros(0, np.float32), *(c for c in channels if c is not None)]
        )
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        payload = buffer.getvalue()
        write_whole(self._path, hashlib.sha256(self._job + payload).digest(), payload)
        self._saved, self._time = count, time.monotonic()
