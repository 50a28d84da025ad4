"""The words of the questions: how ``tokenizer.json`` was made, and how it is used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Punctuation, Whitespace
from tokenizers.pre_tokenizers import Sequence as Steps

from mmedge_export.zoo.vqa.text import LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

PATH = Path(__file__).with_name("tokenizer.json")
"""The tokenizer that the shipped weights were trained with."""

PAD, UNKNOWN = "[PAD]", "[UNK]"


def build(questions: Iterable[str]) -> Tokenizer:
    """Make a tokenizer of whole words.

    Args:
        questions: sentences whose words become the vocabulary, in alphabetical order from id 2.

    Returns:
        A tokenizer that lowers case, drops punctuation, and pads or cuts to 16 ids; id 0 pads, id 1
        stands for an unknown word.
    """
    split = Steps([Punctuation(behavior="removed"), Whitespace()])
    words = {word for q in questions for word, _ in split.pre_tokenize_str(q.lower())}
    vocabulary = {word: n for n, word in enumerate([PAD, UNKNOWN, *sorted(words)])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = split
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH, pad_id=0, pad_token=PAD)
    return tokenizer


def encode(questions: Sequence[str], path: Path = PATH) -> NDArray[np.int64]:
    """Token ids of sentences by a tokenizer that :func:`build` made: int64 ``[sentences, 16]``."""
    rows = Tokenizer.from_file(str(path)).encode_batch(list(questions))
    return np.array([row.ids for row in rows], dtype=np.int64).reshape(-1, LENGTH)
