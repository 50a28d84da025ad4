"""Checkpoints of transformers that run once: bundles without user code, held against torch."""

from __future__ import annotations

import json

import huggingface_networks as checkpoints
import numpy as np
import pytest
import torch
from kinds import kinds

import mmedge
from mmedge.errors import ExportError
from mmedge_export import export
from mmedge_export.sources.huggingface.messages import reasons_with_advice
from mmedge_export.sources.huggingface.source import HuggingFaceSource
from mmedge_export.sources.loader import load_source
from mmedge_export.sources.source import DimensionOption, SourceOptions

RNG = np.random.default_rng(11)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def words(rows: int, count: int) -> dict[str, np.ndarray]:
    mask = np.ones((rows, count), np.int64)
    mask[0, count - count // 3 :] = 0
    return {
        "input_ids": RNG.integers(3, checkpoints.WORDS, (rows, count)),
        "attention_mask": mask,
    }


def prompt(rows: int, places: int, count: int) -> dict[str, np.ndarray]:
    """Words after the places of a picture."""
    text = RNG.integers(3, 90, (rows, count))
    return {"input_ids": np.concatenate([np.full((rows, places), checkpoints.PLACE), text], 1)}


#: New inputs of two batch sizes, and two lengths where there are any.
CASES = {
    "bert": [words(1, 4), words(3, 40)],
    "vit": [{"pixel_values": floats(n, 3, 32, 32)} for n in (1, 3)],
    "clip": [
        {**words(3, 5), "pixel_values": floats(1, 3, 32, 32)},
        {**words(1, 40), "pixel_values": floats(4, 3, 32, 32)},
    ],
    "siglip": [{**words(2, 9), "pixel_values": floats(3, 3, 32, 32)}],
    "wav2vec2": [{"input_values": floats(1, 700)}, {"input_values": floats(3, 4001)}],
    "audio_classifier": [{"input_values": floats(n, 64, 16)} for n in (1, 3)],
    "detr": [{"pixel_values": floats(n, 3, 64, 64)} for n in (1, 3)],
    "colpali": [{**prompt(n, 16, 2 + n), "pixel_values": floats(n, 3, 32, 32)} for n in (1, 3)],
    "whisper_model": [
        {"input_features": floats(n, 16, 60), "decoder_input_ids": RNG.integers(3, 90, (n, 4 * n))}
        for n in (1, 3)
    ],
}
OUTPUTS = {
    "bert": ["logits"],
    "vit": ["logits"],
    "clip": ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"],
    "siglip": ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"],
    "wav2vec2": ["logits"],
    "audio_classifier": ["logits"],
    "detr": ["logits", "pred_boxes"],
    "colpali": ["embeddings"],
    "whisper_model": ["last_hidden_state"],
}


@pytest.mark.parametrize("name", kinds(CASES, first=("bert", "clip", "wav2vec2")))
def test_a_network_that_runs_once(name, tmp_path):
    network = checkpoints.save(getattr(checkpoints, name), tmp_path / name)
    bundle = export(f"hf:{tmp_path / name}", tmp_path / "bundle", samples_limit=1)
    assert list(bundle.manifest.outputs) == OUTPUTS[name]
    assert "samples are made up" in bundle.manifest.cut.remarks
    pipe = mmedge.load(tmp_path / "bundle")
    for case in CASES[name]:
        with torch.no_grad():
            expected = network(**{key: torch.from_numpy(value) for key, value in case.items()})
        result = pipe(**case)
        for output in OUTPUTS[name]:
            np.testing.assert_allclose(
                result[output], expected[output].numpy(), rtol=1e-3, atol=1e-4
            )
    if name == "bert":
        assert bundle.labels("logits") == ["bad", "good", "neither"]
    if name == "clip":
        assert {"text", "image"} <= {stage.name for stage in bundle.manifest.stages}


def read(folder, **options):
    return HuggingFaceSource().read(f"hf:{folder}", SourceOptions(**options))


def test_the_longest_text_is_found_by_running_it(tmp_path):
    """RoBERTa counts positions from its padding id on: two of 40 places hold no token."""

    def roberta():
        config = checkpoints.hf.RobertaConfig(**checkpoints.TEXT)
        return checkpoints.hf.RobertaForMaskedLM(config)

    checkpoints.save(roberta, tmp_path)
    options = SourceOptions(dims={"batch": DimensionOption(max=32)})
    dims = load_source(f"hf:{tmp_path}", options).model.dims
    assert dims["tokens"] == (1, 38)
    assert dims["batch"][:2] == (1, 32)


def test_places_of_words_on_a_page_are_an_input(tmp_path):
    def layoutlm():
        return checkpoints.hf.LayoutLMModel(checkpoints.hf.LayoutLMConfig(**checkpoints.TEXT))

    checkpoints.save(layoutlm, tmp_path)
    model = read(tmp_path).model
    assert model.inputs["bbox"].shape() == ("batch", "tokens", 4)
    assert model.dims["tokens"] == (1, 40)


def test_what_a_foreign_class_raises_is_a_reason_with_what_to_write():
    with (
        pytest.raises(ExportError, match=r"^X fails in .*json/.* JSONDecodeError: .* mmedge init"),
        reasons_with_advice("X"),
    ):
        json.loads("{")
    with pytest.raises(ExportError, match="^no; write a factory"), reasons_with_advice("X"):
        raise ExportError("no")


def test_what_forward_takes_and_gets_nothing_is_said(tmp_path):
    checkpoints.save(checkpoints.detr, tmp_path)
    assert "forward also takes pixel_mask, left out here" in read(tmp_path).remarks


def test_a_pickle_is_refused_with_the_command_that_converts_it(tmp_path):
    checkpoints.save(checkpoints.bert, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ExportError, match=r"pickle \(pytorch_model.bin\)[^$]*save_pretrained"):
        read(tmp_path)


def test_code_of_a_checkpoint_is_not_run_unless_the_user_says_so(tmp_path):
    checkpoints.save(checkpoints.bert, tmp_path)
    config = tmp_path / "config.json"
    text = config.read_text().replace("BertForSequenceClassification", "TheirModel")
    with pytest.raises(ExportError, match="transformers .* has no class 'TheirModel'"):
        config.write_text(text)
        read(tmp_path)
    (tmp_path / "theirs.py").write_text("raise SystemExit('it ran')")
    config.write_text(text.replace("{", '{"auto_map": {"AutoModel": "theirs.TheirModel"},', 1))
    with pytest.raises(ExportError, match="--trust-remote-code"):
        read(tmp_path)


def test_weights_that_would_be_random_are_refused(tmp_path):
    checkpoints.save(checkpoints.bert, tmp_path)
    config = tmp_path / "config.json"
    config.write_text(
        config.read_text()
        .replace("ForSequenceClassification", "ForTokenClassification")
        .replace('"hidden_size": 32', '"hidden_size": 32, "num_extra": 1')
    )
    model = read(tmp_path).model
    assert list(model.outputs) == ["logits"]  # the head has the same name and size
    config.write_text(
        config.read_text()
        .replace("BertForToken", "BertForQuestion")
        .replace("QuestionClassification", "QuestionAnswering")
    )
    with pytest.raises(ExportError, match="weights of BertForQuestionAnswering are not in"):
        read(tmp_path)


@pytest.mark.parametrize("place", ["nowhere", "no/where", "a/b/c"])
def test_a_name_that_is_no_checkpoint(place, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ExportError, match="no folder at|the hub gave no"):
        read(place)
