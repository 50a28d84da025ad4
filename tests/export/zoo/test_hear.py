"""``zoo:hear``: requests, network, training; its shipped weights are in another file."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmedge_export.zoo import voices
from mmedge_export.zoo.characters import END, Characters
from mmedge_export.zoo.hear import phrases
from mmedge_export.zoo.hear.evaluation import held_out, measure, torch_writer
from mmedge_export.zoo.hear.evaluation_set import Evaluation
from mmedge_export.zoo.hear.grammar import FAMILIES, FIXED
from mmedge_export.zoo.hear.network import SAMPLES, SIZE, HearNet
from mmedge_export.zoo.hear.numbers import in_chinese, in_english
from mmedge_export.zoo.hear.training import HearRecipe, HearTrainer
from mmedge_export.zoo.speech import Corpus
from mmedge_export.zoo.text_training import LetterSpotter, Texts

REQUESTS = phrases.load()
CHARACTERS = Characters(phrases.characters(), phrases.LANGUAGES)
needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")


@pytest.fixture(scope="module")
def net() -> HearNet:
    torch.manual_seed(0)
    return HearNet(CHARACTERS.characters).eval()


def test_numbers_in_words():
    assert [in_english(n) for n in (0, 7, 13, 20, 35, 99)] == [
        "zero", "seven", "thirteen", "twenty", "thirty five", "ninety nine",
    ]  # fmt: skip
    assert [in_chinese(n) for n in (0, 2, 10, 12, 20, 35)] == [
        "零", "二", "十", "十二", "二十", "三十五",
    ]  # fmt: skip
    assert in_chinese(2, counts=True) == "两"
    assert in_chinese(12, counts=True) == "十二"
    for write in (in_english, in_chinese):
        assert len({write(n) for n in range(100)}) == 100
        for number in (-1, 100):
            with pytest.raises(ValueError, match=f"from 0 to 99, got {number}"):
                write(number)


def test_no_request_is_both_known_and_unseen_and_each_has_one_translation():
    known = {phrase.english: phrase for phrase in REQUESTS.known}
    unseen = {phrase.english for phrase in REQUESTS.unseen}
    assert len(known) == len(REQUESTS.known) > 1000
    assert len(unseen) == len(REQUESTS.unseen) > 300
    assert not unseen & set(known)
    families = sum(family.unseen for family in FAMILIES)
    assert len(unseen) == families  # each family has as many as it says
    assert set(FIXED) <= set(known)


def test_unseen_requests_are_made_of_words_that_known_ones_have():
    words = {word for phrase in REQUESTS.known for word in phrase.english.split()}
    signs = {sign for phrase in REQUESTS.known for sign in phrase.chinese}
    for phrase in REQUESTS.unseen:
        assert set(phrase.english.split()) <= words
        assert set(phrase.chinese) <= signs


def test_requests_are_plain_text_that_the_decoder_has_room_for():
    for phrase in (*REQUESTS.known, *REQUESTS.unseen):
        assert set(phrase.english) <= set(phrases.LETTERS)
        assert phrase.english == " ".join(phrase.english.split())
        assert phrase.chinese
        assert all("一" <= sign <= "鿿" for sign in phrase.chinese)
        # The language is before, the end behind.
        assert max(len(phrase.english), len(phrase.chinese)) + 2 <= SIZE.places


def test_the_questions_of_easy_vqa_are_known():
    questions = pytest.importorskip("mmedge_export.zoo.vqa.questions")
    pytest.importorskip("easy_vqa")
    known = {phrase.english for phrase in REQUESTS.known}
    texts = questions.load("test").texts
    assert len(texts) == 107
    assert {text.rstrip("?") for text in texts} <= known


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("is there a red shape in the image", "图像里有红色图形吗"),
        ("what color is the circle", "圆形是什么颜色"),
        ("draw a big teal triangle at the left", "在左边画一个青色的大三角形"),
        ("draw a red circle", "画一个红色的圆形"),
        ("drive forward two meters", "向前开两米"),
        ("set the speed to thirty", "把速度设为三十"),
        ("put the red box on the table", "把红色的盒子放在桌子上"),
        ("turn off the light in the kitchen", "关掉厨房的灯"),
    ],
)
def test_translations(english, chinese):
    from mmedge_export.zoo.hear.phrases import _requests

    texts = {phrase.english: phrase.chinese for family in FAMILIES for phrase in _requests(family)}
    assert texts[english] == chinese


def test_a_clip_alone_and_in_a_padded_batch_gives_the_same(net):
    generator = torch.Generator().manual_seed(1)
    clips = [torch.randn(n, generator=generator) * 0.1 for n in (1_600, 20_333, 33_000)]
    longest = 40_000
    with torch.inference_mode():
        together = net(torch.stack([F.pad(clip, (0, longest - len(clip))) for clip in clips]))
        tokens = torch.tensor([[1, 9, 7, 5]])
        scores = net.write(tokens.expand(3, -1), together)
        for row, clip in enumerate(clips):
            alone = net(clip[None])
            count = int((alone["cross_bias"] == 0).sum())
            bias = together["cross_bias"][row].flatten()
            assert (bias[:count] == 0).all()
            assert (bias[count:] < 0).all()
            for name in SIZE.states:
                torch.testing.assert_close(
                    together[f"cross_{name}"][row, :, :count],
                    alone[f"cross_{name}"][0, :, :count],
                    rtol=1e-4,
                    atol=1e-4,
                )
            torch.testing.assert_close(
                scores[row : row + 1], net.write(tokens, alone), rtol=1e-4, atol=1e-4
            )


def test_silence_and_the_longest_signal_give_finite_scores(net):
    with torch.inference_mode():
        for audio in (torch.zeros(1, SAMPLES[0]), torch.ones(1, SAMPLES[1])):
            assert torch.isfinite(net.write(torch.tensor([[1, 5]]), net(audio))).all()


def test_step_by_step_is_the_run_with_all_tokens(net):
    audio = torch.randn(2, 9_000, generator=torch.Generator().manual_seed(2)) * 0.1
    audio[1, 5_000:] = 0
    tokens = torch.tensor([[1, 9, 7, 5], [2, 6, 6, 8]])
    with torch.inference_mode():
        seen = net(audio)
        whole = net.write(tokens, seen)
        past = net.past(seen)
        for place in range(4):
            one = tokens[:, place : place + 1]
            outputs = net.step(one, torch.tensor([place]), **past, **seen)
            torch.testing.assert_close(outputs["logits"][:, 0], whole[:, place])
            past = {f"past_{name}": outputs[f"present_{name}"] for name in SIZE.states}


def test_the_tokenizer_has_a_token_for_each_language():
    tokenizer = CHARACTERS.tokenizer()
    assert tokenizer.get_vocab_size() == len(CHARACTERS)
    assert tokenizer.encode("<zh>").ids == [CHARACTERS.language("zh")] == [2]
    text = "draw 画一个圆形"
    assert tokenizer.encode(text).ids == CHARACTERS.encode(text)
    assert tokenizer.decode([*CHARACTERS.encode(text), END, END]) == text


def test_ctc_of_a_padded_row_counts_its_own_tokens_alone():
    torch.manual_seed(0)
    spotter = LetterSpotter(8, phrases.LETTERS, CHARACTERS, steps=2)
    encoded = torch.randn(1, 12, 8)
    padded = torch.cat([encoded, torch.randn(1, 5, 8)], dim=1)
    valid = torch.arange(17)[None] < 12
    texts = Texts([CHARACTERS.encode("go home")], 1)
    alone = spotter(encoded, texts, torch.ones(1, 12, dtype=torch.bool))
    torch.testing.assert_close(spotter(padded, texts, valid), alone)
    torch.testing.assert_close(spotter(encoded, texts), alone)
    # Twelve tokens hold up to 24 letters.
    long = Texts([CHARACTERS.encode("open the window now")], 1)
    assert 0 < float(spotter(encoded, long).detach()) < torch.inf


def _corpus(texts: list[str]) -> Corpus:
    rng = np.random.default_rng(0)
    clips = [
        rng.integers(-9_000, 9_000, 4_000 + 900 * n).astype(np.int16) for n in range(len(texts))
    ]
    starts = np.cumsum([0, *(len(clip) for clip in clips)])
    utterances = [voices.Utterance(text, "en-gb", "f1", 175, 50) for text in texts]
    return Corpus(np.concatenate(clips), starts, utterances)


def _trainer(**changes: object) -> HearTrainer:
    small = HearRecipe(epochs=2, cooldown=1, steps=3, clips=2, warmup=2)
    corpus = _corpus(["stop", "go home", "thank you", "hello", "yes"])
    return HearTrainer(replace(small, **changes), corpus, REQUESTS.known, CHARACTERS)


def test_a_run_taken_up_again_ends_the_same(tmp_path):
    whole = _trainer()
    whole.run_epoch()
    whole.save(tmp_path / "half")
    report = whole.run_epoch()
    assert set(report) == {"loss", "en", "zh"}
    torch.manual_seed(12345)  # whatever another process drew before
    resumed = _trainer()
    resumed.restore(tmp_path / "half")
    resumed.run_epoch()
    for part in ("net", "average", "auxiliary"):
        first, second = (getattr(t, part).state_dict() for t in (whole, resumed))
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=0, atol=0)


def test_batches_have_clips_of_like_length_and_every_clip_once_before_any_twice():
    trainer = _trainer(steps=5)
    batches = list(trainer.batches())
    assert len(batches) == 5
    heard = [tuple(row) for b in batches for row in b.texts["en"].tokens.tolist()]
    assert len(heard) == 10
    counts = {text: heard.count(text) for text in heard}
    stripped: dict[tuple[int, ...], int] = {}
    for text, count in counts.items():
        key = tuple(token for token in text if token != END)
        stripped[key] = stripped.get(key, 0) + count
    assert sorted(stripped.values()) == [2, 2, 2, 2, 2]


def test_figures_count_words_and_texts():
    texts = ["stop", "go home", "thank you"]
    corpus = _corpus(texts)
    answers = {"en": ["stop", "go to home", "thank you"], "zh": ["停下", "回家", "谢"]}

    def writer(audio: np.ndarray, language: str) -> list[str]:
        assert audio.shape == (3, 5_800)
        return answers[language]

    known = [phrase for phrase in REQUESTS.known if phrase.english in texts]
    english = measure(writer, corpus, known, "en")
    assert english["exact"] == pytest.approx(2 / 3)
    assert english["word_error_rate"] == 1 / 5
    assert english["clips"] == 3
    chinese = measure(writer, corpus, known, "zh")
    assert chinese["characters"] == 1 - 1 / 6
    assert "word_error_rate" not in chinese


@needs_espeak
def test_held_out_clips_and_the_gate_are_of_held_out_voices(tmp_path, net):
    clips = held_out(REQUESTS.unseen[:2], 1, 0, tmp_path)
    assert {u.variant for u in clips.utterances} <= set(voices.HELD_OUT)
    assert set(measure(torch_writer(net), clips, REQUESTS.unseen, "zh")) == {
        "exact", "characters", "clips",
    }  # fmt: skip
    samples = list(Evaluation(CHARACTERS, count=4))
    assert [int(feeds["language"][0, 0]) for feeds, _ in samples] == [1, 2, 1, 2]
    known = {phrase.english: phrase.chinese for phrase in REQUESTS.known}
    assert {text for _, text in samples[::2]} <= set(known)
    assert {text for _, text in samples[1::2]} <= set(known.values())
    for feeds, _ in samples:
        assert feeds["audio"].dtype == np.float32
        assert SAMPLES[0] <= feeds["audio"].shape[1] <= SAMPLES[1]
    again = list(Evaluation(CHARACTERS, count=4))
    for (feeds, text), (other, other_text) in zip(samples, again, strict=True):
        np.testing.assert_array_equal(feeds["audio"], other["audio"])
        assert text == other_text
