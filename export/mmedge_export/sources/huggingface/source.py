"""The source ``hf:``: a checkpoint of transformers, by what its class says of itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmedge.errors import ExportError
from mmedge_export.install import installed
from mmedge_export.sources.source import SourceModel

if TYPE_CHECKING:
    from mmedge_export.sources.source import SourceDraft, SourceOptions

__all__ = ["HuggingFaceSource"]

_PREFIX = "hf:"


class HuggingFaceSource:
    """``hf:FOLDER`` that ``save_pretrained`` wrote, or ``hf:ORG/NAME[@REVISION]`` of the hub."""

    name = "hf"
    forms = "hf:DIR"
    options = frozenset({"dims", "frame", "language", "limit", "stop", "task", "trust_remote_code"})

    def takes(self, spec: str) -> bool:
        """Whether it begins with ``hf:``."""
        return spec.startswith(_PREFIX)

    def read(self, spec: str, options: SourceOptions) -> SourceModel:
        """The network that a checkpoint holds.

        Raises:
            ExportError: there is none, it is not safe to read, or its class cannot be taken.
        """
        with installed(f"reading {spec}"):
            from mmedge_export.sources.huggingface.checkpoint import read_checkpoint
            from mmedge_export.sources.huggingface.make_model import make_model
            from mmedge_export.sources.huggingface.messages import (
                errors_alone,
                reasons_with_advice,
            )
            from mmedge_export.sources.huggingface.task import choose_task
        folder, remarks = _find_folder(spec.removeprefix(_PREFIX))
        with errors_alone():
            checkpoint = read_checkpoint(folder, trust_remote_code=options.trust_remote_code)
            choose_task(checkpoint, options.task, options.language)
            checkpoint = replace(checkpoint, frame=options.frame)
            with reasons_with_advice(type(checkpoint.network).__name__):
                model = make_model(checkpoint, options)
        return SourceModel(model, tuple(dict.fromkeys([*remarks, *checkpoint.remarks])))

    def draft(self, spec: str, options: SourceOptions, output: Path) -> SourceDraft:
        """A factory that makes the same model; of a class that is not taken, a first version.

        Raises:
            ExportError: there is no checkpoint.
        """
        with installed(f"reading {spec}"):
            from mmedge_export.sources.huggingface.draft import draft_checkpoint
        folder, _ = _find_folder(spec.removeprefix(_PREFIX))
        return draft_checkpoint(self, f"{_PREFIX}{folder}", options, output)


def _find_folder(place: str) -> tuple[Path, list[str]]:
    """The folder that is named, or that the hub's library has of a name."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder, []
    name, _, revision = place.partition("@")
    parts = name.split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~"):
        raise ExportError(
            f"no folder at {folder}; expected hf:FOLDER that save_pretrained wrote, or "
            "hf:ORG/NAME of the hub"
        )
    with installed(f"reading {_PREFIX}{place}"):
        from huggingface_hub import snapshot_download
    try:
        path = Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"],
            )
        )
    except Exception as error:  # whatever the hub's library raises
        raise ExportError(
            f"no folder at {folder}, and the hub gave no {name!r}: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}; without a network, give the "
            "folder of a checkpoint"
        ) from error
    return path, [f"from the hub: {name}, revision {path.name}"]
