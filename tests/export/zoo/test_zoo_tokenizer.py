from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mmedge_export.zoo.vqa import tokenizer
from mmedge_export.zoo.vqa.text import LENGTH, VOCABULARY


def test_padding_is_0_and_unknown_is_1():
    shipped = Tokenizer.from_file(str(tokenizer.PATH))
    assert shipped.token_to_id(tokenizer.PAD) == 0
    assert shipped.token_to_id(tokenizer.UNKNOWN) == 1
    assert shipped.get_vocab_size() <= VOCABULARY


def test_every_question_is_known_and_fits():
    pytest.importorskip("easy_vqa", reason="needs easy-vqa")
    from mmedge_export.zoo.vqa import questions

    texts = questions.load("test").texts
    assert len(texts) == 107
    ids = tokenizer.encode(texts)
    assert ids.shape == (107, LENGTH)
    assert ids.dtype == np.int64
    assert not (ids == 1).any()
    for text, row in zip(texts, ids, strict=True):
        assert np.count_nonzero(row) == len(text.split())
    assert len(np.unique(ids, axis=0)) == 107


def test_the_shipped_file_is_what_the_training_questions_give():
    pytest.importorskip("easy_vqa", reason="needs easy-vqa")
    from mmedge_export.zoo.vqa import questions

    built = tokenizer.build(questions.load("train").texts)
    assert json.loads(built.to_str()) == json.loads(tokenizer.PATH.read_text())


def test_case_and_punctuation_do_not_matter():
    ids = tokenizer.encode(
        ["Is there a RED shape?", "is there a red shape", "is, there a red! shape"]
    )
    np.testing.assert_array_equal(ids, np.broadcast_to(ids[0], ids.shape))


def test_no_words_are_no_text():
    assert not tokenizer.encode(["", " ?! "]).any()


@given(st.text(max_size=80))
def test_any_text_gives_16_ids(text):
    ids = tokenizer.encode([text])
    assert ids.shape == (1, LENGTH)
    assert ((ids >= 0) & (ids < VOCABULARY)).all()
