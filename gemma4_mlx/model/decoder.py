"""The text decoder: embeddings, per-layer embeddings, decoder layers, final norm, head.

Read ``DecoderLayer.__call__`` for one layer and ``TextDecoder.__call__`` for the stack. After
transformers' ``modeling_gemma4.py``.
"""

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import TextConfig
from . import ops
from .attention import Attention, AttentionGeometry
from .layers import GatedMLP, RMSNorm, scaled, soft_cap
from .moe import Experts, Router
from .taps import Tap, Taps, untouched


class DecoderLayer(nn.Module):
    """Attention, feed-forward (with experts beside it), per-layer embedding, scale."""

    def __init__(self, config: TextConfig, layer: int):
        super().__init__()
        H, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = RMSNorm(H, eps=eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(H, eps=eps)

        self.pre_feedforward_layernorm = RMSNorm(H, eps=eps)
        self.mlp = GatedMLP(H, config.mlp_width(layer))
        self.post_feedforward_layernorm = RMSNorm(H, eps=eps)
        self.enable_moe = config.enable_moe_block
        if self.enable_moe:
            self.router = Router(config)
            self.experts = Experts(config)
            self.post_feedforward_layernorm_1 = RMSNorm(H, eps=eps)
            self.pre_feedforward_layernorm_2 = RMSNorm(H, eps=eps)
            self.post_feedforward_layernorm_2 = RMSNorm(H, eps=eps)

        P = config.hidden_size_per_layer_input
        if P:
            self.per_layer_input_gate = nn.Linear(H, P, bias=False)
            self.per_layer_projection = nn.Linear(P, H, bias=False)
            self.post_per_layer_input_norm = RMSNorm(H, eps=eps)
        self.layer_scalar = mx.ones((1,))

    def branches(self, x: mx.array, tap: Tap) -> tuple[mx.array, mx.array]:
        """The dense MLP's output and the experts' beside it, each (B, n, H); the router reads the
        un-normed residual stream."""
        dense = self.mlp(self.pre_feedforward_layernorm(x))
        indices, weights = self.router(x, tap)
        return dense, self.experts(self.pre_feedforward_layernorm_2(x), indices, weights, tap)

    def feed_forward(self, x: mx.array, tap: Tap) -> mx.array:
        """Dense MLP, and the experts beside it."""
        if not self.enable_moe:
            dense = self.mlp(self.pre_feedforward_layernorm(x))
            return tap("mlp_output", self.post_feedforward_layernorm(dense))
        dense, sparse = self.branches(x, tap)
        dense = tap("mlp_output", self.post_feedforward_layernorm_1(dense))
        sparse = tap("moe_output", self.post_feedforward_layernorm_2(sparse))
        return self.post_feedforward_layernorm(dense + sparse)

    def fill(self, x: mx.array, cache, geometry: AttentionGeometry) -> None:
        """Put the keys and values of x (B, n, H) into the cache."""
        self.self_attn.fill(self.input_layernorm(x), cache, geometry)

    def __call__(
        self,
        x: mx.array,  # (B, n, H)
        per_layer_input: mx.array | None,  # (B, n, P)
        shared: tuple | None,
        cache,
        geometry: AttentionGeometry,
        tap: Tap,
    ) -> tuple[mx.array, tuple]:
        x = tap("layer_input", x, geometry)
        h = tap("attention_input", self.input_layernorm(x), geometry)
        h, kv = self.self_attn(h, shared, cache, geometry, tap)
        return self.after_attention(x, h, per_layer_input, tap), kv

    def after_attention(
        self,
        x: mx.array,  # (B, n, H) what entered the layer
        h: mx.array,  # (B, n, H) what its attention made of it
        per_layer_input: mx.array | None,  # (B, n, P)
        tap: Tap,
    ) -> mx.array:
        """The rest of the layer, in which each position is by itself."""
        x = x + tap("attention_output", self.post_attention_layernorm(h))
        x = tap("attention_residual", x)
        x = x + tap("feedforward_output", self.feed_forward(x, tap))
        if per_layer_input is not None:
            p = tap("per_layer_input", per_layer_input)
            p = self.per_layer_projection(ops.geglu(self.per_layer_input_gate(x), p))
            x = x + tap("per_layer_output", self.post_per_layer_input_norm(p))
        return tap("layer_output", x * self.layer_scalar)


class TextDecoder(nn.Module):
    """Token embeddings, the layers and the final norm."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        H, L, P = config.hidden_size, config.num_hidden_layers, config.hidden_size_per_layer_input
        self.embed_scale = math.sqrt(H)  # rounds to the weights' type in the product
        self.embed_tokens = nn.Embedding(config.vocab_size, H)
        if P:
            self.embed_tokens_per_layer = nn.Embedding(config.vocab_size_per_layer_input, L * P)
            self.per_layer_model_projection = nn.Linear(H, L * P, bias=False)
            self.per_layer_projection_norm = RMSNorm(P, eps=config.rms_norm_eps)
        self.layers = [DecoderLayer(config, i) for i in range(L)]
        self.norm = RMSNorm(H, eps=config.rms_norm_eps)

    def embed(self, tokens: mx.array) -> mx.array:
        """Scaled token embeddings (B, n, H), in the model's type. MLX unpacks a table in block
        floating point to bfloat16, whatever the model's type is."""
        return self.embed_tokens(tokens).astype(self.norm.weight.dtype) * self.embed_scale

    def per_layer_inputs(self, tokens: mx.array, x: mx.array) -> mx.array:
        """The small extra embedding that every layer receives: (B, n, L, P).

        Half of it is looked up by token, half projected from the input embeddings x (soft tokens
        of images and sound included).
        """
        B, n = tokens.shape
        P = self.config.hidden_size_per_layer_input
        looked_up = self.embed_tokens_per_layer(tokens).astype(x.dtype) * math.sqrt(P)
        looked_up = looked_up.reshape(B, n, -1, P)
        projected = scaled(
            self.per_layer_model_projection(x), mx.array(self.config.hidden_size**-0.5)
        )
        projected = self.per_layer_projection_norm(projected.reshape(B, n, -1, P))
        return scaled(projected + looked_up, mx.array(2**-0.5))

    def geometries(
        self, n: int, cache: list, blocks: mx.array | None
    ) -> dict[str, AttentionGeometry]:
        """One geometry for all sliding and one for all full layers of a call on n tokens."""
        found = {}
        for kind, entry in zip(self.config.layer_types, cache):
            if kind in found:
                continue
            start, first, padding = 0, 0, None
            if entry is not None:
                start = entry.offset
                padding = getattr(entry, "left_padding", None)
            window = None
            if kind == "sliding_attention":
                window = self.config.sliding_window
                held = entry.size() if entry is not None else 0
                first = start - min(held, window - 1)
            found[kind] = AttentionGeometry(
                query_start=start,
                n=n,
                key_start=first,
                m=start + n - first,
                window=window,
                blocks=blocks if window else None,
                left_padding=padding,
            )
        return found

    def __call__(
        self,
        tokens: mx.array,  # (B, n), for per-layer embeddings; media positions hold the pad id
        x: mx.array,  # (B, n, H) input embeddings
        cache: list | None,
        blocks: mx.array | None,
        taps: Taps,
        cache_only: bool = False,
    ) -> mx.array | None:
        """Hidden states after the final norm, (B, n, H).

        With ``cache_only`` the last layer that owns keys and values computes these and is the last
        one computed; there is no result.
        """
        config, tap = self.config, taps.at()
        cache = cache or [None] * config.first_kv_shared_layer
        geometries = self.geometries(tokens.shape[1], cache, blocks)
        place = geometries[config.layer_types[0]]
        x = tap("embeddings", x, place)
        per_layer = None
        if config.hidden_size_per_layer_input:
            per_layer = tap("per_layer_inputs", self.per_layer_inputs(tokens, x), place)
        tap_of = taps.at if taps.active else (lambda layer: untouched)  # asked once, not per layer
        kept = {}  # donor layer -> its keys and values
        for i, layer in enumerate(self.layers):
            donor = config.kv_donor(i)
            if cache_only and i == config.first_kv_shared_layer - 1:
                layer.fill(x, cache[i], geometries[config.layer_types[i]])
                return None
            x, kept[i] = layer(
                x,
                None if per_layer is None else per_layer[:, :, i],
                kept.get(donor),
                cache[donor],
                geometries[config.layer_types[i]],
                tap_of(i),
            )
            if cache_only:
                ops.settled(x)  # one layer's intermediates at a time
        return tap("final_hidden", self.norm(x))


class LanguageModel(nn.Module):
    """The decoder under the name that MLX checkpoints give it, with the capped head, which is
    the embedding table unless the configuration unties them."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.final_logit_softcapping = config.final_logit_softcapping
        self.model = TextDecoder(config)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def uncapped(self, hidden: mx.array) -> mx.array:
        """Normed hidden states (..., H) -> logits (..., V) before the soft cap, float32."""
        head = self.lm_head if "lm_head" in self else self.model.embed_tokens.as_linear
        return head(hidden).astype(mx.float32)

    def head(self, hidden: mx.array) -> mx.array:
        """Normed hidden states (..., H) -> soft-capped logits (..., V), float32."""
        logits = self.uncapped(hidden)
        if self.final_logit_softcapping is None:
            return logits
        return soft_cap(logits, mx.array(self.final_logit_softcapping))


def image_blocks(tokens: mx.array, vision_ids: tuple[int, ...]) -> mx.array | None:
    """Number of the image block at each position, -1 outside: int32 (B, n); None without images.

    A block is a run of consecutive image or video soft tokens; the begin and end markers between
    two pictures keep them apart.
    """
    ids = np.array(tokens)
    inside = np.isin(ids, vision_ids)
    if not inside.any():
        return None
    starts = inside & ~np.pad(inside, [(0, 0), (1, 0)])[:, :-1]
    return mx.array(np.where(inside, np.cumsum(starts, axis=1) - 1, -1).astype(np.int32))
