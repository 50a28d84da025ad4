from __future__ import annotations

import dataclasses
from dataclasses import asdict

import numpy as np
import pytest
import torch

from mmedge.errors import ExportError
from mmedge_export.zoo import weight_file
from mmedge_export.zoo.speech import Corpus
from mmedge_export.zoo.train import parser_of
from mmedge_export.zoo.training import learning_rate
from mmedge_export.zoo.voices import Utterance
from mmedge_export.zoo.vqa import evaluate
from mmedge_export.zoo.vqa import task as vqa_task
from mmedge_export.zoo.vqa.batch import batches
from mmedge_export.zoo.vqa.network import VqaNet
from mmedge_export.zoo.vqa.questions import Questions
from mmedge_export.zoo.vqa.tokenizer import encode
from mmedge_export.zoo.vqa.training import Recipe, Trainer

TEXTS = ["is there a red shape?", "what color is the shape?", "is there a circle?"]


@pytest.fixture(scope="module")
def data() -> Questions:
    rng = np.random.default_rng(0)
    return Questions(
        rng.integers(0, 256, (6, 64, 64, 3)).astype(np.uint8),
        np.arange(6),
        TEXTS,
        np.repeat(np.arange(6), 2),
        np.array([0, 1, 2] * 4),
        rng.integers(0, 13, 12),
    )


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(1)
    lengths = [4_000, 5_000, 6_500, 3_000, 4_800, 5_200]
    said = [Utterance(TEXTS[n % 3], "en-us", "f1", 170, 50) for n in range(6)]
    pcm = rng.integers(-8_000, 8_000, sum(lengths)).astype(np.int16)
    return Corpus(pcm, np.concatenate([[0], np.cumsum(lengths)]), said)


def recipe(**changes: object) -> Recipe:
    return dataclasses.replace(Recipe(epochs=2, images=3, warmup=2), **changes)


@pytest.mark.parametrize("fusion", ["attention", "weighted"])
def test_a_run_taken_up_again_ends_the_same(fusion, data, corpus, tmp_path):
    whole = Trainer(recipe(fusion=fusion), data, corpus)
    whole.run_epoch()
    whole.save(tmp_path / "half")
    whole.run_epoch()
    torch.manual_seed(12345)  # whatever another process drew before
    resumed = Trainer(recipe(fusion=fusion), data, corpus)
    resumed.restore(tmp_path / "half")
    assert resumed.epoch == 1
    resumed.run_epoch()
    for kept in ("net", "average", "auxiliary"):
        first, second = (getattr(t, kept).state_dict() for t in (whole, resumed))
        assert list(first) == list(second)
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
    assert whole.step == resumed.step == whole.total


def test_another_recipe_is_not_taken_up(data, corpus, tmp_path):
    Trainer(recipe(), data, corpus).save(tmp_path / "state")
    with pytest.raises(ExportError, match="another recipe"):
        Trainer(recipe(seed=1), data, corpus).restore(tmp_path / "state")


def test_training_lowers_the_loss(data, corpus):
    trainer = Trainer(recipe(epochs=6, fusion="concat"), data, corpus)
    losses = [trainer.run_epoch()["loss"] for _ in range(6)]
    assert losses[-1] < losses[0]


def test_batches_repeat_and_hold_every_question_once(data, corpus):
    ids = encode(TEXTS)
    runs = [
        list(batches(data, ids, corpus, images=3, spoken=0, seed=4, epoch=e)) for e in (0, 0, 1)
    ]
    assert [len(r) for r in runs] == [2, 2, 2]
    for first, second in zip(runs[0], runs[1], strict=True):
        for field in dataclasses.fields(first):
            assert torch.equal(getattr(first, field.name), getattr(second, field.name))
    assert not torch.equal(runs[0][0].image, runs[2][0].image)
    assert sum(len(b.answer) for b in runs[0]) == len(data)
    for batch in runs[0]:
        assert (batch.has_text | batch.has_voice).all()
        assert len(batch.text) == len(batch.audio) == len(batch.text_of.unique())


def test_only_so_many_questions_of_a_batch_are_read_aloud(data, corpus):
    ids = encode(TEXTS)
    for batch in batches(data, ids, corpus, images=6, spoken=2, seed=0, epoch=0):
        assert len(batch.audio) == 2
        assert len(batch.text) == 3
        assert not batch.has_voice[batch.text_of >= 2].any()
        assert batch.has_text[batch.text_of >= 2].all()
        assert torch.equal(batch.voice_of[batch.has_voice], batch.text_of[batch.has_voice])


def test_without_augmentation_images_and_clips_are_as_recorded(data, corpus):
    ids = encode(TEXTS)
    images = {frame.tobytes() for frame in data.images}
    clips = {(corpus.clip(n) / np.float32(32768)).tobytes() for n in range(len(corpus))}
    for epoch in (0, 1):
        options = {"images": 3, "spoken": 0, "seed": 4, "epoch": epoch}
        for batch in batches(data, ids, corpus, augmented=False, **options):
            assert {frame.tobytes() for frame in batch.image.numpy()} <= images
            for clip in batch.audio.numpy():
                assert clip[: np.flatnonzero(clip)[-1] + 1].tobytes() in clips
        for batch in batches(data, ids, corpus, **options):
            assert not {frame.tobytes() for frame in batch.image.numpy()} & images
    trainer = Trainer(recipe(augment=False), data, corpus)
    assert {f.tobytes() for b in trainer.batches() for f in b.image.numpy()} <= images


def test_a_share_of_the_data_is_a_draw_of_images_and_of_readings(data, corpus):
    half = data.draw(0.5, seed=3)
    assert len(half.images) == 3
    assert len(half) == 6
    assert half.texts == data.texts
    rows = [int(np.flatnonzero(data.ids == n)[0]) for n in half.ids]
    np.testing.assert_array_equal(half.images, data.images[rows])
    for number, row in enumerate(rows):
        for field in ("text", "answer"):
            np.testing.assert_array_equal(
                getattr(half, field)[half.image == number],
                getattr(data, field)[data.image == row],
            )
    np.testing.assert_array_equal(half.ids, data.draw(0.5, seed=3).ids)
    assert set(data.draw(0.2, seed=3).ids) < set(half.ids)
    assert len({tuple(data.draw(0.5, seed=seed).ids) for seed in range(8)}) > 1
    readings = corpus.draw(0.5, seed=3)
    assert [u.text for u in readings.utterances].count(TEXTS[0]) == 1
    assert set(readings.by_question()) == set(TEXTS)
    clips = [corpus.clip(n).tobytes() for n in range(len(corpus))]
    for n in range(len(readings)):
        source = clips.index(readings.clip(n).tobytes())
        assert readings.utterances[n] == corpus.utterances[source]


def test_the_command_line_takes_share_and_augmentation():
    parser = parser_of("vqa")
    options = parser.parse_args(["--no-augment", "--share", "0.1", "--image", "classical"])
    assert (options.augment, options.share, options.image) == (False, 0.1, "classical")
    assert parser.parse_args([]).augment is True
    assert parser.parse_args(["--audio", "spectrum-cnn"]).audio == "spectrum-cnn"


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(share, monkeypatch, data, corpus, tmp_path):
    monkeypatch.setattr(vqa_task.questions, "load", lambda _: data)
    monkeypatch.setattr(vqa_task, "held_out", lambda *_: corpus)
    monkeypatch.setattr(vqa_task, "corpus", lambda *_, **__: corpus)
    options = parser_of("vqa").parse_args(["--cache", str(tmp_path)])
    with pytest.raises(ExportError, match="--share is above 0 and at most 1"):
        vqa_task.TASK.start(recipe(share=share), options)


def test_a_run_trains_on_its_share(monkeypatch, data, corpus, tmp_path):
    monkeypatch.setattr(vqa_task.questions, "load", lambda _: data)
    monkeypatch.setattr(vqa_task, "held_out", lambda *_: corpus)
    monkeypatch.setattr(vqa_task, "corpus", lambda *_, **__: corpus)
    options = parser_of("vqa").parse_args(["--cache", str(tmp_path)])
    facts = vqa_task.TASK.start(recipe(share=0.5), options).facts()
    assert (facts["train_images"], facts["train_questions"], facts["train_clips"]) == (3, 6, 3)
    whole = vqa_task.TASK.start(recipe(), options).facts()
    assert (whole["train_images"], whole["train_questions"], whole["train_clips"]) == (6, 12, 6)


@pytest.mark.parametrize("step", range(0, 101, 10))
def test_the_learning_rate_stays_in_its_range(step):
    assert 0 <= learning_rate(step, 100, 10) <= 1


def test_evaluation_agrees_with_running_the_network_question_by_question(data, corpus):
    torch.manual_seed(0)
    net = Recipe().network().eval()
    found = evaluate.accuracy(net, data, corpus, batch=5)
    drawn = evaluate.draw(data, corpus)
    right = dict.fromkeys(evaluate.SUBSETS, 0)
    for n in range(len(data)):
        image = torch.from_numpy(data.images[data.image[n]][None])
        text = torch.from_numpy(encode([TEXTS[data.text[n]]]))
        voice = torch.from_numpy(corpus.clip(drawn[n])[None].astype(np.float32) / 32768)
        for name, (has_text, has_voice) in evaluate.SUBSETS.items():
            with torch.inference_mode():
                out = net(image, text * has_text, voice * has_voice)["answer"]
            right[name] += int(out.argmax()) == data.answer[n]
    assert found == {name: count / len(data) for name, count in right.items()}


def test_a_run_can_start_from_the_encoders_of_another(tmp_path):
    path = tmp_path / "first.safetensors"
    torch.manual_seed(1)
    first = Recipe(fusion="concat").network()
    weight_file.save(first, asdict(Recipe(fusion="concat")), path)
    second = Recipe(fusion="conv", start=str(path)).network()
    for name, value in first.encoders.state_dict().items():
        assert torch.equal(second.encoders.state_dict()[name], value)
    with pytest.raises(ExportError, match="not encoders of"):
        Recipe(image="vit", start=str(path)).network()


def test_weights_come_back_as_they_were(tmp_path):
    net = Recipe(fusion="conv", image="vit").network().eval()
    weight_file.save(net, asdict(Recipe()), tmp_path / "net.safetensors", data="none")
    again = weight_file.load(tmp_path / "net.safetensors", VqaNet)
    assert again.parts == net.parts
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
