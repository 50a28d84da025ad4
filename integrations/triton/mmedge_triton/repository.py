"""Writes a model into a model repository of Triton: configuration, ``model.py``, the bundle."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import mmedge
from mmedge_triton.model_config import ModelConfig, config_text, model_config

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ServedModel", "write_model"]

#: What Triton runs; it is copied, so that the server needs mmedge alone.
MODEL = Path(__file__).with_name("model.py")
#: A name that is a folder's, and a part of a URL.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that was written.

    Attributes:
        path: its folder in the repository.
        config: what its ``config.pbtxt`` says.
        bundle: where the server reads the bundle: in ``path``, or where it was.
        not_served: what the bundle can do and requests to a server cannot ask for, a line each.
        open_questions: what the proof of the bundle leaves open, a line each.
    """

    path: Path
    config: ModelConfig
    bundle: Path
    not_served: tuple[str, ...]
    open_questions: tuple[str, ...]


def write_model(
    bundle: str | Path,
    repository: str | Path,
    *,
    name: str | None = None,
    variant: str | None = None,
    plan: str | None = None,
    threads: int | None = None,
    instances: int = 1,
    allow_non_finite: bool = False,
    trusted_keys: Sequence[str | Path] | None = None,
    lowest_version: int | None = None,
    reference: bool = False,
    overwrite: bool = False,
) -> ServedModel:
    """Write a model that serves a bundle into a model repository.

    The folder is written beside its place and then renamed, so that a server never sees half of it.

    Args:
        bundle: a directory or a ``.mmedge`` file; all of it is checked first.
        repository: the folder that ``tritonserver --model-repository`` names; made if there is
            none.
        name: of the model; None: the bundle's name without ``.mmedge``.
        variant: id of the variant to serve; None: the server chooses when it loads.
        plan: ``whole`` or ``cut``; None: as :func:`mmedge.load` chooses.
        threads: CPU threads of a stage in each instance; None: the backend's default, which is
            most often all cores.
        instances: processes that hold the bundle. Requests that come at the same time are answered
            in as many at once.
        allow_non_finite: as for :func:`mmedge.load`.
        trusted_keys: files of public keys, of which one has to have signed the bundle, now and
            whenever the server loads it. The server reads them where they are: a key beside what
            it is to prove would be exchanged with it.
        lowest_version: lowest version of a signed release that is taken; None: 0.
        reference: leave the bundle where it is and write its absolute path, in place of a copy.
        overwrite: replace a model that this function wrote.

    Raises:
        BundleError: the bundle cannot be trusted or read.
        SignatureError: it is not signed as asked, or a key cannot be read.
        FileExistsError: there is a model of that name, or something else.
        InputError: the bundle keeps state from call to call, or has no such variant or plan.
        ValueError: a name that Triton's folders and URLs cannot have, a number below 1, or
            ``lowest_version`` without keys.
    """
    source, repository = Path(bundle), Path(repository)
    name = source.name.removesuffix(".mmedge") if name is None else name
    if NAME.fullmatch(name) is None:
        raise ValueError(
            f"a model's name has letters, digits, '_', '-' and '.', and is at most 128 long; got "
            f"{name!r}; give another one (--name)"
        )
    if instances < 1 or (threads is not None and threads < 1):
        raise ValueError(f"instances and threads must be >= 1, got {instances} and {threads}")
    place = repository / name
    if place.exists() and not (overwrite and _is_written_here(place)):
        raise FileExistsError(
            f"{place} exists"
            + (" and was not written by mmedge triton; remove it by hand" if overwrite else "")
        )
    keys = None if trusted_keys is None else [str(Path(key).resolve()) for key in trusted_keys]
    with mmedge.Bundle.open(source, trusted_keys=keys, lowest_version=lowest_version) as opened:
        manifest, digest = opened.manifest, opened.digest
    served = [one for one in manifest.variants if variant in (None, one.id)]
    if not served:
        ids = ", ".join(one.id for one in manifest.variants)
        raise mmedge.InputError(f"{source}: no variant {variant!r}; this bundle has {ids}")
    if plan is not None and not any(plan in manifest.plan_names(one) for one in served):
        raise mmedge.InputError(f"{source}: no variant that is served has the plan {plan!r}")
    file = "bundle.mmedge" if source.is_file() else "bundle"
    config = model_config(
        manifest,
        name,
        instances=instances,
        parameters={
            "bundle": str(source.resolve()) if reference else file,
            "digest": digest,
            "variant": variant or "",
            "plan": plan or "",
            "threads": "" if threads is None else str(threads),
            "allow_non_finite": "true" if allow_non_finite else "false",
            "trusted_keys": json.dumps(keys),
            "lowest_version": json.dumps(lowest_version),
        },
    )
    repository.mkdir(parents=True, exist_ok=True)
    staging = repository / f".{name}.{secrets.token_hex(8)}"
    try:
        version = staging / "1"
        version.mkdir(parents=True)
        shutil.copyfile(MODEL, version / "model.py")
        if not reference:
            _copy_bundle(source, version / file, digest)
        comment = (
            f"Written by mmedge {mmedge.__version__} (mmedge triton) for the bundle "
            f"{manifest.name!a}.\nSizes of -1 have limits that mmedge checks in each request."
        )
        text = config_text(config, comment=comment)
        (staging / "config.pbtxt").write_text(text, encoding="utf-8")
        if place.exists():
            before = staging / "before"
            place.rename(before)
            shutil.rmtree(before)
        staging.rename(place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return ServedModel(
        place,
        config,
        source.resolve() if reference else place / "1" / file,
        _not_served(manifest.loop is not None),
        manifest.open_questions(*served),
    )


def _copy_bundle(source: Path, target: Path, digest: str) -> None:
    """Copy a bundle without what devices keep beside it, and check the copy.

    Raises:
        BundleError: the copy is not what was checked before.
    """
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    with mmedge.Bundle.open(target) as copied:
        if copied.digest != digest:
            raise mmedge.BundleError(f"{source}: it was changed while it was copied; try again")


def _is_written_here(place: Path) -> bool:
    """Whether a folder is a model that :func:`write_model` wrote, and may be replaced."""
    config = place / "config.pbtxt"
    return config.is_file() and config.read_bytes().startswith(b"# Written by mmedge ")


def _not_served(has_loop: bool) -> tuple[str, ...]:  # noqa: FBT001
    lines = [
        "streams: each request has all of its inputs; embed the bundle to run at sensors' rates"
    ]
    if has_loop:
        lines += [
            "steps of the loop as they come: an answer has all of them at its end",
            "the options stop, forced, noise and state of a call",
        ]
    return tuple(lines)
