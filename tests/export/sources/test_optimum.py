"""``optimum:DIR``: files of Optimum's layout become bundles that give what the networks give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import loop_networks as networks
import numpy as np
import onnx
import optimum_folders as folders
import pytest
import torch
from shared import once
from typer.testing import CliRunner

import mmedge
from mmedge.cli.app import build_app
from mmedge_export.sources.optimum_config import FolderConfig
from mmedge_export.sources.source import SourceOptions

RNG = np.random.default_rng(6)


@pytest.fixture
def translator(tmp_path_factory) -> Path:
    return once(tmp_path_factory, "optimum-translator", folders.write_translator)


@pytest.fixture
def copy(translator, tmp_path) -> Path:
    """A folder of its own, to be changed."""
    copy = tmp_path / "copy"
    shutil.copytree(translator, copy)
    for path in (copy, *copy.iterdir()):
        path.chmod(0o755)
    return copy


def run(*words: object):
    return CliRunner().invoke(build_app(), ["export", *map(str, words)])


def text(result) -> str:
    return " ".join(f"{result.output} {result.exception or ''}".replace("│", " ").split())


def test_an_encoder_and_two_decoders_give_the_tokens_of_the_network(translator, tmp_path):
    result = run(f"optimum:{translator}", "-o", tmp_path / "b", "--json")
    assert result.exit_code == 0, text(result)
    said = json.loads(result.stdout)
    assert said["stages"] == ["model", "step"]
    assert any(
        "num_beams = 4: the bundle's loop does not do that" in x for x in said["not_checked"]
    )
    assert "a call begins with the tokens 0" in result.stderr
    with mmedge.load(tmp_path / "b") as pipe:
        manifest = pipe.bundle.manifest
        loop = manifest.loop
        assert (loop.start, loop.stop, loop.limit) == ((0,), (1,), folders.LIMIT)
        assert (loop.suppress, loop.suppress_first) == ((7, 8), (9,))
        assert [(s.axis, s.initial) for s in manifest.states] == [(2, "empty")] * 2
        assert manifest.inputs()["input_ids"].shape == ("batch_size", "encoder_sequence_length")
        assert all("encoder" in name for name in manifest.outputs)
        # Of the first decoder, what is computed once has the keys and values alone.
        graph = onnx.load_model_from_string(bytes(pipe.bundle.read("onnx/model.onnx"))).graph
        assert [node.op_type for node in graph.node].count("Softmax") == 1
        for batch, length in ((1, 4), (3, 11)):
            ids = RNG.integers(3, networks.WORDS, (batch, length))
            mask = np.ones_like(ids)
            mask[-1, length // 2 :] = 0
            got = pipe(input_ids=ids, attention_mask=mask)
            expected = folders.translate(ids, mask)
            rows = zip(got["tokens"], got["lengths"], strict=True)
            assert [row[:count].tolist() for row, count in rows] == expected
        words = pipe(text="w5 w17 w9")
        ids = np.array([[5, 17, 9]])
        assert (
            words["tokens"][0, : words["lengths"][0]].tolist()
            == (folders.translate(ids, np.ones_like(ids))[0])
        )
        assert words["text"][0].startswith("w") or not words["lengths"][0]


def test_the_command_line_counts_more_than_the_configuration(translator, tmp_path):
    words = ("--start", "0,5", "--stop", "1,2", "--limit", 3, "--dim", "batch_size=1:2:4")
    result = run(f"optimum:{translator}", "-o", tmp_path / "b", *words)
    assert result.exit_code == 0, text(result)
    with mmedge.load(tmp_path / "b") as pipe:
        loop = pipe.bundle.manifest.loop
        assert (loop.start, loop.stop, loop.limit) == ((0, 5), (1, 2), 3)
        assert pipe.bundle.manifest.dimensions["batch_size"].max == 4


def test_one_file_that_runs_once_has_text_and_labels(tmp_path_factory, tmp_path):
    folder = once(tmp_path_factory, "optimum-classifier", folders.write_classifier)
    result = run(f"optimum:{folder}", "-o", tmp_path / "b")
    assert result.exit_code == 0, text(result)
    with mmedge.load(tmp_path / "b") as pipe:
        manifest = pipe.bundle.manifest
        assert list(manifest.inputs()) == ["input_ids", "attention_mask"]
        assert [m.name for m in manifest.modalities] == ["text"]
        assert manifest.dimensions["sequence_length"].max == 24
        assert "input 'token_type_ids' is zeros" in manifest.cut.remarks
        assert json.loads(bytes(pipe.bundle.read(manifest.labels["logits"]))) == [
            "bad",
            "so-so",
            "good",
        ]
        got = pipe(text="w4 w9 w30")["logits"]
    ids = torch.tensor([[4, 9, 30]])
    with torch.no_grad():
        expected = folders.classifier()(ids, torch.ones_like(ids), torch.zeros_like(ids))
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


def test_a_decoder_alone_continues_a_text(tmp_path_factory, tmp_path):
    folder = once(tmp_path_factory, "optimum-writer", folders.write_writer)
    result = run(f"optimum:{folder}", "-o", tmp_path / "b", "--limit", 9)
    assert result.exit_code == 0, text(result)
    assert "tokenizer.json pads on the left with '<pad>'" in result.stderr
    torch.manual_seed(2)
    torch.randint(3, networks.WORDS, (2, 3))
    torch.randn(2, networks.HEADS, 5, networks.WIDTH // networks.HEADS)
    module = networks.Writer().eval()
    with mmedge.load(tmp_path / "b") as pipe:
        assert pipe.bundle.manifest.dimensions["sequence_length"].max == 64 - 9 + 1
        ids = RNG.integers(3, networks.WORDS, (2, 5))
        got = pipe(input_ids=ids)
    sequence = torch.from_numpy(ids)
    empty = torch.zeros(2, networks.HEADS, 0, networks.WIDTH // networks.HEADS)
    for _ in range(9):
        places = torch.arange(sequence.shape[1]).repeat(2, 1)
        with torch.no_grad():
            best = module(sequence, places, empty, empty)[0][:, -1].argmax(-1)
        sequence = torch.cat([sequence, best[:, None]], 1)
    for row, tokens, count in zip(
        sequence[:, 5:].tolist(), got["tokens"], got["lengths"], strict=True
    ):
        assert tokens[:count].tolist() == (row[: row.index(1)] if 1 in row else row)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: (f / "decoder_with_past_model.onnx").rename(f / "decoder_model_merged.onnx"),
            "holds two decoders behind one switch; write them as separate files: optimum-cli",
        ),
        (lambda f: (f / "decoder_with_past_model.onnx").unlink(), "a task that ends in -with-past"),
        (lambda f: (f / "encoder_model.onnx").unlink(), "expected model.onnx, or encoder_model"),
        (lambda f: (f / "config.json").unlink(), "has no config.json; give a folder that"),
        (lambda f: (f / "config.json").write_text("[]"), "expected an object, got list"),
        (lambda f: (f / "generation_config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "generation_config.json").unlink(), "say the first tokens with --start"),
        (
            lambda f: shutil.copy(f / "encoder_model.onnx", f / "decoder_model.onnx"),
            "keys and values of what the encoder gives",
        ),
    ],
)
def test_folders_that_are_not_taken_say_what_to_do(change, message, copy, tmp_path):
    change(copy)
    result = run(f"optimum:{copy}", "-o", tmp_path / "b")
    assert result.exit_code == 1
    assert message in text(result)


def test_decoders_of_other_networks_are_refused(copy, tmp_path):
    torch.manual_seed(99)
    other = tmp_path / "other"
    other.mkdir()
    seed, folders.translator = folders.translator, lambda: (
        torch.manual_seed(99), (folders.Encoder().eval(), folders.Decoder().eval()),
    )[1]  # fmt: skip
    try:
        folders.write_translator(other)
    finally:
        folders.translator = seed
    shutil.copy(other / "decoder_with_past_model.onnx", copy)
    result = run(f"optimum:{copy}", "-o", tmp_path / "b")
    assert "begun with nothing, it gives other scores for the first tokens" in text(result)


def test_no_folder_and_other_options_are_told(translator, tmp_path):
    assert "no such folder: nowhere" in text(run("optimum:nowhere", "-o", tmp_path / "b"))
    result = run(f"optimum:{translator}", "-o", tmp_path / "b", "--token", "x", "--rename", "a=b")
    assert "--rename, --token: not for optimum:" in text(result)


def config(tmp_path, generation: dict, **model: object) -> FolderConfig:
    (tmp_path / "config.json").write_text(json.dumps(model))
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    return FolderConfig(tmp_path)


def test_what_generation_config_says(tmp_path):
    whisper = {
        "decoder_start_token_id": 50257, "eos_token_id": [50256, 3], "max_new_tokens": 500,
        "no_timestamps_token_id": 50362, "suppress_tokens": [1, 3], "do_sample": True, "top_p": 0.9,
    }  # fmt: skip
    tokens = config(tmp_path, whisper, max_target_positions=448).tokens(
        SourceOptions(), has_encoder=True
    )
    assert tokens.start == (50257, 50362)
    assert tokens.stop == (50256, 3)
    assert tokens.suppress == (1,)  # a token that stops cannot be suppressed
    assert tokens.limit == 447
    assert tokens.sampling == {"temperature": 1.0, "top_k": 50, "top_p": 0.9}
    forced = {"decoder_start_token_id": 2, "forced_bos_token_id": 9, "eos_token_id": 1}
    assert config(tmp_path, forced).tokens(SourceOptions(), has_encoder=True).start == (2, 9)
    forced = {"decoder_start_token_id": 2, "forced_decoder_ids": [[1, 5], [2, 6]]}
    tokens = config(tmp_path, forced).tokens(SourceOptions(), has_encoder=True)
    assert tokens.start == (2, 5, 6)
    assert "no token ends a row: eos_token_id is not said" in tokens.remarks
    # Older folders have it all in config.json.
    tokens = config(tmp_path, {}, decoder_start_token_id=4, eos_token_id=5).tokens(
        SourceOptions(), has_encoder=True
    )
    assert (tokens.start, tokens.stop) == ((4,), (5,))


def test_a_network_of_many_languages_asks_which(tmp_path):
    whisper = {
        "decoder_start_token_id": 50258, "no_timestamps_token_id": 50363,
        "lang_to_id": {"<|en|>": 50259, "<|de|>": 50261}, "task_to_id": {"transcribe": 50359},
    }  # fmt: skip
    folder = config(tmp_path, whisper)
    with pytest.raises(mmedge.errors.ExportError, match="--start 50258,50259,50359,50363"):
        folder.tokens(SourceOptions(), has_encoder=True)
    said = folder.tokens(SourceOptions(start=(50258, 50261)), has_encoder=True)
    assert said.start == (50258, 50261)


def test_sizes_of_pictures_are_those_of_the_processor(tmp_path):
    assert config(tmp_path, {}, encoder={"image_size": 32, "num_channels": 1}).picture() == (
        1,
        32,
        32,
    )
    (tmp_path / "preprocessor_config.json").write_text('{"size": {"shortest_edge": 40}}')
    assert FolderConfig(tmp_path).picture() == (1, 40, 40)
    (tmp_path / "preprocessor_config.json").write_text('{"crop_size": {"height": 8, "width": 9}}')
    assert FolderConfig(tmp_path).picture() == (1, 8, 9)
