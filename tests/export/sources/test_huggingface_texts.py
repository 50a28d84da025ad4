"""Checkpoints whose text stands beside a picture in other ways than with tokens for features."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_networks as checkpoints
import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import ModelOutput

sys.path.append(str(Path(__file__).parents[3] / "benchmarks/networks"))

from kinds import kinds
from tiny_checkpoints import make_tiny

from mmedge_export.sources.huggingface.decoder_only import DecoderCall
from mmedge_export.sources.huggingface.examples import main_part, result_fields
from mmedge_export.sources.huggingface.features_by_row import FeaturesByRow
from mmedge_export.sources.huggingface.make_model import without_idle
from mmedge_export.sources.huggingface.sensors import Sensor, feature_parameters, find_sensors
from mmedge_export.sources.huggingface.size_limits import is_mask_over_text
from mmedge_export.sources.huggingface.source import HuggingFaceSource
from mmedge_export.sources.source import SourceOptions


def read(name, folder):
    """The model of a tiny network, whose tokens reading holds against generate(); and remarks."""
    kind = getattr(checkpoints.hf, name)
    checkpoints.save(lambda: make_tiny(kind), folder)
    source = HuggingFaceSource().read(f"hf:{folder}", SourceOptions())
    return source.model, "\n".join(source.remarks)


#: What each keeps of a picture: keys before those of the text, all keys of some layers, features.
KEPT = {
    "GitForCausalLM": ["image_key_0", "image_value_0", "image_key_1", "image_value_1"],
    "MllamaForConditionalGeneration": ["image_key_1", "image_value_1"],
    "IdeficsForVisionText2Text": ["image_features"],
}


@pytest.mark.parametrize("name", kinds(KEPT, first=("GitForCausalLM",)))
def test_a_text_after_a_picture(name, tmp_path):
    model, remarks = read(name, tmp_path)
    assert list(model.outputs) == KEPT[name]
    assert model.inputs["input_ids"].shape() == ("batch", "new")
    assert "past_key_0" in model.loop.state
    assert ("each token looks at all of the image" in remarks) == (name != "GitForCausalLM")
    grows = "past_key_1" in model.loop.state
    assert grows == (name != "MllamaForConditionalGeneration")


def test_a_text_for_the_encoder_of_a_picture_beside_that_of_the_answer(tmp_path):
    model, remarks = read("InstructBlipModel", tmp_path)
    assert model.inputs["qformer_input_ids"].shape() == ("batch", "qformer_tokens")
    assert model.outputs == ["last_hidden_state"]  # of the last part of the result
    assert model.dims["tokens"][0] == 8
    told = re.search(r"a text has 8 tokens (\d+) in the places of one image", remarks)
    assert told  # which token it is depends on the networks that were made before
    assert (model.inputs["input_ids"].example == int(told[1])).sum(1).tolist() == [8, 8]


def test_a_result_without_tensors_is_that_of_its_last_part():
    seen = BaseModelOutput(last_hidden_state=torch.zeros(1))
    told = BaseModelOutput(last_hidden_state=torch.ones(1))
    whole = ModelOutput(seen=seen, told=told)
    assert main_part(whole) is told
    assert result_fields(main_part(told)) == ["last_hidden_state"]


def test_features_of_a_row_go_to_places_of_that_row_and_are_counted():
    text, features = torch.zeros(2, 4, 3), torch.arange(12.0).reshape(2, 2, 3)
    places = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)[..., None]
    with FeaturesByRow() as mode:
        placed = text.masked_scatter(places.expand(2, 4, 3), features)
    assert mode.count == 2
    assert placed[0, 1:3].tolist() == features[0].tolist()
    assert placed[1, 0].tolist() == features[1, 0].tolist()


def test_features_that_are_put_where_a_mask_is_true_go_by_row_too():
    text, features = torch.zeros(2, 4, 3), torch.arange(12.0).reshape(4, 3)
    places = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    with FeaturesByRow() as mode:
        text[places] = features
    assert mode.count == 2
    assert text[1, 3].tolist() == features[3].tolist()


@pytest.mark.parametrize(
    "name", kinds(("Kosmos2Model", "Kosmos2ForConditionalGeneration"), first=("Kosmos2Model",))
)
def test_a_mask_says_where_features_stand(name, tmp_path):
    model, remarks = read(name, tmp_path)
    if model.loop is None:
        assert model.inputs["image_embeds_position_mask"].shape() == ("batch", "tokens")
        assert model.dims["tokens"][0] == 8
    else:
        assert "a prompt has 8 places of one image from its token 1 on" in remarks


@pytest.mark.further_class
def test_a_sound_in_place_of_a_text_and_tokens_in_place_of_speech(tmp_path):
    model, remarks = read("SeamlessM4TModel", tmp_path)
    assert list(model.inputs) == ["input_features"]
    assert "text is left out: SeamlessM4TModel takes it in place of audio" in remarks
    assert "speech that generate() makes of them is not taken" in remarks


def test_an_input_that_changes_nothing_is_left_out():
    class Speech(nn.Module):
        config = SimpleNamespace()

        def can_generate(self):
            return False

        def forward(
            self, input_features: Tensor, input_ids: Tensor | None = None
        ) -> BaseModelOutput:
            return BaseModelOutput(last_hidden_state=2 * input_features)

    checkpoint = SimpleNamespace(network=Speech(), remarks=[])
    sensors = [Sensor("input_ids", "text"), Sensor("input_features", "audio")]
    example = {"input_ids": torch.arange(6).reshape(2, 3), "input_features": torch.rand(2, 5, 3)}
    assert without_idle(checkpoint, sensors, example) == sensors[1:]
    assert "input_ids has no part in what Speech does" in checkpoint.remarks[0]


class Words(nn.Module):
    """A network whose parameters say by their words what they take."""

    main_input_name = "input_ids"
    input_modalities = ("image", "text")

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        aspect_ratio_ids: Tensor | None = None,
        image_encoder_embeddings: Tensor | None = None,
        cross_attention_states: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> None:
        """Nothing."""


def test_ids_that_are_no_input_are_no_text_and_features_may_stand_for_a_picture():
    assert [sensor.name for sensor in find_sensors(Words(), None)] == ["input_ids", "pixel_values"]
    names = ["image_encoder_embeddings", "cross_attention_states"]
    assert feature_parameters(Words()) == names


def test_a_mask_over_a_text_says_for_each_token_what_it_looks_at():
    example = {
        "input_ids": torch.zeros(2, 7, dtype=torch.int64),
        "attention_mask": torch.ones(2, 7),
        "image_attention_mask": torch.ones(2, 7, 1),
        "pixel_mask": torch.ones(2, 32, 32),
    }
    assert [n for n in example if is_mask_over_text(n, example)] == ["image_attention_mask"]


class Decoder(nn.Module):
    """Notes what it is given."""

    def forward(
        self, inputs_embeds: Tensor, attention_mask: Tensor, cache: object = None
    ) -> Tensor:
        """The mask."""
        return attention_mask


class Whole(nn.Module):
    """Hands all but its own arguments to its decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = Decoder()

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, **further: object) -> Tensor:
        """The mask."""
        return self.decoder(inputs_embeds, attention_mask, **further)


def test_a_network_that_knows_of_no_cache_is_told_how_many_tokens_there_are():
    words = {"inputs_embeds": torch.zeros(2, 3, 4)}
    call = DecoderCall(Whole())
    cache = call.cache({f"past_{part}_0": torch.zeros(2, 1, 5, 4) for part in ("key", "value")})
    assert call.result(words, cache).shape == (2, 8)
