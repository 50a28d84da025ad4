"""A source: a folder of ONNX files and configuration that Hugging Face Optimum wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.install import installed
from mmedge_export.sources.contract import with_contract
from mmedge_export.sources.optimum_config import FolderConfig

if TYPE_CHECKING:
    from mmedge_export.sources.source import SourceDraft, SourceModel, SourceOptions

__all__ = ["OptimumSource"]

_PREFIX = "optimum:"

#: How to make files that are taken.
_COMMAND = "optimum-cli export onnx --model MODEL --task TASK --no-post-process DIR"


class OptimumSource:
    """``optimum:DIR``: ``model.onnx``, or an encoder and two decoders."""

    name = "optimum"
    forms = "optimum:DIR"
    options = frozenset({"dims", "example", "start", "stop", "limit", "tokenizer"})

    def takes(self, spec: str) -> bool:
        """Whether it begins with ``optimum:``."""
        return spec.startswith(_PREFIX)

    def read(self, spec: str, options: SourceOptions) -> SourceModel:
        """The networks of the folder as one model, with its loop if it has one.

        Raises:
            ExportError: the folder has other files, or they are not taken; the message says with
                which command to make such.
        """
        folder = Path(spec.removeprefix(_PREFIX))
        files = find_files(folder)
        config = FolderConfig(folder)
        with installed("reading an Optimum folder"):
            from mmedge_export.sources.optimum_model import OptimumFolder
        return OptimumFolder(folder, files, config, options).read()

    def draft(self, spec: str, options: SourceOptions, output: Path) -> SourceDraft:
        """A factory for the folder.

        Raises:
            ExportError: as :meth:`read`.
        """
        source_model = with_contract(self.read(spec, options), options)
        from mmedge_export.sources.model_text import settled, write_model

        model, _ = settled(source_model.model)
        return write_model(spec, replace(source_model, model=model), options, output)


def find_files(folder: Path) -> dict[str, Path]:
    """The ONNX files of a folder by what they are; those of a merged decoder are left out.

    Raises:
        ExportError: it has none that are taken together.
    """
    if not folder.is_dir():
        raise ExportError(f"no such folder: {folder}; expected {OptimumSource.forms}")
    place = folder if any(folder.glob("*.onnx")) else folder / "onnx"
    files = {path.stem.removesuffix("_model"): path for path in sorted(place.glob("*.onnx"))}
    pair = {name: files.get(name) for name in ("encoder", "decoder", "decoder_with_past")}
    if all(pair.values()):
        return {name: path for name, path in pair.items() if path is not None}
    if "model" in files:
        return {"model": files["model"]}
    names = ", ".join(path.name for path in files.values()) or "no ONNX files"
    if "decoder_model_merged" in files:
        raise ExportError(
            f"{folder}: decoder_model_merged.onnx holds two decoders behind one switch; write them "
            f"as separate files: {_COMMAND}"
        )
    if pair["encoder"] and pair["decoder"]:
        raise ExportError(
            f"{folder} has no decoder_with_past_model.onnx: every token would run the whole text "
            f"again; export a task that ends in -with-past: {_COMMAND}"
        )
    raise ExportError(
        f"{folder} holds {names}; expected model.onnx, or encoder_model.onnx, decoder_model.onnx "
        f"and decoder_with_past_model.onnx: {_COMMAND}"
    )
