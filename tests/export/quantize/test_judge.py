"""Candidates are accepted only where the samples show that the limit holds."""

from __future__ import annotations

import numpy as np
import pytest

from mmedge.errors import AccuracyError, ExportError
from mmedge_export.quantize.accuracy_gate import AccuracyGate
from mmedge_export.quantize.options import QuantizeOptions
from mmedge_export.quantize.task import Task


def accuracy(outputs, targets):
    pairs = zip(outputs, targets, strict=True)
    return sum(int(out["y"][0].argmax()) == target for out, target in pairs) / len(targets)


def answers(classes):
    """One-hot logits, float32 [1, 4], of each class."""
    return [{"y": np.eye(4, dtype=np.float32)[[c]]} for c in classes]


def task(targets, metric=accuracy):
    return Task([({}, int(t)) for t in targets], [{}], metric)


def flipped(classes, share, rng):
    wrong = rng.random(len(classes)) < share
    return np.where(wrong, (classes + 1) % 4, classes)


def test_equal_answers_pass_and_wrong_ones_do_not():
    targets = np.random.default_rng(0).integers(0, 4, 800)
    judge = AccuracyGate(task(targets), answers(targets), QuantizeOptions(max_drop=0.01))
    assert judge.metric == 1.0
    same = judge(answers(targets))
    assert same.ok
    assert (same.metric, same.drop.drop, same.error, same.worst) == (1.0, 0.0, 0.0, 0.0)
    worse = judge(answers(flipped(targets, 0.05, np.random.default_rng(1))))
    assert not worse.ok
    assert worse.drop.drop == pytest.approx(1.0 - worse.metric)
    assert judge.attempts == 2


def test_what_lies_just_past_the_limit_is_refused_in_any_of_many_attempts():
    """The chance of error holds over a whole search, not for each of its attempts."""
    fooled = 0
    runs = 60
    for run in range(runs):
        rng = np.random.default_rng(run)
        targets = rng.integers(0, 4, 400)
        reference = flipped(targets, 0.1, rng)
        judge = AccuracyGate(task(targets), answers(reference), QuantizeOptions(max_drop=0.02))
        fooled += any(
            # Right ones become wrong, and as many wrong ones right: 2 % of drop and a little.
            judge(answers(noisy(reference, targets, 0.0401, 0.02, rng))).ok
            for _ in range(5)
        )
    assert fooled <= 0.05 * runs


def noisy(reference, targets, worse, better, rng):
    draw = rng.random(len(targets))
    right = reference == targets
    made = np.where(draw < worse / 0.9 * right, (targets + 1) % 4, reference)
    return np.where(~right & (draw < better / 0.1), targets, made)


def test_a_metric_that_is_noise_does_not_fool_it():
    """Answers that have nothing to do with the targets, the candidate's truly worse."""
    fooled = 0
    for run in range(200):
        rng = np.random.default_rng(1000 + run)
        scores = rng.normal(0.5, 0.2, (2, 400)) - [[0.0], [0.0201]]
        made = [[{"y": np.array([v])} for v in row] for row in np.clip(scores, 0, 1)]
        judge = AccuracyGate(
            task(np.zeros(400), lambda o, t: float(sum(x["y"][0] for x in o) / len(o))),
            made[0],
            QuantizeOptions(max_drop=0.02),
        )
        fooled += judge(made[1]).ok
    assert fooled <= 10


def test_too_few_samples_are_refused_at_once_with_how_many_it_takes():
    targets = np.zeros(20, int)
    with pytest.raises(AccuracyError, match=r"20 samples cannot show a drop .* Give about"):
        AccuracyGate(task(targets), answers(targets), QuantizeOptions(max_drop=0.01))


def test_a_least_metric_stands_for_a_drop():
    targets = np.random.default_rng(0).integers(0, 4, 500)
    reference = answers(flipped(targets, 0.1, np.random.default_rng(2)))
    judge = AccuracyGate(task(targets), reference, QuantizeOptions(min_metric=0.85))
    assert judge.limit == pytest.approx(judge.metric - 0.85)
    assert judge(reference).ok
    with pytest.raises(AccuracyError, match=r"reaches 0\.\d+ on the 500 samples, no more than"):
        AccuracyGate(task(targets), reference, QuantizeOptions(min_metric=0.95))


def test_without_a_metric_the_outputs_are_held_against_the_networks_own():
    reference = answers([0, 1, 2])
    judge = AccuracyGate(task([0, 1, 2], None), reference, QuantizeOptions(max_error=0.05))
    assert judge.limit == 0.05
    near = [{"y": out["y"] * np.float32(1.04)} for out in reference]
    far = [*near[:2], {"y": reference[2]["y"] * np.float32(1.06)}]
    assert judge(near).ok
    assert judge(near).worst == pytest.approx(0.04, rel=1e-5)
    assert not judge(far).ok
    nan = [*near[:2], {"y": np.full((1, 4), np.nan, np.float32)}]
    assert not judge(nan).ok


def test_limits_that_do_not_fit_are_refused():
    with pytest.raises(ExportError, match="needs a metric"):
        AccuracyGate(task([0], None), answers([0]), QuantizeOptions(max_drop=0.1))
    with pytest.raises(ExportError, match="not both"):
        AccuracyGate(task([0]), answers([0]), QuantizeOptions(max_drop=0.1, min_metric=0.5))


@pytest.mark.parametrize("fill", [-1e4, -1e9, float(np.finfo(np.float32).min)])
def test_without_a_metric_a_mask_excuses_nothing_and_other_choices_are_told(fill):
    """Of masked scores int8 was kept at an error of 4e-10, with half of the actions changed."""
    rng = np.random.default_rng(0)
    masked = rng.random((40, 6)) < 0.3
    masked[:, :2] = False
    scores = np.where(masked, fill, rng.normal(size=(40, 6))).astype(np.float32)
    noise = np.where(masked, 0, 0.3 * rng.normal(size=(40, 6))).astype(np.float32)
    wrong = [{"y": row[None]} for row in scores + noise]
    judge = AccuracyGate(task(range(40), metric=None), [{"y": row[None]} for row in scores])
    verdict = judge(wrong)
    assert not verdict.ok
    assert verdict.error > 0.1
    assert verdict.changed["y"] == (
        int((scores.argmax(1) != (scores + noise).argmax(1)).sum()),
        40,
    )
    near = judge([{"y": row[None]} for row in scores + noise / 100])
    assert near.ok


def test_without_a_metric_boxes_excuse_no_scores():
    rng = np.random.default_rng(1)
    answers = rng.normal(size=(4, 1, 30, 12)).astype(np.float32)
    answers[..., :4] *= 200
    wrong = answers.copy()
    wrong[..., 4:] += rng.normal(size=(4, 1, 30, 8)).astype(np.float32)
    assert np.abs(wrong - answers).max() < 0.01 * np.abs(answers).max()
    judge = AccuracyGate(task(range(4), metric=None), [{"y": one} for one in answers])
    assert not judge([{"y": one} for one in wrong]).ok
    assert judge([{"y": one} for one in answers]).ok
