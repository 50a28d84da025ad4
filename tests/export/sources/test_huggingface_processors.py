"""What a checkpoint's processor does: in the graph where it is the same, else outside."""

from __future__ import annotations

from pathlib import Path

import huggingface_networks as checkpoints
import numpy as np
import pytest
import torch

import mmedge
from mmedge.errors import ExportError
from mmedge_export import export
from mmedge_export.sources.huggingface.candidates import picture, sound
from mmedge_export.sources.huggingface.checkpoint import Checkpoint
from mmedge_export.sources.huggingface.frames import FRAME_NEAR
from mmedge_export.sources.huggingface.fronts import find_front
from mmedge_export.sources.huggingface.sensors import Sensor
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


def test_pictures_become_patches_of_a_grid_in_the_graph(tmp_path):
    checkpoints.save(checkpoints.qwen2_vl, tmp_path, max_new_tokens=4)
    sizes = {"size": {"shortest_edge": 256, "longest_edge": 4096}}
    parts = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    processor = checkpoints.hf.Qwen2VLImageProcessor(**parts, **sizes)
    processor.save_pretrained(tmp_path)
    source = read(tmp_path)
    assert source.model.inputs["image"].shape() == ("batch", 32, 32, 3)
    text = "\n".join(source.remarks)
    assert "of 32 x 32 pixels" in text
    assert "image_grid_thw [[1, 8, 8]]" in text
    pictures = np.stack([picture(32, 32, seed) for seed in range(5, 8)])
    expected = processor(list(pictures), return_tensors="pt")
    with torch.no_grad():
        features = source.model.module(image=torch.from_numpy(pictures))["image_features"]
        network = source.model.loop.step.placed.network
        answer = network.get_image_features(**expected, return_dict=True)
    # Weights of tiny networks are large.
    expected_features = torch.cat(answer.pooler_output)
    torch.testing.assert_close(features.flatten(0, 1), expected_features, rtol=1e-3, atol=1e-3)


def test_preprocessing_that_is_not_the_same_stays_outside(tmp_path):
    """It cuts the picture's border off, which changes its size."""
    checkpoints.save(checkpoints.vit, tmp_path)
    hf.CLIPImageProcessor(
        size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path)
    source = read(tmp_path)
    assert list(source.model.inputs) == ["pixel_values"]
    assert any("stays outside: 'pixel_values' takes" in remark for remark in source.remarks)


@pytest.mark.parametrize(
    "processor",
    [
        image_processor(),
        image_processor(resample=3, size={"height": 40, "width": 36}),
        hf.CLIPImageProcessor(
            size={"shortest_edge": 40}, crop_size={"height": 32, "width": 33}, resample=3
        ),
        image_processor(do_rescale=False, do_normalize=False),
    ],
    ids=["bilinear", "bicubic", "center", "colors"],
)
@pytest.mark.parametrize("size", [(48, 64), (75, 47), (20, 24)])
def test_a_frame_is_resized_as_the_processor_does(size, processor):
    """Front and processor, on pictures that were not tried; 20 x 24 is enlarged."""
    cut = processor.crop_size if processor.do_center_crop else processor.size
    example = torch.zeros(1, 3, cut["height"], cut["width"])
    checkpoint = Checkpoint(Path("x"), None, processor, frame=size)
    raw = find_front(checkpoint, Sensor("pixel_values", "image", None), example)
    frames = [picture(*size, seed=seed) for seed in range(20, 24)]
    frames[0][:] = np.random.default_rng(0).integers(0, 256, frames[0].shape)
    expected = processor(frames, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        planes = raw.front(torch.from_numpy(np.stack(frames)))
    steps = (planes - expected).abs() / raw.front.scale.abs()
    assert steps.max() <= FRAME_NEAR[0]
    assert steps.mean() <= FRAME_NEAR[1]
    assert f"uint8 [rows, {size[0]}, {size[1]}, 3]" in checkpoint.remarks[-1]


def test_a_bundle_takes_whole_frames(tmp_path):
    network = checkpoints.save(checkpoints.vit, tmp_path / "net")
    processor = image_processor()
    processor.save_pretrained(tmp_path / "net")
    options = SourceOptions(frame=(48, 64))
    export(f"hf:{tmp_path / 'net'}", tmp_path / "bundle", samples_limit=1, options=options).close()
    frames = [picture(48, 64, seed) for seed in (5, 6, 7)]
    with torch.no_grad():
        expected = network(**processor(frames, return_tensors="pt")).logits
    with mmedge.load(tmp_path / "bundle") as pipe:
        logits = pipe(image=np.stack(frames))["logits"]
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "processor", "message"),
    [
        (checkpoints.vit, None, "the checkpoint has no image processor"),
        (checkpoints.vit, image_processor(resample=0), "is not resizing by a linear or cubic"),
        (checkpoints.bert, None, "takes no pictures"),
    ],
)
def test_a_frame_that_cannot_be_resized_is_refused(make, processor, message, tmp_path):
    checkpoints.save(make, tmp_path)
    if processor is not None:
        processor.save_pretrained(tmp_path)
    with pytest.raises(ExportError, match=message):
        HuggingFaceSource().read(f"hf:{tmp_path}", SourceOptions(frame=(48, 64)))


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
