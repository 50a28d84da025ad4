"""Normalizers of a tokenizer's file; see :mod:`text_rules`."""

from __future__ import annotations

import base64
import unicodedata
from typing import Any

import numpy as np
import regex

__all__ = [
    "BYTES",
    "LETTERS",
    "is_punctuation",
    "is_space",
    "matches",
    "normalize",
    "replace",
]


def byte_letters() -> list[str]:
    """The letter of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


LETTERS = byte_letters()
BYTES = {letter: byte for byte, letter in enumerate(LETTERS)}


def is_space(letter: str) -> bool:
    """White_Space of Unicode."""
    return letter in "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" or (
        "\u2000" <= letter <= "\u200a"
    )


def is_punctuation(letter: str) -> bool:
    """Punctuation of Unicode, and what else ASCII has of signs."""
    ascii_punctuation = letter < "\x80" and letter.isprintable() and not letter.isalnum()
    return (ascii_punctuation and letter != " ") or unicodedata.category(letter)[0] == "P"


def is_chinese(letter: str) -> bool:
    """Ideographs."""
    n = ord(letter)
    return any(
        a <= n <= b
        for a, b in (
            (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
            (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
        )
    )  # fmt: skip


def lower(text: str) -> str:
    """Letter by letter."""
    return "".join(letter.lower() for letter in text)


def normalize(part: dict[str, Any] | None, text: str) -> str:
    """A text as a normalizer changes it."""
    if part is None:
        return text
    kind = part["type"]
    if kind == "Sequence":
        for each in part["normalizers"]:
            text = normalize(each, text)
        return text
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        return unicodedata.normalize(kind, text)
    if kind == "Lowercase":
        return lower(text)
    if kind == "StripAccents":
        return "".join(c for c in text if unicodedata.category(c)[0] != "M")
    if kind == "Prepend":
        return part["prepend"] + text if text else text
    if kind == "Replace":
        return replace(part, text)
    if kind == "Strip":
        begin, end = 0, len(text)
        while part["strip_left"] and begin < end and is_space(text[begin]):
            begin += 1
        while part["strip_right"] and begin < end and is_space(text[end - 1]):
            end -= 1
        return text[begin:end]
    if kind == "ByteLevel":
        return "".join(LETTERS[byte] for byte in text.encode())
    if kind == "Nmt":
        spaces = (*range(9, 11), 12, 13, 0x1680, *range(0x200B, 0x2010), 0x2028, 0x2029, 0x2581)
        table = dict.fromkeys([*range(1, 9), 11, *range(14, 32), 0x7F, 0x8F, 0x9F])
        return text.translate(table | dict.fromkeys([*spaces, 0xFEFF, 0xFFFD], " "))
    if kind == "Precompiled":
        return Charsmap(part["precompiled_charsmap"]).normalize(text)
    if kind == "BertNormalizer":
        if part["clean_text"]:
            text = "".join(
                " " if is_space(c) else c
                for c in text
                if c in "\t\n\r"
                or not (c in "\0\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Co"))
            )
        if part["handle_chinese_chars"]:
            text = "".join(f" {c} " if is_chinese(c) else c for c in text)
        strip = part["strip_accents"]
        if part["lowercase"] if strip is None else strip:
            decomposed = unicodedata.normalize("NFD", text)
            text = "".join(c for c in decomposed if unicodedata.category(c) != "Mn")
        return lower(text) if part["lowercase"] else text
    raise NotImplementedError(kind)


def pattern_of(pattern: dict[str, str]) -> Any:
    """A text or an expression to look for."""
    if "String" in pattern:
        return regex.compile(regex.escape(pattern["String"]))
    return regex.compile(pattern["Regex"])


def matches(part: dict[str, Any], text: str) -> list[tuple[int, int]]:
    """Begin and end of each match; an empty one does not follow another match at once."""
    spans: list[tuple[int, int]] = []
    for match in pattern_of(part["pattern"]).finditer(text):
        start, stop = match.span()
        if start < stop or not spans or spans[-1][1] < start:
            spans.append((start, stop))
    return spans


def replace(part: dict[str, Any], text: str) -> str:
    """Each match by the content."""
    result, end = "", 0
    for start, stop in matches(part, text):
        result += text[end:start] + part["content"]
        end = stop
    return result + text[end:]


class Charsmap:
    """A table of SentencePiece: a double-array trie of bytes, and replacements."""

    def __init__(self, text: str) -> None:
        data = base64.b64decode(text)
        size = int.from_bytes(data[:4], "little")
        self._units = np.frombuffer(data[4 : 4 + size], "<u4").tolist()
        self._texts = data[4 + size :]

    def normalize(self, text: str) -> str:
        """By clusters of letters, where one is short and begins with an entry, else by letters."""
        result = ""
        for cluster in regex.findall(r"\X", text):
            whole = self._find(cluster) if len(cluster.encode()) < 6 else None
            if whole is not None:
                result += whole
                continue
            for letter in cluster:
                found = self._find(letter)
                result += letter if found is None else found
        return result

    def _find(self, text: str) -> str | None:
        """The replacement of the shortest beginning that has one."""
        units = self._units
        at = offset(units[0])
        for byte in text.encode():
            if not byte:
                break
            at ^= byte
            if at >= len(units) or units[at] & 0x800000FF != byte:
                return None
            unit = units[at]
            at ^= offset(unit)
            if unit >> 8 & 1:
                start = units[at] & 0x7FFFFFFF
                return self._texts[start : self._texts.index(0, start)].decode()
        return None


def offset(unit: int) -> int:
    """Of what follows a node."""
    return (unit >> 10) << ((unit & 0x200) >> 6)
