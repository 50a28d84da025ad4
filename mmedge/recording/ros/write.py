"""A bag written as a recording of mmedge, which needs neither rosbags nor the topics any more."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mmedge.errors import InputError
from mmedge.recording.recorder import open_writer
from mmedge.recording.sample import to_value

if TYPE_CHECKING:
    import os

    from mmedge.recording.ros.bag import Bag
    from mmedge.spec import Manifest

__all__ = ["Written", "write_bag"]


class Written(NamedTuple):
    """What was written: samples, and seconds from the first arrival to the last."""

    samples: int
    seconds: float


def write_bag(bag: Bag, manifest: Manifest, path: str | os.PathLike[str]) -> Written:
    """Write a bag's samples: a folder, or with the suffix ``.mcap`` one file.

    Times are seconds since 1970, as in the bag. What the bag left out as unfit is in the
    recording's ``missing``.

    Raises:
        InputError: the bag cannot be read, or the path exists or cannot be written.
        BackendError: an ``.mcap`` path without the mcap library.
    """
    path = Path(path)
    writer = open_writer(path, manifest, origin=time.time())
    count, first, last = 0, 0.0, 0.0
    try:
        for sample in bag:
            # Not a view of the bag, which the writer holds until a chunk is full.
            copy = replace(sample, value=to_value(sample.value))
            if fault := writer.fault(copy):
                raise InputError(f"{bag.name}: sample {count}: {fault}")
            writer.write(copy)
            first = first if count else sample.arrival
            last = sample.arrival
            count += 1
        unfit = bag.unfit.total()
        writer.close({"unfit": unfit} if unfit else {})
    except OSError as error:
        writer.abandon()
        raise InputError(f"{path}: cannot be written: {error}") from error
    except BaseException:
        writer.abandon()
        raise
    return Written(count, last - first if count else 0.0)
