"""Spelling is made alike before words of two recognizers are counted."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from hear_whisper import normalize

from mmedge_export.zoo.hear import phrases


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (" Wait 45 seconds.", "wait forty five seconds"),
        ("Turn left forty-five degrees!", "turn left forty five degrees"),
        ("Draw a grey circle; what colour?", "draw a gray circle what color"),
        ("Drive 20 metres, turn on the TV", "drive twenty meters turn on the television"),
        ("Set it to 150", "set it to 150"),
    ],
)
def test_spelling_is_made_alike(text, plain):
    assert normalize(text) == plain


def test_requests_are_plain_already():
    requests = phrases.load()
    for phrase in (*requests.known, *requests.unseen):
        assert normalize(phrase.english) == phrase.english
