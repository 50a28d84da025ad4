"""``zoo:speak``: durations, pitch, vocoder, network, training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

import mmedge
from mmedge.errors import ExportError, InputError
from mmedge_export import export
from mmedge_export.zoo import factory, weight_file
from mmedge_export.zoo.hear import phrases
from mmedge_export.zoo.hear.phrases import LETTERS
from mmedge_export.zoo.logmel import RATE
from mmedge_export.zoo.speak import alignment, espeak, evaluation, pitch, readings
from mmedge_export.zoo.speak.espeak import Reading, Sound
from mmedge_export.zoo.speak.evaluation_set import Evaluation
from mmedge_export.zoo.speak.model import SAMPLES, describe
from mmedge_export.zoo.speak.network import TOKENS, SpeakNet, frames_of
from mmedge_export.zoo.speak.readings import Target
from mmedge_export.zoo.speak.text import CHARACTERS, TOKENIZER, encode
from mmedge_export.zoo.speak.training import SpeakRecipe, SpeakTrainer, collate, errors
from mmedge_export.zoo.speak.vocoder import BANDS, FLOOR, HOP, Vocoder, log_energies

needs_espeak = pytest.mark.skipif(not espeak.is_installed(), reason="needs espeak-ng's library")


@pytest.fixture(scope="module")
def net() -> SpeakNet:
    torch.manual_seed(0)
    return SpeakNet(width=16, layers=1).eval()


def _reading(text: str, *sounds: tuple[str, int]) -> Reading:
    """Each phoneme, of the word at a place, is as long as a tenth of a second."""
    row = tuple(Sound(name, word, 0.1 * n, 0.1 * (n + 1)) for n, (name, word) in enumerate(sounds))
    return Reading(text, np.zeros(1_600 * len(sounds), np.int16), row)


def test_each_letter_has_the_phonemes_that_it_stands_for():
    read = [
        _reading("x", ("E", 0), ("k", 0), ("s", 0)),
        _reading("bob", ("b", 0), ("0", 0), ("b", 0)),
        _reading("so", ("s", 0), ("oU", 0)),
        _reading("mode so", ("m", 0), ("oU", 0), ("d", 0), ("s", 5), ("oU", 5)),
        _reading("dome", ("d", 0), ("oU", 0), ("m", 0)),
    ]
    lengths = [[round(10 * value) for value in row] for row in alignment.durations(read)]
    assert lengths == [[3], [1, 1, 1], [1, 1], [1, 1, 1, 0, 0, 1, 1], [1, 1, 1, 0]]


def test_more_phonemes_than_letters_can_have_are_refused():
    with pytest.raises(ExportError, match="'a' has 4 phonemes, of which a letter takes 3"):
        alignment.durations([_reading("a", *[("x", 0)] * 4)])


def test_the_pitch_of_a_voice_is_found_and_noise_has_no_voice():
    seconds = np.arange(RATE // 2) / RATE
    hertz = 100 + 40 * seconds
    phase = 2 * np.pi * np.cumsum(hertz) / RATE
    voice = sum(np.sin(k * phase) / k for k in range(1, 20)) * 0.2
    noise = np.random.default_rng(0).standard_normal(RATE // 2) * 0.1
    found, voicing = pitch.track(np.concatenate([voice, noise]).astype(np.float32))
    assert len(found) == len(voicing) == 100
    inside = slice(3, 46)
    right = hertz[HOP // 2 :: HOP][inside]
    np.testing.assert_allclose(found[inside], right, rtol=0.01)
    assert voicing[inside].min() == 1.0
    assert voicing[54:97].max() < 0.5
    silent, none = pitch.track(np.zeros(1_000, np.float32))
    assert len(silent) == 7
    assert (silent > 0).all()
    assert (none == 0).all()


def test_the_vocoder_gives_the_bands_pitch_and_voicing_that_it_is_told():
    frames = 60
    torch.manual_seed(0)
    # Slow changes: a frame of 30 ms cannot show quick ones.
    # Weaker at high frequencies, as speech is.
    tilt = torch.linspace(-6.0, -12.0, BANDS // 5)[:, None]
    anchors = (tilt + torch.randn(BANDS // 5, 5))[None]
    energies = torch.nn.functional.interpolate(
        anchors[None], (BANDS, frames), mode="bilinear", align_corners=True
    )[0].transpose(1, 2)
    hertz = torch.linspace(90.0, 150.0, frames)[None]
    for share in (0.0, 1.0):
        voicing = torch.full((1, frames), share)
        pcm = Vocoder()(energies, hertz, voicing)[0]
        assert pcm.shape == (frames * HOP,)
        inside = slice(3, -3)
        distance = (log_energies(pcm) - energies[0])[inside].abs().mean()
        assert float(distance) < 0.35
        found, voiced = pitch.track(pcm.numpy())
        if share:
            np.testing.assert_allclose(found[inside], hertz[0, inside].numpy(), rtol=0.02)
            assert voiced[inside].mean() > 0.9
        else:
            assert voiced[inside].mean() < 0.2


def test_bands_of_silence_and_of_a_sine():
    assert (log_energies(torch.zeros(800)) == np.float32(np.log(FLOOR))).all()
    sine = torch.sin(2 * torch.pi * 1_000.0 * torch.arange(4_800) / RATE)
    bands = log_energies(sine)
    assert bands.shape == (30, BANDS)
    # A Hann window shows a sine in three bins: 1/4, and 1/16 beside it.
    total = torch.exp(bands[5:-5]).sum(dim=1)
    torch.testing.assert_close(total, torch.full_like(total, 0.375), rtol=0.01, atol=0.0)


def test_a_text_alone_and_in_a_padded_batch_is_spoken_alike(net):
    texts = ["go home", "stop", "put the red box on the table"]
    with torch.inference_mode():
        together = net(torch.from_numpy(encode(texts)))
        assert together["audio"].shape == (3, HOP * frames_of(28))
        for row, text in enumerate(texts):
            alone = net(torch.from_numpy(encode([text])))
            count = int(alone["samples"])
            assert 0 < count <= HOP * frames_of(len(text))
            assert int(together["samples"][row]) == count
            torch.testing.assert_close(
                together["audio"][row, :count], alone["audio"][0, :count], rtol=0, atol=2e-3
            )
            assert (together["audio"][row, count:] == 0).all()


def test_frames_are_of_the_character_whose_time_it_is(net):
    x = torch.zeros(1, 3, 16)
    _, inside = net.predictor.decode(x, torch.tensor([[2.0, 0.0, 3.4]]), 8)
    # The middle of frame 5 is at 5.5, past 5.4.
    assert inside.tolist() == [[True] * 5 + [False] * 3]


def test_a_text_of_padding_alone_is_silent_and_the_longest_is_finite(net):
    with torch.inference_mode():
        silent = net(torch.zeros(1, 5, dtype=torch.int64))
        assert silent["samples"].tolist() == [0]
        assert (silent["audio"] == 0).all()
        longest = net(torch.full((1, TOKENS[1]), 5))
    assert torch.isfinite(longest["audio"]).all()
    assert longest["audio"].abs().max() <= 1


def test_the_tokenizer_reads_capitals_leaves_marks_out_and_refuses_others():
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    assert tokenizer.encode(" Go home, now! ").ids == CHARACTERS.encode("go home now")
    assert tokenizer.get_vocab_size() == len(CHARACTERS) == len(LETTERS) + 1
    with pytest.raises(Exception, match="Missing"):
        tokenizer.encode("go 10 meters")


def _targets() -> list[Target]:
    rng = np.random.default_rng(0)
    targets = []
    for text in ("stop", "go home", "thank you", "hello", "yes"):
        durations = rng.uniform(2, 8, len(text)).astype(np.float32)
        count = int(np.ceil(durations.sum()))
        frames = rng.uniform(-10, -5, (count, BANDS + 2)).astype(np.float32)
        frames[:, BANDS:] = [110.0, 1.0]
        targets.append(Target(text, durations, frames))
    return targets


def _trainer(**changes: object) -> SpeakTrainer:
    small = SpeakRecipe(epochs=2, cooldown=1, sentences=2, warmup=2, width=16, layers=1)
    return SpeakTrainer(replace(small, **changes), _targets())


def test_a_run_taken_up_again_ends_the_same(tmp_path):
    whole = _trainer()
    assert whole.steps == 2
    whole.run_epoch()
    whole.save(tmp_path / "half")
    whole.run_epoch()
    torch.manual_seed(12345)  # whatever another process drew before
    resumed = _trainer()
    resumed.restore(tmp_path / "half")
    resumed.run_epoch()
    for part in ("net", "average"):
        first, second = (getattr(t, part).state_dict() for t in (whole, resumed))
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=0, atol=0)


def test_training_learns_bands_durations_pitch_and_voicing():
    trainer = _trainer(epochs=40, rate=5e-3, warmup=5)
    before = evaluation.distances(trainer.net, trainer.targets)
    while trainer.epoch < 40:
        trainer.run_epoch()
    after = evaluation.distances(trainer.net, trainer.targets)
    assert set(after) == {"bands", "durations", "pitch", "voicing"}
    for name, distance in after.items():
        assert distance < 0.8 * before[name], name


def test_errors_do_not_count_padding():
    torch.manual_seed(0)
    net = SpeakNet(width=16, layers=1).eval()
    short, long = _targets()[4], _targets()[2]
    with torch.inference_mode():
        alone = [errors(net, collate([target])) for target in (short, long)]
        together = errors(net, collate([short, long]))
    counts = [int(np.floor(t.durations.sum() + 0.5)) for t in (short, long)]
    for name in ("bands", "pitch", "voicing"):
        parts = [float(row[name]) * count for row, count in zip(alone, counts, strict=True)]
        assert float(together[name]) == pytest.approx(sum(parts) / sum(counts), rel=1e-3)


def test_the_gate_has_sentences_of_the_grammar_each_once():
    samples = list(Evaluation(400))
    texts = [text for _, text in samples]
    assert len(set(texts)) == 400
    requests = phrases.load()
    unseen = {phrase.english for phrase in requests.unseen}
    assert set(texts[: len(unseen)]) == unseen
    for inputs, text in samples:
        assert CHARACTERS.decode(inputs["text"][0].tolist()) == text
        assert len(text) <= TOKENS[1]
    assert set(SAMPLES) & unseen
    assert set(SAMPLES) - unseen


def test_errors_in_what_is_heard_are_counted(monkeypatch):
    heard = {4: "stop", 7: "go to home"}

    def listen(clips: list[np.ndarray]) -> list[str]:
        return [heard[len(clip)] for clip in clips]

    monkeypatch.setattr(evaluation, "listen", listen)
    measured = evaluation.understood(
        lambda texts: [np.zeros(len(text), np.float32) for text in texts], ["go home", "stop"]
    )
    assert measured == {"word_error_rate": 1 / 3, "exact": 0.5, "sentences": 2}
    outputs = [
        {"audio": np.zeros((1, 99), np.float32), "samples": np.array([count])} for count in heard
    ]
    assert evaluation.words_understood(outputs, ["stop", "go home"]) == 0.75


def test_the_exported_network_speaks_texts_of_any_length(net, tmp_path):
    weights = tmp_path / "small.safetensors"
    weight_file.save(net, {}, weights)
    model = factory("speak", weights)
    assert list(model.outputs) == ["audio", "samples"]
    samples = list(model.samples)[:1]
    small = replace(describe(model.module, "small"), samples=samples)
    # The phase of the pitch adds up over all frames, and with it the rounding.
    export(small, tmp_path / "bundle", rtol=1e-2).close()
    with mmedge.load(tmp_path / "bundle", backend="ort", device="cpu") as pipe:
        for text in ("No.", "draw a big teal triangle at the left"):
            spoken = pipe(text=text)
            tokens = encode([text.lower().strip(".")])
            with torch.inference_mode():
                right = net(torch.from_numpy(tokens))
            assert spoken["samples"].tolist() == right["samples"].tolist()
            distance = np.abs(spoken["audio"] - right["audio"].numpy()).max()
            assert distance <= 5e-3 * float(right["audio"].abs().max())
        with pytest.raises(InputError, match="fails on the text"):
            pipe(text="go 10 meters")
        with pytest.raises(InputError, match="64"):
            pipe(text="a" * (TOKENS[1] + 1))


@needs_espeak
def test_readings_of_espeak_have_a_duration_for_each_character(tmp_path):
    texts = ["put the red box on the table", "stop", "set the speed to thirty five"]
    targets = readings.load(texts, tmp_path)
    for text, target in zip(texts, targets, strict=True):
        assert target.text == text
        assert len(target.durations) == len(text)
        assert len(target.frames) == int(np.ceil(target.durations.sum() - 1e-2))
        assert len(target.frames) < frames_of(len(text))
        voicing = target.frames[:, BANDS + 1]
        assert 0.3 < voicing.mean() < 0.95
        # A voice of a man.
        assert 70 < np.median(target.frames[voicing > 0.5, BANDS]) < 140
    again = readings.load(texts, tmp_path)
    for first, second in zip(targets, again, strict=True):
        np.testing.assert_array_equal(first.frames, second.frames)
        np.testing.assert_array_equal(first.durations, second.durations)
    assert len(list(tmp_path.iterdir())) == 1
