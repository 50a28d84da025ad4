"""What the tests share: bundles of the conformance cases, and recordings of golden samples."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

import mmedge
from mmedge.recording import Golden, Recorder

ROOT = Path(__file__).resolve().parents[3]
BUNDLES = ROOT / "conformance" / "cases" / "bundles"
STREAMING = BUNDLES / "streaming.mmedge"

#: Names of the recordings that :func:`write_logs` makes.
NAMES = ("a", "b", "c", "d", "e", "robot-2/f.mcap")


def record(path, bundle=STREAMING, seconds=3.0, hz=None):
    """A recording of golden samples at their nominal rates, each measured 4 ms before it came."""
    with mmedge.Bundle.open(bundle) as opened, Recorder(path, opened) as recorder:
        for sample in Golden(opened, seconds=seconds, rates=hz):
            recorder.record(sample.modality, sample.value, sample.t - 0.004, sample.arrival)
    return path


def write_logs(folder):
    """Six recordings of 3 s and more."""
    for number, name in enumerate(NAMES):
        record(folder / name, seconds=3.0 + number / 4)
    return folder


def tables(output):
    """The Parquet files of an output folder, by name."""
    return {
        path.relative_to(output).as_posix().removesuffix(".parquet"): pq.read_table(path)
        for path in sorted(output.rglob("*.parquet"))
    }


def files(output):
    """Of each Parquet file its inode and when it was written."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in output.rglob("*.parquet")
    }
