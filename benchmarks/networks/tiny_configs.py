"""Configurations of transformers made small, by the names of their fields alone.

``tiny_config`` takes the defaults of a configuration class and gives every size a small value that
fits the others: all widths are one width, all layers are few, tokens that stand for something are
in the vocabulary. Nothing here knows a model; what no name tells is in :mod:`tiny_overrides`.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

from tiny_overrides import HEAD_WIDTH, HEADS, LAYERS, OVERRIDES, PATCH, PICTURE, VOCABULARY, WIDTH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["VOCABULARY", "tiny_config"]

#: Fields that say nothing of sizes, or follow from others.
_LEAVE = frozenset(
    {
        "transformers_version", "architectures", "dtype", "output_hidden_states", "return_dict",
        "problem_type", "id2label", "label2id", "chunk_size_feed_forward", "is_encoder_decoder",
        "model_type", "num_labels",
    }
)  # fmt: skip

#: Tokens with a meaning to every network; others get the last numbers of the vocabulary.
_TOKENS = {"pad": 0, "bos": 1, "eos": 2, "decoder_start": 3, "sep": 4, "cls": 5}


def _constant(size: int) -> Callable[[int], int]:
    return lambda _: size


def _at_most(size: int) -> Callable[[int], int]:
    return lambda old: min(old, size)


#: Pattern of a field's whole name -> the small value of an integer; the first that fits counts.
_RULES: Sequence[tuple[str, Callable[[int], int]]] = [
    (r"(n_group|topk_group|num_nextn_predict_layers|num_kv_shared_layers)", _at_most(1)),
    (r"first_k_dense_replace", _at_most(1)),
    (r"(num_experts_per_tok|moe_topk|moe_k|n_shared_experts|moe_num_shared_experts)", _at_most(2)),
    (r"(n_routed_experts|num_local_experts|(moe_)?num_experts)", _at_most(4)),
    (r"((q|kv)_lora_rank|laurel_rank|.*_gate_rank|hc_lowrank|embedding_rank)", _at_most(16)),
    (r"qk_(nope|rope)_head_dim", _constant(HEAD_WIDTH // 2)),
    (r"(swa_|qk_|v_|index_|global_)?head_dim", _constant(HEAD_WIDTH)),
    (r"(dim_head|.*attention_head_dim|.*resampler_head_dim)", _constant(HEAD_WIDTH)),
    (r"linear_(key|value)?_?head_dim", _constant(8)),
    (r"(linear_num_(key|value)?_?heads|mamba_num_heads|n_groups)", _constant(2)),
    (r"(mamba_head_dim|ssm_state_size)", _constant(16)),
    (r"(.*_)?(num_key_value_heads|num_kv_heads)", _constant(1)),
    (r"(.*num_attention_heads|.*attention_heads|num_heads|n_heads|.*_n_heads|.*_num_heads)",
     _at_most(HEADS)),
    ((r"(num_hidden_layers|(.*_)?(encoder|decoder)_layers|num_layers|depth|n_layers|layers|"
     r".*(num_hidden_layers|num_layers)|resampler_depth|num_blocks|[lxr]_layers|"
     r"num_(spatial|temporal|auxiliary|decoder)_layers)"), _at_most(LAYERS)),
    ((r"(.*intermediate_size(_mlp)?|.*ffn_dim|d_ff|mlp_dim|.*dim_feedforward|"
     r".*intermediate_dim|.*feed_forward_hidden_size)"), _constant(2 * WIDTH)),
    (r"(d_kv)", _constant(HEAD_WIDTH)),
    (r"(.*vocab_size|vocab_size_per_layer_input)", _at_most(VOCABULARY)),
    (r"(codebook_size|num_embeddings)", _at_most(64)),
    (r"(hidden_size_per_layer_input|codebook_dim|audio_prompt_dim)", _constant(16)),
    ((r"(.*hidden_size|d_model|embed_dim|dim|.*hidden_dim|project(ion)?_dim|output_dim|"
     r".*_out_dim|.*(input|output)_dim|embedding_size|.*embed_hidden_size|.*embed_dim|vit_dim|"
     r"condition_dim|adapter_in(put)?_(dim|size)|decoder_dim|projection_size|patch_embed.*_size|"
     r".*embedding_dim|prediction_head_size|pooler_output_size|fpn_hidden_size|output_channels|"
     r"text_projection_(in|out)_dim|word_embed_proj_dim|share_expert_dim|classifier_proj_size|hidden_size_global)"),
     _constant(WIDTH)),
    (r"(image_size|img_size|crop_size|pretrain_image_size|resolution)", _constant(PICTURE)),
    (r"patch_size", lambda old: min(PATCH, old)),
    (r"window_size", lambda old: PICTURE if old > 2 * PICTURE else min(old, 2)),
    ((r"(num_mel_bins|n_mel_bins|mel_dim|input_feat_per_channel|feature_size|input_feat_size|"
     r"mel_bins)"), _constant(16)),
    (r"(input_dim|feature_projection_input_dim)", _constant(16)),
    (r"(max_source_positions)", _constant(30)),
    ((r"(max_position_embeddings|max_target_positions|n_positions|.*_max_position_embeddings|"
     r"max_2d_position_embeddings|max_pos_emb)"), _at_most(256)),
    (r"(num_queries|num_query_tokens|resampler_n_latents|.*num_latents(_2d)?|latent_query_num)",
     _at_most(8)),
    (r"(image_seq_length|num_image_tokens|mm_tokens_per_image|vision_soft_tokens_per_image)",
     _constant((PICTURE // PATCH) ** 2)),
    (r"(num_frames|max_num_frames)", _at_most(4)),
    (r"n_window", _at_most(8)),
    (r"n_window_infer", _at_most(32)),
    (r"num_conv_pos_embeddings", _constant(16)),
    (r"num_conv_pos_embedding_groups", _constant(2)),
    ((r"(conv_channels|nemo_conv_channels|depthwise_separable_out_channel|ext_pw_out_channel|"
     r"downsample_hidden_size|upsample_initial_channel|base_channels)"), _at_most(32)),
    (r"num_filters", _at_most(4)),
    (r"(conv_dim)", _constant(16)),
    (r"(.*_?(latent_channels|latent_dim|latent_size))", _at_most(16)),
    (r"(num_qa_labels|num_object_labels|num_attr_labels|num_classes)", _at_most(9)),
    (r"(visual_feat_dim|visual_embedding_dim)", _constant(WIDTH)),
    (r"coordinate_size", _constant(WIDTH // 8)),
    (r"shape_size", _constant(WIDTH // 4)),
    (r"(num_pos_feats)", _constant(WIDTH // 2)),
    (r"(encoder_hash_byte_group_vocab|num_embeds|ngram_vocab_size_base)", _at_most(128)),
    (r"(canvas_length|index_topk|sliding_window|sliding_window_size)", _at_most(16)),
]  # fmt: skip

_INDICES = re.compile(
    r".*(_indexes|_indices|_layers?|_layer_ids?|_idxs|layers_indices|_blocks|_stages)"
)


def tiny_config(config_class: Any, overrides: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401
    """A small configuration of a class.

    Args:
        config_class: of transformers.
        overrides: settings of the whole configuration that count in place of the rules.
    """
    return _shrink(config_class(), overrides or {})


def _shrink(config: Any, overrides: Mapping[str, Any]) -> Any:  # noqa: ANN401
    settings: dict[str, Any] = {}
    known = {**OVERRIDES.get(config.model_type, {}), **overrides}
    per_layer = _per_layer(config)
    for name in _names(config):
        value = _value(config, name)
        if name in known and not isinstance(known[name], dict):
            settings[name] = known[name]
        elif name in per_layer:
            settings[name] = per_layer[name]
        elif hasattr(value, "to_diff_dict"):
            settings[name] = _shrink(value, known.get(name, {}))
        elif name in known:
            settings[name] = known[name]
        elif isinstance(value, dict) and "rope_theta" in str(value):
            settings[name] = _rope(_with_axes(config, value))
        else:
            settings[name] = _small(name, value)
    settings.update({n: v for n, v in known.items() if n not in settings})
    if getattr(config, "out_indices", None) and "depths" in settings:
        settings["out_indices"] = list(config.out_indices)  # of a backbone: no field
    heads = _value(config, "num_attention_heads")
    if heads == _value(config, "num_key_value_heads") and "num_key_value_heads" not in known:
        settings["num_key_value_heads"] = settings.get("num_attention_heads")
    if "layer_types" in per_layer:
        settings["num_hidden_layers"] = len(per_layer["layer_types"])
    return type(config)(**{n: v for n, v in settings.items() if v is not None or n in known})


def _names(config: Any) -> list[str]:  # noqa: ANN401
    names = [f.name for f in dataclasses.fields(config) if f.name not in _LEAVE]
    return [name for name in names if not name.startswith("_")]


def _value(config: Any, name: str) -> Any:  # noqa: ANN401
    """A setting, where layers may have others too; a part that is optional is there."""
    value = vars(config).get((config.attribute_map or {}).get(name, name))
    part = (getattr(config, "sub_configs_defaults", None) or {}).get(name)
    if value is not None or part is None:
        return value
    of_type = getattr(part.config_class, "for_model", None)  # of the class for any type
    return part.config_class() if of_type is None else of_type(part.model_type)


def _per_layer(config: Any) -> dict[str, list[Any]]:  # noqa: ANN401
    """Lists with a value for each layer, cut to layers of every kind."""
    count = _value(config, "num_hidden_layers")
    if _value(config, "depths") is not None:
        return {}  # a list has a value for each stage
    lists = {
        name: list(value)
        for name in _names(config)
        if isinstance(value := _value(config, name), (list, tuple))
        and len(value) == count
        and count > LAYERS
    }
    if not lists:
        return {}
    counting = {name for name, value in lists.items() if value == list(range(count))}
    kinds: dict[tuple[str, ...], int] = {}
    for layer in range(count):
        kind = tuple(repr(value[layer]) for name, value in lists.items() if name not in counting)
        kinds.setdefault(kind, layer)
    layers = list(kinds.values())[:4]
    layers += [layers[-1]] * (LAYERS - len(layers))
    return {
        name: list(range(len(layers))) if name in counting else [value[n] for n in layers]
        for name, value in lists.items()
    }


def _with_axes(config: Any, value: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ANN401
    """Rotary settings; with axes where networks count in rows and columns."""
    ignored = getattr(config, "ignore_keys_at_rope_validation", None) or ()
    has_axes = "mrope_section" in ignored and "rope_type" in value
    return {"mrope_section": [1, 1, 1], **value} if has_axes else value


def _rope(value: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings for the small width of a head."""
    settings: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, dict):
            settings[name] = _rope(part)
        elif name in ("mrope_section", "xdrope_section"):
            half = int(HEAD_WIDTH * value.get("partial_rotary_factor", 1.0)) // 2
            each = [max(half // len(part), 1)] * (len(part) - 1)
            settings[name] = [half - sum(each), *each]
        elif name in ("short_factor", "long_factor"):
            settings[name] = list(part)[: HEAD_WIDTH // 2]
        else:
            settings[name] = part
    return settings


def _small(name: str, value: Any) -> Any:  # noqa: ANN401
    """The small value of a field."""
    if value is None and re.fullmatch(r"(image|video|audio)_token_(id|index)", name):
        return _tokens(name, 0)  # every trained checkpoint says it
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if name == "image_grid_pinpoints":
        return [[PICTURE, 2 * PICTURE], [2 * PICTURE, PICTURE], [2 * PICTURE, 2 * PICTURE]]
    if name == "backbone_feature_sizes":
        return [[PICTURE // 4 >> level] * 2 for level in range(len(value))]
    if re.fullmatch(r".*_(token_)?(id|ids|index)|.*_tokens?|im_\w+_id", name) and _are_ids(value):
        return _tokens(name, value)
    if isinstance(value, float):
        return 0.0 if "dropout" in name or "drop_path" in name or "layerdrop" in name else value
    if isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
        return type(value)(_small_list(name, list(value)))
    if isinstance(value, int):
        return _small_integer(name, value)
    return value


def _small_list(name: str, values: list[int]) -> list[int]:
    if _INDICES.fullmatch(name):
        return sorted({v if -LAYERS <= v < LAYERS else -1 if v < 0 else LAYERS - 1 for v in values})
    if name.startswith("depths") or name == "blocks_per_stage":
        return [1] * len(values)
    if len(set(values)) > 1 and re.fullmatch(
        r"(num_heads|embed_dim|hidden_sizes|num_attention_heads|num_groups|.*_per_stage|"
        r".*channel_list|encoder_in_channels)",
        name,
    ):
        least = min(values)
        unit = 1 if "heads" in name or "groups" in name else HEAD_WIDTH
        return [max(v * unit // least, 1) for v in values]
    return [_small_integer(name, value) for value in values]


def _small_integer(name: str, value: int) -> int:
    if value <= 0:
        return value
    if _INDICES.fullmatch(name) and not name.startswith(("num_", "n_")) and value >= LAYERS:
        fits = next((rule for pattern, rule in _RULES if re.fullmatch(pattern, name)), None)
        if fits is None:
            return LAYERS - 1
    for pattern, rule in _RULES:
        if re.fullmatch(pattern, name):
            return rule(value)
    return value


def _are_ids(value: Any) -> bool:  # noqa: ANN401
    values = value if isinstance(value, (list, tuple)) else [value]
    return bool(values) and all(type(v) is int for v in values)


_NUMBERS: dict[str, int] = {}


def _tokens(name: str, value: Any) -> Any:  # noqa: ANN401
    """Ids in the small vocabulary: one name has the same in every part of a network."""
    if name.startswith(("num_", "n_")) or re.search(r"(_per_|max_|mm_tokens)", name):
        return _small_integer(name, value) if isinstance(value, int) else value
    stem = re.sub(r"_(token_)?(ids?|index)$|_tokens?$", "", name)
    if isinstance(value, (list, tuple)):
        return type(value)(_number(f"{stem}_{n}", v) for n, v in enumerate(value))
    return _number(stem, value)


def _number(stem: str, old: int) -> int:
    if old < 0:
        return old
    if (known := _TOKENS.get(stem.removesuffix("_0").removeprefix("t2u_"))) is not None:
        return known
    return _NUMBERS.setdefault(stem, VOCABULARY - 2 - len(_NUMBERS) % (VOCABULARY // 2))
