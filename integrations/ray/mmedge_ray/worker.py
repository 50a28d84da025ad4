"""Runs one recording, or one part of a folder of samples, after the other with one pipeline.

The same code runs in an actor of Ray and in the caller's process.
"""

from __future__ import annotations

import contextlib
import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import mmedge
from mmedge import BundleError, InputError, MMEdgeError
from mmedge_ray.job import StreamOptions, split_keys
from mmedge_ray.outcome import Outcome
from mmedge_ray.players import RecordingPlayer, SamplePlayer
from mmedge_ray.sources import Content
from mmedge_ray.store import Store, TableFile, worker_name
from mmedge_ray.tables import Rows, sample_schema, stream_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mmedge import Bundle, Pipeline
    from mmedge_ray.job import Job
    from mmedge_ray.players import Player

__all__ = ["Worker"]

#: Packages whose versions a result may depend on.
ENGINES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx")


class Worker:
    """Runs recordings; the bundle is loaded at the first that is not finished, and kept.

    Args:
        job: what to run them with.
    """

    def __init__(self, job: Job) -> None:
        self._job = job
        self._store = Store(job.output, job.binding())
        self._bundle: Bundle | None = None
        self._pipe: Pipeline | None = None
        self._fault: MMEdgeError | None = None

    def run(self, name: str, paths: Sequence[str]) -> Outcome:
        """Run a recording, or a part of a folder of samples, unless it is finished.

        Args:
            name: its name.
            paths: the recording, or the samples.

        Returns:
            What came of it; an error is told in it and not raised.
        """
        content: Content | None = None
        attempt = 0
        try:
            places = [Path(path) for path in paths]
            content = Content.of(*places)
            finished = self._finished(name, content)
            if finished is not None:
                return finished
            attempt = self._store.begin(name, self._job.run_id)
            if attempt > self._job.attempts:
                raise InputError(
                    f"{self._job.attempts} workers began it and ended without a word "
                    f"({', '.join(self._store.attempts(name)[:-1])}): killed, most often for lack "
                    "of memory, or a library crashed. See the logs of Ray; fewer actors on a node "
                    "leave each more memory"
                )
            return self._run(name, places, content, attempt)
        except Exception as error:  # noqa: BLE001  # told by name; the others go on
            what = (
                str(error) if isinstance(error, MMEdgeError) else f"{type(error).__name__}: {error}"
            )
            return Outcome(
                name,
                "failed",
                errors=((name, what),),
                attempts=attempt,
                read_bytes=content.size if content is not None else 0,
                worker=worker_name(),
            )
        finally:
            if attempt:
                self._store.end(name)

    def close(self) -> None:
        """Free the pipeline and its bundle."""
        if self._pipe is not None:
            self._pipe.close()
        if self._bundle is not None:
            self._bundle.close()

    def _finished(self, name: str, content: Content) -> Outcome | None:
        """What an earlier run made of it; None: it is to be run.

        Raises:
            InputError: there is a file of another run, or of another content.
        """
        there = self._store.read(name)
        if there is None:
            return None
        run, end = there
        known = [tuple(each) for each in run["files"]]
        # As git's index does: names, sizes and times say that nothing was written to. Where they
        # differ, as in a copy, the content decides.
        if known != list(content.files) and run["content"] != content.digest():
            raise InputError(
                f"{self._store.path(name)}: was made of other content, SHA-256 {run['content']}; "
                f"remove it to run {name!r} again"
            )
        outcome = Outcome.from_json(end["outcome"])
        return replace(outcome, status="finished", attempts=0, seconds={})

    def _run(self, name: str, paths: list[Path], content: Content, attempt: int) -> Outcome:
        pipe, how = self._pipeline(), self._job.how
        manifest = pipe.bundle.manifest
        started = perf_counter()
        digest = content.digest()
        hashed = perf_counter() - started
        run = {
            **self._store.binding,
            "name": name,
            "content": digest,
            "files": content.files,
            "made_by": _versions(),
        }
        player: Player
        if isinstance(how, StreamOptions):
            player, schema = RecordingPlayer(how, pipe, name, paths[0]), stream_schema(manifest)
        else:
            player, schema = SamplePlayer(how, pipe, paths), sample_schema(manifest)
        rows, written, spent = Rows(schema), 0, 0.0
        with TableFile(self._store.path(name), schema, run) as file:
            for _ in player.fill(rows):
                if rows.full:
                    written += len(rows)
                    spent += _write(file, rows)
            written += len(rows)
            spent += _write(file, rows)
            if Content.of(*paths).files != content.files:
                raise InputError(f"{name}: its files were written to while they were read")
            rest = perf_counter() - started - hashed - player.read_seconds - spent
            outcome = Outcome(
                name,
                "done",
                rows=written,
                errors=tuple(player.errors),
                attempts=attempt,
                missing=player.missing,
                seconds={
                    "digest": hashed, "read": player.read_seconds, "run": rest, "write": spent,
                },
                read_bytes=content.size,
                worker=worker_name(),
            )  # fmt: skip
            size = file.commit({**player.end, "outcome": outcome.to_json()})
        return replace(outcome, written_bytes=size)

    def _pipeline(self) -> Pipeline:
        """The pipeline; what kept it from loading is not tried again."""
        if self._fault is not None:
            raise self._fault
        if self._pipe is None:
            job = self._job
            try:
                keys, options = split_keys(job.load)
                self._bundle = bundle = mmedge.Bundle.open(job.bundle, **keys)
                if bundle.digest != job.digest:
                    raise BundleError(
                        f"{job.bundle}: another bundle lies here than where the run began: digest "
                        f"{bundle.digest}, expected {job.digest}; copy the bundle to each node"
                    )
                # What was compared is what runs: it is not opened again.
                self._pipe = mmedge.load(bundle, **options)
            except MMEdgeError as error:
                self._fault = error
                self.close()
                raise
        return self._pipe


def _write(file: TableFile, rows: Rows) -> float:
    """Write a row group; the seconds that it took."""
    started = perf_counter()
    if len(rows):
        file.write(rows.take())
    return perf_counter() - started


def _versions() -> dict[str, str]:
    """What a result may depend on beside the bundle: it is on record, and not compared."""
    versions = {"mmedge": mmedge.__version__, "processor": _processor()}
    for engine in ENGINES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[engine] = metadata.version(engine)
    return versions


def _processor() -> str:
    """The processor's name as the kernel has it, or its architecture."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
