"""Characters as tokens: the tokenizer of the texts that are written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["END", "Characters"]

END = 0
"""Token at the end of a text, and after it."""


class Characters:
    """Texts to tokens and back.

    Args:
        characters: all that there are, in the order of their tokens.
        languages: what a text begins with one of, in the order of their tokens.

    Attributes:
        first: token of the first character; those of the languages are before it.
    """

    def __init__(self, characters: Sequence[str], languages: Sequence[str]) -> None:
        self.characters = "".join(characters)
        self.languages = tuple(languages)
        self.first = 1 + len(self.languages)
        self._tokens = {character: self.first + n for n, character in enumerate(characters)}

    def __len__(self) -> int:
        """How many tokens there are."""
        return self.first + len(self.characters)

    def language(self, language: str) -> int:
        """The token that begins a text of a language."""
        return 1 + self.languages.index(language)

    def encode(self, text: str) -> list[int]:
        """A text's tokens, without language and end."""
        return [self._tokens[character] for character in text]

    def decode(self, tokens: Sequence[int]) -> str:
        """The text before the first end; tokens of languages are left out."""
        text: list[str] = []
        for token in tokens:
            if token == END:
                break
            if token >= self.first:
                text.append(self.characters[token - self.first])
        return "".join(text)

    def tokenizer(self) -> Tokenizer:
        """The same as a file of the ``tokenizers`` library: ``<zh>`` is a language's token."""
        special = ["<end>", *(f"<{language}>" for language in self.languages)]
        vocabulary = {token: n for n, token in enumerate([*special, *self.characters])}
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<end>"))  # noqa: S106
        tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
        tokenizer.pre_tokenizer = Split(Regex("."), "isolated")
        tokenizer.decoder = Fuse()
        return tokenizer
