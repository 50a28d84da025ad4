"""Tokenizer files and texts of tests: parts of every kind, and models that the library trains."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

__all__ = [
    "ADDED",
    "MARKS",
    "NORMALIZERS",
    "PRE_TOKENIZERS",
    "PROCESSORS",
    "SPACES",
    "WHOLE_NORMALIZERS",
    "byte_pairs",
    "every_character",
    "texts",
    "tree",
    "unigrams",
    "word_levels",
    "word_pieces",
]

#: Of random texts: many scripts, characters that normal forms and clusters change, special tokens.
PIECES = (
    *"aabcdeEfghiIKklmnoprsStTuvxyz   .,!?'-#0123\t\n\r", "the ", "'s", "'ll", "'RE", "\u01c4",
    "\u00df", "\u1e9e", "\u0130", "\u0131", "\u017f", "\u212a", "\u00e9", "e\u0301", "\u00c5",
    "\u212b", "\ufb01", "\u2460", "\u00bd", "\u00b2", "\u2177", "\u4e2d", "\u6587", "\u65e5\u672c",
    "\u306b", "\u30b4", "\u30fc", "\ud55c\uad6d", "\uac01", "\u1112\u1161", "\u0e20\u0e32",
    "\u0627\u0644", "\u0661\u0662", "\ufdfa", "\u05e9\u05b8\u05c1", "\u0939\u093f\u0928\u094d",
    "\u0915\u094d\u0924", "\u0301", "\u0323\u0307", "\u0345", "\u200d", "\u200c", "\u200b",
    "\u3000", "\u2028", "\u0085", "\u001c", "\ufeff", "\ufffd", "\0", "\x7f", "\U0001f916",
    "\U0001f469\u200d\U0001f680", "\U0001f1e9\U0001f1ea", "\u00a9\u200d", "\u0416", "\u03a3\u03c2",
    "\u2581", "\u0120", "\u300e", "\u3002", "\u2014", "\u2026", "$", "<", "`", "|", "_", "\ue000",
    "\U0001d518", "\U00020000", "\U00011938", "\u0378", "\u1c89", "\u0f71\u0f72\u0f74",
    "\u0e44", "\u00a0", "\u1e9b\u0323", "<unk>", "[SEP]", "[CLS]", "<|end|>", "<0x41>", "Robot",
    "ROBO",
)  # fmt: skip
SPACES = {"type": "WhitespaceSplit"}
MARKS = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+"
)
PATTERNS = (
    LLAMA,
    GPT,
    r"<\|startoftext\|>|'s|'ve|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r" ?[^(\s|[.,!?\x{2026}\u3002])]+",
    r"(?i:[sdmt]|ll|ve|re)",
    r"\d{2}?|a{1,2}?|e{2,}?|a?+b",
    r"[[:alpha:]]+|[[:^space:]]|[[:punct:]]",
    r"[a-z&&[^aeiou]]+|[]a]+|[a\-z_-]+|[\w-]+|\w",
    r"\bthe\b|^.|.$|\A\w|\w\z|\B'",
    r"\p{Han}+|\p{Hiragana}+|\p{^L}|\P{Latin}",
    r"[\p{Alnum}\p{Punct}]+|\p{Lower}+|\p{Upper}+|\h",
    "a*",
)


def texts(seed: int, count: int, most: int = 24) -> list[str]:
    """Random texts of ``PIECES`` and of any characters."""
    rng = random.Random(seed)

    def piece() -> str:
        if rng.random() < 0.75:
            return rng.choice(PIECES)
        return chr(
            rng.choice((rng.randrange(0x3000), rng.randrange(0xD800), 0x1F000 + rng.randrange(999)))
        )

    return ["".join(piece() for _ in range(rng.randrange(1, most))) for _ in range(count)]


def every_character() -> list[str]:
    points = [*range(0xD800), *range(0xE000, 0x32000), *range(0xE0000, 0xE0200)]
    return ["".join(map(chr, points[at : at + 64])) for at in range(0, len(points), 64)]


def tree(**fields: Any) -> dict[str, Any]:
    """A tokenizer's file."""
    model = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    parts = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    return {"version": "1.0", **dict.fromkeys(parts), "added_tokens": [], "model": model, **fields}


def table(leads: bytes) -> str:
    """A table of SentencePiece by which what begins with one of these bytes becomes ``Q``."""
    units = np.zeros(1024, "<u4")
    units[0] = 256 << 10
    for lead in leads:
        units[256 ^ lead] = lead | 1 << 8 | (256 ^ lead ^ 600) << 10
    units[600] = 1 << 31
    whole = np.uint32(units.nbytes).tobytes() + units.tobytes() + b"Q\0"
    return base64.b64encode(whole).decode()


def bert(**options: bool | None) -> dict[str, Any]:
    off = dict.fromkeys(("clean_text", "handle_chinese_chars", "strip_accents", "lowercase"), False)
    return {"type": "BertNormalizer", **off, **options}


NORMALIZERS = (
    *({"type": name} for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")),
    *({"type": name} for name in ("Nmt", "ByteLevel")),
    *(bert(**{name: True}) for name in ("clean_text", "handle_chinese_chars", "strip_accents")),
    bert(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True),
    *({"type": "Strip", "strip_left": left, "strip_right": not left} for left in (True, False)),
    {"type": "Prepend", "prepend": "\u2581"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
    {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": "_-"},
    {"type": "Replace", "pattern": {"Regex": "a*"}, "content": "-"},
    *(
        {"type": "Precompiled", "precompiled_charsmap": table(leads)}
        for leads in (b"a", bytes(range(0xC2, 0xF5)), bytes(range(0xE0, 0xF5)), b"\xc2")
    ),
)  # fmt: skip
PRE_TOKENIZERS = (
    *({"type": name} for name in ("Whitespace", "WhitespaceSplit", "BertPreTokenizer")),
    {"type": "UnicodeScripts"},
    {"type": "FixedLength", "length": 3},
    {"type": "CharDelimiterSplit", "delimiter": "e"},
    *({"type": "Digits", "individual_digits": single} for single in (True, False)),
    *(
        {"type": "Metaspace", "replacement": "_", "prepend_scheme": scheme, "split": splits}
        for scheme in ("always", "first", "never") for splits in (True, False)
    ),
    *(
        {**BYTES, "add_prefix_space": space, "use_regex": splits}
        for space in (True, False) for splits in (True, False)
    ),
    {"type": "Sequence", "pretokenizers": [SPACES, MARKS]},
    {"type": "Sequence", "pretokenizers": [MARKS, {"type": "Digits", "individual_digits": True}]},
    {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, BYTES]},
    *(
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in PATTERNS
    ),
    *(
        {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
        for behavior in (
            "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous",
        )
        for pattern in ({"String": " "}, {"Regex": r"\w+|[^\w\s]+"}, {"Regex": "a*"})
        for invert in (True, False)
    ),
)  # fmt: skip


def added(content: str, number: int, **fields: bool) -> dict[str, Any]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": content, **off, "special": True, **fields}


ADDED = (
    added("[CLS]", 0), added("[SEP]", 1, lstrip=True), added("<|end|>", 2, rstrip=True),
    added("Robot", 3, single_word=True, special=False), added(" x", 7, special=False),
    added("the ", 4, normalized=True, special=False),
    added("ROBO", 5, normalized=True, special=False, lstrip=True, rstrip=True),
)  # fmt: skip
PROCESSORS = (
    None,
    {"type": "BertProcessing", "sep": ["[SEP]", 1], "cls": ["[CLS]", 0]},
    {
        "type": "TemplateProcessing", "pair": [],
        "single": [
            {"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "special_tokens": {"x": {"id": "x", "ids": [0, 5], "tokens": ["[CLS]", "x"]}},
    },
    {
        "type": "Sequence",
        "processors": [
            BYTES,
            {
                "type": "RobertaProcessing", "sep": ["[SEP]", 1], "cls": ["[CLS]", 0],
                "trim_offsets": True, "add_prefix_space": True,
            },
        ],
    },
)  # fmt: skip
WHOLE_NORMALIZERS = (
    None,
    {"type": "NFKC"},
    {
        "type": "Sequence",
        "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}],
    },
    {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
        ],
    },
    bert(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True),
)  # fmt: skip


def train(model: Any, trainer: Any, normalizer: Any, pre_tokenizer: Any) -> dict[str, Any]:
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.train_from_iterator(
        [*texts(9, 600), *["the robot picks up the red cup"] * 9], trainer
    )
    file: dict[str, Any] = json.loads(tokenizer.to_str())
    return file


def byte_pairs() -> list[dict[str, Any]]:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    plain = train(
        models.BPE(),
        trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False),
        None, pre_tokenizers.ByteLevel(add_prefix_space=False),
    )  # fmt: skip
    plain["decoder"] = BYTES
    merges = [" ".join(merge) for merge in plain["model"]["merges"]]
    model = {**plain["model"], "ignore_merges": True, "merges": merges}
    affixes = {"end_of_word_suffix": "</w>", "continuing_subword_prefix": "##"}
    cut = train(
        models.BPE(unk_token="<unk>", **affixes),
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=["<unk>"], limit_alphabet=60, show_progress=False,
            **affixes,
        ),
        normalizers.Lowercase(), pre_tokenizers.Whitespace(),
    )  # fmt: skip
    cut["decoder"] = {"type": "BPEDecoder", "suffix": "</w>"}
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    back = train(
        models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True),
        trainers.BpeTrainer(
            vocab_size=500, special_tokens=["<unk>", *names], limit_alphabet=60, show_progress=False
        ),
        normalizers.Replace(" ", "\u2581"), None,
    )  # fmt: skip
    back["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }  # fmt: skip
    few = json.loads(json.dumps(back))
    for name in ("<0xE4>", "<0xF0>", "<0x9F>"):
        few["model"]["vocab"].pop(name)
    few["model"]["fuse_unk"] = False
    return [plain, {**plain, "model": model}, cut, back, few]


def word_pieces() -> list[dict[str, Any]]:
    file = train(
        models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20),
        trainers.WordPieceTrainer(
            vocab_size=600, special_tokens=["[UNK]"], limit_alphabet=100, show_progress=False
        ),
        normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(),
    )  # fmt: skip
    ctc = {"type": "CTC", "pad_token": "##", "word_delimiter_token": "e", "cleanup": True}
    piece = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    return [{**file, "decoder": piece}, {**file, "decoder": ctc}]


def unigrams() -> list[dict[str, Any]]:
    rng = random.Random(3)
    words = {"<unk>": 0.0, "\u2581": -2.0}
    for text in texts(9, 400):
        for at in range(len(text)):
            words.setdefault(text[at : at + rng.randrange(1, 5)], -rng.uniform(1, 12))
    pieces = [list(item) for item in words.items()][:900]
    names = [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
    model = {"type": "Unigram", "vocab": pieces, "unk_id": 0, "byte_fallback": False}
    marks = {**MARKS, "prepend_scheme": "always"}
    file = tree(model=model, pre_tokenizer=marks, decoder=marks)
    twice = [*pieces[:200], *names, *pieces[:40]]
    decoders = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, MARKS]}
    back = {**model, "vocab": twice, "byte_fallback": True}
    return [
        file,
        {**file, "model": back, "decoder": decoders, "pre_tokenizer": {**MARKS, "split": False}},
        {**file, "model": {**model, "unk_id": None, "vocab": pieces[:300]}},
    ]


def word_levels() -> list[dict[str, Any]]:
    file = train(
        models.WordLevel(unk_token="[UNK]"),
        trainers.WordLevelTrainer(vocab_size=600, special_tokens=["[UNK]"], show_progress=False),
        normalizers.NFC(), pre_tokenizers.Whitespace(),
    )  # fmt: skip
    strip = {"type": "Strip", "content": "e", "start": 2, "stop": 0}
    replace = {"type": "Replace", "pattern": {"Regex": "[aeiou]+"}, "content": "--"}
    model = {**file["model"], "unk_token": "?"}
    return [
        file,
        {**file, "decoder": strip},
        {**file, "decoder": replace},
        {**file, "model": model},
    ]
