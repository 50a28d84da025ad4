"""Logs at scale: what an hour of a recording costs, in bytes and seconds, here and on Ray.

``make .venv-ray/.ready && .venv-ray/bin/python benchmarks/logs.py`` writes
``benchmarks/results/logs.json`` (about 8 minutes on two idle cores, 4 GB of disk). The recording is
the robot of ``examples/robot``: a camera of 30 Hz with 64 x 64 pixels, joint states of 100 Hz, a
scan of 10 Hz. Its bundle is exported first by ``.venv``, which has torch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

import mmedge
from mmedge.recording import Golden, Playback, open_recording
from mmedge.recording.directory import DirectoryWriter
from mmedge_ray import Summary, run_recordings
from mmedge_ray.cluster import connect

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mmedge.spec import Array

ROOT = Path(__file__).resolve().parent.parent
# Ray's workers give way to whatever else runs, which would be the comparison's other half.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

OUTPUT = ROOT / "benchmarks" / "results" / "logs.json"
TRIGGER = "camera"
#: Recordings of the comparison with Ray, and seconds of each.
PARTS, PART_SECONDS = 6, 600.0
#: Times that each of them is run.
REPEATS = 3
#: Quality of the JPEG pictures whose decoding is timed, and how many.
QUALITY, PICTURES = 90, 2000
#: Bytes that are read at once.
BLOCK = 1 << 20


def main() -> None:
    """Measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hour", type=float, default=3600.0, help="seconds of the long recording")
    parser.add_argument(
        "--part", type=float, default=PART_SECONDS, help="seconds of each short one"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        work = Path(folder)
        bundle = work / "robot.mmedge"
        export(bundle)
        hour = record(bundle, work / "hour", options.hour)
        parts = work / "parts"
        for number in range(PARTS):
            record(bundle, parts / f"part-{number}", options.part)
        result: dict[str, Any] = {
            "date": datetime.now(UTC).date().isoformat(),
            "device": device(),
            "recording": describe(bundle, hour, options.hour),
            "decode_jpeg": jpeg(bundle),
            "read": read(hour),
            "hour": run_hour(bundle, hour, work / "hour-out"),
            "network": network(bundle, parts / "part-0"),
            "memory": {
                "part_seconds": options.part,
                "part_bytes": peak(bundle, parts / "part-0", work / "peak-part"),
                "hour_bytes": peak(bundle, hour, work / "peak-hour"),
            },
            "ray": beside_ray(bundle, parts, work, options.part),
        }
        result["device"]["load_average"] = list(os.getloadavg())
    options.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def export(bundle: Path) -> None:
    """Export the robot's network with the environment that has torch."""
    python = ROOT / ".venv" / "bin" / "python"
    command: list[str | Path] = [
        python,
        "-m",
        "mmedge",
        "--quiet",
        "export",
        "robot.network:factory",
        "-o",
        bundle,
    ]
    subprocess.run(command, cwd=ROOT / "examples", check=True, stdout=subprocess.DEVNULL)


def record(bundle: Path, path: Path, seconds: float) -> Path:
    """A recording of golden samples, whose frames differ from one to the next."""
    with mmedge.Bundle.open(bundle) as opened:
        golden = Golden(opened, seconds=seconds)
        # The writer itself: a recorder leaves out what comes faster than the disk takes it.
        writer = DirectoryWriter(path, golden.bundle, golden.modalities)
        for sample in golden:
            writer.write(sample)
        writer.close({})
    return path


def device() -> dict[str, Any]:
    """The machine and what ran."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    libraries = ("onnxruntime", "ray", "pyarrow", "numpy")
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "libraries": {name: metadata.version(name) for name in libraries},
    }


def describe(bundle: Path, path: Path, seconds: float) -> dict[str, Any]:
    """What is in the long recording."""
    with mmedge.Bundle.open(bundle) as opened:
        golden = Golden(opened, seconds=1.0)
        manifest = opened.manifest
        shapes = {
            m.name: [list(manifest.inputs()[name].shape) for name in m.inputs]
            for m in manifest.modalities
        }
        variant = manifest.variants[0].id
    return {
        "seconds": seconds,
        "bytes": sum(file.stat().st_size for file in path.iterdir()),
        "rates_hz": golden.rates,
        "shapes": shapes,
        "bundle_bytes": bundle.stat().st_size,
        "variant": variant,
        "trigger": TRIGGER,
    }


def jpeg(bundle: Path) -> dict[str, float]:
    """Decoding a frame of the camera, had it been stored as JPEG."""
    with mmedge.Bundle.open(bundle) as opened:
        camera = next(m for m in opened.manifest.modalities if m.name == TRIGGER)
        frames = [np.asarray(sample.inputs[camera.inputs[0]])[0] for sample in opened.samples()]
    pictures = []
    for frame in frames:
        file = BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=QUALITY)
        pictures.append(file.getvalue())
    started = perf_counter()
    for number in range(PICTURES):
        np.asarray(Image.open(BytesIO(pictures[number % len(pictures)])))
    return {
        "us": (perf_counter() - started) / PICTURES * 1e6,
        "bytes": statistics.mean(map(len, pictures)),
        "quality": QUALITY,
    }


def read(path: Path) -> dict[str, float]:
    """Seconds of reading the bytes from the disk, from memory, and of decoding them."""
    seconds = {}
    for name in ("disk", "memory"):
        if name == "disk":
            for file in path.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
                    os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = perf_counter()
        for file in sorted(path.iterdir()):
            with file.open("rb", buffering=0) as opened:
                while opened.read(BLOCK):
                    pass
        seconds[name] = perf_counter() - started
    started = perf_counter()
    for _ in open_recording(path):
        pass
    # Digest of each chunk, safetensors, and a Python object for each sample.
    seconds["decode"] = perf_counter() - started - seconds["memory"]
    return seconds


def run_hour(bundle: Path, path: Path, output: Path) -> dict[str, Any]:
    """The whole of the long recording in this process."""
    summary = run_recordings(bundle, [path], output, trigger=TRIGGER)
    check(summary)
    (outcome,) = summary.outcomes
    end = json.loads(_footer(output / "hour.parquet")[b"mmedge.end"])
    return {
        "seconds": dict(outcome.seconds),
        "rows": outcome.rows,
        "pushed": end["pushed"],
        "encodes": {name: m["encodes"] for name, m in end["health"]["modalities"].items()},
        "read_bytes": outcome.read_bytes,
        "written_bytes": outcome.written_bytes,
    }


def network(bundle: Path, path: Path) -> dict[str, float]:
    """Seconds of a short recording that are the network's own, of those of its playback."""

    class Timed:
        """A pipeline that keeps the time of its stages."""

        def __init__(self, pipe: mmedge.Pipeline) -> None:
            self._pipe, self.seconds = pipe, 0.0

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return getattr(self._pipe, name)

        def run_stage(self, stage: str, feeds: Mapping[str, Any]) -> dict[str, Array]:
            started = perf_counter()
            outputs = self._pipe.run_stage(stage, feeds)
            self.seconds += perf_counter() - started
            return outputs

    with mmedge.load(bundle, plan="cut", threads=1) as pipe:
        timed: Any = Timed(pipe)
        started = perf_counter()
        with Playback(timed, open_recording(path), trigger=TRIGGER) as playback:
            for _ in playback:
                pass
    return {"playback_seconds": perf_counter() - started, "network_seconds": timed.seconds}


def peak(bundle: Path, path: Path, output: Path) -> int:
    """Most bytes of memory of a fresh process that runs a recording."""
    program = (
        "import resource, sys; from mmedge_ray import run_recordings; "
        "bundle, path, output = sys.argv[1:]; "
        f"summary = run_recordings(bundle, [path], output, trigger={TRIGGER!r}); "
        "assert not summary.errors; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    )
    command: list[str | Path] = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        program,
        bundle,
        path,
        output,
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def beside_ray(bundle: Path, parts: Path, work: Path, seconds: float) -> dict[str, Any]:
    """Six recordings in this process, and in one and two actors of Ray, in turn."""
    walls: dict[str, list[float]] = {"local": [], "actors_1": [], "actors_2": []}
    started = perf_counter()
    with connect(None):
        begin = perf_counter() - started
        for repeat in range(REPEATS):
            for name, actors in (("local", 0), ("actors_1", 1), ("actors_2", 2)):
                output = work / f"{name}-{repeat}"
                summary = run_recordings(
                    bundle, parts, output, trigger=TRIGGER, actors=actors, resources={"CPU": 0.5}
                )
                check(summary)
                walls[name].append(summary.wall_seconds)
                if name != "local":
                    same(work / f"local-{repeat}", output)
                    shutil.rmtree(output)
    return {
        "recordings": PARTS,
        "recording_seconds": seconds,
        "start_seconds": begin,
        "wall_seconds": walls,
    }


def same(one: Path, other: Path) -> None:
    """Make sure that two outputs have the same rows to the last bit."""
    import pyarrow.parquet as pq

    for path in sorted(one.glob("*.parquet")):
        if not pq.read_table(path).equals(pq.read_table(other / path.name)):
            raise SystemExit(f"{path.name}: Ray's results differ from local ones")


def check(summary: Summary) -> None:
    """Make sure that all was run."""
    if summary.errors:
        raise SystemExit(str(summary.errors))


def _footer(path: Path) -> dict[bytes, bytes]:
    import pyarrow.parquet as pq

    footer: dict[bytes, bytes] = pq.read_metadata(path).metadata
    return footer


if __name__ == "__main__":
    main()
