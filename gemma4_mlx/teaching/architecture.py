"""The teaching model's shape: a real Gemma 4 configuration, small, with nearly every mechanism on.

Mixture of experts beside the dense MLP, sliding and full attention, k = v on full layers,
per-layer embeddings, shared KV layers, soft cap, block-wise bidirectional attention inside
pictures, a vision tower and an audio tower with clipped linears.
"""

from .tokenizer import MEDIA, VOCAB_SIZE

S, F = "sliding_attention", "full_attention"

TEXT = {
    "model_type": "gemma4_text",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_k_eq_v": True,
    "bos_token_id": 2,
    "dtype": "bfloat16",
    "enable_moe_block": True,
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 64,
    "head_dim": 32,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 128,
    "hidden_size_per_layer_input": 16,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "layer_types": [S, S, F, S, S, F, S, F],
    "max_position_embeddings": 131072,
    "moe_intermediate_size": 64,
    "num_attention_heads": 4,
    "num_experts": 16,
    "num_global_key_value_heads": 2,
    "num_hidden_layers": 8,
    "num_key_value_heads": 2,
    "num_kv_shared_layers": 2,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        F: {"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"},
        S: {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "sliding_window": 64,
    "tie_word_embeddings": True,
    "top_k_experts": 2,
    "use_bidirectional_attention": "vision",
    "use_cache": True,
    "use_double_wide_mlp": False,
    "vocab_size": VOCAB_SIZE,
    "vocab_size_per_layer_input": VOCAB_SIZE,
}

VISION = {
    "model_type": "gemma4_vision",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "default_output_length": 70,
    "dtype": "bfloat16",
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "intermediate_size": 128,
    "max_position_embeddings": 131072,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "patch_size": 8,
    "pooling_kernel_size": 3,
    "position_embedding_size": 256,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"rope_theta": 100.0, "rope_type": "default"},
    "standardize": False,
    "use_clipped_linears": True,
}

AUDIO = {
    "model_type": "gemma4_audio",
    "attention_chunk_size": 12,
    "attention_context_left": 13,
    "attention_context_right": 0,
    "attention_invalid_logits_value": -1000000000.0,
    "attention_logit_cap": 50.0,
    "conv_kernel_size": 5,
    "dtype": "bfloat16",
    "gradient_clipping": 10000000000.0,
    "hidden_act": "silu",
    "hidden_size": 64,
    "initializer_range": 0.02,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "output_proj_dims": 64,
    "residual_weight": 0.5,
    "rms_norm_eps": 1e-06,
    # transformers computes the projection's width as (first // 4) * second, which is right
    # only when the first equals the number of mel bins.
    "subsampling_conv_channels": [128, 8],
    "use_clipped_linears": True,
}

CONFIG = {
    "architectures": ["Gemma4ForConditionalGeneration"],
    "model_type": "gemma4",
    "dtype": "bfloat16",
    "eos_token_id": [1, 106, 50],
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "vision_soft_tokens_per_image": 70,
    **MEDIA,
    "eoa_token_index": MEDIA["eoa_token_id"],
    "text_config": TEXT,
    "vision_config": VISION,
    "audio_config": AUDIO,
}

GENERATION = {
    "bos_token_id": 2,
    "do_sample": True,
    "eos_token_id": [1, 106, 50],
    "pad_token_id": 0,
    # The model is sure of what it knows; the release's temperature of 1.0 would only add slips.
    "temperature": 0.5,
    "top_k": 64,
    "top_p": 0.95,
    "suppress_tokens": [108, 109, 110, 111, 112, 113, 114],
}

_IMAGE = {
    "do_convert_rgb": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.0, 0.0, 0.0],
    "image_std": [1.0, 1.0, 1.0],
    "max_soft_tokens": 70,
    "patch_size": VISION["patch_size"],
    "pooling_kernel_size": VISION["pooling_kernel_size"],
    "resample": 3,
    "rescale_factor": 1 / 255,
}

PROCESSOR = {
    "processor_class": "Gemma4Processor",
    "audio_ms_per_token": 40,
    "audio_seq_length": 750,
    "image_seq_length": 70,
    "feature_extractor": {
        "feature_extractor_type": "Gemma4AudioFeatureExtractor",
        "dither": 0.0,
        "feature_size": 128,
        "fft_length": 512,
        "fft_overdrive": False,
        "frame_length": 320,
        "hop_length": 160,
        "input_scale_factor": 1.0,
        "max_frequency": 8000.0,
        "mel_floor": 0.001,
        "min_frequency": 0.0,
        "padding_side": "right",
        "padding_value": 0.0,
        "per_bin_mean": None,
        "per_bin_stddev": None,
        "preemphasis": 0.0,
        "preemphasis_htk_flavor": True,
        "return_attention_mask": True,
        "sampling_rate": 16000,
    },
    "image_processor": {
        "image_processor_type": "Gemma4ImageProcessor",
        "do_normalize": False,
        "image_seq_length": 70,
        **_IMAGE,
    },
    "video_processor": {
        "video_processor_type": "Gemma4VideoProcessor",
        "do_normalize": True,
        "do_sample_frames": True,
        "num_frames": 32,
        "return_metadata": False,
        **_IMAGE,
    },
}

# Bounds of the clipped linears: wide enough never to bind in ordinary use, and finite.
CLIP = {"input_min": -64.0, "input_max": 64.0, "output_min": -128.0, "output_max": 128.0}
# The whole stream is multiplied by this after every layer (exact in bfloat16).
LAYER_SCALAR = 0.9375
