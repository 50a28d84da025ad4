"""Tiny random networks of transformers that tests share, saved as a user's checkpoint would be."""

from __future__ import annotations

from typing import Any

import networks

networks.declare_torchvision()  # transformers imports it

import transformers as hf  # noqa: E402
from tiny_checkpoints import save  # noqa: E402

__all__ = ["save"]

WORDS = 99
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 37,
}
TEXT = {**_SIZES, "vocab_size": WORDS, "max_position_embeddings": 40}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
VISION = {**_SIZES, "image_size": 32, "patch_size": 8}
_BOTH = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "vocab_size": WORDS,
}


def clip() -> Any:
    config = hf.CLIPConfig(
        text_config={**TEXT, **IDS}, vision_config=VISION, projection_dim=16, **IDS
    )
    return hf.CLIPModel(config)


def siglip() -> Any:
    return hf.SiglipModel(hf.SiglipConfig(text_config={**TEXT, **IDS}, vision_config=VISION))


def bert() -> Any:
    names = {0: "bad", 1: "good", 2: "neither"}
    return hf.BertForSequenceClassification(hf.BertConfig(**TEXT, id2label=names))


def vit() -> Any:
    return hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=5))


def wav2vec2() -> Any:
    return hf.Wav2Vec2ForCTC(
        hf.Wav2Vec2Config(
            **{**TEXT, "vocab_size": 32},
            conv_dim=(16, 16, 16),
            conv_stride=(5, 4, 4),
            conv_kernel=(10, 4, 4),
            num_feat_extract_layers=3,
            num_conv_pos_embeddings=16,
            num_conv_pos_embedding_groups=2,
        )
    )


def audio_classifier() -> Any:
    return hf.ASTForAudioClassification(
        hf.ASTConfig(
            **_SIZES,
            max_length=64,
            num_mel_bins=16,
            patch_size=8,
            frequency_stride=8,
            time_stride=8,
        )
    )


def detr() -> Any:
    backbone = hf.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 16, 32, 32],
        depths=[1, 1, 1, 1],
        out_features=["stage4"],
        image_size=64,
    )
    return hf.DetrForObjectDetection(
        hf.DetrConfig(
            **{key: value for key, value in _BOTH.items() if key != "vocab_size"},
            use_timm_backbone=False,
            backbone_config=backbone,
            num_queries=7,
        )
    )


def t5() -> Any:
    return hf.T5ForConditionalGeneration(
        hf.T5Config(
            vocab_size=WORDS,
            d_model=32,
            d_kv=16,
            d_ff=37,
            num_layers=2,
            num_heads=2,
            decoder_start_token_id=0,
        )
    )


def marian() -> Any:
    return hf.MarianMTModel(
        hf.MarianConfig(
            **_BOTH,
            max_position_embeddings=40,
            pad_token_id=98,
            decoder_start_token_id=98,
            eos_token_id=0,
        )
    )


def bart() -> Any:
    return hf.BartForConditionalGeneration(hf.BartConfig(**_BOTH, max_position_embeddings=40))


def whisper(places: int = 30) -> Any:
    return hf.WhisperForConditionalGeneration(_whisper_config(places))


def whisper_model() -> Any:
    """Its decoder's tokens are an input: it chooses none."""
    return hf.WhisperModel(_whisper_config(30))


def _whisper_config(places: int) -> Any:
    return hf.WhisperConfig(
        **_BOTH,
        **IDS,
        num_mel_bins=16,
        max_source_positions=places,
        max_target_positions=40,
        decoder_start_token_id=3,
    )


def whisper_8khz() -> Any:
    """For one second of sound at 8 kHz."""
    return whisper(40)


def trocr() -> Any:
    decoder = hf.TrOCRConfig(
        vocab_size=WORDS,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=37,
        max_position_embeddings=40,
        cross_attention_hidden_size=32,
    )
    network = hf.VisionEncoderDecoderModel(
        encoder=hf.ViTModel(hf.ViTConfig(**VISION)), decoder=hf.TrOCRForCausalLM(decoder)
    )
    for config in (network.config, network.generation_config):
        config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 0
    return network


def blip() -> Any:
    text = {**TEXT, **IDS, "sep_token_id": 2, "encoder_hidden_size": 32}
    return hf.BlipForConditionalGeneration(
        hf.BlipConfig(text_config=text, vision_config=VISION, projection_dim=16)
    )


def llama() -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT, **IDS, num_key_value_heads=1))


def mixtral() -> Any:
    """Each token goes to two of four experts."""
    sizes = {**TEXT, **IDS, "num_key_value_heads": 1, "intermediate_size": 48}
    return hf.MixtralForCausalLM(
        hf.MixtralConfig(**sizes, num_local_experts=4, num_experts_per_tok=2)
    )


def gemma() -> Any:
    """Layers that see a window beside layers that see everything."""
    return hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(
            **TEXT,
            **IDS,
            num_key_value_heads=1,
            head_dim=16,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention"],
        )
    )


def qwen3_5() -> Any:
    """A layer of linear attention, whose states have a fixed size, and one of full attention."""
    return hf.Qwen3_5ForCausalLM(
        hf.Qwen3_5TextConfig(
            **TEXT,
            **IDS,
            num_key_value_heads=1,
            head_dim=16,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            layer_types=["linear_attention", "full_attention"],
        )
    )


def lfm2() -> Any:
    """A layer of short convolution, whose last inputs are a state, and one of full attention."""
    return hf.Lfm2ForCausalLM(
        hf.Lfm2Config(**TEXT, **IDS, num_key_value_heads=1, layer_types=["conv", "full_attention"])
    )


def mamba() -> Any:
    """No keys and values at all."""
    return hf.MambaForCausalLM(
        hf.MambaConfig(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, state_size=4, **IDS)
    )


def xlstm() -> Any:
    """Its cache is of its own kind."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 2, "vocab_size": WORDS}
    return hf.xLSTMForCausalLM(hf.xLSTMConfig(**sizes, num_blocks=2, **IDS))


def rwkv() -> Any:
    """It takes and gives its state in a list."""
    return hf.RwkvForCausalLM(
        hf.RwkvConfig(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, context_length=40)
    )


_LONGER = {**TEXT, **IDS, "num_key_value_heads": 1, "max_position_embeddings": 60}
#: Stands for a part of a picture.
PLACE = 97


def llava() -> Any:
    return hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**VISION),
            text_config=hf.LlamaConfig(**_LONGER),
            image_token_id=PLACE,
        )
    )


def smolvlm() -> Any:
    """It takes several pictures a row, and leaves out those that are padding."""
    return hf.SmolVLMForConditionalGeneration(
        hf.SmolVLMConfig(
            vision_config=VISION,
            text_config={**_LONGER, "model_type": "llama"},
            image_token_id=PLACE,
            scale_factor=2,
        )
    )


_ROWS_AND_COLUMNS = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
}
_PATCHES = {
    "depth": 2,
    "hidden_size": 32,
    "num_heads": 2,
    "patch_size": 4,
    "image_size": 32,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
}
_MARKS = {
    "image_token_id": PLACE,
    "video_token_id": PLACE - 1,
    "vision_start_token_id": PLACE - 2,
    "vision_end_token_id": PLACE - 3,
}


def qwen2_vl() -> Any:
    """Pictures are patches in one sequence; tokens of a picture have rows and columns."""
    return hf.Qwen2VLForConditionalGeneration(
        hf.Qwen2VLConfig(
            text_config={**_LONGER, **_ROWS_AND_COLUMNS},
            vision_config={**_PATCHES, "embed_dim": 32, "mlp_ratio": 2},
            **_MARKS,
        )
    )


_DEEPER = {**_PATCHES, "out_hidden_size": 32, "intermediate_size": 37}


def qwen2_5_vl() -> Any:
    """Patches see those of their window."""
    return hf.Qwen2_5_VLForConditionalGeneration(
        hf.Qwen2_5_VLConfig(
            text_config={**_LONGER, **_ROWS_AND_COLUMNS},
            vision_config={**_DEEPER, "window_size": 16, "fullatt_block_indexes": [1]},
            **_MARKS,
        )
    )


def qwen3_vl() -> Any:
    """Features of inner layers of the encoder join inner layers of the decoder."""
    return hf.Qwen3VLForConditionalGeneration(
        hf.Qwen3VLConfig(
            text_config={**_LONGER, **_ROWS_AND_COLUMNS, "head_dim": 16},
            vision_config={
                **_DEEPER,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0, 1],
            },
            **_MARKS,
        )
    )


def qwen2_vl_model() -> Any:
    return hf.Qwen2VLModel(qwen2_vl().config)


def colpali() -> Any:
    """A head around a network with pictures; nothing but its embedding of tokens can be given."""
    inner = paligemma().config
    return hf.ColPaliForRetrieval(
        hf.ColPaliConfig(vlm_config=inner, text_config=inner.text_config, embedding_dim=8)
    )


def llava_next() -> Any:
    """A picture is a whole and its tiles."""
    return hf.LlavaNextForConditionalGeneration(
        hf.LlavaNextConfig(
            vision_config={**VISION, "model_type": "clip_vision_model"},
            text_config={**_LONGER, "max_position_embeddings": 90, "model_type": "llama"},
            image_token_id=PLACE,
            image_grid_pinpoints=[[32, 64], [64, 64]],
        )
    )


def gemma3() -> Any:
    """Tokens of a picture see each other both ways, within a window in some layers."""
    return hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(
            vision_config={**VISION, "model_type": "siglip_vision_model"},
            text_config={
                **_LONGER,
                "head_dim": 16,
                "sliding_window": 6,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            mm_tokens_per_image=4,
            image_token_id=PLACE,
            image_token_index=PLACE,
        )
    )


def paligemma() -> Any:
    """Tokens of the prompt see each other both ways."""
    return hf.PaliGemmaForConditionalGeneration(
        hf.PaliGemmaConfig(
            vision_config={**VISION, "model_type": "siglip_vision_model"},
            text_config={**_LONGER, "model_type": "gemma", "head_dim": 16},
            image_token_id=PLACE,
            projection_dim=32,
        )
    )
