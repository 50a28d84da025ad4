"""``zoo:label-translate``: names, pictures, network, training; its shipped weights are in another
file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import ImageFont
from safetensors.torch import save_file

from mmedge.errors import ExportError
from mmedge_export.zoo import train, weight_file
from mmedge_export.zoo.label_translate import names, rendering
from mmedge_export.zoo.label_translate import scenery as sceneries
from mmedge_export.zoo.label_translate.augment import augment, warp
from mmedge_export.zoo.label_translate.backgrounds import draw_background
from mmedge_export.zoo.label_translate.characters import END, Characters
from mmedge_export.zoo.label_translate.evaluation import characters_right, measure, torch_writer
from mmedge_export.zoo.label_translate.names import Name
from mmedge_export.zoo.label_translate.network import (
    HEADS,
    STATES,
    D,
    LabelNet,
    PictureEncoder,
)
from mmedge_export.zoo.label_translate.pictures import (
    Letterings,
    Pictures,
    letterings,
    pictures,
)
from mmedge_export.zoo.label_translate.rendering import HEIGHT, WIDTH
from mmedge_export.zoo.label_translate.scenery import Choice, Scenery
from mmedge_export.zoo.label_translate.training import LabelRecipe, LabelTrainer
from mmedge_export.zoo.text_evaluation import word_error_rate
from mmedge_export.zoo.text_training import Texts

NAMES = (
    Name("Iceland", {"zh": "冰岛", "de": "Island"}),
    Name("Cuba", {"zh": "古巴", "de": "Kuba"}),
    Name("Utena", {}),
)
CHARACTERS = Characters(sorted({*names.LETTERS, *"冰岛古巴"}))


@pytest.fixture
def scenery(monkeypatch) -> Scenery:
    """Without Debian's fonts: Pillow's own."""
    monkeypatch.setattr(rendering, "_font", lambda path, size: ImageFont.load_default(size))
    photo = np.random.default_rng(0).integers(0, 90, (300, 400, 3)).astype(np.uint8)
    return Scenery((("font",),), (photo,))


def test_names_are_split_by_a_hash_and_no_name_is_in_two_parts():
    translated = [(f"Land {chr(97 + n % 26)}{chr(97 + n // 26)}", {}) for n in range(600)]
    translated = [(name, {"zh": "国" + name[5:], "de": name + "er"}) for name, _ in translated]
    untranslated = ["land aa", *(f"Rand {name[5:]}" for name, _ in translated)]
    parts = names.select(translated, untranslated)
    sets = [{name.english.casefold() for name in part} for part in vars(parts).values()]
    assert sum(len(part) for part in sets) == len(set.union(*sets)) == 1200
    assert 60 < len(parts.unseen) < 200
    assert all(names.is_held_out(name.english) for name in parts.unseen)
    assert not any(names.is_held_out(name.english) for name in parts.dictionary)
    assert all(set(name.translations) == {"zh", "de"} for name in parts.dictionary)
    assert not any(name.translations for name in (*parts.reading, *parts.unseen))


def test_names_that_are_too_long_or_not_translated_are_not_in_the_dictionary():
    complete = {"zh": "国", "de": "Land"}
    translated = [("Chad", complete), ("Kenya", {"de": "Kenia"}), ("x" * 21, complete)]
    translated.append(("Åland", complete))
    parts = names.select(translated, ["Kenya"])
    assert [name.english for name in parts.dictionary] == ["Chad"]
    assert "Kenya" in {name.english for name in (*parts.reading, *parts.unseen)}


def test_the_names_of_the_installed_system():
    try:
        parts = names.load()
    except ExportError as error:
        assert "apt-get install iso-codes" in str(error)  # noqa: PT017
        pytest.skip("needs Debian's iso-codes")
    assert 500 < len(parts.dictionary) < 1500
    assert Name("Germany", {"zh": "德国", "de": "Deutschland"}) in parts.dictionary


def test_fonts_and_photos_of_tests_are_in_no_training_picture():
    for kind in ("families", "photos"):
        trained = getattr(sceneries.TRAIN, kind)
        assert len(set(trained)) == len(trained)
        assert not set(trained) & set(getattr(sceneries.HELD_OUT, kind))


def test_a_missing_font_is_told_with_the_packages():
    with pytest.raises(ExportError, match="no font No such family.*apt-get install fonts-adf-acc"):
        sceneries.load_scenery(Choice(("No such family",), ()))


def test_a_missing_photo_is_told_with_the_packages():
    with pytest.raises(ExportError, match="no/such.jpg.*apt-get install lomiri-wallpapers-16.04"):
        sceneries.load_photos(Choice((), ("no/such.jpg",)))


def test_photos_are_made_smaller_but_for_the_tests():
    pytest.importorskip("skimage")
    choice = Choice((), ("coffee.png",))
    (whole,), (small,) = (sceneries.load_photos(choice, largest=n) for n in (None, 300))
    assert whole.shape == (400, 600, 3)
    assert small.shape == (200, 300, 3)


def test_rendering_is_seeded_and_shows_the_text(scenery):
    def draw(text: str, seed: int):
        return rendering.render(text, scenery, np.random.default_rng(seed))

    first = draw("Cuba", 1)
    assert first.shape == (HEIGHT, WIDTH, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, draw("Cuba", 1))
    assert (first != draw("Cuba", 2)).any()
    assert (first != draw("Cubs", 1)).any()
    for seed in range(20):  # the longest name has room
        draw("W" * names.LENGTH, seed)


def test_a_picture_is_its_lettering_photographed(scenery):
    """Test pictures are rendered in one go, training pictures of stored letterings."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        whole = rendering.render("Cuba", scenery, np.random.default_rng(seed))
        rng.integers(1), rng.integers(1), rng.integers(1)  # family, font, photo
        background = rendering.piece_of_photo(scenery.photos[0], rng)
        masks = rendering._draw("Cuba", "font", rng)
        np.testing.assert_array_equal(whole, rendering.photograph(masks, background, rng))


def test_letterings_have_letters_and_half_of_them_a_plate(scenery, monkeypatch, tmp_path):
    import mmedge_export.zoo.label_translate.pictures as module

    monkeypatch.setattr(module, "load_families", lambda choice: scenery.families)
    drawn = letterings(NAMES * 20, sceneries.TRAIN, 0, tmp_path)
    assert drawn.masks.shape == (60, 2, HEIGHT, WIDTH)
    assert drawn.masks[:, 0].any(axis=(1, 2)).all()
    assert 15 < drawn.masks[:, 1].any(axis=(1, 2)).sum() < 45
    # No two are the same, though each name comes 20 times.
    assert len({mask.tobytes() for mask in drawn.masks}) == 60
    monkeypatch.setattr(module, "load_families", None)
    again = letterings(NAMES * 20, sceneries.TRAIN, 0, tmp_path)
    np.testing.assert_array_equal(drawn.masks, again.masks)


def test_backgrounds_are_seeded_and_of_every_kind(scenery):
    def draw(seed: int):
        return draw_background(scenery.photos, np.random.default_rng(seed))

    for seed in range(40):
        background = draw(seed)
        assert background.shape == (HEIGHT, WIDTH, 3)
        assert background.min() >= 0
        assert background.max() <= 255
        np.testing.assert_array_equal(background, draw(seed))
    # The photo is dark (at most 90 of 255, more with more contrast), drawn shapes need not be.
    brightest = [draw(seed).max() for seed in range(40)]
    assert min(brightest) < 150 < 200 < max(brightest)


def test_a_warped_label_keeps_its_letters(scenery):
    masks = rendering.letter("Iceland", scenery.families, np.random.default_rng(0))
    before = masks.copy()
    warped = [warp(masks, np.random.default_rng(seed)) for seed in range(20)]
    np.testing.assert_array_equal(masks, before)
    changed = [one for one in warped if (one != masks).any()]
    assert 4 < len(changed) < 16
    for one in changed:
        assert one.shape == masks.shape
        assert 0.6 < one[0].sum() / masks[0].sum() < 1.1


def test_pictures_are_rendered_once(scenery, monkeypatch, tmp_path):
    import mmedge_export.zoo.label_translate.pictures as module

    monkeypatch.setattr(module, "load_scenery", lambda choice: scenery)
    first = pictures(NAMES, sceneries.TRAIN, 0, tmp_path)
    monkeypatch.setattr(module, "load_scenery", None)
    again = pictures(NAMES, sceneries.TRAIN, 0, tmp_path)
    np.testing.assert_array_equal(first.images, again.images)
    assert len(list(tmp_path.iterdir())) == 1


def test_augmentation_is_seeded_and_leaves_its_pictures(scenery):
    images = np.stack([rendering.render("Cuba", scenery, np.random.default_rng(0))] * 3)
    before = images.copy()
    first, second = (augment(images, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(images, before)
    assert (first[0] != first[1]).any()
    textures = [np.random.default_rng(1).integers(0, 256, (200, 400, 3)).astype(np.uint8)]
    harder = augment(images, np.random.default_rng(5), textures)
    assert harder.shape == images.shape
    assert (harder != first).any()


def test_the_tokenizer_file_gives_the_tokens_that_the_network_has():
    tokenizer = CHARACTERS.tokenizer()
    assert tokenizer.get_vocab_size() == len(CHARACTERS)
    assert tokenizer.encode("<zh>").ids == [CHARACTERS.language("zh")] == [2]
    tokens = CHARACTERS.encode("New 古巴 x")
    assert tokenizer.encode("New 古巴 x").ids == tokens
    for text in (tokenizer.decode([*tokens, END, END]), CHARACTERS.decode([2, *tokens, END, 9])):
        assert text == "New 古巴 x"


def test_characters_right_counts_edits():
    assert characters_right(["Kuba", "Islnd"], ["Kuba", "Island"]) == 1 - 1 / 10
    assert characters_right(["", "xyz"], ["ab", "xyz"]) == 1 - 2 / 5


def test_word_errors_are_counted_over_all_words():
    texts, expected = ["turn left", "stop", ""], ["turn to the left", "stop", "go home now"]
    assert word_error_rate(texts, expected) == (2 + 0 + 3) / 8
    assert word_error_rate(["stop it now"], ["stop"]) == 2


def test_step_by_step_is_the_run_with_all_tokens():
    torch.manual_seed(0)
    net = LabelNet(CHARACTERS.characters).eval()
    images = torch.randint(0, 256, (2, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    tokens = torch.tensor([[1, 9, 7, 5], [2, 6, 6, 8]])
    with torch.inference_mode():
        seen = net(images)
        whole = net.write(tokens, seen)
        past = {f"past_{n}": torch.zeros(2, HEADS, 0, D // HEADS) for n in STATES}
        for place in range(4):
            one = tokens[:, place : place + 1]
            outputs = net.step(one, torch.tensor([place]), **past, **seen)
            torch.testing.assert_close(outputs["logits"][:, 0], whole[:, place])
            past = {f"past_{name}": outputs[f"present_{name}"] for name in STATES}


def test_darkness_and_light_are_taken_out():
    torch.manual_seed(0)
    encoder = LabelNet(CHARACTERS.characters).eval().encoder
    images = torch.randint(0, 120, (1, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images), encoder(images + 100), rtol=1e-4, atol=1e-4)


def _trainer(data: Letterings, **changes: object) -> LabelTrainer:
    # The second of two epochs has slanted letters and texture.
    small = LabelRecipe(epochs=2, cooldown=1, steps=2, images=3, warmup=2, plain_epochs=1)
    photo = np.random.default_rng(1).integers(0, 256, (200, 200, 3)).astype(np.uint8)
    return LabelTrainer(replace(small, **changes), data, CHARACTERS, [photo])


@pytest.fixture(scope="module")
def data() -> Letterings:
    masks = np.random.default_rng(0).integers(0, 256, (3, 2, HEIGHT, WIDTH)).astype(np.uint8)
    return Letterings(masks, NAMES)


def test_a_run_taken_up_again_ends_the_same(data, tmp_path):
    whole = _trainer(data)
    whole.run_epoch()
    whole.save(tmp_path / "half")
    report = whole.run_epoch()
    assert set(report) == {"loss", "en", "zh", "de"}
    torch.manual_seed(12345)  # whatever another process drew before
    resumed = _trainer(data)
    resumed.restore(tmp_path / "half")
    resumed.run_epoch()
    for part in ("net", "average", "auxiliary"):
        first, second = (getattr(t, part).state_dict() for t in (whole, resumed))
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=0, atol=0)
    images = np.random.default_rng(0).integers(0, 256, (3, HEIGHT, WIDTH, 3)).astype(np.uint8)
    assert set(measure(torch_writer(whole.average), Pictures(images, NAMES), "en")) == {
        "exact", "characters", "pictures",
    }  # fmt: skip


def test_training_in_bfloat16_has_the_loss_of_float32(data):
    whole, half = (_trainer(data, compute=compute) for compute in ("float32", "bfloat16"))
    batch = next(whole.batches())
    losses = []
    for trainer in (whole, half):
        torch.manual_seed(0)  # of the wrong characters
        losses.append(float(trainer.loss(batch)[0].detach()))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_a_run_can_start_from_the_network_s_first_form(data, tmp_path):
    """What that form lacks changes nothing at first."""
    torch.manual_seed(3)
    first = LabelNet(CHARACTERS.characters)
    state = {
        name: value
        for name, value in first.state_dict().items()
        if not name.startswith(PictureEncoder.later_parts)
    }
    assert 0 < len(state) < len(first.state_dict())
    path = tmp_path / "first.safetensors"
    save_file(state, path, metadata={"parts": json.dumps(first.parts)})
    net = _trainer(data, start=str(path)).average
    images = torch.randint(0, 256, (2, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(net.eval()(images), first.eval()(images), rtol=1e-4, atol=1e-4)
    with pytest.raises(ExportError, match="no weights at"):
        _trainer(data, start=str(tmp_path / "none.safetensors"))
    weight_file.save(LabelNet("abc"), {}, path)
    with pytest.raises(ExportError, match="holds .*abc.*, not"):
        _trainer(data, start=str(path))
    del state["cross.0.weight"]
    save_file(state, path, metadata={"parts": json.dumps(first.parts)})
    with pytest.raises(ExportError, match="Missing key.*cross.0.weight"):
        _trainer(data, start=str(path))


def test_a_longer_run_goes_on_from_before_the_cool_down(data, tmp_path):
    trainer = _trainer(data, epochs=3)
    trainer.epoch, trainer.step = 2, 4
    trainer.save(tmp_path / "state")
    _trainer(data, epochs=9).restore(tmp_path / "state")
    _trainer(data, epochs=9, cooldown=7).restore(tmp_path / "state")
    with pytest.raises(ExportError, match="another recipe"):
        _trainer(data, epochs=9, cooldown=8).restore(tmp_path / "state")  # it would have begun
    trainer.epoch = 3  # the rate has gone to 0
    trainer.save(tmp_path / "state")
    for changes in ({"epochs": 9}, {"epochs": 3, "seed": 1}):
        with pytest.raises(ExportError, match="another recipe"):
            _trainer(data, **changes).restore(tmp_path / "state")


def test_the_rate_rises_stays_and_falls(data):
    trainer = _trainer(data, epochs=5, cooldown=2, steps=10, warmup=5)
    factors = []
    for trainer.step in range(50):
        factors.append(trainer.rate_factor())
    assert factors[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert set(factors[5:31]) == {1.0}
    assert factors[-1] == pytest.approx(1 / 20)


def test_texts_of_one_language_are_padded():
    texts = Texts([[7, 8], [9]], start=3)
    assert texts.tokens.tolist() == [[3, 7, 8], [3, 9, END]]
    assert texts.expected.tolist() == [[7, 8, END], [9, END, -100]]


def test_every_task_has_a_subcommand(capsys):
    for name in train.TASKS:
        options = train.parser_of(name).parse_args([])
        assert options.epochs > 1
    with pytest.raises(SystemExit):
        train.main(["no-such-task"])
    assert "label-translate" in capsys.readouterr().err
