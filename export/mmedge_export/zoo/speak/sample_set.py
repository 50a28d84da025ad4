"""The shipped samples: what the shipped network says, to listen to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from mmedge_export.zoo import data_files, factory, pcm
from mmedge_export.zoo.speak.evaluation import torch_speaker
from mmedge_export.zoo.speak.model import SAMPLES
from mmedge_export.zoo.speak.network import SpeakNet

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["folder", "load", "write"]


def folder() -> Path:
    """Where they are."""
    return data_files.samples("speak")


def load() -> dict[str, str]:
    """The sentence of each WAV file, mono 16-bit 16 kHz, by its name."""
    samples: dict[str, str] = json.loads((folder() / "samples.json").read_text(encoding="utf-8"))
    return samples


def write(directory: Path) -> None:
    """Have the shipped network say the golden samples, and write them.

    Args:
        directory: for the files.

    Raises:
        ExportError: the weights are not there.
    """
    net = factory("speak").module
    assert isinstance(net, SpeakNet)  # noqa: S101
    directory.mkdir(parents=True, exist_ok=True)
    names = {f"{number:02d}.wav": text for number, text in enumerate(SAMPLES)}
    for (name, _), clip in zip(names.items(), torch_speaker(net)(list(SAMPLES)), strict=True):
        pcm.write(directory / name, pcm.to_int16(clip))
    index = json.dumps(names, indent=2) + "\n"
    (directory / "samples.json").write_text(index, encoding="utf-8")


def main() -> None:
    """Write the shipped samples anew."""
    write(folder())


if __name__ == "__main__":
    main()
