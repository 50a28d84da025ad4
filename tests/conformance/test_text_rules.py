"""The page's rules for texts, as code, do what the ``tokenizers`` library does."""

from __future__ import annotations

import base64
import itertools
import json
import random
import struct

import pytest
from case_files import CASES, read
from case_texts import LETTERS, texts
from text_normalizers import normalize
from text_rules import Rules
from text_splits import pre_tokenize
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Tokens

from mmedge.bundle import Bundle

TEXTS = [text for text in texts(11, 150) if len(text) <= 8192]

#: Where added tokens are looked for.
WITH_ADDED = [
    "robot's robot's ing ingot  robot's", "BEEP beep aab ab aaa", " cup cups cup", *(
        "".join(random.Random(n).choices(
            ["a", "b", "the", "robot", "'s", "ing", "  ", " cup", "BEEP", "x", *LETTERS], k=12
        ))
        for n in range(100)
    ),
]  # fmt: skip


def charsmap(replacements: dict[str, str]) -> str:
    """A table as SentencePiece has it, built the slow way."""
    data, starts = b"", {}
    for old, new in replacements.items():
        starts[old.encode()] = len(data)
        data += new.encode() + b"\0"
    units = {0: 0}

    def place(at: int, prefix: bytes) -> None:
        """Put what follows a node into the array."""
        follow = sorted({k[len(prefix)] for k in starts if k[: len(prefix)] == prefix != k})
        labels = [*([0] if prefix in starts else []), *follow]
        base = next(
            b for b in itertools.count(1) if all((at ^ b ^ label) not in units for label in labels)
        )
        assert base < 2**21
        units[at] |= base << 10 | (0x100 if prefix in starts else 0)
        for label in labels:
            units[at ^ base ^ label] = label
        if prefix in starts:
            units[at ^ base] = 0x80000000 | starts[prefix]
        for label in follow:
            place(at ^ base ^ label, prefix + bytes([label]))

    place(0, b"")
    size = -(-(max(units) + 1) // 256) * 256
    trie = struct.pack(f"<{size}I", *(units.get(at, 0) for at in range(size)))
    return base64.b64encode(struct.pack("<I", len(trie)) + trie + data).decode()


NORMALIZERS = {
    "lowercase": normalizers.Lowercase(),
    "no accents": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]),
    "NFC": normalizers.NFC(),
    "NFKC": normalizers.NFKC(),
    "NFKD": normalizers.NFKD(),
    "strip": normalizers.Strip(),
    "strip on the left": normalizers.Strip(left=True, right=False),
    "replace": normalizers.Replace("a", "bb"),
    "bert": normalizers.BertNormalizer(),
    "bert, with capitals": normalizers.BertNormalizer(lowercase=False, strip_accents=True),
    "bytes": normalizers.ByteLevel(),
    "prepend": normalizers.Prepend("\u2581"),
    "nmt": normalizers.Nmt(),
    "table": normalizers.Precompiled(base64.b64decode(charsmap({
        "\ufb01": "fi", "\u00a0": " ", "e\u0301": "\u00e9", "\u4e2d": "", "a": "a", "\u0130": "i",
    }))),
}  # fmt: skip

PRE_TOKENIZERS = {
    "words": pre_tokenizers.Whitespace(),
    "spaces": pre_tokenizers.WhitespaceSplit(),
    "bert": pre_tokenizers.BertPreTokenizer(),
    "punctuation": pre_tokenizers.Punctuation(),
    "punctuation before": pre_tokenizers.Punctuation("merged_with_previous"),
    "punctuation behind": pre_tokenizers.Punctuation("merged_with_next"),
    "punctuation together": pre_tokenizers.Punctuation("contiguous"),
    "no punctuation": pre_tokenizers.Punctuation("removed"),
    "digits": pre_tokenizers.Digits(individual_digits=True),
    "numbers": pre_tokenizers.Digits(individual_digits=False),
    "delimiter": pre_tokenizers.CharDelimiterSplit("a"),
    "marks": pre_tokenizers.Metaspace(),
    "marks never": pre_tokenizers.Metaspace(prepend_scheme="never"),
    "marks unsplit": pre_tokenizers.Metaspace(split=False),
    "split": pre_tokenizers.Split(" ", "merged_with_next"),
    "split, inverted": pre_tokenizers.Split("a", "isolated", invert=True),
    "bytes": pre_tokenizers.ByteLevel(),
    "bytes without a space": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "bytes unsplit": pre_tokenizers.ByteLevel(use_regex=False),
    "fixed length": pre_tokenizers.FixedLength(3),
    "sequence": pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=True),
    ]),
}  # fmt: skip

DECODERS = {
    "none": None,
    "suffix": decoders.BPEDecoder(),
    "marks": decoders.Metaspace(),
    "sentencepiece": decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]),
    "bytes": decoders.ByteLevel(),
    "pieces": decoders.WordPiece(prefix="a", cleanup=True),
    "ctc": decoders.CTC(pad_token="a", word_delimiter_token="b"),
}  # fmt: skip


def rules_of(tokens: Tokens) -> Rules:
    return Rules(json.loads(tokens.to_str()))


def check(tokens: Tokens, samples: list[str]) -> None:
    """Texts become the same ids, and ids the same text."""
    tokens = Tokens.from_str(tokens.to_str())
    rules, rng = rules_of(tokens), random.Random(2)
    for text in samples:
        ids = tokens.encode(text).ids
        assert rules.encode(text) == ids, ascii(text)
        for row in (ids, rng.choices(range(max(rules.tokens) + 3), k=8)):
            assert rules.decode(row) == tokens.decode(row), row


def words() -> Tokens:
    return Tokens(models.WordLevel({"[UNK]": 0, "a": 1, "\u2581the": 2}, unk_token="[UNK]"))


@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalizers(name):
    tokens = words()
    tokens.normalizer = NORMALIZERS[name]
    rules = rules_of(tokens)
    for text in TEXTS:
        got = normalize(rules.tree["normalizer"], text)
        assert got == NORMALIZERS[name].normalize_str(text), ascii(text)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_pre_tokenizers(name):
    tokens = words()
    tokens.pre_tokenizer = PRE_TOKENIZERS[name]
    rules = rules_of(tokens)
    for text in filter(None, TEXTS):
        got = pre_tokenize(rules.tree["pre_tokenizer"], [text], is_first=True)
        expected = [piece for piece, _ in PRE_TOKENIZERS[name].pre_tokenize_str(text)]
        assert got == expected, ascii(text)


def pairs(**options) -> models.BPE:
    letters = [*"abcdefghijklmnoprstu .,'-#", "\u2581", "\u00e9"]
    merges = [("a", "b"), ("r", "o"), ("b", "o"), ("ro", "bo"), ("robo", "t"), ("t", "h")]
    merges += [("th", "e"), ("\u2581", "the"), ("i", "n"), ("in", "g"), ("a", "a"), ("aa", "a")]
    prefix = options.get("continuing_subword_prefix", "")
    suffix = options.get("end_of_word_suffix", "")
    if prefix:
        letters += [prefix + letter for letter in letters]
        merges = [("a", "##b"), ("r", "##o"), ("##b", "##o"), ("ro", "##bo"), ("##i", "##n")]
        merges += [("##in", "##g"), ("t", "##h"), ("th", "##e"), ("##a", "##a")]
    if suffix:
        letters += [letter + suffix for letter in letters]
        merges += [("th", "e" + suffix), ("in", "g" + suffix), ("robo", "t" + suffix)]
    names = [*letters, *(a + b.removeprefix(prefix) for a, b in merges), "[UNK]", "robots", "ab c"]
    if options.get("byte_fallback"):
        names += [f"<0x{byte:02X}>" for byte in range(256)]
    return models.BPE({name: i for i, name in enumerate(dict.fromkeys(names))}, merges, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unk_token": "[UNK]"},
        {"unk_token": "[UNK]", "fuse_unk": True},
        {"unk_token": "[UNK]", "byte_fallback": True},
        {"unk_token": "[UNK]", "continuing_subword_prefix": "##"},
        {"unk_token": "[UNK]", "end_of_word_suffix": "</w>"},
        {"unk_token": "[UNK]", "ignore_merges": True},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_pairs_with_added_tokens(options, decoder):
    tokens = Tokens(pairs(**options))
    kinds = [*DECODERS]
    if DECODERS[decoder] is not None:
        tokens.decoder = DECODERS[decoder]
    tokens.add_special_tokens(["[UNK]"])
    tokens.add_tokens([
        AddedToken("robot's", lstrip=True, rstrip=True), AddedToken("ing", single_word=True),
        AddedToken(" cup", normalized=False),
    ])  # fmt: skip
    unknown = ("[UNK]", tokens.token_to_id("[UNK]"))
    if kinds.index(decoder) % 3 == 1:
        tokens.normalizer = normalizers.Lowercase()
        tokens.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokens.add_tokens([AddedToken("BEEP", normalized=True)])
        tokens.post_processor = processors.RobertaProcessing(unknown, ("a", 0))
        tokens.enable_truncation(9, direction="left")
    elif kinds.index(decoder) % 3 == 2:
        tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokens.post_processor = processors.TemplateProcessing(
            single="[UNK] $A [UNK] [UNK]", special_tokens=[unknown]
        )
        tokens.enable_truncation(9)
    check(tokens, [*TEXTS[::3], *WITH_ADDED])


@pytest.mark.parametrize("byte_fallback", [False, True])
@pytest.mark.parametrize("pre_tokenizer", ["marks", "spaces", None])
def test_unigram(byte_fallback, pre_tokenizer):
    pieces = [("<unk>", 0.0), *((c, -3.0 - 0.1 * i) for i, c in enumerate("abcdefghi"))]
    pieces += [("the", -4.0), ("ab", -6.1), ("abc", -9.2), ("\u2581", -2.0), ("\u2581a", -2.5)]
    pieces += [("aa", -6.0), ("ing", -5), ("b", -2.0)]
    if byte_fallback:
        pieces += [(f"<0x{byte:02X}>", -30.0) for byte in range(256)]
    tokens = Tokens(models.Unigram(pieces, unk_id=0, byte_fallback=byte_fallback))
    if pre_tokenizer is not None:
        tokens.pre_tokenizer = PRE_TOKENIZERS[pre_tokenizer]
    check(tokens, [*TEXTS, *WITH_ADDED])


@pytest.mark.parametrize("path", sorted((CASES / "texts").glob("*.json")), ids=lambda p: p.stem)
def test_the_cases(path):
    content = read(path)
    with Bundle.open(CASES / "bundles" / f"{content['bundle']}.mmedge") as bundle:
        tree = json.loads(bytes(bundle.read("assets/t.json")))
    rules = Rules(tree)
    for case in content["cases"]:
        if "error" not in case:
            ids = rules.encode(case["text"])
            start = case["ids"][len(case["ids"]) - len(ids) :]
            assert ids in (case["ids"][: len(ids)], start), ascii(case["text"])
    for case in content["decode"]:
        assert rules.decode(case["tokens"]) == case["text"]
