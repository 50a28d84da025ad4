from __future__ import annotations

import json
import sys
import wave
from dataclasses import asdict

import numpy as np
import pytest
import torch

from mmedge.errors import ExportError
from mmedge_export import zoo
from mmedge_export.zoo import data_files, voices, weight_file
from mmedge_export.zoo.vqa import sample_set
from mmedge_export.zoo.vqa.network import ANSWERS, VqaNet

WEIGHTS = data_files.weights() / "vqa-attention.safetensors"


@pytest.fixture(scope="module")
def model():
    return zoo.factory("vqa-attention")


def answers(model, samples):
    with torch.inference_mode():
        for feeds, target in samples:
            out = model.module(**{name: torch.from_numpy(value) for name, value in feeds.items()})
            yield {name: value.numpy() for name, value in out.items()}, target


def test_the_model_names_its_inputs_and_its_output(model):
    assert list(model.inputs) == ["image", "text", "audio"]
    assert [i.required for i in model.inputs.values()] == [True, False, False]
    assert model.labels == {"answer": ANSWERS}
    assert model.inputs["text"].tokenizer.exists()
    assert model.outputs == ["answer"]
    assert not model.module.training
    for entry in model.inputs.values():
        assert all(name in model.dims for name in entry.dynamic.values())


def test_the_shipped_weights_answer_the_shipped_samples(model):
    found = list(answers(model, model.samples))
    assert len(found) == 36
    by_text, by_voice, by_both = (found[n::3] for n in range(3))
    for way in (by_text, by_both):
        assert model.metric(*map(list, zip(*way, strict=True))) >= 10 / 12
    assert model.metric(*map(list, zip(*by_voice, strict=True))) >= 9 / 12


def test_the_files_are_small():
    assert WEIGHTS.stat().st_size <= 8_000_000
    assert sum(p.stat().st_size for p in data_files.samples("vqa").iterdir()) <= 1_200_000


def test_the_weights_say_how_they_were_made():
    from safetensors import safe_open

    with safe_open(WEIGHTS, framework="pt") as stored:
        metadata = stored.metadata()
    assert json.loads(metadata["parts"])["fusion"] == "attention"
    assert {"seed", "epochs"} <= set(json.loads(metadata["recipe"]))
    assert metadata["data"] == "easy-vqa 1.0"


def test_the_samples_are_varied_and_their_voices_were_held_out():
    samples = sample_set.load()
    assert len({s.image_id for s in samples}) == len(samples) == 12
    assert {"yes", "no", "circle", "rectangle", "triangle"} < {s.answer for s in samples}
    for sample in samples:
        variant = sample.speaker.split(",")[0].split("+")[1]
        assert variant in voices.HELD_OUT
        with wave.open(str(data_files.samples("vqa") / sample.voice)) as reader:
            assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (
                1,
                2,
                16_000,
            )
        assert sample.frame().shape == (64, 64, 3)


def test_a_golden_sample_leaves_out_what_it_says():
    (text, _), (voice, _), (both, _) = sample_set.golden()[:3]
    assert not text["audio"].any()
    assert not voice["text"].any()
    np.testing.assert_array_equal(both["text"], text["text"])
    np.testing.assert_array_equal(both["audio"], voice["audio"])
    for feeds in (text, voice, both):
        assert feeds["image"].shape == (1, 64, 64, 3)
        assert feeds["image"].dtype == np.uint8
        assert feeds["text"].dtype == np.int64
        assert feeds["audio"].dtype == np.float32


def test_the_samples_are_those_of_the_data_set():
    pytest.importorskip("easy_vqa", reason="needs easy-vqa")
    from mmedge_export.zoo.vqa import questions

    data = questions.load("test")
    for sample in sample_set.load():
        row = int(np.flatnonzero(data.ids == sample.image_id)[0])
        np.testing.assert_array_equal(sample.frame(), data.images[row])
        asked = (data.image == row) & (data.text == data.texts.index(sample.question))
        assert ANSWERS[int(data.answer[asked][0])] == sample.answer


def test_an_unknown_name_is_refused():
    with pytest.raises(ExportError, match="there are: vqa-attention, vqa-concat"):
        zoo.factory("vqa-lidar")


def test_weights_that_are_not_shipped_say_how_to_train_them():
    with pytest.raises(ExportError, match="mmedge-train vqa --fusion concat"):
        zoo.factory("vqa-concat")


def test_given_weights_are_used(tmp_path):
    from mmedge_export.zoo.vqa.training import Recipe

    path = tmp_path / "vqa-conv.safetensors"
    weight_file.save(VqaNet(fusion="conv"), asdict(Recipe(fusion="conv")), path)
    assert zoo.factory("vqa-conv", path).module.parts["fusion"] == "conv"
    with pytest.raises(ExportError, match="conv fusion, not the concat"):
        zoo.factory("vqa-concat", path)


def test_without_mmedge_zoo_the_fix_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "CHECKOUT", tmp_path / "none")
    monkeypatch.setitem(sys.modules, data_files.PACKAGE, None)
    with pytest.raises(ExportError, match=r"pip install mmedge-zoo, or .*pip install \./zoo"):
        zoo.factory("vqa-attention")


def test_without_a_checkout_the_installed_files_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(data_files, "CHECKOUT", tmp_path / "none")
    monkeypatch.syspath_prepend(str(WEIGHTS.parents[2]))
    assert data_files.weights() == WEIGHTS.parent


def test_a_broken_weight_file_is_refused(tmp_path):
    path = tmp_path / "vqa-attention.safetensors"
    with pytest.raises(ExportError, match="no weights at"):
        zoo.factory("vqa-attention", path)
    path.write_bytes(b"not tensors")
    with pytest.raises(ExportError, match="does not hold the weights"):
        zoo.factory("vqa-attention", path)
