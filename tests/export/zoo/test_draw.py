"""``zoo:draw``: captions, pictures, network, training; its shipped weights are in another file."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mmedge_export.zoo.draw import captions, evaluation, pictures
from mmedge_export.zoo.draw.captions import (
    COLORS,
    HELD_OUT,
    PLACES,
    SHAPES,
    SIZES,
    TOKENIZER,
    Caption,
    encode,
)
from mmedge_export.zoo.draw.drawing import SCHEDULE, SHAPE, to_bytes, torch_artist
from mmedge_export.zoo.draw.evaluation_set import Evaluation
from mmedge_export.zoo.draw.judge import Verdict
from mmedge_export.zoo.draw.measure import BIG, SIDE, SMALL, Box, measure
from mmedge_export.zoo.draw.network import VOCABULARY, DrawNet
from mmedge_export.zoo.draw.pictures import Pictures
from mmedge_export.zoo.draw.training import DrawRecipe, DrawTrainer
from mmedge_export.zoo.vqa.network import ANSWERS
from mmedge_export.zoo.vqa.questions import Questions

CAPTIONS = st.builds(
    Caption,
    st.sampled_from([*COLORS, None]),
    st.sampled_from([*SHAPES, None]),
    st.sampled_from([*SIZES, None]),
    st.sampled_from([*PLACES, None]),
)
SEEDS = st.integers(0, 2**32)


@st.composite
def boxes(draw) -> Box:
    """Boxes of at least two pixels a side."""
    height, width = draw(st.integers(2, 34)), draw(st.integers(2, 34))
    top, left = draw(st.integers(0, SIDE - height)), draw(st.integers(0, SIDE - width))
    return Box(top, left, top + height, left + width)


def picture(box: Box, color=(0, 128, 128), background=(250, 240, 230)) -> np.ndarray:
    image = np.full((SIDE, SIDE, 3), background, np.uint8)
    image[box.top : box.bottom, box.left : box.right] = color
    return image


@pytest.fixture(scope="module")
def net() -> DrawNet:
    torch.manual_seed(0)
    network = DrawNet().eval()
    torch.nn.init.normal_(network.step.out.weight, std=0.1)  # else it draws gray alone
    return network


def test_the_tokenizer_file_is_that_of_the_captions():
    assert Tokenizer.from_file(str(TOKENIZER)).to_str() == captions.build_tokenizer().to_str()
    assert captions.build_tokenizer().get_vocab_size() <= VOCABULARY


@given(CAPTIONS, SEEDS)
@settings(max_examples=40, deadline=None)
def test_every_training_caption_is_in_known_words_and_says_no_more_than_its_picture(caption, seed):
    text = captions.vary(caption, np.random.default_rng(seed))
    ids = encode([text, caption.text])
    assert not (ids == 1).any()
    assert (ids[:, 0] != 0).all()
    plain = text.replace("large", "big").replace("grey", "gray").replace("center", "middle")
    assert {*plain.split()} <= {*caption.text.split(), "shape"}


def test_all_parts_are_left_out_at_times_and_synonyms_are_said():
    rng, caption = np.random.default_rng(0), Caption("gray", "circle", "big", "in the middle")
    texts = {captions.vary(caption, rng) for _ in range(600)}
    assert len(texts) > 30
    assert {"a shape", "a gray circle", "a large grey circle in the center"} <= texts


@given(boxes(), SEEDS)
@settings(max_examples=40, deadline=None)
def test_a_shape_is_measured_whatever_the_background_and_stray_pixels(box, seed):
    rng = np.random.default_rng(seed)
    background = rng.integers(200, 256, 3)
    image = picture(box, COLOR_VALUES[int(rng.integers(len(COLOR_VALUES)))], background)
    assert measure(image) == box
    y, x = rng.integers(SIDE, size=2)
    assume(not box.top - 1 <= y <= box.bottom)
    assume(not box.left - 1 <= x <= box.right)
    image[y, x] = 0
    assert measure(image) == box


COLOR_VALUES = [(0, 0, 0), (128, 128, 128), (255, 255, 0), (165, 42, 42), (0, 255, 0)]


def test_where_nothing_stands_out_nothing_is_measured():
    assert measure(np.full((SIDE, SIDE, 3), 240, np.uint8)) is None


@given(boxes())
@settings(max_examples=60, deadline=None)
def test_what_a_training_caption_may_say_is_right_of_the_picture(box):
    for place in box.places():
        assert box.has_place(place)
    if box.size is not None:
        assert box.has_size(box.size)
        assert not box.has_size(next(size for size in SIZES if size != box.size))
    assert (box.size is None) == (SMALL < box.longest < BIG)


def test_places_are_thirds():
    box = Box(40, 2, 60, 20)
    assert box.places() == ["at the left", "at the bottom", "at the bottom left"]
    assert Box(24, 24, 40, 40).places() == ["in the middle"]
    near_a_border = Box(17, 24, 27, 40)
    assert near_a_border.places() == []
    assert near_a_border.has_place("in the middle")


@given(boxes(), SEEDS)
@settings(max_examples=60, deadline=None)
def test_a_moved_shape_is_whole_and_its_words_are_right(box, seed):
    image = picture(box)
    before = image.copy()
    moved, size, place = pictures.move(image, np.random.default_rng(seed))
    again, *_ = pictures.move(image, np.random.default_rng(seed))
    np.testing.assert_array_equal(moved, again)
    np.testing.assert_array_equal(image, before)
    result = measure(moved)
    assert result is not None
    assert (result.bottom - result.top, result.right - result.left) == (
        box.bottom - box.top,
        box.right - box.left,
    )
    assert size == box.size
    assert place is None or result.has_place(place)


def test_a_shape_is_moved_anywhere():
    rng, places = np.random.default_rng(0), set()
    for _ in range(600):
        places.add(pictures.move(picture(Box(20, 20, 30, 30)), rng)[2])
    assert places == {*PLACES, None}


def questions(*rows: tuple[int, str, str], images: int) -> Questions:
    """Pairs of a question and its answer about numbered images."""
    texts = sorted({text for _, text, _ in rows})
    return Questions(
        np.zeros((images, SIDE, SIDE, 3), np.uint8),
        np.arange(images),
        texts,
        np.array([image for image, _, _ in rows]),
        np.array([texts.index(text) for _, text, _ in rows]),
        np.array([ANSWERS.index(answer) for _, _, answer in rows]),
    )


def test_questions_and_answers_tell_color_and_shape():
    data = questions(
        (0, "what color is the circle?", "teal"),
        (1, "what is the blue shape?", "rectangle"),
        (2, "is no red shape present?", "no"),
        (2, "is there a triangle?", "yes"),
        (3, "is there a triangle?", "no"),
        (3, "does the image not contain a circle?", "yes"),
        (3, "what color is the shape?", "black"),
        images=5,
    )
    assert pictures.facts(data) == [
        Caption("teal", "circle"),
        Caption("blue", "rectangle"),
        Caption("red", "triangle"),
        Caption("black", None),
        Caption(),
    ]


def test_no_training_picture_has_or_may_have_a_combination_that_is_held_out(monkeypatch):
    data = questions(
        (0, "what is the teal shape?", "triangle"),
        (1, "what is the teal shape?", "circle"),
        (2, "what color is the shape?", "teal"),  # of which shape, nobody knows
        (3, "what color is the shape?", "black"),  # no black shape is held out
        (4, "is there a triangle?", "yes"),
        images=6,
    )
    monkeypatch.setattr(pictures.questions, "load", lambda split: data)
    kept = pictures.load("train")
    assert kept.captions == (Caption("teal", "circle"), Caption("black", None))
    assert kept.images.shape == (2, SIDE, SIDE, 3)


def test_every_color_and_every_shape_is_trained_in_other_combinations():
    for color in COLORS:
        assert sum((color, shape) in HELD_OUT for shape in SHAPES) <= 1
    for shape in SHAPES:
        assert sum((color, shape) in HELD_OUT for color in COLORS) <= 2


@given(st.permutations(("teal", "triangle", "left", "big")))
@settings(max_examples=5, deadline=None)
def test_the_order_of_words_and_words_that_are_not_known_do_not_count(words):
    torch.manual_seed(0)
    network = DrawNet().eval()
    texts = [" ".join(words), "big left  teal, please: triangle!"]
    with torch.inference_mode():
        first, second = network(torch.from_numpy(encode(texts)))["condition"]
        nothing, unknown = network(torch.from_numpy(encode(["", "please"])))["condition"]
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(nothing, unknown, rtol=0, atol=0)
    assert (first - nothing).abs().max() > 0.1


def test_the_last_step_gives_the_predicted_picture(net):
    (*_, last) = SCHEDULE.rows
    latent, condition = torch.randn(2, *SHAPE), torch.randn(2, 128)
    time = torch.tensor(last[0], dtype=torch.float32)
    with torch.inference_mode():
        velocity = net.step(latent, time, condition)["prediction"]
        sample = net.step.sample(latent, time.expand(2), condition)
    torch.testing.assert_close(latent + last[6] * velocity, sample, rtol=1e-4, atol=1e-4)


def test_times_are_those_of_training_and_get_smaller():
    times = [row[0] for row in SCHEDULE.rows]
    assert len(times) <= 12
    assert times[0] == 1
    assert all(before > after for before, after in pairwise(times))


def test_guidance_decides_how_much_a_caption_counts(net):
    noise = evaluation.noises(1).repeat(2, axis=0)
    texts = ["a big red circle", "a small black triangle"]
    deaf, guided = (torch_artist(net, guidance)(texts, noise) for guidance in (0.0, 2.0))
    np.testing.assert_array_equal(*deaf)
    assert (guided[0] != guided[1]).any()
    assert guided.dtype == np.uint8
    assert guided.shape == (2, SIDE, SIDE, 3)


def test_pictures_do_not_depend_on_the_batch(net):
    texts, noise = ["a circle", "a red shape", ""], evaluation.noises(3)
    together, alone = (torch_artist(net, batch=batch)(texts, noise) for batch in (3, 1))
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_bytes_are_rounded():
    assert to_bytes(np.array([0, 0.4 / 255, 0.6 / 255, 1], np.float32)).tolist() == [0, 0, 1, 255]


def verdict(color: str, shape: str, box: Box | None) -> Verdict:
    return Verdict(color, shape, box)


def test_only_what_a_caption_says_is_judged():
    seen = verdict("teal", "circle", Box(2, 2, 12, 12))
    said = Caption("teal", "triangle", "small", "at the bottom")
    assert seen.right(said) == {"color": True, "shape": False, "size": True, "place": False}
    assert seen.right(Caption(place="at the top left")) == {"place": True}
    assert verdict("yes", "no", None).right(replace(said, color=None)) == {
        "shape": False, "size": False, "place": False,
    }  # fmt: skip


def test_shares_and_spread_count():
    rows = [verdict("teal", "circle", Box(0, 0, 10, 10)), verdict("red", "circle", None)]
    said = [Caption("teal", "circle"), Caption("teal", "circle", "small")]
    assert evaluation.shares(rows, said) == {
        "color": 0.5, "shape": 1.0, "size": 0.0, "color and shape": 0.5, "all": 0.5, "pictures": 2,
    }  # fmt: skip
    apart = [verdict("red", "circle", Box(0, 10 * n, 10, 10 * n + 10)) for n in range(3)]
    assert evaluation.spread(apart) == {
        "x": pytest.approx(np.std([0, 10, 20])), "y": 0, "side": 0, "boxes": 1,
    }  # fmt: skip
    assert evaluation.spread([apart[0]] * 4)["boxes"] == 0.25
    assert evaluation.spread([rows[1]])["boxes"] == 0


def test_what_is_drawn_in_tests_is_split_by_combination():
    for test in evaluation.TESTS:
        assert {caption.is_held_out for caption in test.captions} == {"held out" in test.name}
        assert len(test.captions) * test.times == 360


def test_the_captions_of_the_gate_are_alike_each_time():
    first, second = ([target for _, target in Evaluation(8)] for _ in range(2))
    assert first == second
    assert len({*first}) > 4
    for inputs, target in Evaluation(2):
        np.testing.assert_array_equal(inputs["text"], encode([target.text]))


@pytest.fixture(scope="module")
def data() -> Pictures:
    images = np.stack([picture(Box(n, 5, n + 20, 30)) for n in range(4)])
    return Pictures(images, tuple(Caption(color, "rectangle") for color in COLORS[:4]))


def _trainer(data: Pictures, **changes: object) -> DrawTrainer:
    small = DrawRecipe(epochs=2, cooldown=1, steps=2, images=2, warmup=2)
    return DrawTrainer(replace(small, **changes), data)


@pytest.mark.parametrize("compute", ["bfloat16", "float32"])
def test_the_loss_of_the_right_picture_is_zero_and_of_others_is_not(data, monkeypatch, compute):
    trainer = _trainer(data, compute=compute)
    batch = next(iter(trainer.batches()))
    right = batch.images.permute(0, 3, 1, 2).float() / 127.5 - 1
    times = []

    def sample(latent, time, condition):
        times.extend(time.tolist())
        return right.clone()

    monkeypatch.setattr(trainer.net.step, "sample", sample)
    loss, counts = trainer.loss(batch)
    assert float(loss) == 0
    assert counts == {}
    assert all(0 < time <= 1 for time in times)
    right += 1
    assert float(trainer.loss(batch)[0]) >= 1


def test_some_pictures_are_shown_without_text(data):
    def share(empty: float) -> float:
        texts = [batch.text for batch in _trainer(data, empty=empty, steps=20).batches()]
        return float((torch.cat(texts) == 0).all(dim=1).float().mean())

    assert share(0.0) == 0
    assert 0.2 < share(0.5) < 0.8
    assert share(1.0) == 1


def test_a_run_taken_up_again_ends_the_same(data, tmp_path):
    whole = _trainer(data)
    whole.run_epoch()
    whole.save(tmp_path / "half")
    assert set(whole.run_epoch()) == {"loss"}
    torch.manual_seed(12345)  # whatever another process drew before
    resumed = _trainer(data)
    resumed.restore(tmp_path / "half")
    resumed.run_epoch()
    for part in ("net", "average"):
        first, second = (getattr(t, part).state_dict() for t in (whole, resumed))
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=0, atol=0)
