"""Samples of a network from a folder of files: tensors, pictures and sounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from mmedge.errors import ExportError, InputError
from mmedge.media.decode import READERS, read_file
from mmedge.spec import Modality, TensorSpec
from mmedge_export.model import modality_name

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge.spec import Array
    from mmedge_export.inputs import Input

__all__ = ["SampleFolder", "read_input"]

_FORMS = (
    "expected NAME.safetensors files that hold a tensor for each input; for a network of one input "
    f"also other files ({' '.join(sorted(set(READERS) - {'.txt'}))}); or a folder for each input, "
    "called like it, with a file of the same name for each sample"
)


class SampleFolder(Iterable[tuple[Mapping[str, "Array"], None]]):
    """Inputs of a network, a sample for each file, read anew whenever they are asked for.

    A file's array that lacks only a first axis that may have size 1 (the batch) gets it. Pictures
    are uint8 and sounds float32 PCM, as :mod:`mmedge.media.decode` reads them; nothing is resized
    or resampled.

    Args:
        folder: with files, or with a folder for each input.
        inputs: of the network.

    Raises:
        ExportError: the folder has neither form.
    """

    def __init__(self, folder: Path, inputs: Mapping[str, Input]) -> None:
        if not folder.is_dir():
            raise ExportError(f"--samples: no folder {folder}; {_FORMS}")
        self.folder = folder
        self._specs = {
            name: TensorSpec(name, value.example.dtype.name, value.shape())
            for name, value in inputs.items()
        }
        self._modalities = {
            name: Modality(modality_name(name), (name,), sample_rate_hz=value.sample_rate_hz)
            for name, value in inputs.items()
        }
        self._samples = self._files(folder)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[tuple[Mapping[str, Array], None]]:
        """Each sample, without a target.

        Raises:
            ExportError: a file cannot be read, or does not fit.
        """
        for files in self._samples:
            yield {name: self._read(name, path) for name, path in files.items()}, None

    def not_checked(self) -> list[str]:
        """What cannot be told of the files, a line each."""
        return [
            f"the sampling rate of the WAV files for {name!r}: the network states none"
            for name, modality in self._modalities.items()
            if modality.sample_rate_hz is None
            and any(files[name].suffix.lower() == ".wav" for files in self._samples)
        ]

    def _files(self, folder: Path) -> list[dict[str, Path]]:
        """The file of each input, for every sample in order."""
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        folders = {path.name: path for path in entries if path.is_dir()}
        if folders and len(folders) == len(entries):
            return self._by_input(folder, folders)
        if not entries or folders:
            what = "files beside folders" if folders else "nothing"
            raise ExportError(f"--samples: {folder} holds {what}; {_FORMS}")
        for path in entries:
            if path.suffix.lower() != ".safetensors" and len(self._specs) > 1:
                raise ExportError(
                    f"--samples: {path} does not say which of the inputs {', '.join(self._specs)} "
                    f"it is for; {_FORMS}"
                )
        return [dict.fromkeys(self._specs, path) for path in entries]

    def _by_input(self, folder: Path, folders: Mapping[str, Path]) -> list[dict[str, Path]]:
        if set(folders) != set(self._specs):
            raise ExportError(
                f"--samples: {folder} has folders {', '.join(folders)}, the inputs are "
                f"{', '.join(self._specs)}; {_FORMS}"
            )
        files: dict[str, dict[str, Path]] = {}
        for name, place in folders.items():
            for path in sorted(place.iterdir()):
                if not path.name.startswith("."):
                    sample = files.setdefault(path.stem, {})
                    if name in sample:
                        raise ExportError(f"--samples: {sample[name]} and {path} are one sample")
                    sample[name] = path
        for stem, sample in files.items():
            if missing := [name for name in self._specs if name not in sample]:
                raise ExportError(
                    f"--samples: sample {stem!r} has no file in {folders[missing[0]]}; {_FORMS}"
                )
        if not files:
            raise ExportError(f"--samples: the folders of {folder} are empty; {_FORMS}")
        return [dict(files[stem]) for stem in sorted(files)]

    def first_files(self) -> Mapping[str, Path]:
        """The file of each input in the first sample."""
        return self._samples[0]

    def _read(self, name: str, path: Path) -> Array:
        return _read(path, self._specs[name], self._modalities[name])


def read_input(path: Path, name: str, dtype: str, shape: Sequence[int | str]) -> Array:
    """What a file holds for one input, as a sample has it.

    Args:
        path: of the file.
        name: of the input.
        dtype: of the input.
        shape: of the input: sizes, and names of dynamic dimensions.

    Raises:
        ExportError: the file cannot be read, or does not fit.
    """
    return _read(
        path, TensorSpec(name, dtype, tuple(shape)), Modality(modality_name(name), (name,))
    )


def _read(path: Path, spec: TensorSpec, modality: Modality) -> Array:
    try:
        content = read_file(path, spec, modality)
    except InputError as error:
        raise ExportError(f"--samples: {error}") from error
    if isinstance(content, str):
        raise ExportError(f"--samples: {path} holds text; input {spec.name!r} takes numbers")
    return content
