"""Pre-tokenizers of a tokenizer's file; see :mod:`text_rules`."""

from __future__ import annotations

import unicodedata
from typing import Any

import regex
from text_normalizers import LETTERS, is_punctuation, is_space, matches

__all__ = ["pre_tokenize"]

#: How ByteLevel splits.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def pre_tokenize(part: Any, pieces: list[str], *, is_first: bool) -> list[str]:
    """Pieces split; ``is_first``: they begin the text."""
    if part is None:
        return [piece for piece in pieces if piece]
    if part["type"] == "Sequence":
        for each in part["pretokenizers"]:
            pieces = pre_tokenize(each, pieces, is_first=is_first)
        return pieces
    result: list[str] = []
    for number, piece in enumerate(pieces):
        if piece:
            result += split_piece(part, piece, is_first=is_first and number == 0)
    return [piece for piece in result if piece]


def split_piece(part: Any, text: str, *, is_first: bool) -> list[str]:
    kind = part["type"]
    if kind == "Whitespace":
        return regex.findall(r"\w+|[^\w\s]+", text)
    if kind == "WhitespaceSplit":
        return split(text, [is_space(c) for c in text], "Removed")
    if kind == "BertPreTokenizer":
        words = split(text, [is_space(c) for c in text], "Removed")
        return [
            part
            for word in words
            for part in split(word, [is_punctuation(c) for c in word], "Isolated")
        ]
    if kind == "Punctuation":
        return split(text, [is_punctuation(c) for c in text], part["behavior"])
    if kind == "Digits":
        behavior = "Isolated" if part["individual_digits"] else "Contiguous"
        return split(text, [unicodedata.category(c)[0] == "N" for c in text], behavior)
    if kind == "FixedLength":
        step = part["length"]
        return [text[at : at + step] for at in range(0, len(text), step)]
    if kind == "CharDelimiterSplit":
        return split(text, [c == part["delimiter"] for c in text], "Removed")
    if kind == "Metaspace":
        mark, scheme = part["replacement"], part["prepend_scheme"]
        text = text.replace(" ", mark)
        if (scheme == "always" or (scheme == "first" and is_first)) and text[:1] != mark:
            text = mark + text
        if not part["split"]:
            return [text]
        return split(text, [c == mark for c in text], "MergedWithNext")
    if kind == "Split":
        return split_spans(text, matches(part, text), part["behavior"], invert=part["invert"])
    if kind == "ByteLevel":
        if part["add_prefix_space"] and not text.startswith(" "):
            text = " " + text
        spans = [m.span() for m in regex.finditer(GPT2, text)]
        words = split_spans(text, spans, "Isolated") if part["use_regex"] else [text]
        return ["".join(LETTERS[byte] for byte in word.encode()) for word in words]
    raise NotImplementedError(kind)


def split(text: str, marks: list[bool], behavior: str) -> list[str]:
    """Split at single letters that are marked."""
    spans = [(at, at + 1) for at, is_marked in enumerate(marks) if is_marked]
    return split_spans(text, spans, behavior)


def split_spans(
    text: str, spans: list[tuple[int, int]], behavior: str, *, invert: bool = False
) -> list[str]:
    """Split at matches, which ``behavior`` says what becomes of."""
    parts: list[tuple[str, bool]] = []
    end = 0
    for start, stop in spans:
        if start > end:
            parts.append((text[end:start], invert))
        parts.append((text[start:stop], not invert))
        end = stop
    if end < len(text):
        parts.append((text[end:], invert))
    if behavior == "Removed":
        return [part for part, is_match in parts if not is_match]
    if behavior == "Isolated":
        return [part for part, _ in parts]
    result: list[str] = []
    if behavior == "Contiguous":
        before = None
        for part, is_match in parts:
            if is_match == before:
                result[-1] += part
            else:
                result.append(part)
            before = is_match
        return result
    joins = False
    if behavior == "MergedWithPrevious":
        for part, is_match in parts:
            if is_match and not joins and result:
                result[-1] += part
            else:
                result.append(part)
            joins = is_match
        return result
    for part, is_match in reversed(parts):  # MergedWithNext
        if is_match and not joins and result:
            result[0] = part + result[0]
        else:
            result.insert(0, part)
        joins = is_match
    return result
