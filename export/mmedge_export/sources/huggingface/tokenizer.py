"""The tokenizer of a checkpoint as a file that says of itself how it pads and cuts."""

from __future__ import annotations

import json
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmedge_export.noise import quiet

if TYPE_CHECKING:
    from mmedge_export.sources.huggingface.checkpoint import Checkpoint

__all__ = ["tokenizer_file"]

_TEXT = "A small robot drives to the red door, and stops."


def tokenizer_file(
    checkpoint: Checkpoint, longest: int | None, *, pads: bool = True
) -> Path | None:
    """A file of the ``tokenizers`` library; None where the checkpoint has no such tokenizer.

    It lies in a folder that is there as long as the network is.

    Args:
        checkpoint: its remarks get the reason where there is none.
        longest: most tokens of a text; None: no limit.
        pads: whether texts of one call are made equally long.
    """
    tokenizer = checkpoint.part("tokenizer")
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        checkpoint.remarks.append(
            f"{type(tokenizer).__name__} has no tokenizer.json: text goes in and out as token ids"
        )
        return None
    from tokenizers import Tokenizer

    file = Tokenizer.from_str(backend.to_str())
    file.no_padding()
    file.no_truncation()
    with quiet():
        plain = list(tokenizer(_TEXT)["input_ids"])
        padded = _padded_length(checkpoint.processor, len(plain))
    if file.encode(_TEXT).ids != plain:
        checkpoint.remarks.append(
            f"{type(tokenizer).__name__} does more than its tokenizer.json: text goes in and out "
            "as token ids"
        )
        return None
    if longest is not None:
        file.enable_truncation(longest, direction=tokenizer.truncation_side)
    if pads and tokenizer.pad_token_id is not None:
        file.enable_padding(
            direction=tokenizer.padding_side,
            pad_id=tokenizer.pad_token_id,
            pad_token=tokenizer.pad_token,
            length=padded,
        )
    folder = tempfile.mkdtemp(prefix="mmedge-hf-")
    weakref.finalize(checkpoint.network, shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "tokenizer.json"
    path.write_text(json.dumps(json.loads(file.to_str())), encoding="utf-8")
    return path


def _padded_length(processor: Any, plain: int) -> int | None:  # noqa: ANN401
    """To how many tokens the processor pads a text of ``plain`` by itself; None: it does not."""
    try:
        ids = processor(text=[_TEXT], return_tensors="pt")["input_ids"]
    except Exception:  # noqa: BLE001 - whatever a foreign class raises
        return None
    length = int(ids.shape[-1])
    return length if length > plain else None
