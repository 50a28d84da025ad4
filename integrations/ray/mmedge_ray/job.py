"""What a worker is given: a bundle, how it is loaded and run, and where results go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmedge
from mmedge import InputError

if TYPE_CHECKING:
    import os

    from mmedge.stream import Policy

__all__ = ["CallOptions", "Job", "StreamOptions", "make_job", "split_keys"]

#: Arguments of :func:`mmedge.load` that say whose signature a bundle has to have.
KEYS = ("trusted_keys", "lowest_version")


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """How recordings are played: see :func:`mmedge_ray.run_recordings`."""

    trigger: str | float
    deadline_ms: float | None = None
    align: Mapping[str, Policy] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    skip_gaps: bool = False
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How samples are run: see :func:`mmedge_ray.run_samples`."""

    part_samples: int
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """All that a worker needs, small and without open files.

    Attributes:
        bundle: path of the bundle, the same on every node.
        digest: of the bundle.
        output: folder of the results, the same on every node.
        load: arguments of :func:`mmedge.load`; the variant, the plan and the threads are stated,
            so that every node loads the same.
        how: how it is run.
        run_id: tells this run's attempts from those of others.
        attempts: how often a worker may begin one recording.
    """

    bundle: Path
    digest: str
    output: Path
    load: Mapping[str, Any]
    how: StreamOptions | CallOptions
    run_id: str
    attempts: int

    def binding(self) -> dict[str, Any]:
        """What makes the results what they are, in values that JSON has."""
        return {
            "kind": "recordings" if isinstance(self.how, StreamOptions) else "samples",
            "bundle": self.digest,
            "load": plain(self.load, "load"),
            "options": plain(self.how, "options"),
        }


def make_job(
    bundle: str | os.PathLike[str],
    output: str | os.PathLike[str],
    how: StreamOptions | CallOptions,
    *,
    load: Mapping[str, Any] | None,
    threads: int,
    run_id: str,
    attempts: int,
) -> Job:
    """A job with everything stated that a node might choose otherwise.

    Where ``load`` names no variant, the bundle is loaded here once, and what is chosen here is what
    every worker loads.

    Args:
        bundle: path of the bundle.
        output: folder of the results.
        how: how it is run.
        load: arguments of :func:`mmedge.load` besides the bundle.
        threads: of each stage on the CPU, unless ``load`` says it.
        run_id: as in :class:`Job`, like ``attempts``.
        attempts: see there.

    Raises:
        InputError: arguments that a run cannot have.
        MMEdgeError: whatever opening and loading the bundle raises.
    """
    arguments = dict(load or {})
    for name in ("bundle", "isolate", "allow_unverified", "runtime"):
        if name in arguments:
            raise InputError(f"load: {name!r} cannot be chosen for a run; leave it out")
    arguments.setdefault("threads", threads)
    path = Path(bundle).absolute()
    streams = isinstance(how, StreamOptions)
    keys, options = split_keys(arguments)
    with mmedge.Bundle.open(path, **keys) as opened:
        digest, manifest = opened.digest, opened.manifest
        if isinstance(how, StreamOptions):
            # Here once, and not as an error of each recording in a folder of results.
            modalities = [modality.name for modality in manifest.modalities]
            if isinstance(how.trigger, str) and how.trigger not in ("any", *modalities):
                raise InputError(
                    f"trigger {how.trigger!r}: expected 'any', a rate in Hz, or one of "
                    f"{', '.join(modalities)}"
                )
        if options.get("variant") is None:
            with mmedge.load(opened, **options) as pipe:
                arguments["variant"] = pipe.variant.id
                arguments.setdefault("plan", pipe.plan)
        variant = next((v for v in manifest.variants if v.id == arguments["variant"]), None)
        if variant is None:
            raise InputError(
                f"{path}: no variant {arguments['variant']!r}; it has "
                f"{', '.join(each.id for each in manifest.variants)}"
            )
        if streams:
            arguments["plan"] = manifest.stream_plan(variant)
        else:
            names = manifest.plan_names(variant)
            arguments.setdefault("plan", "whole" if "whole" in names else names[0])
    return Job(path, digest, Path(output).absolute(), arguments, how, run_id, attempts)


def split_keys(load: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of :func:`mmedge.load` that opening the bundle takes, and the others."""
    keys = {name: value for name, value in load.items() if name in KEYS}
    return keys, {name: value for name, value in load.items() if name not in KEYS}


def plain(value: Any, where: str) -> Any:  # noqa: ANN401
    """A value of options as JSON has it, so that two runs can be compared.

    Raises:
        InputError: it is none of numbers, texts, None, lists, mappings and mmedge's own options.
    """
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each, f"{where}.{key}") for key, each in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [plain(each, where) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        content = {each.name: getattr(value, each.name) for each in fields(value)}
        return {"type": type(value).__name__, **plain(content, where)}
    raise InputError(
        f"{where}: {type(value).__name__} {value!r:.60} cannot be written down, so that results "
        "could not be told from those of another run; pass numbers, texts, lists and policies"
    )
