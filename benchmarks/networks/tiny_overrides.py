"""Sizes of tiny networks of transformers, and settings of single models that no name tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "HEADS",
    "HEAD_WIDTH",
    "LAYERS",
    "OVERRIDES",
    "PATCH",
    "PICTURE",
    "VOCABULARY",
    "WIDTH",
]

WIDTH, HEADS, LAYERS, VOCABULARY, PICTURE, PATCH = 32, 2, 2, 128, 32, 8
HEAD_WIDTH = WIDTH // HEADS

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

#: Settings that names do not tell, by model type of the configuration that has them.
OVERRIDES: Mapping[str, Mapping[str, Any]] = {
    "align": {"projection_dim": 64},
    "align_vision_model": {
        "width_coefficient": 0.2, "depth_coefficient": 0.1, "initializer_range": 0.3,
    },
    "apertus1p5": {
        "image_token_offset": 32, "audio_token_offset": 96, "text_config": {"vocab_size": 192}
    },
    "aria": {"projector_patch_to_query_dict": {(PICTURE // PATCH) ** 2: 4}},
    "apertus1p5_vision_tokenizer": {"image_size": PICTURE},  # else a picture of 224 is made up
    "bridgetower": {  # a head has 64
        "hidden_size": 64, "contrastive_hidden_size": 64, "logit_scale_init_value": 2.6592,
    },
    "bridgetower_text_model": {"hidden_size": 64},
    "bridgetower_vision_model": {"hidden_size": 64},
    "chameleon": {
        "vocabulary_map": {
            "<image>": 100,
            **{f"IMGIMG{str(n).translate(str.maketrans('0123456789', 'ABCDEFGHIJ'))}Z": 30 + n
               for n in range(64)},
        }
    },
    "clap_audio_model": {
        "spec_size": 64, "patch_size": 2, "patch_stride": [2, 2], "window_size": 4,
        "depths": [2, 2], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 16,
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {**_ROPE, "mrope_section": [4, 2, 2]}, "full_attention": None
        },
    },
    "deepseek_ocr2_sam_vision_model": {"downsample_channels": [WIDTH, WIDTH]},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
    "diffusion_gemma_text": {
        "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 2 * WIDTH
    },
    "edgetam": {"prompt_encoder_config": {"patch_size": 16}},
    "edgetam_vision_model": {
        "backbone_channel_list": [384, 192, 96, 48],
        "backbone_config": {"architecture": "repvit_m1"},
    },
    "emu3": {
        "vocabulary_map": {
            "<image>": 100, "<|extra_200|>": 101,
            **{f"<|visual token {n:06d}|>": 30 + n for n in range(64)},
        }
    },
    "emu3_text_model": {"max_position_embeddings": 512},  # a picture that is made up has 272 tokens
    "emu3_vqgan": {  # its class states no size of a picture: else one of 224 is made up
        "channel_multiplier": [1, 1], "hidden_size": WIDTH, "image_size": PICTURE,
    },
    "ernie4_5_vl_moe_text": {"rope_parameters": {**_ROPE, "mrope_section": [3, 3, 2]}},
    "fast_vlm": {
        "vision_config": {
            "architecture": "fastvit_mci0", "hidden_size": 1024, "num_classes": 1024,
            "model_args": {"inference_mode": True},
        }
    },
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": WIDTH // 4}},
    "fun_asr_nano_encoder": {"num_stacked_frames": 1},
    "gemma3n": {  # its vision tower gives as many
        "vision_soft_tokens_per_image": 256, "text_config": {"max_position_embeddings": 512},
    },
    "gemma3n_vision": {"hidden_size": 2048},
    "gemma4_unified_vision": {"output_proj_dims": WIDTH},
    "glmasr_encoder": {"intermediate_size": 4 * WIDTH},  # of four frames that are merged
    "granite4_vision": {
        "deepstack_layer_map": [[1, 0]], "spatial_target_layers": [1], "downsample_rate": "1/2",
        "vision_config": {"hidden_size": 64},
    },
    "granite_speech": {"window_size": 4, "downsample_rate": 2},
    "granite_speech_plus": {"window_size": 4, "downsample_rate": 2},
    "granite_speech_encoder": {"context_size": 16, "max_pos_emb": 32},
    "granite_speech_plus_encoder": {"context_size": 16, "max_pos_emb": 32},
    "grounding-dino": {"backbone_config": {"image_size": 128}},
    "mllama_vision_model": {"vision_output_dim": 2 * WIDTH, "num_global_layers": 1},
    "mm-grounding-dino": {"backbone_config": {"image_size": 128}},
    "hunyuan_vl_text": {"head_dim": HEAD_WIDTH},
    "hy_v4_vl_text": {  # an indexer takes more places than a run has, as it does by default
        "rope_parameters": {**_ROPE, "mrope_section": [2, 1, 1]}, "index_topk": 256,
    },
    "inkling_text": {"max_position_embeddings": 512},  # a picture that is made up has 256 patches
    "inkling_vision": {"num_hidden_layers": 6},
    "llama4_vision_model": {"intermediate_size": 4 * WIDTH},  # of four patches that are merged
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "mimi": {"upsample_groups": WIDTH},
    **{name: {"insert_layer_id": 0} for name in ("minicpm_ocr", "minicpmv4_6", "minicpmv4_7")},
    "mistral_large4_text": {"index_topk": 256},
    "moshi_depth": {"audio_vocab_size": 64, "input_size": WIDTH},  # as the whole network has them
    "muse_glimmer": {"out_hidden_size": 4 * WIDTH},  # of four patches that are merged
    "molmo2_vision": {
        "image_size": [PICTURE, PICTURE], "num_position_embeddings": (PICTURE // PATCH) ** 2
    },
    # At 0.02, norms behind attention divide by almost nothing.
    "muse_glimmer_text": {"initializer_range": 0.3},
    "muse_spark_text": {"initializer_range": 0.3},
    "muse_spark": {"out_hidden_size": 4 * WIDTH},
    "muse_spark_audio": {"num_hidden_layers": 4},
    "neomme": {"max_position_embeddings": 512},  # a picture that is made up has 256 patches
    "paddleocr_vl_text": {"rope_parameters": {**_ROPE, "mrope_section": [4, 2, 2]}},
    "parakeet_encoder": {"projection_hidden_size": WIDTH, "projection_bias": False},
    "perception_lm": {
        "vision_config": {
            "architecture": "vit_pe_core_large_patch14_336",
            "image_size": 28,
            "model_args": {
                "embed_dim": 64, "img_size": [28, 28], "depth": 2, "global_pool": "",
                "use_post_transformer_norm": False, "init_values": 0.1, "ref_feat_shape": [2, 2],
            },
        }
    },
    "qwen2_5_omni_thinker": {"vision_start_token_id": 99, "audio_start_token_id": 98},
    "qwen3_asr_encoder": {"n_window": 50, "n_window_infer": 200, "max_position_embeddings": 1500},
    "qwen3_omni_moe": {"talker_config": {"spatial_merge_size": 2}},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 99, "audio_start_token_id": 98},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 2 * WIDTH},
    "qwen4_exp_text": {
        "indexer_n_heads": HEADS, "indexer_kv_heads": 1, "indexer_head_dim": HEAD_WIDTH,
        "indexer_budget": 16, "indexer_compress_ratio": 4,
    },
    "sam2": {"prompt_encoder_config": {"patch_size": 16}},
    "sam2_hiera_det_model": {
        "embed_dim_per_stage": [32, 64, 128, 256], "window_size_per_stage": [8, 4, 14, 7],
        "blocks_per_stage": [1, 1, 2, 1], "global_attention_blocks": [3],
    },
    "sam2_vision_model": {"backbone_channel_list": [256, 128, 64, 32]},
    "sam3_vision_model": {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "shieldgemma2": {"yes_token_index": 20, "no_token_index": 21},
    "step3p5": {"sliding_window": 8},
    "t5gemma2_text": {"dropout_rate": 0.0},
    "unlimited_ocr_sam_vision_model": {  # its patches are merged by four on each side
        "downsample_channels": [WIDTH, WIDTH], "image_size": 4 * PICTURE,
    },
    "vilt": {"num_images": 2, "modality_type_vocab_size": 3},
    "wavtokenizer_encoder": {"codebook_dim": WIDTH},
}  # fmt: skip
