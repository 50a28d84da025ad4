"""Checkpoints that take several modalities in one run, and those that answer about a sound."""

from __future__ import annotations

import sys
from pathlib import Path

import huggingface_networks as checkpoints
import pytest
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
sys.path.append(str(Path(__file__).parents[3] / "benchmarks/networks"))

from family_trial import try_class
from kinds import kinds
from tiny_checkpoints import make_tiny

from mmedge.errors import ExportError
from mmedge_export.sources.huggingface.known_values import read_known_values
from mmedge_export.sources.huggingface.sensors import (
    Sensor,
    companion_sets,
    find_sensors,
    tell_left_out,
)
from mmedge_export.sources.huggingface.source import HuggingFaceSource
from mmedge_export.sources.source import SourceOptions

CLASSES = (
    "ViltForQuestionAnswering",
    "Siglip2Model",
    "AudioFlamingo3ForConditionalGeneration",
    "Gemma3ForSequenceClassification",  # with a window: shorter texts than it are taken, too
)


@pytest.mark.parametrize("name", kinds(CLASSES, first=CLASSES[:1]))
def test_a_bundle_answers_as_the_network_on_new_inputs(name, tmp_path):
    result = try_class(name, tmp_path)
    assert result["result"] == "taken", result["reason"]
    assert "at" in result["check"]


def read(name, folder):
    """The model of a tiny network, and what is said of it."""
    kind = getattr(checkpoints.hf, name)
    checkpoints.save(lambda: make_tiny(kind), folder)
    source = HuggingFaceSource().read(f"hf:{folder}", SourceOptions())
    shapes = {key: value.shape() for key, value in source.model.inputs.items()}
    return source.model, shapes, "\n".join(source.remarks)


def test_a_prompt_of_points_is_an_input_and_other_prompts_are_left_out(tmp_path):
    model, shapes, remarks = read("SamModel", tmp_path)
    assert shapes["input_points"] == ("batch", "points_1", "points_2", 2)
    assert shapes["input_labels"] == ("batch", "points_1", "points_2")
    assert model.dims["points_2"] == (1, 8)
    assert "forward also takes input_boxes, input_masks, left out here" in remarks


def test_patches_come_with_their_mask_and_their_sizes(tmp_path):
    _, shapes, _ = read("Siglip2Model", tmp_path)
    (_, patches, _) = shapes["pixel_values"]
    assert shapes["pixel_attention_mask"] == ("image_batch", patches)
    assert shapes["spatial_shapes"] == ("image_batch", 2)


def test_a_class_that_counts_in_python_has_one_row(tmp_path):
    model, shapes, remarks = read("ViltForQuestionAnswering", tmp_path)
    assert shapes["input_ids"] == (1, "tokens")
    assert "reads values that differ with the number of rows" in remarks
    assert "has one draw, in order" in remarks
    assert "batch" not in model.dims


def test_several_texts_for_one_picture(tmp_path):
    _, shapes, remarks = read("OwlViTForObjectDetection", tmp_path)
    assert shapes["input_ids"] == ("text_batch", "tokens")
    assert shapes["pixel_values"][0] == 1
    assert "several texts and one of anything else" in remarks


@pytest.mark.further_class
def test_what_nothing_is_known_of_is_refused_by_name(tmp_path):
    with pytest.raises(ExportError, match="needs classes_structure, of which nothing is known"):
        read("OmDetTurboForObjectDetection", tmp_path)


class Words(nn.Module):
    """A network whose parameters say by their words what they take."""

    main_input_name = "input_ids"
    input_modalities = ("image", "text")

    def forward(
        self,
        input_ids: Tensor,
        visual_feats: Tensor | None = None,
        visual_pos: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        image_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        width: int | None = None,
    ) -> None:
        """Nothing."""


def test_parameters_are_known_by_words_of_their_names():
    sensors = find_sensors(Words(), None)
    assert sensors == [
        Sensor("input_ids", "text", "attention_mask"),
        Sensor("visual_feats", "image"),
    ]
    beside = [sensors[1].companions for sensors in companion_sets(Words(), sensors)]
    assert beside == [
        (),
        ("visual_pos",),
        ("visual_attention_mask",),
        ("visual_pos", "visual_attention_mask"),
    ]


def test_what_is_left_out_is_named():
    class Told:
        network = Words()
        remarks: list[str] = []

    tell_left_out(Told, find_sensors(Words(), None))
    assert Told.remarks == ["forward also takes visual_pos, visual_attention_mask, left out here"]


class Masked(nn.Module):
    """It reads a mask of ones, as ViLT does."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(3, 4)
        size = [int(mask.sum(0)[0]), int(mask.sum(1)[0])]
        rows = mask.nonzero()[torch.multinomial(mask.flatten(), 12)]
        return x.reshape(-1, 3, 4)[:, rows[:, 0], rows[:, 1]] * size[0]


def test_values_without_an_input_are_read_once():
    network = Masked()
    examples = [{"x": torch.randn(rows, 12)} for rows in (2, 3)]
    known = read_known_values(lambda values: network(**values), examples)
    assert known is not None
    assert known.is_random
    x = torch.randn(4, 12)
    assert torch.equal(known.run(network, {"x": x}), x * 3)  # in order
    program = torch.export.export(
        Known(network, known), (x,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}
    )
    assert torch.equal(program.module()(x[:2]), x[:2] * 3)


class Known(nn.Module):
    def __init__(self, network, known) -> None:
        super().__init__()
        self.network, self.known = network, known

    def forward(self, x: Tensor) -> Tensor:
        return self.known.run(self.network, {"x": x})


def test_values_that_differ_with_sizes_are_not_known():
    def run(values):
        return torch.ones_like(values["x"]).nonzero()

    assert read_known_values(run, [{"x": torch.ones(2)}, {"x": torch.ones(3)}]) is None
