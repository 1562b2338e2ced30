"""Tiny checkpoints in every layout, written with random tensors of the right names and shapes."""

import json
from pathlib import Path

import mlx.core as mx

from gemma4_mlx.checkpoints.inventory import TEXT, tensors, unused_tensors
from gemma4_mlx.config import Gemma4Config

SLIDING, FULL = "sliding_attention", "full_attention"
_ROPE = {
    FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
    SLIDING: {"rope_type": "default", "rope_theta": 1e4},
}
TEXT_CONFIG = {
    "model_type": "gemma4_text",
    "vocab_size": 320,
    "vocab_size_per_layer_input": 320,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 5,
    "layer_types": [SLIDING, SLIDING, FULL, SLIDING, FULL],
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "head_dim": 32,
    "global_head_dim": 64,
    "sliding_window": 16,
    "num_kv_shared_layers": 2,
    "use_double_wide_mlp": True,
    "hidden_size_per_layer_input": 64,
    "enable_moe_block": True,
    "num_experts": 8,
    "top_k_experts": 2,
    "moe_intermediate_size": 64,
    "final_logit_softcapping": 30.0,
    "max_position_embeddings": 4096,
    "rope_parameters": _ROPE,
    "tie_word_embeddings": True,
}
CONFIG = {
    "model_type": "gemma4",
    "text_config": TEXT_CONFIG,
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "position_embedding_size": 64,
        "use_clipped_linears": True,
    },
    "audio_config": {
        "model_type": "gemma4_audio",
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "subsampling_conv_channels": [16, 8],
        "output_proj_dims": 96,
    },
    "image_token_id": 300,
    "audio_token_id": 301,
    "video_token_id": 302,
}
UNIFIED = {
    "model_type": "gemma4_unified",
    "text_config": TEXT_CONFIG
    | {"model_type": "gemma4_unified_text", "hidden_size_per_layer_input": 0},
    "vision_config": {
        "model_type": "gemma4_unified_vision",
        "mm_embed_dim": 128,
        "mm_posemb_size": 32,
        "output_proj_dims": 128,
    },
    "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 40},
}


def weights(config: dict, dtype: mx.Dtype = mx.bfloat16) -> dict[str, mx.array]:
    """Random tensors under the model's own names, dead ones of KV-shared layers included."""
    parsed = Gemma4Config.from_dict(config)
    mx.random.seed(7)
    found = {}
    for name, tensor in (tensors(parsed) | unused_tensors(parsed)).items():
        if name.endswith(("_min", "_max")):
            value = mx.array(-9.0 if name.endswith("_min") else 9.0)
        elif "norm" in name or "scal" in name:
            value = mx.random.uniform(0.5, 1.5, tensor.shape)
        else:
            fan_in = tensor.shape[-1] if tensor.shape else 1
            value = mx.random.normal(tensor.shape) * fan_in**-0.5
        found[name] = value.astype(dtype)
    return found


def google(name: str) -> str:
    """The model's name -> the hub's multimodal name."""
    return "model." + name.replace(TEXT, "language_model.")


def text_only(name: str) -> str:
    return name.replace(TEXT, "model.")


def bare(name: str) -> str:
    return name.replace(TEXT, "")


def torch_layout(tensors: dict[str, mx.array], rename) -> dict[str, mx.array]:
    """As transformers saves: gate and up in one tensor, convolutions with channels second."""
    out = {}
    for name, value in tensors.items():
        if ".switch_glu.up_proj." in name:
            continue
        if ".switch_glu." in name:
            base, last = name.split(".switch_glu.")
            if last.startswith("gate"):
                up = tensors[f"{base}.switch_glu.up_proj.weight"]
                out[rename(base) + ".gate_up_proj"] = mx.concatenate([value, up], axis=1)
            else:
                out[rename(base) + ".down_proj"] = value
            continue
        if "conv" in name and value.ndim in (3, 4):
            value = mx.contiguous(mx.moveaxis(value, -1, 1))
        out[rename(name)] = value
    return out


def save(folder: Path, config: dict, tensors: dict[str, mx.array], shards: int = 1) -> Path:
    """Write a checkpoint; with several shards, an index as well."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        mx.save_safetensors(str(folder / "model.safetensors"), tensors, {"format": "mlx"})
        return folder
    names, index = list(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        mx.save_safetensors(str(folder / file), part)
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def logits(model) -> mx.array:
    """Logits of a fixed prompt longer than the sliding window."""
    tokens = mx.arange(3, 43)[None]
    return model(tokens)
