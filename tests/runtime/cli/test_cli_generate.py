"""``mmedge run`` on bundles with a loop."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import mmedge
from tests.loop_bundles import Captioner, Completer, Painter


def call(*words, expect=0):
    done = subprocess.run(
        [sys.executable, "-m", "mmedge", "run", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == expect, done.stderr + done.stdout
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("generate")
    Captioner().write(path / "captioner")
    rng = np.random.default_rng(0)
    for batch in (1, 2):
        np.save(path / f"{batch}.npy", rng.normal(size=(batch, 5, 6)).astype(np.float32))
    return path


def test_tokens_are_printed(folder, tmp_path):
    with mmedge.load(folder / "captioner") as pipe:
        image = np.load(folder / "1.npy")
        greedy = pipe(image=image)
        options = {"limit": 7, "seed": 3, "temperature": 2.0, "top_k": 5, "top_p": 0.9}
        drawn = pipe(image=image, **options)
    words = (folder / "captioner", "-i", f"image={folder / '1.npy'}")
    out = call(*words, "-o", tmp_path / "out.safetensors").stdout
    assert out.splitlines()[0] == " ".join(map(str, greedy["tokens"][0]))
    assert "limit" in out
    assert load_file(tmp_path / "out.safetensors")["tokens"].tolist() == greedy["tokens"].tolist()
    given = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    (row,) = json.loads(call(*words, *given, "--json").stdout)["generated"]
    assert row == {"tokens": drawn["tokens"][0].tolist(), "finish": "limit"}


def test_rows_are_printed_at_their_end(folder):
    with mmedge.load(folder / "captioner") as pipe:
        result = pipe(image=np.load(folder / "2.npy"), limit=4)
    out = call(folder / "captioner", "-i", f"image={folder / '2.npy'}", "--limit", 4).stdout
    for row in result["tokens"]:
        assert " ".join(map(str, row)) in out


def test_text_is_printed_without_what_a_terminal_acts_on(tmp_path):
    words = [f"w{number}\x1b[31m" if number > 4 else f"w{number}" for number in range(11)]
    tokens = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    tokens.pre_tokenizer = Whitespace()
    Completer().write(tmp_path / "completer", tokenizer=tokens.to_str().encode(), stop=())
    with mmedge.load(tmp_path / "completer") as pipe:
        options = {"seed": 1, "temperature": 50.0, "limit": 24}
        text = pipe(text="w3 w4", **options)["text"][0]
    assert "\x1b" in text
    given = [f"--{name}={value}" for name, value in options.items()]
    words = (tmp_path / "completer", "-i", "text=w3 w4", *given)
    assert call(*words).stdout.splitlines()[0] == text.replace("\x1b", "\\x1b")
    (row,) = json.loads(call(*words, "--json").stdout)["generated"]
    assert row["text"] == text


def test_a_latent_is_shown_as_an_output(tmp_path):
    Painter().write(tmp_path / "painter")
    np.save(tmp_path / "c.npy", np.ones((1, 3), np.float32))
    words = (tmp_path / "painter", "-i", f"condition={tmp_path / 'c.npy'}")
    found = json.loads(call(*words, "--seed", 5, "--json").stdout)
    assert found["outputs"]["latent"]["shape"] == [1, 3, 4]
    assert found["finish"] == "schedule"
    assert "generated" not in found
    done = call(*words, "--limit", 5, expect=1)
    assert "option 'limit': a bundle with a loop 'denoise' takes seed" in done.stderr
