"""Text out of a loop that generates, and text in front of it."""

from __future__ import annotations

import builtins
from itertools import pairwise

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import mmedge
from tests.loop_bundles import Completer, reference

#: Characters of two to four bytes, no byte twice.
TEXT = "é日🤖"


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, and one for the end."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    tokens.add_special_tokens(["<end>"])
    return tokens


@pytest.fixture(scope="module")
def network():
    """Repeats the bytes of :data:`TEXT`, whatever came before, and ends."""
    network = Completer(words=257)
    tokens = byte_tokenizer()
    ids = [*tokens.encode(TEXT).ids, 256]
    rng = np.random.default_rng(0)
    embed = rng.normal(size=(257, 8)).astype(np.float32)
    network.layer.embed = embed / np.linalg.norm(embed, axis=1, keepdims=True)
    network.layer.o *= 0  # attention has no part in it
    network.layer.out = np.zeros((8, 257), np.float32)
    # Each token's own direction points to the token that follows it.
    following = dict(pairwise(ids))
    for token, after in following.items():
        network.layer.out[:, after] += network.layer.embed[token]
    return network


@pytest.fixture(scope="module")
def pipe(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "completer"
    tokenizer = byte_tokenizer().to_str().encode()
    network.write(path, tokenizer=tokenizer, stop=(256,), start=())
    with mmedge.load(path) as pipe:
        yield pipe


def test_text_goes_in_and_comes_out(network, pipe):
    prompt = byte_tokenizer().encode(TEXT).ids[:1]
    expected = reference(network.scores(), np.array([prompt]), stop=(256,), limit=24)[0]
    result = pipe(tokens=np.array([prompt]))
    assert result["tokens"].tolist() == [expected]
    assert result["text"] == [byte_tokenizer().decode(expected)]
    by_text = pipe(text="hello", limit=5)
    prompt = np.array([byte_tokenizer().encode("hello").ids])
    assert by_text["tokens"].tolist() == pipe(tokens=prompt, limit=5)["tokens"].tolist()


@pytest.mark.parametrize("seed", range(8))
def test_streamed_text_has_whole_characters(pipe, seed):
    """Bytes drawn at random, many of which are of no character."""
    options = {"temperature": 1.0, "seed": seed, "top_k": 8}
    run = pipe.iterate({"text": TEXT + "x"}, **options)
    pieces = [step.text[0] for step in run]
    result = run.result()
    assert "".join(pieces) == result["text"][0]
    assert result["text"] == pipe(text=TEXT + "x", **options)["text"]


def test_the_end_of_a_character_completes_it(pipe):
    prompt = byte_tokenizer().encode(TEXT).ids[:1]
    run = pipe.iterate({"tokens": np.array([prompt])})
    pieces = [step.text[0] for step in run]
    # The first byte of the first character is the prompt's.
    broken = "\N{REPLACEMENT CHARACTER}"
    assert pieces == ["", "", "", f"{broken}日", "", "", "", "🤖", ""]
    assert run.result()["text"] == [f"{broken}日🤖"]
    # What ends within a character ends with what is there.
    run = pipe.iterate({"tokens": np.array([prompt])}, limit=6)
    assert [step.text[0] for step in run] == ["", "", "", f"{broken}日", "", broken]


def test_rows_have_texts_of_their_own(pipe):
    ids = byte_tokenizer().encode(TEXT).ids
    prompts = np.array([ids[:1], ids[5:6]])
    run = pipe.iterate({"tokens": prompts})
    texts = ["", ""]
    for step in run:
        texts = [text + piece for text, piece in zip(texts, step.text, strict=True)]
    assert texts == run.result()["text"]


def test_without_the_library_tokens_are_given_alone(network, tmp_path, monkeypatch):
    tokenizer = byte_tokenizer().to_str().encode()
    network.write(tmp_path / "completer", tokenizer=tokenizer, stop=(256,))
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "tokenizers":
            raise ImportError("not here")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with (
        pytest.warns(UserWarning, match="texts are refused"),
        pytest.warns(UserWarning, match="tokens are given, their text is not: text needs the"),
        mmedge.load(tmp_path / "completer") as pipe,
    ):
        result = pipe(tokens=np.array([[3]]), limit=2)
    assert "text" not in result


def test_a_tokenizer_that_is_none(network, tmp_path):
    with pytest.raises(mmedge.BundleError, match="tokenizer"):
        network.write(tmp_path / "completer", tokenizer=b"{}", stop=(256,))
