"""Ready metrics: a mean of scores of single samples, larger is better."""

from __future__ import annotations

import numpy as np
import pytest

from mmedge_export.quantize.metric_drop import drop_of
from mmedge_export.quantize.metrics import (
    chrf,
    edit_distance,
    exact_match,
    token_accuracy,
    word_accuracy,
)


def texts(*rows):
    return [{"text": [row] if isinstance(row, str) else row} for row in rows]


def tokens(*rows):
    return [{"tokens": np.array([[*row, 0, 0]]), "lengths": np.array([len(row)])} for row in rows]


def test_exact_match():
    assert exact_match(texts("a b", " c "), ["a b", "c"]) == 1.0
    assert exact_match(texts("a b", "C"), ["a b", "c"]) == 0.5
    assert exact_match(texts(["a", "b"], ["c", "d"]), [["a", "x"], ["c", "d"]]) == 0.75


@pytest.mark.parametrize(
    ("text", "right", "score"),
    [
        ("The cat sat.", "the cat sat", 1.0),
        ("the hat sat", "the cat sat", 2 / 3),
        ("cat", "the cat sat", 1 / 3),
        ("a b c d e f g h", "the cat", 0.0),
        ("", "", 1.0),
    ],
)
def test_word_accuracy(text, right, score):
    assert word_accuracy(texts(text), [right]) == pytest.approx(score)


def test_edit_distance():
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance([], [1, 2]) == edit_distance([1, 2], []) == 2


def test_chrf():
    assert chrf(texts("abcdefgh"), ["abcd efgh"]) == 1.0
    assert chrf(texts("xyz"), ["abc"]) == 0.0
    # One piece of one letter of two is right, and none of two letters: F2 of 1/2 and 1/2, and 0.
    assert chrf(texts("ab"), ["ax"]) == pytest.approx((0.5 + 0.0) / 2)
    # What is left out costs more than what is put in.
    assert chrf(texts("abc"), ["abcdef"]) < chrf(texts("abcdef"), ["abc"])
    assert chrf(texts(""), [""]) == 1.0


def test_token_accuracy():
    assert token_accuracy(tokens([1, 2, 3], [4]), [[1, 2, 3], np.array([4])]) == 1.0
    assert token_accuracy(tokens([1, 2], []), [[1, 2, 3, 4], []]) == pytest.approx(0.75)
    two = [{"tokens": np.array([[1, 2], [3, 0]]), "lengths": np.array([2, 1])}]
    assert token_accuracy(two, [[[1, 9], [3]]]) == pytest.approx(0.75)


@pytest.mark.parametrize("metric", [exact_match, word_accuracy, chrf])
def test_their_drop_is_bounded_as_a_mean_of_scores(metric):
    right = [f"word{n} and {n}" for n in range(80)]
    drop = drop_of(metric, texts(*right), texts(*right[:-1], "other"), right)
    assert drop.samples == 80
    assert drop.changed == 1
    assert 0 < drop.drop < drop.bound < 0.1
