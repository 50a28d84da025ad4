"""Decoders of a tokenizer's file; see :mod:`text_rules`."""

from __future__ import annotations

from typing import Any

import regex
from text_normalizers import BYTES, replace

__all__ = ["decode_tokens"]

#: What WordPiece and CTC clean up, in order.
CLEANUP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


def decode_tokens(part: Any, tokens: list[str]) -> list[str]:
    """The tokens as a decoder changes them."""
    kind = part["type"]
    if kind == "Sequence":
        for each in part["decoders"]:
            tokens = decode_tokens(each, tokens)
        return tokens
    if kind == "Replace":
        return [replace(part, token) if token else token for token in tokens]
    if kind == "Fuse":
        return ["".join(tokens)]
    if kind == "Strip":
        return [strip(part, token) for token in tokens]
    if kind == "ByteLevel":
        data = b"".join(
            bytes(BYTES[c] for c in token) if all(c in BYTES for c in token) else token.encode()
            for token in tokens
        )
        return [data.decode(errors="replace")]
    if kind == "ByteFallback":
        return byte_fallback(tokens)
    if kind == "Metaspace":
        mark, drops = part["replacement"], part["prepend_scheme"] != "never"
        return [
            token.replace(mark, "" if drops and number == 0 else " ")
            for number, token in enumerate(tokens)
        ]
    if kind == "BPEDecoder":
        last = len(tokens) - 1
        return [t.replace(part["suffix"], "" if i == last else " ") for i, t in enumerate(tokens)]
    if kind == "WordPiece":
        return [join(part, token, number) for number, token in enumerate(tokens)]
    if kind == "CTC":
        tokens = [t for i, t in enumerate(tokens) if not i or t != tokens[i - 1]]
        tokens = [token.replace(part["pad_token"], "") for token in tokens]
        if part["cleanup"]:
            mark = part["word_delimiter_token"]
            tokens = [clean_up(token).replace(mark, " ") for token in tokens]
        return [token for token in tokens if token]
    raise NotImplementedError(kind)


def join(part: Any, token: str, number: int) -> str:
    prefix = part["prefix"]
    if number:
        token = token.removeprefix(prefix) if token.startswith(prefix) else f" {token}"
    return clean_up(token) if part["cleanup"] else token


def strip(part: Any, token: str) -> str:
    begin, end = 0, len(token)
    while begin < min(part["start"], len(token)) and token[begin] == part["content"]:
        begin += 1
    while end > begin and len(token) - end < part["stop"] and token[end - 1] == part["content"]:
        end -= 1
    return token[begin:end]


def clean_up(token: str) -> str:
    """Take out spaces before punctuation, as English has it."""
    for old, new in CLEANUP:
        token = token.replace(old, new)
    return token


def byte_fallback(tokens: list[str]) -> list[str]:
    """Runs of bytes as text."""
    result: list[str] = []
    run: list[int] = []

    def end() -> None:
        if run:
            try:
                result.append(bytes(run).decode())
            except UnicodeDecodeError:
                result.extend("\ufffd" for _ in run)
            run.clear()

    for token in tokens:
        match = regex.fullmatch(r"<0x([0-9A-Fa-f]{2})>", token)
        if match:
            run.append(int(match[1], 16))
        else:
            end()
            result.append(token)
    end()
    return result
