"""What a tokenizer says, held against the inputs that it is to fill and the samples of the user.

At run time the tokenizer's file alone decides how a text is padded and cut. Where it is silent, or
says another thing than the samples that the network was trained and checked on, a text would run
and be understood otherwise; so that is refused here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmedge.errors import BundleError, ExportError
from mmedge.execution.text import UnpaddedTokenizer, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mmedge.spec import Array
    from mmedge_export.inputs import Input, Limits

__all__ = ["check_text", "read_tokenizer", "side_check"]

#: Where transformers keeps the sides that a tokenizer.json may not state.
CONFIG = "tokenizer_config.json"
#: Padding ids in a row that are padding for sure; one may be a special token of the same id.
SURE = 2


def read_tokenizer(name: str, file: Path) -> UnpaddedTokenizer:
    """The tokenizer of input ``name``.

    Raises:
        BackendError: the tokenizers library is not installed.
        ExportError: it cannot be read, or holds what no bundle may.
    """
    try:
        return load_tokenizer(file.read_bytes(), f"tokenizer {file}")
    except OSError as error:
        raise ExportError(f"input {name!r}: tokenizer {file} cannot be read: {error}") from error
    except BundleError as error:
        raise ExportError(
            f"input {name!r}: {error}; give the path of the tokenizer.json that the tokenizers "
            "library saves"
        ) from error


def check_text(
    inputs: Mapping[str, Input], name: str, mask: str | None, dims: Mapping[str, Limits]
) -> None:
    """Refuse a tokenizer whose padding or cutting is not known, or not that of the example.

    Args:
        inputs: of the modality.
        name: the input that takes ids and carries the tokenizer.
        mask: the input that takes the mask, if there is one.
        dims: smallest and largest size of dynamic dimensions.
    """
    value = inputs[name]
    file = Path(value.tokenizer or "")
    tokenizer = read_tokenizer(name, file)
    length = value.shape()[-1]
    least, most = dims.get(length, (1, None))[:2] if isinstance(length, str) else (length, length)
    if least > 1 and not tokenizer.padding and mask is None:
        raise ExportError(
            f"input {name!r}: text is padded to {least} tokens, but the tokenizer {file} does not "
            "say with which id: id 0 would be taken, which may be a word. Call "
            "enable_padding(pad_id=..., pad_token=...) on it and save it again, give the modality "
            "a mask input, or make the axis dynamic"
        )
    to = (tokenizer.padding or {}).get("length") or 0
    if isinstance(length, str) and most is not None and to > most:
        raise ExportError(
            f"input {name!r}: the tokenizer {file} pads each text to {to} tokens, but {length!r} "
            f"is at most {most}; raise Model.dims, or save the tokenizer with a shorter padding"
        )
    _check_config(name, file, tokenizer)
    _check_side(
        name, tokenizer, value.example, None if mask is None else inputs[mask].example, file
    )


def side_check(
    inputs: Mapping[str, Input], modalities: Iterable[Sequence[str]]
) -> Callable[[Mapping[str, Array]], None]:
    """A check of samples: it refuses one that is padded on another side than text will be.

    Args:
        inputs: of the network.
        modalities: the names of the inputs of each.
    """
    fillers = []
    for names in modalities:
        for name in [n for n in names if inputs[n].tokenizer is not None][:1]:
            file = Path(inputs[name].tokenizer or "")
            mask = next((other for other in names if other != name), None)
            fillers.append((name, mask, read_tokenizer(name, file), file))

    def check(sample: Mapping[str, Array]) -> None:
        for name, mask, tokenizer, file in fillers:
            _check_side(name, tokenizer, sample[name], None if mask is None else sample[mask], file)

    return check


def _check_config(name: str, file: Path, tokenizer: UnpaddedTokenizer) -> None:
    """Hold the sides against those that transformers keeps beside the file."""
    try:
        config = json.loads((file.parent / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # not from transformers
    if not isinstance(config, dict):
        return
    truncation = tokenizer.tokens.truncation
    for what, setting, call in (
        ("padding", tokenizer.padding, "enable_padding"),
        ("truncation", truncation, "enable_truncation"),
    ):
        side = config.get(f"{what}_side")
        tokenizer_side = (setting or {}).get("direction", "right")
        # Without truncation nothing is cut; without padding short texts are still padded.
        if side in ("left", "right") and side != tokenizer_side and (setting or what == "padding"):
            raise ExportError(
                f"input {name!r}: {file.parent / CONFIG} says {what}_side {side!r}, but the "
                f"tokenizer {file} "
                f"{f'says {tokenizer_side}' if setting else 'is silent, which means right'}; "
                f"call {call}(direction={side!r}, ...) on it and save it again"
            )


def _check_side(
    name: str, tokenizer: UnpaddedTokenizer, ids: Array, mask: Array | None, file: Path
) -> None:
    padding = tokenizer.padding or {}
    side = padding.get("direction", "right")
    if ids.ndim != 2:
        return  # refused elsewhere, with its reason
    if mask is not None and mask.shape == ids.shape:
        absent, sure = np.asarray(mask == 0), 1
    elif padding:
        absent, sure = np.asarray(ids == padding["pad_id"]), SURE
    else:
        return
    for row in absent:
        if not row.any() or row.all():
            continue
        count = int(row.sum())
        for other, end in (("left", row[:count]), ("right", row[len(row) - count :])):
            if end.all() and count >= sure and side != other:
                raise ExportError(
                    f"input {name!r}: the example or a sample is padded on the {other}, but texts "
                    f"would be padded on the {side}, as the tokenizer {file} says"
                    f"{'' if tokenizer.padding else ' by its silence'}; call "
                    f"enable_padding(direction={other!r}, pad_id=..., pad_token=...) on it and "
                    "save it again, or pad the samples as it does"
                )
