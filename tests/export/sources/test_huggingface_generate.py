"""Checkpoints of transformers that generate: tokens of bundles are those of ``generate()``."""

from __future__ import annotations

import copy

import huggingface_networks as checkpoints
import numpy as np
import pytest
import torch
from kinds import kinds
from tiny_checkpoints import make_tiny

import mmedge
from mmedge.errors import ExportError
from mmedge_export import export
from mmedge_export.sources.huggingface import encoder_decoder
from mmedge_export.sources.huggingface.generate_check import check_tokens
from mmedge_export.sources.huggingface.source import HuggingFaceSource
from mmedge_export.sources.source import SourceOptions

RNG = np.random.default_rng(12)
#: Most tokens that a run chooses.
LENGTH = 8


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def words(rows: int, count: int, *, padded: bool = False) -> dict[str, np.ndarray]:
    ids = RNG.integers(3, 90, (rows, count))
    mask = np.ones_like(ids)
    if padded:
        mask[0, count - count // 3 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def prompt(rows: int, places: int, count: int) -> dict[str, np.ndarray]:
    """Words around the places of a picture."""
    text = RNG.integers(3, 90, (rows, count))
    picture = np.full((rows, places), checkpoints.PLACE)
    ids = np.concatenate([text[:, :1], picture, text[:, 1:]], 1)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


#: New inputs of two batch sizes, and two lengths where there are any.
CASES = {
    "t5": [words(1, 4), words(3, 11, padded=True)],
    "marian": [words(1, 4), words(3, 11, padded=True)],
    "bart": [words(2, 6, padded=True)],
    "whisper": [{"input_features": floats(n, 16, 60)} for n in (1, 3)],
    "trocr": [{"pixel_values": floats(n, 3, 32, 32)} for n in (1, 3)],
    "blip": [{"pixel_values": floats(n, 3, 32, 32)} for n in (1, 3)],
    "llama": [words(1, 3), words(3, 9)],
    "gemma": [words(1, 3), words(3, 9)],
    "mixtral": [words(1, 3), words(3, 9)],
    "qwen3_5": [words(1, 3), words(3, 9)],
    "lfm2": [words(1, 3), words(3, 9)],
    "mamba": [words(1, 1), words(3, 9)],
    "llava": [{**prompt(n, 16, 2 + n), "pixel_values": floats(n, 3, 32, 32)} for n in (1, 3)],
    "smolvlm": [{**prompt(n, 4, 2 + n), "pixel_values": floats(n, 1, 3, 32, 32)} for n in (1, 3)],
    "paligemma": [{**prompt(n, 16, 2 + n), "pixel_values": floats(n, 3, 32, 32)} for n in (1, 3)],
    "gemma3": [{**prompt(n, 4, 2 + n), "pixel_values": floats(n, 3, 32, 32)} for n in (1, 3)],
    "qwen3_vl": [{**prompt(n, 16, 2 + n), "pixel_values": floats(n, 64, 96)} for n in (1, 3)],
}
#: What generate() does by default beside taking the best token.
RULES = {
    "marian": {"forced_eos_token_id": 0, "bad_words_ids": [[98]]},
    "bart": {"forced_bos_token_id": 0},
    "whisper": {"suppress_tokens": [5, 6], "begin_suppress_tokens": [7, 2]},
}


def network_inputs(name: str, case: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """A case as generate() takes it: with what the processor makes beside pixels."""
    tensors = {key: torch.from_numpy(value) for key, value in case.items()}
    rows = len(next(iter(tensors.values())))
    stands = (tensors.get("input_ids", torch.zeros(0)) == checkpoints.PLACE).long()
    if name == "qwen3_vl":
        tensors["pixel_values"] = tensors["pixel_values"].flatten(0, 1)
        tensors["image_grid_thw"] = torch.tensor([[1, 8, 8]] * rows)
        tensors["mm_token_type_ids"] = stands
    elif name == "gemma3":
        tensors["token_type_ids"] = stands
    elif name == "paligemma":
        tensors["token_type_ids"] = torch.zeros_like(stands)
    return tensors


#: Of weights, where tokens would not differ with larger ones, or would be ties.
GAINS = {"t5": 0.25, "marian": 0.25, "bart": 0.25, "gemma3": 0.5}
#: Tokens at the beginning of what generate() returns that are no choice of its own.
STARTS = {"t5": 1, "marian": 1, "bart": 2, "whisper": 0, "trocr": 1, "blip": 1}


# The decoder of BLIP reads no settings of its own from a checkpoint.
@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize("name", kinds(CASES, first=("t5", "whisper", "llama", "qwen3_5", "llava")))
def test_tokens_are_those_of_generate(name, tmp_path, monkeypatch):
    if name == "whisper":  # as one whose encoder takes long for each row
        monkeypatch.setattr(encoder_decoder, "_LARGE_ROW", 1)
    network = checkpoints.save(
        getattr(checkpoints, name),
        tmp_path / name,
        gain=GAINS.get(name, 1.0),
        max_new_tokens=LENGTH,
        **RULES.get(name, {}),
    )
    bundle = export(f"hf:{tmp_path / name}", tmp_path / "bundle", samples_limit=1)
    loop = bundle.manifest.loops[0]
    if name == "whisper":
        assert bundle.samples()[0].inputs["input_features"].shape[0] == 1
    pipe = mmedge.load(tmp_path / "bundle")
    seen = set()
    for case in CASES[name]:
        tensors = network_inputs(name, case)
        expected = network.generate(**tensors, do_sample=False, num_beams=1)
        count = STARTS.get(name, case.get("input_ids", np.zeros((1, 0))).shape[1])
        inputs = {key: value for key, value in case.items() if key in pipe_inputs(bundle)}
        result = pipe(**inputs)
        for row, tokens in enumerate(expected[:, count:].tolist()):
            ends = [at for at, token in enumerate(tokens) if token in loop.stop]
            chosen = tokens[: min(ends, default=len(tokens))]
            length = int(result["lengths"][row])
            assert result["tokens"][row, :length].tolist() == chosen
            seen.update(chosen)
    assert len(seen) > 3


def pipe_inputs(bundle) -> set[str]:
    return {name for modality in bundle.manifest.modalities for name in modality.inputs}


def read(folder, **options):
    return HuggingFaceSource().read(f"hf:{folder}", SourceOptions(**options))


@pytest.mark.parametrize(
    ("name", "shape", "remark"),
    [
        ("qwen2_vl", (64, 96), "pixel_values [64, 96] with image_grid_thw [[1, 8, 8]]"),
        ("qwen2_5_vl", (64, 96), "pixel_values [64, 96] with image_grid_thw [[1, 8, 8]]"),
        ("llava_next", (3, 3, 32, 32), "[3, 3, 32, 32] with image_sizes [[32, 64]]"),
    ],
)
def test_a_picture_of_one_size_is_said(tmp_path, name, shape, remark):
    """Reading holds tokens against generate()."""
    checkpoints.save(getattr(checkpoints, name), tmp_path, max_new_tokens=LENGTH)
    source = read(tmp_path)
    assert source.model.inputs["pixel_values"].example.shape[1:] == shape
    assert remark in "\n".join(source.remarks)


def test_what_generate_does_beside_the_best_token_is_said(tmp_path):
    network = checkpoints.save(checkpoints.bart, tmp_path)
    network.generation_config.update(
        num_beams=4, no_repeat_ngram_size=3, suppress_tokens=[7], eos_token_id=[2, 9]
    )
    network.generation_config.save_pretrained(tmp_path)
    source = read(tmp_path, limit=5)
    assert source.model.loop.limit == 5
    assert source.model.loop.suppress == (7,)
    assert source.model.loop.stop == (2, 9)
    text = "\n".join(source.remarks)
    assert "num_beams 4: mmedge takes the best token" in text
    assert "NoRepeatNGram, which mmedge does not: tokens may differ" in text


def test_a_text_with_the_places_of_a_picture_goes_through_an_encoder(tmp_path):
    kind = checkpoints.hf.T5Gemma2ForConditionalGeneration
    checkpoints.save(lambda: make_tiny(kind), tmp_path, gain=0.25, max_new_tokens=LENGTH)
    source = read(tmp_path)  # its tokens are held against those of generate()
    inputs = source.model.inputs
    assert {name: value.shape() for name, value in inputs.items()} == {
        "input_ids": ("batch", "tokens"),
        "attention_mask": ("batch", "tokens"),
        "pixel_values": ("batch", 3, 32, 32),
    }
    places = checkpoints.hf.T5Gemma2Config.from_pretrained(tmp_path).image_token_index
    assert (inputs["input_ids"].example == places).sum(1).tolist() == [16, 16]
    assert "a text has 16 tokens" in "\n".join(source.remarks)


def test_a_model_is_held_against_generate(tmp_path):
    checkpoints.save(checkpoints.llama, tmp_path, max_new_tokens=LENGTH)
    model = read(tmp_path).model
    inputs = {"input_ids": torch.from_numpy(model.inputs["input_ids"].example)}
    network = model.loop.step.call.network
    check_tokens(network, model, inputs)
    other = copy.deepcopy(network)
    other.lm_head.weight = torch.nn.Parameter(other.lm_head.weight.roll(1, 0))
    with pytest.raises(ExportError, match="first scores of LlamaForCausalLM.generate.* factory"):
        check_tokens(other, model, inputs)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("xlstm", "does not run with a cache of keys and values that grow and of states of fixed"),
        ("rwkv", "takes no cache"),
    ],
)
def test_a_network_with_a_cache_of_another_kind_is_refused(tmp_path, name, reason):
    checkpoints.save(getattr(checkpoints, name), tmp_path)
    with pytest.raises(ExportError, match=reason):
        read(tmp_path)
