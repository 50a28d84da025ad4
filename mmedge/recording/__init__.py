"""Recordings of what sensors pushed, to be replayed: a folder, or one MCAP file.

==================================  ==============================================================
:mod:`~mmedge.recording.sample`     one sample, and how its value becomes tensors
:mod:`~mmedge.recording.directory`  the folder: ``recording.json`` and chunks in safetensors
:mod:`~mmedge.recording.mcap`       the MCAP file (extra ``mcap``)
:mod:`~mmedge.recording.recorder`   writes either while a stream runs
:mod:`~mmedge.recording.ros`        messages and bags of ROS 2
:mod:`~mmedge.recording.golden`     samples at constant rates, made of a bundle's golden samples
:mod:`~mmedge.recording.flight`     the last seconds of a stream in memory, dumped on a trigger
:mod:`~mmedge.recording.playback`   plays one through a stream on a simulated clock
==================================  ==============================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.errors import InputError
from mmedge.recording.directory import DirectoryRecording
from mmedge.recording.flight.recorder import FlightRecorder
from mmedge.recording.flight.triggers import DumpLimits, DumpTriggers
from mmedge.recording.golden import Golden
from mmedge.recording.playback import Playback
from mmedge.recording.recorder import Recorder, RecordingStream, need_mcap
from mmedge.recording.sample import Recorded, Recording
from mmedge.recording.timeline import plan_replay

if TYPE_CHECKING:
    import os

__all__ = [
    "DumpLimits",
    "DumpTriggers",
    "FlightRecorder",
    "Golden",
    "Playback",
    "Recorded",
    "Recorder",
    "Recording",
    "RecordingStream",
    "open_recording",
    "plan_replay",
]


def open_recording(path: str | os.PathLike[str]) -> Recording:
    """Open a recording, a folder or an MCAP file. Iterating over it reads its samples.

    Raises:
        InputError: nothing readable is there, or it is no recording of this version.
        BackendError: it is an MCAP file and the mcap library is not installed.
    """
    path = Path(path)
    try:
        is_folder, is_there = path.is_dir(), path.exists()
        is_bag = is_there and (path.suffix == ".db3" or (path / "metadata.yaml").is_file())
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise InputError(f"{path}: the recording cannot be read: {error}") from error
    if is_bag:
        raise InputError(
            f"{path}: a ROS 2 bag; say which topic is which modality (--topic camera=/camera, or "
            "mmedge.recording.ros.Bag)"
        )
    if is_folder:
        return DirectoryRecording(path)
    if not is_there:
        raise InputError(f"{path}: no recording is there; make one with mmedge record")
    need_mcap()
    from mmedge.recording.mcap import McapRecording

    return McapRecording(path)
