"""A tokenizer is held against the inputs it fills and the samples of the user."""

import json

import numpy as np
import pytest
import torch
from text_bundles import words
from torch import nn

import mmedge
from mmedge.errors import ExportError
from mmedge_export import Input, Model, export

BATCH = {0: "batch"}
IDS = np.array([[4, 5, 0, 0]])
LEFT = np.array([[0, 0, 4, 5]])


class Last(nn.Module):
    """The last token's state of a causal network is the text's meaning."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.rows = nn.Embedding(16, 8), nn.GRU(8, 8, batch_first=True)

    def forward(self, ids, mask):
        states, _ = self.rows(self.words(ids) * mask[:, :, None])
        return states[:, -1]


def model(tokenizer, ids=IDS, mask=None, samples=None, dims=None, dynamic=None):
    mask = (ids != 0).astype(np.int64) if mask is None else mask
    shape = {"modality": "text", "dynamic": {**BATCH, **(dynamic or {})}}
    inputs = {"ids": Input(ids, tokenizer=tokenizer, **shape), "mask": Input(mask, **shape)}
    return Model(Last(), inputs, ["y"], samples=samples, dims=dims or {})


def save(folder, tokens):
    path = folder / "tokenizer.json"
    tokens.save(str(path))
    return path


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_text_means_what_it_meant_to_the_network(tmp_path, side):
    tokens = words(direction=side, length=4)
    example = IDS if side == "right" else LEFT
    export(model(save(tmp_path, tokens), example), tmp_path / "b.mmedge", split=False).close()
    encoded = tokens.encode("go right to")
    with torch.no_grad():
        expected = Last()(torch.tensor([encoded.ids]), torch.tensor([encoded.attention_mask]))
    with mmedge.load(tmp_path / "b.mmedge", threads=1) as pipe:
        np.testing.assert_allclose(pipe(text="go right to")["y"], expected, rtol=1e-5, atol=1e-6)


def test_an_example_that_is_padded_on_the_other_side_is_refused(tmp_path):
    for tokens, silent in ((words(length=4), ""), (words(), "by its silence")):
        path = save(tmp_path, tokens)
        with pytest.raises(ExportError, match=f"padded on the left, but texts .* right.*{silent}"):
            model(path, LEFT)
    path = save(tmp_path, words(direction="left", length=4))
    with pytest.raises(ExportError, match="padded on the right, but texts would .* on the left"):
        model(path, IDS)
    assert model(path, np.array([[4, 5, 6, 7]]))  # nothing of it is padding


def test_a_sample_that_is_padded_on_the_other_side_is_refused(tmp_path):
    path = save(tmp_path, words(length=4))
    sample = {"ids": LEFT, "mask": (LEFT != 0).astype(np.int64)}
    with pytest.raises(ExportError, match="the example or a sample is padded on the left"):
        export(model(path, samples=[(sample, None)]), tmp_path / "b.mmedge", split=False)


def test_padding_of_ids_without_a_mask_is_told_by_its_id(tmp_path):
    path = save(tmp_path, words(length=4))
    with pytest.raises(ExportError, match="padded on the left"):
        Model(nn.Embedding(16, 8), {"input": Input(LEFT, tokenizer=path)}, ["y"])
    # One padding id in front may be a token that marks the beginning.
    assert Model(nn.Embedding(16, 8), {"input": Input(LEFT[:, 1:], tokenizer=path)}, ["y"])


@pytest.mark.parametrize("what", ["padding", "truncation"])
def test_sides_that_transformers_keeps_elsewhere_must_be_those_of_the_file(tmp_path, what):
    tokens = words(length=4)
    tokens.enable_truncation(4)
    path = save(tmp_path, tokens)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({f"{what}_side": "left"}))
    with pytest.raises(ExportError, match=f"says {what}_side 'left', but .* says right; call"):
        model(path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({f"{what}_side": "right"}))
    assert model(path)


def test_a_silent_file_does_not_hide_the_side(tmp_path):
    path = save(tmp_path, words())
    (tmp_path / "tokenizer_config.json").write_text('{"padding_side": "left"}')
    with pytest.raises(ExportError, match="is silent, which means right"):
        model(path, np.array([[4, 5, 6, 7]]))


def test_padding_beyond_the_dimension_is_refused(tmp_path):
    path = save(tmp_path, words(length=9))
    with pytest.raises(ExportError, match="pads each text to 9 tokens, but 'tokens' is at most 8"):
        model(path, dynamic={1: "tokens"}, dims={"tokens": (1, 8)})


def test_a_smallest_size_needs_a_padding_id(tmp_path):
    path = save(tmp_path, words())
    ids = Input(IDS, tokenizer=path, dynamic={1: "tokens"})
    with pytest.raises(ExportError, match="padded to 3 tokens, but .* with which id"):
        Model(nn.Embedding(16, 8), {"input": ids}, ["y"], dims={"tokens": (3, 8)})


def test_a_tokenizer_that_no_bundle_may_hold_is_refused(tmp_path):
    tree = json.loads(words(length=4).to_str())
    tree["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+b"},
        "behavior": "Isolated",
        "invert": False,
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tree))
    with pytest.raises(ExportError, match="input 'ids': .*not allowed in a bundle.*bounded time"):
        model(path)
