"""Texts, and the ids and masks that they become; tokens, and their text."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

from case_files import write

import mmedge
from mmedge.errors import MMEdgeError
from mmedge.execution.detokenize import detokenizer
from mmedge.execution.inputs import Feeds

__all__ = ["write_texts"]

#: By bundle, its tokenizer's file.
BUNDLES = {
    "byte-level": "assets/t.json",
    "unigram": "assets/t.json",
    "word-level": "assets/t.json",
    "word-piece": "assets/t.json",
}

TEXTS = (
    "",
    " ",
    "\t\n",
    "a",
    "go left",
    "Go  LEFT to the red box",
    "pick up the red cup.",
    "The robots are picking up 12 cups, unable to see!",
    "the robot's arm, it'll move  12 cm",
    "caf\u00e9 cafe\u0301 CAF\u00c9",
    "\u4e2d\u6587 and \u65e5\u672c\u8a9e",
    "\U0001f916 beep\u200d",
    "\u00df \u0130 \ufb01 \u2460 \u00bd",
    "x" * 30,
    "robotrobots ##ot [CLS] [SEP] [PAD] </s> <|end|>",
    "\u0000 \u0007 \ufffd \u00a0 \u3000 \u2028",
    "1,234.5-6?!",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 123",
    "e\u0301\u0301\u0301",
    "\ud55c\uad6d\uc5b4",
    "go " * 40,
    "A" * 8193,
    "\ufdfa" * 600,
)

#: Of random texts.
LETTERS = (
    *"aaabcdefghilmnoprstu   .,!?'-#0123",
    "the ",
    "robot",
    "ing",
    " cup",
    "\u00e9",
    "e\u0301",
    "\u4e2d",
    "\u2581",
    "\U0001f916",
    "\u0130",
    "\u00a0",
    "\n",
    "[SEP]",
    "\ufb01",
    "\u0391",
    "\u044f",
)


def texts(seed: int, count: int) -> list[str]:
    """Those above, and random ones."""
    rng = random.Random(seed)
    made = ("".join(rng.choices(LETTERS, k=rng.randrange(1, 24))) for _ in range(count))
    return [*TEXTS, *made]


def write_texts(folder: Path, bundles: Path, *, seed: int = 1, count: int = 100) -> None:
    """Write a file for each bundle to ``folder``, with so many random texts."""
    for number, (name, file) in enumerate(BUNDLES.items()):
        with mmedge.Bundle.open(bundles / f"{name}.mmedge") as bundle:
            feeds = Feeds(bundle)
            cases = [_encode(feeds, text) for text in texts(seed + number, count)]
            decode = detokenizer(bundle, file)
            assert decode is not None
            rng = random.Random(seed + number)
            most = max(token for case in cases for token in case.get("ids", [0]))
            rows = [case["ids"] for case in cases if case.get("ids")][::7]
            rows += [rng.choices(range(most + 1), k=rng.randrange(1, 12)) for _ in range(30)]
            texts_back = [{"tokens": row, "text": decode(row)} for row in rows]
        content = {"bundle": name, "modality": "text", "cases": cases, "decode": texts_back}
        write(folder / f"{name}.json", content)


def _encode(feeds: Feeds, text: str) -> dict[str, Any]:
    case: dict[str, Any] = {"text": text}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            values, _ = feeds.check_modality("text", text)
        except MMEdgeError as error:
            return {**case, "error": type(error).__name__, "message": str(error)}
    case["ids"] = values["ids"][0].tolist()
    if "mask" in values:
        case["mask"] = [int(number) for number in values["mask"][0]]
    case["cut"] = bool(told)
    return case
