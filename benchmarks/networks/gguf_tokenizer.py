"""The tokenizer that a GGUF file holds, in the format of the ``tokenizers`` library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["tokenizer"]

#: Kinds of tokens in GGUF.
_NORMAL, _CONTROL = 1, 3


def tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizer as JSON of the ``tokenizers`` library.

    Digits stand alone, and GPT-2's pattern splits the rest, as llama.cpp has it for ``smollm``
    (llama-vocab.cpp).

    Args:
        metadata: of the file.

    Raises:
        ValueError: it is of another kind.
    """
    kind = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    kinds = metadata["tokenizer.ggml.token_type"]
    if kind != ("gpt2", "smollm") or not set(kinds) <= {_NORMAL, _CONTROL}:
        raise ValueError(f"expected a tokenizer of kind gpt2, smollm; got {', '.join(kind)}")
    tokens = metadata["tokenizer.ggml.tokens"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [n for n, token_kind in enumerate(kinds) if token_kind == _CONTROL]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": n, "content": tokens[n], **flags, "special": True} for n in special
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**byte_level, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }
