"""What a checkpoint's processor does: in the graph where it is the same, else outside."""

from __future__ import annotations

import huggingface_networks as checkpoints
import numpy as np
import pytest
import torch

import mmedge
from mmedge_export import export
from mmedge_export.sources.huggingface.candidates import picture, sound
from mmedge_export.sources.huggingface.source import HuggingFaceSource
from mmedge_export.sources.source import SourceOptions

hf = checkpoints.hf
VOCABULARY = ["<pad>", "<s>", "</s>", "<unk>", "red", "door", "robot", "the", "to", "and", "a"]


def read(folder):
    return HuggingFaceSource().read(f"hf:{folder}", SourceOptions())


def tokenizer(**options):
    """Words, between two special tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    words = Tokenizer(WordLevel({w: n for n, w in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        **options,
    )


def image_processor(**options):
    return hf.ViTImageProcessor(
        **{"size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.5, 0.6], **options}
    )


def test_pictures_are_scaled_and_normalized_in_the_graph(tmp_path):
    network = checkpoints.save(checkpoints.vit, tmp_path / "net")
    processor = image_processor()
    processor.save_pretrained(tmp_path / "net")
    bundle = export(f"hf:{tmp_path / 'net'}", tmp_path / "bundle", samples_limit=1)
    assert any("resizing and cropping stay outside" in r for r in bundle.manifest.cut.remarks)
    pipe = mmedge.load(tmp_path / "bundle")
    pictures = [picture(32, 32, seed) for seed in (5, 6, 7)]
    with torch.no_grad():
        expected = network(**processor(pictures, return_tensors="pt")).logits
    result = pipe(image=np.stack(pictures))
    np.testing.assert_allclose(result["logits"], expected.numpy(), rtol=1e-3, atol=1e-4)


def test_preprocessing_that_is_not_the_same_stays_outside(tmp_path):
    """It cuts the picture's border off, which changes its size."""
    checkpoints.save(checkpoints.vit, tmp_path)
    hf.CLIPImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path)
    source = read(tmp_path)
    assert list(source.model.inputs) == ["pixel_values"]
    assert any("stays outside: 'pixel_values' takes" in remark for remark in source.remarks)


def test_texts_are_tokenized_as_the_checkpoint_does(tmp_path):
    network = checkpoints.save(checkpoints.bert, tmp_path / "net")
    words = tokenizer()
    words.save_pretrained(tmp_path / "net")
    export(f"hf:{tmp_path / 'net'}", tmp_path / "bundle", samples_limit=1)
    pipe = mmedge.load(tmp_path / "bundle")
    for text in ("the red robot", "a door and a red door to the robot"):
        with torch.no_grad():
            inputs = words(text, return_tensors="pt", return_token_type_ids=False)
            expected = network(**inputs).logits.numpy()
        np.testing.assert_allclose(pipe(text=text)["logits"], expected, rtol=1e-3, atol=1e-4)


def test_a_tokenizer_that_pads_on_the_left_is_taken_over(tmp_path):
    checkpoints.save(checkpoints.bert, tmp_path)
    tokenizer(padding_side="left").save_pretrained(tmp_path)
    mask = read(tmp_path).model.inputs["attention_mask"].example
    assert not mask[-1, 0]
    assert mask[-1, -1]


# Bands of so few frequencies are empty.
@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")
def test_sound_becomes_a_spectrogram_in_the_graph(tmp_path):
    network = checkpoints.save(checkpoints.whisper_8khz, tmp_path / "net", max_new_tokens=6)
    extractor = hf.WhisperFeatureExtractor(
        feature_size=16, sampling_rate=8000, hop_length=100, chunk_length=1, n_fft=400
    )
    extractor.save_pretrained(tmp_path / "net")
    export(f"hf:{tmp_path / 'net'}", tmp_path / "bundle", samples_limit=1, rtol=1e-3)
    pipe = mmedge.load(tmp_path / "bundle")
    spoken = sound(8000, 0.7, seed=9)
    features = extractor(spoken, sampling_rate=8000, return_tensors="pt").input_features
    expected = network.generate(features, do_sample=False, num_beams=1)[0].tolist()
    result = pipe(audio=spoken[None])
    length = int(result["lengths"][0])
    assert result["tokens"][0, :length].tolist() == [t for t in expected if t != 2]


@pytest.mark.parametrize("normalizes", [True, False])
def test_raw_sound_is_normalized_in_the_graph_where_the_processor_does(normalizes, tmp_path):
    checkpoints.save(checkpoints.wav2vec2, tmp_path)
    hf.Wav2Vec2FeatureExtractor(do_normalize=normalizes).save_pretrained(tmp_path)
    source = read(tmp_path)
    (name,) = source.model.inputs
    assert name == ("audio" if normalizes else "input_values")
    assert source.model.inputs[name].sample_rate_hz == 16000
