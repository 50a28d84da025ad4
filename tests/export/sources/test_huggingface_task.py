"""Task and language: a bundle begins with the tokens that ``generate()`` begins with for them.

Tokens are held against ``generate()`` wherever a source reads a network that generates.
"""

from __future__ import annotations

import huggingface_networks as checkpoints
import pytest

from mmedge.errors import ExportError
from mmedge_export.sources.huggingface.source import HuggingFaceSource
from mmedge_export.sources.source import SourceOptions

hf = checkpoints.hf


def read(folder, **options):
    return HuggingFaceSource().read(f"hf:{folder}", SourceOptions(**options))


def save_speech(folder, **settings):
    """A Whisper that knows three languages and two tasks."""
    checkpoints.save(checkpoints.whisper, folder)
    hf.GenerationConfig(
        **{
            "decoder_start_token_id": 3,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "max_length": 20,
            "is_multilingual": True,
            "lang_to_id": {"<|en|>": 10, "<|de|>": 11, "<|zh|>": 12},
            "task_to_id": {"transcribe": 13, "translate": 14},
            "no_timestamps_token_id": checkpoints.WORDS - 1,  # tokens behind it are times
            **settings,
        }
    ).save_pretrained(folder)
    return folder


def test_a_language_that_generate_would_hear_must_be_said(tmp_path):
    folder = save_speech(tmp_path / "net")
    with pytest.raises(ExportError, match="finds out .* --language, one of de, en, zh"):
        read(folder)


@pytest.mark.parametrize(
    ("options", "settings", "start"),
    [
        ({"language": "de", "task": "translate"}, {}, [3, 11, 14, 98]),
        ({"language": "german"}, {}, [3, 11, 13, 98]),
        ({}, {"language": "zh", "task": "translate"}, [3, 12, 14, 98]),
        ({"language": "en"}, {"language": "zh", "task": "translate"}, [3, 10, 14, 98]),
    ],
)
def test_speech_begins_with_language_and_task(tmp_path, options, settings, start):
    source = read(save_speech(tmp_path / "net", **settings), **options)
    assert list(source.model.loop.start) == start
    says = [f"--{word}" in " ".join(source.remarks) for word in ("task", "language")]
    assert says == ["task" not in options, "language" not in options]


@pytest.mark.parametrize("options", [{"task": "summarize"}, {"language": "klingon"}])
def test_what_a_network_does_not_know_is_refused(tmp_path, options):
    with pytest.raises(ExportError, match="one of"):
        read(save_speech(tmp_path / "net"), **{"language": "de", **options})


def test_a_class_that_leaves_no_choice_says_so(tmp_path):
    checkpoints.save(checkpoints.t5, tmp_path / "net")
    for option in ("task", "language"):
        with pytest.raises(ExportError, match=f"--{option} de: T5.* leaves no such choice"):
            read(tmp_path / "net", **{option: "de"})


def test_a_translator_begins_with_the_token_of_a_language(tmp_path):
    tokenizer = hf.MBart50Tokenizer()
    network = hf.MBartForConditionalGeneration(
        hf.MBartConfig(
            vocab_size=len(tokenizer),
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=40,
            decoder_start_token_id=2,
            forced_eos_token_id=None,
        )
    )
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ExportError, match="several languages to write in; say --language, one of"):
        read(tmp_path)
    with pytest.raises(ExportError, match="--language xx: expected one of"):
        read(tmp_path, language="xx")
    source = read(tmp_path, language="fr_XX")
    assert list(source.model.loop.start) == [2, tokenizer.lang_code_to_id["fr_XX"]]
    assert "texts go in as en_XX" in " ".join(source.remarks)
