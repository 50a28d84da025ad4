"""What is made up for a sensor without a processor, and how a network is called with it."""

from __future__ import annotations

from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

from mmedge.errors import ExportError
from mmedge_export.sources.huggingface.checkpoint import (
    Checkpoint,
    _multiply_by_tokens,
    _refuse_parts,
    leave_out_noise,
)
from mmedge_export.sources.huggingface.example_prompt import call, type_names
from mmedge_export.sources.huggingface.feature_encoder import find_encoder
from mmedge_export.sources.huggingface.features import read_layout
from mmedge_export.sources.huggingface.picture_rows import further_pictures, picture_rows
from mmedge_export.sources.huggingface.placed_tokens import _embedding_of, _replaced_tokens
from mmedge_export.sources.huggingface.places import FeaturesInPlace
from mmedge_export.sources.huggingface.sensors import Sensor

IMAGE = Sensor("pixel_values", "image")


def config(**settings: Any) -> Any:
    """A configuration with parts."""
    return SimpleNamespace(to_diff_dict=dict, **settings)


def checkpoint(**settings: Any) -> Checkpoint:
    return Checkpoint(None, SimpleNamespace(config=config(**settings)))


def shapes(names: list[str], **settings: Any) -> list[dict[str, list[int]]]:
    """Shapes of what is made up for a picture."""
    rows = picture_rows(checkpoint(vision_config=config(**settings)), IMAGE, names)
    return [{name: list(value.shape) for name, value in row.items()} for row in rows]


def test_a_grid_is_of_patches_or_of_tokens():
    made = picture_rows(
        checkpoint(vision_config=config(patch_size=4, image_size=16, merge_size=2)),
        IMAGE,
        ["image_grid_thw"],
    )
    pairs = {
        (tuple(row["pixel_values"].shape), tuple(row["image_grid_thw"].flatten().tolist()))
        for row in made
        if "image_grid_thw" in row
    }
    assert {((16, 48), (1, 4, 4)), ((4, 8, 8, 3), (1, 2, 2))} <= pairs


def test_patches_of_a_picture_may_have_their_colors_last_and_masks_may_be_of_tiles():
    assert {"pixel_values": [16, 2, 4, 4, 3]} in shapes(
        [], patch_size=4, image_size=16, temporal_patch_size=2, spatial_merge_size=1
    )
    rows = shapes(["pixel_attention_mask"], patch_size=4, image_size=16)
    assert {"pixel_values": [1, 2, 3, 16, 16], "pixel_attention_mask": [1, 2]} in rows


def test_a_second_picture_has_the_size_of_its_own_part():
    network = checkpoint(
        image_size=8, high_res_vision_config=config(image_size=[32, 16], num_channels=1)
    )
    made = further_pictures(network, IMAGE, ["high_res_pixel_values", "image_grids"])
    assert {name: list(value.shape) for name, value in made.items()} == {
        "high_res_pixel_values": [2, 1, 32, 16]
    }
    assert further_pictures(network, Sensor("input_values", "audio"), ["pixel_values"]) == {}


def test_lists_without_features_are_none():
    result = {
        "pooler_output": torch.zeros(2, 3, 4),
        "deepstack_features": [torch.zeros(6, 4)],
        "other_hidden_states": [None, None],
    }
    assert [field.name for field in read_layout(result, 2).fields] == [
        "pooler_output",
        "deepstack_features",
    ]


def test_features_of_layers_come_with_their_numbers():
    result = {"deepstack_features": [(3, [torch.ones(2, 4)]), (1, [torch.zeros(2, 4)])]}
    layout = read_layout(UserDict(result), 1)
    assert not layout.has_words
    assert [tensor.shape for tensor in layout.tensors(result, 1)] == [(1, 2, 4)] * 2
    again = layout.result(layout.tensors(result, 1))["deepstack_features"]
    assert [(number, bool(layer[0].any())) for number, layer in again] == [(3, True), (1, False)]


def test_patches_that_a_token_pools_go_on_from_picture_to_picture():
    (row, *_) = picture_rows(
        checkpoint(vision_config=config(patch_size=4, image_size=16, merge_size=2)),
        IMAGE,
        ["image_token_pooling", "image_grids"],
    )
    pooled = row["image_token_pooling"]
    assert pooled.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert row["image_grids"].tolist() == [[2, 2, 0, 0]]
    encoder = find_encoder(checkpoint_of(Pooling()), IMAGE)
    values = encoder.network_values[0]
    assert torch.equal(values["image_token_pooling"], torch.cat([pooled, pooled + 16]))
    assert list(encoder.values) == ["pixel_values"]


def checkpoint_of(network: Any) -> Checkpoint:
    return Checkpoint(None, network)


class Pooling(nn.Module):
    """Pools patches by their numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.config = config(vision_config=config(patch_size=4, image_size=16, merge_size=2))
        self.base_model = self

    def get_image_features(
        self, pixel_values: Tensor, image_token_pooling: Tensor, return_dict: bool
    ) -> Tensor:
        return pixel_values.flatten(0, -2)[image_token_pooling].sum(1)

    def forward(self, pixel_values: Tensor, image_token_pooling: Tensor) -> None: ...


class Noisy(nn.Module):
    """Adds noise to features unless it is told not to; and counts places of a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.config = config(num_mel_bins=3, max_length=8, audio_token_id=9)
        self.base_model = self

    def get_audio_features(
        self,
        input_features: Tensor,
        input_ids: Tensor,
        sample: bool = True,
        return_dict: Any = None,
    ) -> Tensor:
        first = int((input_ids == 9).nonzero()[0, 1])
        noise = torch.randn_like(input_features) if sample else 0
        return input_features * first + noise

    def forward(self, input_ids: Tensor, input_features: Tensor) -> Tensor:
        return self.get_audio_features(input_features, input_ids, sample=True)


def test_features_without_noise_and_a_prompt_for_a_function_that_counts_its_places():
    network, remarks = Noisy(), []
    leave_out_noise(network, remarks)
    assert "sample=False" in remarks[0]
    value, ids = torch.ones(1, 8, 3), torch.tensor([[3, 9]])
    assert torch.equal(network(ids, value), value)
    encoder = find_encoder(checkpoint_of(network), Sensor("input_features", "audio"))
    prompt = encoder.network_values[0]["input_ids"][0].tolist()
    count = encoder.constants["audio_features"].shape[1]
    assert prompt == [3, *[9] * count, 3]


def test_features_are_added_in_the_places_of_a_mask():
    whole, mask = torch.ones(1, 3, 2), torch.tensor([[False, True, False]])
    wide = mask[..., None].expand_as(whole)
    with FeaturesInPlace():
        result = whole.masked_scatter(wide, whole[wide] + torch.full((6,), 4.0))
    assert result[0, :, 0].tolist() == [1, 5, 1]


class Windows(nn.Module):
    """Weighs each token with those before it."""

    def forward(self, x: Tensor) -> Tensor:
        with FeaturesInPlace():
            windows = nn.functional.pad(x, (3, 0)).unfold(-1, 4, 1).flip(-1).transpose(1, 2)
            return windows.reshape(len(x), windows.shape[1], 2, -1, 4).sum(-1)


def test_windows_over_tokens_have_any_length():
    lengths = torch.export.Dim("tokens", min=1, max=9)
    x = torch.randn(2, 6, 5)
    program = torch.export.export(Windows(), (x,), dynamic_shapes=({2: lengths},), strict=False)
    short = x[..., :2]
    torch.testing.assert_close(program.module()(short), Windows()(short))


class Words(nn.Module):
    """A table of low rank, with a projection behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.wider = nn.Embedding(9, 2), nn.Linear(2, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.wider(self.table(ids))


class Network(nn.Module):
    """Embeds a picture's token as 0, and goes on from what the call before left."""

    def __init__(self) -> None:
        super().__init__()
        self.config = config(image_token_id=7, audio_token_id=8)
        self.words = Words()
        self.delta: Tensor | None = None

    def get_input_embeddings(self) -> nn.Module:
        return self.words.table

    def forward(self, input_ids: Tensor, attention_mask: Any, return_dict: bool) -> dict[str, Any]:
        words = self.words(input_ids.masked_fill(input_ids == 7, 0))
        before = self.delta
        self.delta = words.sum()
        return {"logits": words if before is None else words + before}


def test_a_call_leaves_nothing_in_the_network():
    network, ids = Network(), torch.tensor([[3, 4]])
    values = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    first, second = (call(network, values)["logits"] for _ in range(2))
    assert torch.equal(first, second)
    assert network.delta is None


def test_words_are_those_of_the_network():
    network = Network()
    assert _replaced_tokens(network) == {7: 0}
    assert _embedding_of(network, 2) is network.words.table
    assert _embedding_of(network, 4) is network.words
    assert _embedding_of(network, 5) is network.words.table


class Typed(nn.Module):
    """Hands token types to a part of it, of which its generate() knows nothing."""

    def __init__(self, known: str) -> None:
        super().__init__()
        self.part, self.known = Part(), known

    def can_generate(self) -> bool:
        return True

    def _validate_model_kwargs(self, values: dict[str, Any]) -> None:
        if unknown := [name for name, value in values.items() if value and name != self.known]:
            raise ValueError(f"not used by the model: {unknown}")

    def forward(self, input_ids: Tensor, **options: Any) -> None: ...


class Part(nn.Module):
    def get_input_embeddings(self) -> None: ...

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> None: ...


def test_token_types_are_those_that_generate_takes():
    assert type_names(Typed("token_type_ids")) == ["token_type_ids"]
    assert type_names(Typed("")) == []


def test_a_class_without_forward_is_refused_with_its_parts():
    class Several(nn.Module):
        config_class = SimpleNamespace(sub_configs={"thinker_config": None, "talker_config": None})

    with pytest.raises(ExportError, match=r"thinker, talker; .*network\.thinker\.save_pretrained"):
        _refuse_parts(Several)
    _refuse_parts(Typed)


class Experts(nn.Module):
    """Goes through experts, as classes do that know no other way."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale, self.num_experts = scale, 3
        self.gate_up_proj = nn.Parameter(torch.randn(3, 8, 5))
        self.down_proj = nn.Parameter(torch.randn(3, 5, 4))

    def _apply_gate(self, both: Tensor) -> Tensor:
        gate, up = both.chunk(2, -1)
        return gate.clamp(max=1) * up

    def forward(self, tokens: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        result = torch.zeros_like(tokens)
        for number in experts.unique():
            at, order = torch.where(experts == number)
            inner = self._apply_gate(tokens[at] @ self.gate_up_proj[number].T)
            inner = inner @ self.down_proj[number].T * weights[at, order, None]
            result.index_add_(0, at, inner * self.scale)
        return result


@torch.no_grad()
def test_experts_multiply_by_tokens_where_that_gives_the_same():
    torch.manual_seed(0)
    values = torch.randn(4, 5), torch.tensor([[0, 2], [1, 2], [1, 0], [2, 1]]), torch.rand(4, 2)
    same, other = Experts(1.0), Experts(2.0)
    expected = [part(*values) for part in (same, other)]
    for part in (same, other):
        _multiply_by_tokens(part)
    torch.testing.assert_close(same(*values), expected[0])
    assert "forward" in vars(same)
    assert "forward" not in vars(other)
    assert torch.equal(other(*values), expected[1])
