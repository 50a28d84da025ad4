"""The tokenizer of an Optimum folder, with the padding that transformers keeps beside it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mmedge.errors import ExportError
from mmedge_export.sources.onnx_copy import CopyCall, remember, temporary_folder

if TYPE_CHECKING:
    from pathlib import Path

    from mmedge_export.sources.source import SourceOptions

__all__ = ["padded", "tokenizer_file"]


def tokenizer_file(folder: Path, options: SourceOptions) -> tuple[Path | None, list[str]]:
    """A file of the ``tokenizers`` library, and remarks on it; no file where there is none.

    A file that says nothing of padding gets that of ``tokenizer_config.json``, in a copy.

    Raises:
        ExportError: there is no such file, or it is no JSON.
    """
    if options.tokenizer is not None:
        return options.tokenizer, []
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None, [f"there is no {file.name}: the bundle takes and gives ids of tokens"]
    copy = padded(file)
    if copy == file:
        return file, []
    padding = json.loads(copy.read_text(encoding="utf-8"))["padding"]
    side = padding["direction"].lower()
    return copy, [
        f"{file.name} pads on the {side} with {padding['pad_token']!r}, as its config says"
    ]


def padded(file: Path) -> Path:
    """The file itself, or a copy with the padding that ``tokenizer_config.json`` beside it says.

    Raises:
        ExportError: a file is no JSON.
    """
    contents = []
    for path in (file, file.with_name("tokenizer_config.json")):
        try:
            text = path.read_text(encoding="utf-8") if path.is_file() or path == file else "{}"
            contents.append(json.loads(text))
        except (OSError, ValueError) as error:
            raise ExportError(f"{path}: cannot be read as JSON: {error}") from error
    content, config = contents
    padding = None if content.get("padding") else _padding(content, config)
    if padding is None:
        return file
    copy = temporary_folder() / file.name
    copy.write_text(json.dumps({**content, "padding": padding}), encoding="utf-8")
    remember(copy, CopyCall(__name__, "padded", (file,), ()))
    return copy


def _padding(tokenizer: dict[str, Any], config: dict[str, Any]) -> dict[str, Any] | None:
    """What the file should say; None where nothing says it."""
    token = config.get("pad_token")
    if isinstance(token, dict):
        token = token.get("content")
    index = _index(tokenizer, token)
    if index is None:
        return None
    left = config.get("padding_side") == "left"
    return {
        "strategy": "BatchLongest",
        "direction": "Left" if left else "Right",
        "pad_to_multiple_of": None,
        "pad_id": index,
        "pad_type_id": 0,
        "pad_token": token,
    }


def _index(tokenizer: dict[str, Any], token: object) -> int | None:
    for added in tokenizer.get("added_tokens") or ():
        if added.get("content") == token:
            return int(added["id"])
    vocabulary = (tokenizer.get("model") or {}).get("vocab")
    if isinstance(vocabulary, dict) and isinstance(vocabulary.get(token), int):
        return int(vocabulary[token])
    return None
