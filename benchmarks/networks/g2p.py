"""Spelling to phonemes: the GRU encoder and decoder of g2p-en 2.1.0 (Apache-2.0), with its weights.

``python benchmarks/networks/g2p.py`` holds the phonemes of 200 words against those of the package's
own NumPy code. Of the package only files are read; what it depends on is not needed.
"""

from __future__ import annotations

import json
import os
import string
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from generation import command_line, generate
from package_files import PackageFile
from torch import Tensor, nn

from mmedge_export import Generate, Input, Model, StateInput
from mmedge_export.quantize import Task
from mmedge_export.zoo.recurrent import GRU

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["GRAPHEMES", "PHONEMES", "Encoder", "Step", "factory", "letters", "load", "task"]

_PACKAGE = "g2p-en==2.1.0"
WEIGHTS = PackageFile(
    _PACKAGE,
    "g2p_en/checkpoint20.npz",
    "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6",
)
SOURCE = PackageFile(
    _PACKAGE, "g2p_en/g2p.py", "fc2548b855e102f774506a6afe4f4bc88424229b69701ab6040aa16710ddff3a"
)
HOMOGRAPHS = PackageFile(
    _PACKAGE,
    "g2p_en/homographs.en",
    "0403edcc6aefe8945f8987be398279fd98bf6b767e54b741331d3bc99a307071",
)

#: Letters by id.
GRAPHEMES = ("<pad>", "<unk>", "</s>", *string.ascii_lowercase)
_VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
_CONSONANTS = (*"BDFGKLMNPRSTVWYZ", "CH", "DH", "HH", "JH", "NG", "SH", "TH", "ZH")
#: Phonemes of ARPAbet by id; a vowel's digit is its stress.
PHONEMES = (
    *("<pad>", "<unk>", "<s>", "</s>"),
    *sorted([*_CONSONANTS, "UW", *(vowel + stress for vowel in _VOWELS for stress in "012")]),
)
START, STOP, LIMIT = PHONEMES.index("<s>"), PHONEMES.index("</s>"), 20
SIZE = 256


class Encoder(nn.Module):
    """Letters int64 [batch, letters] to what the encoder remembers of them, [batch, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(GRAPHEMES), SIZE)
        self.gru = GRU(SIZE)

    def forward(self, letters: Tensor) -> dict[str, Tensor]:
        """The hidden state after the last letter."""
        return {"hidden": self.gru(self.embedding(letters))[:, -1]}


class Step(nn.Module):
    """The last phoneme int64 [batch] and the hidden state to scores of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(PHONEMES), SIZE)
        self.cell = nn.GRUCell(SIZE, SIZE)
        self.output = nn.Linear(SIZE, len(PHONEMES))

    def forward(self, phoneme: Tensor, past: Tensor) -> dict[str, Tensor]:
        """Scores [batch, phonemes] and the hidden state after ``phoneme``."""
        present = self.cell(self.embedding(phoneme), past)
        return {"logits": self.output(present), "present": present}


def load(cache: Path | None = None) -> Model:
    """The network with the package's weights, as ``mmedge export`` takes it.

    Args:
        cache: folder for the package's files; None: the user's cache.

    Raises:
        PackageError: the package cannot be had.
    """
    file = WEIGHTS.fetch(cache)
    with np.load(file, allow_pickle=False) as archive:
        weights = {name: torch.from_numpy(value) for name, value in archive.items()}
    module, step = Encoder(), Step()
    module.load_state_dict(
        {
            "embedding.weight": weights["enc_emb"],
            **{f"gru.gru.{kind}_l0": weights[f"enc_{short}"] for kind, short in _GRU.items()},
        }
    )
    step.load_state_dict(
        {
            "embedding.weight": weights["dec_emb"],
            **{f"cell.{kind}": weights[f"dec_{short}"] for kind, short in _GRU.items()},
            "output.weight": weights["fc_w"],
            "output.bias": weights["fc_b"],
        }
    )
    spelling, phonemes = file.with_name("letters.json"), file.with_name("phonemes.json")
    spelling.write_text(json.dumps(letter_tokenizer()))
    phonemes.write_text(json.dumps(phoneme_tokenizer()))
    samples = [({"letters": letters(word).numpy()}, None) for word in words(4, cache)]
    return Model(
        module.eval(),
        inputs={
            "letters": Input(
                samples[0][0]["letters"],
                modality="word",
                dynamic={0: "batch", 1: "letters"},
                tokenizer=spelling,
            )
        },
        outputs=["hidden"],
        samples=samples,
        dims={"batch": (1, 64), "letters": (1, 64)},
        name="g2p",
        loop=Generate(
            step.eval(),
            token="phoneme",
            token_shape=("batch",),
            state={"past": StateInput("present", initial="hidden")},
            start=[START],
            stop=[STOP],
            limit=LIMIT,
            tokenizer=phonemes,
        ),
    )


factory = load


def task(cache: Path | None = None) -> Task:
    """Judges a lower precision by the share of words that are spoken as the package's list says.

    A word of it is spoken in one of two ways, either of which is right. Without stress, which the
    network cannot know.

    Args:
        cache: folder for the package's files; None: the user's cache.
    """
    lines = HOMOGRAPHS.fetch(cache).read_text("utf-8").splitlines()
    rows = [line.split("|") for line in lines if not line.startswith("#")]
    samples = [
        ({"letters": letters(word.lower()).numpy()}, [_without_stress(one), _without_stress(other)])
        for word, one, other, *_ in rows
    ]
    return Task(samples, [inputs for inputs, _ in samples[:128]], spoken_right, shared=True)


def spoken_right(outputs: Sequence[Mapping[str, Any]], targets: Sequence[Sequence[str]]) -> float:
    """The share of words whose phonemes are one of the targets."""
    right = [
        _without_stress(output["text"][0]) in ways
        for output, ways in zip(outputs, targets, strict=True)
    ]
    return sum(right) / len(right)


def _without_stress(phonemes: str) -> str:
    return " ".join(phoneme.rstrip("012") for phoneme in phonemes.split())


_GRU = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}


def letters(word: str) -> Tensor:
    """Letters of a word as the encoder takes them, [1, letters]."""
    ids = [GRAPHEMES.index(letter) if letter in GRAPHEMES else 1 for letter in word]
    return torch.tensor([[*ids, GRAPHEMES.index("</s>")]])


def letter_tokenizer() -> dict[str, Any]:
    """A tokenizer that makes :func:`letters` of a word."""
    end = {"id": "</s>", "ids": [GRAPHEMES.index("</s>")], "tokens": ["</s>"]}
    template = [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    ]
    return {
        **_word_level(GRAPHEMES),
        "pre_tokenizer": {"type": "FixedLength", "length": 1},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": [*template, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"</s>": end},
        },
    }


def phoneme_tokenizer() -> dict[str, Any]:
    """A tokenizer that writes phonemes with spaces between them."""
    return _word_level(PHONEMES)


def _word_level(tokens: tuple[str, ...]) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = [(n, token) for n, token in enumerate(tokens) if token.startswith("<")]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": n, "content": t, **flags, "special": True} for n, t in special],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {token: n for n, token in enumerate(tokens)},
            "unk_token": "<unk>",
        },
    }


def words(count: int, cache: Path | None = None) -> list[str]:
    """The first words of the package's list of homographs."""
    lines = HOMOGRAPHS.fetch(cache).read_text("utf-8").splitlines()
    return [line.split("|")[0].lower() for line in lines if not line.startswith("#")][:count]


def package_predict(cache: Path | None = None) -> Callable[[str], list[str]]:
    """``G2p.predict`` of the package: phonemes of a word, in NumPy.

    What else its module imports needs nltk and its data, which what is called here does not use.
    """
    g2p = SOURCE.define(
        "G2p",
        cache,
        np=np,
        os=os,
        dirname=str(WEIGHTS.fetch(cache).parent),
        cmudict=SimpleNamespace(dict=dict),
        construct_homograph_dictionary=dict,
    )
    predict: Callable[[str], list[str]] = g2p().predict
    return predict


def main() -> int:
    """Phonemes of 200 words, by this network and by the package's code."""
    cache = command_line(__doc__ or "", [WEIGHTS, SOURCE, HOMOGRAPHS])
    network, predict = load(cache), package_predict(cache)
    differ = 0
    texts = words(200, cache)
    for word in texts:
        phonemes = [PHONEMES[token] for token in generate(network, {"letters": letters(word)})]
        expected = predict(word)
        if phonemes != expected:
            differ += 1
            print(f"{word}: {' '.join(phonemes)}, the package's code: {' '.join(expected)}")
    print(f"{len(texts) - differ} of {len(texts)} words have the phonemes of the package's code")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
