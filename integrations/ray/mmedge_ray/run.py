"""Runs recordings, or folders of samples: in this process, or in actors of Ray."""

from __future__ import annotations

import logging
import math
import uuid
from time import perf_counter
from typing import TYPE_CHECKING, Any

from mmedge import InputError
from mmedge_ray.cluster import check_room, connect, not_started
from mmedge_ray.job import CallOptions, Job, StreamOptions, make_job
from mmedge_ray.outcome import Outcome, Summary
from mmedge_ray.sources import Recordings, find_samples, name_recordings
from mmedge_ray.store import Store
from mmedge_ray.worker import Worker

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mmedge.stream import Policy

__all__ = ["run_recordings", "run_samples"]

#: Samples of one part of a folder: one task, and one Parquet file.
PART_SAMPLES = 256
#: Least seconds in which all actors have to be up, once there is room for them.
START_SECONDS = 600


def run_recordings(
    bundle: str | os.PathLike[str],
    recordings: Recordings,
    output: str | os.PathLike[str],
    *,
    trigger: str | float,
    deadline_ms: float | None = None,
    align: Mapping[str, Policy] | None = None,
    costs: Mapping[str, float] | None = None,
    skip_gaps: bool = False,
    limits: Mapping[str, Any] | None = None,
    load: Mapping[str, Any] | None = None,
    actors: int = 0,
    resources: Mapping[str, float] | None = None,
    address: str | None = None,
    attempts: int = 3,
    placement_timeout_s: float = 60.0,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Play recordings through a bundle, each on a simulated clock; one Parquet file for each.

    One recording is one task, since streams have state. Results are the same bit for bit whichever
    worker plays it, and however often, on the same kind of processor with the same engine. A file
    appears under its name once it is whole. A recording whose file is there is not run again, so a
    run that was stopped goes on where it ended.

    Args:
        bundle: its path, the same on every node.
        recordings: a folder, in which all recordings are run; paths; or paths by name. The same on
            every node.
        output: folder of the results, which all nodes share. It belongs to this bundle with these
            options; what was run with others is refused.
        trigger: as for :class:`mmedge.Stream`, like the next two.
        deadline_ms: see above.
        align: see above.
        costs: seconds of the simulated clock that a run of each stage takes, by the stage's name,
            as measured on the robot. Latency, ages and what is superseded are then as there. None:
            stages take no time.
        skip_gaps: leave a second of each time of more than 10 s without any sample. Each recording
            is then read twice.
        limits: further options of the stream, such as ``sanity`` and ``loop_options``.
        load: arguments of :func:`mmedge.load`. Where no variant is named, the one that is chosen on
            this machine is loaded by every worker; ``threads`` is 1 unless it is stated, or the
            CPUs of an actor.
        actors: processes of Ray, each with the bundle loaded. 0: this process alone, without Ray.
        resources: that an actor takes, by Ray's names; None: ``{"CPU": 1}``.
        address: of a Ray cluster; see :func:`mmedge_ray.cluster.connect`.
        attempts: how often a recording is begun whose worker ends without a word, as one that is
            killed for lack of memory.
        placement_timeout_s: most seconds to wait until there is room for all actors.
        say: called with a line of text for each recording that ends.

    Returns:
        What came of each; recordings that failed are in its error table, and in ``_errors.json``.

    Raises:
        InputError: no recordings, an option that cannot be, an output of another run, or more
            actors than this machine can hold.
        BackendError: no cluster at the address, or no room for the actors in time.
        MMEdgeError: whatever opening the bundle, or loading it here, raises.
    """
    how = StreamOptions(
        trigger, deadline_ms, dict(align or {}), dict(costs or {}), skip_gaps, dict(limits or {})
    )
    tasks = {name: [path] for name, path in name_recordings(recordings).items()}
    return _run(
        bundle, output, how, tasks, load=load, actors=actors, resources=resources, address=address,
        attempts=attempts, placement_timeout_s=placement_timeout_s, say=say,
    )  # fmt: skip


def run_samples(
    bundle: str | os.PathLike[str],
    samples: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    part_samples: int = PART_SAMPLES,
    load: Mapping[str, Any] | None = None,
    actors: int = 0,
    resources: Mapping[str, float] | None = None,
    address: str | None = None,
    attempts: int = 3,
    placement_timeout_s: float = 60.0,
    say: Callable[[str], None] | None = None,
) -> Summary:
    """Run samples singly, without a stream; one Parquet file for each ``part_samples`` of them.

    Args:
        bundle: as for :func:`run_recordings`, like ``output`` and what follows ``part_samples``.
        samples: a folder of ``.safetensors`` files, one for each sample, with a tensor for each
            input.
        output: see above.
        options: of each call, as :meth:`mmedge.Pipeline.run` takes them.
        part_samples: samples of one task, in the order of their names.
        load: see above.
        actors: see above.
        resources: see above.
        address: see above.
        attempts: see above.
        placement_timeout_s: see above.
        say: see above.

    Returns:
        What came of each part. A sample that could not be run is in the error table, and has a row
        with its error.

    Raises:
        InputError: as for :func:`run_recordings`, like the next two.
        BackendError: see above.
        MMEdgeError: see above.
    """
    if part_samples < 1:
        raise InputError(f"part_samples must be at least 1, got {part_samples}")
    paths = [path.absolute() for path in find_samples(samples)]
    tasks = {
        f"part-{number:06d}": paths[start : start + part_samples]
        for number, start in enumerate(range(0, len(paths), part_samples))
    }
    return _run(
        bundle, output, CallOptions(part_samples, dict(options or {})), tasks, load=load,
        actors=actors, resources=resources, address=address, attempts=attempts,
        placement_timeout_s=placement_timeout_s, say=say,
    )  # fmt: skip


def _run(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    how: StreamOptions | CallOptions,
    tasks: Mapping[str, list[Path]],
    *,
    load: Mapping[str, Any] | None,
    actors: int,
    resources: Mapping[str, float] | None,
    address: str | None,
    attempts: int,
    placement_timeout_s: float,
    say: Callable[[str], None] | None,
) -> Summary:
    resources = dict(resources or {"CPU": 1.0})
    if actors < 0 or attempts < 1:
        raise InputError(
            f"expected actors of 0 or more and attempts of 1 or more, got {actors} and {attempts}"
        )
    for name, amount in resources.items():
        if not 0.0 < amount < float("inf"):
            raise InputError(f"resources: {name} must be above 0, got {amount}")
    started = perf_counter()
    job = make_job(
        bundle, output, how, load=load, threads=max(1, int(resources.get("CPU", 1.0))),
        run_id=uuid.uuid4().hex[:16], attempts=attempts,
    )  # fmt: skip
    store = Store(job.output, job.binding())
    store.bind()
    rows = [
        {"name": name, "paths": [str(path.absolute()) for path in paths]}
        for name, paths in tasks.items()
    ]
    outcomes = []
    ran = (
        _on_ray(job, rows, min(actors, len(rows)), resources, address, placement_timeout_s)
        if actors
        else _here(job, rows)
    )
    for outcome in ran:
        outcomes.append(outcome)
        if say is not None:
            say(f"{len(outcomes)}/{len(rows)} {_words(outcome)}")
    outcomes.sort(key=lambda outcome: outcome.name)
    summary = Summary(tuple(outcomes), perf_counter() - started)
    store.write_errors(summary.errors)
    return summary


def _here(job: Job, rows: list[dict[str, Any]]) -> Iterator[Outcome]:
    worker = Worker(job)
    try:
        for row in rows:
            yield worker.run(row["name"], row["paths"])
    finally:
        worker.close()


class _Actor:
    """What Ray Data makes one of in each actor."""

    def __init__(self, job: Job) -> None:
        self._worker = Worker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        pairs = zip(batch["name"], batch["paths"], strict=True)
        return {
            "outcome": [self._worker.run(str(n), [str(p) for p in ps]).to_json() for n, ps in pairs]
        }


def _on_ray(
    job: Job,
    rows: list[dict[str, Any]],
    actors: int,
    resources: dict[str, float],
    address: str | None,
    placement_timeout_s: float,
) -> Iterator[Outcome]:
    with connect(address):
        import ray

        check_room(actors, resources, timeout_s=placement_timeout_s)
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # Another job may take the room between the check and the start; and a busy machine may take
        # minutes to start a process.
        start_s = max(START_SECONDS, math.ceil(placement_timeout_s))
        context.wait_for_min_actors_s = start_s
        others = {name: n for name, n in resources.items() if name not in {"CPU", "GPU", "memory"}}
        # A worker takes a recording when it has ended the one before. Ray starts one that died
        # anew and hands it its recording again; the worker counts how often.
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor,
            batch_size=1,
            fn_constructor_kwargs={"job": job},
            compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=1),
            num_cpus=resources.get("CPU"),
            num_gpus=resources.get("GPU"),
            memory=resources.get("memory"),
            resources=others or None,
        )
        try:
            for row in dataset.iter_rows():
                yield Outcome.from_json(row["outcome"])
        except ray.exceptions.GetTimeoutError as error:
            raise not_started(actors, resources, start_s) from error


def _words(outcome: Outcome) -> str:
    """An outcome in a line."""
    if outcome.status == "failed":
        return f"{outcome.name}: failed: {outcome.errors[0][1]}"
    end = "finished before" if outcome.status == "finished" else f"{outcome.rows} results"
    more = [f"{len(outcome.errors)} errors"] if outcome.errors else []
    more += [f"begun {outcome.attempts} times"] if outcome.attempts > 1 else []
    more += [outcome.missing] if outcome.missing else []
    return "; ".join([f"{outcome.name}: {end}", *more])
