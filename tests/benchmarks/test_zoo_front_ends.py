"""The comparison of front ends is fair, resumable, and says what is missing."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import zoo_front_ends
from zoo_front_ends import (
    FRONT_ENDS,
    NAME,
    PASSES,
    Cell,
    cells,
    changes,
    collect,
    interval,
    kind_of,
    main,
    row,
)

from mmedge_export.zoo.train import parser_of
from mmedge_export.zoo.vqa.questions import Questions


def options_of(cell, passes=PASSES):
    return parser_of("vqa").parse_args(cell.command(passes)[4:])


def report(cell):
    options = options_of(cell)
    recipe = {"epochs": options.epochs, "images": options.images, "spoken": options.spoken}
    return {
        "recipe": recipe,
        "parameters": 1,
        "train_seconds": 1.0,
        "threads": 1,
        "train_images": round(4_000 * cell.share),
        "train_questions": 9,
        "train_clips": 9,
        "test_questions": 3,
        "test_clips": 9,
        "accuracy": {"image+text": 2 / 3},
        "versions": {},
    }


def test_the_interval_is_one_over_images():
    rng = np.random.default_rng(0)
    image = np.repeat(np.arange(500), 10)
    alone = rng.random(5_000) < 0.8
    together = np.repeat(rng.random(500) < 0.8, 10)
    for right, independent in ((alone, 5_000), (together, 500)):
        low, high = interval(right, image)
        assert low < right.mean() < high
        normal = 2 * 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / independent)
        assert high - low == pytest.approx(normal, rel=0.15)
    assert interval(np.ones(5_000, bool), image) == (1, 1)


def test_every_question_has_a_kind():
    pytest.importorskip("easy_vqa", reason="needs easy-vqa")
    from mmedge_export.zoo.vqa.questions import load

    kinds = {}
    for text in load("test").texts:
        kinds.setdefault(kind_of(text), []).append(text)
    counts = {kind: len(texts) for kind, texts in kinds.items()}
    assert counts == {
        "which color": 8,
        "which shape": 11,
        "yes or no, color": 8 * 8,
        "yes or no, shape": 3 * 8,
    }
    for kind in ("which color", "yes or no, color"):
        assert not {"what is the black shape?", "is no circle present?"} & set(kinds[kind])


def test_changes_are_those_of_the_maps_over_their_contrast():
    frames = np.full((4, 8, 8, 3), 100, np.uint8)
    frames[:, :, 4:] = 200
    shares = changes(frames)
    assert set(shares) == {"RGB", "gradients", "colors"}
    # Half the contrast is 50 of 255; light changes 150 by at most 6%, noise by at most 4.
    assert 0 < shares["RGB"] < (0.06 * 160 + 4) / 50
    assert all(0 < share < 1 for share in shares.values())


def test_networks_differ_in_front_ends_data_and_augmentation_alone():
    every = cells()
    assert len(set(every)) == len(every)
    assert len(every) == 8
    for cell in every:
        options = vars(options_of(cell))
        assert (options["share"], options["augment"]) == (cell.share, cell.augmented)
        assert {name: options[name] for name in ("image", "audio")} == FRONT_ENDS[cell.front_end]
    varied = {"image", "audio", "share", "epochs", "augment"}
    fixed = [
        {name: value for name, value in vars(options_of(cell)).items() if name not in varied}
        for cell in every
    ]
    assert all(options == fixed[0] for options in fixed)


def test_steps_are_as_many_with_little_data():
    assert {row(report(cell))["steps"] for cell in cells()} == {PASSES * 100}


@pytest.fixture
def split(monkeypatch):
    """A test split of three questions, and networks that answer two of them right."""
    texts = ["what color is the shape?", "is there a red shape?"]
    image, text = np.array([0, 0, 1]), np.array([0, 1, 1])
    images = np.zeros((2, 64, 64, 3), np.uint8)
    data = Questions(images, np.arange(2), texts, image, text, np.zeros(3, np.int64))
    monkeypatch.setattr(zoo_front_ends, "load", lambda _: data)
    monkeypatch.setattr(zoo_front_ends, "held_out", lambda *_: None)
    monkeypatch.setattr(zoo_front_ends.weight_file, "load", lambda *_: None)
    right = {"image+text": np.array([True, False, True])}
    monkeypatch.setattr(zoo_front_ends, "right_answers", lambda *_: right)


def test_rows_say_how_many_are_right_of_each_kind(split, tmp_path):
    cell = cells()[0]
    path = cell.folder(tmp_path) / f"{NAME}.json"
    path.parent.mkdir()
    path.write_text(json.dumps(report(cell)))
    result = collect(tmp_path, tmp_path)
    (only,) = result["rows"]
    assert only["accuracy"]["image+text"]["share"] == pytest.approx(2 / 3)
    by_kind = {"which color": 1.0, "yes or no, color": 0.5}
    assert only["accuracy"]["image+text"]["by_kind"] == by_kind
    assert only["questions"] == {"which color": 1, "yes or no, color": 2}
    assert result["missing"] == [asdict(cell) for cell in cells()[1:]]
    assert result["test_images"] == 2


def test_weights_that_are_not_those_of_the_report_are_refused(split, tmp_path):
    path = cells()[0].folder(tmp_path) / f"{NAME}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**report(cells()[0]), "accuracy": {"image+text": 0.9}}))
    with pytest.raises(SystemExit, match=r"image\+text 0.9, but 0.66"):
        collect(tmp_path, tmp_path)


def test_a_run_trains_what_is_missing_and_says_what_still_is(split, tmp_path, monkeypatch):
    started = []

    def train(command, *, check):
        assert check
        if len(started) == 2:
            raise KeyboardInterrupt
        started.append(command)
        out = Path(command[command.index("--out") + 1])
        out.mkdir(parents=True)
        cell = next(c for c in cells() if c.folder(tmp_path) == out)
        (out / f"{NAME}.json").write_text(json.dumps(report(cell)))

    monkeypatch.setattr(zoo_front_ends.subprocess, "run", train)
    output = tmp_path / "results.json"
    arguments = ["zoo_front_ends.py", "--work", str(tmp_path), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(KeyboardInterrupt):
        main()
    result = json.loads(output.read_text())
    assert len(result["rows"]) == 2
    assert result["missing"] == [asdict(cell) for cell in cells()[2:]]
    first = [command[command.index("--out") + 1] for command in started]
    started.clear()
    monkeypatch.setattr(zoo_front_ends, "cells", lambda: cells()[:4])
    main()
    again = [command[command.index("--out") + 1] for command in started]
    assert first + again == [str(cell.folder(tmp_path)) for cell in cells()[:4]]
    assert json.loads(output.read_text())["missing"] == []


def test_the_results_are_those_of_the_recipe_and_the_bundle_is_as_torch():
    result = json.loads(zoo_front_ends.RESULTS.read_text())
    fields = ("front_end", "share", "augmented")
    found = {tuple(row[name] for name in fields) for row in result["rows"] + result["missing"]}
    assert found == {tuple(asdict(cell).values()) for cell in cells()}
    assert {row["steps"] for row in result["rows"]} == {PASSES * 100}
    for entry in result["rows"]:
        assert entry["test_questions"] == 9_673
        assert entry["train_images"] == round(4_000 * entry["share"])
        recipe = entry["recipe"]
        cell = Cell(*(entry[name] for name in fields))
        options = vars(options_of(cell))
        assert {name: options[name] for name in recipe} == recipe
        for accuracy in entry["accuracy"].values():
            assert accuracy["low"] <= accuracy["share"] <= accuracy["high"]
    for given in result["bundle"]["accuracy"]:
        assert given["bundle"] == pytest.approx(given["torch"], abs=0.001)
