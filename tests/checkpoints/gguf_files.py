"""Writes GGUF files with llama.cpp's writer, as its converter does (``conversion/gemma.py``)."""

import gguf
import numpy as np
import tiny

from gemma4_mlx.config import Gemma4Config

NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "embed_tokens_per_layer.weight": "per_layer_token_embd.weight",
    "per_layer_model_projection.weight": "per_layer_model_proj.weight",
    "per_layer_projection_norm.weight": "per_layer_proj_norm.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "pre_feedforward_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "post_feedforward_layernorm.weight": "post_ffw_norm.weight",
    "post_feedforward_layernorm_1.weight": "post_ffw_norm_1.weight",
    "pre_feedforward_layernorm_2.weight": "pre_ffw_norm_2.weight",
    "post_feedforward_layernorm_2.weight": "post_ffw_norm_2.weight",
    "router.proj.weight": "ffn_gate_inp.weight",
    "router.scale": "ffn_gate_inp.scale",
    "router.per_expert_scale": "ffn_down_exps.scale",
    "experts.gate_up_proj": "ffn_gate_up_exps.weight",
    "experts.down_proj": "ffn_down_exps.weight",
    "per_layer_input_gate.weight": "inp_gate.weight",
    "per_layer_projection.weight": "proj.weight",
    "post_per_layer_input_norm.weight": "post_norm.weight",
    "layer_scalar": "layer_output_scale.weight",
}


def name_of(name):
    """transformers' name of a text tensor -> llama.cpp's."""
    name = name.removeprefix("model.")
    if name == "lm_head.weight":
        return "output.weight"
    if not name.startswith("layers."):
        return NAMES[name]
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{NAMES[rest]}"


def random_blocks(shape, kind, rng):
    """Blocks of a type that the library only decodes: any codes, scales of a sensible size."""
    _, size = gguf.GGML_QUANT_SIZES[kind]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // block, size), dtype=np.uint8)
    at = {"Q6_K": [208], "Q3_K": [108], "Q2_K": [80, 82]}.get(kind.name, [0, 2])
    for i in at:
        scale = rng.uniform(1e-5, 2e-4, (len(blocks), 1)).astype(np.float16)
        blocks[:, i : i + 2] = scale.view(np.uint8)
    return blocks.reshape(*shape[:-1], -1)


def write(path, config, weights, kind_of, tokenizer=None, change=None):
    """Write a model; gives what its tensors decode to, by transformers' names, in float32.

    Args:
        weights: transformers' names and layout (see ``tiny.torch_layout``), float32.
        kind_of: name and shape -> name of the type to store it in.
        tokenizer: ``(tokens, types, merges, template)``.
        change: called with the writer, to break things.
    """
    parsed = Gemma4Config.from_dict(config)
    text, rng, exact = parsed.text, np.random.default_rng(0), {}
    w = gguf.GGUFWriter(str(path), "gemma4")
    full = [text.is_full(i) for i in range(text.num_hidden_layers)]
    w.add_block_count(text.num_hidden_layers)
    w.add_context_length(text.max_position_embeddings)
    w.add_embedding_length(text.hidden_size)
    w.add_feed_forward_length([text.mlp_width(i) for i in range(len(full))])
    w.add_head_count(text.num_attention_heads)
    w.add_head_count_kv([text.kv_heads_of(i) for i in range(len(full))])
    w.add_layer_norm_rms_eps(text.rms_norm_eps)
    w.add_key_length(text.global_head_dim)
    w.add_value_length(text.global_head_dim)
    w.add_key_length_swa(text.head_dim)
    w.add_value_length_swa(text.head_dim)
    w.add_sliding_window(text.sliding_window)
    w.add_sliding_window_pattern([not f for f in full])
    w.add_shared_kv_layers(text.num_kv_shared_layers)
    w.add_embedding_length_per_layer_input(text.hidden_size_per_layer_input)
    w.add_rope_freq_base(text.rope["full_attention"].theta)
    w.add_rope_freq_base_swa(text.rope["sliding_attention"].theta)
    if text.final_logit_softcapping:
        w.add_final_logit_softcapping(text.final_logit_softcapping)
    if text.enable_moe_block:
        w.add_expert_count(text.num_experts)
        w.add_expert_used_count(text.top_k_experts)
        w.add_expert_feed_forward_length(text.moe_intermediate_size)
    if tokenizer:
        tokens, types, merges, template = tokenizer
        w.add_tokenizer_model("gemma4")
        w.add_token_list(tokens)
        w.add_token_types(types)
        w.add_token_merges(merges)
        w.add_eos_token_id(1)
        w.add_bos_token_id(2)
        w.add_chat_template(template)
    half = text.global_head_dim // 2
    turning = int(text.rope["full_attention"].partial_rotary_factor * half)
    freqs = np.array([1.0] * turning + [1e30] * (half - turning), np.float32)
    w.add_tensor("rope_freqs.weight", freqs)
    for name, value in weights.items():
        value = np.array(value, np.float32)
        kind = gguf.GGMLQuantizationType[kind_of(name, value.shape)]
        if kind.name in ("F32", "F16"):
            stored = value.astype(np.float32 if kind.name == "F32" else np.float16)
            exact[name] = stored.astype(np.float32)
        else:
            try:
                stored = gguf.quants.quantize(value, kind)
            except NotImplementedError:
                stored = random_blocks(value.shape, kind, rng)
            exact[name] = gguf.quants.dequantize(stored, kind).astype(np.float32)
        w.add_tensor(name_of(name), stored, raw_dtype=kind)
    if change:
        change(w)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return exact


def text_weights(config):
    """A tiny text model as transformers names and lays it out."""
    import mlx.core as mx

    weights = tiny.torch_layout(tiny.weights(config, mx.float32), tiny.text_only)
    return {n: np.array(v) for n, v in weights.items()}
