"""The reference networks of the assistant, as bundles that are exported where they are missing."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Self

import mmedge
from mmedge import ExportError

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge import Pipeline

__all__ = ["Networks", "bundle"]

RTOL = {"speak": 0.01}
"""Where an export allows more than the default, as the network's documentation says."""


def bundle(name: str, folder: Path) -> Path:
    """The bundle of a reference network in a folder; it is exported if it is not there.

    Raises:
        ExportError: it is not there, and the toolchain is not installed (the message has the
            command), or no weights are shipped.
    """
    path = folder / f"{name}.mmedge"
    if path.exists():
        return path
    try:
        from mmedge_export import export
    except ImportError as error:
        rtol = f" --rtol {RTOL[name]}" if name in RTOL else ""
        raise ExportError(
            f"{path} is missing, and the toolchain to make it cannot be imported ({error}). Run "
            f"mmedge export zoo:{name} -o {path}{rtol} where pip install 'mmedge[export]' was run, "
            "and copy it here"
        ) from error
    print(f"exporting zoo:{name} to {path}, once ...", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    export(f"zoo:{name}", path, rtol=RTOL.get(name)).close()
    return path


class Networks:
    """The five networks, each exported if need be, and loaded when it is first used."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def vqa(self) -> Pipeline:
        """Picture and question to an answer; cut by modality, for its stream."""
        return self._load("vqa-attention", plan="cut")

    @cached_property
    def hear(self) -> Pipeline:
        """Speech to text."""
        return self._load("hear")

    @cached_property
    def draw(self) -> Pipeline:
        """Caption to picture."""
        return self._load("draw")

    @cached_property
    def label(self) -> Pipeline:
        """Picture of a label to text."""
        return self._load("label-translate")

    @cached_property
    def speak(self) -> Pipeline:
        """Text to speech."""
        return self._load("speak")

    def load_all(self) -> None:
        """Load all of them, so that no request waits for it."""
        for name in ("vqa", "hear", "draw", "label", "speak"):
            getattr(self, name)

    def _load(self, name: str, plan: Literal["cut"] | None = None) -> Pipeline:
        return self._stack.enter_context(mmedge.load(bundle(name, self._folder), plan=plan))
