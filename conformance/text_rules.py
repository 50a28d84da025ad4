"""The rules of docs/reference/bundle.md for texts ("How a text becomes ids") as plain Python.

Written from the page, so that a test can hold the page to the ``tokenizers`` library.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import regex
from text_decoders import decode_tokens
from text_normalizers import is_space, normalize
from text_splits import pre_tokenize

__all__ = ["Rules"]


class Rules:
    """A tokenizer's file."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree, self.model = tree, tree["model"]
        vocabulary = self.model["vocab"]
        if self.model["type"] == "Unigram":
            vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
        self.vocabulary: dict[str, int] = dict(vocabulary)
        self.added = tree["added_tokens"] or []
        self.tokens = {number: token for token, number in self.vocabulary.items()}
        if self.model["type"] == "Unigram":
            self.tokens = {i: piece for i, (piece, _) in enumerate(self.model["vocab"])}
        self.tokens |= {token["id"]: self._content(token) for token in self.added}
        merges = self.model.get("merges") or []
        pairs = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}

    def encode(self, text: str) -> list[int]:
        """Ids with special tokens, cut, and not padded."""
        ids: list[int] = []
        for place, (piece, token) in enumerate(self._split_added(text, normalized=False)):
            if token is not None:
                ids.append(token)
                continue
            plain = normalize(self.tree["normalizer"], piece)
            for at, (part, number) in enumerate(self._split_added(plain, normalized=True)):
                if number is not None:
                    ids.append(number)
                    continue
                is_first = place == at == 0
                for word in pre_tokenize(self.tree["pre_tokenizer"], [part], is_first=is_first):
                    ids += self._model(word)
        before, after = self._around(self.tree["post_processor"])
        cut = self.tree["truncation"]
        if cut is not None:
            room = cut["max_length"] - len(before) - len(after)
            if len(ids) > room:
                ids = ids[-room:] if cut["direction"] == "Left" else ids[:room]
        return [*before, *ids, *after]

    def _content(self, token: dict[str, Any]) -> str:
        """What an added token reads as."""
        if not token["normalized"]:
            return token["content"]
        return normalize(self.tree["normalizer"], token["content"])

    def _split_added(self, text: str, *, normalized: bool) -> list[tuple[str, int | None]]:
        """The text, and added tokens in it with their ids."""
        added = [(self._content(t), t) for t in self.added if t["normalized"] == normalized]
        result: list[tuple[str, int | None]] = []
        begin = at = 0
        while at < len(text):
            here = [pair for pair in added if pair[0] and text.startswith(pair[0], at)]
            if not here:
                at += 1
                continue
            content, token = max(here, key=lambda pair: len(pair[0]))
            start, stop = at, at + len(content)
            at = stop
            if token["single_word"]:
                word = regex.compile(r"\w")
                if (start and word.match(text[start - 1])) or word.match(text[stop : stop + 1]):
                    continue
            while token["lstrip"] and start > begin and is_space(text[start - 1]):
                start -= 1
            while token["rstrip"] and stop < len(text) and is_space(text[stop]):
                stop += 1
            if start > begin:
                result.append((text[begin:start], None))
            result.append((text[start:stop], token["id"]))
            begin = at = stop
        if begin < len(text):
            result.append((text[begin:], None))
        return result

    # Models.

    def _model(self, word: str) -> list[int]:
        kind = self.model["type"]
        if kind == "WordLevel":
            return [self.vocabulary.get(word, self.vocabulary.get(self.model["unk_token"]))]
        if kind == "WordPiece":
            return self._word_piece(word)
        return self._pairs(word) if kind == "BPE" else self._unigram(word)

    def _word_piece(self, word: str) -> list[int]:
        unknown = [self.vocabulary[self.model["unk_token"]]]
        if len(word) > self.model["max_input_chars_per_word"]:
            return unknown
        ids, begin = [], 0
        while begin < len(word):
            prefix = self.model["continuing_subword_prefix"] if begin else ""
            for end in range(len(word), begin, -1):
                number = self.vocabulary.get(prefix + word[begin:end])
                if number is not None:
                    ids.append(number)
                    begin = end
                    break
            else:
                return unknown
        return ids

    def _pairs(self, word: str) -> list[int]:
        model = self.model
        if model["ignore_merges"] and word in self.vocabulary:
            return [self.vocabulary[word]]
        prefix = model["continuing_subword_prefix"] or ""
        parts: list[str | None] = []  # None: unknown
        for at, letter in enumerate(word):
            part = (prefix if at else "") + letter
            if at == len(word) - 1:
                part += model["end_of_word_suffix"] or ""
            if part in self.vocabulary:
                parts.append(part)
                continue
            names = [f"<0x{byte:02X}>" for byte in part.encode()]
            if model["byte_fallback"] and all(name in self.vocabulary for name in names):
                parts += names
            elif model["unk_token"] is not None and not (
                model["fuse_unk"] and parts and parts[-1] is None
            ):
                parts.append(None)
        unknown = model["unk_token"]
        names = [unknown if part is None else part for part in parts]
        while True:
            ranks = [
                (self.ranks[pair], at)
                for at, pair in enumerate(pairwise(names))
                if pair in self.ranks
            ]
            if not ranks:
                return [self.vocabulary[name] for name in names]
            _, at = min(ranks)
            names[at : at + 2] = [names[at] + names[at + 1].removeprefix(prefix)]

    def _unigram(self, text: str) -> list[int]:
        scores = dict(map(tuple, self.model["vocab"]))
        unknown = min(score for _, score in self.model["vocab"]) - 10
        longest = max(map(len, scores))
        best: list[tuple[float, int] | None] = [None] * (len(text) + 1)
        best[0] = (0.0, 0)
        for begin in range(len(text)):
            total = best[begin][0]
            ends = range(begin + 1, min(len(text), begin + longest) + 1)
            options = [(end, scores[text[begin:end]]) for end in ends if text[begin:end] in scores]
            if not any(end == begin + 1 for end, _ in options):
                options.append((begin + 1, unknown))
            for end, score in options:
                if best[end] is None or total + score > best[end][0]:
                    best[end] = (total + score, begin)
        pieces: list[str] = []
        end, is_after_unknown = len(text), False
        while end:
            begin = best[end][1]
            piece = text[begin:end]
            is_unknown = piece not in scores
            if is_unknown and is_after_unknown:
                pieces[-1] = piece + pieces[-1]
            else:
                pieces.append(piece)
            is_after_unknown, end = is_unknown, begin
        ids: list[int] = []
        for piece in reversed(pieces):
            names = [f"<0x{byte:02X}>" for byte in piece.encode()]
            if piece in self.vocabulary:
                ids.append(self.vocabulary[piece])
            elif self.model["byte_fallback"] and all(name in self.vocabulary for name in names):
                ids += [self.vocabulary[name] for name in names]
            else:
                ids.append(self.model["unk_id"])
        return ids

    # What is around the text.

    def _around(self, part: Any) -> tuple[list[int], list[int]]:
        if part is None or part["type"] == "ByteLevel":
            return [], []
        if part["type"] == "Sequence":
            before, after = [], []
            for each in part["processors"]:
                left, right = self._around(each)
                before, after = [*left, *before], [*after, *right]
            return before, after
        if part["type"] in ("BertProcessing", "RobertaProcessing"):
            return [part["cls"][1]], [part["sep"][1]]
        lists: tuple[list[int], list[int]] = ([], [])
        side = 0
        for each in part["single"]:
            if "Sequence" in each:
                side = 1
            else:
                name = each["SpecialToken"]["id"]
                lists[side].extend(part["special_tokens"][name]["ids"])
        return lists

    # Back to text.

    def decode(self, ids: list[int]) -> str:
        """Without special tokens."""
        special = {token["id"] for token in self.added if token["special"]}
        tokens = [self.tokens[n] for n in ids if n not in special and n in self.tokens]
        if self.tree["decoder"] is None:
            return " ".join(tokens)
        return "".join(decode_tokens(self.tree["decoder"], tokens))
