from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mmedge.errors import ExportError
from mmedge_export.zoo.vqa.fusion import MODALITIES
from mmedge_export.zoo.vqa.network import ANSWERS, AUDIO, FUSION, IMAGE, TEXT, VqaNet


def inputs(batch: int, samples: int, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "image": torch.randint(0, 256, (batch, 64, 64, 3), dtype=torch.uint8, generator=g),
        "text": torch.randint(1, 28, (batch, 16), generator=g),
        "audio": torch.randn(batch, samples, generator=g) * 0.1,
    }


def network(seed: int = 0, **parts: str) -> VqaNet:
    torch.manual_seed(seed)
    return VqaNet(**parts).eval()


@pytest.mark.parametrize(
    ("image", "text", "audio", "fusion"), list(itertools.product(IMAGE, TEXT, AUDIO, FUSION))
)
def test_every_combination_answers_with_and_without_each_modality(image, text, audio, fusion):
    net = network(image=image, text=text, audio=audio, fusion=fusion)
    given = inputs(4, 4_000)
    given["text"][1] = 0
    given["text"][2, 5:] = 0
    given["audio"][2] = 0
    given["text"][3] = 0
    given["audio"][3] = 0
    with torch.inference_mode():
        logits = net(**given)["answer"]
    assert logits.shape == (4, len(ANSWERS))
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("kind", ["image", "text", "audio", "fusion"])
def test_an_unknown_part_is_refused_with_the_known_ones(kind):
    with pytest.raises(ExportError, match=f"no {kind} part is named 'lidar'; there are: [a-z]+, "):
        VqaNet(**{kind: "lidar"})


@pytest.mark.parametrize("samples", [1_600, 1_601, 1_759, 80_000])
@pytest.mark.parametrize("audio", sorted(AUDIO))
def test_the_shortest_and_the_longest_voice(audio, samples):
    net = network(audio=audio)
    with torch.inference_mode():
        assert torch.isfinite(net(**inputs(1, samples))["answer"]).all()


@pytest.mark.parametrize("fusion", sorted(FUSION))
@pytest.mark.parametrize("absent", ["text", "audio"])
def test_what_an_absent_modality_carries_is_not_read(fusion, absent):
    net = network(fusion=fusion)
    with torch.inference_mode():
        memories = {m: net.encode(m, raw) for m, raw in inputs(3, 5_000).items()}
        memory, valid = memories[absent]
        nothing = torch.zeros_like(valid)
        first = net.fuse({**memories, absent: (memory, nothing)})
        garbage = torch.randn_like(memory) * 100
        second = net.fuse({**memories, absent: (garbage, nothing)})
        heard = net.fuse(memories)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-6)
    assert not torch.allclose(first, heard, atol=1e-4)


@pytest.mark.parametrize("fusion", sorted(FUSION))
def test_nothing_at_all_is_still_finite(fusion):
    net = network(fusion=fusion)
    with torch.inference_mode():
        memories = {
            m: (memory, torch.zeros_like(valid))
            for m, raw in inputs(2, 5_000).items()
            for memory, valid in [net.encode(m, raw)]
        }
        assert torch.isfinite(net.fuse(memories)).all()


@pytest.mark.parametrize("fusion", sorted(FUSION))
def test_a_row_does_not_depend_on_its_batch(fusion):
    net = network(fusion=fusion)
    given = inputs(5, 6_400)
    with torch.inference_mode():
        together = net(**given)["answer"]
        for row in range(5):
            alone = net(**{m: raw[row : row + 1] for m, raw in given.items()})["answer"]
            torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_shipped_network_is_small():
    assert sum(p.numel() for p in VqaNet().parameters()) * 4 < 8e6


def test_every_modality_reaches_the_answer():
    net = network()
    given = inputs(2, 6_400)
    other = inputs(2, 6_400, seed=1)
    with torch.inference_mode():
        base = net(**given)["answer"]
        for modality in MODALITIES:
            changed = net(**{**given, modality: other[modality]})["answer"]
            assert not torch.allclose(base, changed, atol=1e-4)
