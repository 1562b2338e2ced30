"""Tiny random-weight Gemma 4 checkpoints and what transformers computes with them.

Run as a script in its own process, because torch and MLX should not share a BLAS:

    python tests/reference.py FOLDER NAME...

writes FOLDER/NAME/{config.json, model.safetensors, reference.npz}. Every mechanism of the named
configuration is on and every norm weight, scalar, router scale and clip bound is random, so that
a mistake anywhere shows in the logits. All numbers are float32 on the CPU, eager attention.
"""

import copy
import math
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

WINDOW, HIDDEN, VOCABULARY = 16, 128, 512
IMAGE, AUDIO, VIDEO, BOI, EOI, BOA, EOA = range(500, 507)
TOKEN_IDS = dict(
    image_token_id=IMAGE,
    audio_token_id=AUDIO,
    video_token_id=VIDEO,
    boi_token_id=BOI,
    eoi_token_id=EOI,
    boa_token_id=BOA,
    eoa_token_index=EOA,
)
ROPE = {
    "full_attention": {
        "rope_type": "proportional",
        "partial_rotary_factor": 0.25,
        "rope_theta": 1e6,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
BASE = dict(
    vocab_size=VOCABULARY,
    vocab_size_per_layer_input=VOCABULARY,
    hidden_size=HIDDEN,
    intermediate_size=192,
    num_attention_heads=4,
    head_dim=64,
    global_head_dim=128,
    sliding_window=WINDOW,
    final_logit_softcapping=30.0,
    max_position_embeddings=4096,
    pad_token_id=0,
)
S, F = "sliding_attention", "full_attention"
E2B = dict(
    num_hidden_layers=15,
    layer_types=([S] * 4 + [F]) * 3,
    num_key_value_heads=1,
    hidden_size_per_layer_input=16,
    num_kv_shared_layers=5,
    use_double_wide_mlp=True,
)
DENSE31 = dict(
    num_hidden_layers=12,
    layer_types=([S] * 5 + [F]) * 2,
    num_key_value_heads=2,
    num_global_key_value_heads=1,
    attention_k_eq_v=True,
    hidden_size_per_layer_input=0,
    use_bidirectional_attention="vision",
)
EXPERTS = dict(enable_moe_block=True, num_experts=16, top_k_experts=4, moe_intermediate_size=64)
MOE = {**DENSE31, **EXPERTS}
EVERYTHING = dict(
    **EXPERTS,
    num_hidden_layers=8,
    layer_types=[S, S, F, S, S, F, S, F],
    num_key_value_heads=2,
    num_global_key_value_heads=1,
    attention_k_eq_v=True,
    hidden_size_per_layer_input=16,
    num_kv_shared_layers=2,
    use_bidirectional_attention="vision",
)
VISION_SMALL = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
    pooling_kernel_size=3,
    patch_size=16,
    position_embedding_size=256,
    use_clipped_linears=True,
)
VISION_LARGE = {**VISION_SMALL, "head_dim": 24, "use_clipped_linears": False, "standardize": True}
HEARING = dict(
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    subsampling_conv_channels=[128, 8],
    output_proj_dims=96,
)
#: name -> text, vision and audio sections; None for both towers is a text-only checkpoint.
CONFIGS = {
    "e2b": (E2B, VISION_SMALL, None),
    "moe": (MOE, VISION_LARGE, None),
    "dense31": (DENSE31, VISION_LARGE, None),
    "mm": (E2B, VISION_SMALL, HEARING),
    "everything": (EVERYTHING, VISION_SMALL, HEARING),
    "textonly": (E2B, None, None),
    "textonly_moe": ({**MOE, "use_bidirectional_attention": None}, None, None),
    "e2b_noshare": (
        {**E2B, "num_kv_shared_layers": 0, "use_double_wide_mlp": False},
        VISION_SMALL,
        None,
    ),
}


def build(name):
    """The transformers model of a configuration, randomised, in float32."""
    import torch
    import transformers as t

    text, vision, audio = CONFIGS[name]
    config = t.Gemma4TextConfig(**BASE, **text, rope_parameters=copy.deepcopy(ROPE))
    model_class = t.Gemma4ForCausalLM
    if vision is not None:
        config = t.Gemma4Config(
            text_config=config,
            vision_config=t.Gemma4VisionConfig(**vision),
            audio_config=t.Gemma4AudioConfig(**audio) if audio else None,
            **TOKEN_IDS,
        )
        model_class = t.Gemma4ForConditionalGeneration
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = model_class(config).float().eval()
    randomise(model)
    return config, model


def randomise(model):
    import torch

    g = torch.Generator().manual_seed(1234)

    def normal(shape, scale=1.0):
        return torch.randn(tuple(shape), generator=g) * scale

    def uniform(low, high, shape):
        return torch.rand(tuple(shape), generator=g) * (high - low) + low

    state = set(model.state_dict())
    with torch.no_grad():
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if name not in state:
                continue
            end, shape = name.rsplit(".", 1)[-1], p.shape
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                p.copy_(uniform(0.25, 0.55, shape))
            elif ("norm" in name or "_ln" in name) and end == "weight":
                p.copy_(uniform(0.5, 1.6, shape))
            elif end == "layer_scalar":
                p.copy_(uniform(0.6, 1.2, shape))
            elif name.endswith("router.scale"):
                p.copy_(uniform(0.5, 2.0, shape) * math.sqrt(shape[0]) / 4)
            elif end == "per_expert_scale":
                p.copy_(uniform(0.4, 1.8, shape))
            elif end in ("input_min", "output_min"):
                p.copy_(-uniform(0.8, 1.6, shape))
            elif end in ("input_max", "output_max"):
                p.copy_(uniform(0.8, 1.6, shape))
            elif end == "std_scale":
                p.copy_(uniform(0.2, 0.9, shape))
            elif end == "std_bias":
                p.copy_(normal(shape))
            elif end in ("per_dim_scale", "position_embedding_table"):
                p.copy_(normal(shape, 0.5))
            elif "embed_tokens" in name:
                p.copy_(normal(shape, 0.35))
            elif end == "bias":
                p.copy_(normal(shape, 0.2))
            elif p.ndim >= 2:
                fan_in = shape[-1] if "experts" in name else math.prod(shape[1:])
                p.copy_(normal(shape, fan_in**-0.5))
            elif p.numel() >= 8:
                raise SystemExit(f"no rule for {name} {tuple(shape)}")


def patch_positions(rows, columns, total):
    """(total, 2) int64 (x, y) of a rows x columns grid of patches, padded with -1."""
    import torch

    grid = torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy")
    xy = torch.stack(grid, -1).reshape(-1, 2)
    return torch.cat([xy, torch.full((total - len(xy), 2), -1)])


class Prompts:
    """Random prompts with media placeholders."""

    def __init__(self, seed=7):
        import torch

        self.g = torch.Generator().manual_seed(seed)

    def text(self, n):
        import torch

        return torch.randint(3, 490, (n,), generator=self.g).tolist()

    @staticmethod
    def picture(n):
        return [BOI] + [IMAGE] * n + [EOI]

    @staticmethod
    def clip(n):
        return [BOA] + [AUDIO] * n + [EOA]

    @staticmethod
    def types(sequence):
        kinds = {IMAGE: 1, VIDEO: 2, AUDIO: 3}
        return [kinds.get(i, 0) for i in sequence]


def reference(config, model):
    """Arrays of prompts and of what the model makes of them."""
    import torch
    from transformers import DynamicCache

    prompts, out = Prompts(), {}
    n = 100

    def run(sequence, attentions=None, **media):
        ids = torch.tensor([sequence])
        if media:
            media["mm_token_type_ids"] = torch.tensor([Prompts.types(sequence)])
        kept = attentions is not None
        result = model(input_ids=ids, use_cache=False, output_attentions=kept, **media)
        if kept:
            out.update({f"{attentions}_attn_{i}": a[0] for i, a in enumerate(result.attentions)})
        return result.logits

    with torch.no_grad():
        ids = torch.tensor([prompts.text(n)])
        full = model(
            input_ids=ids,
            output_hidden_states=True,
            output_attentions=True,
            output_router_logits=True,
            use_cache=False,
        )
        out["ids"], out["logits"] = ids, full.logits
        out["hidden"] = torch.stack(full.hidden_states)[:, 0]
        out.update({f"attn_{i}": a[0] for i, a in enumerate(full.attentions)})
        if getattr(full, "router_logits", None):
            out["router"] = torch.stack(list(full.router_logits))
        # Rows of a batch, each computed alone so that no padding can hide in the reference.
        for i, length in enumerate((11, 30, 57)):
            row = prompts.text(length + 24)
            out[f"row{i}_ids"], out[f"row{i}_logits"] = torch.tensor([row]), run(row)
        if getattr(model.model, "vision_tower", None) is not None:
            pictures(model, prompts, out, run)
        if getattr(model.model, "audio_tower", None) is not None:
            sounds(model, prompts, out, run)
        cache = DynamicCache(config=config.get_text_config())
        steps = [
            model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True).logits
            for i in range(n)
        ]
        out["logits_stepwise"] = torch.cat(steps, 1)
        # As from_pretrained(dtype=bfloat16) has it: model.to() would round the rotary embedding's
        # frequencies as well.
        for tensor in model.state_dict(keep_vars=True).values():
            tensor.data = tensor.data.to(torch.bfloat16)
        out["logits_bf16"] = model(input_ids=ids, use_cache=False).logits.float()
        model.float()
    return out


def pictures(model, prompts, out, run):
    import torch

    # Two pictures of 6 soft tokens, padded to 81 patches; then one longer than the window.
    positions = torch.stack([patch_positions(6, 9, 81), patch_positions(9, 6, 81)])
    pixels = torch.rand(2, 81, 768, generator=prompts.g)
    pixels[:, 54:] = 0
    media = dict(pixel_values=pixels, image_position_ids=positions)
    sequence = [
        *prompts.text(9),
        *Prompts.picture(6),
        *prompts.text(5),
        *Prompts.picture(6),
        *prompts.text(17),
    ]
    out.update(img_ids=torch.tensor([sequence]), img_pixels=pixels, img_positions=positions)
    out["img_logits"] = run(sequence, "img", **media)
    out["img_features"] = torch.cat(list(model.get_image_features(pixels, positions).pooler_output))
    positions = patch_positions(9, 18, 162)[None]
    pixels = torch.rand(1, 162, 768, generator=prompts.g)
    sequence = [*prompts.text(6), *Prompts.picture(18), *prompts.text(9)]
    out.update(long_ids=torch.tensor([sequence]), long_pixels=pixels, long_positions=positions)
    media = dict(pixel_values=pixels, image_position_ids=positions)
    out["long_logits"] = run(sequence, "long", **media)


def sounds(model, prompts, out, run):
    import torch

    # Clips of 97 and 61 mel frames, 25 and 16 soft tokens, the second padded; then reversed.
    mel = torch.randn(2, 97, 128, generator=prompts.g)
    mask = torch.zeros(2, 97, dtype=torch.bool)
    mask[0], mask[1, :61] = True, True
    mel[1, 61:] = 0
    heard = model.model.get_audio_features(mel, mask)
    counts = heard.attention_mask.sum(1).tolist()
    out.update(aud_mel=mel, aud_mask=mask, aud_features=heard.pooler_output)
    out["aud_counts"] = torch.tensor(counts)
    for tag, order in (("aud", (0, 1)), ("aud2", (1, 0))):
        sequence = prompts.text(7)
        for i in order:
            sequence += [*Prompts.clip(counts[i]), *prompts.text(6)]
        media = dict(input_features=mel[list(order)], input_features_mask=mask[list(order)])
        out[f"{tag}_ids"], out[f"{tag}_logits"] = torch.tensor([sequence]), run(sequence, **media)
    pixels, positions = out["img_pixels"][:1], out["img_positions"][:1]
    sequence = [
        *prompts.text(5),
        *Prompts.picture(6),
        *prompts.text(3),
        *Prompts.clip(counts[0]),
        *prompts.text(8),
    ]
    out["mix_ids"] = torch.tensor([sequence])
    out["mix_logits"] = run(
        sequence,
        pixel_values=pixels,
        image_position_ids=positions,
        input_features=mel[:1],
        input_features_mask=mask[:1],
    )


def main(folder, names):
    import numpy as np
    import torch

    torch.set_num_threads(1)
    for name in names:
        target = Path(folder) / name
        config, model = build(name)
        model.save_pretrained(target)
        arrays = reference(config, model)
        np.savez_compressed(
            target / "reference.npz",
            **{k: (v.float() if v.is_floating_point() else v).numpy() for k, v in arrays.items()},
        )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] or list(CONFIGS))
