"""Text from tokens as they come: never half a character, and nothing is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from mmedge.execution.detokenize import TextStream

#: Texts whose characters have one to four bytes, and what is put together of several.
TEXT = "naïve 日本語 🤖 👩‍🔬 ß\n end"


def byte_tokenizer(*special: str) -> Tokenizer:
    """A token for each byte, and then special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(list(special))
    return tokens


def pieces(tokens: Tokenizer, ids, *, ending=True) -> list[str]:
    stream = TextStream(lambda row: tokens.decode(row, skip_special_tokens=True))
    return [
        stream.add(token, last=ending and index == len(ids) - 1) for index, token in enumerate(ids)
    ]


def test_a_character_comes_whole():
    tokens = byte_tokenizer()
    given_pieces = pieces(tokens, tokens.encode(TEXT).ids)
    assert "".join(given_pieces) == TEXT
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in given_pieces)
    robot = tokens.encode("🤖").ids
    assert len(robot) == 4
    assert pieces(tokens, robot, ending=False) == ["", "", "", "🤖"]


@given(text=st.text(max_size=90))
def test_pieces_together_are_the_text(text):
    tokens = byte_tokenizer()
    ids = tokens.encode(text).ids
    assert "".join(pieces(tokens, ids)) == tokens.decode(ids)


@given(ids=st.lists(st.integers(0, 255), min_size=1, max_size=200))
def test_any_bytes_give_what_they_give_together(ids):
    tokens = byte_tokenizer()
    given_pieces = pieces(tokens, ids)
    assert "".join(given_pieces) == tokens.decode(ids)


def test_what_is_not_complete_comes_at_the_end():
    tokens = byte_tokenizer()
    stream = TextStream(tokens.decode)
    half = tokens.encode("a🤖").ids[:3]
    assert [stream.add(token) for token in half] == ["a", "", ""]
    assert stream.end() == "\N{REPLACEMENT CHARACTER}"


def test_special_tokens_have_no_text():
    tokens = byte_tokenizer("<end>")
    ids = [*tokens.encode("ab").ids, tokens.token_to_id("<end>"), *tokens.encode("c").ids]
    assert pieces(tokens, ids) == ["a", "b", "", "c"]


def test_a_long_text_is_not_decoded_from_its_beginning_each_time():
    tokens = byte_tokenizer()
    longest = 0

    def decode(row):
        nonlocal longest
        longest = max(longest, len(row))
        return tokens.decode(row)

    ids = tokens.encode("日本語 and more " * 40).ids
    stream = TextStream(decode)
    assert "".join(stream.add(token) for token in ids) == "日本語 and more " * 40
    assert longest < 64


def test_words_with_spaces_between_them():
    tokens = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    ids = [0, 1, 1, 0] * 30
    assert "".join(pieces(tokens, ids)) == tokens.decode(ids)


def test_pieces_of_sentencepiece_tokens():
    tokens = Tokenizer(models.BPE({"▁the": 0, "▁cat": 1, "s": 2, "▁": 3}, []))
    tokens.decoder = decoders.Metaspace()
    ids = [0, 1, 2, 0, 1, 3, 1] * 20
    assert "".join(pieces(tokens, ids)) == tokens.decode(ids)
