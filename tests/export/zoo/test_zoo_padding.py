from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmedge_export.zoo.vqa.network import AUDIO, FUSION, VqaNet
from mmedge_export.zoo.vqa.text import GruText, TransformerText

torch.manual_seed(0)
ENCODERS: dict[str, nn.Module] = {name: part(32).eval() for name, part in AUDIO.items()}


@pytest.mark.parametrize("name", sorted(ENCODERS))
@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1_600, 9_000), padding=st.integers(1, 9_000), seed=st.integers(0, 2**16))
def test_zeros_after_the_voice_change_no_token(name, samples, padding, seed):
    pcm = torch.randn(1, samples, generator=torch.Generator().manual_seed(seed)) * 0.1
    with torch.inference_mode():
        tokens, valid = ENCODERS[name](pcm)
        longer, longer_valid = ENCODERS[name](F.pad(pcm, (0, padding)))
    assert longer_valid.sum() == valid.sum()
    kept = tokens[valid]
    torch.testing.assert_close(longer[longer_valid], kept, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["cnn", "spectrum-cnn"])
@settings(max_examples=20, deadline=None)
@given(samples=st.integers(1_600, 20_000))
def test_zeros_alone_are_no_voice(name, samples):
    with torch.inference_mode():
        tokens, valid = ENCODERS[name](torch.zeros(2, samples))
    assert not valid.any()
    assert torch.isfinite(tokens).all()


@pytest.mark.parametrize("name", ["cnn", "spectrum-cnn"])
@settings(max_examples=30, deadline=None)
@given(at=st.integers(0, 7_999), value=st.sampled_from([1 / 32768, -1.0, 1e-30]))
def test_one_sample_that_is_not_zero_is_a_voice(name, at, value):
    pcm = torch.zeros(1, 8_000)
    pcm[0, at] = value
    with torch.inference_mode():
        assert ENCODERS[name](pcm)[1].any()


@pytest.mark.parametrize("fusion", sorted(FUSION))
def test_the_padding_of_a_batch_changes_no_answer(fusion):
    torch.manual_seed(0)
    net = VqaNet(fusion=fusion).eval()
    image = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    text = torch.zeros(2, 16, dtype=torch.int64)
    voices = [torch.randn(1, 3_333) * 0.1, torch.randn(1, 9_000) * 0.1]
    with torch.inference_mode():
        padded = torch.cat([F.pad(v, (0, 9_000 - v.shape[1])) for v in voices])
        together = net(image, text, padded)["answer"]
        for row, voice in enumerate(voices):
            pick = slice(row, row + 1)
            alone = net(image[pick], text[pick], voice)["answer"]
            torch.testing.assert_close(together[pick], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", sorted(FUSION))
def test_silence_of_any_length_is_the_same_absence(fusion):
    torch.manual_seed(0)
    net = VqaNet(fusion=fusion).eval()
    image = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    text = torch.arange(16)[None]
    with torch.inference_mode():
        short = net(image, text, torch.zeros(1, 1_600))["answer"]
        long = net(image, text, torch.zeros(1, 30_000))["answer"]
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("part", [TransformerText, GruText])
def test_what_pads_a_question_is_not_valid(part):
    torch.manual_seed(0)
    ids = torch.tensor([[5, 6, 7] + [0] * 13, [0] * 16])
    tokens, valid = part(32).eval()(ids)
    assert valid.sum(1).tolist() == [3, 0]
    assert torch.isfinite(tokens).all()
